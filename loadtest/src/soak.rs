//! A long, mixed load at 70 % of what the gateways can do, and whether anything grows: resident memory, open files, threads, and the
//! time that a read takes.
//!
//! First everything is read as fast as twelve readers can, for a while; then reads begin at 70 % of that rate, each at its time
//! whether the last has ended or not, and a read's time counts from when it was to begin. Whole objects, parts, small
//! ranges and heads are mixed; the objects are three times what memory holds, and one is overwritten each second.
//!
//! The first fifth is warm-up. Of what follows, the median of the first quarter's samples is compared with that of the last quarter's.

mod command;
mod ground;
mod load;
mod sheet;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::task::JoinSet;
use tokio::time::Instant;

pub use self::command::{Arguments, run as command};
use self::ground::Ground;
use self::load::{Load, Pace, READERS};
pub use self::sheet::Sheet;
use self::sheet::{Sample, Vitals};

/// Of what the first measurement gave.
const SHARE: f64 = 0.7;

/// Between two samples.
const EVERY: Duration = Duration::from_secs(3);

/// What a run is told.
#[derive(Clone, Debug)]
pub struct Options {
    /// The gateway's program; `None`: see [`crate::gateway::program`].
    pub program: Option<PathBuf>,
    /// How many gateways: a fleet, if more than one.
    pub gateways: usize,
    /// How long, once the rate is known.
    pub lasting: Duration,
    /// Makes what is read.
    pub seed: u64,
}

/// Loads gateways for a long time, and tells whether they stay as they are.
///
/// # Errors
/// A gateway does not start, or ends by itself.
pub async fn run(options: &Options) -> anyhow::Result<Sheet> {
    let ground = Ground::new(options).await?;
    let load = Arc::new(Load::new(&ground, options.seed));
    let most = measure(&load, first(options.lasting)).await?;
    let rate = SHARE * most;
    println!("{most:.0} reads a second at most; {rate:.0} from now on");
    let pace = Arc::new(Pace::new(rate));
    let mut readers = JoinSet::new();
    // Enough to begin each read at its time, though some take long.
    for number in 0..8 * READERS {
        readers.spawn(Arc::clone(&load).paced(Arc::clone(&pace), number as u64));
    }
    let (mut samples, begun) = (Vec::new(), Instant::now());
    let mut ticks = tokio::time::interval(EVERY);
    ticks.tick().await;
    while begun.elapsed() < options.lasting {
        ticks.tick().await;
        ground.overwrite_some(EVERY);
        let vitals = ground.vitals().context("a gateway has ended by itself")?;
        samples.push(sample(&load, begun, vitals));
    }
    readers.shutdown().await;
    let bad = load.bad();
    ground.stop().await?;
    let rates = (most, rate);
    Ok(Sheet::new(options, rates, samples, bad))
}

/// How long the first measurement takes.
fn first(lasting: Duration) -> Duration {
    (lasting / 6).clamp(Duration::from_secs(10), Duration::from_secs(40))
}

/// Reads a second, with every reader busy; the first half of the time is not counted.
async fn measure(load: &Arc<Load>, time: Duration) -> anyhow::Result<f64> {
    let mut readers = JoinSet::new();
    for number in 0..READERS {
        readers.spawn(Arc::clone(load).busy(1000 + number as u64));
    }
    tokio::time::sleep(time / 2).await;
    load.take_times();
    let begun = Instant::now();
    tokio::time::sleep(time / 2).await;
    let reads = load.take_times().len();
    readers.shutdown().await;
    anyhow::ensure!(reads > 0, "not one read ended in {:?}", time / 2);
    Ok(reads as f64 / begun.elapsed().as_secs_f64())
}

fn sample(load: &Load, begun: Instant, vitals: Vec<Vitals>) -> Sample {
    let mut times = load.take_times();
    times.sort_unstable();
    let place = (times.len() * 99).div_ceil(100).max(1) - 1;
    Sample {
        at: begun.elapsed().as_secs_f64(),
        vitals,
        reads: times.len(),
        p99: times.get(place).map(|time| 1e3 * time.as_secs_f64()),
    }
}
