//! The worst days: all gateways but one die under a hundred readers; one owner of twelve freezes in the middle of it.

use std::time::Duration;

use rustix::process::Signal;

use super::net::{Layout, Rate};
use super::reader::{Order, Way};
use super::sheet::Row;
use super::stage::{Brief, Fleet, Run, Stage};
use super::{DATASET, Options, repeat};
use crate::report::Unit;

/// The survivor serves 400 connections. Its queue holds the first flight of each, 10 frames of 1 514 bytes, and takes
/// 0.35 s to drain, so that a first byte does not wait in it for long.
const SURVIVORS: Links = Links {
    client: Rate::megabits(100),
    origin: Rate::megabits(200),
    gateway: Rate::megabits(200),
    queue: 8 << 20,
};

/// Eleven gateways together send 1.1 Gbit/s, and the readers take three quarters of that: where all the links are full a
/// first byte waits for seconds in them, whoever stands still. The origin takes two seconds for its 24 MiB.
const FROZEN_ONE: Links = Links {
    client: Rate::megabits(8),
    origin: Rate::megabits(100),
    gateway: Rate::megabits(100),
    queue: 256 << 10,
};

/// Two blocks for each of twelve: what the frozen one had begun is read once more, a twelfth of all.
const FROZEN_SIZE: u64 = 24 << 20;

/// At 200 Mbit/s a hundred readers of this take 35 s.
const SURVIVED_SIZE: u64 = 8 << 20;

/// The links of one half.
struct Links {
    client: Rate,
    origin: Rate,
    gateway: Rate,
    queue: u64,
}

/// `origin_connections` of the dataset, over the whole fleet; each member's share of it is rounded up.
const BUDGET: u64 = 64;

/// From the readers' start to the fault: they are in the middle of the object then.
const UNTIL: Duration = Duration::from_millis(300);
const FROZEN: Duration = Duration::from_secs(5);

pub(super) async fn run(options: &Options) -> anyhow::Result<Vec<Row>> {
    let count = options.count(12);
    let readers = options.readers(100);
    let layout = |links: &Links| Layout {
        gateway: links.gateway,
        client: links.client,
        origin: links.origin,
        queue: Some(links.queue),
        ..Layout::new(count, readers)
    };
    let stage = Stage::new(layout(&SURVIVORS), options).await?;
    let died = async || died(&stage, count, readers).await;
    let mut rows = vec![repeat::median(count, &[count], died).await?];
    drop(stage);
    if count > 1 && options.stand_in.is_none() {
        let stage = Stage::new(layout(&FROZEN_ONE), options).await?;
        let all_run = async || in_the_middle(&stage, count, readers, None).await;
        rows.push(repeat::median(count, &[], all_run).await?);
        let frozen = async || in_the_middle(&stage, count, readers, Some(FROZEN)).await;
        rows.push(repeat::median(count, &[count], frozen).await?);
    }
    Ok(rows)
}

async fn died(stage: &Stage, count: usize, readers: usize) -> anyhow::Result<Row> {
    let (key, size) = (stage.key(), stage.options.size(SURVIVED_SIZE));
    let mut fleet = stage.fleet(&brief(count, &key, size)).await?;
    fleet.warm().await?;
    let mut dying = fleet.members.split_off(1);
    let orders = (0..readers)
        .map(|index| {
            let way = Way::Balanced {
                connections: 4,
                first: 4 * index,
            };
            fleet.order(index, &key, size, way)
        })
        .collect();
    let run = fleet
        .run_while(orders, async {
            tokio::time::sleep(UNTIL).await;
            for member in &mut dying {
                member.kill().await?;
            }
            Ok(())
        })
        .await?;
    fleet.stop().await?;
    let mut row = judged("all but one die", count, &run, size, count as u64);
    first_byte_within_a_second(&mut row, slowest_first_byte(&run));
    Ok(row)
}

/// A cold object, of which one owner stands still for so long in the middle of it; or nobody does, which shows what of
/// the times the links take anyway.
async fn in_the_middle(
    stage: &Stage,
    count: usize,
    readers: usize,
    stands_still: Option<Duration>,
) -> anyhow::Result<Row> {
    let (key, size) = (stage.key(), stage.options.size(FROZEN_SIZE));
    let fleet = stage.fleet(&brief(count, &key, size)).await?;
    let victim = owner_in_the_middle(&fleet, &key).await?;
    // Its own clients wait with it; what is measured is that nobody else does.
    let addresses = fleet.addresses();
    let others: std::sync::Arc<[_]> = (0..count)
        .filter(|&index| index != victim)
        .map(|index| addresses[index])
        .collect();
    let orders = (0..readers)
        .map(|index| Order {
            gateways: others.clone(),
            plan: None,
            ..fleet.order(
                index,
                &key,
                size,
                Way::Balanced {
                    connections: 4,
                    first: 4 * index,
                },
            )
        })
        .collect();
    let run = fleet
        .run_while(orders, async {
            let Some(time) = stands_still else {
                return Ok(());
            };
            tokio::time::sleep(UNTIL).await;
            fleet.members[victim].signal(Signal::STOP)?;
            tokio::time::sleep(time).await;
            fleet.members[victim].signal(Signal::CONT)
        })
        .await?;
    fleet.stop().await?;
    let name = match stands_still {
        Some(time) => format!("one owner frozen for {} s", time.as_secs()),
        None => "nobody frozen".to_owned(),
    };
    let mut row = judged(&name, count, &run, size, 0).unresumed();
    let slowest = slowest_first_byte(&run);
    match stands_still {
        Some(_) => first_byte_within_a_second(&mut row, slowest),
        None => row
            .report
            .tell("slowest first byte", slowest, Unit::FineSeconds),
    }
    Ok(row)
}

fn brief(count: usize, key: &str, size: u64) -> Brief {
    Brief {
        dataset: format!("origin_connections = {BUDGET}"),
        ..Brief::new(count, vec![(key.to_owned(), size)])
    }
}

/// The gateway that owns the extent in the middle of the object.
async fn owner_in_the_middle(fleet: &Fleet<'_>, key: &str) -> anyhow::Result<usize> {
    let plan = fleet.members[0]
        .json(&format!("/-/plan/{DATASET}/{key}"))
        .await?;
    let extents = plan["extents"].as_array().map_or(0, Vec::len);
    let owner = plan["extents"][extents / 2]["member"].as_str();
    let index = owner.and_then(|name| name.strip_prefix("gw-")?.parse().ok());
    Ok(index.unwrap_or(1))
}

/// `killed`: the members whose share of the budget may be in use twice for a moment.
fn judged(name: &str, count: usize, run: &Run, size: u64, killed: u64) -> Row {
    let mut row = Row::new(name, count, run, size).origin_within(1.1);
    let budget = BUDGET.div_ceil(count as u64) * count as u64 + killed;
    row.report.at_most(
        "origin requests at once",
        run.origin.peak as f64,
        budget as f64,
        Unit::Count,
    );
    let refused: u64 = run.readings.iter().map(|reading| reading.refused).sum();
    row.report
        .at_most("answers with a 5xx", refused as f64, 0.0, Unit::Count);
    row
}

fn first_byte_within_a_second(row: &mut Row, slowest: f64) {
    let what = "slowest first byte";
    row.report.at_most(what, slowest, 1.0, Unit::FineSeconds);
}

fn slowest_first_byte(run: &Run) -> f64 {
    let readings = run.readings.iter();
    readings
        .map(|reading| reading.slowest_first_byte)
        .fold(0.0, f64::max)
}
