//! A hundred instances start at once over a bucket of limited bandwidth: alone each would get a hundredth of it.

use super::net::{Layout, Rate};
use super::sheet::Row;
use super::stage::{Brief, Stage};
use super::{Map, Options, ideal, repeat};

const LINK: Rate = Rate::megabits(200);
const CLIENT: Rate = Rate::megabits(100);

/// Where there is one gateway, 400 connections share its link: in a queue of 25 ms each would have a frame, lose every
/// third, and wait for timeouts that double. In this one, of 170 ms, each has seven.
const QUEUE: u64 = 4 << 20;

pub(super) async fn run(options: &Options) -> anyhow::Result<Vec<Row>> {
    let counts = options.counts(&[1, 2, 4, 8]);
    let readers = options.readers(100);
    let most = counts.iter().copied().max().unwrap_or(1);
    let layout = Layout {
        gateway: LINK,
        client: CLIENT,
        origin: LINK,
        queue: Some(QUEUE),
        ..Layout::new(most, readers)
    };
    let stage = Stage::new(layout, options).await?;
    let mut rows = Vec::new();
    for map in options.maps() {
        for &count in &counts {
            let once = async || one(&stage, map, count, readers).await;
            rows.push(repeat::median(count, &counts, once).await?);
        }
    }
    Ok(rows)
}

async fn one(stage: &Stage, map: Map, count: usize, readers: usize) -> anyhow::Result<Row> {
    let (key, size) = (stage.key(), stage.options.size(16 << 20));
    let fleet = stage
        .fleet(&Brief::new(count, vec![(key.clone(), size)]))
        .await?;
    let orders = (0..readers)
        .map(|index| fleet.order(index, &key, size, map.way(index)))
        .collect();
    let run = fleet.run(orders).await?;
    fleet.stop().await?;
    let factor = match map {
        Map::Mapped => 1.06,
        Map::Balanced => 1.15,
    };
    let row = Row::new(map.name(), count, &run, size)
        .ideal(ideal(stage, count, readers, size, true))
        .within(factor)
        .spread_within(1.15)
        .unresumed();
    Ok(if stage.options.stand_in.is_some() {
        row
    } else {
        row.origin_within(1.02)
    })
}
