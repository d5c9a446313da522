//! Balance inside one object: extents go in groups, and in a group nobody owns more than its part.
//!
//! The circle alone spreads many objects well and one object badly: of 16 extents on 8 members the busiest
//! gets 2.2 times the mean, and everybody who loads the model waits for that member. So in a group of 256
//! extents each takes, in order, the first member clockwise that has not yet got its part of the group,
//! ⌈length × weight ÷ sum of weights⌉. That is a pure function of the table, the object and its length, and
//! a join still moves little. Beyond 12 members it would not, so parts get some slack there
//! ([`Circle::bounds`]).

use std::sync::{Arc, Mutex, PoisonError};

use crate::points::{Circle, ObjectHash};

/// Extents in a group, the last group of an object perhaps shorter. More would balance no better, and an
/// object that grows or shrinks re-places only its last group.
const GROUP_EXTENTS: u64 = 256;

/// Groups remembered by one table: at most 1 KiB each, so 1 MiB, which covers a terabyte in extents of
/// 4 MiB.
const SLOTS: usize = 1024;

/// Which circle of a table: `None` is the whole fleet's, else the zone by its number.
pub(crate) type CircleId = Option<usize>;

/// One group of one object.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Group {
    circle: CircleId,
    object: ObjectHash,
    index: u64,
    extents: u64,
}

/// The owners of a group's extents, by their number on the circle.
type Owners = Arc<[u32]>;

/// Remembers the groups assigned last. A slot holds one group and the next that falls there replaces it:
/// bounded, without a list to keep, and an assignment lost costs microseconds.
pub(crate) struct Groups {
    slots: Vec<Mutex<Option<(Group, Owners)>>>,
}

impl Groups {
    pub(crate) fn new() -> Self {
        Self {
            slots: (0..SLOTS).map(|_| Mutex::new(None)).collect(),
        }
    }

    /// The owner of `extent` of an object with `extents` of them; `None` if the circle has no members.
    ///
    /// # Panics
    /// If there is no such extent.
    pub(crate) fn owner(
        &self,
        (id, circle): (CircleId, &Circle),
        object: ObjectHash,
        extent: u64,
        extents: u64,
    ) -> Option<usize> {
        assert!(
            extent < extents,
            "extent {extent} of an object that has {extents}"
        );
        if circle.len() <= 1 {
            return (circle.len() == 1).then_some(0);
        }
        let (index, position) = (extent / GROUP_EXTENTS, extent % GROUP_EXTENTS);
        if position == 0 {
            // The first of a group finds everybody free.
            return circle.walk(object.extent(extent)).next();
        }
        let extents = (extents - index * GROUP_EXTENTS).min(GROUP_EXTENTS);
        let owners = self.owners(
            circle,
            Group {
                circle: id,
                object,
                index,
                extents,
            },
        );
        owners.get(position as usize).map(|owner| *owner as usize)
    }

    /// The lock is held to look and to store, never while a group is assigned. Two that miss at once
    /// assign it twice, to the same members.
    fn owners(&self, circle: &Circle, group: Group) -> Owners {
        let slot = &self.slots[group.slot()];
        if let Some((held, owners)) = &*slot.lock().unwrap_or_else(PoisonError::into_inner)
            && *held == group
        {
            return Arc::clone(owners);
        }
        let owners = assign(circle, group);
        *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some((group, Arc::clone(&owners)));
        owners
    }
}

impl Group {
    /// What one read asks for together, neighbouring groups of an object and one group in the fleet and in
    /// its zone, lies in different slots (97 is odd: only each 1024th zone meets the fleet).
    fn slot(&self) -> usize {
        let circle = self.circle.map_or(0, |zone| zone as u64 + 1);
        let place = self
            .object
            .0
            .wrapping_add(self.index)
            .wrapping_add(circle * 97);
        (place % SLOTS as u64) as usize
    }
}

fn assign(circle: &Circle, group: Group) -> Owners {
    let bounds = circle.bounds(group.object.group(group.index), group.extents);
    let mut free: u64 = bounds.iter().sum();
    let mut owned = vec![0; circle.len()];
    let first = group.index * GROUP_EXTENTS;
    (first..first + group.extents)
        .filter_map(|extent| {
            let mut walk = circle.walk(group.object.extent(extent));
            let owner = if free > 0 {
                free -= 1;
                walk.find(|member| owned[*member] < bounds[*member])?
            } else {
                // Parts rounded up add up to the group's length or more, so somebody is always free.
                walk.find(|member| owned[*member] < circle.bound(*member, group.extents))?
            };
            owned[owner] += 1;
            Some(owner as u32)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::points::Points;

    fn circle() -> Circle {
        let members = [("a", 1), ("b", 1), ("c", 2)];
        Circle::new(&members, Points::new(&members))
    }

    fn group(object: ObjectHash, index: u64, extents: u64) -> Group {
        Group {
            circle: None,
            object,
            index,
            extents,
        }
    }

    #[test]
    fn every_extent_of_a_group_has_an_owner_and_nobody_more_than_its_part() {
        let circle = circle();
        for extents in 1..=GROUP_EXTENTS {
            let owners = assign(&circle, group(ObjectHash(extents), 0, extents));
            assert_eq!(owners.len() as u64, extents);
            for member in 0..circle.len() {
                let owned = owners
                    .iter()
                    .filter(|owner| **owner as usize == member)
                    .count();
                assert!(owned as u64 <= circle.bound(member, extents));
            }
        }
    }

    #[test]
    fn a_remembered_group_is_the_one_that_was_assigned() {
        let (circle, groups, object) = (circle(), Groups::new(), ObjectHash(7));
        let fresh = assign(&circle, group(object, 1, 44));
        for _ in 0..2 {
            for extent in 256..300 {
                let owner = groups.owner((None, &circle), object, extent, 300);
                assert_eq!(owner, Some(fresh[extent as usize - 256] as usize));
            }
        }
    }

    #[test]
    fn groups_that_share_a_slot_are_told_apart() {
        let (circle, groups) = (circle(), Groups::new());
        let here = group(ObjectHash(7), 0, 200);
        let others = [
            group(ObjectHash(7 + SLOTS as u64), 0, 200),
            group(ObjectHash(6), 1, 200),
            group(ObjectHash(7), 0, 199),
            Group {
                circle: Some(SLOTS - 1),
                ..here
            },
        ];
        for other in others {
            assert_eq!(&*groups.owners(&circle, here), &*assign(&circle, here));
            assert_eq!(&*groups.owners(&circle, other), &*assign(&circle, other));
        }
        assert_eq!(others[3].slot(), here.slot());
    }

    #[test]
    #[should_panic(expected = "extent 3 of an object that has 3")]
    fn an_extent_past_the_end_is_a_mistake_of_the_caller() {
        Groups::new().owner((None, &circle()), ObjectHash(7), 3, 3);
    }
}
