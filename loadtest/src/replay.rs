//! `replay`: made loads, played to every eviction policy of the cache library, and to Forebay's own memory tier.
//!
//! Entries stand for blocks and hold no bytes to speak of, so that a load over 200 GiB takes a second. What is told
//! is hit ratios; what is judged is whether one scan of more than memory costs others what they use.

mod contender;
mod disk;
mod loads;

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::Context;
use serde_json::json;

use self::contender::{Contender, Kind};
use self::loads::{BLOCKS, Load, Replayed};
use crate::plot::{Bar, Bars, Group, PALETTE};
use crate::report::{Report, Unit};

/// After a scan the hot set must have kept so much of its hit ratio.
const KEPT: f64 = 0.9;

/// One load, with what it came to by each contender.
#[derive(Clone, Debug)]
struct Outcome {
    name: &'static str,
    title: &'static str,
    /// Whether it is a ratio of hit ratios, which the bar is for.
    judged: bool,
    /// In the order of [`Kind::ALL`].
    ratios: Vec<f64>,
}

/// Plays every load to every contender, prints the tables, and judges Forebay's tier.
///
/// # Errors
/// A file can't be written.
pub fn run(seed: u64, json: Option<&Path>, plot: Option<&Path>) -> anyhow::Result<Report> {
    let outcomes = play(seed);
    print!("{}", table(&outcomes));
    let disk = disk::play();
    println!("{disk}");
    let mut report = Report::new("replay");
    for outcome in outcomes.iter().filter(|outcome| outcome.judged) {
        let ratio = outcome.ratios[Kind::Forebay as usize];
        let what = format!("{}: hit ratio after ÷ before", outcome.name);
        report.at_least(&what, ratio, KEPT, Unit::Times);
    }
    disk.judge(&mut report, KEPT);
    if let Some(file) = json {
        let loads: Vec<_> = outcomes
            .iter()
            .map(|outcome| {
                let ratios = Kind::ALL.map(Kind::name).into_iter().zip(&outcome.ratios);
                json!({
                    "load": outcome.name,
                    "title": outcome.title,
                    "ratios": ratios.map(|(name, ratio)| json!([name, ratio])).collect::<Vec<_>>(),
                })
            })
            .collect();
        let text = json!({"seed": seed, "met": report.met(), "loads": loads, "disk": disk.json(), "figures": report.figures});
        let text = serde_json::to_string_pretty(&text)?;
        fs::write(file, text + "\n").with_context(|| format!("write {}", file.display()))?;
    }
    if let Some(file) = plot {
        chart(&outcomes).draw().write(file)?;
    }
    Ok(report)
}

fn play(seed: u64) -> Vec<Outcome> {
    let all = Load::ALL.into_iter().map(|load| {
        let ratio = |kind: Kind| {
            let mut contender = Contender::new(kind, BLOCKS);
            load.play(&mut contender, seed)
        };
        let replayed: Vec<Replayed> = Kind::ALL.into_iter().map(ratio).collect();
        Outcome {
            name: load.name(),
            title: load.title(),
            judged: load.is_scan(),
            ratios: replayed
                .into_iter()
                .map(|replayed| replayed.ratio)
                .collect(),
        }
    });
    all.collect()
}

fn table(outcomes: &[Outcome]) -> String {
    let mut out = format!("{:<62}", "hit ratios (scans: after ÷ before)");
    // Writing to a string cannot fail.
    for kind in Kind::ALL {
        let _ = write!(out, "{:>9}", kind.name());
    }
    out.push('\n');
    for outcome in outcomes {
        let name = format!("{}: {}", outcome.name, outcome.title);
        let _ = write!(out, "{name:<62}");
        for ratio in &outcome.ratios {
            let _ = write!(out, "{ratio:>9.3}");
        }
        out.push('\n');
    }
    out.push('\n');
    out
}

fn chart(outcomes: &[Outcome]) -> Bars {
    let groups = outcomes.iter().map(|outcome| Group {
        name: outcome.name.to_owned(),
        unit: if outcome.judged {
            "kept".to_owned()
        } else {
            "hit ratio".to_owned()
        },
        bars: outcome
            .ratios
            .iter()
            .enumerate()
            .map(|(who, ratio)| Bar {
                who,
                value: *ratio,
                runs: Vec::new(),
            })
            .collect(),
    });
    let names = Kind::ALL.into_iter().map(|kind| kind.name().to_owned());
    Bars {
        title: "Eviction policies over made loads".to_owned(),
        notes: outcomes
            .iter()
            .map(|outcome| format!("{}: {}", outcome.name, outcome.title))
            .collect(),
        legend: names.zip(PALETTE).collect(),
        groups: groups.collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_scan_leaves_the_hot_set_where_it_was() {
        for outcome in play(1).iter().filter(|outcome| outcome.judged) {
            let kept = outcome.ratios[Kind::Forebay as usize];
            assert!(kept >= KEPT, "{}: {kept}", outcome.name);
        }
    }

    #[test]
    fn a_plain_queue_forgets_the_hot_set_in_a_scan() {
        // Else the loads could not tell a good policy from a bad one.
        let outcomes = play(1);
        let scans = outcomes.iter().filter(|outcome| outcome.judged);
        for outcome in scans {
            let kept = outcome.ratios[Kind::Fifo as usize];
            assert!(kept < 0.1, "{}: {kept}", outcome.name);
        }
    }
}
