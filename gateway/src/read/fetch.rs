//! Bringing a run of blocks: from the disk if it is said to be there, else from the origin, from
//! the byte reached, until it is here.

use std::sync::Arc;
use std::time::Duration;

use forebay_storage::error::OriginError;
use forebay_storage::fill::{Flow, FromNvme, Run};
use forebay_storage::origin::Answer;
use forebay_storage::stats::DatasetStats;
use futures::StreamExt;
use tokio::time::Instant;
use xxhash_rust::xxh3::xxh3_64;

use super::Reads;
use crate::dataset::Dataset;

/// Tries without a byte of progress before a fill is given up.
pub(super) const TRIES: u32 = 4;

/// Tries in all: an origin that cuts every answer after a byte is not followed for ever.
const TRIES_IN_ALL: u32 = 32;

/// The wait after the first failed try; it doubles with each.
const BACKOFF: Duration = Duration::from_millis(50);

/// Fills `run` in a task of its own: a client that leaves does not end it, but when nobody waits
/// any more it ends with the block it is at. `feed` is an answer that is under way already.
pub fn spawn(reads: Arc<Reads>, dataset: Arc<Dataset>, run: Run, feed: Option<Answer>) {
    tokio::spawn(async move {
        fill(&reads, &dataset, run, feed).await;
    });
}

async fn fill(reads: &Arc<Reads>, dataset: &Arc<Dataset>, mut run: Run, feed: Option<Answer>) {
    // Memory comes before a connection: who holds one while waiting for the other may wait for
    // somebody that waits for them. So an answer that is here already feeds the run only if there
    // is memory at once.
    let mut feed = feed.filter(|_| run.adopt().is_some());
    if feed.is_none() {
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
    loop {
        if feed.is_none() && run.next().await.is_none() {
            return;
        }
        let begun = Instant::now();
        match fetch(reads, dataset, &mut run, feed.take()).await {
            Ok(()) => {
                let took = begun.elapsed().as_secs_f64();
                let times = reads.metrics.fill_duration.with_label_values(&["origin"]);
                times.observe(took);
            }
            Err(error) => {
                tracing::debug!(object = %run.object(), %error, "a fill failed");
                run.fail(&error);
                return;
            }
        }
    }
}

/// Brings what the run has memory for.
async fn fetch(
    reads: &Arc<Reads>,
    dataset: &Arc<Dataset>,
    run: &mut Run,
    mut feed: Option<Answer>,
) -> Result<(), OriginError> {
    let mut tries = 0;
    let mut tries_in_all = 0;
    while run.reached() < run.end() {
        let from = run.reached();
        let error = match ask(dataset, run, feed.take()).await {
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
        if !error.retryable() || tries >= TRIES || tries_in_all >= TRIES_IN_ALL {
            return Err(error);
        }
        if !run.is_followed() {
            return Err(OriginError::Abandoned);
        }
        DatasetStats::add(&dataset.origin.stats().origin_retries, 1);
        let spread = run.version().key.0 as u64 ^ run.reached();
        tokio::time::sleep(backoff(tries, spread)).await;
    }
    Ok(())
}

/// One request, or what is left of one, into the run.
async fn ask(dataset: &Dataset, run: &mut Run, feed: Option<Answer>) -> Result<(), OriginError> {
    let answer = match feed {
        Some(answer) => answer,
        None => {
            let range = run.reached()..run.end();
            let version = Arc::clone(run.version());
            dataset
                .origin
                .get(run.object(), range, Some(&version))
                .await?
        }
    };
    let mut body = answer.body;
    while let Some(chunk) = body.next().await {
        if run.write(&chunk?) == Flow::Done {
            return Ok(());
        }
    }
    Ok(())
}

/// The origin says that the object is another version by now: is it?
///
/// # Errors
/// [`OriginError::Changed`] if it is. If it is not, the answer was a lie or came from a replica
/// that lags: then what comes back is worth another try.
async fn changed(
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
pub(super) fn backoff(tries: u32, spread: u64) -> Duration {
    let step = BACKOFF * 2u32.saturating_pow(tries.saturating_sub(1));
    let part = xxh3_64(&spread.to_le_bytes()) % 512;
    step - step / 2 * u32::try_from(part).unwrap_or(0) / 512
}
