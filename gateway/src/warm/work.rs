//! A job from its first listing to its last look: list, look what is missing, bring that, look again, until nothing is.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use forebay_storage::block::BlockSize;
use forebay_storage::object::ObjectId;
use forebay_storage::store::RUN_BYTES;
use forebay_storage::version::VersionKey;
use futures::StreamExt;
use futures::stream::{self, FuturesUnordered};
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

use super::breadth::Breadth;
use super::bring::{Came, Failure, Part, Told, bring};
use super::check::Missing;
use super::fit::fitting;
use super::job::{Arriving, Job, State};
use super::list::Entry;
use super::order::Copies;
use super::place::{Crew, Share};
use super::rate::Pace;
use super::remote::bring_by;
use super::verify::Verifying;
use crate::dataset::Dataset;

/// Looks at what is missing: the first, the one that verifies, and those after blocks were evicted meanwhile.
const ROUNDS: u32 = 5;

/// Tries of one piece without a block of progress. With the pauses between them they take a minute.
const TRIES: u32 = 12;

/// The longest pause between two of them.
const LONGEST_PAUSE: Duration = Duration::from_secs(8);

/// Objects that may fail before a job gives up; it tells of the first.
const MOST_FAILED: u64 = 100;

/// Of the connections to the origin, what warming uses: readers need the rest.
const CONNECTIONS: (usize, usize) = (3, 4);

/// Of the memory, what warming has under way at once, and in any case.
const WINDOW_SHARE: u64 = 4;
const WINDOW: std::ops::RangeInclusive<u64> = 16 << 20..=256 << 20;

/// Bytes of the window are counted by so many.
const GRAIN: u64 = 64 << 10;

/// A job that is slowed asks for an eighth of a second's worth at once, so that it is even.
const PIECES_A_SECOND: u64 = 8;

/// How often an object may turn out to be another version while a job brings it.
const VERSIONS: u32 = 3;

/// Sees a job through.
///
/// # Errors
/// Why it is not done.
pub(super) async fn run(crew: &Arc<Crew>, job: &Arc<Job>) -> Result<(), Failure> {
    let order = &job.order;
    let refused = |sentence: String| Failure::Refused(sentence);
    let dataset = crew.datasets.get(&order.dataset);
    let dataset = dataset
        .ok_or_else(|| refused(format!("there is no dataset {:?} any more", order.dataset)))?;
    job.begin();
    job.go_on(State::Listing);
    let (mut list, members) = fitting(crew, job, &dataset).await?;
    let entries = &mut list.entries;
    crew.not_refuted(order, entries)?;
    job.bring();
    let work = Work::new(crew, job, &dataset, members);
    let mut verifying = Verifying::new(crew, job, &dataset, entries);
    for round in 0..ROUNDS {
        let mut checked = crew.check(&dataset, order, entries).await;
        job.looked(checked.bytes, checked.missing_bytes);
        if checked.missing.is_empty() && verifying.is_due() {
            job.go_on(State::Verifying);
            verifying.all(entries).await?;
            // It was read for that, and other things may have gone for it.
            checked = crew.check(&dataset, order, entries).await;
            job.looked(checked.bytes, checked.missing_bytes);
        }
        if checked.missing.is_empty() {
            return Ok(());
        }
        if round > 0 {
            let (bytes, id) = (checked.missing_bytes, &job.id);
            tracing::info!(
                job = id,
                bytes,
                "what was evicted or moved while a job ran is brought again"
            );
        }
        work.bring(entries, &checked.missing).await?;
        let brought = checked.missing.iter();
        brought.for_each(|missing| verifying.brought(missing.entry));
        job.go_on(State::Verifying);
    }
    Err(Failure::Evicted)
}

struct Work<'a> {
    crew: &'a Arc<Crew>,
    job: &'a Arc<Job>,
    dataset: &'a Arc<Dataset>,
    block_size: BlockSize,
    /// Bytes that may be under way, and pieces; objects at most.
    window: Semaphore,
    grains: u64,
    breadth: Breadth,
    at_once: usize,
    pace: Option<Pace>,
    failed: AtomicU64,
    first_failure: Mutex<Option<(Box<str>, Failure)>>,
}

impl<'a> Work<'a> {
    fn new(
        crew: &'a Arc<Crew>,
        job: &'a Arc<Job>,
        dataset: &'a Arc<Dataset>,
        members: usize,
    ) -> Self {
        let store = &crew.reads.store;
        let window = store.budget().limit() / WINDOW_SHARE * members as u64;
        let grains = window.clamp(*WINDOW.start(), *WINDOW.end()) / GRAIN;
        let at_once = dataset.origin_connections() * CONNECTIONS.0 / CONNECTIONS.1;
        let at_once = at_once.clamp(1, 256);
        Self {
            crew,
            job,
            dataset,
            block_size: store.block_size(),
            window: Semaphore::new(usize::try_from(grains).unwrap_or(1)),
            grains,
            breadth: Breadth::new(at_once),
            at_once,
            pace: job.order.rate.map(Pace::new),
            failed: AtomicU64::new(0),
            first_failure: Mutex::default(),
        }
    }

    /// Brings what is missing, many objects at once, in their order.
    async fn bring(&self, entries: &mut [Entry], missing: &[Missing]) -> Result<(), Failure> {
        let mut objects = missing.chunk_by(|one, next| one.entry == next.entry);
        let mut running = FuturesUnordered::new();
        loop {
            while running.len() < self.at_once
                && let Some(missing) = objects.next()
            {
                let at = missing[0].entry;
                let entry = entries[at].clone();
                let shares = missing.iter().map(|missing| missing.share.clone());
                let object = self.object(entry, shares.collect());
                running.push(async move { (at, object.await) });
            }
            let Some((at, brought)) = running.next().await else {
                break;
            };
            match brought {
                Ok((version, size)) => {
                    entries[at].version = Some(version);
                    entries[at].size = size;
                }
                Err(failure) => self.note(&entries[at].key, failure)?,
            }
        }
        match self.failure() {
            Some(failure) => Err(failure),
            None => Ok(()),
        }
    }

    /// Notes that an object can't be warmed; an error once that is so of too many.
    fn note(&self, key: &str, failure: Failure) -> Result<(), Failure> {
        {
            let mut first = self
                .first_failure
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            first.get_or_insert_with(|| (key.into(), failure));
        }
        let failed = self.failed.fetch_add(1, Ordering::AcqRel) + 1;
        match self.failure().filter(|_| failed >= MOST_FAILED) {
            Some(failure) => Err(failure),
            None => Ok(()),
        }
    }

    fn failure(&self) -> Option<Failure> {
        let first = self
            .first_failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let (key, failure) = first.as_ref()?;
        let more = self.failed.load(Ordering::Acquire).saturating_sub(1);
        Some(Failure::Refused(match more {
            0 => format!("{key}: {failure}"),
            more => format!("{key}: {failure} (and {more} more objects failed)"),
        }))
    }

    /// Brings these shares of an object; the version and size that it has.
    async fn object(
        &self,
        entry: Entry,
        mut shares: Vec<Share>,
    ) -> Result<(VersionKey, u64), Failure> {
        let id = entry.object(self.dataset);
        let (mut size, mut listed) = (entry.size, entry.version);
        for _ in 0..VERSIONS {
            let object = Object {
                work: self,
                id: &id,
                size,
                listed,
                version: watch::Sender::new(None),
                first: watch::Sender::new(BTreeSet::new()),
            };
            object.all(&shares).await?;
            let version = *object.version.borrow();
            match version {
                Some(Seen::One(version, seen)) if seen == size => return Ok((version, size)),
                Some(Seen::One(_, seen)) => size = seen,
                // Some of it may be of another version than the rest: all of it is brought once more.
                Some(Seen::Several) | None => {
                    let current = self.crew.reads.current(self.dataset, &id, None, true).await;
                    size = current?.version.size;
                }
            }
            listed = None;
            let wanted = self.job.order.blocks(&id.key, self.block_size, size);
            shares = self.crew.shares(&id, size, &wanted, self.job.order.copies);
            if wanted.is_empty() {
                // It is empty by now: there is nothing to bring, and any version will do.
                return Ok((VersionKey(0), size));
            }
        }
        Err(forebay_storage::error::OriginError::Changed.into())
    }
}

/// What is seen of an object's version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    One(VersionKey, u64),
    Several,
}

/// What of a piece is not there yet.
struct Outstanding<'a> {
    missing: Mutex<BTreeSet<u32>>,
    arriving: Arriving<'a>,
}

impl Outstanding<'_> {
    fn missing(&self) -> MutexGuard<'_, BTreeSet<u32>> {
        self.missing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An object while it is brought.
struct Object<'a> {
    work: &'a Work<'a>,
    id: &'a ObjectId,
    size: u64,
    listed: Option<VersionKey>,
    version: watch::Sender<Option<Seen>>,
    /// Blocks that are brought to whoever is asked for them by the others, and are not there yet.
    first: watch::Sender<BTreeSet<u32>>,
}

impl Object<'_> {
    /// Brings all shares, a piece at a time: the first by itself until it tells the version, so that the origin is
    /// asked for that once.
    async fn all(&self, shares: &[Share]) -> Result<(), Failure> {
        let most = self.most_blocks();
        let mut pieces = Vec::new();
        for share in shares {
            let mut first = share.blocks.start;
            while first < share.blocks.end {
                let end = first.saturating_add(most).min(share.blocks.end);
                pieces.push(Share {
                    blocks: first..end,
                    ..share.clone()
                });
                first = end;
            }
        }
        // A copy stands behind all that it waits for.
        pieces.sort_by_key(|piece| match piece.first {
            true => (piece.blocks.start, 0),
            false => (piece.blocks.end, 1),
        });
        let copied = pieces.iter().any(|piece| !piece.first);
        if copied {
            let first = pieces.iter().filter(|piece| piece.first);
            let first = first.flat_map(|piece| piece.blocks.clone());
            self.first.send_replace(first.collect());
        }
        let first_is_over = watch::Sender::new(false);
        let over = &first_is_over;
        let at_once = self.work.at_once;
        let running = pieces
            .into_iter()
            .enumerate()
            .map(|(at, piece)| async move {
                if at > 0 {
                    let (mut known, mut over) = (self.version.subscribe(), over.subscribe());
                    tokio::select! {
                        biased;
                        _ = known.wait_for(Option::is_some) => {}
                        _ = over.wait_for(|over| *over) => {}
                    }
                }
                let (is_first, blocks) = (piece.first, piece.blocks.clone());
                if !is_first {
                    // They are asked of whoever is to have them first; asked before, that one would bring them for
                    // this, as for a reader. The sender is ours.
                    let mut first = self.first.subscribe();
                    let here = |first: &BTreeSet<u32>| first.range(blocks.clone()).next().is_none();
                    let _ = first.wait_for(here).await;
                }
                let brought = self.piece(piece).await;
                if is_first && copied {
                    self.first
                        .send_modify(|first| first.retain(|index| !blocks.contains(index)));
                }
                if at == 0 {
                    over.send_replace(true);
                }
                brought
            });
        let mut running = stream::iter(running).buffer_unordered(at_once);
        while let Some(brought) = running.next().await {
            brought?;
        }
        Ok(())
    }

    fn most_blocks(&self) -> u32 {
        let block = self.work.block_size.bytes();
        let bytes = match self.work.job.order.rate {
            Some(rate) => (rate / PIECES_A_SECOND).min(RUN_BYTES),
            None => RUN_BYTES,
        };
        u32::try_from(bytes / block).unwrap_or(1).max(1)
    }

    /// Brings a piece to the member whose it is, or whose it is by then.
    async fn piece(&self, piece: Share) -> Result<(), Failure> {
        let work = self.work;
        let bytes = work.crew.bytes_of(&piece.blocks, self.size);
        let grains = bytes.div_ceil(GRAIN).clamp(1, work.grains);
        let grains = u32::try_from(grains).unwrap_or(1);
        // Nobody closes this semaphore.
        let _bytes = work.window.acquire_many(grains).await;
        let _turn = work.breadth.turn().await;
        if let Some(pace) = &work.pace {
            pace.wait(bytes).await;
        }
        let mut left = vec![piece];
        let mut tries = 0;
        while let Some(share) = left.pop() {
            let outstanding = Outstanding {
                missing: Mutex::new(share.blocks.clone().collect()),
                arriving: work.job.arriving(),
            };
            let before = share.blocks.len();
            let demand = &work.crew.reads.demand;
            let (begun, waited) = (Instant::now(), demand.is_there());
            let brought = self.bring(&share, &outstanding).await;
            if brought.is_ok() && !waited && !demand.is_there() {
                let bytes = work.crew.bytes_of(&share.blocks, self.size);
                work.breadth.took(bytes, begun.elapsed());
            }
            let missing = outstanding.missing.into_inner();
            let missing = missing.unwrap_or_else(PoisonError::into_inner);
            let failure = match brought {
                Ok(()) => continue,
                Err(failure) if failure.is_final() => return Err(failure),
                Err(failure) => failure,
            };
            tries = if missing.len() < before { 1 } else { tries + 1 };
            if tries > TRIES {
                return Err(failure);
            }
            let object = self.id;
            tracing::debug!(%object, %failure, tries, "a piece of a job is tried again");
            let pause = Duration::from_millis(50) * 2u32.saturating_pow(tries);
            tokio::time::sleep(pause.min(LONGEST_PAUSE)).await;
            left.extend(self.placed_anew(&share, &missing));
        }
        Ok(())
    }

    async fn bring(&self, share: &Share, outstanding: &Outstanding<'_>) -> Result<(), Failure> {
        let (crew, order) = (self.work.crew, &self.work.job.order);
        let part = Part {
            object: self.id.clone(),
            // What the first piece found out, the others need not.
            listed: match *self.version.borrow() {
                Some(Seen::One(version, size)) => Some((version, size)),
                Some(Seen::Several) => None,
                None => self.listed.map(|version| (version, self.size)),
            },
            blocks: share.blocks.clone(),
            tier: order.tier,
        };
        let tell = |told| match told {
            // Whoever owns it has told of that already.
            Told::Block(index, Came::Origin) if !share.owned => {
                self.told(Told::Block(index, Came::Elsewhere), outstanding);
            }
            told => self.told(told, outstanding),
        };
        match crew.peers().filter(|_| share.member != crew.own) {
            Some(peers) => bring_by(peers, &share.member, &part, &tell).await,
            None => Box::pin(bring(&crew.reads, self.work.dataset, &part, &tell)).await,
        }
    }

    fn told(&self, told: Told, outstanding: &Outstanding<'_>) {
        match told {
            Told::Version(version, size) => {
                self.version.send_if_modified(|seen| {
                    let now = Seen::One(version, size);
                    let next = match *seen {
                        None => Some(now),
                        Some(before) if before == now => Some(before),
                        Some(_) => Some(Seen::Several),
                    };
                    let changed = *seen != next;
                    *seen = next;
                    changed
                });
            }
            Told::Block(index, came) => {
                if !outstanding.missing().remove(&index) {
                    return;
                }
                let (work, blocks) = (self.work, index..index.saturating_add(1));
                let bytes = work.crew.bytes_of(&blocks, self.size);
                outstanding.arriving.less(bytes);
                work.job.came(bytes, came);
            }
            Told::Arriving(bytes) => {
                // A member's word is no more than a word.
                let most = outstanding.missing().len() as u64 * self.work.block_size.bytes();
                outstanding.arriving.set(bytes.min(most));
            }
        }
    }

    /// Whose the blocks that are still missing of a share are by now.
    fn placed_anew(&self, share: &Share, missing: &BTreeSet<u32>) -> Vec<Share> {
        let mut ranges: Vec<std::ops::Range<u32>> = Vec::new();
        for index in missing {
            match ranges.last_mut() {
                Some(last) if last.end == *index => last.end += 1,
                _ => ranges.push(*index..*index + 1),
            }
        }
        let copies = self.work.job.order.copies;
        let shares = self.work.crew.shares(self.id, self.size, &ranges, copies);
        match copies {
            Copies::Owners => shares,
            // The others have theirs, and who does not answer any more needs none.
            Copies::Zone | Copies::All => shares
                .into_iter()
                .filter(|anew| anew.member == share.member)
                .collect(),
        }
    }
}
