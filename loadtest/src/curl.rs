//! curl, as people run it: one plain stream, or many at once, to nowhere, and what it says of them.

use std::process::Stdio;

use anyhow::{Context, bail};
use tokio::process::Command;
use tokio::time::Instant;

/// The most connections of one curl.
pub(crate) const AT_ONCE: u64 = 32;

/// What curl says of what it read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Read {
    /// From its start to the first byte of any of its objects, in seconds.
    pub(crate) first_byte: f64,
    /// From before it was started until it had ended.
    pub(crate) seconds: f64,
}

/// One curl that reads `url`, a connection for each of its objects, up to [`AT_ONCE`]; with `more` arguments. It must get
/// `size` bytes in all.
///
/// # Errors
/// There is no curl, or it did not get them.
pub(crate) async fn curl(url: &str, more: &[&str], size: u64) -> anyhow::Result<Read> {
    let begun = Instant::now();
    let output = Command::new("curl")
        .args(["-sS", "-f", "--parallel", "--parallel-immediate"])
        .args(["--parallel-max", &AT_ONCE.to_string()])
        .args(more)
        .args(["-o", "/dev/null", "-w"])
        .args(["%{size_download} %{time_starttransfer}\\n", url])
        .stdin(Stdio::null())
        .output()
        .await
        .context("run curl: install it")?;
    let seconds = begun.elapsed().as_secs_f64();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut got = 0;
    let mut first_byte = f64::MAX;
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let mut word = || words.next().context("read curl's report");
        got += word()?.parse::<u64>()?;
        first_byte = first_byte.min(word()?.parse()?);
    }
    if !output.status.success() || got != size {
        bail!(
            "curl {url} got {got} of {size} bytes: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(Read {
        first_byte,
        seconds,
    })
}
