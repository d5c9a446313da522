//! The memory of what jobs know: what they were asked for, and the lists of their objects.
//!
//! It is leased out of `memory` like every block, so that a long list makes the caches smaller and not the process
//! larger; all jobs together get a quarter of it.

use std::sync::Arc;

use forebay_storage::budget::Lease;
use forebay_storage::store::Store;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Of `memory`, what jobs may have: one part in so many.
const PART: u64 = 4;

/// It is leased by so many bytes at once.
const GRAIN: u64 = 4 << 10;

/// The memory that jobs may have.
#[derive(Debug)]
pub struct Paper {
    store: Arc<Store>,
    left: Arc<Semaphore>,
    grains: u64,
}

/// Some of it, until this is dropped.
#[derive(Debug)]
pub struct Sheet {
    bytes: u64,
    parts: Vec<(OwnedSemaphorePermit, Lease)>,
}

impl Paper {
    /// That of a gateway with this store.
    pub fn new(store: &Arc<Store>) -> Self {
        let grains = (store.budget().limit() / PART / GRAIN).max(1);
        let permits = usize::try_from(grains).unwrap_or(usize::MAX);
        Self {
            store: Arc::clone(store),
            left: Arc::new(Semaphore::new(permits.min(Semaphore::MAX_PERMITS))),
            grains,
        }
    }

    /// What all jobs may have together, in bytes.
    pub fn most(&self) -> u64 {
        self.grains * GRAIN
    }

    /// Memory of `bytes`; `None`: jobs have too much of it already. It waits as long as sockets hold all there is;
    /// dropping the future gives up nothing.
    pub async fn sheet(&self, bytes: u64) -> Option<Sheet> {
        let mut sheet = Sheet {
            bytes: 0,
            parts: Vec::new(),
        };
        self.grow(&mut sheet, bytes).await.then_some(sheet)
    }

    /// Makes a sheet one of `bytes` at least; false: jobs have too much already, and it stays as it is.
    pub async fn grow(&self, sheet: &mut Sheet, bytes: u64) -> bool {
        if bytes <= sheet.bytes {
            return true;
        }
        let grains = (bytes - sheet.bytes).div_ceil(GRAIN);
        let Ok(count) = u32::try_from(grains) else {
            return false;
        };
        let Ok(part) = Arc::clone(&self.left).try_acquire_many_owned(count) else {
            return false;
        };
        // A quarter of the largest memory that fits a lease's count is more than there ever is.
        let leased = u32::try_from(grains * GRAIN).unwrap_or(u32::MAX);
        let lease = self.store.set_apart(leased).await;
        sheet.parts.push((part, lease));
        sheet.bytes += grains * GRAIN;
        true
    }
}

impl Sheet {
    /// Bytes of it.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use forebay_storage::block::BlockSize;

    use super::*;

    #[tokio::test]
    async fn jobs_have_a_quarter_of_the_memory_and_it_counts() {
        let store = Store::new(64 << 20, BlockSize::new(1 << 20), None);
        let paper = Paper::new(&store);
        assert_eq!(paper.most(), 16 << 20);
        let mut sheet = paper.sheet(1).await.unwrap();
        assert!(paper.grow(&mut sheet, 15 << 20).await);
        assert_eq!(store.budget().used(), 15 << 20);
        assert!(paper.sheet(2 << 20).await.is_none());
        assert!(!paper.grow(&mut sheet, 17 << 20).await);
        drop(sheet);
        assert_eq!(store.budget().used(), 0);
        assert!(paper.sheet(16 << 20).await.is_some());
    }
}
