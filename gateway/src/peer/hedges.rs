//! How often a member's answer may be given up for another.

use std::sync::atomic::{AtomicU32, Ordering};

/// How many questions may yet be given up for another: one for each ten that are asked, and ten at once at most. Where all
/// members are slow, asking more of them would only make them slower.
#[derive(Debug)]
pub(super) struct Hedges(AtomicU32);

impl Hedges {
    const EACH: u32 = 10;
    const MOST: u32 = 10 * Self::EACH;

    pub(super) fn asked(&self) {
        let more = |saved: u32| (saved < Self::MOST).then_some(saved + 1);
        // Full is fine.
        let _ = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
    }

    pub(super) fn take(&self) -> bool {
        let less = |saved: u32| saved.checked_sub(Self::EACH);
        self.0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less)
            .is_ok()
    }
}

impl Default for Hedges {
    fn default() -> Self {
        Self(AtomicU32::new(Self::MOST))
    }
}
