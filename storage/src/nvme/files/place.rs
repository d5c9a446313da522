//! Where foyer puts what it is given.
//!
//! A segment holds blobs one behind another: a page of index, then the entries that it names, each a whole number of pages
//! (foyer 0.22.6, `buffer.rs`). What is given together and falls into several blobs is written by several writes at once.
//! When one of those fails, foyer does not wait for the others, whose buffer it then has no second of, and panics at the next
//! thing that it is asked. So no two blobs are written in one turn, and of a turn that fails nothing is under way any more.

use crate::nvme::geometry::PAGE;

/// What foyer writes before an entry's value, behind which its key is.
pub(super) const HEADER: u64 = 36;

/// Entries that a page of index names: its checksum and count, then 24 bytes each.
const NAMED: u64 = (PAGE - 12) / 24;

/// The place of the next entry, on a device whose segments have so many bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    segment: u64,
    /// Where the blob at hand begins, in its segment.
    blob: u64,
    /// Where the next entry begins, in its blob.
    next: u64,
    /// The entries of the blob at hand.
    named: u64,
}

impl Place {
    /// That of the first entry: whatever was written before it was opened, foyer begins with a clean segment.
    pub(super) fn first(segment: u64) -> Self {
        Self {
            segment,
            blob: 0,
            next: PAGE,
            named: 0,
        }
    }

    /// Puts an entry of so many bytes of key and value there, and says where it is in its segment, and whether its blob is
    /// another than that of the entry before it.
    pub(super) fn put(&mut self, bytes: u64) -> (u64, bool) {
        let pages = (HEADER + bytes).next_multiple_of(PAGE);
        let before = self.named;
        if self.named == NAMED {
            self.begin(self.blob + self.next);
        }
        if self.blob + self.next + pages > self.segment {
            self.begin(0);
        }
        let at = self.blob + self.next;
        let another = self.named == 0 && before > 0;
        self.next += pages;
        self.named += 1;
        (at, another)
    }

    fn begin(&mut self, blob: u64) {
        (self.blob, self.next, self.named) = (blob, PAGE, 0);
    }

    /// How many entries of so many bytes of key and value, beginning with the first, fall into one blob.
    pub(super) fn together(mut self, bytes: impl IntoIterator<Item = u64>) -> usize {
        let mut bytes = bytes.into_iter();
        let Some(first) = bytes.next() else {
            return 0;
        };
        self.put(first);
        1 + bytes.take_while(|bytes| !self.put(*bytes).1).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_segment_and_a_page_of_index_end_what_is_written_together() {
        let segment = 4 * (MIB + 2 * PAGE);
        let place = Place::first(segment);
        assert_eq!(place.together([MIB; 9]), 4);
        assert_eq!(place.together([MIB; 3]), 3);
        assert_eq!(place.together([]), 0);
        let mut place = place;
        for _ in 0..3 {
            place.put(MIB);
        }
        assert_eq!(place.together([MIB; 4]), 1);
        place.put(MIB);
        assert_eq!(place.together([MIB; 4]), 4);
        let place = Place::first(1 << 30);
        assert_eq!(place.together([1; 1000]), 170);
    }
}
