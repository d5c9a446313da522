//! `bytes`: random ranges of awkward objects, every byte checked; half of them while the origin overwrites.

mod targets;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

use self::targets::{Target, targets};
use super::{BLOCK, Options, Rig};
use crate::client::{Ask, Client, Outcome, Read, Want};
use crate::origin::{Origin, Settings};
use crate::report::{Report, Unit};

/// Reads in each half.
const READS: u64 = 10_000;

/// Connections at once.
const READERS: u64 = 16;

/// Between two overwrites: with 32 objects each is replaced every 0.6 s, six times as slowly as `fresh_for`.
const OVERWRITE_EVERY: Duration = Duration::from_millis(20);

/// Overwrites from one of the largest object to the next: every 2 s.
const OVERWRITES_TO_LARGEST: u64 = 100;

/// Wrong answers that are shown in full.
const SHOWN: usize = 10;

pub(super) async fn run(options: &Options) -> anyhow::Result<Report> {
    let datasets = [
        ("still", "fresh_for = \"10s\""),
        ("moving", "fresh_for = \"100ms\""),
    ];
    let rig = Rig::start(options, Settings::default(), "512MiB", &datasets).await?;
    let targets: Arc<[Target]> = targets(options.seed).into();
    for target in targets.iter() {
        rig.origin.put(&target.key, target.size_of(0), 0);
    }
    let started = Instant::now();
    let still = read_all(&rig.gateway.dataset("still"), &targets, options.seed, READS).await?;
    let half = Instant::now();
    let mut overwrites = Overwrites::default();
    let url = rig.gateway.dataset("moving");
    let moving = tokio::select! {
        moving = read_all(&url, &targets, options.seed.wrapping_add(READERS), READS) => moving?,
        never = overwrite(&rig.origin, &targets, options.seed, &mut overwrites) => match never {},
    };
    let report = judge(
        &rig,
        &still,
        &moving,
        &overwrites,
        (half - started, half.elapsed()),
    );
    for detail in still.details.iter().chain(&moving.details).take(SHOWN) {
        eprintln!("bytes: {detail}");
    }
    rig.finish(report).await
}

/// What became of one half's reads.
#[derive(Debug, Default)]
struct Reads {
    all: u64,
    /// Whole, or a 416 where the object has no such bytes.
    right: u64,
    /// Right ones of a version after the first: without them the overwriting half would prove nothing.
    later: u64,
    cut: u64,
    refused: BTreeMap<String, u64>,
    wrong: u64,
    mixed: u64,
    bytes: u64,
    details: Vec<String>,
}

impl Reads {
    fn add(&mut self, target: &Target, want: &Want, read: &Read) {
        self.all += 1;
        self.bytes += read.bytes;
        match &read.outcome {
            Outcome::Whole => {
                self.right += 1;
                self.later += u64::from(read.version > Some(0));
            }
            Outcome::Status(416) if want.resolve(target.size).is_empty() => self.right += 1,
            Outcome::Cut(_) => self.cut += 1,
            Outcome::Status(status) => self.refuse(format!("answered {status}")),
            Outcome::Unanswered(error) => self.refuse(error.clone()),
            Outcome::Wrong(detail) => {
                self.wrong += 1;
                self.details.push(format!("wrong: {want:?} of {detail}"));
            }
            Outcome::Mixed(detail) => {
                self.mixed += 1;
                self.details.push(format!("mixed: {want:?} of {detail}"));
            }
        }
    }

    fn refuse(&mut self, what: String) {
        *self.refused.entry(what).or_default() += 1;
    }

    fn tell_refused(&self, half: &str, report: &mut Report) {
        for (what, count) in &self.refused {
            report.tell(&format!("{what}, {half}"), *count as f64, Unit::Count);
        }
    }

    fn merge(&mut self, other: Self) {
        self.all += other.all;
        self.right += other.right;
        self.later += other.later;
        self.cut += other.cut;
        self.wrong += other.wrong;
        self.mixed += other.mixed;
        self.bytes += other.bytes;
        self.details.extend(other.details);
        for (what, count) in other.refused {
            *self.refused.entry(what).or_default() += count;
        }
    }
}

/// Reads a half's ranges on as many connections as there are readers.
async fn read_all(
    url: &str,
    targets: &Arc<[Target]>,
    seed: u64,
    count: u64,
) -> anyhow::Result<Reads> {
    let left = Arc::new(AtomicU64::new(count));
    let mut readers = JoinSet::new();
    for reader in 0..READERS {
        let (targets, left) = (Arc::clone(targets), Arc::clone(&left));
        let mut client = Client::new(url)?;
        let mut chance = StdRng::seed_from_u64(seed.wrapping_add(reader));
        readers.spawn(async move {
            let mut reads = Reads::default();
            let take = |left: u64| left.checked_sub(1);
            while left
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
                .is_ok()
            {
                let target = choose(&targets, &mut chance);
                let want = want(target.size, &mut chance);
                let read = client.read(&Ask::new(&target.key, want.clone())).await;
                reads.add(target, &want, &read);
            }
            reads
        });
    }
    let mut all = Reads::default();
    while let Some(reads) = readers.join_next().await {
        all.merge(reads.context("a reader ended early")?);
    }
    Ok(all)
}

/// The largest object for a quarter of the reads, as it has most of the bytes; else any.
fn choose<'a>(targets: &'a [Target], chance: &mut StdRng) -> &'a Target {
    let (largest, others) = targets.split_last().expect("there are targets");
    if chance.random_ratio(1, 4) {
        largest
    } else {
        others.choose(chance).expect("there are more than one")
    }
}

/// Bytes of an object of this size: mostly a closed range, of a length whose logarithm is evenly spread.
fn want(size: u64, chance: &mut StdRng) -> Want {
    let first = chance.random_range(0..size.max(1));
    let last = |first: u64, chance: &mut StdRng| first + length(chance) - 1;
    match chance.random_range(0..100) {
        0..5 if size <= 64 * BLOCK => Want::Whole,
        0..10 => Want::Open(size.saturating_sub(length(chance))),
        10..20 => Want::Suffix(length(chance)),
        20..28 => {
            let ranges = chance.random_range(2..8);
            let range = |_| {
                let first = chance.random_range(0..size.max(1));
                (first, first + length(chance) / 8)
            };
            Want::Several((0..ranges).map(range).collect())
        }
        28..30 => Want::Range(size + 2, size + 2 + length(chance)),
        30..40 => {
            // Around a border between blocks, where off-by-ones live.
            let border = (first / BLOCK * BLOCK).saturating_sub(chance.random_range(0..2));
            Want::Range(border, last(border, chance))
        }
        _ => Want::Range(first, last(first, chance)),
    }
}

/// From 1 byte to 4 MiB; for two in a hundred up to 32 MiB.
fn length(chance: &mut StdRng) -> u64 {
    if chance.random_ratio(1, 50) {
        return chance.random_range(4 * BLOCK..=32 * BLOCK);
    }
    let most: f64 = 4.0 * BLOCK as f64;
    most.powf(chance.random_range(0.0..=1.0)) as u64
}

/// What the overwriting half overwrote.
#[derive(Debug, Default)]
struct Overwrites {
    all: u64,
    largest: u64,
}

/// Replaces objects until it is dropped.
async fn overwrite(
    origin: &Origin,
    targets: &[Target],
    seed: u64,
    counted: &mut Overwrites,
) -> Infallible {
    let mut chance = StdRng::seed_from_u64(!seed);
    let mut tick = interval(OVERWRITE_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (largest, others) = targets.split_last().expect("there are targets");
    loop {
        tick.tick().await;
        let is_largest = counted.all % OVERWRITES_TO_LARGEST == OVERWRITES_TO_LARGEST / 2;
        let target = if is_largest {
            largest
        } else {
            others.choose(&mut chance).expect("more than one")
        };
        let version = origin
            .object(&target.key)
            .map_or(0, |object| object.version + 1);
        origin.put(&target.key, target.size_of(version), version);
        counted.all += 1;
        counted.largest += u64::from(is_largest);
    }
}

fn judge(
    rig: &Rig,
    still: &Reads,
    moving: &Reads,
    overwrites: &Overwrites,
    (first, second): (Duration, Duration),
) -> Report {
    let mut report = Report::new("bytes");
    let percent = |reads: &Reads| 100.0 * reads.right as f64 / reads.all.max(1) as f64;
    report.at_least(
        "reads",
        (still.all + moving.all) as f64,
        20_000.0,
        Unit::Count,
    );
    report.at_most(
        "wrong",
        (still.wrong + moving.wrong) as f64,
        0.0,
        Unit::Count,
    );
    report.at_most(
        "mixed",
        (still.mixed + moving.mixed) as f64,
        0.0,
        Unit::Count,
    );
    report.at_least(
        "whole, nothing overwritten",
        percent(still),
        100.0,
        Unit::Percent,
    );
    report.at_least(
        "whole, while overwriting",
        percent(moving),
        70.0,
        Unit::Percent,
    );
    report.at_least(
        "whole, of a version after the first",
        moving.later as f64,
        1000.0,
        Unit::Count,
    );
    report.tell("cut, while overwriting", moving.cut as f64, Unit::Count);
    still.tell_refused("nothing overwritten", &mut report);
    moving.tell_refused("while overwriting", &mut report);
    report.tell("overwrites", overwrites.all as f64, Unit::Count);
    report.at_least(
        "overwrites of the object of 1 GiB",
        overwrites.largest as f64,
        1.0,
        Unit::Count,
    );
    report.tell(
        "bytes read",
        (still.bytes + moving.bytes) as f64 / BLOCK as f64,
        Unit::Mebibytes,
    );
    report.tell(
        "bytes from the origin",
        rig.origin.counters().bytes_sent as f64 / BLOCK as f64,
        Unit::Mebibytes,
    );
    if let Some(peak) = rig.gateway.peak_memory() {
        report.tell(
            "peak memory of the gateway",
            peak as f64 / BLOCK as f64,
            Unit::Mebibytes,
        );
    }
    report.tell("first half", first.as_secs_f64(), Unit::Seconds);
    report.tell("second half", second.as_secs_f64(), Unit::Seconds);
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wants_are_mostly_small_and_mostly_satisfiable() {
        let mut chance = StdRng::seed_from_u64(1);
        let size = 1 << 30;
        let wants: Vec<_> = (0..10_000)
            .map(|_| want(size, &mut chance).resolve(size))
            .collect();
        let empty = wants.iter().filter(|spans| spans.is_empty()).count();
        assert!((100..400).contains(&empty), "{empty}");
        let bytes =
            |spans: &Vec<(u64, u64)>| spans.iter().map(|(first, end)| end - first).sum::<u64>();
        let small = wants
            .iter()
            .filter(|spans| bytes(spans) <= 4 * BLOCK)
            .count();
        assert!(small > 9_000, "{small}");
        assert!(wants.iter().map(bytes).max() > Some(16 * BLOCK));
    }

    /// The second half without a gateway, and without the largest object: the model alone must meet the bar.
    #[tokio::test(flavor = "multi_thread")]
    async fn the_model_itself_is_never_wrong() {
        let origin = Origin::start(Settings::default())
            .await
            .expect("a free port");
        let small = targets(3)
            .into_iter()
            .filter(|target| target.size < 4 * BLOCK);
        let targets: Arc<[Target]> = small.collect();
        for target in targets.iter() {
            origin.put(&target.key, target.size_of(0), 0);
        }
        let mut overwrites = Overwrites::default();
        let url = origin.url();
        let reads = tokio::select! {
            reads = read_all(&url, &targets, 3, 500) => reads.expect("readers end well"),
            never = overwrite(&origin, &targets, 3, &mut overwrites) => match never {},
        };
        assert_eq!((reads.all, reads.right), (500, 500), "{reads:?}");
        assert!(overwrites.all > 0);
    }
}
