//! One seed from beginning to end: storm, calm, and the accounts at the end.
//!
//! In the *storm* readers read, objects change and the origin does its worst. Then the faults end, and whoever still
//! waits must be served in bounded time. In the *calm* everything must be readable, and be what the origin holds. At
//! the *end* every lease, permit and fill must be back.

pub(crate) mod end;
mod life;
pub(crate) mod storm;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::num::NonZero;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Once, mpsc};
use std::time::Duration;

use anyhow::{Context, anyhow};
use forebay_gateway::dataset::Datasets;
use forebay_gateway::settings::{DatasetSettings, Secret};
use forebay_storage::aside::InTurn;
use forebay_storage::block::BlockSize;
use forebay_storage::memory::BlockStore;
use forebay_storage::origin::{HttpClient, OriginUrl};
use forebay_storage::residents::Residents;

use self::life::Lives;
use crate::fleet::Fleet;
use crate::house::House;
use crate::objects::{BLOCK, Kind, Name, Objects};
use crate::oracle::{FRESH_FOR, Oracle, STALE_FOR};
use crate::origin::SimOrigin;
use crate::random::Random;
use crate::reader::door::Doors;
use crate::tier::Tier;
use crate::trace::{Told, Trace};

/// Blocks of the largest objects of one gateway.
const LARGEST: u64 = 40;

/// Requests that the simulated gateway answers at once.
pub(crate) const MAX_REQUESTS: usize = 24;

thread_local! {
    static PANICS: Cell<u64> = const { Cell::new(0) };
}

/// One world.
#[derive(Debug)]
pub(crate) struct World {
    seed: u64,
    origin: Arc<SimOrigin>,
    oracle: Arc<Oracle>,
    doors: Arc<Doors>,
    trace: Arc<Trace>,
    faulty: Arc<AtomicBool>,
    connections: usize,
    memory: Memory,
    /// In which the gateway has a disk, is killed and comes back.
    house: Option<Arc<House>>,
    lives: Mutex<Lives>,
    reads: Arc<AtomicU64>,
}

/// What a seed is a world of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Of {
    /// One gateway.
    One,
    /// Several gateways that are a fleet.
    Fleet,
}

impl Of {
    /// What a seed makes where nobody says.
    pub fn draw(seed: u64) -> Self {
        match seed % 2 {
            0 => Self::One,
            _ => Self::Fleet,
        }
    }
}

/// Runs one seed; the trace keeps its lines if `verbose`.
///
/// # Errors
/// If the world can't be built; what happens in it is told by its trace.
pub fn run(of: Of, seed: u64, verbose: bool) -> anyhow::Result<Told> {
    count_panics();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .context("start the runtime")?;
    let before = PANICS.get();
    // One for a world: whoever waits for the same is woken in any order, and would be dealt now this pause and now that.
    let pause = Duration::from_micros(Random::new(seed, "aside").from(0..=3000));
    let _in_turn = InTurn::after(move || pause);
    let trace = runtime.block_on(async {
        // Nothing began at the beginning of time: spans that reach back must not end before it.
        tokio::time::advance(Duration::from_secs(60)).await;
        let trace = Arc::new(Trace::new(verbose));
        match of {
            Of::One => World::new(seed, Arc::clone(&trace))?.live().await,
            Of::Fleet => Fleet::new(seed, Arc::clone(&trace))?.live().await,
        }
        anyhow::Ok(trace)
    })?;
    if PANICS.get() > before {
        trace.violation("the gateway", "a task panicked");
    }
    Ok(trace.told())
}

/// Runs all seeds, several at once; `each` sees them in order and says whether to go on.
///
/// # Errors
/// If a world can't be built.
pub fn run_all(
    of: impl Fn(u64) -> Of + Sync,
    seeds: Range<u64>,
    mut each: impl FnMut(u64, Told) -> bool,
) -> anyhow::Result<()> {
    let next = AtomicU64::new(seeds.start);
    let (sender, results) = mpsc::sync_channel(64);
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            let sender = sender.clone();
            let (next, end, of) = (&next, seeds.end, &of);
            scope.spawn(move || {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    // A receiver that is gone has seen enough.
                    if seed >= end || sender.send((seed, run(of(seed), seed, false))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        let mut early = BTreeMap::new();
        for due in seeds.clone() {
            while !early.contains_key(&due) {
                let (seed, told) = results.recv().context("a world came to a bad end")?;
                early.insert(seed, told);
            }
            let told = early.remove(&due).context("find a seed's trace")??;
            if !each(due, told) {
                next.store(seeds.end, Ordering::Relaxed);
                drop(results);
                return Ok(());
            }
        }
        Ok(())
    })
}

/// A panic in a task that nobody joins would pass unseen.
fn count_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            PANICS.set(PANICS.get() + 1);
            before(panic);
        }));
    });
}

impl World {
    fn new(seed: u64, trace: Arc<Trace>) -> anyhow::Result<Arc<Self>> {
        let mut random = Random::new(seed, "world");
        let oracle = Arc::new(Oracle::new(Arc::new(objects(&mut random, LARGEST))));
        let faulty = Arc::new(AtomicBool::new(true));
        let origin = SimOrigin::new(
            seed,
            Arc::clone(&oracle),
            Arc::clone(&trace),
            Arc::clone(&faulty),
        );
        let house = house(seed, "sim", &trace, &faulty)?;
        let world = Arc::new(Self {
            seed,
            origin: Arc::new(origin),
            oracle,
            doors: Arc::default(),
            connections: *random.pick(&[3, 16, 64]),
            memory: *random.pick(&[Memory::Little, Memory::Enough]),
            trace,
            faulty,
            house,
            lives: Mutex::default(),
            reads: Arc::default(),
        });
        world.start()?;
        Ok(world)
    }

    async fn live(self: Arc<Self>) {
        self.trace.note("world", format_args!("storm"));
        self.storm().await;
        self.trace.note("world", format_args!("calm"));
        self.calm().await;
        self.trace.note("world", format_args!("end"));
        self.end().await;
    }
}

/// The house of a gateway, where it has one: in every other world.
pub(crate) fn house(
    seed: u64,
    name: &str,
    trace: &Arc<Trace>,
    faulty: &Arc<AtomicBool>,
) -> anyhow::Result<Option<Arc<House>>> {
    let has_one = Random::new(seed, "houses").chance(50);
    has_one
        .then(|| House::new(seed, name, trace, faulty))
        .transpose()
}

/// How much memory a gateway has.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Memory {
    Least,
    Little,
    Enough,
}

impl Memory {
    pub(crate) fn bytes(self) -> u64 {
        match self {
            Self::Least => 16 << 20,
            Self::Little => 24 << 20,
            Self::Enough => 64 << 20,
        }
    }
}

pub(crate) fn tier(
    capacity: u64,
    residents: &Arc<Residents>,
    trace: &Arc<Trace>,
) -> Box<dyn BlockStore> {
    Box::new(Tier::new(
        capacity,
        Arc::clone(residents),
        Arc::clone(trace),
    ))
}

/// What is there in the beginning: sizes at the edges of blocks, some of many blocks.
pub(crate) fn objects(random: &mut Random, largest: u64) -> Objects {
    let objects = Objects::default();
    for kind in Kind::ALL {
        let count = match kind {
            Kind::Models => random.from(3..=8),
            Kind::Dated | Kind::Fixed => random.from(1..=3),
        };
        for number in 0..count {
            let key = format!("{number}.bin");
            objects.put(&Name { kind, key }, size(random, largest));
        }
    }
    objects
}

/// Bytes of an object of at most so many blocks.
pub(crate) fn size(random: &mut Random, largest: u64) -> u64 {
    match random.below(6) {
        0 => random.below(2),
        1 => BLOCK + random.below(3) - 1,
        2 => 3 * BLOCK + 17,
        3 => random.from(1..=BLOCK),
        4 => random.from(1..=largest / 5 * BLOCK),
        _ => random.from(largest / 5 * BLOCK..=largest * BLOCK),
    }
}

/// All kinds of datasets, over `origin`.
pub(crate) fn datasets(connections: usize, origin: HttpClient) -> anyhow::Result<Datasets> {
    let settings: Vec<_> = Kind::ALL
        .into_iter()
        .map(|kind| dataset(kind, connections))
        .collect::<Result<_, _>>()?;
    let block_size = BlockSize::new(u32::try_from(BLOCK)?);
    Datasets::new(&settings, block_size, origin).map_err(|mistakes| anyhow!(mistakes.join("; ")))
}

fn dataset(kind: Kind, connections: usize) -> anyhow::Result<DatasetSettings> {
    let url = format!("s3://{}", kind.name());
    let url = OriginUrl::parse(&url).map_err(|reason| anyhow!(reason))?;
    let options = [
        ("aws_endpoint", "http://origin.invalid"),
        ("aws_region", "us-east-1"),
        ("aws_access_key_id", "SIMULATED"),
        ("aws_secret_access_key", "simulated"),
    ];
    let options = options.map(|(name, value)| (name.to_owned(), Secret::new(value)));
    Ok(DatasetSettings {
        options: options.into(),
        fresh_for: FRESH_FOR,
        stale_for: STALE_FOR,
        immutable: kind == Kind::Fixed,
        origin_connections: connections,
        ..DatasetSettings::with_defaults(kind.name(), url)
    })
}
