//! Requests beyond those that were needed: one in ten at most, over ten seconds.
//!
//! An origin in trouble must not get more of it from those who ask again. So what is asked once more, because
//! an answer failed or stood still, is counted against what was asked in all. Whoever a client waits for asks
//! again all the same, and is counted.

use std::sync::{Mutex, PoisonError};

use tokio::time::Instant;

/// Seconds that are looked back on.
const SECONDS: usize = 10;

/// One in so many.
const PART: u64 = 10;

/// Who asks once more, and how often anything was asked.
#[derive(Debug, Default)]
pub(super) struct Spare(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    begun: Option<Instant>,
    /// The second, from `begun`, that was counted last.
    second: u64,
    /// Requests, and those of them that were spare, by second.
    requests: [u64; SECONDS],
    spare: [u64; SECONDS],
}

impl Spare {
    /// A request leaves.
    pub(super) fn asked(&self, now: Instant) {
        self.with(now, |counts, place| counts.requests[place] += 1);
    }

    /// Counts a request that is asked once more, whatever the others are.
    pub(super) fn count(&self, now: Instant) {
        self.with(now, |counts, place| counts.spare[place] += 1);
    }

    /// The same if there is room for it; false, and not counted, if not. One a second is always let through:
    /// where little is asked, a tenth of it is nothing, and what stands still would do so for good.
    pub(super) fn take(&self, now: Instant) -> bool {
        self.with(now, |counts, place| {
            let requests: u64 = counts.requests.iter().sum();
            let spare: u64 = counts.spare.iter().sum();
            let room = counts.spare[place] == 0 || (spare + 1) * PART <= requests;
            counts.spare[place] += u64::from(room);
            room
        })
    }

    fn with<T>(&self, now: Instant, then: impl FnOnce(&mut Counts, usize) -> T) -> T {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let begun = *counts.begun.get_or_insert(now);
        let second = now.saturating_duration_since(begun).as_secs();
        // No more seconds are forgotten than there are.
        for past in counts.second + 1..=second.min(counts.second + SECONDS as u64) {
            let place = place(past);
            counts.requests[place] = 0;
            counts.spare[place] = 0;
        }
        counts.second = counts.second.max(second);
        let place = place(counts.second);
        then(&mut counts, place)
    }
}

fn place(second: u64) -> usize {
    // Less than `SECONDS`.
    usize::try_from(second % SECONDS as u64).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn one_request_in_ten_may_be_spare() {
        let (spare, now) = (Spare::default(), Instant::now());
        for _ in 0..30 {
            spare.asked(now);
        }
        let taken = (0..30).filter(|_| spare.take(now)).count();
        assert_eq!(taken, 3);
        // What must be asked again counts too.
        for _ in 0..10 {
            spare.asked(now);
        }
        spare.count(now);
        assert!(!spare.take(now));
    }

    #[tokio::test]
    async fn one_a_second_is_let_through_however_little_is_asked() {
        let (spare, now) = (Spare::default(), Instant::now());
        for second in 0..5 {
            let now = now + Duration::from_secs(second);
            assert!(spare.take(now));
            assert!(!spare.take(now));
        }
    }

    #[tokio::test]
    async fn what_was_asked_more_than_ten_seconds_ago_counts_for_nothing() {
        let (spare, now) = (Spare::default(), Instant::now());
        for _ in 0..100 {
            spare.asked(now);
        }
        let taken = |now| (0..100).filter(|_| spare.take(now)).count();
        assert_eq!(taken(now + Duration::from_secs(9)), 10);
        assert_eq!(taken(now + Duration::from_secs(10)), 1);
        assert_eq!(taken(now + Duration::from_secs(1000)), 1);
    }
}
