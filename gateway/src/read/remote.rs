//! One hop of a fill: another gateway, asked for what is missing and followed while it arrives.

use std::ops::Range;
use std::sync::Arc;

use forebay_storage::error::OriginError;
use forebay_storage::fill::Run;
use forebay_storage::flight::From;
use forebay_storage::store::Level;

use super::route::{DONOR, OWNER, ZONE_OWNER};
use super::{Reads, fetch};
use crate::dataset::Dataset;
use crate::peer::incoming::Incoming;
use crate::peer::redirect::Redirect;
use crate::peer::wire::{self, Claim, Head, Question};
use crate::peer::{Asked, NO_PROGRESS, PeerError, Peers};

/// Tries of one member without progress: a connection that it closed just now is found out by the
/// question that it loses.
const TRIES: u32 = 2;

/// So often a member that has it is asked again because a connection stands still, without having brought a block meanwhile.
/// Then it is waited for as long as it brings a segment within [`NO_PROGRESS`]: the next hop may be the origin, and what the
/// fleet has is not to be read there because a link is full.
pub(crate) const AGAIN: u32 = 3;

/// What came of asking a member.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Brought {
    /// All is here, or nobody waits any more.
    All,
    /// The next hop has to be tried.
    Not,
    /// The same for so many blocks from the first that is missing: of these it has nothing.
    Absent(u32),
}

/// Brings the rest of `run` from a member, asked at a level.
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
) -> Result<Brought, OriginError> {
    run.let_go();
    run.set_source(level, From::Peer);
    let apart = |rest| fetch::spawn(Arc::clone(reads), Arc::clone(dataset), rest, None);
    let mut tries = Tries::default();
    // Whoever is asked may name another, once.
    let mut redirect = match level {
        OWNER if wire::newest() >= wire::HANDS_OVER => Redirect::Taken,
        _ => Redirect::Refused,
    };
    loop {
        let Some(missing) = run.missing() else {
            return Ok(Brought::All);
        };
        let turn = match run.is_awaited() {
            true => None,
            false => Some(peers.turn(name, level, || run.is_awaited()).await),
        };
        let mut request = question(run, &missing, level).request();
        redirect.put(request.headers_mut());
        let brought = async {
            let asked = peers.ask(name, level, request).await?;
            let key = run.version().key;
            let range = promised(&asked, level, &missing)?;
            let incoming = Incoming::new(peers, name, asked, key, &range)?;
            let mut incoming = incoming.in_turn(turn).watched(tries.stood_still < AGAIN);
            run.set_source(level, incoming.from());
            incoming.take(run, &apart).await
        };
        let Err(error) = brought.await else {
            run.let_go();
            // All of it came; what is missing all the same was not in it.
            if run.is_over() || run.reached() == missing.start {
                return Ok(match run.is_over() {
                    true => Brought::All,
                    false => Brought::Not,
                });
            }
            continue;
        };
        run.let_go();
        if let PeerError::Elsewhere(other) = &error
            && redirect == Redirect::Taken
        {
            redirect = follow(run, peers, other, &apart).await;
            continue;
        }
        if let PeerError::Absent(blocks) = error {
            return Ok(Brought::Absent(blocks));
        }
        tracing::debug!(object = %run.object(), member = name, %error, "a member did not bring it all");
        if let Some(verdict) = error.verdict() {
            return Err(verdict.clone());
        }
        peers.metrics.failed(&error);
        if let PeerError::Origin(OriginError::Changed) = error {
            // It may look at a replica that lags; then somebody else may see what we see.
            fetch::changed(reads, dataset, run).await?;
            return Ok(Brought::Not);
        }
        let came = run.reached().saturating_sub(missing.start);
        if !tries.go_on(&error, came, reads.store.block_size().bytes()) {
            return Ok(Brought::Not);
        }
    }
}

/// How often one member was asked.
#[derive(Default)]
struct Tries {
    /// Without progress.
    failed: u32,
    /// Since connections stood still, without a block of progress.
    stood_still: u32,
}

impl Tries {
    /// Whether it is asked again after such an error, by which `came` bytes had come, where blocks are so large.
    fn go_on(&mut self, error: &PeerError, came: u64, block: u64) -> bool {
        if *error == PeerError::StandsStill {
            let before = if came < block { self.stood_still } else { 0 };
            self.stood_still = before + 1;
            return true;
        }
        let before = if came > 0 { 0 } else { self.failed };
        self.failed = before + 1;
        *error == PeerError::Cut && self.failed < TRIES
    }
}

/// Asks for what is missing of a run, of its very version.
pub(super) fn question(run: &Run, missing: &Range<u64>, level: Level) -> Question {
    Question {
        object: run.object().clone(),
        version: Some(Claim::of(run.version())),
        range: Some(missing.clone()),
        level,
        deadline: NO_PROGRESS,
        doubting: false,
        only_if_cached: level == DONOR,
        ahead: !run.is_awaited(),
    }
}

/// Takes what the member has, or gets, that an owner named; what is to be said to the owner then. What is missing still is
/// the owner's to serve.
async fn follow(
    run: &mut Run,
    peers: &Arc<Peers>,
    name: &str,
    apart: &(dyn Fn(Run) + Sync),
) -> Redirect {
    let Some(missing) = run.missing() else {
        return Redirect::Refused;
    };
    // First, so that of two that are sent to each other at least one is told no.
    run.set_handed(true);
    let mut request = question(run, &missing, ZONE_OWNER).request();
    Redirect::Followed.put(request.headers_mut());
    let apart = |rest: Run| {
        rest.set_handed(false);
        apart(rest);
    };
    let brought = async {
        let asked = peers.ask(name, ZONE_OWNER, request).await?;
        let mut incoming = Incoming::new(peers, name, asked, run.version().key, &missing)?;
        incoming.take(run, &apart).await
    };
    let brought = brought.await;
    run.let_go();
    run.set_handed(false);
    let came = brought.is_ok() || run.reached() > missing.start;
    if let Err(error) = brought {
        tracing::debug!(object = %run.object(), member = name, %error, "a member that was named does not bring it all");
    }
    let (told, outcome) = match came {
        true => (Redirect::Refused, "followed"),
        false => (Redirect::Denied(name.to_owned()), "denied"),
    };
    peers.metrics.redirected(outcome);
    told
}

/// The bytes that an answer brings: those asked for; or of a donor, which may have only the first of them, what it says.
fn promised(asked: &Asked, level: Level, missing: &Range<u64>) -> Result<Range<u64>, PeerError> {
    if level != DONOR {
        return Ok(missing.clone());
    }
    let range = Head::parse(&asked.parts.headers)?.range;
    let range = range.filter(|range| range.start == missing.start && range.end <= missing.end);
    range.ok_or(PeerError::Corrupt)
}

/// Takes what is under way already into `run`, as far as it comes; what is missing then is asked for
/// anew.
///
/// # Errors
/// Why it broke off, which is counted and logged.
pub(super) async fn take(
    reads: &Arc<Reads>,
    dataset: &Arc<Dataset>,
    run: &mut Run,
    incoming: &mut Incoming,
) -> Result<(), PeerError> {
    let apart = |rest| fetch::spawn(Arc::clone(reads), Arc::clone(dataset), rest, None);
    let taken = incoming.take(run, &apart).await;
    if let Err(error) = &taken {
        tracing::debug!(object = %run.object(), %error, "a member did not bring it all");
        if let Some(peers) = &reads.peers {
            peers.metrics.failed(error);
        }
    }
    run.let_go();
    taken
}
