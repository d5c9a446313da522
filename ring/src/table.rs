//! The table: who is in the fleet at one moment, and who therefore owns what.
//!
//! A table never changes; a change of membership builds another, off the read path, and the two differ in
//! their epoch. Every gateway that knows the same members builds the same table, in whatever order it
//! learnt of them, so nobody has to be asked who owns an extent.

use std::collections::BTreeMap;
use std::sync::Arc;

use xxhash_rust::xxh3::Xxh3;

use crate::{
    groups::{CircleId, Groups},
    member::Member,
    points::{Circle, ObjectHash, Points, Walk},
};

/// The members of the fleet and their places, fixed. Share it, don't copy it.
pub struct Table {
    // Invariant: sorted by name, no name twice.
    members: Vec<Member>,
    epoch: String,
    fleet: Arc<Ring>,
    // Sorted by name; a zone's number is its place here. One that has all owners is the fleet.
    zones: Vec<(String, Arc<Ring>)>,
    groups: Groups,
}

/// A circle and which members of the table stand on it.
struct Ring {
    circle: Circle,
    // From the member's number on the circle to its number in the table.
    members: Vec<usize>,
}

impl Table {
    /// Builds the table of `members`, whose order does not matter. Without an owner among them, nobody
    /// owns anything.
    ///
    /// A name that comes twice counts once: the entry that sorts first by zone and then by weight, on
    /// every gateway alike.
    ///
    /// Takes a tenth of a second for 1000 members of weight 1 in one zone, half as long again in several: build it where
    /// nothing waits.
    pub fn build(members: impl IntoIterator<Item = Member>) -> Self {
        let mut members: Vec<Member> = members.into_iter().collect();
        members.sort_unstable();
        members.dedup_by(|later, kept| later.name() == kept.name());

        let mut owners = Vec::new();
        let mut zones: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (number, member) in members
            .iter()
            .enumerate()
            .filter(|(_, member)| member.weight() > 0)
        {
            owners.push(number);
            zones.entry(member.zone()).or_default().push(number);
        }
        let epoch = epoch(owners.iter().map(|number| &members[*number]));
        let (fleet, zones) = rings(&members, &owners, zones);
        Self {
            epoch,
            fleet,
            zones,
            groups: Groups::new(),
            members,
        }
    }

    /// Everybody in the table, edges too, by name.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The member of that name.
    pub fn member(&self, name: &str) -> Option<&Member> {
        self.number(name).map(|number| &self.members[number])
    }

    /// Names this placement: 16 hexadecimal digits that are equal where the owners are, by name, zone and
    /// weight. Edges own nothing, so they come and go within an epoch.
    pub fn epoch(&self) -> &str {
        &self.epoch
    }

    /// The fraction of the fleet's hash space that falls to the member of that name: about its weight by
    /// the sum of weights. 0 for an edge and for a name that is not in the table.
    pub fn share(&self, name: &str) -> f64 {
        self.number(name)
            .and_then(|number| self.fleet.members.binary_search(&number).ok())
            .map_or(0.0, |on_circle| self.fleet.circle.share(on_circle))
    }

    /// How many members own extents: in the whole fleet, or of one zone's.
    pub fn owners(&self, zone: Option<&str>) -> usize {
        let Some(zone) = zone else {
            return self.fleet.members.len();
        };
        let found = self
            .zones
            .binary_search_by(|(name, _)| name.as_str().cmp(zone));
        found.map_or(0, |id| self.zones[id].1.members.len())
    }

    /// The owner in the whole fleet of `extent`, one of the `extents` of an object (see
    /// [`Extents`](crate::Extents)). `None` only where nobody owns anything.
    ///
    /// # Panics
    /// If `extent` is not below `extents`.
    pub fn owner(&self, dataset: &str, key: &str, extent: u64, extents: u64) -> Option<&Member> {
        self.owner_on(None, &self.fleet, (dataset, key), extent, extents)
    }

    /// The owner among the members of `zone` alone. `None` if the zone has none.
    ///
    /// # Panics
    /// If `extent` is not below `extents`.
    pub fn zone_owner(
        &self,
        zone: &str,
        dataset: &str,
        key: &str,
        extent: u64,
        extents: u64,
    ) -> Option<&Member> {
        let id = self
            .zones
            .binary_search_by(|(name, _)| name.as_str().cmp(zone))
            .ok()?;
        self.owner_on(Some(id), &self.zones[id].1, (dataset, key), extent, extents)
    }

    /// Who knows the object's version: the owner of its first extent, which needs no size.
    pub fn authority(&self, dataset: &str, key: &str) -> Option<&Member> {
        self.owner(dataset, key, 0, 1)
    }

    /// The owner of an extent and then the members after it in the whole fleet, each once: whom to ask
    /// while those before are silent. An extent that balance did not displace, and so every object of one
    /// extent, goes to the second of them if the first leaves the table.
    ///
    /// # Panics
    /// If `extent` is not below `extents`.
    pub fn candidates(
        &self,
        dataset: &str,
        key: &str,
        extent: u64,
        extents: u64,
    ) -> Candidates<'_> {
        let object = ObjectHash::new(dataset, key);
        Candidates {
            table: self,
            owner: self
                .groups
                .owner((None, &self.fleet.circle), object, extent, extents),
            walk: self.fleet.circle.walk(object.extent(extent)),
            seen: Vec::new(),
        }
    }

    fn owner_on(
        &self,
        id: CircleId,
        ring: &Ring,
        (dataset, key): (&str, &str),
        extent: u64,
        extents: u64,
    ) -> Option<&Member> {
        // Alone there is nothing to hash: a fleet of one pays a comparison.
        if let [only] = ring.members[..] {
            assert!(
                extent < extents,
                "extent {extent} of an object that has {extents}"
            );
            return Some(&self.members[only]);
        }
        let object = ObjectHash::new(dataset, key);
        let owner = self
            .groups
            .owner((id, &ring.circle), object, extent, extents)?;
        Some(&self.members[ring.members[owner]])
    }

    fn number(&self, name: &str) -> Option<usize> {
        self.members
            .binary_search_by(|member| member.name().cmp(name))
            .ok()
    }
}

impl std::fmt::Debug for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Table")
            .field("epoch", &self.epoch)
            .field("members", &self.members)
            .finish_non_exhaustive()
    }
}

/// The fleet's circle and those of its zones, whose points are the fleet's. A zone that has all owners has its circle.
fn rings(
    members: &[Member],
    owners: &[usize],
    zones: BTreeMap<&str, Vec<usize>>,
) -> (Arc<Ring>, Vec<(String, Arc<Ring>)>) {
    let placed: Vec<(&str, u16)> = owners
        .iter()
        .map(|number| (members[*number].name(), members[*number].weight()))
        .collect();
    let points = Points::new(&placed);
    let ring = |numbers: Vec<usize>| {
        // From the table's numbers to the fleet's.
        let on_circle = numbers
            .iter()
            .filter_map(|number| owners.binary_search(number).ok());
        let on_circle: Vec<usize> = on_circle.collect();
        let own: Vec<(&str, u16)> = on_circle.iter().map(|number| placed[*number]).collect();
        Arc::new(Ring {
            circle: Circle::new(&own, points.of(&on_circle)),
            members: numbers,
        })
    };
    let fleet = ring(owners.to_owned());
    let zones = zones
        .into_iter()
        .map(|(zone, numbers)| match numbers == owners {
            true => (zone.to_owned(), Arc::clone(&fleet)),
            false => (zone.to_owned(), ring(numbers)),
        })
        .collect();
    (fleet, zones)
}

/// An extent's owner and the members after it. See [`Table::candidates`].
pub struct Candidates<'a> {
    table: &'a Table,
    owner: Option<usize>,
    walk: Walk<'a>,
    seen: Vec<usize>,
}

impl<'a> Iterator for Candidates<'a> {
    type Item = &'a Member;

    fn next(&mut self) -> Option<&'a Member> {
        let ring = &self.table.fleet;
        if self.seen.len() == ring.members.len() {
            return None;
        }
        let seen = &self.seen;
        let next = match self.owner.take() {
            Some(owner) => owner,
            None => self.walk.find(|member| !seen.contains(member))?,
        };
        self.seen.push(next);
        Some(&self.table.members[ring.members[next]])
    }
}

/// Lengths go in front of names, so that no two lists look alike.
fn epoch<'a>(owners: impl Iterator<Item = &'a Member>) -> String {
    let mut hash = Xxh3::new();
    for member in owners {
        for text in [member.name(), member.zone()] {
            hash.update(&(text.len() as u64).to_le_bytes());
            hash.update(text.as_bytes());
        }
        hash.update(&member.weight().to_le_bytes());
    }
    format!("{:016x}", hash.digest())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::num::NonZeroU16;

    use super::*;

    fn member(name: &str, zone: &str, weight: u16) -> Member {
        Member::new(name, zone, NonZeroU16::new(weight).unwrap()).unwrap()
    }

    fn three() -> Vec<Member> {
        vec![
            member("a", "x", 1),
            member("b", "x", 1),
            member("c", "y", 2),
        ]
    }

    #[test]
    fn the_order_of_learning_does_not_matter() {
        let (table, turned) = (
            Table::build(three()),
            Table::build(three().into_iter().rev()),
        );
        assert_eq!(table.epoch(), turned.epoch());
        assert_eq!(table.members(), turned.members());
        for extent in 0..300 {
            assert_eq!(
                table.owner("d", "k", extent, 300),
                turned.owner("d", "k", extent, 300)
            );
        }
    }

    #[test]
    fn the_epoch_covers_name_zone_and_weight_of_owners_and_no_edges() {
        let table = Table::build(three());
        let edge = Member::edge("e", "x").unwrap();
        assert_eq!(
            Table::build(three().into_iter().chain([edge])).epoch(),
            table.epoch()
        );
        let others = [
            member("d", "y", 2),
            member("c", "x", 2),
            member("c", "y", 1),
        ];
        for other in others {
            let changed = Table::build([member("a", "x", 1), member("b", "x", 1), other]);
            assert_ne!(changed.epoch(), table.epoch());
        }
        let (ab, a) = (member("ab", "c", 1), member("a", "bc", 1));
        assert_ne!(Table::build([ab]).epoch(), Table::build([a]).epoch());
    }

    #[test]
    fn a_name_counts_once_whoever_comes_first() {
        let twice = [member("a", "y", 2), member("a", "x", 3)];
        let table = Table::build(twice.clone());
        assert_eq!(table.members(), [member("a", "x", 3)]);
        assert_eq!(
            Table::build(twice.into_iter().rev()).members(),
            table.members()
        );
    }

    #[test]
    fn edges_own_nothing_and_are_known() {
        let edge = Member::edge("b", "x").unwrap();
        let table = Table::build([member("a", "x", 1), edge.clone()]);
        assert_eq!((table.member("b"), table.share("b")), (Some(&edge), 0.0));
        assert_eq!((table.member("z"), table.share("z")), (None, 0.0));
        assert_eq!(table.share("a"), 1.0);
        assert_eq!(table.owner("d", "k", 9, 10), table.member("a"));
        assert!(table.candidates("d", "k", 9, 10).eq(table.member("a")));
    }

    #[test]
    fn where_nobody_owns_there_is_no_owner() {
        for table in [
            Table::build([]),
            Table::build([Member::edge("e", "x").unwrap()]),
        ] {
            assert_eq!(table.owner("d", "k", 0, 1), None);
            assert_eq!(table.zone_owner("x", "d", "k", 0, 1), None);
            assert_eq!(table.candidates("d", "k", 0, 1).count(), 0);
        }
    }

    #[test]
    fn a_zones_owner_stands_in_the_zone() {
        let mut members = three();
        members.push(Member::edge("e", "z").unwrap());
        let table = Table::build(members);
        let mut met = [0, 0];
        for extent in 0..100 {
            let owner = table.zone_owner("x", "d", "k", extent, 100).unwrap();
            met[usize::from(owner.name() == "b")] += 1;
            assert_eq!(owner.zone(), "x");
            assert_eq!(
                table.zone_owner("y", "d", "k", extent, 100),
                table.member("c")
            );
            assert_eq!(table.zone_owner("z", "d", "k", extent, 100), None);
        }
        assert_eq!(met, [50, 50]);
        let owners = [None, Some("x"), Some("y"), Some("z")].map(|zone| table.owners(zone));
        assert_eq!(owners, [3, 2, 1, 0]);
    }

    #[test]
    fn the_authority_owns_the_first_extent_whatever_the_size() {
        let table = Table::build(three());
        for key in ["a", "b/c", "d e", "ü"] {
            for extents in [1, 2, 255, 256, 257, 1000] {
                assert_eq!(table.owner("d", key, 0, extents), table.authority("d", key));
            }
        }
    }

    #[test]
    fn candidates_are_everybody_once_and_the_owner_first() {
        let table = Table::build(three());
        for extent in 0..200 {
            let mut names: Vec<&str> = table
                .candidates("d", "k", extent, 200)
                .map(Member::name)
                .collect();
            assert_eq!(table.owner("d", "k", extent, 200).unwrap().name(), names[0]);
            names.sort_unstable();
            assert_eq!(names, ["a", "b", "c"]);
        }
    }

    #[test]
    #[should_panic(expected = "extent 1 of an object that has 1")]
    fn a_fleet_of_one_too_knows_where_an_object_ends() {
        Table::build([member("a", "x", 1)]).owner("d", "k", 1, 1);
    }
}
