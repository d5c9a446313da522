//! What the model counts: requests, bytes, and how many at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use serde::Serialize;

/// The counters at one moment. Counts only grow, but for `concurrent`; subtract two to see what happened between.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// GETs of objects, whatever was answered.
    pub gets: u64,
    /// HEADs of objects and of the bucket.
    pub heads: u64,
    /// Listings.
    pub lists: u64,
    /// Everything else.
    pub others: u64,
    /// Bytes of objects handed to the connection, cut answers included.
    pub bytes_sent: u64,
    /// Connections accepted.
    pub connections: u64,
    /// Requests being answered now, their bodies included.
    pub concurrent: u64,
    /// The most there were at once.
    pub peak: u64,
}

/// One request, as logged while the log is on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logged {
    /// GET, HEAD …
    pub method: String,
    /// The key, decoded; empty for listings.
    pub key: String,
    /// The Range header as it came.
    pub range: Option<String>,
    /// The If-Match header as it came.
    pub if_match: Option<String>,
    /// The status answered; 0 for a connection closed instead.
    pub status: u16,
}

/// The kinds of request that are counted apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Get,
    Head,
    List,
    Other,
}

/// The counters themselves, and the log.
#[derive(Debug, Default)]
pub(super) struct Tally {
    requests: [AtomicU64; 4],
    bytes_sent: AtomicU64,
    connections: AtomicU64,
    concurrent: AtomicU64,
    peak: AtomicU64,
    logging: AtomicBool,
    log: Mutex<Vec<Logged>>,
}

impl Tally {
    pub(super) fn connection(&self) {
        self.connections.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn sent(&self, bytes: usize) {
        self.bytes_sent.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn logging(&self, on: bool) {
        self.logging.store(on, Ordering::Relaxed);
    }

    pub(super) fn note(&self, entry: impl FnOnce() -> Logged) {
        if self.logging.load(Ordering::Relaxed) {
            self.log
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(entry());
        }
    }

    pub(super) fn take_log(&self) -> Vec<Logged> {
        std::mem::take(&mut *self.log.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn counters(&self) -> Counters {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let [gets, heads, lists, others] = std::array::from_fn(|kind| read(&self.requests[kind]));
        Counters {
            gets,
            heads,
            lists,
            others,
            bytes_sent: read(&self.bytes_sent),
            connections: read(&self.connections),
            concurrent: read(&self.concurrent),
            peak: read(&self.peak),
        }
    }
}

/// A request being answered: counted once when it begins, and as concurrent until this is dropped.
#[derive(Debug)]
pub(super) struct Running {
    tally: Arc<Tally>,
}

impl Running {
    pub(super) fn begin(tally: &Arc<Tally>, kind: Kind) -> Self {
        tally.requests[kind as usize].fetch_add(1, Ordering::Relaxed);
        let now = tally.concurrent.fetch_add(1, Ordering::Relaxed) + 1;
        tally.peak.fetch_max(now, Ordering::Relaxed);
        Self {
            tally: Arc::clone(tally),
        }
    }

    pub(super) fn tally(&self) -> &Tally {
        &self.tally
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.tally.concurrent.fetch_sub(1, Ordering::Relaxed);
    }
}
