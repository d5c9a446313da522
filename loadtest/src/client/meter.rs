//! What one reader has got so far, and the longest it got nothing, over all its connections.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Bytes as they come. Several clients may share one: the gaps are then those of the reader as a whole.
#[derive(Debug, Default)]
pub struct Meter(Mutex<Reading>);

/// A meter at one moment.
#[derive(Clone, Copy, Debug, Default)]
struct Reading {
    bytes: u64,
    last: Option<Instant>,
    longest: Duration,
}

impl Meter {
    /// Begins to measure gaps now: bytes that never came are a gap too.
    pub fn begin(&self) {
        self.change(|reading, now| {
            reading.last = Some(now);
            reading.longest = Duration::ZERO;
        });
    }

    /// Bytes of the object that came so far.
    pub fn bytes(&self) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).bytes
    }

    /// The longest time without a byte since [`Self::begin`], the one that runs now left out.
    pub fn longest_gap(&self) -> Duration {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .longest
    }

    /// Counts bytes that came now.
    pub(crate) fn came(&self, bytes: usize) {
        self.change(|reading, now| reading.came(now, bytes as u64));
    }

    fn change(&self, change: impl FnOnce(&mut Reading, Instant)) {
        change(
            &mut self.0.lock().unwrap_or_else(PoisonError::into_inner),
            Instant::now(),
        );
    }
}

impl Reading {
    fn came(&mut self, now: Instant, bytes: u64) {
        self.bytes += bytes;
        let gap = self.last.map_or(Duration::ZERO, |last| now - last);
        self.longest = self.longest.max(gap);
        self.last = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_gap_is_kept() {
        let begun = Instant::now();
        let mut reading = Reading {
            last: Some(begun),
            ..Reading::default()
        };
        for milliseconds in [300, 1000, 1200] {
            reading.came(begun + Duration::from_millis(milliseconds), 10);
        }
        assert_eq!(reading.bytes, 30);
        assert_eq!(reading.longest, Duration::from_millis(700));
    }
}
