//! A fleet that is there when it is needed: from the start of the processes to all ready under one epoch, with nothing
//! cached and with block files to recover.

use anyhow::bail;
use tokio::time::Instant;

use super::cpu::Ticks;
use super::net::{Layout, Rate};
use super::sheet::Row;
use super::stage::{Brief, Stage};
use super::{Options, repeat};
use crate::report::Unit;

/// Blocks to recover, over all gateways.
const RECOVERED: u64 = 10 << 30;

/// Of that, in percent, what is to be on the disks before the fleet is stopped, and after it is back.
const KEPT: u64 = 95;

/// How often all of it is read for that, at most.
const PASSES: u32 = 3;

/// One object of this size after another until that is reached.
const OBJECT: u64 = 1 << 30;

pub(super) async fn run(options: &Options) -> anyhow::Result<Vec<Row>> {
    let count = options.count(8);
    let layout = Layout {
        towards_origin: Some(Rate::UNSHAPED),
        ..Layout::new(count, 0)
    };
    let stage = Stage::new(layout, options).await?;
    if options.stand_in.is_some() {
        bail!("this scenario is about gateways alone; it has no stand-ins");
    }
    let empty = async || one(&stage, count, 0).await;
    let mut rows = vec![repeat::median(count, &[count], empty).await?];
    let total = options.size(RECOVERED);
    rows.push(one(&stage, count, total).await?);
    Ok(rows)
}

async fn one(stage: &Stage, count: usize, cached: u64) -> anyhow::Result<Row> {
    let objects: Vec<_> = (0..cached.div_ceil(OBJECT))
        .map(|number| (format!("{number}-{}", stage.key()), OBJECT.min(cached)))
        .collect();
    let brief = Brief {
        memory: "256MiB",
        nvme: if cached > 0 { "4GiB" } else { "0" },
        ..Brief::new(count, objects)
    };
    let mut fleet = stage.fleet(&brief).await?;
    // What comes faster than a disk takes it is not kept: there is to be so much to recover, so the rest is read again.
    let mut passes = 0..PASSES;
    while cached > 0 && fleet.on_disk().await? < KEPT * cached / 100 && passes.next().is_some() {
        fleet.warm().await?;
        fleet.on_disk_settles().await?;
    }
    fleet.stop_members().await?;
    let before = Ticks::now();
    let begun = Instant::now();
    fleet.start_again().await?;
    let took = begun.elapsed().as_secs_f64();
    let idle = Ticks::now().idle_since(before);
    let recovered = fleet.on_disk().await?;
    fleet.stop().await?;
    let (name, bar) = if cached > 0 {
        ("with block files", 5.0)
    } else {
        ("empty", 1.0)
    };
    let mut row = Row::bare(name, count, idle);
    row.times = vec![took];
    row.report
        .at_most("exec to one epoch", took, bar, Unit::FineSeconds);
    if cached > 0 {
        let mebibytes = (1 << 20) as f64;
        row.report.at_least(
            "recovered",
            recovered as f64 / mebibytes,
            (KEPT * cached / 100) as f64 / mebibytes,
            Unit::Mebibytes,
        );
    }
    Ok(row)
}
