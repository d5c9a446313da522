//! `frozen`: twelve gateways, a hundred readers, and an owner that stands still for five seconds in the middle of its
//! fills: nobody waits for it, and the origin is hardly asked for more.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::fleet::{Brief, Fleet};
use super::{BLOCK, Options};
use crate::client::{Ask, Client, Meter, Read, Want};
use crate::origin::Settings;
use crate::report::{Report, Unit};

const MEMBERS: usize = 12;
const READERS: usize = 100;

/// Two blocks for each member. What the frozen one had begun is read once more, a twelfth of all: 1.083 of 1.1.
const SIZE: u64 = 24 * BLOCK;
const KEY: &str = "model";

/// Each reader asks for a part at a time, so that first bytes are asked for during the whole of it.
const PART: u64 = 2 * BLOCK;

/// The origin's rate: all of it takes two seconds.
const RATE: u64 = 12 << 20;

/// From the first reader to the freeze, and its length.
const UNTIL: Duration = Duration::from_millis(500);
const FROZEN: Duration = Duration::from_secs(5);

/// Half of the readers come before the freeze, the others one after the other while it lasts.
const APART: Duration = Duration::from_millis(40);

pub(super) async fn run(options: &Options) -> anyhow::Result<Report> {
    let brief = Brief {
        memory: "256MiB",
        ..Brief::new(MEMBERS)
    };
    let settings = Settings {
        total_rate: Some(RATE),
        first_byte: Duration::from_millis(30),
        ..Settings::default()
    };
    let fleet = Fleet::start(options, settings, &brief).await?;
    fleet.origin.put(KEY, SIZE, 0);
    let victim = owner_in_the_middle(&fleet).await?;
    let others: Vec<usize> = (0..MEMBERS).filter(|index| *index != victim).collect();
    let pid = i32::try_from(fleet.gateways[victim].pid()).ok();
    let pid = pid.and_then(Pid::from_raw).context("read process id")?;
    let begun = Instant::now();
    let mut readers = JoinSet::new();
    for reader in 0..READERS {
        let url = fleet.gateways[others[reader % others.len()]].dataset("models");
        let late = u32::try_from(reader.saturating_sub(READERS / 2)).unwrap_or(0);
        let from = begun
            + if late > 0 {
                UNTIL + late * APART
            } else {
                Duration::ZERO
            };
        readers.spawn(read(url, from, reader as u64));
    }
    tokio::time::sleep_until(begun + UNTIL).await;
    kill_process(pid, Signal::STOP).context("freeze a gateway")?;
    tokio::time::sleep_until(begun + UNTIL + FROZEN).await;
    kill_process(pid, Signal::CONT).context("thaw a gateway")?;
    let mut reads = Vec::new();
    let mut gap = Duration::ZERO;
    while let Some(read) = readers.join_next().await {
        let (mut some, longest) = read.context("a reader ended early")??;
        reads.append(&mut some);
        gap = gap.max(longest);
    }
    let mut report = judged(&reads, gap);
    let origin = fleet.origin.counters().bytes_sent as f64 / SIZE as f64;
    report.at_most("origin bytes ÷ size", origin, 1.1, Unit::Times);
    for reason in ["silent", "stalled", "cut", "unreachable", "origin"] {
        let labels = [("reason", reason)];
        let broken = fleet
            .sum("forebay_peer_fills_broken_total", &labels)
            .await?;
        report.tell(
            &format!("fills that went on elsewhere: {reason}"),
            broken,
            Unit::Count,
        );
    }
    report.tell(
        "all done after",
        begun.elapsed().as_secs_f64(),
        Unit::Seconds,
    );
    fleet.finish(report).await
}

fn judged(reads: &[Read], gap: Duration) -> Report {
    let count = |what: fn(&Read) -> bool| reads.iter().filter(|read| what(read)).count() as f64;
    let mut report = Report::new("frozen");
    report.at_most(
        "reads that failed",
        count(|read| !read.is_whole()),
        0.0,
        Unit::Count,
    );
    report.at_most("wrong bodies", count(Read::is_false), 0.0, Unit::Count);
    let first = reads
        .iter()
        .map(|read| read.first_byte_after.unwrap_or(read.took));
    let first = first.max().unwrap_or_default();
    report.at_most(
        "slowest first byte",
        first.as_secs_f64(),
        1.0,
        Unit::FineSeconds,
    );
    report.tell(
        "a reader's longest wait for a byte",
        gap.as_secs_f64(),
        Unit::FineSeconds,
    );
    report
}

/// One reader's parts, from one that is its own, around.
async fn read(url: String, from: Instant, reader: u64) -> anyhow::Result<(Vec<Read>, Duration)> {
    tokio::time::sleep_until(from).await;
    let meter = Arc::new(Meter::default());
    let mut client = Client::new(&url)?.metered(&meter);
    meter.begin();
    let parts = SIZE / PART;
    let mut reads = Vec::new();
    for part in 0..parts {
        let first = (reader + part) % parts * PART;
        let want = Want::Range(first, first + PART - 1);
        let read = client.read(&Ask::new(KEY, want)).await;
        reads.push(read);
    }
    Ok((reads, meter.longest_gap()))
}

/// The gateway that owns the extent in the middle.
async fn owner_in_the_middle(fleet: &Fleet) -> anyhow::Result<usize> {
    let (_, plan) = fleet.gateways[0]
        .get(&format!("/-/plan/models/{KEY}"))
        .await?;
    let plan: serde_json::Value = serde_json::from_slice(&plan).context("read the plan")?;
    let extents = plan["extents"].as_array().map_or(0, Vec::len);
    let owner = plan["extents"][extents / 2]["member"].as_str();
    let index = owner.and_then(|name| name.strip_prefix("gw-")?.parse().ok());
    index.context("the plan names no owner")
}
