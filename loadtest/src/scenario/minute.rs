//! Close to 100 GB in a minute: one reader that takes all that its link gives, warm.

use super::net::{Layout, Rate};
use super::reader::Way;
use super::sheet::Row;
use super::stage::{Brief, Stage};
use super::{Options, ideal, repeat};

const CLIENT: Rate = Rate::megabits(1000);

pub(super) async fn run(options: &Options) -> anyhow::Result<Vec<Row>> {
    let count = options.count(4);
    let mut rows = Vec::new();
    let set_ups = [
        ("one connection each", 400, Way::Each { connections: 1 }),
        ("four connections each", 400, Way::Each { connections: 4 }),
        ("one connection", 1000, Way::Stream { gateway: 0 }),
    ];
    for (name, link, way) in set_ups {
        let layout = Layout {
            gateway: Rate::megabits(link),
            client: CLIENT,
            towards_origin: Some(Rate::UNSHAPED),
            ..Layout::new(count, 1)
        };
        let stage = Stage::new(layout, options).await?;
        let (key, size) = (stage.key(), options.size(1 << 30));
        let brief = Brief {
            memory: "4GiB",
            ..Brief::new(count, vec![(key.clone(), size)])
        };
        let fleet = stage.fleet(&brief).await?;
        fleet.warm().await?;
        // One connection leaves the fleet by one gateway's link.
        let gateways = if matches!(way, Way::Stream { .. }) {
            1
        } else {
            count
        };
        let once = async || {
            let run = fleet.run(vec![fleet.order(0, &key, size, way)]).await?;
            Ok(Row::new(name, count, &run, size)
                .ideal(ideal(&stage, gateways, 1, size, false))
                .percent_of_ideal(96.0)
                .unresumed())
        };
        rows.push(repeat::median(count, &[count], once).await?);
        fleet.stop().await?;
    }
    Ok(rows)
}
