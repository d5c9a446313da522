//! `forebay-loadtest`: runs the checks, or the origin model by hand.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};

use forebay_loadtest::check::{self, NAMES};
use forebay_loadtest::origin::{Origin, Settings};
use forebay_loadtest::quantity;
use forebay_loadtest::report::Report;
use forebay_loadtest::scenario;

/// A bar was missed.
const MISSED: u8 = 1;

/// Nothing could be said: never 0, so that no script takes it for a pass. Clap's usage errors use it too.
const UNMEASURED: u8 = 2;

/// Loads and measures a Forebay gateway, and checks every byte that it serves.
#[derive(Debug, Parser)]
#[command(name = "forebay-loadtest", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run checks by name; without a name, list them
    Check(Check),
    /// Serve the origin model until interrupted, to play with
    Origin(ByHand),
    /// Fleets over shaped links, in network namespaces (needs root); without a name, list them
    Scenario(scenario::Arguments),
    /// Removes what a scenario leaves, once that has ended
    #[command(hide = true)]
    Janitor { prefix: String, directory: PathBuf },
    /// Benchmarks beside other servers (not in this version)
    Bench(Later),
    /// Replays of recorded loads (not in this version)
    Replay(Later),
    /// Long runs under faults (not in this version)
    Torture(Later),
}

#[derive(Debug, Args)]
struct Check {
    /// Checks to run in this order, or `all`
    names: Vec<String>,
    /// The gateway's program [default: $FOREBAY_BIN, else `forebay` beside this program]
    #[arg(long, value_name = "PATH")]
    forebay: Option<PathBuf>,
    /// Seeds every choice made by chance; printed, so that a run can be repeated [default: by chance]
    #[arg(long)]
    seed: Option<u64>,
    /// Write the figures to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct ByHand {
    /// Objects as KEY=SIZE, such as model.safetensors=1GiB [default: a=1MiB b/c=64MiB]
    #[arg(value_name = "KEY=SIZE", value_parser = object)]
    objects: Vec<(String, u64)>,
    /// Where to listen
    #[arg(long, default_value = "127.0.0.1:9000")]
    listen: SocketAddr,
    /// The bucket's name
    #[arg(long, default_value = "bucket")]
    bucket: String,
    /// Bytes a second of each connection, such as 100MB [default: unlimited]
    #[arg(long, value_parser = quantity::size)]
    rate: Option<u64>,
    /// Bytes a second of all connections together [default: unlimited]
    #[arg(long, value_parser = quantity::size)]
    total_rate: Option<u64>,
    /// From a request to the head of its answer
    #[arg(long, value_name = "TIME", default_value = "0ms", value_parser = quantity::time)]
    delay: Duration,
}

#[derive(Debug, Args)]
struct Later {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    arguments: Vec<String>,
}

#[tokio::main]
async fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Check(check) => run_checks(check).await,
        Command::Origin(origin) => serve_origin(origin).await,
        Command::Scenario(given) => scenario::command(given).await,
        Command::Janitor { prefix, directory } => scenario::clean_after(&prefix, &directory)
            .await
            .map(|()| ExitCode::SUCCESS),
        Command::Bench(later) => Ok(refuse(
            "bench",
            "comes with the work on hot and cold speed",
            &later,
        )),
        Command::Replay(later) => Ok(refuse(
            "replay",
            "comes with the choice of an eviction policy",
            &later,
        )),
        Command::Torture(later) => Ok(refuse(
            "torture",
            "comes with the limits and the NVMe tier",
            &later,
        )),
    };
    done.unwrap_or_else(|error| {
        eprintln!("forebay-loadtest: {error:#}");
        ExitCode::from(UNMEASURED)
    })
}

async fn run_checks(given: Check) -> anyhow::Result<ExitCode> {
    if given.names.is_empty() {
        NAMES.iter().for_each(|name| println!("{name}"));
        return Ok(ExitCode::SUCCESS);
    }
    let names: Vec<&str> = match given.names.as_slice() {
        [all] if all == "all" => NAMES.to_vec(),
        names => names.iter().map(String::as_str).collect(),
    };
    let seed = given.seed.unwrap_or_else(rand::random);
    println!("seed {seed}");
    let options = check::Options {
        program: given.forebay,
        seed,
    };
    let (mut reports, mut unmeasured) = (Vec::new(), false);
    for name in names {
        match check::run(name, &options).await {
            Ok(report) => {
                println!("{report}");
                reports.push(report);
            }
            Err(error) => {
                println!("{name}: could not be measured: {error:#}");
                unmeasured = true;
            }
        }
    }
    if let Some(file) = given.json {
        write_json(&file, seed, &reports)?;
    }
    Ok(if !reports.iter().all(Report::met) {
        ExitCode::from(MISSED)
    } else if unmeasured {
        ExitCode::from(UNMEASURED)
    } else {
        ExitCode::SUCCESS
    })
}

fn write_json(file: &Path, seed: u64, reports: &[Report]) -> anyhow::Result<()> {
    let checks: Vec<_> = reports
        .iter()
        .map(|report| serde_json::json!({"check": report.check, "met": report.met(), "figures": report.figures}))
        .collect();
    let text = serde_json::to_string_pretty(&serde_json::json!({"seed": seed, "checks": checks}))?;
    fs::write(file, text + "\n").with_context(|| format!("write {}", file.display()))
}

async fn serve_origin(given: ByHand) -> anyhow::Result<ExitCode> {
    let settings = Settings {
        listen: given.listen,
        bucket: given.bucket,
        connection_rate: given.rate,
        total_rate: given.total_rate,
        first_byte: given.delay,
        seed: 0,
    };
    let origin = Origin::start(settings)
        .await
        .with_context(|| format!("listen on {}", given.listen))?;
    let defaults = || vec![("a".to_owned(), 1 << 20), ("b/c".to_owned(), 64 << 20)];
    let objects = if given.objects.is_empty() {
        defaults()
    } else {
        given.objects
    };
    for (key, size) in objects {
        origin.put(&key, size, 0);
    }
    println!("listening on {}", origin.endpoint());
    tokio::signal::ctrl_c().await.context("wait for SIGINT")?;
    println!("{}", serde_json::to_string(&origin.counters())?);
    origin.stop().await;
    Ok(ExitCode::SUCCESS)
}

/// Commands that later versions have are refused by name, never ignored.
fn refuse(command: &str, when: &str, _given: &Later) -> ExitCode {
    eprintln!(
        "forebay-loadtest: `{command}` {when}; this version has `check`, `scenario` and `origin`"
    );
    ExitCode::from(UNMEASURED)
}

fn object(text: &str) -> Result<(String, u64), String> {
    let (key, size) = text
        .rsplit_once('=')
        .ok_or_else(|| format!("{text:?} is not KEY=SIZE"))?;
    Ok((key.to_owned(), quantity::size(size)?))
}
