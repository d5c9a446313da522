//! The fleet's claims over shaped links: gateways, readers and the origin model, each in a network namespace of its
//! own behind a link of a fixed rate, low enough that the CPU idles. What is measured is how much of the links is used.
//!
//! Rules for all: every byte is checked against the pattern. *mapped*: each extent is asked of the gateway that
//! `/-/plan` names; *balanced*: each reader has four connections, dealt round robin over the gateways. Unless a row
//! says "same order", reader r begins at extent r mod count and wraps, four requests in flight. The ideal time is the
//! largest of what the origin's link, the gateways' together and the reader's own need, each at the 95.64 % that frames
//! leave of it. Medians of three at the largest count of gateways, one run at the others.
//!
//! It needs root and iproute2; without, nothing is measured and the exit code is 2.

mod collapse;
mod command;
pub(crate) mod cpu;
mod crowd;
mod deploy;
mod elastic;
mod everyone;
mod fleet_start;
mod linear;
mod long_haul;
mod many_models;
pub(crate) mod member;
mod minute;
pub(crate) mod net;
mod plot;
mod reader;
mod repeat;
mod sheet;
mod stage;
mod stand_in;
mod tgi;
mod warm;
mod zones;

use std::path::PathBuf;

use anyhow::bail;
use clap::ValueEnum;

pub use self::command::{Arguments, run as command};
pub use self::net::clean_after;
pub use self::sheet::{Row, Sheet};
use self::stage::Stage;

/// The dataset's name, everywhere.
const DATASET: &str = "models";

/// The names, in the order in which they are best run.
pub const NAMES: [&str; 13] = [
    "fleet-start",
    "linear",
    "many-models",
    "long-haul",
    "tgi",
    "minute",
    "elastic",
    "deploy",
    "warm",
    "zones",
    "collapse",
    "everyone",
    "crowd",
];

/// Those whose bars are shares of what their links carry, whatever that is.
pub const LINKS_ALONE: [&str; 5] = ["fleet-start", "linear", "many-models", "zones", "everyone"];

/// How readers choose gateways.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Map {
    /// Each extent of the gateway that `/-/plan` names.
    Mapped,
    /// Four connections, dealt round robin.
    Balanced,
}

/// What can be measured in place of gateways, to know what the links give.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum StandIn {
    /// nginx over files.
    Nginx,
}

/// What all scenarios are told; what is `None` is as the scenario has it.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The gateway's program; `None`: see [`crate::gateway::program`].
    pub program: Option<PathBuf>,
    /// Counts of gateways, in this order.
    pub gateways: Option<Vec<usize>>,
    /// How many readers.
    pub readers: Option<usize>,
    /// Bytes of the object.
    pub object_size: Option<u64>,
    /// One way of choosing gateways in place of both.
    pub map: Option<Map>,
    /// Links so many times as slow; only for [`LINKS_ALONE`].
    pub slower: Option<u32>,
    /// Seeds the object's name, and so who owns what.
    pub seed: u64,
    /// Static servers in place of gateways.
    pub stand_in: Option<StandIn>,
}

impl Options {
    fn counts(&self, usual: &[usize]) -> Vec<usize> {
        self.gateways.clone().unwrap_or_else(|| usual.to_vec())
    }

    fn readers(&self, usual: usize) -> usize {
        self.readers.unwrap_or(usual)
    }

    fn size(&self, usual: u64) -> u64 {
        self.object_size.unwrap_or(usual)
    }

    fn maps(&self) -> Vec<Map> {
        let both = || vec![Map::Mapped, Map::Balanced];
        self.map.map_or_else(both, |map| vec![map])
    }

    fn slower(&self) -> u32 {
        self.slower.unwrap_or(1)
    }

    /// The one count of gateways of a scenario that has only one.
    fn count(&self, usual: usize) -> usize {
        self.gateways
            .as_ref()
            .and_then(|counts| counts.iter().copied().max())
            .unwrap_or(usual)
    }
}

impl Map {
    fn name(self) -> &'static str {
        match self {
            Self::Mapped => "mapped",
            Self::Balanced => "balanced",
        }
    }

    /// The way of reader `index`, with the usual four requests in flight.
    fn way(self, index: usize) -> reader::Way {
        match self {
            Self::Mapped => reader::Way::Mapped { in_flight: 4 },
            Self::Balanced => reader::Way::Balanced {
                connections: 4,
                first: 4 * index,
            },
        }
    }
}

/// Runs one scenario.
///
/// # Errors
/// It could not be measured here: no such name, no root, no namespaces, no gateway to start, or one that does not do
/// what the scenario needs.
pub async fn run(name: &str, options: &Options) -> anyhow::Result<Sheet> {
    if options.slower.is_some() && NAMES.contains(&name) && !LINKS_ALONE.contains(&name) {
        bail!(
            "{name} is about times that do not grow as its links get slower; leave out --slower, which is for {}",
            LINKS_ALONE.join(", ")
        );
    }
    let rows = match name {
        "fleet-start" => fleet_start::run(options).await?,
        "linear" => linear::run(options).await?,
        "many-models" => many_models::run(options).await?,
        "long-haul" => long_haul::run(options).await?,
        "tgi" => tgi::run(options).await?,
        "minute" => minute::run(options).await?,
        "elastic" => elastic::run(options).await?,
        "deploy" => deploy::run(options).await?,
        "warm" => warm::run(options).await?,
        "zones" => zones::run(options).await?,
        "collapse" => collapse::run(options).await?,
        "everyone" => everyone::run(options).await?,
        "crowd" => crowd::run(options).await?,
        _ => bail!(
            "there is no scenario {name:?}; there are {}",
            NAMES.join(", ")
        ),
    };
    Ok(Sheet::new(name, options.seed, rows))
}

/// What the links allow for `readers` of `size` bytes each, in seconds; cold: the origin must send them too.
fn ideal(stage: &Stage, gateways: usize, readers: usize, size: u64, cold: bool) -> f64 {
    let (size, layout) = (size as f64, &stage.layout);
    let gateway = layout.gateway.payload() * gateways as f64;
    let origin = if cold {
        size / layout.origin.payload()
    } else {
        0.0
    };
    let fleet = readers as f64 * size / gateway;
    origin.max(fleet).max(size / layout.client.payload())
}
