//! Scale with demand, to zero and back, under readers that never stop.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use http::{Method, StatusCode};

use super::member::Member;
use super::net::{Layout, Rate, client_address};
use super::reader::{Order, extents};
use super::sheet::Row;
use super::stage::{Brief, Fleet, Stage};
use super::{Map, Options};
use crate::report::Unit;

const LINK: Rate = Rate::megabits(100);
const SIZE: u64 = 256 << 20;

/// The readers before, through and after a change.
const BEFORE: Duration = Duration::from_secs(3);
const AROUND: Duration = Duration::from_secs(13);

/// How long the new fair share is measured, once 10 s have passed since the change.
const AFTER: Duration = Duration::from_secs(6);

/// What happens to the fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Add,
    Drain,
    Kill,
}

pub(super) async fn run(options: &Options) -> anyhow::Result<Vec<Row>> {
    if options.stand_in.is_some() {
        bail!("this scenario is about changes of the fleet; it has no stand-ins");
    }
    let count = options.count(4);
    ensure!(count > 1, "a fleet that shrinks needs two gateways or more");
    let readers = options.readers(16);
    let layout = Layout {
        gateway: LINK,
        client: LINK,
        towards_origin: Some(Rate::UNSHAPED),
        // Connections that were there before a change and those that came after it are to have the same.
        cards: true,
        ..Layout::new(count + 1, readers)
    };
    let stage = Stage::new(layout, options).await?;
    let mut rows = Vec::new();
    for map in options.maps() {
        for change in [Change::Add, Change::Drain, Change::Kill] {
            rows.push(changed(&stage, (change, map), count, readers).await?);
        }
        rows.push(to_zero_and_back(&stage, map, count, readers).await?);
    }
    Ok(rows)
}

async fn changed(
    stage: &Stage,
    (change, map): (Change, Map),
    count: usize,
    readers: usize,
) -> anyhow::Result<Row> {
    let (key, size) = (stage.key(), stage.options.size(SIZE));
    let mut fleet = stage
        .fleet(&Brief::new(count, vec![(key.clone(), size)]))
        .await?;
    fleet.warm().await?;
    let loops = |fleet: &Fleet<'_>, gateways, lasting| {
        (0..readers)
            .map(|index| {
                looping(
                    fleet,
                    (&key, size),
                    (map, index, readers),
                    &gateways,
                    lasting,
                )
            })
            .collect()
    };
    let around = loops(&fleet, fleet.addresses(), BEFORE + AROUND);
    let mut last = fleet.members.pop();
    let mut added = None;
    let run = fleet
        .run_while(around, async {
            tokio::time::sleep(BEFORE).await;
            added = happens(&fleet, change, count, last.as_mut()).await?;
            Ok(())
        })
        .await?;
    let now = match change {
        Change::Add => count + 1,
        Change::Drain | Change::Kill => count - 1,
    };
    let settled = loops(&fleet, (0..now).map(client_address).collect(), AFTER);
    let after = fleet.run(settled).await?;
    fleet.members.extend(last.into_iter().chain(added));
    fleet.stop().await?;
    let (name, origin) = match change {
        Change::Add => ("add one", 0.02),
        Change::Drain => ("drain one", 0.02),
        Change::Kill => ("kill one", 1.0 / count as f64),
    };
    let name = format!("{name}, {}", map.name());
    let mut row = Row::new(&name, count, &run, size)
        .origin_within(origin)
        .with_failures_of(&Row::new(&name, count, &after, size));
    if change != Change::Kill {
        row = row.unresumed();
    }
    row.times.clear();
    let share = LINK.payload() * now.min(readers) as f64;
    let got = 100.0 * after.bytes() as f64 / AFTER.as_secs_f64() / share;
    let gaps = run.readings.iter().map(|reading| reading.longest_gap);
    let stall = gaps.fold(0.0, f64::max);
    let report = &mut row.report;
    report.at_least(
        "of the new fair share",
        got,
        fair_share(map, now),
        Unit::Percent,
    );
    report.at_most("longest stall", stall, 1.0, Unit::FineSeconds);
    Ok(row)
}

/// What the readers have to get of the links of so many gateways, in percent.
///
/// Those who ask whichever gateway it may be have N−1 of N bytes cross a second time: the links carry 1 ÷ (2 − 1/N) of
/// what they do for those who ask the owner.
fn fair_share(map: Map, gateways: usize) -> f64 {
    let once = match map {
        Map::Mapped => 1.0,
        Map::Balanced => 1.0 / (2.0 - 1.0 / gateways as f64),
    };
    90.0 * once
}

/// Makes the change; `last` is the member that goes. Gives the member that came.
async fn happens(
    fleet: &Fleet<'_>,
    change: Change,
    count: usize,
    last: Option<&mut Member>,
) -> anyhow::Result<Option<Member>> {
    let last = last.context("there is no gateway to take away")?;
    match change {
        Change::Add => {
            let mut new = fleet.exec(count).await?;
            new.ready().await?;
            return Ok(Some(new));
        }
        Change::Drain => {
            let (status, _) = last.ask(Method::POST, "/-/drain").await?;
            ensure!(status == StatusCode::ACCEPTED, "/-/drain answers {status}");
        }
        Change::Kill => last.kill().await?,
    }
    Ok(None)
}

/// All gateways stop, and start again over their disks.
async fn to_zero_and_back(
    stage: &Stage,
    map: Map,
    count: usize,
    readers: usize,
) -> anyhow::Result<Row> {
    let (key, size) = (stage.key(), stage.options.size(SIZE));
    let brief = Brief {
        nvme: "2GiB",
        ..Brief::new(count, vec![(key.clone(), size)])
    };
    let mut fleet = stage.fleet(&brief).await?;
    fleet.warm().await?;
    fleet.on_disk_settles().await?;
    fleet.stop_members().await?;
    fleet.start_again().await?;
    let orders = (0..readers)
        .map(|index| fleet.order(index, &key, size, map.way(index)))
        .collect();
    let run = fleet.run(orders).await?;
    fleet.stop().await?;
    let name = format!("to zero and back, {}", map.name());
    let mut row = Row::new(&name, count, &run, size)
        .ideal(super::ideal(stage, count, readers, size, false))
        .origin_within(0.02)
        .unresumed();
    let percent = row.percent().unwrap_or(0.0);
    row.report.tell("of ideal", percent, Unit::Percent);
    Ok(row)
}

/// Reader `index`, again and again.
fn looping(
    fleet: &Fleet<'_>,
    (key, size): (&str, u64),
    (map, index, readers): (Map, usize, usize),
    gateways: &Arc<[SocketAddr]>,
    lasting: Duration,
) -> Order {
    let order = fleet.order(index, key, size, map.way(index));
    Order {
        plan: order.plan.map(|_| index % gateways.len()),
        gateways: Arc::clone(gateways),
        // Spread over the object, so that they do not move as one.
        start: index * extents(size).len() / readers,
        lasting: Some(lasting),
        ..order
    }
}
