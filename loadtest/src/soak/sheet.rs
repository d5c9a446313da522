//! What a soak found: whether all is flat, as a table, as JSON, and as a picture.

use std::fmt;

use serde::Serialize;

use super::Options;
use super::load::Bad;
use crate::plot::{Anchor, Drawing, FAINT, INK, PALETTE, Size};
use crate::report::{Report, Unit, median};

/// The part of the time that is warm-up.
const WARM_UP: f64 = 0.2;

/// What the last quarter may have beyond the first: of memory a twentieth and 8 MiB, of files a twentieth and 16, two threads, half of
/// the time and 5 ms.
const MEMORY: (f64, f64) = (1.05, 8.0);
const FILES: (f64, f64) = (1.05, 16.0);
const THREADS: (f64, f64) = (1.0, 2.0);
const TIME: (f64, f64) = (1.5, 5.0);

/// What one process holds at one moment.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Vitals {
    /// Bytes.
    pub(super) memory: u64,
    pub(super) files: usize,
    pub(super) threads: usize,
}

/// One look at all.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Sample {
    /// Seconds since the start.
    pub(super) at: f64,
    pub(super) vitals: Vec<Vitals>,
    pub(super) reads: usize,
    /// Of the reads since the last, in milliseconds.
    pub(super) p99: Option<f64>,
}

/// The findings of one soak.
#[derive(Debug, Serialize)]
pub struct Sheet {
    /// What was read is made from it.
    pub seed: u64,
    /// Whether all is flat, and every read ended as it has to.
    pub met: bool,
    /// How many gateways.
    pub gateways: usize,
    /// What it is held to.
    pub report: Report,
    /// What went wrong, word for word: the first of it.
    pub words: Vec<String>,
    pub(super) samples: Vec<Sample>,
}

impl Sheet {
    pub(super) fn new(
        options: &Options,
        (most, rate): (f64, f64),
        samples: Vec<Sample>,
        bad: Bad,
    ) -> Self {
        let mut report = Report::new("soak");
        report.tell("reads a second at most", most, Unit::Count);
        report.tell("reads a second meant", rate, Unit::Count);
        let (reads, time) = (
            samples.iter().map(|sample| sample.reads).sum::<usize>(),
            samples.last().map_or(1.0, |sample| sample.at),
        );
        report.at_least(
            "reads a second ÷ meant",
            reads as f64 / time / rate,
            0.95,
            Unit::Times,
        );
        report.at_most(
            "reads that ended otherwise",
            bad.count as f64,
            0.0,
            Unit::Count,
        );
        for gateway in 0..options.gateways {
            let name = |what: &str| format!("gw-{gateway}: {what}, last quarter");
            let of = |what: fn(&Vitals) -> f64| {
                move |sample: &Sample| sample.vitals.get(gateway).map(what)
            };
            let memory = of(|vitals| vitals.memory as f64 / f64::from(1 << 20));
            flat(
                &mut report,
                &name("memory"),
                &samples,
                memory,
                MEMORY,
                Unit::Mebibytes,
            );
            let files = of(|vitals| vitals.files as f64);
            flat(
                &mut report,
                &name("files"),
                &samples,
                files,
                FILES,
                Unit::Count,
            );
            let threads = of(|vitals| vitals.threads as f64);
            flat(
                &mut report,
                &name("threads"),
                &samples,
                threads,
                THREADS,
                Unit::Count,
            );
        }
        let p99 = |sample: &Sample| sample.p99;
        flat(
            &mut report,
            "p99 of a read, last quarter",
            &samples,
            p99,
            TIME,
            Unit::Milliseconds,
        );
        Self {
            seed: options.seed,
            met: report.met(),
            gateways: options.gateways,
            report,
            words: bad.words.into(),
            samples,
        }
    }

    /// The samples over time, each kind with a scale of its own.
    pub(super) fn draw(&self) -> Drawing {
        const WIDTH: f64 = 1200.0;
        const PANE: f64 = 170.0;
        let mut drawing = Drawing::new(WIDTH as u32, (4.0 * PANE + 90.0) as u32);
        let title = format!("Soak, {} gateways; grey: warm-up", self.gateways);
        drawing.words((24.0, 30.0), title, Size::Large, Anchor::Start, INK);
        type Look = fn(&Sample, usize) -> Option<f64>;
        let panes: [(&str, Look, usize); 4] = [
            (
                "memory, MiB",
                |sample, at| Some(sample.vitals.get(at)?.memory as f64 / f64::from(1 << 20)),
                self.gateways,
            ),
            (
                "open files",
                |sample, at| Some(sample.vitals.get(at)?.files as f64),
                self.gateways,
            ),
            (
                "threads",
                |sample, at| Some(sample.vitals.get(at)?.threads as f64),
                self.gateways,
            ),
            ("p99, ms", |sample, _| sample.p99, 1),
        ];
        let end = self.samples.last().map_or(1.0, |sample| sample.at);
        for (number, (name, look, lines)) in panes.into_iter().enumerate() {
            let (top, bottom) = (
                60.0 + PANE * number as f64,
                40.0 + PANE * (number + 1) as f64,
            );
            let x = |seconds: f64| 160.0 + (WIDTH - 200.0) * seconds / end;
            let all = (0..lines)
                .flat_map(|line| self.samples.iter().filter_map(move |one| look(one, line)));
            let most = all.fold(1.0, f64::max);
            let y = |value: f64| bottom - (bottom - top) * value / most;
            drawing.rect(
                (x(0.0), top),
                (x(WARM_UP * end) - x(0.0), bottom - top),
                FAINT,
            );
            drawing.line((x(0.0), bottom), (x(end), bottom), 1.0, INK);
            drawing.words(
                (150.0, top + 8.0),
                format!("{most:.0}"),
                Size::Small,
                Anchor::End,
                INK,
            );
            drawing.words((150.0, bottom - 8.0), name, Size::Small, Anchor::End, INK);
            for line in 0..lines {
                for pair in self.samples.windows(2) {
                    let (Some(one), Some(next)) = (look(&pair[0], line), look(&pair[1], line))
                    else {
                        continue;
                    };
                    let colour = PALETTE[line % PALETTE.len()];
                    drawing.line(
                        (x(pair[0].at), y(one)),
                        (x(pair[1].at), y(next)),
                        2.0,
                        colour,
                    );
                }
            }
        }
        let place = (WIDTH - 40.0, 4.0 * PANE + 60.0);
        drawing.words(place, format!("{end:.0} s"), Size::Small, Anchor::End, INK);
        drawing
    }
}

/// Holds the median of the last quarter to that of the first after the warm-up, times the one and plus the other.
fn flat(
    report: &mut Report,
    what: &str,
    samples: &[Sample],
    look: impl Fn(&Sample) -> Option<f64>,
    (times, plus): (f64, f64),
    unit: Unit,
) {
    let warm = (samples.len() as f64 * WARM_UP).ceil() as usize;
    let rest = &samples[warm.min(samples.len())..];
    let quarter = rest.len().div_ceil(4);
    let of = |some: &[Sample]| median(some.iter().filter_map(&look).collect());
    let (first, last) = (of(&rest[..quarter]), of(&rest[rest.len() - quarter..]));
    report.at_most(what, last, times * first + plus, unit);
}

impl fmt::Display for Sheet {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for word in &self.words {
            writeln!(out, "  {word}")?;
        }
        write!(out, "{}", self.report)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn soaked(memory: impl Fn(usize) -> u64) -> Sheet {
        let options = Options {
            program: None,
            gateways: 1,
            lasting: std::time::Duration::from_secs(100),
            seed: 1,
        };
        let sample = |number: usize| Sample {
            at: number as f64 + 1.0,
            vitals: vec![Vitals {
                memory: memory(number) << 20,
                files: 30,
                threads: 5,
            }],
            reads: 100,
            p99: Some(10.0),
        };
        let samples = (0..100).map(sample).collect();
        Sheet::new(&options, (150.0, 100.0), samples, Bad::default())
    }

    #[test]
    fn what_grows_is_not_flat_and_what_grew_while_it_was_warming_up_is() {
        assert!(soaked(|number| 100 + (number as u64).min(20)).met);
        let grown = soaked(|number| 100 + number as u64);
        assert!(!grown.met);
        let text = grown.to_string();
        assert!(text.contains("gw-0: memory, last quarter") && text.ends_with("soak: MISSED"));
        assert!(grown.draw().svg().contains("memory, MiB"));
    }
}
