//! `restart`: what the gateway calls resident on NVMe is there after a kill, though the disk was slow; what was purged
//! is not.

use anyhow::bail;

use super::throttle::Throttle;
use super::{BLOCK, Options, Rig};
use crate::client::{Ask, Client, Want};
use crate::origin::Settings;
use crate::report::{Report, Unit};

const SIZE: u64 = 1024 * BLOCK;
const PURGED: u64 = 64 * BLOCK;

/// Bytes a second: a disk that is much slower than the origin.
const DISK: u64 = 50_000_000;

pub(super) async fn run(options: &Options) -> anyhow::Result<Report> {
    let cache = "memory = \"2GiB\"\nnvme = \"3GiB\"";
    let mut rig = Rig::start_with(options, Settings::default(), cache, &[("models", "")]).await?;
    rig.origin.put("kept", SIZE, 0);
    rig.origin.put("purged", PURGED, 0);
    let throttle = Throttle::writes(rig.gateway.pid(), &rig.gateway.data_dir(), DISK)?;
    let mut report = Report::new("restart");
    for key in ["kept", "purged"] {
        read(&rig, key).await?;
    }
    let cold = rig.gateway.metrics().await?;
    let cold = cold.sum("forebay_nvme_writes_total", &[]);
    rig.resident((SIZE + PURGED) / BLOCK).await?;
    report.tell(
        "blocks on NVMe when the reads were over",
        cold.unwrap_or(0.0),
        Unit::Count,
    );
    purge(&rig, "purged").await?;
    rig.resident(SIZE / BLOCK).await?;
    let ready = rig.crash(|_| Ok(())).await?;
    drop(throttle);

    let before = rig.origin.counters();
    let whole = read(&rig, "kept").await;
    let gets = rig.origin.counters().gets - before.gets;
    report.equal(
        "GETs at the origin for what was resident",
        gets as f64,
        0.0,
        0.0,
        Unit::Count,
    );
    report.at_least(
        "whole and right after the kill",
        f64::from(whole.is_ok()),
        1.0,
        Unit::Count,
    );
    let before = rig.origin.counters();
    read(&rig, "purged").await?;
    let sent = rig.origin.counters().bytes_sent - before.bytes_sent;
    report.equal(
        "origin bytes ÷ object, for what was purged",
        sent as f64 / PURGED as f64,
        1.0,
        0.005,
        Unit::Times,
    );
    report.at_most(
        "from exec to ready",
        ready.as_secs_f64(),
        5.0,
        Unit::Seconds,
    );
    rig.finish(report).await
}

async fn read(rig: &Rig, key: &str) -> anyhow::Result<()> {
    let mut client = Client::new(&rig.gateway.dataset("models"))?;
    let read = client.read(&Ask::new(key, Want::Whole)).await;
    if !read.is_whole() {
        bail!("a read of {key} ended {:?}", read.outcome);
    }
    Ok(())
}

async fn purge(rig: &Rig, key: &str) -> anyhow::Result<()> {
    let status = rig.gateway.post(&format!("/-/purge/models/{key}")).await?;
    if !status.is_success() {
        bail!("the purge of {key} was answered {status}");
    }
    Ok(())
}
