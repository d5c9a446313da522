//! What a dataset cost and saved, counted where it happens.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Counters of one dataset, from the gateway's start.
#[derive(Debug, Default)]
pub struct DatasetStats {
    /// GET requests that left for the origin, listings included.
    pub origin_gets: AtomicU64,
    /// HEAD requests that left for the origin.
    pub origin_heads: AtomicU64,
    /// Other requests that left for the origin (PROPFIND).
    pub origin_others: AtomicU64,
    /// Body bytes that arrived from the origin.
    pub origin_bytes: AtomicU64,
    /// Object requests that failed at the origin and were tried again.
    pub origin_retries: AtomicU64,
    /// Answers that stood still, and were asked for once more beside it.
    pub origin_hedges: AtomicU64,
    /// Answers that asked for fewer requests: 429 and 503.
    pub origin_slow_downs: AtomicU64,
    /// Body bytes that went to clients.
    pub served_bytes: AtomicU64,
    /// Of those, bytes that were in memory or on NVMe when they were asked for.
    pub served_from_cache: AtomicU64,
    /// From a GET to the head of its answer, on average of late, in microseconds; 0: none came yet.
    first_byte: AtomicU64,
    /// Whether the last question got an answer: 0 not asked yet, 1 yes, 2 no.
    origin_state: AtomicU64,
}

impl DatasetStats {
    /// Adds to a counter.
    pub fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }

    /// Reads a counter.
    pub fn get(counter: &AtomicU64) -> u64 {
        counter.load(Ordering::Relaxed)
    }

    /// Notes how long a GET's answer took to begin.
    pub(crate) fn began_after(&self, took: Duration) {
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1);
        // Two at once may lose one of them: it is an average.
        let before = self.first_byte.load(Ordering::Relaxed);
        let average = match before {
            0 => took,
            before => before - before / 8 + took / 8,
        };
        self.first_byte.store(average.max(1), Ordering::Relaxed);
    }

    /// How long a GET's answer takes to begin, on average of late; zero before the first.
    pub fn first_byte(&self) -> Duration {
        Duration::from_micros(self.first_byte.load(Ordering::Relaxed))
    }

    /// Notes whether the origin answered.
    pub fn origin_answered(&self, answered: bool) {
        let state = if answered { 1 } else { 2 };
        self.origin_state.store(state, Ordering::Relaxed);
    }

    /// `unknown` until the origin was asked, then `ok` or `down`, by its last answer.
    pub fn origin_state(&self) -> &'static str {
        match self.origin_state.load(Ordering::Relaxed) {
            0 => "unknown",
            1 => "ok",
            _ => "down",
        }
    }

    /// Requests that left for the origin, of any method.
    pub fn origin_requests(&self) -> u64 {
        Self::get(&self.origin_gets)
            + Self::get(&self.origin_heads)
            + Self::get(&self.origin_others)
    }
}
