//! The memory tier: foyer's cache of whole blocks, evicting the least recently used.
//!
//! LRU is where we start because it alone keeps what readers are using; capacity is split evenly
//! over shards, so there are few of them.

use std::fmt;
use std::sync::Arc;

use foyer::{Cache, CacheBuilder, Event, EventListener, LruConfig};

use crate::block::{Block, BlockKey};
use crate::residents::Residents;

/// Where whole blocks are kept.
///
/// Two of them exist: [`Memory`], and the simulator's, since one of foyer's dependencies spins
/// under a clock that does not move by itself.
pub trait BlockStore: fmt::Debug + Send + Sync + 'static {
    /// The block, if it is resident; it counts as used now.
    fn get(&self, key: &BlockKey) -> Option<Block>;
    /// Whether the block is resident; nothing is moved by the question.
    fn contains(&self, key: &BlockKey) -> bool;
    /// Keeps a block, evicting others where it must. Whatever leaves is told to [`Residents`].
    fn insert(&self, key: BlockKey, block: Block);
    /// Lets a block go.
    fn remove(&self, key: &BlockKey) -> Option<Block>;
    /// Bytes that the resident blocks are charged for ([`Block::weight`]).
    fn usage(&self) -> u64;
}

/// Below this, one shard: a shard of less than that would hold too few blocks to choose from.
const BYTES_A_SHARD: u64 = 512 << 20;

/// foyer's memory cache.
pub struct Memory {
    cache: Cache<BlockKey, Block>,
}

impl Memory {
    /// A cache of at most `capacity` bytes that tells `residents` what leaves it.
    pub fn new(capacity: u64, residents: Arc<Residents>) -> Self {
        let shards = usize::try_from(capacity / BYTES_A_SHARD)
            .unwrap_or(1)
            .max(1);
        let capacity = usize::try_from(capacity).unwrap_or(usize::MAX);
        let cache = CacheBuilder::new(capacity)
            .with_name("forebay-memory")
            .with_shards(shards)
            .with_eviction_config(LruConfig::default())
            .with_weighter(|_: &BlockKey, block: &Block| block.weight())
            .with_event_listener(Arc::new(Leaving(residents)))
            .build();
        Self { cache }
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory")
            .field("usage", &self.cache.usage())
            .field("capacity", &self.cache.capacity())
            .finish()
    }
}

impl BlockStore for Memory {
    fn get(&self, key: &BlockKey) -> Option<Block> {
        self.cache.get(key).map(|entry| entry.value().clone())
    }

    fn contains(&self, key: &BlockKey) -> bool {
        self.cache.contains(key)
    }

    fn insert(&self, key: BlockKey, block: Block) {
        self.cache.insert(key, block);
    }

    fn remove(&self, key: &BlockKey) -> Option<Block> {
        self.cache.remove(key).map(|entry| entry.value().clone())
    }

    fn usage(&self) -> u64 {
        self.cache.usage() as u64
    }
}

struct Leaving(Arc<Residents>);

impl EventListener for Leaving {
    type Key = BlockKey;
    type Value = Block;

    fn on_leave(&self, reason: Event, key: &BlockKey, _block: &Block) {
        match reason {
            // The same block came anew: it is still here.
            Event::Replace => {}
            Event::Evict => {
                self.0.evicted(*key);
            }
            Event::Remove | Event::Clear => {
                self.0.left(*key);
            }
        }
    }
}
