//! How the tier's bytes are cut into files, buffers and turns: arithmetic and nothing else.

use crate::block::BlockSize;

/// The page of disks and of foyer: everything on disk is a multiple of it.
pub(super) const PAGE: u64 = 4096;

/// What a block takes on disk beside its bytes: a page for the entry's header, the key and our own
/// frame, and one for its share of the index, which is more than enough: foyer writes a page of
/// index for about 170 entries, and writes it again with each of them. A page of index that goes bad
/// costs up to that many blocks.
pub const OVERHEAD: u64 = 2 * PAGE;

/// Segments of the device aimed at: one of 512 is 0.2 % of the tier, which is what one eviction
/// takes.
const SEGMENTS: u64 = 512;

/// Blocks in a segment of the device: a small tier still has a few segments to choose from, and a
/// large one does not have more files than a process may open.
const FEWEST_IN_SEGMENT: u64 = 4;

/// Most bytes of a segment of the device; foyer counts within one by 32 bits.
const LARGEST_SEGMENT: u64 = 1 << 30;

/// Fewest segments of the device: one being written, one clean, four to keep what was read.
const FEWEST_SEGMENTS: u64 = 6;

/// Least bytes of a flush buffer, and fewest blocks: half of it is written in one turn.
const FLUSH_BYTES: u64 = 8 << 20;
const FLUSH_BLOCKS: u64 = 8;

/// Memory for the tables of one block on disk: foyer's index, our residents and their order.
const TABLE_BYTES: u64 = 192;

/// Bytes beside the block files that stay free in addition to a block for the probe: layout and
/// lock.
const SLACK: u64 = 64 << 10;

/// Disk reads under way at once, in bytes of blocks; each holds its block twice while it is
/// checked, once of them outside the budget.
const READ_BYTES: u64 = 16 << 20;

/// The tier's arithmetic.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Geometry {
    /// How objects are cut.
    pub block_size: BlockSize,
    /// Bytes of one segment of the device: one file.
    pub segment: u64,
    /// How many segments: files.
    pub segments: u64,
    /// Blocks that fit a segment, whole ones.
    pub segment_blocks: u64,
}

impl Geometry {
    /// Cuts `bytes`, all files together; `None` if that is too little for blocks of this size.
    pub fn new(bytes: u64, block_size: BlockSize) -> Option<Self> {
        let entry = block_size.bytes() + OVERHEAD;
        // So that the bound holds for all that is in the directory.
        let bytes = bytes.checked_sub(block_size.bytes() + SLACK)?;
        let segment_blocks = (bytes / entry / SEGMENTS)
            .next_power_of_two()
            .clamp(FEWEST_IN_SEGMENT, LARGEST_SEGMENT / entry);
        let segment = segment_blocks * entry;
        let segments = bytes / segment;
        (segments >= FEWEST_SEGMENTS).then_some(Self {
            block_size,
            segment,
            segments,
            segment_blocks,
        })
    }

    /// Least bytes of a tier with blocks of this size.
    pub fn least(block_size: BlockSize) -> u64 {
        let entry = block_size.bytes() + OVERHEAD;
        FEWEST_SEGMENTS * FEWEST_IN_SEGMENT * entry + block_size.bytes() + SLACK
    }

    /// Bytes of all block files together, once all are full.
    pub fn capacity(&self) -> u64 {
        self.segment * self.segments
    }

    /// Bytes of the segments that keep what they hold: of the others, one is being written and
    /// one is clean, for the next write.
    pub fn kept(&self) -> u64 {
        self.segment * (self.segments - 2)
    }

    /// Whole blocks that are kept for sure.
    pub fn blocks(&self) -> u64 {
        self.segment_blocks * (self.segments - 2)
    }

    /// Blocks that are kept at most, however small they are: each takes memory.
    pub fn most_blocks(&self) -> u64 {
        self.blocks() * 2
    }

    /// Bytes of the flush buffer.
    pub fn flush_bytes(&self) -> u64 {
        let entry = self.block_size.bytes() + OVERHEAD;
        FLUSH_BYTES.max(FLUSH_BLOCKS * entry)
    }

    /// Blocks that are given to foyer in one turn at most: half a flush buffer, since what does not fit
    /// the rest of a buffer is dropped without a word.
    pub fn turn_blocks(&self) -> usize {
        let entry = self.block_size.bytes() + OVERHEAD;
        let turn = self.flush_bytes() / 2 / entry;
        usize::try_from(turn).unwrap_or(1)
    }

    /// Reads that may be under way at once.
    pub fn reads(&self) -> usize {
        usize::try_from(READ_BYTES / self.block_size.bytes())
            .unwrap_or(1)
            .max(2)
    }

    /// Memory that the tier takes whatever it does: foyer allocates the flush buffer twice, and
    /// every block has its place in two tables.
    pub fn memory(&self) -> u64 {
        2 * self.flush_bytes() + self.most_blocks() * TABLE_BYTES
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn geometry(bytes: u64, block: u32) -> Option<Geometry> {
        Geometry::new(bytes, BlockSize::new(block))
    }

    #[test]
    fn files_never_exceed_what_was_given() {
        for bytes in [64 << 20, 1 << 30, 200 << 30, 10 << 40] {
            for block in [256 << 10, 1 << 20, 4 << 20] {
                let Some(cut) = geometry(bytes, block) else {
                    continue;
                };
                assert!(
                    cut.capacity() + u64::from(block) + SLACK <= bytes,
                    "{bytes} {block}"
                );
                assert_eq!(cut.segment % PAGE, 0);
                assert!(cut.segments <= 16 * 1024, "{bytes} {block}");
            }
        }
    }

    #[test]
    fn at_most_a_twentieth_is_lost_of_a_large_tier() {
        let cut = geometry(200 << 30, 1 << 20).unwrap();
        assert!(cut.blocks() * 20 >= 200 * 1024 * 19, "{}", cut.blocks());
    }

    #[test]
    fn the_least_is_enough_and_less_is_not() {
        for block in [256 << 10, 1 << 20, 4 << 20] {
            let least = Geometry::least(BlockSize::new(block));
            assert!(geometry(least, block).is_some());
            assert!(geometry(least - 1, block).is_none());
        }
    }

    #[test]
    fn a_turn_fits_half_a_flush_buffer() {
        for block in [256 << 10, 1 << 20, 4 << 20] {
            let cut = geometry(1 << 30, block).unwrap();
            let turn = cut.turn_blocks() as u64 * (u64::from(block) + OVERHEAD);
            assert!(turn * 2 <= cut.flush_bytes() && cut.turn_blocks() >= 3);
        }
    }
}
