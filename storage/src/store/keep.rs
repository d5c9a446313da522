//! What stays whatever comes, and what goes by the dataset's own bounds.

use super::Store;
use crate::residents::{Bounds, Pins};

/// Of the tier that pins are for, what may be pinned: one part in so many. The rest is for what comes and goes.
const PINNABLE: u64 = 2;

impl Store {
    /// Pins these, and nothing else any more: where there is an NVMe tier it keeps them, else memory does. To be called
    /// now and then: blocks of versions that were replaced are let go by it.
    pub fn pin(&self, pins: &Pins) {
        match &self.nvme {
            Some(nvme) => nvme.set_pins(pins),
            None => self.residents.set_pins(pins),
        }
    }

    /// Bytes that are resident and pinned, of a dataset.
    pub fn pinned_bytes(&self, dataset: &str) -> u64 {
        let residents = match &self.nvme {
            Some(nvme) => nvme.residents(),
            None => &self.residents,
        };
        residents.pinned(Some(dataset)).bytes
    }

    /// Bytes that may be pinned here.
    pub fn pinnable(&self) -> u64 {
        let tier = match &self.nvme {
            Some(nvme) => nvme.geometry().kept(),
            None => self.owned_limit(),
        };
        tier / PINNABLE
    }

    /// Bounds a dataset so from now on, in each tier by itself.
    pub fn set_bounds(&self, dataset: &str, bounds: Bounds) {
        self.residents.set_bounds(dataset, bounds);
        if let Some(nvme) = &self.nvme {
            nvme.set_bounds(dataset, bounds);
        }
    }

    /// Lets the blocks go whose time is over, or that are beyond the quota of one of these datasets. To be called now and
    /// then.
    pub fn enforce_bounds(&self, datasets: &[&str]) {
        let expired = self.residents.pop_expired();
        for key in expired {
            drop(self.memory.remove(&key));
        }
        for dataset in datasets {
            while let Some(key) = self.residents.pop_over_quota(dataset) {
                drop(self.memory.remove(&key));
            }
        }
        if let Some(nvme) = &self.nvme {
            nvme.enforce_bounds(datasets);
        }
    }
}
