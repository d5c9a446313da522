//! Asking everybody whether they have what is theirs: before anything is brought, and at the end, when the answer is
//! what `done` means.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use forebay_storage::version::VersionKey;
use tokio::time::Instant;

use super::list::Entry;
use super::order::{Order, Tier};
use super::place::{Crew, Load, Room, Share};
use super::remote;
use crate::dataset::Dataset;
use crate::settings::size::shown;

/// Parts that one question to a member names at most.
const PARTS: usize = 2048;

/// Between two looks at who answers: there is no event for it.
const LOOK: Duration = Duration::from_millis(500);

/// Objects that are looked at before others get their turn on this thread.
const AT_A_TIME: usize = 256;

/// What somebody has not.
#[derive(Clone, Debug)]
pub(super) struct Missing {
    /// The place of its entry.
    pub entry: usize,
    /// Whose it is, and which blocks.
    pub share: Share,
}

/// What a look found.
#[derive(Debug, Default)]
pub(super) struct Checked {
    /// What is missing, in the order of the entries.
    pub missing: Vec<Missing>,
    /// Bytes there are to be, copies counted.
    pub bytes: u64,
    /// Of those, bytes that are missing.
    pub missing_bytes: u64,
}

/// Questions to one member that are being put together: the entry, its share, and what is asked.
#[derive(Default)]
struct Batch {
    of: Vec<Missing>,
    parts: Vec<(VersionKey, Range<u32>)>,
}

impl Crew {
    /// What of `entries` is not where `order` wants it. Moves nothing. A member that does not answer has nothing.
    pub(super) async fn check(
        self: &Arc<Self>,
        dataset: &Dataset,
        order: &Order,
        entries: &[Entry],
    ) -> Checked {
        let mut checking = Checking {
            crew: self,
            tier: order.tier,
            entries,
            checked: Checked::default(),
            batches: BTreeMap::new(),
        };
        for (at, entry) in entries.iter().enumerate() {
            for share in self.shares_of(dataset, order, entry) {
                checking.look(at, share).await;
            }
            if at % AT_A_TIME == AT_A_TIME - 1 {
                tokio::task::yield_now().await;
            }
        }
        for (member, batch) in std::mem::take(&mut checking.batches) {
            checking.ask(&member, batch).await;
        }
        let mut checked = checking.checked;
        checked
            .missing
            .sort_by_key(|missing| (missing.entry, missing.share.blocks.start));
        checked
    }

    /// Whose part an entry is.
    pub(super) fn shares_of(&self, dataset: &Dataset, order: &Order, entry: &Entry) -> Vec<Share> {
        let block_size = self.reads.store.block_size();
        let wanted = order.blocks(&entry.key, block_size, entry.size);
        self.shares(&entry.object(dataset), entry.size, &wanted, order.copies)
    }

    /// Bytes of these blocks.
    pub(super) fn bytes_of(&self, blocks: &Range<u32>, size: u64) -> u64 {
        let block_size = self.reads.store.block_size();
        block_size.start(blocks.end).min(size) - block_size.start(blocks.start).min(size)
    }

    /// The other members that answer, by name.
    fn others(&self) -> Vec<String> {
        let Some(peers) = self.peers() else {
            return Vec::new();
        };
        let fleet = peers.fleet();
        let names = fleet.peers.keys();
        let others = names.filter(|name| **name != *self.own && peers.answers(&fleet, name));
        others.cloned().collect()
    }

    /// Waits until others answer than those whose rooms are known, and says whether they do before `end`.
    pub(super) async fn others_answer(
        &self,
        rooms: &BTreeMap<Arc<str>, Room>,
        end: Instant,
    ) -> bool {
        loop {
            tokio::time::sleep(LOOK).await;
            if Instant::now() >= end {
                return false;
            }
            let others = self.others();
            let known = |name: &String| rooms.contains_key(name.as_str());
            if others.len() + 1 != rooms.len() || !others.iter().all(known) {
                return true;
            }
        }
    }

    /// What the members may keep: this one, and those that answer.
    pub(super) async fn rooms(&self) -> BTreeMap<Arc<str>, Room> {
        let own = Room::of(&self.reads.store);
        let mut rooms = BTreeMap::from([(Arc::clone(&self.own), own)]);
        let Some(peers) = self.peers() else {
            return rooms;
        };
        for name in &self.others() {
            match remote::room_of(peers, name).await {
                Ok(room) => {
                    rooms.insert(name.as_str().into(), room);
                }
                Err(error) => {
                    tracing::info!(member = name, %error, "a member does not say what room it has");
                }
            }
        }
        rooms
    }

    /// Bytes that all members that answer may pin together.
    pub async fn pinnable(&self) -> u64 {
        let rooms = self.rooms().await;
        let pinnable = rooms.values().map(|room| room.pinnable);
        pinnable.fold(0, u64::saturating_add)
    }

    /// Whether all of `entries` goes where `order` wants it.
    ///
    /// # Errors
    /// The arithmetic of the first member that it does not fit on, as a sentence.
    pub(super) async fn fits(
        &self,
        dataset: &Dataset,
        order: &Order,
        entries: &[Entry],
        rooms: &BTreeMap<Arc<str>, Room>,
    ) -> Result<(), String> {
        let mut loads: BTreeMap<Arc<str>, (Load, Load)> = BTreeMap::new();
        for (at, entry) in entries.iter().enumerate() {
            for share in self.shares_of(dataset, order, entry) {
                let blocks = u64::from(share.blocks.end - share.blocks.start);
                let bytes = self.bytes_of(&share.blocks, entry.size);
                let (owned, copies) = loads.entry(share.member).or_default();
                match share.owned {
                    true => owned.add(blocks, bytes),
                    false => copies.add(blocks, bytes),
                }
            }
            if at % AT_A_TIME == AT_A_TIME - 1 {
                tokio::task::yield_now().await;
            }
        }
        for (member, (owned, copies)) in loads {
            let bytes = owned.bytes + copies.bytes;
            if let Some(quota) = dataset.bounds().quota.filter(|quota| bytes > *quota) {
                return Err(format!(
                    "it does not fit: on {member} it is {}, and the dataset's quota is {}: {} too many; warm less, or \
                     give it more",
                    shown(bytes),
                    shown(quota),
                    shown(bytes - quota)
                ));
            }
            // Of one that did not say, nothing is known: it is found out by trying.
            if let Some(room) = rooms.get(&member) {
                room.takes(&member, order.tier, owned, copies)?;
            }
        }
        Ok(())
    }
}

struct Checking<'a> {
    crew: &'a Arc<Crew>,
    tier: Tier,
    entries: &'a [Entry],
    checked: Checked,
    batches: BTreeMap<Arc<str>, Batch>,
}

impl Checking<'_> {
    async fn look(&mut self, at: usize, share: Share) {
        let entry = &self.entries[at];
        self.checked.bytes += self.crew.bytes_of(&share.blocks, entry.size);
        let Some(version) = entry.version else {
            return self.note(at, share);
        };
        if share.member == self.crew.own {
            let blocks = share.blocks.clone();
            for blocks in remote::not_held(self.crew, self.tier, version, blocks) {
                let share = Share {
                    blocks,
                    ..share.clone()
                };
                self.note(at, share);
            }
            return;
        }
        let member = Arc::clone(&share.member);
        let batch = self.batches.entry(Arc::clone(&member)).or_default();
        batch.parts.push((version, share.blocks.clone()));
        batch.of.push(Missing { entry: at, share });
        if batch.parts.len() >= PARTS {
            let batch = std::mem::take(batch);
            self.ask(&member, batch).await;
        }
    }

    fn note(&mut self, entry: usize, share: Share) {
        let size = self.entries[entry].size;
        self.checked.missing_bytes += self.crew.bytes_of(&share.blocks, size);
        self.checked.missing.push(Missing { entry, share });
    }

    async fn ask(&mut self, member: &str, batch: Batch) {
        let Some(peers) = self.crew.peers() else {
            return;
        };
        let missing = match remote::missing_at(peers, member, self.tier, &batch.parts).await {
            Ok(missing) => missing,
            Err(error) => {
                tracing::info!(member, %error, "a member does not say what it has for a job");
                let parts = batch.parts.iter().enumerate();
                parts
                    .map(|(at, (_, blocks))| (at, blocks.clone()))
                    .collect()
            }
        };
        for (at, blocks) in missing {
            let Some(Missing { entry, share }) = batch.of.get(at).cloned() else {
                continue;
            };
            // Nobody's word makes more missing than was asked about.
            let blocks = blocks.start.max(share.blocks.start)..blocks.end.min(share.blocks.end);
            if !blocks.is_empty() {
                self.note(entry, Share { blocks, ..share });
            }
        }
    }
}
