//! Carries the schedule out.

mod clients;
mod members;
mod origin;

use std::sync::Arc;
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::Instant;

pub(super) use self::origin::size;
use super::ground::Ground;
use super::kind::{Kind, Strikes, Takes};
use super::reader::World;
use super::schedule::{GUEST, Planned};

/// After the origin is back: a gateway asks each two seconds whether it is, and a reader's next byte may need that.
const NOTICED: Duration = Duration::from_secs(3);

/// Does what is planned.
#[derive(Debug)]
pub(super) struct Nemesis {
    ground: Arc<Ground>,
    world: Arc<World>,
    /// A host has one fault at a time, however long its last one took.
    hosts: Vec<Mutex<()>>,
}

impl Nemesis {
    /// One for this ground and its readers.
    pub(super) fn new(ground: &Arc<Ground>, world: &Arc<World>) -> Self {
        Self {
            ground: Arc::clone(ground),
            world: Arc::clone(world),
            hosts: (0..=GUEST).map(|_| Mutex::default()).collect(),
        }
    }

    /// Strikes at the planned times; returns once all has been made good again.
    pub(super) async fn run(self: Arc<Self>, planned: Vec<Planned>) {
        let begun = Instant::now();
        let mut struck = JoinSet::new();
        for one in planned {
            tokio::time::sleep_until(begun + one.at).await;
            let nemesis = Arc::clone(&self);
            struck.spawn(async move { nemesis.strike(&one).await });
            while struck.try_join_next().is_some() {}
        }
        while struck.join_next().await.is_some() {}
    }

    async fn strike(&self, planned: &Planned) {
        let host = match planned.kind.strikes() {
            Strikes::Member | Strikes::Pair | Strikes::Secure | Strikes::Guest => {
                Some(planned.host)
            }
            Strikes::Origin | Strikes::Object => None,
        };
        // Two that name each other can't wait for each other: only the first end is locked.
        let _host = match host {
            Some(host) => Some(self.hosts[host].lock().await),
            None => None,
        };
        let ledger = &self.world.ledger;
        let from = ledger.now();
        let troubled = match planned.kind.takes() {
            Takes::OnlyPath => Some(true),
            Takes::Answers => Some(false),
            _ if planned.kind == Kind::NoOrigin => Some(false),
            _ => None,
        };
        let number = troubled.map(|only_path| self.world.truth.trouble(only_path));
        let chance = StdRng::seed_from_u64(planned.seed);
        let outcome = Box::pin(self.act(planned, chance)).await;
        if let Some(number) = number {
            self.world.truth.trouble_ends(number, NOTICED);
        }
        ledger.fault(planned.kind, host, from, &outcome);
    }

    /// Does it, and says to which object, where it is done to one.
    async fn act(&self, planned: &Planned, mut chance: StdRng) -> anyhow::Result<Option<String>> {
        match planned.kind.strikes() {
            Strikes::Member | Strikes::Pair | Strikes::Secure | Strikes::Guest => {
                self.member(planned, &mut chance).await?;
                Ok(None)
            }
            Strikes::Origin => self.origin(planned).await.map(|()| None),
            Strikes::Object => self.object(planned, &mut chance).await.map(Some),
        }
    }
}
