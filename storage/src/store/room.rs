//! Making room: what the caches give up for a reservation that does not fit.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Store;
use crate::budget::{Budget, For, Lease};

/// While a reservation waits, the caches are asked again this often: what was shared with a reader
/// when it was given up may be free by now.
const GIVE_UP_AGAIN: Duration = Duration::from_millis(20);

/// What a connection takes beside the segments that it was handed: its task, hyper's two buffers
/// (which begin at 8 KiB and double), a request's state and a copy of 2 KiB. An estimate: what a process takes is
/// measured by `check memory`.
pub const CONNECTION_BYTES: u32 = 44 << 10;

/// What a stream of HTTP/2 takes beside its connection: its task, its answer's state and a copy of 2
/// KiB. An estimate: see `check memory-h2`.
pub const STREAM_BYTES: u32 = 16 << 10;

/// Of the room for clients, what connections and streams get at most; blocks keep the rest, however
/// many wait for them.
const PLACES_PART: u64 = 2;

/// The memory of a connection or a stream, until it is dropped.
#[derive(Debug)]
pub struct Place {
    _of_the_part: OwnedSemaphorePermit,
    _lease: Lease,
}

/// Bytes that connections and streams get at most in a store with a bound of `memory`, of which
/// `tables` are the NVMe tier's.
pub fn places_in(memory: u64, tables: u64, fleet: bool) -> u64 {
    let budget = match fleet {
        true => Budget::in_fleet(memory),
        false => Budget::new(memory),
    };
    budget.with_apart(tables).room() / PLACES_PART
}

/// Bytes of places in a room of so many.
pub(super) fn places(room: u64) -> usize {
    let places = usize::try_from(room / PLACES_PART).unwrap_or(usize::MAX);
    places.min(Semaphore::MAX_PERMITS)
}

impl Store {
    /// Memory for one more connection ([`CONNECTION_BYTES`]) or stream ([`STREAM_BYTES`]), out of the
    /// bound on the blocks: so many of them make the caches smaller and not the process larger. `None`
    /// once they have half of it.
    ///
    /// It waits as long as sockets hold all there is. Dropping the future gives up nothing.
    pub async fn place(&self, bytes: u32) -> Option<Place> {
        let places = Arc::clone(&self.places);
        let of_the_part = places.try_acquire_many_owned(bytes).ok()?;
        Some(Place {
            _of_the_part: of_the_part,
            _lease: self.reserve(bytes, For::Clients).await,
        })
    }

    /// Memory for a fill, once the caches have given up what they can and sockets the rest.
    pub(crate) async fn reserve(&self, bytes: u32, whose: For) -> Lease {
        if let Some(lease) = self.budget.try_reserve(bytes, whose) {
            return lease;
        }
        let mut lease = std::pin::pin!(self.budget.reserve(bytes, whose));
        loop {
            self.give_up(bytes, whose);
            tokio::select! {
                biased;
                lease = &mut lease => return lease,
                () = tokio::time::sleep(GIVE_UP_AGAIN) => {}
            }
        }
    }

    /// Memory for a fill, if it is there at once, or once the caches have given up as much.
    pub(crate) fn try_reserve(&self, bytes: u32, whose: For) -> Option<Lease> {
        if let Some(lease) = self.budget.try_reserve(bytes, whose) {
            return Some(lease);
        }
        // Who waits comes first; what the caches give up is theirs.
        if self.budget.waiting() > 0 {
            return None;
        }
        self.give_up(bytes, whose);
        self.budget.try_reserve(bytes, whose)
    }

    /// Makes the memory tier let its oldest blocks go until about `bytes` are free of it.
    ///
    /// Where clients lack only of their share, it is their blocks that have to go: what others brought
    /// would give them nothing.
    fn give_up(&self, bytes: u32, whose: For) {
        let theirs = whose == For::Clients && self.budget.clients_lack(bytes);
        let mut copies = true;
        let mut freed = 0;
        while freed < u64::from(bytes) {
            let block = if !theirs {
                let block = self.memory.evict();
                if block.is_none() {
                    return;
                }
                block
            } else if let Some(copy) = copies.then(|| self.memory.evict_copy()).flatten() {
                // Copies go first, in the order of their use, as long as it was clients who had them fetched: others'
                // would all go for nothing.
                copies = copy.is_of_clients();
                Some(copy)
            } else {
                let oldest = self.residents.pop_oldest_of_clients();
                let Some(key) = oldest else { return };
                self.memory.remove(&key)
            };
            let Some(block) = block else { continue };
            if !block.is_shared() && (!theirs || block.is_of_clients()) {
                freed += block.weight() as u64;
            }
        }
    }
}
