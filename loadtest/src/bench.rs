//! `bench hot`: hot reads of Forebay and of what people have already, side by side on one machine, in one run; and
//! [`cold()`], of first reads.
//!
//! Hot, all servers of a stage are up and warm, on one core; the client is on another. Each row is measured on each server
//! in turn, several times over, so that whatever else the machine does hits all alike. What is told is medians.
//! That says nothing of networks, or of more than one core.

mod cold;
mod http2;
mod ideal;
mod load;
mod machine;
mod peers;
mod process;
mod results;
mod rows;
mod tail;
mod tls;
mod wire;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use serde_json::json;

pub use self::cold::{Options as ColdOptions, cold};
use self::load::{
    Objects, Picker, Sample, Target, as_fast_as_it_goes, at_a_rate, compare_some, warm,
};
use self::machine::{Cores, Machine};
pub(crate) use self::peers::in_path;
use self::peers::{Place, Programs, Server, Who, drop_page_cache, write_files};
use self::results::Measured;
use self::rows::{Carrier, Figure, Row, STAGES, Stage};
use self::tls::Certificate;
use crate::origin::{Origin, Settings};
use crate::report::Report;

/// How many small objects there are beside a GiB; with less, as many less.
const SMALL: u64 = 10_000;

/// Of the highest rate, what the tail is measured at.
const TAIL_LOAD: f64 = 0.7;

/// The longest that a warm-up may take to reach the disk, where the server does not tell.
const SETTLE: Duration = Duration::from_secs(3);

/// Told of a build that is slower than what people run.
const WITH_ASSERTIONS: &str =
    "built with assertions: run `cargo run --release -p forebay-loadtest`, or nothing counts";

/// Where a bench's programs are, and where its results go.
#[derive(Clone, Debug, Args)]
pub struct Places {
    /// Write the figures to this file
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Draw them to this file, .svg or .png; both without an ending
    #[arg(long, value_name = "FILE")]
    pub plot: Option<PathBuf>,
    /// The gateway's program [default: $FOREBAY_BIN, else `forebay` beside this program]
    #[arg(long, value_name = "PATH")]
    pub forebay: Option<PathBuf>,
    /// cachey's program [default: bin/server in target/tools/cachey]
    #[arg(long, value_name = "PATH")]
    pub cachey: Option<PathBuf>,
    /// Where to put files: on the disk that disk tiers are about [default: the system's temporary directory]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

/// What is measured, and how long.
#[derive(Clone, Debug)]
pub struct Options {
    /// Names of rows; none: all.
    pub rows: Vec<String>,
    /// How often each row is measured on each server.
    pub repeats: usize,
    /// How long each time.
    pub time: Duration,
    /// The size of the large object: 1 GiB, or less to try things out.
    pub size: u64,
    /// Where programs are, and where results go.
    pub places: Places,
    /// Seeds what is read.
    pub seed: u64,
}

/// Serves what [`hot`] reads, from memory and with nothing else to do: its ceiling.
///
/// # Errors
/// The address cannot be listened on.
pub async fn bare(listen: SocketAddr, big: u64, small: usize) -> anyhow::Result<()> {
    crate::bare::serve(listen, &Objects::new(big, small).all()).await
}

/// Measures, prints the tables, and gives the verdicts.
///
/// # Errors
/// It could not be measured: a program is missing, which the message says how to get, or something failed.
pub async fn hot(options: &Options) -> anyhow::Result<Report> {
    let rows = rows::chosen(&options.rows).map_err(anyhow::Error::msg)?;
    let programs = Programs::find(
        options.places.cachey.as_deref(),
        options.places.forebay.as_deref(),
    )?;
    let machine = Machine::look(&programs).await;
    let cores = Cores::choose()?;
    cores.keep_to_client()?;
    let parent = options
        .places
        .dir
        .clone()
        .unwrap_or_else(std::env::temp_dir);
    let dir = parent.join(format!("forebay-bench-{}", std::process::id()));
    fs::create_dir(&dir).with_context(|| format!("create {}", dir.display()))?;
    let bench = Bench {
        options,
        programs,
        cores,
        dir: dir.clone(),
        objects: Objects::new(options.size, small(options.size)),
    };
    let measured = bench.run(&rows).await;
    // What failed matters more than a directory left behind.
    let _ = fs::remove_dir_all(&dir);
    let (measured, memory) = measured?;
    tell(options, &machine, cores, &measured, memory)
}

fn small(size: u64) -> usize {
    (size * SMALL).div_ceil(1 << 30) as usize
}

/// One run's fixed parts.
struct Bench<'a> {
    options: &'a Options,
    programs: Programs,
    cores: Cores,
    dir: PathBuf,
    objects: Objects,
}

impl Bench<'_> {
    /// All rows, and what Forebay's default setting of `memory` is here.
    async fn run(&self, rows: &[Row]) -> anyhow::Result<(Vec<Measured>, Option<u64>)> {
        let origin = Origin::start(Settings::default())
            .await
            .context("start the origin model")?;
        for (key, size) in self.objects.all() {
            origin.put(&key, size, 0);
        }
        eprintln!("writing files below {}", self.dir.display());
        write_files(&self.dir.join("files"), &self.objects)?;
        let (mut all, mut memory) = (Vec::new(), None);
        for stage in STAGES {
            let of_stage: Vec<Row> = rows
                .iter()
                .filter(|row| row.stage == stage)
                .copied()
                .collect();
            if of_stage.is_empty() {
                continue;
            }
            match self.start(stage, &origin).await? {
                Ok(servers) => {
                    let measured = self.stage(&of_stage, &servers, &origin).await;
                    for server in servers {
                        if stage == Stage::Memory && server.who == Who::Forebay {
                            memory = peers::default_memory(&server.target).await.ok();
                        }
                        server.stop().await?;
                    }
                    all.extend(measured?);
                }
                Err(why) => all.extend(of_stage.into_iter().map(|row| Measured {
                    row,
                    runs: Vec::new(),
                    skipped: Some(why.clone()),
                    origin_requests: 0,
                })),
            }
        }
        origin.stop().await;
        Ok((all, memory))
    }

    /// Starts the servers of a stage and warms them; `Err`: why the stage is skipped.
    async fn start(
        &self,
        stage: Stage,
        origin: &Origin,
    ) -> anyhow::Result<Result<Vec<Server>, String>> {
        let certificate = if stage == Stage::Tls {
            match Certificate::make(&self.dir) {
                Ok(certificate) => Some(Arc::new(certificate)),
                Err(error) => return Ok(Err(format!("{error:#}"))),
            }
        } else {
            None
        };
        let place = Place {
            programs: self.programs.clone(),
            stage,
            dir: self.dir.clone(),
            cores: self.cores.server.to_string(),
            origin: origin.address(),
            objects: self.objects.clone(),
            certificate,
        };
        let mut servers = Vec::new();
        for who in stage.who() {
            eprintln!("starting and warming {}", who.name());
            let server = match Server::start(*who, &place).await {
                Ok(server) => server,
                Err(error) if stage == Stage::Tls && format!("{error:#}").contains("`[tls]`") => {
                    return Ok(Err("this gateway has no TLS of its own yet".to_owned()));
                }
                Err(error) => return Err(error),
            };
            if let Some(target) = warmed_by(&server) {
                warm(&target, &self.objects, stage == Stage::Memory)
                    .await
                    .with_context(|| format!("warm {}", who.name()))?;
            }
            servers.push(server);
        }
        if stage == Stage::Disk {
            // What was read is written behind the reader's back.
            tokio::time::sleep(SETTLE).await;
        }
        Ok(Ok(servers))
    }

    /// Measures the rows of one stage on its servers, in turn.
    async fn stage(
        &self,
        rows: &[Row],
        servers: &[Server],
        origin: &Origin,
    ) -> anyhow::Result<Vec<Measured>> {
        let mut done: Vec<Measured> = Vec::new();
        for row in rows {
            for server in servers {
                self.prepare(row, server)
                    .await
                    .with_context(|| format!("compare {} of {}", row.name, server.who.name()))?;
            }
            let gets = origin.counters().gets;
            let mut runs: Vec<(Who, Vec<Sample>)> = servers
                .iter()
                .map(|server| (server.who, Vec::new()))
                .collect();
            for repeat in 0..self.options.repeats {
                for turn in 0..servers.len() {
                    let place = (turn + repeat) % servers.len();
                    let server = &servers[place];
                    let sample = self
                        .measure(row, server, repeat, &done)
                        .await
                        .with_context(|| format!("{} of {}", row.name, server.who.name()))?;
                    runs[place].1.push(sample);
                }
            }
            let gets = origin.counters().gets - gets;
            let told: Vec<String> = servers
                .iter()
                .map(|server| format!("{} {}", server.who.name(), server.process.pid()))
                .collect();
            eprintln!(
                "measured {} ({gets} origin requests meanwhile; processes: {})",
                row.name,
                told.join(", ")
            );
            done.push(Measured {
                row: *row,
                runs,
                skipped: None,
                origin_requests: gets,
            });
            if let Some(row) = done.last() {
                eprintln!("{}", results::line(row));
            }
        }
        Ok(done)
    }

    async fn prepare(&self, row: &Row, server: &Server) -> anyhow::Result<()> {
        if server.target.carrier == Carrier::Http2 {
            // The first answer of each stream is compared while it is measured.
            return Ok(());
        }
        let picker = Picker::new(row.access, &self.objects, self.options.seed);
        compare_some(&server.target, picker).await
    }

    async fn measure(
        &self,
        row: &Row,
        server: &Server,
        repeat: usize,
        done: &[Measured],
    ) -> anyhow::Result<Sample> {
        if let Some(files) = &server.files {
            drop_page_cache(files)?;
        }
        let device = device_bytes(row, server)?;
        let seed = self.options.seed ^ ((repeat as u64) << 32);
        let picker = |more| Picker::new(row.access, &self.objects, seed ^ (more << 40));
        let (process, target) = (&server.process, &server.target);
        let (count, time) = (row.connections, self.options.time);
        let mut sample = match row.figure {
            Figure::Tail(arrivals) => {
                let row = done.iter().find(|done| done.row.name == "1m");
                let highest =
                    row.and_then(|row| row.median_of(server.who, |run| run.requests / run.seconds));
                let rate = TAIL_LOAD * highest.context("measure the highest rate first")?;
                at_a_rate(process, target, picker, count, (rate, arrivals), time).await?
            }
            _ => as_fast_as_it_goes(process, target, picker, count, time).await?,
        };
        sample.device = device_bytes(row, server)?.saturating_sub(device) as f64;
        if let Some(companion) = &server.companion {
            sample.resident += companion.usage()?.resident;
        }
        Ok(sample)
    }
}

/// How a server is asked for what warms it. nginx takes one version of HTTP a port, and its files are warm.
fn warmed_by(server: &Server) -> Option<Target> {
    let mut target = server.target.clone();
    if target.carrier == Carrier::Http2 {
        target.carrier = Carrier::Plain;
        return (server.who == Who::Forebay).then_some(target);
    }
    Some(target)
}

fn device_bytes(row: &Row, server: &Server) -> anyhow::Result<u64> {
    if row.stage == Stage::Disk {
        server.process.device_bytes()
    } else {
        Ok(0)
    }
}

/// Prints what was found, writes the files, and judges.
fn tell(
    options: &Options,
    machine: &Machine,
    cores: Cores,
    measured: &[Measured],
    memory: Option<u64>,
) -> anyhow::Result<Report> {
    let lines = machine.lines();
    lines.iter().for_each(|line| println!("{line}"));
    if cfg!(debug_assertions) {
        println!("{WITH_ASSERTIONS}");
    }
    let how = format!(
        "1 core for servers ({}), 1 for the client ({}); large object {} MiB, {} small ones of 64 KiB; {} runs of {:.1} s",
        cores.server,
        cores.client,
        options.size >> 20,
        small(options.size),
        options.repeats,
        options.time.as_secs_f64()
    );
    println!("{how}\n\n{}", results::tables(measured));
    let limit = |row: &Row| (row.stage == Stage::Memory).then_some(memory).flatten();
    let report = results::verdicts(measured, limit);
    if let Some(file) = &options.places.json {
        let text = serde_json::to_string_pretty(&json!({
            "machine": machine,
            "cores": cores,
            "size": options.size,
            "repeats": options.repeats,
            "seconds": options.time.as_secs_f64(),
            "seed": options.seed,
            "met": report.met(),
            "rows": results::json(measured),
            "figures": report.figures,
        }))?;
        fs::write(file, text + "\n").with_context(|| format!("write {}", file.display()))?;
    }
    if let Some(file) = &options.places.plot {
        let [machine, versions] = lines;
        let chart = results::chart(measured, vec![machine, versions, how]);
        chart.draw().write(Path::new(file))?;
    }
    Ok(report)
}
