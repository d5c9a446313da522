//! How fills end: filed, given up, or let go because nobody follows them.

use std::collections::VecDeque;
use std::sync::Arc;

use super::Store;
use crate::block::Block;
use crate::error::OriginError;
use crate::flight::Flight;
use crate::purge::Tag;
use crate::version::Version;

impl Store {
    /// Files the block of a fill that has all its segments, and ends the fill.
    ///
    /// A fill that was purged meanwhile is out of the table: its followers get their bytes, and
    /// nobody who comes later does.
    pub(crate) fn complete(&self, flight: &Arc<Flight>, version: &Arc<Version>) {
        let key = flight.key();
        let mut left = Vec::new();
        {
            // Under the lock a purge comes either before, and finds the fill, or after, and finds
            // the block.
            let mut table = self.lock();
            let owned = flight.is_owned();
            if table.remove(flight) && self.memory.keeps(owned) {
                // A fill of another level may have filed it already; filed twice, it could be let go
                // between table and tier, and stay where no purge finds it.
                if !self.memory.contains(&key) {
                    let tag = Tag::of(version.etag());
                    self.residents
                        .entered_by((flight.object(), tag), key, flight.len(), 0);
                    let of_clients = flight.level() == 0 && self.budget.has_share();
                    if of_clients {
                        self.residents.entered_for_clients(key);
                    }
                    let block = Block::new(flight.segments()).counted_for_clients(of_clients);
                    left = self.memory.insert(key, block, owned);
                    let dataset = &flight.object().dataset;
                    while let Some(key) = self.residents.pop_over_quota(dataset) {
                        left.extend(self.memory.remove(&key));
                    }
                }
                if let Some(nvme) = self.nvme.as_ref().filter(|_| owned) {
                    nvme.offer(flight.object(), version, key, flight.len());
                }
            }
        }
        flight.end(Ok(()));
        // Giving their frames back takes a while, and nobody waits for us any more.
        drop(left);
    }

    /// Ends a fill that will not be done.
    pub(crate) fn abandon(&self, flight: &Arc<Flight>, error: OriginError) {
        self.lock().remove(flight);
        flight.end(Err(error));
    }

    /// Takes fills off the front that nobody follows, until one that somebody does.
    pub(crate) fn drop_unfollowed(&self, flights: &mut VecDeque<Arc<Flight>>) {
        // Under the lock nobody joins, so "not followed" stays true until the fill is out of reach.
        let mut table = self.lock();
        while flights.front().is_some_and(|flight| !flight.is_followed()) {
            if let Some(flight) = flights.pop_front() {
                table.remove(&flight);
                flight.end(Err(OriginError::Abandoned));
            }
        }
    }

    /// Takes fills off the back that nobody follows, until one that somebody does.
    pub(crate) fn drop_unfollowed_tail(&self, flights: &mut VecDeque<Arc<Flight>>) {
        let mut table = self.lock();
        while flights.back().is_some_and(|flight| !flight.is_followed()) {
            if let Some(flight) = flights.pop_back() {
                table.remove(&flight);
                flight.end(Err(OriginError::Abandoned));
            }
        }
    }
}
