//! Our own table of what is resident in a tier, and what it belongs to: foyer can list no keys, and the
//! memory tier knows its blocks by nothing else.
//!
//! It is touched when a block enters or leaves, never on a hit.

mod keep;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::block::BlockKey;
use crate::object::ObjectId;
use crate::purge::{Purge, Tag, Which};
use crate::version::VersionKey;

pub use self::keep::{Bounds, Pins};

/// Blocks and bytes.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Tally {
    /// How many blocks.
    pub blocks: u64,
    /// Their bytes.
    pub bytes: u64,
    /// How many objects they are of.
    pub objects: u64,
}

/// The table of resident blocks of one tier.
#[derive(Debug, Default)]
pub struct Residents {
    table: Mutex<Table>,
    evictions: AtomicU64,
}

#[derive(Debug, Default)]
struct Table {
    versions: HashMap<VersionKey, Held>,
    objects: BTreeMap<ObjectId, BTreeSet<VersionKey>>,
    datasets: BTreeMap<Arc<str>, Tally>,
    /// Blocks in the order they came; those that left meanwhile are skipped when met.
    ages: VecDeque<BlockKey>,
    /// Of those, the ones that count against the clients' share of the memory.
    of_clients: VecDeque<BlockKey>,
    blocks: usize,
    /// Bytes that have come, whether they are still here or not.
    come: u64,
    pins: Pins,
    bounded: keep::AllBounded,
}

#[derive(Debug)]
struct Held {
    object: ObjectId,
    tag: Tag,
    /// No other version of the object came later.
    is_latest: bool,
    pinned: bool,
    blocks: BTreeMap<u32, Place>,
}

/// A block's bytes, and the write that brought them.
#[derive(Clone, Copy, Debug)]
struct Place {
    len: u32,
    write: u64,
    /// Bytes that had come when it had.
    come: u64,
}

impl Residents {
    /// Notes that a block of `len` bytes entered, of a version without an ETag.
    pub fn entered(&self, object: &ObjectId, key: BlockKey, len: u32) {
        self.entered_by((object, Tag::of(None)), key, len, 0);
    }

    /// Notes that a block of `len` bytes entered, of an object's version with that ETag, by the write that is numbered so:
    /// where old bytes may come back, [`Self::write_of`] tells them from the new.
    pub fn entered_by(&self, (object, tag): (&ObjectId, Tag), key: BlockKey, len: u32, write: u64) {
        let mut table = self.lock();
        let table = &mut *table;
        table.come += u64::from(len);
        let come = table.come;
        let held = table.versions.entry(key.version).or_insert_with(|| Held {
            object: object.clone(),
            tag,
            is_latest: false,
            pinned: false,
            blocks: BTreeMap::new(),
        });
        if held
            .blocks
            .insert(key.index, Place { len, write, come })
            .is_some()
        {
            return;
        }
        let tally = table.datasets.entry(object.dataset.clone()).or_default();
        tally.blocks += 1;
        tally.bytes += u64::from(len);
        let is_first = held.blocks.len() == 1;
        if is_first {
            let versions = table.objects.entry(object.clone()).or_default();
            tally.objects += u64::from(versions.is_empty());
            versions.insert(key.version);
        }
        table.blocks += 1;
        if is_first {
            table.note_latest(object, key);
        }
        table.note_age(&object.dataset, key);
        table.ages.push_back(key);
        if table.ages.len() > 64 + 2 * table.blocks {
            let versions = &table.versions;
            table.ages.retain(|key| holds(versions, key));
        }
    }

    /// Notes that the block, which has just entered, counts against the clients' share.
    pub fn entered_for_clients(&self, key: BlockKey) {
        let mut table = self.lock();
        let table = &mut *table;
        table.of_clients.push_back(key);
        if table.of_clients.len() > 64 + 2 * table.blocks {
            let versions = &table.versions;
            table.of_clients.retain(|key| holds(versions, key));
        }
    }

    /// Notes that a block left, and says how long it was if it was here.
    pub fn left(&self, key: BlockKey) -> Option<u32> {
        let mut table = self.lock();
        let table = &mut *table;
        let held = table.versions.get_mut(&key.version)?;
        let len = held.blocks.remove(&key.index)?.len;
        table.blocks -= 1;
        let object = held.object.clone();
        let mut gone = false;
        if held.blocks.is_empty() {
            table.versions.remove(&key.version);
            if let Some(versions) = table.objects.get_mut(&object) {
                versions.remove(&key.version);
                gone = versions.is_empty();
            }
            if gone {
                table.objects.remove(&object);
            }
        }
        if let Some(tally) = table.datasets.get_mut(&object.dataset) {
            tally.blocks -= 1;
            tally.bytes -= u64::from(len);
            tally.objects -= u64::from(gone);
        }
        Some(len)
    }

    /// Notes that a block had to go for others.
    pub fn evicted(&self, key: BlockKey) -> Option<u32> {
        let len = self.left(key);
        if len.is_some() {
            self.evictions.fetch_add(1, Ordering::Relaxed);
        }
        len
    }

    /// Blocks that had to go for others, from the start.
    pub fn evictions(&self) -> u64 {
        self.evictions.load(Ordering::Relaxed)
    }

    /// Whether the block is resident.
    pub fn contains(&self, key: &BlockKey) -> bool {
        holds(&self.lock().versions, key)
    }

    /// The number of the write that made the block resident, if it is.
    pub fn write_of(&self, key: &BlockKey) -> Option<u64> {
        let table = self.lock();
        let held = table.versions.get(&key.version)?;
        held.blocks.get(&key.index).map(|place| place.write)
    }

    /// What the version's ETag is known by, if any block of it is resident.
    pub fn tag_of(&self, version: VersionKey) -> Option<Tag> {
        self.lock().versions.get(&version).map(|held| held.tag)
    }

    /// How many blocks are resident.
    pub fn blocks(&self) -> usize {
        self.lock().blocks
    }

    /// Every resident block, its bytes and its write; in the order of their objects.
    pub fn all(&self) -> Vec<(BlockKey, u32, u64)> {
        let table = self.lock();
        let mut all = Vec::with_capacity(table.blocks);
        for version in table.objects.values().flatten() {
            let Some(held) = table.versions.get(version) else {
                continue;
            };
            all.extend(held.blocks.iter().map(|(index, place)| {
                let key = BlockKey {
                    version: *version,
                    index: *index,
                };
                (key, place.len, place.write)
            }));
        }
        all
    }

    /// Bytes of the dataset's blocks here that `other` holds too.
    pub fn shared(&self, other: &Self, dataset: &str) -> u64 {
        let keys = self.find(dataset, |_| true);
        let other = other.lock();
        let both = keys.into_iter().filter_map(|key| {
            let held = other.versions.get(&key.version)?;
            held.blocks.get(&key.index).map(|place| place.len)
        });
        both.map(u64::from).sum()
    }

    /// The block that has been resident longest and is not pinned; it is forgotten as the oldest.
    pub fn pop_oldest(&self) -> Option<BlockKey> {
        let mut table = self.lock();
        let table = &mut *table;
        pop_held(&mut table.ages, &table.versions)
    }

    /// The same among those that count against the clients' share.
    pub fn pop_oldest_of_clients(&self) -> Option<BlockKey> {
        let mut table = self.lock();
        let table = &mut *table;
        pop_held(&mut table.of_clients, &table.versions)
    }

    /// What is resident of a dataset.
    pub fn tally(&self, dataset: &str) -> Tally {
        self.lock()
            .datasets
            .get(dataset)
            .copied()
            .unwrap_or_default()
    }

    /// What is resident of all datasets together.
    pub fn total(&self) -> Tally {
        let table = self.lock();
        let mut total = Tally::default();
        for tally in table.datasets.values() {
            total.blocks += tally.blocks;
            total.bytes += tally.bytes;
            total.objects += tally.objects;
        }
        total
    }

    /// Every resident block of the objects of `dataset` that `wanted` picks by key.
    pub fn find(&self, dataset: &str, wanted: impl Fn(&str) -> bool) -> Vec<BlockKey> {
        let table = self.lock();
        let of_dataset = table
            .objects
            .iter()
            .filter(|(object, _)| &*object.dataset == dataset && wanted(&object.key));
        let versions = of_dataset.flat_map(|(_, versions)| versions);
        table.blocks_of(versions, |_, _| true)
    }

    /// Every resident block that a purge takes.
    pub fn found(&self, purge: &Purge<'_>) -> Vec<BlockKey> {
        let table = self.lock();
        let takes = |version, held: &Held| purge.takes(&held.object, version, Some(held.tag));
        let Which::Others(current) = purge.which else {
            let all = table.objects.iter();
            let of_dataset = all.filter(|(object, _)| &*object.dataset == purge.dataset);
            return table.blocks_of(of_dataset.flat_map(|(_, versions)| versions), takes);
        };
        // A page of a listing at a time: what it names is looked up, however much else there is.
        let named = current.keys().flat_map(|key| {
            let first = ObjectId::new(purge.dataset, key.as_str());
            let all = table.objects.range(first..);
            all.take_while(move |(object, _)| {
                &*object.dataset == purge.dataset && *object.key == **key
            })
        });
        table.blocks_of(named.flat_map(|(_, versions)| versions), takes)
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// The blocks of those of these versions that are wanted.
    fn blocks_of<'a>(
        &self,
        versions: impl Iterator<Item = &'a VersionKey>,
        wanted: impl Fn(VersionKey, &Held) -> bool,
    ) -> Vec<BlockKey> {
        let mut found = Vec::new();
        for version in versions {
            if let Some(held) = self.versions.get(version)
                && wanted(*version, held)
            {
                found.extend(held.blocks.keys().map(|index| BlockKey {
                    version: *version,
                    index: *index,
                }));
            }
        }
        found
    }
}

fn pop_held(
    ages: &mut VecDeque<BlockKey>,
    versions: &HashMap<VersionKey, Held>,
) -> Option<BlockKey> {
    for _ in 0..ages.len() {
        let key = ages.pop_front()?;
        match versions.get(&key.version) {
            Some(held) if !held.blocks.contains_key(&key.index) => {}
            Some(held) if held.pinned => ages.push_back(key),
            Some(_) => return Some(key),
            None => {}
        }
    }
    None
}

fn holds(versions: &HashMap<VersionKey, Held>, key: &BlockKey) -> bool {
    versions
        .get(&key.version)
        .is_some_and(|held| held.blocks.contains_key(&key.index))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(version: u128, index: u32) -> BlockKey {
        BlockKey {
            version: VersionKey(version),
            index,
        }
    }

    #[test]
    fn what_enters_is_counted_once_and_what_leaves_is_gone() {
        let residents = Residents::default();
        let object = ObjectId::new("models", "a");
        residents.entered(&object, key(1, 0), 10);
        residents.entered(&object, key(1, 0), 10);
        residents.entered(&object, key(2, 0), 5);
        let tally = residents.tally("models");
        assert_eq!((tally.blocks, tally.bytes, tally.objects), (2, 15, 1));
        residents.left(key(1, 0));
        residents.left(key(1, 0));
        residents.left(key(2, 0));
        assert_eq!(residents.total(), Tally::default());
        assert!(residents.find("models", |_| true).is_empty());
    }

    #[test]
    fn the_oldest_that_is_still_here_goes_first() {
        let residents = Residents::default();
        let object = ObjectId::new("models", "a");
        for index in 0..3 {
            residents.entered(&object, key(1, index), 1);
        }
        residents.left(key(1, 0));
        assert_eq!(residents.pop_oldest(), Some(key(1, 1)));
        assert_eq!(residents.pop_oldest(), Some(key(1, 2)));
        assert_eq!(residents.pop_oldest(), None);
    }

    #[test]
    fn find_keeps_to_the_dataset() {
        let residents = Residents::default();
        residents.entered(&ObjectId::new("a", "x/1"), key(1, 0), 1);
        residents.entered(&ObjectId::new("b", "x/1"), key(2, 0), 1);
        let found = residents.find("a", |name| name.starts_with("x/"));
        assert_eq!(found, [key(1, 0)]);
    }
}
