//! What is seen of the fleet, and its tables: built where nothing waits, few for many changes, swapped whole.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep_until};

use super::view::View;
use crate::donors::Donors;
use crate::fleet::{Fleet, Peer};
use crate::member::Member;
use crate::table::Table;

/// Changes of placement within that time make one table: of 200 gateways that start at once each builds
/// a few and not 200.
const GATHER: Duration = Duration::from_millis(100);

/// A table of so few members is built at once: sooner than a thread would begin.
const FEW: usize = 8;

/// Where no thread was to be had, it is tried again after so long.
const AGAIN: Duration = Duration::from_secs(1);

/// How far those who build tables stand back (setpriority(2)): where all cores are busy they get a tenth of one, so that
/// a table comes all the same.
#[cfg(target_os = "linux")]
const NICE: i32 = 10;

/// The members of a table, and of those of a moment ago.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Wanted {
    placed: Vec<Member>,
    before: Vec<Vec<Member>>,
    arrival: Option<u64>,
}

/// A table, those of a moment ago, and how long it took to build them.
type Built = (Arc<Table>, Donors, Duration);

/// The members of tables that are being built, and where they come.
type Building = (Wanted, oneshot::Receiver<Built>);

/// The writing end of a watched [`Fleet`].
pub(super) struct Tables {
    fleet: watch::Sender<Arc<Fleet>>,
    /// Who belongs in the table, and who is in it.
    wanted: Wanted,
    built: Wanted,
    building: Option<Building>,
    next_build: Instant,
}

impl Tables {
    /// `fleet` holds the table of the members `placed`.
    pub(super) fn new(fleet: watch::Sender<Arc<Fleet>>, placed: Vec<Member>) -> Self {
        let built = Wanted {
            placed,
            ..Wanted::default()
        };
        Self {
            fleet,
            wanted: built.clone(),
            built,
            building: None,
            next_build: Instant::now(),
        }
    }

    /// Shows at once how members do, and lets a table follow if others belong in it.
    pub(super) fn take_up(&mut self, view: View) {
        self.publish(view.peers);
        let wanted = Wanted {
            placed: view.placed,
            before: view.before,
            arrival: view.arrival,
        };
        if self.wanted != wanted {
            // The first change starts the time; those that follow within it come along.
            if self.wanted == self.built {
                self.next_build = self.next_build.max(Instant::now() + GATHER);
            }
            self.wanted = wanted;
        }
    }

    /// Whether the table that is seen is that of the members that belong in it.
    pub(super) fn up_to_date(&self) -> bool {
        self.wanted == self.built
    }

    /// Waits for the next thing to be done for the table, and does it. Dropped, it can be called again.
    pub(super) async fn step(&mut self) {
        if self.building.is_some() {
            let table = finished(&mut self.building).await;
            self.swap(table);
        } else if self.up_to_date() {
            std::future::pending::<()>().await;
        } else {
            sleep_until(self.next_build).await;
            self.build();
        }
    }

    fn build(&mut self) {
        let wanted = self.wanted.clone();
        if wanted.placed.len() <= FEW {
            let built = make(wanted.clone(), &self.known());
            return self.swap(Some((wanted, built)));
        }
        match build_aside(wanted.clone(), self.known()) {
            Ok(built) => self.building = Some((wanted, built)),
            Err(error) => {
                tracing::error!(%error, "no thread for a table of the fleet; the last one is kept, and it is tried again");
                self.next_build = Instant::now() + AGAIN;
            }
        }
    }

    /// The tables that there are: one of them may be wanted once more.
    fn known(&self) -> Vec<Arc<Table>> {
        let fleet = self.fleet.borrow();
        let before = fleet.donors.tables().iter();
        before.chain([&fleet.table]).map(Arc::clone).collect()
    }

    fn swap(&mut self, built: Option<(Wanted, Built)>) {
        let Some((wanted, (table, donors, took))) = built else {
            // The build panicked, which is a fault of ours; the old table serves on, and the next change tries again.
            tracing::error!("a table of the fleet could not be built; the last one is kept");
            self.built = self.wanted.clone();
            return;
        };
        if self.built.placed != wanted.placed {
            tracing::info!(
                epoch = table.epoch(),
                members = wanted.placed.len(),
                "the fleet has another table"
            );
        }
        self.built = wanted;
        // At most half of one core, however fast members come.
        self.next_build = Instant::now() + took.max(GATHER);
        self.fleet.send_modify(|fleet| {
            *fleet = Arc::new(Fleet {
                table,
                donors: Arc::new(donors),
                ..Fleet::clone(fleet)
            });
        });
    }

    fn publish(&self, peers: Arc<BTreeMap<String, Peer>>) {
        self.fleet.send_if_modified(|fleet| {
            if fleet.peers == peers {
                return false;
            }
            tell(&fleet.peers, &peers);
            *fleet = Arc::new(Fleet {
                peers,
                ..Fleet::clone(fleet)
            });
            true
        });
    }
}

/// Builds tables on a thread that stands back for all others, those that are not `known` already: a large one takes a
/// while, and reads would wait for their turn meanwhile.
///
/// # Errors
/// There are too many threads.
fn build_aside(wanted: Wanted, known: Vec<Arc<Table>>) -> io::Result<oneshot::Receiver<Built>> {
    let (built, receiver) = oneshot::channel();
    let build = move || {
        // On Linux this is of the thread alone. Refused, it is as quick as others.
        #[cfg(target_os = "linux")]
        let _ = rustix::process::setpriority_process(None, NICE);
        // Whoever wanted them may have left.
        let _ = built.send(make(wanted, &known));
    };
    std::thread::Builder::new()
        .name("fleet-table".into())
        .spawn(build)?;
    Ok(receiver)
}

/// Builds the tables that are not `known`.
fn make(wanted: Wanted, known: &[Arc<Table>]) -> Built {
    let started = Instant::now();
    let table = |members: Vec<Member>| {
        let same = known.iter().find(|table| table.members() == members);
        same.map_or_else(|| Arc::new(Table::build(members)), Arc::clone)
    };
    let before = wanted.before.into_iter().map(table).collect();
    let table = table(wanted.placed);
    let donors = Donors::new(before, wanted.arrival);
    (table, donors, started.elapsed())
}

/// Waits for the tables that are being built; for ever if none are. Cancelled, it can be called again.
async fn finished(building: &mut Option<Building>) -> Option<(Wanted, Built)> {
    let Some((_, build)) = building else {
        return std::future::pending().await;
    };
    let done = build.await;
    let (wanted, _) = building.take()?;
    done.ok().map(|built| (wanted, built))
}

/// One line for each member whose state has changed.
fn tell(before: &BTreeMap<String, Peer>, after: &BTreeMap<String, Peer>) {
    for (name, peer) in after {
        if before.get(name).map(|peer| peer.state) != Some(peer.state) {
            tracing::info!(member = %name, address = %peer.address, state = %peer.state, "a member's state");
        }
    }
}
