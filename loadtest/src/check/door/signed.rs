//! Signed reads of 4 KiB beside anonymous ones: two gateways over one object each, in turn, so that what else the machine
//! does falls on both.
//!
//! Over so many connections that a gateway is never out of work. With few of them a read's time is that of waking its
//! two ends, which a signature changes little of, and which differs between two runs by more than the bar leaves.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail};
use forebay_gateway::access::canonical::UNSIGNED_PAYLOAD;
use forebay_gateway::access::sign::{Signer, Unsigned};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::super::{BLOCK, Options, Rig};
use crate::client::{Ask, Client, Want};
use crate::origin::Settings;
use crate::pattern;
use crate::report::{Report, Unit, median};

const OBJECT: u64 = 16 * BLOCK;
const READ: u64 = 4 << 10;
const CONNECTIONS: usize = 64;

/// Requests that a connection goes through again and again: written out before the clock runs, so that signed ones cost
/// the client no more than their length.
const REQUESTS: usize = 256;

const ROUND: Duration = Duration::from_millis(300);
const ROUNDS: usize = 30;

const BAR: f64 = 0.8;

/// How a request says who sends it.
#[derive(Clone, Copy, Debug)]
enum How {
    Anonymous,
    Header,
    Presigned,
}

/// Adds the rows on signed reads.
pub(super) async fn measure(options: &Options, report: &mut Report) -> anyhow::Result<()> {
    let open = start(options, "").await?;
    // What follows a dataset's lines may as well be another section.
    let access = "[[access]]\naccess_key_id = \"LOADER\"\nsecret_access_key = \"loader-secret\"\n";
    let guarded = start(options, access).await?;
    let mut random = StdRng::seed_from_u64(options.seed);
    let mut prepare = |rig: &Rig, how| requests(rig, how, &mut random);
    let plain = prepare(&open, How::Anonymous)?;
    let header = prepare(&guarded, How::Header)?;
    let presigned = prepare(&guarded, How::Presigned)?;
    let ways = [(&open, plain), (&guarded, header), (&guarded, presigned)];
    let mut rounds = Vec::new();
    for round in 0..=ROUNDS {
        let mut paces = [Pace::default(); 3];
        for turn in 0..ways.len() {
            // None is always the one that comes behind another.
            let way = (round + turn) % ways.len();
            let (rig, requests) = &ways[way];
            paces[way] = pace(rig, requests).await?;
        }
        // The first round finds connections, pages and clocks cold.
        if round > 0 {
            rounds.push(paces);
        }
    }
    judge(&rounds, report);
    for rig in [open, guarded] {
        rig.gateway.stop().await.context("stop gateway")?;
    }
    Ok(())
}

/// What one round came to.
#[derive(Clone, Copy, Debug, Default)]
struct Pace {
    /// Reads a second over all connections.
    rate: f64,
    /// Microseconds of processor time that the gateway took for a read.
    cost: f64,
}

/// The median of the rounds, each of one that is anonymous, signed, and presigned.
fn judge(rounds: &[[Pace; 3]], report: &mut Report) {
    let of = |figure: fn(&[Pace; 3]) -> f64| median(rounds.iter().map(figure).collect());
    let ratio = of(|[anonymous, signed, _]| signed.rate / anonymous.rate);
    report.at_least("signed 4 KiB reads ÷ anonymous", ratio, BAR, Unit::Times);
    // Told only: its target is 350 bytes longer, which hyper has to read as well.
    let ratio = of(|[anonymous, _, presigned]| presigned.rate / anonymous.rate);
    report.tell("presigned 4 KiB reads ÷ anonymous", ratio, Unit::Times);
    let rate = of(|[anonymous, ..]| anonymous.rate);
    report.tell("anonymous 4 KiB reads a second", rate, Unit::Count);
    let cost = of(|[anonymous, ..]| anonymous.cost);
    report.tell("gateway's CPU, an anonymous read", cost, Unit::Microseconds);
    let cost = of(|[_, signed, _]| signed.cost);
    report.tell("gateway's CPU, a signed read", cost, Unit::Microseconds);
}

/// A gateway whose one object is cached.
async fn start(options: &Options, more: &str) -> anyhow::Result<Rig> {
    let lines = format!("immutable = true\n{more}");
    let rig = Rig::start(
        options,
        Settings::default(),
        "256MiB",
        &[("models", &lines)],
    )
    .await?;
    rig.origin.put("hot", OBJECT, 0);
    if more.is_empty() {
        let mut client = Client::new(&rig.gateway.dataset("models"))?;
        let read = client.read(&Ask::new("hot", Want::Whole)).await;
        if !read.is_whole() {
            bail!("the object could not be cached: {:?}", read.outcome);
        }
        return Ok(rig);
    }
    // The range client does not sign: the presigned URLs of all blocks are read by hand.
    let mut wire = Wire::connect(address(&rig)?).await?;
    for block in 0..OBJECT / BLOCK {
        let request = request(&rig, How::Header, block * BLOCK, BLOCK)?;
        wire.read(&request, block * BLOCK, BLOCK).await?;
    }
    Ok(rig)
}

fn address(rig: &Rig) -> anyhow::Result<SocketAddr> {
    let url = rig.gateway.url();
    let address = url.trim_start_matches("http://").parse();
    address.context("read the gateway's address")
}

/// Requests for 4 KiB each, somewhere in the object, and where.
type Requests = Arc<Vec<(u64, Vec<u8>)>>;

fn requests(rig: &Rig, how: How, random: &mut StdRng) -> anyhow::Result<Requests> {
    let requests = (0..REQUESTS).map(|_| {
        let first = random.random_range(0..OBJECT / READ) * READ;
        Ok((first, request(rig, how, first, READ)?))
    });
    requests.collect::<anyhow::Result<Vec<_>>>().map(Arc::new)
}

fn request(rig: &Rig, how: How, first: u64, length: u64) -> anyhow::Result<Vec<u8>> {
    let host = address(rig)?.to_string();
    let signer = Signer::new("LOADER", "loader-secret");
    let unsigned = Unsigned {
        method: "GET",
        host: &host,
        path: "/models/hot",
        query: "",
    };
    let now = SystemTime::now();
    let (mut target, mut fields) = (unsigned.path.to_owned(), String::new());
    match how {
        How::Anonymous => {}
        How::Header => {
            for (name, value) in signer.headers(&unsigned, UNSIGNED_PAYLOAD, now) {
                fields.push_str(&format!("{name}: {value}\r\n"));
            }
        }
        How::Presigned => {
            let query = signer.presign(&unsigned, now, Duration::from_secs(3600));
            target.push_str(&format!("?{query}"));
        }
    }
    let last = first + length - 1;
    let request = format!(
        "GET {target} HTTP/1.1\r\nhost: {host}\r\nrange: bytes={first}-{last}\r\n{fields}\r\n"
    );
    Ok(request.into_bytes())
}

/// Reads for one round over all connections.
async fn pace(rig: &Rig, requests: &Requests) -> anyhow::Result<Pace> {
    let address = address(rig)?;
    let mut wires = Vec::with_capacity(CONNECTIONS);
    for _ in 0..CONNECTIONS {
        wires.push(Wire::connect(address).await?);
    }
    let spent = || rig.gateway.cpu_seconds().context("read CPU time");
    let before = spent()?;
    let started = Instant::now();
    let end = started + ROUND;
    let mut readers = JoinSet::new();
    for (number, mut wire) in wires.into_iter().enumerate() {
        let requests = Arc::clone(requests);
        readers.spawn(async move {
            let mut reads = 0_u32;
            // Each begins elsewhere, so that no two ask for the same at once.
            let own = number * REQUESTS / CONNECTIONS;
            for (first, request) in requests.iter().cycle().skip(own) {
                if Instant::now() >= end {
                    break;
                }
                wire.read(request, *first, READ).await?;
                reads += 1;
            }
            anyhow::Ok(reads)
        });
    }
    let mut reads = 0;
    while let Some(read) = readers.join_next().await {
        reads += read.context("a reader ended early")??;
    }
    let reads = f64::from(reads);
    Ok(Pace {
        rate: reads / started.elapsed().as_secs_f64(),
        cost: 1e6 * (spent()? - before) / reads,
    })
}

/// A connection and what came over it.
struct Wire {
    stream: TcpStream,
    came: Vec<u8>,
}

impl Wire {
    async fn connect(address: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await.context("connect")?;
        stream.set_nodelay(true).context("set TCP_NODELAY")?;
        Ok(Self {
            stream,
            came: Vec::with_capacity(16 << 10),
        })
    }

    /// Sends a request for the bytes from `first` on, and takes its answer; the bytes' ends are checked.
    async fn read(&mut self, request: &[u8], first: u64, length: u64) -> anyhow::Result<()> {
        self.stream
            .write_all(request)
            .await
            .context("send request")?;
        self.came.clear();
        let length = usize::try_from(length)?;
        let mut head = None;
        loop {
            let came = self.stream.read_buf(&mut self.came).await;
            if came.context("read answer")? == 0 {
                bail!("closed before the end of an answer");
            }
            if head.is_none() {
                head = self.came.windows(4).position(|bytes| bytes == b"\r\n\r\n");
            }
            if let Some(head) = head
                && !self.came.starts_with(b"HTTP/1.1 206")
            {
                bail!("{}", String::from_utf8_lossy(&self.came[..head]));
            }
            if let Some(body) = head.and_then(|head| self.came.get(head + 4..))
                && body.len() >= length
            {
                // All of it would cost the client more than the gateway is measured by.
                let sample = &body[..64.min(length)];
                let right = pattern::check(pattern::seed("hot", 0), first, sample);
                if right.is_err() || body.len() > length {
                    bail!("wrong bytes at {first}: {right:?}");
                }
                return Ok(());
            }
        }
    }
}
