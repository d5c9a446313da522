//! Bringing a run of blocks: from the disk if it is said to be there, else by one hop after the other,
//! from the byte reached, until it is here.

use std::sync::Arc;
use std::time::Duration;

use forebay_storage::class::Class;
use forebay_storage::error::OriginError;
use forebay_storage::fill::{FromNvme, Run};
use forebay_storage::origin::Answer;
use tokio::time::Instant;
use xxhash_rust::xxh3::xxh3_64;

use super::ask::Asking;
use super::remote::Brought;
use super::route::{DONOR, Hop};
use super::{Reads, remote};
use crate::dataset::Dataset;
use crate::peer::incoming::Incoming;

/// Tries without a byte of progress before a fill is given up.
pub(crate) const TRIES: u32 = 4;

/// Tries in all: an origin that cuts every answer after a byte is not followed for ever.
const TRIES_IN_ALL: u32 = 32;

/// The wait after the first failed try; it doubles with each.
const BACKOFF: Duration = Duration::from_millis(50);

/// Who may not ask again yet looks this often whether it may.
pub(super) const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// An answer that is under way already when its run begins.
pub enum Feed {
    /// The origin's.
    Origin(Answer),
    /// Another gateway's.
    Peer(Box<Incoming>),
}

/// Fills `run` in a task of its own: a client that leaves does not end it, but when nobody waits
/// any more it ends with the block it is at. `feed` is an answer that is under way already.
pub fn spawn(reads: Arc<Reads>, dataset: Arc<Dataset>, run: Run, feed: Option<Feed>) {
    spawn_without(reads, dataset, run, feed, None);
}

/// Fills `run` from the member of this name alone, which was asked for what it has. What that does not bring is given up,
/// unless a reader waits for it by then: that one's way leads on.
pub fn spawn_from(reads: Arc<Reads>, dataset: Arc<Dataset>, mut run: Run, donor: String) {
    tokio::spawn(async move {
        let Some(peers) = reads.peers.clone() else {
            return;
        };
        let brought = remote::fetch(&reads, &dataset, &mut run, &peers, (&donor, DONOR));
        if brought.await == Ok(Brought::All) || run.urgency().class() == Class::Warm {
            return;
        }
        fill(&reads, &dataset, run, (None, None), Some(donor)).await;
    });
}

/// The same without asking the member of this name, who did not bring what came before.
fn spawn_without(
    reads: Arc<Reads>,
    dataset: Arc<Dataset>,
    run: Run,
    feed: Option<Feed>,
    without: Option<String>,
) {
    tokio::spawn(async move {
        let (feed, incoming) = match feed {
            Some(Feed::Origin(answer)) => (Some(answer), None),
            Some(Feed::Peer(incoming)) => (None, Some(incoming)),
            None => (None, None),
        };
        fill(&reads, &dataset, run, (feed, incoming), without).await;
    });
}

async fn fill(
    reads: &Arc<Reads>,
    dataset: &Arc<Dataset>,
    mut run: Run,
    (feed, incoming): (Option<Answer>, Option<Box<Incoming>>),
    without: Option<String>,
) {
    // Memory comes before a connection to the origin: who holds one while waiting for the other may
    // wait for somebody that waits for them. So an answer that is here already feeds the run only if
    // there is memory at once.
    let feed = feed.filter(|_| run.adopt().is_some());
    if feed.is_none() && incoming.is_none() {
        let begun = Instant::now();
        match run.read_nvme().await {
            FromNvme::Read => {
                let times = reads.metrics.fill_duration.with_label_values(&["nvme"]);
                return times.observe(begun.elapsed().as_secs_f64());
            }
            FromNvme::Unwanted => return,
            FromNvme::Missing => {}
        }
    }
    if run.level() >= DONOR {
        // It was here when it was asked for. Who is asked for what it has sets nothing in motion.
        return run.fail(&OriginError::Abandoned);
    }
    let filled = match feed {
        Some(feed) => from_origin(reads, dataset, &mut run, Some(feed)).await,
        None => by_hops(reads, dataset, &mut run, incoming, without).await,
    };
    if let Err(error) = filled {
        tracing::debug!(object = %run.object(), %error, "a fill failed");
        run.fail(&error);
    }
}

/// Tries one hop after the other; the last is the origin.
async fn by_hops(
    reads: &Arc<Reads>,
    dataset: &Arc<Dataset>,
    run: &mut Run,
    incoming: Option<Box<Incoming>>,
    without: Option<String>,
) -> Result<(), OriginError> {
    let mut last_resort = false;
    if let Some(peers) = &reads.peers {
        if let Some(mut incoming) = incoming {
            // What is missing then has another way.
            let _ = Box::pin(remote::take(reads, dataset, run, &mut incoming)).await;
        }
        let Some(index) = run.index() else {
            return Ok(());
        };
        let route = reads.route(run.object(), run.version().size, index, run.level());
        part_ways(reads, dataset, run, route.hops.first());
        for hop in route.hops {
            // Others may have joined that must not wait for anybody below.
            if hop.level() < run.source() {
                continue;
            }
            match hop {
                Hop::Origin { last_resort: is } => last_resort = is,
                Hop::Peer { name, .. } if without.as_ref() == Some(&name) => {}
                Hop::Peer { name, level } => {
                    let begun = Instant::now();
                    let brought = remote::fetch(reads, dataset, run, peers, (&name, level));
                    let brought = Box::pin(brought).await?;
                    if level == DONOR {
                        peers.metrics.asked_donor(&brought);
                    }
                    if brought == Brought::All {
                        let took = begun.elapsed().as_secs_f64();
                        let times = reads.metrics.fill_duration.with_label_values(&["peer"]);
                        times.observe(took);
                        return Ok(());
                    }
                    if let Brought::Absent(blocks) = brought {
                        // What lies behind them it may have.
                        let next = run.index().map(|first| first.saturating_add(blocks.max(1)));
                        if let Some(rest) = next.and_then(|next| run.split_off(next)) {
                            spawn(Arc::clone(reads), Arc::clone(dataset), rest, None);
                        }
                        continue;
                    }
                    // From here on each extent has a way of its own.
                    if let Some(rest) = reads.next_extent(run).and_then(|at| run.split_off(at)) {
                        let (reads, dataset) = (Arc::clone(reads), Arc::clone(dataset));
                        spawn_without(reads, dataset, rest, None, Some(name));
                    }
                }
            }
        }
        if last_resort {
            peers.metrics.last_resorts.inc();
        }
    }
    turn_to_origin(reads, dataset, run).await
}

/// Brings the rest from the origin, but for what came here, or is on its way, since it was asked of somebody else: who asked
/// for it from above did not wait.
async fn turn_to_origin(
    reads: &Arc<Reads>,
    dataset: &Arc<Dataset>,
    run: &mut Run,
) -> Result<(), OriginError> {
    while !run.is_over() {
        let Some(shared) = run.turn_to_origin() else {
            return from_origin(reads, dataset, run, None).await;
        };
        match run.split_off(shared.index()) {
            Some(rest) => spawn_turned(Arc::clone(reads), Arc::clone(dataset), rest),
            None => run.share(shared).await,
        }
    }
    Ok(())
}

/// The same for what follows a run that turned to the origin, in a task of its own.
fn spawn_turned(reads: Arc<Reads>, dataset: Arc<Dataset>, mut rest: Run) {
    tokio::spawn(async move {
        if let Err(error) = turn_to_origin(&reads, &dataset, &mut rest).await {
            tracing::debug!(object = %rest.object(), %error, "a fill failed");
            rest.fail(&error);
        }
    });
}

/// Lets the extents of `run` go, as runs of their own, from the first that is not to be asked of `hop` by now: when the
/// run was put together others may have answered.
fn part_ways(reads: &Arc<Reads>, dataset: &Arc<Dataset>, run: &mut Run, hop: Option<&Hop>) {
    let (Some(mut index), Some(last)) = (reads.next_extent(run), run.last_index()) else {
        return;
    };
    let extents = reads.extents(run.version().size);
    while index <= last {
        let route = reads.route(run.object(), run.version().size, index, run.level());
        if route.hops.first() != hop {
            if let Some(rest) = run.split_off(index) {
                spawn(Arc::clone(reads), Arc::clone(dataset), rest, None);
            }
            return;
        }
        let next = (extents.holding(u64::from(index)) + 1) * extents.blocks();
        index = u32::try_from(next).unwrap_or(u32::MAX);
    }
}

/// Brings the rest from the origin, as far as there is memory at a time.
async fn from_origin(
    reads: &Arc<Reads>,
    dataset: &Arc<Dataset>,
    run: &mut Run,
    mut feed: Option<Answer>,
) -> Result<(), OriginError> {
    let mut asking = Asking::new(reads, dataset);
    loop {
        if feed.is_none() && run.next().await.is_none() {
            return Ok(());
        }
        let begun = Instant::now();
        // Thousands may wait for memory: what a request takes is there only once it is made.
        Box::pin(fetch(reads, dataset, run, (&mut asking, feed.take()))).await?;
        let took = begun.elapsed().as_secs_f64();
        let source = asking.take_source();
        let times = reads.metrics.fill_duration.with_label_values(&[source]);
        times.observe(took);
    }
}

/// Brings what the run has memory for.
async fn fetch(
    reads: &Arc<Reads>,
    dataset: &Arc<Dataset>,
    run: &mut Run,
    (asking, mut feed): (&mut Asking<'_>, Option<Answer>),
) -> Result<(), OriginError> {
    let mut tries = 0;
    let mut tries_in_all = 0;
    while run.reached() < run.end() {
        let from = run.reached();
        let error = match asking.ask(run, feed.take()).await {
            Ok(()) => continue,
            Err(error) => error,
        };
        if run.reached() > from {
            tries = 0;
        }
        tries += 1;
        tries_in_all += 1;
        let error = match error {
            OriginError::Changed => changed(reads, dataset, run).await?,
            error => error,
        };
        if is_final(&error) || tries >= TRIES || tries_in_all >= TRIES_IN_ALL {
            match Box::pin(asking.goes_around(run, &error)).await {
                true => continue,
                false => return Err(error),
            }
        }
        let spread = run.version().key.0 as u64 ^ run.reached();
        tokio::time::sleep(backoff(tries, spread)).await;
        loop {
            if !run.is_followed() {
                return Err(OriginError::Abandoned);
            }
            if dataset.origin.may_ask_again(&run.urgency()) {
                break;
            }
            // Nobody waits for it by now; whoever comes to do so asks at once.
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
    Ok(())
}

/// Whether asking again at once is of no use.
pub(crate) fn is_final(error: &OriginError) -> bool {
    !error.retryable() || matches!(error, OriginError::Down { .. })
}

/// The origin says that the object is another version by now: is it?
///
/// # Errors
/// [`OriginError::Changed`] if it is. If it is not, the answer was a lie or came from a replica
/// that lags: then what comes back is worth another try.
pub(super) async fn changed(
    reads: &Arc<Reads>,
    dataset: &Arc<Dataset>,
    run: &Run,
) -> Result<OriginError, OriginError> {
    let object = run.object();
    reads.versions.doubt(object, run.version());
    // One question for all runs that were surprised together.
    let current = reads.current(dataset, object, None, true).await?;
    if current.version.key != run.version().key {
        return Err(OriginError::Changed);
    }
    let reason = "it answered with another version than it says is current";
    Ok(OriginError::BadAnswer(reason.into()))
}

/// Doubles with each try, and differs by `spread` by up to half, so that questions that failed
/// together do not come back together.
pub(crate) fn backoff(tries: u32, spread: u64) -> Duration {
    let step = BACKOFF * 2u32.saturating_pow(tries.saturating_sub(1));
    let part = xxh3_64(&spread.to_le_bytes()) % 512;
    step - step / 2 * u32::try_from(part).unwrap_or(0) / 512
}
