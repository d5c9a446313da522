//! `once`: a hundred clients ask for one cold object at once; the origin is read once, and nobody waits for another.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::sync::Barrier;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{BLOCK, Options, Rig, median_ms};
use crate::client::{Ask, Client, Read, Want};
use crate::origin::Settings;
use crate::report::{Report, Unit};

const CLIENTS: usize = 100;
const SIZE: u64 = 256 * BLOCK;

pub(super) async fn run(options: &Options) -> anyhow::Result<Report> {
    let settings = Settings {
        first_byte: Duration::from_millis(30),
        ..Settings::default()
    };
    let rig = Rig::start(options, settings, "1GiB", &[("models", "")]).await?;
    rig.origin.put("herd", SIZE, 0);
    rig.origin.put("probe", BLOCK, 0);
    let direct = direct_first_byte_ms(&rig.origin.url()).await?;
    let before = rig.origin.counters();
    let started = Instant::now();
    let reads = herd(&rig.gateway.dataset("models")).await?;
    let took = started.elapsed();
    let sent = rig.origin.counters().bytes_sent - before.bytes_sent;
    let gets = rig.origin.counters().gets - before.gets;

    let whole = reads.iter().filter(|read| read.is_whole()).count();
    if let Some(read) = reads.iter().find(|read| !read.is_whole()) {
        eprintln!("once: a read ended {:?}", read.outcome);
    }
    let first_byte = |read: &Read| read.first_byte_after.unwrap_or(read.took);
    let mut report = Report::new("once");
    report.equal(
        "origin bytes ÷ object",
        sent as f64 / SIZE as f64,
        1.0,
        0.005,
        Unit::Times,
    );
    report.at_least(
        "clients served whole",
        whole as f64,
        CLIENTS as f64,
        Unit::Count,
    );
    let last = reads
        .iter()
        .map(first_byte)
        .max()
        .unwrap_or_default()
        .as_secs_f64()
        * 1e3;
    report.at_most(
        "last client's first byte",
        last,
        2.0 * direct + 100.0,
        Unit::Milliseconds,
    );
    report.tell(
        "median client's first byte",
        median_ms(reads.iter().map(first_byte).collect()),
        Unit::Milliseconds,
    );
    report.tell("the origin's own first byte", direct, Unit::Milliseconds);
    report.tell("GETs at the origin", gets as f64, Unit::Count);
    report.tell(
        "until the last client's last byte",
        took.as_secs_f64(),
        Unit::Seconds,
    );
    rig.finish(report).await
}

/// The median of five reads of another object, without the gateway.
async fn direct_first_byte_ms(url: &str) -> anyhow::Result<f64> {
    let mut client = Client::new(url)?;
    let mut times = Vec::new();
    for _ in 0..5 {
        let read = client.read(&Ask::new("probe", Want::Whole)).await;
        if !read.is_whole() {
            bail!("a direct read ended {:?}", read.outcome);
        }
        times.extend(read.first_byte_after);
    }
    Ok(median_ms(times))
}

/// All clients connect, and then ask together.
async fn herd(url: &str) -> anyhow::Result<Vec<Read>> {
    let start = Arc::new(Barrier::new(CLIENTS));
    let mut readers = JoinSet::new();
    for _ in 0..CLIENTS {
        let mut client = Client::new(url)?;
        client.connect().await.map_err(anyhow::Error::msg)?;
        let start = Arc::clone(&start);
        readers.spawn(async move {
            start.wait().await;
            client.read(&Ask::new("herd", Want::Whole)).await
        });
    }
    let mut reads = Vec::with_capacity(CLIENTS);
    while let Some(read) = readers.join_next().await {
        reads.push(read.context("a reader ended early")?);
    }
    Ok(reads)
}
