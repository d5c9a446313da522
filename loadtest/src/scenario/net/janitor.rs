//! Removes a run's namespaces and the processes in them, whatever became of the run.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process};

use super::{PREFIX, tool};
use crate::namespace::NAMED;

/// Waits for the end of standard input, which comes with the end of the process that holds the other side, and then
/// removes the namespaces that begin with `prefix`, the processes in them, and `directory`.
///
/// # Errors
/// Something is left.
pub async fn clean_after(prefix: &str, directory: &Path) -> anyhow::Result<()> {
    let waited =
        tokio::task::spawn_blocking(|| std::io::copy(&mut std::io::stdin(), &mut std::io::sink()));
    // An error ends the waiting as the end does.
    let _ = waited.await;
    sweep(prefix).await?;
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", directory.display()))
        }
        _ => Ok(()),
    }
}

/// Removes what runs left whose process is gone, and whose janitor is too.
pub(super) async fn sweep_the_dead() -> anyhow::Result<()> {
    let dead: HashSet<String> = names(PREFIX)
        .into_iter()
        .filter_map(|name| {
            let (pid, _) = name.strip_prefix(PREFIX)?.split_once('-')?;
            let gone = !Path::new("/proc").join(pid).exists();
            gone.then(|| format!("{PREFIX}{pid}-"))
        })
        .collect();
    for prefix in dead {
        sweep(&prefix).await?;
        let Ok(files) = fs::read_dir(std::env::temp_dir()) else {
            continue;
        };
        for file in files.filter_map(Result::ok) {
            if file.file_name().to_string_lossy().starts_with(&prefix) {
                // It may be gone already.
                let _ = fs::remove_dir_all(file.path());
            }
        }
    }
    Ok(())
}

async fn sweep(prefix: &str) -> anyhow::Result<()> {
    let names = names(prefix);
    if names.is_empty() {
        return Ok(());
    }
    // Between two looks a process may have started another.
    for _ in 0..3 {
        if kill_inside(&names) == 0 {
            break;
        }
    }
    let lines: Vec<_> = names
        .iter()
        .map(|name| format!("netns del {name}"))
        .collect();
    tool::batch("ip", &[], &lines)
        .await
        .context("remove the scenario's namespaces")
}

fn names(prefix: &str) -> Vec<String> {
    let Ok(entries) = fs::read_dir(NAMED) else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.starts_with(prefix))
        .collect()
}

/// Kills what runs in the namespaces of these names, and says how many processes that were.
fn kill_inside(names: &[String]) -> usize {
    let identity = |path: &Path| {
        let data = fs::metadata(path).ok()?;
        Some((data.dev(), data.ino()))
    };
    let ours: HashSet<_> = names
        .iter()
        .filter_map(|name| identity(&Path::new(NAMED).join(name)))
        .collect();
    let Ok(processes) = fs::read_dir("/proc") else {
        return 0;
    };
    let inside = processes.filter_map(|entry| {
        let entry = entry.ok()?;
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let inside = ours.contains(&identity(&entry.path().join("ns/net"))?);
        inside.then(|| Pid::from_raw(pid)).flatten()
    });
    // One that has just ended needs no signal.
    inside
        .filter(|&pid| kill_process(pid, Signal::KILL).is_ok())
        .count()
}
