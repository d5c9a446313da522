//! A server's processes: started on the one core that is theirs, counted, and stopped.

use std::collections::HashSet;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{Instant, timeout};

/// From the start until the port answers.
const START: Duration = Duration::from_secs(30);

/// From SIGTERM until the end; who takes longer is killed.
const STOP: Duration = Duration::from_secs(8);

const AGAIN: Duration = Duration::from_millis(20);

/// Clock ticks a second in `/proc/PID/stat`: 100 on every Linux that Rust has std for.
const TICKS: f64 = 100.0;

/// What a process tree has used so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Usage {
    /// Processor time, in seconds.
    pub(super) cpu: f64,
    /// Resident memory, in bytes: what is shared between processes counts in each.
    pub(super) resident: u64,
}

/// A running program and those that it started.
#[derive(Debug)]
pub(super) struct Process {
    name: String,
    child: Child,
    pid: Pid,
    errors: PathBuf,
}

impl Process {
    /// Starts `program` on these cores, as taskset takes them, with its standard error in a file of `dir`.
    pub(super) fn start(
        name: &str,
        cores: &str,
        program: &Path,
        dir: &Path,
        with: impl FnOnce(&mut Command),
    ) -> anyhow::Result<Self> {
        let errors = dir.join(format!("{name}.stderr"));
        let file = File::create(&errors).context("create file for standard error")?;
        let mut command = Command::new("taskset");
        command.arg("-c").arg(cores).arg(program);
        with(&mut command);
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().context("share file for standard output")?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("start {} by taskset", program.display()))?;
        let pid = child
            .id()
            .and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?))
            .context("read process id")?;
        Ok(Self {
            name: name.to_owned(),
            child,
            pid,
            errors,
        })
    }

    /// Waits until the port takes connections.
    pub(super) async fn listens(&mut self, address: SocketAddr) -> anyhow::Result<()> {
        let end = Instant::now() + START;
        while TcpStream::connect(address).await.is_err() {
            let ended = self.child.try_wait().ok().flatten();
            if ended.is_some() || Instant::now() > end {
                let how = ended.map_or_else(
                    || format!("does not listen on {address} after {START:?}"),
                    |status| format!("ended: {status}"),
                );
                bail!("{} {how}; it said:\n{}", self.name, self.said());
            }
            tokio::time::sleep(AGAIN).await;
        }
        Ok(())
    }

    /// The end of its standard error.
    pub(super) fn said(&self) -> String {
        let text = fs::read(&self.errors).unwrap_or_default();
        String::from_utf8_lossy(&text[text.len().saturating_sub(4096)..]).into_owned()
    }

    /// What it and its children have used.
    pub(super) fn usage(&self) -> anyhow::Result<Usage> {
        let mut sum = Usage::default();
        for pid in tree(self.pid.as_raw_nonzero().get())? {
            let used = usage_of(pid).with_context(|| format!("{} is gone", self.name))?;
            sum.cpu += used.cpu;
            sum.resident += used.resident;
        }
        Ok(sum)
    }

    /// Bytes that it and its children have caused to be read from devices.
    pub(super) fn device_bytes(&self) -> anyhow::Result<u64> {
        let mut sum = 0;
        for pid in tree(self.pid.as_raw_nonzero().get())? {
            let io = fs::read_to_string(format!("/proc/{pid}/io")).context("read device bytes")?;
            let line = io
                .lines()
                .find_map(|line| line.strip_prefix("read_bytes: "));
            sum += line.context("read device bytes")?.parse::<u64>()?;
        }
        Ok(sum)
    }

    /// Its process id, to be told to who profiles it.
    pub(super) fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// Ends it by SIGTERM, and by SIGKILL if that takes long.
    pub(super) async fn stop(mut self) -> anyhow::Result<()> {
        kill_process(self.pid, Signal::TERM).context("send SIGTERM")?;
        if timeout(STOP, self.child.wait()).await.is_err() {
            self.child.kill().await.context("kill")?;
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Until the child has been waited for, the id is its own. Its children end with it only if it may end them.
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = kill_process(self.pid, Signal::TERM);
        }
    }
}

/// A process and all that descend from it.
fn tree(root: i32) -> anyhow::Result<Vec<i32>> {
    let mut parents = Vec::new();
    for entry in fs::read_dir("/proc").context("list processes")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        // A process may end between the listing and the look.
        if let Some(parent) = stat(pid).and_then(|fields| fields.get(1)?.parse::<i32>().ok()) {
            parents.push((pid, parent));
        }
    }
    let mut found = HashSet::from([root]);
    loop {
        let more: Vec<i32> = parents
            .iter()
            .filter(|(pid, parent)| found.contains(parent) && !found.contains(pid))
            .map(|(pid, _)| *pid)
            .collect();
        if more.is_empty() {
            return Ok(found.into_iter().collect());
        }
        found.extend(more);
    }
}

fn usage_of(pid: i32) -> anyhow::Result<Usage> {
    let fields = stat(pid).context("read processor time")?;
    let ticks = |place: usize| -> anyhow::Result<f64> {
        Ok(fields.get(place).context("read processor time")?.parse()?)
    };
    let status =
        fs::read_to_string(format!("/proc/{pid}/status")).context("read resident memory")?;
    let resident = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    Ok(Usage {
        // proc(5): utime and stime are fields 14 and 15, of which these begin with the third.
        cpu: (ticks(11)? + ticks(12)?) / TICKS,
        resident: resident.unwrap_or(0) << 10,
    })
}

/// The fields of `/proc/PID/stat` behind the name, which may hold anything.
fn stat(pid: i32) -> Option<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    Some(fields.split_whitespace().map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn children_count_with_their_parent() {
        let dir = std::env::temp_dir();
        let name = format!("process-test-{}", std::process::id());
        let process = Process::start(&name, "0", Path::new("sh"), &dir, |command| {
            command.args(["-c", "sleep 30 & wait"]);
        })
        .expect("sh starts");
        let root = process.pid();
        let end = Instant::now() + START;
        while tree(root).expect("processes are listed").len() < 2 {
            assert!(Instant::now() < end, "no child after {START:?}");
            tokio::task::yield_now().await;
        }
        assert!(process.usage().expect("both are there").resident > 0);
        let children = tree(root).expect("processes are listed");
        process.stop().await.expect("it ends");
        for pid in children.into_iter().filter_map(Pid::from_raw) {
            // What the shell left behind; the shell itself is gone.
            let _ = kill_process(pid, Signal::TERM);
        }
        let _ = fs::remove_file(dir.join(format!("{name}.stderr")));
    }
}
