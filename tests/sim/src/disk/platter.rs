//! Where blocks lie: in segments, of which one is being written and one is clean, and the oldest makes room.
//!
//! As foyer's files, it names blocks by an index in memory, which is made anew from what is on the disk when that is
//! opened. What was removed is named again then, and so is an earlier write of a block where the last was lost.

use std::collections::{BTreeMap, VecDeque};

use forebay_storage::block::BlockKey;
use forebay_storage::nvme::geometry::Geometry;
use forebay_storage::nvme::medium::Stored;
use xxhash_rust::xxh3::xxh3_64;

use super::faults::Fate;
use crate::random::Random;

/// Of the last writes, how many a loss of power may undo.
const YOUNG: u64 = 12;

#[derive(Default)]
pub(super) struct Platter {
    segments: Vec<Vec<Place>>,
    segment_blocks: usize,
    /// Segments that are written, the oldest first; the last is being written.
    order: VecDeque<usize>,
    /// Places of the last that are used.
    used: usize,
    index: BTreeMap<BlockKey, (usize, usize)>,
    /// What was given to be written, in order.
    given: Vec<Stored>,
    writes: u64,
    evictions: u64,
}

/// Room for one block.
#[derive(Clone, Default)]
struct Place {
    /// Which block the disk says is here, and the how manieth write that was.
    named: Option<(BlockKey, u64)>,
    /// What is here, whatever the disk says.
    held: Option<Held>,
}

/// A block as it is written.
#[derive(Clone)]
struct Held {
    bytes: Vec<u8>,
    checksum: u64,
}

impl Held {
    fn new(stored: &Stored) -> Option<Self> {
        let mut bytes = Vec::with_capacity(stored.size());
        stored.put(&mut bytes).ok()?;
        let checksum = xxh3_64(&bytes);
        Some(Self { bytes, checksum })
    }

    fn tear(&mut self, random: &mut Random) {
        let from = random.below(self.bytes.len() as u64) as usize;
        self.bytes[from..].fill(0);
    }

    fn flip(&mut self, random: &mut Random) {
        let at = random.below(self.bytes.len() as u64) as usize;
        self.bytes[at] ^= 1 << random.below(8);
    }

    fn read(&self) -> Option<Stored> {
        let whole = xxh3_64(&self.bytes) == self.checksum;
        whole.then(|| Stored::read(&mut self.bytes.as_slice()).ok())?
    }
}

impl Platter {
    /// An empty one, cut as the tier says.
    pub(super) fn new(geometry: &Geometry) -> Self {
        let segment_blocks = geometry.segment_blocks as usize;
        let segment = vec![Place::default(); segment_blocks];
        Self {
            segments: vec![segment; geometry.segments as usize],
            segment_blocks,
            ..Self::default()
        }
    }

    pub(super) fn is_cut_so(&self, geometry: &Geometry) -> bool {
        let blocks = geometry.segment_blocks as usize;
        (self.segments.len(), self.segment_blocks) == (geometry.segments as usize, blocks)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// Makes the index anew.
    pub(super) fn open(&mut self) {
        self.given.clear();
        self.index.clear();
        let mut last = BTreeMap::new();
        for (segment, places) in self.segments.iter().enumerate() {
            for (place, here) in places.iter().enumerate() {
                let Some((key, number)) = here.named else {
                    continue;
                };
                let known = last.entry(key).or_insert((number, (segment, place)));
                if number >= known.0 {
                    *known = (number, (segment, place));
                }
            }
        }
        self.index = last.into_iter().map(|(key, (_, at))| (key, at)).collect();
    }

    pub(super) fn give(&mut self, stored: Stored) {
        self.given.push(stored);
    }

    pub(super) fn given(&mut self) -> Vec<Stored> {
        std::mem::take(&mut self.given)
    }

    /// Writes a block, or does with it what it meets with.
    pub(super) fn write(&mut self, stored: &Stored, fate: Option<Fate>, random: &mut Random) {
        let (key, _) = stored.of();
        let Some(mut held) = Held::new(stored).filter(|_| fate != Some(Fate::Dropped)) else {
            return;
        };
        let at = self.room();
        self.writes += 1;
        let place = &mut self.segments[at.0][at.1];
        if fate == Some(Fate::Torn) {
            held.tear(random);
        }
        if fate != Some(Fate::Lost) {
            place.named = Some((key, self.writes));
        }
        if !matches!(fate, Some(Fate::Lost | Fate::Misplaced)) {
            place.held = Some(held);
        }
        self.index.insert(key, at);
    }

    /// The next place, of a segment that is cleaned if need be.
    fn room(&mut self) -> (usize, usize) {
        let current = self.order.back().copied();
        if let Some(segment) = current.filter(|_| self.used < self.segment_blocks) {
            self.used += 1;
            return (segment, self.used - 1);
        }
        // One is clean at any time, so the oldest goes as soon as it is begun.
        if self.order.len() + 1 >= self.segments.len()
            && let Some(oldest) = self.order.pop_front()
        {
            self.evictions += 1;
            self.index.retain(|_, (segment, _)| *segment != oldest);
            for place in &mut self.segments[oldest] {
                place.named = None;
            }
        }
        let clean = (0..self.segments.len()).find(|segment| !self.order.contains(segment));
        let clean = clean.unwrap_or(0);
        self.order.push_back(clean);
        self.used = 1;
        (clean, 0)
    }

    pub(super) fn names(&self, key: &BlockKey) -> bool {
        self.index.contains_key(key)
    }

    pub(super) fn remove(&mut self, key: &BlockKey) {
        self.index.remove(key);
        self.given.retain(|stored| stored.of().0 != *key);
    }

    pub(super) fn evictions(&self) -> u64 {
        self.evictions
    }

    pub(super) fn read(&self, key: &BlockKey) -> Option<Stored> {
        let (segment, place) = self.index.get(key)?;
        self.segments[*segment][*place].held.as_ref()?.read()
    }

    /// Whether this write of a block would be found again, whole.
    pub(super) fn keeps(&self, key: &BlockKey, write: u64) -> bool {
        let named = self.index.get(key);
        named.is_some_and(|(segment, place)| {
            let place = &self.segments[*segment][*place];
            let named = place.named.is_some_and(|(here, _)| here == *key);
            let held = place.held.as_ref().and_then(Held::read);
            named && held.is_some_and(|held| held.of() == (*key, write))
        })
    }

    /// Flips a bit of a block, for good.
    pub(super) fn flip(&mut self, key: &BlockKey, random: &mut Random) {
        if let Some((segment, place)) = self.index.get(key)
            && let Some(held) = &mut self.segments[*segment][*place].held
        {
            held.flip(random);
        }
    }

    /// What was given and not waited for is written in part.
    pub(super) fn stop(&mut self, random: &mut Random) {
        let given = self.given();
        let written = random.below(given.len() as u64 + 1) as usize;
        for stored in &given[..written] {
            let fate = random.chance(20).then_some(Fate::Torn);
            self.write(stored, fate, random);
        }
    }

    /// What was written last may be lost, or torn.
    pub(super) fn lose_power(&mut self, random: &mut Random) {
        let young = self.writes.saturating_sub(YOUNG);
        for place in self.segments.iter_mut().flatten() {
            if place.named.is_none_or(|(_, number)| number <= young) || !random.chance(40) {
                continue;
            }
            match (random.below(3), &mut place.held) {
                (0, Some(held)) => held.tear(random),
                (1, held) => *held = None,
                (_, _) => place.named = None,
            }
        }
    }

    /// Flips bits of some blocks.
    pub(super) fn rot(&mut self, random: &mut Random) {
        for place in self.segments.iter_mut().flatten() {
            if let Some(held) = &mut place.held
                && random.chance(20)
            {
                held.flip(random);
            }
        }
    }
}
