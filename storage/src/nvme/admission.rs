//! What is worth writing.
//!
//! A tier with room takes everything. A full one gives up a block for each that it takes, and flash
//! wears: it takes what is asked for a second time, as fast as the write budget refills.

use std::collections::HashSet;

use tokio::time::Instant;

use crate::block::BlockKey;

/// How often a day the whole tier may be written once it is full. Drives of data centres are rated
/// for one to three times a day over five years, and most days are quieter than the rating.
const TIMES_A_DAY: f64 = 3.0;

/// Of the tier, what may be written at once after a quiet time.
const BURST: f64 = 0.25;

/// Why a block is not written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Refusal {
    /// It was never asked for before, as far as we remember.
    FirstSight,
    /// The write budget is used up.
    Budget,
}

/// Admission to one tier.
#[derive(Debug)]
pub(super) struct Admission {
    capacity: f64,
    remembered: usize,
    /// Blocks that were seen lately, and those seen before them: forgetting is by the half.
    seen: HashSet<BlockKey>,
    seen_before: HashSet<BlockKey>,
    left: f64,
    refilled: Instant,
}

impl Admission {
    /// Admission to a tier of `blocks` blocks of `block_size` bytes.
    pub(super) fn new(blocks: u64, block_size: u64) -> Self {
        let capacity = (blocks * block_size) as f64;
        Self {
            capacity,
            // As many as the tier holds, within 8 MiB of memory.
            remembered: usize::try_from(blocks)
                .unwrap_or(usize::MAX)
                .min(128 * 1024),
            seen: HashSet::new(),
            seen_before: HashSet::new(),
            left: capacity * BURST,
            refilled: Instant::now(),
        }
    }

    /// Whether to write a block of `len` bytes to a tier that is `full` or not.
    pub(super) fn judge(&mut self, key: BlockKey, len: u32, full: bool) -> Result<(), Refusal> {
        if !full {
            return Ok(());
        }
        if !self.seen.remove(&key) && !self.seen_before.remove(&key) {
            if self.seen.len() >= self.remembered / 2 {
                self.seen_before = std::mem::take(&mut self.seen);
            }
            self.seen.insert(key);
            return Err(Refusal::FirstSight);
        }
        let now = Instant::now();
        let rate = self.capacity * TIMES_A_DAY / 86_400.0;
        let earned = (now - self.refilled).as_secs_f64() * rate;
        self.left = (self.left + earned).min(self.capacity * BURST);
        self.refilled = now;
        if self.left < f64::from(len) {
            // It stays seen: it is worth writing once there is budget.
            self.seen.insert(key);
            return Err(Refusal::Budget);
        }
        self.left -= f64::from(len);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::version::VersionKey;

    const MIB: u32 = 1 << 20;

    fn key(index: u32) -> BlockKey {
        BlockKey {
            version: VersionKey(1),
            index,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_empty_tier_takes_everything() {
        let mut admission = Admission::new(100, MIB.into());
        assert!((0..1000).all(|index| admission.judge(key(index), MIB, false).is_ok()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_tier_takes_the_second_sight_within_the_budget() {
        let mut admission = Admission::new(100, MIB.into());
        assert_eq!(admission.judge(key(0), MIB, true), Err(Refusal::FirstSight));
        assert_eq!(admission.judge(key(0), MIB, true), Ok(()));
        assert_eq!(admission.judge(key(0), MIB, true), Err(Refusal::FirstSight));
        for index in 1..25 {
            let _ = admission.judge(key(index), MIB, true);
            assert_eq!(admission.judge(key(index), MIB, true), Ok(()));
        }
        let _ = admission.judge(key(25), MIB, true);
        assert_eq!(admission.judge(key(25), MIB, true), Err(Refusal::Budget));
        // 100 MiB three times a day are one MiB in 288 seconds.
        tokio::time::advance(Duration::from_secs(289)).await;
        assert_eq!(admission.judge(key(25), MIB, true), Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_seen_long_ago_is_forgotten() {
        let mut admission = Admission::new(8, MIB.into());
        let _ = admission.judge(key(0), MIB, true);
        for index in 1..9 {
            let _ = admission.judge(key(index), MIB, true);
        }
        assert_eq!(admission.judge(key(0), MIB, true), Err(Refusal::FirstSight));
    }
}
