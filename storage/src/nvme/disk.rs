//! The block files: the one place that names foyer's hybrid cache.
//!
//! Its memory half is switched off by a filter that takes nothing, so that a disk hit is not
//! promoted behind our back; it writes on insertion, since what waits for an eviction is lost with
//! the process. Its tombstone log stays off: our own journal says what is resident, so an entry
//! that foyer revives after a restart is never asked for; and of that log, which is read a page at
//! a time before anything else (a 256th of the tier), every restart forgets all but the last page
//! (foyer 0.22.6, `tombstone.rs`: the slot to go on from is counted within its page only).

#[cfg(any(test, fuzzing))]
mod fuzz;

use std::fmt;
use std::hash::{BuildHasher, Hash, Hasher};
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use foyer::{
    BlockEngineConfig, Code, DeviceBuilder, Error, EvictionInfo, EvictionPicker, FifoPicker,
    FsDeviceBuilder, HybridCache, HybridCacheBuilder, HybridCachePolicy, InvalidRatioPicker, Load,
    PsyncIoEngineConfig, RecoverMode, Spawner,
};
use tokio::runtime::{self, Runtime};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::geometry::Geometry;
use crate::SEGMENT;
use crate::block::{Block, BlockKey};
use crate::frames::{Buffer, Frames};
use crate::version::VersionKey;

#[cfg(any(test, fuzzing))]
pub use fuzz::disk_block;

/// How long a turn of writes may take: at 50 MB/s it is a tenth of a second.
const FLUSH_LIMIT: Duration = Duration::from_secs(30);

/// A segment of which so much was removed goes first.
const MOSTLY_DEAD: f64 = 0.8;

/// First bytes of an entry of this format.
const MAGIC: u32 = u32::from_le_bytes(*b"FBB3");

/// Largest block that there is; a length above it is not one.
const LARGEST: u32 = 4 << 20;

tokio::task_local! {
    /// Where the read that is under way puts its segments. foyer decodes within the future that
    /// loads, and hands a decoder nothing but bytes.
    static FRAMES: Frames;
}

/// A block's bytes on disk, or why they are not.
#[derive(Debug)]
pub(super) enum Found {
    /// The segments, checked against what was asked for.
    Block(Vec<Bytes>),
    /// Something else is there than was written: torn, flipped, cut off or foreign.
    Damaged,
    /// Nothing is there, or what an earlier write left.
    Gone,
    /// The device failed.
    Failed(String),
}

/// Where foyer's tasks run.
///
/// They own the files and each other (foyer 0.22.6: the flusher holds the segments, these the
/// reclaimer, and that the flusher), so none of them ends by itself, and the files would stay open
/// until the process ends. They end with what they run on.
struct Tasks(Option<Runtime>);

impl Tasks {
    fn new() -> io::Result<Self> {
        let runtime = runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("nvme")
            .enable_all()
            .build()?;
        Ok(Self(Some(runtime)))
    }

    fn spawner(&self) -> Spawner {
        let own = self.0.as_ref().map(|runtime| runtime.handle().clone());
        own.unwrap_or_else(runtime::Handle::current).into()
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// The open block files.
pub(super) struct Disk {
    cache: HybridCache<DiskKey, Stored, KeyHash>,
    /// Dropped after the cache, which spawns its own end.
    _tasks: Tasks,
    evicted: Arc<AtomicU64>,
    block_size: u64,
    #[cfg(test)]
    pub(super) faults: Arc<super::Faults>,
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Disk").finish_non_exhaustive()
    }
}

impl Disk {
    /// Opens the block files below `dir`, creating what is not there, and reads their indexes.
    ///
    /// # Errors
    /// Why they can't be opened.
    pub(super) async fn open(
        dir: &Path,
        geometry: &Geometry,
        direct: bool,
        #[cfg(test)] faults: Arc<super::Faults>,
    ) -> Result<Self, String> {
        let said = |error: Error| error.to_string();
        let size = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        let device = FsDeviceBuilder::new(dir)
            .with_capacity(size(geometry.capacity()))
            .with_direct(direct)
            .build()
            .map_err(said)?;
        let tasks = Tasks::new().map_err(|error| error.to_string())?;
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
            .with_spawner(tasks.spawner())
            .build()
            .await
            .map_err(said)?;
        Ok(Self {
            cache,
            _tasks: tasks,
            evicted,
            block_size: geometry.block_size.bytes(),
            #[cfg(test)]
            faults,
        })
    }

    /// Gives a block to be written, by the write that is numbered so. Whether it was,
    /// [`Self::contains`] says after [`Self::flushed`].
    ///
    /// The index may name an earlier write of it, which a restart revived: that must not pass for
    /// this one.
    pub(super) fn write(&self, key: BlockKey, write: u64, block: &Block) {
        if self.contains(&key) {
            self.remove(&key);
        }
        #[cfg(test)]
        if self.faults.writes() {
            return;
        }
        let stored = Stored {
            key,
            write,
            offset: u64::from(key.index) * self.block_size,
            segments: block.segments().to_vec(),
            intact: true,
        };
        self.cache
            .storage_writer(DiskKey::new(key))
            .force()
            .insert(stored);
    }

    /// Waits until all that was given is written or dropped; false if that takes too long.
    pub(super) async fn flushed(&self) -> bool {
        let flushed = self.cache.storage().wait();
        tokio::time::timeout(FLUSH_LIMIT, flushed).await.is_ok()
    }

    /// Whether the index names the block.
    pub(super) fn contains(&self, key: &BlockKey) -> bool {
        self.cache.storage().may_contains(&DiskKey::new(*key))
    }

    /// Takes the block out of the index.
    pub(super) fn remove(&self, key: &BlockKey) {
        self.cache.storage().delete(&DiskKey::new(*key));
    }

    /// How often a segment of the device was given up for new blocks.
    pub(super) fn evictions(&self) -> u64 {
        self.evicted.load(Ordering::Acquire)
    }

    /// Reads the `len` bytes that the write numbered so left of block `key`, and checks them.
    pub(super) async fn read(&self, key: BlockKey, len: u32, write: u64, frames: &Frames) -> Found {
        #[cfg(test)]
        if self.faults.reads() {
            return Found::Failed("a fault was planted".into());
        }
        let wanted = DiskKey::new(key);
        let evictions = self.evictions();
        let load = self.cache.storage().load(&wanted);
        let stored = match FRAMES.scope(frames.clone(), load).await {
            Ok(Load::Entry { value, .. }) => value,
            // Still on its way to the device.
            Ok(Load::Piece { piece, .. }) => piece.value().clone(),
            // foyer says the same of what fails its checksum and of what went to make room.
            Ok(Load::Miss) if self.evictions() == evictions => return Found::Damaged,
            Ok(Load::Miss | Load::Throttled) => return Found::Gone,
            Err(error) => return of_error(&error),
        };
        if stored.intact && stored.key == key && stored.write != write {
            return Found::Gone;
        }
        let bytes: usize = stored.segments.iter().map(Bytes::len).sum();
        let asked_for = stored.key == key
            && stored.offset == u64::from(key.index) * self.block_size
            && bytes == len as usize;
        if stored.intact && asked_for {
            Found::Block(stored.segments)
        } else {
            Found::Damaged
        }
    }

    /// Waits until what is under way is done; false if that takes too long. The files are closed
    /// once this is dropped.
    pub(super) async fn close(&self) -> bool {
        // What it could not finish is found out when the files are opened again.
        let closed = tokio::time::timeout(FLUSH_LIMIT, self.cache.close()).await;
        closed.is_ok()
    }
}

/// A file that ends early is damage, like any other wrong byte; the device did answer.
fn of_error(error: &Error) -> Found {
    let cause = error.downcast_ref::<io::Error>();
    if cause.is_some_and(|cause| cause.kind() == io::ErrorKind::UnexpectedEof) {
        return Found::Damaged;
    }
    Found::Failed(cause.map_or_else(|| error.to_string(), io::Error::to_string))
}

/// A block's key on disk: the version's 16 bytes and the index's 4.
///
/// Hashed from these bytes by xxh3: a derived `Hash` may change with the compiler, and with it the
/// place of everything that was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct DiskKey([u8; 20]);

impl DiskKey {
    fn new(key: BlockKey) -> Self {
        let mut bytes = [0; 20];
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
        let mut bytes = [0; 20];
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

/// A block as it is on disk: whose it is, where it starts and which write it is of, and the bytes.
///
/// foyer's checksum (xxh64) is over all of that and is compared before anything is decoded; a
/// second one of ours cost 0.07 CPU s/GB and could only have found what the first finds.
#[derive(Clone, Debug)]
struct Stored {
    key: BlockKey,
    offset: u64,
    write: u64,
    segments: Vec<Bytes>,
    /// Read back, it was of this format.
    intact: bool,
}

const HEAD: usize = 4 + 16 + 4 + 8 + 8 + 4;

impl Stored {
    fn len(&self) -> usize {
        self.segments.iter().map(Bytes::len).sum()
    }

    fn head(&self) -> [u8; HEAD] {
        let mut head = [0; HEAD];
        head[..4].copy_from_slice(&MAGIC.to_le_bytes());
        head[4..20].copy_from_slice(&self.key.version.0.to_le_bytes());
        head[20..24].copy_from_slice(&self.key.index.to_le_bytes());
        head[24..32].copy_from_slice(&self.offset.to_le_bytes());
        let len = u32::try_from(self.len()).unwrap_or(u32::MAX);
        head[32..40].copy_from_slice(&self.write.to_le_bytes());
        head[40..].copy_from_slice(&len.to_le_bytes());
        head
    }

    fn read(reader: &mut impl Read) -> io::Result<Self> {
        let mut head = [0; HEAD];
        reader.read_exact(&mut head)?;
        let part = |at: usize| [head[at], head[at + 1], head[at + 2], head[at + 3]];
        let mut version = [0; 16];
        version.copy_from_slice(&head[4..20]);
        let mut offset = [0; 8];
        offset.copy_from_slice(&head[24..32]);
        let mut write = [0; 8];
        write.copy_from_slice(&head[32..40]);
        let len = u32::from_le_bytes(part(40));
        let mut stored = Self {
            key: BlockKey {
                version: VersionKey(u128::from_le_bytes(version)),
                index: u32::from_le_bytes(part(20)),
            },
            offset: u64::from_le_bytes(offset),
            write: u64::from_le_bytes(write),
            segments: Vec::new(),
            intact: false,
        };
        if u32::from_le_bytes(part(0)) != MAGIC || len > LARGEST {
            return Ok(stored);
        }
        let mut left = len as usize;
        stored.segments.reserve_exact(left.div_ceil(SEGMENT));
        while left > 0 {
            let now = left.min(SEGMENT);
            let buffer = FRAMES.try_with(|frames| Buffer::new(frames, now));
            let mut buffer = buffer.unwrap_or_else(|_| Buffer::new(&Frames::new(0), now));
            reader.read_exact(buffer.room())?;
            buffer.advance(now);
            stored.segments.push(Bytes::from_owner(buffer));
            left -= now;
        }
        stored.intact = true;
        Ok(stored)
    }

    fn put(&self, writer: &mut impl Write) -> io::Result<()> {
        writer.write_all(&self.head())?;
        for segment in &self.segments {
            writer.write_all(segment)?;
        }
        Ok(())
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
        HEAD + self.len()
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
    use super::*;

    fn stored() -> Stored {
        let segments = vec![vec![1; SEGMENT].into(), vec![2; 5].into()];
        Stored {
            key: BlockKey {
                version: VersionKey(7 << 100),
                index: 3,
            },
            offset: 3 << 20,
            write: 11,
            segments,
            intact: true,
        }
    }

    #[test]
    fn what_is_written_comes_back_in_segments() {
        let mut bytes = Vec::new();
        stored().put(&mut bytes).unwrap();
        assert_eq!(bytes.len(), stored().estimated_size());
        let back = Stored::read(&mut bytes.as_slice()).unwrap();
        assert!(back.intact);
        assert_eq!(
            (back.key, back.offset, back.write, back.segments),
            (stored().key, stored().offset, 11, stored().segments)
        );
    }

    #[test]
    fn what_is_of_another_format_or_cut_off_is_not_intact() {
        let mut bytes = Vec::new();
        stored().put(&mut bytes).unwrap();
        for at in (0..4).chain([HEAD - 1]) {
            let mut flipped = bytes.clone();
            flipped[at] ^= 0x80;
            let back = Stored::read(&mut flipped.as_slice());
            assert!(back.is_err() || !back.unwrap().intact, "byte {at}");
        }
        for end in [0, HEAD, HEAD + SEGMENT, bytes.len() - 1] {
            let back = Stored::read(&mut &bytes[..end]);
            assert!(back.is_err() || !back.unwrap().intact, "cut at {end}");
        }
    }

    /// The place on disk of everything that was ever written depends on this.
    #[test]
    fn the_hash_of_a_key_never_changes() {
        let key = DiskKey::new(stored().key);
        assert_eq!(KeyHash.hash_one(key), xxh3_64_with_seed(&key.0, 0));
        assert_eq!(KeyHash.hash_one(key), GOLDEN);
    }

    const GOLDEN: u64 = 2_072_832_285_853_685_656;
}
