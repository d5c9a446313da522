//! Several gateways that are one cache, on loopback, for the checks of fleets.

use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::{Context, bail};
use serde_json::Value;
use tokio::task::JoinSet;

use super::{Options, dataset};
use crate::gateway::{Gateway, Launch};
use crate::origin::{Origin, Settings};
use crate::report::Report;

/// What a fleet is to be.
#[derive(Clone, Debug)]
pub(super) struct Brief {
    /// How many gateways.
    pub(super) members: usize,
    /// Of these, the last so many are edges.
    pub(super) edges: usize,
    /// `memory` of each.
    pub(super) memory: &'static str,
    /// Whether blocks of others are kept.
    pub(super) copies: bool,
    /// Each takes the one after it for the only owner, and is told of nobody else.
    pub(super) each_other: bool,
}

impl Brief {
    pub(super) fn new(members: usize) -> Self {
        Self {
            members,
            edges: 0,
            memory: "64MiB",
            copies: true,
            each_other: false,
        }
    }
}

/// An origin, and gateways that share it: the dataset `models`.
pub(super) struct Fleet {
    pub(super) origin: Origin,
    pub(super) gateways: Vec<Gateway>,
    launches: Vec<Launch>,
    pub(super) ports: Vec<SocketAddr>,
}

/// The fleet's key: it guards nothing but this machine's loopback for a minute.
pub(super) const KEY: &str = "the key of a fleet of checks";

/// Gateways that start at the same time.
const AT_ONCE: usize = 8;

impl Fleet {
    /// Starts all, and waits until they know each other under one epoch.
    pub(super) async fn start(
        options: &Options,
        settings: Settings,
        brief: &Brief,
    ) -> anyhow::Result<Self> {
        let origin = Origin::start(settings)
            .await
            .context("start origin model")?;
        let mut fleet = Self {
            origin,
            gateways: Vec::new(),
            launches: Vec::new(),
            ports: (0..brief.members)
                .map(|_| free_port())
                .collect::<Result<_, _>>()?,
        };
        for index in 0..brief.members {
            let launch = fleet.launch(options, brief, index);
            fleet.launches.push(launch);
        }
        for some in fleet.launches.clone().chunks(AT_ONCE) {
            let mut starting = JoinSet::new();
            for (index, launch) in some.iter().cloned().enumerate() {
                starting.spawn(async move { (index, Gateway::start(&launch).await) });
            }
            let mut started = starting.join_all().await;
            started.sort_by_key(|(index, _)| *index);
            for (_, gateway) in started {
                fleet.gateways.push(gateway?);
            }
        }
        if !brief.each_other {
            fleet.agreed(brief.members).await?;
        }
        Ok(fleet)
    }

    /// How gateway `index` is started.
    fn launch(&self, options: &Options, brief: &Brief, index: usize) -> Launch {
        let edge = index >= brief.members - brief.edges || brief.each_other;
        let role = if edge { "edge" } else { "member" };
        let seeds: Vec<String> = self
            .ports
            .iter()
            .take(3)
            .map(|port| format!("\"{port}\""))
            .collect();
        let text = format!(
            "[cache]\nmemory = \"{}\"\n[log]\nlevel = \"warn\"\naccess = false\n\
             [fleet]\nname = \"checks\"\nmember = \"gw-{index}\"\nrole = \"{role}\"\nkey = \"{KEY}\"\n\
             listen = \"{}\"\nseeds = [{}]\n{}",
            brief.memory,
            self.ports[index],
            seeds.join(", "),
            dataset("models", &self.origin, "fresh_for = \"10m\""),
        );
        let mut environment: Vec<(OsString, OsString)> = Vec::new();
        if !brief.copies {
            environment.push(("FOREBAY_COPIES".into(), "off".into()));
        }
        if brief.each_other {
            let other = (index + 1) % brief.members;
            let member = format!("gw-{other}={}=127.0.0.1:1==1", self.ports[other]);
            environment.push(("FOREBAY_TEST_MEMBERS".into(), member.into()));
        }
        Launch {
            program: options.program.clone(),
            settings: Some(text),
            environment,
            ..Launch::default()
        }
    }

    /// Starts one gateway more, which knows the others by their seeds.
    pub(super) async fn join(&mut self, options: &Options, brief: &Brief) -> anyhow::Result<()> {
        self.ports.push(free_port()?);
        let one_more = Brief {
            members: brief.members + 1,
            ..brief.clone()
        };
        let launch = self.launch(options, &one_more, self.ports.len() - 1);
        self.gateways.push(Gateway::start(&launch).await?);
        self.launches.push(launch);
        Ok(())
    }

    /// Starts the gateway that was killed again, over the data it had.
    pub(super) async fn restart(&mut self, index: usize) -> anyhow::Result<()> {
        let launch = self.launches[index].clone();
        self.gateways[index].restart(&launch).await?;
        Ok(())
    }

    /// Waits until so many members see each other alive under one epoch: all of them in one look, for whoever was asked
    /// first may have been in the epoch before.
    pub(super) async fn agreed(&self, members: usize) -> anyhow::Result<String> {
        let end = tokio::time::Instant::now() + std::time::Duration::from_secs(60);
        loop {
            let mut epochs = std::collections::BTreeSet::new();
            let mut apart = None;
            for gateway in &self.gateways {
                let ring = ring(gateway).await?;
                epochs.insert(ring["epoch"].as_str().unwrap_or_default().to_owned());
                if states(&ring, "alive") != members || epochs.len() > 1 {
                    apart = Some(ring);
                    break;
                }
            }
            let Some(ring) = apart else {
                return Ok(epochs.pop_first().unwrap_or_default());
            };
            if tokio::time::Instant::now() > end {
                bail!("the members have not found each other: {ring}");
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }

    /// The sum of a metric over all gateways.
    pub(super) async fn sum(&self, name: &str, labels: &[(&str, &str)]) -> anyhow::Result<f64> {
        let mut sum = 0.0;
        for gateway in &self.gateways {
            sum += gateway.metrics().await?.sum(name, labels).unwrap_or(0.0);
        }
        Ok(sum)
    }

    /// Shows the gateways' logs if a bar was missed, and stops them.
    pub(super) async fn finish(self, report: Report) -> anyhow::Result<Report> {
        if !report.met() {
            for (index, gateway) in self.gateways.iter().enumerate() {
                let log = gateway.log();
                if !log.is_empty() {
                    eprintln!("gw-{index}'s standard error ends:\n{log}");
                }
            }
        }
        let stops: JoinSet<_> = self
            .gateways
            .into_iter()
            // One that was killed has ended.
            .filter(|gateway| gateway.cpu_seconds().is_some())
            .map(Gateway::stop)
            .collect();
        for stopped in stops.join_all().await {
            stopped.context("stop gateway")?;
        }
        Ok(report)
    }
}

/// What a gateway tells of the fleet.
pub(super) async fn ring(gateway: &Gateway) -> anyhow::Result<Value> {
    let (status, body) = gateway.get("/-/ring").await?;
    if !status.is_success() {
        bail!("/-/ring answers {status}");
    }
    serde_json::from_slice(&body).context("read /-/ring")
}

/// How many members are seen in a state.
pub(super) fn states(ring: &Value, state: &str) -> usize {
    let members = ring["members"].as_array();
    members.map_or(0, |members| {
        members
            .iter()
            .filter(|member| member["state"] == state)
            .count()
    })
}

/// The state that a member is seen in.
pub(super) fn state<'a>(ring: &'a Value, name: &str) -> &'a str {
    let members = ring["members"].as_array();
    members
        .and_then(|members| members.iter().find(|member| member["name"] == name))
        .and_then(|member| member["state"].as_str())
        .unwrap_or_default()
}

/// An address of the loopback whose port is free for TCP and UDP, and none that the system hands out meanwhile.
pub(super) fn free_port() -> anyhow::Result<SocketAddr> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Two runs at one time begin in different places.
    let begin = u16::try_from(std::process::id() % 80).unwrap_or(0) * 100;
    for _ in 0..5000 {
        let step = NEXT.fetch_add(1, Ordering::Relaxed) % 8000;
        let port = 20_000 + (begin + step) % 8000;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok() {
            return Ok(address);
        }
    }
    bail!("the loopback has no free port between 20000 and 28000")
}
