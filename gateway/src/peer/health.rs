//! Who is silent, as this gateway has seen for itself.
//!
//! A slow answer is no sign of death: the origin behind a member may be slow. So a member that says
//! nothing is asked, on a connection of its own, whether it is there, once for all who wonder. One that
//! does not answer that either is passed over at once, and asked again in the background until it does:
//! no reader pays for finding out.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use forebay_storage::store::Level;
use tokio::sync::{MutexGuard, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::ping::Wonder;
use super::turns::{Turn, Turns};
use super::{Peers, heartbeat};
use crate::read::route::{DONOR, OWNER, ZONE_OWNER};

/// Requests of one level that one member is asked at once; more wait for their turn, holding nothing.
const AT_ONCE: usize = 64;

/// The wait before a silent member is asked again; it doubles with each time.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// How long it may take to answer that: nobody waits for it, and its link may be full.
const PATIENCE_WITH_THE_SILENT: Duration = Duration::from_secs(1);

/// The right to ask a member something, until it is dropped.
pub(crate) type Permit = Option<OwnedSemaphorePermit>;

/// What is known of all members.
#[derive(Debug, Default)]
pub(super) struct Health {
    known: Mutex<HashMap<String, Arc<Known>>>,
    listens: Arc<()>,
}

/// Held by whoever listens for a member's heartbeat, for as long as that goes on.
pub(super) type Listens = Arc<()>;

/// What is known of one member.
#[derive(Debug)]
pub(crate) struct Known {
    /// By level: one level waits for the next, so they must not stand in one queue; nor must readers behind jobs.
    permits: [Arc<Semaphore>; 4],
    /// By level too, for what nobody waits for yet.
    turns: [Arc<Turns>; 4],
    heard: Mutex<Instant>,
    listening: Mutex<Listening>,
    silent: AtomicBool,
    /// Held by whoever finds out whether it is there.
    turn: tokio::sync::Mutex<()>,
    /// When it was asked last why it brings nothing, and what it said.
    wonder: Mutex<Option<Wonder>>,
}

/// Whether somebody listens for a member's heartbeat, and when it was asked for something last: the one ends a while after
/// the other.
#[derive(Debug, Default)]
struct Listening {
    asked: Option<Instant>,
    begun: bool,
}

/// How many members are listened to.
pub(super) fn listeners(listens: &Listens) -> u32 {
    // One is held by who gives them out.
    u32::try_from(Arc::strong_count(listens) - 1).unwrap_or(u32::MAX)
}

/// The queue of a level.
fn queue(level: Level) -> usize {
    match level {
        0..=ZONE_OWNER => 0,
        OWNER => 1,
        DONOR => 2,
        _ => 3,
    }
}

impl Health {
    /// What is known of the member of this name. Whoever is met for the first time makes those forgotten that are
    /// no members any more: under names that come and go, as orchestrators make them up, nothing piles up.
    pub(super) fn of(&self, name: &str, is_member: impl Fn(&str) -> bool) -> Arc<Known> {
        let mut known = self.lock();
        if let Some(known) = known.get(name) {
            return Arc::clone(known);
        }
        known.retain(|name, _| is_member(name));
        let new = Arc::new(Known {
            permits: [(); 4].map(|()| Arc::new(Semaphore::new(AT_ONCE))),
            turns: [(); 4].map(|()| Arc::new(Turns::new())),
            heard: Mutex::new(Instant::now()),
            listening: Mutex::default(),
            silent: AtomicBool::new(false),
            turn: tokio::sync::Mutex::default(),
            wonder: Mutex::default(),
        });
        known.insert(name.to_owned(), Arc::clone(&new));
        new
    }

    /// One more that listens.
    pub(super) fn listens(&self) -> Listens {
        Arc::clone(&self.listens)
    }

    pub(super) fn is_silent(&self, name: &str) -> bool {
        self.lock().get(name).is_some_and(|known| known.is_silent())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<Known>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// Waits until the member may be asked one thing more at this level.
    pub(super) async fn permit(&self, level: Level) -> Permit {
        let permits = &self.permits[queue(level)];
        // Nobody closes this semaphore.
        Arc::clone(permits).acquire_owned().await.ok()
    }

    /// Waits until the member may be asked, at this level, for one thing more that nobody waits for; no longer than until
    /// somebody does.
    pub(super) async fn body_turn(&self, level: Level, is_awaited: impl Fn() -> bool) -> Turn {
        self.turns[queue(level)].take(is_awaited).await
    }

    /// Notes that bytes came from it.
    pub(crate) fn heard(&self) {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    pub(super) fn heard_within(&self, time: Duration) -> bool {
        self.heard_at().elapsed() < time
    }

    /// When bytes came from it last, or it was met.
    pub(super) fn heard_at(&self) -> Instant {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that it is asked for something; true if nobody listens for its heartbeat yet, who then is to.
    pub(super) fn begin_listening(&self) -> bool {
        let mut listening = self.listening();
        listening.asked = Some(Instant::now());
        !std::mem::replace(&mut listening.begun, true)
    }

    /// Whether whoever listens for its heartbeat is to go on: as long as it is a member that was asked for something
    /// lately. If not, that has ended.
    pub(super) fn go_on_listening(&self, is_member: bool) -> bool {
        let mut listening = self.listening();
        let lately = |asked: Instant| asked.elapsed() < heartbeat::LATELY;
        listening.begun = is_member && listening.asked.is_some_and(lately);
        listening.begun
    }

    fn listening(&self) -> std::sync::MutexGuard<'_, Listening> {
        self.listening
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_silent(&self) -> bool {
        self.silent.load(Ordering::Acquire)
    }

    /// Notes that it is silent; true for whoever notices first.
    pub(super) fn fell_silent(&self) -> bool {
        !self.silent.swap(true, Ordering::AcqRel)
    }

    pub(super) async fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().await
    }

    pub(super) fn wonder(&self) -> std::sync::MutexGuard<'_, Option<Wonder>> {
        self.wonder.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks a silent member now and then whether it is back, in a task of its own that ends with its
/// return, or once it is not in the fleet any more.
pub(super) fn watch_for_return(peers: &Arc<Peers>, known: &Arc<Known>, name: &str) {
    let (peers, known) = (Arc::downgrade(peers), Arc::clone(known));
    let name = name.to_owned();
    tokio::spawn(async move {
        let mut pause = FIRST_PAUSE;
        loop {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
            let Some(peers) = peers.upgrade() else {
                return;
            };
            let gone = peers.fleet().peer(&name).is_none();
            // One that comes back under this name is met as a stranger.
            if gone || peers.ping(&name, PATIENCE_WITH_THE_SILENT).await {
                known.heard();
                known.silent.store(false, Ordering::Release);
                tracing::info!(member = name, gone, "a member is no longer silent");
                return;
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_no_member_any_more_is_forgotten() {
        let health = Health::default();
        let everybody = |_: &str| true;
        assert!(health.of("a", everybody).fell_silent());
        let _ = health.of("b", everybody);
        assert!(health.is_silent("a"));
        let _ = health.of("c", |name| name != "a");
        assert!(!health.is_silent("a"));
        assert_eq!(health.lock().len(), 2);
    }
}
