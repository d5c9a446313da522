//! `forebay-loadtest soak`: what it takes, and what it leaves.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::Options;

/// A bar was missed.
const MISSED: u8 = 1;

/// The arguments.
#[derive(Debug, Args)]
pub struct Arguments {
    /// How long, in minutes
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    minutes: u64,
    /// How many gateways: one, or a fleet
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u8).range(1..=16))]
    gateways: u8,
    /// Makes what is read; printed, so that a run can be repeated [default: by chance]
    #[arg(long)]
    seed: Option<u64>,
    /// A directory for the report (soak.json) and the plot (soak.png, soak.svg)
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// The gateway's program [default: $FOREBAY_BIN, else `forebay` beside this program]
    #[arg(long, value_name = "PATH")]
    forebay: Option<PathBuf>,
}

/// Soaks as was asked.
///
/// # Errors
/// It can't be done here.
pub async fn run(given: Arguments) -> anyhow::Result<ExitCode> {
    let options = Options {
        program: given.forebay,
        gateways: usize::from(given.gateways),
        lasting: Duration::from_secs(60 * given.minutes),
        seed: given.seed.unwrap_or_else(rand::random),
    };
    println!("seed {}", options.seed);
    if let Some(out) = &given.out {
        fs::create_dir_all(out).with_context(|| format!("create {}", out.display()))?;
    }
    let mut terminate = signal(SignalKind::terminate()).context("await SIGTERM")?;
    let sheet = tokio::select! {
        sheet = Box::pin(super::run(&options)) => sheet.context("the soak could not be done")?,
        _ = tokio::signal::ctrl_c() => bail!("the soak was interrupted"),
        _ = terminate.recv() => bail!("the soak was terminated"),
    };
    println!("{sheet}");
    if let Some(out) = &given.out {
        let text = serde_json::to_string_pretty(&sheet).context("write the report")?;
        let file = out.join("soak.json");
        fs::write(&file, text + "\n").with_context(|| format!("write {}", file.display()))?;
        sheet.draw().write(&out.join("soak"))?;
    }
    Ok(if sheet.met {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(MISSED)
    })
}
