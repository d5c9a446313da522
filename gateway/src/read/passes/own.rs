//! What of an object this gateway owns in its fleet: a reader that asks each extent of its owner leaves out here what others
//! own, and is a reader in order all the same.

use std::ops::Range;

use forebay_ring::Extents;
use forebay_storage::block::BlockSize;

/// Extents of others between two of ours that are looked at: beyond that it is no gap, it is another place.
const GAP: u64 = 256;

/// Which extents of an object are ours.
pub(in crate::read) struct Own<'a> {
    /// How the object is cut.
    pub(in crate::read) extents: Extents,
    /// Whether this gateway owns an extent.
    pub(in crate::read) owned: &'a dyn Fn(u64) -> bool,
}

impl Own<'_> {
    /// Whether all bytes of a range are ours.
    pub(super) fn has(&self, range: &Range<u64>, block_size: BlockSize) -> bool {
        let last = range.end.saturating_sub(1).max(range.start);
        let mut extents = self.holding(range.start, block_size)..=self.holding(last, block_size);
        extents.all(self.owned)
    }

    fn holding(&self, offset: u64, block_size: BlockSize) -> u64 {
        self.extents.holding(u64::from(block_size.index(offset)))
    }

    /// Where the bytes begin that lie before `start` and are others': `start` itself if it is not where an extent of ours
    /// begins.
    pub(super) fn since(&self, start: u64, block_size: BlockSize) -> u64 {
        let extent = self.holding(start, block_size);
        if self.extents.range(extent).start != start || !(self.owned)(extent) {
            return start;
        }
        let before = (extent.saturating_sub(GAP)..extent).rev();
        let gap = before.take_while(|extent| !(self.owned)(*extent)).count() as u64;
        self.extents.range(extent - gap).start
    }

    /// So many blocks of ours from block `here` on, in whole extents, as far as the object goes; without those before
    /// block `from`.
    pub(super) fn ahead(
        &self,
        (here, from): (u32, u32),
        blocks: u32,
        block_size: BlockSize,
    ) -> Vec<Range<u32>> {
        let first = self.extents.holding(u64::from(here));
        let mut ranges: Vec<Range<u32>> = Vec::new();
        let (mut found, mut gap) = (0, 0);
        for extent in first..self.extents.count() {
            if found >= blocks || gap > GAP {
                break;
            }
            gap += 1;
            if !(self.owned)(extent) {
                continue;
            }
            gap = 0;
            let bytes = self.extents.range(extent);
            let start = block_size.index(bytes.start).max(here);
            let end = block_size.count(bytes.end);
            found += end.saturating_sub(start);
            let start = start.max(from);
            match ranges.last_mut() {
                _ if start >= end => {}
                Some(last) if last.end == start => last.end = end,
                _ => ranges.push(start..end),
            }
        }
        ranges
    }
}
