//! Who holds what somebody has just come to own: for any names it is who owned it before, and for some it is pinned.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use forebay_ring::donors::{self, Standing};
use forebay_ring::{Donors, Member, Table};
use proptest::prelude::{prop_assert, prop_assert_eq, proptest};

const LONG: Duration = Duration::from_secs(9000);

fn standing(name: &str, placed_for: Duration, draining: bool) -> Standing {
    Standing {
        member: Member::new(name, "", NonZeroU16::MIN).unwrap(),
        placed_for,
        draining,
    }
}

fn donors(own: &str, standing: &[Standing]) -> Donors {
    let tables = donors::before(own, standing).into_iter();
    Donors::new(
        tables.map(|fleet| Arc::new(Table::build(fleet))).collect(),
        None,
    )
}

fn table<'a>(standing: impl IntoIterator<Item = &'a Standing>) -> Table {
    let placed = standing.into_iter().filter(|one| !one.draining);
    Table::build(placed.map(|one| one.member.clone()))
}

fn old(count: usize) -> Vec<Standing> {
    (0..count)
        .map(|n| standing(&format!("gw-{n}"), LONG, false))
        .collect()
}

proptest! {
    #[test]
    fn what_a_newcomer_owns_is_asked_of_whoever_owned_it(
        count in 1_usize..12, key in ".{0,40}", extents in 1_u64..600, seconds in 0_u64..600,
    ) {
        let before = old(count);
        let mut after = before.clone();
        after.push(standing("newcomer", Duration::from_secs(seconds), false));
        let (was, is) = (table(&before), table(&after));
        let mut known: BTreeMap<String, Donors> = BTreeMap::new();
        for extent in 0..extents {
            let is = is.owner("d", &key, extent, extents).unwrap().name();
            let was = was.owner("d", &key, extent, extents).unwrap().name();
            let known = known.entry(is.to_owned()).or_insert_with(|| donors(is, &after));
            let asked = known.of(is, ("d", &key), (extent, extents));
            prop_assert_eq!(asked, Vec::from_iter((is != was).then_some(was)));
        }
    }

    #[test]
    fn what_a_member_that_drains_owned_is_asked_of_it(
        count in 2_usize..12, key in ".{0,40}", extents in 1_u64..600,
    ) {
        let before = old(count);
        let mut after = before.clone();
        after[0].draining = true;
        let (was, is) = (table(&before), table(&after));
        let mut known: BTreeMap<String, Donors> = BTreeMap::new();
        for extent in 0..extents {
            let is = is.owner("d", &key, extent, extents).unwrap().name();
            let was = was.owner("d", &key, extent, extents).unwrap().name();
            let known = known.entry(is.to_owned()).or_insert_with(|| donors(is, &after));
            let asked = known.of(is, ("d", &key), (extent, extents));
            prop_assert_eq!(asked, Vec::from_iter((is != was).then_some(was)));
        }
    }

    /// However members come and go, nobody asks itself, and nobody is asked twice.
    #[test]
    fn nobody_asks_itself_or_anybody_twice(
        ages in proptest::collection::vec((0_u64..1000, proptest::bool::weighted(0.2)), 1..8),
    ) {
        let all: Vec<Standing> = ages
            .iter()
            .enumerate()
            .map(|(n, (age, draining))| standing(&format!("gw-{n}"), Duration::from_secs(*age), *draining))
            .collect();
        for own in &all {
            let donors = donors(own.member.name(), &all);
            for extent in 0..20 {
                let mut asked = donors.of(own.member.name(), ("d", "k"), (extent, 20));
                prop_assert!(!asked.contains(&own.member.name()));
                let count = asked.len();
                asked.sort_unstable();
                asked.dedup();
                prop_assert_eq!(asked.len(), count);
            }
        }
    }
}

/// Two builds that differ here would ask the wrong member after a join, for as long as a rolling upgrade takes.
#[test]
fn donors_are_who_every_other_build_says() {
    let mut fleet = old(4);
    fleet.push(standing("gw-4", Duration::from_secs(30), false));
    fleet[2].draining = true;
    let now = table(&fleet);
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    for extent in 0..64 {
        let owner = now.owner("models", "a.safetensors", extent, 64).unwrap();
        let donors = donors(owner.name(), &fleet);
        let asked = donors.of(owner.name(), ("models", "a.safetensors"), (extent, 64));
        *counts
            .entry(format!("{} asks {}", owner.name(), asked.join(" ")))
            .or_default() += 1;
    }
    let counts: Vec<String> = counts
        .into_iter()
        .map(|(who, count)| format!("{who}: {count}"))
        .collect();
    let pinned = [
        "gw-0 asks : 11",
        "gw-0 asks gw-2: 5",
        "gw-1 asks : 11",
        "gw-1 asks gw-0: 3",
        "gw-1 asks gw-2: 2",
        "gw-3 asks : 11",
        "gw-3 asks gw-0: 2",
        "gw-3 asks gw-1: 2",
        "gw-3 asks gw-2: 1",
        "gw-4 asks gw-1: 3",
        "gw-4 asks gw-2: 8",
        "gw-4 asks gw-3: 5",
    ];
    assert_eq!(counts, pinned);
}
