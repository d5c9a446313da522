//! The gateways of a soak, on loopback, and their origin.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use anyhow::Context;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::time::Instant;

use super::Options;
use super::sheet::Vitals;
use crate::gateway::{self, Gateway, Launch};
use crate::origin::{Origin, Settings};
use crate::port::free_address;

/// Objects, and bytes of each: 720 MiB.
pub(super) const OBJECTS: usize = 60;
pub(super) const SIZE: u64 = 12 << 20;

/// The cache of each gateway: a third of the objects in memory, all of them on disk.
const CACHE: &str = "memory = \"240MiB\"\nnvme = \"1GiB\"";

/// For all members to know each other.
const JOINED: Duration = Duration::from_secs(30);

/// All of it, running.
#[derive(Debug)]
pub(super) struct Ground {
    origin: Origin,
    gateways: Vec<Gateway>,
    chance: Mutex<StdRng>,
}

/// The key of an object.
pub(super) fn key(number: usize) -> String {
    format!("soak/{number}")
}

impl Ground {
    /// Starts all.
    ///
    /// # Errors
    /// One does not start, or they do not find each other.
    pub(super) async fn new(options: &Options) -> anyhow::Result<Self> {
        let origin = Origin::start(Settings::default()).await;
        let origin = origin.context("start origin model")?;
        for number in 0..OBJECTS {
            origin.put(&key(number), SIZE, 0);
        }
        let ports = (0..options.gateways).map(|_| free_address());
        let ports: Vec<_> = ports.collect::<Result<_, _>>()?;
        let seeds: Vec<_> = ports.iter().map(|port| format!("\"{port}\"")).collect();
        let mut gateways = Vec::new();
        for (index, port) in ports.iter().enumerate() {
            let fleet = format!(
                "[fleet]\nname = \"soak\"\nmember = \"gw-{index}\"\nkey = \"the key of a fleet that soaks\"\n\
                 listen = \"{port}\"\nseeds = [{}]\n",
                seeds.join(", ")
            );
            let fleet = if options.gateways > 1 { &*fleet } else { "" };
            let settings = format!(
                "[cache]\n{CACHE}\n[log]\nlevel = \"warn\"\naccess = false\n{fleet}\
                 [[datasets]]\nname = \"models\"\norigin = \"s3://{}\"\nfresh_for = \"5s\"\n\
                 options = {{ aws_endpoint = \"{}\", aws_region = \"us-east-1\", \
                 aws_access_key_id = \"AK\", aws_secret_access_key = \"SK\" }}\n",
                origin.settings().bucket,
                origin.endpoint()
            );
            let launch = Launch {
                program: options.program.clone(),
                settings: Some(settings),
                ..Launch::default()
            };
            gateways.push(Gateway::start(&launch).await?);
        }
        let ground = Self {
            origin,
            gateways,
            chance: Mutex::new(StdRng::seed_from_u64(options.seed)),
        };
        ground.joined().await?;
        Ok(ground)
    }

    async fn joined(&self) -> anyhow::Result<()> {
        let count = self.gateways.len() as f64;
        let end = Instant::now() + JOINED;
        for gateway in self.gateways.iter().filter(|_| count > 1.0) {
            loop {
                let metrics = gateway.metrics().await?;
                if metrics.sum("forebay_members", &[("state", "alive")]) == Some(count) {
                    break;
                }
                anyhow::ensure!(
                    Instant::now() < end,
                    "the gateways have not found each other"
                );
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        Ok(())
    }

    /// What a dataset's keys are appended to, for each gateway.
    pub(super) fn urls(&self) -> Vec<String> {
        let gateways = self.gateways.iter();
        gateways.map(|gateway| gateway.dataset("models")).collect()
    }

    /// Overwrites as many objects as seconds have gone by.
    pub(super) fn overwrite_some(&self, time: Duration) {
        let mut chance = self.chance.lock().unwrap_or_else(PoisonError::into_inner);
        for _ in 0..time.as_secs() {
            self.origin
                .overwrite(&key(chance.random_range(0..OBJECTS)), None);
        }
    }

    /// What each process holds; `None` if one has ended.
    pub(super) fn vitals(&self) -> Option<Vec<Vitals>> {
        let of = |gateway: &Gateway| {
            let pid = gateway.pid();
            Some(Vitals {
                memory: gateway::resident_memory(pid)?,
                files: gateway::open_files(pid)?,
                threads: gateway::threads(pid)?,
            })
        };
        self.gateways.iter().map(of).collect()
    }

    /// Stops all.
    ///
    /// # Errors
    /// A gateway does not stop.
    pub(super) async fn stop(self) -> anyhow::Result<()> {
        for gateway in self.gateways {
            gateway.stop().await.context("stop gateway")?;
        }
        Ok(())
    }
}
