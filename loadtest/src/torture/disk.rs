//! A disk of a member: a file system of its own in an image on a loop device, and what can become of it.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rustix::fs::{FallocateFlags, fallocate};
use tokio::time::Instant;

use super::tool::output;

/// Bytes of an image; it is sparse. Block files take 512 MiB of it, XFS its journal.
const SIZE: u64 = 1 << 30;

/// Bytes that flip at once.
const FLIPS: usize = 64;

/// What block files' names begin with.
const BLOCK_FILE: &str = "foyer-storage";

/// How long a file system may take to go once it is unmounted, and how often that is looked at.
const PATIENCE: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(10);

/// A mounted image.
#[derive(Debug)]
pub(super) struct Disk {
    image: PathBuf,
    at: PathBuf,
    system: &'static str,
}

impl Disk {
    /// Makes and mounts a disk at `directory/disk`; `system` is `ext4` or `xfs`.
    ///
    /// # Errors
    /// Loop devices or the file system are not to be had here.
    pub(super) async fn new(directory: &Path, system: &'static str) -> anyhow::Result<Self> {
        let at = directory.join("disk");
        fs::create_dir_all(&at).with_context(|| format!("create {}", at.display()))?;
        let at = fs::canonicalize(&at).context("find a disk's directory")?;
        let disk = Self {
            // As the kernel names it.
            image: at.with_file_name("disk.img"),
            at,
            system,
        };
        disk.format().await?;
        disk.mount().await?;
        Ok(disk)
    }

    /// Where it is mounted.
    pub(super) fn path(&self) -> &Path {
        &self.at
    }

    /// Where the block files are.
    pub(super) fn blocks(&self) -> PathBuf {
        self.at.join("blocks")
    }

    /// An empty file system in place of the one there; it must not be mounted.
    ///
    /// # Errors
    /// The program fails.
    pub(super) async fn format(&self) -> anyhow::Result<()> {
        // Another file, so that a loop device that still goes away keeps its own.
        let _ = fs::remove_file(&self.image);
        let image = File::create(&self.image).context("create a disk's image")?;
        image.set_len(SIZE).context("size a disk's image")?;
        let image = self.image.to_string_lossy().into_owned();
        match self.system {
            "xfs" => output("mkfs.xfs", &["-q", "-f", &image]).await?,
            _ => output("mkfs.ext4", &["-q", "-F", &image]).await?,
        };
        Ok(())
    }

    /// Mounts it; the loop device goes when it is unmounted.
    ///
    /// # Errors
    /// It can't be mounted.
    pub(super) async fn mount(&self) -> anyhow::Result<()> {
        let (image, at) = (self.image.to_string_lossy(), self.at.to_string_lossy());
        output("mount", &["-t", self.system, "-o", "loop", &image, &at]).await?;
        ensure!(
            self.has_device()?,
            "{image} is mounted, and no loop device has it"
        );
        Ok(())
    }

    /// Unmounts it, and waits until the file system is gone: a program that looks into a network namespace has a copy of all
    /// mounts for a moment (ip-netns(8)), and who mounts the image meanwhile has the same file system, shut down or not.
    ///
    /// # Errors
    /// Somebody uses it.
    pub(super) async fn unmount(&self) -> anyhow::Result<()> {
        output("umount", &[&self.at.to_string_lossy()]).await?;
        let deadline = Instant::now() + PATIENCE;
        while self.has_device()? {
            ensure!(
                Instant::now() < deadline,
                "{} is unmounted, and something still has it",
                self.at.display()
            );
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    /// Whether a loop device has the image: it goes with the file system.
    fn has_device(&self) -> anyhow::Result<bool> {
        for device in fs::read_dir("/sys/block").context("look at the block devices")? {
            let file = device?.path().join("loop/backing_file");
            // One that has no image has no such file.
            if fs::read_to_string(file).is_ok_and(|image| Path::new(image.trim_end()) == self.image)
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// From now on every access fails, and what was not written back yet is lost.
    ///
    /// # Errors
    /// The program fails.
    pub(super) async fn shut_down(&self) -> anyhow::Result<()> {
        let at = self.at.to_string_lossy();
        output("xfs_io", &["-x", "-c", "shutdown", &at])
            .await
            .map(drop)
    }

    /// Writes wait, until [`Self::thaw`].
    ///
    /// # Errors
    /// The program fails.
    pub(super) async fn freeze(&self) -> anyhow::Result<()> {
        output("fsfreeze", &["-f", &self.at.to_string_lossy()])
            .await
            .map(drop)
    }

    /// Writes go on.
    ///
    /// # Errors
    /// The program fails.
    pub(super) async fn thaw(&self) -> anyhow::Result<()> {
        output("fsfreeze", &["-u", &self.at.to_string_lossy()])
            .await
            .map(drop)
    }

    /// Takes all free bytes, or gives them back.
    ///
    /// # Errors
    /// What the file system says, but that it is full.
    pub(super) fn fill(&self, full: bool) -> anyhow::Result<()> {
        let path = self.at.join("filler");
        if !full {
            return fs::remove_file(&path).context("remove the filler");
        }
        let file = File::create(&path).context("create the filler")?;
        let mut at = 0;
        let mut step = 256 << 20;
        while step >= 64 << 10 {
            match fallocate(&file, FallocateFlags::empty(), at, step) {
                Ok(()) => at += step,
                Err(rustix::io::Errno::NOSPC) => step /= 2,
                Err(error) => return Err(error).context("fill a disk"),
            }
        }
        Ok(())
    }

    /// Flips bits in block files, wherever there is data.
    ///
    /// # Errors
    /// What the file system says.
    pub(super) fn flip(&self, chance: &mut StdRng) -> anyhow::Result<()> {
        let Some(path) = self.block_file(chance)? else {
            return Ok(());
        };
        let file = OpenOptions::new().read(true).write(true).open(&path);
        let file = file.with_context(|| format!("open {}", path.display()))?;
        let size = file.metadata()?.len();
        for _ in 0..FLIPS {
            let at = chance.random_range(0..size.max(1));
            let mut byte = [0];
            if file.read_at(&mut byte, at)? == 1 {
                byte[0] ^= 1 << chance.random_range(0..8);
                file.write_all_at(&byte, at)?;
            }
        }
        file.sync_data().context("write flipped bits")
    }

    /// Cuts a block file off in its middle.
    ///
    /// # Errors
    /// What the file system says.
    pub(super) fn truncate(&self, chance: &mut StdRng) -> anyhow::Result<()> {
        let Some(path) = self.block_file(chance)? else {
            return Ok(());
        };
        let file = OpenOptions::new().write(true).open(&path);
        let file = file.with_context(|| format!("open {}", path.display()))?;
        let size = file.metadata()?.len();
        file.set_len(chance.random_range(0..=size))
            .context("cut a block file off")
    }

    fn block_file(&self, chance: &mut StdRng) -> anyhow::Result<Option<PathBuf>> {
        let Ok(entries) = fs::read_dir(self.blocks()) else {
            return Ok(None);
        };
        let mut files: Vec<_> = entries
            .filter_map(Result::ok)
            .filter(|entry| entry.file_name().to_string_lossy().starts_with(BLOCK_FILE))
            .map(|entry| entry.path())
            .collect();
        files.sort();
        Ok(files.choose(chance).cloned())
    }
}
