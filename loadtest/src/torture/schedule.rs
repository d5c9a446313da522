//! What is done to whom and when, from a seed alone: the same seed gives the same schedule.
//!
//! Kinds are dealt from a shuffled deck that holds each at least once, so that all come up. At any time at least two of the
//! four members are well and can be reached by everybody, and no two of those away are silent: one path is always left, except
//! while the origin itself is away, which is marked.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

use super::kind::{Kind, Strikes, Takes};

/// The members; one more host joins and leaves.
pub(super) const MEMBERS: usize = 4;

/// The member that speaks TLS and wants signatures.
pub(super) const SECURE: usize = MEMBERS - 1;

/// The host that joins and leaves.
pub(super) const GUEST: usize = MEMBERS;

/// Members that may be away at once.
const AWAY: usize = 2;

/// From the end of a fault to the next that strikes the same member: it starts, joins, and takes over what is its own.
const RECOVERY: Duration = Duration::from_secs(3);

/// The same where the fleet loses nothing by it.
const PAUSE: Duration = Duration::from_millis(500);

/// Between two faults, at least and at most.
const BETWEEN: (u64, u64) = (900, 2300);

/// One fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Planned {
    /// Since the start.
    pub(super) at: Duration,
    pub(super) kind: Kind,
    /// The host that it strikes, where it strikes one.
    pub(super) host: usize,
    /// The other end, where it strikes a pair.
    pub(super) other: usize,
    pub(super) lasting: Duration,
    /// Seeds what is chosen while it is done.
    pub(super) seed: u64,
}

/// Deals the faults of so long a run. Some seconds at its beginning and end are left alone.
pub(super) fn schedule(seed: u64, lasting: Duration) -> Vec<Planned> {
    let mut dealer = Dealer {
        chance: StdRng::seed_from_u64(seed),
        deck: Vec::new(),
        busy: Vec::new(),
    };
    let mut planned = Vec::new();
    let mut at = Duration::from_secs(4);
    while at + Duration::from_secs(8) < lasting {
        planned.extend(dealer.deal(at));
        at += Duration::from_millis(dealer.chance.random_range(BETWEEN.0..=BETWEEN.1));
    }
    planned
}

/// What a fault holds, and until when.
#[derive(Clone, Copy, Debug)]
struct Busy {
    until: Duration,
    takes: Takes,
    strikes: Strikes,
    host: usize,
    other: usize,
}

#[derive(Debug)]
struct Dealer {
    chance: StdRng,
    deck: Vec<Kind>,
    busy: Vec<Busy>,
}

impl Dealer {
    /// The next of the deck that may happen now, from the top.
    fn deal(&mut self, at: Duration) -> Option<Planned> {
        self.busy.retain(|busy| busy.until > at);
        let weights = Kind::ALL.iter().map(|kind| kind.weight()).sum::<usize>();
        if self.deck.len() < weights / 2 {
            // What had to wait stays on top.
            let all = Kind::ALL.iter();
            let mut more: Vec<_> = all
                .flat_map(|&kind| std::iter::repeat_n(kind, kind.weight()))
                .collect();
            more.shuffle(&mut self.chance);
            self.deck.extend(more);
        }
        for place in 0..self.deck.len() {
            let kind = self.deck[place];
            if let Some((host, other)) = self.place(kind) {
                self.deck.remove(place);
                return Some(self.plan(at, kind, host, other));
            }
        }
        None
    }

    fn plan(&mut self, at: Duration, kind: Kind, host: usize, other: usize) -> Planned {
        let (least, most) = kind.lasts();
        let lasting = Duration::from_millis(self.chance.random_range(least..=most));
        let after = match kind.takes() {
            Takes::Member | Takes::OnlyPath => RECOVERY,
            _ if kind == Kind::Join => RECOVERY,
            _ => PAUSE,
        };
        self.busy.push(Busy {
            until: at + lasting + after,
            takes: kind.takes(),
            strikes: kind.strikes(),
            host,
            other,
        });
        Planned {
            at,
            kind,
            host,
            other,
            lasting,
            seed: self.chance.random(),
        }
    }

    /// A host, and another, that the kind may strike now.
    fn place(&mut self, kind: Kind) -> Option<(usize, usize)> {
        let away = |busy: &&Busy| matches!(busy.takes, Takes::Member | Takes::Silently);
        let silent = |busy: &&Busy| busy.takes == Takes::Silently;
        let count =
            |what: &dyn Fn(&&Busy) -> bool| self.busy.iter().filter(|busy| what(busy)).count();
        let too_many = match kind.takes() {
            Takes::Member => count(&away) >= AWAY,
            Takes::Silently => count(&away) >= AWAY || count(&silent) > 0,
            _ => false,
        };
        if too_many {
            return None;
        }
        match kind.strikes() {
            Strikes::Member => Some((self.well(None)?, 0)),
            Strikes::Pair => {
                let one = self.well(None)?;
                Some((one, self.well(Some(one))?))
            }
            Strikes::Secure => self.is_well(SECURE).then_some((SECURE, 0)),
            Strikes::Guest => self.is_well(GUEST).then_some((GUEST, 0)),
            Strikes::Origin => {
                let free = !self.busy.iter().any(|busy| busy.strikes == Strikes::Origin);
                free.then_some((0, 0))
            }
            Strikes::Object => Some((0, 0)),
        }
    }

    fn well(&mut self, but: Option<usize>) -> Option<usize> {
        let members: Vec<_> = (0..MEMBERS)
            .filter(|&member| Some(member) != but && self.is_well(member))
            .collect();
        if members.is_empty() {
            return None;
        }
        Some(members[self.chance.random_range(0..members.len())])
    }

    fn is_well(&self, host: usize) -> bool {
        !self.busy.iter().any(|busy| {
            let hosts = matches!(
                busy.strikes,
                Strikes::Member | Strikes::Pair | Strikes::Secure | Strikes::Guest
            );
            let pair = busy.strikes == Strikes::Pair;
            hosts && (busy.host == host || pair && busy.other == host)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const LONG: Duration = Duration::from_secs(30 * 60);

    #[test]
    fn one_seed_gives_one_schedule_and_another_another() {
        assert_eq!(schedule(7, LONG), schedule(7, LONG));
        assert_ne!(schedule(7, LONG), schedule(8, LONG));
    }

    #[test]
    fn every_kind_comes_up_in_five_hundred_faults() {
        assert!(Kind::ALL.len() >= 20);
        for seed in 0..20 {
            let planned = schedule(seed, LONG);
            assert!(planned.len() >= 500, "{} faults", planned.len());
            let kinds: HashSet<_> = planned[..500].iter().map(|one| one.kind).collect();
            assert_eq!(kinds.len(), Kind::ALL.len(), "seed {seed}");
        }
    }

    #[test]
    fn names_are_not_given_twice() {
        let names: HashSet<_> = Kind::ALL.iter().map(|kind| kind.name()).collect();
        assert_eq!(names.len(), Kind::ALL.len());
    }

    #[test]
    fn two_members_are_always_well_and_at_most_one_is_silent() {
        for seed in 0..20 {
            let planned = schedule(seed, LONG);
            for one in &planned {
                let now = planned
                    .iter()
                    .filter(|other| other.at <= one.at && one.at < other.at + other.lasting);
                let takes =
                    |what: Takes| now.clone().filter(move |other| other.kind.takes() == what);
                let away: HashSet<_> = takes(Takes::Member)
                    .chain(takes(Takes::Silently))
                    .map(|other| other.host)
                    .collect();
                assert!(away.len() <= AWAY, "seed {seed} at {:?}", one.at);
                assert!(takes(Takes::Silently).count() <= 1);
                assert!(takes(Takes::OnlyPath).count() <= 1);
            }
        }
    }
}
