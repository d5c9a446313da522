//! `forebay-sim`: runs seeds, one line each.

use std::ops::Range;
use std::process::ExitCode;

use clap::Parser;

use forebay_sim::mutation;
use forebay_sim::trace::Told;
use forebay_sim::world::{self, Of};

/// Runs the gateway's read path in simulated worlds, and says whether it kept its word.
///
/// Prints one line a seed: `seed N trace HASH ok`, or `seed N trace HASH VIOLATION what`. Exits with 1 if there was a
/// violation; with --mutation if there was none.
#[derive(Debug, Parser)]
#[command(name = "forebay-sim", version)]
struct Arguments {
    /// The seeds to run, the end not included.
    #[arg(long, value_name = "A..B", value_parser = seeds, required_unless_present = "seed")]
    seeds: Option<Range<u64>>,
    /// One seed only.
    #[arg(long, value_name = "N", conflicts_with_all = ["seeds", "mutation"])]
    seed: Option<u64>,
    /// Every seed is a fleet; without this and --alone those with odd numbers are.
    #[arg(long, conflicts_with = "alone")]
    fleet: bool,
    /// Every seed is one gateway.
    #[arg(long)]
    alone: bool,
    /// Print the trace of --seed.
    #[arg(long, requires = "seed")]
    verbose: bool,
    /// Plant this bug first, and run until it is found; `all`: one bug after the other, a line each.
    #[arg(long, value_name = "NAME")]
    mutation: Option<String>,
}

fn seeds(text: &str) -> Result<Range<u64>, String> {
    let how = "write two numbers, such as 0..100";
    let (start, end) = text.split_once("..").ok_or(how)?;
    let number = |text: &str| text.parse().map_err(|_| how.to_owned());
    let seeds = number(start)?..number(end)?;
    if seeds.is_empty() {
        return Err("the end must be above the beginning".into());
    }
    Ok(seeds)
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let of = |seed| match (arguments.fleet, arguments.alone) {
        (true, _) => Of::Fleet,
        (_, true) => Of::One,
        _ => Of::draw(seed),
    };
    if let Some(seed) = arguments.seed {
        let told = world::run(of(seed), seed, arguments.verbose)?;
        for line in &told.lines {
            println!("{line}");
        }
        if arguments.verbose {
            for (what, times) in &told.counts {
                println!("{times:>8} {what}");
            }
        }
        println!("{}", line(seed, &told));
        return Ok(exit_code(told.violations.is_empty()));
    }
    let seeds = arguments.seeds.unwrap_or_default();
    if let Some(name) = arguments.mutation {
        return hunt(&name, &seeds);
    }
    let mut good = true;
    world::run_all(of, seeds, |seed, told| {
        good &= told.violations.is_empty();
        println!("{}", line(seed, &told));
        true
    })?;
    Ok(exit_code(good))
}

/// Looks for the planted bug called `name`, or for all.
fn hunt(name: &str, seeds: &Range<u64>) -> anyhow::Result<ExitCode> {
    let names = match name {
        "all" => mutation::names().collect(),
        name => {
            mutation::check(name)?;
            vec![name]
        }
    };
    let program = mutation::build()?;
    let mut good = true;
    for name in names {
        let found = mutation::hunt(&program, name, seeds.clone())?;
        good &= found.is_some();
        match found {
            Some(found) => println!("{name} was found by {}", found.line),
            None => println!(
                "{name} was not found by seeds {}..{}",
                seeds.start, seeds.end
            ),
        }
    }
    Ok(exit_code(good))
}

fn exit_code(good: bool) -> ExitCode {
    if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn line(seed: u64, told: &Told) -> String {
    let head = format!("seed {seed} trace {:016x}", told.hash);
    match told.violations.as_slice() {
        [] => format!("{head} ok"),
        [one] => format!("{head} VIOLATION {one}"),
        [first, rest @ ..] => format!("{head} VIOLATION {first}; and {} more", rest.len()),
    }
}
