//! iproute2's programs, and others that only root needs.

use std::process::Stdio;

use anyhow::{Context, bail};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// Debian keeps them where only root's PATH looks.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Runs a program over these lines of its own language, which stops at the first that fails.
///
/// # Errors
/// There is no such program, or a line fails; its message is the program's.
pub(super) async fn batch(program: &str, before: &[&str], lines: &[String]) -> anyhow::Result<()> {
    if lines.is_empty() {
        return Ok(());
    }
    let arguments = [before, &["-batch", "-"]].concat();
    feed(program, &arguments, lines).await
}

/// Runs a program that reads these lines from its standard input.
///
/// # Errors
/// As [`batch`].
pub(crate) async fn feed(
    program: &str,
    arguments: &[&str],
    lines: &[String],
) -> anyhow::Result<()> {
    let mut child = command(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .spawn()
        .with_context(|| missing(program))?;
    let mut stdin = child.stdin.take().context("take its input")?;
    let text = lines.join("\n") + "\n";
    // It may have ended at a line that fails: its own message tells more than a broken pipe.
    let _ = stdin.write_all(text.as_bytes()).await;
    drop(stdin);
    let output = child.wait_with_output().await?;
    if !output.status.success() {
        let told = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        bail!("{program} {}: {told}", arguments.join(" "));
    }
    Ok(())
}

/// What a program writes to its standard output.
///
/// # Errors
/// As [`batch`].
pub(crate) async fn output(program: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let output = command(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .await
        .with_context(|| missing(program))?;
    if !output.status.success() {
        let told = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        bail!("{program} {}: {told}", arguments.join(" "));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    command
        .env("PATH", PATH)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

fn missing(program: &str) -> String {
    let package = match program {
        "nft" => "nftables",
        "mkfs.ext4" => "e2fsprogs",
        "mkfs.xfs" | "xfs_io" => "xfsprogs",
        "mount" | "umount" => "mount",
        "fsfreeze" | "findmnt" => "util-linux",
        _ => "iproute2",
    };
    format!("run `{program}`: install {package}")
}
