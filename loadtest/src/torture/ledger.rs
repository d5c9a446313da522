//! What the readers found: every read, every byte, every fault, and when.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use super::kind::Kind;
use crate::client::Meter;

/// A reader that waits longer than this for a byte stalls.
pub(super) const STALL: Duration = Duration::from_secs(2);

/// Complaints kept word for word; all are counted.
const WORDS: usize = 40;

/// Questions of a stalled read that are told: the last ones.
const ASKED: usize = 12;

/// How a read ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// All that was asked for, of one version.
    Whole,
    /// An error that says that the object has changed, or is gone; and it had.
    Changed,
    /// No gateway gave it. Carries why.
    Failed(String),
    /// An answer that must not be. Carries which.
    Wrong(String),
}

/// One read.
#[derive(Clone, Debug)]
pub(super) struct Done {
    pub(super) way: &'static str,
    pub(super) key: String,
    pub(super) begun: Instant,
    pub(super) end: End,
    pub(super) bytes: u64,
    pub(super) first_byte: Option<Duration>,
    pub(super) gap: Duration,
    /// Answers that broke off, and were gone on with at another gateway.
    pub(super) resumed: u64,
    /// Answers with a 5xx.
    pub(super) refused: u64,
    /// Whether the origin was away meanwhile.
    pub(super) no_path: bool,
    /// Whom it asked, in order.
    pub(super) asked: Vec<Asked>,
}

/// One question of a read to one gateway.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    pub(super) host: usize,
    pub(super) took: Duration,
    /// Until the answer's first byte, if one came.
    pub(super) first_byte: Option<Duration>,
    pub(super) bytes: u64,
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (host, bytes, took) = (self.host, self.bytes, self.took.as_secs_f64());
        write!(f, "gw-{host} {bytes} bytes in {took:.2} s")?;
        match self.first_byte {
            Some(first) => write!(f, ", the first after {:.2} s", first.as_secs_f64()),
            None => Ok(()),
        }
    }
}

/// A fault that happened, in seconds since the start.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Fault {
    pub(super) kind: &'static str,
    pub(super) host: Option<usize>,
    /// The object that it struck.
    pub(super) key: Option<String>,
    pub(super) from: f64,
    pub(super) to: f64,
}

/// A reader that had to wait, in seconds since the start and for.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Stall {
    pub(super) at: f64,
    pub(super) lasted: f64,
    pub(super) excused: bool,
}

/// The sums.
#[derive(Clone, Debug, Default)]
pub(super) struct Sums {
    pub(super) reads: BTreeMap<&'static str, u64>,
    pub(super) whole: u64,
    pub(super) changed: u64,
    /// Reads that failed though a path was left.
    pub(super) failed: u64,
    /// Reads that failed while none was.
    pub(super) failed_without_path: u64,
    pub(super) wrong: u64,
    pub(super) bytes: u64,
    pub(super) resumed: u64,
    pub(super) refused: u64,
    pub(super) first_bytes: Vec<f32>,
    pub(super) stalls: Vec<Stall>,
    pub(super) faults: Vec<Fault>,
    /// Faults that could not be made, or members that did not come back.
    pub(super) trouble: u64,
    pub(super) words: Vec<String>,
    /// What the gateways counted.
    pub(super) evidence: Vec<(&'static str, f64)>,
    /// Percent of CPU time that nobody used: where there is none, all wait for all.
    pub(super) idle: f64,
    /// Bytes at the end of each second.
    pub(super) seconds: Vec<u64>,
}

/// The book that all write into.
#[derive(Debug)]
pub(super) struct Ledger {
    begun: Instant,
    sums: Mutex<Sums>,
    meters: Mutex<Vec<Arc<Meter>>>,
}

impl Ledger {
    /// An empty one, whose time begins now.
    pub(super) fn new() -> Self {
        Self {
            begun: Instant::now(),
            sums: Mutex::default(),
            meters: Mutex::default(),
        }
    }

    /// Seconds since the start.
    pub(super) fn now(&self) -> f64 {
        self.begun.elapsed().as_secs_f64()
    }

    /// A meter that counts for the rate.
    pub(super) fn meter(&self) -> Arc<Meter> {
        let meter = Arc::<Meter>::default();
        let mut meters = self.meters.lock().unwrap_or_else(PoisonError::into_inner);
        meters.push(Arc::clone(&meter));
        meter
    }

    /// Notes what all meters have counted, each second until this is dropped.
    pub(super) async fn sample(&self) {
        let mut ticks = tokio::time::interval(Duration::from_secs(1));
        loop {
            ticks.tick().await;
            let bytes = {
                let meters = self.meters.lock().unwrap_or_else(PoisonError::into_inner);
                meters.iter().map(|meter| meter.bytes()).sum()
            };
            self.sums().seconds.push(bytes);
        }
    }

    /// Notes a read.
    pub(super) fn read(&self, done: &Done) {
        let at = (done.begun - self.begun).as_secs_f64();
        let mut sums = self.sums();
        *sums.reads.entry(done.way).or_default() += 1;
        sums.bytes += done.bytes;
        sums.resumed += done.resumed;
        sums.refused += done.refused;
        let told = |what: &str, why: &str| {
            format!("{at:.1} s: {} of {:?} {what}: {why}", done.way, done.key)
        };
        match &done.end {
            End::Whole => sums.whole += 1,
            End::Changed => sums.changed += 1,
            End::Failed(why) if done.no_path => {
                sums.failed_without_path += 1;
                let _ = why;
            }
            End::Failed(why) => {
                sums.failed += 1;
                keep(&mut sums, told("failed", why));
            }
            End::Wrong(why) => {
                sums.wrong += 1;
                keep(&mut sums, told("is wrong", why));
            }
        }
        sums.first_bytes
            .extend(done.first_byte.map(|time| time.as_secs_f32()));
        if done.gap > STALL {
            let lasted = done.gap.as_secs_f64();
            if !done.no_path {
                let last = &done.asked[done.asked.len().saturating_sub(ASKED)..];
                let asked: Vec<_> = last.iter().map(ToString::to_string).collect();
                let why = format!("{lasted:.2} s ({})", asked.join("; "));
                keep(&mut sums, told("stalled", &why));
            }
            sums.stalls.push(Stall {
                at,
                lasted,
                excused: done.no_path,
            });
        }
    }

    /// Notes a fault that began `from` seconds after the start and has ended, and what went wrong in it.
    pub(super) fn fault(
        &self,
        kind: Kind,
        host: Option<usize>,
        from: f64,
        outcome: &anyhow::Result<Option<String>>,
    ) {
        let to = self.now();
        let mut sums = self.sums();
        sums.faults.push(Fault {
            kind: kind.name(),
            host,
            key: outcome.as_ref().ok().cloned().flatten(),
            from,
            to,
        });
        if let Err(error) = outcome {
            sums.trouble += 1;
            let text = format!("{from:.1} s: {} of {host:?}: {error:#}", kind.name());
            keep(&mut sums, text);
        }
    }

    /// The sums so far.
    pub(super) fn take(&self) -> Sums {
        self.sums().clone()
    }

    fn sums(&self) -> MutexGuard<'_, Sums> {
        self.sums.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn keep(sums: &mut Sums, text: String) {
    if sums.words.len() < WORDS {
        sums.words.push(text);
    }
}
