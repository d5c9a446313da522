//! The journal's file on a simulated disk.

use std::io::{self, Write};
use std::path::Path;

use forebay_storage::nvme::medium::Log;

use super::{Plug, broken};
use crate::random::Random;

/// What there is of the file, and what a loss of power leaves of it.
#[derive(Debug, Default)]
pub(super) struct Image {
    bytes: Option<Vec<u8>>,
    /// So much was waited for.
    synced: usize,
    /// A sync failed: what it was for may be gone, and a later one does not bring it back.
    unsure: bool,
    /// What there was before, while it is open which of the two a restart finds.
    before: Option<Option<Vec<u8>>>,
}

impl Image {
    pub(super) fn lose_power(&mut self, random: &mut Random) {
        if let Some(before) = self.before.take().filter(|_| random.chance(50)) {
            self.synced = before.as_ref().map_or(0, Vec::len);
            self.bytes = before;
            return;
        }
        let Some(bytes) = &mut self.bytes else {
            return;
        };
        let young = (bytes.len() - self.synced) as u64;
        let kept = self.synced + random.below(young + 1) as usize;
        match random.below(3) {
            // The length was written, and what should be there was not.
            0 => bytes[kept..].fill(0),
            _ => bytes.truncate(kept),
        }
        self.synced = bytes.len();
    }

    pub(super) fn rot(&mut self, random: &mut Random) {
        if let Some(bytes) = self.bytes.as_mut().filter(|bytes| !bytes.is_empty()) {
            let at = random.below(bytes.len() as u64) as usize;
            bytes[at] ^= 1 << random.below(8);
        }
    }
}

/// The file as one start of a gateway has it.
#[derive(Debug)]
pub(super) struct SimLog {
    plug: Plug,
    /// Bytes that are good, once it was written anew.
    len: Option<usize>,
}

impl SimLog {
    pub(super) fn new(plug: Plug) -> Self {
        Self { plug, len: None }
    }

    /// Whether a step fails that would have worked.
    fn fails(&self) -> io::Result<bool> {
        let mut state = self.plug.room()?;
        let disk = &self.plug.disk;
        Ok(disk.goes_wrong(&mut state, disk.nature.log, "disk: journal error"))
    }
}

impl Log for SimLog {
    fn path(&self) -> &Path {
        Path::new("blocks.log")
    }

    fn read(&self) -> io::Result<Option<Vec<u8>>> {
        Ok(self.plug.state()?.log.bytes.clone())
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let len = self.len.ok_or_else(broken)?;
        let fails = self.fails()?;
        let mut state = self.plug.state()?;
        let part = match fails {
            false => bytes.len(),
            // A part stays where cutting it off fails too.
            true if state.random.chance(50) => 0,
            true => state.random.below(bytes.len() as u64 + 1) as usize,
        };
        let file = state.log.bytes.get_or_insert_default();
        file.truncate(len);
        file.extend(&bytes[..part]);
        if fails {
            return Err(broken());
        }
        self.len = Some(len + bytes.len());
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        let fails = self.fails();
        let mut state = self.plug.state()?;
        if fails? {
            state.log.unsure = true;
            return Err(broken());
        }
        if !state.log.unsure {
            state.log.synced = state.log.bytes.as_ref().map_or(0, Vec::len);
        }
        Ok(())
    }

    fn replace(
        &mut self,
        write: &mut dyn FnMut(&mut dyn Write) -> io::Result<()>,
    ) -> io::Result<()> {
        if self.fails()? {
            return Err(broken());
        }
        let mut bytes = Vec::new();
        write(&mut bytes)?;
        let fails = self.fails()?;
        let mut state = self.plug.state()?;
        self.len = Some(bytes.len());
        let synced = bytes.len();
        let before = state.log.bytes.replace(bytes).map(|mut before| {
            before.truncate(state.log.synced);
            before
        });
        state.log.synced = synced;
        state.log.unsure = false;
        if fails {
            state.log.before.get_or_insert(before);
            return Err(broken());
        }
        state.log.before = None;
        Ok(())
    }
}
