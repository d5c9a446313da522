//! How many bodies to other gateways may hold memory at once.

use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How long what nobody waits for yet lets pass what somebody waits for. Somebody may wait for it too by then.
const YIELDS: Duration = Duration::from_millis(250);

/// Bodies that have left their places, for each place: they hold no block, but a few segments.
const LEFT: usize = 2;

/// The places of one level. Bodies that nobody waits for yet have half of them at most, unless they have waited for one for a
/// while.
#[derive(Debug)]
pub(super) struct Places {
    all: Arc<Semaphore>,
    ahead: Arc<Semaphore>,
    left: Arc<Semaphore>,
}

/// One of them. It can be left for others and taken again.
pub(super) struct Place {
    of: Arc<Places>,
    held: Held,
    /// Of those that nobody waits for.
    _ahead: Option<OwnedSemaphorePermit>,
}

enum Held {
    /// Dropping it gives it to the next.
    Place {
        _permit: Option<OwnedSemaphorePermit>,
    },
    /// It was left, and may be waited for.
    Left {
        _permit: OwnedSemaphorePermit,
        again: Option<BoxFuture<'static, Option<OwnedSemaphorePermit>>>,
    },
}

impl Places {
    /// So many places.
    pub(super) fn new(count: usize) -> Self {
        let some = |count: usize| Arc::new(Semaphore::new(count.min(Semaphore::MAX_PERMITS)));
        Self {
            all: some(count),
            ahead: some(count.div_ceil(2)),
            left: some(count.saturating_mul(LEFT)),
        }
    }

    /// Waits for one, in the order of asking; with `ahead` as one that nobody waits for yet.
    pub(super) async fn take(self: &Arc<Self>, ahead: bool) -> Place {
        let ahead = match ahead {
            true => tokio::time::timeout(YIELDS, permit(Arc::clone(&self.ahead)))
                .await
                .ok(),
            false => None,
        };
        Place {
            held: Held::Place {
                _permit: permit(Arc::clone(&self.all)).await,
            },
            of: Arc::clone(self),
            _ahead: ahead.flatten(),
        }
    }
}

impl Place {
    /// Lets others have it, if not too many have left theirs.
    pub(super) fn leave(&mut self) {
        if let Held::Place { .. } = self.held
            && let Ok(_permit) = Arc::clone(&self.of.left).try_acquire_owned()
        {
            let again = None;
            self.held = Held::Left { _permit, again };
        }
    }

    /// Waits for it, if it was left.
    pub(super) fn poll_held(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Held::Left { again, .. } = &mut self.held {
            let all = &self.of.all;
            let again = again.get_or_insert_with(|| Box::pin(permit(Arc::clone(all))));
            let _permit = ready!(again.as_mut().poll(cx));
            self.held = Held::Place { _permit };
        }
        Poll::Ready(())
    }
}

/// `None` if there are none any more, which does not happen: nobody closes these semaphores.
async fn permit(of: Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
    of.acquire_owned().await.ok()
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use tokio::time::Instant;

    use super::*;

    fn all_of(places: &Arc<Places>, ahead: bool) -> Vec<Place> {
        std::iter::from_fn(|| places.take(ahead).now_or_never()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_waits_for_leaves_half_of_the_places_for_a_while() {
        let places = Arc::new(Places::new(6));
        let ahead = all_of(&places, true);
        assert_eq!(ahead.len(), 3);
        let began = Instant::now();
        let late = places.take(true).await;
        assert_eq!(began.elapsed(), YIELDS, "somebody may wait for it by now");
        assert_eq!(all_of(&places, false).len(), 2);
        drop((ahead, late));
        assert_eq!(
            all_of(&places, false).len(),
            6,
            "what is awaited may have all"
        );
    }

    #[tokio::test]
    async fn a_place_that_is_left_is_anothers_until_it_can_be_had_again() {
        let places = Arc::new(Places::new(1));
        let [mut first] = <[_; 1]>::try_from(all_of(&places, false))
            .ok()
            .expect("one is free");
        let mut cx = Context::from_waker(futures::task::noop_waker_ref());
        assert!(first.poll_held(&mut cx).is_ready());
        first.leave();
        let second = all_of(&places, false);
        assert_eq!(second.len(), 1, "it was left");
        assert!(first.poll_held(&mut cx).is_pending());
        drop(second);
        assert!(first.poll_held(&mut cx).is_ready());
        assert!(all_of(&places, false).is_empty());
    }

    #[tokio::test]
    async fn no_more_leave_their_places_than_there_is_memory_for() {
        let places = Arc::new(Places::new(2));
        let mut gone = Vec::new();
        loop {
            let mut taken = all_of(&places, false);
            taken.iter_mut().for_each(Place::leave);
            gone.append(&mut taken);
            if places.all.available_permits() == 0 {
                break;
            }
        }
        assert_eq!(gone.len(), 2 + 2 * LEFT);
    }
}
