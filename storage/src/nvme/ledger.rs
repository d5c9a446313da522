//! What must change together: the journal, and the blocks that are being written.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use super::journal::{Journal, Remembered, Resident};
use super::{Nvme, locked};
use crate::block::BlockKey;
use crate::version::VersionKey;

/// The journal, and the blocks that are being written.
///
/// A purge takes blocks out of both; a block that is no longer in `writing` when its write is
/// proved was purged meanwhile.
#[derive(Debug)]
pub(super) struct Ledger {
    pub(super) journal: Journal,
    pub(super) writing: HashMap<BlockKey, Arc<Remembered>>,
    /// Versions that were purged from here and stayed in memory: nothing of them is written that was offered before the
    /// write of this number.
    pub(super) unwanted: HashMap<VersionKey, u64>,
    /// The journal may tell of blocks that left: it must be written anew before a purge is done.
    pub(super) owed: bool,
}

impl Ledger {
    /// Whether what was offered to be written, by the write of this number, was purged since. Offers are asked about in
    /// their order.
    pub(super) fn is_unwanted(&mut self, version: VersionKey, write: u64) -> bool {
        self.unwanted.retain(|_, before| write < *before);
        self.unwanted.contains_key(&version)
    }
}

impl Nvme {
    /// Notes what left, `purged` among it, then what entered. A purge is on the disk when this
    /// returns.
    ///
    /// # Errors
    /// What the disk says; then what left is to be noted yet, and the journal is owed.
    pub(super) fn note(
        &self,
        ledger: &mut Ledger,
        purged: Option<&HashMap<BlockKey, u32>>,
        entered: &[(Arc<Remembered>, Resident)],
    ) -> io::Result<()> {
        let mut left = std::mem::take(&mut *locked(&self.left));
        left.extend(purged.into_iter().flat_map(HashMap::keys));
        // So that the same blocks leave the same journal.
        left.sort_unstable();
        let noted = self.try_note(ledger, &left, purged.is_some(), entered);
        if noted.is_err() {
            ledger.owed = true;
            locked(&self.left).extend(left);
        }
        noted
    }

    fn try_note(
        &self,
        ledger: &mut Ledger,
        left: &[BlockKey],
        purge: bool,
        entered: &[(Arc<Remembered>, Resident)],
    ) -> io::Result<()> {
        if ledger.owed {
            self.compact(ledger)?;
        }
        if !left.is_empty() || !entered.is_empty() {
            ledger.journal.append(left, entered)?;
        }
        if purge {
            ledger.journal.sync()?;
        }
        Ok(())
    }

    /// Writes the journal anew: it tells of what is resident while the ledger is held.
    ///
    /// # Errors
    /// What the disk says; then the journal is owed.
    pub(super) fn compact(&self, ledger: &mut Ledger) -> io::Result<()> {
        let compacted = ledger.journal.compact(&self.residents.all());
        ledger.owed = compacted.is_err();
        compacted
    }
}
