//! What outlives a start of a gateway: its disk, its data directory, and the wall clock of its machine.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};
use std::{fs, io};

use anyhow::Context;
use forebay_gateway::gateway::Gateway;
use forebay_gateway::known::{self, Clocks, KnownFile, Shown};
use forebay_storage::block::BlockSize;
use forebay_storage::nvme::Nvme;
use forebay_storage::nvme::geometry::Geometry;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::disk::{End, SimDisk};
use crate::objects::BLOCK;
use crate::random::Random;
use crate::trace::Trace;

/// What the clocks show when a world begins: 1 January 2026.
const EPOCH: Duration = Duration::from_secs(1_767_225_600);

/// A machine.
#[derive(Debug)]
pub(crate) struct House {
    seed: u64,
    name: String,
    trace: Arc<Trace>,
    faulty: Arc<AtomicBool>,
    /// Bytes of the NVMe tier.
    bytes: u64,
    clock: Arc<Clock>,
    scratch: Scratch,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    disk: Arc<SimDisk>,
    /// Starts so far: each has a data directory of its own, which begins with what the last one left.
    starts: u64,
    disks: u64,
}

/// What a gateway does for its house by itself.
#[derive(Debug)]
pub(crate) struct Keeping {
    pub(crate) tasks: Vec<JoinHandle<()>>,
    stop: oneshot::Sender<()>,
    kept: JoinHandle<()>,
}

impl House {
    /// A machine with an empty disk.
    pub(crate) fn new(
        seed: u64,
        name: &str,
        trace: &Arc<Trace>,
        faulty: &Arc<AtomicBool>,
    ) -> anyhow::Result<Arc<Self>> {
        let mut random = Random::new(seed, &format!("house {name}"));
        let least = Geometry::least(block_size());
        let bytes = *random.pick(&[least, 2 * least, 10 * least]);
        let disk = format!("disk {name}");
        let disk = SimDisk::new(seed, &disk, Arc::clone(trace), Arc::clone(faulty));
        Ok(Arc::new(Self {
            seed,
            name: name.to_owned(),
            trace: Arc::clone(trace),
            faulty: Arc::clone(faulty),
            bytes,
            clock: Clock::new(),
            scratch: Scratch::new()?,
            inner: Mutex::new(Inner {
                disk,
                starts: 0,
                disks: 1,
            }),
        }))
    }

    /// Its disk.
    pub(crate) fn disk(&self) -> Arc<SimDisk> {
        Arc::clone(&self.lock().disk)
    }

    /// The tier of a gateway that starts there now.
    pub(crate) fn nvme(&self) -> anyhow::Result<Arc<Nvme>> {
        self.lock().starts += 1;
        let (own, next) = (self.data_dir(), self.next_dir());
        match next.exists() {
            true => fs::rename(next, own),
            false => fs::create_dir_all(own),
        }
        .context("make a data directory")?;
        let plug = self.disk().plug_in();
        Nvme::on(Box::new(plug), self.bytes, block_size()).context("make a tier")
    }

    /// Where the gateway that was started last keeps its files.
    pub(crate) fn data_dir(&self) -> PathBuf {
        let starts = self.lock().starts;
        self.scratch.0.join(starts.to_string())
    }

    /// Lets a gateway know what is in its data directory, and has it keep that and its disk.
    pub(crate) fn keep(&self, gateway: &Arc<Gateway>) -> Keeping {
        let clock = Arc::clone(&self.clock);
        let clocks = Clocks::by(move || clock.read());
        let file = Arc::new(KnownFile::by(&self.data_dir(), clocks));
        gateway.state.purges.remember_in(Arc::clone(&file));
        gateway.state.purges.log_in(&self.data_dir());
        file.load(gateway);
        known::recall(gateway);
        let (stop, stopped) = oneshot::channel();
        let kept = tokio::spawn(known::keep(Arc::clone(gateway), file, stopped));
        let store = Arc::clone(&gateway.reads.store);
        Keeping {
            tasks: vec![tokio::spawn(store.keep_nvme())],
            stop,
            kept,
        }
    }

    /// The gateway that was started last is gone. What it does from now on reaches nothing that the next one finds.
    pub(crate) fn left(&self, end: End) -> anyhow::Result<()> {
        self.disk().pull_out(end);
        let next = self.next_dir();
        fs::create_dir_all(&next).context("make a data directory")?;
        for entry in fs::read_dir(self.data_dir()).context("list a data directory")? {
            let entry = entry.context("list a data directory")?;
            fs::copy(entry.path(), next.join(entry.file_name())).context("copy a file")?;
        }
        Ok(())
    }

    /// What may happen to it while no gateway runs.
    pub(crate) fn rest(&self) -> anyhow::Result<()> {
        let starts = self.lock().starts;
        let random = &mut Random::new(self.seed, &format!("rest {} {starts}", self.name));
        match random.below(10) {
            0 => {
                self.trace.count("blows: another machine");
                fs::remove_dir_all(self.next_dir()).context("forget a data directory")?;
                let mut inner = self.lock();
                inner.disks += 1;
                let disk = format!("disk {} {}", self.name, inner.disks);
                let (trace, faulty) = (Arc::clone(&self.trace), Arc::clone(&self.faulty));
                inner.disk = SimDisk::new(self.seed, &disk, trace, faulty);
            }
            1 => {
                self.trace.count("blows: a journal is lost");
                self.disk().lose_log();
            }
            2 => {
                self.trace.count("blows: another disk");
                self.disk().lose_blocks();
            }
            _ => {}
        }
        self.clock.jump(random, &self.trace, &self.name);
        Ok(())
    }

    /// Where the data directory of the next start is made ready.
    fn next_dir(&self) -> PathBuf {
        self.scratch.0.join("next")
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Keeping {
    /// Has what is known written down, as the program does when it is told to stop.
    pub(crate) async fn write_down(self) {
        let _ = self.stop.send(());
        let _ = self.kept.await;
    }
}

fn block_size() -> BlockSize {
    BlockSize::new(BLOCK as u32)
}

/// A wall clock, which jumps.
#[derive(Debug)]
struct Clock {
    begun: Instant,
    /// Milliseconds by which it is before or behind the time.
    wrong: Mutex<i64>,
}

impl Clock {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            begun: Instant::now(),
            wrong: Mutex::default(),
        })
    }

    fn read(&self) -> Shown {
        let wrong = *self.wrong.lock().unwrap_or_else(PoisonError::into_inner);
        let up = self.begun.elapsed();
        let time = SystemTime::UNIX_EPOCH + EPOCH + up;
        let by = Duration::from_millis(wrong.unsigned_abs());
        Shown {
            wall: if wrong < 0 { time - by } else { time + by },
            up: Some(("simulated".to_owned(), up)),
        }
    }

    fn jump(&self, random: &mut Random, trace: &Trace, who: &str) {
        let by = *random.pick(&[
            0, 0, -1_000, -3_000, -3_000, -8_000, -8_000, -3_600_000, 3_600_000,
        ]);
        if by != 0 {
            trace.note(who, format_args!("the clock jumps by {by} ms"));
            trace.count("blows: a clock jumps");
            *self.wrong.lock().unwrap_or_else(PoisonError::into_inner) += by;
        }
    }
}

/// A directory of one world, removed with it.
#[derive(Debug)]
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> anyhow::Result<Self> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        // Memory where there is such a place: nothing here is to outlive the world.
        let memory = PathBuf::from("/dev/shm");
        let above = match memory.is_dir() {
            true => memory,
            false => std::env::temp_dir(),
        };
        loop {
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            let path = above.join(format!("forebay-sim-{}-{number}", std::process::id()));
            match fs::create_dir(&path) {
                Ok(()) => return Ok(Self(path)),
                // One that was killed left it, and this process has its number by now.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error).context("make a directory"),
            }
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
