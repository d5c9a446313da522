//! `forebay-loadtest scenario`: what it takes, and what it leaves.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};

use super::{Map, NAMES, Options, Sheet, StandIn, plot};
use crate::quantity;

/// A bar was missed.
const MISSED: u8 = 1;

/// More would not fit the addresses and, long before, the machine.
const MOST: usize = 1024;

/// The arguments.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The scenario; without one, list them
    name: Option<String>,
    /// Counts of gateways to measure, such as 1,2,4,8
    #[arg(long, value_delimiter = ',', value_name = "N,…", value_parser = count)]
    gateways: Option<Vec<usize>>,
    /// How many readers
    #[arg(long, value_name = "N", value_parser = count)]
    readers: Option<usize>,
    /// Bytes of the object, such as 16MiB
    #[arg(long, value_name = "SIZE", value_parser = size)]
    object_size: Option<u64>,
    /// How readers choose gateways [default: both, one after the other]
    #[arg(long, value_enum)]
    map: Option<Map>,
    /// Links so many times as slow, where two cores or the like can't fill them: see the column `idle`
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    slower: Option<u32>,
    /// Seeds the object's name, and so who owns what; printed, so that a run can be repeated [default: by chance]
    #[arg(long)]
    seed: Option<u64>,
    /// Write the figures to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draw them into this file, as SVG
    #[arg(long, value_name = "FILE.svg", value_parser = picture)]
    plot: Option<PathBuf>,
    /// The gateway's program [default: $FOREBAY_BIN, else `forebay` beside this program]
    #[arg(long, value_name = "PATH")]
    forebay: Option<PathBuf>,
    /// Static servers in place of gateways, to know what the links give
    #[arg(long, value_enum, hide = true)]
    stand_in: Option<StandIn>,
}

/// Runs what was asked for; an interrupt removes the network too.
///
/// # Errors
/// It could not be measured here.
pub async fn run(given: Arguments) -> anyhow::Result<ExitCode> {
    let Some(name) = given.name else {
        NAMES.iter().for_each(|name| println!("{name}"));
        return Ok(ExitCode::SUCCESS);
    };
    let options = Options {
        program: given.forebay,
        gateways: given.gateways,
        readers: given.readers,
        object_size: given.object_size,
        map: given.map,
        slower: given.slower,
        seed: given.seed.unwrap_or_else(rand::random),
        stand_in: given.stand_in,
    };
    println!("seed {}", options.seed);
    raise_open_files();
    let mut terminate = signal(SignalKind::terminate()).context("await SIGTERM")?;
    let sheet = tokio::select! {
        sheet = super::run(&name, &options) => sheet.with_context(|| format!("{name} could not be measured"))?,
        _ = tokio::signal::ctrl_c() => bail!("{name} was interrupted"),
        _ = terminate.recv() => bail!("{name} was terminated"),
    };
    println!("{sheet}");
    if let Some(file) = &given.json {
        let text = serde_json::to_string_pretty(&sheet).context("write figures")?;
        write(file, &(text + "\n"))?;
    }
    if let Some(file) = &given.plot {
        write(file, &plot::svg(&sheet))?;
    }
    Ok(exit_code(&sheet))
}

/// Each reader has connections to each gateway, and the origin has some from all: as many files as may be had.
fn raise_open_files() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // The usual limit is enough for the smaller scenarios.
    let _ = setrlimit(Resource::Nofile, limit);
}

fn exit_code(sheet: &Sheet) -> ExitCode {
    if sheet.met {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(MISSED)
    }
}

fn write(file: &Path, text: &str) -> anyhow::Result<()> {
    fs::write(file, text).with_context(|| format!("write {}", file.display()))
}

fn count(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count) if (1..=MOST).contains(&count) => Ok(count),
        _ => Err(format!("give a number from 1 to {MOST}, not {text:?}")),
    }
}

fn size(text: &str) -> Result<u64, String> {
    match quantity::size(text)? {
        0 => Err("an empty object takes no time: give its bytes".to_owned()),
        size => Ok(size),
    }
}

fn picture(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    if path.extension().is_some_and(|extension| extension == "svg") {
        Ok(path)
    } else {
        Err("the plot is drawn as SVG: give a name that ends in .svg".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        arguments: Arguments,
    }

    #[test]
    fn counts_are_a_list_and_nothing_is_zero() {
        let parse = |arguments: &[&str]| {
            Cli::try_parse_from([&["x", "linear"], arguments].concat()).map(|cli| cli.arguments)
        };
        let given = parse(&[
            "--gateways",
            "1,2,4,8",
            "--object-size",
            "16MiB",
            "--map",
            "mapped",
        ]);
        let given = given.expect("good arguments");
        assert_eq!(given.gateways, Some(vec![1, 2, 4, 8]));
        assert_eq!(given.object_size, Some(16 << 20));
        for bad in [
            ["--gateways", "0"],
            ["--gateways", "1,x"],
            ["--readers", "1025"],
            ["--object-size", "0"],
            ["--plot", "a.png"],
            ["--map", "else"],
        ] {
            parse(&bad).expect_err(bad[1]);
        }
    }
}
