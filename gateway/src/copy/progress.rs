//! How far a copy is.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use super::CopySummary;

/// What a copy has counted, while it runs and after.
#[derive(Debug, Default)]
pub struct Progress {
    objects: AtomicU64,
    bytes: AtomicU64,
    all_listed: AtomicBool,
    copied: Counts,
    there: Counts,
    read: AtomicU64,
    /// Bytes that are written, or were found to be, of objects that are not all there yet too.
    moved: AtomicU64,
}

#[derive(Debug, Default)]
struct Counts {
    objects: AtomicU64,
    bytes: AtomicU64,
}

impl Counts {
    fn add(&self, bytes: u64) {
        self.objects.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn get(&self) -> (u64, u64) {
        (get(&self.objects), get(&self.bytes))
    }
}

fn get(count: &AtomicU64) -> u64 {
    count.load(Ordering::Relaxed)
}

impl Progress {
    pub(super) fn listed(&self, bytes: u64) {
        self.objects.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Whether nothing was listed so far.
    pub(super) fn is_empty(&self) -> bool {
        get(&self.objects) == 0
    }

    pub(super) fn all_listed(&self) {
        self.all_listed.store(true, Ordering::Release);
    }

    pub(super) fn was_there(&self, bytes: u64) {
        self.there.add(bytes);
    }

    pub(super) fn copied(&self, bytes: u64) {
        self.copied.add(bytes);
    }

    pub(super) fn read(&self, bytes: u64) {
        self.read.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn moved(&self, bytes: u64) {
        self.moved.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Takes back what was moved of an object that has to be begun anew.
    pub(super) fn moved_in_vain(&self, bytes: u64) {
        self.moved.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Bytes that are at their place, of those that were listed so far.
    fn here(&self) -> (u64, u64) {
        let all = get(&self.bytes);
        ((get(&self.moved) + self.there.get().1).min(all), all)
    }

    /// The share of what was listed so far that is there, in percent.
    pub fn percent(&self) -> f64 {
        match self.here() {
            (_, 0) if self.all_listed.load(Ordering::Acquire) => 100.0,
            (_, 0) => 0.0,
            (here, all) => here as f64 * 100.0 / all as f64,
        }
    }

    /// One line for people, after `took`.
    pub fn line(&self, took: Duration) -> String {
        let (here, all) = self.here();
        let rate = get(&self.moved) as f64 / took.as_secs_f64().max(0.001);
        let left = all.saturating_sub(here) as f64;
        let eta = match rate > 0.0 {
            true => format!("{:.0}s", left / rate),
            false => "-".to_owned(),
        };
        let percent = self.percent();
        format!("copy {percent:.1}% {here}/{all} bytes {rate:.0} B/s eta {eta}\n")
    }

    /// The same for programs.
    pub fn json(&self, state: &str, error: Option<&str>) -> Value {
        let ((objects, bytes), (objects_there, bytes_there)) =
            (self.copied.get(), self.there.get());
        json!({
            "state": state,
            "percent": self.percent(),
            "objects_listed": get(&self.objects),
            "bytes_listed": get(&self.bytes),
            "objects": objects,
            "bytes": bytes,
            "objects_there": objects_there,
            "bytes_there": bytes_there,
            "bytes_read": get(&self.read),
            "error": error,
        })
    }

    pub(super) fn summary(&self, took: Duration) -> CopySummary {
        let ((objects, bytes), (objects_there, bytes_there)) =
            (self.copied.get(), self.there.get());
        CopySummary {
            objects,
            bytes,
            objects_there,
            bytes_there,
            bytes_read: get(&self.read),
            seconds: took.as_secs_f64(),
        }
    }
}
