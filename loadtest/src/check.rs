//! The checks: one for each promise, against a real gateway process between the origin model and the range client.

mod ahead;
mod bytes;
mod cold;
mod copy;
mod cut_through;
mod damage;
mod disk;
mod door;
mod door_tls;
mod fairness;
mod faulty;
mod fleet;
mod frozen;
mod fuzz;
mod hop;
mod members;
mod memory;
mod memory_h2;
mod once;
mod origin_requests;
mod owners;
mod ready;
mod restart;
mod slow;
mod throttle;
mod warm;
mod warm_clients;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::time::Instant;

use crate::gateway::{Gateway, Launch};
use crate::origin::{Origin, Settings};
use crate::report::Report;

/// The gateway's default unit of caching, which the sizes and offsets below are chosen around.
const BLOCK: u64 = 1 << 20;

/// A GiB at 50 MB/s takes 21 s.
const RESIDENT: Duration = Duration::from_secs(90);

/// The names, in the order in which they are best run.
pub const NAMES: &[&str] = &[
    "bytes",
    "once",
    "cut-through",
    "cold",
    "read-ahead",
    "faulty-origin",
    "fairness",
    "origin-requests",
    "restart",
    "ready",
    "damage",
    "memory",
    "memory-h2",
    "disk",
    "fuzz",
    "tls",
    "slow",
    "door",
    "hop",
    "owners",
    "frozen",
    "members",
    "warm",
    "warm-clients",
    "copy",
];

/// What all checks are told.
#[derive(Clone, Debug)]
pub struct Options {
    /// The gateway's program; `None`: see [`crate::gateway::program`].
    pub program: Option<PathBuf>,
    /// Seeds every choice that a check makes by chance.
    pub seed: u64,
}

/// Runs one check.
///
/// # Errors
/// It could not be measured: no such name, no gateway to start, or the tools themselves failed.
pub async fn run(name: &str, options: &Options) -> anyhow::Result<Report> {
    match name {
        "bytes" => bytes::run(options).await,
        "once" => once::run(options).await,
        "cut-through" => cut_through::run(options).await,
        "cold" => cold::run(options).await,
        "read-ahead" => ahead::run(options).await,
        "faulty-origin" => faulty::run(options).await,
        "fairness" => fairness::run(options).await,
        "origin-requests" => origin_requests::run(options).await,
        "restart" => restart::run(options).await,
        "ready" => ready::run(options).await,
        "damage" => damage::run(options).await,
        "memory" => memory::run(options).await,
        "memory-h2" => memory_h2::run(options).await,
        "disk" => disk::run(options).await,
        "fuzz" => fuzz::run(options).await,
        "tls" => door_tls::run(options).await,
        "slow" => slow::run(options).await,
        "door" => door::run(options).await,
        "hop" => hop::run(options).await,
        "owners" => owners::run(options).await,
        "frozen" => frozen::run(options).await,
        "members" => members::run(options).await,
        "warm" => warm::run(options).await,
        "warm-clients" => warm_clients::run(options).await,
        "copy" => copy::run(options).await,
        _ => bail!(
            "there is no check {name:?}; there are {}, and all",
            NAMES.join(", ")
        ),
    }
}

/// An origin, and a gateway in front of it.
struct Rig {
    origin: Origin,
    gateway: Gateway,
    launch: Launch,
}

impl Rig {
    /// Starts both, with datasets of the model's one bucket: pairs of a name and more lines of settings.
    async fn start(
        options: &Options,
        settings: Settings,
        memory: &str,
        datasets: &[(&str, &str)],
    ) -> anyhow::Result<Self> {
        let cache = format!("memory = \"{memory}\"");
        Self::start_with(options, settings, &cache, datasets).await
    }

    /// The same with these lines of `[cache]`.
    async fn start_with(
        options: &Options,
        settings: Settings,
        cache: &str,
        datasets: &[(&str, &str)],
    ) -> anyhow::Result<Self> {
        let origin = Origin::start(settings)
            .await
            .context("start origin model")?;
        let mut text = format!("[cache]\n{cache}\n[log]\naccess = false\n");
        for (name, lines) in datasets {
            text.push_str(&dataset(name, &origin, lines));
        }
        let launch = Launch {
            program: options.program.clone(),
            settings: Some(text),
            ..Launch::default()
        };
        let gateway = Gateway::start(&launch).await?;
        Ok(Self {
            origin,
            gateway,
            launch,
        })
    }

    /// Kills the gateway as a crash would, does something, and starts it again; says how long the
    /// start took.
    async fn crash(
        &mut self,
        meanwhile: impl FnOnce(&Path) -> anyhow::Result<()>,
    ) -> anyhow::Result<Duration> {
        self.gateway.kill().await?;
        meanwhile(&self.gateway.data_dir().join("nvme"))?;
        self.gateway.restart(&self.launch).await
    }

    /// Waits until the gateway calls so many blocks resident on NVMe.
    async fn resident(&self, blocks: u64) -> anyhow::Result<()> {
        self.resident_within(blocks, RESIDENT).await
    }

    /// The same, for so long.
    async fn resident_within(&self, blocks: u64, limit: Duration) -> anyhow::Result<()> {
        let end = Instant::now() + limit;
        loop {
            let metrics = self.gateway.metrics().await?;
            let held = metrics.sum("forebay_cache_blocks", &[("tier", "nvme")]);
            if held == Some(blocks as f64) {
                return Ok(());
            }
            if Instant::now() > end {
                bail!("{held:?} of {blocks} blocks are on NVMe after {limit:?}");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Shows the gateway's log if a bar was missed, and stops it.
    async fn finish(self, report: Report) -> anyhow::Result<Report> {
        if !report.met() {
            eprintln!(
                "{}: the gateway's standard error ends:\n{}",
                report.check,
                self.gateway.log()
            );
        }
        self.gateway.stop().await.context("stop gateway")?;
        Ok(report)
    }
}

/// The settings of one dataset over the model's bucket.
fn dataset(name: &str, origin: &Origin, lines: &str) -> String {
    let (bucket, endpoint) = (&origin.settings().bucket, origin.endpoint());
    format!(
        "[[datasets]]\nname = \"{name}\"\norigin = \"s3://{bucket}\"\n\
         options = {{ aws_endpoint = \"{endpoint}\", aws_region = \"us-east-1\", \
         aws_access_key_id = \"AK\", aws_secret_access_key = \"SK\" }}\n{lines}\n"
    )
}

/// The median of some times, the upper one if their number is even, in milliseconds.
///
/// # Panics
/// There are none.
fn median_ms(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        let times = [30, 10, 20].map(Duration::from_millis).to_vec();
        assert!((median_ms(times) - 20.0).abs() < 1e-9);
    }

    #[tokio::test]
    async fn an_unknown_check_is_refused_with_the_names() {
        let options = Options {
            program: None,
            seed: 0,
        };
        let error = run("nothing", &options).await.expect_err("no such check");
        assert!(error.to_string().contains("cut-through"));
    }
}
