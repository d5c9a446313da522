//! Asking a member whether it is there before anybody has to wait for it.
//!
//! Who is asked for something at once finds out within [`SILENCE`](super::SILENCE) and a ping, but only once it waits. A
//! loader whose gateway falls silent leaves it, and asks another for the same bytes: had that one no question of its own
//! under way, it would begin to wait for the same member now, and the loader with it. So whoever was asked for something
//! lately, and was not heard since, is asked now and then whether it is there, in one task a member.
//!
//! That also keeps the connection for pings, which a reader that waits has no time to open.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use xxhash_rust::xxh3::xxh3_64;

use super::client::IDLE;
use super::health::Known;
use super::ping::Lost;
use super::{Peers, health};

/// How long a member may be heard of nothing until it is asked.
const EVERY: Duration = Duration::from_millis(400);

/// Between two looks at least; and where many are listened to so long for each of them, so that this gateway sends no more
/// than a hundred pings a second.
const LEAST: Duration = Duration::from_millis(100);
const APART: Duration = Duration::from_millis(10);

/// How long it may take to say that it is there: nobody waits for it. With [`EVERY`] that is a second while no more than forty
/// are listened to, less than what loaders wait for a first byte.
const PATIENCE: Duration = Duration::from_millis(600);

/// Who looks so much later than that stood still itself, and what it then does not see yet may be there.
const OWN_STANDSTILL: Duration = Duration::from_millis(100);

/// For how long a member that was asked for something is asked whether it is there.
pub(super) const LATELY: Duration = Duration::from_secs(20);

/// A ping goes at least so often, whatever else is heard: its connection is closed once it is idle for longer.
const KEPT: Duration = Duration::from_secs(IDLE.as_secs() * 2 / 3);

impl Peers {
    /// Notes that a member is asked for something, and begins to listen for its heartbeat if nobody does. The first ping goes
    /// at once: it opens the connection for pings before there is need of it.
    pub(super) fn listen(self: &Arc<Self>, known: &Arc<Known>, name: &str) {
        if !known.begin_listening() {
            return;
        }
        let listens = self.health.listens();
        let (peers, known, name) = (Arc::downgrade(self), Arc::clone(known), name.to_owned());
        tokio::spawn(async move {
            let mut answered = None;
            // Members that are met together are not asked together for ever.
            let mut look_at = Instant::now() + EVERY.mul_f64(part(&name));
            while let Some(peers) = peers.upgrade() {
                if !known.go_on_listening(peers.fleet().peer(&name).is_some()) {
                    return;
                }
                peers.beat(&known, &name, &mut answered).await;
                let least = Instant::now() + LEAST.max(APART * health::listeners(&listens));
                drop(peers);
                tokio::time::sleep_until(look_at.max(least)).await;
                look_at = known.heard_at() + EVERY;
            }
        });
    }

    /// Asks a member whether it is there, unless it was heard lately. One that does not answer is silent, if it `answered` a
    /// ping before: its connection may not have come about else.
    async fn beat(
        self: &Arc<Self>,
        known: &Arc<Known>,
        name: &str,
        answered: &mut Option<Instant>,
    ) {
        let since = answered.map_or(Duration::MAX, |answered| answered.elapsed());
        if known.is_silent() || (since < KEPT && known.heard_within(EVERY)) {
            return;
        }
        let asked = Instant::now();
        let Some(pong) = self.pong(name, PATIENCE) else {
            return;
        };
        match pong.await {
            Ok(_) => {
                *answered = Some(Instant::now());
                known.heard();
            }
            Err(Lost::Silent) => {
                let took = asked.elapsed();
                if since < IDLE && took < PATIENCE + OWN_STANDSTILL && !known.heard_within(took) {
                    self.fell_silent(known, name);
                }
            }
            // Whose fault that is it does not say, and nobody waits.
            Err(Lost::Failed) => {}
        }
    }
}

/// A part of the whole, always the same for a name.
fn part(name: &str) -> f64 {
    (xxh3_64(name.as_bytes()) % 1024) as f64 / 1024.0
}
