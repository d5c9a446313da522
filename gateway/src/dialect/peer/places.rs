//! How many bodies may be under way to other gateways at once.

use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures::future::BoxFuture;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The places of one level. Those that nobody waits for yet have half of them at most, so that they never stand before
/// what somebody waits for.
#[derive(Debug)]
pub(super) struct Admitted {
    all: Arc<Semaphore>,
    ahead: Arc<Semaphore>,
}

/// One of them. It can be left for others and taken again.
pub(super) struct Place {
    /// What has to be had, in this order, so that nobody holds one of the second while it waits for one of the first.
    queues: Vec<Arc<Semaphore>>,
    held: Vec<OwnedSemaphorePermit>,
    /// Waits for it again.
    waiting: Option<BoxFuture<'static, Vec<OwnedSemaphorePermit>>>,
}

impl Admitted {
    /// So many places.
    pub(super) fn new(count: usize) -> Self {
        let count = count.min(Semaphore::MAX_PERMITS);
        Self {
            all: Arc::new(Semaphore::new(count)),
            ahead: Arc::new(Semaphore::new(count.div_ceil(2))),
        }
    }

    /// Waits for one, in the order of asking; with `ahead` as one that nobody waits for.
    pub(super) async fn place(&self, ahead: bool) -> Place {
        let first = ahead.then_some(&self.ahead);
        let queues: Vec<_> = first.into_iter().chain([&self.all]).cloned().collect();
        Place {
            held: taken(queues.clone()).await,
            queues,
            waiting: None,
        }
    }
}

impl Place {
    /// Others may have it.
    pub(super) fn leave(&mut self) {
        self.held.clear();
    }

    /// Waits for it, if it was left.
    pub(super) fn poll_held(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.held.is_empty() {
            return Poll::Ready(());
        }
        let queues = &self.queues;
        let waiting = self
            .waiting
            .get_or_insert_with(|| Box::pin(taken(queues.clone())));
        self.held = ready!(waiting.as_mut().poll(cx));
        self.waiting = None;
        Poll::Ready(())
    }
}

/// One of each, one after the other.
async fn taken(queues: Vec<Arc<Semaphore>>) -> Vec<OwnedSemaphorePermit> {
    let mut held = Vec::with_capacity(queues.len());
    for queue in queues {
        // Nobody closes it.
        held.extend(queue.acquire_owned().await.ok());
    }
    held
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn what_nobody_waits_for_leaves_half_of_the_places() {
        let admitted = Admitted::new(6);
        let take = |ahead| admitted.place(ahead).now_or_never();
        let ahead: Vec<_> = std::iter::from_fn(|| take(true)).collect();
        assert_eq!(ahead.len(), 3);
        let awaited: Vec<_> = std::iter::from_fn(|| take(false)).collect();
        assert_eq!(awaited.len(), 3);
        drop(ahead);
        let rest: Vec<_> = std::iter::from_fn(|| take(false)).collect();
        assert_eq!(rest.len(), 3, "what is awaited may have all");
    }

    #[test]
    fn a_place_that_is_left_is_anothers_until_it_can_be_had_again() {
        let admitted = Admitted::new(1);
        let mut first = admitted.place(false).now_or_never().expect("it is free");
        let mut cx = Context::from_waker(futures::task::noop_waker_ref());
        assert!(first.poll_held(&mut cx).is_ready());
        first.leave();
        let second = admitted.place(true).now_or_never().expect("it was left");
        assert!(first.poll_held(&mut cx).is_pending());
        drop(second);
        assert!(first.poll_held(&mut cx).is_ready());
        assert!(admitted.place(false).now_or_never().is_none());
    }
}
