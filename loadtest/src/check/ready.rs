//! `ready`: a gateway that was killed with 10 GiB of blocks on NVMe is ready again within seconds, and has them.

use std::time::Duration;

use anyhow::bail;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::{BLOCK, Options, Rig};
use crate::client::{Ask, Client, Want};
use crate::origin::Settings;
use crate::report::{Report, Unit};

const OBJECTS: u64 = 10;
const SIZE: u64 = 1024 * BLOCK;

/// Blocks read after the restart, at random.
const READS: u64 = 256;

/// Disks of the kind that such a check runs on take 10 GiB at a few hundred MB/s.
const WRITTEN: Duration = Duration::from_secs(240);

pub(super) async fn run(options: &Options) -> anyhow::Result<Report> {
    let cache = "memory = \"2GiB\"\nnvme = \"12GiB\"";
    let mut rig = Rig::start_with(options, Settings::default(), cache, &[("models", "")]).await?;
    let mut client = Client::new(&rig.gateway.dataset("models"))?;
    for object in 0..OBJECTS {
        rig.origin.put(&object.to_string(), SIZE, 0);
        let ask = Ask::new(&object.to_string(), Want::Whole);
        let read = client.read(&ask).await;
        if !read.is_whole() {
            bail!("a read of {object} ended {:?}", read.outcome);
        }
        // One after the other: what is read faster than the disk writes is not all admitted.
        rig.resident_within((object + 1) * SIZE / BLOCK, WRITTEN)
            .await?;
    }
    let ready = rig.crash(|_| Ok(())).await?;
    let before = rig.origin.counters();
    let mut client = Client::new(&rig.gateway.dataset("models"))?;
    let mut random = StdRng::seed_from_u64(options.seed);
    let mut whole = 0;
    for _ in 0..READS {
        let object = random.random_range(0..OBJECTS).to_string();
        let first = random.random_range(0..SIZE / BLOCK) * BLOCK;
        let want = Want::Range(first, first + BLOCK - 1);
        whole += u64::from(client.read(&Ask::new(&object, want)).await.is_whole());
    }
    let gets = rig.origin.counters().gets - before.gets;

    let mut report = Report::new("ready");
    report.tell(
        "blocks on NVMe",
        (OBJECTS * SIZE / BLOCK) as f64,
        Unit::Count,
    );
    report.at_most(
        "from exec to ready",
        ready.as_secs_f64(),
        5.0,
        Unit::Seconds,
    );
    report.equal(
        "reads of it that were whole and right",
        whole as f64,
        READS as f64,
        0.0,
        Unit::Count,
    );
    report.equal(
        "GETs at the origin for them",
        gets as f64,
        0.0,
        0.0,
        Unit::Count,
    );
    rig.finish(report).await
}
