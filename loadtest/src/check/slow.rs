//! `slow`: five thousand connections of an address that sends its requests a byte at a time, or takes its answers a KiB
//! at a time, take next to nothing from a client of another.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Context;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::memory::{raise_open_files, read_hot_until};
use super::{BLOCK, Options, Rig};
use crate::client::Client;
use crate::origin::Settings;
use crate::report::{Report, Unit};

const SLOW: usize = 5000;

/// Where they come from. The good client comes from 127.0.0.1.
const THEIRS: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));

const HOT: u64 = 32 * BLOCK;
const TAKEN: u64 = 16 * BLOCK;

/// Between two bytes of a head, or two KiB of a body. A head so slow is cut by `header_timeout`, and begun again.
const PAUSE: Duration = Duration::from_secs(1);

/// A slow reader's SO_RCVBUF: what it does not read soon waits at the gateway.
const RECEIVE_BUFFER: u32 = 8 << 10;

const ALONE: Duration = Duration::from_secs(8);
const TOGETHER: Duration = Duration::from_secs(20);

/// For all of them to be there.
const ARRIVAL: Duration = Duration::from_secs(60);

const REQUEST: &str = "GET /models/hot HTTP/1.1\r\nhost: gateway\r\naccept: application/octet-stream\r\n\
                       user-agent: somebody who is in no hurry at all, and never was\r\n\r\n";

pub(super) async fn run(options: &Options) -> anyhow::Result<Report> {
    let cache = "memory = \"512MiB\"\nnvme = 0";
    let rig = Rig::start_with(options, Settings::default(), cache, &[("models", "")]).await?;
    raise_open_files(SLOW as u64 + 500)?;
    rig.origin.put("hot", HOT, 0);
    rig.origin.put("taken", TAKEN, 0);
    let address: SocketAddr = rig.gateway.authority().parse()?;
    let mut hot = Client::new(&rig.gateway.dataset("models"))?;
    read_hot_until(&mut hot, Instant::now()).await?;

    let before = read_hot_until(&mut hot, Instant::now() + ALONE).await?;
    let open = Arc::new(AtomicUsize::new(0));
    let mut slow = JoinSet::new();
    for place in 0..SLOW {
        let open = Arc::clone(&open);
        slow.spawn(async move {
            // All over the first second, and again for as long as the check lasts.
            sleep(Duration::from_millis(place as u64 % 1000)).await;
            loop {
                let served = if place % 2 == 0 {
                    slow_head(address, &open).await
                } else {
                    slow_body(address, &open).await
                };
                // Whatever ended it, the next one comes.
                drop(served);
                sleep(Duration::from_millis(100)).await;
            }
        });
    }
    let arrived = async {
        while open.load(Ordering::Relaxed) < SLOW * 99 / 100 {
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(ARRIVAL, arrived).await.with_context(|| {
        let open = open.load(Ordering::Relaxed);
        format!("only {open} of {SLOW} slow connections could be opened")
    })?;
    let together = read_hot_until(&mut hot, Instant::now() + TOGETHER).await?;
    let held = open.load(Ordering::Relaxed);
    slow.shutdown().await;
    let after = read_hot_until(&mut hot, Instant::now() + ALONE).await?;
    let lone = f64::midpoint(before, after);

    let mut report = Report::new("slow");
    report.at_least(
        "good client's speed beside 5 000 slow ones ÷ alone",
        100.0 * together / lone,
        80.0,
        Unit::Percent,
    );
    report.tell("slow connections open at the end", held as f64, Unit::Count);
    report.tell("good client alone, a second", lone, Unit::Mebibytes);
    report.tell("beside them, a second", together, Unit::Mebibytes);
    let peak = rig.gateway.peak_memory().context("read peak memory")?;
    report.tell("peak memory", peak as f64 / BLOCK as f64, Unit::Mebibytes);
    rig.finish(report).await
}

/// Sends a request a byte at a time.
async fn slow_head(address: SocketAddr, open: &Arc<AtomicUsize>) -> std::io::Result<()> {
    let mut stream = connect(address).await?;
    let _open = Open::count(open);
    let (mut reading, mut writing) = stream.split();
    let sending = async {
        for byte in REQUEST.bytes() {
            writing.write_u8(byte).await?;
            sleep(PAUSE).await;
        }
        Ok(())
    };
    tokio::select! {
        sent = sending => sent,
        ended = reading.read_u8() => ended.map(|_| ()),
    }
}

/// Takes an answer a KiB at a time.
async fn slow_body(address: SocketAddr, open: &Arc<AtomicUsize>) -> std::io::Result<()> {
    let mut stream = connect(address).await?;
    let _open = Open::count(open);
    let request = REQUEST.replace("/models/hot", "/models/taken");
    stream.write_all(request.as_bytes()).await?;
    let mut piece = [0; 1 << 10];
    while stream.read(&mut piece).await? > 0 {
        sleep(PAUSE).await;
    }
    Ok(())
}

async fn connect(address: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
    socket.bind((THEIRS, 0).into())?;
    socket.connect(address).await
}

/// A connection that is open until it is dropped.
struct Open(Arc<AtomicUsize>);

impl Open {
    fn count(open: &Arc<AtomicUsize>) -> Self {
        open.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(open))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
