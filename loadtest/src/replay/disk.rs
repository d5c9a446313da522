//! A pass over more than the NVMe tier holds: what admission leaves of a hot set, and what it writes.
//!
//! The tier evicts in the order of writing (a device is written segment by segment); admission is what it can choose
//! by. A model of it, since the real one wants a disk: 2000 entries stand for 200 GiB.

use std::collections::{HashSet, VecDeque};
use std::fmt;

use serde_json::{Value, json};

use crate::report::{Report, Unit};

const CAPACITY: u32 = 2000;

/// 100 GiB that are read again and again.
const HOT: u32 = 1000;

/// 340 GiB that are read once.
const PASS: u32 = 3400;

/// What is written of what was fetched.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Admission {
    /// All of it.
    All,
    /// While there is room, all; then what was asked for before, as far as as many are remembered as there is room for.
    SecondSight,
}

/// The tier as a queue.
struct Tier {
    admission: Admission,
    resident: HashSet<(u32, u32)>,
    order: VecDeque<(u32, u32)>,
    seen: HashSet<(u32, u32)>,
    seen_before: HashSet<(u32, u32)>,
    written: u32,
}

impl Tier {
    fn new(admission: Admission) -> Self {
        Self {
            admission,
            resident: HashSet::new(),
            order: VecDeque::new(),
            seen: HashSet::new(),
            seen_before: HashSet::new(),
            written: 0,
        }
    }

    /// Reads every block of a model; the part that hit.
    fn read(&mut self, model: u32, blocks: u32) -> f64 {
        let mut hits = 0;
        for key in (0..blocks).map(|index| (model, index)) {
            if self.resident.contains(&key) {
                hits += 1;
            } else if self.admits(key) {
                self.write(key);
            }
        }
        f64::from(hits) / f64::from(blocks)
    }

    fn admits(&mut self, key: (u32, u32)) -> bool {
        let room = (self.order.len() as u32) < CAPACITY;
        if room || self.admission == Admission::All {
            return true;
        }
        if self.seen.remove(&key) || self.seen_before.remove(&key) {
            return true;
        }
        if self.seen.len() as u32 >= CAPACITY / 2 {
            self.seen_before = std::mem::take(&mut self.seen);
        }
        self.seen.insert(key);
        false
    }

    fn write(&mut self, key: (u32, u32)) {
        if self.order.len() as u32 >= CAPACITY
            && let Some(oldest) = self.order.pop_front()
        {
            self.resident.remove(&oldest);
        }
        self.order.push_back(key);
        self.resident.insert(key);
        self.written += 1;
    }
}

/// What one admission came to.
#[derive(Clone, Copy, Debug)]
struct Outcome {
    admission: Admission,
    before: f64,
    after: f64,
    /// Blocks that the pass wrote ÷ those that the tier holds.
    written: f64,
}

/// What all came to.
#[derive(Clone, Debug)]
pub(super) struct Disk(Vec<Outcome>);

/// The hot set twice, the pass once, and the hot set again.
pub(super) fn play() -> Disk {
    let outcome = |admission| {
        let mut tier = Tier::new(admission);
        tier.read(0, HOT);
        let before = tier.read(0, HOT);
        let written = tier.written;
        tier.read(1, PASS);
        let written = f64::from(tier.written - written) / f64::from(CAPACITY);
        Outcome {
            admission,
            before,
            after: tier.read(0, HOT),
            written,
        }
    };
    Disk(
        [Admission::All, Admission::SecondSight]
            .map(outcome)
            .to_vec(),
    )
}

impl Disk {
    /// Judges the admission that the tier has.
    pub(super) fn judge(&self, report: &mut Report, bar: f64) {
        for outcome in &self.0 {
            if outcome.admission == Admission::SecondSight {
                let kept = outcome.after / outcome.before;
                report.at_least(
                    "nvme-pass: hit ratio after ÷ before",
                    kept,
                    bar,
                    Unit::Times,
                );
            }
        }
    }

    pub(super) fn json(&self) -> Value {
        let outcomes = self.0.iter().map(|outcome| {
            json!({
                "admission": outcome.name(),
                "before": outcome.before,
                "after": outcome.after,
                "written": outcome.written,
            })
        });
        outcomes.collect()
    }
}

impl Outcome {
    fn name(&self) -> &'static str {
        match self.admission {
            Admission::All => "all",
            Admission::SecondSight => "second sight",
        }
    }
}

impl fmt::Display for Disk {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            out,
            "a pass of 340 GiB over 200 GiB of NVMe that hold 100 GiB of hot blocks"
        )?;
        writeln!(
            out,
            "{:<16}{:>10}{:>10}{:>24}",
            "admission", "before", "after", "written ÷ capacity"
        )?;
        for outcome in &self.0 {
            writeln!(
                out,
                "{:<16}{:>10.3}{:>10.3}{:>24.2}",
                outcome.name(),
                outcome.before,
                outcome.after,
                outcome.written
            )?;
        }
        Ok(())
    }
}
