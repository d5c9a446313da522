//! What was measured, row by row: medians, spread, tables and verdicts.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::load::Sample;
use super::peers::Who;
use super::rows::{Arrivals, Figure, Row, Stage};
use super::{TAIL_LOAD, ideal};
use crate::plot::{Bar, Bars, Group, PALETTE};
use crate::report::median;
use crate::report::{Report, Unit};

/// One row: what each server's runs came to, or why there are none.
#[derive(Clone, Debug)]
pub(super) struct Measured {
    pub(super) row: Row,
    pub(super) runs: Vec<(Who, Vec<Sample>)>,
    pub(super) skipped: Option<String>,
    /// What the origin was asked for meanwhile, by all: anything but 0 says that somebody was not warm.
    pub(super) origin_requests: u64,
}

impl Measured {
    /// Each run's figure.
    fn values(&self, who: Who) -> Vec<f64> {
        let figure = |sample: &Sample| match self.row.figure {
            Figure::Bytes => sample.bytes / sample.seconds / 1e9,
            Figure::Requests => sample.requests / sample.seconds,
            Figure::BytesACpuSecond => sample.bytes / 1e9 / sample.server_cpu,
            Figure::Tail(_) => sample.times.map_or(0.0, |times| times.tail),
        };
        self.each(who, figure)
    }

    fn each(&self, who: Who, of: impl Fn(&Sample) -> f64) -> Vec<f64> {
        let runs = self.runs.iter().find(|(other, _)| *other == who);
        runs.map_or_else(Vec::new, |(_, runs)| runs.iter().map(of).collect())
    }

    /// The median of the figure, if this server was measured.
    pub(super) fn figure(&self, who: Who) -> Option<f64> {
        let values = self.values(who);
        (!values.is_empty()).then(|| median(values))
    }

    /// The median of something else.
    pub(super) fn median_of(&self, who: Who, of: impl Fn(&Sample) -> f64) -> Option<f64> {
        let values = self.each(who, of);
        (!values.is_empty()).then(|| median(values))
    }

    fn best_peer(&self, of: impl Fn(Who) -> Option<f64>, least: bool) -> Option<(Who, f64)> {
        let peers = Who::ALL.into_iter().filter(|who| who.is_peer());
        let figures = peers.filter_map(|who| Some((who, of(who)?)));
        if least {
            figures.min_by(|a, b| a.1.total_cmp(&b.1))
        } else {
            figures.max_by(|a, b| a.1.total_cmp(&b.1))
        }
    }

    fn unit(&self) -> &'static str {
        match self.row.figure {
            Figure::Bytes => "GB/s",
            Figure::Requests => "requests/s",
            Figure::BytesACpuSecond => "GB/CPU s",
            Figure::Tail(_) => "p99, ms",
        }
    }

    /// Adds Forebay's verdicts.
    fn judge(&self, report: &mut Report, memory: Option<u64>) {
        let row = &self.row;
        let Some(ours) = self.figure(Who::Forebay) else {
            return;
        };
        if let Figure::Tail(arrivals) = row.figure {
            let of = |sample: &Sample| sample.times.map_or(0.0, |times| times.tail / times.median);
            let ratio = self.median_of(Who::Forebay, of).unwrap_or(f64::MAX);
            let what = format!("{}: p99 ÷ median", row.name);
            match arrivals {
                Arrivals::Even => report.at_most(&what, ratio, 3.0, Unit::Times),
                // No server with one core whose reads all take the same time can do it in three.
                Arrivals::Chance => {
                    report.tell(&what, ratio, Unit::Times);
                    let what = format!("{}: the same by the queue alone (M/D/1)", row.name);
                    report.tell(&what, ideal::tail(TAIL_LOAD), Unit::Times);
                }
            }
        } else if let Some((who, best)) = self.best_peer(|who| self.figure(who), false) {
            let what = format!("{}: forebay ÷ {}", row.name, who.name());
            report.at_least(&what, ours / best, row.bar, Unit::Times);
        }
        if let (Some(bar), Some(bare)) = (row.ceiling, self.figure(Who::Bare)) {
            let what = format!("{}: forebay ÷ {}", row.name, Who::Bare.name());
            report.at_least(&what, ours / bare, bar, Unit::Times);
        }
        let cpu = |who| self.median_of(who, cpu_a_gigabyte);
        if let (Some(bar), Some(ours)) = (row.cpu, cpu(Who::Forebay))
            && let Some((who, best)) = self.best_peer(cpu, true)
        {
            let what = format!("{}: CPU a GB, forebay ÷ {}", row.name, who.name());
            report.at_most(&what, ours / best, bar, Unit::Times);
        }
        let most = self.each(Who::Forebay, |sample| sample.resident as f64);
        if let Some(memory) = memory {
            let bar = (memory + (64 << 20)) as f64 * 1.1 / f64::from(1 << 20);
            let most = most.into_iter().fold(0.0, f64::max) / f64::from(1 << 20);
            let what = format!("{}: resident", row.name);
            report.at_most(&what, most, bar, Unit::Mebibytes);
        }
    }

    fn json(&self) -> Value {
        let servers = self.runs.iter().map(|(who, runs)| {
            let runs: Vec<Value> = runs.iter().map(run_json).collect();
            json!({
                "server": who.name(),
                "median": self.figure(*who),
                "cpu_seconds_a_gigabyte": self.median_of(*who, cpu_a_gigabyte),
                "resident_bytes": self.median_of(*who, |sample| sample.resident as f64),
                "client_busy_share": self.median_of(*who, client_busy),
                "runs": runs,
            })
        });
        json!({
            "row": self.row.name,
            "title": self.row.title,
            "unit": self.unit(),
            "skipped": self.skipped,
            "origin_requests": self.origin_requests,
            "servers": servers.collect::<Vec<_>>(),
        })
    }
}

/// One row in a line, told as soon as it is measured: a run that is ended early leaves what it has.
pub(super) fn line(row: &Measured) -> String {
    let told = row.runs.iter().map(|(who, _)| {
        let figure = row.figure(*who).unwrap_or_default();
        let cpu = row.median_of(*who, cpu_a_gigabyte).unwrap_or_default();
        format!("{} {figure:.2} at {cpu:.3} CPU s/GB", who.name())
    });
    let told: Vec<String> = told.collect();
    format!("{}, {}: {}", row.row.name, row.unit(), told.join("; "))
}

fn cpu_a_gigabyte(sample: &Sample) -> f64 {
    sample.server_cpu / (sample.bytes / 1e9)
}

fn client_busy(sample: &Sample) -> f64 {
    sample.client_busy / sample.seconds
}

fn run_json(sample: &Sample) -> Value {
    json!({
        "seconds": sample.seconds,
        "bytes": sample.bytes,
        "requests": sample.requests,
        "server_cpu_seconds": sample.server_cpu,
        "client_busy_seconds": sample.client_busy,
        "resident_bytes": sample.resident,
        "device_bytes": sample.device,
        "median_ms": sample.times.map(|times| times.median),
        "p99_ms": sample.times.map(|times| times.tail),
        "p99_of_all_ms": sample.times.map(|times| times.tail_of_all),
    })
}

/// All rows as JSON.
pub(super) fn json(rows: &[Measured]) -> Value {
    rows.iter().map(Measured::json).collect()
}

/// All verdicts; `memory`: what Forebay was allowed in the rows from memory.
pub(super) fn verdicts(rows: &[Measured], memory: impl Fn(&Row) -> Option<u64>) -> Report {
    let mut report = Report::new("bench hot");
    for row in rows {
        row.judge(&mut report, memory(&row.row));
    }
    report
}

/// The tables: figures with half their range, processor time, resident memory, and the client's share.
pub(super) fn tables(rows: &[Measured]) -> String {
    let mut out = String::new();
    let spread = |row: &Measured, who: Who| {
        let values = row.values(who);
        let middle = row.figure(who)?;
        let most = values.iter().copied().fold(f64::MIN, f64::max);
        let least = values.iter().copied().fold(f64::MAX, f64::min);
        let half = 100.0 * (most - least) / 2.0 / middle.max(f64::MIN_POSITIVE);
        let digits = if middle >= 1000.0 { 0 } else { 2 };
        Some(format!("{middle:.digits$} ±{half:.0}%"))
    };
    table(&mut out, "medians ± half the range", rows, |row, who| {
        spread(row, who)
    });
    let of = |f: fn(&Sample) -> f64, digits: usize| {
        move |row: &Measured, who: Who| {
            let value = row.median_of(who, f)?;
            Some(format!("{value:.digits$}"))
        }
    };
    table(
        &mut out,
        "server CPU seconds a GB",
        rows,
        of(cpu_a_gigabyte, 3),
    );
    let resident = |sample: &Sample| sample.resident as f64 / f64::from(1 << 20);
    table(
        &mut out,
        "resident MiB (files in the page cache are not in it)",
        rows,
        of(resident, 0),
    );
    table(
        &mut out,
        "part of the time in which the client had something to do (near 1.00 it is the bottleneck)",
        rows,
        of(client_busy, 2),
    );
    tails(&mut out, rows);
    let device = |row: &Measured, who: Who| {
        let share = |sample: &Sample| sample.device / sample.bytes;
        let share = row.median_of(who, share)?;
        (row.row.stage == Stage::Disk).then(|| format!("{share:.2}"))
    };
    if rows.iter().any(|row| row.row.stage == Stage::Disk) {
        table(
            &mut out,
            "bytes read from the device ÷ bytes served",
            rows,
            device,
        );
    }
    for row in rows.iter().filter(|row| row.origin_requests > 0) {
        let (name, requests) = (row.row.name, row.origin_requests);
        // Writing to a string cannot fail.
        let _ = writeln!(
            out,
            "{name}: {requests} requests reached the origin: somebody was not warm"
        );
    }
    for row in rows {
        if let Some(why) = &row.skipped {
            // Writing to a string cannot fail.
            let _ = writeln!(out, "skipped {}: {why}", row.row.name);
        }
    }
    out
}

/// Where there are tails, those of whole runs, in which the machine may have held up whoever was served.
fn tails(out: &mut String, rows: &[Measured]) {
    let is_tail = |row: &Measured| matches!(row.row.figure, Figure::Tail(_));
    if !rows.iter().any(is_tail) {
        return;
    }
    let title = "p99 over whole runs, ms (in the first table: within 100 ms, in the middle one of all such)";
    table(out, title, rows, |row, who| {
        let all = |sample: &Sample| sample.times.map_or(0.0, |times| times.tail_of_all);
        let all = row.median_of(who, all)?;
        is_tail(row).then(|| format!("{all:.2}"))
    });
}

fn table(
    out: &mut String,
    title: &str,
    rows: &[Measured],
    cell: impl Fn(&Measured, Who) -> Option<String>,
) {
    // Writing to a string cannot fail.
    let _ = write!(out, "{title}\n{:<46}", "");
    for who in Who::ALL {
        let _ = write!(out, "{:>14}", who.name());
    }
    out.push('\n');
    for row in rows.iter().filter(|row| row.skipped.is_none()) {
        let name = format!("{}: {}, {}", row.row.name, row.row.title, row.unit());
        let _ = write!(out, "{name:<46}");
        for who in Who::ALL {
            let _ = write!(out, "{:>14}", cell(row, who).unwrap_or_default());
        }
        out.push('\n');
    }
    out.push('\n');
}

/// A chart of all rows.
pub(super) fn chart(rows: &[Measured], notes: Vec<String>) -> Bars {
    let legend = Who::ALL.into_iter().zip(PALETTE);
    let groups = rows.iter().filter(|row| row.skipped.is_none()).map(|row| {
        let bars = Who::ALL.into_iter().enumerate().filter_map(|(place, who)| {
            Some(Bar {
                who: place,
                value: row.figure(who)?,
                runs: row.values(who),
            })
        });
        Group {
            name: row.row.title.to_owned(),
            unit: row.unit().to_owned(),
            bars: bars.collect(),
        }
    });
    Bars {
        title: "Hot reads, side by side: one server core, medians and runs".to_owned(),
        notes,
        legend: legend
            .map(|(who, colour)| (who.name().to_owned(), colour))
            .collect(),
        groups: groups.collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::rows::ROWS;

    fn sample(gigabytes: f64, cpu: f64) -> Sample {
        Sample {
            seconds: 1.0,
            bytes: gigabytes * 1e9,
            server_cpu: cpu,
            ..Sample::default()
        }
    }

    fn measured() -> Measured {
        let row = ROWS
            .into_iter()
            .find(|row| row.name == "1m")
            .expect("a row");
        Measured {
            row,
            runs: vec![
                (
                    Who::Varnish,
                    vec![sample(2.0, 1.0), sample(9.0, 1.0), sample(3.0, 1.0)],
                ),
                (Who::Cachey, vec![sample(1.0, 0.2)]),
                (Who::Forebay, vec![sample(3.3, 1.0)]),
                (Who::Bare, vec![sample(4.0, 1.0)]),
            ],
            skipped: None,
            origin_requests: 0,
        }
    }

    #[test]
    fn forebay_is_judged_by_the_best_peer_and_not_by_the_bare_server() {
        let report = verdicts(&[measured()], |_| None);
        let shown: Vec<_> = report
            .figures
            .iter()
            .map(|figure| (figure.what.as_str(), figure.met))
            .collect();
        assert_eq!(
            shown,
            [
                ("1m: forebay ÷ varnish", false),
                ("1m: forebay ÷ bare hyper", false),
                ("1m: CPU a GB, forebay ÷ cachey", false),
            ]
        );
        assert!((report.figures[0].value - 1.1).abs() < 1e-9);
    }

    #[test]
    fn a_row_is_told_in_one_line_with_everybody_in_it() {
        let line = line(&measured());
        assert!(line.starts_with("1m, GB/s: varnish 3.00 at "), "{line}");
        assert!(line.contains("; forebay 3.30 at 0.303 CPU s/GB"), "{line}");
    }

    #[test]
    fn the_table_has_the_median_and_the_spread() {
        let text = tables(&[measured()]);
        assert!(text.contains("3.00 ±117%"), "{text}");
    }

    #[test]
    fn a_row_that_was_skipped_is_told_and_not_judged() {
        let mut row = measured();
        row.runs.clear();
        row.skipped = Some("no TLS".to_owned());
        assert!(verdicts(&[row.clone()], |_| Some(1)).figures.is_empty());
        assert!(tables(&[row]).contains("skipped 1m: no TLS"));
    }
}
