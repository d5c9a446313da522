//! Real gateways under everything that goes wrong: a fleet with disks of its own in network namespaces, readers that compare
//! every byte, and a nemesis that kills, freezes, parts, fills, flips, cuts off and lies, by a schedule that a seed makes.
//!
//! | module | its part |
//! |---|---|
//! | `kind`, `schedule` | what can be done, and what is done to whom and when |
//! | `ground`, `disk`, `wire` | the gateways and the origin; what can become of disks and links |
//! | `nemesis` | does it |
//! | `reader`, `curl` | read for ever, and go on elsewhere |
//! | `truth` | what the origin held when, and what a reader may be told |
//! | `ledger`, `evidence`, `sheet`, `timeline` | what was found; as a table, as JSON, as a picture |
//!
//! A read has failed when no gateway gives a byte for 10 s. While the origin is away it is the only path to what is not cached:
//! reads that such a time touches are counted apart.
//!
//! It needs root, iproute2, nftables, e2fsprogs, xfsprogs and curl; without, nothing is tortured and the exit code is 2.

mod command;
mod curl;
mod disk;
mod evidence;
mod ground;
mod kind;
mod ledger;
mod nemesis;
mod reader;
mod schedule;
mod sheet;
mod timeline;
mod truth;
mod wire;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::task::JoinSet;

pub use self::command::{Arguments, run as command};
use self::evidence::Evidence;
use self::ground::{Ground, READERS};
use self::ledger::Ledger;
use self::nemesis::{Nemesis, size};
use self::reader::{Reader, Way, World};
pub use self::sheet::Sheet;
use self::truth::Truth;
use crate::scenario::cpu::Ticks;
use crate::scenario::net::tool;

/// The dataset's name, and the bucket's.
const DATASET: &str = "models";
const BUCKET: &str = "bucket";

/// Objects that are read all the time.
const OBJECTS: usize = 40;

/// Between two that are overwritten.
const OVERWRITTEN: Duration = Duration::from_millis(1500);

/// The readers: twelve at once, on two hosts.
const WAYS: [(Way, usize); 4] = [
    (Way::Stream, 4),
    (Way::Parts, 3),
    (Way::Small, 4),
    (Way::Curl, 1),
];

/// What a run is told.
#[derive(Clone, Debug)]
pub struct Options {
    /// The gateway's program; `None`: see [`crate::gateway::program`].
    pub program: Option<PathBuf>,
    /// How long.
    pub lasting: Duration,
    /// Makes the schedule, and what is read.
    pub seed: u64,
    /// Where the report, the plot and the gateways' logs go.
    pub out: Option<PathBuf>,
}

/// Tortures a fleet, and tells what was found. Dropping the future ends and removes everything.
///
/// # Errors
/// It can't be done here: no root, no namespaces, loop devices or programs, or no gateway that starts.
pub async fn run(options: &Options) -> anyhow::Result<Sheet> {
    let ground = Arc::new(Ground::new(options).await?);
    let truth = Arc::<Truth>::default();
    let mut chance = StdRng::seed_from_u64(options.seed);
    let keys: Vec<_> = (0..OBJECTS).map(|number| format!("m/{number}")).collect();
    for key in &keys {
        truth.put(&ground.origin, key, size(&mut chance));
    }
    let world = Arc::new(World {
        doors: ground.doors(),
        authority: ground.authority_file()?,
        ledger: Arc::new(Ledger::new()),
        truth,
        keys,
    });
    let ledger = Arc::clone(&world.ledger);
    let ticks = Ticks::now();
    let mut readers = JoinSet::new();
    let ways = WAYS
        .iter()
        .flat_map(|&(way, count)| std::iter::repeat_n(way, count));
    for (number, way) in ways.enumerate() {
        let host = ground.net.reader(number % READERS);
        readers.spawn(Reader::new(&world, host, way, chance.random()).run());
    }
    readers.spawn(async move { ledger.sample().await });
    let evidence = Arc::<Evidence>::default();
    let (watching, watched) = (Arc::clone(&evidence), Arc::clone(&ground));
    readers.spawn(async move { watching.watch(&watched).await });
    let overwriting = (Arc::clone(&ground), Arc::clone(&world));
    readers.spawn(overwrite(
        overwriting,
        StdRng::seed_from_u64(chance.random()),
    ));
    let planned = schedule::schedule(options.seed, options.lasting);
    let nemesis = Arc::new(Nemesis::new(&ground, &world));
    let done = async {
        Box::pin(nemesis.run(planned)).await;
        let left = options.lasting.as_secs_f64() - world.ledger.now();
        tokio::time::sleep(Duration::from_secs_f64(left.max(0.0))).await;
    };
    tokio::select! {
        () = done => {}
        ended = readers.join_next() => bail!("a reader ended: {ended:?}"),
    }
    readers.shutdown().await;
    if let Some(out) = &options.out {
        ground.keep_logs(out)?;
    }
    let (took, idle) = (world.ledger.now(), Ticks::now().idle_since(ticks));
    let ground = Arc::into_inner(ground).context("the ground is still in use")?;
    let ended = ground.end().await;
    let mut sums = world.ledger.take();
    sums.evidence = evidence.take();
    sums.idle = idle;
    Ok(Sheet::new(options.seed, took, sums, &ended))
}

/// Overwrites one object after the other, beside what the schedule does to them.
async fn overwrite((ground, world): (Arc<Ground>, Arc<World>), mut chance: StdRng) {
    loop {
        tokio::time::sleep(OVERWRITTEN).await;
        let key = &world.keys[chance.random_range(0..OBJECTS)];
        // One that is deleted comes again when the schedule says so.
        if world.truth.current(key).is_some() {
            world.truth.put(&ground.origin, key, size(&mut chance));
        }
    }
}
