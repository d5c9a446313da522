//! `fuzz`: a million requests, most of them broken, over real connections: nothing panics, nothing leaks, memory or bytes.
//!
//! They are mutations of valid ones, made by a seed: each worker's requests are the same in every run of a seed,
//! only their order among the workers is not.

mod requests;
mod wire;

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, bail};
use http::StatusCode;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::task::JoinSet;
use tokio::time::Instant;

use self::requests::Maker;
use self::wire::{Tally, Wire};
use super::{Options, Rig, dataset};
use crate::gateway::{Gateway, Launch};
use crate::origin::{Origin, Settings};
use crate::pattern::{self, Candidate};
use crate::report::{Report, Unit};

const REQUESTS: u64 = 1_000_000;

/// Those after which memory is looked at: whatever is kept for good is filled after the first.
const ROUND: u64 = 100_000;

/// Connections side by side; each has its share of the requests.
const WORKERS: u64 = 40;

/// A round takes a quarter of a minute on two cores; beyond this, something hangs.
const LIMIT: Duration = Duration::from_secs(150);

/// Objects that anybody may read, and their sizes.
const SHOWN: [(&str, u64); 4] = [
    ("a", 70_001),
    ("b/c d", 4096),
    ("empty", 0),
    ("weights.bin", (1 << 20) + 17),
];

/// Objects that nobody here may read. They are of the same bucket, beside the datasets' prefix.
const HIDDEN: [(&str, u64); 2] = [("hidden/a", 70_001), ("hidden/secret", 4096)];

/// How the gateway knows its clients, and what they say. The key may read `models`, and not `hidden`.
const ACCESS: &str = "[[access]]\naccess_key_id = \"LOADER\"\nsecret_access_key = \"fuzz\"\n\
                      datasets = [\"models\"]\n[[access]]\naccess_key_id = \"ADMIN\"\n\
                      secret_access_key = \"fuzz-admin\"\nadmin = true\n";
const CREDENTIALS: &str = "Authorization: Bearer LOADER:fuzz\r\n";
const ADMIN: &str = "Authorization: Bearer ADMIN:fuzz-admin\r\n";

pub(super) async fn run(options: &Options) -> anyhow::Result<Report> {
    let rig = start(options).await?;
    let address = rig.gateway.authority().parse()?;
    warm(address).await?;

    let mut report = Report::new("fuzz");
    let started = Instant::now();
    let mut workers: Vec<_> = (0..WORKERS)
        .map(|worker| Worker::new(options.seed, worker, address))
        .collect();
    let mut held = Vec::new();
    for _ in 0..REQUESTS / ROUND {
        workers = all_send(workers, ROUND).await?;
        held.push(memory(&rig.gateway)?);
    }
    let took = started.elapsed();
    let mut tally = Tally::default();
    for worker in &workers {
        tally.add(&worker.tally);
    }

    let metrics = rig.gateway.metrics().await.context("ask how it is")?;
    let panics = metrics.sum("forebay_panics_total", &[]);
    let panics = panics.context("the gateway counts no panics")?;
    report.at_least(
        "requests",
        tally.requests as f64,
        REQUESTS as f64,
        Unit::Count,
    );
    report.at_most("panics", panics, 0.0, Unit::Count);
    // What is not served here is 501, and an origin that is asked for nonsense may answer so: 502.
    let faults = metrics.sum("forebay_requests_total", &[("status", "500")]);
    report.at_most("answers 500", faults.unwrap_or(0.0), 0.0, Unit::Count);
    report.at_most(
        "answers with bytes of others",
        tally.leaks as f64,
        0.0,
        Unit::Count,
    );
    report.at_most(
        "answers that never came",
        tally.stuck as f64,
        0.0,
        Unit::Count,
    );
    let [first, .., half, _, _, _, last] = held[..] else {
        bail!("{} rounds are too few", held.len());
    };
    report.at_most(
        "memory, last 100 000 less first",
        last - first,
        16.0,
        Unit::Mebibytes,
    );
    report.tell("memory after the first 100 000", first, Unit::Mebibytes);
    report.tell("memory, last less sixth", last - half, Unit::Mebibytes);
    for class in 2..6 {
        let count = tally.statuses[class] as f64;
        report.tell(&format!("answers {class}xx"), count, Unit::Count);
    }
    report.tell("closed without an answer", tally.closed as f64, Unit::Count);
    report.tell("took", took.as_secs_f64(), Unit::Seconds);
    rig.finish(report).await
}

/// A gateway with keys, one of which may read what the other may not.
async fn start(options: &Options) -> anyhow::Result<Rig> {
    let origin = Origin::start(Settings::default()).await;
    let origin = origin.context("start origin model")?;
    for (key, size) in SHOWN {
        origin.put(&format!("models/{key}"), size, 0);
    }
    for (key, size) in HIDDEN {
        origin.put(key, size, 0);
    }
    let beside = |name: &str| {
        let bucket = &origin.settings().bucket;
        let text = dataset(name, &origin, "immutable = true");
        text.replace(&format!("s3://{bucket}"), &format!("s3://{bucket}/{name}"))
    };
    let common = "[cache]\nmemory = \"64MiB\"\n[log]\naccess = false\nlevel = \"warn\"\n\
                  [limits]\nheader_timeout = \"2s\"\n";
    let settings = format!("{common}{}{}{ACCESS}", beside("models"), beside("hidden"));
    let launch = Launch {
        program: options.program.clone(),
        settings: Some(settings),
        ..Launch::default()
    };
    let gateway = Gateway::start(&launch).await?;
    Ok(Rig {
        origin,
        gateway,
        launch,
    })
}

/// Has everything cached, what may not be read too: from there it would leak the soonest.
async fn warm(address: SocketAddr) -> anyhow::Result<()> {
    let shown = SHOWN.map(|(key, _)| (format!("/models/{key}"), CREDENTIALS));
    let hidden = HIDDEN.map(|(key, _)| (format!("/{key}"), ADMIN));
    for (target, credentials) in shown.into_iter().chain(hidden) {
        let target = target.replace(' ', "%20");
        let request = format!("GET {target} HTTP/1.1\r\nHost: a\r\n{credentials}\r\n");
        let mut tally = Tally::default();
        let mut wire = Wire::new(address, Vec::new());
        wire.ask(request.as_bytes(), false, &mut tally).await;
        if tally.statuses[2] != 1 {
            bail!("{target} can't be read before anything was tried: {tally:?}");
        }
    }
    Ok(())
}

/// A connection after another, and what is sent over them.
struct Worker {
    maker: Maker,
    wire: Wire,
    tally: Tally,
}

impl Worker {
    fn new(seed: u64, number: u64, address: SocketAddr) -> Self {
        let chance = StdRng::seed_from_u64(seed.wrapping_mul(WORKERS).wrapping_add(number));
        let hidden = HIDDEN.map(|(key, size)| Candidate {
            version: 0,
            seed: pattern::seed(key, 0),
            size,
        });
        Self {
            maker: Maker::new(chance, CREDENTIALS),
            wire: Wire::new(address, hidden.to_vec()),
            tally: Tally::default(),
        }
    }

    async fn send(&mut self, requests: u64) {
        let end = self.tally.requests + requests;
        while self.tally.requests < end {
            let batch = self.maker.batch();
            self.wire.send(&batch, &mut self.tally).await;
        }
    }
}

async fn all_send(workers: Vec<Worker>, requests: u64) -> anyhow::Result<Vec<Worker>> {
    let mut tasks = JoinSet::new();
    for mut worker in workers {
        tasks.spawn(async move {
            worker.send(requests.div_ceil(WORKERS)).await;
            worker
        });
    }
    let all = tokio::time::timeout(LIMIT, tasks.join_all()).await;
    all.with_context(|| format!("{requests} requests take more than {LIMIT:?}"))
}

/// What the process has in memory now, in MiB.
fn memory(gateway: &Gateway) -> anyhow::Result<f64> {
    let status = fs::read_to_string(format!("/proc/{}/status", gateway.pid()));
    let status = status.context("the gateway is gone")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<f64>().ok());
    Ok(kib.context("read memory")? / 1024.0)
}

/// The class of a status, such as 2 for 206; 0 for none.
fn class(status: Option<StatusCode>) -> usize {
    status.map_or(0, |status| usize::from(status.as_u16() / 100))
}
