//! One read: which version, which blocks, in which window, and the stream that leaves.
//!
//! | module | its part |
//! |---|---|
//! | [`version`] | which version is current, asked together with the first block where nothing is known |
//! | `authority` | the same, asked of the gateway that knows |
//! | [`window`] | the blocks in flight for one request |
//! | [`growth`] | how far one stream reads ahead |
//! | [`passes`] | readers that go over an object in ranges, recognised as one |
//! | `ahead` | what is read for those who come next |
//! | [`route`] | where to ask for them: owner, candidates, origin |
//! | `ask` | one request to the origin, and a second one beside it where it stands still |
//! | [`fetch`] | bringing a run of missing blocks, by one hop after the other |
//! | [`remote`] | one of these hops: another gateway |
//! | [`body`] | the stream that leaves, at the socket's own pace |
//! | [`demand`] | whether readers wait: then warming stands back |
//! | [`passthrough`] | objects whose versions can't be told apart: nothing of them is kept |

mod ahead;
mod around;
mod ask;
mod authority;
pub mod body;
pub mod demand;
pub mod fetch;
pub mod growth;
pub mod passes;
pub mod passthrough;
pub mod remote;
pub mod route;
pub mod version;
pub mod window;

use std::cell::RefCell;
use std::sync::Arc;

use forebay_ring::{Extents, Member};
use forebay_storage::fill::Run;
use forebay_storage::object::ObjectId;
use forebay_storage::stats::DatasetStats;
use forebay_storage::store::{Level, ORIGIN, RUN_BYTES, Spot, Store};
use forebay_storage::versions::Versions;

use self::demand::Demand;
use self::growth::Ahead;
use self::passes::Passes;
use self::route::{Hop, Place, Route};
use crate::dataset::Dataset;
use crate::metrics::Metrics;
use crate::peer::Peers;

/// What every read uses.
#[derive(Debug)]
pub struct Reads {
    /// Blocks and fills.
    pub store: Arc<Store>,
    /// Known versions.
    pub versions: Arc<Versions>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// The readers that wait for bytes.
    pub demand: Arc<Demand>,
    /// The other gateways; `None` in a fleet of one.
    pub peers: Option<Arc<Peers>>,
    /// Who reads ahead by much.
    pub ahead: Ahead,
    /// Who goes over which object in ranges.
    pub passes: Passes,
}

/// One part in so many of the memory is for what streams have under way beyond what every one may; as much again
/// for what came of it and was not read yet.
const AHEAD_PART: u64 = 8;

/// A stream reads ahead for so many owners whether that brings more or not.
const SPREAD: usize = 16;

/// What is asked for at once of an origin of which nothing is known.
const FIRST_ASKED: u64 = 2 << 20;

impl Reads {
    /// The way to block `index` of an object of `size` bytes, for whoever was asked at `level`.
    pub fn route(&self, object: &ObjectId, size: u64, index: u32, level: Level) -> Route {
        let extents = self.extents(size);
        let extent = extents.holding(u64::from(index));
        self.route_of(object, (extent, extents.count()), level)
    }

    /// The way to whoever knows an object's version: the owner of its first extent, which needs no size.
    pub fn way_to_authority(&self, object: &ObjectId, level: Level) -> Vec<Hop> {
        // Zones keep blocks of their own, not versions.
        self.route_of(object, (0, 1), level.max(route::ZONE_OWNER))
            .hops
    }

    /// Who else may read block `index` of an object of `size` bytes from the origin, if this gateway may.
    pub(crate) fn stand_ins(&self, object: &ObjectId, size: u64, index: u32) -> Vec<String> {
        let extents = self.extents(size);
        let extent = extents.holding(u64::from(index));
        self.stand_ins_of(object, (extent, extents.count()))
    }

    /// Who else may ask the origin for an object's version, if this gateway may.
    pub(crate) fn stand_ins_of_authority(&self, object: &ObjectId) -> Vec<String> {
        self.stand_ins_of(object, (0, 1))
    }

    fn stand_ins_of(&self, object: &ObjectId, extent: (u64, u64)) -> Vec<String> {
        let Some(peers) = &self.peers else {
            return Vec::new();
        };
        let fleet = peers.fleet();
        let answers = |name: &str| peers.answers(&fleet, name);
        route::stand_ins(&fleet.table, &fleet.own, &answers, &place(object, extent))
    }

    fn route_of(&self, object: &ObjectId, extent: (u64, u64), level: Level) -> Route {
        let Some(peers) = &self.peers else {
            return Route::alone();
        };
        let fleet = peers.fleet();
        let answers = |name: &str| peers.answers(&fleet, name);
        let donors = peers.donors(&fleet, (&object.dataset, &object.key), extent);
        let place = place(object, extent);
        route::route(&fleet.table, &fleet.own, level, &answers, &donors, &place)
    }

    /// Where missing blocks of an object of `size` bytes would come from, by index. What it found last
    /// is remembered: blocks of one extent come from one place, and it is asked under a lock. Extents that
    /// follow each other and are to be asked of the same are one group.
    pub(crate) fn spots(&self, object: &ObjectId, size: u64, level: Level) -> impl Fn(u32) -> Spot {
        let extents = self.extents(size);
        let last: RefCell<Option<(u64, Option<Hop>, Spot)>> = RefCell::default();
        move |index| {
            if self.peers.is_none() {
                return Spot::ALONE;
            }
            let extent = extents.holding(u64::from(index));
            let mut last = last.borrow_mut();
            if let Some((known, _, spot)) = &*last
                && *known == extent
            {
                return *spot;
            }
            let route = self.route_of(object, (extent, extents.count()), level);
            let hop = route.hops.into_iter().next();
            let group = match &*last {
                Some((_, before, spot)) if *before == hop => spot.group,
                _ => extent,
            };
            let spot = Spot {
                source: hop.as_ref().map_or(ORIGIN, Hop::level),
                group,
                owned: route.owned,
            };
            *last = Some((extent, hop, spot));
            spot
        }
    }

    /// Bytes that came so far for a dataset, as far as reading ahead could bring more of them.
    fn arrived(&self, stats: &DatasetStats) -> u64 {
        let peers = self.peers.as_ref();
        let peers = peers.map_or(0, |peers| peers.metrics.received.get());
        DatasetStats::get(&stats.origin_bytes) + peers
    }

    /// What one stream of a dataset may read ahead, as others do it too; `joins`: it is not among those yet.
    fn share_ahead(&self, dataset: &Dataset, joins: bool) -> u64 {
        let memory = self.store.budget().limit() / AHEAD_PART;
        // In a fleet it is the owners who ask the origin.
        let connections = match self.peers {
            None => dataset.origin.connections(),
            Some(_) => None,
        };
        let origin = connections.map_or(u64::MAX, |count| count as u64 * self.run_bytes(dataset));
        memory.min(origin) / (self.ahead.sharers() + u64::from(joins)).max(1)
    }

    /// What a stream that has to wait reads ahead whether that brings more or not: a run's worth for each of those who own
    /// extents, within reason, so that most of them send at once and not one after the other.
    fn spread_ahead(&self) -> u64 {
        let owners = self.peers.as_ref().map_or(1, |peers| {
            let fleet = peers.fleet();
            let zone = fleet.table.member(&fleet.own).map(Member::zone);
            // Whoever is alone in its zone reads from all others.
            match fleet.table.owners(zone) {
                0 | 1 => fleet.table.owners(None),
                near => near,
            }
        });
        owners.min(SPREAD) as u64 * RUN_BYTES
    }

    /// Bytes that are asked of a dataset's origin at once, at most: whole blocks.
    pub(crate) fn run_bytes(&self, dataset: &Dataset) -> u64 {
        let block = self.store.block_size().bytes();
        let worth = dataset.origin.stats().worth_a_request(RUN_BYTES);
        (worth / block * block).max(block)
    }

    /// The same for a stream of so many bytes. Where nothing is known of the origin yet, the first of a long one are asked for
    /// in many requests: at a few megabytes a second its reader would wait long for the end of a few.
    fn run_bytes_of_stream(&self, dataset: &Dataset, bytes: u64) -> u64 {
        let least = FIRST_ASKED.max(self.store.block_size().bytes());
        match dataset.origin.stats().body_rate() {
            0 if bytes > RUN_BYTES => least,
            _ => self.run_bytes(dataset),
        }
    }

    /// How an object of `size` bytes is cut into extents.
    fn extents(&self, size: u64) -> Extents {
        Extents::new(size, self.store.block_size().bytes())
    }

    /// The first block of a run that is not in the extent of its first one; `None`: all of it is.
    pub(crate) fn next_extent(&self, run: &Run) -> Option<u32> {
        let (first, last) = (run.index()?, run.last_index()?);
        let extents = self.extents(run.version().size);
        let next = (extents.holding(u64::from(first)) + 1) * extents.blocks();
        u32::try_from(next).ok().filter(|next| *next <= last)
    }

    /// Whether there is anybody else in the fleet who owns blocks.
    pub(crate) fn shares_blocks(&self) -> bool {
        let owners = |peers: &Arc<Peers>| {
            let fleet = peers.fleet();
            let members = fleet.table.members();
            members
                .iter()
                .any(|member| member.weight() > 0 && member.name() != &*fleet.own)
        };
        self.peers.as_ref().is_some_and(owners)
    }
}

fn place(object: &ObjectId, extent: (u64, u64)) -> Place<'_> {
    Place {
        dataset: &object.dataset,
        key: &object.key,
        extent,
    }
}
