//! What concerns the whole fleet, asked of all other members side by side.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use http::{Method, Request};
use http_body_util::{BodyExt, Limited};
use serde_json::Value;

use super::{PeerError, Peers, wire};
use crate::read::route::OWNER;

/// How long a member may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// No answer is longer.
const LONGEST: usize = 64 << 20;

impl Peers {
    /// Asks all other members that membership knows of: names and answers. One that is down is not asked; one that is
    /// silent has not answered. Dropping the future gives the questions up.
    pub async fn ask_others(
        self: &Arc<Self>,
        method: &Method,
        path: &str,
        body: Bytes,
    ) -> Vec<(String, Result<Value, PeerError>)> {
        let fleet = self.fleet();
        let others = fleet.peers.values().filter(|peer| {
            peer.member.name() != &*fleet.own && peer.state != forebay_ring::State::Down
        });
        let whole = &fleet;
        let asked: FuturesUnordered<_> = others
            .map(|peer| {
                let body = body.clone();
                async move {
                    let name = peer.member.name();
                    let answer = match self.answers(whole, name) {
                        true => self.ask_one(name, method, path, body).await,
                        false => Err(PeerError::Silent),
                    };
                    (name.to_owned(), answer)
                }
            })
            .collect();
        asked.collect().await
    }

    /// Asks one of them.
    ///
    /// # Errors
    /// Why there is no answer, or none that can be read.
    pub(crate) async fn ask_one(
        self: &Arc<Self>,
        name: &str,
        method: &Method,
        path: &str,
        body: Bytes,
    ) -> Result<Value, PeerError> {
        let asked = async {
            let mut request = Request::new(body);
            *request.method_mut() = method.clone();
            wire::set_path(&mut request, path);
            let asked = self.ask(name, OWNER, request).await?;
            let body = Limited::new(asked.body, LONGEST).collect().await;
            let body = body.map_err(|_| PeerError::Cut)?.to_bytes();
            serde_json::from_slice(&body).map_err(|_| PeerError::Corrupt)
        };
        let asked = tokio::time::timeout(PATIENCE, asked).await;
        asked.unwrap_or(Err(PeerError::Stalled))
    }
}
