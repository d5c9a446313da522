//! `fairness`: many cold streams at once share what the origin gives.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use super::{BLOCK, Options, Rig};
use crate::client::{Ask, Client, Meter, Want};
use crate::origin::Settings;
use crate::report::{Report, Unit, jain};

const STREAMS: usize = 64;
const SIZE: u64 = 64 * BLOCK;

/// So slow that nobody is done when it is judged.
const RATE: u64 = 250_000_000;

const JUDGED_AFTER: Duration = Duration::from_secs(10);

/// The gateway's default for a dataset.
const CONNECTIONS: f64 = 64.0;

pub(super) async fn run(options: &Options) -> anyhow::Result<Report> {
    let settings = Settings {
        total_rate: Some(RATE),
        ..Settings::remote()
    };
    let rig = Rig::start(options, settings, "2GiB", &[("models", "")]).await?;
    let mut meters = Vec::new();
    let mut streams = JoinSet::new();
    for stream in 0..STREAMS {
        let key = format!("stream/{stream}");
        rig.origin.put(&key, SIZE, 0);
        let meter = Arc::new(Meter::default());
        let mut client = Client::new(&rig.gateway.dataset("models"))?.metered(&meter);
        meters.push(meter);
        streams.spawn(async move { client.read(&Ask::new(&key, Want::Whole)).await });
    }
    tokio::time::sleep(JUDGED_AFTER).await;
    let got: Vec<f64> = meters.iter().map(|meter| meter.bytes() as f64).collect();
    let mut whole = 0;
    while let Some(read) = streams.join_next().await {
        whole += usize::from(read?.is_whole());
    }
    let peak = rig.origin.counters().peak;
    let mut report = Report::new("fairness");
    report.at_least("Jain over bytes in 10 s", jain(&got), 0.95, Unit::Times);
    let least = got.iter().copied().fold(f64::MAX, f64::min);
    report.tell("the least of them", least / BLOCK as f64, Unit::Mebibytes);
    let most = got.iter().copied().fold(0.0, f64::max);
    report.tell("the most of them", most / BLOCK as f64, Unit::Mebibytes);
    report.at_most(
        "origin requests at once",
        peak as f64,
        CONNECTIONS,
        Unit::Count,
    );
    report.at_least(
        "streams served whole",
        whole as f64,
        STREAMS as f64,
        Unit::Count,
    );
    rig.finish(report).await
}
