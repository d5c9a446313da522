//! How an object falls into extents: the consecutive blocks that are placed together.
//!
//! A small object is spread block by block, so that even 16 MiB come from many members at once. A large
//! one has enough extents either way, and four blocks together make one request of what would be four.

use std::ops::Range;

/// From this size on, in bytes, an extent is four blocks instead of one.
const LARGE: u64 = 256 << 20;

/// The extents of one object, known from its size and the fleet's block size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extents {
    size: u64,
    block_size: u64,
}

impl Extents {
    /// The extents of an object of `size` bytes in blocks of `block_size` bytes.
    ///
    /// # Panics
    /// If `block_size` is 0; the settings never allow that.
    pub fn new(size: u64, block_size: u64) -> Self {
        assert!(block_size > 0, "a block has at least one byte");
        Self { size, block_size }
    }

    /// How many extents there are. An empty object has one, so that somebody owns its version.
    pub fn count(self) -> u64 {
        self.size.div_ceil(self.bytes()).max(1)
    }

    /// How many blocks an extent of this object has, the last one perhaps fewer: 1 or 4.
    pub fn blocks(self) -> u64 {
        if self.size < LARGE { 1 } else { 4 }
    }

    /// The extent that holds block `index`, both counted from 0.
    pub fn holding(self, index: u64) -> u64 {
        index / self.blocks()
    }

    /// The bytes of `extent` in the object, the last extent ending with the object. Empty past the end.
    pub fn range(self, extent: u64) -> Range<u64> {
        let start = extent.saturating_mul(self.bytes()).min(self.size);
        start..start.saturating_add(self.bytes()).min(self.size)
    }

    fn bytes(self) -> u64 {
        self.blocks() * self.block_size
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn an_extent_has_four_blocks_from_256_mib_on() {
        assert_eq!(Extents::new(256 * MIB - 1, MIB).blocks(), 1);
        assert_eq!(Extents::new(256 * MIB - 1, MIB).count(), 256);
        assert_eq!(Extents::new(256 * MIB, MIB).blocks(), 4);
        assert_eq!(Extents::new(256 * MIB, MIB).count(), 64);
    }

    #[test]
    fn an_empty_object_has_one_empty_extent() {
        let empty = Extents::new(0, MIB);
        assert_eq!((empty.count(), empty.range(0)), (1, 0..0));
    }

    #[test]
    fn extents_tile_the_object() {
        for size in [
            1,
            MIB - 1,
            MIB,
            MIB + 1,
            3 * MIB + 17,
            256 * MIB,
            1 << 30,
            (1 << 30) + 1,
        ] {
            let extents = Extents::new(size, MIB);
            let mut end = 0;
            for extent in 0..extents.count() {
                let range = extents.range(extent);
                assert_eq!(range.start, end);
                assert_eq!(extents.holding(range.start / MIB), extent);
                assert_eq!(extents.holding((range.end - 1) / MIB), extent);
                end = range.end;
            }
            assert_eq!(end, size);
            assert!(extents.range(extents.count()).is_empty());
        }
    }

    #[test]
    fn the_largest_size_overflows_nothing() {
        let extents = Extents::new(u64::MAX, MIB);
        assert_eq!(extents.range(extents.count() - 1).end, u64::MAX);
        assert!(extents.range(u64::MAX).is_empty());
    }
}
