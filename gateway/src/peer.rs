//! The other gateways of the fleet: who is there, who answers, and asking them.
//!
//! | module | its part |
//! |---|---|
//! | [`wire`] | a question and its answer as HTTP, and the checksums between segments |
//! | [`incoming`] | a body as it arrives, verified segment by segment |
//! | [`handshake`] | both ends of a connection prove that they have the fleet's key |
//! | [`tls`] | the same by TLS, where the settings ask for it |
//! | [`client`], [`memory`] | asking over TCP, or in the same process |
//! | `others` | what concerns the whole fleet, asked of all |
//! | [`agreement`] | that both ends know of the same purges before an answer counts |
//! | [`health`] | who is silent, as this gateway has seen for itself |
//! | `heartbeat` | asking members whether they are there before anybody has to wait for them |
//! | `ping` | asking a member whether it is there, and why it brings nothing |
//! | `hedges` | how often an answer is given up for another |
//! | [`redirect`], [`egress`] | whom an owner names that has more to send than its link takes |
//! | [`told`] | versions that others have named in their questions |
//!
//! What membership says of a member and what this gateway sees of it are two things: the first comes
//! within seconds and is the same for all; the second comes within a quarter of one, and is ours.

pub mod agreement;
pub mod client;
pub mod egress;
pub mod handshake;
pub mod health;
mod heartbeat;
mod hedges;
pub mod incoming;
pub mod memory;
mod others;
mod ping;
pub mod redirect;
pub mod tls;
pub mod told;
mod turns;
pub mod wire;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use forebay_ring::{Donors, Fleet, Member, State};
use forebay_storage::error::OriginError;
use forebay_storage::store::Level;
use futures::future::BoxFuture;
use http::{Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use tokio::sync::watch;

use self::agreement::Agreement;
use self::health::{Health, Known};
use self::hedges::Hedges;
use self::incoming::Hits;
use self::told::Told;
use self::turns::Turn;
use crate::link::Link;
use crate::metrics::PeerMetrics;

/// How long a member may say nothing before it is asked whether it is there. With the time that it has to answer that,
/// and with its last bytes having come just after it was asked, no reader waits longer than 850 ms for one that is not.
pub const SILENCE: Duration = Duration::from_millis(150);

/// How long a member may be there and bring nothing: then the next one is asked.
pub const NO_PROGRESS: Duration = Duration::from_secs(5);

/// How long a member that fills nothing itself may bring nothing of what it has, where neither its link is full nor ours:
/// the fault is its own then, and the next one is asked, as far as `Hedges` allow.
pub const HEDGE: Duration = Duration::from_secs(1);

/// The same for one to which nothing comes from its origin, as soon as it says so: another may have another way there. Whoever
/// asks has often waited for that one already, as its reader, and gone on elsewhere.
pub const HEDGE_STUCK: Duration = Duration::from_millis(550);

/// A body on its way from another gateway.
pub type PeerBody = UnsyncBoxBody<Bytes, io::Error>;

/// How requests get to other gateways: over TCP, or in memory.
pub trait Peer: fmt::Debug + Send + Sync {
    /// Sends a request to a member. Dropping the future, or the body, gives it up.
    ///
    /// # Errors
    /// If no answer came; `ConnectionRefused` if nobody listens there.
    fn send<'a>(
        &'a self,
        to: &'a forebay_ring::Peer,
        request: Request<Bytes>,
    ) -> BoxFuture<'a, io::Result<Response<PeerBody>>>;
}

/// Why another gateway did not give what it was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// Nobody listens there, or it is not a member any more.
    #[error("the member can't be reached")]
    Unreachable,
    /// It says nothing at all.
    #[error("the member is silent")]
    Silent,
    /// It is there, and brings nothing.
    #[error("the member brings nothing")]
    Stalled,
    /// It has the bytes, and the connection hardly brings any: another may.
    #[error("the connection to the member stands still")]
    StandsStill,
    /// The connection broke.
    #[error("the member's answer broke off")]
    Cut,
    /// What came is not what was asked for.
    #[error("the member's bytes are not what they should be")]
    Corrupt,
    /// It does not answer such questions: other settings, another name, another protocol.
    #[error("the member refuses: {0}")]
    Refused(String),
    /// It was asked for what another owns by now, and has nothing of so many blocks from the first on.
    #[error("the member has none of it")]
    Absent(u32),
    /// It does not know of the purges that this gateway knows of, and can't be told.
    #[error("the member has not heard what was purged")]
    Behind,
    /// It names another that has it, or is getting it.
    #[error("the member says whom to ask instead: {0}")]
    Elsewhere(String),
    /// What the origin said to it.
    #[error("the member's origin: {0}")]
    Origin(OriginError),
}

impl PeerError {
    /// What the origin said, where no other member would hear anything else.
    pub fn verdict(&self) -> Option<&OriginError> {
        match self {
            Self::Origin(error) => match error {
                OriginError::NotFound
                | OriginError::Unnameable(_)
                | OriginError::PastEnd
                | OriginError::SlowDown { .. }
                | OriginError::NoSuchPart { .. }
                | OriginError::Unsupported(_) => Some(error),
                _ => None,
            },
            _ => None,
        }
    }

    /// All labels of a metric.
    pub const LABELS: [&'static str; 11] = [
        "unreachable",
        "silent",
        "stalled",
        "stands_still",
        "cut",
        "corrupt",
        "refused",
        "absent",
        "behind",
        "elsewhere",
        "origin",
    ];

    /// The label of a metric.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Silent => "silent",
            Self::Stalled => "stalled",
            Self::StandsStill => "stands_still",
            Self::Cut => "cut",
            Self::Corrupt => "corrupt",
            Self::Refused(_) => "refused",
            Self::Absent(_) => "absent",
            Self::Behind => "behind",
            Self::Elsewhere(_) => "elsewhere",
            Self::Origin(_) => "origin",
        }
    }
}

/// The fleet, and how to ask it.
#[derive(Debug)]
pub struct Peers {
    fleet: watch::Receiver<Arc<Fleet>>,
    transport: Arc<dyn Peer>,
    health: Health,
    /// Of those for the next candidate's sake.
    hedges: Hedges,
    /// Of those that are asked of the same member again.
    again: Hedges,
    /// What comes of what members had when they were asked.
    hits: Hits,
    /// How fast this gateway's link was seen to be.
    pub link: Arc<Link>,
    /// What members were told of by those who asked them.
    pub told: Told,
    /// These donors have nothing any more that this gateway lacks of its own.
    spent: ArcSwapOption<Donors>,
    /// Whether others know of the purges that this gateway knows of.
    pub agreement: Arc<Agreement>,
    /// What is counted of questions to others, and of answers to them.
    pub metrics: Arc<PeerMetrics>,
}

impl Peers {
    /// The fleet that `fleet` tells of, asked by `transport`.
    pub fn new(
        fleet: watch::Receiver<Arc<Fleet>>,
        transport: Arc<dyn Peer>,
        metrics: Arc<PeerMetrics>,
    ) -> Arc<Self> {
        Arc::new(Self {
            fleet,
            transport,
            health: Health::default(),
            hedges: Hedges::default(),
            again: Hedges::default(),
            hits: Hits::default(),
            link: Arc::default(),
            told: Told::default(),
            spent: ArcSwapOption::default(),
            agreement: Arc::default(),
            metrics,
        })
    }

    /// The fleet as it is now.
    pub fn fleet(&self) -> Arc<Fleet> {
        Arc::clone(&self.fleet.borrow())
    }

    /// The same, to wait for another one.
    pub fn changes(&self) -> watch::Receiver<Arc<Fleet>> {
        self.fleet.clone()
    }

    /// Whether a member may be asked: membership thinks so, and so do we.
    pub fn answers(&self, fleet: &Fleet, name: &str) -> bool {
        fleet.answers(name) && !self.health.is_silent(name)
    }

    /// Who has `extent` of an object: its owner, and while that one does not answer, the first behind it who does.
    pub fn stands_in<'a>(
        &self,
        fleet: &'a Fleet,
        (dataset, key): (&str, &str),
        (extent, extents): (u64, u64),
    ) -> Option<&'a Member> {
        let owner = fleet.table.owner(dataset, key, extent, extents);
        let is_there = |member: &&Member| {
            let name = member.name();
            name == &*fleet.own || self.answers(fleet, name)
        };
        owner.filter(is_there).or_else(|| {
            let mut candidates = fleet.table.candidates(dataset, key, extent, extents);
            candidates.find(is_there).or(owner)
        })
    }

    /// The fleet, and whenever it changes.
    pub fn watch(&self) -> watch::Receiver<Arc<Fleet>> {
        self.fleet.clone()
    }

    /// Whether a member may be asked for what another owns by now: it answers, and knows such questions.
    pub fn gives(&self, fleet: &Fleet, name: &str) -> bool {
        let peer = fleet.peer(name);
        peer.is_some_and(|peer| peer.protocol >= wire::HANDS_OVER)
            && wire::newest() >= wire::HANDS_OVER
            && self.answers(fleet, name)
    }

    /// Who may hold what this gateway lacks of an extent, because it was theirs a moment ago.
    pub fn donors<'a>(
        &self,
        fleet: &'a Fleet,
        object: (&str, &str),
        extent: (u64, u64),
    ) -> Vec<&'a str> {
        if fleet.donors.is_empty() || self.are_spent(&fleet.donors) {
            return Vec::new();
        }
        let mut donors = fleet.donors.of(&fleet.own, object, extent);
        donors.retain(|name| self.gives(fleet, name));
        donors
    }

    /// Notes that these donors have nothing any more that this gateway lacks of its own: they are not asked again.
    pub fn spend(&self, donors: &Arc<Donors>) {
        self.spent.store(Some(Arc::clone(donors)));
    }

    fn are_spent(&self, donors: &Arc<Donors>) -> bool {
        let spent = self.spent.load();
        spent
            .as_ref()
            .is_some_and(|spent| Arc::ptr_eq(spent, donors))
    }

    /// How a member does: what membership says, or silent if that is what we have seen.
    pub fn state(&self, peer: &forebay_ring::Peer) -> State {
        match peer.state {
            State::Alive if self.health.is_silent(peer.member.name()) => State::Silent,
            state => state,
        }
    }

    /// The turn to ask `name` at `level` for bytes that nobody waits for yet: whoever asks for them holds it while they come.
    /// Once `is_awaited`, there is no waiting for it.
    pub(crate) async fn turn(
        &self,
        name: &str,
        level: Level,
        is_awaited: impl Fn() -> bool,
    ) -> Turn {
        let fleet = self.fleet();
        let known = self.health.of(name, |name| fleet.peer(name).is_some());
        known.body_turn(level, is_awaited).await
    }

    /// Asks `name` at `level`, and waits for its answer as long as it is there and not longer than
    /// [`NO_PROGRESS`]. The answer's body holds one of the requests that a member may have at once.
    ///
    /// # Errors
    /// Why there is none; an answer that is a failure is an error too.
    pub async fn ask(
        self: &Arc<Self>,
        name: &str,
        level: Level,
        request: Request<Bytes>,
    ) -> Result<Asked, PeerError> {
        let asked = self.ask_until_agreed(name, level, request).await;
        let outcome = asked.as_ref().err().map_or("ok", PeerError::label);
        self.metrics.requests.with_label_values(&[outcome]).inc();
        if let Err(PeerError::Refused(reason)) = &asked {
            tracing::debug!(member = name, reason, "a member refuses what it was asked");
        }
        asked
    }

    async fn ask_as_it_is(
        self: &Arc<Self>,
        name: &str,
        level: Level,
        mut request: Request<Bytes>,
    ) -> Result<Asked, PeerError> {
        let fleet = self.fleet();
        let peer = fleet.peer(name).ok_or(PeerError::Unreachable)?;
        wire::address(&mut request, name);
        let known = self.health.of(name, |name| fleet.peer(name).is_some());
        self.listen(&known, name);
        let permit = known.permit(level).await;
        let begun = tokio::time::Instant::now();
        // Who is asked for a version may be asking the origin, and that is no fill.
        let exact = wire::is_exact(request.headers());
        self.hedges.asked();
        self.again.asked();
        let answer = self.transport.send(peer, request);
        let answer = self.patiently(&known, name, exact, answer).await?;
        let response = match answer {
            Ok(response) => response,
            Err(error) if no_connection(error.kind()) => {
                tracing::debug!(member = name, %error, "there is no connection to a member");
                self.fell_silent(&known, name);
                return Err(PeerError::Unreachable);
            }
            Err(error) => {
                tracing::debug!(member = name, %error, "a question to a member got no answer");
                return Err(PeerError::Cut);
            }
        };
        known.heard();
        let times = &self.metrics.first_byte;
        times.observe(begun.elapsed().as_secs_f64());
        let (parts, body) = response.into_parts();
        if parts.status == StatusCode::MISDIRECTED_REQUEST {
            // Another member has that address by now.
            self.fell_silent(&known, name);
        }
        if !parts.status.is_success() {
            return Err(wire::failure(&parts));
        }
        Ok(Asked {
            parts,
            body,
            known,
            _permit: permit,
        })
    }

    /// `what`, unless the member falls silent or brings nothing meanwhile. One to which nothing comes from its origin has
    /// less time; with `exact` also one that has no slow source to wait for, unless what others send fills this gateway's
    /// link.
    pub(crate) async fn patiently<T>(
        self: &Arc<Self>,
        known: &Arc<Known>,
        name: &str,
        exact: bool,
        what: impl Future<Output = T>,
    ) -> Result<T, PeerError> {
        let mut what = std::pin::pin!(what);
        let (begun, had) = (tokio::time::Instant::now(), self.metrics.received.get());
        let mut look_at = HEDGE;
        loop {
            tokio::select! {
                biased;
                done = &mut what => return Ok(done),
                () = tokio::time::sleep(SILENCE) => {}
            }
            let there = self.is_there(known, name);
            tokio::select! {
                biased;
                done = &mut what => return Ok(done),
                there = there => if !there {
                    return Err(PeerError::Silent);
                },
            }
            let took = begun.elapsed();
            if took >= NO_PROGRESS {
                return Err(PeerError::Stalled);
            }
            if took < Self::asks_why_after(known) {
                continue;
            }
            let excuse = tokio::select! {
                biased;
                done = &mut what => return Ok(done),
                excuse = self.excuse(known, name) => excuse,
            };
            // One whose answer is lost is asked again.
            let Some(excuse) = excuse else { continue };
            let due = took >= look_at;
            if due {
                look_at += HEDGE;
            }
            let own_fault = exact && due && excuse.idle && !self.fill_the_link(had, begun);
            if (excuse.stuck || own_fault) && self.hedges.take() {
                return Err(PeerError::Stalled);
            }
        }
    }

    /// Gives up one more answer that is to be asked for again, if it may.
    pub(crate) fn takes_again(&self) -> bool {
        self.again.take()
    }

    /// Whether what others have sent since they had sent `had` bytes fills this gateway's link.
    pub(crate) fn fill_the_link(&self, had: u64, since: tokio::time::Instant) -> bool {
        let came = self.metrics.received.get() - had;
        self.link.is_filled_by(came, since.elapsed())
    }

    fn fell_silent(self: &Arc<Self>, known: &Arc<Known>, name: &str) {
        if known.fell_silent() {
            tracing::info!(member = name, "a member is silent and is passed over");
            health::watch_for_return(self, known, name);
        }
    }
}

/// Whether a failure means that a connection did not even come about: nobody listens, nobody is there, or
/// the two ends do not take each other for members of one fleet.
fn no_connection(kind: io::ErrorKind) -> bool {
    matches!(
        kind,
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::PermissionDenied
            | io::ErrorKind::TimedOut
    )
}

/// An answer that is a success.
pub struct Asked {
    /// Its head.
    pub parts: http::response::Parts,
    /// Its body.
    pub body: PeerBody,
    /// What is known of the member.
    pub(crate) known: Arc<Known>,
    pub(crate) _permit: health::Permit,
}

impl fmt::Debug for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Asked")
            .field("parts", &self.parts)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
