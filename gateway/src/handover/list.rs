//! What a gateway holds, told to another one: versions by their headers, and blocks of them, the hottest first.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use forebay_ring::{Extents, Table};
use forebay_storage::block::{BlockKey, BlockSize};
use forebay_storage::object::ObjectId;
use forebay_storage::version::{Version, VersionKey};
use serde::{Deserialize, Serialize};

use super::{aside, json, until};
use crate::dataset::{Dataset, Datasets};
use crate::known;
use crate::peer::{PeerBody, Peers};
use crate::warm::place::Crew;

/// Blocks of one part at most: what is asked for at once.
const PART: u32 = 4;

/// The question what a member holds of what the asker owns.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Look {
    /// The asker's table: another one says nothing of what is the asker's.
    pub(super) epoch: String,
    /// From so many blocks on, the hottest first.
    pub(super) skip: u64,
    /// So many at most.
    pub(super) count: u64,
}

/// A page of what a member holds.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Listed {
    /// All blocks and bytes, of this page or not.
    pub(super) blocks: u64,
    pub(super) bytes: u64,
    objects: Vec<Object>,
    /// The place of an object, its first block, and how many.
    hot: Vec<(usize, u32, u32)>,
    /// There is another page.
    pub(super) more: bool,
    /// Bytes a second that the link of whoever tells carries at least; zero: not known.
    #[serde(default)]
    pub(super) link: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Object {
    dataset: String,
    key: String,
    version_id: Option<String>,
    /// 32 hexadecimal digits.
    version: String,
    size: u64,
    headers: Vec<(String, String)>,
}

/// Consecutive blocks of a version that a member holds.
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) dataset: Arc<Dataset>,
    pub(super) object: ObjectId,
    pub(super) version: Arc<Version>,
    pub(super) blocks: Range<u32>,
}

impl Held {
    /// Its blocks and bytes.
    pub(super) fn amount(&self, block_size: BlockSize) -> (u64, u64) {
        let start = |index| block_size.start(index).min(self.version.size);
        let bytes = start(self.blocks.end) - start(self.blocks.start);
        (self.blocks.len() as u64, bytes)
    }
}

impl Listed {
    /// What is told, as far as our settings make the same of it.
    pub(super) fn held(self, datasets: &Datasets) -> Vec<Held> {
        let objects: Vec<_> = self
            .objects
            .iter()
            .map(|object| object.judge(datasets))
            .collect();
        let hot = self.hot.into_iter();
        let held = hot.filter_map(|(at, first, count)| {
            let (dataset, object, version) = objects.get(at)?.clone()?;
            let end = first.checked_add(count)?;
            let block_size = BlockSize::new(version.identity.block_size);
            (first < end && end <= block_size.count(version.size)).then_some(Held {
                dataset,
                object,
                version,
                blocks: first..end,
            })
        });
        held.collect()
    }

    /// A list of these parts alone.
    pub(super) fn of(parts: &[Held]) -> Self {
        let mut listing = Listing::default();
        for held in parts {
            let (blocks, bytes) = held.amount(BlockSize::new(held.version.identity.block_size));
            listing.listed.blocks += blocks;
            listing.listed.bytes += bytes;
            for index in held.blocks.clone() {
                listing.add(&held.object, &held.version, index);
            }
        }
        listing.listed
    }
}

impl Object {
    fn of(object: &ObjectId, version: &Version) -> Self {
        Self {
            dataset: object.dataset.to_string(),
            key: object.key.to_string(),
            version_id: object.version_id.as_deref().map(str::to_owned),
            version: format!("{:032x}", version.key.0),
            size: version.size,
            headers: known::texts(&version.headers),
        }
    }

    fn judge(&self, datasets: &Datasets) -> Option<(Arc<Dataset>, ObjectId, Arc<Version>)> {
        let dataset = datasets.get(&self.dataset)?;
        let mut object = ObjectId::new(Arc::clone(&dataset.name), self.key.as_str());
        object.version_id = self.version_id.as_deref().map(Into::into);
        let headers = known::headers(&self.headers);
        let version = dataset.origin.describe(&object, self.size, &headers).ok()?;
        let same = u128::from_str_radix(&self.version, 16) == Ok(version.key.0);
        (same && version.cacheable()).then(|| (dataset, object, Arc::new(version)))
    }
}

/// A list that is being put together.
#[derive(Default)]
struct Listing {
    listed: Listed,
    places: HashMap<VersionKey, usize>,
}

impl Listing {
    fn add(&mut self, object: &ObjectId, version: &Version, index: u32) {
        let objects = &mut self.listed.objects;
        let place = *self.places.entry(version.key).or_insert_with(|| {
            objects.push(Object::of(object, version));
            objects.len() - 1
        });
        // What was read in order is listed in the order against it.
        match self.listed.hot.last_mut() {
            Some((at, first, count)) if *at == place && *count < PART && index + 1 == *first => {
                *first = index;
                *count += 1;
            }
            Some((at, first, count))
                if *at == place && *count < PART && *first + *count == index =>
            {
                *count += 1;
            }
            _ => self.listed.hot.push((place, index, 1)),
        }
    }
}

/// Every version that is known here by name, whether as current or because others named it.
fn named(crew: &Crew, peers: Option<&Peers>) -> HashMap<VersionKey, (ObjectId, Arc<Version>)> {
    let current = crew.reads.versions.export().into_iter();
    let current = current.map(|(object, version, _)| (object, version));
    let told = peers.map(|peers| peers.told.all());
    let all = told.into_iter().flatten().chain(current);
    all.map(|(object, version)| (version.key, (object, version)))
        .collect()
}

/// Every block that is held here, the hottest first, of which `wanted` says so by object and extent.
pub(super) fn hottest(
    crew: &Crew,
    peers: Option<&Peers>,
    mut wanted: impl FnMut(&ObjectId, (u64, u64)) -> bool,
) -> Vec<(ObjectId, Arc<Version>, BlockKey)> {
    let named = named(crew, peers);
    let block_size = crew.reads.store.block_size();
    let hottest = crew.reads.store.hottest().into_iter();
    let held = hottest.filter_map(|key| {
        let (object, version) = named.get(&key.version)?;
        let extents = Extents::new(version.size, block_size.bytes());
        let extent = extents.holding(u64::from(key.index));
        let is =
            key.index < block_size.count(version.size) && wanted(object, (extent, extents.count()));
        is.then(|| (object.clone(), Arc::clone(version), key))
    });
    held.collect()
}

/// The name of an extent's owner.
pub(super) fn owner<'a>(
    table: &'a Table,
    object: &ObjectId,
    (extent, extents): (u64, u64),
) -> Option<&'a str> {
    let owner = table.owner(&object.dataset, &object.key, extent, extents);
    owner.map(forebay_ring::Member::name)
}

/// Answers what is held here of what `from` owns.
///
/// # Errors
/// Why that can't be told.
pub(super) async fn answer(
    crew: &Arc<Crew>,
    (peers, from): (&Arc<Peers>, &str),
    look: Look,
    link: u64,
) -> Result<http::Response<PeerBody>, &'static str> {
    if !until(peers, |fleet| fleet.table.epoch() == look.epoch).await {
        return Err("its table of the fleet is another");
    }
    let blocks = crew.reads.store.residents().total().blocks;
    let (crew, peers, from) = (Arc::clone(crew), Arc::clone(peers), from.to_owned());
    let listed = aside(blocks, move || {
        let table = Arc::clone(&peers.fleet().table);
        let held = hottest(&crew, Some(&peers), |object, extent| {
            owner(&table, object, extent) == Some(from.as_str())
        });
        let block_size = crew.reads.store.block_size();
        let (mut bytes, count) = (0, held.len() as u64);
        let mut listing = Listing::default();
        for (place, (object, version, key)) in (0..).zip(&held) {
            let range = block_size.range(key.index, version.size);
            bytes += range.end - range.start;
            if (look.skip..look.skip.saturating_add(look.count)).contains(&place) {
                listing.add(object, version, key.index);
            }
        }
        Listed {
            blocks: count,
            bytes,
            more: look.skip.saturating_add(look.count) < count,
            link,
            ..listing.listed
        }
    });
    let listed = listed.await.map_err(|_| "it failed to look")?;
    Ok(json(&listed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use forebay_storage::version::Identity;

    #[test]
    fn blocks_that_were_read_in_order_are_listed_as_parts() {
        let object = ObjectId::new("models", "a");
        let identity = Arc::new(Identity {
            origin: "s3://b/".into(),
            block_size: 1 << 20,
            immutable: true,
        });
        let version = Version::from_headers(&object, &identity, 20 << 20, &Default::default());
        let mut listing = Listing::default();
        for index in [9, 8, 7, 6, 5, 2, 3, 0] {
            listing.add(&object, &version, index);
        }
        let parts = [(0, 6, 4), (0, 5, 1), (0, 2, 2), (0, 0, 1)];
        assert_eq!(listing.listed.hot, parts);
        assert_eq!(listing.listed.objects.len(), 1);
    }
}
