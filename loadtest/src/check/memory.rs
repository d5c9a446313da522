//! `memory`: a thousand clients that read a KiB a second, each of a cold object of its own, neither swell the gateway
//! nor wait for their first byte, and do not starve a client that reads fast.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout_at};

use super::{BLOCK, Options, Rig, median_ms};
use crate::client::{Ask, Client, Want};
use crate::origin::Settings;
use crate::pattern;
use crate::report::{Report, Unit};

const READERS: usize = 1000;
const SIZE: u64 = 16 * BLOCK;
const HOT: u64 = 32 * BLOCK;

/// What a reader takes each second.
const SIP: usize = 1 << 10;

const LONE: Duration = Duration::from_secs(5);
const TOGETHER: Duration = Duration::from_secs(60);

/// A reader's SO_RCVBUF, which Linux doubles: a reader sips 60 KiB in all, but a buffer of the default size grows to
/// 6 MiB, so that the kernel, not the gateway, would hold what nobody has read.
const RECEIVE_BUFFER: u32 = 8 << 10;

/// `memory` and 64 MiB for all else, and a tenth on top.
const PEAK_MIB: f64 = (256.0 + 64.0) * 1.1;

pub(super) async fn run(options: &Options) -> anyhow::Result<Report> {
    let cache = "memory = \"256MiB\"\nnvme = 0";
    let rig = Rig::start_with(options, Settings::default(), cache, &[("models", "")]).await?;
    // Only now, so that the gateway is not started with more than it would have had.
    raise_open_files(2 * READERS as u64)?;
    rig.origin.put("hot", HOT, 0);
    for reader in 0..READERS {
        rig.origin.put(&reader.to_string(), SIZE, 0);
    }
    let address: SocketAddr = rig.gateway.authority().parse()?;

    let mut hot = Client::new(&rig.gateway.dataset("models"))?;
    read_hot_until(&mut hot, Instant::now()).await?;
    let lone = read_hot_until(&mut hot, Instant::now() + LONE).await?;
    let before = rig.gateway.peak_memory().context("read peak memory")?;
    let end = Instant::now() + TOGETHER;
    let mut readers = JoinSet::new();
    for reader in 0..READERS {
        readers.spawn(sip(address, reader.to_string(), end));
    }
    let together = read_hot_until(&mut hot, end).await?;
    let mut sips = Vec::with_capacity(READERS);
    while let Some(sipped) = readers.join_next().await {
        sips.push(sipped.context("a reader ended early")?);
    }
    let peak = rig.gateway.peak_memory().context("read peak memory")?;

    let mut report = Report::new("memory");
    let mib = |bytes: u64| bytes as f64 / BLOCK as f64;
    report.at_most("peak memory", mib(peak), PEAK_MIB, Unit::Mebibytes);
    report.tell("peak before the readers", mib(before), Unit::Mebibytes);
    judge(&mut report, &sips);
    report.at_least(
        "hot reader's speed beside them ÷ alone",
        100.0 * together / lone,
        50.0,
        Unit::Percent,
    );
    report.tell("hot reader alone, a second", lone, Unit::Mebibytes);
    report.tell("hot reader beside them", together, Unit::Mebibytes);
    rig.finish(report).await
}

/// The figures of the slow readers.
fn judge(report: &mut Report, sips: &[Sip]) {
    let ended: Vec<_> = sips.iter().filter_map(|sip| sip.ended.as_ref()).collect();
    if let Some(error) = ended.first() {
        eprintln!("memory: a reader ended: {error:#}");
    }
    let whole = (sips.len() - ended.len()) as f64;
    report.at_least(
        "readers served all the time",
        whole,
        READERS as f64,
        Unit::Count,
    );
    let first_bytes: Vec<_> = sips
        .iter()
        .map(|sip| sip.first_byte_after.unwrap_or(TOGETHER))
        .collect();
    let last = first_bytes.iter().max().copied().unwrap_or(TOGETHER);
    report.at_most("last first byte", last.as_secs_f64(), 5.0, Unit::Seconds);
    report.tell(
        "median first byte",
        median_ms(first_bytes),
        Unit::Milliseconds,
    );
    let least = sips.iter().map(|sip| sip.bytes).min().unwrap_or(0);
    let due = TOGETHER.as_secs_f64() * SIP as f64;
    report.tell(
        "slowest reader's bytes ÷ what it wanted",
        100.0 * least as f64 / due,
        Unit::Percent,
    );
}

/// Reads the hot object over and over, at least once; the speed, in MiB a second.
pub(super) async fn read_hot_until(client: &mut Client, end: Instant) -> anyhow::Result<f64> {
    let started = Instant::now();
    let mut bytes = 0;
    loop {
        let read = client.read(&Ask::new("hot", Want::Whole)).await;
        if !read.is_whole() {
            bail!("a read of the hot object ended {:?}", read.outcome);
        }
        bytes += read.bytes;
        if Instant::now() >= end {
            let took = started.elapsed().as_secs_f64();
            return Ok(bytes as f64 / BLOCK as f64 / took);
        }
    }
}

/// What came to one slow reader.
#[derive(Debug, Default)]
struct Sip {
    first_byte_after: Option<Duration>,
    bytes: u64,
    /// Why it was not served until the end.
    ended: Option<anyhow::Error>,
}

async fn sip(address: SocketAddr, key: String, end: Instant) -> Sip {
    let mut sip = Sip::default();
    let started = Instant::now();
    // Running into the end is what a reader is meant to do.
    if let Ok(Err(error)) = timeout_at(end, sip_on(address, &key, started, &mut sip)).await {
        sip.ended = Some(error);
    } else if sip.first_byte_after.is_none() {
        sip.ended = Some(anyhow::anyhow!("{key}: no byte in {TOGETHER:?}"));
    }
    sip
}

/// Reads a KiB a second for as long as it is polled; every byte is checked.
async fn sip_on(
    address: SocketAddr,
    key: &str,
    started: Instant,
    sip: &mut Sip,
) -> anyhow::Result<()> {
    let mut wire = Wire::connect(address, Some(RECEIVE_BUFFER)).await?;
    let (_, mut piece) = wire.get(&format!("/models/{key}"), None).await?;
    if piece.is_empty() {
        piece.resize(SIP, 0);
        let came = wire.stream.read(&mut piece).await?;
        piece.truncate(came);
    }
    sip.first_byte_after = Some(started.elapsed());
    let seed = pattern::seed(key, 0);
    let mut second = interval(Duration::from_secs(1));
    second.set_missed_tick_behavior(MissedTickBehavior::Burst);
    second.tick().await;
    loop {
        if piece.is_empty() {
            bail!("{key}: closed after {} bytes", sip.bytes);
        }
        if let Err(wrong) = pattern::check(seed, sip.bytes, &piece) {
            bail!("{key}: {wrong:?}");
        }
        sip.bytes += piece.len() as u64;
        second.tick().await;
        piece.resize(SIP, 0);
        wire.stream.read_exact(&mut piece).await?;
    }
}

/// A connection that reads only when it is told to: the range client takes what comes as fast as it comes.
#[derive(Debug)]
pub(super) struct Wire {
    pub(super) stream: TcpStream,
    address: SocketAddr,
}

impl Wire {
    /// Connects, with this SO_RCVBUF if one is given.
    pub(super) async fn connect(address: SocketAddr, buffer: Option<u32>) -> anyhow::Result<Self> {
        let socket = TcpSocket::new_v4().context("open socket")?;
        if let Some(buffer) = buffer {
            socket
                .set_recv_buffer_size(buffer)
                .context("set SO_RCVBUF")?;
        }
        let stream = socket.connect(address).await.context("connect")?;
        stream.set_nodelay(true).context("set TCP_NODELAY")?;
        Ok(Self { stream, address })
    }

    /// Asks for a path, or for the bytes of it from the first to the last one given, and reads no further than a KiB
    /// behind the head's end: the length of the body, and what came of it already.
    pub(super) async fn get(
        &mut self,
        path: &str,
        range: Option<(u64, u64)>,
    ) -> anyhow::Result<(u64, Vec<u8>)> {
        let range = range.map_or_else(String::new, |(first, last)| {
            format!("range: bytes={first}-{last}\r\n")
        });
        let request = format!(
            "GET {path} HTTP/1.1\r\nhost: {}\r\n{range}\r\n",
            self.address
        );
        self.stream
            .write_all(request.as_bytes())
            .await
            .context("send request")?;
        let (mut answer, mut piece) = (Vec::new(), [0; SIP]);
        let end = loop {
            let came = self.stream.read(&mut piece).await.context("read head")?;
            if came == 0 {
                bail!("{path}: closed before the end of the head");
            }
            answer.extend_from_slice(&piece[..came]);
            if let Some(end) = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                break end + 4;
            }
        };
        let head = String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase();
        if !["http/1.1 200", "http/1.1 206"]
            .iter()
            .any(|ok| head.starts_with(ok))
        {
            bail!("{path}: {}", head.lines().next().unwrap_or_default());
        }
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok())
            .with_context(|| format!("{path}: an answer without content-length"))?;
        Ok((length, answer.split_off(end)))
    }
}

/// Makes room for so many open files in this process.
pub(super) fn raise_open_files(least: u64) -> anyhow::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= least) {
        return Ok(());
    }
    if limit.maximum.is_some_and(|maximum| maximum < least) {
        bail!("this check opens {least} files: raise the hard limit (ulimit -Hn) to that");
    }
    let raised = Rlimit {
        current: Some(least),
        maximum: limit.maximum,
    };
    setrlimit(Resource::Nofile, raised).context("raise limit on open files")
}
