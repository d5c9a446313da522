//! Removes a run's namespaces and the processes in them, whatever became of the run.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process};

use super::{PREFIX, tool};
use crate::namespace::NAMED;

/// Waits for the end of standard input, which comes with the end of the process that holds the other side, and then
/// removes the namespaces that begin with `prefix`, the processes in them, what is mounted below `directory`, and `directory`.
///
/// # Errors
/// Something is left.
pub async fn clean_after(prefix: &str, directory: &Path) -> anyhow::Result<()> {
    let waited =
        tokio::task::spawn_blocking(|| std::io::copy(&mut std::io::stdin(), &mut std::io::sink()));
    // An error ends the waiting as the end does.
    let _ = waited.await;
    thaw(directory).await;
    sweep(prefix).await?;
    unmount(directory).await?;
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
        let directories = directories(&prefix);
        for directory in &directories {
            thaw(directory).await;
        }
        sweep(&prefix).await?;
        for directory in &directories {
            unmount(directory).await?;
            // It may be gone already.
            let _ = fs::remove_dir_all(directory);
        }
    }
    Ok(())
}

fn directories(prefix: &str) -> Vec<PathBuf> {
    let Ok(files) = fs::read_dir(std::env::temp_dir()) else {
        return Vec::new();
    };
    let ours = files
        .filter_map(Result::ok)
        .filter(|file| file.file_name().to_string_lossy().starts_with(prefix));
    ours.map(|file| file.path()).collect()
}

/// Lets file systems below `directory` go on that stand still: a process that waits for one can't be killed.
async fn thaw(directory: &Path) {
    for mount in mounted(directory) {
        // Most do not stand still, which is an error.
        let _ = tool::output("fsfreeze", &["-u", &mount]).await;
    }
}

/// Unmounts what is mounted below `directory`; its loop devices go with it.
async fn unmount(directory: &Path) -> anyhow::Result<()> {
    for mount in mounted(directory) {
        tool::output("umount", &["--lazy", &mount]).await?;
    }
    Ok(())
}

/// Where file systems are mounted below `directory`, the last first. Our own paths have nothing that `/proc` escapes.
fn mounted(directory: &Path) -> Vec<String> {
    let table = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mut places: Vec<String> = table
        .lines()
        .filter_map(|line| line.split(' ').nth(1))
        .filter(|place| Path::new(place).starts_with(directory))
        .map(str::to_owned)
        .collect();
    places.reverse();
    places
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
