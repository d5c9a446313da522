//! What a check found: each figure beside its bar.

use std::fmt;

use serde::Serialize;

/// The verdict over one check.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The check's name.
    pub check: String,
    /// What was measured, in the order it is read.
    pub figures: Vec<Figure>,
}

/// One figure; without a bar it is only told.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    /// What was measured.
    pub what: String,
    /// The figure itself, in the unit that `shown` has.
    pub value: f64,
    /// As it is printed, with its unit.
    pub shown: String,
    /// The bar, as it is printed.
    pub bar: Option<String>,
    /// Whether the bar is met.
    pub met: bool,
}

impl Report {
    /// An empty report, which holds nothing to miss.
    pub fn new(check: &str) -> Self {
        Self {
            check: check.to_owned(),
            figures: Vec::new(),
        }
    }

    /// Adds a figure that must not exceed `bar`.
    pub fn at_most(&mut self, what: &str, value: f64, bar: f64, unit: Unit) {
        self.add(
            what,
            value,
            unit,
            Some(format!("≤ {}", unit.show(bar))),
            value <= bar,
        );
    }

    /// Adds a figure that must reach `bar`.
    pub fn at_least(&mut self, what: &str, value: f64, bar: f64, unit: Unit) {
        self.add(
            what,
            value,
            unit,
            Some(format!("≥ {}", unit.show(bar))),
            value >= bar,
        );
    }

    /// Adds a figure that must be within `slack` of `bar`.
    pub fn equal(&mut self, what: &str, value: f64, bar: f64, slack: f64, unit: Unit) {
        self.add(
            what,
            value,
            unit,
            Some(format!("= {}", unit.show(bar))),
            (value - bar).abs() <= slack,
        );
    }

    /// Adds a figure without a bar.
    pub fn tell(&mut self, what: &str, value: f64, unit: Unit) {
        self.add(what, value, unit, None, true);
    }

    /// Whether every bar is met.
    pub fn met(&self) -> bool {
        self.figures.iter().all(|figure| figure.met)
    }

    fn add(&mut self, what: &str, value: f64, unit: Unit, bar: Option<String>, met: bool) {
        self.figures.push(Figure {
            what: what.to_owned(),
            value,
            shown: unit.show(value),
            bar,
            met,
        });
    }
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "{}", self.check)?;
        let width = self
            .figures
            .iter()
            .map(|figure| figure.what.chars().count())
            .max()
            .unwrap_or(0);
        for figure in &self.figures {
            let (bar, verdict) = match (&figure.bar, figure.met) {
                (None, _) => ("", ""),
                (Some(bar), true) => (bar.as_str(), "ok"),
                (Some(bar), false) => (bar.as_str(), "MISSED"),
            };
            let line = format!(
                "  {:width$}  {:>12}  {bar:<14}  {verdict}",
                figure.what, figure.shown
            );
            writeln!(out, "{}", line.trim_end())?;
        }
        write!(
            out,
            "{}: {}",
            self.check,
            if self.met() { "ok" } else { "MISSED" }
        )
    }
}

/// How a figure is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// A whole number.
    Count,
    /// A factor, with two decimals.
    Times,
    /// From 0 to 100.
    Percent,
    /// Microseconds.
    Microseconds,
    /// Milliseconds.
    Milliseconds,
    /// Seconds.
    Seconds,
    /// Seconds, with two decimals.
    FineSeconds,
    /// Mebibytes.
    Mebibytes,
    /// Gigabytes a second.
    Rate,
}

impl Unit {
    fn show(self, value: f64) -> String {
        match self {
            Self::Count => format!("{value:.0}"),
            Self::Times => format!("{value:.2} ×"),
            Self::Percent => format!("{value:.1} %"),
            Self::Microseconds => format!("{value:.1} µs"),
            Self::Milliseconds => format!("{value:.1} ms"),
            Self::Seconds => format!("{value:.1} s"),
            Self::FineSeconds => format!("{value:.2} s"),
            Self::Mebibytes => format!("{value:.1} MiB"),
            Self::Rate => format!("{value:.3} GB/s"),
        }
    }
}

/// The median of some figures, the upper one if their number is even; 0 of none.
pub(crate) fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_unstable_by(f64::total_cmp);
    let middle = figures.get(figures.len() / 2);
    middle.copied().unwrap_or(0.0)
}

/// Jain's index: 1 if all shares are equal, 1 ÷ n if one has all (Jain, Chiu and Hawe, 1984).
pub(crate) fn jain(shares: &[f64]) -> f64 {
    let sum: f64 = shares.iter().sum();
    let squares: f64 = shares.iter().map(|share| share * share).sum();
    if squares > 0.0 {
        sum * sum / (shares.len() as f64 * squares)
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_shares_are_fair_and_one_taker_is_not() {
        assert!((jain(&[2.0, 2.0, 2.0, 2.0]) - 1.0).abs() < 1e-9);
        assert!((jain(&[8.0, 0.0, 0.0, 0.0]) - 0.25).abs() < 1e-9);
        assert!(jain(&[]).abs() < 1e-9);
    }

    #[test]
    fn one_missed_bar_is_a_missed_check() {
        let mut report = Report::new("once");
        report.tell("took", 3.0, Unit::Seconds);
        report.equal("origin bytes", 1.0, 1.0, 0.005, Unit::Times);
        assert!(report.met());
        report.at_most("first byte", 161.0, 160.0, Unit::Milliseconds);
        assert!(!report.met());
        let text = report.to_string();
        assert!(
            text.contains("161.0 ms") && text.ends_with("once: MISSED"),
            "{text}"
        );
    }
}
