//! A model server's start, bytes 1:100 and time 1:10: the first from a store that is slow a connection, the second from
//! the cache.

use std::time::Duration;

use super::net::{Layout, Rate};
use super::reader::Way;
use super::sheet::Row;
use super::stage::{Brief, Stage};
use super::{Map, Options, ideal, repeat};

/// The store's rate a connection, in bytes a second, and its time to the first byte.
const CONNECTION: u64 = 12_400_000;
const FIRST_BYTE: Duration = Duration::from_millis(50);
const SIZE: u64 = 125_500_000;

pub(super) async fn run(options: &Options) -> anyhow::Result<Vec<Row>> {
    let count = options.count(2);
    let layout = Layout {
        gateway: Rate::megabits(1000),
        client: Rate::megabits(2000),
        ..Layout::new(count, 1)
    };
    let stage = Stage::new(layout, options).await?;
    let mut rows = Vec::new();
    for cold in [true, false] {
        let once = async || one(&stage, count, cold).await;
        rows.push(repeat::median(count, &[count], once).await?);
    }
    Ok(rows)
}

async fn one(stage: &Stage, count: usize, cold: bool) -> anyhow::Result<Row> {
    let (key, size) = (stage.key(), stage.options.size(SIZE));
    let brief = Brief {
        connection_rate: Some(CONNECTION),
        first_byte: FIRST_BYTE,
        ..Brief::new(count, vec![(key.clone(), size)])
    };
    let fleet = stage.fleet(&brief).await?;
    let way = match stage.options.map {
        Some(Map::Balanced) => Way::Balanced {
            connections: count,
            first: 0,
        },
        _ => Way::Each { connections: 1 },
    };
    let order = fleet.order(0, &key, size, way);
    if !cold {
        fleet.run(vec![order.clone()]).await?;
    }
    let run = fleet.run(vec![order]).await?;
    fleet.stop().await?;
    let (name, bar) = if cold {
        ("first", 1.17)
    } else {
        ("second", 0.56)
    };
    let row = Row::new(name, count, &run, size)
        .ideal(ideal(stage, count, 1, size, cold))
        .last_within(bar * size as f64 / SIZE as f64)
        .unresumed();
    Ok(if cold && stage.options.stand_in.is_none() {
        row.origin_within(1.02)
    } else {
        row
    })
}
