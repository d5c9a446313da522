//! Letting go of objects: what is resident, and what arrives just now.

use std::collections::HashMap;
use std::io;

use super::Store;
use crate::block::BlockKey;
use crate::residents::Tally;

impl Store {
    /// Lets every block go of the objects of `dataset` that `wanted` picks by key: resident ones,
    /// and those that arrive just now. With an NVMe tier it is on the disk when this returns, and
    /// this blocks on the disk.
    ///
    /// # Errors
    /// If that could not be noted: the blocks are gone, but a restart may bring some back.
    pub fn purge(&self, dataset: &str, wanted: impl Fn(&str) -> bool) -> io::Result<Tally> {
        let (mut purged, memory) = match &self.nvme {
            None => (HashMap::new(), self.purge_memory(dataset, &wanted)),
            Some(nvme) => {
                let (purged, memory) =
                    nvme.purge(dataset, &wanted, || self.purge_memory(dataset, &wanted));
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

    fn purge_memory(&self, dataset: &str, wanted: impl Fn(&str) -> bool) -> Vec<(BlockKey, u32)> {
        let mut table = self.lock();
        table.purges += 1;
        table.retain(|object| &*object.dataset != dataset || !wanted(&object.key));
        drop(table);
        let found = self.residents.find(dataset, wanted).into_iter();
        let purged = found.filter_map(|key| {
            let block = self.memory.remove(&key)?;
            Some((key, u32::try_from(block.len()).unwrap_or(u32::MAX)))
        });
        purged.collect()
    }
}
