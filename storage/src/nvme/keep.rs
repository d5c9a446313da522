//! What of the tier is pinned, and what goes because its dataset has a bound.
//!
//! The device gives up what was written first, a segment at a time, whatever is in it. So what is pinned is written
//! again once half of the tier was written after it; as long as no more than half is pinned, that is in time.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::disk::{Disk, Found};
use super::writer::{Turn, Write};
use super::{Nvme, locked};
use crate::block::{Block, BlockKey};
use crate::residents::{Bounds, Pins};
use crate::store::Store;

/// Of the tier's bytes, how many may be written after a pinned block: one part in so many.
const AGED: u64 = 2;

/// It is looked for those anew once one part in so many of the tier was written.
const LOOK: u64 = 8;

/// Pinned blocks that are to be written again, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Aging {
    queue: VecDeque<(BlockKey, u32, u64)>,
    /// Blocks that had been written when it was looked for them last.
    looked: u64,
}

impl Nvme {
    /// Pins these, and nothing else any more.
    pub(crate) fn set_pins(&self, pins: &Pins) {
        self.residents.set_pins(pins);
    }

    /// Bounds a dataset so from now on.
    pub(crate) fn set_bounds(&self, dataset: &str, bounds: Bounds) {
        self.residents.set_bounds(dataset, bounds);
    }

    /// Lets the blocks go whose time is over, and those of `datasets` that are beyond their quotas.
    pub(crate) fn enforce_bounds(&self, datasets: &[&str]) {
        let disk = self.disk();
        let beyond = datasets.iter().flat_map(|dataset| {
            std::iter::from_fn(|| {
                let key = self.residents.pop_over_quota(dataset)?;
                Some((key, self.residents.left(key)))
            })
        });
        let expired = self.residents.pop_expired().into_iter();
        let expired = expired.map(|key| (key, self.residents.left(key)));
        let gone: Vec<_> = beyond.chain(expired).collect();
        for (key, held) in gone {
            if let Some(disk) = &disk {
                disk.remove(&key);
            }
            if held.is_some() {
                locked(&self.left).push(key);
            }
        }
    }

    /// Pinned blocks whose turn it is to be written again, as many as make a turn, with their bytes off the disk.
    pub(super) async fn again(&self, store: &Store, disk: &Disk, aging: &mut Aging) -> Turn {
        let written = self.stats.written.load(Ordering::Relaxed);
        let blocks = self.geometry.blocks();
        if aging.queue.is_empty() && written - aging.looked >= blocks / LOOK {
            aging.looked = written;
            let after = self.geometry.kept() / AGED;
            aging.queue = self.residents.aged_pins(after).into();
        }
        let mut turn = Turn::new();
        while turn.len() < self.geometry.turn_blocks() {
            let Some((key, len, write)) = aging.queue.pop_front() else {
                break;
            };
            let read = disk.read(key, len, write, store.frames());
            // What can't be read is found out by whoever wants it.
            let Found::Block(segments) = Box::pin(read).await else {
                continue;
            };
            // Purges wait meanwhile, as for any other write.
            let mut ledger = locked(&self.ledger);
            let still = self.residents.write_of(&key) == Some(write);
            if !still || ledger.writing.contains_key(&key) {
                continue;
            }
            let Some(version) = ledger.journal.version(key.version) else {
                continue;
            };
            ledger.writing.insert(key, Arc::clone(&version));
            turn.push(Write {
                version,
                key,
                write: self.next_write.fetch_add(1, Ordering::Relaxed),
                block: Block::new(segments),
            });
        }
        turn
    }
}
