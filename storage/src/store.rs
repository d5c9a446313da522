//! One door to the tiers and the running fills: look up, join, or lead.

mod above;
mod asker;
mod end;
mod flights;
mod hand_over;
mod keep;
mod purge;
mod room;
mod tiers;
mod warm;

use std::collections::VecDeque;
use std::ops::RangeInclusive;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Semaphore;

pub use self::asker::{Asker, Level, ORIGIN, Spot};
pub use self::room::{CONNECTION_BYTES, Place, STREAM_BYTES, places_in};
pub use self::tiers::Copies;

pub(crate) use self::above::Here;
use self::flights::Flights;
use self::tiers::Tiers;
use crate::block::{Block, BlockKey, BlockSize};
use crate::budget::Budget;
use crate::fill::Run;
use crate::flight::{Flight, Follower};
use crate::frames::Frames;
use crate::memory::BlockStore;
use crate::nvme::Nvme;
use crate::object::ObjectId;
use crate::residents::Residents;
use crate::version::Version;

/// Bytes of consecutive missing blocks that one GET asks for at most.
///
/// 8 MiB make 128 GETs of a GiB: few enough for object stores that charge by the request, short
/// enough that several run side by side in a request's window.
pub const RUN_BYTES: u64 = 8 << 20;

/// Above this share of the budget nothing is read ahead.
const AHEAD_SHARE: (u64, u64) = (90, 100);

/// A block for a reader.
#[derive(Debug)]
pub enum Handle {
    /// It is resident.
    Resident(Block),
    /// It is arriving.
    Following(Follower),
}

/// How a block was come by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It was in memory.
    Hit,
    /// It was on NVMe; it is being read from there, by us or by another.
    Nvme,
    /// Somebody else's fill was joined.
    Joined,
    /// A fill was started for it.
    Led,
}

/// What [`Store::open`] found, in the order of the blocks.
#[derive(Debug, Default)]
pub struct Opened {
    /// The blocks, from the first asked for, fewer if reading ahead was refused.
    pub blocks: Vec<(u32, Handle, Outcome)>,
    /// Fills that the caller now leads and must drive.
    pub runs: Vec<Run>,
}

/// What [`Store::open_as`] is asked for.
struct Wanted<'a> {
    asker: &'a Asker<'a>,
    object: &'a ObjectId,
    version: &'a Arc<Version>,
    /// Nothing is led if the store has counted another number of purges by now.
    purges: Option<u64>,
}

/// One block of what was asked for.
struct Found {
    handle: Handle,
    outcome: Outcome,
    /// Its fill is the asker's to lead; and its group.
    led: Option<(Arc<Flight>, u64)>,
}

/// The run that is being put together.
#[derive(Default)]
struct Led {
    flights: VecDeque<Arc<Flight>>,
    group: u64,
}

impl Led {
    /// Whether the run goes on with this block.
    fn takes(&self, flight: &Flight, group: u64, (block_size, run): (BlockSize, u64)) -> bool {
        let Some(last) = self.flights.back() else {
            return true;
        };
        // What is asked of another gateway is its to cut.
        let most = if flight.source() == ORIGIN {
            run
        } else {
            RUN_BYTES
        };
        let full = (self.flights.len() as u64 + 1) * block_size.bytes() > most.min(RUN_BYTES);
        !full && last.key().index + 1 == flight.key().index && self.group == group
    }
}

/// The tiers, the running fills, and the budget of their bytes.
#[derive(Debug)]
pub struct Store {
    memory: Tiers,
    residents: Arc<Residents>,
    nvme: Option<Arc<Nvme>>,
    flights: Mutex<Flights>,
    budget: Budget,
    /// Bytes for connections and streams that are left of their part of it.
    places: Arc<Semaphore>,
    frames: Frames,
    block_size: BlockSize,
    /// What is on NVMe is left alone.
    veiled: AtomicBool,
}

impl Store {
    /// A store whose blocks take at most `memory` bytes, whoever holds them, and that keeps more
    /// of them in `nvme` if there is that tier.
    pub fn new(memory: u64, block_size: BlockSize, nvme: Option<Arc<Nvme>>) -> Arc<Self> {
        let residents = Arc::new(Residents::default());
        let tiers = Tiers::new(memory, Copies::Alike, &residents);
        Self::of(Budget::new(memory), block_size, tiers, residents, nvme)
    }

    /// The same for a gateway of a fleet: memory is set apart for bodies to other gateways, and
    /// `copies` says what becomes of their blocks.
    pub fn in_fleet(
        memory: u64,
        block_size: BlockSize,
        nvme: Option<Arc<Nvme>>,
        copies: Copies,
    ) -> Arc<Self> {
        let residents = Arc::new(Residents::default());
        let tiers = Tiers::new(memory, copies, &residents);
        Self::of(Budget::in_fleet(memory), block_size, tiers, residents, nvme)
    }

    /// A store for a fleet of one over another memory tier, which reports to `residents` what leaves
    /// it.
    pub fn with_tier(
        memory: u64,
        block_size: BlockSize,
        tier: Box<dyn BlockStore>,
        residents: Arc<Residents>,
        nvme: Option<Arc<Nvme>>,
    ) -> Arc<Self> {
        let tiers = Tiers::of(tier, memory);
        Self::of(Budget::new(memory), block_size, tiers, residents, nvme)
    }

    /// [`Self::in_fleet`] over other memory tiers, for owned blocks and for copies, which report to `residents` what
    /// leaves them.
    pub fn in_fleet_with_tiers(
        memory: u64,
        block_size: BlockSize,
        tiers: [Box<dyn BlockStore>; 2],
        residents: Arc<Residents>,
        nvme: Option<Arc<Nvme>>,
    ) -> Arc<Self> {
        let tiers = Tiers::apart(tiers, memory);
        Self::of(Budget::in_fleet(memory), block_size, tiers, residents, nvme)
    }

    fn of(
        budget: Budget,
        block_size: BlockSize,
        memory: Tiers,
        residents: Arc<Residents>,
        nvme: Option<Arc<Nvme>>,
    ) -> Arc<Self> {
        let tables = nvme.as_ref().map_or(0, |nvme| nvme.geometry().memory());
        let budget = budget.with_apart(tables);
        Arc::new(Self {
            memory,
            residents,
            nvme,
            flights: Mutex::default(),
            frames: Frames::new(budget.limit()),
            places: Arc::new(Semaphore::new(room::places(budget.room()))),
            budget,
            block_size,
            veiled: AtomicBool::new(false),
        })
    }

    /// How objects are cut.
    pub fn block_size(&self) -> BlockSize {
        self.block_size
    }

    /// The bound on block bytes, and what is leased of it.
    pub fn budget(&self) -> &Budget {
        &self.budget
    }

    /// Where whole segments are written to.
    pub(crate) fn frames(&self) -> &Frames {
        &self.frames
    }

    /// Bytes of whole blocks in the memory tier.
    pub fn memory_usage(&self) -> u64 {
        self.memory.usage()
    }

    /// What the memory tier may keep, in bytes.
    pub fn memory_limit(&self) -> u64 {
        self.memory.limit()
    }

    /// Fills that are under way.
    pub fn running_fills(&self) -> usize {
        self.lock().len()
    }

    /// The table of blocks in memory.
    pub fn residents(&self) -> &Residents {
        &self.residents
    }

    /// The NVMe tier, if there is one.
    pub fn nvme(&self) -> Option<&Arc<Nvme>> {
        self.nvme.as_ref()
    }

    /// The work of the NVMe tier: opening its files, writing, trying a failed disk again. To be
    /// polled in a task of its own; it never ends while there is such a tier.
    pub async fn keep_nvme(self: Arc<Self>) {
        if let Some(nvme) = &self.nvme {
            Arc::clone(nvme).keep(Arc::clone(&self)).await;
        }
    }

    /// Whether a block is resident in any tier; moves nothing.
    pub fn contains(&self, key: &BlockKey) -> bool {
        self.memory.contains(key) || self.on_nvme(key)
    }

    /// The tiers that hold a block; moves nothing.
    pub fn tiers(&self, key: &BlockKey) -> impl Iterator<Item = &'static str> + use<> {
        let memory = self.memory.contains(key).then_some("memory");
        let nvme = self.on_nvme(key).then_some("nvme");
        memory.into_iter().chain(nvme)
    }

    /// Bytes of a dataset that are resident, however many tiers hold them.
    pub fn resident_bytes(&self, dataset: &str) -> u64 {
        let memory = self.residents.tally(dataset).bytes;
        let Some(nvme) = &self.nvme else {
            return memory;
        };
        match nvme.tally(dataset).bytes {
            0 => memory,
            // Counted one after the other while blocks move: never less than either.
            bytes => (memory + bytes)
                .saturating_sub(self.residents.shared(nvme.residents(), dataset))
                .max(bytes),
        }
    }

    /// Whether a block is on NVMe, as far as can be told without reading it; moves nothing.
    pub fn on_nvme(&self, key: &BlockKey) -> bool {
        let held = self.nvme.as_ref().is_some_and(|nvme| nvme.holds(key));
        held && !self.is_veiled()
    }

    /// The block, if it is in memory, to be written to the disk: that is no use of it, or what was
    /// written would push what waits to be written out of memory.
    pub(crate) fn in_memory(&self, key: &BlockKey) -> Option<Block> {
        self.memory.peek(key)
    }

    /// Whether a block of a version is in memory; moves nothing.
    pub fn is_in_memory(&self, version: &Version, index: u32) -> bool {
        let version = version.key;
        self.memory.contains(&BlockKey { version, index })
    }

    /// Whether a block is resident or arriving; moves nothing.
    pub fn has(&self, key: &BlockKey) -> bool {
        self.contains(key) || self.lock().has(key)
    }

    /// Finds every block of `indexes`: resident, joined, or led by the runs that come back.
    ///
    /// Somebody waits for the block `demanded`. The others are read ahead: they are led only while
    /// the budget has room.
    pub fn open(
        self: &Arc<Self>,
        object: &ObjectId,
        version: &Arc<Version>,
        indexes: RangeInclusive<u32>,
        demanded: Option<u32>,
    ) -> Opened {
        self.open_as(&Asker::ALONE, object, version, indexes, demanded)
    }

    /// The same for an asker of a fleet.
    pub fn open_as(
        self: &Arc<Self>,
        asker: &Asker<'_>,
        object: &ObjectId,
        version: &Arc<Version>,
        indexes: RangeInclusive<u32>,
        demanded: Option<u32>,
    ) -> Opened {
        let wanted = Wanted {
            asker,
            object,
            version,
            purges: None,
        };
        self.open_wanted(&wanted, indexes, demanded)
    }

    /// How often anything was purged so far: for [`Self::open_for_answer`].
    pub fn purges(&self) -> u64 {
        self.lock().purges
    }

    /// The same for whoever has bytes of the first blocks coming already, asked for when the store
    /// had counted `purges`. If anything was purged since, nothing is opened: those bytes may be
    /// what the purge was to get rid of.
    pub fn open_for_answer(
        self: &Arc<Self>,
        purges: u64,
        asker: &Asker<'_>,
        object: &ObjectId,
        version: &Arc<Version>,
        indexes: RangeInclusive<u32>,
    ) -> Opened {
        let first = *indexes.start();
        let wanted = Wanted {
            asker,
            object,
            version,
            purges: Some(purges),
        };
        self.open_wanted(&wanted, indexes, Some(first))
    }

    fn open_wanted(
        self: &Arc<Self>,
        wanted: &Wanted<'_>,
        indexes: RangeInclusive<u32>,
        demanded: Option<u32>,
    ) -> Opened {
        let mut opened = Opened::default();
        let mut run = Led::default();
        let cut = (self.block_size, wanted.asker.run);
        for index in indexes {
            let key = BlockKey {
                version: wanted.version.key,
                index,
            };
            if let Some(block) = self.memory.get(&key) {
                opened
                    .blocks
                    .push((index, Handle::Resident(block), Outcome::Hit));
                continue;
            }
            let ahead = Some(index) != demanded;
            let Some(found) = self.join_or_lead(wanted, key, ahead) else {
                break;
            };
            if let Some((flight, group)) = found.led {
                // Blocks on a disk are read side by side, each by itself.
                let alone = found.outcome == Outcome::Nvme;
                if alone || !run.takes(&flight, group, cut) {
                    self.close_run(&mut opened.runs, &mut run, wanted);
                }
                run.group = group;
                run.flights.push_back(flight);
                if alone {
                    self.close_run(&mut opened.runs, &mut run, wanted);
                }
            }
            opened.blocks.push((index, found.handle, found.outcome));
        }
        self.close_run(&mut opened.runs, &mut run, wanted);
        opened
    }

    fn join_or_lead(&self, wanted: &Wanted<'_>, key: BlockKey, ahead: bool) -> Option<Found> {
        let mut flights = self.lock();
        let asker = wanted.asker;
        let class = if ahead {
            asker.class.ahead()
        } else {
            asker.class
        };
        if let Some(flight) = flights.joinable(&key, asker.level) {
            flight.raise(class);
            let outcome = match flight.is_from_nvme() {
                true => Outcome::Nvme,
                false => Outcome::Joined,
            };
            return Some(Found {
                handle: Handle::Following(flight.follow()),
                outcome,
                led: None,
            });
        }
        // A fill files its block before it leaves the table, so what is in neither was in neither
        // at one moment: the one that holds this lock.
        if let Some(block) = self.memory.get(&key) {
            return Some(Found {
                handle: Handle::Resident(block),
                outcome: Outcome::Hit,
                led: None,
            });
        }
        let purged = wanted.purges.is_some_and(|count| count != flights.purges);
        if purged || (ahead && self.is_nearly_full()) {
            return None;
        }
        let range = self.block_size.range(key.index, wanted.version.size);
        let len = u32::try_from(range.end - range.start).unwrap_or(u32::MAX);
        let spot = (asker.spot)(key.index);
        let flight = Flight::new(wanted.object.clone(), key, len, (asker.level, class), spot);
        let handle = Handle::Following(flight.follow());
        // Asked under the lock: a purge empties the disk's table first and this one after it.
        let on_nvme = self.on_nvme(&key);
        flight.set_from_nvme(on_nvme);
        flights.add(&flight);
        let outcome = if on_nvme { Outcome::Nvme } else { Outcome::Led };
        Some(Found {
            handle,
            outcome,
            led: Some((flight, spot.group)),
        })
    }

    /// Whether what can't be given up, fills and what sockets hold, leaves no room for reading ahead.
    /// What the caches hold is not in the way: a fill makes them give it up.
    fn is_nearly_full(&self) -> bool {
        let held = self.budget.used().saturating_sub(self.memory.usage());
        held >= self.budget.limit() / AHEAD_SHARE.1 * AHEAD_SHARE.0
    }

    fn close_run(self: &Arc<Self>, runs: &mut Vec<Run>, led: &mut Led, wanted: &Wanted<'_>) {
        if !led.flights.is_empty() {
            let flights = std::mem::take(&mut led.flights);
            let (store, version) = (Arc::clone(self), Arc::clone(wanted.version));
            runs.push(Run::new(store, wanted.object.clone(), version, flights));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Flights> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
