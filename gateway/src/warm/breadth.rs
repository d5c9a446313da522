//! How many pieces of a job are under way side by side: as many as bring more, and no more.
//!
//! What a narrow link brings does not grow with the connections over it; only what is half done does, and a reader
//! who comes waits for all of that. So pieces are timed. If `n` of them take as long as few did, they bring as many
//! times more as there are more of them; once what more of them bring falls below [`GAIN`] of that, fewer are sent.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

/// Under way from the beginning, and whatever the times say.
const FEWEST: f64 = 8.0;

/// Of what more pieces could bring, what they have to. A link that is full with 24 of them gets 31.
const GAIN: f64 = 0.7;

/// A piece that was worth it makes it so many more.
const MORE: f64 = 0.5;

/// One that was not leaves so much of them.
const LESS: f64 = 0.95;

/// The weight of the latest time in a mean.
const LATEST: f64 = 0.125;

/// How many pieces may be under way.
#[derive(Debug)]
pub(crate) struct Breadth {
    most: f64,
    state: Mutex<State>,
    freed: Notify,
}

#[derive(Debug)]
struct State {
    now: f64,
    in_use: usize,
    /// What a piece takes where few are under way, in seconds, by the logarithm of its bytes.
    alone: HashMap<u32, f64>,
    /// How many times as long they take by now.
    longer: f64,
}

impl State {
    /// How many times as long pieces may take for so many of them to be worth it.
    fn worth(&self) -> f64 {
        let times = (self.now / FEWEST).max(1.0);
        times / (1.0 + GAIN * (times - 1.0))
    }
}

/// A piece that is under way, until this is dropped.
#[derive(Debug)]
pub(crate) struct Turn<'a>(&'a Breadth);

impl Breadth {
    /// Up to `most` pieces.
    pub(crate) fn new(most: usize) -> Self {
        let most = most.max(1) as f64;
        Self {
            most,
            state: Mutex::new(State {
                now: FEWEST.min(most),
                in_use: 0,
                alone: HashMap::new(),
                longer: 1.0,
            }),
            freed: Notify::new(),
        }
    }

    /// A turn, once there is one.
    pub(crate) async fn turn(&self) -> Turn<'_> {
        loop {
            let freed = self.freed.notified();
            {
                let mut state = self.state();
                if (state.in_use as f64) < state.now.floor() {
                    state.in_use += 1;
                    return Turn(self);
                }
            }
            freed.await;
        }
    }

    /// Notes that a piece of `bytes`, which no reader kept waiting, took so long.
    pub(crate) fn took(&self, bytes: u64, time: Duration) {
        let seconds = time.as_secs_f64();
        let mut state = self.state();
        let (few, longer) = (state.now < FEWEST + 1.0, state.longer);
        let alone = state.alone.entry(bytes.max(1).ilog2());
        let alone = alone.or_insert(seconds / longer);
        if few {
            *alone += (seconds - *alone) * LATEST;
        }
        let times = seconds / alone.max(1e-6);
        state.longer += (times - longer) * LATEST;
        let next = match state.longer <= state.worth() {
            true => state.now + MORE,
            false => state.now * LESS,
        };
        state.now = next.clamp(FEWEST.min(self.most), self.most);
        drop(state);
        // Its own turn wakes one; where there is one more, another.
        self.freed.notify_one();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.state().in_use -= 1;
        self.0.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::StreamExt;
    use futures::stream;

    use super::*;

    const PIECE: u64 = 8 << 20;

    /// Pieces that take `time` by how many are under way; the most that were, of the second half of them.
    async fn widest(breadth: &Breadth, pieces: usize, time: impl Fn(usize) -> Duration) -> usize {
        let (under_way, widest) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let pieces = (0..pieces).map(async |number| {
            let _turn = breadth.turn().await;
            let count = under_way.fetch_add(1, Ordering::AcqRel) + 1;
            let takes = time(count);
            tokio::time::sleep(takes).await;
            if number > 100 {
                widest.fetch_max(count, Ordering::AcqRel);
            }
            under_way.fetch_sub(1, Ordering::AcqRel);
            breadth.took(PIECE, takes);
        });
        stream::iter(pieces).buffer_unordered(64).count().await;
        widest.into_inner()
    }

    #[tokio::test(start_paused = true)]
    async fn where_each_connection_brings_its_own_all_are_used() {
        let breadth = Breadth::new(48);
        let alike = |_| Duration::from_millis(30);
        assert_eq!(widest(&breadth, 300, alike).await, 48);
    }

    #[tokio::test(start_paused = true)]
    async fn where_they_share_a_link_few_are() {
        let breadth = Breadth::new(48);
        let shared = |count| Duration::from_millis(100) * u32::try_from(count).unwrap_or(1);
        let widest = widest(&breadth, 300, shared).await;
        assert!((8..=14).contains(&widest), "{widest}");
    }
}
