//! One seed of a fleet from beginning to end: storm, calm, a member more or less, and the accounts at the end.
//!
//! | module | its part |
//! |---|---|
//! | [`network`] | connections and packets between members |
//! | [`member`] | one start of one gateway, with all that it does by itself |
//! | `nemesis` | who kills, parts, adds and drains members |
//! | `calm` | what must hold once that ends |

mod calm;
pub mod member;
mod nemesis;
pub mod network;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use self::member::Member;
use self::nemesis::Nemesis;
use self::network::{Network, Node};
use crate::house::House;
use crate::oracle::Oracle;
use crate::origin::SimOrigin;
use crate::random::Random;
use crate::reader::door::Doors;
use crate::trace::Trace;
use crate::world::storm::Storm;
use crate::world::{Memory, house, objects};

/// How long new reads begin, things change and members come and go.
const STORM: Duration = Duration::from_secs(12);

/// Blocks of the largest objects: each is an extent of its own, and every byte goes through several members.
const LARGEST: u64 = 10;

/// How long the members of the beginning may take to find each other.
const FOUND: Duration = Duration::from_secs(10);

/// A fleet, and all that is around it.
#[derive(Debug)]
pub(crate) struct Fleet {
    pub(crate) seed: u64,
    pub(crate) trace: Arc<Trace>,
    pub(crate) oracle: Arc<Oracle>,
    pub(crate) origin: Arc<SimOrigin>,
    pub(crate) network: Arc<Network>,
    pub(crate) doors: Arc<Doors>,
    pub(crate) faulty: Arc<AtomicBool>,
    /// How many members there are in the beginning, and whom everybody asks for the others.
    pub(crate) size: Node,
    /// Whether they are in two zones.
    pub(crate) zones: bool,
    pub(crate) connections: usize,
    pub(crate) memory: Memory,
    pub(crate) reads: Arc<AtomicU64>,
    members: Mutex<BTreeMap<Node, Arc<Member>>>,
    /// The machines of the members so far, where they have disks.
    houses: Mutex<BTreeMap<Node, Arc<House>>>,
}

impl Fleet {
    pub(crate) fn new(seed: u64, trace: Arc<Trace>) -> anyhow::Result<Arc<Self>> {
        let mut random = Random::new(seed, "fleet");
        let oracle = Arc::new(Oracle::new(Arc::new(objects(&mut random, LARGEST))));
        let faulty = Arc::new(AtomicBool::new(true));
        let origin = SimOrigin::new(
            seed,
            Arc::clone(&oracle),
            Arc::clone(&trace),
            Arc::clone(&faulty),
        );
        let fleet = Arc::new(Self {
            seed,
            network: Network::new(seed, Arc::clone(&trace)),
            doors: Arc::default(),
            origin: Arc::new(origin),
            oracle,
            faulty,
            size: random.from(3..=5) as Node,
            zones: random.chance(30),
            connections: *random.pick(&[8, 64]),
            memory: *random.pick(&[Memory::Least, Memory::Enough]),
            reads: Arc::default(),
            members: Mutex::default(),
            houses: Mutex::default(),
            trace,
        });
        for node in 1..=fleet.size {
            fleet.start(node)?;
        }
        Ok(fleet)
    }

    /// Starts a member.
    pub(crate) fn start(self: &Arc<Self>, node: Node) -> anyhow::Result<()> {
        let member = Member::start(self, node)?;
        self.lock().insert(node, member);
        Ok(())
    }

    /// The machine of this member, in whatever state its last start and the time since left it.
    pub(crate) fn house(&self, node: Node) -> anyhow::Result<Option<Arc<House>>> {
        let mut houses = self.houses.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(house) = houses.get(&node) {
            house.rest()?;
            return Ok(Some(Arc::clone(house)));
        }
        let house = house(self.seed, &format!("m{node}"), &self.trace, &self.faulty)?;
        if let Some(house) = &house {
            houses.insert(node, Arc::clone(house));
        }
        Ok(house)
    }

    /// Those that were started last under each number and go on.
    pub(crate) fn alive(&self) -> Vec<Arc<Member>> {
        let members = self.lock();
        let alive = members
            .values()
            .filter(|member| !member.readers.gone.is_set());
        alive.cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Node, Arc<Member>>> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) async fn live(self: Arc<Self>) {
        let size = self.size;
        self.trace.note("fleet", format_args!("{size} members"));
        let found = Instant::now() + FOUND;
        while self.doors.all().len() < usize::from(size) && Instant::now() < found {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        self.trace.note("fleet", format_args!("storm"));
        self.storm().await;
        self.trace.note("fleet", format_args!("calm"));
        self.calm().await;
        self.trace.note("fleet", format_args!("end"));
        self.end().await;
    }

    async fn storm(self: &Arc<Self>) {
        let storm = Storm {
            who: "fleet",
            seed: self.seed,
            doors: &self.doors,
            oracle: &self.oracle,
            trace: &self.trace,
            faulty: &self.faulty,
            largest: LARGEST,
        };
        let until = Instant::now() + STORM;
        let mut tasks = storm.begin(2..=4, until);
        tasks.spawn(Nemesis::new(self).rage(until));
        tokio::time::sleep_until(until).await;
        self.faulty.store(false, Ordering::Relaxed);
        self.network.calm_down();
        storm.end(tasks).await;
    }
}
