//! From what gossip says to what readers go by: who is asked, who keeps its blocks, who is only shown.
//!
//! Whoever falls silent is not asked from that moment, keeps its place for 30 s, and is shown for 10 minutes
//! more. Whoever hands its blocks over has no place at once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use foca::State as Heard;

use super::identity::{Id, Rank};
use crate::donors::{self, NEWCOMER, Standing};
use crate::fleet::{Peer, State};
use crate::member::Member;

/// How long a silent member keeps its blocks: longer than a restart takes, and short enough that a lost
/// machine's blocks are not read from the origin by candidates for long.
pub const KEEPS_PLACE: Duration = Duration::from_secs(30);

/// How long a member that is down is shown to people, after it has lost its place.
pub const SHOWN_DOWN: Duration = Duration::from_secs(600);

/// Two who tell for how long a member has had its place differ by what their words took, which says nothing; in
/// milliseconds.
const ALIKE: i64 = 1000;

/// Who there is, to be told by name, and who of them has a place.
#[derive(Clone, Debug)]
pub struct View {
    /// Everybody, oneself too, by name.
    pub peers: Arc<BTreeMap<String, Peer>>,
    /// Those who belong in the table, by name.
    pub placed: Vec<Member>,
    /// Those who did a moment ago: see [`donors::before`].
    pub before: Vec<Vec<Member>>,
    /// The number of oneself's coming: see [`Donors::arrival`](crate::Donors::arrival).
    pub arrival: Option<u64>,
}

/// What came of hearing of a member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Observed {
    /// The view is another.
    pub(super) changed: bool,
    /// It is a start not seen before.
    pub(super) new_start: bool,
    /// It had lost its place and is back with the start that it had: it never went, but this gateway was parted from it.
    pub(super) parted: bool,
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) id: Id,
    heard: Heard,
    /// When it went down, in milliseconds of the core's clock; before its start if others had known it longer.
    down_at: i64,
    /// When it got its place, in the same milliseconds.
    placed_at: i64,
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
    /// Takes in what is heard of a member that has been down for `age`, or if it is not, has had its place for so long,
    /// as far as that is told.
    pub(super) fn observe(
        &mut self,
        now: Duration,
        id: &Id,
        heard: Heard,
        age: Duration,
    ) -> Observed {
        let told_at = ms(now) - ms(age);
        let Some(entry) = self.all.get_mut(&id.key) else {
            if heard == Heard::Down && age >= KEEPS_PLACE + SHOWN_DOWN {
                return Observed::default();
            }
            self.all.insert(
                id.key,
                Entry {
                    id: id.clone(),
                    heard,
                    down_at: told_at,
                    placed_at: told_at,
                },
            );
            return Observed {
                changed: true,
                new_start: true,
                parted: false,
            };
        };
        let down = heard == Heard::Down;
        if entry.id == *id && entry.heard == heard {
            let older = !down && entry.placed_at - told_at > ALIKE;
            if older {
                entry.placed_at = told_at;
            }
            return Observed {
                changed: older,
                ..Observed::default()
            };
        }
        let new_start = !entry.id.same_start(id);
        let had_place = entry.has_place(now);
        // A revision that is known to be down follows one that was: it has been gone since then.
        if !(entry.heard == Heard::Down && down) {
            entry.down_at = told_at;
        }
        entry.id = id.clone();
        entry.heard = heard;
        let has_place = entry.has_place(now);
        if !had_place && has_place && new_start {
            entry.placed_at = told_at;
        } else if has_place && !down {
            entry.placed_at = entry.placed_at.min(told_at);
        }
        Observed {
            changed: true,
            new_start,
            parted: !had_place && has_place && !new_start,
        }
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
        let known = self.all.values().map(|entry| entry.placed_for(now));
        let known = known.filter(|placed_for| *placed_for < NEWCOMER);
        let known = known.map(|placed_for| now + (NEWCOMER - placed_for));
        self.all
            .values()
            .filter(|entry| entry.heard == Heard::Down)
            .flat_map(|entry| {
                [KEEPS_PLACE, KEEPS_PLACE + SHOWN_DOWN]
                    .into_iter()
                    .find(|limit| entry.gone_for(now) < *limit)
                    .map(|limit| entry.gone_at(limit))
            })
            .chain(known)
            .min()
    }

    /// For how long the member has been down; none for one that is not, or was never heard of.
    pub(super) fn age(&self, now: Duration, key: u64, rank: Rank) -> Option<Duration> {
        let entry = self.all.get(&key)?;
        (entry.heard == Heard::Down && entry.id.rank == rank).then(|| entry.gone_for(now))
    }

    /// For how long the member has had its place; zero for one that was never heard of.
    pub(super) fn placed_for(&self, now: Duration, key: u64) -> Duration {
        let entry = self.all.get(&key);
        entry.map_or(Duration::ZERO, |entry| entry.placed_for(now))
    }

    /// All of it, with oneself, who has had its place for so long.
    pub(super) fn view(&self, now: Duration, own: &Id, placed_for: Duration) -> View {
        let mut peers = BTreeMap::new();
        let mut placed = Vec::new();
        let mut standing = Vec::new();
        let others = self.all.values().filter(|entry| !entry.is_past(now));
        let others = others.map(|entry| (&entry.id, entry.state(now), entry.placed_for(now)));
        let oneself = (own, state(Heard::Alive, own, Duration::ZERO), placed_for);
        for (id, state, placed_for) in others.chain([oneself]) {
            let Some(details) = &id.details else { continue };
            let has_place = state != State::Down && !details.draining;
            if has_place {
                placed.push(details.member.clone());
            }
            if has_place || state == State::Draining {
                standing.push(Standing {
                    member: details.member.clone(),
                    placed_for,
                    draining: details.draining,
                });
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
        let own = own.details.as_ref();
        let own = own.map_or("", |details| details.member.name());
        View {
            peers: Arc::new(peers),
            placed,
            before: donors::before(own, &standing),
            arrival: (placed_for < NEWCOMER).then(|| {
                let came = now.saturating_sub(placed_for);
                u64::try_from(came.as_millis()).unwrap_or(u64::MAX)
            }),
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

    fn placed_for(&self, now: Duration) -> Duration {
        Duration::from_millis(u64::try_from(ms(now) - self.placed_at).unwrap_or(0))
    }

    /// Whether it has a place in the table.
    fn has_place(&self, now: Duration) -> bool {
        let draining = self.id.details.as_ref();
        let draining = draining.is_some_and(|details| details.draining);
        self.state(now) != State::Down && !draining
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
