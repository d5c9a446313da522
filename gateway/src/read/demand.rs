//! Whether readers wait for bytes: then whoever brings what nobody reads yet stands back.
//!
//! A reader that follows a fill waits again and again, for a moment each, so one that waited a moment ago counts too.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Mutex, MutexGuard, Notify};
use tokio::time::Instant;

/// A reader that waited so lately will again.
const LATELY: Duration = Duration::from_millis(250);

/// Between two looks whether readers have gone.
const LOOK: Duration = Duration::from_millis(20);

/// While readers wait, others have one part in so many of the time, so that what they do ends.
const PARTS: u32 = 20;

/// The readers that wait, of this gateway's clients and of other members.
#[derive(Debug)]
pub struct Demand {
    waiting: AtomicUsize,
    /// When the last one stopped, in milliseconds after `since`; 0: never.
    stopped: AtomicU64,
    since: Instant,
    begun: Notify,
    /// Whose turn it is while they wait, and when the next one may come.
    turn: Mutex<Instant>,
}

/// A reader that waits, until this is dropped.
#[derive(Debug)]
pub struct Waiting(Arc<Demand>);

/// The leave to bring something.
#[derive(Debug)]
pub enum Leave<'a> {
    /// No reader waits.
    Free,
    /// One does, and this is the part that is left for others.
    Part {
        /// Where the next turn is noted.
        next: MutexGuard<'a, Instant>,
        /// When it was given.
        begun: Instant,
    },
}

impl Default for Demand {
    fn default() -> Self {
        Self {
            waiting: AtomicUsize::new(0),
            stopped: AtomicU64::new(0),
            since: Instant::now(),
            begun: Notify::new(),
            turn: Mutex::new(Instant::now()),
        }
    }
}

impl Demand {
    /// Notes that a reader waits.
    pub fn wait(self: &Arc<Self>) -> Waiting {
        if self.waiting.fetch_add(1, Ordering::AcqRel) == 0 {
            self.begun.notify_waiters();
        }
        Waiting(Arc::clone(self))
    }

    /// Whether a reader waits, or did a moment ago.
    pub fn is_there(&self) -> bool {
        if self.waiting.load(Ordering::Acquire) > 0 {
            return true;
        }
        let stopped = self.stopped.load(Ordering::Acquire);
        stopped > 0 && self.now().saturating_sub(stopped) < LATELY.as_millis() as u64
    }

    /// Returns once a reader waits.
    pub async fn begins(&self) {
        loop {
            let begun = self.begun.notified();
            if self.is_there() {
                return;
            }
            begun.await;
        }
    }

    /// Waits for the leave to bring something: at once where no reader waits, else for a turn in the part of the time
    /// that is left. Dropping the future gives the turn up.
    pub async fn leave(&self) -> Leave<'_> {
        if !self.is_there() {
            return Leave::Free;
        }
        let next = self.turn.lock().await;
        loop {
            if !self.is_there() {
                return Leave::Free;
            }
            let begun = Instant::now();
            if begun >= *next {
                return Leave::Part { next, begun };
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    fn now(&self) -> u64 {
        // Never 0, which means never.
        u64::try_from(self.since.elapsed().as_millis()).map_or(u64::MAX, |now| now + 1)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.stopped.store(self.0.now(), Ordering::Release);
        self.0.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        if let Self::Part { next, begun } = self {
            let now = Instant::now();
            **next = now + now.duration_since(*begun) * (PARTS - 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn others_have_a_twentieth_of_the_time_while_readers_wait() {
        let demand = Arc::new(Demand::default());
        assert!(matches!(demand.leave().await, Leave::Free));
        let waiting = demand.wait();
        demand.begins().await;
        let begun = Instant::now();
        for _ in 0..5 {
            let leave = demand.leave().await;
            assert!(matches!(leave, Leave::Part { .. }));
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let took = begun.elapsed();
        assert!(took >= Duration::from_millis(4 * 2000 + 100), "{took:?}");
        drop(waiting);
        assert!(demand.is_there());
        tokio::time::sleep(LATELY).await;
        assert!(!demand.is_there());
        assert!(matches!(demand.leave().await, Leave::Free));
    }
}
