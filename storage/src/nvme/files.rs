//! The tier's files: block files below one directory, the journal in another.

mod hybrid;
mod log;
mod place;

use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;

use self::hybrid::Hybrid;
pub(super) use self::log::LogFile;
use super::geometry::Geometry;
use super::medium::{Device, Log, Medium, Prepared};
use super::{Config, JOURNAL, PRIVATE_FILE, layout, locked, make_dir};

/// Files on a disk.
#[derive(Debug)]
pub(super) struct Files {
    dir: PathBuf,
    journal: PathBuf,
    /// Keeps other processes out of the directory for as long as it is open.
    lock: Mutex<Option<File>>,
    /// The files were open once.
    opened: AtomicBool,
    /// Held for as long as they are, and anything is under way in them: what still is, reads and writes where those who
    /// open them anew do too.
    alone: Arc<tokio::sync::Mutex<()>>,
}

impl Files {
    /// Those of `config`.
    pub(super) fn new(config: &Config) -> Self {
        Self {
            dir: config.dir.clone(),
            journal: config.data_dir.join(JOURNAL),
            lock: Mutex::default(),
            opened: AtomicBool::new(false),
            alone: Arc::default(),
        }
    }
}

#[async_trait]
impl Medium for Files {
    fn place(&self) -> &Path {
        &self.dir
    }

    fn log(&self) -> Box<dyn Log> {
        Box::new(LogFile::new(&self.journal))
    }

    fn take(&self) -> io::Result<()> {
        // A disk that was taken out: its directory is not to be made on the one below.
        if self.opened.load(Ordering::Acquire) && !self.dir.exists() {
            return Err(io::Error::other("its directory is not there any more"));
        }
        let mut lock = locked(&self.lock);
        if lock.is_none() {
            *lock = Some(take_lock(&self.dir)?);
        }
        Ok(())
    }

    fn let_go(&self) {
        // A step that hangs in the directory has it locked: that is no reason to hang here.
        if let Ok(mut lock) = self.lock.try_lock() {
            *lock = None;
        }
    }

    fn prepare(&self, geometry: &Geometry, id: u64, told: bool) -> io::Result<Prepared> {
        let _held = locked(&self.lock);
        layout::prepare(&self.dir, geometry, id, told)
    }

    fn probe(&self, geometry: &Geometry) -> io::Result<bool> {
        let _held = locked(&self.lock);
        layout::probe(&self.dir, geometry.block_size.bytes())?;
        layout::ensure_clean_segment(&self.dir, geometry)?;
        Ok(layout::takes_direct_io(&self.dir))
    }

    async fn open(&self, geometry: &Geometry, direct: bool) -> Result<Box<dyn Device>, String> {
        let alone = Arc::clone(&self.alone).lock_owned().await;
        let device = Hybrid::open(&self.dir, geometry, direct, alone).await?;
        self.opened.store(true, Ordering::Release);
        Ok(Box::new(device))
    }
}

/// Keeps other processes out of the directory for as long as the file is open.
fn take_lock(dir: &Path) -> io::Result<File> {
    make_dir(dir)?;
    let flags = i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).unwrap_or(0);
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(PRIVATE_FILE)
        .custom_flags(flags)
        .open(dir.join("nvme.lock"))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(io::Error::new(
            io::ErrorKind::ResourceBusy,
            "another process uses it",
        )),
        Err(std::fs::TryLockError::Error(error)) => Err(error),
    }
}
