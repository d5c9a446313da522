//! Forebay on default settings, but for access lines where they are off, and for how long an object is taken as current:
//! a day, as the peers have it. By default each of the 10 000 small objects would be asked for anew every ten seconds,
//! which nobody else does here. Disk rows and cold reads have tiers of given sizes.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use super::{Place, Server, Who};
use crate::bench::load::{Target, warm};
use crate::bench::process::Process;
use crate::bench::rows::{Carrier, Stage};
use crate::gateway::Metrics;

/// Memory while the disk is filled: all that is read stays there until it is written.
const FILLING: &str = "2GiB";

/// Memory in the disk rows: the least that there is, a few per cent of the object.
const LITTLE: &str = "64MiB";

/// The tiers of cold reads.
const COLD: &str = "[cache]\nmemory = \"2GiB\"\nnvme = 0\n";
const COLD_DISK: &str = "[cache]\nmemory = \"2GiB\"\nnvme = \"8GiB\"\n";

const RESIDENT: Duration = Duration::from_secs(90);

pub(super) async fn start(place: &Place, dir: &Path) -> anyhow::Result<Server> {
    let target = place.target()?;
    match place.stage {
        Stage::Disk => {}
        Stage::Cold => return launch(place, dir, target, COLD).await,
        Stage::ColdDisk => return launch(place, dir, target, COLD_DISK).await,
        _ => return launch(place, dir, target, "").await,
    }
    let cache = |memory: &str| format!("[cache]\nmemory = \"{memory}\"\nnvme = \"3GiB\"\n");
    let filling = launch(place, dir, target.clone(), &cache(FILLING)).await?;
    warm(&filling.target, &place.objects, false).await?;
    resident(&filling.target, place.objects.big.div_ceil(1 << 20)).await?;
    filling.stop().await?;
    launch(place, dir, target, &cache(LITTLE)).await
}

async fn launch(place: &Place, dir: &Path, target: Target, cache: &str) -> anyhow::Result<Server> {
    let tls = match (&place.certificate, target.carrier) {
        (Some(certificate), Carrier::Tls) => format!(
            "[tls]\ncert = \"{}\"\nkey = \"{}\"\n",
            certificate.chain.display(),
            certificate.key.display()
        ),
        _ => String::new(),
    };
    let logged = place.stage == Stage::Logged;
    let text = format!(
        "{cache}[log]\naccess = {logged}\n{tls}[[datasets]]\nname = \"bucket\"\norigin = \"s3://bucket\"\n\
         fresh_for = \"24h\"\noptions = {{ aws_endpoint = \"http://{}\", aws_region = \"us-east-1\", \
         aws_access_key_id = \"AK\", aws_secret_access_key = \"SK\" }}\n",
        place.origin
    );
    let file = dir.join("forebay.toml");
    fs::write(&file, text).context("write forebay.toml")?;
    let program = &place.programs.forebay;
    let mut process = Process::start("forebay", &place.cores, program, dir, |command| {
        command.args(["serve", "--config"]).arg(&file);
        command.args(["--listen", &target.address.to_string()]);
        command.arg("--data-dir").arg(dir.join("data"));
    })?;
    process.listens(target.address).await?;
    Ok(Server {
        who: Who::Forebay,
        process,
        companion: None,
        outside: None,
        target,
        // Its own reads go around the page cache; this drops what its writes may have left there.
        files: (place.stage == Stage::Disk).then(|| dir.join("data")),
    })
}

/// Waits until so many blocks are on the disk.
async fn resident(target: &Target, blocks: u64) -> anyhow::Result<()> {
    let end = Instant::now() + RESIDENT;
    loop {
        let metrics = metrics(target).await?;
        let held = metrics.sum("forebay_cache_blocks", &[("tier", "nvme")]);
        if held == Some(blocks as f64) {
            return Ok(());
        }
        if Instant::now() > end {
            bail!("{held:?} of {blocks} blocks are on the disk after {RESIDENT:?}");
        }
        sleep(Duration::from_millis(20)).await;
    }
}

async fn metrics(target: &Target) -> anyhow::Result<Metrics> {
    let mut stream = TcpStream::connect(target.address)
        .await
        .context("connect")?;
    stream
        .write_all(b"GET /-/metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        .await
        .context("ask for metrics")?;
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .await
        .context("read metrics")?;
    // The head's lines are no metrics, and are not taken for any.
    let (_, body) = answer.split_once("\r\n\r\n").context("read metrics")?;
    Ok(Metrics::new(body.to_owned()))
}

/// What the setting `memory` came to on this machine.
///
/// # Errors
/// The metrics can't be read, or do not say it.
pub(in crate::bench) async fn default_memory(target: &Target) -> anyhow::Result<u64> {
    let limit = metrics(target)
        .await?
        .sum("forebay_memory_limit_bytes", &[]);
    Ok(limit.context("read forebay_memory_limit_bytes")? as u64)
}
