//! Bringing blocks of one object to this gateway, and telling of each once it is resident.
//!
//! It reads as a client of this gateway would, so that what an owner brings comes from the origin, what is
//! to be a copy comes from the owner, and whoever reads meanwhile follows the same fills.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use forebay_storage::block::BlockKey;
use forebay_storage::class::Class;
use forebay_storage::error::OriginError;
use forebay_storage::flight::{Follower, From};
use forebay_storage::object::ObjectId;
use forebay_storage::store::{Asker, Handle, Level};
use forebay_storage::version::{Version, VersionKey};
use tokio::time::Instant;

use super::order::Tier;
use crate::dataset::Dataset;
use crate::read::demand::Leave;
use crate::read::{Reads, fetch};

/// It asks as a client does, and less urgently than any.
const ASKER: (Level, Class) = (0, Class::Warm);

/// How often an object may turn out to be another version while it is brought.
const VERSIONS: u32 = 3;

/// How often blocks that are gone as soon as they have come are brought again, here.
const AGAIN: u32 = 2;

/// Between two looks at what there is no event for: room in memory, and what has been written to NVMe.
const LOOK: Duration = Duration::from_millis(10);

/// A block that is in memory and not on NVMe after so long is offered once more: it may have been dropped.
const OFFER_AGAIN: Duration = Duration::from_secs(1);

/// How often it is told how much of the blocks that are under way has come.
pub(super) const ARRIVING: Duration = Duration::from_millis(250);

/// How long NVMe may take nothing of what it is offered.
const WRITE_LIMIT: Duration = Duration::from_secs(30);

/// What is to be brought.
#[derive(Clone, Debug)]
pub struct Part {
    /// The object.
    pub object: ObjectId,
    /// The version that a listing has just named, and the object's bytes: if all of it is here, the origin need not be
    /// asked.
    pub listed: Option<(VersionKey, u64)>,
    /// These of its blocks.
    pub blocks: Range<u32>,
    /// Where they are to be.
    pub tier: Tier,
}

/// What is told while blocks are brought.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Told {
    /// The version that they are of, and its bytes. Told before its blocks are.
    Version(VersionKey, u64),
    /// This block is resident.
    Block(u32, Came),
    /// So many bytes have come by now of blocks that are not resident yet. It is told now and then.
    Arriving(u64),
}

/// How a block came to be resident.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Came {
    /// It was already.
    Found,
    /// Its bytes came from the origin, through another gateway if it has to be.
    Origin,
    /// Another gateway had them, or another tier.
    Elsewhere,
}

/// Why something could not be warmed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// What the origin says.
    #[error("{0}")]
    Origin(#[from] OriginError),
    /// Nothing of it is kept.
    #[error(
        "the origin names no version of it (no ETag, no Last-Modified), so nothing of it is kept: set immutable = true \
         if its objects never change"
    )]
    Unversioned,
    /// The tier takes nothing.
    #[error("the NVMe tier takes nothing: {0}")]
    NoTier(String),
    /// Blocks go as fast as they come.
    #[error(
        "its blocks are evicted as fast as they come: the tier is too small for what is read beside them"
    )]
    Evicted,
    /// Another member did not do its part.
    #[error("the member {0} {1}")]
    Member(String, String),
    /// Another member says that it can't, for this reason.
    #[error("{0}")]
    Told(String),
    /// What was asked for makes no sense here.
    #[error("{0}")]
    Refused(String),
}

impl Failure {
    /// Whether trying again would end the same way.
    pub fn is_final(&self) -> bool {
        match self {
            Self::Origin(error) => !error.retryable() && *error != OriginError::Changed,
            Self::Unversioned | Self::Told(_) | Self::Refused(_) => true,
            Self::NoTier(_) | Self::Evicted | Self::Member(..) => false,
        }
    }
}

/// Makes the blocks of `part` resident, and tells of each, once, and of the version before.
///
/// Dropping the future stops it: fills that it started finish their block.
///
/// # Errors
/// Why not all of them are resident. Those that were told of are.
pub async fn bring(
    reads: &Arc<Reads>,
    dataset: &Arc<Dataset>,
    part: &Part,
    tell: &(dyn Fn(Told) + Send + Sync),
) -> Result<(), Failure> {
    if let Some((version, size)) = part.listed {
        let held = |index| {
            let key = BlockKey { version, index };
            part.tier.holds(&reads.store, &key)
        };
        if part.blocks.clone().all(held) {
            tell(Told::Version(version, size));
            for index in part.blocks.clone() {
                tell(Told::Block(index, Came::Found));
            }
            return Ok(());
        }
    }
    let mut doubting = false;
    for _ in 0..VERSIONS {
        let leave = reads.demand.leave().await;
        let (version, fills) = current(reads, dataset, part, doubting).await?;
        if !version.cacheable() {
            return Err(Failure::Unversioned);
        }
        tell(Told::Version(version.key, version.size));
        let brought = Bringing {
            reads,
            dataset,
            part,
            version: &version,
            tell,
        }
        .all(fills, leave)
        .await;
        match brought {
            Err(Failure::Origin(OriginError::Changed)) => doubting = true,
            brought => return brought,
        }
    }
    Err(OriginError::Changed.into())
}

/// Fills that a question about the version has begun.
type Fills = Option<Arc<Vec<Follower>>>;

/// The current version, and the first fills if its answer brings them.
async fn current(
    reads: &Arc<Reads>,
    dataset: &Arc<Dataset>,
    part: &Part,
    doubting: bool,
) -> Result<(Arc<Version>, Fills), OriginError> {
    let block_size = reads.store.block_size();
    let bytes = block_size.start(part.blocks.start)..block_size.start(part.blocks.end);
    let first = (!bytes.is_empty()).then_some(bytes);
    let current = reads
        .current_as(ASKER, dataset, &part.object, first.clone(), doubting)
        .await?;
    let other = part
        .listed
        .is_some_and(|(key, _)| key != current.version.key);
    if doubting || !other {
        return Ok((current.version, current.fills));
    }
    // The listing names another: one of the two is old.
    let current = reads
        .current_as(ASKER, dataset, &part.object, first, true)
        .await?;
    Ok((current.version, current.fills))
}

/// What the question about the version brings by itself. It may have come before anybody looks.
fn fed(fills: Option<&Vec<Follower>>) -> HashMap<u32, Came> {
    let fills = fills.into_iter().flatten();
    fills
        .map(|follower| (follower.index(), came(follower)))
        .collect()
}

fn came(follower: &Follower) -> Came {
    match follower.from() {
        // Of what is the asker's own, another gateway brings something only where tables differ for a moment.
        From::Origin | From::Peer => Came::Origin,
        From::Nvme | From::PeerHit => Came::Elsewhere,
    }
}

struct Bringing<'a> {
    reads: &'a Arc<Reads>,
    dataset: &'a Arc<Dataset>,
    part: &'a Part,
    version: &'a Arc<Version>,
    tell: &'a (dyn Fn(Told) + Send + Sync),
}

impl Bringing<'_> {
    async fn all(&self, mut fills: Fills, leave: Leave<'_>) -> Result<(), Failure> {
        let mut leave = Some(leave);
        let count = self.reads.store.block_size().count(self.version.size);
        let wanted = self.part.blocks.start.min(count)..self.part.blocks.end.min(count);
        let mut missing = Vec::new();
        let fed = fed(fills.as_deref());
        for index in wanted {
            let came = fed.get(&index).copied();
            match self.is_held(index) {
                true => (self.tell)(Told::Block(index, came.unwrap_or(Came::Found))),
                false => missing.push((index, came.unwrap_or(Came::Elsewhere))),
            }
        }
        for _ in 0..AGAIN {
            self.fill(&mut missing, fills.take(), leave.take()).await?;
            self.settle(&mut missing).await?;
            if missing.is_empty() {
                return Ok(());
            }
        }
        Err(Failure::Evicted)
    }

    fn key(&self, index: u32) -> BlockKey {
        BlockKey {
            version: self.version.key,
            index,
        }
    }

    fn is_held(&self, index: u32) -> bool {
        self.part.tier.holds(&self.reads.store, &self.key(index))
    }

    /// Brings every one of `missing` to memory, and tells of those of which that was all.
    async fn fill(
        &self,
        missing: &mut [(u32, Came)],
        mut fills: Fills,
        mut leave: Option<Leave<'_>>,
    ) -> Result<(), Failure> {
        let mut at = 0;
        while at < missing.len() {
            let first = missing[at].0;
            if self.part.tier == Tier::Nvme && self.reads.store.in_memory_tier(&self.key(first)) {
                self.arrived(first);
                at += 1;
                continue;
            }
            // Before the turn, not within it: the turns of all others would wait for memory too.
            while fills.is_none() && self.reads.store.is_too_full_to_warm() {
                tokio::time::sleep(LOOK).await;
            }
            let leave = match leave.take() {
                Some(leave) => leave,
                None => self.reads.demand.leave().await,
            };
            let run = missing[at..].iter().zip(first..);
            let length = run.take_while(|((index, _), next)| index == next).count();
            let opened = self.open(first, missing[at + length - 1].0);
            // They are joined by now, or were ended by others.
            fills = None;
            at += self.follow(opened, missing, at, &leave).await?;
        }
        Ok(())
    }

    /// Follows open blocks of `missing` from this place on to their end, and says how many came. Where readers begin to
    /// wait it stands back: of what nobody follows any more, no more comes than the block that is under way.
    async fn follow(
        &self,
        opened: Vec<(u32, Handle)>,
        missing: &mut [(u32, Came)],
        from: usize,
        leave: &Leave<'_>,
    ) -> Result<usize, Failure> {
        let count = opened.len();
        let mut opened = VecDeque::from(opened);
        for (at, (_, brought)) in missing.iter_mut().enumerate().skip(from) {
            let Some((index, handle)) = opened.pop_front() else {
                break;
            };
            // What is resident by now, the question about the version may have brought.
            if let Handle::Following(mut follower) = handle {
                let ended = loop {
                    tokio::select! {
                        biased;
                        ended = follower.end() => break Some(ended),
                        () = self.stand_back(leave) => break None,
                        () = tokio::time::sleep(ARRIVING) => self.arriving(at, &follower, &opened),
                    }
                };
                *brought = came(&follower);
                match ended {
                    None => return Ok(at - from),
                    // Given up by whoever led it, just as it was joined: it is missing still.
                    Some(Err(OriginError::Abandoned)) => {}
                    Some(ended) => ended?,
                }
            }
            self.arrived(index);
            if self.part.tier != Tier::Nvme && self.is_held(index) {
                (self.tell)(Told::Block(index, *brought));
                *brought = Came::Found;
            }
        }
        Ok(count)
    }

    /// Tells how much has come of the block at this place, of those that are open behind it, and of those before it that
    /// wait for NVMe.
    fn arriving(&self, at: usize, follower: &Follower, opened: &VecDeque<(u32, Handle)>) {
        let waiting = match self.part.tier {
            Tier::Nvme => at as u64 * self.reads.store.block_size().bytes(),
            _ => 0,
        };
        let behind = opened.iter().map(|(_, handle)| match handle {
            Handle::Following(follower) => u64::from(follower.arrived()),
            _ => 0,
        });
        let arriving = waiting + u64::from(follower.arrived()) + behind.sum::<u64>();
        (self.tell)(Told::Arriving(arriving));
    }

    async fn stand_back(&self, leave: &Leave<'_>) {
        match leave {
            Leave::Free => self.reads.demand.begins().await,
            Leave::Part { .. } => std::future::pending().await,
        }
    }

    fn open(&self, first: u32, last: u32) -> Vec<(u32, Handle)> {
        let (object, version) = (&self.part.object, self.version);
        let spot = self.reads.spots(object, version.size, ASKER.0);
        let asker = Asker {
            level: ASKER.0,
            class: ASKER.1,
            spot: &spot,
            run: self.reads.run_bytes(self.dataset),
        };
        let store = &self.reads.store;
        let opened = store.open_as(&asker, object, version, first..=last, Some(first));
        for run in opened.runs {
            fetch::spawn(Arc::clone(self.reads), Arc::clone(self.dataset), run, None);
        }
        let blocks = opened.blocks.into_iter();
        blocks.map(|(index, handle, _)| (index, handle)).collect()
    }

    fn arrived(&self, index: u32) {
        if self.part.tier == Tier::Nvme {
            let store = &self.reads.store;
            store.write_to_nvme(&self.part.object, self.version, index);
        }
    }

    /// Leaves in `missing` what is neither where it is to be nor on its way there.
    async fn settle(&self, missing: &mut Vec<(u32, Came)>) -> Result<(), Failure> {
        if self.part.tier != Tier::Nvme {
            missing.retain(|(_, came)| *came != Came::Found);
            return Ok(());
        }
        let store = &self.reads.store;
        let mut lost = Vec::new();
        let (mut moved, mut offered) = (Instant::now(), Instant::now());
        while !missing.is_empty() {
            let before = missing.len();
            missing.retain(|(index, came)| {
                if self.is_held(*index) {
                    (self.tell)(Told::Block(*index, *came));
                    return false;
                }
                let here = store.in_memory_tier(&self.key(*index));
                if !here {
                    lost.push((*index, *came));
                }
                here
            });
            if missing.len() < before {
                moved = Instant::now();
            }
            let trouble = store.nvme().and_then(|nvme| nvme.trouble());
            if let Some(trouble) = trouble {
                return Err(Failure::NoTier(trouble.to_string()));
            }
            if moved.elapsed() > WRITE_LIMIT {
                return Err(Failure::NoTier("it writes nothing".to_owned()));
            }
            if offered.elapsed() > OFFER_AGAIN {
                offered = Instant::now();
                missing.iter().for_each(|(index, _)| self.arrived(*index));
            }
            if !missing.is_empty() {
                tokio::time::sleep(LOOK).await;
            }
        }
        lost.sort_unstable_by_key(|(index, _)| *index);
        *missing = lost;
        Ok(())
    }
}
