//! How many bodies that nobody waits for yet one member is asked for at once: few, unless they come fast.
//!
//! On a link that is full every further body makes each of the others slower, and of all of them the one that somebody
//! waits for; where there are so many that each has less than a few packets in the queue they lose them and stand still. On
//! a link that has room, or behind a source of which each answer is slow in beginning, more at once bring more. So
//! it begins with few, each body that comes fast makes them one more, and each that did not half as many.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

const FEW: usize = 4;
const MANY: usize = 64;

/// A body comes fast if so much of it, or all of a smaller one, comes so soon after its first bytes: twelve such bodies fill
/// a link of 100 Mbit/s.
const PART: u64 = 128 << 10;
const SOON: Duration = Duration::from_millis(125);

/// Who waits for a turn looks this often whether somebody waits for what it is to ask for.
const LOOK: Duration = Duration::from_millis(50);

/// The turns of one member.
pub(super) struct Turns {
    free: Arc<Semaphore>,
    count: Mutex<Count>,
}

/// How many there are to be, and how many there are: those that are taken come back one by one.
struct Count {
    wanted: usize,
    made: usize,
}

/// A turn, until it is dropped.
pub(crate) struct Turn {
    turns: Arc<Turns>,
    permit: Option<OwnedSemaphorePermit>,
    begun: Option<Instant>,
    came: u64,
    /// Whether it was said once how fast it comes.
    judged: bool,
}

impl Turns {
    pub(super) fn new() -> Self {
        Self {
            free: Arc::new(Semaphore::new(FEW)),
            count: Mutex::new(Count {
                wanted: FEW,
                made: FEW,
            }),
        }
    }

    /// Waits for a turn, in the order of asking, or until `is_awaited`.
    pub(super) async fn take(self: &Arc<Self>, is_awaited: impl Fn() -> bool) -> Turn {
        let mut free = std::pin::pin!(Arc::clone(&self.free).acquire_owned());
        let permit = loop {
            if is_awaited() {
                break None;
            }
            // Nobody closes this semaphore.
            if let Ok(permit) = tokio::time::timeout(LOOK, &mut free).await {
                break permit.ok();
            }
        };
        Turn {
            turns: Arc::clone(self),
            permit,
            begun: None,
            came: 0,
            judged: false,
        }
    }

    fn set(&self, wanted: impl FnOnce(usize) -> usize) {
        let mut count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        count.wanted = wanted(count.wanted);
        let more = count.wanted.saturating_sub(count.made);
        self.free.add_permits(more);
        count.made += more;
        let less = count.made - count.wanted;
        count.made -= self.free.forget_permits(less);
    }

    /// A turn comes back: there may be too many of them by now.
    fn give_back(&self, permit: OwnedSemaphorePermit) {
        let mut count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        if count.made > count.wanted {
            permit.forget();
            count.made -= 1;
        }
    }
}

impl Turn {
    /// So many bytes of the body came.
    pub(crate) fn came(&mut self, bytes: usize) {
        self.came += bytes as u64;
        if self.judged {
            return;
        }
        let begun = *self.begun.get_or_insert_with(Instant::now);
        if self.came >= PART {
            self.judge(begun);
        }
    }

    fn judge(&mut self, begun: Instant) {
        let fast = self.is_fast(begun);
        if fast && !self.judged {
            self.turns.set(|wanted| (wanted + 1).min(MANY));
        } else if !fast {
            self.turns.set(|wanted| (wanted / 2).max(FEW));
        }
        self.judged = true;
    }

    /// Whether what came by now came as fast as it has to.
    fn is_fast(&self, begun: Instant) -> bool {
        let parts = self.came.div_ceil(PART);
        begun.elapsed() <= SOON * u32::try_from(parts).unwrap_or(u32::MAX)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(begun) = self.begun {
            self.judge(begun);
        }
        if let Some(permit) = self.permit.take() {
            self.turns.give_back(permit);
        }
    }
}

impl fmt::Debug for Turn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut f = f.debug_struct("Turn");
        f.field("came", &self.came).finish_non_exhaustive()
    }
}

impl fmt::Debug for Turns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Turns").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn soon(turns: &Arc<Turns>) -> Option<Turn> {
        let taken = tokio::time::timeout(Duration::from_secs(1), turns.take(|| false));
        taken.await.ok()
    }

    /// How many more can be had at once.
    async fn all(turns: &Arc<Turns>) -> Vec<Turn> {
        let mut all = Vec::new();
        while let Some(turn) = soon(turns).await {
            all.push(turn);
        }
        all
    }

    async fn body(turns: &Arc<Turns>, took: Duration) {
        let mut turn = soon(turns).await.expect("a turn is free");
        turn.came(1);
        tokio::time::advance(took).await;
        turn.came(PART as usize);
    }

    #[tokio::test(start_paused = true)]
    async fn bodies_that_come_fast_make_more_turns_and_slow_ones_fewer() {
        let turns = Arc::new(Turns::new());
        assert_eq!(all(&turns).await.len(), FEW);
        for _ in 0..2 * MANY {
            body(&turns, SOON / 2).await;
        }
        let taken = all(&turns).await;
        assert_eq!(taken.len(), MANY);
        // Those that are taken come back, and are not given out again.
        drop(taken.into_iter().skip(1).collect::<Vec<_>>());
        for _ in 0..10 {
            body(&turns, SOON * 3).await;
        }
        assert_eq!(all(&turns).await.len(), FEW);
        body(&turns, SOON / 2).await;
        assert_eq!(all(&turns).await.len(), FEW + 1);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_awaited_takes_nobodys_turn() {
        let turns = Arc::new(Turns::new());
        let taken = all(&turns).await;
        let begun = Instant::now();
        let over = turns.take(|| begun.elapsed() >= SOON).await;
        assert!(begun.elapsed() < 2 * SOON);
        drop((over, taken));
        assert_eq!(all(&turns).await.len(), FEW, "it was one over");
    }
}
