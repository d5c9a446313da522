//! Pacing: when the next bytes may leave a link of a given rate.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// A link that falls behind by less than this has overslept, and may catch up; by more, it was idle, and what it
/// did not send then is lost. Timers wake up to 1 ms late, and a busy machine adds a few.
const CATCH_UP: Duration = Duration::from_millis(5);

/// A link of a fixed rate: a token bucket kept as the time at which it has sent all that was asked of it.
///
/// Deadlines are absolute, so late wake-ups do not add up; nobody spins, each sender sleeps until its bytes are due.
#[derive(Debug)]
pub(super) struct Link {
    bytes_per_second: f64,
    free_at: Mutex<Instant>,
}

impl Link {
    pub(super) fn new(bytes_per_second: u64) -> Self {
        Self {
            bytes_per_second: bytes_per_second.max(1) as f64,
            free_at: Mutex::new(Instant::now()),
        }
    }

    /// Queues `bytes` on the link and says when the last of them has left.
    pub(super) fn send(&self, bytes: usize) -> Instant {
        self.send_at(Instant::now(), bytes)
    }

    fn send_at(&self, now: Instant, bytes: usize) -> Instant {
        let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
        let begin = if *free_at + CATCH_UP < now {
            now
        } else {
            *free_at
        };
        *free_at = begin + Duration::from_secs_f64(bytes as f64 / self.bytes_per_second);
        *free_at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_leave_at_the_rate() {
        let link = Link::new(1_000_000);
        let start = *link.free_at.lock().expect("unshared");
        let due: Vec<_> = (0..10)
            .map(|_| link.send_at(start, 10_000) - start)
            .collect();
        assert!((due[0].as_secs_f64() - 0.01).abs() < 1e-6);
        assert!((due[9].as_secs_f64() - 0.1).abs() < 1e-6);
    }

    #[test]
    fn lateness_is_caught_up_and_idleness_is_not() {
        let link = Link::new(1_000_000);
        let start = *link.free_at.lock().expect("unshared");
        let first = link.send_at(start, 10_000);
        let late = first + Duration::from_millis(2);
        assert_eq!(
            link.send_at(late, 10_000) - first,
            Duration::from_millis(10)
        );
        let idle = late + Duration::from_secs(1);
        assert_eq!(link.send_at(idle, 10_000) - idle, Duration::from_millis(10));
    }
}
