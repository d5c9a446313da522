//! The one task of the tier: it opens the files, writes what was offered, and tries a disk that
//! failed again.
//!
//! foyer drops a write without a word when its buffer is full or its device fails. So a turn is at
//! most half a buffer; after it, and wherever the device wants it, the device is waited for, and then the index is asked. If
//! something is not there that nobody took out, the disk has failed: foyer is given nothing more, closed and opened
//! again. After a write that failed it goes on writing to a segment that it may have finished, and panics when it
//! finishes that once more (foyer 0.22.6, `flusher.rs`: the segment at hand is the one before the failure).

use std::io;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::FutureExt;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::disk::Disk;
use super::journal::Remembered;
use super::keep::Aging;
use super::medium::Prepared;
use super::{Nvme, Offer, Past, Phase, count, locked};
use crate::aside::{aside, done};
use crate::block::{Block, BlockKey};
use crate::budget::For;
use crate::purge::Tag;
use crate::store::Store;

/// The wait before a disk that failed is tried again; it doubles with each failure.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// A disk that was in use for so long, once it was open, begins with the first pause again.
const HEALTHY: Duration = Duration::from_secs(60);

/// How often the journal learns what left, when nothing is written.
const TIDY_EVERY: Duration = Duration::from_secs(1);

/// Opening beyond this is a failure: a TiB takes about 8 s.
const OPEN_LIMIT: Duration = Duration::from_secs(120);

/// Making the directory ready beyond this is a failure: it reads a page of each file.
const PREPARE_LIMIT: Duration = Duration::from_secs(60);

/// Blocks that are written together.
pub(super) type Turn = Vec<Write>;

/// A block that is written, and by which write.
pub(super) struct Write {
    pub(super) version: Arc<Remembered>,
    pub(super) key: BlockKey,
    pub(super) write: u64,
    pub(super) block: Block,
}

/// The making ready that is under way, and whether direct I/O works.
type Preparing = Option<JoinHandle<io::Result<bool>>>;

impl Offer {
    /// What the journal is told of the version.
    pub(super) fn remembered(&self) -> Remembered {
        Remembered {
            object: self.object.clone(),
            key: self.key.version,
            size: self.version.size,
            headers: self.version.headers.clone(),
        }
    }
}

impl Nvme {
    /// Opens the files, writes what is offered, tries again when the disk fails. Never returns.
    pub(crate) async fn keep(self: Arc<Self>, store: Arc<Store>) {
        let Some(mut offers) = locked(&self.offered).take() else {
            return;
        };
        let memory = u32::try_from(self.geometry.memory()).unwrap_or(u32::MAX);
        // foyer's buffers and the tables are memory like any other, for as long as there is a tier.
        let _lease = store.reserve(memory, For::Clients).await;
        let mut pause = FIRST_PAUSE;
        let mut preparing = None;
        loop {
            let mut begun = None;
            // In this task and not in one of its own, so that both end together.
            let used =
                AssertUnwindSafe(self.use_disk(&store, &mut offers, &mut preparing, &mut begun));
            let reason: Arc<str> = match Box::pin(used.catch_unwind()).await {
                Ok(reason) => reason,
                Err(_) => "its code panicked".into(),
            };
            self.phase.send_replace(Phase::Off(Arc::clone(&reason)));
            locked(&self.ledger).writing.clear();
            while offers.try_recv().is_ok() {
                count(&self.stats.dropped_off);
            }
            if begun.is_some_and(|begun: Instant| begun.elapsed() > HEALTHY) {
                pause = FIRST_PAUSE;
            }
            tracing::warn!(
                %reason,
                dir = %self.medium.place().display(),
                again_in = ?pause,
                "the NVMe tier is off; reading goes on from memory and origin"
            );
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Opens the files and writes until the disk fails; says why it did.
    async fn use_disk(
        self: &Arc<Self>,
        store: &Arc<Store>,
        offers: &mut mpsc::Receiver<Offer>,
        preparing: &mut Preparing,
        begun: &mut Option<Instant>,
    ) -> Arc<str> {
        let disk = match self.open(preparing).await {
            Ok(disk) => Arc::new(disk),
            Err(error) => return error.into(),
        };
        *begun = Some(Instant::now());
        self.failed_reads.store(0, Ordering::Relaxed);
        self.phase.send_replace(Phase::On(Arc::clone(&disk)));
        self.write(store, &disk, offers).await;
        if disk.close().await {
            self.medium.let_go();
        }
        self.trouble().unwrap_or_else(|| "it failed".into())
    }

    async fn open(self: &Arc<Self>, preparing: &mut Preparing) -> Result<Disk, String> {
        // One that hangs is waited for again, and no second one hangs beside it.
        let ready = preparing.get_or_insert_with(|| {
            let nvme = Arc::clone(self);
            aside(move || nvme.prepare())
        });
        let ready = tokio::time::timeout(PREPARE_LIMIT, done(ready)).await;
        let ready = ready.map_err(|_| "the directory does not answer")?;
        *preparing = None;
        let ready = ready.map_err(|error| error.to_string())?;
        let direct = ready.map_err(|error| error.to_string())?;
        let device = self.medium.open(&self.geometry, direct);
        let device = tokio::time::timeout(OPEN_LIMIT, device).await;
        let device = device.unwrap_or_else(|_| Err("opening the files took too long".into()))?;
        let disk = Disk::new(
            device,
            self.geometry.block_size.bytes(),
            #[cfg(test)]
            Arc::clone(&self.faults),
        );
        let nvme = Arc::clone(self);
        let (disk, blocks) = blocking(move || {
            nvme.sweep(&disk);
            nvme.compact(&mut locked(&nvme.ledger))?;
            Ok((disk, nvme.residents.blocks()))
        })
        .await?;
        tracing::info!(
            dir = %self.medium.place().display(),
            capacity = self.geometry.capacity(),
            blocks,
            direct,
            "the NVMe tier is on"
        );
        Ok(disk)
    }

    /// Makes the medium ready, and says whether direct I/O works there.
    fn prepare(&self) -> io::Result<bool> {
        #[cfg(test)]
        if self.faults.probes() {
            return Err(io::Error::other("a fault was planted"));
        }
        self.medium.take()?;
        let mut ledger = locked(&self.ledger);
        if ledger.owed {
            self.compact(&mut ledger)?;
        }
        drop(ledger);
        let told = self.journal == Past::Tells || self.residents.blocks() > 0;
        let prepared = self.medium.prepare(&self.geometry, self.id, told)?;
        let dir = self.medium.place();
        let said = match (prepared, self.journal) {
            (Prepared::Kept, _) => None,
            // What was wrong with it was said when it was read.
            (Prepared::Wiped, Past::Damaged) => None,
            (Prepared::Wiped, Past::Lost) => Some(
                "no journal tells what the block files hold, or they were cut otherwise: they were \
                 removed",
            ),
            (Prepared::Wiped, _) => Some(
                "the block files were cut otherwise or are another gateway's: they were removed",
            ),
            (Prepared::Restored, _) => {
                Some("the layout of the block files was lost: it was made anew, after the journal")
            }
        };
        if let Some(said) = said {
            tracing::warn!(dir = %dir.display(), "{said}");
        }
        let direct = self.medium.probe(&self.geometry)?;
        if !direct {
            tracing::warn!(
                dir = %dir.display(),
                "direct I/O does not work there: blocks on disk also take page cache"
            );
        }
        Ok(direct)
    }

    /// Takes out of the table what the index does not name (any more).
    fn sweep(&self, disk: &Disk) {
        for (key, ..) in self.residents.all() {
            if !disk.contains(&key) {
                self.give_up(key);
            }
        }
    }

    /// Lets a block go that has to.
    fn give_up(&self, key: BlockKey) {
        let mut left = locked(&self.left);
        if self.residents.evicted(key).is_some() {
            left.push(key);
        }
    }

    /// Writes turn after turn, until the tier is off.
    async fn write(
        self: &Arc<Self>,
        store: &Arc<Store>,
        disk: &Arc<Disk>,
        offers: &mut mpsc::Receiver<Offer>,
    ) {
        let phase = self.phase.subscribe();
        let mut evictions = disk.evictions();
        let mut aging = Aging::default();
        loop {
            let first = tokio::select! {
                biased;
                _ = phase.wait_for(|phase| matches!(phase, Phase::Off(_))) => return,
                offer = offers.recv() => offer,
                () = tokio::time::sleep(TIDY_EVERY) => None,
            };
            let turn = self.turn(store, first, offers);
            if !turn.is_empty() {
                self.write_turn(disk, turn).await;
                if self.disk().is_none() {
                    continue;
                }
                let again = self.again(store, disk, &mut aging).await;
                if !again.is_empty() {
                    self.write_turn(disk, again).await;
                }
            }
            let (nvme, tidied) = (Arc::clone(self), Arc::clone(disk));
            let evicted = disk.evictions() != evictions;
            evictions = disk.evictions();
            let tidied = blocking(move || nvme.tidy(&tidied, evicted)).await;
            if let Err(error) = tidied {
                self.fail(disk, format!("its journal can't be written: {error}"));
            }
        }
    }

    /// The next blocks to write. Those that are in memory no more are not written.
    fn turn(
        &self,
        store: &Store,
        first: Option<Offer>,
        offers: &mut mpsc::Receiver<Offer>,
    ) -> Turn {
        let mut turn = Turn::new();
        let mut next = first;
        // Purges wait meanwhile: a block is either in the turn, where they see it, or gone from
        // memory.
        let mut ledger = locked(&self.ledger);
        while let Some(offer) = next {
            let unwanted = ledger.is_unwanted(offer.key.version, offer.write);
            let there = self.residents.contains(&offer.key);
            if !unwanted && !there && !ledger.writing.contains_key(&offer.key) {
                match store.in_memory(&offer.key) {
                    Some(block) => {
                        let version = Arc::new(offer.remembered());
                        ledger.writing.insert(offer.key, Arc::clone(&version));
                        turn.push(Write {
                            version,
                            key: offer.key,
                            write: offer.write,
                            block,
                        });
                    }
                    None => count(&self.stats.dropped_evicted),
                }
            }
            if turn.len() >= self.geometry.turn_blocks() {
                break;
            }
            next = offers.try_recv().ok();
        }
        turn
    }

    /// Writes a turn, until the tier is off.
    async fn write_turn(self: &Arc<Self>, disk: &Arc<Disk>, mut turn: Turn) {
        while !turn.is_empty() && self.disk().is_some() {
            let together = disk.together(turn.iter().map(|write| &write.block));
            let rest = turn.split_off(together.clamp(1, turn.len()));
            self.write_together(disk, turn).await;
            turn = rest;
        }
        for _ in turn {
            count(&self.stats.dropped_off);
        }
    }

    async fn write_together(self: &Arc<Self>, disk: &Arc<Disk>, turn: Turn) {
        let (flushed, mut lost) = Self::put(disk, turn.iter()).await;
        // A reader who finds that an earlier write of a block was written over has foyer take it out of the index,
        // whatever the index names by then.
        let taken_out = disk.end_turn();
        let wanted = |key: &BlockKey| locked(&self.ledger).writing.contains_key(key);
        lost.retain(wanted);
        if flushed && !lost.is_empty() && lost.iter().all(|key| taken_out.contains(key)) {
            lost =
                Self::put_again(disk, turn.iter().filter(|write| lost.contains(&write.key))).await;
            disk.end_turn();
            lost.retain(wanted);
        }
        for _ in &lost {
            count(&self.stats.dropped_lost);
        }
        if !lost.is_empty() {
            count(&self.stats.write_errors);
            self.fail(disk, "blocks that were written are not there".into());
        }
        let (nvme, proved_on) = (Arc::clone(self), Arc::clone(disk));
        let entered = blocking(move || nvme.enter(&proved_on, &turn, &lost)).await;
        if let Err(error) = entered {
            count(&self.stats.write_errors);
            self.fail(disk, format!("its journal can't be written: {error}"));
        }
    }

    /// Writes these, and says whether the disk was done with them in time, and which of them are not there then.
    async fn put<'a>(
        disk: &Disk,
        writes: impl Iterator<Item = &'a Write> + Clone,
    ) -> (bool, Vec<BlockKey>) {
        for write in writes.clone() {
            disk.write(write.key, write.write, &write.block);
        }
        let flushed = disk.flushed().await;
        let lost = writes.map(|write| write.key);
        let lost = lost.filter(|key| !flushed || !disk.contains(key));
        (flushed, lost.collect())
    }

    /// Writes these one by one, for they may not lie together, until one is not there then; says which are not.
    async fn put_again(disk: &Disk, writes: impl Iterator<Item = &Write>) -> Vec<BlockKey> {
        let mut lost = Vec::new();
        for write in writes {
            match lost.is_empty() {
                true => lost = Self::put(disk, std::iter::once(write)).await.1,
                false => lost.push(write.key),
            }
        }
        lost
    }

    /// Makes what was proved to be there resident: in the journal first, so that what is called
    /// resident survives.
    fn enter(&self, disk: &Disk, turn: &Turn, lost: &[BlockKey]) -> io::Result<()> {
        let mut ledger = locked(&self.ledger);
        let mut entered = Vec::with_capacity(turn.len());
        for write in turn {
            let purged = ledger.writing.remove(&write.key).is_none();
            if purged {
                disk.remove(&write.key);
            } else if !lost.contains(&write.key) {
                let len = u32::try_from(write.block.len()).unwrap_or(u32::MAX);
                let resident = (write.key, len, write.write);
                entered.push((Arc::clone(&write.version), resident));
            }
        }
        self.note(&mut ledger, None, &entered)?;
        for (version, (key, len, write)) in entered {
            let tag = Tag::of(version.etag());
            self.residents
                .entered_by((&version.object, tag), key, len, write);
            count(&self.stats.written);
        }
        // So many small blocks fit the disk that the tables would take too much memory.
        let most = usize::try_from(self.geometry.most_blocks()).unwrap_or(usize::MAX);
        while self.residents.blocks() > most {
            let Some(oldest) = self.residents.pop_oldest() else {
                break;
            };
            count(&self.stats.refused_table);
            disk.remove(&oldest);
            self.give_up(oldest);
        }
        Ok(())
    }

    /// Tells table and journal what left.
    fn tidy(&self, disk: &Disk, evicted: bool) -> io::Result<()> {
        if evicted {
            self.sweep(disk);
        }
        let mut ledger = locked(&self.ledger);
        self.note(&mut ledger, None, &[])?;
        if ledger.journal.is_long(self.residents.blocks()) {
            self.compact(&mut ledger)?;
        }
        Ok(())
    }
}

/// Runs what waits for a disk where it holds up nobody.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, String> {
    match done(&mut aside(work)).await {
        Ok(done) => done.map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    }
}
