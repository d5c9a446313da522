//! What a run found: a table, and JSON.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::evidence::PANICS;
use super::kind::Kind;
use super::ledger::{Fault, Stall, Sums};
use crate::report::{Report, Unit};

/// Reads that must end without an error while a path is left, in percent.
const ANSWERED: f64 = 99.9;

/// The findings of one run.
#[derive(Debug, Serialize)]
pub struct Sheet {
    /// What the schedule was made from.
    pub seed: u64,
    /// Whether every bar is met.
    pub met: bool,
    /// Seconds.
    pub took: f64,
    /// How often each kind of fault happened.
    pub kinds: BTreeMap<&'static str, usize>,
    /// Reads by how they were made.
    pub reads: BTreeMap<&'static str, u64>,
    /// What it is held to, and what is told beside that.
    pub report: Report,
    /// What went wrong, word for word: the first of it.
    pub words: Vec<String>,
    pub(super) faults: Vec<Fault>,
    pub(super) stalls: Vec<Stall>,
    /// Bytes that had come at the end of each second.
    pub(super) seconds: Vec<u64>,
}

impl Sheet {
    /// Judges the sums of a run; `ended`: how the gateways ended.
    pub(super) fn new(seed: u64, took: f64, sums: Sums, ended: &anyhow::Result<()>) -> Self {
        let mut kinds = BTreeMap::new();
        for fault in &sums.faults {
            *kinds.entry(fault.kind).or_default() += 1;
        }
        let mut words = sums.words.clone();
        if let Err(error) = ended {
            words.push(format!("at the end: {error:#}"));
        }
        let mut report = Report::new("torture");
        let trouble = sums.trouble + u64::from(ended.is_err());
        judge(&mut report, &sums, trouble);
        tell(&mut report, &sums, took);
        Self {
            seed,
            met: report.met(),
            took,
            kinds,
            reads: sums.reads,
            report,
            words,
            faults: sums.faults,
            stalls: sums.stalls,
            seconds: sums.seconds,
        }
    }
}

fn judge(report: &mut Report, sums: &Sums, trouble: u64) {
    report.at_most(
        "reads with a wrong byte or version",
        sums.wrong as f64,
        0.0,
        Unit::Count,
    );
    let judged = sums.whole + sums.changed + sums.failed + sums.wrong;
    let answered = 100.0 * (judged - sums.failed) as f64 / judged.max(1) as f64;
    // A tenth of a percent is printed as such; what misses it by less shows in the count of failures.
    report.at_least(
        "reads without an error while a path was left",
        answered,
        ANSWERED,
        Unit::Percent,
    );
    let stalls = sums.stalls.iter().filter(|stall| !stall.excused).count();
    report.at_most(
        "stalls over 2 s while a path was left",
        stalls as f64,
        0.0,
        Unit::Count,
    );
    report.at_most(
        "gateways that did not come back or end as they have to",
        trouble as f64,
        0.0,
        Unit::Count,
    );
    report.at_most("panics", panics(sums), 0.0, Unit::Count);
}

fn panics(sums: &Sums) -> f64 {
    let of = sums.evidence.iter().filter(|(what, _)| *what == PANICS);
    of.map(|(_, count)| count).sum()
}

fn tell(report: &mut Report, sums: &Sums, took: f64) {
    let mut count = |what: &str, value: u64| report.tell(what, value as f64, Unit::Count);
    count("faults", sums.faults.len() as u64);
    let kinds: std::collections::HashSet<_> = sums.faults.iter().map(|fault| fault.kind).collect();
    count("kinds of fault", kinds.len() as u64);
    count("reads", sums.reads.values().sum());
    count("reads that failed though a path was left", sums.failed);
    count(
        "reads that failed while the origin was away",
        sums.failed_without_path,
    );
    count("reads ended because the object had changed", sums.changed);
    count("bodies gone on with at another gateway", sums.resumed);
    count("answers with a 5xx", sums.refused);
    let excused = sums.stalls.iter().filter(|stall| stall.excused).count();
    count("stalls over 2 s while the origin was away", excused as u64);
    for (what, value) in sums.evidence.iter().filter(|(what, _)| *what != PANICS) {
        count(what, *value as u64);
    }
    let gigabytes = sums.bytes as f64 / 1e9;
    report.tell("bytes compared a second", gigabytes / took, Unit::Rate);
    report.tell(
        "bytes compared",
        sums.bytes as f64 / f64::from(1 << 20),
        Unit::Mebibytes,
    );
    report.tell("processors idle", sums.idle, Unit::Percent);
    let mut times = sums.first_bytes.clone();
    times.sort_unstable_by(f32::total_cmp);
    for (what, of) in [("p50", 0.5), ("p99", 0.99), ("most", 1.0)] {
        let time = quantile(&times, of);
        report.tell(
            &format!("first byte, {what}"),
            1e3 * f64::from(time),
            Unit::Milliseconds,
        );
    }
}

/// The value that `of` of ascending values do not exceed; 0 of none.
fn quantile(ascending: &[f32], of: f64) -> f32 {
    let place = (ascending.len() as f64 * of).ceil() as usize;
    let place = place.clamp(1, ascending.len().max(1)) - 1;
    ascending.get(place).copied().unwrap_or(0.0)
}

impl fmt::Display for Sheet {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for kind in Kind::ALL {
            let count = self.kinds.get(kind.name()).copied().unwrap_or(0);
            writeln!(out, "  {:18} {count:>5}", kind.name())?;
        }
        for (way, count) in &self.reads {
            writeln!(out, "  {way:18} {count:>5} reads")?;
        }
        for word in &self.words {
            writeln!(out, "  {word}")?;
        }
        write!(out, "{}", self.report)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_wrong_byte_or_stall_is_a_missed_run_and_an_excused_one_is_not() {
        let good = Sums {
            whole: 5000,
            failed: 4,
            stalls: vec![Stall {
                at: 1.0,
                lasted: 4.0,
                excused: true,
            }],
            ..Sums::default()
        };
        let met = |sums: &Sums| Sheet::new(1, 60.0, sums.clone(), &Ok(())).met;
        assert!(met(&good));
        let mut stalled = good.clone();
        stalled.stalls[0].excused = false;
        assert!(!met(&stalled));
        assert!(!met(&Sums {
            wrong: 1,
            ..good.clone()
        }));
        assert!(!met(&Sums {
            failed: 6,
            ..good.clone()
        }));
        assert!(!Sheet::new(1, 60.0, good, &Err(anyhow::anyhow!("it was killed"))).met);
    }

    #[test]
    fn quantiles_are_values_that_were_there() {
        assert!((quantile(&[1.0, 2.0, 3.0], 0.5) - 2.0).abs() < 1e-6);
        assert!((quantile(&[1.0, 2.0, 3.0], 1.0) - 3.0).abs() < 1e-6);
        assert!(quantile(&[], 0.99).abs() < 1e-6);
    }
}
