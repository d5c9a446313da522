//! Warming: what it costs a reader beside it, how fast small objects come, how true its forecast is.

use std::time::Duration;

use anyhow::{Context, bail};
use http::{Method, StatusCode};
use serde::Deserialize;
use tokio::time::Instant;

use super::{BLOCK, Options, Rig};
use crate::client::{Ask, Client, Outcome, Want};
use crate::origin::Settings;
use crate::report::{Report, Unit};

/// A job that hangs is given up.
const PATIENCE: Duration = Duration::from_secs(100);

/// Between two looks at it.
const LOOK: Duration = Duration::from_millis(20);

/// A link that is narrow enough for the processor to idle: what is measured is how it is shared.
const LINK: u64 = 48 << 20;

/// Small objects: so many, of so many bytes.
const SMALL: (u64, u64) = (20_000, 40 << 10);

/// A job, as far as it is looked at.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Job {
    id: String,
    pub(super) state: String,
    pub(super) percent: f64,
    eta_seconds: Option<u64>,
    error: Option<String>,
}

pub(super) async fn run(options: &Options) -> anyhow::Result<Report> {
    let mut report = Report::new("warm");
    beside_a_reader(options, &mut report).await?;
    small(options, &mut report).await?;
    forecast(options, &mut report).await?;
    Ok(report)
}

/// A reader of cold bytes beside a job over the same narrow link, and alone.
async fn beside_a_reader(options: &Options, report: &mut Report) -> anyhow::Result<()> {
    let settings = Settings {
        total_rate: Some(LINK),
        ..Settings::default()
    };
    let rig = rig(options, settings).await?;
    let size = 6 * LINK;
    rig.origin.put("alone", size, 0);
    rig.origin.put("beside", size, 0);
    rig.origin.put("job/job", 4 * size, 0);
    let mut client = Client::new(&rig.gateway.dataset("models"))?.patience(PATIENCE);
    let mut took = async |key: &str| -> anyhow::Result<Duration> {
        let begun = Instant::now();
        let read = client.read(&Ask::new(key, Want::Whole)).await;
        match read.outcome {
            Outcome::Whole => Ok(begun.elapsed()),
            _ => bail!("the reader got {read:?}"),
        }
    };
    let alone = took("alone").await?;
    let job = begin(&rig, "job/").await?;
    // Until it uses the whole link.
    while look(&rig, &job).await?.percent < 3.0 {
        tokio::time::sleep(LOOK).await;
    }
    let beside = took("beside").await?;
    let percent = look(&rig, &job).await?.percent;
    report.at_least(
        "reader's speed beside a job ÷ alone",
        100.0 * alone.as_secs_f64() / beside.as_secs_f64(),
        90.0,
        Unit::Percent,
    );
    report.tell("reader alone", alone.as_secs_f64(), Unit::FineSeconds);
    report.tell("the job by then", percent, Unit::Percent);
    rig.gateway.stop().await.context("stop gateway")?;
    Ok(())
}

/// Many small objects, against what the same origin gives to as many connections that do nothing else.
async fn small(options: &Options, report: &mut Report) -> anyhow::Result<()> {
    let settings = Settings {
        first_byte: Duration::from_millis(30),
        ..Settings::default()
    };
    let rig = rig(options, settings).await?;
    let (count, bytes) = SMALL;
    for number in 0..count {
        rig.origin.put(&format!("small/{number}"), bytes, 0);
    }
    let begun = Instant::now();
    let job = begin(&rig, "small/").await?;
    over(&rig, &job).await?;
    let took = begun.elapsed().as_secs_f64();
    let counters = rig.origin.counters();
    let per_object = (counters.gets + counters.heads) as f64 / count as f64;
    report.at_most("requests a small object", per_object, 1.01, Unit::Times);
    // Three quarters of 64 connections, which wait 30 ms for each object.
    let ideal = count as f64 * 0.030 / 48.0;
    report.at_least(
        "small objects: latency's share of the time",
        100.0 * ideal / took,
        60.0,
        Unit::Percent,
    );
    report.tell("small objects a second", count as f64 / took, Unit::Count);
    let before = rig.origin.counters();
    let begun = Instant::now();
    let job = begin(&rig, "small/").await?;
    over(&rig, &job).await?;
    let again = rig.origin.counters();
    let read = again.bytes_sent - before.bytes_sent + again.gets - before.gets;
    report.at_most("read once more", read as f64, 0.0, Unit::Count);
    report.tell("again", begun.elapsed().as_secs_f64(), Unit::FineSeconds);
    let peak = rig.gateway.peak_memory().context("read peak memory")?;
    report.at_most(
        "peak memory of 1.1 × (memory + 64 MiB)",
        peak as f64 / BLOCK as f64,
        1.1 * (2048.0 + 64.0),
        Unit::Mebibytes,
    );
    rig.gateway.stop().await.context("stop gateway")?;
    Ok(())
}

/// What a job says it will take yet, once it is a tenth done, against what it took.
async fn forecast(options: &Options, report: &mut Report) -> anyhow::Result<()> {
    let settings = Settings {
        total_rate: Some(LINK),
        first_byte: Duration::from_millis(30),
        ..Settings::default()
    };
    let rig = rig(options, settings).await?;
    rig.origin.put("a/a", 14 * LINK, 0);
    let job = begin(&rig, "a/").await?;
    let mut told = Vec::new();
    let begun = Instant::now();
    loop {
        let now = look(&rig, &job).await?;
        match (now.state.as_str(), now.eta_seconds) {
            ("done", _) => break,
            ("running", Some(eta)) if (10.0..90.0).contains(&now.percent) => {
                told.push((begun.elapsed().as_secs_f64(), eta as f64));
            }
            _ => {}
        }
        tokio::time::sleep(LOOK).await;
    }
    let end = begun.elapsed().as_secs_f64();
    // A second is as exact as it is told.
    let off = told
        .iter()
        .map(|(at, eta)| ((at + eta - end).abs() - 1.0).max(0.0) / (end - at));
    let worst = off.fold(0.0, f64::max);
    report.at_most(
        "forecast off by, at worst",
        100.0 * worst,
        20.0,
        Unit::Percent,
    );
    rig.gateway.stop().await.context("stop gateway")?;
    Ok(())
}

async fn rig(options: &Options, settings: Settings) -> anyhow::Result<Rig> {
    Rig::start(
        options,
        settings,
        "2GiB",
        &[("models", "fresh_for = \"10m\"")],
    )
    .await
}

pub(super) async fn begin(rig: &Rig, prefix: &str) -> anyhow::Result<String> {
    let path = format!("/-/warm/models/{prefix}");
    let (status, body) = rig.gateway.ask(Method::POST, &path).await?;
    if status != StatusCode::ACCEPTED {
        bail!("POST {path} answers {status}");
    }
    let job: Job = serde_json::from_slice(&body).context("read the job")?;
    Ok(job.id)
}

pub(super) async fn look(rig: &Rig, id: &str) -> anyhow::Result<Job> {
    let (_, body) = rig.gateway.get(&format!("/-/warm/{id}")).await?;
    let job: Job = serde_json::from_slice(&body).context("read the job")?;
    match job.state.as_str() {
        "failed" | "cancelled" => bail!("the job {}: {:?}", job.state, job.error),
        _ => Ok(job),
    }
}

async fn over(rig: &Rig, id: &str) -> anyhow::Result<()> {
    let begun = Instant::now();
    while look(rig, id).await?.state != "done" {
        if begun.elapsed() > PATIENCE {
            bail!("the job does not end within {PATIENCE:?}");
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}
