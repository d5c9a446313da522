//! Readers: what they ask, at which pace they take it, and how they judge it.
//!
//! | module | its part |
//! |---|---|
//! | [`door`] | where they may read, and whether anybody is there |
//! | [`ask`] | one request, and what its answer must look like for an object of a size |
//! | [`socket`] | taking a body as a socket would, at a pace |
//! | [`verify`] | headers and bytes against the oracle |

pub mod ask;
pub mod door;
pub mod socket;
pub mod verify;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use forebay_gateway::gateway::Gateway;
use http::Request;
use tokio::time::Instant;

use self::ask::Ask;
use self::door::{Doors, Gone};
use self::socket::{End, Pace};
use self::verify::Verdict;
use crate::disk::SimDisk;
use crate::objects::{Content, Name};
use crate::oracle::Oracle;
use crate::random::Random;
use crate::trace::Trace;

/// How long a reader waits where no door is open.
const CLOSED: Duration = Duration::from_millis(200);

/// What whoever reads at one door works with.
#[derive(Debug)]
pub struct Readers {
    /// Which start of which gateway it is.
    pub door: Arc<str>,
    /// What is tested.
    pub gateway: Arc<Gateway>,
    /// What is right.
    pub oracle: Arc<Oracle>,
    /// What happened.
    pub trace: Arc<Trace>,
    /// Reads so far, for their names.
    pub reads: Arc<AtomicU64>,
    /// Whether the gateway was killed.
    pub gone: Arc<Gone>,
    /// What its NVMe tier lies on, if it has one.
    pub disk: Option<Arc<SimDisk>>,
}

/// How a read ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// All bytes of this version that were asked for came.
    Whole(Content),
    /// There is no such object.
    Absent,
    /// An answer that is right, but not the object: 412 or 416.
    Refused,
    /// An error of the gateway's, or of the origin's through it.
    Failed(u16),
    /// The body was cut.
    Cut,
    /// The reader left.
    Left,
    /// The answer was wrong; the trace says how.
    Wrong,
}

impl Outcome {
    fn name(self) -> &'static str {
        match self {
            Self::Whole(_) => "reads: whole",
            Self::Absent => "reads: 404",
            Self::Refused => "reads: 412 or 416",
            Self::Failed(_) => "reads: failed",
            Self::Cut => "reads: cut",
            Self::Left => "reads: left",
            Self::Wrong => "reads: wrong",
        }
    }
}

/// One reader: reads until `until`, with pauses, at one door or another.
pub async fn wander(doors: Arc<Doors>, oracle: Arc<Oracle>, mut random: Random, until: Instant) {
    let names = oracle.objects.names();
    let mut known: Option<(Name, Content)> = None;
    let slow = random.chance(30);
    while Instant::now() < until {
        let pause = *random.pick(&[0, 5, 300, 1500]);
        tokio::time::sleep(random.millis(0..=pause)).await;
        // Readers come back to what they just read, as loaders do.
        let again = known.as_ref().filter(|_| random.chance(30));
        let name = again.map_or_else(|| random.pick(&names).clone(), |(name, _)| name.clone());
        let content = oracle.objects.current(&name);
        let ask = Ask::draw(&mut random, &name, content, known.as_ref());
        let pace = Pace::draw(&mut random, slow);
        let Some(readers) = doors.pick(&mut random) else {
            tokio::time::sleep(CLOSED).await;
            continue;
        };
        let Outcome::Whole(content) = readers.read(&ask, pace).await else {
            continue;
        };
        known = Some((name, content));
    }
}

/// Many readers who want one object at once.
pub async fn herd(doors: &Doors, oracle: &Oracle, mut random: Random) {
    let names = oracle.objects.names();
    let name = random.pick(&names).clone();
    let content = oracle.objects.current(&name);
    let mut herd = Vec::new();
    for _ in 0..random.from(4..=12) {
        let ask = Ask::draw(&mut random, &name, content, None);
        let pace = Pace::draw(&mut random, false);
        let Some(readers) = doors.pick(&mut random) else {
            continue;
        };
        herd.push(tokio::spawn(async move {
            readers.read(&ask, pace).await;
        }));
    }
    for reader in herd {
        // A panic is counted by the hook.
        let _ = reader.await;
    }
}

impl Readers {
    /// Judges, where there is a disk, that nothing is on it that a purge of `name`, begun then and done now, took.
    pub fn judge_purge(&self, name: &Name, begun: Instant) {
        if let (Some(disk), Some(nvme)) = (&self.disk, self.gateway.reads.store.nvme()) {
            disk.purged(name, begun);
            disk.judge_purges(nvme, &self.trace);
        }
    }

    /// One read, from the request to the last byte.
    pub async fn read(&self, ask: &Ask, pace: Pace) -> Outcome {
        let number = self.reads.fetch_add(1, Ordering::Relaxed);
        let who = format!("read {number} at {}", self.door);
        self.trace.note(&who, format_args!("{ask} {pace:?}"));
        let outcome = tokio::select! {
            biased;
            () = self.gone.wait() => Outcome::Cut,
            outcome = self.judged(ask, pace, &who) => outcome,
        };
        self.trace.note(&who, format_args!("{outcome:?}"));
        self.trace.count(outcome.name());
        outcome
    }

    async fn judged(&self, ask: &Ask, pace: Pace, who: &str) -> Outcome {
        let measure = self.oracle.measure(&self.door, &ask.name);
        let Ok(request): Result<Request<()>, _> = ask.request() else {
            self.trace
                .violation(who, "the reader made no request of it");
            return Outcome::Wrong;
        };
        let answer = self.gateway.handle(request);
        let answer = match pace.patience {
            None => answer.await,
            Some(patience) => match tokio::time::timeout(patience, answer).await {
                Ok(answer) => answer,
                Err(_) => return Outcome::Left,
            },
        };
        let (parts, body) = answer.into_parts();
        let status = parts.status.as_u16();
        let headers = &parts.headers;
        let header = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let (length, cache) = (header("content-length"), header("cache-status"));
        self.trace
            .note(who, format_args!("{status} {length:?} {cache:?}"));
        if cache.is_some_and(|cache| cache.contains("peer")) {
            self.trace.count("answers: from a member");
        }
        if cache.is_some_and(|cache| cache.contains("ttl=-")) {
            self.trace.count("answers: stale");
        }
        let verdict = verify::head(&self.oracle, ask, &measure, &parts);
        let mut bytes = match verdict {
            Ok(Verdict::Object(bytes)) => bytes,
            Ok(Verdict::Other(outcome)) => return outcome,
            Err(wrong) => {
                self.trace.violation(who, wrong);
                return Outcome::Wrong;
            }
        };
        let taken = socket::drain(body, &pace, |piece| bytes.take(piece)).await;
        match taken {
            Ok(End::Whole) => match bytes.end() {
                Ok(()) => Outcome::Whole(bytes.content),
                Err(wrong) => {
                    self.trace.violation(who, wrong);
                    Outcome::Wrong
                }
            },
            Ok(End::Cut) => Outcome::Cut,
            Ok(End::Left) => Outcome::Left,
            Err(wrong) => {
                self.trace.violation(who, wrong);
                Outcome::Wrong
            }
        }
    }
}
