//! Aggregate bandwidth grows with the gateways: warm reads by many, in several orders.

use super::net::{Layout, Rate};
use super::reader::Order;
use super::sheet::Row;
use super::stage::{Brief, Fleet, Run, Stage};
use super::{Map, Options, ideal, repeat};

const LINK: Rate = Rate::megabits(100);

/// Where there is one gateway, 128 connections share its link: see `fleet_start`.
const QUEUE: u64 = 1 << 20;

/// What the readers do.
#[derive(Clone, Copy, Debug)]
struct Manner {
    name: &'static str,
    map: Map,
    /// All begin at the first extent.
    same_order: bool,
    /// All read one block, as often as the object has blocks.
    one_block: bool,
    /// Passes before the one that counts, in which the fleet notices what is hot.
    before: usize,
    /// Percent of ideal; `None`: only shown.
    reach: Option<f64>,
}

/// Static placement alone cannot spread readers that all want the same extent next, so that with a map the same order
/// is only shown.
const MANNERS: [Manner; 5] = [
    Manner {
        name: "mapped",
        map: Map::Mapped,
        same_order: false,
        one_block: false,
        before: 0,
        reach: Some(96.0),
    },
    Manner {
        name: "balanced, second pass",
        map: Map::Balanced,
        same_order: false,
        one_block: false,
        before: 1,
        reach: Some(90.0),
    },
    Manner {
        name: "mapped, same order",
        map: Map::Mapped,
        same_order: true,
        one_block: false,
        before: 0,
        reach: None,
    },
    Manner {
        name: "balanced, same order",
        map: Map::Balanced,
        same_order: true,
        one_block: false,
        before: 1,
        reach: Some(90.0),
    },
    Manner {
        name: "balanced, one block",
        map: Map::Balanced,
        same_order: true,
        one_block: true,
        before: 1,
        reach: Some(90.0),
    },
];

pub(super) async fn run(options: &Options) -> anyhow::Result<Vec<Row>> {
    let counts = options.counts(&[1, 2, 4, 8]);
    let readers = options.readers(32);
    let most = counts.iter().copied().max().unwrap_or(1);
    let layout = Layout {
        gateway: LINK,
        client: LINK,
        towards_origin: Some(Rate::UNSHAPED),
        queue: Some(QUEUE),
        ..Layout::new(most, readers)
    };
    let stage = Stage::new(layout, options).await?;
    let maps = options.maps();
    let mut rows = Vec::new();
    for manner in MANNERS.iter().filter(|manner| maps.contains(&manner.map)) {
        for &count in &counts {
            let once = async || one(&stage, manner, count, readers).await;
            rows.push(repeat::median(count, &counts, once).await?);
        }
    }
    Ok(rows)
}

async fn one(stage: &Stage, manner: &Manner, count: usize, readers: usize) -> anyhow::Result<Row> {
    let (key, size) = (stage.key(), stage.options.size(32 << 20));
    let fleet = stage
        .fleet(&Brief::new(count, vec![(key.clone(), size)]))
        .await?;
    fleet.warm().await?;
    let orders = orders(&fleet, manner, &key, size, readers);
    let row = |run: &Run| {
        Row::new(manner.name, count, run, size)
            .ideal(ideal(stage, count, readers, size, false))
            .unresumed()
    };
    let mut before = Vec::new();
    for _ in 0..manner.before {
        let run = fleet.run(orders.clone()).await?;
        before.push(row(&run));
    }
    let run = fleet.run(orders).await?;
    let counted = row(&run);
    fleet.stop().await?;
    let counted = before.iter().fold(counted, Row::with_failures_of);
    Ok(match manner.reach {
        Some(reach) => counted.percent_of_ideal(reach),
        None => counted,
    })
}

fn orders(fleet: &Fleet<'_>, manner: &Manner, key: &str, size: u64, readers: usize) -> Vec<Order> {
    (0..readers)
        .map(|index| {
            let order = fleet.order(index, key, size, manner.map.way(index));
            Order {
                start: if manner.same_order { 0 } else { index },
                only: manner.one_block.then_some(0),
                ..order
            }
        })
        .collect()
}
