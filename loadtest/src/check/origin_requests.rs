//! `origin-requests`: how often and for how much the origin is asked.

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::{Context, bail};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::task::JoinSet;

use super::{BLOCK, Options, Rig};
use crate::client::{Ask, Client, Pool, Read, Want};
use crate::origin::Settings;
use crate::report::{Report, Unit};

const SEQUENTIAL: u64 = 1 << 30;

/// The objects of the random reads: together well below the memory, so that no block is read twice for want of room;
/// each a little longer than its blocks.
const OBJECTS: u64 = 12;
const OBJECT: u64 = 32 * BLOCK + 4321;

const READS: usize = 200;
const AT_ONCE: usize = 8;

pub(super) async fn run(options: &Options) -> anyhow::Result<Report> {
    let rig = Rig::start(options, Settings::default(), "2GiB", &[("models", "")]).await?;
    let mut report = Report::new("origin-requests");
    sequential(&rig, &mut report).await?;
    random(&rig, options.seed, &mut report).await?;
    rig.finish(report).await
}

async fn sequential(rig: &Rig, report: &mut Report) -> anyhow::Result<()> {
    rig.origin.put("sequential", SEQUENTIAL, 0);
    let before = rig.origin.counters();
    let mut client = Client::new(&rig.gateway.dataset("models"))?;
    let read = client.read(&Ask::new("sequential", Want::Whole)).await;
    if !read.is_whole() {
        bail!("the sequential read ended {:?}", read.outcome);
    }
    let after = rig.origin.counters();
    let sent = (after.bytes_sent - before.bytes_sent) as f64;
    report.at_most(
        "GETs for 1 GiB, cold, in sequence",
        (after.gets - before.gets) as f64,
        140.0,
        Unit::Count,
    );
    report.tell(
        "HEADs for it",
        (after.heads - before.heads) as f64,
        Unit::Count,
    );
    report.tell(
        "origin bytes for it ÷ object",
        sent / SEQUENTIAL as f64,
        Unit::Times,
    );
    report.tell("it took", read.took.as_secs_f64(), Unit::Seconds);
    Ok(())
}

async fn random(rig: &Rig, seed: u64, report: &mut Report) -> anyhow::Result<()> {
    for object in 0..OBJECTS {
        rig.origin.put(&key(object), OBJECT, 0);
    }
    let before = rig.origin.counters();
    let pool = Arc::new(Pool::new(&rig.gateway.dataset("models"))?);
    let mut chance = StdRng::seed_from_u64(seed);
    let mut touched = BTreeSet::new();
    let mut reads = JoinSet::new();
    for _ in 0..READS {
        let (object, first, last) = range(&mut chance);
        touched.extend((first / BLOCK..=last / BLOCK).map(|block| (object, block)));
        if reads.len() == AT_ONCE {
            finished(&reads.join_next().await.context("reads are under way")??)?;
        }
        let pool = Arc::clone(&pool);
        let ask = Ask::new(&key(object), Want::Range(first, last));
        reads.spawn(async move { pool.read(&ask).await });
    }
    while let Some(read) = reads.join_next().await {
        finished(&read?)?;
    }
    let bound: u64 = touched
        .iter()
        .map(|&(_, block)| BLOCK.min(OBJECT - block * BLOCK))
        .sum();
    let sent = rig.origin.counters().bytes_sent - before.bytes_sent;
    let gets = rig.origin.counters().gets - before.gets;
    let ratio = sent as f64 / bound as f64;
    report.at_most(
        "origin bytes ÷ blocks touched, at random",
        ratio,
        1.0,
        Unit::Times,
    );
    report.tell("origin bytes", sent as f64 / BLOCK as f64, Unit::Mebibytes);
    report.tell("blocks touched", touched.len() as f64, Unit::Count);
    report.tell("GETs for them", gets as f64, Unit::Count);
    Ok(())
}

fn key(object: u64) -> String {
    format!("random/{object}")
}

/// An object, and the first and last byte of a range in it: up to 2 MiB, some of them at the end.
fn range(chance: &mut StdRng) -> (u64, u64, u64) {
    let first = chance.random_range(0..OBJECT);
    let length = chance.random_range(1..=2 * BLOCK);
    (
        chance.random_range(0..OBJECTS),
        first,
        (first + length - 1).min(OBJECT - 1),
    )
}

fn finished(read: &Read) -> anyhow::Result<()> {
    if !read.is_whole() {
        bail!("a random read ended {:?}", read.outcome);
    }
    Ok(())
}
