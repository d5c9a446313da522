//! `warm-clients`: a hundred thousand small objects, warmed, beside the programs that people copy them with.
//!
//! s5cmd, rclone and aria2 read from the same origin with as many connections as a job uses, and write into files in
//! memory. The program's own time to start and to list counts, as the job's does.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::process::Command;
use tokio::time::{Instant, timeout};

use super::warm::{begin, look};
use super::{Options, Rig};
use crate::bench::in_path;
use crate::gateway::resident_memory;
use crate::origin::{Counters, Settings};
use crate::report::{Report, Unit};

/// So many objects, of so many bytes.
const OBJECTS: u64 = 100_000;
const BYTES: u64 = 40 << 10;

/// Three quarters of the 64 that a dataset has: what a job uses.
const CONNECTIONS: u64 = 48;

/// From a request to its answer: what small objects cost.
const FIRST_BYTE: Duration = Duration::from_millis(30);

/// For the objects, and a kilobyte with each: 70 % of it is for blocks.
const MEMORY: &str = "7GiB";

/// What has to be free: the gateway's memory, and files of the same bytes.
const FREE: u64 = 13 << 30;

/// Files are written here, so that no disk is measured.
const IN_MEMORY: &str = "/dev/shm";

/// Whoever takes so long is given up. By latency alone it is 63 s.
const PATIENCE: Duration = Duration::from_secs(600);

/// Between two looks at the job.
const LOOK: Duration = Duration::from_millis(200);

pub(super) async fn run(options: &Options) -> anyhow::Result<Report> {
    let programs = Programs::find()?;
    if available()? < FREE {
        bail!(
            "it needs {} GiB of memory that is free, for the gateway and for the files of the others",
            FREE >> 30
        );
    }
    let settings = Settings {
        first_byte: FIRST_BYTE,
        ..Settings::default()
    };
    let datasets = [("models", "fresh_for = \"10m\"")];
    let rig = Rig::start(options, settings, MEMORY, &datasets).await?;
    for number in 0..OBJECTS {
        rig.origin.put(&format!("small/{number:06}"), BYTES, 0);
    }
    let mut report = Report::new("warm-clients");
    let mut best: f64 = 0.0;
    for (name, command) in programs.commands(&rig) {
        let rate = copy(&rig, name, command).await?;
        report.tell(&format!("{name}, objects a second"), rate, Unit::Count);
        best = best.max(rate);
    }
    warm(&rig, &mut report, best).await?;
    rig.finish(report).await
}

/// Warms all objects: how fast, and how much memory beside the blocks that takes.
async fn warm(rig: &Rig, report: &mut Report, best: f64) -> anyhow::Result<()> {
    let before = rig.origin.counters();
    let begun = Instant::now();
    let job = begin(rig, "small/").await?;
    let mut fifth = None;
    loop {
        let now = look(rig, &job).await?;
        if now.state == "done" {
            break;
        }
        if fifth.is_none() && now.percent >= 20.0 {
            fifth = Some(beside_blocks(rig).await?);
        }
        if begun.elapsed() > PATIENCE {
            bail!("the job does not end within {PATIENCE:?}");
        }
        tokio::time::sleep(LOOK).await;
    }
    let rate = OBJECTS as f64 / begun.elapsed().as_secs_f64();
    let end = beside_blocks(rig).await?;
    let read = since(rig, &before);
    if read.bytes_sent != OBJECTS * BYTES {
        bail!("the origin sent {} bytes for the job", read.bytes_sent);
    }
    report.tell("warming, objects a second", rate, Unit::Count);
    report.at_least(
        "of the best of them",
        100.0 * rate / best,
        90.0,
        Unit::Percent,
    );
    let grown = fifth.map_or(f64::MAX, |fifth| end - fifth);
    report.at_most(
        "memory beside the blocks grows after a fifth by",
        grown / f64::from(1 << 20),
        64.0,
        Unit::Mebibytes,
    );
    let requests = (read.gets + read.heads) as f64 / OBJECTS as f64;
    report.at_most("requests an object", requests, 1.01, Unit::Times);
    Ok(())
}

/// Resident memory less what cached blocks are charged for.
async fn beside_blocks(rig: &Rig) -> anyhow::Result<f64> {
    let resident = resident_memory(rig.gateway.pid()).context("read resident memory")?;
    let metrics = rig.gateway.metrics().await?;
    let of = |name: &str| metrics.sum(name, &[("tier", "memory")]);
    let bytes = of("forebay_cache_bytes").context("read forebay_cache_bytes")?;
    let blocks = of("forebay_cache_blocks").context("read forebay_cache_blocks")?;
    Ok(resident as f64 - bytes - 1024.0 * blocks)
}

/// Runs one of the others over all objects, and says how many it copied a second.
async fn copy(rig: &Rig, name: &str, mut command: Command) -> anyhow::Result<f64> {
    let directory = Directory::new(name)?;
    let before = rig.origin.counters();
    command
        .current_dir(&directory.0)
        .env("AWS_ACCESS_KEY_ID", "AK")
        .env("AWS_SECRET_ACCESS_KEY", "SK")
        .env("AWS_REGION", "us-east-1")
        .env("RCLONE_CONFIG", "/dev/null")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let urls: String = (0..OBJECTS)
        .map(|number| format!("{}/small/{number:06}\n", rig.origin.url()))
        .collect();
    fs::write(directory.0.join("urls"), urls).context("write a list of URLs")?;
    fs::create_dir(directory.0.join("small")).context("make a directory")?;
    let begun = Instant::now();
    let output = timeout(PATIENCE, command.output());
    let output = output
        .await
        .with_context(|| format!("{name} takes more than {PATIENCE:?}"))?;
    let output = output.with_context(|| format!("run {name}"))?;
    let took = begun.elapsed().as_secs_f64();
    let sent = since(rig, &before).bytes_sent;
    if !output.status.success() || sent < OBJECTS * BYTES {
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.get(..2000).unwrap_or(&said);
        bail!(
            "{name} ended with {} after {sent} bytes: {said}",
            output.status
        );
    }
    Ok(OBJECTS as f64 / took)
}

fn since(rig: &Rig, before: &Counters) -> Counters {
    let now = rig.origin.counters();
    Counters {
        gets: now.gets - before.gets,
        heads: now.heads - before.heads,
        bytes_sent: now.bytes_sent - before.bytes_sent,
        ..now
    }
}

/// A directory in memory, removed with all that is in it.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> anyhow::Result<Self> {
        let name = format!("forebay-{name}-{}", std::process::id());
        let path = Path::new(IN_MEMORY).join(name);
        fs::create_dir(&path).with_context(|| format!("make {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // Nothing else is to be done about it.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Where the others are.
struct Programs {
    s5cmd: PathBuf,
    rclone: PathBuf,
    aria2: PathBuf,
}

impl Programs {
    /// Finds all of them.
    ///
    /// # Errors
    /// Some are missing, and how to get them.
    fn find() -> anyhow::Result<Self> {
        let tools = std::env::var_os("FOREBAY_TEST_TOOLS")
            .map_or_else(|| PathBuf::from("target/tools"), PathBuf::from)
            .join("clients/venv/bin");
        let mut missing = Vec::new();
        let mut find = |name: &str| {
            let installed = Some(tools.join(name)).filter(|path| path.is_file());
            let found = installed.or_else(|| in_path(name, &[]));
            found.unwrap_or_else(|| {
                missing.push(name.to_owned());
                PathBuf::new()
            })
        };
        let found = Self {
            s5cmd: find("s5cmd"),
            rclone: find("rclone"),
            aria2: find("aria2c"),
        };
        match missing.is_empty() {
            true => Ok(found),
            false => bail!(
                "it counts only with all three beside it, and there is no {}: tests/run --clients installs them below {}, \
                 and aria2c by apt-get",
                missing.join(", "),
                tools.display()
            ),
        }
    }

    /// What copies everything below `small/` into the working directory.
    fn commands(&self, rig: &Rig) -> [(&'static str, Command); 3] {
        let (endpoint, bucket) = (rig.origin.endpoint(), &rig.origin.settings().bucket);
        let connections = CONNECTIONS.to_string();
        let mut s5cmd = Command::new(&self.s5cmd);
        s5cmd
            .args(["--endpoint-url", &endpoint, "--numworkers", &connections])
            .args(["cp", "--concurrency", "1"])
            .args([&format!("s3://{bucket}/small/*"), "small/"]);
        let mut rclone = Command::new(&self.rclone);
        let remote = format!(
            ":s3,provider=Other,env_auth=true,region=us-east-1,endpoint=\"{endpoint}\":{bucket}/small"
        );
        rclone
            .args(["copy", &remote, "small", "--transfers", &connections])
            .args(["--checkers", &connections, "--ignore-checksum"])
            // Else it asks for each object's metadata too.
            .arg("--use-server-modtime");
        let mut aria2 = Command::new(&self.aria2);
        aria2
            .args(["--no-conf", "--quiet", "-i", "urls", "-d", "small"])
            .args(["-j", &connections, "-x", "1", "-s", "1"])
            .args(["--file-allocation=none", "--auto-file-renaming=false"]);
        [("s5cmd", s5cmd), ("rclone", rclone), ("aria2", aria2)]
    }
}

/// Bytes of memory that may be had without anything else being pushed out.
fn available() -> anyhow::Result<u64> {
    let text = fs::read_to_string("/proc/meminfo").context("read /proc/meminfo")?;
    let mut lines = text.lines();
    let line = lines.find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
    let kib: u64 = kib.context("read MemAvailable")?.trim().parse()?;
    Ok(kib << 10)
}
