//! Many readers of one gateway: everyone gets a fair share, the link is full, and memory holds.

use std::time::Duration;

use super::net::{Layout, Rate};
use super::reader::{Order, Way};
use super::sheet::Row;
use super::stage::{Brief, Stage};
use super::{Options, repeat};
use crate::report::{Unit, jain};

const LINK: Rate = Rate::megabits(200);
const LASTING: Duration = Duration::from_secs(30);

/// A queue as deep as a loaded switch's, or a thousand flows would have less than a frame each.
const QUEUE: u64 = 16 << 20;

/// Readers share hosts: nothing of theirs is a bottleneck here.
const HOSTS: usize = 8;

/// `memory` of the gateway, and the bound that follows from it: (`memory` + 64 MiB) × 1.1.
const MEMORY: &str = "256MiB";
const RESIDENT: f64 = (256.0 + 64.0) * 1.1;

pub(super) async fn run(options: &Options) -> anyhow::Result<Vec<Row>> {
    let counts = options
        .readers
        .map_or_else(|| vec![64, 256, 1024], |count| vec![count]);
    let layout = Layout {
        gateway: LINK,
        towards_origin: Some(Rate::UNSHAPED),
        queue: Some(QUEUE),
        cards: true,
        ..Layout::new(1, HOSTS)
    };
    let stage = Stage::new(layout, options).await?;
    let mut rows = Vec::new();
    for readers in counts {
        let once = async || one(&stage, readers).await;
        rows.push(repeat::median(readers, &[], once).await?);
    }
    Ok(rows)
}

async fn one(stage: &Stage, readers: usize) -> anyhow::Result<Row> {
    let (key, size) = (stage.key(), stage.options.size(128 << 20));
    let brief = Brief {
        memory: MEMORY,
        ..Brief::new(1, vec![(key.clone(), size)])
    };
    let fleet = stage.fleet(&brief).await?;
    fleet.warm().await?;
    let orders = (0..readers)
        .map(|index| Order {
            from: stage.net.reader(index % HOSTS).clone(),
            start: index,
            lasting: Some(LASTING),
            ..fleet.order(0, &key, size, Way::Mapped { in_flight: 1 })
        })
        .collect();
    let run = fleet.run(orders).await?;
    let peak = fleet.members[0].peak_memory();
    fleet.stop().await?;
    let name = format!("{readers} readers");
    let mut row = Row::new(&name, 1, &run, size).unresumed();
    row.times.clear();
    let shares: Vec<_> = run
        .readings
        .iter()
        .map(|reading| reading.bytes as f64)
        .collect();
    let report = &mut row.report;
    if readers <= 256 {
        report.at_least("fairness (Jain)", jain(&shares), 0.95, Unit::Times);
    } else {
        report.tell("fairness (Jain)", jain(&shares), Unit::Times);
    }
    let used = run.bytes() as f64 / LASTING.as_secs_f64() / LINK.payload();
    report.at_least("of the link", 100.0 * used, 95.0, Unit::Percent);
    if let Some(peak) = peak.filter(|_| stage.options.stand_in.is_none()) {
        let mebibytes = peak as f64 / (1 << 20) as f64;
        report.at_most("peak memory", mebibytes, RESIDENT, Unit::Mebibytes);
    }
    Ok(row)
}
