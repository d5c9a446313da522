//! Making room: what the caches give up for a reservation that does not fit.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;

use super::Store;
use crate::budget::{For, Lease};

/// While a reservation waits, the caches are asked again this often: what was shared with a reader
/// when it was given up may be free by now.
const GIVE_UP_AGAIN: Duration = Duration::from_millis(20);

/// What a connection takes beside block bytes: its task, its buffers, a body's state.
const CONNECTION_BYTES: u32 = 36 << 10;

/// Connections get this part of the bound at most; blocks keep the rest, however many wait for them.
const CONNECTIONS_PART: u64 = 4;

/// A connection's memory, until it is dropped.
#[derive(Debug)]
pub struct Place {
    _of_the_part: OwnedSemaphorePermit,
    _lease: Lease,
}

/// How many connections find room in that part of a bound of `limit` bytes.
pub(super) fn places(limit: u64) -> usize {
    let places = limit / CONNECTIONS_PART / u64::from(CONNECTION_BYTES);
    usize::try_from(places).unwrap_or(usize::MAX)
}

impl Store {
    /// Memory for one more connection, out of the bound on the blocks: so many connections make the
    /// caches smaller and not the process larger. `None` once connections have a quarter of it.
    ///
    /// It waits as long as sockets hold all there is, and a connection is served meanwhile.
    pub async fn place(&self) -> Option<Place> {
        let of_the_part = Arc::clone(&self.places).try_acquire_owned().ok()?;
        Some(Place {
            _of_the_part: of_the_part,
            _lease: self.reserve(CONNECTION_BYTES, For::Clients).await,
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
        let mut freed = 0;
        while freed < u64::from(bytes) {
            let block = match theirs {
                // Copies go first, in the order of their use: it was clients who had them fetched.
                true => match self.memory.evict_copy() {
                    Some(copy) => Some(copy),
                    None => {
                        let oldest = self.residents.pop_oldest_of_clients();
                        let Some(key) = oldest else { return };
                        self.memory.remove(&key)
                    }
                },
                false => {
                    let block = self.memory.evict();
                    if block.is_none() {
                        return;
                    }
                    block
                }
            };
            if block.as_ref().is_some_and(|block| !block.is_shared()) {
                freed += block.map_or(0, |block| block.weight() as u64);
            }
        }
    }
}
