//! Faults that tests plant.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::count;

#[derive(Debug, Default)]
pub(super) struct Faults {
    pub(super) reads: AtomicBool,
    pub(super) writes: AtomicBool,
    pub(super) probes: AtomicBool,
    /// So many blocks to come are taken out of the index while they are written.
    pub(super) taken_out: AtomicU64,
    /// Blocks that were given to be written.
    pub(super) given: AtomicU64,
}

impl Faults {
    pub(super) fn reads(&self) -> bool {
        self.reads.load(Ordering::Acquire)
    }

    pub(super) fn writes(&self) -> bool {
        count(&self.given);
        self.writes.load(Ordering::Acquire)
    }

    pub(super) fn takes_out(&self) -> bool {
        let next = |left: u64| left.checked_sub(1);
        self.taken_out
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, next)
            .is_ok()
    }

    pub(super) fn probes(&self) -> bool {
        self.probes.load(Ordering::Acquire)
    }
}
