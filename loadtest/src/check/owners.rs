//! `owners`: two gateways of little memory whose tables name each other as the owner of everything, under two hundred
//! readers of an object that fits neither: nobody waits for whom waits for them.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::task::JoinSet;

use super::fleet::{Brief, Fleet};
use super::{BLOCK, Options};
use crate::client::{Ask, Client, Meter, Want};
use crate::origin::Settings;
use crate::report::{Report, Unit};

const READERS: usize = 200;
const SIZE: u64 = 48 * BLOCK;
const KEY: &str = "theirs";

pub(super) async fn run(options: &Options) -> anyhow::Result<Report> {
    let brief = Brief {
        each_other: true,
        ..Brief::new(2)
    };
    let settings = Settings {
        first_byte: Duration::from_millis(30),
        ..Settings::default()
    };
    let fleet = Fleet::start(options, settings, &brief).await?;
    fleet.origin.put(KEY, SIZE, 0);
    let begun = tokio::time::Instant::now();
    let mut readers = JoinSet::new();
    for reader in 0..READERS {
        let url = fleet.gateways[reader % 2].dataset("models");
        readers.spawn(async move {
            let meter = Arc::new(Meter::default());
            let mut client = Client::new(&url)?
                .metered(&meter)
                .patience(Duration::from_secs(60));
            meter.begin();
            let read = client.read(&Ask::new(KEY, Want::Whole)).await;
            Ok::<_, anyhow::Error>((read, meter.longest_gap()))
        });
    }
    let mut reads = Vec::with_capacity(READERS);
    while let Some(read) = readers.join_next().await {
        reads.push(read.context("a reader ended early")??);
    }
    let took = begun.elapsed().as_secs_f64();
    let whole = reads.iter().filter(|(read, _)| read.is_whole()).count();
    let wrong = reads.iter().filter(|(read, _)| read.is_false()).count();
    let gap = reads.iter().map(|(_, gap)| *gap).max().unwrap_or_default();
    let mut report = Report::new("owners");
    report.at_least(
        "readers that got all",
        whole as f64,
        READERS as f64,
        Unit::Count,
    );
    report.at_most("wrong bodies", wrong as f64, 0.0, Unit::Count);
    report.at_most(
        "a reader's longest wait for a byte",
        gap.as_secs_f64(),
        1.0,
        Unit::FineSeconds,
    );
    report.tell("all done after", took, Unit::Seconds);
    let read = fleet.sum("forebay_origin_bytes_total", &[]).await?;
    report.tell("origin bytes ÷ size", read / SIZE as f64, Unit::Times);
    fleet.finish(report).await
}
