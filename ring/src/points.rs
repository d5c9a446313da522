//! Points on a circle of 64-bit hashes, and the walk around it: `consistent_hash_ring`, wrapped.
//!
//! Used plainly, that crate builds in the square of its points, derives a member's points from each other,
//! and looks a key's second candidate up at a fresh hash, where it is rarely the next owner. So each point
//! is a node of weight 1 with a place that we hash ourselves, points go in sorted (each insertion then
//! appends), and successors are found by walking. Places are hashed by xxh3 from explicit bytes: derived
//! `Hash` may differ between compilers, and so between the two halves of a rolling upgrade.

use std::hash::{BuildHasher, Hash, Hasher};

use consistent_hash_ring::{Ring, RingBuilder};
use xxhash_rust::xxh3::xxh3_64;

/// Points for each unit of weight. Busiest ÷ mean of the hash space, measured: 256 points 1.10 with 10
/// members and 1.22 with 100; 512 points 1.11 and 1.13; 1024 points 1.02 and 1.12 at twice the memory.
/// What is left is evened out inside each object by its groups.
const POINTS_PER_WEIGHT: u32 = 512;

/// Up to so many members, an object's extents are spread as evenly as whole extents allow.
const TIGHT_MEMBERS: usize = 12;

/// Where an object's extents lie on the circle: a hash of its dataset and key, never of its version, so
/// that a new version finds the same members.
///
/// Two objects whose hashes collide are placed alike; nothing else comes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ObjectHash(pub(crate) u64);

impl ObjectHash {
    /// Hashes `dataset`, a zero byte, `key`. Dataset names hold no zero byte, so no two pairs look alike.
    pub(crate) fn new(dataset: &str, key: &str) -> Self {
        Self(xxh3_64(
            &[dataset.as_bytes(), &[0], key.as_bytes()].concat(),
        ))
    }

    /// One group of the object, as something to draw lots by.
    pub(crate) fn group(self, index: u64) -> Self {
        Self(xxh3_64(
            &[&self.0.to_le_bytes()[..], b"group", &index.to_le_bytes()].concat(),
        ))
    }

    /// The place of an extent, counted from 0 over the whole object.
    pub(crate) fn extent(self, extent: u64) -> u64 {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.0.to_le_bytes());
        bytes[8..].copy_from_slice(&extent.to_le_bytes());
        xxh3_64(&bytes)
    }
}

/// One circle with the points of some members, who are numbered from 0 in the order given.
pub(crate) struct Circle {
    ring: Ring<Point, Place>,
    // Hashes of the members' names: what tells them apart where chance decides.
    names: Vec<u64>,
    weights: Vec<u16>,
    weight_sum: u64,
    shares: Vec<f64>,
}

/// The points of some members, numbered from 0 in the order given, by their places: what the circles of a table are
/// made of. To hash and to sort them is most of a table's price.
pub(crate) struct Points(Vec<Point>);

impl Points {
    /// Those of `members`, each a name and a weight that is not 0.
    pub(crate) fn new(members: &[(&str, u16)]) -> Self {
        let mut points = Vec::new();
        let mut bytes = Vec::new();
        for (owner, (name, weight)) in (0..).zip(members) {
            bytes.clear();
            bytes.extend_from_slice(name.as_bytes());
            bytes.push(0);
            let named = bytes.len();
            for replica in 0..u32::from(*weight) * POINTS_PER_WEIGHT {
                bytes.truncate(named);
                bytes.extend_from_slice(&replica.to_le_bytes());
                let at = xxh3_64(&bytes);
                points.push(Point { at, owner });
            }
        }
        points.sort_unstable();
        Self(points)
    }

    /// Those of some of the members, who are numbered anew in the order given, which is that of their numbers.
    pub(crate) fn of(&self, members: &[usize]) -> Self {
        let last = members.last().map_or(0, |last| *last + 1);
        let mut anew = vec![None; last];
        for (number, member) in (0..).zip(members) {
            anew[*member] = Some(number);
        }
        let points = self.0.iter().filter_map(|point| {
            let owner = *anew.get(point.owner as usize)?;
            owner.map(|owner| Point { owner, ..*point })
        });
        Self(points.collect())
    }
}

impl Circle {
    /// Places `members`, each a name and a weight that is not 0, at `points`, which are theirs.
    pub(crate) fn new(members: &[(&str, u16)], Points(mut points): Points) -> Self {
        // Of two members' points in one place the first member's stays, on every gateway alike.
        points.dedup_by_key(|point| point.at);
        Self {
            shares: shares(&points, members.len()),
            ring: RingBuilder::new(Place).vnodes(1).nodes_iter(points).build(),
            names: members
                .iter()
                .map(|(name, _)| xxh3_64(name.as_bytes()))
                .collect(),
            weights: members.iter().map(|(_, weight)| *weight).collect(),
            weight_sum: members.iter().map(|(_, weight)| u64::from(*weight)).sum(),
        }
    }

    /// How many members have points here.
    pub(crate) fn len(&self) -> usize {
        self.weights.len()
    }

    /// The fraction of the hash space that falls to `member`.
    pub(crate) fn share(&self, member: usize) -> f64 {
        self.shares[member]
    }

    /// How many of `extents` the member may own: its part by weight, rounded up.
    pub(crate) fn bound(&self, member: usize, extents: u64) -> u64 {
        (extents * u64::from(self.weights[member])).div_ceil(self.weight_sum)
    }

    /// How many of a group's `extents` each member takes before the next one is asked: its part, rounded up,
    /// in a fleet of up to [`TIGHT_MEMBERS`], and a little more in a larger one.
    ///
    /// In a large fleet parts are small, so that without slack each extent displaced displaces another, and
    /// one unit less for everybody, which a join brings about, would move far more than the newcomer is due.
    /// Slack of 1/40 for each member over twelve, at most a half, keeps the chains short; rounding by chance, a different one for
    /// each member and group, lets the bound of only a few members change with a join. The sum may fall short
    /// of `extents`, by chance too: [`bound`](Self::bound) holds then.
    pub(crate) fn bounds(&self, group: ObjectHash, extents: u64) -> Vec<u64> {
        const UNIT: u64 = 40;
        let over = self.len().saturating_sub(TIGHT_MEMBERS).min(20) as u64;
        if over == 0 {
            return (0..self.len())
                .map(|member| self.bound(member, extents))
                .collect();
        }
        let whole = UNIT * self.weight_sum;
        self.names
            .iter()
            .zip(&self.weights)
            .map(|(name, weight)| {
                let part = extents * u64::from(*weight) * (UNIT + over);
                // A fraction that stays as it is when the sum of weights changes.
                let lot = u128::from(group.extent(*name)) * u128::from(whole);
                let chance = (lot >> 64) as u64;
                // At least one each: a group's first extent always finds its first member free.
                ((part + chance) / whole).max(1)
            })
            .collect()
    }

    /// The members of all points from `place` clockwise, once around; most appear many times.
    pub(crate) fn walk(&self, place: u64) -> Walk<'_> {
        Walk {
            ring: &self.ring,
            place,
            left: self.ring.vnodes(),
        }
    }
}

/// An iterator over the members met clockwise from a place. See [`Circle::walk`].
pub(crate) struct Walk<'a> {
    ring: &'a Ring<Point, Place>,
    place: u64,
    left: usize,
}

impl Iterator for Walk<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        self.left = self.left.checked_sub(1)?;
        let point = self.ring.try_get(At(self.place))?;
        self.place = point.at.wrapping_add(1);
        Some(point.owner as usize)
    }
}

/// The part of the circle that each of `members` owns: a point takes what lies between it and the point
/// before.
fn shares(points: &[Point], members: usize) -> Vec<f64> {
    const WHOLE: f64 = (1_u128 << 64) as f64;
    let mut owned = vec![0_u128; members];
    let mut before = points.last().map_or(0, |point| point.at);
    for point in points {
        // A lone point is its own predecessor and owns it all.
        let arc = match point.at.wrapping_sub(before) {
            0 => 1 << 64,
            arc => u128::from(arc),
        };
        owned[point.owner as usize] += arc;
        before = point.at;
    }
    owned.into_iter().map(|arc| arc as f64 / WHOLE).collect()
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Point {
    at: u64,
    owner: u32,
}

impl Hash for Point {
    fn hash<H: Hasher>(&self, state: &mut H) {
        At(self.at).hash(state);
    }
}

/// A place on the circle to look from.
struct At(u64);

impl Hash for At {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(&self.0.to_le_bytes());
    }
}

/// Puts each point where it says it lies.
#[derive(Clone)]
struct Place;

impl BuildHasher for Place {
    type Hasher = PlaceHasher;

    fn build_hasher(&self) -> PlaceHasher {
        PlaceHasher(0)
    }
}

struct PlaceHasher(u64);

impl Hasher for PlaceHasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0 = match bytes.try_into() {
            Ok(place) => u64::from_le_bytes(place),
            Err(_) => xxh3_64(bytes),
        };
    }

    /// The crate derives from each point the place of a next one, and removes what it finds there. Points go in
    /// sorted, so behind the latest there is none yet (but for one at the very end, of 2^64 places, where 0 is next); and
    /// where it just looked, it is quick to look again.
    fn write_u64(&mut self, place: u64) {
        self.0 = place.wrapping_add(1);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn circle_of(members: &[(&str, u16)]) -> Circle {
        Circle::new(members, Points::new(members))
    }

    #[test]
    fn a_walk_meets_every_point_once_in_order() {
        let circle = circle_of(&[("a", 1), ("b", 2), ("c", 1)]);
        let met: Vec<usize> = circle.walk(u64::MAX).collect();
        let count = |member| met.iter().filter(|met| **met == member).count();
        assert_eq!((count(0), count(1), count(2)), (512, 1024, 512));

        // Once around from the point after the first is the same circle, turned by one.
        let first = circle.ring.try_get(At(0)).unwrap().at;
        let turned: Vec<usize> = circle.walk(first + 1).collect();
        assert_eq!(turned[..2047], met[1..]);
        assert_eq!(turned[2047], met[0]);
    }

    #[test]
    fn a_place_belongs_to_the_point_at_or_after_it() {
        let circle = circle_of(&[("a", 1), ("b", 1)]);
        let point = *circle.ring.try_get(At(1 << 63)).unwrap();
        assert_eq!(circle.walk(point.at).next(), Some(point.owner as usize));
        assert_eq!(circle.ring.try_get(At(point.at)).unwrap().at, point.at);
        assert!(circle.ring.try_get(At(point.at + 1)).unwrap().at > point.at);
    }

    #[test]
    fn shares_are_of_the_whole_and_follow_weight() {
        let circle = circle_of(&[("a", 1), ("b", 2), ("c", 1)]);
        let shares: Vec<f64> = (0..3).map(|member| circle.share(member)).collect();
        assert!((shares.iter().sum::<f64>() - 1.0).abs() < 1e-9);
        assert!((shares[1] - 0.5).abs() < 0.05, "{shares:?}");
        assert_eq!(circle_of(&[("a", 1)]).share(0), 1.0);
    }

    #[test]
    fn a_circle_without_members_leads_nowhere() {
        let circle = circle_of(&[]);
        assert_eq!((circle.len(), circle.walk(7).next()), (0, None));
    }

    #[test]
    fn a_large_fleet_has_slack_and_nobody_is_left_out() {
        let names: Vec<String> = (0..40).map(|n| format!("gw-{n}")).collect();
        let members: Vec<(&str, u16)> = names.iter().map(|name| (&**name, 1)).collect();
        for (count, slack) in [(12, 1.0), (13, 1.025), (16, 1.1), (32, 1.5), (40, 1.5)] {
            let circle = circle_of(&members[..count]);
            let all: u64 = (0..50)
                .flat_map(|group| circle.bounds(ObjectHash(7).group(group), 240))
                .sum();
            let mean = all as f64 / 50.0 / 240.0;
            assert!((mean - slack).abs() < 0.02, "{count} members: {mean}");
            assert!(
                circle
                    .bounds(ObjectHash(7), 1)
                    .iter()
                    .all(|bound| *bound == 1)
            );
        }
    }

    #[test]
    fn bounds_round_up_and_never_fall_short() {
        let circle = circle_of(&[("a", 1), ("b", 2), ("c", 4)]);
        for extents in 1..=256 {
            let bounds: Vec<u64> = (0..3).map(|member| circle.bound(member, extents)).collect();
            assert!(bounds.iter().sum::<u64>() >= extents);
            assert!(bounds.iter().all(|bound| *bound >= 1));
        }
        assert_eq!(circle.bound(2, 256), 147);
    }
}
