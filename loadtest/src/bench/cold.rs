//! `bench cold`: one plain curl over an object that nobody has read yet, through Forebay and what people have already,
//! beside curls straight to the origin. A connection to that origin gives 100 MB/s, and its first byte takes 30 ms.
//!
//! All share all cores: the origin, the server and curl. Each reads an object of its own in each round, in turn.

use std::fs;
use std::path::Path;

use anyhow::Context;
use serde_json::{Value, json};

use super::Places;
use super::load::{Objects, compare_whole};
use super::machine::{Machine, all_cores};
use super::peers::{Place, Programs, Server};
use super::rows::Stage;
use crate::curl::{AT_ONCE, Read, curl};
use crate::origin::{Origin, Settings};
use crate::plot::{Bar, Bars, Group, PALETTE};
use crate::report::{Report, Unit, median};

const GB: f64 = 1e9;

/// The way that is judged, and those that it is judged by.
const FOREBAY: &str = "forebay";
const ONE: &str = "direct, 1 connection";
const MANY: &str = "direct, 32 connections";
const PEERS: [&str; 3] = ["nginx slice", "varnish", "cachey"];

/// What is measured, and how often.
#[derive(Clone, Debug)]
pub struct Options {
    /// How often each is measured.
    pub repeats: usize,
    /// The size of each object: 1 GiB, or less to try things out.
    pub size: u64,
    /// Where programs are, and where results go.
    pub places: Places,
}

/// A way from the origin to curl.
struct Way {
    name: &'static str,
    /// Through whom; `None`: straight.
    server: Option<Server>,
    /// Straight by how many connections.
    connections: u64,
    runs: Vec<Run>,
}

/// One read.
#[derive(Clone, Copy, Debug)]
struct Run {
    /// Gigabytes a second.
    rate: f64,
    /// Seconds to the first byte.
    first_byte: f64,
    /// The server's processor seconds a gigabyte.
    cpu: f64,
    /// Bytes that the origin sent ÷ the object's size.
    sent: f64,
    /// GETs that the origin was asked.
    gets: f64,
}

/// Measures, prints the table, and gives the verdicts on Forebay without a disk tier.
///
/// # Errors
/// It could not be measured: a program is missing, which the message says how to get, or something failed.
pub async fn cold(options: &Options) -> anyhow::Result<Report> {
    let programs = Programs::find(
        options.places.cachey.as_deref(),
        options.places.forebay.as_deref(),
    )?;
    let machine = Machine::look(&programs).await;
    let parent = options
        .places
        .dir
        .clone()
        .unwrap_or_else(std::env::temp_dir);
    let dir = parent.join(format!("forebay-bench-{}", std::process::id()));
    fs::create_dir(&dir).with_context(|| format!("create {}", dir.display()))?;
    let measured = run(options, programs, &dir).await;
    // What failed matters more than a directory left behind.
    let _ = fs::remove_dir_all(&dir);
    tell(options, &machine, &measured?)
}

async fn run(options: &Options, programs: Programs, dir: &Path) -> anyhow::Result<Vec<Way>> {
    let origin = Origin::start(Settings::remote())
        .await
        .context("start the origin model")?;
    let mut ways = ways(programs, dir, &origin).await?;
    for repeat in 0..options.repeats {
        for turn in 0..ways.len() {
            let place = (turn + repeat) % ways.len();
            let way = &mut ways[place];
            let run = way
                .read(&origin, options.size, repeat)
                .await
                .with_context(|| way.name)?;
            eprintln!("{}: {:.3} GB/s", way.name, run.rate);
            way.runs.push(run);
        }
    }
    for way in &mut ways {
        if let Some(server) = way.server.take() {
            server.stop().await?;
        }
    }
    origin.stop().await;
    Ok(ways)
}

/// All of them, with the servers up and empty.
async fn ways(programs: Programs, dir: &Path, origin: &Origin) -> anyhow::Result<Vec<Way>> {
    let straight = |name, connections| Way {
        name,
        server: None,
        connections,
        runs: Vec::new(),
    };
    let mut ways = vec![straight(ONE, 1), straight(MANY, AT_ONCE)];
    let stages = [Stage::Cold, Stage::ColdDisk];
    let through = stages
        .into_iter()
        .flat_map(|stage| stage.who().iter().map(move |who| (*who, stage)));
    for (who, stage) in through {
        let name = match stage {
            Stage::ColdDisk => "forebay with a disk tier",
            _ => who.name(),
        };
        // One name twice: each has a directory of its own.
        let dir = dir.join(name.replace(' ', "-"));
        fs::create_dir(&dir).with_context(|| format!("create {}", dir.display()))?;
        let place = Place {
            programs: programs.clone(),
            stage,
            dir,
            cores: all_cores()?,
            origin: origin.address(),
            objects: Objects::new(0, 0),
            certificate: None,
        };
        ways.push(Way {
            name,
            server: Some(Server::start(who, &place).await?),
            connections: 1,
            runs: Vec::new(),
        });
    }
    Ok(ways)
}

impl Way {
    /// One read of an object that nobody has read by this way. What a server gave is compared afterwards.
    async fn read(&self, origin: &Origin, size: u64, repeat: usize) -> anyhow::Result<Run> {
        let key = format!("{}/{repeat}", self.name.replace([' ', ','], "-"));
        let parts = if self.server.is_some() {
            1
        } else {
            self.connections
        };
        for part in 0..parts {
            origin.put(&format!("{key}/{part}"), size / parts, 0);
        }
        let before = origin.counters();
        let used = self.cpu()?;
        let read = self.curl(origin, &key, size).await?;
        let used = self.cpu()? - used;
        let after = origin.counters();
        if let Some(server) = &self.server {
            compare_whole(&server.target, &format!("{key}/0"), size).await?;
        }
        for part in 0..parts {
            origin.delete(&format!("{key}/{part}"));
        }
        Ok(Run {
            rate: size as f64 / GB / read.seconds,
            first_byte: read.first_byte,
            cpu: used / (size as f64 / GB),
            sent: (after.bytes_sent - before.bytes_sent) as f64 / size as f64,
            gets: (after.gets - before.gets) as f64,
        })
    }

    async fn curl(&self, origin: &Origin, key: &str, size: u64) -> anyhow::Result<Read> {
        let Some(server) = &self.server else {
            let url = format!("{}/{key}/[0-{}]", origin.url(), self.connections - 1);
            return curl(&url, &[], size).await;
        };
        let target = &server.target;
        let url = format!("http://{}{}/{key}/0", target.address, target.prefix);
        let range = format!("0-{}", size - 1);
        let more: &[&str] = if target.ranges_only {
            &["-r", &range]
        } else {
            &[]
        };
        curl(&url, more, size).await
    }

    fn cpu(&self) -> anyhow::Result<f64> {
        let usage = self.server.as_ref().map(|server| server.process.usage());
        Ok(usage.transpose()?.unwrap_or_default().cpu)
    }

    fn each(&self, of: impl Fn(&Run) -> f64) -> Vec<f64> {
        self.runs.iter().map(of).collect()
    }

    fn middle(&self, of: impl Fn(&Run) -> f64) -> f64 {
        median(self.each(of))
    }

    fn line(&self) -> String {
        let rates = self.each(|run| run.rate);
        let most = rates.iter().copied().fold(f64::MIN, f64::max);
        let least = rates.iter().copied().fold(f64::MAX, f64::min);
        let middle = self.middle(|run| run.rate);
        // Straight there is no server.
        let cpu = match self.middle(|run| run.cpu) {
            0.0 => String::new(),
            cpu => format!("{cpu:.2}"),
        };
        format!(
            "{:<26}{middle:>8.3} ±{:>3.0}%{:>16.1}{cpu:>12}{:>16.2}{:>8.0}",
            self.name,
            50.0 * (most - least) / middle,
            1e3 * self.middle(|run| run.first_byte),
            self.middle(|run| run.sent),
            self.middle(|run| run.gets),
        )
    }

    fn json(&self) -> Value {
        let runs = self.runs.iter().map(|run| {
            json!({
                "gigabytes_a_second": run.rate,
                "first_byte_seconds": run.first_byte,
                "server_cpu_seconds_a_gigabyte": run.cpu,
                "origin_bytes_a_byte": run.sent,
                "origin_gets": run.gets,
            })
        });
        json!({ "way": self.name, "runs": runs.collect::<Vec<_>>() })
    }
}

/// Prints what was found, writes the files, and judges.
fn tell(options: &Options, machine: &Machine, ways: &[Way]) -> anyhow::Result<Report> {
    let lines = machine.lines();
    lines.iter().for_each(|line| println!("{line}"));
    if cfg!(debug_assertions) {
        println!("{}", super::WITH_ASSERTIONS);
    }
    let how = format!(
        "one curl over {} MiB that nobody has read yet; the origin gives 100 MB/s a connection after 30 ms; {} runs; all on all cores",
        options.size >> 20,
        options.repeats
    );
    println!("{how}\n");
    println!(
        "{:<26}{:>14}{:>16}{:>12}{:>16}{:>8}",
        "medians", "GB/s", "first byte, ms", "CPU s/GB", "origin ÷ size", "GETs"
    );
    ways.iter().for_each(|way| println!("{}", way.line()));
    println!();
    let report = judged(ways);
    if let Some(file) = &options.places.json {
        let text = serde_json::to_string_pretty(&json!({
            "machine": machine,
            "size": options.size,
            "met": report.met(),
            "ways": ways.iter().map(Way::json).collect::<Vec<_>>(),
            "figures": report.figures,
        }))?;
        fs::write(file, text + "\n").with_context(|| format!("write {}", file.display()))?;
    }
    if let Some(file) = &options.places.plot {
        let [machine, versions] = lines;
        chart(ways, vec![machine, versions, how])
            .draw()
            .write(file)?;
    }
    Ok(report)
}

fn judged(ways: &[Way]) -> Report {
    let mut report = Report::new("bench cold");
    let of = |name: &str, what: fn(&Run) -> f64| {
        let way = ways.iter().find(|way| way.name == name);
        way.map_or(f64::NAN, |way| way.middle(what))
    };
    let rate = |name| of(name, |run| run.rate);
    let ours = rate(FOREBAY);
    for (direct, bar) in [(ONE, 10.0), (MANY, 0.7)] {
        let what = format!("{FOREBAY} ÷ {direct}");
        report.at_least(&what, ours / rate(direct), bar, Unit::Times);
    }
    let peers = ways.iter().filter(|way| PEERS.contains(&way.name));
    if let Some(best) = peers.max_by(|a, b| rate(a.name).total_cmp(&rate(b.name))) {
        let what = format!("forebay ÷ {}", best.name);
        report.at_least(&what, ours / rate(best.name), 1.0, Unit::Times);
    }
    let fresh = ways.iter().find(|way| way.name == FOREBAY);
    let fresh = fresh.and_then(|way| way.runs.first()).map(|run| run.rate);
    let what = "forebay's first, into fresh memory";
    report.tell(what, fresh.unwrap_or(f64::NAN), Unit::Rate);
    let first = |name| of(name, |run| run.first_byte);
    report.at_most(
        "first byte ÷ direct",
        first(FOREBAY) / first(ONE),
        1.3,
        Unit::Times,
    );
    let sent = of(FOREBAY, |run| run.sent);
    report.at_most("origin bytes ÷ size", sent, 1.02, Unit::Times);
    report
}

fn chart(ways: &[Way], notes: Vec<String>) -> Bars {
    let legend = ways.iter().zip(PALETTE.into_iter().cycle());
    let group = |name: &str, unit: &str, of: fn(&Run) -> f64| Group {
        name: name.to_owned(),
        unit: unit.to_owned(),
        bars: ways
            .iter()
            .enumerate()
            .map(|(who, way)| Bar {
                who,
                value: way.middle(of),
                runs: way.each(of),
            })
            .collect(),
    };
    Bars {
        title: "Cold reads, side by side: one plain stream, medians and runs".to_owned(),
        notes,
        legend: legend
            .map(|(way, colour)| (way.name.to_owned(), colour))
            .collect(),
        groups: vec![
            group("one stream", "GB/s", |run| run.rate),
            group("first byte", "ms", |run| 1e3 * run.first_byte),
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn way(name: &'static str, rates: [f64; 3]) -> Way {
        let run = |rate| Run {
            rate,
            first_byte: 0.03,
            cpu: 1.0,
            sent: 1.0,
            gets: 1.0,
        };
        Way {
            name,
            server: None,
            connections: 1,
            runs: rates.map(run).into(),
        }
    }

    #[test]
    fn medians_are_judged_and_beside_the_best_peer() {
        let ways = [
            way(ONE, [0.1; 3]),
            way(MANY, [2.0; 3]),
            way("varnish", [0.1; 3]),
            way("cachey", [0.1, 1.6, 1.7]),
            way(FOREBAY, [0.1, 1.5, 9.0]),
        ];
        let report = judged(&ways);
        let figures = report.figures.iter();
        let figures: Vec<_> = figures.map(|figure| (&*figure.what, figure.met)).collect();
        assert_eq!(
            figures[..3],
            [
                ("forebay ÷ direct, 1 connection", true),
                ("forebay ÷ direct, 32 connections", true),
                ("forebay ÷ cachey", false),
            ]
        );
        assert_eq!(report.figures[3].value, 0.1);
    }
}
