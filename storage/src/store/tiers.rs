//! The memory tier in two parts: blocks that this gateway owns, and copies of others'.
//!
//! Copies help a herd, whose readers all want the same bytes, and must not push out what only this
//! gateway keeps. So they have a part of their own; where there is none, all blocks share one.

use std::sync::Arc;

use crate::block::{Block, BlockKey};
use crate::memory::{BlockStore, Memory};
use crate::residents::Residents;

/// What becomes of blocks that other gateways own, once they have been read through this one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Copies {
    /// They are kept like any other: a fleet of one, which has none, or an edge, which has no others.
    Alike,
    /// They have a quarter of the memory, of the share that caches have.
    Apart,
    /// They are not kept.
    Dropped,
}

/// Of `memory`, what the caches may keep together; the rest is for fills and for what sockets hold.
const CACHE_SHARE: (u64, u64) = (70, 100);

/// Of `memory`, what copies may take of that.
const COPIES_SHARE: (u64, u64) = (25, 100);

/// The parts.
#[derive(Debug)]
pub(super) struct Tiers {
    owned: Box<dyn BlockStore>,
    apart: Option<Box<dyn BlockStore>>,
    drop_copies: bool,
    limit: u64,
    copies_limit: u64,
}

impl Tiers {
    /// Both parts for `memory` bytes, telling `residents` what leaves them.
    pub(super) fn new(memory: u64, copies: Copies, residents: &Arc<Residents>) -> Self {
        let share = |(part, of): (u64, u64)| memory / of * part;
        let limit = share(CACHE_SHARE);
        let apart = if copies == Copies::Apart {
            share(COPIES_SHARE)
        } else {
            0
        };
        let part = |capacity| Box::new(Memory::new(capacity, Arc::clone(residents)));
        Self {
            owned: part(limit - apart),
            apart: (apart > 0).then(|| part(apart) as Box<dyn BlockStore>),
            drop_copies: copies == Copies::Dropped,
            limit,
            copies_limit: apart,
        }
    }

    /// `tier` for all blocks, of `memory` bytes.
    pub(super) fn of(tier: Box<dyn BlockStore>, memory: u64) -> Self {
        Self {
            owned: tier,
            apart: None,
            drop_copies: false,
            limit: memory / CACHE_SHARE.1 * CACHE_SHARE.0,
            copies_limit: 0,
        }
    }

    /// One tier for owned blocks and one for copies, of `memory` bytes together.
    pub(super) fn apart([owned, copies]: [Box<dyn BlockStore>; 2], memory: u64) -> Self {
        Self {
            apart: Some(copies),
            copies_limit: memory / COPIES_SHARE.1 * COPIES_SHARE.0,
            ..Self::of(owned, memory)
        }
    }

    /// Bytes that all parts may keep together.
    pub(super) fn limit(&self) -> u64 {
        self.limit
    }

    /// Of that, bytes of copies where they have a part of their own; else 0.
    pub(super) fn copies_limit(&self) -> u64 {
        self.copies_limit
    }

    /// Whether copies have a part of their own.
    pub(super) fn keeps_copies_apart(&self) -> bool {
        self.apart.is_some()
    }

    /// Bytes that the blocks of all parts are charged for.
    pub(super) fn usage(&self) -> u64 {
        self.parts().map(|part| part.usage()).sum()
    }

    pub(super) fn get(&self, key: &BlockKey) -> Option<Block> {
        self.parts().find_map(|part| part.get(key))
    }

    pub(super) fn peek(&self, key: &BlockKey) -> Option<Block> {
        self.parts().find_map(|part| part.peek(key))
    }

    pub(super) fn contains(&self, key: &BlockKey) -> bool {
        self.parts().any(|part| part.contains(key))
    }

    pub(super) fn remove(&self, key: &BlockKey) -> Option<Block> {
        self.parts().find_map(|part| part.remove(key))
    }

    /// Lets the block go whose turn it is. Copies go first: another gateway has what they hold.
    pub(super) fn evict(&self) -> Option<Block> {
        self.evict_copy().or_else(|| self.owned.evict())
    }

    /// Lets the copy go whose turn it is, where copies have a part of their own.
    pub(super) fn evict_copy(&self) -> Option<Block> {
        self.apart.as_ref().and_then(|apart| apart.evict())
    }

    /// Whether a block that this gateway owns, or does not own, is kept at all.
    pub(super) fn keeps(&self, owned: bool) -> bool {
        owned || !self.drop_copies
    }

    /// Keeps a block that is in no part, if [`Self::keeps`] says so, and gives those that had to go.
    pub(super) fn insert(&self, key: BlockKey, block: Block, owned: bool) -> Vec<Block> {
        match &self.apart {
            Some(apart) if !owned => apart.insert(key, block),
            _ => self.owned.insert(key, block),
        }
    }

    /// Every block, owned ones first, and of each part that first which would go last.
    pub(super) fn hottest(&self) -> Vec<BlockKey> {
        self.parts().flat_map(|part| part.hottest()).collect()
    }

    fn parts(&self) -> impl Iterator<Item = &dyn BlockStore> {
        std::iter::once(&*self.owned).chain(self.apart.as_deref())
    }
}
