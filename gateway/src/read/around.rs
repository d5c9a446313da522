//! Around an origin to which this gateway's own way is cut: another member that may read it too is asked.
//!
//! Only for clients, and only a member that does not say itself that nothing comes to it: where the origin stands still for
//! everybody, asking more of them would only ask it more. This is the one question that does not only go upwards, for it may
//! be asked on behalf of somebody who was asked at its level: two may wait for each other. So its own request goes on until
//! the other's answer is here; and where there is none, since the origin is known to be down, [`ALONE`] is the longest wait.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use forebay_storage::SEGMENT;
use forebay_storage::class::{Class, Urgency};
use forebay_storage::error::OriginError;
use forebay_storage::fill::Run;
use forebay_storage::versions::Found;

use super::route::OWNER;
use super::version::Asking;
use super::{Reads, authority, fetch, remote};
use crate::dataset::Dataset;
use crate::peer::incoming::Incoming;
use crate::peer::{HEDGE_STUCK, NO_PROGRESS, PeerError};

/// Where nobody has another way, whether anybody has by now is asked so often.
const AGAIN: Duration = Duration::from_millis(400);

/// How long another member is waited for by who asks nobody else meanwhile: that one may wait for us.
pub(super) const ALONE: Duration = HEDGE_STUCK;

/// What another member answers, once nothing has come from the origin for long and a client waits for `run`. Never ends
/// where nobody else brings it.
///
/// The run keeps its memory meanwhile, for its own request goes on; that of whoever is asked is none of it.
pub(super) async fn once_stuck(reads: &Arc<Reads>, dataset: &Arc<Dataset>, run: &Run) -> Incoming {
    loop {
        until_awaited(reads, dataset, || run.urgency()).await;
        if let Some(incoming) = bring(reads, dataset, run, rest(reads, run)).await {
            return incoming;
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// The bytes that the run has memory for and that one member may be asked for.
pub(super) fn rest(reads: &Reads, run: &Run) -> Range<u64> {
    // A segment that is not whole yet is asked for as a whole; and the next extent has stand-ins of its own.
    let start = run.reached() / SEGMENT as u64 * SEGMENT as u64;
    let next = reads.next_extent(run);
    let next = next.map(|next| reads.store.block_size().start(next));
    start..run.end().min(next.unwrap_or(u64::MAX))
}

/// What another member answers that may read these bytes of the run; `None`: nobody does, or it is
/// for no client.
pub(super) async fn bring(
    reads: &Arc<Reads>,
    dataset: &Arc<Dataset>,
    run: &Run,
    range: Range<u64>,
) -> Option<Incoming> {
    let peers = reads.peers.as_ref()?;
    if range.is_empty() || !is_for_clients(run.urgency().class()) {
        return None;
    }
    let around = dataset.origin.go_around();
    let version = run.version();
    for name in reads.stand_ins(run.object(), version.size, run.index()?) {
        if peers.is_stuck(&name).await {
            continue;
        }
        let question = remote::question(run, &range, OWNER);
        let asked = peers.ask(&name, OWNER, question.request());
        // Its turn to be asked may not come.
        let asked = tokio::time::timeout(NO_PROGRESS, asked).await;
        let asked = asked.unwrap_or(Err(PeerError::Stalled));
        match asked.and_then(|asked| Incoming::new(peers, &name, asked, version.key, &range)) {
            Ok(incoming) => {
                tracing::debug!(object = %run.object(), at = range.start, member = name, "another member brings what the origin does not");
                if let Some(around) = &around {
                    around.brought();
                }
                return Some(incoming);
            }
            Err(error) => {
                tracing::debug!(object = %run.object(), member = name, %error, "nor does another member bring it");
                peers.metrics.failed(&error);
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
    let _around = dataset.origin.go_around();
    run.let_go();
    run.set_source(run.source(), incoming.from());
    let taken = Box::pin(remote::take(reads, dataset, run, &mut incoming)).await;
    taken.map_err(|_| OriginError::Cut)
}

/// What another member answers of the version, once nothing has come from the origin for long and a client waits. Never ends
/// where nobody else tells.
pub(super) async fn version_once_stuck(asking: &Asking) -> Result<Found, OriginError> {
    loop {
        until_awaited(&asking.reads, &asking.dataset, || asking.urgency.clone()).await;
        if let Some(answer) = version(asking).await {
            return answer;
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// What another member answers of the version that may ask the origin; `None`: nobody does, or it is
/// for no client.
pub(super) async fn version(asking: &Asking) -> Option<Result<Found, OriginError>> {
    let peers = asking.reads.peers.as_ref()?;
    if !is_for_clients(asking.urgency.class()) {
        return None;
    }
    let around = asking.dataset.origin.go_around();
    for name in asking.reads.stand_ins_of_authority(&asking.object) {
        if peers.is_stuck(&name).await {
            continue;
        }
        let answer = Box::pin(authority::ask(asking, &name, OWNER)).await;
        match &answer {
            Some(Ok(_)) => {
                if let Some(around) = around {
                    around.brought();
                }
                return answer;
            }
            // Of the object itself.
            Some(Err(
                OriginError::NotFound | OriginError::Unnameable(_) | OriginError::PastEnd,
            )) => {
                return answer;
            }
            // Its way to the origin is its own, and so are its credentials.
            _ => {}
        }
    }
    None
}

/// Whether a client of this gateway waits, or is expected to come by: what it reads ahead fails it otherwise when it comes.
fn is_for_clients(class: Class) -> bool {
    matches!(class, Class::Demand | Class::ReadAhead)
}

/// Ends once nothing has come from the origin for long, and a client waits; never in a fleet of one.
async fn until_awaited(reads: &Reads, dataset: &Dataset, urgency: impl Fn() -> Urgency) {
    if reads.peers.is_none() {
        return std::future::pending().await;
    }
    loop {
        dataset.origin.until_stuck().await;
        if urgency().class() == Class::Demand {
            return;
        }
        tokio::time::sleep(fetch::LOOK_AGAIN).await;
    }
}
