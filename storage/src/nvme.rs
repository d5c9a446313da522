//! The NVMe tier: blocks on disk that were proved to be there.
//!
//! | module | its part |
//! |---|---|
//! | `geometry` | how the tier's bytes are cut into files, buffers and turns |
//! | [`medium`] | what the tier lies on: files, or the simulator's |
//! | `files` | the files: the journal's, and the block files, by foyer |
//! | `disk` | what is written of a block, and what is believed of what is read |
//! | `read` | blocks that are read back, and when the disk has failed at that |
//! | `keep` | what is pinned, and what has a bound |
//! | `layout` | their directory: format, clean segment, probe |
//! | `journal` | what is resident, over restarts; what was purged, for good |
//! | `ledger`, `purge` | the journal and what is being written, changed together; what goes from both for good |
//! | `admission` | what is worth writing once the tier is full |
//! | `writer` | the one task that opens the files, writes, and tries a failed disk again |
//!
//! A block is *resident* when it was written and foyer's index names it; our own table and the
//! journal say so from then on. Nothing is synced for that: it holds when the process is killed, and
//! after a power loss what did not reach the device is damage or a miss. Table, journal and block
//! name the one write that they mean, so that no earlier one passes for it. Whatever is read is checked against what was
//! asked for; what does not fit is dropped, counted, and fetched from the origin in the same
//! fill. A disk that fails is left alone: a tier that is off holds nothing.

mod admission;
mod disk;
#[cfg(test)]
mod faults;
mod files;
pub mod geometry;
mod journal;
mod keep;
mod layout;
mod ledger;
pub mod medium;
mod purge;
mod read;
#[cfg(test)]
mod tests;
mod writer;

use std::collections::HashMap;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Semaphore, mpsc};

use crate::block::{BlockKey, BlockSize};
use crate::object::ObjectId;
use crate::purge::Tag;
use crate::residents::{Residents, Tally};
use crate::version::Version;
use crate::watch;
use admission::{Admission, Refusal};
use disk::Disk;
#[cfg(test)]
use faults::Faults;
use files::Files;
use geometry::Geometry;
use journal::{Journal, Told};
use ledger::Ledger;
use medium::Medium;

#[cfg(any(test, fuzzing))]
pub use disk::disk_block;
pub use journal::Remembered;
#[cfg(any(test, fuzzing))]
pub use journal::journal;
pub use layout::bytes_below;

/// The journal's name in the data directory.
const JOURNAL: &str = "blocks.log";

/// Blocks that may wait to be written. Their bytes stay in the memory tier meanwhile, and an offer
/// takes some hundred more; a block that is evicted before its turn is not written.
const WAITING: usize = 4096;

/// Where the tier is and how large.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The directory of the block files.
    pub dir: PathBuf,
    /// The directory of the journal.
    pub data_dir: PathBuf,
    /// Bytes of all files in `dir` together, at most.
    pub bytes: u64,
}

/// What the tier did, from the start.
#[derive(Debug, Default)]
pub struct Stats {
    /// Blocks that were written and proved to be there.
    pub written: AtomicU64,
    /// Blocks that were to be written and were evicted from memory before their turn.
    pub dropped_evicted: AtomicU64,
    /// Blocks that were to be written while too many waited.
    pub dropped_queue: AtomicU64,
    /// Blocks that were to be written while the tier was off.
    pub dropped_off: AtomicU64,
    /// Blocks that were written and are not there.
    pub dropped_lost: AtomicU64,
    /// Blocks that a full tier did not take because it never saw them before.
    pub refused_first_sight: AtomicU64,
    /// Blocks that a full tier did not take because the write budget was used up.
    pub refused_budget: AtomicU64,
    /// Blocks that were not taken because their dataset has its quota.
    pub refused_quota: AtomicU64,
    /// Blocks that had to go because so many small ones are held that the tables are full.
    pub refused_table: AtomicU64,
    /// Reads that the device failed.
    pub read_errors: AtomicU64,
    /// Turns of writes that the device failed.
    pub write_errors: AtomicU64,
    /// Blocks that were read and were not what had been written.
    pub damaged: AtomicU64,
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// Whether the tier is in use.
#[derive(Clone, Debug)]
enum Phase {
    /// The files are being opened; what the journal tells of is waited for.
    Opening,
    /// In use.
    On(Arc<Disk>),
    /// Left alone, and why.
    Off(Arc<str>),
}

/// What there was of a journal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Past {
    /// It tells of blocks.
    Tells,
    /// It tells of none.
    Empty,
    /// It can't be believed, which was said.
    Damaged,
    /// There is none.
    Lost,
}

/// Something to be written, once its turn comes.
#[derive(Debug)]
struct Offer {
    object: ObjectId,
    version: Arc<Version>,
    key: BlockKey,
    /// The number of its write, if it comes to that.
    write: u64,
}

/// The tier.
#[derive(Debug)]
pub struct Nvme {
    medium: Box<dyn Medium>,
    geometry: Geometry,
    id: u64,
    residents: Residents,
    remembered: Mutex<Vec<Arc<Remembered>>>,
    phase: watch::Sender<Phase>,
    ledger: Mutex<Ledger>,
    /// Blocks that left and that the journal does not know of yet. Held while one leaves the table,
    /// so that it can't enter again in between.
    left: Mutex<Vec<BlockKey>>,
    /// What the journal was like at the start.
    journal: Past,
    /// The number of the next write. No two writes share one, not over restarts either.
    next_write: AtomicU64,
    offers: mpsc::Sender<Offer>,
    offered: Mutex<Option<mpsc::Receiver<Offer>>>,
    admission: Mutex<Admission>,
    reads: Semaphore,
    failed_reads: AtomicU32,
    stats: Stats,
    #[cfg(test)]
    faults: Arc<Faults>,
}

impl Nvme {
    /// The tier of `config`, with what its journal tells. The files are not opened yet: that is
    /// the first thing that [`crate::store::Store::keep_nvme`] does. Blocks on the disk.
    ///
    /// # Errors
    /// If another process uses the directory, or there are too few bytes. A disk that fails is
    /// tried again later.
    pub fn new(config: &Config, block_size: BlockSize) -> io::Result<Arc<Self>> {
        Self::on(Box::new(Files::new(config)), config.bytes, block_size)
    }

    /// The same on a medium, of which it takes so many bytes.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn on(medium: Box<dyn Medium>, bytes: u64, block_size: BlockSize) -> io::Result<Arc<Self>> {
        let geometry = Geometry::new(bytes, block_size).ok_or_else(|| {
            let least = Geometry::least(block_size);
            let sentence = format!("it needs at least {least} bytes for blocks of this size");
            io::Error::new(io::ErrorKind::InvalidInput, sentence)
        })?;
        // A directory that can't be written is a disk that fails: it is tried again later. One
        // that another process has is a mistake.
        if let Err(error) = medium.take()
            && error.kind() == io::ErrorKind::ResourceBusy
        {
            return Err(error);
        }
        let log = medium.log();
        let read = Journal::read(&*log);
        if let Err(error) = &read {
            let path = log.path().display();
            tracing::warn!(%path, %error, "the journal of the NVMe tier can't be read: it begins empty");
        }
        let is_there = !matches!(read, Ok(None));
        let told = read.ok().flatten().flatten();
        let journal = match &told {
            Some(told) if told.blocks.is_empty() => Past::Empty,
            Some(_) => Past::Tells,
            None if is_there => Past::Damaged,
            None => Past::Lost,
        };
        let told = told.unwrap_or_else(|| Told {
            id: new_id(),
            ..Told::default()
        });
        let (residents, last_write) = residents_of(&told);
        let ledger = Ledger {
            journal: Journal::new(log, told.id, told.versions.clone()),
            writing: HashMap::new(),
            unwanted: HashMap::new(),
            owed: true,
        };
        let (offers, offered) = mpsc::channel(WAITING);
        let nvme = Self {
            geometry,
            id: told.id,
            residents,
            remembered: Mutex::new(told.versions),
            phase: watch::Sender::new(Phase::Opening),
            ledger: Mutex::new(ledger),
            left: Mutex::default(),
            journal,
            // A write that the journal lost is somewhere behind the last that it tells of.
            next_write: AtomicU64::new(last_write.wrapping_add(1 + (new_id() >> 24))),
            offers,
            offered: Mutex::new(Some(offered)),
            admission: Mutex::new(Admission::new(geometry.blocks(), block_size.bytes())),
            reads: Semaphore::new(geometry.reads()),
            failed_reads: AtomicU32::new(0),
            stats: Stats::default(),
            medium,
            #[cfg(test)]
            faults: Arc::default(),
        };
        let mut ledger = locked(&nvme.ledger);
        if let Err(error) = nvme.compact(&mut ledger) {
            let path = ledger.journal.path().display();
            tracing::warn!(%path, %error, "the journal of the NVMe tier can't be written yet");
        }
        drop(ledger);
        Ok(Arc::new(nvme))
    }

    /// Forgets the tier that was here before, where there is to be none: what is purged from now
    /// on could not be noted, and must not come back with the files.
    ///
    /// # Errors
    /// What the disk says.
    pub fn forget(data_dir: &Path) -> io::Result<()> {
        match std::fs::remove_file(data_dir.join(JOURNAL)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// The tier's arithmetic.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// What it did.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// The table of what it holds. While it is off, none of that is served.
    pub fn residents(&self) -> &Residents {
        &self.residents
    }

    /// `opening`, `on` or `off`.
    pub fn state(&self) -> &'static str {
        match &*self.phase.borrow() {
            Phase::Opening => "opening",
            Phase::On(_) => "on",
            Phase::Off(_) => "off",
        }
    }

    /// Why it is off, if it is.
    pub fn trouble(&self) -> Option<Arc<str>> {
        match &*self.phase.borrow() {
            Phase::Off(reason) => Some(Arc::clone(reason)),
            _ => None,
        }
    }

    /// What is held of a dataset: nothing while the tier is off.
    pub fn tally(&self, dataset: &str) -> Tally {
        match &*self.phase.borrow() {
            Phase::Off(_) => Tally::default(),
            _ => self.residents.tally(dataset),
        }
    }

    /// What is held of all datasets together: nothing while the tier is off.
    pub fn total(&self) -> Tally {
        match &*self.phase.borrow() {
            Phase::Off(_) => Tally::default(),
            _ => self.residents.total(),
        }
    }

    /// Versions that the journal remembered at the start, each object's current one last. Told
    /// once.
    pub fn take_remembered(&self) -> Vec<Arc<Remembered>> {
        std::mem::take(&mut *locked(&self.remembered))
    }

    /// Whether the block can be read from here, as far as can be told without reading it.
    pub(crate) fn holds(&self, key: &BlockKey) -> bool {
        match &*self.phase.borrow() {
            Phase::Off(_) => false,
            Phase::Opening => self.residents.contains(key),
            // The index forgets whole segments; the table is told after the turn.
            Phase::On(disk) => self.residents.contains(key) && disk.contains(key),
        }
    }

    /// Takes note of a block that was just filled: it is written in its turn, if it is worth it.
    pub(crate) fn offer(&self, object: &ObjectId, version: &Arc<Version>, key: BlockKey, len: u32) {
        if let Phase::Off(_) = &*self.phase.borrow() {
            count(&self.stats.dropped_off);
            return;
        }
        if self.residents.contains(&key) {
            return;
        }
        if self.residents.pins_cover(object) {
            return self.queue(object, version, key);
        }
        if self
            .residents
            .is_over_quota_with(&object.dataset, len.into())
        {
            return count(&self.stats.refused_quota);
        }
        let held = self.residents.total();
        let full = held.bytes + held.blocks * geometry::OVERHEAD >= self.geometry.kept()
            || held.blocks >= self.geometry.most_blocks();
        match locked(&self.admission).judge(key, len, full) {
            Ok(()) => self.queue(object, version, key),
            Err(Refusal::FirstSight) => count(&self.stats.refused_first_sight),
            Err(Refusal::Budget) => count(&self.stats.refused_budget),
        }
    }

    /// Takes note of a block that is in memory and was asked to be here: it is written in its turn, however full the
    /// tier is.
    pub(crate) fn offer_for_sure(&self, object: &ObjectId, version: &Arc<Version>, key: BlockKey) {
        match &*self.phase.borrow() {
            Phase::Off(_) => count(&self.stats.dropped_off),
            _ if self.residents.contains(&key) => {}
            _ => self.queue(object, version, key),
        }
    }

    fn queue(&self, object: &ObjectId, version: &Arc<Version>, key: BlockKey) {
        let offer = Offer {
            object: object.clone(),
            version: Arc::clone(version),
            key,
            write: self.next_write.fetch_add(1, Ordering::Relaxed),
        };
        if !offer.remembered().fits() {
            return tracing::debug!(?key, "its headers are too long for the journal");
        }
        if self.offers.try_send(offer).is_err() {
            count(&self.stats.dropped_queue);
        }
    }

    fn disk(&self) -> Option<Arc<Disk>> {
        match &*self.phase.borrow() {
            Phase::On(disk) => Some(Arc::clone(disk)),
            _ => None,
        }
    }

    /// Leaves the disk alone, if `disk` is still the one in use.
    fn fail(&self, disk: &Arc<Disk>, reason: String) {
        self.phase.send_if_modified(|phase| {
            let current = matches!(phase, Phase::On(now) if Arc::ptr_eq(now, disk));
            if current {
                *phase = Phase::Off(reason.into());
            }
            current
        });
    }
}

/// The table of what a journal told, in the order it was written, and the last write's number.
fn residents_of(told: &Told) -> (Residents, u64) {
    let residents = Residents::default();
    let versions = told.versions.iter();
    let versions: HashMap<_, _> = versions.map(|version| (version.key, version)).collect();
    let mut blocks: Vec<_> = told.blocks.iter().collect();
    blocks.sort_unstable_by_key(|(_, (_, write))| *write);
    for (key, (len, write)) in &blocks {
        if let Some(version) = versions.get(&key.version) {
            let tag = Tag::of(version.etag());
            residents.entered_by((&version.object, tag), **key, *len, *write);
        }
    }
    residents.age();
    (residents, blocks.last().map_or(0, |(_, (_, write))| *write))
}

/// What a directory of ours lets others do: nothing.
const PRIVATE_DIR: u32 = 0o700;

/// What a file of ours lets others do: nothing.
const PRIVATE_FILE: u32 = 0o600;

/// Makes a directory for nobody else to look into, and those above it. One that is there stays as
/// it is.
fn make_dir(dir: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(PRIVATE_DIR)
        .create(dir)
}

/// A number that no other journal has.
fn new_id() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new()
        .build_hasher()
        .finish()
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
