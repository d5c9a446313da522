//! `damage`: flipped bytes and files that are cut off, before a start and under a running gateway: no wrong byte, no
//! failed read, every one of them a miss.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::{BLOCK, Options, Rig};
use crate::client::{Ask, Client, Want};
use crate::origin::Settings;
use crate::report::{Report, Unit};

const OBJECTS: u64 = 64;
const SIZE: u64 = 4 * BLOCK;
const FLIPS: usize = 1000;
const CUTS: usize = 20;

pub(super) async fn run(options: &Options) -> anyhow::Result<Report> {
    let cache = "memory = \"1GiB\"\nnvme = \"1GiB\"";
    let mut rig = Rig::start_with(options, Settings::default(), cache, &[("models", "")]).await?;
    let mut random = StdRng::seed_from_u64(options.seed);
    for object in 0..OBJECTS {
        rig.origin.put(&object.to_string(), SIZE, 0);
    }
    let mut tally = Tally::default();
    tally.read(&rig).await?;
    let blocks = OBJECTS * SIZE / BLOCK;
    rig.resident(blocks).await?;

    rig.crash(|dir| flip(dir, &mut random)).await?;
    tally.read(&rig).await?;
    let flipped = damaged(&rig).await?;
    rig.resident(blocks).await?;

    rig.crash(|dir| cut(dir, CUTS / 2, &mut random)).await?;
    cut(&rig.gateway.data_dir().join("nvme"), CUTS / 2, &mut random)?;
    tally.read(&rig).await?;
    let cut = damaged(&rig).await?;

    let mut report = Report::new("damage");
    report.at_most("reads with a wrong byte", tally.wrong, 0.0, Unit::Count);
    report.at_most("reads that failed", tally.failed, 0.0, Unit::Count);
    report.at_least(
        "blocks found damaged after 1000 flips",
        flipped,
        1.0,
        Unit::Count,
    );
    report.at_least("blocks found damaged after 20 cuts", cut, 1.0, Unit::Count);
    report.tell("reads", tally.reads, Unit::Count);
    rig.finish(report).await
}

#[derive(Default)]
struct Tally {
    reads: f64,
    wrong: f64,
    failed: f64,
}

impl Tally {
    async fn read(&mut self, rig: &Rig) -> anyhow::Result<()> {
        let mut client = Client::new(&rig.gateway.dataset("models"))?;
        for object in 0..OBJECTS {
            let read = client
                .read(&Ask::new(&object.to_string(), Want::Whole))
                .await;
            self.reads += 1.0;
            if read.is_false() {
                self.wrong += 1.0;
            } else if !read.is_whole() {
                self.failed += 1.0;
            }
            if !read.is_whole() {
                eprintln!("damage: a read of {object} ended {:?}", read.outcome);
            }
        }
        Ok(())
    }
}

async fn damaged(rig: &Rig) -> anyhow::Result<f64> {
    let metrics = rig.gateway.metrics().await?;
    let damaged = metrics.sum("forebay_nvme_checksum_failures_total", &[]);
    damaged.context("find forebay_nvme_checksum_failures_total")
}

/// The block files that hold something.
fn files(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    use std::os::unix::fs::MetadataExt;
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).context("list block files")? {
        let path = entry?.path();
        let written = path.metadata()?.blocks() * 512;
        if written > BLOCK {
            files.push(path);
        }
    }
    files.sort();
    if files.is_empty() {
        bail!("there are no block files in {}", dir.display());
    }
    Ok(files)
}

fn flip(dir: &Path, random: &mut StdRng) -> anyhow::Result<()> {
    let files = files(dir)?;
    for _ in 0..FLIPS {
        let path = &files[random.random_range(0..files.len())];
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let at = random.random_range(0..file.metadata()?.len());
        let mut byte = [0];
        file.read_exact_at(&mut byte, at)?;
        let flipped = byte[0] ^ (1 << random.random_range(0..8));
        file.write_all_at(&[flipped], at)?;
    }
    Ok(())
}

fn cut(dir: &Path, times: usize, random: &mut StdRng) -> anyhow::Result<()> {
    let files = files(dir)?;
    for _ in 0..times {
        let path = &files[random.random_range(0..files.len())];
        let file = OpenOptions::new().write(true).open(path)?;
        let len = file.metadata()?.len();
        file.set_len(random.random_range(0..len.max(1)))?;
    }
    Ok(())
}
