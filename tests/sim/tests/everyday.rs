//! What the simulator must show every day: seeds without a violation, determinism, and a planted bug found.

use std::collections::BTreeMap;
use std::ops::Range;

use forebay_sim::mutation;
use forebay_sim::world::{self, Of};

/// How often what happened in the worlds of these seeds, none of which may have a violation.
fn keep_promises(of: Of, seeds: Range<u64>) -> BTreeMap<&'static str, u64> {
    let mut counts: BTreeMap<&'static str, u64> = BTreeMap::new();
    let mut broken = Vec::new();
    world::run_all(
        |_| of,
        seeds,
        |seed, told| {
            for (what, times) in told.counts {
                *counts.entry(what).or_default() += times;
            }
            if let Some(first) = told.violations.first() {
                broken.push(format!("seed {seed}: {first}"));
            }
            true
        },
    )
    .expect("worlds can be built");
    assert!(broken.is_empty(), "{}", broken.join("\n"));
    let reads = counts
        .iter()
        .filter(|(what, _)| what.starts_with("reads: "));
    let reads: u64 = reads.map(|(_, times)| times).sum();
    assert!(counts["reads: whole"] * 100 >= reads * 70, "{counts:#?}");
    counts
}

#[test]
fn hundreds_of_seeds_keep_every_promise() {
    let counts = keep_promises(Of::One, 0..400);
    // A storm in which nothing happens would prove nothing.
    for what in [
        "reads: whole",
        "reads: cut",
        "reads: left",
        "reads: failed",
        "reads: 404",
        "reads: 412 or 416",
        "answers: stale",
        "blocks evicted",
        "overwritten",
        "purged",
        "412 from the origin",
        "fault: refused",
        "fault: silence",
        "fault: status",
        "fault: stalled body",
        "fault: cut body",
        "fault: short body",
        "fault: long body",
        "fault: wrong range",
        "fault: wrong size",
        "fault: wrong tag",
        "fault: range ignored",
        "fault: condition ignored",
        "disk: blocks read",
        "disk: write dropped",
        "disk: write lost",
        "disk: write misplaced",
        "disk: write torn",
        "disk: read error",
        "disk: bit flipped",
        "disk: file ends early",
        "disk: journal error",
        "disk: no writes",
        "disk: power lost",
        "disk: bits rotted",
        "blows: a gateway is killed",
        "blows: a journal is lost",
        "blows: another disk",
        "blows: another machine",
        "blows: a clock jumps",
    ] {
        let times = counts.get(what).copied().unwrap_or(0);
        assert!(times >= 10, "{what}: {times} times; all: {counts:#?}");
    }
}

#[test]
fn hundreds_of_fleets_keep_every_promise() {
    let counts = keep_promises(Of::Fleet, 0..300);
    for what in [
        "blows: a member is killed",
        "blows: a member is parted",
        "blows: a way is cut",
        "blows: a member comes",
        "blows: a member drains",
        "purged where not all answer",
        "connections broken",
        "bytes changed",
        "packets lost",
        "answers: from a member",
        "disk: blocks read",
        "disk: power lost",
    ] {
        let times = counts.get(what).copied().unwrap_or(0);
        assert!(times >= 10, "{what}: {times} times; all: {counts:#?}");
    }
}

/// What seeds beyond the everyday ones found stays mended.
#[test]
fn seeds_that_found_something_find_it_no_more() {
    // Of what a kill left in the journal alone nobody knows how old it is, and it stood in for an origin that was away.
    // Written down with an age made up, it was young again by a clock that went back.
    let unknown = [
        (Of::One, 434),
        (Of::One, 2212),
        (Of::Fleet, 985),
        (Of::Fleet, 1355),
    ];
    // A newcomer read a first block twice: to learn the version, which its donor knew, and for another member.
    let twice = (Of::Fleet, 3298);
    // An answer that made no sense came late in a question, and passed for an origin that is away.
    let nonsense = (Of::Fleet, 4895);
    for (of, seed) in unknown.into_iter().chain([twice, nonsense]) {
        let told = world::run(of, seed, false).expect("a world can be built");
        let found = told.violations;
        assert!(found.is_empty(), "{of:?}, seed {seed}: {found:?}");
    }
}

#[test]
fn one_seed_twice_gives_one_trace_and_another_seed_another() {
    for (of, seed) in [Of::One, Of::Fleet]
        .into_iter()
        .flat_map(|of| (1000..1005).map(move |seed| (of, seed)))
    {
        let first = world::run(of, seed, true).expect("a world can be built");
        let again = world::run(of, seed, true).expect("a world can be built");
        let lines = first.lines.iter().zip(&again.lines);
        for (number, (one, other)) in lines.enumerate() {
            assert_eq!(one, other, "{of:?}, seed {seed}, line {number}");
        }
        assert_eq!(first, again, "{of:?}, seed {seed}");
        let other = world::run(of, seed + 1, false).expect("a world can be built");
        assert_ne!(first.hash, other.hash);
    }
}

#[test]
fn every_planted_bug_is_found_out() {
    let program = mutation::build().expect("the bugs can be planted");
    let mut missed = Vec::new();
    for name in mutation::names() {
        match mutation::hunt(&program, name, 0..300).expect("the simulator runs") {
            Some(found) => println!("{name}: {}", found.line),
            None => missed.push(name),
        }
    }
    assert!(
        missed.is_empty(),
        "no seed of three hundred found {missed:?}"
    );
}
