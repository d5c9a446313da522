//! Which blocks that have to be filled go into one run.

use std::collections::VecDeque;
use std::sync::Arc;

use super::RUN_BYTES;
use crate::block::BlockSize;
use crate::flight::Flight;

/// The run that is being put together.
#[derive(Default)]
pub(super) struct Led {
    pub(super) flights: VecDeque<Arc<Flight>>,
    pub(super) group: u64,
}

impl Led {
    /// Whether the run goes on with this block.
    pub(super) fn takes(&self, flight: &Flight, group: u64, block_size: BlockSize) -> bool {
        let Some(last) = self.flights.back() else {
            return true;
        };
        let full = self.flights.len() as u64 * block_size.bytes() >= RUN_BYTES;
        !full && last.key().index + 1 == flight.key().index && self.group == group
    }
}
