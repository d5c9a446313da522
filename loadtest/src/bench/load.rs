//! Load on one server: as much as it takes, or so much a second.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, anyhow, bail, ensure};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::http2;
use super::process::{Process, Usage};
use super::rows::{Access, Arrivals, Carrier};
use super::tail::Times;
use super::wire::{Sink, Wire};
use crate::pattern;

/// The large object.
pub(super) const BIG: &str = "big";

/// Bytes of a small object.
pub(super) const SMALL: u64 = 64 << 10;

/// Before anything is counted: connections are made and sockets have found their size.
const RAMP: Duration = Duration::from_millis(300);

/// A pass that compares: a GiB takes about a second on a quiet machine.
const PATIENCE: Duration = Duration::from_secs(300);

/// Connections that compare at once: each waits for an answer most of the time.
const COMPARERS: usize = 64;

/// Reads that are compared, of a row whose requests are not whole objects.
const COMPARED: usize = 200;

/// What there is to read.
#[derive(Clone, Debug)]
pub(super) struct Objects {
    /// The size of [`BIG`].
    pub(super) big: u64,
    /// How many small ones there are.
    pub(super) small: usize,
    /// How popular the first so many small ones are together: the n-th has 1/n.
    popularity: Arc<[f64]>,
}

impl Objects {
    pub(super) fn new(big: u64, small: usize) -> Self {
        let mut sum = 0.0;
        let popularity = (1..=small).map(|place| {
            sum += 1.0 / place as f64;
            sum
        });
        Self {
            big,
            small,
            popularity: popularity.collect(),
        }
    }

    /// Every key and its size.
    pub(super) fn all(&self) -> Vec<(String, u64)> {
        let small = (0..self.small).map(|index| (small(index), SMALL));
        small.chain([(BIG.to_owned(), self.big)]).collect()
    }

    fn popular(&self, random: &mut StdRng) -> usize {
        let most = self.popularity.last().copied().unwrap_or(1.0);
        let at = random.random_range(0.0..most);
        self.popularity.partition_point(|sum| *sum <= at)
    }
}

fn small(index: usize) -> String {
    format!("small/{index}")
}

/// Where requests go, and how this server wants them.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) address: SocketAddr,
    /// What keys are appended to.
    pub(super) prefix: String,
    /// Whether whole objects must be asked for by a range too.
    pub(super) ranges_only: bool,
    /// More lines of a request's head, each with its end.
    pub(super) lines: String,
    pub(super) carrier: Carrier,
    /// Whose certificates are believed, over TLS.
    pub(super) tls: Option<Arc<rustls::ClientConfig>>,
}

/// One read.
#[derive(Clone, Debug)]
pub(super) struct Ask {
    pub(super) key: String,
    pub(super) offset: u64,
    pub(super) length: u64,
    pub(super) whole: bool,
}

impl Ask {
    fn whole(key: String, length: u64) -> Self {
        Self {
            key,
            offset: 0,
            length,
            whole: true,
        }
    }

    /// The value of the `Range` header, if there is to be one.
    pub(super) fn range(&self, target: &Target) -> Option<String> {
        let last = self.offset + self.length - 1;
        (!self.whole || target.ranges_only).then(|| format!("bytes={}-{last}", self.offset))
    }

    fn write(&self, target: &Target, request: &mut String) {
        request.clear();
        let (prefix, key, lines) = (&target.prefix, &self.key, &target.lines);
        // Writing to a string cannot fail.
        let _ = write!(
            request,
            "GET {prefix}/{key} HTTP/1.1\r\nhost: localhost\r\n"
        );
        if let Some(range) = self.range(target) {
            let _ = write!(request, "range: {range}\r\n");
        }
        let _ = write!(request, "{lines}\r\n");
    }

    fn sink(&self, compare: bool) -> Sink {
        if compare {
            Sink::Verify {
                seed: pattern::seed(&self.key, 0),
                offset: self.offset,
            }
        } else {
            Sink::Discard
        }
    }
}

/// Chooses what is read next.
#[derive(Debug)]
pub(super) struct Picker {
    access: Access,
    objects: Objects,
    random: StdRng,
}

impl Picker {
    pub(super) fn new(access: Access, objects: &Objects, seed: u64) -> Self {
        Self {
            access,
            objects: objects.clone(),
            random: StdRng::seed_from_u64(seed),
        }
    }

    pub(super) fn next(&mut self) -> Ask {
        match self.access {
            Access::Whole => Ask::whole(BIG.to_owned(), self.objects.big),
            Access::Zipf => Ask::whole(small(self.objects.popular(&mut self.random)), SMALL),
            Access::Random(length) => {
                let places = (self.objects.big / length).max(1);
                Ask {
                    key: BIG.to_owned(),
                    offset: self.random.random_range(0..places) * length,
                    length,
                    whole: false,
                }
            }
        }
    }
}

/// One measurement.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sample {
    /// How long it took, in seconds.
    pub(super) seconds: f64,
    /// Bytes of bodies and, over HTTP/1.1, nothing of heads.
    pub(super) bytes: f64,
    pub(super) requests: f64,
    /// Processor seconds of the server and its children.
    pub(super) server_cpu: f64,
    /// Seconds in which this side had something to do.
    pub(super) client_busy: f64,
    /// Resident bytes of the server and its children, at the end.
    pub(super) resident: u64,
    /// Bytes that came from a device meanwhile, in the disk rows.
    pub(super) device: f64,
    /// How long the reads took, where arrivals were given.
    pub(super) times: Option<Times>,
}

/// What has been counted up to a moment.
struct Counted {
    at: Instant,
    bytes: u64,
    requests: u64,
    server: Usage,
    idle: u64,
}

/// What readers count into.
#[derive(Clone, Debug, Default)]
pub(super) struct Counters {
    pub(super) bytes: Arc<AtomicU64>,
    pub(super) requests: Arc<AtomicU64>,
    /// Nanoseconds in which nothing came.
    idle: Arc<AtomicU64>,
}

/// One look at what has come.
struct Look {
    at: Instant,
    came: (u64, u64),
}

impl Look {
    /// The time up to the next look, unless something came in it.
    fn idle(&self, next: &Self) -> Duration {
        if self.came == next.came {
            next.at - self.at
        } else {
            Duration::ZERO
        }
    }
}

impl Counters {
    /// Looks for what came again and again, for ever or until then, and counts the time of the looks by which
    /// nothing had. A client that sleeps is woken by the server's core, and the server charged for
    /// that: on a virtual machine up to a third of its time. Over a wire it is not.
    async fn spin(&self, until: Option<Instant>) {
        let mut look = self.look(Instant::now());
        while until.is_none_or(|until| look.at < until) {
            tokio::task::yield_now().await;
            let next = self.look(Instant::now());
            let idle = u64::try_from(look.idle(&next).as_nanos()).unwrap_or(u64::MAX);
            self.idle.fetch_add(idle, Ordering::Relaxed);
            look = next;
        }
    }

    fn look(&self, at: Instant) -> Look {
        let came = self.came();
        Look { at, came }
    }

    fn came(&self) -> (u64, u64) {
        let [bytes, requests] = [&self.bytes, &self.requests];
        (
            bytes.load(Ordering::Relaxed),
            requests.load(Ordering::Relaxed),
        )
    }

    fn now(&self, server: &Process) -> anyhow::Result<Counted> {
        Ok(Counted {
            at: Instant::now(),
            bytes: self.bytes.load(Ordering::Relaxed),
            requests: self.requests.load(Ordering::Relaxed),
            server: server.usage()?,
            idle: self.idle.load(Ordering::Relaxed),
        })
    }
}

impl Counted {
    fn until(&self, end: &Self) -> Sample {
        let seconds = (end.at - self.at).as_secs_f64();
        Sample {
            seconds,
            bytes: (end.bytes - self.bytes) as f64,
            requests: (end.requests - self.requests) as f64,
            server_cpu: end.server.cpu - self.server.cpu,
            client_busy: seconds - (end.idle - self.idle) as f64 / 1e9,
            resident: end.server.resident,
            device: 0.0,
            times: None,
        }
    }
}

/// Reads as fast as the server lets so many connections, each asking again once it has its answer.
pub(super) async fn as_fast_as_it_goes(
    server: &Process,
    target: &Target,
    mut picker: impl FnMut(u64) -> Picker,
    connections: usize,
    time: Duration,
) -> anyhow::Result<Sample> {
    let counters = Counters::default();
    let mut readers = JoinSet::new();
    for connection in 0..connections as u64 {
        let (target, counters) = (target.clone(), counters.clone());
        if target.carrier == Carrier::Http2 {
            let pickers = (0..http2::STREAMS).map(|stream| picker(connection << 8 | stream));
            readers.spawn(http2::read_on(target, pickers.collect(), counters));
        } else {
            readers.spawn(read_on(target, picker(connection), counters));
        }
    }
    let watched = async {
        sleep(RAMP).await;
        let begin = counters.now(server)?;
        sleep(time).await;
        Ok(begin.until(&counters.now(server)?))
    };
    tokio::select! {
        // Readers never end but by failing.
        ended = readers.join_next() => match ended {
            Some(Ok(Err(error))) => Err(error),
            other => bail!("a reader ended early: {other:?}"),
        },
        sample = watched => sample,
        () = counters.spin(None) => bail!("this side spins for ever"),
    }
}

async fn read_on(target: Target, mut picker: Picker, counters: Counters) -> anyhow::Result<()> {
    let bytes = Arc::clone(&counters.bytes);
    let mut wire = Wire::connect(target.address, target.tls.as_ref(), bytes).await?;
    let mut request = String::new();
    loop {
        let ask = picker.next();
        ask.write(&target, &mut request);
        exchange(&mut wire, &ask, &request, false).await?;
        counters.requests.fetch_add(1, Ordering::Relaxed);
    }
}

async fn exchange(wire: &mut Wire, ask: &Ask, request: &str, compare: bool) -> anyhow::Result<()> {
    let length = wire
        .exchange(request.as_bytes(), ask.sink(compare))
        .await
        .with_context(|| format!("read {} from byte {}", ask.key, ask.offset))?;
    ensure!(
        length == ask.length,
        "{} bytes of {} came, not {}",
        length,
        ask.key,
        ask.length
    );
    Ok(())
}

/// Reads that arrive so many a second, whether those before them are done or not; each is timed from its arrival.
pub(super) async fn at_a_rate(
    server: &Process,
    target: &Target,
    picker: impl Fn(u64) -> Picker,
    connections: usize,
    (rate, arrivals): (f64, Arrivals),
    time: Duration,
) -> anyhow::Result<Sample> {
    let counters = Counters::default();
    let times = Arc::new(Mutex::new(Vec::new()));
    let (arrive, arrived) = mpsc::channel(1 << 16);
    let arrived = Arc::new(tokio::sync::Mutex::new(arrived));
    let mut readers = JoinSet::new();
    for connection in 0..connections as u64 {
        let (target, counters, picker) = (target.clone(), counters.clone(), picker(connection));
        let (arrived, times) = (Arc::clone(&arrived), Arc::clone(&times));
        readers.spawn(read_arrivals(target, picker, counters, arrived, times));
    }
    let mut random = StdRng::seed_from_u64(rate.to_bits());
    let begun = Instant::now();
    let mut begin = None;
    let mut due = begun;
    while due < begun + RAMP + time {
        counters.spin(Some(due)).await;
        if begin.is_none() && due >= begun + RAMP {
            lock(&times).clear();
            begin = Some(counters.now(server)?);
        }
        arrive
            .try_send(due)
            .map_err(|_| anyhow!("{rate:.0} reads a second are more than the server can take"))?;
        let gaps = match arrivals {
            Arrivals::Even => 1.0,
            Arrivals::Chance => -(1.0 - random.random::<f64>()).ln(),
        };
        due += Duration::from_secs_f64(gaps / rate);
    }
    let end = counters.now(server)?;
    drop(arrive);
    while let Some(reader) = readers.join_next().await {
        reader.context("a reader ended early")??;
    }
    let mut sample = begin.context("the time was too short")?.until(&end);
    let times = std::mem::take(&mut *lock(&times));
    let times = times.into_iter().map(|(due, took)| (due - begun, took));
    let times = Times::of(&times.collect::<Vec<_>>());
    sample.times = Some(times.context("no read ended in time")?);
    Ok(sample)
}

async fn read_arrivals(
    target: Target,
    mut picker: Picker,
    counters: Counters,
    arrived: Arc<tokio::sync::Mutex<mpsc::Receiver<Instant>>>,
    times: Arc<Mutex<Vec<(Instant, Duration)>>>,
) -> anyhow::Result<()> {
    let bytes = Arc::clone(&counters.bytes);
    let mut wire = Wire::connect(target.address, target.tls.as_ref(), bytes).await?;
    let mut request = String::new();
    loop {
        let due = arrived.lock().await.recv().await;
        let Some(due) = due else { return Ok(()) };
        let ask = picker.next();
        ask.write(&target, &mut request);
        exchange(&mut wire, &ask, &request, false).await?;
        lock(&times).push((due, due.elapsed()));
        counters.requests.fetch_add(1, Ordering::Relaxed);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reads the large object, and the small ones too if told so, and compares every byte: what is cached afterwards is
/// right.
pub(super) async fn warm(target: &Target, objects: &Objects, small: bool) -> anyhow::Result<()> {
    let keys = objects.all();
    let keys = keys.into_iter().filter(|(key, _)| small || key == BIG);
    let asks = keys.map(|(key, size)| Ask::whole(key, size));
    compare(target, asks.collect()).await
}

/// Reads one object and compares every byte.
pub(super) async fn compare_whole(target: &Target, key: &str, size: u64) -> anyhow::Result<()> {
    compare(target, vec![Ask::whole(key.to_owned(), size)]).await
}

/// Compares every byte of some reads of a row's kind. Of whole objects [`warm`] has done that.
pub(super) async fn compare_some(target: &Target, mut picker: Picker) -> anyhow::Result<()> {
    if matches!(picker.access, Access::Whole) {
        return Ok(());
    }
    let asks = (0..COMPARED).map(|_| picker.next());
    compare(target, asks.collect()).await
}

async fn compare(target: &Target, asks: Vec<Ask>) -> anyhow::Result<()> {
    let mut readers = JoinSet::new();
    for asks in asks.chunks(asks.len().div_ceil(COMPARERS).max(1)) {
        readers.spawn(compare_on(target.clone(), asks.to_vec()));
    }
    let reads = async {
        while let Some(reader) = readers.join_next().await {
            reader.context("a reader ended early")??;
        }
        Ok(())
    };
    timeout(PATIENCE, reads)
        .await
        .map_err(|_| anyhow!("a pass that compares took longer than {PATIENCE:?}"))?
}

async fn compare_on(target: Target, asks: Vec<Ask>) -> anyhow::Result<()> {
    let bytes = Arc::default();
    let mut wire = Wire::connect(target.address, target.tls.as_ref(), bytes).await?;
    let mut request = String::new();
    for ask in asks {
        ask.write(&target, &mut request);
        exchange(&mut wire, &ask, &request, true).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_popular_is_asked_for_in_proportion_to_its_rank() {
        let objects = Objects::new(1 << 20, 1000);
        let mut random = StdRng::seed_from_u64(7);
        let mut counts = vec![0_u32; 1000];
        for _ in 0..100_000 {
            counts[objects.popular(&mut random)] += 1;
        }
        // Of 1000 ranks the first has 1 ÷ 7.49 of all, the second half of that.
        assert!((13_000..13_700).contains(&counts[0]), "{}", counts[0]);
        assert!((6_400..6_950).contains(&counts[1]), "{}", counts[1]);
    }

    #[test]
    fn the_time_between_two_looks_is_idle_unless_something_came() {
        let (counters, start) = (Counters::default(), Instant::now());
        let step = Duration::from_millis(2);
        let first = counters.look(start);
        let second = counters.look(start + step);
        assert_eq!(first.idle(&second), step);
        counters.bytes.fetch_add(1, Ordering::Relaxed);
        let third = counters.look(start + 2 * step);
        assert_eq!(second.idle(&third), Duration::ZERO);
        counters.requests.fetch_add(1, Ordering::Relaxed);
        assert_eq!(third.idle(&counters.look(start + 3 * step)), Duration::ZERO);
    }

    #[test]
    fn random_reads_lie_in_the_object() {
        let objects = Objects::new(10 << 20, 1);
        let mut picker = Picker::new(Access::Random(1 << 20), &objects, 7);
        for _ in 0..100 {
            let ask = picker.next();
            assert!(ask.offset + ask.length <= 10 << 20 && ask.offset.is_multiple_of(1 << 20));
        }
    }
}
