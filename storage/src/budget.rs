//! Leases: every byte of a block that anyone holds, counted once against one bound.
//!
//! What a cache says it uses is not what is resident: an evicted block that a socket still sends
//! is memory too. So the lease lives in the segment itself and ends with its last holder.
//!
//! In a fleet, gateways wait for each other's bodies. If what a gateway sends to another waited for
//! memory that its own clients hold, who wait for the other, nobody would get on. So clients have two
//! thirds at most, whatever they ask, and the rest is there for bodies to other gateways.

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
    /// What clients may have of it, if others may have more.
    clients: Option<Arc<Semaphore>>,
    waiting: Arc<AtomicUsize>,
    /// What is left of it for connections, bodies and fills of clients.
    room: u64,
    /// Pieces of a segment each that clients' sockets were handed and have not taken.
    handed_out: Arc<AtomicUsize>,
}

/// How much of an answer a client's socket may hold at once.
///
/// A segment is its holder's until the socket has taken it, and a client that takes a KiB a second
/// keeps one for a minute. All together such clients get a quarter of the room, so that there are
/// always blocks for whoever can use them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ration {
    /// Several segments.
    Segments,
    /// One segment.
    Segment,
    /// A copy of [`SIP`] bytes, which is counted with its connection.
    Sip,
}

/// Bytes of the copy that a socket is handed where it may hold no segment.
pub const SIP: usize = 2 << 10;

/// Whom bytes are reserved for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum For {
    /// Clients of this gateway.
    Clients,
    /// Another gateway.
    Peers,
}

/// Bytes that are reserved until this is dropped.
#[derive(Debug)]
pub struct Lease {
    bytes: OwnedSemaphorePermit,
    /// As many of the clients' share.
    share: Option<OwnedSemaphorePermit>,
}

/// Of the bound, what clients may have in a fleet.
const CLIENTS_SHARE: (u64, u64) = (2, 3);

impl Budget {
    /// A bound of `limit` bytes.
    pub fn new(limit: u64) -> Self {
        Self {
            bytes: semaphore(limit),
            clients: None,
            limit,
            waiting: Arc::default(),
            room: limit,
            handed_out: Arc::default(),
        }
    }

    /// A bound of `limit` bytes, of which clients get two thirds at most.
    pub fn in_fleet(limit: u64) -> Self {
        Self {
            clients: Some(semaphore(limit / CLIENTS_SHARE.1 * CLIENTS_SHARE.0)),
            room: limit / CLIENTS_SHARE.1 * CLIENTS_SHARE.0,
            ..Self::new(limit)
        }
    }

    /// The same bound, of which `bytes` are leased for good.
    pub(crate) fn with_apart(mut self, bytes: u64) -> Self {
        self.room = self.room.saturating_sub(bytes);
        self
    }

    /// What connections, bodies and fills of clients have of it, in bytes.
    pub(crate) fn room(&self) -> u64 {
        self.room
    }

    /// What a client's socket may hold now, which has taken `quickly` whatever it was handed.
    pub fn ration(&self, quickly: bool) -> Ration {
        let handed_out = self.handed_out.load(Ordering::Relaxed) as u64;
        let part = handed_out * crate::SEGMENT as u64;
        let sixteenth = self.room / 16;
        match (part < sixteenth, quickly) {
            (true, _) => Ration::Segments,
            (false, true) if part < 4 * sixteenth => Ration::Segments,
            (false, false) if part < 3 * sixteenth => Ration::Segment,
            (false, _) => Ration::Sip,
        }
    }

    /// Counts a segment that a client's socket is handed.
    pub fn hand_out(&self) {
        self.handed_out.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts one that it has taken.
    pub fn take_back(&self) {
        self.handed_out.fetch_sub(1, Ordering::Relaxed);
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

    /// Whether clients have a share of their own.
    pub fn has_share(&self) -> bool {
        self.clients.is_some()
    }

    /// Whether it is their share that keeps clients from `bytes`, and not the whole.
    pub fn clients_lack(&self, bytes: u32) -> bool {
        let left = self.clients.as_ref().map(|share| share.available_permits());
        left.is_some_and(|left| left < bytes as usize)
    }

    /// `bytes` at once, or nothing.
    pub fn try_reserve(&self, bytes: u32, whose: For) -> Option<Lease> {
        let share = match self.share(whose) {
            Some(share) => Some(Arc::clone(share).try_acquire_many_owned(bytes).ok()?),
            None => None,
        };
        let bytes = Arc::clone(&self.bytes).try_acquire_many_owned(bytes).ok()?;
        Some(Lease { bytes, share })
    }

    fn share(&self, whose: For) -> Option<&Arc<Semaphore>> {
        self.clients.as_ref().filter(|_| whose == For::Clients)
    }

    /// `bytes`, as soon as they are there and all who asked before have theirs.
    ///
    /// Dropping the future gives the place in the queue up.
    pub async fn reserve(&self, bytes: u32, whose: For) -> Lease {
        struct Waiting<'a>(&'a AtomicUsize);
        impl Drop for Waiting<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::Relaxed);
            }
        }
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting(&self.waiting);
        // The share first: nobody waits for it while holding bytes of the whole.
        let share = match self.share(whose) {
            Some(share) => Some(acquire(share, bytes).await),
            None => None,
        };
        let bytes = acquire(&self.bytes, bytes).await;
        Lease { bytes, share }
    }
}

fn semaphore(bytes: u64) -> Arc<Semaphore> {
    let permits = usize::try_from(bytes).unwrap_or(usize::MAX);
    Arc::new(Semaphore::new(permits.min(Semaphore::MAX_PERMITS)))
}

async fn acquire(semaphore: &Arc<Semaphore>, permits: u32) -> OwnedSemaphorePermit {
    match Arc::clone(semaphore).acquire_many_owned(permits).await {
        Ok(permit) => permit,
        // The semaphores are never closed: nothing calls `close`.
        Err(_) => unreachable!("the budget's semaphore was closed"),
    }
}

impl Lease {
    /// Bytes that this lease still holds.
    pub fn bytes(&self) -> usize {
        self.bytes.num_permits()
    }

    /// Takes `bytes` out of this lease into one of their own; `None` if it holds fewer.
    pub fn split(&mut self, bytes: usize) -> Option<Lease> {
        let whole = self.bytes.split(bytes)?;
        let share = self.share.as_mut().and_then(|share| share.split(bytes));
        Some(Lease {
            bytes: whole,
            share,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn a_reservation_waits_for_what_is_held_and_no_longer() {
        let budget = Budget::new(100);
        let mut lease = budget.try_reserve(80, For::Clients).unwrap();
        assert!(budget.try_reserve(30, For::Clients).is_none());
        let half = lease.split(40).unwrap();
        assert_eq!((lease.bytes(), half.bytes(), budget.used()), (40, 40, 80));
        let waiter = tokio::spawn({
            let budget = budget.clone();
            async move { budget.reserve(60, For::Clients).await.bytes() }
        });
        drop(half);
        assert_eq!(waiter.await.unwrap(), 60);
        drop(lease);
        assert_eq!((budget.used(), budget.waiting()), (0, 0));
    }

    #[test]
    fn sockets_hold_a_quarter_of_the_room_at_most_and_slow_ones_less() {
        let segments = |count: u64| count * crate::SEGMENT as u64;
        let budget = Budget::new(segments(40)).with_apart(segments(8));
        let quick = [(2, Ration::Segments), (6, Ration::Segments)];
        let slow = [(2, Ration::Segments), (4, Ration::Segment)];
        let mut handed_out = Vec::new();
        for (quickly, steps) in [(false, slow), (true, quick)] {
            for (count, ration) in steps {
                for _ in 0..count {
                    assert_eq!(budget.ration(quickly), ration);
                    budget.hand_out();
                    handed_out.push(());
                }
            }
            assert_eq!(budget.ration(quickly), Ration::Sip);
            handed_out.drain(..).for_each(|()| budget.take_back());
        }
        assert_eq!(budget.ration(false), Ration::Segments);
    }

    #[tokio::test]
    async fn what_clients_hold_leaves_a_third_to_other_gateways() {
        let budget = Budget::in_fleet(90);
        let mut held = budget.try_reserve(60, For::Clients).unwrap();
        assert!(budget.try_reserve(1, For::Clients).is_none());
        assert!(budget.clients_lack(1));
        let peers = budget.try_reserve(30, For::Peers).unwrap();
        drop(peers);
        // Half of it: what is split takes its part of the share along.
        let half = held.split(30).unwrap();
        drop(held);
        let again = budget.reserve(30, For::Clients).await;
        assert_eq!((again.bytes(), half.bytes(), budget.used()), (30, 30, 60));
        drop((again, half));
        assert!(budget.try_reserve(90, For::Peers).is_some());
    }
}
