//! One reader, far from a store that gives little on each connection: cold over one connection, and warm over one to
//! each of two gateways.

use std::time::Duration;

use super::net::{Layout, Rate};
use super::reader::Way;
use super::sheet::Row;
use super::stage::{Brief, Stage};
use super::{Options, ideal, repeat};

/// The store's rate a connection, in bytes a second, and its time to the first byte.
const CONNECTION: u64 = 8_570_000;
const FIRST_BYTE: Duration = Duration::from_millis(50);
const SIZE: u64 = 340 << 20;

pub(super) async fn run(options: &Options) -> anyhow::Result<Vec<Row>> {
    let counts = options.counts(&[1, 2]);
    let mut rows = Vec::new();
    for &count in &counts {
        let cold = count == 1 && options.stand_in.is_none();
        let link = if cold { 2000 } else { 2000 / count as u64 };
        let layout = Layout {
            gateway: Rate::megabits(link),
            client: Rate::megabits(2000),
            origin: Rate::megabits(1000),
            towards_origin: (!cold).then_some(Rate::UNSHAPED),
            ..Layout::new(count, 1)
        };
        let stage = Stage::new(layout, options).await?;
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
        memory: "2GiB",
        ..Brief::new(count, vec![(key.clone(), size)])
    };
    let fleet = stage.fleet(&brief).await?;
    if !cold {
        fleet.warm().await?;
    }
    let way = if cold {
        Way::Stream { gateway: 0 }
    } else {
        Way::Each { connections: 1 }
    };
    let run = fleet.run(vec![fleet.order(0, &key, size, way)]).await?;
    fleet.stop().await?;
    let name = if cold {
        "cold, one connection"
    } else {
        "warm, one each"
    };
    let row = Row::new(name, count, &run, size)
        .ideal(ideal(stage, count, 1, size, cold))
        .unresumed();
    let scale = size as f64 / SIZE as f64;
    Ok(if cold {
        row.last_within(3.3 * scale).origin_within(1.02)
    } else {
        row.last_within(1.57 * scale)
    })
}
