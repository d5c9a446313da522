//! What the tier lies on: where its blocks are, and its journal.
//!
//! Two of these exist: `Files` below a directory, by foyer, and the simulator's, which tear, lose and
//! forget what they were given. Whatever decides by what is found there is on this side.

use std::fmt;
use std::io::{self, Write};
use std::path::Path;

use async_trait::async_trait;

use super::geometry::Geometry;
use crate::block::BlockKey;

pub use super::disk::Stored;
pub use super::layout::Prepared;

/// What the tier lies on. All but [`Self::open`] blocks on the disk.
#[async_trait]
pub trait Medium: fmt::Debug + Send + Sync + 'static {
    /// Where it is, for people.
    fn place(&self) -> &Path;

    /// The journal's file.
    fn log(&self) -> Box<dyn Log>;

    /// Takes it for this process alone, unless it is taken.
    ///
    /// # Errors
    /// What the disk says; [`io::ErrorKind::ResourceBusy`] if another process has it.
    fn take(&self) -> io::Result<()>;

    /// Lets it go, so that its disk can be taken out and repaired.
    fn let_go(&self);

    /// Makes it fit the journal named `id`, which tells of blocks if `told`.
    ///
    /// # Errors
    /// What the disk says.
    fn prepare(&self, geometry: &Geometry, id: u64, told: bool) -> io::Result<Prepared>;

    /// Tries whether it works, and whether it takes direct I/O.
    ///
    /// # Errors
    /// What the disk says, such as that it is full or read-only.
    fn probe(&self, geometry: &Geometry) -> io::Result<bool>;

    /// Opens what was made ready, and reads which blocks are there.
    ///
    /// # Errors
    /// Why it can't be opened.
    async fn open(&self, geometry: &Geometry, direct: bool) -> Result<Box<dyn Device>, String>;
}

/// Blocks on an open medium, by key. It may lose any of them, and may find again what was removed.
#[async_trait]
pub trait Device: fmt::Debug + Send + Sync + 'static {
    /// Of blocks that take so many bytes each ([`Stored::size`]), how many are to be given, beginning with the first, before
    /// [`Self::flushed`] is awaited: one at least.
    fn together(&self, sizes: &[usize]) -> usize;

    /// Gives a block to be written. Whether it was, [`Self::contains`] says after [`Self::flushed`].
    fn write(&self, key: BlockKey, stored: Stored);

    /// Waits until all that was given is written or dropped.
    async fn flushed(&self);

    /// Whether the index names the block.
    fn contains(&self, key: &BlockKey) -> bool;

    /// Takes the block out of the index.
    fn remove(&self, key: &BlockKey);

    /// How often room was made for new blocks.
    fn evictions(&self) -> u64;

    /// What is there, with its own checksum compared.
    ///
    /// # Errors
    /// What the device says.
    async fn read(&self, key: BlockKey) -> io::Result<Loaded>;

    /// Waits until what is under way is done, and nothing of it touches the medium any more. Nothing is to be asked of it
    /// after that.
    async fn close(&self);
}

/// What was read.
#[derive(Debug)]
pub enum Loaded {
    /// A block, which may be another than the one that was asked for.
    Stored(Stored),
    /// What is there fails its checksum, or went to make room.
    Miss,
    /// The device has no time.
    Busy,
}

/// The file of the journal. Blocks on the disk.
pub trait Log: fmt::Debug + Send + 'static {
    /// Where it is, for people.
    fn path(&self) -> &Path;

    /// All of it; `None`: there is none.
    ///
    /// # Errors
    /// What the disk says.
    fn read(&self) -> io::Result<Option<Vec<u8>>>;

    /// Puts `bytes` behind what is there, without waiting for the disk.
    ///
    /// # Errors
    /// What the disk says; or that it was not written anew yet. A part of `bytes` may stay then.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Waits until all that was appended is on the disk.
    ///
    /// # Errors
    /// What the disk says. After that a later call proves nothing.
    fn sync(&mut self) -> io::Result<()>;

    /// Writes it anew by `write`, on the disk when this returns.
    ///
    /// # Errors
    /// What the disk says. Which of the two a restart finds is open then.
    fn replace(
        &mut self,
        write: &mut dyn FnMut(&mut dyn Write) -> io::Result<()>,
    ) -> io::Result<()>;
}
