//! What of a run is here already, or is read from the origin by another fill.
//!
//! A fill that is led from below asks another gateway first, and who asks from above may not wait for it: that one
//! leads a fill of its own, from the origin. If the first then has to go there too, its blocks are there or on their way.

use std::collections::VecDeque;
use std::sync::Arc;

use super::Store;
use super::asker::ORIGIN;
use crate::block::Block;
use crate::flight::{Flight, Follower, From};

/// A block that need not be asked for.
#[derive(Debug)]
pub(crate) enum Here {
    /// It is in memory.
    Resident(Block),
    /// A fill that is led from above brings it: it has come as far on its way to the origin.
    Arriving(Follower),
}

impl Store {
    /// Turns `flights` to the origin, up to the first whose block need not be asked for; and says which that is.
    pub(crate) fn turn_to_origin(&self, flights: &VecDeque<Arc<Flight>>) -> Option<(usize, Here)> {
        // Under the lock nobody leads another fill from above between the look and the turn; after it they join these.
        let table = self.lock();
        for (place, flight) in flights.iter().enumerate() {
            let key = flight.key();
            if let Some(above) = table.above(flight) {
                above.raise(flight.class());
                return Some((place, Here::Arriving(above.follow())));
            }
            if let Some(block) = self.memory.get(&key) {
                return Some((place, Here::Resident(block)));
            }
            flight.raise_source(ORIGIN);
            flight.set_from(From::Origin);
        }
        None
    }
}
