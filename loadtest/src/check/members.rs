//! `members`: a hundred gateways that find each other, one that comes, one that dies under readers, one that comes
//! back; and what a table of a thousand members costs readers while it is built (`table`).

mod table;

use std::time::Duration;

use anyhow::Context;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::fleet::{Brief, Fleet, ring, state};
use super::{BLOCK, Options};
use crate::client::{Ask, Client, Want};
use crate::origin::Settings;
use crate::report::{Report, Unit};

const MEMBERS: usize = 100;

/// How long nothing happens while traffic is counted.
const IDLE: Duration = Duration::from_secs(12);

/// Readers who want something cold all the time, and the gateways that they ask.
const READERS: usize = 8;
const SIZE: u64 = 2 * BLOCK;

/// How long they go on after the death.
const AFTER: Duration = Duration::from_secs(6);

/// A silent member keeps its place for 30 s after it is known to be dead.
const PLACE: Duration = Duration::from_secs(30);

/// From the death to the restart that moves nothing.
const AWAY: Duration = Duration::from_secs(10);

pub(super) async fn run(options: &Options) -> anyhow::Result<Report> {
    let mut report = Report::new("members");
    let brief = Brief::new(MEMBERS);
    let begun = Instant::now();
    let mut fleet = Fleet::start(options, Settings::default(), &brief).await?;
    let took = begun.elapsed().as_secs_f64();
    report.tell("100 gateways started and agreed", took, Unit::Seconds);

    traffic(&fleet, &mut report).await?;

    let begun = Instant::now();
    fleet.join(options, &brief).await?;
    fleet.agreed(MEMBERS + 1).await?;
    let took = begun.elapsed().as_secs_f64();
    report.at_most(
        "one more is known to all after",
        took,
        5.0,
        Unit::FineSeconds,
    );

    let victim = MEMBERS / 2;
    dies(&mut fleet, victim, &mut report).await?;
    comes_back(&mut fleet, victim + 1, victim, &mut report).await?;
    let report = fleet.finish(report).await?;
    table::run(options, report).await
}

/// What membership costs while nothing happens.
async fn traffic(fleet: &Fleet, report: &mut Report) -> anyhow::Result<()> {
    let bytes = async |direction: &str| {
        let labels = [("direction", direction)];
        fleet.sum("forebay_gossip_bytes_total", &labels).await
    };
    let cpu = || -> f64 {
        fleet
            .gateways
            .iter()
            .filter_map(|gateway| gateway.cpu_seconds())
            .sum()
    };
    let before = (bytes("sent").await?, bytes("synced").await?);
    let (begun, used) = (Instant::now(), cpu());
    tokio::time::sleep(IDLE).await;
    let (seconds, used) = (begun.elapsed().as_secs_f64(), cpu() - used);
    let each = |after: f64, before: f64| (after - before) / seconds / MEMBERS as f64;
    let udp = each(bytes("sent").await?, before.0);
    let tcp = each(bytes("synced").await?, before.1);
    report.tell("idle, a member: bytes a second over UDP", udp, Unit::Count);
    report.tell("idle, a member: bytes a second of syncs", tcp, Unit::Count);
    let share = 100.0 * used / seconds / MEMBERS as f64;
    report.tell("idle, a member: of a core", share, Unit::Percent);
    Ok(())
}

/// One is killed under readers; it is passed over, then known, then out of its place.
async fn dies(fleet: &mut Fleet, victim: usize, report: &mut Report) -> anyhow::Result<()> {
    let over = Instant::now() + Duration::from_secs(1) + AFTER;
    let mut readers = JoinSet::new();
    // Cold objects, whose blocks are anybody's.
    for reader in 0..READERS {
        for round in 0..10_000 {
            fleet.origin.put(&format!("{reader}/{round}"), SIZE, 0);
        }
        let url = fleet.gateways[reader].dataset("models");
        readers.spawn(read_until(url, reader, over));
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let name = format!("gw-{victim}");
    let epoch = ring(&fleet.gateways[0]).await?["epoch"].clone();
    fleet.gateways[victim].kill().await?;
    let died = Instant::now();
    let known = Box::pin(until(fleet, victim, |ring| state(ring, &name) != "alive"));
    let known = known.await?.duration_since(died).as_secs_f64();
    report.at_most(
        "known to all to be dead after",
        known,
        10.0,
        Unit::FineSeconds,
    );
    let (mut slowest, mut failed, mut reads) = (Duration::ZERO, 0u64, 0u64);
    while let Some(read) = readers.join_next().await {
        let (some, slow, bad) = read.context("a reader ended early")??;
        (slowest, failed, reads) = (slowest.max(slow), failed + bad, reads + some);
    }
    report.at_most(
        "slowest read of its readers",
        slowest.as_secs_f64(),
        1.0,
        Unit::FineSeconds,
    );
    report.at_most("failed reads", failed as f64, 0.0, Unit::Count);
    report.tell("reads in that time", reads as f64, Unit::Count);
    let moved = Box::pin(until(fleet, victim, |ring| ring["epoch"] != epoch));
    let out = moved.await?.duration_since(died);
    report.at_least(
        "out of placement not before",
        out.as_secs_f64(),
        PLACE.as_secs_f64(),
        Unit::FineSeconds,
    );
    let latest = PLACE.as_secs_f64() + 12.0;
    report.at_most(
        "out of placement at all after",
        out.as_secs_f64(),
        latest,
        Unit::FineSeconds,
    );
    Ok(())
}

/// One is killed and comes back within 30 s: nothing moves.
async fn comes_back(
    fleet: &mut Fleet,
    victim: usize,
    dead: usize,
    report: &mut Report,
) -> anyhow::Result<()> {
    let epoch = ring(&fleet.gateways[0]).await?["epoch"].clone();
    fleet.gateways[victim].kill().await?;
    let died = Instant::now();
    tokio::time::sleep(AWAY).await;
    fleet.restart(victim).await?;
    let name = format!("gw-{victim}");
    let back = Box::pin(until(fleet, dead, |ring| state(ring, &name) == "alive"));
    let back = back.await?.duration_since(died + AWAY).as_secs_f64();
    report.tell(
        "one that was restarted is alive to all after",
        back,
        Unit::FineSeconds,
    );
    let mut epochs = 0;
    while died.elapsed() < PLACE + AWAY {
        for (index, gateway) in fleet.gateways.iter().enumerate().step_by(9) {
            if index != dead && ring(gateway).await?["epoch"] != epoch {
                epochs += 1;
            }
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    report.at_most(
        "other tables seen meanwhile",
        f64::from(epochs),
        0.0,
        Unit::Count,
    );
    Ok(())
}

/// The moment from which all but one see that something holds.
async fn until(
    fleet: &Fleet,
    without: usize,
    holds: impl Fn(&serde_json::Value) -> bool,
) -> anyhow::Result<Instant> {
    let end = Instant::now() + 2 * PLACE;
    let mut waiting: Vec<usize> = (0..fleet.gateways.len())
        .filter(|index| *index != without)
        .collect();
    while !waiting.is_empty() {
        let mut still = Vec::new();
        for index in waiting {
            if !holds(&ring(&fleet.gateways[index]).await?) {
                still.push(index);
            }
        }
        waiting = still;
        anyhow::ensure!(
            Instant::now() < end,
            "it is not seen by gateways {waiting:?}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(Instant::now())
}

/// Reads one cold object after the other; how many, the slowest, and how many failed.
async fn read_until(
    url: String,
    reader: usize,
    over: Instant,
) -> anyhow::Result<(u64, Duration, u64)> {
    let mut client = Client::new(&url)?;
    let (mut reads, mut slowest, mut failed) = (0, Duration::ZERO, 0);
    while Instant::now() < over {
        let ask = Ask::new(&format!("{reader}/{reads}"), Want::Whole);
        let read = client.read(&ask).await;
        failed += u64::from(!read.is_whole());
        slowest = slowest.max(read.took);
        reads += 1;
        // Not to load the machine, on which a hundred gateways gossip.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok((reads, slowest, failed))
}
