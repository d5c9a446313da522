//! Who may hold what somebody has just come to own: the owners of a moment ago.
//!
//! A table says who owns an extent, not who has it. After a change of the fleet its new owner has nothing of it, and
//! whoever owned it before has all. Who that was is computed from how long each member has had its place, which all of
//! the fleet knows, and not remembered: a member that came a moment ago was not there to remember anything.

use std::sync::Arc;
use std::time::Duration;

use crate::member::Member;
use crate::table::Table;

/// How long after its coming a member is a newcomer: what it owns may still lie with those who were there before. By
/// then it has fetched what is worth it.
pub const NEWCOMER: Duration = Duration::from_secs(600);

/// Members that came within so long of each other came together: there was no fleet with one and without the other.
const TOGETHER: Duration = Duration::from_millis(500);

/// How a member stands, for those who look back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The member.
    pub member: Member,
    /// How long it has had its place.
    pub placed_for: Duration,
    /// It hands its blocks over: it had a place until now, and has what was there.
    pub draining: bool,
}

/// The fleets of a moment ago, the latest first, as `own` has to look back for what it owns now; none if nobody came or
/// goes.
///
/// That is the fleet before those who came last; for a newcomer the one before itself; and the one without any newcomer,
/// for who came in between may not have got round to it yet. Members that drain belong to all of them.
pub fn before(own: &str, standing: &[Standing]) -> Vec<Vec<Member>> {
    let owners = || standing.iter().filter(|one| one.member.weight() > 0);
    let placed = || owners().filter(|one| !one.draining);
    let older = |than: &dyn Fn(Duration) -> bool| {
        let older = owners().filter(|one| one.draining || than(one.placed_for));
        let mut members: Vec<Member> = older.map(|one| one.member.clone()).collect();
        members.sort_unstable();
        members
    };
    let mut fleets = Vec::new();
    let youngest = placed().map(|one| one.placed_for).min();
    if let Some(youngest) = youngest.filter(|youngest| *youngest < NEWCOMER) {
        let own = placed().find(|one| one.member.name() == own);
        let own = own.map(|own| own.placed_for);
        let last = youngest + TOGETHER;
        if own.is_none_or(|own| own > last) {
            fleets.push(older(&|placed_for| placed_for > last));
        }
        if let Some(own) = own.filter(|own| *own < NEWCOMER) {
            fleets.push(older(&|placed_for| placed_for > own));
        }
        fleets.push(older(&|placed_for| placed_for >= NEWCOMER));
    } else if owners().any(|one| one.draining) {
        fleets.push(older(&|_| true));
    }
    let mut told: Vec<Vec<Member>> = Vec::new();
    for fleet in fleets {
        if !fleet.is_empty() && !told.contains(&fleet) {
            told.push(fleet);
        }
    }
    told
}

/// The tables of the fleets of a moment ago: see [`before`].
#[derive(Clone, Debug, Default)]
pub struct Donors {
    tables: Vec<Arc<Table>>,
    arrival: Option<u64>,
}

impl Donors {
    /// Those of these tables, the likeliest first. `arrival` numbers the coming of this gateway while it is a newcomer.
    pub fn new(tables: Vec<Arc<Table>>, arrival: Option<u64>) -> Self {
        Self { tables, arrival }
    }

    /// Which coming of this gateway its look back is about: another number each time that it got its place. `None`: it
    /// has had it for long.
    pub fn arrival(&self) -> Option<u64> {
        self.arrival
    }

    /// The tables.
    pub fn tables(&self) -> &[Arc<Table>] {
        &self.tables
    }

    /// Whether nobody can have anything that is another's now.
    pub fn is_empty(&self) -> bool {
        self.tables.is_empty()
    }

    /// Who may hold `extent`, one of the `extents` of an object, beside `own`: each once, the likeliest first.
    ///
    /// # Panics
    /// If `extent` is not below `extents`.
    pub fn of<'a>(
        &'a self,
        own: &str,
        (dataset, key): (&str, &str),
        (extent, extents): (u64, u64),
    ) -> Vec<&'a str> {
        let mut names: Vec<&str> = Vec::new();
        for table in &self.tables {
            let owner = table.owner(dataset, key, extent, extents).map(Member::name);
            names.extend(owner.filter(|owner| *owner != own && !names.contains(owner)));
        }
        names
    }

    /// Everybody who may hold something, beside `own`, each once.
    pub fn names(&self, own: &str) -> Vec<&str> {
        let members = self.tables.iter().flat_map(|table| table.members());
        let mut names: Vec<&str> = members.map(Member::name).collect();
        names.sort_unstable();
        names.dedup();
        names.retain(|name| *name != own);
        names
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::num::NonZeroU16;

    use super::*;

    fn standing(name: &str, seconds: u64, draining: bool) -> Standing {
        Standing {
            member: Member::new(name, "", NonZeroU16::MIN).unwrap(),
            placed_for: Duration::from_secs(seconds),
            draining,
        }
    }

    /// The fleets of a moment ago by names: the members by the seconds since they came, negative for one that drains.
    fn names(own: &str, members: &[(&str, i64)]) -> Vec<String> {
        let all: Vec<Standing> = members
            .iter()
            .map(|(name, since)| standing(name, since.unsigned_abs(), *since < 0))
            .collect();
        let fleets = before(own, &all).into_iter();
        fleets
            .map(|fleet| fleet.iter().map(Member::name).collect::<String>())
            .collect()
    }

    #[test]
    fn where_nobody_came_or_goes_there_is_no_fleet_before() {
        assert!(names("a", &[("a", 600), ("b", 9000)]).is_empty());
        assert!(names("a", &[]).is_empty());
        // All came together: there is nobody older.
        assert!(names("c", &[("a", 3), ("b", 3), ("c", 3)]).is_empty());
        assert!(names("z", &[("a", 3), ("b", 3), ("c", 3)]).is_empty());
    }

    #[test]
    fn a_newcomer_looks_back_to_those_before_it_and_others_to_those_before_the_newcomers() {
        let fleet = [("a", 900), ("b", 800), ("c", 30)];
        assert_eq!(names("c", &fleet), ["ab"]);
        assert_eq!(names("a", &fleet), ["ab"]);
        // d came while c had not got round to everything.
        let fleet = [("a", 900), ("b", 800), ("c", 30), ("d", 5)];
        assert_eq!(names("d", &fleet), ["abc", "ab"]);
        assert_eq!(names("c", &fleet), ["abc", "ab"]);
        assert_eq!(names("b", &fleet), ["abc", "ab"]);
    }

    #[test]
    fn members_that_are_started_again_one_by_one_find_who_took_over() {
        // All of them by now, the last one just came back: the others have what was its own.
        let fleet = [("a", 40), ("b", 20), ("c", 0)];
        assert_eq!(names("c", &fleet), ["ab"]);
        assert_eq!(names("b", &fleet), ["ab", "a"]);
        assert_eq!(names("a", &fleet), ["ab"]);
    }

    #[test]
    fn who_drains_belongs_to_what_was() {
        assert_eq!(names("a", &[("a", 900), ("b", -900)]), ["ab"]);
        // A newcomer that lost its place again has what it got.
        assert_eq!(names("a", &[("a", 900), ("b", -5)]), ["ab"]);
        let fleet = [("a", 900), ("b", 30), ("c", -900)];
        assert_eq!(names("b", &fleet), ["ac"]);
        assert_eq!(names("a", &fleet), ["ac"]);
        assert_eq!(names("c", &fleet), ["ac"]);
    }

    #[test]
    fn edges_have_nothing_to_hand_on() {
        let mut all = vec![standing("a", 900, false)];
        all.push(Standing {
            member: Member::edge("e", "").unwrap(),
            placed_for: Duration::ZERO,
            draining: false,
        });
        assert!(before("a", &all).is_empty());
        assert!(before("e", &all).is_empty());
    }
}
