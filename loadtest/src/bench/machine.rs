//! What the figures were measured on, and which cores are whose.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, ensure};
use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde::Serialize;
use tokio::process::Command;

use super::peers::{Programs, Who};

/// Facts about the machine and the programs, each as it tells them.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Machine {
    cpu: String,
    cores: usize,
    memory: String,
    kernel: String,
    /// Processes that ran on the average of a minute before: far above 0, others were measured too.
    load_before: String,
    versions: Vec<(String, String)>,
}

/// One core for servers, another for the client.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Cores {
    pub(super) server: usize,
    pub(super) client: usize,
}

impl Cores {
    /// The first and the last core that this process may run on.
    pub(super) fn choose() -> anyhow::Result<Self> {
        let allowed = sched_getaffinity(None).context("read which cores may be used")?;
        let mut cores = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core));
        let server = cores.next().context("read which cores may be used")?;
        let client = cores.next_back();
        ensure!(
            client.is_some(),
            "this takes two cores: one for the servers, one for the client"
        );
        Ok(Self {
            server,
            client: client.unwrap_or(server),
        })
    }

    /// Keeps every thread of this process, and those that they start, on the client's core.
    pub(super) fn keep_to_client(self) -> anyhow::Result<()> {
        let mut set = CpuSet::new();
        set.set(self.client);
        for entry in fs::read_dir("/proc/self/task").context("list threads")? {
            let name = entry?.file_name();
            let thread = name.to_str().and_then(|name| name.parse().ok());
            let thread = thread.and_then(Pid::from_raw);
            sched_setaffinity(thread, &set).context("keep to the client's core")?;
        }
        Ok(())
    }
}

/// All cores that this process may run on, as taskset takes them.
pub(super) fn all_cores() -> anyhow::Result<String> {
    let allowed = sched_getaffinity(None).context("read which cores may be used")?;
    let cores = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core));
    let cores: Vec<String> = cores.map(|core| core.to_string()).collect();
    Ok(cores.join(","))
}

impl Machine {
    pub(super) async fn look(programs: &Programs) -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let line = |text: &str, name: &str| {
            let value = text.lines().find_map(|line| line.strip_prefix(name));
            let value = value
                .unwrap_or_default()
                .trim_start_matches([' ', '\t', ':']);
            value.trim().to_owned()
        };
        let told = [
            (Who::Static.name(), &programs.nginx, "-v"),
            (Who::Varnish.name(), &programs.varnish, "-V"),
            (Who::Cachey.name(), &programs.cachey, "--version"),
            (Who::Forebay.name(), &programs.forebay, "--version"),
        ];
        let mut versions = Vec::new();
        for (name, program, flag) in told {
            versions.push((name.to_owned(), version(program, flag).await));
        }
        let cpuinfo = read("/proc/cpuinfo");
        Self {
            cpu: line(&cpuinfo, "model name"),
            cores: cpuinfo
                .lines()
                .filter(|line| line.starts_with("processor"))
                .count(),
            memory: line(&read("/proc/meminfo"), "MemTotal"),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            load_before: read("/proc/loadavg")
                .split(' ')
                .next()
                .unwrap_or_default()
                .to_owned(),
            versions,
        }
    }

    /// A line of the machine, and one of the programs.
    pub(super) fn lines(&self) -> [String; 2] {
        let versions: Vec<String> = self
            .versions
            .iter()
            .map(|(name, version)| format!("{name}: {version}"))
            .collect();
        [
            format!(
                "{}, {} cores, {}, Linux {}, load before {}",
                self.cpu, self.cores, self.memory, self.kernel, self.load_before
            ),
            versions.join("; "),
        ]
    }
}

/// The first line that a program tells of itself.
async fn version(program: &Path, flag: &str) -> String {
    let told = Command::new(program)
        .arg(flag)
        .stdin(Stdio::null())
        .output()
        .await;
    let Ok(told) = told else {
        return "unknown".to_owned();
    };
    let text = [told.stdout, told.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    let line = text.lines().next().unwrap_or("unknown").trim();
    line.chars().take(60).collect()
}
