//! `memory-h2`: a thousand HTTP/2 connections of four streams each, of which a KiB a second is taken, do not swell a
//! gateway with little memory, and a client that reads fast beside them gets what it asks for.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, bail};
use forebay_storage::store::{CONNECTION_BYTES, STREAM_BYTES, places_in};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, timeout_at};

use super::memory::raise_open_files;
use super::{BLOCK, Options, Rig};
use crate::client::{Ask, Client, Want};
use crate::origin::Settings;
use crate::report::{Report, Unit};

const CONNECTIONS: usize = 1000;
const STREAMS: usize = 4;
const SIZE: u64 = 16 * BLOCK;
const COLD: u64 = 4 * BLOCK;

/// What a connection takes each second.
const SIP: usize = 1 << 10;

const TOGETHER: Duration = Duration::from_secs(30);

/// A connection's SO_RCVBUF, so that it is not the kernel that holds what nobody has read.
const RECEIVE_BUFFER: u32 = 8 << 10;

/// A size of `memory`, and what is asked of a gateway with so much.
struct Round {
    mib: u64,
    /// Whether a good client's first byte has a bar: in a small memory it waits for all who came before it.
    prompt: bool,
}

const ROUNDS: [Round; 2] = [
    Round {
        mib: 64,
        prompt: false,
    },
    Round {
        mib: 256,
        prompt: true,
    },
];

impl Round {
    /// What `forebay check` says to give the process: `memory` and 64 MiB for all else, what connections and streams
    /// take that find no room in half of `memory`, and a tenth on top.
    fn peak_mib(&self) -> f64 {
        let connections = CONNECTIONS as u64 * u64::from(CONNECTION_BYTES);
        let streams = (CONNECTIONS * STREAMS) as u64 * u64::from(STREAM_BYTES);
        let memory = self.mib * BLOCK;
        let beyond = (connections + streams).saturating_sub(places_in(memory, 0, false));
        (memory + 64 * BLOCK + beyond) as f64 * 1.1 / BLOCK as f64
    }
}

pub(super) async fn run(options: &Options) -> anyhow::Result<Report> {
    raise_open_files(2 * CONNECTIONS as u64)?;
    let mut report = Report::new("memory-h2");
    for round in &ROUNDS {
        report = measure(options, round, report).await?;
    }
    Ok(report)
}

async fn measure(options: &Options, round: &Round, mut report: Report) -> anyhow::Result<Report> {
    let mib = round.mib;
    let cache = format!("memory = \"{mib}MiB\"\nnvme = 0");
    let rig = Rig::start_with(options, Settings::default(), &cache, &[("models", "")]).await?;
    for stream in 0..CONNECTIONS * STREAMS {
        rig.origin.put(&stream.to_string(), SIZE, 0);
    }
    let address: SocketAddr = rig.gateway.authority().parse()?;
    let end = Instant::now() + TOGETHER;
    let mut slow = JoinSet::new();
    for connection in 0..CONNECTIONS {
        slow.spawn(async move {
            // Running into the end is what it is meant to do.
            match timeout_at(end, sip(address, connection)).await {
                Ok(Err(error)) => Err(error),
                _ => Ok(()),
            }
        });
    }
    let good = read_until(&rig, end).await?;
    let mut kept = 0_u32;
    while let Some(ended) = slow.join_next().await {
        match ended.context("a connection's task panicked")? {
            Ok(()) => kept += 1,
            Err(error) => eprintln!("memory-h2: a connection ended: {error:#}"),
        }
    }
    let peak = rig.gateway.peak_memory().context("read peak memory")? as f64 / BLOCK as f64;
    let what = |what: &str| format!("{mib} MiB: {what}");
    report.at_most(
        &what("peak memory"),
        peak,
        round.peak_mib(),
        Unit::Mebibytes,
    );
    report.at_least(
        &what("connections served all the time"),
        f64::from(kept),
        CONNECTIONS as f64,
        Unit::Count,
    );
    let (name, first) = (
        what("a good client's latest first byte"),
        good.first_byte.as_secs_f64(),
    );
    match round.prompt {
        true => report.at_most(&name, first, 5.0, Unit::Seconds),
        false => report.tell(&name, first, Unit::Seconds),
    };
    report.tell(
        &what("its reads of 4 cold MiB"),
        f64::from(good.reads),
        Unit::Count,
    );
    // Its later blocks queue behind those of four thousand streams once more.
    report.tell(
        &what("the longest of them"),
        good.longest.as_secs_f64(),
        Unit::Seconds,
    );
    rig.finish(report).await
}

/// What a client saw that reads as fast as it can.
#[derive(Default)]
struct Good {
    reads: u32,
    first_byte: Duration,
    longest: Duration,
}

async fn read_until(rig: &Rig, end: Instant) -> anyhow::Result<Good> {
    let mut client = Client::new(&rig.gateway.dataset("models"))?;
    let mut good = Good::default();
    while Instant::now() < end {
        let key = format!("cold{}", good.reads);
        rig.origin.put(&key, COLD, 0);
        let begun = Instant::now();
        let read = client.read(&Ask::new(&key, Want::Whole)).await;
        if !read.is_whole() {
            bail!("a read of the good client ended {:?}", read.outcome);
        }
        good.longest = good.longest.max(begun.elapsed());
        let first_byte = read.first_byte_after.unwrap_or(TOGETHER);
        good.first_byte = good.first_byte.max(first_byte);
        good.reads += 1;
    }
    Ok(good)
}

/// Asks for four objects, and takes a KiB a second of whatever comes, for as long as it is polled.
async fn sip(address: SocketAddr, connection: usize) -> anyhow::Result<()> {
    let socket = TcpSocket::new_v4().context("open socket")?;
    socket
        .set_recv_buffer_size(RECEIVE_BUFFER)
        .context("set SO_RCVBUF")?;
    let mut stream: TcpStream = socket.connect(address).await.context("connect")?;
    stream.write_all(&asking(connection)).await?;
    let mut second = interval(Duration::from_secs(1));
    let mut piece = [0; SIP];
    loop {
        second.tick().await;
        if stream.read(&mut piece).await.context("read")? == 0 {
            bail!("it was closed");
        }
    }
}

/// The preface, windows that hold nothing back (RFC 9113 §6.9), and four requests with fields in clear (RFC 7541
/// §6.2.2).
fn asking(connection: usize) -> Vec<u8> {
    const OPEN: u32 = (1 << 31) - 1;
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    let mut settings = vec![0, 4];
    settings.extend(OPEN.to_be_bytes());
    frame(&mut bytes, [4, 0], 0, &settings);
    frame(&mut bytes, [8, 0], 0, &(OPEN - 65_535).to_be_bytes());
    for place in 0..STREAMS {
        let path = format!("/models/{}", connection * STREAMS + place);
        let mut head = Vec::new();
        for (name, value) in [
            (":method", "GET"),
            (":scheme", "http"),
            (":authority", "gateway"),
            (":path", &path),
        ] {
            head.push(0);
            for text in [name, value] {
                head.push(u8::try_from(text.len()).unwrap_or(0));
                head.extend(text.as_bytes());
            }
        }
        let id = u32::try_from(2 * place + 1).unwrap_or(1);
        frame(&mut bytes, [1, 5], id, &head);
    }
    bytes
}

fn frame(bytes: &mut Vec<u8>, kind: [u8; 2], id: u32, payload: &[u8]) {
    let length = u32::try_from(payload.len()).unwrap_or(0);
    bytes.extend(&length.to_be_bytes()[1..]);
    bytes.extend(kind);
    bytes.extend(id.to_be_bytes());
    bytes.extend(payload);
}
