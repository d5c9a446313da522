//! The table of running fills, which is locked for a moment by whoever joins or leads.

use std::collections::HashMap;
use std::sync::Arc;

use crate::block::BlockKey;
use crate::flight::Flight;

/// The running fills that can be joined.
#[derive(Debug, Default)]
pub(super) struct Flights {
    /// By block.
    pub(super) running: HashMap<BlockKey, Arc<Flight>>,
    /// How often anything was purged.
    pub(super) purges: u64,
}

impl Flights {
    /// Takes this fill out; false if it is not there, be it that another one of the same block is:
    /// then this one was purged.
    pub(super) fn remove(&mut self, flight: &Arc<Flight>) -> bool {
        let here = self.running.get(&flight.key());
        let here = here.is_some_and(|here| Arc::ptr_eq(here, flight));
        if here {
            self.running.remove(&flight.key());
        }
        here
    }
}
