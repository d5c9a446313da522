//! What the simulator must show every day: seeds without a violation, determinism, and a planted bug found.

use std::collections::BTreeMap;

use forebay_sim::mutation;
use forebay_sim::world::{self, Of};

#[test]
fn hundreds_of_seeds_keep_every_promise() {
    let mut counts: BTreeMap<&'static str, u64> = BTreeMap::new();
    let mut broken = Vec::new();
    world::run_all(
        |_| Of::One,
        0..400,
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
    ] {
        let times = counts.get(what).copied().unwrap_or(0);
        assert!(times >= 10, "{what}: {times} times; all: {counts:#?}");
    }
    let reads = counts
        .iter()
        .filter(|(what, _)| what.starts_with("reads: "));
    let reads: u64 = reads.map(|(_, times)| times).sum();
    assert!(counts["reads: whole"] * 100 >= reads * 70, "{counts:#?}");
}

#[test]
fn one_seed_twice_gives_one_trace_and_another_seed_another() {
    for seed in 1000..1005 {
        let first = world::run(Of::One, seed, true).expect("a world can be built");
        let again = world::run(Of::One, seed, true).expect("a world can be built");
        let lines = first.lines.iter().zip(&again.lines);
        for (number, (one, other)) in lines.enumerate() {
            assert_eq!(one, other, "seed {seed}, line {number}");
        }
        assert_eq!(first, again, "seed {seed}");
        let other = world::run(Of::One, seed + 1, false).expect("a world can be built");
        assert_ne!(first.hash, other.hash);
    }
}

#[test]
fn every_planted_bug_is_found_out() {
    let program = mutation::build().expect("the bugs can be planted");
    let mut missed = Vec::new();
    for name in mutation::names() {
        match mutation::hunt(&program, name, 0..100).expect("the simulator runs") {
            Some(found) => println!("{name}: {}", found.line),
            None => missed.push(name),
        }
    }
    assert!(missed.is_empty(), "no seed of a hundred found {missed:?}");
}
