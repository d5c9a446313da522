//! From what gossip says to what readers go by: who is asked, who keeps its blocks, who is only shown.
//!
//! Whoever falls silent is not asked from that moment, keeps its place for 30 s, and is shown for 10 minutes
//! more. Whoever hands its blocks over has no place at once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use foca::State as Heard;

use super::identity::{Id, Rank};
use crate::fleet::{Peer, State};
use crate::member::Member;

/// How long a silent member keeps its blocks: longer than a restart takes, and short enough that a lost
/// machine's blocks are not read from the origin by candidates for long.
pub const KEEPS_PLACE: Duration = Duration::from_secs(30);

/// How long a member that is down is shown to people, after it has lost its place.
pub const SHOWN_DOWN: Duration = Duration::from_secs(600);

/// Who there is, to be told by name, and who of them has a place.
#[derive(Clone, Debug)]
pub struct View {
    /// Everybody, oneself too, by name.
    pub peers: Arc<BTreeMap<String, Peer>>,
    /// Those who belong in the table, by name.
    pub placed: Vec<Member>,
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) id: Id,
    heard: Heard,
    /// When it went down, in milliseconds of the core's clock; before its start if others had known it longer.
    down_at: i64,
}

/// Everybody heard of but oneself.
#[derive(Debug, Default)]
pub(super) struct Entries {
    // By key: an order that reaches behaviour has to be the same in each run.
    all: BTreeMap<u64, Entry>,
}

fn ms(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

impl Entries {
    /// Takes in what is heard of a member that has been down for `age`. Says whether that changed anything,
    /// and whether it is a start not seen before.
    pub(super) fn observe(
        &mut self,
        now: Duration,
        id: &Id,
        heard: Heard,
        age: Duration,
    ) -> (bool, bool) {
        let down_at = ms(now) - ms(age);
        let Some(entry) = self.all.get_mut(&id.key) else {
            if heard == Heard::Down && age >= KEEPS_PLACE + SHOWN_DOWN {
                return (false, false);
            }
            self.all.insert(
                id.key,
                Entry {
                    id: id.clone(),
                    heard,
                    down_at,
                },
            );
            return (true, true);
        };
        if entry.id == *id && entry.heard == heard {
            return (false, false);
        }
        let new_start = !entry.id.same_start(id);
        // A revision that is known to be down follows one that was: it has been gone since then.
        if !(entry.heard == Heard::Down && heard == Heard::Down) {
            entry.down_at = down_at;
        }
        entry.id = id.clone();
        entry.heard = heard;
        (true, new_start)
    }

    /// Forgets whoever is shown no more, once the library has forgotten it too: until then it would only be
    /// heard of again, as if it had just gone.
    pub(super) fn forget(&mut self, now: Duration, heard_of: &BTreeSet<u64>) {
        self.all
            .retain(|key, entry| !entry.is_past(now) || heard_of.contains(key));
    }

    /// Whether somebody is shown no more.
    pub(super) fn any_past(&self, now: Duration) -> bool {
        self.all.values().any(|entry| entry.is_past(now))
    }

    /// When time alone changes the view next.
    pub(super) fn due(&self, now: Duration) -> Option<Duration> {
        self.all
            .values()
            .filter(|entry| entry.heard == Heard::Down)
            .flat_map(|entry| {
                [KEEPS_PLACE, KEEPS_PLACE + SHOWN_DOWN]
                    .into_iter()
                    .find(|limit| entry.gone_for(now) < *limit)
                    .map(|limit| entry.gone_at(limit))
            })
            .min()
    }

    /// For how long the member has been down; none for one that is not, or was never heard of.
    pub(super) fn age(&self, now: Duration, key: u64, rank: Rank) -> Option<Duration> {
        let entry = self.all.get(&key)?;
        (entry.heard == Heard::Down && entry.id.rank == rank).then(|| entry.gone_for(now))
    }

    /// All of it, with oneself.
    pub(super) fn view(&self, now: Duration, own: &Id) -> View {
        let mut peers = BTreeMap::new();
        let mut placed = Vec::new();
        let others = self
            .all
            .values()
            .filter(|entry| !entry.is_past(now))
            .map(|entry| (&entry.id, entry.state(now)));
        for (id, state) in others.chain([(own, state(Heard::Alive, own, Duration::ZERO))]) {
            let Some(details) = &id.details else { continue };
            if state != State::Down && !details.draining {
                placed.push(details.member.clone());
            }
            peers.insert(
                details.member.name().to_owned(),
                Peer {
                    member: details.member.clone(),
                    address: id.address,
                    client_url: details.client_url.clone(),
                    incarnation: id.rank.incarnation,
                    state,
                    version: details.version.clone(),
                    protocol: details.protocols.1,
                    settings: details.settings,
                },
            );
        }
        placed.sort_unstable();
        View {
            peers: Arc::new(peers),
            placed,
        }
    }
}

impl Entry {
    fn gone_for(&self, now: Duration) -> Duration {
        Duration::from_millis(u64::try_from(ms(now) - self.down_at).unwrap_or(0))
    }

    /// The moment from which it has been gone for `limit`: to the millisecond that [`gone_for`](Self::gone_for)
    /// counts by, or a look in between would miss it.
    fn gone_at(&self, limit: Duration) -> Duration {
        Duration::from_millis(u64::try_from(self.down_at + ms(limit)).unwrap_or(0))
    }

    /// Whether it has been shown as down for long enough.
    fn is_past(&self, now: Duration) -> bool {
        self.heard == Heard::Down && self.gone_for(now) >= KEEPS_PLACE + SHOWN_DOWN
    }

    fn state(&self, now: Duration) -> State {
        state(self.heard, &self.id, self.gone_for(now))
    }
}

fn state(heard: Heard, id: &Id, gone_for: Duration) -> State {
    let draining = id.details.as_ref().is_some_and(|details| details.draining);
    match heard {
        Heard::Alive if draining => State::Draining,
        Heard::Alive => State::Alive,
        Heard::Suspect => State::Silent,
        // Its blocks are others' already: nothing waits for it.
        Heard::Down if draining => State::Down,
        Heard::Down if gone_for < KEEPS_PLACE => State::Silent,
        Heard::Down => State::Down,
    }
}
