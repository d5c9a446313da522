//! Whether this gateway and another know of the same purges, before anything counts that one says of bytes.
//!
//! Every answer about bytes or versions says the stamp of the purges that whoever answers had applied before it looked
//! anything up. Where whoever asked knows of others, both tell each other all that they know, once for all who wait,
//! and the question is asked anew. So no member takes from another what it has purged itself, whichever of the two
//! was away, and however lately it came back.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::Bytes;
use forebay_storage::store::Level;
use futures::future::BoxFuture;
use http::Request;

use super::{Asked, PeerError, Peers, wire};

/// How often a question is asked whose answer does not know of the same purges. What is purged meanwhile may make it
/// once more than twice.
const AGREED: u32 = 3;

/// Tells the member of this name what is known here, and takes over what it knows.
pub type Settle = dyn Fn(String) -> BoxFuture<'static, ()> + Send + Sync;

/// What is known of purges, as a number, here and as far as others have told.
#[derive(Default)]
pub struct Agreement {
    noted: AtomicU64,
    applied: AtomicU64,
    settle: OnceLock<Box<Settle>>,
    turns: Mutex<HashMap<String, Arc<Turn>>>,
}

/// One settles with a member at a time.
#[derive(Default)]
struct Turn {
    rounds: AtomicU64,
    lock: tokio::sync::Mutex<()>,
}

impl Agreement {
    /// The stamp of all purges that are known here, applied or not: what others must say.
    pub fn noted(&self) -> u64 {
        self.noted.load(Ordering::Acquire)
    }

    /// The stamp of those that are applied: what may be said of what is looked up from now on.
    pub fn applied(&self) -> u64 {
        self.applied.load(Ordering::Acquire)
    }

    pub(crate) fn note(&self, stamp: u64) {
        self.noted.store(stamp, Ordering::Release);
    }

    pub(crate) fn apply(&self, stamp: u64) {
        self.applied.store(stamp, Ordering::Release);
    }

    /// Names who settles logs. The first one named stays.
    pub fn settle_by(&self, settle: Box<Settle>) {
        let _ = self.settle.set(settle);
    }

    /// Settles both logs with the member of this name, or waits for whoever does. May be dropped at any time.
    pub async fn settle_with(&self, name: &str) {
        let Some(settle) = self.settle.get() else {
            return;
        };
        let turn = {
            let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(turns.entry(name.to_owned()).or_default())
        };
        let round = turn.rounds.load(Ordering::Acquire);
        let _held = turn.lock.lock().await;
        if turn.rounds.load(Ordering::Acquire) > round {
            return;
        }
        settle(name.to_owned()).await;
        turn.rounds.fetch_add(1, Ordering::AcqRel);
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever waits has it still; under names that come and go nothing piles up.
        turns.remove(name);
    }
}

impl Peers {
    /// Asks, and settles what was purged where the answer was given without knowing it, or knowing more.
    pub(super) async fn ask_until_agreed(
        self: &Arc<Self>,
        name: &str,
        level: Level,
        request: Request<Bytes>,
    ) -> Result<Asked, PeerError> {
        for _ in 0..AGREED {
            let asked = self.ask_as_it_is(name, level, request.clone()).await?;
            let theirs = wire::purges(&asked.parts.headers);
            if theirs.is_none_or(|theirs| theirs == self.agreement.noted()) {
                return Ok(asked);
            }
            drop(asked);
            self.agreement.settle_with(name).await;
        }
        Err(PeerError::Behind)
    }
}

impl fmt::Debug for Agreement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Agreement")
            .field("noted", &self.noted())
            .field("applied", &self.applied())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn those_who_wait_together_settle_once() {
        let agreement = Arc::new(Agreement::default());
        let (count, begun) = (
            Arc::new(AtomicU64::new(0)),
            Arc::new(tokio::sync::Notify::new()),
        );
        let go = Arc::new(tokio::sync::Semaphore::new(0));
        let (counted, started, gate) = (Arc::clone(&count), Arc::clone(&begun), Arc::clone(&go));
        agreement.settle_by(Box::new(move |_| {
            let (counted, started, gate) = (
                Arc::clone(&counted),
                Arc::clone(&started),
                Arc::clone(&gate),
            );
            Box::pin(async move {
                counted.fetch_add(1, Ordering::Relaxed);
                started.notify_one();
                let _ = gate
                    .acquire()
                    .await
                    .map(tokio::sync::SemaphorePermit::forget);
            })
        }));
        let first = Arc::clone(&agreement);
        let first = tokio::spawn(async move { first.settle_with("a").await });
        begun.notified().await;
        let mut second = Box::pin(agreement.settle_with("a"));
        assert!(futures::poll!(&mut second).is_pending());
        go.add_permits(1);
        second.await;
        first.await.expect("no panic");
        assert_eq!(count.load(Ordering::Relaxed), 1);
        // Whoever comes later settles anew.
        go.add_permits(1);
        agreement.settle_with("a").await;
        assert_eq!(count.load(Ordering::Relaxed), 2);
    }
}
