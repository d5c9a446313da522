//! The block files: the one place that names foyer's hybrid cache.
//!
//! Its memory half is switched off by a filter that takes nothing, so that a disk hit is not
//! promoted behind our back; it writes on insertion, since what waits for an eviction is lost with
//! the process. Its tombstone log stays off: our own journal says what is resident, so an entry
//! that foyer revives after a restart is never asked for; and of that log, which is read a page at
//! a time before anything else (a 256th of the tier), every restart forgets all but the last page
//! (foyer 0.22.6, `tombstone.rs`: the slot to go on from is counted within its page only).

use std::fmt;
use std::hash::{BuildHasher, Hash, Hasher};
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use async_trait::async_trait;
use foyer::{
    BlockEngineConfig, Code, Device as BlockFiles, DeviceBuilder, Error, EvictionInfo,
    EvictionPicker, FifoPicker, FsDeviceBuilder, HybridCache, HybridCacheBuilder,
    HybridCachePolicy, InvalidRatioPicker, Load, PsyncIoEngineConfig, RecoverMode, Spawner,
};
use tokio::runtime::{self, Runtime};
use tokio::sync::OwnedMutexGuard;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::place::Place;
use crate::aside::{aside, done};
use crate::block::BlockKey;
use crate::nvme::geometry::Geometry;
use crate::nvme::locked;
use crate::nvme::medium::{Device, Loaded, Stored};

/// A segment of which so much was removed goes first.
const MOSTLY_DEAD: f64 = 0.8;

/// A disk may take long. No clock knows the moment that lies [`Duration::MAX`] ahead, and adding that is a panic.
const FOR_EVER: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Where foyer's tasks run, and the files that they use. Dropped, they end by and by.
///
/// They own the files and each other (foyer 0.22.6: the flusher holds the segments, these the
/// reclaimer, and that the flusher), so none of them ends by itself, and the files would stay open
/// until the process ends. They end with what they run on; and then the files are closed, and not before: reads and writes
/// on their way know a file by its number alone, which would be another's.
struct Tasks {
    /// Until they are ended.
    runtime: Option<Runtime>,
    used: Option<Used>,
}

/// What they use until the last of them has ended: the files, and the right to open them.
type Used = (Arc<dyn BlockFiles>, Alone);

/// The right to have the files open.
pub(super) type Alone = OwnedMutexGuard<()>;

impl Tasks {
    fn new(used: Used) -> io::Result<(Self, Spawner)> {
        let runtime = runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("nvme")
            .enable_all()
            .build()?;
        let spawner = runtime.handle().clone().into();
        let runtime = Some(runtime);
        let used = Some(used);
        Ok((Self { runtime, used }, spawner))
    }

    /// Ends them, waits for what they have the disk do, however long that takes, and closes the files.
    fn end(mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(FOR_EVER);
        }
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        let Some(runtime) = self.runtime.take() else {
            return;
        };
        // Whoever drops this may have no time, and no runtime.
        let (runtime, used) = (Arc::new(Mutex::new(Some(runtime))), self.used.take());
        let ended = Arc::clone(&runtime);
        let ends = move || {
            let runtime = locked(&ended).take();
            if let Some(runtime) = runtime {
                runtime.shutdown_timeout(FOR_EVER);
            }
            drop(used);
        };
        if thread::Builder::new().spawn(ends).is_err()
            && let Some(runtime) = locked(&runtime).take()
        {
            runtime.shutdown_background();
        }
    }
}

/// The open block files.
pub(super) struct Hybrid {
    cache: HybridCache<DiskKey, Stored, KeyHash>,
    /// Until it is closed.
    tasks: Mutex<Option<Tasks>>,
    place: Mutex<Place>,
    evicted: Arc<AtomicU64>,
}

impl fmt::Debug for Hybrid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hybrid").finish_non_exhaustive()
    }
}

impl Hybrid {
    /// Opens the block files below `dir`, creating what is not there, and reads their indexes. Who holds `alone` has
    /// nothing under way in them; it is held until that is so again.
    ///
    /// # Errors
    /// Why they can't be opened.
    pub(super) async fn open(
        dir: &Path,
        geometry: &Geometry,
        direct: bool,
        alone: Alone,
    ) -> Result<Self, String> {
        let said = |error: Error| error.to_string();
        let size = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        let device = FsDeviceBuilder::new(dir)
            .with_capacity(size(geometry.capacity()))
            .with_direct(direct)
            .build()
            .map_err(said)?;
        let used = (Arc::clone(&device), alone);
        let (tasks, spawner) = Tasks::new(used).map_err(|error| error.to_string())?;
        let evicted = Arc::new(AtomicU64::new(0));
        let picker = Picker {
            fifo: FifoPicker::default(),
            evicted: Arc::clone(&evicted),
        };
        let flush = size(geometry.flush_bytes());
        let engine = BlockEngineConfig::new(device)
            .with_block_size(size(geometry.segment))
            .with_buffer_pool_size(flush)
            .with_submit_queue_size_threshold(flush)
            .with_eviction_pickers(vec![
                // What was purged makes room before what is alive.
                Box::new(InvalidRatioPicker::new(MOSTLY_DEAD)),
                Box::new(picker),
            ]);
        let cache = HybridCacheBuilder::new()
            .with_name("forebay-nvme")
            .with_policy(HybridCachePolicy::WriteOnInsertion)
            .with_flush_on_close(false)
            .memory(1)
            .with_shards(1)
            .with_hash_builder(KeyHash)
            .with_filter(|_: &DiskKey, _: &Stored| false)
            .storage()
            .with_io_engine_config(PsyncIoEngineConfig::new())
            .with_engine_config(engine)
            .with_recover_mode(RecoverMode::Quiet)
            .with_spawner(spawner)
            .build()
            .await
            .map_err(said)?;
        Ok(Self {
            cache,
            tasks: Mutex::new(Some(tasks)),
            place: Mutex::new(Place::first(geometry.segment)),
            evicted,
        })
    }
}

#[async_trait]
impl Device for Hybrid {
    fn together(&self, sizes: &[usize]) -> usize {
        let bytes = sizes.iter().map(|size| entry_bytes(*size));
        locked(&self.place).together(bytes)
    }

    fn write(&self, key: BlockKey, stored: Stored) {
        locked(&self.place).put(entry_bytes(stored.size()));
        self.cache
            .storage_writer(DiskKey::new(key))
            .force()
            .insert(stored);
    }

    async fn flushed(&self) {
        self.cache.storage().wait().await;
    }

    fn contains(&self, key: &BlockKey) -> bool {
        self.cache.storage().may_contains(&DiskKey::new(*key))
    }

    fn remove(&self, key: &BlockKey) {
        self.cache.storage().delete(&DiskKey::new(*key));
    }

    fn evictions(&self) -> u64 {
        self.evicted.load(Ordering::Acquire)
    }

    async fn read(&self, key: BlockKey) -> io::Result<Loaded> {
        Ok(match self.cache.storage().load(&DiskKey::new(key)).await {
            Ok(Load::Entry { value, .. }) => Loaded::Stored(value),
            // Still on its way to the device.
            Ok(Load::Piece { piece, .. }) => Loaded::Stored(piece.value().clone()),
            // foyer says the same of what fails its checksum and of what went to make room.
            Ok(Load::Miss) => Loaded::Miss,
            Ok(Load::Throttled) => Loaded::Busy,
            Err(error) => return Err(of_device(&error)),
        })
    }

    async fn close(&self) {
        // foyer itself is not asked: after a write that failed it may panic, and what it could not finish is found out when
        // the files are opened again.
        let tasks = locked(&self.tasks).take();
        if let Some(tasks) = tasks {
            let _ = done(&mut aside(|| tasks.end())).await;
        }
    }
}

/// Bytes of key and value of a block that takes so many itself.
fn entry_bytes(size: usize) -> u64 {
    (KEY_BYTES + size) as u64
}

/// What the device said, without foyer's words around it.
fn of_device(error: &Error) -> io::Error {
    match error.downcast_ref::<io::Error>() {
        Some(cause) => io::Error::new(cause.kind(), cause.to_string()),
        None => io::Error::other(error.to_string()),
    }
}

const KEY_BYTES: usize = 20;

/// A block's key on disk: the version's 16 bytes and the index's 4.
///
/// Hashed from these bytes by xxh3: a derived `Hash` may change with the compiler, and with it the
/// place of everything that was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct DiskKey([u8; KEY_BYTES]);

impl DiskKey {
    fn new(key: BlockKey) -> Self {
        let mut bytes = [0; KEY_BYTES];
        bytes[..16].copy_from_slice(&key.version.0.to_le_bytes());
        bytes[16..].copy_from_slice(&key.index.to_le_bytes());
        Self(bytes)
    }
}

impl Hash for DiskKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(&self.0);
    }
}

impl Code for DiskKey {
    fn encode(&self, writer: &mut impl Write) -> foyer::Result<()> {
        writer.write_all(&self.0).map_err(Error::io_error)
    }

    fn decode(reader: &mut impl Read) -> foyer::Result<Self> {
        let mut bytes = [0; KEY_BYTES];
        reader.read_exact(&mut bytes).map_err(Error::io_error)?;
        Ok(Self(bytes))
    }

    fn estimated_size(&self) -> usize {
        self.0.len()
    }
}

#[derive(Clone, Copy, Debug)]
struct KeyHash;

struct Xxh3Once(u64);

impl BuildHasher for KeyHash {
    type Hasher = Xxh3Once;

    fn build_hasher(&self) -> Xxh3Once {
        Xxh3Once(0)
    }
}

impl Hasher for Xxh3Once {
    fn write(&mut self, bytes: &[u8]) {
        self.0 = xxh3_64_with_seed(bytes, self.0);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

impl Code for Stored {
    fn encode(&self, writer: &mut impl Write) -> foyer::Result<()> {
        self.put(writer).map_err(Error::io_error)
    }

    fn decode(reader: &mut impl Read) -> foyer::Result<Self> {
        Self::read(reader).map_err(Error::io_error)
    }

    fn estimated_size(&self) -> usize {
        self.size()
    }
}

/// First in, first out, and counted: foyer says nothing when it gives up a segment.
#[derive(Debug)]
struct Picker {
    fifo: FifoPicker,
    evicted: Arc<AtomicU64>,
}

impl EvictionPicker for Picker {
    fn init(&mut self, blocks: &[u32], block_size: usize) {
        self.fifo.init(blocks, block_size);
    }

    fn pick(&mut self, info: EvictionInfo<'_>) -> Option<u32> {
        self.fifo.pick(info)
    }

    fn on_block_evictable(&mut self, info: EvictionInfo<'_>, block: u32) {
        self.fifo.on_block_evictable(info, block);
    }

    fn on_block_evict(&mut self, info: EvictionInfo<'_>, block: u32) {
        self.evicted.fetch_add(1, Ordering::AcqRel);
        self.fifo.on_block_evict(info, block);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs::{self, File};
    use std::os::unix::fs::FileExt;

    use super::super::place::HEADER;
    use super::*;
    use crate::block::BlockSize;
    use crate::nvme::tests::Scratch;
    use crate::version::VersionKey;

    fn key(index: u32) -> BlockKey {
        BlockKey {
            version: VersionKey(7 << 100),
            index,
        }
    }

    /// The place on disk of everything that was ever written depends on this.
    #[test]
    fn the_hash_of_a_key_never_changes() {
        let key = DiskKey::new(key(3));
        assert_eq!(KeyHash.hash_one(key), xxh3_64_with_seed(&key.0, 0));
        assert_eq!(KeyHash.hash_one(key), GOLDEN);
    }

    const GOLDEN: u64 = 2_072_832_285_853_685_656;

    async fn alone() -> Alone {
        Arc::<tokio::sync::Mutex<()>>::default().lock_owned().await
    }

    #[tokio::test]
    async fn files_that_cannot_be_opened_say_why_and_may_be_opened_after_that() {
        let scratch = Scratch::new();
        let block_size = BlockSize::new(256 << 10);
        let geometry = Geometry::new(Geometry::least(block_size), block_size).unwrap();
        let alone = Arc::<tokio::sync::Mutex<()>>::default();
        let open = async || {
            let alone = Arc::clone(&alone).lock_owned().await;
            Hybrid::open(scratch.path(), &geometry, false, alone).await
        };
        let hybrid = open().await.unwrap();
        hybrid.close().await;
        let files = fs::read_dir(scratch.path()).unwrap();
        let file = files.map(|file| file.unwrap().path()).next().unwrap();
        fs::remove_file(&file).unwrap();
        fs::create_dir(&file).unwrap();
        let error = open().await.unwrap_err();
        assert!(error.contains("directory"), "{error}");
        fs::remove_dir(&file).unwrap();
        open().await.unwrap();
    }

    /// Blocks of all sizes, the first ones so small that pages of index fill.
    #[tokio::test]
    async fn blocks_lie_where_they_were_said_to() {
        let scratch = Scratch::new();
        let block_size = BlockSize::new(256 << 10);
        let bytes = 64 * Geometry::least(block_size);
        let geometry = Geometry::new(bytes, block_size).unwrap();
        let hybrid = Hybrid::open(scratch.path(), &geometry, false, alone().await);
        let hybrid = hybrid.await.unwrap();
        let mut place = Place::first(geometry.segment);
        let (mut pages, mut segments, mut last) = (0, 0, 0);
        for turn in 0..250 {
            let largest = match turn {
                0..100 => 3900,
                100..200 => 3 * 4096,
                _ => 256 << 10,
            };
            let mut ats = Vec::new();
            for index in turn * 4..turn * 4 + 4 {
                let any = xxh3_64_with_seed(b"size", index.into());
                let size = usize::try_from(1 + any % largest).unwrap();
                let stored = Stored::new(key(index), vec![7; size]);
                let size = stored.size() as u64;
                let (at, another) = place.put(entry_bytes(stored.size()));
                pages += u32::from(another && at > last);
                segments += u32::from(another && at < last);
                last = at;
                ats.push((index, at + HEADER + size));
                hybrid.write(key(index), stored);
            }
            hybrid.flushed().await;
            let files = fs::read_dir(scratch.path()).unwrap();
            let files: Vec<_> = files.map(|file| File::open(file.unwrap().path())).collect();
            for (index, at) in ats {
                let mut found = [0; KEY_BYTES];
                let lies = files.iter().any(|file| {
                    let file = file.as_ref().unwrap();
                    let read = file.read_exact_at(&mut found, at);
                    read.is_ok() && found == DiskKey::new(key(index)).0
                });
                assert!(
                    lies,
                    "the key of block {index} is not at {at} of any segment"
                );
            }
        }
        assert!(pages > 0 && segments > 20, "{pages}, {segments}");
    }
}
