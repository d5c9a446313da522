//! A slow disk: the kernel's block I/O controller (cgroup v1) holds a process to a rate of writes.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::Context;

/// Where version 1 of the controller is mounted.
const CONTROLLER: &str = "/sys/fs/cgroup/blkio";

/// A control group of its own. Dropping it lets its processes go and removes it.
#[derive(Debug)]
pub(super) struct Throttle(PathBuf);

impl Throttle {
    /// Holds `pid` to `rate` bytes written a second on the device that holds `path`.
    ///
    /// # Errors
    /// There is no such controller here, or this process may not use it.
    pub(super) fn writes(pid: u32, path: &Path, rate: u64) -> anyhow::Result<Self> {
        let group = PathBuf::from(CONTROLLER).join(format!("forebay-loadtest-{pid}"));
        let hint = "a slow device needs root and cgroup v1's blkio controller";
        fs::create_dir(&group).with_context(|| format!("create {}: {hint}", group.display()))?;
        let throttle = Self(group);
        let device = device(path)?;
        let rule = format!("{device} {rate}");
        fs::write(throttle.0.join("blkio.throttle.write_bps_device"), rule)
            .with_context(|| format!("slow device {device}: {hint}"))?;
        fs::write(throttle.0.join("cgroup.procs"), pid.to_string()).context("slow gateway")?;
        Ok(throttle)
    }
}

impl Drop for Throttle {
    fn drop(&mut self) {
        let processes = fs::read_to_string(self.0.join("cgroup.procs")).unwrap_or_default();
        for process in processes.lines() {
            // One that has just ended needs no moving.
            let _ = fs::write(format!("{CONTROLLER}/cgroup.procs"), process);
        }
        let _ = fs::remove_dir(&self.0);
    }
}

/// `MAJOR:MINOR` of the disk that holds `path`: rules are for disks, not for their partitions.
fn device(path: &Path) -> anyhow::Result<String> {
    let number = fs::metadata(path).context("find device")?.dev();
    let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
    let partition = PathBuf::from(format!("/sys/dev/block/{major}:{minor}"));
    if partition.join("partition").exists() {
        let disk = partition.join("../dev");
        let disk = fs::read_to_string(&disk).with_context(|| format!("read {}", disk.display()))?;
        return Ok(disk.trim().to_owned());
    }
    Ok(format!("{major}:{minor}"))
}
