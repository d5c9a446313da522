//! What the gateways say that they saw: that the faults bit, and that none of them panicked.
//!
//! A counter begins anew with its process, so it is read each second; what was counted in the last second before a kill is lost.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::ground::Ground;
use super::schedule::MEMBERS;

/// What is told, and the family and labels that it is read from.
type Watched = (
    &'static str,
    &'static str,
    &'static [(&'static str, &'static str)],
);

const WATCHED: [Watched; 11] = [
    (
        "blocks read from NVMe",
        "forebay_block_reads_total",
        &[("outcome", "nvme")],
    ),
    ("blocks written to NVMe", "forebay_nvme_writes_total", &[]),
    (
        "damaged blocks that were seen",
        "forebay_nvme_checksum_failures_total",
        &[],
    ),
    (
        "reads that disks failed",
        "forebay_nvme_read_errors_total",
        &[],
    ),
    (
        "writes that disks failed",
        "forebay_nvme_write_errors_total",
        &[],
    ),
    (
        "fills from members that broke off",
        "forebay_peer_fills_broken_total",
        &[],
    ),
    (
        "requests to the origin made again",
        "forebay_origin_retries_total",
        &[],
    ),
    (
        "requests to the origin made beside a slow one",
        "forebay_origin_hedges_total",
        &[],
    ),
    (
        "bytes handed over between members",
        "forebay_handover_bytes_total",
        &[("direction", "taken")],
    ),
    ("bodies that gateways cut", "forebay_cut_bodies_total", &[]),
    (PANICS, "forebay_panics_total", &[]),
];

/// What must be none.
pub(super) const PANICS: &str = "panics";

/// For an answer: one that is frozen gives none.
const PATIENCE: Duration = Duration::from_millis(300);

/// The counters of all members together.
#[derive(Debug, Default)]
pub(super) struct Evidence(Mutex<HashMap<(usize, usize), Counter>>);

/// One counter over all processes that a host has had.
#[derive(Clone, Copy, Debug, Default)]
struct Counter {
    before: f64,
    now: f64,
}

impl Counter {
    fn sees(&mut self, value: f64) {
        if value < self.now {
            self.before += self.now;
        }
        self.now = value;
    }
}

impl Evidence {
    /// Looks each second, until this is dropped.
    pub(super) async fn watch(&self, ground: &Ground) {
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            for host in 0..MEMBERS {
                let asked = tokio::time::timeout(PATIENCE, ground.metrics(host));
                let Ok(Some(metrics)) = asked.await else {
                    continue;
                };
                let mut counters = self.counters();
                for (number, (_, family, labels)) in WATCHED.iter().enumerate() {
                    let value = metrics.sum(family, labels).unwrap_or(0.0);
                    counters.entry((host, number)).or_default().sees(value);
                }
            }
        }
    }

    /// The sums so far, by what they count.
    pub(super) fn take(&self) -> Vec<(&'static str, f64)> {
        let counters = self.counters();
        let sum = |number| {
            let of = counters.iter().filter(|((_, one), _)| *one == number);
            of.map(|(_, counter)| counter.before + counter.now).sum()
        };
        let all = WATCHED.iter().enumerate();
        all.map(|(number, (what, ..))| (*what, sum(number)))
            .collect()
    }

    fn counters(&self) -> MutexGuard<'_, HashMap<(usize, usize), Counter>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_that_begins_anew_goes_on() {
        let mut counter = Counter::default();
        for value in [3.0, 5.0, 1.0, 2.0, 0.0] {
            counter.sees(value);
        }
        assert!((counter.before + counter.now - 7.0).abs() < 1e-9);
    }
}
