//! The memory tier: whole blocks, and which of them goes when others come.
//!
//! The order is ours (`queues`), because no policy of the cache library that the disk tier uses
//! suits how models are loaded: `forebay-loadtest replay` plays them all. After one scan of 1.5 ×
//! memory, LRU and FIFO have nothing left of a hot model, and neither have S3-FIFO and SIEVE if the
//! scan reads in ranges smaller than a block; LFU loses a fifth of it then, and is slow to let go of
//! what was hot once. S3-FIFO comes next: it is better at one model larger than memory, over and over.

mod queues;

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use self::queues::Queues;
use crate::block::{Block, BlockKey};
use crate::residents::Residents;

/// Where whole blocks are kept.
///
/// Two of them exist: [`Memory`], and the simulator's, whose order of eviction is written in its
/// traces.
pub trait BlockStore: fmt::Debug + Send + Sync + 'static {
    /// The block, if it is resident; it counts as used now.
    fn get(&self, key: &BlockKey) -> Option<Block>;
    /// The block, if it is resident, for whoever is no reader: that is no use of it.
    fn peek(&self, key: &BlockKey) -> Option<Block>;
    /// Whether the block is resident; nothing is moved by the question.
    fn contains(&self, key: &BlockKey) -> bool;
    /// Keeps a block, evicting others where it must. Whatever leaves is told to [`Residents`], and
    /// given to the caller to drop where that holds nobody up: a block is sixteen buffers.
    fn insert(&self, key: BlockKey, block: Block) -> Vec<Block>;
    /// Lets a block go.
    fn remove(&self, key: &BlockKey) -> Option<Block>;
    /// Lets the block go whose turn it is; `None`: there is no block.
    fn evict(&self) -> Option<Block>;
    /// Bytes that the resident blocks are charged for ([`Block::weight`]).
    fn usage(&self) -> u64;
    /// Every resident block, that first which would go last.
    fn hottest(&self) -> Vec<BlockKey>;
}

/// Blocks in memory, up to a number of bytes.
pub struct Memory {
    capacity: u64,
    residents: Arc<Residents>,
    /// Looking a block up takes the lock shared: what is used is noted in atomics.
    queues: RwLock<Queues>,
}

impl Memory {
    /// A cache of at most `capacity` bytes that tells `residents` what leaves it.
    pub fn new(capacity: u64, residents: Arc<Residents>) -> Self {
        Self {
            capacity,
            residents,
            queues: RwLock::new(Queues::new(capacity)),
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Queues> {
        self.queues.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Queues> {
        self.queues.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory")
            .field("usage", &self.usage())
            .field("capacity", &self.capacity)
            .finish()
    }
}

impl BlockStore for Memory {
    fn get(&self, key: &BlockKey) -> Option<Block> {
        self.read().get(key)
    }

    fn peek(&self, key: &BlockKey) -> Option<Block> {
        self.read().peek(key)
    }

    fn contains(&self, key: &BlockKey) -> bool {
        self.read().contains(key)
    }

    fn insert(&self, key: BlockKey, block: Block) -> Vec<Block> {
        let mut left = Vec::new();
        let mut queues = self.write();
        left.extend(queues.insert(key, block));
        while queues.bytes() > self.capacity {
            let Some((key, block)) = queues.evict(|key| self.residents.is_pinned(key)) else {
                break;
            };
            self.residents.evicted(key);
            left.push(block);
        }
        left
    }

    fn remove(&self, key: &BlockKey) -> Option<Block> {
        let mut queues = self.write();
        let block = queues.remove(key)?;
        self.residents.left(*key);
        Some(block)
    }

    fn evict(&self) -> Option<Block> {
        let mut queues = self.write();
        let (key, block) = queues.evict(|key| self.residents.is_pinned(key))?;
        self.residents.evicted(key);
        Some(block)
    }

    fn usage(&self) -> u64 {
        self.read().bytes()
    }

    fn hottest(&self) -> Vec<BlockKey> {
        self.read().hottest()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::block::OVERHEAD;
    use crate::object::ObjectId;
    use crate::version::VersionKey;
    use bytes::Bytes;

    const WEIGHT: u64 = 1 + OVERHEAD as u64;

    struct Rig {
        memory: Memory,
        residents: Arc<Residents>,
    }

    impl Rig {
        fn new(blocks: u64) -> Self {
            let residents = Arc::new(Residents::default());
            let memory = Memory::new(blocks * WEIGHT, Arc::clone(&residents));
            Self { memory, residents }
        }

        /// Looks the blocks of a model up in order and brings those that miss; how many hit.
        fn read(&self, model: u128, blocks: u32) -> u32 {
            let mut hits = 0;
            for index in 0..blocks {
                let version = VersionKey(model);
                let key = BlockKey { version, index };
                if self.memory.get(&key).is_some() {
                    hits += 1;
                } else {
                    self.residents
                        .entered(&ObjectId::new("models", "a"), key, 1);
                    self.memory
                        .insert(key, Block::new(vec![Bytes::from_static(b"x")]));
                }
            }
            hits
        }
    }

    #[test]
    fn one_scan_of_more_than_memory_leaves_what_is_used() {
        let rig = Rig::new(256);
        rig.read(0, 128);
        assert_eq!(rig.read(0, 128), 128);
        rig.read(1, 384);
        assert_eq!(rig.read(0, 128), 128);
    }

    #[test]
    fn a_new_model_gets_in_however_hot_the_old_one_is() {
        let rig = Rig::new(256);
        (0..5).for_each(|_| {
            rig.read(0, 220);
        });
        (0..4).for_each(|_| {
            rig.read(1, 128);
        });
        assert_eq!(rig.read(1, 128), 128);
    }

    #[test]
    fn many_reads_of_one_block_in_a_row_are_one_use() {
        let rig = Rig::new(256);
        rig.read(0, 128);
        rig.read(0, 128);
        for index in 0..384 {
            let key = BlockKey {
                version: VersionKey(1),
                index,
            };
            rig.residents.entered(&ObjectId::new("models", "b"), key, 1);
            rig.memory
                .insert(key, Block::new(vec![Bytes::from_static(b"x")]));
            // As a loader does that reads a block in ranges of an eighth.
            (0..8).for_each(|_| assert!(rig.memory.get(&key).is_some()));
        }
        assert_eq!(rig.read(0, 128), 128);
    }

    #[test]
    fn a_look_that_is_no_use_protects_nothing() {
        let rig = Rig::new(256);
        rig.read(0, 256);
        for index in 0..256 {
            let version = VersionKey(0);
            assert!(rig.memory.peek(&BlockKey { version, index }).is_some());
        }
        rig.read(1, 256);
        assert_eq!(rig.read(1, 256), 256);
    }

    #[test]
    fn the_bound_holds_and_residents_know_what_is_there() {
        let rig = Rig::new(100);
        for model in 0..20 {
            rig.read(model, 37);
            rig.read(0, 50);
            assert!(rig.memory.usage() <= 100 * WEIGHT);
            let blocks = rig.residents.total().blocks;
            assert_eq!(blocks * WEIGHT, rig.memory.usage());
        }
        for (key, ..) in rig.residents.all() {
            assert!(rig.memory.contains(&key));
        }
        let evicted = std::iter::from_fn(|| rig.memory.evict()).count() as u64;
        assert_eq!(evicted, 100);
        assert_eq!((rig.memory.usage(), rig.residents.blocks()), (0, 0));
    }

    #[test]
    fn what_was_used_is_hotter_than_what_only_came_and_of_those_the_latest() {
        let rig = Rig::new(100);
        rig.read(0, 20);
        // These are used once more, and so protected when it is their turn.
        assert_eq!(rig.read(0, 20), 20);
        for model in 1..6 {
            rig.read(model, 19);
        }
        let hottest = rig.memory.hottest();
        assert_eq!(hottest.len() as u64, rig.residents.total().blocks);
        assert!(hottest[..20].iter().all(|key| key.version == VersionKey(0)));
        let versions: Vec<u128> = hottest[20..].iter().map(|key| key.version.0).collect();
        assert!(
            versions.is_sorted_by(|one, next| one >= next),
            "{versions:?}"
        );
    }

    #[test]
    fn what_is_pinned_stays_however_much_comes() {
        use crate::residents::Pins;
        let rig = Rig::new(100);
        rig.read(0, 60);
        rig.residents
            .set_pins(&Pins::new([("models".to_owned(), "a".to_owned())]));
        let other = |index| BlockKey {
            version: VersionKey(1),
            index,
        };
        for index in 0..1000 {
            let key = other(index);
            rig.residents.entered(&ObjectId::new("models", "b"), key, 1);
            let block = Block::new(vec![Bytes::from_static(b"x")]);
            rig.memory.insert(key, block);
            assert!(rig.memory.usage() <= 100 * WEIGHT);
        }
        assert_eq!(rig.read(0, 60), 60);
        // Pinned or not, the bound holds.
        rig.residents
            .set_pins(&Pins::new([("models".to_owned(), String::new())]));
        assert!(rig.memory.evict().is_some());
    }

    #[test]
    fn what_was_removed_and_came_again_goes_once() {
        let rig = Rig::new(2);
        let key = BlockKey {
            version: VersionKey(0),
            index: 0,
        };
        for _ in 0..1000 {
            rig.read(0, 1);
            rig.memory.remove(&key).unwrap();
        }
        rig.read(0, 2);
        // The other one is the older of the two from here on.
        rig.memory.remove(&key).unwrap();
        rig.read(0, 1);
        rig.read(1, 1);
        assert!(rig.memory.contains(&key));
        assert_eq!(rig.residents.total().blocks, 2);
    }
}
