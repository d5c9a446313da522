//! Letting go of objects: what is resident, and what arrives just now.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::atomic::Ordering;

use super::Store;
use crate::block::BlockKey;
use crate::nvme::Nvme;
use crate::purge::{Place, Purge};
use crate::residents::Tally;
use crate::version::VersionKey;

impl Store {
    /// Lets every block go that `purge` takes: resident ones, and where it is from everywhere those
    /// that arrive just now. With an NVMe tier it is on the disk when this returns, and this blocks
    /// on the disk.
    ///
    /// # Errors
    /// If that could not be noted: the blocks are gone, but a restart may bring some back.
    pub fn purge(&self, purge: &Purge<'_>) -> io::Result<Tally> {
        let (mut purged, memory) = match (&self.nvme, purge.place) {
            (None, Place::Nvme) => (HashMap::new(), Vec::new()),
            (_, Place::Memory) | (None, Place::Everywhere) => {
                (HashMap::new(), self.purge_memory(purge))
            }
            (Some(nvme), Place::Nvme) => (
                nvme.purge_alone(purge, || self.staying(purge, nvme))?,
                Vec::new(),
            ),
            (Some(nvme), Place::Everywhere) => {
                let (purged, memory) = nvme.purge(purge, || self.purge_memory(purge));
                (purged?, memory)
            }
        };
        purged.extend(memory);
        Ok(Tally {
            blocks: purged.len() as u64,
            bytes: purged.values().map(|len| u64::from(*len)).sum(),
            objects: 0,
        })
    }

    /// Leaves alone what is on NVMe, as if it were not there, or no longer. For whoever does not know yet what of it was
    /// purged elsewhere while it was away.
    pub fn veil(&self, veiled: bool) {
        self.veiled.store(veiled, Ordering::Release);
    }

    pub(super) fn is_veiled(&self) -> bool {
        self.veiled.load(Ordering::Acquire)
    }

    fn purge_memory(&self, purge: &Purge<'_>) -> Vec<(BlockKey, u32)> {
        let mut table = self.lock();
        table.purges += 1;
        if purge.place == Place::Everywhere {
            table.retain(|flight| {
                let version = flight.key().version;
                let tag = self.residents.tag_of(version);
                let tag = tag.or_else(|| self.nvme.as_ref()?.residents().tag_of(version));
                !purge.takes(flight.object(), version, tag)
            });
        }
        drop(table);
        let found = self.residents.found(purge).into_iter();
        let purged = found.filter_map(|key| {
            let block = self.memory.remove(&key)?;
            Some((key, u32::try_from(block.len()).unwrap_or(u32::MAX)))
        });
        purged.collect()
    }

    /// The versions that stay in memory though they go from NVMe, and the number of the next write: what was offered
    /// before is not to be written any more.
    fn staying(&self, purge: &Purge<'_>, nvme: &Nvme) -> (HashSet<VersionKey>, u64) {
        // Under the lock nothing is offered.
        let mut table = self.lock();
        table.purges += 1;
        let staying = self.residents.found(purge).into_iter();
        (staying.map(|key| key.version).collect(), nvme.next_write())
    }
}
