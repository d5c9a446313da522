//! `forebay-loadtest`: runs the checks, the benches and the replay, or the origin model by hand.
//!
//! It allocates by mimalloc, as the gateway does, so that the bare server is a ceiling of the same make.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};

use forebay_loadtest::bench::{self, ColdOptions, Options, Places};
use forebay_loadtest::check::{self, NAMES};
use forebay_loadtest::origin::{Origin, Settings};
use forebay_loadtest::quantity;
use forebay_loadtest::replay;
use forebay_loadtest::report::Report;
use forebay_loadtest::{scenario, soak, torture};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

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
    /// Benchmarks beside other servers
    #[command(subcommand)]
    Bench(Bench),
    /// Made loads, played to every eviction policy: hit ratios, and what one scan does to a hot set
    Replay(Replay),
    /// The bench's ceiling: a bare server over what it holds in memory
    #[command(hide = true)]
    Bare(Bare),
    /// A long mixed load, and whether memory, files, threads and times stay as they are
    Soak(soak::Arguments),
    /// A fleet under everything that goes wrong, every byte compared (needs root)
    Torture(torture::Arguments),
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

#[derive(Debug, Subcommand)]
enum Bench {
    /// Reads from memory and NVMe, beside nginx, Varnish and cachey
    Hot(Hot),
    /// One curl over what nobody has read yet, beside nginx, Varnish and cachey
    Cold(Cold),
}

#[derive(Debug, Args)]
struct Hot {
    /// Rows to measure [default: all]
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    rows: Vec<String>,
    /// How often each row is measured on each server
    #[arg(long, default_value = "5", value_parser = clap::value_parser!(u16).range(1..))]
    repeats: u16,
    /// How long each time
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = quantity::time)]
    time: Duration,
    /// The large object's size; less than 1GiB is to try things out
    #[arg(long, default_value = "1GiB", value_parser = large)]
    size: u64,
    #[command(flatten)]
    places: Places,
    /// Seeds what is read
    #[arg(long, default_value = "1")]
    seed: u64,
}

#[derive(Debug, Args)]
struct Cold {
    /// How often each is measured
    #[arg(long, default_value = "5", value_parser = clap::value_parser!(u16).range(1..))]
    repeats: u16,
    /// The size of each object; less than 1GiB is to try things out
    #[arg(long, default_value = "1GiB", value_parser = large)]
    size: u64,
    #[command(flatten)]
    places: Places,
}

#[derive(Debug, Args)]
struct Replay {
    /// Seeds the loads
    #[arg(long, default_value = "1")]
    seed: u64,
    /// Write the figures to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draw them to this file, .svg or .png; both without an ending
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct Bare {
    #[arg(long)]
    listen: SocketAddr,
    #[arg(long)]
    big: u64,
    #[arg(long)]
    small: usize,
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
        Command::Bench(Bench::Hot(hot)) => tokio::task::spawn_blocking(|| bench_hot(hot))
            .await
            .unwrap_or_else(|error| Err(error.into())),
        Command::Bench(Bench::Cold(cold)) => bench_cold(cold).await,
        Command::Replay(replay) => run_replay(&replay),
        Command::Bare(given) => bench::bare(given.listen, given.big, given.small)
            .await
            .map(|()| ExitCode::SUCCESS),
        Command::Soak(given) => soak::command(given).await,
        Command::Torture(given) => torture::command(given).await,
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

/// The client of a bench is one thread: it has one core, and more threads would only wait for each other on it.
fn bench_hot(given: Hot) -> anyhow::Result<ExitCode> {
    let options = Options {
        rows: given.rows,
        repeats: usize::from(given.repeats),
        time: given.time,
        size: given.size,
        places: given.places,
        seed: given.seed,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the client's runtime")?;
    Ok(verdict(&runtime.block_on(bench::hot(&options))?))
}

async fn bench_cold(given: Cold) -> anyhow::Result<ExitCode> {
    let options = ColdOptions {
        repeats: usize::from(given.repeats),
        size: given.size,
        places: given.places,
    };
    Ok(verdict(&bench::cold(&options).await?))
}

fn run_replay(given: &Replay) -> anyhow::Result<ExitCode> {
    let report = replay::run(given.seed, given.json.as_deref(), given.plot.as_deref())?;
    Ok(verdict(&report))
}

fn verdict(report: &Report) -> ExitCode {
    println!("{report}");
    if report.met() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(MISSED)
    }
}

fn large(text: &str) -> Result<u64, String> {
    let size = quantity::size(text)?;
    if size >= 1 << 20 && size.is_multiple_of(1 << 20) {
        Ok(size)
    } else {
        Err(format!("{text:?}: give a whole number of MiB"))
    }
}

fn object(text: &str) -> Result<(String, u64), String> {
    let (key, size) = text
        .rsplit_once('=')
        .ok_or_else(|| format!("{text:?} is not KEY=SIZE"))?;
    Ok((key.to_owned(), quantity::size(size)?))
}
