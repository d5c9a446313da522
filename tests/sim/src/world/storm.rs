//! The storm: readers read, objects change, and the origin does its worst.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use forebay_gateway::gateway::Remote;
use forebay_ring::State;
use http::Request;
use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{LARGEST, World, size};
use crate::objects::{Kind, Name, Objects};
use crate::oracle::Oracle;
use crate::random::Random;
use crate::reader::door::Doors;
use crate::reader::socket::{self, Pace};
use crate::reader::{self, Readers};
use crate::trace::Trace;

/// How long new reads begin and things change.
const STORM: Duration = Duration::from_secs(15);

/// How long after the faults' end the last read may take: the slowest reader takes the largest object, 40 blocks of
/// four segments, at 400 ms a piece, and some of them ask twice.
const PATIENCE: Duration = Duration::from_secs(300);

/// What a storm goes over.
pub(crate) struct Storm<'a> {
    /// Whose: for the trace.
    pub(crate) who: &'static str,
    pub(crate) seed: u64,
    pub(crate) doors: &'a Arc<Doors>,
    pub(crate) oracle: &'a Arc<Oracle>,
    pub(crate) trace: &'a Arc<Trace>,
    pub(crate) faulty: &'a Arc<AtomicBool>,
    /// Blocks of the largest objects.
    pub(crate) largest: u64,
}

impl Storm<'_> {
    /// Lets so many readers wander, herds come and objects change until then.
    pub(crate) fn begin(&self, readers: RangeInclusive<u64>, until: Instant) -> JoinSet<()> {
        let mut random = Random::new(self.seed, "storm");
        let mut tasks = JoinSet::new();
        for number in 0..random.from(readers) {
            let (doors, oracle) = (Arc::clone(self.doors), Arc::clone(self.oracle));
            let random = Random::new(self.seed, &format!("reader {number}"));
            tasks.spawn(reader::wander(doors, oracle, random, until));
        }
        let (doors, oracle) = (Arc::clone(self.doors), Arc::clone(self.oracle));
        let herds = Random::new(self.seed, "herds");
        tasks.spawn(herds_until(doors, oracle, herds, until));
        let changes = Changes {
            doors: Arc::clone(self.doors),
            oracle: Arc::clone(self.oracle),
            trace: Arc::clone(self.trace),
            random: Random::new(self.seed, "changes"),
            faulty: Arc::clone(self.faulty),
            largest: self.largest,
        };
        tasks.spawn(changes.go_on(until));
        tasks
    }

    /// Waits until all who began in it are done.
    pub(crate) async fn end(&self, mut tasks: JoinSet<()>) {
        self.trace.note(self.who, format_args!("the faults end"));
        let all = async { while tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(PATIENCE, all).await.is_err() {
            let what = format!("{} tasks still wait after the storm", tasks.len());
            self.trace.violation(self.who, what);
        }
        self.trace
            .note(self.who, format_args!("all readers are done"));
    }
}

impl World {
    /// Lets the storm rage, and waits until all who began in it are done.
    pub(super) async fn storm(self: &Arc<Self>) {
        let storm = Storm {
            who: "world",
            seed: self.seed,
            doors: &self.doors,
            oracle: &self.oracle,
            trace: &self.trace,
            faulty: &self.faulty,
            largest: LARGEST,
        };
        let until = Instant::now() + STORM;
        let mut tasks = storm.begin(3..=6, until);
        if self.house.is_some() {
            tasks.spawn(Arc::clone(self).restart_until(until));
        }
        tokio::time::sleep_until(until).await;
        self.faulty.store(false, Ordering::Relaxed);
        storm.end(tasks).await;
    }
}

async fn herds_until(doors: Arc<Doors>, oracle: Arc<Oracle>, mut random: Random, until: Instant) {
    while Instant::now() < until {
        tokio::time::sleep(random.millis(500..=5000)).await;
        reader::herd(&doors, &oracle, random.fork()).await;
    }
}

/// Who overwrites, deletes and purges.
struct Changes {
    doors: Arc<Doors>,
    oracle: Arc<Oracle>,
    trace: Arc<Trace>,
    random: Random,
    faulty: Arc<AtomicBool>,
    /// Blocks of the largest objects.
    largest: u64,
}

impl Changes {
    async fn go_on(mut self, until: Instant) {
        // One world in five stays as it is.
        let pause = *self.random.pick(&[100, 400, 1000, 3000, 100_000]);
        let names = self.oracle.objects.names();
        let may_change = |name: &Name| name.kind != Kind::Fixed;
        let changing: Vec<_> = names.into_iter().filter(may_change).collect();
        while Instant::now() < until {
            tokio::time::sleep(self.random.millis(pause / 2..=2 * pause)).await;
            let name = self.random.pick(&changing).clone();
            match self.random.below(10) {
                0..=6 => self.overwrite(&name),
                7 => {
                    self.trace.note("changes", format_args!("delete {name}"));
                    self.objects().delete(&name);
                }
                _ => {
                    // Often right behind a change: that is when people purge.
                    if self.random.chance(50) {
                        self.overwrite(&name);
                        tokio::time::sleep(self.random.millis(1..=200)).await;
                    }
                    self.purge(&name).await;
                }
            }
        }
    }

    fn objects(&self) -> &Objects {
        &self.oracle.objects
    }

    fn overwrite(&mut self, name: &Name) {
        let before = self.objects().current(name);
        let same = before.filter(|_| self.random.chance(60));
        let size = same.map_or_else(
            || size(&mut self.random, self.largest),
            |content| content.size,
        );
        let now = self.objects().put(name, size);
        self.trace
            .note("changes", format_args!("{name} is {now:?}"));
        self.trace.count("overwritten");
    }

    /// Whom a gateway tells to purge, as far as anybody may read there.
    fn asked_by(&self, readers: &Readers) -> Vec<(String, Arc<Readers>)> {
        let fleet = readers.gateway.state.fleet();
        let peers = fleet.peers.values();
        let asked = peers.filter(|peer| peer.state != State::Down);
        let asked = asked.filter_map(|peer| {
            let name = peer.member.name();
            Some((name.to_owned(), self.doors.of(name)?))
        });
        asked.collect()
    }

    /// Purges at one door. It holds at all that answered, and at no other.
    async fn purge(&mut self, name: &Name) {
        let Some(readers) = self.doors.pick(&mut self.random) else {
            return;
        };
        let remote = Remote {
            tls: false,
            address: ([127, 0, 0, 1], 1).into(),
            controls: true,
        };
        let request = Request::post(format!("/-/purge/{name}"));
        let Ok(request) = request.header("host", "localhost").body(String::new()) else {
            self.trace.violation("changes", "no request to purge with");
            return;
        };
        let asked = self.asked_by(&readers);
        let mut told = Vec::new();
        let begun = Instant::now();
        let purged = async {
            let answer = readers.gateway.handle_from(remote, request).await;
            let status = answer.status();
            let body = socket::drain(answer.into_body(), &Pace::FAST, |piece| {
                told.extend_from_slice(piece);
                Ok(())
            });
            (status, body.await)
        };
        let (status, body) = tokio::select! {
            biased;
            () = readers.gone.wait() => return,
            purged = purged => purged,
        };
        let told: Value = serde_json::from_slice(&told).unwrap_or_default();
        let absent = &told["absent_members"];
        self.trace.note(
            "changes",
            format_args!(
                "purge {name} at {}: {status}, absent: {absent}",
                readers.door
            ),
        );
        let absent: Vec<&str> = absent
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        // A disk that takes no note of it: then it is not done.
        if status == 500 && readers.disk.is_some() && self.faulty.load(Ordering::Relaxed) {
            return self.trace.count("purges not done");
        }
        let answered = asked
            .iter()
            .filter(|(name, _)| !absent.contains(&name.as_str()));
        for (_, member) in answered {
            self.oracle.purged(&member.door, name);
            member.judge_purge(name, begun);
        }
        self.trace.count("purged");
        if !absent.is_empty() {
            self.trace.count("purged where not all answer");
        }
        if status != 200 || body.is_err() {
            self.trace.violation("changes", format!("purge: {status}"));
        }
    }
}
