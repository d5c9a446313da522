//! `hop`: what it costs that a block lies on another gateway. An edge, which keeps no copies here, has every byte from
//! a member; beside it the same reads of that member itself, from its memory.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::task::JoinSet;

use super::fleet::{Brief, Fleet};
use super::{BLOCK, Options, median_ms};
use crate::client::{Ask, Client, Want};
use crate::gateway::Gateway;
use crate::origin::Settings;
use crate::report::{Report, Unit};

const SIZE: u64 = 64 * BLOCK;
const KEY: &str = "hot";

/// Interleaved, so that a noisy moment falls on both ways.
const ROUNDS: usize = 3;

/// Bytes of each round by each way: at 0.2 s a GB enough ticks of the processor's clock.
const BYTES: u64 = 2 << 30;

const CONNECTIONS: u64 = 4;

/// Reads whose first byte is timed, by each way.
const FIRST_BYTES: usize = 300;

/// How much a request asks for.
#[derive(Clone, Copy)]
struct Row {
    what: &'static str,
    bytes: u64,
}

const ROWS: [Row; 2] = [
    Row {
        what: "ranges of 8 MiB",
        bytes: 8 * BLOCK,
    },
    Row {
        what: "ranges of 1 MiB",
        bytes: BLOCK,
    },
];

/// Processor seconds of one way.
#[derive(Clone, Copy, Default)]
struct Cost {
    asking: f64,
    asked: f64,
    seconds: f64,
}

pub(super) async fn run(options: &Options) -> anyhow::Result<Report> {
    let brief = Brief {
        edges: 1,
        memory: "512MiB",
        copies: false,
        ..Brief::new(2)
    };
    let fleet = Fleet::start(options, Settings::default(), &brief).await?;
    fleet.origin.put(KEY, SIZE, 0);
    let (member, edge) = (&fleet.gateways[0], &fleet.gateways[1]);
    for gateway in [member, edge] {
        read(gateway, &Ask::new(KEY, Want::Whole)).await?;
    }
    let mut report = Report::new("hop");
    for row in ROWS {
        let (mut local, mut hop) = (Cost::default(), Cost::default());
        for round in 0..ROUNDS {
            let seed = options.seed.wrapping_add(round as u64);
            measure(&mut local, member, (member, edge), row, seed).await?;
            measure(&mut hop, edge, (edge, member), row, seed).await?;
        }
        tell(&mut report, row, local, hop);
    }
    let (mut local, mut hop) = (Vec::new(), Vec::new());
    let mut random = StdRng::seed_from_u64(options.seed);
    let mut clients = [member, edge].map(|gateway| Client::new(&gateway.dataset("models")));
    for _ in 0..FIRST_BYTES {
        let first = random.random_range(0..SIZE / BLOCK) * BLOCK;
        let ask = Ask::new(KEY, Want::Range(first, first + 4095));
        for (client, times) in clients.iter_mut().zip([&mut local, &mut hop]) {
            let Ok(client) = client else {
                bail!("a gateway's URL can't be used")
            };
            let read = client.read(&ask).await;
            times.push(
                read.first_byte_after
                    .context("a read ended without a byte")?,
            );
        }
    }
    let (local, hop) = (median_ms(local), median_ms(hop));
    let more = "first byte: more than of a local hit";
    report.at_most(more, hop - local, 1.0, Unit::Milliseconds);
    report.tell("first byte, local hit", local, Unit::Milliseconds);
    let asked = fleet.sum("forebay_origin_bytes_total", &[]).await?;
    report.at_most("origin bytes ÷ size", asked / SIZE as f64, 1.0, Unit::Times);
    fleet.finish(report).await
}

fn tell(report: &mut Report, row: Row, local: Cost, hop: Cost) {
    let what = row.what;
    let alone = local.asking;
    let bars = [
        (
            "asking gateway's CPU ÷ local hit's",
            hop.asking / alone,
            2.2,
        ),
        (
            "both gateways' CPU ÷ local hit's",
            (hop.asking + hop.asked) / alone,
            3.5,
        ),
    ];
    for (name, value, bar) in bars {
        report.at_most(&format!("{what}: {name}"), value, bar, Unit::Times);
    }
    let gigabytes = (BYTES * ROUNDS as u64) as f64 / 1e9;
    let name = format!("{what}: local hit, CPU of a GB");
    report.tell(&name, 1e3 * alone / gigabytes, Unit::Milliseconds);
    let mib = |cost: Cost| (BYTES * ROUNDS as u64 / BLOCK) as f64 / cost.seconds;
    report.tell(
        &format!("{what}: local hits a second"),
        mib(local),
        Unit::Mebibytes,
    );
    report.tell(
        &format!("{what}: by a hop a second"),
        mib(hop),
        Unit::Mebibytes,
    );
}

/// Adds what it costs to read [`BYTES`] through `through`.
async fn measure(
    cost: &mut Cost,
    through: &Gateway,
    (asking, asked): (&Gateway, &Gateway),
    row: Row,
    seed: u64,
) -> anyhow::Result<()> {
    let cpu = |gateway: &Gateway| gateway.cpu_seconds().context("a gateway has ended");
    let before = (cpu(asking)?, cpu(asked)?);
    let begun = tokio::time::Instant::now();
    let mut readers = JoinSet::new();
    let url: Arc<str> = through.dataset("models").into();
    for connection in 0..CONNECTIONS {
        let url = Arc::clone(&url);
        readers.spawn(async move {
            let mut client = Client::new(&url)?;
            let mut random = StdRng::seed_from_u64(seed.wrapping_add(connection << 32));
            let mut left = BYTES / CONNECTIONS;
            while left > 0 {
                let first = random.random_range(0..SIZE / row.bytes) * row.bytes;
                let want = Want::Range(first, first + row.bytes - 1);
                let read = client.read(&Ask::new(KEY, want)).await;
                if !read.is_whole() {
                    bail!("a read ended {:?}", read.outcome);
                }
                left = left.saturating_sub(row.bytes);
            }
            Ok(())
        });
    }
    while let Some(read) = readers.join_next().await {
        read.context("a reader ended early")??;
    }
    cost.seconds += begun.elapsed().as_secs_f64();
    // What is still on its way is counted too.
    tokio::time::sleep(Duration::from_millis(50)).await;
    cost.asking += cpu(asking)? - before.0;
    cost.asked += cpu(asked)? - before.1;
    Ok(())
}

async fn read(gateway: &Gateway, ask: &Ask) -> anyhow::Result<()> {
    let mut client = Client::new(&gateway.dataset("models"))?;
    let read = client.read(ask).await;
    if !read.is_whole() {
        bail!("a read ended {:?}", read.outcome);
    }
    Ok(())
}
