//! Asking a member whether it is there, and why it brings nothing.
//!
//! On a link that is full a packet may be lost or late, and one that is to open a connection is sent again only after a
//! second: who is merely busy would be taken for dead, and its load would go to others, whose links are as full. So a
//! ping goes over a connection that is there already: whoever is asked for something is sent one at once and then now and then
//! (`heartbeat`), and one that is overdue is waited for in a task of its own, so that its connection is kept.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use http::Response;
use tokio::time::Instant;

use super::health::Known;
use super::{HEDGE_STUCK, Peer, PeerBody, Peers, SILENCE, no_connection, wire};

/// How long a member may take to say that it is there.
pub(super) const PATIENCE: Duration = Duration::from_millis(350);

/// When it is asked a second time.
const AGAIN: Duration = Duration::from_millis(120);

/// When nobody waits for its answer any more, so that a connection that is only slow may yet come about.
const OVERDUE: Duration = Duration::from_secs(3);

/// How long what a member is asked of why it brings nothing is asked for all who wonder.
const FRESH: Duration = Duration::from_millis(100);

/// For how long a member that said that nothing comes to it from its origin is asked of that sooner than others.
const LATELY: Duration = Duration::from_secs(2);

/// Why a member brings nothing, as it says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Excuse {
    /// Nothing comes to it from its origin.
    pub(super) stuck: bool,
    /// It fills nothing.
    pub(super) idle: bool,
}

/// Why there is no answer to a ping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lost {
    /// Nothing came in time, or nobody is there.
    Silent,
    /// The connection broke, or could not be tried.
    Failed,
}

/// What a member was asked of that, and when.
#[derive(Debug)]
pub(super) struct Wonder {
    begun: Instant,
    excuse: Shared<BoxFuture<'static, Option<Excuse>>>,
}

impl Wonder {
    /// Whether it said lately that nothing comes to it from its origin.
    fn was_stuck(&self) -> bool {
        let excuse = self.excuse.peek().copied().flatten();
        self.begun.elapsed() < LATELY && excuse.is_some_and(|excuse| excuse.stuck)
    }
}

impl Peers {
    /// How long a member may bring nothing until it is asked why. One that said lately that nothing comes to it is asked as
    /// soon as it is overdue: who reads an object asks for its version and then for its blocks, and need not wait twice.
    pub(super) fn asks_why_after(known: &Known) -> Duration {
        let wonder = known.wonder();
        match wonder.as_ref().is_some_and(Wonder::was_stuck) {
            true => SILENCE,
            false => HEDGE_STUCK,
        }
    }

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
        match self.pong(name, patience) {
            Some(pong) => pong.await.is_ok(),
            None => false,
        }
    }

    /// Why a member brings nothing, asked once for all who wonder. `None`: its answer is lost or late.
    pub(super) async fn excuse(&self, known: &Known, name: &str) -> Option<Excuse> {
        let excuse = {
            let mut last = known.wonder();
            match &*last {
                Some(wonder) if wonder.begun.elapsed() < FRESH => wonder.excuse.clone(),
                _ => {
                    let excuse = self.pong(name, PATIENCE)?.map(|pong| {
                        pong.ok().map(|pong| Excuse {
                            stuck: wire::is_stuck(pong.headers()),
                            idle: wire::is_idle(pong.headers()),
                        })
                    });
                    let (begun, excuse) = (Instant::now(), excuse.boxed().shared());
                    *last = Some(Wonder {
                        begun,
                        excuse: excuse.clone(),
                    });
                    excuse
                }
            }
        };
        excuse.await
    }

    /// Whether a member says that nothing comes to it from its origin.
    pub(crate) async fn is_stuck(&self, name: &str) -> bool {
        let fleet = self.fleet();
        let known = self.health.of(name, |name| fleet.peer(name).is_some());
        let excuse = self.excuse(&known, name).await;
        excuse.is_some_and(|excuse| excuse.stuck)
    }

    /// Asks a member at once; what comes back is what it says within `patience`. `None`: it is none.
    pub(super) fn pong(
        &self,
        name: &str,
        patience: Duration,
    ) -> Option<impl Future<Output = Result<Response<PeerBody>, Lost>> + Send + use<>> {
        let peer = self.fleet().peer(name)?.clone();
        let asking = tokio::spawn(answer(Arc::clone(&self.transport), peer));
        Some(async move {
            let answer = tokio::time::timeout(patience, asking).await;
            match answer
                .map_err(|_| Lost::Silent)?
                .map_err(|_| Lost::Failed)?
            {
                Ok(answer) if answer.status().is_success() => Ok(answer),
                // Another has that address by now.
                Ok(_) => Err(Lost::Silent),
                Err(error) if no_connection(error.kind()) => Err(Lost::Silent),
                Err(_) => Err(Lost::Failed),
            }
        })
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
