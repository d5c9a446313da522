//! What is seen of the fleet, and its tables: built where nothing waits, few for many changes, swapped whole.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep_until};

use super::view::View;
use crate::fleet::{Fleet, Peer};
use crate::member::Member;
use crate::table::Table;

/// Changes of placement within that time make one table: of 200 gateways that start at once each builds
/// a few and not 200.
const GATHER: Duration = Duration::from_millis(100);

/// Where no thread was to be had, it is tried again after so long.
const AGAIN: Duration = Duration::from_secs(1);

/// How far those who build tables stand back (setpriority(2)): where all cores are busy they get a tenth of one, so that
/// a table comes all the same.
#[cfg(target_os = "linux")]
const NICE: i32 = 10;

/// A table, and how long it took to build it.
type Built = (Table, Duration);

/// The members of a table that is being built, and where it comes.
type Building = (Vec<Member>, oneshot::Receiver<Built>);

/// The writing end of a watched [`Fleet`].
pub(super) struct Tables {
    fleet: watch::Sender<Arc<Fleet>>,
    /// Who belongs in the table, and who is in it.
    wanted: Vec<Member>,
    built: Vec<Member>,
    building: Option<Building>,
    next_build: Instant,
}

impl Tables {
    /// `fleet` holds the table of the members `built`.
    pub(super) fn new(fleet: watch::Sender<Arc<Fleet>>, built: Vec<Member>) -> Self {
        Self {
            fleet,
            wanted: built.clone(),
            built,
            building: None,
            next_build: Instant::now(),
        }
    }

    /// Shows at once how members do, and lets a table follow if others belong in it.
    pub(super) fn take_up(&mut self, View { peers, placed }: View) {
        self.publish(peers);
        if self.wanted != placed {
            // The first change starts the time; those that follow within it come along.
            if self.wanted == self.built {
                self.next_build = self.next_build.max(Instant::now() + GATHER);
            }
            self.wanted = placed;
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
        let members = self.wanted.clone();
        match build_aside(members.clone()) {
            Ok(built) => self.building = Some((members, built)),
            Err(error) => {
                tracing::error!(%error, "no thread for a table of the fleet; the last one is kept, and it is tried again");
                self.next_build = Instant::now() + AGAIN;
            }
        }
    }

    fn swap(&mut self, built: Option<(Vec<Member>, Table, Duration)>) {
        let Some((members, table, took)) = built else {
            // The build panicked, which is a fault of ours; the old table serves on, and the next change tries again.
            tracing::error!("a table of the fleet could not be built; the last one is kept");
            self.built = self.wanted.clone();
            return;
        };
        tracing::info!(
            epoch = table.epoch(),
            members = members.len(),
            "the fleet has another table"
        );
        self.built = members;
        // At most half of one core, however fast members come.
        self.next_build = Instant::now() + took.max(GATHER);
        let table = Arc::new(table);
        self.fleet.send_modify(|fleet| {
            *fleet = Arc::new(Fleet {
                table,
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

/// Builds a table on a thread that stands back for all others: a large one takes a while, and reads would wait for their
/// turn meanwhile.
///
/// # Errors
/// There are too many threads.
fn build_aside(members: Vec<Member>) -> io::Result<oneshot::Receiver<Built>> {
    let (built, receiver) = oneshot::channel();
    let build = move || {
        // On Linux this is of the thread alone. Refused, it is as quick as others.
        #[cfg(target_os = "linux")]
        let _ = rustix::process::setpriority_process(None, NICE);
        let started = Instant::now();
        let table = Table::build(members);
        // Whoever wanted it may have left.
        let _ = built.send((table, started.elapsed()));
    };
    std::thread::Builder::new()
        .name("fleet-table".into())
        .spawn(build)?;
    Ok(receiver)
}

/// Waits for the table that is being built; for ever if none is. Cancelled, it can be called again.
async fn finished(building: &mut Option<Building>) -> Option<(Vec<Member>, Table, Duration)> {
    let Some((_, build)) = building else {
        return std::future::pending().await;
    };
    let done = build.await;
    let (members, _) = building.take()?;
    done.ok().map(|(table, took)| (members, table, took))
}

/// One line for each member whose state has changed.
fn tell(before: &BTreeMap<String, Peer>, after: &BTreeMap<String, Peer>) {
    for (name, peer) in after {
        if before.get(name).map(|peer| peer.state) != Some(peer.state) {
            tracing::info!(member = %name, address = %peer.address, state = %peer.state, "a member's state");
        }
    }
}
