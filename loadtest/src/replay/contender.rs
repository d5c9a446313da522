//! Who plays: the cache library's policies, and Forebay's memory tier as it is.

use std::sync::Arc;

use bytes::Bytes;
use forebay_storage::block::{Block, BlockKey, OVERHEAD};
use forebay_storage::memory::{BlockStore, Memory};
use forebay_storage::object::ObjectId;
use forebay_storage::residents::Residents;
use forebay_storage::version::VersionKey;
use foyer::{
    Cache, CacheBuilder, EvictionConfig, FifoConfig, LfuConfig, LruConfig, S3FifoConfig,
    SieveConfig,
};

/// A block of a model: which, and which of its blocks.
pub(super) type Key = (u64, u32);

/// The policies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Fifo,
    Lru,
    Lfu,
    S3Fifo,
    Sieve,
    Forebay,
}

impl Kind {
    pub(super) const ALL: [Self; 6] = [
        Self::Fifo,
        Self::Lru,
        Self::Lfu,
        Self::S3Fifo,
        Self::Sieve,
        Self::Forebay,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Fifo => "FIFO",
            Self::Lru => "LRU",
            Self::Lfu => "LFU",
            Self::S3Fifo => "S3-FIFO",
            Self::Sieve => "SIEVE",
            Self::Forebay => "forebay",
        }
    }

    fn policy(self) -> Option<EvictionConfig> {
        Some(match self {
            Self::Fifo => FifoConfig::default().into(),
            Self::Lru => LruConfig::default().into(),
            Self::Lfu => LfuConfig::default().into(),
            Self::S3Fifo => S3FifoConfig::default().into(),
            Self::Sieve => SieveConfig.into(),
            Self::Forebay => return None,
        })
    }
}

/// A block's bytes stand for a MiB; its weight is what a block costs beside its bytes, and this one.
const BYTE: &[u8] = b"x";

/// One cache under test.
#[derive(Debug)]
pub(super) enum Contender {
    /// The library's, in one shard.
    Library(Cache<Key, u32>),
    /// Ours.
    Forebay(Arc<Residents>, Box<Memory>),
}

impl Contender {
    /// A cache of so many blocks.
    pub(super) fn new(kind: Kind, blocks: u32) -> Self {
        match kind.policy() {
            Some(policy) => {
                let cache = CacheBuilder::new(blocks as usize)
                    .with_shards(1)
                    .with_eviction_config(policy)
                    .build();
                Self::Library(cache)
            }
            None => {
                let residents = Arc::new(Residents::default());
                let weight = u64::from(OVERHEAD) + BYTE.len() as u64;
                let memory = Memory::new(u64::from(blocks) * weight, Arc::clone(&residents));
                Self::Forebay(residents, Box::new(memory))
            }
        }
    }

    /// Looks a block up; it counts as used.
    pub(super) fn get(&mut self, key: Key) -> bool {
        match self {
            Self::Library(cache) => cache.get(&key).is_some(),
            Self::Forebay(_, memory) => memory.get(&block_key(key)).is_some(),
        }
    }

    /// Takes a block that had to be fetched.
    pub(super) fn insert(&mut self, key: Key) {
        match self {
            Self::Library(cache) => {
                cache.insert(key, 0);
            }
            Self::Forebay(residents, memory) => {
                let object = ObjectId::new("models", key.0.to_string());
                residents.entered(&object, block_key(key), 1);
                let block = Block::new(vec![Bytes::from_static(BYTE)]);
                memory.insert(block_key(key), block);
            }
        }
    }
}

fn block_key((model, index): Key) -> BlockKey {
    BlockKey {
        version: VersionKey(u128::from(model)),
        index,
    }
}
