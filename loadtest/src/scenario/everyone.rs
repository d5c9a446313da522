//! Every node wants every byte: a gateway on each, with little bandwidth towards the origin and more among themselves.

use super::net::{Layout, Rate, client_address};
use super::reader::{Order, Way};
use super::sheet::Row;
use super::stage::{Brief, Stage};
use super::{Options, repeat};

const TOWARDS_ORIGIN: Rate = Rate::megabits(24);
const AMONG: Rate = Rate::megabits(96);
const SIZE: u64 = 96 << 20;

pub(super) async fn run(options: &Options) -> anyhow::Result<Vec<Row>> {
    let count = options.count(12);
    let layout = Layout {
        gateway: AMONG,
        towards_origin: Some(TOWARDS_ORIGIN),
        ..Layout::new(count, 0)
    };
    let stage = Stage::new(layout, options).await?;
    let once = async || one(&stage, count).await;
    Ok(vec![repeat::median(count, &[count], once).await?])
}

async fn one(stage: &Stage, count: usize) -> anyhow::Result<Row> {
    let (key, size) = (stage.key(), stage.options.size(SIZE));
    let fleet = stage
        .fleet(&Brief::new(count, vec![(key.clone(), size)]))
        .await?;
    let orders = (0..count)
        .map(|index| Order {
            gateways: [client_address(index)].into(),
            plan: None,
            way: Way::Stream { gateway: 0 },
            ..fleet.order_at(index, &key, size)
        })
        .collect();
    let run = fleet.run(orders).await?;
    fleet.stop().await?;
    // What a node does not read itself must come from the others.
    let own = size as f64 / count as f64;
    let layout = &stage.layout;
    let from_others = (size as f64 - own) / layout.gateway.payload();
    let towards_origin = layout.towards_origin.unwrap_or(Rate::UNSHAPED);
    let ideal = from_others.max(own / towards_origin.payload());
    let within = 8.9 * size as f64 / SIZE as f64 * f64::from(stage.options.slower());
    Ok(Row::new("one reader a node", count, &run, size)
        .ideal(ideal)
        .last_within(within)
        .origin_within(1.005)
        .unresumed())
}
