//! Which version of an object a read is of.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use forebay_storage::block::BlockKey;
use forebay_storage::error::OriginError;
use forebay_storage::flight::Follower;
use forebay_storage::object::ObjectId;
use forebay_storage::stats::DatasetStats;
use forebay_storage::store::{Handle, Opened, RUN_BYTES};
use forebay_storage::version::Version;
use forebay_storage::versions::{Found, Known};
use tokio::time::Instant;

use super::Reads;
use super::fetch;
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
        let known = match self.versions.known(object, &dataset.rules) {
            // Left by a question that was under way when the dataset got another origin.
            Known::Fresh(version) | Known::Due { version, .. }
                if version.identity != *dataset.origin.identity() =>
            {
                Known::Unknown
            }
            known => known,
        };
        let due = match known {
            Known::Fresh(version) if !doubting || dataset.rules.immutable => {
                return Ok(Current {
                    version,
                    how: How::Known,
                    fills: None,
                });
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
            Known::Due { version, age, .. } => Some((version, age)),
            Known::Fresh(_) | Known::Unknown => None,
        };
        let first = first.filter(|first| !self.holds(due.as_ref().map(|(v, _)| v), first));
        match self.look_up(dataset, object, first, doubting).await {
            Ok((found, how)) => Ok(Current {
                version: found.version,
                how,
                fills: found.fills,
            }),
            Err(error) => match due {
                Some((version, age))
                    if error.may_be_bridged()
                        && age < dataset.rules.fresh_for + dataset.rules.stale_for =>
                {
                    Ok(stale(version, age, dataset))
                }
                _ => Err(error),
            },
        }
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
            let asked = reads.look_up(&dataset, &object, None, false).await;
            if let Err(error) = asked {
                tracing::debug!(%object, %error, "the origin is still away");
            }
        });
    }

    async fn look_up(
        self: &Arc<Self>,
        dataset: &Arc<Dataset>,
        object: &ObjectId,
        first: Option<FirstBytes>,
        doubting: bool,
    ) -> Result<(Found, How), OriginError> {
        let come = Instant::now();
        loop {
            let mut how = How::Joined;
            let ask = || {
                how = How::Asked;
                let (reads, dataset) = (Arc::clone(self), Arc::clone(dataset));
                ask(reads, dataset, object.clone(), first.clone())
            };
            let found = self.versions.look_up(object, ask).await?;
            // A question that was under way may be older than what the client knows, or have waited
            // so long that its answer is past its time: once more.
            let old = come.saturating_duration_since(found.asked_at);
            if old.is_zero() || (!doubting && old < dataset.rules.fresh_for) {
                return Ok((found, how));
            }
        }
    }
}

fn stale(version: Arc<Version>, age: Duration, dataset: &Dataset) -> Current {
    let past = age.saturating_sub(dataset.rules.fresh_for);
    Current {
        version,
        how: How::Stale(past.as_secs()),
        fills: None,
    }
}

/// Asks the origin, again if it did not answer: an idle connection that the origin has just closed
/// is found out by the request that it loses.
async fn ask(
    reads: Arc<Reads>,
    dataset: Arc<Dataset>,
    object: ObjectId,
    first: Option<FirstBytes>,
) -> Result<Found, OriginError> {
    let begun = Instant::now();
    let mut first = first;
    let mut tries = 0;
    loop {
        tries += 1;
        let error = match ask_once(&reads, &dataset, &object, &mut first).await {
            Err(error) if error.retryable() => error,
            answer => return answer,
        };
        if tries >= fetch::TRIES || begun.elapsed() >= RETRY_FOR {
            return Err(error);
        }
        DatasetStats::add(&dataset.origin.stats().origin_retries, 1);
        let spread = u64::try_from(begun.elapsed().as_micros()).unwrap_or(0);
        tokio::time::sleep(fetch::backoff(tries, spread)).await;
    }
}

/// Asks the origin: by the first run of blocks if the reader is about to read them, else by HEAD.
/// Once the origin has said that there are no such bytes, only a HEAD can tell the size.
async fn ask_once(
    reads: &Arc<Reads>,
    dataset: &Arc<Dataset>,
    object: &ObjectId,
    first: &mut Option<FirstBytes>,
) -> Result<Found, OriginError> {
    let asked_at = Instant::now();
    if let Some(bytes) = first.clone() {
        match ask_by_get(reads, dataset, object, bytes, asked_at).await {
            Err(OriginError::PastEnd) => *first = None,
            answer => return answer,
        }
    }
    let version = dataset.origin.head(object).await?;
    Ok(Found {
        version: Arc::new(version),
        asked_at,
        fills: None,
    })
}

async fn ask_by_get(
    reads: &Arc<Reads>,
    dataset: &Arc<Dataset>,
    object: &ObjectId,
    first: FirstBytes,
    asked_at: Instant,
) -> Result<Found, OriginError> {
    let block_size = reads.store.block_size();
    let start = block_size.start(block_size.index(first.start));
    let last_wanted = first.end.saturating_sub(1).max(first.start);
    let wanted_end = block_size
        .start(block_size.index(last_wanted))
        .saturating_add(block_size.bytes());
    let range = start..wanted_end.min(start.saturating_add(RUN_BYTES));
    let purges = reads.store.purges();
    let answer = dataset.origin.get(object, range, None).await?;
    let version = Arc::clone(&answer.version);
    let mut found = Found {
        version: Arc::clone(&version),
        asked_at,
        fills: None,
    };
    if !version.cacheable() {
        return Ok(found);
    }
    let first_block = block_size.index(answer.range.start);
    let last_block = block_size.index(answer.range.end - 1);
    let blocks = first_block..=last_block;
    let Opened { blocks, runs } = reads
        .store
        .open_for_answer(purges, object, &version, blocks);
    let mut answer = Some(answer);
    for run in runs {
        // The answer feeds the run that begins where it does. If that block is here already, or
        // in flight, its bytes are not needed.
        let feed = answer.take_if(|answer| answer.range.start == run.reached());
        fetch::spawn(Arc::clone(reads), Arc::clone(dataset), run, feed);
    }
    let fills = blocks
        .into_iter()
        .filter_map(|(_, handle, _)| match handle {
            Handle::Following(follower) => Some(follower),
            Handle::Resident(_) => None,
        });
    found.fills = Some(Arc::new(fills.collect()));
    Ok(found)
}
