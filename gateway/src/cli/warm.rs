//! Arguments of `forebay warm` and `forebay wait`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::ClientArgs;
use crate::settings::duration;
use crate::settings::size;

/// A dataset, and what its keys begin with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prefix {
    /// The dataset.
    pub dataset: String,
    /// What keys begin with, as typed, not percent-encoded; empty: all.
    pub prefix: String,
}

/// Arguments of `forebay warm`.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct WarmArgs {
    /// Which gateway, and in which form it answers.
    #[command(flatten)]
    pub client: ClientArgs,
    /// What to warm: a dataset, or what its keys begin with
    #[arg(value_name = "DATASET[/PREFIX]", required_unless_present = "from", value_parser = prefix)]
    pub targets: Vec<Prefix>,
    /// Warm the keys in FILE, one a line, below DATASET/PREFIX, or what `forebay export-hot` wrote to it; nothing is
    /// listed. `-` is standard input
    #[arg(long, value_name = "FILE", conflicts_with = "glob")]
    pub from: Option<PathBuf>,
    /// Warm the shards that KEY, a *.safetensors.index.json below DATASET/PREFIX, names; nothing is listed
    #[arg(long, value_name = "KEY", conflicts_with = "glob")]
    pub index: Vec<String>,
    /// Only keys whose rest after PREFIX matches, such as '**.safetensors'
    #[arg(long, value_name = "PATTERN")]
    pub glob: Option<String>,
    /// Where it is to be: memory, nvme or any [default: nvme if there is that tier]
    #[arg(long, value_parser = ["memory", "nvme", "any"])]
    pub tier: Option<String>,
    /// On each block's owner, on one in each zone too, or on all members [default: owners]
    #[arg(long, value_parser = ["owners", "zone", "all"])]
    pub copies: Option<String>,
    /// Bytes a second at most, such as 100MiB
    #[arg(long, value_name = "SIZE", value_parser = rate)]
    pub rate: Option<u64>,
    /// Jobs of a higher one begin earlier [default: 0]
    #[arg(long, allow_negative_numbers = true)]
    pub priority: Option<i32>,
    /// How long it may take at most, such as 30m
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub deadline: Option<Duration>,
    /// Compare each object's own digest, where there is one, with what was brought
    #[arg(long)]
    pub verify: bool,
    /// Pin it too: the pin goes again if the job does not end well
    #[arg(long)]
    pub pin: bool,
    /// Until when it is pinned, or for how long, such as 24h [default: until the pin is removed]
    #[arg(long, value_name = "TIME", requires = "pin")]
    pub expires: Option<String>,
}

/// Arguments of `forebay wait`.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct WaitArgs {
    /// Which gateway, and in which form it answers.
    #[command(flatten)]
    pub client: ClientArgs,
    /// What has to be there: a dataset, or what its keys begin with
    #[arg(value_name = "DATASET[/PREFIX]", required = true, value_parser = prefix)]
    pub targets: Vec<Prefix>,
    /// Where: memory, nvme or any [default: any]
    #[arg(long, value_parser = ["memory", "nvme", "any"])]
    pub tier: Option<String>,
    /// How long to wait at most, such as 30m [default: for ever]
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub timeout: Option<Duration>,
}

/// Arguments of `forebay pin`.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct PinArgs {
    /// Which gateway, and in which form it answers.
    #[command(flatten)]
    pub client: ClientArgs,
    /// What to pin: a dataset, or what its keys begin with
    #[arg(value_name = "DATASET[/PREFIX]", value_parser = prefix)]
    pub target: Prefix,
    /// Until when, such as 2027-01-31T12:00:00Z, or for how long, such as 24h [default: until it is removed]
    #[arg(long, value_name = "TIME", conflicts_with = "remove")]
    pub expires: Option<String>,
    /// Take the pin away
    #[arg(long)]
    pub remove: bool,
}

pub(super) fn prefix(text: &str) -> Result<Prefix, String> {
    let (dataset, prefix) = text.split_once('/').unwrap_or((text, ""));
    match dataset.is_empty() {
        true => Err("it names no dataset: write DATASET or DATASET/PREFIX".into()),
        false => Ok(Prefix {
            dataset: dataset.to_owned(),
            prefix: prefix.to_owned(),
        }),
    }
}

pub(super) fn rate(text: &str) -> Result<u64, String> {
    match size::parse(text) {
        Ok(0) => Err("with 0 nothing would ever move".into()),
        Ok(bytes) => Ok(bytes),
        Err(clause) => Err(format!("it {clause}")),
    }
}

fn time(text: &str) -> Result<Duration, String> {
    duration::parse(text).map_err(|clause| format!("it {clause}"))
}
