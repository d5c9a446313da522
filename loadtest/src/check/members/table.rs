//! A gateway among a thousand members, of which one comes each second, so that a table is built each second: what that
//! costs readers of what it holds.
//!
//! The others are no processes but what a gateway is told by them when they join: each proves the fleet's key on the
//! fleet's port, and says once that it is there. That they do not answer later is found out one after another, at a
//! second each, and changes no table within half a minute.

use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use forebay_gateway::peer::client::{Http, Syncs, Tcp};
use forebay_gateway::peer::handshake::{Identity as Caller, Keys};
use forebay_gateway::peer::wire;
use forebay_ring::Member;
use forebay_ring::gossip::{Core, Exchange, Identity};
use forebay_ring::seal::FleetKeys;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::super::fleet::{self, Brief, Fleet};
use super::super::{BLOCK, Options};
use crate::client::{Ask, Client, Want};
use crate::origin::Settings;
use crate::report::{Report, Unit};

const MEMBERS: usize = 1000;
const SIZE: u64 = 64 * BLOCK;
const KEY: &str = "hot";

/// Hot reads of 64 KiB at a steady rate, on so many connections.
const LENGTH: u64 = 64 << 10;
const CONNECTIONS: u64 = 4;
const EVERY: Duration = Duration::from_millis(4);

/// How long each half is.
const TIME: Duration = Duration::from_secs(8);

/// A table that stood for so long is the last: one of so many members takes a tenth of that to build.
const STANDS: Duration = Duration::from_secs(1);

pub(super) async fn run(options: &Options, mut report: Report) -> anyhow::Result<Report> {
    // A fleet of one, until the others come.
    let brief = Brief {
        memory: "256MiB",
        ..Brief::new(1)
    };
    let fleet = Fleet::start(options, Settings::default(), &brief).await?;
    fleet.origin.put(KEY, SIZE, 0);
    let url = fleet.gateways[0].dataset("models");
    // All of it is resident, whoever owns it later.
    let read = Client::new(&url)?.read(&Ask::new(KEY, Want::Whole)).await;
    if !read.is_whole() {
        bail!("a read ended {:?}", read.outcome);
    }
    let strangers = Strangers::new(fleet.ports[0])?;
    let mut coming = JoinSet::new();
    for index in 1..MEMBERS {
        let strangers = strangers.clone();
        coming.spawn(async move { strangers.comes(index).await });
        if coming.len() >= 16
            && let Some(come) = coming.join_next().await
        {
            come??;
        }
    }
    while let Some(come) = coming.join_next().await {
        come??;
    }
    let count = members(&fleet).await?;
    if count < MEMBERS {
        bail!("the gateway knows {count} members of {MEMBERS}");
    }
    last_table(&fleet).await?;
    let alone = p99(&url, TIME, options.seed).await?;
    let building = tokio::spawn({
        let strangers = strangers.clone();
        async move {
            let mut ticks = interval(Duration::from_secs(1));
            for index in 0..TIME.as_secs() as usize {
                ticks.tick().await;
                strangers.comes(MEMBERS + index).await?;
            }
            Ok::<_, anyhow::Error>(())
        }
    });
    let before = epoch(&fleet).await?;
    let beside = p99(&url, TIME, options.seed).await?;
    building.await.context("members came")??;
    if epoch(&fleet).await? == before {
        bail!("no table was built");
    }
    let what = "p99 of hot reads while tables of 1000 are built ÷ before";
    report.at_most(what, beside / alone, 2.0, Unit::Times);
    report.tell("p99 of hot reads before", alone, Unit::Milliseconds);
    report.tell(
        "p99 of hot reads while tables are built",
        beside,
        Unit::Milliseconds,
    );
    fleet.finish(report).await
}

async fn members(fleet: &Fleet) -> anyhow::Result<usize> {
    let ring = fleet::ring(&fleet.gateways[0]).await?;
    Ok(ring["members"].as_array().map_or(0, Vec::len))
}

/// Awaits the last table of the crowd: nobody comes any more, and it has stood for so long.
async fn last_table(fleet: &Fleet) -> anyhow::Result<()> {
    let mut before = epoch(fleet).await?;
    loop {
        tokio::time::sleep(STANDS).await;
        let now = epoch(fleet).await?;
        if now == before {
            return Ok(());
        }
        before = now;
    }
}

async fn epoch(fleet: &Fleet) -> anyhow::Result<serde_json::Value> {
    Ok(fleet::ring(&fleet.gateways[0]).await?["epoch"].clone())
}

/// The 99th percentile of hot reads' times, in milliseconds.
async fn p99(url: &str, time: Duration, seed: u64) -> anyhow::Result<f64> {
    let mut readers = JoinSet::new();
    for connection in 0..CONNECTIONS {
        let mut client = Client::new(url)?;
        readers.spawn(async move {
            let mut times = Vec::new();
            let mut ticks = interval(EVERY);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
            let begun = Instant::now();
            while begun.elapsed() < time {
                // From when it was due: who waits for the one before waits too.
                let due = ticks.tick().await;
                let place =
                    seed.wrapping_add(connection + times.len() as u64 * 7) % (SIZE / LENGTH);
                let want = Want::Range(place * LENGTH, (place + 1) * LENGTH - 1);
                let read = client.read(&Ask::new(KEY, want)).await;
                if !read.is_whole() {
                    bail!("a read ended {:?}", read.outcome);
                }
                times.push(due.elapsed());
            }
            Ok(times)
        });
    }
    let mut times = Vec::new();
    while let Some(read) = readers.join_next().await {
        times.append(&mut read.context("a reader ended early")??);
    }
    times.sort_unstable();
    let place = times.len() * 99 / 100;
    Ok(times[place.min(times.len() - 1)].as_secs_f64() * 1e3)
}

/// Members that are only told of.
#[derive(Clone)]
struct Strangers {
    to: SocketAddr,
    keys: FleetKeys,
    syncs: Arc<Syncs<Tcp>>,
}

impl Strangers {
    fn new(to: SocketAddr) -> anyhow::Result<Self> {
        let own = Caller {
            fleet: "checks".into(),
            member: "stranger".into(),
            keys: Keys::new([fleet::KEY.as_bytes()]),
            tls: None,
        };
        Ok(Self {
            to,
            keys: FleetKeys::new("checks", fleet::KEY.as_bytes(), None)?,
            syncs: Arc::new(Syncs(Arc::new(Http::over_tcp(own)))),
        })
    }

    /// One of them tells the gateway that it is there.
    async fn comes(&self, index: usize) -> anyhow::Result<()> {
        let last = u8::try_from(index % 250 + 1)?;
        let before = u8::try_from(index / 250 + 1)?;
        let identity = Identity {
            member: Member::new(format!("far-{index}"), "", NonZeroU16::MIN)?,
            // Of the loopback: what is sent there comes back as refused at once.
            address: SocketAddr::from(([127, 9, before, last], 9)),
            client_url: "http://127.9.0.1:9".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            protocols: (wire::OLDEST, wire::PROTOCOL),
            settings: 0,
            incarnation: 1,
            instance: index as u64,
        };
        let mut core = Core::new(identity, &self.keys, index as u64, Duration::ZERO)?;
        let now = Duration::from_millis(1);
        let mut next = Some(core.request(now, self.to));
        while let Some(sync) = next {
            let answer = self.syncs.exchange(self.to, sync.sealed.clone()).await;
            let answer = answer.context("tell a gateway of a member")?;
            let synced = core.synced(now, self.to, &sync, &answer);
            next = synced.ok().and_then(|synced| synced.more);
        }
        Ok(())
    }
}
