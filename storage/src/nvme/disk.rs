//! What is written of a block, and what is believed of what is read.

#[cfg(any(test, fuzzing))]
mod fuzz;

use std::collections::HashMap;
use std::io::{self, Read, Write};
#[cfg(test)]
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;

use super::locked;
use super::medium::{Device, Loaded};
use crate::SEGMENT;
use crate::block::{Block, BlockKey};
use crate::frames::{Buffer, Frames};
use crate::version::VersionKey;

#[cfg(any(test, fuzzing))]
pub use fuzz::disk_block;

/// How long a turn of writes may take: at 50 MB/s it is a tenth of a second.
const FLUSH_LIMIT: Duration = Duration::from_secs(30);

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

/// An open device, and the checks of what it gives back.
#[derive(Debug)]
pub(super) struct Disk {
    device: Box<dyn Device>,
    block_size: u64,
    /// The blocks of the turn that is being written, and whether somebody took one out of the index meanwhile.
    turn: Mutex<HashMap<BlockKey, bool>>,
    #[cfg(test)]
    pub(super) faults: Arc<super::Faults>,
}

impl Disk {
    /// What is on `device`, in blocks of so many bytes.
    pub(super) fn new(
        device: Box<dyn Device>,
        block_size: u64,
        #[cfg(test)] faults: Arc<super::Faults>,
    ) -> Self {
        Self {
            device,
            block_size,
            turn: Mutex::default(),
            #[cfg(test)]
            faults,
        }
    }

    /// How many of these, beginning with the first, are to be given before [`Self::flushed`] is awaited.
    pub(super) fn together<'a>(&self, blocks: impl Iterator<Item = &'a Block>) -> usize {
        let sizes: Vec<_> = blocks.map(|block| HEAD + block.len()).collect();
        self.device.together(&sizes)
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
        locked(&self.turn).insert(key, false);
        #[cfg(test)]
        if self.faults.writes() {
            return;
        }
        #[cfg(test)]
        if self.faults.takes_out() {
            return self.remove(&key);
        }
        let stored = Stored {
            key,
            write,
            offset: u64::from(key.index) * self.block_size,
            segments: block.segments().to_vec(),
            intact: true,
        };
        self.device.write(key, stored);
    }

    /// Waits until all that was given is written or dropped; false if that takes too long.
    pub(super) async fn flushed(&self) -> bool {
        let flushed = self.device.flushed();
        tokio::time::timeout(FLUSH_LIMIT, flushed).await.is_ok()
    }

    /// Whether the index names the block.
    pub(super) fn contains(&self, key: &BlockKey) -> bool {
        self.device.contains(key)
    }

    /// Takes the block out of the index.
    pub(super) fn remove(&self, key: &BlockKey) {
        // Before it is done, so that whoever finds it gone finds why.
        if let Some(taken_out) = locked(&self.turn).get_mut(key) {
            *taken_out = true;
        }
        self.device.remove(key);
    }

    /// The same of one that can't be read. Nobody takes out what is written anew by that: if it is not there then, the
    /// disk has failed.
    pub(super) fn forget(&self, key: &BlockKey) {
        self.device.remove(key);
    }

    /// Ends the turn, and says which of its blocks somebody took out of the index meanwhile.
    pub(super) fn end_turn(&self) -> Vec<BlockKey> {
        let turn = std::mem::take(&mut *locked(&self.turn));
        let taken_out = turn.into_iter().filter(|(_, taken_out)| *taken_out);
        taken_out.map(|(key, _)| key).collect()
    }

    /// How often room was made for new blocks.
    pub(super) fn evictions(&self) -> u64 {
        self.device.evictions()
    }

    /// Reads the `len` bytes that the write numbered so left of block `key`, and checks them.
    pub(super) async fn read(&self, key: BlockKey, len: u32, write: u64, frames: &Frames) -> Found {
        #[cfg(test)]
        if self.faults.reads() {
            return Found::Failed("a fault was planted".into());
        }
        let evictions = self.evictions();
        let read = self.device.read(key);
        let stored = match FRAMES.scope(frames.clone(), read).await {
            Ok(Loaded::Stored(stored)) => stored,
            Ok(Loaded::Miss) if self.evictions() == evictions => return Found::Damaged,
            Ok(Loaded::Miss | Loaded::Busy) => return Found::Gone,
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

    /// Waits until what is under way is done and the files are closed; false if that takes too long: then they are by and
    /// by, and are not opened again before.
    pub(super) async fn close(&self) -> bool {
        let closed = tokio::time::timeout(FLUSH_LIMIT, self.device.close()).await;
        closed.is_ok()
    }
}

/// A file that ends early is damage, like any other wrong byte; the device did answer.
fn of_error(error: &io::Error) -> Found {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => Found::Damaged,
        _ => Found::Failed(error.to_string()),
    }
}

/// A block as it is on disk: whose it is, where it starts and which write it is of, and the bytes.
///
/// The device's own checksum (foyer's xxh64) is over all of that and is compared before anything is decoded; a
/// second one of ours cost 0.07 CPU s/GB and could only have found what the first finds.
#[derive(Clone, Debug)]
pub struct Stored {
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

    /// A block of these bytes.
    #[cfg(test)]
    pub(super) fn new(key: BlockKey, bytes: Vec<u8>) -> Self {
        Self {
            key,
            offset: 0,
            write: 0,
            segments: vec![bytes.into()],
            intact: true,
        }
    }

    /// Whose block it is, and the number of its write.
    pub fn of(&self) -> (BlockKey, u64) {
        (self.key, self.write)
    }

    /// Reads what [`Self::put`] wrote, if that is what is there: else no tier takes it for a block.
    ///
    /// # Errors
    /// If it ends early, and what the reader says.
    pub fn read(reader: &mut impl Read) -> io::Result<Self> {
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

    /// Bytes that [`Self::put`] writes.
    pub fn size(&self) -> usize {
        HEAD + self.len()
    }

    /// Writes it as it is on disk.
    ///
    /// # Errors
    /// What the writer says.
    pub fn put(&self, writer: &mut impl Write) -> io::Result<()> {
        writer.write_all(&self.head())?;
        for segment in &self.segments {
            writer.write_all(segment)?;
        }
        Ok(())
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
        assert_eq!(bytes.len(), stored().size());
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
}
