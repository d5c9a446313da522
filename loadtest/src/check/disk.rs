//! `disk`: what the way through the gateway costs over reading its block files with fio: whole objects, and MiBs at
//! random, from NVMe.
//!
//! Nothing comes from the gateway's memory, which holds a thirtieth of the objects, or from the page cache, which
//! direct I/O goes around on both sides. What the device gave is compared with what was served, to prove it.

use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rustix::net::{RecvFlags, recv};
use serde_json::Value;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::memory::Wire;
use super::{BLOCK, Options, Rig};
use crate::client::{Ask, Client, Want};
use crate::origin::Settings;
use crate::report::{Report, Unit, median};

const OBJECTS: u64 = 4;
const SIZE: u64 = 256 * BLOCK;

/// Reads of a block under way at once: a whole read's window is 16 MiB, and so many clients read at random.
const DEPTH: u64 = 16;

/// Both take turns often, and each turn is compared with the one beside it: a virtual disk may give half in one minute
/// of what it gave in the one before.
const ROUNDS: usize = 9;
const TIME: Duration = Duration::from_secs(2);

/// The order of the reads.
#[derive(Clone, Copy, Debug)]
enum Order {
    Whole,
    Random,
}

/// What one run came to.
#[derive(Clone, Copy, Debug)]
struct Run {
    bytes: f64,
    took: f64,
    cpu: f64,
}

impl Run {
    fn megabytes_a_second(&self) -> f64 {
        self.bytes / self.took / 1e6
    }

    fn cpu_ms_a_gigabyte(&self) -> f64 {
        self.cpu * 1e3 / (self.bytes / 1e9)
    }
}

pub(super) async fn run(options: &Options) -> anyhow::Result<Report> {
    let version = Command::new("fio").arg("--version").output().await;
    version.context("run fio, which this check compares with: install it")?;
    let cache = "memory = \"2GiB\"\nnvme = \"2GiB\"";
    let mut rig = Rig::start_with(options, Settings::default(), cache, &[("models", "")]).await?;
    for object in 0..OBJECTS {
        rig.origin.put(&object.to_string(), SIZE, 0);
    }
    read_all(&rig).await?;
    rig.resident(OBJECTS * SIZE / BLOCK).await?;
    let small = |text: &str| text.replace("memory = \"2GiB\"", "memory = \"64MiB\"");
    rig.launch.settings = rig.launch.settings.as_deref().map(small);
    rig.crash(|_| Ok(())).await?;
    let gets = rig.origin.counters().gets;
    // Every byte is checked here; the measured reads then cost the clients as little as they can.
    read_all(&rig).await?;
    let files = full_files(&rig.gateway.data_dir().join("nvme"))?;

    let device = device_bytes(rig.gateway.pid())?;
    let mut served = 0.0;
    let mut report = Report::new("disk");
    for (order, name) in [
        (Order::Whole, "whole objects"),
        (Order::Random, "random MiBs"),
    ] {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for round in 0..ROUNDS {
            let run = through_gateway(&rig, order, options.seed ^ round as u64).await?;
            served += run.bytes;
            ours.push(run);
            theirs.push(with_fio(&files, order).await?);
        }
        tell(&mut report, name, &ours, &theirs);
    }
    let device = (device_bytes(rig.gateway.pid())? - device) as f64;
    report.at_least(
        "bytes from the device ÷ bytes served",
        100.0 * device / served,
        90.0,
        Unit::Percent,
    );
    report.equal(
        "GETs at the origin meanwhile",
        (rig.origin.counters().gets - gets) as f64,
        0.0,
        0.0,
        Unit::Count,
    );
    rig.finish(report).await
}

fn tell(report: &mut Report, name: &str, ours: &[Run], theirs: &[Run]) {
    let rate = |runs: &[Run]| median(runs.iter().map(Run::megabytes_a_second).collect());
    let cpu = |runs: &[Run]| median(runs.iter().map(Run::cpu_ms_a_gigabyte).collect());
    let pairs = ours.iter().zip(theirs);
    let ratios =
        pairs.map(|(ours, theirs)| ours.megabytes_a_second() / theirs.megabytes_a_second());
    report.at_least(
        &format!("{name}: gateway ÷ fio"),
        100.0 * median(ratios.collect()),
        80.0,
        Unit::Percent,
    );
    for (who, runs) in [("gateway", ours), ("fio", theirs)] {
        report.tell(&format!("{name}: {who}, MB/s"), rate(runs), Unit::Count);
        let what = format!("{name}: {who}, CPU for a GB");
        report.tell(&what, cpu(runs), Unit::Milliseconds);
    }
}

async fn read_all(rig: &Rig) -> anyhow::Result<()> {
    let mut client = Client::new(&rig.gateway.dataset("models"))?;
    for object in 0..OBJECTS {
        let ask = Ask::new(&object.to_string(), Want::Whole);
        let read = client.read(&ask).await;
        if !read.is_whole() {
            bail!("a read of {object} ended {:?}", read.outcome);
        }
    }
    Ok(())
}

/// One client reads object after object, or as many as the depth read MiBs at random.
async fn through_gateway(rig: &Rig, order: Order, seed: u64) -> anyhow::Result<Run> {
    let address = rig.gateway.authority().parse()?;
    let clients = match order {
        Order::Whole => 1,
        Order::Random => DEPTH,
    };
    let cpu = cpu_seconds(rig)?;
    let started = Instant::now();
    let mut readers = JoinSet::new();
    for client in 0..clients {
        let random = StdRng::seed_from_u64(seed.wrapping_add(client << 32));
        readers.spawn(drain(address, order, random, started + TIME));
    }
    let mut bytes = 0;
    while let Some(read) = readers.join_next().await {
        bytes += read.context("a reader ended early")??;
    }
    Ok(Run {
        bytes: bytes as f64,
        took: started.elapsed().as_secs_f64(),
        cpu: cpu_seconds(rig)? - cpu,
    })
}

/// Reads until the time is over and has the kernel throw away what comes (tcp(7), `MSG_TRUNC`), as
/// fio looks at nothing either: the bytes that came.
async fn drain(
    address: SocketAddr,
    order: Order,
    mut random: StdRng,
    end: Instant,
) -> anyhow::Result<u64> {
    let mut wire = Wire::connect(address, None).await?;
    let mut piece = vec![0; 1 << 18];
    let (mut bytes, mut object) = (0, 0);
    while Instant::now() < end {
        let range = match order {
            Order::Whole => None,
            Order::Random => {
                object = random.random_range(0..OBJECTS);
                let first = random.random_range(0..SIZE / BLOCK) * BLOCK;
                Some((first, first + BLOCK - 1))
            }
        };
        let (length, begun) = wire.get(&format!("/models/{object}"), range).await?;
        let mut left = length - begun.len() as u64;
        while left > 0 {
            let most = piece.len().min(left as usize);
            let came = discard(&wire.stream, &mut piece[..most]).await?;
            if came == 0 {
                bail!("a read of {object} was cut {left} bytes before its end");
            }
            left -= came as u64;
        }
        bytes += length;
        object = (object + 1) % OBJECTS;
    }
    Ok(bytes)
}

/// Waits for bytes and drops as many as `piece` could hold: how many, 0 at the end.
async fn discard(stream: &TcpStream, piece: &mut [u8]) -> io::Result<usize> {
    stream
        .async_io(Interest::READABLE, || {
            let (_, came) = recv(stream, &mut *piece, RecvFlags::TRUNC)?;
            Ok(came)
        })
        .await
}

async fn with_fio(files: &[PathBuf], order: Order) -> anyhow::Result<Run> {
    // No option may be longer than 4 KiB; given several times, the files add up.
    let names = files.chunks(32).map(|files| {
        let names: Vec<_> = files.iter().map(|file| file.to_string_lossy()).collect();
        format!("--filename={}", names.join(":"))
    });
    let (how, next) = match order {
        Order::Whole => ("--rw=read", "--file_service_type=sequential"),
        Order::Random => ("--rw=randread", "--file_service_type=random"),
    };
    let output = Command::new("fio")
        .args([
            "--name=disk",
            "--readonly",
            "--direct=1",
            "--ioengine=libaio",
            "--bs=1M",
        ])
        .args([how, next, "--time_based", "--output-format=json"])
        .arg(format!("--iodepth={DEPTH}"))
        .arg(format!("--runtime={}", TIME.as_secs()))
        .args(names)
        .output()
        .await
        .context("run fio")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("fio ended: {}: {said}", output.status);
    }
    let told: Value = serde_json::from_slice(&output.stdout).context("read what fio tells")?;
    let job = &told["jobs"][0];
    let figure = |value: &Value| value.as_f64().context("find a figure of fio's");
    let took = figure(&job["read"]["runtime"])? / 1e3;
    let busy = figure(&job["usr_cpu"])? + figure(&job["sys_cpu"])?;
    Ok(Run {
        bytes: figure(&job["read"]["io_bytes"])?,
        took,
        cpu: busy / 100.0 * took,
    })
}

/// The block files that are written all through: a hole would cost fio nothing.
fn full_files(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).context("list block files")? {
        let path = entry?.path();
        let about = path.metadata()?;
        if about.len() > BLOCK && about.blocks() * 512 >= about.len() / 100 * 99 {
            files.push(path);
        }
    }
    files.sort();
    let Some(first) = files.first() else {
        bail!("no block file in {} is full", dir.display());
    };
    let direct = i32::try_from(rustix::fs::OFlags::DIRECT.bits())?;
    match OpenOptions::new()
        .read(true)
        .custom_flags(direct)
        .open(first)
    {
        Ok(_) => Ok(files),
        Err(error) if error.kind() == ErrorKind::InvalidInput => {
            bail!("{} can't be read by direct I/O", dir.display())
        }
        Err(error) => Err(error).with_context(|| format!("open {}", first.display())),
    }
}

fn cpu_seconds(rig: &Rig) -> anyhow::Result<f64> {
    rig.gateway.cpu_seconds().context("read processor time")
}

/// Bytes that a process has caused to be read from devices (proc(5), `io`).
fn device_bytes(pid: u32) -> anyhow::Result<u64> {
    let io = fs::read_to_string(format!("/proc/{pid}/io")).context("read bytes from devices")?;
    let bytes = io
        .lines()
        .find_map(|line| line.strip_prefix("read_bytes: "));
    Ok(bytes.context("read bytes from devices")?.parse()?)
}
