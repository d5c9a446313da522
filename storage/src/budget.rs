//! Leases: every byte of a block that anyone holds, counted once against one bound.
//!
//! What a cache says it uses is not what is resident: an evicted block that a socket still sends
//! is memory too. So the lease lives in the segment itself and ends with its last holder.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The bound on block bytes: cached, in flight, and held by sockets.
#[derive(Clone, Debug)]
pub struct Budget {
    // One permit a byte. Tokio's semaphore is first come, first served, so a large reservation is
    // never starved by small ones, and its permits split without going through the bound again.
    bytes: Arc<Semaphore>,
    limit: u64,
    waiting: Arc<AtomicUsize>,
}

/// Bytes that are reserved until this is dropped.
#[derive(Debug)]
pub struct Lease(OwnedSemaphorePermit);

impl Budget {
    /// A bound of `limit` bytes.
    pub fn new(limit: u64) -> Self {
        let permits = usize::try_from(limit).unwrap_or(usize::MAX);
        Self {
            bytes: Arc::new(Semaphore::new(permits.min(Semaphore::MAX_PERMITS))),
            limit,
            waiting: Arc::default(),
        }
    }

    /// The bound, in bytes.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// Bytes that are leased now.
    pub fn used(&self) -> u64 {
        self.limit
            .saturating_sub(self.bytes.available_permits() as u64)
    }

    /// How many reservations wait for bytes to come back.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// `bytes` at once, or nothing.
    pub fn try_reserve(&self, bytes: u32) -> Option<Lease> {
        let permit = Arc::clone(&self.bytes).try_acquire_many_owned(bytes);
        permit.ok().map(Lease)
    }

    /// `bytes`, as soon as they are there and all who asked before have theirs.
    ///
    /// Dropping the future gives the place in the queue up.
    pub async fn reserve(&self, bytes: u32) -> Lease {
        struct Waiting<'a>(&'a AtomicUsize);
        impl Drop for Waiting<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::Relaxed);
            }
        }
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting(&self.waiting);
        match Arc::clone(&self.bytes).acquire_many_owned(bytes).await {
            Ok(permit) => Lease(permit),
            // The semaphore is never closed: nothing calls `close`.
            Err(_) => unreachable!("the budget's semaphore was closed"),
        }
    }
}

impl Lease {
    /// Bytes that this lease still holds.
    pub fn bytes(&self) -> usize {
        self.0.num_permits()
    }

    /// Takes `bytes` out of this lease into one of their own; `None` if it holds fewer.
    pub fn split(&mut self, bytes: usize) -> Option<Lease> {
        self.0.split(bytes).map(Lease)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn a_reservation_waits_for_what_is_held_and_no_longer() {
        let budget = Budget::new(100);
        let mut lease = budget.try_reserve(80).unwrap();
        assert!(budget.try_reserve(30).is_none());
        let half = lease.split(40).unwrap();
        assert_eq!((lease.bytes(), half.bytes(), budget.used()), (40, 40, 80));
        let waiter = tokio::spawn({
            let budget = budget.clone();
            async move { budget.reserve(60).await.bytes() }
        });
        drop(half);
        assert_eq!(waiter.await.unwrap(), 60);
        drop(lease);
        assert_eq!((budget.used(), budget.waiting()), (0, 0));
    }
}
