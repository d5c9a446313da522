//! The mixed load: what is read, and when.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::time::Instant;

use super::ground::{Ground, OBJECTS, SIZE, key};
use crate::client::{Ask, Client, Outcome, Want};

/// Readers of the first measurement.
pub(super) const READERS: usize = 12;

/// Bad reads that are kept word for word.
const WORDS: usize = 20;

/// When the next read begins.
#[derive(Debug)]
pub(super) struct Pace {
    begun: Instant,
    /// Between two reads, in seconds.
    step: f64,
    next: AtomicU64,
}

impl Pace {
    /// So many reads a second.
    pub(super) fn new(rate: f64) -> Self {
        Self {
            begun: Instant::now(),
            step: 1.0 / rate,
            next: AtomicU64::new(0),
        }
    }

    fn turn(&self) -> Instant {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.begun + Duration::from_secs_f64(self.step * number as f64)
    }
}

/// Reads that did not end as they have to.
#[derive(Clone, Debug, Default)]
pub(super) struct Bad {
    pub(super) count: u64,
    pub(super) words: VecDeque<String>,
}

/// What all readers share.
#[derive(Debug)]
pub(super) struct Load {
    urls: Vec<String>,
    seed: u64,
    times: Mutex<Vec<Duration>>,
    bad: Mutex<Bad>,
}

impl Load {
    pub(super) fn new(ground: &Ground, seed: u64) -> Self {
        Self {
            urls: ground.urls(),
            seed,
            times: Mutex::default(),
            bad: Mutex::default(),
        }
    }

    /// Reads one after the other, for ever.
    pub(super) async fn busy(self: Arc<Self>, number: u64) {
        let mut reader = self.reader(number);
        loop {
            self.read(&mut reader, Instant::now()).await;
        }
    }

    /// Reads when its turn comes, for ever.
    pub(super) async fn paced(self: Arc<Self>, pace: Arc<Pace>, number: u64) {
        let mut reader = self.reader(number);
        loop {
            let turn = pace.turn();
            tokio::time::sleep_until(turn).await;
            self.read(&mut reader, turn).await;
        }
    }

    /// How long the reads took that have ended since the last call.
    pub(super) fn take_times(&self) -> Vec<Duration> {
        std::mem::take(&mut *self.times.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What went wrong so far.
    pub(super) fn bad(&self) -> Bad {
        self.lock_bad().clone()
    }

    fn lock_bad(&self) -> MutexGuard<'_, Bad> {
        self.bad.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reader(&self, number: u64) -> Reader {
        let client = |url: &String| Client::new(url).expect("a gateway's URL");
        Reader {
            clients: self.urls.iter().map(client).collect(),
            chance: StdRng::seed_from_u64(self.seed.wrapping_add(number)),
        }
    }

    async fn read(&self, reader: &mut Reader, due: Instant) {
        let ask = reader.ask();
        let client = reader.chance.random_range(0..reader.clients.len());
        let read = reader.clients[client].read(&ask).await;
        let mut times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
        times.push(due.elapsed());
        drop(times);
        // One that is overwritten while it is read is cut: its bytes are those of no other version.
        let well = matches!(read.outcome, Outcome::Whole | Outcome::Cut(_));
        if !well {
            let mut bad = self.lock_bad();
            bad.count += 1;
            if bad.words.len() < WORDS {
                let text = format!("{:?} of {:?}: {:?}", ask.want, ask.key, read.outcome);
                bad.words.push_back(text);
            }
        }
    }
}

struct Reader {
    clients: Vec<Client>,
    chance: StdRng,
}

impl Reader {
    /// One in twenty reads is of a whole object, three of eight MiB, one is a HEAD; the others are small ranges.
    fn ask(&mut self) -> Ask {
        let key = key(self.chance.random_range(0..OBJECTS));
        let first = self.chance.random_range(0..SIZE);
        match self.chance.random_range(0..20) {
            0 => Ask::new(&key, Want::Whole),
            1..=3 => Ask::new(&key, Want::Range(first, first + (8 << 20))),
            4 => Ask::head(&key),
            _ => {
                let length = self.chance.random_range(1..=256 << 10);
                Ask::new(&key, Want::Range(first, first + length))
            }
        }
    }
}
