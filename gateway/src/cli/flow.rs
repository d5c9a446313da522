//! Arguments of `forebay flow`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::ClientArgs;

/// Arguments of `forebay flow`.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct FlowArgs {
    /// What to do.
    #[command(subcommand)]
    pub verb: FlowVerb,
}

/// What may be done with flows.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum FlowVerb {
    /// Begin a flow, show its steps as they go, and end when it does: with 0 only if it is done
    Run(RunArgs),
    /// List the flows that a running gateway knows
    List(ClientArgs),
    /// Show a flow, its steps, and what they said
    Show(OneArgs),
    /// Stop a flow's steps, and have those run that clean up
    Cancel(OneArgs),
}

/// Arguments of `forebay flow run`.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct RunArgs {
    /// Which gateway, and in which form it answers.
    #[command(flatten)]
    pub client: ClientArgs,
    /// The flow, in TOML or JSON; `-` is standard input
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
}

/// Arguments of what is done with one flow.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct OneArgs {
    /// Which gateway, and in which form it answers.
    #[command(flatten)]
    pub client: ClientArgs,
    /// The flow's id
    #[arg(value_name = "ID")]
    pub id: String,
}
