//! What is asked of the tiers by whoever fills them ahead of any reader.

use std::sync::Arc;

use super::Store;
use crate::block::BlockKey;
use crate::budget::{For, Lease};
use crate::object::ObjectId;
use crate::version::Version;

/// Above this share of the budget nothing is warmed: five in a hundred are left to readers.
const WARM_SHARE: (u64, u64) = (95, 100);

impl Store {
    /// Whether warming has to wait: what can't be given up, fills and what sockets hold, leaves no room, or a reader's
    /// fill waits for memory.
    pub fn is_too_full_to_warm(&self) -> bool {
        let held = self.budget.used().saturating_sub(self.memory.usage());
        self.budget.waiting() > 0 || held >= self.budget.limit() / WARM_SHARE.1 * WARM_SHARE.0
    }

    /// Whether a block is in memory; moves nothing.
    pub fn in_memory_tier(&self, key: &BlockKey) -> bool {
        self.memory.contains(key)
    }

    /// What the memory tier may keep of blocks that this gateway owns, in bytes.
    pub fn owned_limit(&self) -> u64 {
        self.memory.limit() - self.memory.copies_limit()
    }

    /// What it may keep of copies of others' blocks, in bytes.
    pub fn copies_limit(&self) -> u64 {
        match self.memory.keeps_copies_apart() {
            true => self.memory.copies_limit(),
            false => self.memory.limit(),
        }
    }

    /// Memory for what a job knows, out of the bound on the blocks. It waits as long as sockets hold all there is;
    /// dropping the future gives up nothing.
    pub async fn set_apart(&self, bytes: u32) -> Lease {
        self.reserve(bytes, For::Clients).await
    }

    /// Lets a block that is in memory be written to NVMe, however full that is. Returns at once;
    /// [`Self::on_nvme`] says when it is there, and what memory evicts before its turn is not written.
    pub fn write_to_nvme(&self, object: &ObjectId, version: &Arc<Version>, index: u32) {
        let key = BlockKey {
            version: version.key,
            index,
        };
        // Under the lock a purge comes either before, and leaves no such block, or after, and keeps it from being
        // written.
        let _table = self.lock();
        if let Some(nvme) = &self.nvme
            && self.memory.contains(&key)
        {
            nvme.offer_for_sure(object, version, key);
        }
    }
}
