//! Two zones with a narrow link between: what is wanted there crosses it once.

use super::net::{Layout, Rate};
use super::reader::{Order, Way};
use super::sheet::Row;
use super::stage::{Brief, Stage};
use super::{Options, repeat};
use crate::report::Unit;

const BETWEEN: Rate = Rate::megabits(200);

pub(super) async fn run(options: &Options) -> anyhow::Result<Vec<Row>> {
    let count = options.count(4);
    let readers = options.readers(16);
    let layout = Layout {
        gateway: Rate::megabits(400),
        client: Rate::megabits(100),
        zones: Some(BETWEEN),
        ..Layout::new(count, readers)
    };
    let stage = Stage::new(layout, options).await?;
    let once = async || one(&stage, count, readers).await;
    Ok(vec![repeat::median(count, &[count], once).await?])
}

async fn one(stage: &Stage, count: usize, readers: usize) -> anyhow::Result<Row> {
    let (key, size) = (stage.key(), stage.options.size(64 << 20));
    let fleet = stage
        .fleet(&Brief {
            zones: true,
            ..Brief::new(count, vec![(key.clone(), size)])
        })
        .await?;
    let there: std::sync::Arc<[_]> = fleet.addresses()[count.div_ceil(2)..].into();
    let orders = (0..readers)
        .map(|index| Order {
            gateways: there.clone(),
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
    let before = stage.net.crossed().await?;
    let run = fleet.run(orders).await?;
    let crossed = stage.net.crossed().await? - before;
    fleet.stop().await?;
    let between = stage.layout.zones.unwrap_or(Rate::UNSHAPED);
    let link = size as f64 / between.payload();
    let fleet_link = (readers as u64 * size) as f64
        / (stage.layout.gateway.payload() * (count - count.div_ceil(2)) as f64);
    let own = size as f64 / stage.layout.client.payload();
    let mut row = Row::new("readers beyond", count, &run, size)
        .ideal(link.max(fleet_link).max(own))
        .origin_within(1.02)
        .unresumed();
    // The counter has the frames' headers too, and a link's payload is what a frame carries of its size.
    let payload = crossed as f64 * BETWEEN.payload() / (200e6 / 8.0);
    row.report.at_most(
        "bytes across ÷ unique",
        payload / size as f64,
        1.02,
        Unit::Times,
    );
    Ok(row)
}
