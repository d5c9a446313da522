//! Asking the authority, the owner of an object's first extent, which version is current.
//!
//! So the origin is asked once for the whole fleet, and whoever asks the authority learns how long ago
//! that was: an answer is as old as the question to the origin, however many hands it went through. Where
//! the reader begins at the object's beginning, its first blocks come with the answer, for the authority
//! owns those.

use std::sync::Arc;

use forebay_storage::block::BlockSize;
use forebay_storage::error::OriginError;
use forebay_storage::store::Level;
use forebay_storage::version::Version;
use forebay_storage::versions::Found;
use tokio::time::Instant;

use super::fetch::Feed;
use super::route::DONOR;
use super::version::{Asking, FirstBytes, open_fed};
use crate::peer::incoming::Incoming;
use crate::peer::wire::{Claim, Head, Question};
use crate::peer::{Asked, NO_PROGRESS, PeerError};

/// Blocks that the authority owns at most, from the first.
const FIRST_BLOCKS: u64 = 4;

/// What a member answers; `None` if the next one has to be asked.
pub(super) async fn ask(
    asking: &Asking,
    name: &str,
    level: Level,
) -> Option<Result<Found, OriginError>> {
    let peers = asking.reads.peers.as_ref()?;
    let range = asking.first.as_ref().map(|first| {
        let block_size = asking.reads.store.block_size();
        0..first_blocks(block_size, first)
    });
    let question = Question {
        object: asking.object.clone(),
        version: None,
        range,
        level,
        deadline: NO_PROGRESS,
        doubting: asking.doubting,
        only_if_cached: false,
        ahead: false,
    };
    let purges = asking.reads.store.purges();
    let mut sent = Instant::now();
    let mut asked = peers.ask(name, level, question.request()).await;
    if matches!(asked, Err(PeerError::Cut)) {
        // A connection that it closed just now is found out by the question that it loses.
        sent = Instant::now();
        asked = peers.ask(name, level, question.request()).await;
    }
    let found = match asked {
        Ok(asked) => heard(asking, name, asked, purges, sent),
        Err(error) => Err(error),
    };
    match found {
        Ok(answer) => Some(answer),
        Err(error) => {
            let object = &asking.object;
            tracing::debug!(%object, member = name, %error, "a member does not tell the version");
            match error {
                PeerError::Origin(OriginError::Refused { status: 403 }) => {
                    Some(Err(OriginError::Refused { status: 403 }))
                }
                error => error.verdict().cloned().map(Err),
            }
        }
    }
}

/// What a donor remembers of the current version.
pub(super) enum Remembered {
    /// It asked lately enough.
    Fresh(Found),
    /// The origin has to be asked again; but if it names that version, its first block need not be read.
    Due,
}

/// What the member of this name remembers, which was the authority a moment ago; it asks nobody.
pub(super) async fn remembered(asking: &Asking, name: &str) -> Option<Remembered> {
    let peers = asking.reads.peers.as_ref()?;
    let question = Question {
        object: asking.object.clone(),
        version: None,
        range: None,
        level: DONOR,
        deadline: NO_PROGRESS,
        doubting: false,
        only_if_cached: true,
        ahead: false,
    };
    let purges = asking.reads.store.purges();
    let sent = Instant::now();
    let asked = peers.ask(name, DONOR, question.request()).await.ok()?;
    let found = heard(asking, name, asked, purges, sent).ok()?.ok()?;
    let rules = &asking.dataset.rules;
    let unchanging = rules.never_changes(&asking.object);
    Some(
        match unchanging || found.asked_at.elapsed() < rules.fresh_for {
            true => Remembered::Fresh(found),
            false => Remembered::Due,
        },
    )
}

/// The bytes from the object's beginning that are wanted first, in whole blocks.
fn first_blocks(block_size: BlockSize, first: &FirstBytes) -> u64 {
    let wanted = first.end.div_ceil(block_size.bytes());
    wanted.clamp(1, FIRST_BLOCKS) * block_size.bytes()
}

fn heard(
    asking: &Asking,
    name: &str,
    asked: Asked,
    purges: u64,
    sent: Instant,
) -> Result<Result<Found, OriginError>, PeerError> {
    let head = Head::parse(&asked.parts.headers)?;
    let claim = head.version.ok_or(PeerError::Corrupt)?;
    let version = judge(asking, &claim)?;
    // Whoever doubts has made the origin be asked just now, after this was sent.
    let asked_at = match asking.doubting && !head.stale {
        true => sent,
        false => sent.checked_sub(head.age).unwrap_or(sent),
    };
    if head.stale {
        let versions = &asking.reads.versions;
        versions.import(&asking.object, &version, sent.elapsed() + head.age);
        return Ok(Err(OriginError::FoundAway));
    }
    let mut found = Found {
        version: Arc::clone(&version),
        asked_at,
        fills: None,
    };
    if let (Some(range), Some(peers)) = (head.range, &asking.reads.peers)
        && version.cacheable()
        && range.end <= version.size
    {
        let incoming = Incoming::new(peers, name, asked, version.key, &range)?;
        let feed = Feed::Peer(Box::new(incoming));
        found.fills = Some(open_fed(asking, purges, &version, (range, feed)));
    }
    Ok(Ok(found))
}

/// The version that a member claims, if our settings make the same of it.
fn judge(asking: &Asking, claim: &Claim) -> Result<Arc<Version>, PeerError> {
    let origin = &asking.dataset.origin;
    let version = origin.describe(&asking.object, claim.size, &claim.headers);
    match version {
        Ok(version) if version.key == claim.key => Ok(Arc::new(version)),
        _ => Err(PeerError::Refused(
            "its dataset of that name has another origin or block size".into(),
        )),
    }
}
