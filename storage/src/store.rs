//! One door to the tiers and the running fills: look up, join, or lead.

mod flights;

use std::collections::{HashMap, VecDeque};
use std::io;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use self::flights::Flights;
use crate::block::{Block, BlockKey, BlockSize};
use crate::budget::{Budget, Lease};
use crate::error::OriginError;
use crate::fill::Run;
use crate::flight::{Flight, Follower};
use crate::frames::Frames;
use crate::memory::{BlockStore, Memory};
use crate::nvme::Nvme;
use crate::object::ObjectId;
use crate::residents::{Residents, Tally};
use crate::version::Version;

/// Bytes of consecutive missing blocks that one GET asks for at most.
///
/// 8 MiB make 128 GETs of a GiB: few enough for object stores that charge by the request, short
/// enough that several run side by side in a request's window.
pub const RUN_BYTES: u64 = 8 << 20;

/// Of `memory`, what the caches may keep; the rest is for fills and for what sockets hold.
const CACHE_SHARE: (u64, u64) = (70, 100);

/// Above this share of the budget nothing is read ahead.
const AHEAD_SHARE: (u64, u64) = (90, 100);

/// While a reservation waits, the caches are asked again this often: what was shared with a reader
/// when it was given up may be free by now.
const GIVE_UP_AGAIN: Duration = Duration::from_millis(20);

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

/// The tiers, the running fills, and the budget of their bytes.
#[derive(Debug)]
pub struct Store {
    memory: Box<dyn BlockStore>,
    residents: Arc<Residents>,
    nvme: Option<Arc<Nvme>>,
    flights: Mutex<Flights>,
    budget: Budget,
    frames: Frames,
    block_size: BlockSize,
}

impl Store {
    /// A store whose blocks take at most `memory` bytes, whoever holds them, and that keeps more
    /// of them in `nvme` if there is that tier.
    pub fn new(memory: u64, block_size: BlockSize, nvme: Option<Arc<Nvme>>) -> Arc<Self> {
        let residents = Arc::new(Residents::default());
        let cache = Memory::new(cache_bytes(memory), Arc::clone(&residents));
        Self::with_tier(memory, block_size, Box::new(cache), residents, nvme)
    }

    /// The same over another memory tier, which reports to `residents` what leaves it.
    pub fn with_tier(
        memory: u64,
        block_size: BlockSize,
        tier: Box<dyn BlockStore>,
        residents: Arc<Residents>,
        nvme: Option<Arc<Nvme>>,
    ) -> Arc<Self> {
        Arc::new(Self {
            memory: tier,
            residents,
            nvme,
            flights: Mutex::default(),
            budget: Budget::new(memory),
            frames: Frames::new(memory),
            block_size,
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
        cache_bytes(self.budget.limit())
    }

    /// Fills that are under way.
    pub fn running_fills(&self) -> usize {
        self.lock().running.len()
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

    fn on_nvme(&self, key: &BlockKey) -> bool {
        self.nvme.as_ref().is_some_and(|nvme| nvme.holds(key))
    }

    /// The block, if it is in memory.
    pub(crate) fn in_memory(&self, key: &BlockKey) -> Option<Block> {
        self.memory.get(key)
    }

    /// Whether a block is resident or arriving; moves nothing.
    pub fn has(&self, key: &BlockKey) -> bool {
        self.contains(key) || self.lock().running.contains_key(key)
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
        self.open_unless(None, object, version, indexes, demanded)
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
        object: &ObjectId,
        version: &Arc<Version>,
        indexes: RangeInclusive<u32>,
    ) -> Opened {
        let first = *indexes.start();
        self.open_unless(Some(purges), object, version, indexes, Some(first))
    }

    fn open_unless(
        self: &Arc<Self>,
        purges: Option<u64>,
        object: &ObjectId,
        version: &Arc<Version>,
        indexes: RangeInclusive<u32>,
        demanded: Option<u32>,
    ) -> Opened {
        let mut opened = Opened::default();
        let mut led: VecDeque<Arc<Flight>> = VecDeque::new();
        for index in indexes {
            let key = BlockKey {
                version: version.key,
                index,
            };
            if let Some(block) = self.memory.get(&key) {
                opened
                    .blocks
                    .push((index, Handle::Resident(block), Outcome::Hit));
                continue;
            }
            let ahead = Some(index) != demanded;
            let found = self.join_or_lead(object, key, version.size, ahead, purges);
            let Some(found) = found else {
                break;
            };
            match (found.2, found.1) {
                (Outcome::Led, flight) => {
                    self.add_to_run(&mut opened.runs, &mut led, object, version, flight);
                }
                // Blocks on a disk are read side by side, each by itself.
                (Outcome::Nvme, Some(flight)) => {
                    let (store, version) = (Arc::clone(self), Arc::clone(version));
                    let run = Run::new(store, object.clone(), version, VecDeque::from([flight]));
                    opened.runs.push(run);
                }
                _ => {}
            }
            opened.blocks.push((index, found.0, found.2));
        }
        self.close_run(&mut opened.runs, &mut led, object, version);
        opened
    }

    fn join_or_lead(
        &self,
        object: &ObjectId,
        key: BlockKey,
        size: u64,
        ahead: bool,
        purges: Option<u64>,
    ) -> Option<(Handle, Option<Arc<Flight>>, Outcome)> {
        let mut flights = self.lock();
        if let Some(flight) = flights.running.get(&key) {
            let follower = Handle::Following(flight.follow());
            let outcome = match flight.is_from_nvme() {
                true => Outcome::Nvme,
                false => Outcome::Joined,
            };
            return Some((follower, None, outcome));
        }
        // A fill files its block before it leaves the table, so what is in neither was in neither
        // at one moment: the one that holds this lock.
        if let Some(block) = self.memory.get(&key) {
            return Some((Handle::Resident(block), None, Outcome::Hit));
        }
        let purged = purges.is_some_and(|purges| purges != flights.purges);
        if purged || (ahead && self.is_nearly_full()) {
            return None;
        }
        let range = self.block_size.range(key.index, size);
        let len = u32::try_from(range.end - range.start).unwrap_or(u32::MAX);
        let flight = Flight::new(object.clone(), key, len);
        let follower = Handle::Following(flight.follow());
        // Asked under the lock: a purge empties the disk's table first and this one after it.
        let on_nvme = self.on_nvme(&key);
        flight.set_from_nvme(on_nvme);
        flights.running.insert(key, Arc::clone(&flight));
        let outcome = if on_nvme { Outcome::Nvme } else { Outcome::Led };
        Some((follower, Some(flight), outcome))
    }

    /// Whether what can't be given up, fills and what sockets hold, leaves no room for reading ahead.
    /// What the caches hold is not in the way: a fill makes them give it up.
    fn is_nearly_full(&self) -> bool {
        let held = self.budget.used().saturating_sub(self.memory.usage());
        held >= self.budget.limit() / AHEAD_SHARE.1 * AHEAD_SHARE.0
    }

    fn add_to_run(
        self: &Arc<Self>,
        runs: &mut Vec<Run>,
        led: &mut VecDeque<Arc<Flight>>,
        object: &ObjectId,
        version: &Arc<Version>,
        flight: Option<Arc<Flight>>,
    ) {
        let Some(flight) = flight else { return };
        let full = led.len() as u64 * self.block_size.bytes() >= RUN_BYTES;
        let gap = led
            .back()
            .is_some_and(|last| last.key().index + 1 != flight.key().index);
        if full || gap {
            self.close_run(runs, led, object, version);
        }
        led.push_back(flight);
    }

    fn close_run(
        self: &Arc<Self>,
        runs: &mut Vec<Run>,
        led: &mut VecDeque<Arc<Flight>>,
        object: &ObjectId,
        version: &Arc<Version>,
    ) {
        if !led.is_empty() {
            let flights = std::mem::take(led);
            let (store, version) = (Arc::clone(self), Arc::clone(version));
            runs.push(Run::new(store, object.clone(), version, flights));
        }
    }

    /// Memory for a fill, once the caches have given up what they can and sockets the rest.
    pub(crate) async fn reserve(&self, bytes: u32) -> Lease {
        if let Some(lease) = self.budget.try_reserve(bytes) {
            return lease;
        }
        let mut lease = std::pin::pin!(self.budget.reserve(bytes));
        loop {
            self.give_up(u64::from(bytes));
            tokio::select! {
                biased;
                lease = &mut lease => return lease,
                () = tokio::time::sleep(GIVE_UP_AGAIN) => {}
            }
        }
    }

    /// Memory for a fill, if it is there at once, or once the caches have given up as much.
    pub(crate) fn try_reserve(&self, bytes: u32) -> Option<Lease> {
        if let Some(lease) = self.budget.try_reserve(bytes) {
            return Some(lease);
        }
        // Who waits comes first; what the caches give up is theirs.
        if self.budget.waiting() > 0 {
            return None;
        }
        self.give_up(u64::from(bytes));
        self.budget.try_reserve(bytes)
    }

    /// Makes the memory tier let blocks go, those whose turn it is, until about `bytes` are free of it.
    fn give_up(&self, bytes: u64) {
        let mut freed = 0;
        while freed < bytes {
            let Some(block) = self.memory.evict() else {
                return;
            };
            if !block.is_shared() {
                freed += block.weight() as u64;
            }
        }
    }

    /// Files the block of a fill that has all its segments, and ends the fill.
    ///
    /// A fill that was purged meanwhile is out of the table: its followers get their bytes, and
    /// nobody who comes later does.
    pub(crate) fn complete(&self, flight: &Arc<Flight>, version: &Arc<Version>) {
        let key = flight.key();
        {
            // Under the lock a purge comes either before, and finds the fill, or after, and finds
            // the block.
            let mut table = self.lock();
            if table.remove(flight) {
                self.residents.entered(flight.object(), key, flight.len());
                self.memory.insert(key, Block::new(flight.segments()));
                if let Some(nvme) = &self.nvme {
                    nvme.offer(flight.object(), version, key, flight.len());
                }
            }
        }
        flight.end(Ok(()));
    }

    /// Ends a fill that will not be done.
    pub(crate) fn abandon(&self, flight: &Arc<Flight>, error: OriginError) {
        self.lock().remove(flight);
        flight.end(Err(error));
    }

    /// Takes fills off the front that nobody follows, until one that somebody does.
    pub(crate) fn drop_unfollowed(&self, flights: &mut VecDeque<Arc<Flight>>) {
        // Under the lock nobody joins, so "not followed" stays true until the fill is out of reach.
        let mut table = self.lock();
        while flights.front().is_some_and(|flight| !flight.is_followed()) {
            if let Some(flight) = flights.pop_front() {
                table.remove(&flight);
                flight.end(Err(OriginError::Abandoned));
            }
        }
    }

    /// Takes fills off the back that nobody follows, until one that somebody does.
    pub(crate) fn drop_unfollowed_tail(&self, flights: &mut VecDeque<Arc<Flight>>) {
        let mut table = self.lock();
        while flights.back().is_some_and(|flight| !flight.is_followed()) {
            if let Some(flight) = flights.pop_back() {
                table.remove(&flight);
                flight.end(Err(OriginError::Abandoned));
            }
        }
    }

    /// Lets every block go of the objects of `dataset` that `wanted` picks by key: resident ones,
    /// and those that arrive just now. With an NVMe tier it is on the disk when this returns, and
    /// this blocks on the disk.
    ///
    /// # Errors
    /// If that could not be noted: the blocks are gone, but a restart may bring some back.
    pub fn purge(&self, dataset: &str, wanted: impl Fn(&str) -> bool) -> io::Result<Tally> {
        let (mut purged, memory) = match &self.nvme {
            None => (HashMap::new(), self.purge_memory(dataset, &wanted)),
            Some(nvme) => {
                let (purged, memory) =
                    nvme.purge(dataset, &wanted, || self.purge_memory(dataset, &wanted));
                (purged?, memory)
            }
        };
        purged.extend(memory);
        Ok(Tally {
            blocks: purged.len() as u64,
            bytes: purged.values().map(|len| u64::from(*len)).sum(),
            objects: 0,
        })
    }

    fn purge_memory(&self, dataset: &str, wanted: impl Fn(&str) -> bool) -> Vec<(BlockKey, u32)> {
        let mut table = self.lock();
        table.purges += 1;
        table.running.retain(|_, flight| {
            let object = flight.object();
            &*object.dataset != dataset || !wanted(&object.key)
        });
        drop(table);
        let found = self.residents.find(dataset, wanted).into_iter();
        let purged = found.filter_map(|key| {
            let block = self.memory.remove(&key)?;
            Some((key, u32::try_from(block.len()).unwrap_or(u32::MAX)))
        });
        purged.collect()
    }

    fn lock(&self) -> MutexGuard<'_, Flights> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn cache_bytes(memory: u64) -> u64 {
    memory / CACHE_SHARE.1 * CACHE_SHARE.0
}

#[cfg(test)]
mod tests;
