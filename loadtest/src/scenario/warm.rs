//! Prefetch before the service starts: how fast, how honest its progress is, and what a second one costs.

use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
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

/// Half of the link, and a little: bytes a second.
const RATE: f64 = (24 << 20) as f64;
const AT_A_RATE: &str = r#"{"rate": "24MiB"}"#;

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
    rows.push(at_a_rate(&stage, count).await?);
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
    percent: f64,
    eta_seconds: Option<u64>,
    error: Option<String>,
}

/// What watching a job to its end showed.
struct Watched {
    took: f64,
    /// The most that its progress was above what the origin had sent, and below it.
    ahead: u64,
    behind: u64,
    /// The most that it went back.
    back: u64,
    /// The worst that its forecast was off after the first tenth, in parts of what it took yet.
    off: f64,
}

/// How a job's progress looks, from one look to the next.
#[derive(Default)]
struct Seen {
    ahead: u64,
    behind: u64,
    most: u64,
    back: u64,
    /// When it said how long it would take yet, and that.
    told: Vec<(f64, f64)>,
}

impl Seen {
    /// Notes what a job says; the origin had sent `sent` before it was asked, and after.
    fn note(&mut self, at: f64, job: &Job, sent: (u64, u64)) {
        let resident = job.resident_bytes;
        self.ahead = self.ahead.max(resident.saturating_sub(sent.1));
        self.back = self.back.max(self.most.saturating_sub(resident));
        self.most = self.most.max(resident);
        if job.state != "done" {
            self.behind = self.behind.max(sent.0.saturating_sub(resident));
        }
        if let Some(eta) = job.eta_seconds
            && job.state == "running"
            && (10.0..90.0).contains(&job.percent)
        {
            self.told.push((at, eta as f64));
        }
    }

    fn watched(self, end: f64) -> Watched {
        // A second is as exact as it is told.
        let told = self.told.into_iter();
        let off = told.map(|(at, eta)| ((at + eta - end).abs() - 1.0).max(0.0) / (end - at));
        Watched {
            took: end,
            ahead: self.ahead,
            behind: self.behind,
            back: self.back,
            off: off.fold(0.0, f64::max),
        }
    }
}

async fn begin(member: &Member, body: &'static str) -> anyhow::Result<Job> {
    let path = format!("/-/warm/{DATASET}/");
    let body = Bytes::from_static(body.as_bytes());
    let (status, body) = member.tell(Method::POST, &path, body).await?;
    if status != StatusCode::ACCEPTED {
        bail!("POST {path} answers {status}");
    }
    serde_json::from_slice(&body).context("read the job")
}

/// Begins a job with this body, or finds it, and watches it to its end, or until so much of it is there.
async fn watch(
    fleet: &Fleet<'_>,
    member: &Member,
    body: &'static str,
    half_way: Option<u64>,
) -> anyhow::Result<Watched> {
    let begun = Instant::now();
    let id = begin(member, body).await?.id;
    let mut seen = Seen::default();
    while begun.elapsed() < PATIENCE {
        // The origin's count is read before and after, for its bytes move on meanwhile.
        let before = fleet.origin.counters().bytes_sent;
        let job: Job = serde_json::from_value(member.json(&format!("/-/warm/{id}")).await?)
            .context("read the job")?;
        let after = fleet.origin.counters().bytes_sent;
        let at = begun.elapsed().as_secs_f64();
        seen.note(at, &job, (before, after));
        let enough = half_way.is_some_and(|bytes| job.resident_bytes >= bytes);
        match job.state.as_str() {
            "done" => return Ok(seen.watched(at)),
            "failed" | "cancelled" => {
                bail!("the job {}: {}", job.state, job.error.unwrap_or_default())
            }
            _ if enough => return Ok(seen.watched(at)),
            _ => tokio::time::sleep(LOOK).await,
        }
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
    let first = watch(&fleet, &fleet.members[0], "", None).await?;
    let idle = Ticks::now().idle_since(ticks);
    let sent = fleet.origin.counters().bytes_sent;
    let second = watch(&fleet, &fleet.members[0], "", None).await?;
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
    report.at_most(
        "progress goes back by",
        mebibytes(first.back),
        0.0,
        Unit::Mebibytes,
    );
    report.at_most(
        "forecast off by, at worst",
        100.0 * first.off,
        20.0,
        Unit::Percent,
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

/// A job that is told how fast it may be.
async fn at_a_rate(stage: &Stage, count: usize) -> anyhow::Result<Row> {
    let (key, size) = (stage.key(), stage.options.size(SIZE));
    let brief = Brief {
        memory: "2GiB",
        ..Brief::new(count, vec![(key, size)])
    };
    let fleet = stage.fleet(&brief).await?;
    let ticks = Ticks::now();
    let watched = watch(&fleet, &fleet.members[0], AT_A_RATE, None).await?;
    let mut row = Row::bare("at 24 MiB a second", count, Ticks::now().idle_since(ticks));
    row.times = vec![watched.took];
    row.origin_ratio = Some(fleet.origin.counters().bytes_sent as f64 / size as f64);
    fleet.stop().await?;
    let mut row = row.origin_within(1.02);
    let kept = size as f64 / watched.took / RATE;
    row.report.equal(
        "its rate ÷ the one that it was told to keep",
        100.0 * kept,
        100.0,
        3.0,
        Unit::Percent,
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
    watch(&fleet, &fleet.members[0], "", Some(size / 2)).await?;
    if let Some(mut last) = fleet.members.pop() {
        last.kill().await?;
    }
    // Asked for again, a job that runs is the job that runs.
    watch(&fleet, &fleet.members[0], "", None).await?;
    let mut row = Row::bare(
        "a member dies half-way",
        count,
        Ticks::now().idle_since(ticks),
    );
    row.times = vec![begun.elapsed().as_secs_f64()];
    row.origin_ratio = Some(fleet.origin.counters().bytes_sent as f64 / size as f64);
    fleet.stop().await?;
    // What died is read once more: the member's share of the half that was there.
    let died = 0.5 / count as f64;
    Ok(row.origin_within(1.02 + died))
}
