//! Which readers are taken for one pass, and what is read ahead for them.

#![allow(
    clippy::single_range_in_vec_init,
    reason = "a list of ranges may have one"
)]

use forebay_ring::Extents;

use super::*;

const MIB: u64 = 1 << 20;
const PART: u64 = 8 * MIB;
const SIZE: u64 = 1 << 30;

struct World {
    passes: Passes,
    used: IntCounter,
    unused: IntCounter,
    now: Instant,
    /// Which extents are ours, in a fleet.
    owned: Option<fn(u64) -> bool>,
}

/// The block behind the last that is read ahead; 0: none is.
fn end(plan: &Plan) -> u32 {
    plan.blocks.last().map_or(0, |blocks| blocks.end)
}

impl World {
    fn new() -> Self {
        let counter = |name: &str| IntCounter::new(name, "of a test").expect("a good name");
        let (used, unused) = (counter("used"), counter("unused"));
        let block_size = BlockSize::new(1 << 20);
        Self {
            passes: Passes::new(block_size, used.clone(), unused.clone()),
            used,
            unused,
            now: Instant::now(),
            owned: None,
        }
    }

    /// A member that owns these extents of four blocks.
    fn owning(owned: fn(u64) -> bool) -> Self {
        Self {
            owned: Some(owned),
            ..Self::new()
        }
    }

    /// A whole extent of four blocks is asked for.
    fn extent(&self, extent: u64) -> Plan {
        self.ask(1, extent * 4 * MIB..(extent + 1) * 4 * MIB, true)
    }

    /// A range of an object is asked for; what is planned is read ahead.
    fn ask(&self, version: u128, range: Range<u64>, missed: bool) -> Plan {
        let version = VersionKey(version);
        let owned = |extent: u64| self.owned.is_none_or(|owned| owned(extent));
        let own = self.owned.is_some().then_some(Own {
            extents: Extents::new(SIZE, 1 << 20),
            owned: &owned,
        });
        let asked = Asked {
            version,
            size: SIZE,
            range,
            missed,
            own,
        };
        let seen = Seen {
            now: self.now,
            arrived: 0,
            round_trip: Duration::ZERO,
            run: RUN_BYTES,
            each: 0,
            begun: true,
            least: 0,
            most: 512 * MIB,
        };
        let plan = self.passes.asked(&asked, &seen);
        let blocks: Vec<u32> = plan.blocks.iter().cloned().flatten().collect();
        self.passes.led(version, SIZE, &blocks, self.now);
        plan
    }

    fn part(&self, number: u64) -> Plan {
        self.ask(1, number * PART..(number + 1) * PART, true)
    }
}

#[tokio::test]
async fn parts_that_follow_each_other_are_one_pass() {
    let world = World::new();
    assert_eq!(world.part(0), Plan::default());
    assert_eq!(world.part(1).blocks, [16..32]);
    assert_eq!(world.part(2).blocks, [32..40]);
}

#[tokio::test]
async fn connections_that_interleave_are_one_pass_and_ranks_are_several() {
    let world = World::new();
    for number in [0, 2, 3, 1] {
        world.part(number);
    }
    // 4 parts without a gap: behind the last of them.
    assert_eq!(end(&world.part(4)), 56);
    // Another rank begins in the middle of it.
    assert!(world.part(64).blocks.is_empty());
    assert_eq!(world.part(65).blocks[0].start, 66 * 8);
}

#[tokio::test]
async fn a_random_reader_gets_no_read_ahead() {
    let world = World::new();
    let mut place = 7;
    for _ in 0..2000 {
        place = (place * 1_103_515_245 + 12_345) % (SIZE / (128 << 10));
        let start = place * (128 << 10);
        let ahead = world.ask(1, start..start + (128 << 10), true).blocks;
        // Neighbours by chance make no pass: of two such ranges there is nothing to read ahead.
        assert!(ahead.is_empty(), "{ahead:?}");
    }
    assert!(!world.passes.may_know(VersionKey(1)));
}

#[tokio::test]
async fn ranges_that_overlap_are_no_pass() {
    let world = World::new();
    let end = 64 << 20;
    for start in [0, 12 << 20, 30 << 20, 49 << 20] {
        let range = start..(start + (20 << 20)).min(end);
        assert!(world.ask(1, range, true).blocks.is_empty(), "{start}");
    }
}

#[tokio::test]
async fn no_more_is_read_ahead_than_was_read() {
    let world = World::new();
    let small = 256 << 10;
    let ahead = (0..64).map(|number| {
        let plan = world.ask(1, number * small..(number + 1) * small, true);
        let read = (number + 1) * small;
        assert!(u64::from(end(&plan)) * MIB <= 2 * read.next_multiple_of(MIB));
        plan.blocks.iter().map(Range::len).sum::<usize>()
    });
    assert!(ahead.sum::<usize>() > 0);
}

#[tokio::test]
async fn reads_from_memory_go_on_with_the_pass_that_read_them_ahead() {
    let world = World::new();
    assert!(!world.passes.may_know(VersionKey(1)));
    world.part(0);
    world.part(1);
    assert!(world.passes.may_know(VersionKey(1)));
    let plan = world.ask(1, 2 * PART..3 * PART, false);
    assert_eq!(plan.blocks, [32..40]);
    assert_eq!(world.used.get(), PART);
}

#[tokio::test]
async fn what_nobody_came_for_is_counted_as_unused() {
    let mut world = World::new();
    world.part(0);
    world.part(1);
    world.now += IDLE;
    world.passes.sweep(world.now);
    assert_eq!((world.used.get(), world.unused.get()), (0, 16 * MIB));
    assert!(!world.passes.may_know(VersionKey(1)));
}

#[tokio::test]
async fn what_somebody_came_for_while_it_was_asked_for_is_used() {
    let world = World::new();
    world.part(3);
    world
        .passes
        .led(VersionKey(1), SIZE, &[23, 24, 31, 32], world.now);
    assert_eq!(world.used.get(), 2 * MIB);
}

#[tokio::test]
async fn a_whole_pass_uses_all_that_was_read_ahead() {
    let mut world = World::new();
    for number in 0..SIZE / PART {
        let plan = world.part(number);
        assert!(u64::from(end(&plan)) <= SIZE / MIB);
    }
    world.now += IDLE;
    world.passes.sweep(world.now);
    assert_eq!(world.unused.get(), 0);
    assert_eq!(world.used.get(), SIZE - 2 * PART);
}

#[tokio::test]
async fn the_next_object_is_begun_once_and_past_three_quarters() {
    let world = World::new();
    let parts = SIZE / PART;
    let next: Vec<u64> = (0..parts)
        .filter(|number| world.part(*number).next)
        .collect();
    assert_eq!(next, [parts / 4 * 3 - 1]);
    assert!(!world.passes.begins_next(VersionKey(1), SIZE, world.now));
    assert!(world.passes.begins_next(VersionKey(2), SIZE, world.now));
}

#[tokio::test]
async fn the_table_is_bounded() {
    let world = World::new();
    for version in 0..2 * PASSES as u128 {
        world.ask(version << 64, 0..PART, true);
    }
    assert_eq!(world.passes.lock().len(), PASSES);
}

#[tokio::test]
async fn who_asks_each_extent_of_its_owner_is_read_ahead_what_is_ours() {
    let world = World::owning(|extent| extent % 3 == 1);
    // It is our first: twice as much.
    assert_eq!(world.extent(1).blocks, [16..20, 28..32]);
    // Two extents were read: eight times as many of ours are read ahead, for somebody who wants all of them.
    let ahead = world.extent(4).blocks;
    let ours: Vec<_> = (3..18).map(|turn| turn * 12 + 4..turn * 12 + 8).collect();
    assert_eq!(ahead, ours);
    assert_eq!(world.extent(7).blocks, [220..224]);
    assert_eq!(world.used.get(), 8 * MIB);
}

#[tokio::test]
async fn ours_that_lie_far_apart_are_no_pass() {
    let world = World::owning(|extent| matches!(extent, 3 | 10 | 11 | 40));
    assert_eq!(world.extent(3).blocks, [40..48], "our first");
    for extent in [11, 40] {
        // Something of ours lies between.
        assert_eq!(world.extent(extent), Plan::default(), "{extent}");
    }
    assert_eq!(world.extent(10), Plan::default(), "backwards");
}

#[tokio::test]
async fn who_asks_us_for_all_is_read_ahead_all() {
    let world = World::owning(|extent| extent % 4 < 3);
    // Nobody can know so far.
    assert_eq!(world.extent(0).blocks, [4..12]);
    assert_eq!(world.extent(1).blocks, [16..28, 32..44, 48..52]);
    let ahead: Vec<_> = (2..=10)
        .flat_map(|extent| world.extent(extent).blocks)
        .collect();
    let is_ahead = |block: u32| ahead.iter().any(|blocks| blocks.contains(&block));
    assert!(is_ahead(19 * 4), "those of others too: {ahead:?}");
}

#[tokio::test]
async fn a_whole_pass_over_ours_uses_all_that_was_read_ahead() {
    let mut world = World::owning(|extent| extent % 5 < 2);
    let ours = (0..SIZE / (4 * MIB)).filter(|extent| extent % 5 < 2);
    let mut read = 0;
    for extent in ours {
        world.extent(extent);
        read += 4 * MIB;
    }
    world.now += IDLE;
    world.passes.sweep(world.now);
    assert_eq!((world.used.get(), world.unused.get()), (read - 4 * MIB, 0));
}
