//! A market of models: many of them, few readers each, so that no copy of anything helps.

use super::net::{Layout, Rate};
use super::reader::{Order, Way};
use super::sheet::Row;
use super::stage::{Brief, Fleet, Stage};
use super::{Map, Options, repeat};
use crate::report::Unit;

const LINK: Rate = Rate::megabits(100);

/// How the readers reach the fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    Mapped,
    Edges,
    Balanced,
}

pub(super) async fn run(options: &Options) -> anyhow::Result<Vec<Row>> {
    let counts = options.counts(&[1, 2, 4, 8]);
    let readers = options.readers(32);
    let most = counts.iter().copied().max().unwrap_or(1);
    let manners = match options.map {
        Some(Map::Mapped) => vec![Manner::Mapped],
        Some(Map::Balanced) => vec![Manner::Balanced],
        None if options.stand_in.is_some() => vec![Manner::Mapped, Manner::Balanced],
        None => vec![Manner::Mapped, Manner::Edges, Manner::Balanced],
    };
    let edges = if manners.contains(&Manner::Edges) {
        readers
    } else {
        0
    };
    let layout = Layout {
        gateway: LINK,
        client: LINK,
        towards_origin: Some(Rate::UNSHAPED),
        ..Layout::new(most + edges, readers)
    };
    let stage = Stage::new(layout, options).await?;
    let mut rows = Vec::new();
    for manner in manners {
        for &count in &counts {
            let once = async || one(&stage, manner, count, readers).await;
            rows.push(repeat::median(count, &counts, once).await?);
        }
    }
    Ok(rows)
}

async fn one(stage: &Stage, manner: Manner, count: usize, readers: usize) -> anyhow::Result<Row> {
    let size = stage.options.size(16 << 20);
    let models: Vec<_> = (0..readers)
        .map(|number| (format!("{number}-{}", stage.key()), size))
        .collect();
    let edges = if manner == Manner::Edges { readers } else { 0 };
    let fleet = stage
        .fleet(&Brief {
            edges,
            ..Brief::new(count + edges, models.clone())
        })
        .await?;
    fleet.warm().await?;
    let before = served(&fleet, stage).await?;
    let orders = models
        .iter()
        .enumerate()
        .map(|(index, (key, _))| match manner {
            Manner::Mapped => fleet.order(index, key, size, Map::Mapped.way(index)),
            Manner::Balanced => fleet.order(index, key, size, Map::Balanced.way(index)),
            Manner::Edges => beside(&fleet, count + index, key, size),
        })
        .collect();
    let run = fleet.run(orders).await?;
    let after = served(&fleet, stage).await?;
    fleet.stop().await?;
    let total = (readers as u64 * size) as f64;
    let link = stage.layout.gateway.payload();
    let ideal = (total / (link * count as f64)).max(size as f64 / link);
    let (name, reach) = match manner {
        Manner::Mapped => ("mapped", 95.0),
        Manner::Edges => ("edges", 95.0),
        Manner::Balanced => ("balanced", 50.0),
    };
    let mut row = Row::new(name, count, &run, total as u64)
        .ideal(ideal)
        .percent_of_ideal(reach)
        .unresumed();
    if manner == Manner::Balanced {
        let twice = 100.0 * (after - before) / total;
        row.report
            .tell("bytes that crossed twice", twice, Unit::Percent);
    }
    Ok(row)
}

/// Object bytes that the gateways have served out of what a peer gave them.
async fn served(fleet: &Fleet<'_>, stage: &Stage) -> anyhow::Result<f64> {
    let mut sum = 0.0;
    if stage.options.stand_in.is_none() {
        for member in &fleet.members {
            let metrics = member.metrics().await?;
            let labels = [("source", "peer")];
            sum += metrics
                .sum("forebay_response_bytes_total", &labels)
                .unwrap_or(0.0);
        }
    }
    Ok(sum)
}

/// A reader on the host of its edge member, which it asks for everything.
fn beside(fleet: &Fleet<'_>, edge: usize, key: &str, size: u64) -> Order {
    Order {
        gateways: [super::net::client_address(edge)].into(),
        plan: None,
        way: Way::Mapped { in_flight: 4 },
        ..fleet.order_at(edge, key, size)
    }
}
