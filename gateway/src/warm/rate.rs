//! The rate that a job was told to keep.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// So many bytes a second, evenly.
#[derive(Debug)]
pub(crate) struct Pace {
    rate: u64,
    next: Mutex<Instant>,
}

impl Pace {
    pub(crate) fn new(rate: u64) -> Self {
        Self {
            rate,
            next: Mutex::new(Instant::now()),
        }
    }

    /// Returns once so many bytes have their turn: each is paid for before it moves.
    pub(crate) async fn wait(&self, bytes: u64) {
        let takes = Duration::from_secs_f64(bytes as f64 / self.rate as f64);
        let turn = {
            let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
            *next = (*next).max(Instant::now()) + takes;
            *next
        };
        tokio::time::sleep_until(turn).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_pace_is_kept_by_many_together() {
        let pace = Pace::new(1 << 20);
        let begun = Instant::now();
        let pieces = (0..40).map(|_| pace.wait(256 << 10));
        futures::future::join_all(pieces).await;
        let took = begun.elapsed().as_secs_f64();
        assert!((took - 10.0).abs() < 0.1, "{took}");
    }
}
