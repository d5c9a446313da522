//! What is asked of the tiers by whoever hands blocks over to another gateway.

use std::cmp::Reverse;
use std::collections::HashSet;
use std::sync::Arc;

use super::{Level, Store};
use crate::block::BlockKey;
use crate::flight::Flight;

impl Store {
    /// Every resident block, once, the hottest first: of those in memory that which would go last, then of those on
    /// NVMe alone that which came last. Takes some ten milliseconds for a hundred thousand blocks: call it where nothing
    /// waits.
    pub fn hottest(&self) -> Vec<BlockKey> {
        let mut hottest = self.memory.hottest();
        let Some(nvme) = self.nvme.as_ref().filter(|nvme| nvme.trouble().is_none()) else {
            return hottest;
        };
        let here: HashSet<BlockKey> = hottest.iter().copied().collect();
        let mut on_disk = nvme.residents().all();
        on_disk.retain(|(key, ..)| !here.contains(key));
        on_disk.sort_unstable_by_key(|(key, _, write)| (Reverse(*write), *key));
        hottest.extend(on_disk.into_iter().map(|(key, ..)| key));
        hottest
    }

    /// Whether a block is resident, or arrives from somebody whom whoever asks at `level` may wait for; moves nothing.
    pub fn can_give(&self, key: &BlockKey, level: Level) -> bool {
        let arrives = |flight: &Arc<Flight>| !flight.is_handed();
        self.contains(key) || self.lock().joinable(key, level).is_some_and(arrives)
    }

    /// Bytes of blocks that may come here without any other having to go, in the tier that they are to be kept in.
    pub fn free_bytes(&self) -> u64 {
        match &self.nvme {
            Some(nvme) => nvme.geometry().kept().saturating_sub(nvme.total().bytes),
            None => self.memory.limit().saturating_sub(self.memory.usage()),
        }
    }

    /// Bytes that the tier keeps in which owned blocks are to be.
    pub fn kept_bytes(&self) -> u64 {
        match &self.nvme {
            Some(nvme) => nvme.geometry().kept(),
            None => self.owned_limit(),
        }
    }
}
