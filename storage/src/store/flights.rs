//! The table of running fills, which is locked for a moment by whoever joins or leads.

use std::collections::HashMap;
use std::sync::Arc;

use super::asker::Level;
use crate::block::BlockKey;
use crate::flight::Flight;

/// The running fills that can be joined.
#[derive(Debug, Default)]
pub(super) struct Flights {
    /// By block: nearly always one. More where an asker from above could not join what was there;
    /// each has a source above those before it, so there are as many as there are levels.
    running: HashMap<BlockKey, Vec<Arc<Flight>>>,
    /// How often anything was purged.
    pub(super) purges: u64,
}

impl Flights {
    /// The fill of this block whose source is nearest to the origin, if it lies above `level`: who
    /// waits for it can't be waited for by it.
    pub(super) fn joinable(&self, key: &BlockKey, level: Level) -> Option<&Arc<Flight>> {
        let flights = self.running.get(key)?.iter();
        let highest = flights.max_by_key(|flight| flight.source())?;
        (highest.source() > level).then_some(highest)
    }

    /// The fill of the same block that is led from above this one and has come as far on its way to the origin, be it that it
    /// asks those first who had the block before.
    ///
    /// Invariant: who is led from above never waits for who is led from below, or two would wait for each other. A gateway whose
    /// way to the origin is cut may ask another at its own level all the same, and then sees to it that it does not wait for
    /// long.
    pub(super) fn above(&self, flight: &Flight) -> Option<&Arc<Flight>> {
        let flights = self.running.get(&flight.key())?.iter();
        let above = flights
            .filter(|other| other.level() > flight.level() && other.source() >= flight.source());
        above.max_by_key(|other| other.source())
    }

    /// Adds a fill that can be joined from now on.
    pub(super) fn add(&mut self, flight: &Arc<Flight>) {
        let flights = self.running.entry(flight.key()).or_default();
        flights.push(Arc::clone(flight));
    }

    /// Whether the block is arriving.
    pub(super) fn has(&self, key: &BlockKey) -> bool {
        self.running.contains_key(key)
    }

    /// Fills that are under way.
    pub(super) fn len(&self) -> usize {
        self.running.values().map(Vec::len).sum()
    }

    /// Takes out all fills that are not `kept`.
    pub(super) fn retain(&mut self, kept: impl Fn(&Flight) -> bool) {
        self.running
            .retain(|_, flights| flights.iter().all(|flight| kept(flight)));
    }

    /// Takes this fill out; false if it is not there, be it that another one of the same block is:
    /// then this one was purged.
    pub(super) fn remove(&mut self, flight: &Arc<Flight>) -> bool {
        let Some(flights) = self.running.get_mut(&flight.key()) else {
            return false;
        };
        let place = flights.iter().position(|here| Arc::ptr_eq(here, flight));
        if let Some(place) = place {
            flights.swap_remove(place);
        }
        if flights.is_empty() {
            self.running.remove(&flight.key());
        }
        place.is_some()
    }
}
