//! What a scenario found: a row for each set-up, as a table, as JSON, and as what the plot is drawn from.

use std::fmt;

use serde::Serialize;

use super::reader::Reading;
use super::stage::Run;
use crate::report::{Report, Unit};

/// All rows of one scenario.
#[derive(Debug, Serialize)]
pub struct Sheet {
    /// The scenario's name.
    pub scenario: String,
    /// What every choice by chance was seeded with.
    pub seed: u64,
    /// Whether every bar is met.
    pub met: bool,
    /// The rows, in the order in which they were measured.
    pub rows: Vec<Row>,
}

/// One set-up.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// What was done, such as `mapped`.
    pub name: String,
    /// Gateways of the fleet.
    pub gateways: usize,
    /// The readers' times in seconds, ascending; empty where no reader reads to an end.
    pub times: Vec<f64>,
    /// What the links allow, in seconds; `None` where that means nothing.
    pub ideal: Option<f64>,
    /// Bytes the origin sent ÷ bytes there are.
    pub origin_ratio: Option<f64>,
    /// Readers that did not get all, or had to wait for a byte for 10 s.
    pub failed: usize,
    /// Readers that got a wrong byte.
    pub wrong: usize,
    /// Bodies that were gone on with at another gateway.
    pub resumed: u64,
    /// Percent of CPU time that nobody used.
    pub idle: f64,
    /// The first thing that failed or was wrong.
    pub complaint: Option<String>,
    /// What it is held to.
    pub report: Report,
}

impl Row {
    /// A row of what the readers of `run` found, over `unique` bytes, held so far to nobody failing.
    pub(super) fn new(name: &str, gateways: usize, run: &Run, unique: u64) -> Self {
        let mut times: Vec<_> = run.readings.iter().map(|reading| reading.took).collect();
        times.sort_unstable_by(f64::total_cmp);
        let count = |is: fn(&Reading) -> bool| run.readings.iter().filter(|one| is(one)).count();
        let wrong = count(|reading| !reading.wrong.is_empty());
        let failed = count(|reading| reading.failed.is_some()) - wrong;
        let mut report = Report::new(name);
        report.at_most("failed readers", failed as f64, 0.0, Unit::Count);
        report.at_most("readers with wrong bytes", wrong as f64, 0.0, Unit::Count);
        Self {
            name: name.to_owned(),
            gateways,
            times,
            ideal: None,
            origin_ratio: Some(run.origin.bytes_sent as f64 / unique.max(1) as f64),
            failed,
            wrong,
            resumed: run.readings.iter().map(|reading| reading.resumed).sum(),
            idle: run.idle,
            complaint: run
                .readings
                .iter()
                .find_map(|reading| reading.failed.clone()),
            report,
        }
    }

    /// A row without readers.
    pub(super) fn bare(name: &str, gateways: usize, idle: f64) -> Self {
        Self {
            name: name.to_owned(),
            gateways,
            times: Vec::new(),
            ideal: None,
            origin_ratio: None,
            failed: 0,
            wrong: 0,
            resumed: 0,
            idle,
            complaint: None,
            report: Report::new(name),
        }
    }

    /// With the time that the links allow.
    pub(super) fn ideal(mut self, seconds: f64) -> Self {
        self.ideal = Some(seconds);
        self
    }

    /// Holds the last reader to `times` the ideal.
    pub(super) fn within(mut self, times: f64) -> Self {
        let factor = self.last() / self.ideal.unwrap_or(f64::NAN);
        self.report
            .at_most("last reader ÷ ideal", factor, times, Unit::Times);
        self
    }

    /// Holds what the readers got, up to the last of them, to so many percent of what the links give.
    pub(super) fn percent_of_ideal(mut self, at_least: f64) -> Self {
        let percent = self.percent().unwrap_or(0.0);
        self.report
            .at_least("of ideal", percent, at_least, Unit::Percent);
        self
    }

    /// Holds the last reader to a time.
    pub(super) fn last_within(mut self, seconds: f64) -> Self {
        self.report
            .at_most("last reader", self.last(), seconds, Unit::FineSeconds);
        self
    }

    /// Holds the origin's bytes to `ratio` times what there is.
    pub(super) fn origin_within(mut self, ratio: f64) -> Self {
        let sent = self.origin_ratio.unwrap_or(f64::NAN);
        self.report
            .at_most("origin bytes ÷ unique", sent, ratio, Unit::Times);
        self
    }

    /// Holds the last reader to `ratio` times the median one.
    pub(super) fn spread_within(mut self, ratio: f64) -> Self {
        let spread = self.last() / self.median();
        self.report
            .at_most("last ÷ median reader", spread, ratio, Unit::Times);
        self
    }

    /// Holds the readers to not having had to resume, as where nobody is killed.
    pub(super) fn unresumed(mut self) -> Self {
        self.report
            .at_most("resumed bodies", self.resumed as f64, 0.0, Unit::Count);
        self
    }

    /// Adds what failed in other runs of the same set-up.
    pub(super) fn with_failures_of(mut self, other: &Self) -> Self {
        if other.failed + other.wrong > 0 {
            let failed = (other.failed + other.wrong) as f64;
            self.report
                .at_most("failed or wrong in a repetition", failed, 0.0, Unit::Count);
            self.complaint = self.complaint.or_else(|| other.complaint.clone());
        }
        self
    }

    /// The first reader's time.
    pub fn first(&self) -> f64 {
        self.times.first().copied().unwrap_or(f64::NAN)
    }

    /// The median reader's time, the upper one of an even number.
    pub fn median(&self) -> f64 {
        let middle = self.times.get(self.times.len() / 2);
        middle.copied().unwrap_or(f64::NAN)
    }

    /// The last reader's time.
    pub fn last(&self) -> f64 {
        self.times.last().copied().unwrap_or(f64::NAN)
    }

    /// Percent of the ideal that was reached.
    pub fn percent(&self) -> Option<f64> {
        let ideal = self.ideal?;
        (!self.times.is_empty()).then(|| 100.0 * ideal / self.last())
    }
}

impl Sheet {
    /// A sheet of these rows.
    pub(super) fn new(scenario: &str, seed: u64, rows: Vec<Row>) -> Self {
        Self {
            scenario: scenario.to_owned(),
            seed,
            met: rows.iter().all(|row| row.report.met()),
            rows,
        }
    }
}

const HEADS: [&str; 12] = [
    "what",
    "gw",
    "first",
    "median",
    "last",
    "ideal",
    "of ideal",
    "last÷med",
    "origin",
    "failed",
    "resumed",
    "idle",
];

impl fmt::Display for Sheet {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "{}, seed {}", self.scenario, self.seed)?;
        let mut table = vec![HEADS.map(str::to_owned)];
        table.extend(self.rows.iter().map(cells));
        let widths: [usize; HEADS.len()] = std::array::from_fn(|column| {
            let widths = table.iter().map(|row| row[column].chars().count());
            widths.max().unwrap_or(0)
        });
        for row in &table {
            let mut line = format!("  {:width$}", row[0], width = widths[0]);
            for (cell, width) in row.iter().zip(widths).skip(1) {
                line += &format!("  {cell:>width$}");
            }
            writeln!(out, "{}", line.trim_end())?;
        }
        for row in &self.rows {
            let mut report = row.report.clone();
            report.check = format!("{}, {} gateways", row.name, row.gateways);
            writeln!(out, "{report}")?;
            if let Some(complaint) = &row.complaint {
                writeln!(out, "  the first complaint: {complaint}")?;
            }
        }
        let verdict = if self.met { "ok" } else { "MISSED" };
        write!(out, "{}: {verdict}", self.scenario)
    }
}

fn cells(row: &Row) -> [String; HEADS.len()] {
    let seconds = |value: f64| {
        if value.is_nan() {
            "-".to_owned()
        } else {
            format!("{value:.2} s")
        }
    };
    let or_dash = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    [
        row.name.clone(),
        row.gateways.to_string(),
        seconds(row.first()),
        seconds(row.median()),
        seconds(row.last()),
        or_dash(row.ideal.map(seconds)),
        or_dash(row.percent().map(|percent| format!("{percent:.1} %"))),
        or_dash((!row.times.is_empty()).then(|| format!("{:.2}", row.last() / row.median()))),
        or_dash(row.origin_ratio.map(|ratio| format!("{ratio:.3} ×"))),
        (row.failed + row.wrong).to_string(),
        row.resumed.to_string(),
        format!("{:.0} %", row.idle),
    ]
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A row with these times.
    pub(in super::super) fn row(name: &str, gateways: usize, times: &[f64], ideal: f64) -> Row {
        Row {
            times: times.to_vec(),
            origin_ratio: Some(1.0),
            ..Row::bare(name, gateways, 50.0)
        }
        .ideal(ideal)
    }

    #[test]
    fn a_last_reader_beyond_its_bar_is_a_missed_sheet() {
        let good = row("mapped", 8, &[8.0, 8.5, 9.0], 8.8).within(1.06);
        assert!(good.report.met());
        assert!((good.percent().expect("an ideal") - 97.8).abs() < 0.1);
        let late = row("mapped", 8, &[8.0, 8.5, 9.5], 8.8).within(1.06);
        let sheet = Sheet::new("fleet-start", 7, vec![good, late]);
        assert!(!sheet.met);
        let text = sheet.to_string();
        assert!(
            text.contains("8.50 s") && text.ends_with("fleet-start: MISSED"),
            "{text}"
        );
    }

    #[test]
    fn a_reader_that_resumed_where_nobody_was_killed_is_a_miss() {
        let mut resumed = row("mapped", 1, &[1.0], 1.0);
        resumed.resumed = 1;
        assert!(!resumed.unresumed().report.met());
    }

    #[test]
    fn a_row_without_readers_has_dashes() {
        let sheet = Sheet::new("deploy", 7, vec![Row::bare("empty", 8, 90.0)]);
        assert!(sheet.to_string().contains("-"));
        assert!(sheet.met);
    }
}
