//! One range as a curl process reads it, compared as it comes.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use forebay_gateway::access::sign::{Signer, Unsigned};
use http::{HeaderMap, StatusCode, header};
use tokio::io::AsyncReadExt;
use tokio::process::Command;
use tokio::time::{Instant, timeout};

use super::DATASET;
use super::ground::Door;
use super::reader::GATEWAY_PATIENCE;
use crate::client::{Ask, Meter, Outcome, Read};
use crate::namespace::Namespace;
use crate::pattern;

/// For which a presigned URL is good.
const EXPIRES: Duration = Duration::from_secs(60);

/// curl's exit code for an answer of 400 or more, with `--fail`.
const REFUSED: i32 = 22;

/// What is to be read.
#[derive(Debug)]
pub(super) struct Asked<'a> {
    pub(super) ask: &'a Ask,
    pub(super) door: &'a Door,
    /// Who signs its URL.
    pub(super) signer: Option<&'a Signer>,
    /// The first byte, and the one after the last.
    pub(super) range: (u64, u64),
    /// The seed of the version's bytes, and its number.
    pub(super) seed: u64,
    pub(super) version: u64,
    pub(super) authority: &'a Path,
}

/// Reads it by one curl on this host.
pub(super) async fn read(from: &Namespace, asked: &Asked<'_>, meter: &Meter) -> Read {
    let started = Instant::now();
    let mut read = Read {
        outcome: Outcome::Whole,
        status: None,
        headers: HeaderMap::new(),
        version: Some(asked.version),
        bytes: 0,
        head_after: None,
        first_byte_after: None,
        took: Duration::ZERO,
        gave_up: false,
    };
    read.outcome = match run(from, asked, meter, started, &mut read).await {
        Ok(outcome) => outcome,
        Err(error) => Outcome::Unanswered(format!("{error:#}")),
    };
    read.took = started.elapsed();
    read
}

async fn run(
    from: &Namespace,
    asked: &Asked<'_>,
    meter: &Meter,
    started: Instant,
    read: &mut Read,
) -> anyhow::Result<Outcome> {
    let mut curl = from.spawn(command(asked)).await?;
    let (Some(mut stdout), Some(mut stderr)) = (curl.stdout.take(), curl.stderr.take()) else {
        anyhow::bail!("curl's output was not kept");
    };
    let mut piece = vec![0; 256 << 10];
    loop {
        // Its own limits are looked at once a second; it is given up as the other readers give up a gateway.
        let came = timeout(GATEWAY_PATIENCE, stdout.read(&mut piece)).await;
        let Ok(came) = came else {
            read.gave_up = true;
            return Ok(Outcome::Cut(format!("no byte for {GATEWAY_PATIENCE:?}")));
        };
        let came = came?;
        if came == 0 {
            break;
        }
        read.first_byte_after
            .get_or_insert_with(|| started.elapsed());
        let at = asked.range.0 + read.bytes;
        if let Err(wrong) = pattern::check(asked.seed, at, &piece[..came]) {
            return Ok(Outcome::Wrong(format!(
                "version {}: {wrong}",
                asked.version
            )));
        }
        read.bytes += came as u64;
        meter.came(came);
    }
    let mut told = String::new();
    stderr.read_to_string(&mut told).await?;
    let code = curl.wait().await?.code().unwrap_or(-1);
    let status = told
        .lines()
        .last()
        .and_then(|line| line.trim().parse().ok());
    read.status = status.and_then(|status: u16| StatusCode::from_u16(status).ok());
    let wanted = asked.range.1 - asked.range.0;
    Ok(match (code, status) {
        (0, _) if read.bytes == wanted => Outcome::Whole,
        (0, _) => Outcome::Wrong(format!(
            "curl is content with {} of {wanted} bytes",
            read.bytes
        )),
        (REFUSED, Some(status)) => Outcome::Status(status),
        _ => Outcome::Cut(format!("curl ended with {code}: {}", told.trim())),
    })
}

fn command(asked: &Asked<'_>) -> Command {
    let (path, host) = (
        asked.ask.path(&format!("/{DATASET}")),
        asked.door.address.to_string(),
    );
    let scheme = if asked.door.tls.is_some() {
        "https"
    } else {
        "http"
    };
    let mut url = format!("{scheme}://{host}{path}");
    if let Some(signer) = asked.signer {
        let unsigned = Unsigned {
            method: "GET",
            host: &host,
            path: &path,
            query: "",
        };
        url = format!(
            "{url}?{}",
            signer.presign(&unsigned, SystemTime::now(), EXPIRES)
        );
    }
    let mut command = Command::new("curl");
    command
        .args(["-sS", "--fail", "--http1.1", "--cacert"])
        .arg(asked.authority)
        .arg("-r")
        .arg(format!("{}-{}", asked.range.0, asked.range.1 - 1))
        .args(["-w", "%{stderr}\n%{http_code}\n", "-o", "-"]);
    let headers = asked.ask.headers.iter();
    for (name, value) in headers.filter(|(name, _)| *name == header::IF_MATCH) {
        let value = value.to_str().unwrap_or_default();
        command.arg("-H").arg(format!("{name}: {value}"));
    }
    command
        .arg(url)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}
