//! The servers that are measured side by side, each as its manual says to make it fast.

mod cachey;
mod forebay;
mod nginx;
mod varnish;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};

use super::load::{Objects, SMALL, Target};
use super::process::Process;
use super::rows::Stage;
use super::tls::Certificate;
use crate::gateway;
use crate::pattern;
use crate::port;

/// Who is measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Who {
    /// nginx, serving files: `sendfile`, `tcp_nopush`, `open_file_cache`.
    Static,
    /// nginx, `proxy_cache` with slices of 1 MiB.
    Slice,
    /// Varnish, with objects in memory.
    Varnish,
    /// s2's cachey.
    Cachey,
    /// What this is all about.
    Forebay,
    /// The ceiling: [`crate::bare`].
    Bare,
}

impl Who {
    /// All, in the order of the table.
    pub(super) const ALL: [Self; 6] = [
        Self::Static,
        Self::Slice,
        Self::Varnish,
        Self::Cachey,
        Self::Forebay,
        Self::Bare,
    ];

    /// What it is called in tables.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Static => "nginx static",
            Self::Slice => "nginx slice",
            Self::Varnish => "varnish",
            Self::Cachey => "cachey",
            Self::Forebay => "forebay",
            Self::Bare => "bare hyper",
        }
    }

    /// Whether it is somebody whom Forebay must not fall behind.
    pub(super) fn is_peer(self) -> bool {
        !matches!(self, Self::Forebay | Self::Bare)
    }
}

/// Where the programs are.
#[derive(Clone, Debug)]
pub(super) struct Programs {
    pub(super) nginx: PathBuf,
    pub(super) varnish: PathBuf,
    pub(super) cachey: PathBuf,
    pub(super) forebay: PathBuf,
    pub(super) own: PathBuf,
}

/// The version that the table is about: the newest when this was written.
const CACHEY: &str = "0.13.2";

impl Programs {
    /// Finds all of them.
    ///
    /// # Errors
    /// Some are missing: the table counts only with all of them, and the message says how to get each.
    pub(super) fn find(cachey: Option<&Path>, forebay: Option<&Path>) -> anyhow::Result<Self> {
        let mut missing = Vec::new();
        let mut need = |found: Option<PathBuf>, name: &str, how: &str| {
            found.unwrap_or_else(|| {
                missing.push(format!("  {name}: {how}"));
                PathBuf::new()
            })
        };
        let taskset = in_path("taskset", &[]);
        need(taskset, "taskset", "apt-get install util-linux");
        let nginx = in_path("nginx", &["/usr/sbin"]);
        let nginx = need(nginx, "nginx", "apt-get install nginx-light");
        let varnish = in_path("varnishd", &["/usr/sbin"]);
        let varnish = need(varnish, "varnish", "apt-get install varnish gcc libc6-dev");
        let tools = std::env::var_os("FOREBAY_TEST_TOOLS")
            .map_or_else(|| PathBuf::from("target/tools"), PathBuf::from)
            .join("cachey");
        let how = format!(
            "cargo install cachey --version {CACHEY} --locked --root {} (or give --cachey PATH)",
            tools.display()
        );
        let installed = || Some(tools.join("bin/server")).filter(|path| path.is_file());
        let named = cachey.filter(|path| path.is_file()).map(Path::to_owned);
        let cachey = named.or_else(installed).or_else(|| in_path("cachey", &[]));
        let cachey = need(cachey, "cachey", &how);
        let found = gateway::program(forebay);
        let forebay = need(found.ok(), "forebay", "cargo build --release");
        if !missing.is_empty() {
            bail!(
                "the table counts only with all peers present; get what is missing:\n{}",
                missing.join("\n")
            );
        }
        Ok(Self {
            nginx,
            varnish,
            cachey,
            forebay,
            own: std::env::current_exe().context("find the running program")?,
        })
    }
}

/// Where a program is, in `PATH` or else in `more`.
pub(crate) fn in_path(name: &str, more: &[&str]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories = std::env::split_paths(&path).chain(more.iter().map(PathBuf::from));
    let mut files = directories.map(|directory| directory.join(name));
    files.find(|file| file.is_file())
}

/// What all servers of one stage are told.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) programs: Programs,
    pub(super) stage: Stage,
    /// A directory of the run, on the disk that the disk rows are about.
    pub(super) dir: PathBuf,
    /// The servers' cores, as taskset takes them.
    pub(super) cores: String,
    /// The origin model, which has one bucket, `bucket`.
    pub(super) origin: SocketAddr,
    pub(super) objects: Objects,
    pub(super) certificate: Option<Arc<Certificate>>,
}

/// A server that is up.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) who: Who,
    pub(super) process: Process,
    /// What writes its access lines, if another process does.
    pub(super) companion: Option<Process>,
    pub(super) target: Target,
    /// What it keeps outside of the run's directory: removed when it has stopped.
    pub(super) outside: Option<PathBuf>,
    /// What it has on disk: dropped from the page cache before each run of a disk row.
    pub(super) files: Option<PathBuf>,
}

impl Server {
    /// Starts it, has it fetch what the stage reads, and compares every byte of that.
    pub(super) async fn start(who: Who, place: &Place) -> anyhow::Result<Self> {
        let dir = place.dir.join(who.name().replace(' ', "-"));
        // Left by a stage before this one.
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir(&dir).with_context(|| format!("create {}", dir.display()))?;
        let started = match who {
            Who::Static | Who::Slice => nginx::start(who, place, &dir).await,
            Who::Varnish => varnish::start(place, &dir).await,
            Who::Cachey => cachey::start(place, &dir).await,
            Who::Forebay => forebay::start(place, &dir).await,
            Who::Bare => bare(place, &dir).await,
        };
        started.with_context(|| format!("start {}", who.name()))
    }

    /// Ends it and what writes its lines.
    pub(super) async fn stop(self) -> anyhow::Result<()> {
        if let Some(companion) = self.companion {
            companion.stop().await?;
        }
        self.process.stop().await?;
        if let Some(outside) = self.outside {
            fs::remove_dir_all(&outside)
                .with_context(|| format!("remove {}", outside.display()))?;
        }
        Ok(())
    }
}

impl Place {
    /// A target on a free port.
    fn target(&self) -> anyhow::Result<Target> {
        Ok(Target {
            address: port::free_address().context("find a free port")?,
            prefix: "/bucket".to_owned(),
            ranges_only: false,
            lines: String::new(),
            carrier: self.stage.carrier(),
            tls: self
                .certificate
                .as_ref()
                .map(|certificate| certificate.client()),
        })
    }
}

pub(super) use self::forebay::default_memory;

async fn bare(place: &Place, dir: &Path) -> anyhow::Result<Server> {
    let target = place.target()?;
    let objects = &place.objects;
    let mut process = Process::start("bare", &place.cores, &place.programs.own, dir, |command| {
        command
            .arg("bare")
            .args(["--listen", &target.address.to_string()])
            .args(["--big", &objects.big.to_string()])
            .args(["--small", &objects.small.to_string()]);
    })?;
    process.listens(target.address).await?;
    Ok(Server {
        who: Who::Bare,
        process,
        companion: None,
        outside: None,
        target,
        files: None,
    })
}

/// Writes every object as a file below `root/bucket`, for who serves files; on the disk when this returns.
pub(super) fn write_files(root: &Path, objects: &Objects) -> anyhow::Result<()> {
    let bucket = root.join("bucket");
    fs::create_dir_all(bucket.join("small")).context("create directories for files")?;
    let mut piece = vec![0; 1 << 20];
    for (key, size) in objects.all() {
        let file = bucket.join(&key);
        write_file(&file, &key, size, &mut piece)
            .with_context(|| format!("write {}", file.display()))?;
    }
    Ok(())
}

fn write_file(path: &Path, key: &str, size: u64, piece: &mut [u8]) -> std::io::Result<()> {
    use std::io::Write as _;
    let mut file = fs::File::create(path)?;
    let seed = pattern::seed(key, 0);
    let mut offset = 0;
    while offset < size {
        let length = piece.len().min((size - offset) as usize);
        pattern::fill(seed, offset, &mut piece[..length]);
        file.write_all(&piece[..length])?;
        offset += length as u64;
    }
    // Ten thousand small ones are synced by nobody: no disk row reads them.
    if size > SMALL {
        file.sync_all()
    } else {
        Ok(())
    }
}

/// Drops what is cached of every file below `path`; the files must have been synced.
pub(super) fn drop_page_cache(path: &Path) -> anyhow::Result<()> {
    for entry in fs::read_dir(path).with_context(|| format!("list {}", path.display()))? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            drop_page_cache(&entry.path())?;
        } else if let Ok(file) = fs::File::open(entry.path()) {
            // What is dirty would stay.
            file.sync_data().context("sync a file")?;
            rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)
                .context("drop a file from the page cache")?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_is_missing_is_told_with_the_way_to_get_it() {
        let nowhere = Path::new("/nonexistent");
        // The gateway is named, so that its absence does not depend on what is built.
        let error = Programs::find(None, Some(nowhere)).expect_err("no such program");
        let text = error.to_string();
        assert!(text.contains("forebay: cargo build --release"), "{text}");
    }
}
