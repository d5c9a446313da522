//! Asking a member whether it is there, and why it brings nothing.
//!
//! On a link that is full a packet may be lost or late, and one that is to open a connection is sent again only after a
//! second: who is merely busy would be taken for dead, and its load would go to others, whose links are as full. So a
//! ping goes over a connection that is there already: whoever is asked for something is greeted by a ping now and then, and one that
//! is overdue is waited for in a task of its own, so that its connection is kept.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::Response;
use tokio::time::Instant;

use super::health::Known;
use super::{Peer, PeerBody, Peers, SILENCE, no_connection, wire};

/// How long a member may take to say that it is there.
pub(super) const PATIENCE: Duration = Duration::from_millis(350);

/// When it is asked a second time.
const AGAIN: Duration = Duration::from_millis(120);

/// When nobody waits for its answer any more, so that a connection that is only slow may yet come about.
const OVERDUE: Duration = Duration::from_secs(3);

/// How long one that is asked for something goes without a ping: less than an idle connection is kept.
pub(super) const GREETING: Duration = Duration::from_secs(20);

/// How long what a member said of why it brings nothing is true.
const FRESH: Duration = Duration::from_millis(50);

/// Why a member brings nothing, as it says. One that did not say it has neither reason.
#[derive(Debug)]
pub(super) struct Excuse {
    at: Instant,
    /// Nothing comes to it from its origin.
    stuck: bool,
    /// It fills nothing.
    idle: bool,
}

impl Peers {
    /// Whether a member is there: it was heard just now, or answers when asked that alone.
    pub(super) async fn is_there(self: &Arc<Self>, known: &Arc<Known>, name: &str) -> bool {
        let _turn = known.turn().await;
        if known.is_silent() {
            return false;
        }
        if known.heard_within(SILENCE) {
            return true;
        }
        let asked = Instant::now();
        if self.ping(name, PATIENCE).await {
            known.heard();
            return true;
        }
        // What came meanwhile says as much as an answer, of the moment when it came.
        if known.heard_within(asked.elapsed()) {
            return true;
        }
        self.fell_silent(known, name);
        false
    }

    /// Whether a member says within `patience` that it is there.
    pub(super) async fn ping(&self, name: &str, patience: Duration) -> bool {
        self.pong(name, patience).await.is_some()
    }

    /// Whether what a member does not bring may be on its way to it. Not if it fills nothing, unless it is asked for a
    /// version; nor if it says that nothing comes from its origin. It is asked once for all who wonder.
    pub(super) async fn is_excused(&self, known: &Known, name: &str, exact: bool) -> bool {
        let mut last = known.excuse().await;
        let fresh = last.take().filter(|excuse| excuse.at.elapsed() < FRESH);
        let excuse = match fresh {
            Some(excuse) => excuse,
            None => {
                let pong = self.pong(name, PATIENCE).await;
                let headers = pong.as_ref().map(Response::headers);
                Excuse {
                    at: Instant::now(),
                    stuck: headers.is_some_and(wire::is_stuck),
                    idle: headers.is_some_and(wire::is_idle),
                }
            }
        };
        let excused = !excuse.stuck && !(exact && excuse.idle);
        *last = Some(excuse);
        excused
    }

    /// Whether a member says that nothing comes to it from its origin.
    pub(crate) async fn is_stuck(&self, name: &str) -> bool {
        let pong = self.pong(name, PATIENCE).await;
        pong.is_some_and(|pong| wire::is_stuck(pong.headers()))
    }

    /// Opens the connection for pings to a member that is asked for something, before there is need of it.
    pub(super) fn greet(&self, known: &Known, peer: &forebay_ring::Peer) {
        if known.is_to_be_greeted() {
            tokio::spawn(answer(Arc::clone(&self.transport), peer.clone()));
        }
    }

    async fn pong(&self, name: &str, patience: Duration) -> Option<Response<PeerBody>> {
        let peer = self.fleet().peer(name)?.clone();
        let asking = tokio::spawn(answer(Arc::clone(&self.transport), peer));
        let answer = tokio::time::timeout(patience, asking).await;
        let answer = answer.ok()?.ok()?.ok()?;
        answer.status().is_success().then_some(answer)
    }
}

/// What a member says to a ping, or to a second one.
async fn answer(
    transport: Arc<dyn Peer>,
    peer: forebay_ring::Peer,
) -> io::Result<Response<PeerBody>> {
    let ping = || {
        let mut request = wire::ping();
        wire::address(&mut request, peer.member.name());
        transport.send(&peer, request)
    };
    let mut first = ping();
    let answer = async {
        tokio::select! {
            biased;
            answer = &mut first => match answer {
                // A connection that was kept had ended meanwhile.
                Err(error) if !no_connection(error.kind()) => ping().await,
                answer => answer,
            },
            () = tokio::time::sleep(AGAIN) => {
                let both = futures::future::select_ok([first, ping()]);
                both.await.map(|(answer, _)| answer)
            }
        }
    };
    tokio::time::timeout(OVERDUE, answer).await?
}
