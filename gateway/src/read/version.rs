//! Which version of an object a read is of.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use forebay_storage::block::BlockKey;
use forebay_storage::class::{Class, Urgency};
use forebay_storage::error::OriginError;
use forebay_storage::flight::Follower;
use forebay_storage::object::ObjectId;
use forebay_storage::store::{Asker, Handle, Level, ORIGIN, Opened, RUN_BYTES, Spot};
use forebay_storage::version::Version;
use forebay_storage::versions::{Found, Known};
use tokio::time::Instant;

use super::authority::Remembered;
use super::fetch::{self, Feed};
use super::route::{DONOR, Hop};
use super::{Reads, around, authority};
use crate::dataset::Dataset;

/// A question that took so long is not asked again: the client has waited enough to hear so.
const RETRY_FOR: Duration = Duration::from_secs(2);

/// The version that a response is pinned to.
#[derive(Debug)]
pub struct Current {
    /// The version.
    pub version: Arc<Version>,
    /// How it was come by.
    pub how: How,
    /// When the origin was asked, at the latest.
    pub asked_at: Instant,
    /// Fills that were begun together with the question; held until they are joined.
    pub fills: Option<Arc<Vec<Follower>>>,
}

/// How a version was come by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum How {
    /// It was known and fresh.
    Known,
    /// The origin was asked for this read.
    Asked,
    /// The origin was being asked already, for another read.
    Joined,
    /// The origin is away; the version is this many seconds past its time.
    Stale(u64),
}

/// What a read is about to ask for, if that is known before the version is.
pub type FirstBytes = Range<u64>;

impl Reads {
    /// The version of `object` if one is known that is as fresh as the dataset wants it: then there
    /// is nothing to ask, and nothing to wait for.
    pub fn fresh(&self, dataset: &Dataset, object: &ObjectId) -> Option<Current> {
        match self.known(dataset, object) {
            Known::Fresh { version, asked_at } => Some(at_hand(version, asked_at)),
            _ => None,
        }
    }

    /// The version of `object` that is known, how long ago the origin was asked, however long that is, and whether it is as
    /// fresh as the dataset wants it.
    pub fn remembered(
        &self,
        dataset: &Dataset,
        object: &ObjectId,
    ) -> Option<(Arc<Version>, Duration, bool)> {
        match self.known(dataset, object) {
            Known::Fresh { version, asked_at } => Some((version, asked_at.elapsed(), true)),
            Known::Due { version, age, .. } => Some((version, age, false)),
            Known::Absent(_) | Known::Unknown => None,
        }
    }

    fn known(&self, dataset: &Dataset, object: &ObjectId) -> Known {
        match self.versions.known(object, &dataset.rules) {
            // Left by a question that was under way when the dataset got another origin.
            Known::Fresh { version, .. } | Known::Due { version, .. }
                if version.identity != *dataset.origin.identity() =>
            {
                Known::Unknown
            }
            known => known,
        }
    }

    /// The version of `object` to read, as fresh as the dataset wants it.
    ///
    /// `first`, where a block is going to be read: then the first block's own answer tells the
    /// version, and nothing cold waits for a HEAD. `doubting` asks the origin even where a
    /// version is known to be fresh: the client named another one.
    ///
    /// # Errors
    /// What the origin answered; an outage only where no known version may stand in.
    pub async fn current(
        self: &Arc<Self>,
        dataset: &Arc<Dataset>,
        object: &ObjectId,
        first: Option<FirstBytes>,
        doubting: bool,
    ) -> Result<Current, OriginError> {
        self.current_at(0, dataset, object, first, doubting).await
    }

    /// The same for whoever asks at `level`: another gateway, if that is not 0.
    ///
    /// # Errors
    /// As [`Self::current`].
    pub async fn current_at(
        self: &Arc<Self>,
        level: Level,
        dataset: &Arc<Dataset>,
        object: &ObjectId,
        first: Option<FirstBytes>,
        doubting: bool,
    ) -> Result<Current, OriginError> {
        let asker = (level, class(level));
        self.current_as(asker, dataset, object, first, doubting)
            .await
    }

    /// The same for whoever asks at a level and is of a class.
    ///
    /// # Errors
    /// As [`Self::current`].
    pub async fn current_as(
        self: &Arc<Self>,
        (level, class): (Level, Class),
        dataset: &Arc<Dataset>,
        object: &ObjectId,
        first: Option<FirstBytes>,
        doubting: bool,
    ) -> Result<Current, OriginError> {
        let due = match self.known(dataset, object) {
            Known::Fresh { version, asked_at } if !doubting || dataset.rules.immutable => {
                return Ok(at_hand(version, asked_at));
            }
            Known::Absent(error) => return Err(error),
            Known::Due {
                version,
                age,
                stale: true,
            } => {
                self.probe(dataset, object);
                return Ok(stale(version, age, dataset));
            }
            Known::Due { version, .. } => Some(version),
            Known::Fresh { .. } | Known::Unknown => None,
        };
        let first = first.filter(|first| !self.holds(due.as_ref(), first));
        let asking = Asking {
            reads: Arc::clone(self),
            dataset: Arc::clone(dataset),
            object: object.clone(),
            first: first.filter(|first| self.may_come_along(first)),
            doubting,
            level,
            class,
            urgency: Urgency::from(class),
        };
        match asking.look_up().await {
            Ok((found, how)) => Ok(Current {
                version: found.version,
                how,
                asked_at: found.asked_at,
                fills: found.fills,
            }),
            Err(error) if error.may_be_bridged() => {
                self.bridged(dataset, object, doubting).ok_or(error)
            }
            Err(error) => Err(error),
        }
    }

    /// What is known once a question has failed. That may be more than before it was asked: another question may have been
    /// answered meanwhile, or the authority told of a version that is past its time, since the origin is away. And it
    /// may be less: what was purged meanwhile stands in for nothing.
    fn bridged(&self, dataset: &Dataset, object: &ObjectId, doubting: bool) -> Option<Current> {
        match self.known(dataset, object) {
            Known::Fresh { version, asked_at } if !doubting => Some(at_hand(version, asked_at)),
            Known::Due { version, age, .. } if age < dataset.rules.longest() => {
                Some(stale(version, age, dataset))
            }
            _ => None,
        }
    }

    /// Whether the first bytes may come with the answer about the version. Where others own blocks, only
    /// the first block of all can be placed before the size is known; and where fills wait for memory, an
    /// answer with bytes would have to be thrown away.
    fn may_come_along(&self, first: &FirstBytes) -> bool {
        if self.store.budget().waiting() > 0 {
            return false;
        }
        self.store.block_size().index(first.start) == 0 || !self.shares_blocks()
    }

    fn holds(&self, version: Option<&Arc<Version>>, first: &FirstBytes) -> bool {
        version.is_some_and(|version| {
            self.store.has(&BlockKey {
                version: version.key,
                index: self.store.block_size().index(first.start),
            })
        })
    }

    /// Asks, now and then, an origin that is away whether it is back: nobody waits for the answer.
    fn probe(self: &Arc<Self>, dataset: &Arc<Dataset>, object: &ObjectId) {
        if !self.versions.may_probe(&dataset.name) {
            return;
        }
        let (reads, dataset, object) = (Arc::clone(self), Arc::clone(dataset), object.clone());
        tokio::spawn(async move {
            let asking = Asking {
                reads,
                dataset,
                object: object.clone(),
                first: None,
                doubting: false,
                level: 0,
                class: Class::Demand,
                urgency: Urgency::default(),
            };
            let asked = asking.look_up().await;
            if let Err(error) = asked {
                tracing::debug!(%object, %error, "the origin is still away");
            }
        });
    }
}

/// A question about a version, and what it needs to be asked.
#[derive(Clone)]
pub(super) struct Asking {
    pub(super) reads: Arc<Reads>,
    pub(super) dataset: Arc<Dataset>,
    pub(super) object: ObjectId,
    pub(super) first: Option<FirstBytes>,
    pub(super) doubting: bool,
    pub(super) level: Level,
    /// That of whoever asks.
    pub(super) class: Class,
    /// That of all who wait for the answer, at any time.
    pub(super) urgency: Urgency,
}

impl Asking {
    async fn look_up(mut self) -> Result<(Found, How), OriginError> {
        let come = Instant::now();
        let unchanging = self.dataset.rules.never_changes(&self.object);
        loop {
            let mut how = How::Joined;
            let way = self.reads.way_to_authority(&self.object, self.level);
            // Who is asked what it remembers asks nobody, so that is as direct.
            let first = way.iter().find(|hop| hop.level() != DONOR);
            let direct = matches!(first, Some(Hop::Origin { .. }) | None);
            let mut way = Some(way);
            let ask = |urgency| {
                how = How::Asked;
                let asking = Self {
                    urgency,
                    ..self.clone()
                };
                ask(asking, way.take().unwrap_or_default())
            };
            let versions = &self.reads.versions;
            let found = versions.look_up_by(&self.object, direct, self.class, ask);
            let found = found.await?;
            // A question that was under way may be older than what the client knows, or have waited
            // so long that its answer is past its time: once more.
            let old = come.saturating_duration_since(found.asked_at);
            if !unchanging && versions.is_outdone(&self.object, found.asked_at) {
                self.doubting = true;
                continue;
            }
            let young = unchanging || old < self.dataset.rules.fresh_for;
            if old.is_zero() || (!self.doubting && young) {
                return Ok((found, how));
            }
        }
    }
}

/// A version that is known and fresh.
fn at_hand(version: Arc<Version>, asked_at: Instant) -> Current {
    Current {
        version,
        how: How::Known,
        asked_at,
        fills: None,
    }
}

fn stale(version: Arc<Version>, age: Duration, dataset: &Dataset) -> Current {
    let past = age.saturating_sub(dataset.rules.fresh_for);
    Current {
        version,
        how: How::Stale(past.as_secs()),
        asked_at: before(age),
        fills: None,
    }
}

/// So long ago; now, where the machine is up for less time than that.
fn before(age: Duration) -> Instant {
    let now = Instant::now();
    now.checked_sub(age).unwrap_or(now)
}

/// Asks whoever knows, by one hop after the other; then the origin, and where that leads nowhere another member that may ask
/// it too.
async fn ask(asking: Asking, way: Vec<Hop>) -> Result<Found, OriginError> {
    let begun = Instant::now();
    let mut first = asking.first.clone();
    for hop in way {
        match hop {
            Hop::Peer { name, level: DONOR } if !asking.doubting => {
                match Box::pin(authority::remembered(&asking, &name)).await {
                    Some(Remembered::Fresh(found)) => return Ok(found),
                    Some(Remembered::Due) => first = None,
                    None => {}
                }
            }
            Hop::Peer { level: DONOR, .. } | Hop::Origin { .. } => {}
            Hop::Peer { name, level } => {
                if let Some(answer) = Box::pin(authority::ask(&asking, &name, level)).await {
                    return answer;
                }
            }
        }
    }
    let straight = ask_origin(&asking, begun, first);
    let asked = tokio::select! {
        biased;
        asked = Box::pin(straight) => asked,
        asked = Box::pin(around::version_once_stuck(&asking)) => return asked,
    };
    match asked {
        // It is down, and was not asked.
        Err(error @ OriginError::Down { .. }) => {
            let elsewhere = Box::pin(around::version(&asking));
            let elsewhere = tokio::time::timeout(around::ALONE, elsewhere);
            elsewhere.await.ok().flatten().unwrap_or(Err(error))
        }
        asked => asked,
    }
}

/// Asks the origin, again if it did not answer: an idle connection that it has just closed is found out by the request that
/// it loses.
async fn ask_origin(
    asking: &Asking,
    begun: Instant,
    mut first: Option<FirstBytes>,
) -> Result<Found, OriginError> {
    let mut tries = 0;
    loop {
        tries += 1;
        let error = match ask_once(asking, &mut first).await {
            Err(error) if !fetch::is_final(&error) => error,
            answer => return answer,
        };
        // An answer that makes no sense is no sign that the origin is away: what is known is not to stand in for the next.
        let answered = matches!(error, OriginError::BadAnswer(_));
        if tries >= fetch::TRIES
            || (begun.elapsed() >= RETRY_FOR && !answered)
            || !asking.dataset.origin.may_ask_again(&asking.urgency)
        {
            return Err(error);
        }
        let spread = u64::try_from(begun.elapsed().as_micros()).unwrap_or(0);
        tokio::time::sleep(fetch::backoff(tries, spread)).await;
    }
}

/// Asks the origin: by the first run of blocks if the reader is about to read them, else by HEAD.
/// Once the origin has said that there are no such bytes, only a HEAD can tell the size.
async fn ask_once(asking: &Asking, first: &mut Option<FirstBytes>) -> Result<Found, OriginError> {
    let asked_at = Instant::now();
    if let Some(bytes) = first.clone() {
        match ask_by_get(asking, bytes, asked_at).await {
            Err(OriginError::PastEnd) => *first = None,
            answer => return answer,
        }
    }
    let version = Box::pin(asking.dataset.origin.head(&asking.object)).await?;
    Ok(Found {
        version: Arc::new(version),
        asked_at,
        fills: None,
    })
}

async fn ask_by_get(
    asking: &Asking,
    first: FirstBytes,
    asked_at: Instant,
) -> Result<Found, OriginError> {
    let Asking {
        reads,
        dataset,
        object,
        ..
    } = asking;
    let block_size = reads.store.block_size();
    let start = block_size.start(block_size.index(first.start));
    let last_wanted = first.end.saturating_sub(1).max(first.start);
    let wanted_end = block_size
        .start(block_size.index(last_wanted))
        .saturating_add(block_size.bytes());
    // The second block may be another's, which reads it from the origin too.
    let most = match reads.shares_blocks() {
        true => block_size.bytes(),
        false => RUN_BYTES,
    };
    let range = start..wanted_end.min(start.saturating_add(most));
    let purges = reads.store.purges();
    let urgency = &asking.urgency;
    let answer = dataset.origin.get(object, range, None, urgency).await?;
    let version = Arc::clone(&answer.version);
    let mut found = Found {
        version: Arc::clone(&version),
        asked_at,
        fills: None,
    };
    if !version.cacheable() {
        return Ok(found);
    }
    let range = answer.range.clone();
    let feed = (range, Feed::Origin(answer));
    found.fills = Some(open_fed(asking, purges, &version, feed));
    Ok(found)
}

/// Who waits for what is asked for at `level`.
fn class(level: Level) -> Class {
    match level {
        0 => Class::Demand,
        _ => Class::Peer,
    }
}

/// Opens the blocks whose bytes are under way already, and lets these feed the run that begins where they
/// do. If that block is here already, or in flight, they are not needed.
pub(super) fn open_fed(
    asking: &Asking,
    purges: u64,
    version: &Arc<Version>,
    (range, feed): (Range<u64>, Feed),
) -> Arc<Vec<Follower>> {
    let Asking {
        reads,
        dataset,
        object,
        level,
        urgency,
        ..
    } = asking;
    let block_size = reads.store.block_size();
    let blocks = block_size.index(range.start)..=block_size.index(range.end - 1);
    let direct = matches!(feed, Feed::Origin(_));
    let spots = reads.spots(object, version.size, *level);
    let spot = |index| {
        let spot = spots(index);
        // Whatever the table says by now: these bytes come from there.
        let source = if direct { ORIGIN } else { spot.source };
        Spot { source, ..spot }
    };
    let asker = Asker {
        level: *level,
        class: urgency.class(),
        spot: &spot,
        // One answer feeds one run, however much it is.
        run: RUN_BYTES,
    };
    let Opened { blocks, runs } = reads
        .store
        .open_for_answer(purges, &asker, object, version, blocks);
    let mut feed = Some(feed);
    for run in runs {
        let feed = feed.take_if(|_| range.start == run.reached());
        if let Some(Feed::Peer(incoming)) = &feed {
            run.set_source(run.source(), incoming.from());
        }
        fetch::spawn(Arc::clone(reads), Arc::clone(dataset), run, feed);
    }
    let fills = blocks
        .into_iter()
        .filter_map(|(_, handle, _)| match handle {
            Handle::Following(follower) => Some(follower),
            Handle::Resident(_) => None,
        });
    Arc::new(fills.collect())
}
