//! `forebay-loadtest torture`: what it takes, and what it leaves.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};

use super::{Options, timeline};

/// A bar was missed.
const MISSED: u8 = 1;

/// The arguments.
#[derive(Debug, Args)]
pub struct Arguments {
    /// How long, in minutes
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    minutes: u64,
    /// Makes the schedule of faults; printed, so that a run can be repeated [default: by chance]
    #[arg(long)]
    seed: Option<u64>,
    /// A directory for the report (torture.json), the plot (torture.png, torture.svg) and the gateways' logs
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// The gateway's program [default: $FOREBAY_BIN, else `forebay` beside this program]
    #[arg(long, value_name = "PATH")]
    forebay: Option<PathBuf>,
}

/// Tortures as was asked; an interrupt removes everything too.
///
/// # Errors
/// It can't be done here.
pub async fn run(given: Arguments) -> anyhow::Result<ExitCode> {
    let options = Options {
        program: given.forebay,
        lasting: Duration::from_secs(60 * given.minutes),
        seed: given.seed.unwrap_or_else(rand::random),
        out: given.out,
    };
    println!("seed {}", options.seed);
    if let Some(out) = &options.out {
        fs::create_dir_all(out).with_context(|| format!("create {}", out.display()))?;
    }
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // The usual limit may be enough.
    let _ = setrlimit(Resource::Nofile, limit);
    let mut terminate = signal(SignalKind::terminate()).context("await SIGTERM")?;
    let sheet = tokio::select! {
        sheet = Box::pin(super::run(&options)) => sheet.context("the torture could not be done")?,
        _ = tokio::signal::ctrl_c() => bail!("the torture was interrupted"),
        _ = terminate.recv() => bail!("the torture was terminated"),
    };
    println!("{sheet}");
    if let Some(out) = &options.out {
        let text = serde_json::to_string_pretty(&sheet).context("write the report")?;
        let file = out.join("torture.json");
        fs::write(&file, text + "\n").with_context(|| format!("write {}", file.display()))?;
        timeline::draw(&sheet).write(&out.join("torture"))?;
    }
    Ok(if sheet.met {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(MISSED)
    })
}
