//! Arguments of `forebay revision`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::ClientArgs;

/// Arguments of `forebay revision`.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct RevisionArgs {
    /// What is to be done.
    #[command(subcommand)]
    pub verb: RevisionVerb,
}

/// What is to be done with a revision.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum RevisionVerb {
    /// Show which revision a dataset has, which it had, and whether all members agree
    Show {
        /// Which gateway, and in which form it answers.
        #[command(flatten)]
        client: ClientArgs,
        /// The dataset
        #[arg(value_name = "DATASET")]
        dataset: String,
    },
    /// Switch a dataset to the revision of a manifest, for the whole fleet
    Switch {
        /// Which gateway, and in which form it answers.
        #[command(flatten)]
        client: ClientArgs,
        /// The dataset
        #[arg(value_name = "DATASET")]
        dataset: String,
        /// The manifest, as JSON
        #[arg(value_name = "FILE", required_unless_present = "manifest")]
        file: Option<PathBuf>,
        /// The manifest is this key of the dataset
        #[arg(long, value_name = "KEY", conflicts_with = "file")]
        manifest: Option<String>,
        /// Only if all of it is resident
        #[arg(long)]
        resident: bool,
    },
    /// Take a dataset's revision off: it is read as its origin has it
    Clear {
        /// Which gateway, and in which form it answers.
        #[command(flatten)]
        client: ClientArgs,
        /// The dataset
        #[arg(value_name = "DATASET")]
        dataset: String,
    },
}
