//! Where to ask for an extent: a pure function of the table, of who asks, and of who answers.
//!
//! A question only goes upwards: from a client (level 0) to the owner in the asker's zone (1), from there
//! to the owner (2), from there to the origin. Where the owner does not answer, those after it stand in.
//! The first three candidates that answer may read the origin; anybody else asks them, and reads it as the
//! last resort. Whoever is about to read it asks those first who owned the extent a moment ago, if the fleet
//! has just changed: they answer from what they have, and set nothing in motion.

use forebay_ring::{Member, Table};
use forebay_storage::store::{Level, ORIGIN};

/// The level of the owner in the asker's zone.
pub const ZONE_OWNER: Level = 1;

/// The level of the owner, and of those who stand in for it.
pub const OWNER: Level = 2;

/// The level of whoever may hold what is another's by now. It lies above all who ask the origin, so that nobody waits for
/// somebody who waits for it.
pub const DONOR: Level = 3;

/// No step of the way: what members bring for each other before anybody reads it. It lasts, and must not take the turns
/// of what readers wait for.
pub const WARMING: Level = 4;

/// Candidates that may read the origin.
const CANDIDATES: usize = 3;

/// One that can be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hop {
    /// Another gateway, at this level.
    Peer {
        /// Its name.
        name: String,
        /// The level it is asked at.
        level: Level,
    },
    /// The origin.
    Origin {
        /// By one that should not have to.
        last_resort: bool,
    },
}

impl Hop {
    /// The level of whoever is asked.
    pub fn level(&self) -> Level {
        match self {
            Self::Peer { level, .. } => *level,
            Self::Origin { .. } => ORIGIN,
        }
    }
}

/// Which extent.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// The dataset's name.
    pub dataset: &'a str,
    /// The object's key.
    pub key: &'a str,
    /// The extent, of so many.
    pub extent: (u64, u64),
}

/// The way to an extent's blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Whom to ask, in order; levels never fall. Never empty.
    pub hops: Vec<Hop>,
    /// Whether this gateway owns the extent, in the fleet or in its zone.
    pub owned: bool,
}

impl Route {
    /// In a fleet of one.
    pub fn alone() -> Self {
        Self {
            hops: vec![Hop::Origin { last_resort: false }],
            owned: true,
        }
    }
}

/// The way from `own`, which was asked at `level`, to the extent at `place`; `answers` says of the others
/// who can be asked, and `donors` are those who may hold it from before.
pub fn route(
    table: &Table,
    own: &str,
    level: Level,
    answers: &dyn Fn(&str) -> bool,
    donors: &[&str],
    place: &Place<'_>,
) -> Route {
    let Place {
        dataset,
        key,
        extent: (extent, extents),
    } = *place;
    let is_own = |member: &Member| member.name() == own;
    let owner = table.owner(dataset, key, extent, extents);
    let zone = table.member(own).map(Member::zone);
    let zone_owner = zone.and_then(|zone| table.zone_owner(zone, dataset, key, extent, extents));
    let owned = owner.is_some_and(is_own) || zone_owner.is_some_and(is_own);

    let mut candidates = candidates(table, own, answers, place);
    let donors = donors.iter().map(|name| Hop::Peer {
        name: (*name).to_owned(),
        level: DONOR,
    });
    let mut hops = Vec::new();
    if level >= OWNER {
        let last_resort = !candidates.any(is_own);
        hops.extend(donors.filter(|_| level < DONOR));
        hops.push(Hop::Origin { last_resort });
        return Route { hops, owned };
    }
    let nearer = zone_owner.filter(|member| zone_owner != owner && !is_own(member));
    if let Some(nearer) = nearer
        && level < ZONE_OWNER
        && !owner.is_some_and(is_own)
        && answers(nearer.name())
    {
        hops.push(Hop::Peer {
            name: nearer.name().to_owned(),
            level: ZONE_OWNER,
        });
    }
    let mut last_resort = true;
    for candidate in candidates {
        if is_own(candidate) {
            last_resort = false;
            break;
        }
        hops.push(Hop::Peer {
            name: candidate.name().to_owned(),
            level: OWNER,
        });
    }
    hops.extend(donors);
    hops.push(Hop::Origin { last_resort });
    Route { hops, owned }
}

/// Who else may read an extent's blocks from the origin, in order, by a gateway that may: where its own way there leads
/// nowhere.
pub fn stand_ins(
    table: &Table,
    own: &str,
    answers: &dyn Fn(&str) -> bool,
    place: &Place<'_>,
) -> Vec<String> {
    let names = candidates(table, own, answers, place).map(|member| member.name().to_owned());
    let names: Vec<_> = names.collect();
    // Whoever is none of them has asked them all.
    match names.iter().any(|name| name == own) {
        true => names.into_iter().filter(|name| name != own).collect(),
        false => Vec::new(),
    }
}

/// Those that may read the extent at `place` from the origin, in order.
fn candidates<'a>(
    table: &'a Table,
    own: &'a str,
    answers: &'a dyn Fn(&str) -> bool,
    place: &Place<'_>,
) -> impl Iterator<Item = &'a Member> + use<'a> {
    let (extent, extents) = place.extent;
    table
        .candidates(place.dataset, place.key, extent, extents)
        .filter(move |member| member.name() == own || answers(member.name()))
        .take(CANDIDATES)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::num::NonZeroU16;

    use super::*;

    const PLACE: Place<'_> = Place {
        dataset: "models",
        key: "a",
        extent: (0, 1),
    };

    /// Four members in two zones, and an edge.
    fn table() -> Table {
        let member = |name: &str, zone: &str| Member::new(name, zone, NonZeroU16::MIN).unwrap();
        Table::build([
            member("a", "x"),
            member("b", "x"),
            member("c", "y"),
            member("d", "y"),
            Member::edge("e", "y").unwrap(),
        ])
    }

    /// The members in the order of candidacy for [`PLACE`].
    fn order(table: &Table) -> Vec<String> {
        let candidates = table.candidates(PLACE.dataset, PLACE.key, 0, 1);
        candidates.map(|member| member.name().to_owned()).collect()
    }

    fn peer(name: &str, level: Level) -> Hop {
        let name = name.to_owned();
        Hop::Peer { name, level }
    }

    fn origin(last_resort: bool) -> Hop {
        Hop::Origin { last_resort }
    }

    fn hops(own: &str, level: Level, silent: &[&str]) -> Vec<Hop> {
        let table = table();
        let answers = |name: &str| !silent.contains(&name);
        route(&table, own, level, &answers, &[], &PLACE).hops
    }

    #[test]
    fn the_way_of_everybody_at_every_level() {
        let table = table();
        let order = order(&table);
        let [first, second, third, fourth] = [0, 1, 2, 3].map(|place| order[place].as_str());
        let zone = |name: &str| table.member(name).unwrap().zone().to_owned();
        let zone_owner = |name: &str| {
            let zone = zone(name);
            let owner = table.zone_owner(&zone, PLACE.dataset, PLACE.key, 0, 1);
            owner.unwrap().name().to_owned()
        };
        // The owner reads the origin, whoever asks.
        for level in 0..=OWNER {
            assert_eq!(hops(first, level, &[]), [origin(false)], "level {level}");
        }
        // Whoever is asked as the owner asks nobody; the fourth candidate should not have to.
        for (name, last_resort) in [(second, false), (third, false), (fourth, true), ("e", true)] {
            assert_eq!(hops(name, OWNER, &[]), [origin(last_resort)], "{name}");
        }
        // The owner in a zone goes to the owner.
        for name in [second, third, fourth] {
            let mut way = Vec::new();
            if zone_owner(name) != name && zone_owner(name) != first {
                way.push(peer(&zone_owner(name), ZONE_OWNER));
            }
            way.push(peer(first, OWNER));
            if name != second {
                way.push(peer(second, OWNER));
            }
            if name == fourth {
                way.push(peer(third, OWNER));
            }
            way.push(origin(name == fourth));
            assert_eq!(hops(name, 0, &[]), way, "{name}");
            // Asked by its zone, it asks no zone.
            way.retain(|hop| hop.level() != ZONE_OWNER);
            assert_eq!(hops(name, ZONE_OWNER, &[]), way, "{name}");
        }
    }

    #[test]
    fn who_does_not_answer_is_passed_over_and_the_next_may_read_the_origin() {
        let table = table();
        let order = order(&table);
        let names: Vec<&str> = order.iter().map(String::as_str).collect();
        let [first, second, third, fourth] = names[..] else {
            panic!("{order:?}");
        };
        assert_eq!(
            hops(fourth, ZONE_OWNER, &[first]),
            [peer(second, OWNER), peer(third, OWNER), origin(false)]
        );
        assert_eq!(hops(second, ZONE_OWNER, &[first]), [origin(false)]);
        assert_eq!(hops(fourth, OWNER, &[first]), [origin(false)]);
        // Alone among the silent, an edge too reads it, as the last resort.
        assert_eq!(hops("e", 0, &names), [origin(true)]);
    }

    #[test]
    fn only_a_candidate_has_stand_ins_and_they_are_the_other_candidates() {
        let table = table();
        let order = order(&table);
        let names: Vec<&str> = order.iter().map(String::as_str).collect();
        let [first, second, third, fourth] = names[..] else {
            panic!("{order:?}");
        };
        let stand_ins = |own: &str, silent: &[&str]| {
            super::stand_ins(&table, own, &|name| !silent.contains(&name), &PLACE)
        };
        assert_eq!(stand_ins(first, &[]), [second, third]);
        assert_eq!(stand_ins(third, &[]), [first, second]);
        assert_eq!(stand_ins(first, &[second]), [third, fourth]);
        assert!(stand_ins(fourth, &[]).is_empty(), "it has asked them");
        assert!(stand_ins("e", &[]).is_empty());
    }

    #[test]
    fn donors_are_asked_last_by_whoever_would_read_the_origin_and_never_by_each_other() {
        let table = table();
        let order = order(&table);
        let [first, fourth] = [0, 3].map(|place| order[place].as_str());
        let asked =
            |own: &str, level| route(&table, own, level, &|_| true, &["x", "y"], &PLACE).hops;
        let donors = [peer("x", DONOR), peer("y", DONOR)];
        for level in 0..=OWNER {
            let way = [&donors[..], &[origin(false)]].concat();
            assert_eq!(asked(first, level), way, "level {level}");
        }
        let mut way = hops(fourth, 0, &[]);
        way.splice(way.len() - 1..way.len() - 1, donors);
        assert_eq!(asked(fourth, 0), way);
        assert!(way.iter().map(Hop::level).is_sorted());
        // Whoever is asked as a donor asks nobody.
        assert_eq!(asked(first, DONOR), [origin(false)]);
    }

    #[test]
    fn levels_never_fall_on_the_way() {
        for own in ["a", "b", "c", "d", "e"] {
            for level in 0..=OWNER {
                for silent in [&[][..], &["a"], &["b", "c"], &["a", "b", "c", "d"]] {
                    let levels: Vec<Level> =
                        hops(own, level, silent).iter().map(Hop::level).collect();
                    assert!(levels.is_sorted(), "{own} {level} {silent:?}: {levels:?}");
                    assert!(levels.iter().all(|above| *above > level));
                }
            }
        }
    }

    #[test]
    fn the_owner_and_the_owner_in_a_zone_own() {
        let table = table();
        let owned = |own: &str| route(&table, own, 0, &|_| true, &[], &PLACE).owned;
        let mut owners = vec![order(&table)[0].clone()];
        for zone in ["x", "y"] {
            let owner = table.zone_owner(zone, PLACE.dataset, PLACE.key, 0, 1);
            owners.push(owner.unwrap().name().to_owned());
        }
        for own in ["a", "b", "c", "d", "e"] {
            assert_eq!(owned(own), owners.iter().any(|name| name == own), "{own}");
        }
    }
}
