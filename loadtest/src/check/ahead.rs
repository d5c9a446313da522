//! `read-ahead`: what is read ahead and used by nobody, and what random reads cost by block size.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::task::JoinSet;

use super::{BLOCK, Options, Rig};
use crate::client::{Ask, Client, Pool, Want};
use crate::origin::Settings;
use crate::report::{Report, Unit};

/// One plain stream, and the parts of another object by many connections.
const LONG: u64 = 1 << 30;
const PART: u64 = 8 * BLOCK;
const AT_ONCE: usize = 8;

/// Shards of a series, one after the other.
const SHARDS: u64 = 4;
const SHARD: u64 = 64 * BLOCK;

/// Reads at random, over so many objects of so many bytes.
const READS: usize = 400;
const READ: u64 = 128 << 10;
const OBJECTS: u64 = 10;

/// After so long the gateway counts as unused what nobody came for.
const SETTLED: Duration = Duration::from_secs(32);

pub(super) async fn run(options: &Options) -> anyhow::Result<Report> {
    let mut report = Report::new("read-ahead");
    let rig = Rig::start(options, Settings::remote(), "2GiB", &[("models", "")]).await?;
    sequential(&rig).await?;
    let wasted = unused(&rig).await?;
    let read = (2 * LONG + SHARDS * SHARD) as f64;
    let what = "unused read-ahead ÷ bytes read, in sequence";
    report.at_most(what, 100.0 * wasted / read, 5.0, Unit::Percent);
    let sent = rig.origin.counters().bytes_sent as f64;
    let what = "origin bytes ÷ unique, in sequence";
    report.at_most(what, sent / read, 1.02, Unit::Times);
    rig.finish(Report::new("read-ahead")).await?;
    for block_size in ["1MiB", "256KiB"] {
        let cache = format!("memory = \"2GiB\"\nblock_size = \"{block_size}\"");
        let settings = Settings::remote();
        let rig = Rig::start_with(options, settings, &cache, &[("models", "")]).await?;
        random(&rig, options.seed).await?;
        let read = (READS as u64 * READ) as f64;
        let sent = rig.origin.counters().bytes_sent as f64;
        let what = format!("origin bytes ÷ asked, 128 KiB at random, blocks of {block_size}");
        report.tell(&what, sent / read, Unit::Times);
        let what = format!("unused read-ahead ÷ origin bytes, blocks of {block_size}");
        let wasted = 100.0 * unused(&rig).await? / sent;
        report.at_most(&what, wasted, 1.0, Unit::Percent);
        rig.finish(Report::new("read-ahead")).await?;
    }
    Ok(report)
}

/// A plain stream, ranges by several connections, and a series of shards, each to its end.
async fn sequential(rig: &Rig) -> anyhow::Result<()> {
    let url = rig.gateway.dataset("models");
    let mut client = Client::new(&url)?;
    rig.origin.put("long", LONG, 0);
    whole(&mut client, "long").await?;
    rig.origin.put("parts", LONG, 0);
    let pool = Arc::new(Pool::new(&url)?);
    let mut reads = JoinSet::new();
    for first in (0..LONG).step_by(PART as usize) {
        if reads.len() == AT_ONCE {
            reads.join_next().await.context("reads are under way")???;
        }
        reads.spawn(read(&pool, "parts", first, PART));
    }
    while let Some(read) = reads.join_next().await {
        read??;
    }
    let shards: Vec<_> = (1..=SHARDS)
        .map(|shard| format!("model-{shard:05}-of-{SHARDS:05}.safetensors"))
        .collect();
    for key in &shards {
        rig.origin.put(key, SHARD, 0);
    }
    for key in &shards {
        whole(&mut client, key).await?;
    }
    Ok(())
}

async fn random(rig: &Rig, seed: u64) -> anyhow::Result<()> {
    let pool = Arc::new(Pool::new(&rig.gateway.dataset("models"))?);
    for object in 0..OBJECTS {
        rig.origin.put(&object.to_string(), LONG, 0);
    }
    let mut chance = StdRng::seed_from_u64(seed);
    let mut reads = JoinSet::new();
    for _ in 0..READS {
        if reads.len() == AT_ONCE {
            reads.join_next().await.context("reads are under way")???;
        }
        let key = chance.random_range(0..OBJECTS).to_string();
        let first = chance.random_range(0..LONG - READ);
        reads.spawn(read(&pool, &key, first, READ));
    }
    while let Some(read) = reads.join_next().await {
        read??;
    }
    Ok(())
}

async fn whole(client: &mut Client, key: &str) -> anyhow::Result<()> {
    let read = client.read(&Ask::new(key, Want::Whole)).await;
    if !read.is_whole() {
        bail!("a read of {key} ended {:?}", read.outcome);
    }
    Ok(())
}

fn read(
    pool: &Arc<Pool>,
    key: &str,
    first: u64,
    length: u64,
) -> impl Future<Output = anyhow::Result<()>> + Send + use<> {
    let (pool, ask) = (
        Arc::clone(pool),
        Ask::new(key, Want::Range(first, first + length - 1)),
    );
    async move {
        let read = pool.read(&ask).await;
        if !read.is_whole() {
            bail!("a read of a range ended {:?}", read.outcome);
        }
        Ok(())
    }
}

/// What was read ahead and nobody came for, once the gateway knows.
async fn unused(rig: &Rig) -> anyhow::Result<f64> {
    tokio::time::sleep(SETTLED).await;
    let metrics = rig.gateway.metrics().await?;
    let unused = metrics.sum("forebay_read_ahead_bytes_total", &[("outcome", "unused")]);
    unused.context("read forebay_read_ahead_bytes_total")
}
