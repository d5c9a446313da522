//! Around an origin to which this gateway's own way is cut: another member that may read it too is asked, while the origin
//! goes on being asked.
//!
//! Only for clients of this gateway. Who was asked by another member says in its pongs that nothing comes to it, and is left
//! for the next; so of two that ask each other neither waits longer than it takes to see that.

use std::sync::Arc;

use forebay_storage::SEGMENT;
use forebay_storage::class::{Class, Urgency};
use forebay_storage::error::OriginError;
use forebay_storage::fill::Run;
use forebay_storage::versions::Found;

use super::route::OWNER;
use super::version::Asking;
use super::{Reads, authority, fetch};
use crate::dataset::Dataset;
use crate::peer::incoming::Incoming;
use crate::peer::wire::{Claim, Question};
use crate::peer::{NO_PROGRESS, PeerError, Peers};

/// Whether it is this gateway's own way that may lead nowhere, rather than that the origin has said something.
pub(super) fn may_lead_nowhere(error: &OriginError) -> bool {
    matches!(
        error,
        OriginError::Down { .. } | OriginError::Unreachable(_) | OriginError::TimedOut
    )
}

/// What another member answers, once nothing has come from the origin for long and a client waits for `run`. Never ends
/// where nobody else brings it.
pub(super) async fn once_stuck(reads: &Arc<Reads>, dataset: &Arc<Dataset>, run: &Run) -> Incoming {
    if reads.peers.is_some() && run.level() == 0 {
        until_awaited(dataset, || run.urgency()).await;
        if let Some(incoming) = bring(reads, dataset, run).await {
            return incoming;
        }
    }
    std::future::pending().await
}

/// What another member answers that may read what the run has memory for; `None`: nobody does.
pub(super) async fn bring(
    reads: &Arc<Reads>,
    dataset: &Arc<Dataset>,
    run: &Run,
) -> Option<Incoming> {
    let peers = reads.peers.as_ref().filter(|_| run.level() == 0)?;
    let _around = dataset.origin.go_around();
    let (version, index) = (run.version(), run.index()?);
    // A segment that is not whole yet is asked for as a whole; and the next extent has stand-ins of its own.
    let start = run.reached() / SEGMENT as u64 * SEGMENT as u64;
    let next = reads.next_extent(run);
    let next = next.map(|next| reads.store.block_size().start(next));
    let range = start..run.end().min(next.unwrap_or(u64::MAX));
    if range.is_empty() {
        return None;
    }
    for name in reads.stand_ins(run.object(), version.size, index) {
        let question = Question {
            object: run.object().clone(),
            version: Some(Claim::of(version)),
            range: Some(range.clone()),
            level: OWNER,
            deadline: NO_PROGRESS,
            doubting: false,
            only_if_cached: false,
        };
        let asked = peers.ask(&name, OWNER, question.request()).await;
        let came = asked.and_then(|asked| Incoming::new(peers, &name, asked, version.key, &range));
        match came {
            Ok(incoming) => {
                tracing::debug!(object = %run.object(), at = start, member = name, "another member brings what the origin does not");
                return Some(incoming);
            }
            Err(error) => {
                tracing::debug!(object = %run.object(), member = name, %error, "nor does another member bring it");
            }
        }
    }
    None
}

/// Takes what another member sends into `run`, as far as it comes.
///
/// # Errors
/// [`OriginError::Cut`] if it broke off. What came until then is kept.
pub(super) async fn take(
    reads: &Arc<Reads>,
    dataset: &Arc<Dataset>,
    run: &mut Run,
    mut incoming: Incoming,
) -> Result<(), OriginError> {
    let around = dataset.origin.go_around();
    run.let_go();
    run.set_source(run.source(), incoming.from());
    let apart = |rest| fetch::spawn(Arc::clone(reads), Arc::clone(dataset), rest, None);
    let taken = Box::pin(incoming.take(run, &apart)).await;
    run.let_go();
    drop(around);
    taken.map_err(|error| broken(reads.peers.as_ref(), run, &error))
}

fn broken(peers: Option<&Arc<Peers>>, run: &Run, error: &PeerError) -> OriginError {
    tracing::debug!(object = %run.object(), %error, "a member did not bring it all");
    if let Some(peers) = peers {
        peers.metrics.failed(error);
    }
    OriginError::Cut
}

/// What another member answers of the version, once nothing has come from the origin for long and a client waits. Never ends
/// where nobody else tells.
pub(super) async fn version_once_stuck(asking: &Asking) -> Result<Found, OriginError> {
    if asking.reads.peers.is_some() && asking.level == 0 {
        until_awaited(&asking.dataset, || asking.urgency.clone()).await;
        if let Some(answer) = version(asking).await {
            return answer;
        }
    }
    std::future::pending().await
}

/// What another member answers of the version that may ask the origin; `None`: nobody does.
pub(super) async fn version(asking: &Asking) -> Option<Result<Found, OriginError>> {
    let reads = &asking.reads;
    reads.peers.as_ref().filter(|_| asking.level == 0)?;
    let _around = asking.dataset.origin.go_around();
    for name in reads.stand_ins_of_authority(&asking.object) {
        match Box::pin(authority::ask(asking, &name, OWNER)).await {
            // It found the origin away too; the next may have a way.
            Some(Err(error)) if error.is_outage() => {}
            None => {}
            answer => return answer,
        }
    }
    None
}

/// Ends once nothing has come from the origin for long, and a client waits.
async fn until_awaited(dataset: &Dataset, urgency: impl Fn() -> Urgency) {
    loop {
        dataset.origin.until_stuck().await;
        if urgency().class() == Class::Demand {
            return;
        }
        tokio::time::sleep(fetch::LOOK_AGAIN).await;
    }
}
