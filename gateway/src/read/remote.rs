//! One hop of a fill: another gateway, asked for what is missing and followed while it arrives.

use std::sync::Arc;

use forebay_storage::error::OriginError;
use forebay_storage::fill::Run;
use forebay_storage::flight::From;
use forebay_storage::store::Level;

use super::{Reads, fetch};
use crate::dataset::Dataset;
use crate::peer::incoming::Incoming;
use crate::peer::wire::{Claim, Question};
use crate::peer::{NO_PROGRESS, PeerError, Peers};

/// Tries of one member without progress: a connection that it closed just now is found out by the
/// question that it loses.
const TRIES: u32 = 2;

/// Brings the rest of `run` from a member, asked at a level. True if all is here, or nobody waits any
/// more; false if the next hop has to be tried.
///
/// The request goes out first, and memory is taken as the bytes come: what a member holds for us while
/// it waits for its own source costs us nothing.
///
/// # Errors
/// What the origin says, where nobody would hear anything else from it.
pub(super) async fn fetch(
    reads: &Arc<Reads>,
    dataset: &Arc<Dataset>,
    run: &mut Run,
    peers: &Arc<Peers>,
    (name, level): (&str, Level),
) -> Result<bool, OriginError> {
    run.let_go();
    run.set_source(level, From::Peer);
    let mut tries = 0;
    loop {
        let Some(missing) = run.missing() else {
            return Ok(true);
        };
        let question = Question {
            object: run.object().clone(),
            version: Some(Claim::of(run.version())),
            range: Some(missing.clone()),
            level,
            deadline: NO_PROGRESS,
            doubting: false,
            only_if_cached: false,
        };
        let brought = async {
            let asked = peers.ask(name, level, question.request()).await?;
            let key = run.version().key;
            let mut incoming = Incoming::new(peers, name, asked, key, &missing)?;
            run.set_source(level, incoming.from());
            incoming.take(run).await
        };
        let Err(error) = brought.await else {
            run.let_go();
            // All of it came; what is missing all the same was not in it.
            if run.is_over() || run.reached() == missing.start {
                return Ok(run.is_over());
            }
            continue;
        };
        run.let_go();
        tracing::debug!(object = %run.object(), member = name, %error, "a member did not bring it all");
        if let Some(verdict) = error.verdict() {
            return Err(verdict.clone());
        }
        peers.metrics.failed(&error);
        if let PeerError::Origin(OriginError::Changed) = error {
            // It may look at a replica that lags; then somebody else may see what we see.
            fetch::changed(reads, dataset, run).await?;
            return Ok(false);
        }
        if run.reached() > missing.start {
            tries = 0;
        }
        tries += 1;
        if error != PeerError::Cut || tries >= TRIES {
            return Ok(false);
        }
    }
}

/// Takes what is under way already into `run`, as far as it comes; what is missing then is asked for
/// anew.
pub(super) async fn take(reads: &Arc<Reads>, run: &mut Run, incoming: &mut Incoming) {
    if let Err(error) = incoming.take(run).await {
        tracing::debug!(object = %run.object(), %error, "a member did not bring it all");
        if let Some(peers) = &reads.peers {
            peers.metrics.failed(&error);
        }
    }
    run.let_go();
}
