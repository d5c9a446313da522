//! The network of one scenario, and the fleets that are started in it one after another.

mod run;

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::member::Member;
use super::net::{Layout, Net, client_address, fleet_address};
use super::reader::{Order, Way};
use super::{DATASET, Options, stand_in};
use crate::gateway;
use crate::origin::{self, Origin};

pub(super) use self::run::Run;

/// The origin model's port.
const ORIGIN_PORT: u16 = 9000;

/// For all members to know each other: membership's probes are a second apart.
const JOINED: Duration = Duration::from_secs(30);

/// The network, while the scenario lasts.
#[derive(Debug)]
pub(super) struct Stage {
    pub(super) net: Net,
    pub(super) layout: Layout,
    pub(super) options: Options,
    program: PathBuf,
    /// Each fleet's data lies in a directory of its own.
    fleets: std::sync::atomic::AtomicU32,
}

/// What a fleet is to be.
#[derive(Clone, Debug)]
pub(super) struct Brief {
    pub(super) gateways: usize,
    /// Of these, the last so many are edges: they own nothing.
    pub(super) edges: usize,
    /// Keys and sizes of what the origin has.
    pub(super) objects: Vec<(String, u64)>,
    /// The origin's rate a connection, in bytes a second.
    pub(super) connection_rate: Option<u64>,
    /// The origin's time to the first byte.
    pub(super) first_byte: Duration,
    /// `memory` of each gateway.
    pub(super) memory: &'static str,
    /// `nvme` of each gateway.
    pub(super) nvme: &'static str,
    /// Whether the gateways are told of two zones: the first half and the rest.
    pub(super) zones: bool,
    /// More lines for the dataset.
    pub(super) dataset: String,
}

impl Brief {
    /// So many gateways over these objects, of an origin that is as fast as its link.
    pub(super) fn new(gateways: usize, objects: Vec<(String, u64)>) -> Self {
        Self {
            gateways,
            edges: 0,
            objects,
            connection_rate: None,
            first_byte: Duration::ZERO,
            memory: "1GiB",
            nvme: "0",
            zones: false,
            dataset: String::new(),
        }
    }
}

impl Stage {
    /// Raises the network.
    ///
    /// # Errors
    /// It is not to be had here, or there is no gateway to start.
    pub(super) async fn new(layout: Layout, options: &Options) -> anyhow::Result<Self> {
        let program = match options.stand_in {
            Some(_) => PathBuf::new(),
            None => gateway::program(options.program.as_deref())?,
        };
        let layout = layout.slower(options.slower());
        Ok(Self {
            net: Net::build(&layout).await?,
            layout,
            options: options.clone(),
            program,
            fleets: std::sync::atomic::AtomicU32::new(0),
        })
    }

    /// The key of the scenario's only object, which the seed chooses: with it goes who owns what.
    pub(super) fn key(&self) -> String {
        format!("model-{:x}.safetensors", self.options.seed)
    }

    /// Starts an origin and a fleet with nothing cached, and waits until all its members know each other.
    ///
    /// # Errors
    /// A process does not start, or the members do not find each other.
    pub(super) async fn fleet(&self, brief: &Brief) -> anyhow::Result<Fleet<'_>> {
        let number = self
            .fleets
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let directory = self.net.directory().join(format!("fleet{number}"));
        std::fs::create_dir_all(&directory)
            .with_context(|| format!("create {}", directory.display()))?;
        let mut fleet = Fleet {
            stage: self,
            origin: self.origin(brief).await?,
            members: Vec::new(),
            brief: brief.clone(),
            directory,
        };
        if self.options.stand_in.is_some() {
            fleet.start_stand_ins().await?;
        } else {
            fleet.start_members().await?;
            fleet.joined().await?;
        }
        Ok(fleet)
    }

    async fn origin(&self, brief: &Brief) -> anyhow::Result<Origin> {
        let address = SocketAddr::new(self.layout.origin_address().into(), ORIGIN_PORT);
        let listener = self.net.origin().listen(address).await;
        let settings = origin::Settings {
            listen: address,
            connection_rate: brief.connection_rate,
            first_byte: brief.first_byte,
            seed: self.options.seed,
            ..origin::Settings::default()
        };
        let listener = listener.with_context(|| format!("listen on {address}"))?;
        let origin = Origin::on(listener, settings).context("start the origin model")?;
        for (key, size) in &brief.objects {
            origin.put(key, *size, 0);
        }
        Ok(origin)
    }
}

/// An origin and gateways, running.
#[derive(Debug)]
pub(super) struct Fleet<'a> {
    stage: &'a Stage,
    pub(super) origin: Origin,
    pub(super) members: Vec<Member>,
    brief: Brief,
    directory: PathBuf,
}

impl Fleet<'_> {
    /// Where the gateways serve, edges left out.
    pub(super) fn addresses(&self) -> Arc<[SocketAddr]> {
        (0..self.brief.gateways - self.brief.edges)
            .map(client_address)
            .collect()
    }

    /// The settings of gateway `index`.
    pub(super) fn settings(&self, index: usize) -> String {
        let Brief {
            gateways, edges, ..
        } = self.brief;
        let data = self.directory.join(format!("gw{index}/data"));
        let mut text = format!(
            "listen = \"0.0.0.0:7070\"\nopen = true\ndata_dir = \"{}\"\nstop_after = \"1s\"\n\
             [cache]\nmemory = \"{}\"\nnvme = \"{}\"\n[log]\nlevel = \"warn\"\naccess = false\n\
             [[datasets]]\nname = \"{DATASET}\"\norigin = \"s3://{}\"\n\
             options = {{ aws_endpoint = \"{}\", aws_region = \"us-east-1\", \
             aws_access_key_id = \"AK\", aws_secret_access_key = \"SK\" }}\n{}\n",
            data.display(),
            self.brief.memory,
            self.brief.nvme,
            self.origin.settings().bucket,
            self.origin.endpoint(),
            self.brief.dataset,
        );
        if gateways > 1 {
            // Any member will do as a seed; two, so that one may be away.
            let seeds: Vec<_> = (0..gateways.min(3))
                .filter(|&seed| seed != index)
                .map(|seed| format!("\"{}\"", fleet_address(seed)))
                .collect();
            // Writing to a string cannot fail.
            let _ = write!(
                text,
                "[fleet]\nname = \"loadtest\"\nmember = \"gw-{index}\"\nkey = {{ file = \"{}\" }}\n\
                 listen = \"{}\"\nclient_url = \"http://{}\"\nseeds = [{}]\n",
                self.directory.join("fleet.key").display(),
                fleet_address(index),
                client_address(index),
                seeds.join(", "),
            );
            if self.brief.zones {
                let zone = if index < gateways.div_ceil(2) {
                    "here"
                } else {
                    "there"
                };
                let _ = writeln!(text, "zone = \"{zone}\"");
            }
            // One that is started beside these is a member.
            if (gateways - edges..gateways).contains(&index) {
                text += "role = \"edge\"\n";
            }
        }
        text
    }

    async fn start_members(&mut self) -> anyhow::Result<()> {
        let key = self.directory.join("fleet.key");
        // Sixty-four hexadecimal digits; it guards nothing but a network that nobody else sees.
        let secret = format!("{:016x}", self.stage.options.seed).repeat(4);
        std::fs::write(&key, secret).with_context(|| format!("write {}", key.display()))?;
        for index in 0..self.brief.gateways {
            let member = self.exec(index).await?;
            self.members.push(member);
        }
        for member in &mut self.members {
            member.ready().await?;
        }
        Ok(())
    }

    /// Starts the process of gateway `index`, over the data it had.
    ///
    /// # Errors
    /// It cannot be started.
    pub(super) async fn exec(&self, index: usize) -> anyhow::Result<Member> {
        let directory = self.directory.join(format!("gw{index}"));
        let settings = self.settings(index);
        let namespace = self.stage.net.gateway(index);
        Member::start(&self.stage.program, namespace, directory, &settings).await
    }

    async fn start_stand_ins(&mut self) -> anyhow::Result<()> {
        let files = self.stage.net.directory();
        stand_in::write_files(files, &self.brief.objects)?;
        for index in 0..self.brief.gateways {
            let own = self.directory.join(format!("gw{index}"));
            let command = stand_in::nginx(files, &own, &self.brief.objects)?;
            let member = Member::spawn(command, self.stage.net.gateway(index), own).await?;
            self.members.push(member);
        }
        for member in &self.members {
            member.listens().await?;
        }
        Ok(())
    }

    /// Waits until every member knows all of them, under one epoch.
    ///
    /// # Errors
    /// They do not find each other in time.
    pub(super) async fn joined(&self) -> anyhow::Result<()> {
        let count = self.members.len();
        if count == 1 {
            return Ok(());
        }
        let begun = Instant::now();
        loop {
            let state = self.epochs().await?;
            let agreed = state
                .iter()
                .all(|seen| *seen == state[0] && seen.1 == count);
            if agreed {
                return Ok(());
            }
            if begun.elapsed() > JOINED {
                bail!("the members have not found each other in {JOINED:?}: they see {state:?}");
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// The epoch that each member is in, and how many members it sees alive.
    async fn epochs(&self) -> anyhow::Result<Vec<(String, usize)>> {
        let mut seen = Vec::with_capacity(self.members.len());
        for member in &self.members {
            let ring = member.json("/-/ring").await?;
            let epoch = ring["epoch"].as_str().unwrap_or_default().to_owned();
            let alive = ring["members"].as_array().map_or(0, |members| {
                members
                    .iter()
                    .filter(|member| member["state"] == "alive")
                    .count()
            });
            seen.push((epoch, alive));
        }
        Ok(seen)
    }

    /// An order for reader `index` of an object, from its own host.
    pub(super) fn order(&self, index: usize, key: &str, size: u64, way: Way) -> Order {
        let gateways = self.addresses();
        let asks = matches!(way, Way::Mapped { .. } | Way::Each { .. });
        let planned = asks && gateways.len() > 1 && self.stage.options.stand_in.is_none();
        Order {
            from: self.stage.net.reader(index).clone(),
            key: key.to_owned(),
            size,
            way,
            start: index,
            only: None,
            owned_by: None,
            plan: planned.then_some(index % gateways.len()),
            lasting: None,
            gateways,
        }
    }

    /// Makes every extent resident at its owner: each member reads what it owns, from its own host.
    ///
    /// # Errors
    /// A read fails.
    pub(super) async fn warm(&self) -> anyhow::Result<()> {
        if self.stage.options.stand_in.is_some() {
            return Ok(());
        }
        let (key_sizes, addresses) = (&self.brief.objects, self.addresses());
        let mut orders = Vec::new();
        for (key, size) in key_sizes {
            for (index, _) in addresses.iter().enumerate() {
                orders.push(Order {
                    owned_by: Some(index),
                    ..self.order_at(index, key, *size)
                });
            }
        }
        // A few objects at a time: what is warmed is not measured, and memory is bounded.
        for some in orders.chunks(4 * addresses.len()) {
            let run = self.run(some.to_vec()).await?;
            if let Some(error) = run
                .readings
                .iter()
                .find_map(|reading| reading.failed.as_ref())
            {
                bail!("warming: {error}");
            }
        }
        Ok(())
    }

    /// An order from the host of gateway `index`, whose own gateway is at a local address.
    pub(super) fn order_at(&self, index: usize, key: &str, size: u64) -> Order {
        let gateways = self.addresses();
        Order {
            from: self.members[index].namespace().clone(),
            key: key.to_owned(),
            size,
            way: Way::Each { connections: 2 },
            start: 0,
            only: None,
            owned_by: None,
            plan: (gateways.len() > 1).then_some(index),
            lasting: None,
            gateways,
        }
    }

    /// Waits until the block files hold no more than a second before.
    ///
    /// # Errors
    /// A gateway does not tell.
    pub(super) async fn on_disk_settles(&self) -> anyhow::Result<()> {
        let mut before = self.on_disk().await?;
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let now = self.on_disk().await?;
            if now == before {
                return Ok(());
            }
            before = now;
        }
    }

    /// Block bytes on the disks of all members.
    ///
    /// # Errors
    /// A gateway does not tell.
    pub(super) async fn on_disk(&self) -> anyhow::Result<u64> {
        let mut sum = 0.0;
        for member in &self.members {
            let metrics = member.metrics().await?;
            let held = metrics.sum("forebay_cache_bytes", &[("tier", "nvme")]);
            sum += held.unwrap_or(0.0);
        }
        Ok(sum as u64)
    }

    /// Stops all gateways; their data stays.
    ///
    /// # Errors
    /// One does not stop.
    pub(super) async fn stop_members(&mut self) -> anyhow::Result<()> {
        let members = std::mem::take(&mut self.members);
        let stops: JoinSet<_> = members.into_iter().map(Member::stop).collect();
        stops.join_all().await.into_iter().collect()
    }

    /// Starts all gateways over the data they had, and waits until they are ready under one epoch.
    ///
    /// # Errors
    /// As [`Stage::fleet`].
    pub(super) async fn start_again(&mut self) -> anyhow::Result<()> {
        self.start_members().await?;
        self.joined().await
    }

    /// Stops all, and the origin.
    ///
    /// # Errors
    /// A gateway does not stop.
    pub(super) async fn stop(mut self) -> anyhow::Result<()> {
        self.stop_members().await?;
        self.origin.stop().await;
        // The next fleet has a directory of its own, and this one's may be large.
        let _ = std::fs::remove_dir_all(self.directory);
        Ok(())
    }
}
