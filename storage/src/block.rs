//! The unit of caching: a fixed, aligned piece of one version.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use crate::SEGMENT;
use crate::version::VersionKey;

/// Names a block: a version, and which of its blocks.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct BlockKey {
    /// The version that the block is part of.
    pub version: VersionKey,
    /// Its place, counted in blocks from the object's start.
    pub index: u32,
}

/// Bytes that a block takes beside its own: entries in the cache, in the table of residents and in
/// their maps, and the owners of its segments. Of a block of one byte they are nearly all.
pub const OVERHEAD: u32 = 1024;

/// A whole block in memory: its segments, shared and never changed.
///
/// Each segment carries its lease: the budget gets the bytes back when the last holder, cache,
/// reader or socket, lets go.
#[derive(Clone, Debug)]
pub struct Block {
    segments: Arc<[Bytes]>,
    of_clients: bool,
}

impl Block {
    /// A block of these segments, all but the last of [`SEGMENT`] bytes.
    pub fn new(segments: Vec<Bytes>) -> Self {
        debug_assert!(
            segments
                .iter()
                .rev()
                .skip(1)
                .all(|segment| segment.len() == SEGMENT)
        );
        Self {
            segments: segments.into(),
            of_clients: false,
        }
    }

    /// The same block, whose leases count against the clients' share of the budget, or do not.
    pub(crate) fn counted_for_clients(self, of_clients: bool) -> Self {
        Self { of_clients, ..self }
    }

    /// Whether the clients' share gets its bytes back with the last holder.
    pub(crate) fn is_of_clients(&self) -> bool {
        self.of_clients
    }

    /// Bytes in the block.
    #[allow(clippy::len_without_is_empty, reason = "no block is empty")]
    pub fn len(&self) -> usize {
        self.segments.iter().map(Bytes::len).sum()
    }

    /// Bytes that the block is charged for: its own, and [`OVERHEAD`].
    pub fn weight(&self) -> usize {
        self.len() + OVERHEAD as usize
    }

    /// Whether anybody else holds this block as a whole.
    pub fn is_shared(&self) -> bool {
        Arc::strong_count(&self.segments) > 1
    }

    /// All segments, in order.
    pub fn segments(&self) -> &[Bytes] {
        &self.segments
    }

    /// The segment at this place, if the block is that long.
    pub fn segment(&self, index: usize) -> Option<&Bytes> {
        self.segments.get(index)
    }
}

/// How objects are cut: one size for all blocks of a gateway, and of its fleet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlockSize(u32);

impl BlockSize {
    /// `bytes` must be a power of two and at least one segment; the settings promise more.
    ///
    /// # Panics
    /// If it is neither.
    pub fn new(bytes: u32) -> Self {
        assert!(bytes.is_power_of_two() && bytes as usize >= SEGMENT);
        Self(bytes)
    }

    /// Bytes in a block.
    pub fn bytes(self) -> u64 {
        u64::from(self.0)
    }

    /// The block that holds the byte at `offset`.
    pub fn index(self, offset: u64) -> u32 {
        // Invariant: objects are under 2^32 blocks (a pebibyte at 256 KiB); `Origin` refuses others.
        u32::try_from(offset / self.bytes()).unwrap_or(u32::MAX)
    }

    /// Where block `index` starts.
    pub fn start(self, index: u32) -> u64 {
        u64::from(index) * self.bytes()
    }

    /// The bytes of an object of `size` that block `index` holds.
    pub fn range(self, index: u32, size: u64) -> Range<u64> {
        let start = self.start(index);
        start.min(size)..(start + self.bytes()).min(size)
    }

    /// Blocks in an object of `size`.
    pub fn count(self, size: u64) -> u32 {
        u32::try_from(size.div_ceil(self.bytes())).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_block_ends_with_the_object() {
        let size = BlockSize::new(1 << 20);
        assert_eq!(size.count(0), 0);
        assert_eq!(size.count(1 << 20), 1);
        assert_eq!(size.count((1 << 20) + 1), 2);
        assert_eq!(size.range(1, (1 << 20) + 1), 1 << 20..(1 << 20) + 1);
        assert_eq!(size.index((1 << 20) - 1), 0);
    }
}
