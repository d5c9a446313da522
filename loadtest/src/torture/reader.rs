//! Readers that never stop: streams, ranged parts of a pinned version, small ranges, and curl. Each goes on where it was when a
//! body is cut, a connection refused or an answer a 5xx: at the next gateway, at once.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use forebay_gateway::access::canonical::UNSIGNED_PAYLOAD;
use forebay_gateway::access::sign::{Signer, Unsigned};
use http::header::{self, HeaderName, HeaderValue};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use tokio::time::Instant;

use super::DATASET;
use super::curl;
use super::ground::{Door, KEY_ID, SECRET};
use super::ledger::{Asked, Done, End, Ledger};
use super::truth::{Truth, Verdict};
use crate::client::{Ask, Client, Meter, Outcome, Read, Want};
use crate::namespace::Namespace;
use crate::pattern;

/// A reader leaves a gateway that brings nothing for so long, and does not come back for a while.
pub(super) const GATEWAY_PATIENCE: Duration = Duration::from_millis(1250);
const SHUNNED: Duration = Duration::from_secs(3);

/// A read that gets no byte from any gateway for so long has failed.
const PATIENCE: Duration = Duration::from_secs(10);

/// Between two rounds over all gateways in which nobody gave a byte: a reader is no attack.
const ROUND: Duration = Duration::from_millis(50);

/// Bytes a second of one reader, and a pause between two reads: gateways, origin and readers share a machine, and one that is
/// never idle makes everybody wait.
const RATE: f64 = 12e6;
const PAUSE: Duration = Duration::from_millis(10);

/// The parts of a ranged read.
const PART: u64 = 8 << 20;

/// What all readers share.
#[derive(Debug)]
pub(super) struct World {
    pub(super) doors: Arc<[Door]>,
    pub(super) keys: Vec<String>,
    pub(super) truth: Arc<Truth>,
    pub(super) ledger: Arc<Ledger>,
    /// A file with the certificate that curl believes.
    pub(super) authority: PathBuf,
}

/// How a reader reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// One GET of the whole object.
    Stream,
    /// HEAD, and parts with its ETag in If-Match.
    Parts,
    /// Small ranges anywhere, one or several in a request.
    Small,
    /// Parts as curl processes read them.
    Curl,
}

impl Way {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Stream => "streams",
            Self::Parts => "parts",
            Self::Small => "small ranges",
            Self::Curl => "curl",
        }
    }
}

/// The bytes of one read.
#[derive(Clone, Debug)]
pub(super) struct Goal {
    pub(super) key: String,
    pub(super) first: u64,
    /// `None`: to the end, whatever the version.
    pub(super) end: Option<u64>,
    /// Further ranges of the same request, which is then begun anew when it is cut.
    pub(super) more: Vec<(u64, u64)>,
    /// The version that it must be of.
    pub(super) pin: Option<u64>,
}

impl Goal {
    /// All of an object.
    pub(super) fn whole(key: &str) -> Self {
        Self {
            key: key.to_owned(),
            first: 0,
            end: None,
            more: Vec::new(),
            pin: None,
        }
    }
}

/// A read that begins now.
fn begin(way: &'static str, key: &str) -> Done {
    Done {
        way,
        key: key.to_owned(),
        begun: Instant::now(),
        end: End::Whole,
        bytes: 0,
        first_byte: None,
        gap: Duration::ZERO,
        resumed: 0,
        refused: 0,
        no_path: false,
        asked: Vec::new(),
    }
}

/// What went wrong, with who said it and how.
fn blamed(end: End, door: usize, read: &Read) -> End {
    let said = |name: &str| {
        let value = read.headers.get(name)?.to_str().ok()?;
        Some(format!(", {name} {value}"))
    };
    let said: String = ["age", "cache-status", "x-amz-request-id"]
        .into_iter()
        .filter_map(said)
        .collect();
    let told = |what: String| format!("{what} (gw-{door}{said})");
    match end {
        End::Failed(what) => End::Failed(told(what)),
        End::Wrong(what) => End::Wrong(told(what)),
        other => other,
    }
}

/// One reader, with a connection to each gateway.
#[derive(Debug)]
pub(super) struct Reader {
    world: Arc<World>,
    from: Namespace,
    way: Way,
    clients: Vec<Client>,
    shunned: Vec<Option<Instant>>,
    meter: Arc<Meter>,
    chance: StdRng,
    signer: Signer,
}

impl Reader {
    /// A reader on this host.
    pub(super) fn new(world: &Arc<World>, from: &Namespace, way: Way, seed: u64) -> Self {
        let meter = world.ledger.meter();
        let client = |door: &Door| {
            let scheme = if door.tls.is_some() { "https" } else { "http" };
            let client = Client::new(&format!("{scheme}://{}/{DATASET}", door.address))
                .expect("an address makes a URL")
                .from(from)
                .metered(&meter)
                .patience(GATEWAY_PATIENCE);
            match &door.tls {
                Some(tls) => client.trust(Arc::clone(tls)),
                None => client,
            }
        };
        Self {
            clients: world.doors.iter().map(client).collect(),
            shunned: vec![None; world.doors.len()],
            world: Arc::clone(world),
            from: from.clone(),
            way,
            meter,
            chance: StdRng::seed_from_u64(seed),
            signer: Signer::new(KEY_ID, SECRET),
        }
    }

    /// Reads for ever at its rate, until this is dropped.
    pub(super) async fn run(mut self) {
        loop {
            let (begun, before) = (Instant::now(), self.meter.bytes());
            let key = self.world.keys.choose(&mut self.chance).cloned();
            let key = key.unwrap_or_default();
            match self.way {
                Way::Stream => drop(self.read(Goal::whole(&key)).await),
                Way::Parts | Way::Curl => self.parts(&key).await,
                Way::Small => self.small(&key).await,
            }
            let came = (self.meter.bytes() - before) as f64;
            let due = begun + Duration::from_secs_f64(came / RATE);
            tokio::time::sleep_until(due.max(Instant::now() + PAUSE)).await;
        }
    }

    /// Asks for the version, and reads it in parts until it is whole or has changed.
    async fn parts(&mut self, key: &str) {
        let Some((version, size)) = self.head(key).await else {
            return;
        };
        // A reader that begins anywhere: not all of them want the same part at once.
        let parts = size.div_ceil(PART);
        let start = self.chance.random_range(0..parts.max(1));
        for part in 0..parts {
            let first = (start + part) % parts * PART;
            let goal = Goal {
                first,
                end: Some(size.min(first + PART)),
                pin: Some(version),
                ..Goal::whole(key)
            };
            if self.read(goal).await != End::Whole {
                return;
            }
        }
    }

    async fn small(&mut self, key: &str) {
        let Some((_, size)) = self.world.truth.current(key) else {
            // One that is deleted is asked for too.
            let _ = self.read(Goal::whole(key)).await;
            return;
        };
        for _ in 0..32 {
            let count = if self.chance.random_bool(0.1) { 3 } else { 1 };
            let mut ranges: Vec<_> = (0..count)
                .map(|_| {
                    let first = self.chance.random_range(0..size.max(1));
                    (first, first + self.chance.random_range(1..=256 << 10))
                })
                .collect();
            let (first, end) = ranges.remove(0);
            let goal = Goal {
                first,
                end: Some(end),
                more: ranges,
                ..Goal::whole(key)
            };
            let _ = self.read(goal).await;
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// The version that a HEAD tells, and its size.
    async fn head(&mut self, key: &str) -> Option<(u64, u64)> {
        let mut done = begin("heads", key);
        let mut door = self.choose();
        while done.begun.elapsed() < PATIENCE {
            let ask = self.signed(Ask::head(key), door);
            let read = self.clients[door].read(&ask).await;
            if read.gave_up {
                self.shun(door);
            }
            match (&read.outcome, read.version) {
                (Outcome::Whole, Some(version)) => {
                    let truth = &self.world.truth;
                    done.end = match truth.judge(key, version, done.begun) {
                        Verdict::Right => End::Whole,
                        other => blamed(
                            End::Wrong(format!("version {version}: {other:?}")),
                            door,
                            &read,
                        ),
                    };
                    self.world.ledger.read(&done);
                    return Some((version, truth.size(key, version)?));
                }
                (Outcome::Status(404), _) => return None,
                _ => door = self.next(door),
            }
        }
        None
    }

    /// Reads these bytes from wherever they are to be had, and notes what came of it.
    pub(super) async fn read(&mut self, goal: Goal) -> End {
        self.meter.begin();
        let begun = Instant::now();
        let mut done = begin(self.way.name(), &goal.key);
        done.end = self.attempt(goal, &mut done).await;
        done.no_path = self.world.truth.no_path(begun, Instant::now());
        done.gap = self.meter.longest_gap();
        self.world.ledger.read(&done);
        done.end
    }

    async fn attempt(&mut self, mut goal: Goal, done: &mut Done) -> End {
        let (mut progress, mut fruitless) = (Instant::now(), 0);
        let mut door = self.choose();
        loop {
            let asked = Instant::now();
            let read = self.ask(&goal, door).await;
            done.asked.push(Asked {
                host: door,
                took: asked.elapsed(),
                first_byte: read.first_byte_after,
                bytes: read.bytes,
            });
            if read.bytes > 0 {
                (progress, fruitless) = (Instant::now(), 0);
                let first =
                    progress - done.begun - read.took + read.first_byte_after.unwrap_or(read.took);
                done.first_byte.get_or_insert(first);
                done.bytes += read.bytes;
            }
            if let Some(end) = self.judge(&mut goal, &read, done) {
                return blamed(end, door, &read);
            }
            if read.gave_up {
                self.shun(door);
            }
            // Who was turned away has nothing to go on with.
            done.resumed += u64::from(read.bytes > 0);
            door = self.next(door);
            fruitless += 1;
            if progress.elapsed() >= PATIENCE {
                return End::Failed(format!(
                    "no byte for {PATIENCE:?} from any gateway; the last said {:?}",
                    read.outcome
                ));
            }
            if fruitless % self.clients.len() == 0 {
                tokio::time::sleep(ROUND).await;
            }
        }
    }

    /// What an answer means for the read: its end, or `None` if it is to be gone on with.
    fn judge(&self, goal: &mut Goal, read: &Read, done: &mut Done) -> Option<End> {
        let truth = &self.world.truth;
        if let Some(version) = read.version.filter(|_| read.bytes > 0) {
            if goal.pin.is_some_and(|pin| pin != version) {
                return Some(End::Wrong(format!(
                    "version {version} though {:?} was asked for",
                    goal.pin
                )));
            }
            if goal.pin.is_none() {
                match truth.judge(&goal.key, version, done.begun) {
                    Verdict::Right => {}
                    other => {
                        return Some(End::Wrong(format!("version {version}: {other:?}")));
                    }
                }
            }
            if goal.more.is_empty() {
                goal.pin = Some(version);
                goal.first += read.bytes;
            }
        }
        let changed =
            |pin: Option<u64>| pin.is_none_or(|version| truth.may_have_changed(&goal.key, version));
        match &read.outcome {
            Outcome::Whole => Some(End::Whole),
            Outcome::Wrong(what) | Outcome::Mixed(what) => Some(End::Wrong(what.clone())),
            Outcome::Status(412) if goal.pin.is_some() && changed(goal.pin) => Some(End::Changed),
            Outcome::Status(404) if truth.may_be_absent(&goal.key, done.begun) => {
                Some(End::Changed)
            }
            Outcome::Status(416)
                if goal.pin.is_none()
                    && truth.may_end_before(&goal.key, goal.first, done.begun) =>
            {
                Some(End::Changed)
            }
            Outcome::Status(status) if *status < 500 => Some(End::Failed(format!(
                "status {status}, pinned {:?}",
                goal.pin
            ))),
            Outcome::Status(_) => {
                done.refused += 1;
                None
            }
            Outcome::Cut(_) | Outcome::Unanswered(_) => {
                // The last byte may have come before the error did.
                let end = goal.end.or_else(|| truth.size(&goal.key, goal.pin?));
                let whole = goal.more.is_empty()
                    && goal.pin.is_some()
                    && end.is_some_and(|end| goal.first >= end);
                whole.then_some(End::Whole)
            }
        }
    }

    /// Asks one gateway once for what is missing.
    async fn ask(&mut self, goal: &Goal, door: usize) -> Read {
        let want = match (goal.first, goal.end) {
            (0, None) => Want::Whole,
            (first, None) => Want::Open(first),
            (first, Some(end)) if goal.more.is_empty() => Want::Range(first, end - 1),
            (first, Some(end)) => {
                let one = std::iter::once((first, end));
                let all = one.chain(goal.more.iter().copied());
                Want::Several(all.map(|(first, end)| (first, end - 1)).collect())
            }
        };
        let mut ask = Ask::new(&goal.key, want);
        if let Some(etag) = goal.pin.and_then(|version| self.etag(&goal.key, version)) {
            ask = ask.header(header::IF_MATCH, etag);
        }
        if self.way == Way::Curl
            && let Some(version) = goal.pin
        {
            let range = (goal.first, goal.end.unwrap_or(goal.first + 1));
            let door = &self.world.doors[door];
            let signer = door.tls.as_ref().map(|_| &self.signer);
            let ask = curl::Asked {
                ask: &ask,
                door,
                signer,
                range,
                seed: pattern::seed(&goal.key, version),
                version,
                authority: &self.world.authority,
            };
            return curl::read(&self.from, &ask, &self.meter).await;
        }
        let ask = self.signed(ask, door);
        self.clients[door].read(&ask).await
    }

    fn etag(&self, key: &str, version: u64) -> Option<HeaderValue> {
        let size = self.world.truth.size(key, version)?;
        HeaderValue::from_str(&pattern::etag(key, version, size)).ok()
    }

    /// Signed, where the gateway wants that.
    fn signed(&self, mut ask: Ask, door: usize) -> Ask {
        let door = &self.world.doors[door];
        if door.tls.is_none() {
            return ask;
        }
        let (path, host) = (ask.path(&format!("/{DATASET}")), door.address.to_string());
        let unsigned = Unsigned {
            method: ask.method().as_str(),
            host: &host,
            path: &path,
            query: "",
        };
        let headers = self
            .signer
            .headers(&unsigned, UNSIGNED_PAYLOAD, SystemTime::now());
        for (name, value) in headers {
            if let Ok(value) = HeaderValue::from_str(&value) {
                ask = ask.header(HeaderName::from_static(name), value);
            }
        }
        ask
    }

    fn choose(&mut self) -> usize {
        let any = self.chance.random_range(0..self.clients.len());
        if self.is_shunned(any) {
            self.next(any)
        } else {
            any
        }
    }

    /// The next that is not shunned; if all are, the next.
    fn next(&self, door: usize) -> usize {
        let count = self.clients.len();
        let others = (1..=count).map(|step| (door + step) % count);
        let mut well = others.filter(|&door| !self.is_shunned(door));
        well.next().unwrap_or((door + 1) % count)
    }

    fn is_shunned(&self, door: usize) -> bool {
        self.shunned[door].is_some_and(|until| until > Instant::now())
    }

    fn shun(&mut self, door: usize) {
        self.shunned[door] = Some(Instant::now() + SHUNNED);
    }
}
