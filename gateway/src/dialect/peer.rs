//! The language of other gateways: whole segments of exact versions, and which version is current.
//!
//! The other end of [`crate::read::remote`]. A question comes with its level, and whoever answers goes
//! further up or nowhere. What is said of versions is judged by our own settings: a name that we would not
//! give ourselves is refused.

mod elsewhere;
mod places;
mod segments;
mod sums;

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use forebay_ring::Extents;
use forebay_storage::SEGMENT;
use forebay_storage::block::BlockKey;
use forebay_storage::error::OriginError;
use forebay_storage::object::ObjectId;
use forebay_storage::store::RUN_BYTES;
use forebay_storage::version::Version;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use http_body::Body as HttpBody;
use http_body_util::{BodyExt, Empty, combinators::UnsyncBoxBody};
use tokio::time::Instant;

use self::places::Places;
use self::segments::Segments;
use self::sums::Sums;
use crate::dataset::{Dataset, Datasets};
use crate::peer::egress::{Egress, Outflow};
use crate::peer::redirect::{Redirect, Served};
use crate::peer::wire::{self, Claim, Head, Question};
use crate::peer::{PeerBody, Peers};
use crate::read::Reads;
use crate::read::body::ReadBody;
use crate::read::route::{DONOR, OWNER, ZONE_OWNER};
use crate::read::version::How;
use crate::read::window::{Piece, Reader};

/// How long a gateway may take no byte of a body: a frozen one must not keep others from theirs.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// Nobody waits longer for a first byte, whatever deadline it comes with.
const LONGEST: Duration = Duration::from_secs(30);

/// Of the memory, what bodies to other gateways may hold.
const SHARE: u64 = 3;

/// Of that, in eighths, what those of each level may: the owner in a zone, the owner, a donor.
const EIGHTHS: [u64; 3] = [3, 3, 2];

/// Segments that a socket holds of a body, at most, beside the block that is being read.
const IN_SOCKET: u64 = 8;

/// Bodies of each level that are sent at once even where there is little memory.
const FEWEST: u64 = 4;

/// Why there is no answer: a status, and headers that say it.
type Refusal = (StatusCode, HeaderMap);

/// Answers the questions of other gateways.
#[derive(Debug)]
pub struct Desk {
    reads: Arc<Reads>,
    datasets: Arc<Datasets>,
    peers: Arc<Peers>,
    /// Bodies that may hold blocks at once, by level: one level waits for the next, so they must not
    /// stand in one queue.
    places: [Arc<Places>; 3],
    sums: Arc<Sums>,
    served: Served,
    egress: Arc<Egress>,
}

impl Desk {
    /// Answers from what `reads` has and can get.
    pub fn new(reads: Arc<Reads>, datasets: Arc<Datasets>, peers: Arc<Peers>) -> Self {
        let each = reads.store.block_size().bytes() + IN_SOCKET * SEGMENT as u64;
        let count = |eighths: u64| {
            let bytes = reads.store.budget().limit() / SHARE / 8 * eighths;
            usize::try_from((bytes / each).max(FEWEST)).unwrap_or(usize::MAX)
        };
        let places = EIGHTHS.map(|eighths| Arc::new(Places::new(count(eighths))));
        let segments = reads.store.budget().limit() / SEGMENT as u64;
        Self {
            sums: Arc::new(Sums::new(segments)),
            served: Served::default(),
            egress: Arc::default(),
            reads,
            datasets,
            peers,
            places,
        }
    }

    /// Whether it has more to send to other members than its link takes.
    pub fn is_busy(&self) -> bool {
        self.egress.is_busy()
    }

    /// Answers a question of the member `from`, which came with these headers. Dropping the future gives it up; fills that it started go on while others
    /// follow them.
    pub async fn answer(
        &self,
        from: &str,
        question: &Question,
        headers: &HeaderMap,
    ) -> Response<PeerBody> {
        let asker = (from, Redirect::parse(headers));
        // Before anything is looked up: what is purged meanwhile may be in the answer.
        let purges = self.peers.agreement.applied();
        let answered = self.answer_or_refuse(&asker, question).await;
        let mut response = answered.unwrap_or_else(|(status, headers)| {
            let mut response = Response::new(nothing());
            *response.status_mut() = status;
            *response.headers_mut() = headers;
            response
        });
        let length = response.body().size_hint().exact().unwrap_or(0);
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_LENGTH, length.into());
        wire::put_purges(headers, purges);
        response
    }

    async fn answer_or_refuse(
        &self,
        asker: &(&str, Redirect),
        question: &Question,
    ) -> Result<Response<PeerBody>, Refusal> {
        let highest = match wire::newest() >= wire::HANDS_OVER {
            true => DONOR,
            false => OWNER,
        };
        if !(ZONE_OWNER..=highest).contains(&question.level) {
            return Err(refused(StatusCode::BAD_REQUEST, "no such level"));
        }
        let dataset = self.datasets.get(&question.object.dataset);
        let dataset = dataset.ok_or_else(|| {
            refused(
                StatusCode::NOT_FOUND,
                "it has no dataset of that name: give all members the same datasets",
            )
        })?;
        let mut object = question.object.clone();
        object.dataset = Arc::clone(&dataset.name);
        match &question.version {
            None if question.level == DONOR => self.remembered(&dataset, &object),
            None => self.current(asker.0, question, &dataset, &object).await,
            Some(claim) => {
                let version = judge(&dataset, &object, claim)?;
                self.peers.told.note(&object, &version);
                let range = question.range.clone().unwrap_or(0..version.size);
                self.check(&version, &range)?;
                let head = Head {
                    version: None,
                    age: Duration::ZERO,
                    stale: false,
                    range: None,
                    hit: false,
                };
                let sending = Sending {
                    dataset,
                    object,
                    version,
                    range,
                };
                self.elsewhere(asker, question, &sending)?;
                self.send(asker, question, sending, head).await
            }
        }
    }

    /// The version that is known here to be current; or one that was some time ago, if its first block is here too: who owns
    /// that now need not read it anew, if the origin still names it.
    fn remembered(
        &self,
        dataset: &Dataset,
        object: &ObjectId,
    ) -> Result<Response<PeerBody>, Refusal> {
        let known = self.reads.remembered(dataset, object);
        let known = known.filter(|(version, age, fresh)| {
            let first = BlockKey {
                version: version.key,
                index: 0,
            };
            let rules = &dataset.rules;
            let past = !rules.never_changes(object) && *age >= rules.fresh_for;
            let helps = *fresh || (past && self.reads.store.can_give(&first, DONOR));
            version.cacheable() && helps
        });
        let known = known.map(|(version, age, _)| (version, age));
        let (version, age) = known.ok_or_else(|| wire::absent(1))?;
        let head = Head {
            version: Some(Claim::of(&version)),
            age,
            stale: false,
            range: None,
            hit: true,
        };
        let mut response = Response::new(nothing());
        *response.headers_mut() = head.headers();
        Ok(response)
    }

    /// The current version, and its first blocks if they are wanted and ours.
    async fn current(
        &self,
        from: &str,
        question: &Question,
        dataset: &Arc<Dataset>,
        object: &ObjectId,
    ) -> Result<Response<PeerBody>, Refusal> {
        let first = question.range.clone().filter(|range| range.start == 0);
        let asked = self
            .reads
            .current_at(OWNER, dataset, object, first.clone(), question.doubting);
        let asked = tokio::time::timeout(question.deadline.min(LONGEST), asked).await;
        let current = asked.unwrap_or(Err(OriginError::TimedOut));
        let current = current.map_err(|error| wire::of_origin(&error))?;
        let version = Arc::clone(&current.version);
        let head = Head {
            version: Some(Claim::of(&version)),
            // Of this answer: by now another version may be known, and an old one is never to pass for a young one.
            age: current.asked_at.elapsed(),
            stale: matches!(current.how, How::Stale(_)),
            range: None,
            hit: current.how == How::Known,
        };
        let extents = Extents::new(version.size, self.reads.store.block_size().bytes());
        let end = first.map_or(0, |first| first.end.min(extents.range(0).end));
        if end == 0 || head.stale || !version.cacheable() {
            let mut response = Response::new(nothing());
            *response.headers_mut() = head.headers();
            return Ok(response);
        }
        let sending = Sending {
            dataset: Arc::clone(dataset),
            object: object.clone(),
            version,
            range: 0..end,
        };
        let head = Head {
            range: Some(0..end),
            ..head
        };
        let asker = (from, Redirect::Refused);
        let response = self.send(&asker, question, sending, head).await;
        // Held until its blocks are joined.
        drop(current.fills);
        response
    }

    /// Whether a range is one that segments and checksums can be made of.
    fn check(&self, version: &Version, range: &Range<u64>) -> Result<(), Refusal> {
        let block = self.reads.store.block_size().bytes();
        let whole = range.end == version.size || range.end.is_multiple_of(block);
        let good = range.start < range.end
            && range.end <= version.size
            && range.start.is_multiple_of(SEGMENT as u64)
            && whole
            && range.end - range.start <= RUN_BYTES.max(block)
            && version.cacheable();
        match good {
            true => Ok(()),
            false => Err(refused(
                StatusCode::BAD_REQUEST,
                "no range of whole segments",
            )),
        }
    }

    async fn send(
        &self,
        (from, redirect): &(&str, Redirect),
        question: &Question,
        mut sending: Sending,
        mut head: Head,
    ) -> Result<Response<PeerBody>, Refusal> {
        let begun = Instant::now();
        let deadline = question.deadline.min(LONGEST);
        if question.level == DONOR {
            sending.range.end = self.given(&sending).map_err(wire::absent)?;
            head.range = Some(sending.range.clone());
        } else if question.only_if_cached && !self.has(&sending) {
            return Err(refused(
                StatusCode::GATEWAY_TIMEOUT,
                "it is not cached here",
            ));
        }
        let places = &self.places[usize::from(question.level - ZONE_OWNER)];
        let place = tokio::time::timeout(deadline, places.take(question.ahead)).await;
        let place = place.map_err(|_| {
            let busy = "it is sending as much as it has memory for";
            refused(StatusCode::SERVICE_UNAVAILABLE, busy)
        })?;
        if *redirect == Redirect::Followed {
            // It may have gone while its turn was waited for.
            self.gives(&sending)?;
        }
        let purges = self.reads.store.purges();
        if question.level == OWNER {
            // From here on: it waits for these blocks, and others may wait for them there.
            self.served.note(from, self.keys(&sending));
        }
        let pieces = [Piece::Range(sending.range.clone())];
        let mut reader = Reader::new(
            Arc::clone(&self.reads),
            sending.dataset,
            sending.object,
            Arc::clone(&sending.version),
            pieces,
        )
        .at(question.level);
        let left = deadline.saturating_sub(begun.elapsed());
        let primed = tokio::time::timeout(left, reader.prime()).await;
        let primed = primed.unwrap_or(Err(OriginError::TimedOut));
        primed.map_err(|error| wire::of_origin(&error))?;
        let look = reader.look();
        head.hit = (look.led + look.joined == 0 || look.from_peer)
            && (question.version.is_some() || head.hit);
        let budget = self.reads.store.budget().clone();
        let length = sending.range.end - sending.range.start;
        let body = Segments {
            outflow: Outflow::new(&self.egress, wire::body_length(&sending.range)),
            body: ReadBody::new(reader, length, budget).for_member(WRITE_TIMEOUT),
            sums: Arc::clone(&self.sums),
            purges,
            version: sending.version.key,
            offset: sending.range.start,
            sum: None,
            sent: self.peers.metrics.sent.clone(),
            place,
        };
        let mut response = Response::new(body.boxed_unsync());
        *response.headers_mut() = head.headers();
        let kind = HeaderValue::from_static("application/octet-stream");
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        Ok(response)
    }

    /// How far what is asked for can be given without setting anything in motion.
    ///
    /// # Errors
    /// Of how many blocks nothing is here, from the first on.
    fn given(&self, sending: &Sending) -> Result<u64, u32> {
        let (store, range) = (&self.reads.store, &sending.range);
        let block_size = store.block_size();
        let (first, last) = (
            block_size.index(range.start),
            block_size.index(range.end - 1),
        );
        // What is to come from an origin from which nothing comes is not here: whoever asks has another way to it, and has
        // waited for this gateway already, as the owner.
        let stuck = sending.dataset.origin.is_stuck() == Some(true);
        let gives = |index: u32| {
            let version = sending.version.key;
            let key = BlockKey { version, index };
            match stuck {
                true => store.contains(&key),
                false => store.can_give(&key, DONOR),
            }
        };
        let given = gives(first);
        let alike = (first..=last)
            .take_while(|index| gives(*index) == given)
            .count();
        // It may have come or gone while it was counted.
        let alike = u32::try_from(alike).unwrap_or(u32::MAX).max(1);
        match given {
            true => Ok(block_size.start(first + alike).min(range.end)),
            false => Err(alike),
        }
    }

    /// Whether all of it is in memory.
    fn has(&self, sending: &Sending) -> bool {
        let store = &self.reads.store;
        let range = &sending.range;
        let last = store.block_size().index(range.end - 1);
        (store.block_size().index(range.start)..=last)
            .all(|index| store.is_in_memory(&sending.version, index))
    }
}

/// What is to be sent.
struct Sending {
    dataset: Arc<Dataset>,
    object: ObjectId,
    version: Arc<Version>,
    range: Range<u64>,
}

fn refused(status: StatusCode, reason: &str) -> Refusal {
    wire::refusal(status, reason)
}

/// Says that this gateway is there, and what it waits for: its sources, or with `is_busy` its link.
pub fn pong(reads: &Reads, datasets: &Datasets, is_busy: bool) -> Response<PeerBody> {
    let mut response = Response::new(nothing());
    let excused = is_busy || reads.store.running_fills() > 0;
    *response.headers_mut() = wire::pong(excused, datasets.are_stuck());
    response
}

/// An empty body.
pub fn nothing() -> PeerBody {
    let empty = Empty::new().map_err(|never| match never {});
    UnsyncBoxBody::new(empty)
}

/// The version that is claimed, if our settings make the same of it.
fn judge(dataset: &Dataset, object: &ObjectId, claim: &Claim) -> Result<Arc<Version>, Refusal> {
    let version = dataset.origin.describe(object, claim.size, &claim.headers);
    match version {
        Ok(version) if version.key == claim.key => Ok(Arc::new(version)),
        _ => Err(refused(
            StatusCode::CONFLICT,
            "its dataset of that name has another origin or block size: give all members the same",
        )),
    }
}
