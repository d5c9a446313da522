//! Asking a member whether it is there before anybody has to wait for it.
//!
//! Who is asked for something at once finds out within [`SILENCE`](super::SILENCE) and a ping, but only once it waits. A
//! loader whose gateway falls silent leaves it, and asks another for the same bytes: had that one no question of its own
//! under way, it would begin to wait for the same member now, and the loader with it. So whoever was asked for something
//! lately, and was not heard since, is asked now and then whether it is there, in one task a member.

use std::sync::Arc;
use std::time::Duration;

use super::Peers;
use super::health::Known;

/// How long a member may be heard of nothing until it is asked.
const EVERY: Duration = Duration::from_millis(400);

/// In a large fleet a gateway asks one member after the other, so far apart.
const APART: Duration = Duration::from_millis(10);

/// How long it may take to say that it is there: nobody waits for it. With [`EVERY`] that is a second, less than what
/// loaders wait for a first byte.
const PATIENCE: Duration = Duration::from_millis(600);

/// For how long a member that was asked for something is asked whether it is there.
pub(super) const LATELY: Duration = Duration::from_secs(20);

impl Peers {
    /// Notes that a member is asked for something, and begins to listen for its heartbeat if nobody does. The first ping goes
    /// at once: it opens the connection for pings before there is need of it.
    pub(super) fn listen(self: &Arc<Self>, known: &Arc<Known>, name: &str) {
        if !known.is_to_be_listened_to() {
            return;
        }
        let (peers, known, name) = (Arc::downgrade(self), Arc::clone(known), name.to_owned());
        tokio::spawn(async move {
            let mut opened = false;
            while let Some(peers) = peers.upgrade() {
                let fleet = peers.fleet();
                if !known.is_still_listened_to(fleet.peer(&name).is_some()) {
                    return;
                }
                if !opened || !known.heard_within(EVERY) {
                    peers.beat(&known, &name, opened).await;
                }
                opened = true;
                let apart = APART * u32::try_from(fleet.peers.len()).unwrap_or(u32::MAX);
                drop((peers, fleet));
                tokio::time::sleep(EVERY.max(apart)).await;
            }
        });
    }

    /// Asks a member whether it is there; one that does not answer is silent, unless the connection is only being `opened`.
    async fn beat(self: &Arc<Self>, known: &Arc<Known>, name: &str, opened: bool) {
        if known.is_silent() {
            return;
        }
        let asked = tokio::time::Instant::now();
        if self.ping(name, PATIENCE).await {
            known.heard();
        } else if opened && !known.heard_within(asked.elapsed()) {
            self.fell_silent(known, name);
        }
    }
}
