//! Arguments of `forebay copy`.

use clap::Args;

use super::warm::{prefix, rate};
use super::{ClientArgs, Prefix};

/// Arguments of `forebay copy`.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct CopyArgs {
    /// Which gateway, and in which form it answers.
    #[command(flatten)]
    pub client: ClientArgs,
    /// What to copy: a dataset, or what its keys begin with
    #[arg(value_name = "FROM", value_parser = prefix)]
    pub from: Prefix,
    /// Where to: a dataset that is writable, and what stands in the place of FROM's prefix
    #[arg(value_name = "TO", value_parser = prefix)]
    pub to: Prefix,
    /// Only keys whose rest after the prefix matches, such as '**.safetensors'
    #[arg(long, value_name = "PATTERN")]
    pub glob: Option<String>,
    /// Bytes a second at most, such as 100MiB
    #[arg(long, value_name = "SIZE", value_parser = rate)]
    pub rate: Option<u64>,
    /// Write nothing: say what would be
    #[arg(long)]
    pub dry: bool,
}
