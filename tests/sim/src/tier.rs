//! A memory tier whose order of eviction is known: the least recently used goes first.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use forebay_storage::block::{Block, BlockKey};
use forebay_storage::memory::BlockStore;
use forebay_storage::residents::Residents;

use crate::trace::Trace;

/// Whole blocks that are charged at most `capacity` bytes.
#[derive(Debug)]
pub struct Tier {
    capacity: u64,
    residents: Arc<Residents>,
    trace: Arc<Trace>,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    blocks: BTreeMap<BlockKey, (u64, Block)>,
    /// The blocks by when they were used, counted in uses.
    uses: BTreeMap<u64, BlockKey>,
    used: u64,
    bytes: u64,
}

impl Tier {
    /// An empty tier that tells `residents` what leaves it.
    pub fn new(capacity: u64, residents: Arc<Residents>, trace: Arc<Trace>) -> Self {
        Self {
            capacity,
            residents,
            trace,
            table: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn remove(&mut self, key: &BlockKey) -> Option<Block> {
        let (used, block) = self.blocks.remove(key)?;
        self.uses.remove(&used);
        self.bytes -= block.weight() as u64;
        Some(block)
    }
}

impl BlockStore for Tier {
    fn peek(&self, key: &BlockKey) -> Option<Block> {
        self.lock().blocks.get(key).map(|(_, block)| block.clone())
    }

    fn get(&self, key: &BlockKey) -> Option<Block> {
        let mut table = self.lock();
        let now = table.used + 1;
        let (used, block) = table.blocks.get_mut(key)?;
        let before = std::mem::replace(used, now);
        let block = block.clone();
        table.uses.remove(&before);
        table.uses.insert(now, *key);
        table.used = now;
        Some(block)
    }

    fn contains(&self, key: &BlockKey) -> bool {
        self.lock().blocks.contains_key(key)
    }

    fn insert(&self, key: BlockKey, block: Block) -> Vec<Block> {
        // What left is told once the lock is free: that reaches into another table.
        let mut left = Vec::new();
        {
            let mut table = self.lock();
            let replaced = table.remove(&key);
            table.used += 1;
            let now = table.used;
            table.bytes += block.weight() as u64;
            table.blocks.insert(key, (now, block));
            table.uses.insert(now, key);
            while table.bytes > self.capacity {
                let Some((_, oldest)) = table.uses.first_key_value() else {
                    break;
                };
                let oldest = *oldest;
                left.extend(table.remove(&oldest).map(|block| (oldest, block)));
            }
            drop(table);
            for (key, _) in &left {
                self.trace.count("blocks evicted");
                self.residents.left(*key);
            }
            let left = left.into_iter().map(|(_, block)| block);
            left.chain(replaced).collect()
        }
    }

    fn remove(&self, key: &BlockKey) -> Option<Block> {
        let removed = self.lock().remove(key)?;
        self.residents.left(*key);
        Some(removed)
    }

    fn evict(&self) -> Option<Block> {
        let (oldest, block) = {
            let mut table = self.lock();
            let (_, oldest) = table.uses.first_key_value()?;
            let oldest = *oldest;
            (oldest, table.remove(&oldest)?)
        };
        self.trace.count("blocks evicted");
        self.residents.left(oldest);
        Some(block)
    }

    fn usage(&self) -> u64 {
        self.lock().bytes
    }

    fn hottest(&self) -> Vec<BlockKey> {
        self.lock().uses.values().rev().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use bytes::Bytes;
    use forebay_storage::block::OVERHEAD;
    use forebay_storage::object::ObjectId;
    use forebay_storage::version::VersionKey;

    const WEIGHT: u64 = 10 + OVERHEAD as u64;

    #[tokio::test(start_paused = true)]
    async fn the_least_recently_used_leaves_and_residents_hear_of_it() {
        let residents = Arc::new(Residents::default());
        let tier = Tier::new(
            2 * WEIGHT,
            Arc::clone(&residents),
            Arc::new(Trace::new(false)),
        );
        let key = |index| BlockKey {
            version: VersionKey(1),
            index,
        };
        let insert = |index| {
            residents.entered(&ObjectId::new("models", "a"), key(index), 10);
            tier.insert(
                key(index),
                Block::new(vec![Bytes::from_static(b"0123456789")]),
            );
        };
        insert(0);
        insert(1);
        tier.get(&key(0)).unwrap();
        insert(2);
        assert!(tier.contains(&key(0)) && !tier.contains(&key(1)));
        assert_eq!((tier.usage(), residents.total().blocks), (2 * WEIGHT, 2));
        tier.remove(&key(0)).unwrap();
        assert_eq!((tier.usage(), residents.total().bytes), (WEIGHT, 10));
    }
}
