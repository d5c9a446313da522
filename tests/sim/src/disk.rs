//! A disk below the NVMe tier: it is slow, full or broken for a while, and tears, loses and flips what it was given.
//!
//! It takes the place of the files and of foyer below them; whatever decides by what is found there is the real tier's:
//! table, ledger, journal, writer, and the checks of every block that is read. A disk outlives the gateway that uses it.
//! What belongs to a start of a gateway that has ended changes nothing on it any more, whatever that one's tasks still do.
//!
//! It lies about blocks as disks do, and never about a sync: what was waited for survives a loss of power, since nobody
//! could tell otherwise that a purge was forgotten.
//!
//! | module | its part |
//! |---|---|
//! | `faults` | what goes wrong, and when |
//! | `platter` | where blocks lie, in segments of which the oldest makes room |
//! | `log` | the journal's file |
//! | [`audit`] | what a gateway says that is on it, against what is |

pub mod audit;
mod faults;
mod log;
mod platter;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use forebay_storage::block::BlockKey;
use forebay_storage::nvme::geometry::Geometry;
use forebay_storage::nvme::medium::{Device, Loaded, Log, Medium, Prepared, Stored};
use tokio::time::Instant;

use self::faults::{Nature, Trouble};
use self::log::{Image, SimLog};
use self::platter::Platter;
use crate::objects::Name;
use crate::random::Random;
use crate::trace::Trace;

/// A disk.
pub struct SimDisk {
    name: String,
    trace: Arc<Trace>,
    nature: Nature,
    begun: Instant,
    /// Whether anything still goes wrong.
    faulty: Arc<AtomicBool>,
    state: Mutex<State>,
}

struct State {
    random: Random,
    /// The start of a gateway that uses it.
    life: u64,
    /// The journal that tells of what is on it.
    id: Option<u64>,
    log: Image,
    platter: Platter,
    /// When each write was asked for.
    asked: BTreeMap<(BlockKey, u64), Instant>,
    /// Since when what is on it of an object must be from after its purge.
    purged: BTreeMap<Name, Instant>,
}

/// A disk as one start of a gateway has it.
#[derive(Clone, Debug)]
pub struct Plug {
    disk: Arc<SimDisk>,
    life: u64,
}

/// How a start of a gateway ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// The process is killed: what it gave to the kernel is there.
    Killed,
    /// The power is lost: what was not waited for may be there, or not, or a part of it.
    PowerLost,
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimDisk").finish_non_exhaustive()
    }
}

impl SimDisk {
    /// An empty disk, which goes wrong for as long as `faulty` says.
    pub fn new(seed: u64, name: &str, trace: Arc<Trace>, faulty: Arc<AtomicBool>) -> Arc<Self> {
        let mut random = Random::new(seed, &format!("disk {name}"));
        let nature = Nature::draw(&mut random);
        trace.note(name, format_args!("{nature:?}"));
        Arc::new(Self {
            name: name.to_owned(),
            trace,
            nature,
            begun: Instant::now(),
            faulty,
            state: Mutex::new(State {
                random,
                life: 0,
                id: None,
                log: Image::default(),
                platter: Platter::default(),
                asked: BTreeMap::new(),
                purged: BTreeMap::new(),
            }),
        })
    }

    /// Gives it to a new start of a gateway.
    pub fn plug_in(self: &Arc<Self>) -> Plug {
        let mut state = self.lock();
        state.life += 1;
        Plug {
            disk: Arc::clone(self),
            life: state.life,
        }
    }

    /// Takes it from whoever has it.
    pub fn pull_out(&self, end: End) {
        let mut state = self.lock();
        state.life += 1;
        let State {
            random,
            log,
            platter,
            ..
        } = &mut *state;
        platter.stop(random);
        if end == End::PowerLost {
            self.count("disk: power lost");
            log.lose_power(random);
            platter.lose_power(random);
        }
        if self.is_faulty() && self.nature.rots(random) {
            self.count("disk: bits rotted");
            platter.rot(random);
            if random.chance(10) {
                log.rot(random);
            }
        }
    }

    /// Forgets the journal, and nothing else.
    pub fn lose_log(&self) {
        self.lock().log = Image::default();
    }

    /// Forgets all blocks, and not the journal.
    pub fn lose_blocks(&self) {
        let mut state = self.lock();
        state.platter = Platter::default();
        state.id = None;
    }

    fn is_faulty(&self) -> bool {
        self.faulty.load(Ordering::Relaxed)
    }

    fn count(&self, what: &'static str) {
        self.trace.count(what);
    }

    /// What is wrong with all of it now.
    fn trouble(&self) -> Option<Trouble> {
        self.is_faulty()
            .then(|| self.nature.trouble(self.begun))
            .flatten()
    }

    /// Waits as long as a disk of this nature takes, in trouble or not.
    async fn takes_its_time(&self) {
        let pause = {
            let mut state = self.lock();
            self.nature.pause(&mut state.random, self.trouble())
        };
        tokio::time::sleep(pause).await;
    }

    /// Whether something of so many percent goes wrong now.
    fn goes_wrong(&self, state: &mut State, percent: u64, what: &'static str) -> bool {
        let wrong = self.is_faulty() && state.random.chance(percent);
        if wrong {
            self.count(what);
        }
        wrong
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn broken() -> io::Error {
    io::Error::other("the disk fails")
}

impl Plug {
    /// The disk, if it is this start's still, and answers.
    fn state(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.disk.lock();
        match self.disk.trouble() {
            _ if state.life != self.life => Err(broken()),
            Some(Trouble::Failing) => Err(broken()),
            _ => Ok(state),
        }
    }

    /// The same for whoever needs room.
    fn room(&self) -> io::Result<MutexGuard<'_, State>> {
        match self.disk.trouble() {
            Some(Trouble::Full) => Err(io::ErrorKind::StorageFull.into()),
            _ => self.state(),
        }
    }
}

#[async_trait]
impl Medium for Plug {
    fn place(&self) -> &Path {
        Path::new(&self.disk.name)
    }

    fn log(&self) -> Box<dyn Log> {
        Box::new(SimLog::new(self.clone()))
    }

    fn take(&self) -> io::Result<()> {
        self.state().map(drop)
    }

    fn let_go(&self) {}

    fn prepare(&self, geometry: &Geometry, id: u64, _told: bool) -> io::Result<Prepared> {
        let mut state = self.room()?;
        let fits = state.id == Some(id) && state.platter.is_cut_so(geometry);
        let prepared = match state.platter.is_empty() || fits {
            true => Prepared::Kept,
            false => Prepared::Wiped,
        };
        if !fits {
            state.platter = Platter::new(geometry);
            state.id = Some(id);
        }
        Ok(prepared)
    }

    fn probe(&self, _geometry: &Geometry) -> io::Result<bool> {
        self.room().map(|_| true)
    }

    async fn open(&self, _geometry: &Geometry, _direct: bool) -> Result<Box<dyn Device>, String> {
        let pause = self.disk.lock().random.millis(0..=50);
        tokio::time::sleep(pause).await;
        let mut state = self.state().map_err(|error| error.to_string())?;
        state.platter.open();
        Ok(Box::new(self.clone()))
    }
}

#[async_trait]
impl Device for Plug {
    fn together(&self, sizes: &[usize]) -> usize {
        let most = sizes.len().max(1) as u64;
        let together = self.disk.lock().random.from(1..=most);
        usize::try_from(together).unwrap_or(1)
    }

    fn write(&self, _key: BlockKey, stored: Stored) {
        if let Ok(mut state) = self.state() {
            let _ = state.asked.insert(stored.of(), Instant::now());
            state.platter.give(stored);
        }
    }

    async fn flushed(&self) {
        self.disk.takes_its_time().await;
        let full = self.room().is_err();
        let mut state = self.disk.lock();
        if state.life != self.life {
            return;
        }
        for stored in state.platter.given() {
            let fate = self.disk.nature.fate(&mut state.random);
            let fate = fate.filter(|_| self.disk.is_faulty());
            if let Some(fate) = fate {
                self.disk.count(fate.name());
            }
            if !full {
                let State {
                    platter, random, ..
                } = &mut *state;
                platter.write(&stored, fate, random);
            }
        }
        if full {
            self.disk.count("disk: no writes");
        }
    }

    fn contains(&self, key: &BlockKey) -> bool {
        self.disk.lock().platter.names(key)
    }

    fn remove(&self, key: &BlockKey) {
        let mut state = self.disk.lock();
        if state.life == self.life {
            state.platter.remove(key);
        }
    }

    fn evictions(&self) -> u64 {
        self.disk.lock().platter.evictions()
    }

    async fn read(&self, key: BlockKey) -> io::Result<Loaded> {
        self.disk.takes_its_time().await;
        let mut state = self.state()?;
        let nature = &self.disk.nature;
        if self
            .disk
            .goes_wrong(&mut state, nature.errors, "disk: read error")
        {
            return Err(broken());
        }
        if self
            .disk
            .goes_wrong(&mut state, nature.flips, "disk: bit flipped")
        {
            let State {
                platter, random, ..
            } = &mut *state;
            platter.flip(&key, random);
        }
        if self
            .disk
            .goes_wrong(&mut state, nature.ends, "disk: file ends early")
        {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let loaded = match state.platter.read(&key) {
            Some(stored) => Loaded::Stored(stored),
            None => Loaded::Miss,
        };
        if matches!(loaded, Loaded::Stored(_)) {
            self.disk.count("disk: blocks read");
        }
        Ok(loaded)
    }

    async fn close(&self) {}
}
