//! What is kept of a dataset whatever comes, and what is not: pins, quotas and times to live.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::{Residents, Table, Tally, holds};
use crate::block::BlockKey;
use crate::object::ObjectId;

/// What is pinned: of each dataset, the objects whose keys begin with one of these prefixes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pins(BTreeMap<String, Vec<String>>);

/// What bounds a dataset in one tier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes at most.
    pub quota: Option<u64>,
    /// How long a block stays at most.
    pub ttl: Option<Duration>,
}

/// A dataset that is bounded, and its blocks in the order in which they came; those that left are skipped when met.
#[derive(Debug, Default)]
pub(super) struct Bounded {
    bounds: Bounds,
    order: VecDeque<(BlockKey, Instant)>,
}

impl Pins {
    /// That of these datasets and prefixes.
    pub fn new(pins: impl IntoIterator<Item = (String, String)>) -> Self {
        let mut all = Self::default();
        for (dataset, prefix) in pins {
            all.0.entry(dataset).or_default().push(prefix);
        }
        all
    }

    /// Whether an object is pinned.
    pub fn cover(&self, object: &ObjectId) -> bool {
        let prefixes = self.0.get(&*object.dataset);
        prefixes.is_some_and(|prefixes| {
            let mut prefixes = prefixes.iter();
            prefixes.any(|prefix| object.key.starts_with(prefix.as_str()))
        })
    }
}

impl Residents {
    /// Pins these, and nothing else any more. Of each object only the version that came last is pinned.
    pub fn set_pins(&self, pins: &Pins) {
        let mut table = self.lock();
        let table = &mut *table;
        table.pins = pins.clone();
        for held in table.versions.values_mut() {
            held.pinned = held.is_latest && pins.cover(&held.object);
        }
    }

    /// Whether an object's blocks are pinned as they come.
    pub fn pins_cover(&self, object: &ObjectId) -> bool {
        self.lock().pins.cover(object)
    }

    /// Whether a block is here and pinned.
    pub fn is_pinned(&self, key: &BlockKey) -> bool {
        let table = self.lock();
        let held = table.versions.get(&key.version);
        held.is_some_and(|held| held.pinned && held.blocks.contains_key(&key.index))
    }

    /// What is pinned of a dataset, or of all.
    pub fn pinned(&self, dataset: Option<&str>) -> Tally {
        let table = self.lock();
        let versions = table.versions.values();
        let pinned = versions.filter(|held| {
            held.pinned && dataset.is_none_or(|dataset| &*held.object.dataset == dataset)
        });
        let mut tally = Tally::default();
        for held in pinned {
            tally.objects += 1;
            tally.blocks += held.blocks.len() as u64;
            let lengths = held.blocks.values().map(|place| u64::from(place.len));
            tally.bytes += lengths.sum::<u64>();
        }
        tally
    }

    /// Every pinned block after which `after` bytes or more came, with its bytes and its write: the oldest first.
    pub fn aged_pins(&self, after: u64) -> Vec<(BlockKey, u32, u64)> {
        let table = self.lock();
        let pinned = table.versions.iter().filter(|(_, held)| held.pinned);
        let mut aged: Vec<_> = pinned
            .flat_map(|(version, held)| {
                let aged = held.blocks.iter();
                let aged = aged.filter(|(_, place)| table.come - place.come >= after);
                aged.map(|(index, place)| {
                    let key = BlockKey {
                        version: *version,
                        index: *index,
                    };
                    (key, place.len, place.write)
                })
            })
            .collect();
        aged.sort_unstable_by_key(|(.., write)| *write);
        aged
    }

    /// Takes all that is here for old: how much came since is not known.
    pub fn age(&self) {
        // More than any device is written in its life.
        self.lock().come += 1 << 62;
    }

    /// Bounds a dataset so from now on. What is here already counts as come now.
    pub fn set_bounds(&self, dataset: &str, bounds: Bounds) {
        if bounds == Bounds::default() {
            self.lock().bounded.remove(dataset);
            return;
        }
        let here = self.find(dataset, |_| true);
        let mut table = self.lock();
        let bounded = table.bounded.entry(dataset.into()).or_default();
        bounded.bounds = bounds;
        if bounded.order.is_empty() {
            let now = Instant::now();
            bounded.order.extend(here.into_iter().map(|key| (key, now)));
        }
    }

    /// Whether so many bytes more would be beyond the dataset's quota.
    pub fn is_over_quota_with(&self, dataset: &str, bytes: u64) -> bool {
        let table = self.lock();
        let quota = table.bounded.get(dataset);
        let quota = quota.and_then(|bounded| bounded.bounds.quota);
        let held = table.datasets.get(dataset).map_or(0, |tally| tally.bytes);
        quota.is_some_and(|quota| held + bytes > quota)
    }

    /// The block of a dataset that is beyond its quota, if that is so, which has to go: it is asked for no more.
    pub fn pop_over_quota(&self, dataset: &str) -> Option<BlockKey> {
        if !self.is_over_quota_with(dataset, 0) {
            return None;
        }
        let mut table = self.lock();
        let table = &mut *table;
        let bounded = table.bounded.get_mut(dataset)?;
        for _ in 0..bounded.order.len() {
            let (key, come) = bounded.order.pop_front()?;
            match table.versions.get(&key.version) {
                Some(held) if held.pinned => bounded.order.push_back((key, come)),
                Some(held) if held.blocks.contains_key(&key.index) => return Some(key),
                _ => {}
            }
        }
        None
    }

    /// The blocks whose time is over: they are asked for no more.
    pub fn pop_expired(&self) -> Vec<BlockKey> {
        let mut table = self.lock();
        let table = &mut *table;
        let now = Instant::now();
        let mut expired = Vec::new();
        for bounded in table.bounded.values_mut() {
            let Some(ttl) = bounded.bounds.ttl else {
                continue;
            };
            let order = &mut bounded.order;
            while let Some((key, come)) = order.front().copied()
                && now.duration_since(come) >= ttl
            {
                order.pop_front();
                match table.versions.get(&key.version) {
                    Some(held) if held.pinned => order.push_back((key, now)),
                    Some(held) if held.blocks.contains_key(&key.index) => expired.push(key),
                    _ => {}
                }
            }
        }
        expired
    }
}

impl Table {
    /// Notes when a block came, where that counts.
    pub(super) fn note_age(&mut self, dataset: &Arc<str>, key: BlockKey) {
        let Some(bounded) = self.bounded.get_mut(dataset) else {
            return;
        };
        bounded.order.push_back((key, Instant::now()));
        if bounded.order.len() > 64 + 2 * self.blocks {
            let versions = &self.versions;
            bounded.order.retain(|(key, _)| holds(versions, key));
        }
    }

    /// Notes that a version of an object begins to come: of those that are here it is the latest from now on.
    pub(super) fn note_latest(&mut self, object: &ObjectId, key: BlockKey) {
        let pinned = self.pins.cover(object);
        for version in self.objects.get(object).into_iter().flatten() {
            if let Some(held) = self.versions.get_mut(version) {
                held.is_latest = *version == key.version;
                held.pinned = held.is_latest && pinned;
            }
        }
    }
}

/// Datasets that are bounded.
pub(super) type AllBounded = HashMap<Arc<str>, Bounded>;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::purge::Tag;
    use crate::version::VersionKey;

    fn key(version: u128, index: u32) -> BlockKey {
        BlockKey {
            version: VersionKey(version),
            index,
        }
    }

    #[test]
    fn the_version_that_came_last_is_pinned_and_no_other() {
        let residents = Residents::default();
        let object = ObjectId::new("models", "a/1");
        residents.entered(&object, key(1, 0), 10);
        residents.set_pins(&Pins::new([("models".into(), "a/".into())]));
        assert!(residents.is_pinned(&key(1, 0)));
        assert!(!residents.is_pinned(&key(1, 1)), "it is not here");
        residents.entered(&ObjectId::new("models", "b"), key(2, 0), 10);
        residents.entered(&object, key(3, 0), 5);
        assert!(residents.is_pinned(&key(3, 0)) && !residents.is_pinned(&key(1, 0)));
        assert_eq!(residents.pinned(Some("models")).bytes, 5);
        assert_eq!(residents.pinned(Some("others")).bytes, 0);
        // The oldest that may go is not the pinned one.
        let oldest = std::iter::from_fn(|| residents.pop_oldest());
        assert_eq!(oldest.collect::<Vec<_>>(), [key(1, 0), key(2, 0)]);
        residents.set_pins(&Pins::default());
        assert_eq!(residents.pop_oldest(), Some(key(3, 0)));
    }

    #[test]
    fn pinned_blocks_are_aged_once_many_bytes_came_after_them_though_they_left_again() {
        let residents = Residents::default();
        residents.set_pins(&Pins::new([("models".into(), "a".into())]));
        for index in 0..3 {
            let write = 10 + u64::from(index);
            residents.entered_by(
                (&ObjectId::new("models", "a"), Tag::of(None)),
                key(1, index),
                1,
                write,
            );
        }
        assert!(residents.aged_pins(3).is_empty());
        for index in 0..2 {
            let write = 1000 + u64::from(index);
            residents.entered_by(
                (&ObjectId::new("models", "b"), Tag::of(None)),
                key(2, index),
                1,
                write,
            );
            residents.left(key(2, index));
        }
        let aged: Vec<_> = residents
            .aged_pins(3)
            .into_iter()
            .map(|(key, ..)| key)
            .collect();
        assert_eq!(aged, [key(1, 0), key(1, 1)]);
        residents.entered_by(
            (&ObjectId::new("models", "a"), Tag::of(None)),
            key(1, 0),
            1,
            2000,
        );
        assert_eq!(
            residents.aged_pins(3)[0].0,
            key(1, 1),
            "written again it is young"
        );
        residents.age();
        assert_eq!(residents.aged_pins(1000).len(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_beyond_a_quota_or_too_old_is_told_once() {
        let residents = Residents::default();
        let object = ObjectId::new("models", "a");
        residents.entered(&object, key(1, 0), 10);
        let bounds = Bounds {
            quota: Some(25),
            ttl: Some(Duration::from_secs(10)),
        };
        residents.set_bounds("models", bounds);
        residents.entered(&object, key(1, 1), 10);
        assert_eq!(residents.pop_over_quota("models"), None);
        assert!(residents.is_over_quota_with("models", 6));
        residents.entered(&object, key(1, 2), 10);
        assert_eq!(residents.pop_over_quota("models"), Some(key(1, 0)));
        residents.left(key(1, 0));
        assert_eq!(residents.pop_over_quota("models"), None);
        tokio::time::advance(Duration::from_secs(9)).await;
        residents.entered(&object, key(1, 3), 1);
        assert!(residents.pop_expired().is_empty());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(residents.pop_expired(), [key(1, 1), key(1, 2)]);
        assert!(residents.pop_expired().is_empty());
    }
}
