//! What is purged from the tier, for good.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::atomic::Ordering;

use super::ledger::Ledger;
use super::{Nvme, locked};
use crate::block::BlockKey;
use crate::purge::{Purge, Tag};
use crate::version::VersionKey;

impl Nvme {
    /// Lets every block go that `purge` takes, and makes `elsewhere` do the same while nothing can
    /// be written. On the disk when it returns. Blocks on the disk.
    ///
    /// # Errors
    /// If the journal can't be written: the blocks are gone, but a restart may bring them back.
    pub(crate) fn purge<T>(
        &self,
        purge: &Purge<'_>,
        elsewhere: impl FnOnce() -> T,
    ) -> (io::Result<HashMap<BlockKey, u32>>, T) {
        let mut ledger = locked(&self.ledger);
        let purged = self.let_go_of(&mut ledger, purge);
        let elsewhere = elsewhere();
        let noted = self.note(&mut ledger, Some(&purged), &[]);
        (noted.map(|()| purged), elsewhere)
    }

    /// The same where `staying` names versions that stay in memory, and the number of a write: of these nothing is
    /// written that was offered before it.
    ///
    /// # Errors
    /// As [`Self::purge`].
    pub(crate) fn purge_alone(
        &self,
        purge: &Purge<'_>,
        staying: impl FnOnce() -> (HashSet<VersionKey>, u64),
    ) -> io::Result<HashMap<BlockKey, u32>> {
        let mut ledger = locked(&self.ledger);
        let purged = self.let_go_of(&mut ledger, purge);
        let (versions, before) = staying();
        let unwanted = versions.into_iter().map(|version| (version, before));
        ledger.unwanted.extend(unwanted);
        self.note(&mut ledger, Some(&purged), &[])?;
        Ok(purged)
    }

    /// The number of the next write.
    pub(crate) fn next_write(&self) -> u64 {
        self.next_write.load(Ordering::Relaxed)
    }

    fn let_go_of(&self, ledger: &mut Ledger, purge: &Purge<'_>) -> HashMap<BlockKey, u32> {
        ledger.writing.retain(|key, version| {
            let tag = Tag::of(version.etag());
            !purge.takes(&version.object, key.version, Some(tag))
        });
        let disk = self.disk();
        let mut purged = HashMap::new();
        for key in self.residents.found(purge) {
            if let Some(len) = self.residents.left(key) {
                purged.insert(key, len);
            }
            if let Some(disk) = &disk {
                disk.remove(&key);
            }
        }
        purged
    }
}
