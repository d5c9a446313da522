//! One line an event, hashed; violations; and how often what happened.

use std::collections::BTreeMap;
use std::fmt::{Arguments, Display};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;
use xxhash_rust::xxh3::Xxh3;

/// Violations told in full: the first is what matters, the others mostly follow from it.
const TOLD: usize = 20;

/// What happened in one world.
#[derive(Debug)]
pub struct Trace {
    begun: Instant,
    inner: Mutex<Inner>,
}

struct Inner {
    hash: Xxh3,
    lines: Option<Vec<String>>,
    violations: Vec<String>,
    counts: BTreeMap<&'static str, u64>,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inner")
            .field("violations", &self.violations)
            .finish_non_exhaustive()
    }
}

/// What is left of a trace when its world is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Of all lines.
    pub hash: u64,
    /// The lines, if they were kept.
    pub lines: Vec<String>,
    /// What must not happen and did, the first ones.
    pub violations: Vec<String>,
    /// How often what happened.
    pub counts: BTreeMap<&'static str, u64>,
}

impl Trace {
    /// A trace that begins now; it keeps its lines if `verbose`.
    pub fn new(verbose: bool) -> Self {
        Self {
            begun: Instant::now(),
            inner: Mutex::new(Inner {
                hash: Xxh3::new(),
                lines: verbose.then(Vec::new),
                violations: Vec::new(),
                counts: BTreeMap::new(),
            }),
        }
    }

    /// Notes that something happened.
    pub fn note(&self, who: impl Display, what: Arguments<'_>) {
        let at = self.begun.elapsed().as_millis();
        let line = format!("{at:>8} {who}: {what}");
        let mut inner = self.lock();
        inner.hash.update(line.as_bytes());
        inner.hash.update(b"\n");
        if let Some(lines) = &mut inner.lines {
            lines.push(line);
        }
    }

    /// Counts something that happened.
    pub fn count(&self, what: &'static str) {
        *self.lock().counts.entry(what).or_default() += 1;
    }

    /// Notes that something happened that must not.
    pub fn violation(&self, who: impl Display, what: impl Display) {
        self.note(&who, format_args!("VIOLATION {what}"));
        let at = self.begun.elapsed().as_millis();
        let mut inner = self.lock();
        if inner.violations.len() < TOLD {
            let told = format!("{what} ({who}, at {at} ms)");
            inner.violations.push(told);
        }
    }

    /// All of it so far.
    pub fn told(&self) -> Told {
        let inner = self.lock();
        Told {
            hash: inner.hash.digest(),
            lines: inner.lines.clone().unwrap_or_default(),
            violations: inner.violations.clone(),
            counts: inner.counts.clone(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
