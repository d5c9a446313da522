//! Prefetch before the service starts: how fast, how honest its progress is, and what a second one costs.

use std::time::Duration;

use anyhow::{Context, bail};
use http::{Method, StatusCode};
use serde::Deserialize;
use tokio::time::Instant;

use super::cpu::Ticks;
use super::member::Member;
use super::net::{Layout, Rate};
use super::sheet::Row;
use super::stage::{Brief, Fleet, Stage};
use super::{DATASET, Options, repeat};
use crate::report::Unit;

const LINK: Rate = Rate::megabits(400);
const SIZE: u64 = 1 << 30;

/// A job takes 22 s of the link; a job that hangs is given up.
const PATIENCE: Duration = Duration::from_secs(180);

/// Between two looks at the progress.
const LOOK: Duration = Duration::from_millis(100);

pub(super) async fn run(options: &Options) -> anyhow::Result<Vec<Row>> {
    if options.stand_in.is_some() {
        bail!("this scenario is about warming; it has no stand-ins");
    }
    let count = options.count(4);
    let layout = Layout {
        gateway: LINK,
        origin: LINK,
        ..Layout::new(count, 0)
    };
    let stage = Stage::new(layout, options).await?;
    let whole = async || whole(&stage, count).await;
    let mut rows = vec![repeat::median(count, &[count], whole).await?];
    if count > 1 {
        rows.push(with_a_death(&stage, count).await?);
    }
    Ok(rows)
}

/// A job, as far as it is looked at.
#[derive(Clone, Debug, Deserialize)]
struct Job {
    id: String,
    state: String,
    resident_bytes: u64,
    error: Option<String>,
}

/// What watching a job to its end showed.
struct Watched {
    took: f64,
    /// The most that its progress was above what the origin had sent, and below it.
    ahead: u64,
    behind: u64,
}

async fn begin(member: &Member) -> anyhow::Result<Job> {
    let path = format!("/-/warm/{DATASET}/");
    let (status, body) = member.ask(Method::POST, &path).await?;
    if status != StatusCode::ACCEPTED {
        bail!("POST {path} answers {status}");
    }
    serde_json::from_slice(&body).context("read the job")
}

async fn watch(
    fleet: &Fleet<'_>,
    member: &Member,
    half_way: Option<u64>,
) -> anyhow::Result<Watched> {
    let begun = Instant::now();
    let id = begin(member).await?.id;
    let (mut ahead, mut behind) = (0, 0);
    while begun.elapsed() < PATIENCE {
        // The origin's count is read before and after, for its bytes move on meanwhile.
        let before = fleet.origin.counters().bytes_sent;
        let job: Job = serde_json::from_value(member.json(&format!("/-/warm/{id}")).await?)
            .context("read the job")?;
        let after = fleet.origin.counters().bytes_sent;
        ahead = ahead.max(job.resident_bytes.saturating_sub(after));
        match job.state.as_str() {
            "done" => {
                return Ok(Watched {
                    took: begun.elapsed().as_secs_f64(),
                    ahead,
                    behind,
                });
            }
            "failed" | "cancelled" => {
                bail!("the job {}: {}", job.state, job.error.unwrap_or_default())
            }
            _ => behind = behind.max(before.saturating_sub(job.resident_bytes)),
        }
        if half_way.is_some_and(|bytes| job.resident_bytes >= bytes) {
            return Ok(Watched {
                took: begun.elapsed().as_secs_f64(),
                ahead,
                behind,
            });
        }
        tokio::time::sleep(LOOK).await;
    }
    bail!("the job does not end within {PATIENCE:?}")
}

async fn whole(stage: &Stage, count: usize) -> anyhow::Result<Row> {
    let (key, size) = (stage.key(), stage.options.size(SIZE));
    let brief = Brief {
        memory: "2GiB",
        ..Brief::new(count, vec![(key, size)])
    };
    let fleet = stage.fleet(&brief).await?;
    let ticks = Ticks::now();
    let first = watch(&fleet, &fleet.members[0], None).await?;
    let idle = Ticks::now().idle_since(ticks);
    let sent = fleet.origin.counters().bytes_sent;
    let second = watch(&fleet, &fleet.members[0], None).await?;
    let again = fleet.origin.counters().bytes_sent - sent;
    fleet.stop().await?;
    let ideal = size as f64 / LINK.payload();
    let mut row = Row::bare("cold, then again", count, idle).ideal(ideal);
    row.times = vec![first.took];
    row.origin_ratio = Some(sent as f64 / size as f64);
    let mut row = row.percent_of_ideal(97.0).origin_within(1.02);
    let mebibytes = |bytes: u64| bytes as f64 / (1 << 20) as f64;
    let report = &mut row.report;
    report.at_most(
        "progress ahead of the origin",
        mebibytes(first.ahead),
        0.0,
        Unit::Mebibytes,
    );
    report.at_most(
        "progress behind it",
        mebibytes(first.behind),
        64.0,
        Unit::Mebibytes,
    );
    report.at_most("second run", second.took, 0.2, Unit::FineSeconds);
    report.at_most(
        "bytes of the second run",
        mebibytes(again),
        0.0,
        Unit::Mebibytes,
    );
    Ok(row)
}

/// One member dies half-way; the job goes on.
async fn with_a_death(stage: &Stage, count: usize) -> anyhow::Result<Row> {
    let (key, size) = (stage.key(), stage.options.size(SIZE));
    let brief = Brief {
        memory: "2GiB",
        ..Brief::new(count, vec![(key, size)])
    };
    let mut fleet = stage.fleet(&brief).await?;
    let ticks = Ticks::now();
    let begun = Instant::now();
    watch(&fleet, &fleet.members[0], Some(size / 2)).await?;
    if let Some(mut last) = fleet.members.pop() {
        last.kill().await?;
    }
    // Asked for again, a job that runs is the job that runs.
    watch(&fleet, &fleet.members[0], None).await?;
    let mut row = Row::bare(
        "a member dies half-way",
        count,
        Ticks::now().idle_since(ticks),
    );
    row.times = vec![begun.elapsed().as_secs_f64()];
    row.origin_ratio = Some(fleet.origin.counters().bytes_sent as f64 / size as f64);
    fleet.stop().await?;
    Ok(row.origin_within(1.10))
}
