//! A job: what it was asked for, how far it is, and what is told of it.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use super::bring::Came;
use super::order::Order;

/// The rate is that of so much time up to now.
const RATE_OVER: Duration = Duration::from_secs(10);

/// Between two samples of it.
const SAMPLE_EVERY: Duration = Duration::from_millis(250);

/// How a job does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Others come first.
    Queued,
    /// The origin is asked what there is.
    Listing,
    /// Blocks are brought.
    Running,
    /// The owners are asked whether they have them all.
    Verifying,
    /// Every block was resident when its owner was asked at the end.
    Done,
    /// It ended otherwise, and why.
    Failed(Arc<str>),
    /// Somebody wanted no more of it.
    Cancelled,
}

impl State {
    /// Whether nothing more will come.
    pub fn is_over(&self) -> bool {
        matches!(self, Self::Done | Self::Failed(_) | Self::Cancelled)
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Listing => "listing",
            Self::Running => "running",
            Self::Verifying => "verifying",
            Self::Done => "done",
            Self::Failed(_) => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// One job.
#[derive(Debug)]
pub struct Job {
    /// Its name: 16 hexadecimal digits.
    pub id: String,
    /// What it was asked for.
    pub order: Order,
    /// When.
    pub created: SystemTime,
    state: watch::Sender<State>,
    stop: watch::Sender<bool>,
    progress: Mutex<Progress>,
}

#[derive(Debug, Default)]
struct Progress {
    objects: u64,
    bytes: u64,
    /// Bytes that were seen to be resident; those of them that were before the job; those that came from the origin.
    resident: u64,
    found: u64,
    origin: u64,
    begun: Option<Instant>,
    took: Option<Duration>,
    finished: Option<SystemTime>,
    /// Bytes that had been brought, and when.
    samples: VecDeque<(Instant, u64)>,
}

impl Progress {
    fn brought(&self) -> u64 {
        self.resident - self.found
    }

    /// Bytes a second, of what had to be brought; `None` before there are any.
    fn rate(&self) -> Option<f64> {
        let (since, before) = match self.took {
            Some(took) => return per_second(self.brought(), took),
            None => *self.samples.front()?,
        };
        per_second(self.brought() - before, since.elapsed())
    }

    fn sample(&mut self) {
        let (now, brought) = (Instant::now(), self.brought());
        let last = self.samples.back();
        if last.is_some_and(|(at, _)| now.duration_since(*at) < SAMPLE_EVERY) {
            return;
        }
        self.samples.push_back((now, brought));
        // One that is older stays, so that there is always a time to divide by.
        while let Some((second, _)) = self.samples.get(1)
            && now.duration_since(*second) > RATE_OVER
        {
            self.samples.pop_front();
        }
    }
}

fn per_second(bytes: u64, time: Duration) -> Option<f64> {
    let seconds = time.as_secs_f64();
    (bytes > 0 && seconds > 0.0).then(|| bytes as f64 / seconds)
}

/// What a job is like at one moment.
#[derive(Clone, Debug)]
pub struct Look {
    /// Its state.
    pub state: State,
    objects: u64,
    bytes: u64,
    resident: u64,
    origin: u64,
    rate: Option<f64>,
    took: Duration,
    finished: Option<SystemTime>,
}

impl Job {
    /// A job that waits for its turn.
    pub fn new(id: String, order: Order, created: SystemTime) -> Self {
        Self {
            id,
            order,
            created,
            state: watch::Sender::new(State::Queued),
            stop: watch::Sender::new(false),
            progress: Mutex::default(),
        }
    }

    /// One that ended in an earlier run of this gateway.
    pub(super) fn ended(mut self, state: State, finished: SystemTime, counts: [u64; 4]) -> Self {
        self.state = watch::Sender::new(state);
        let [objects, bytes, resident, origin] = counts;
        self.progress = Mutex::new(Progress {
            objects,
            bytes,
            resident,
            origin,
            found: resident,
            finished: Some(finished),
            ..Progress::default()
        });
        self
    }

    /// How it does.
    pub fn state(&self) -> State {
        self.state.borrow().clone()
    }

    /// Its state, as it changes.
    pub fn states(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    /// Wants no more of it, whether it has begun or not.
    pub fn cancel(&self) {
        self.stop.send_replace(true);
    }

    /// Returns once somebody wants no more of it.
    pub(super) async fn cancelled(&self) {
        // The sender is ours, so the wait ends only with the word.
        let _ = self.stop.subscribe().wait_for(|stop| *stop).await;
    }

    /// Whether somebody wants no more of it.
    pub(super) fn is_cancelled(&self) -> bool {
        *self.stop.borrow()
    }

    /// Goes on to this state. The one that ends it is the last.
    pub(super) fn go_on(&self, state: State) {
        if state.is_over() && !self.state().is_over() {
            let mut progress = self.progress();
            progress.took = Some(progress.begun.map_or(Duration::ZERO, |at| at.elapsed()));
            progress.finished = Some(SystemTime::now());
        }
        self.state.send_if_modified(|now| {
            let goes = !now.is_over() && *now != state;
            if goes {
                *now = state;
            }
            goes
        });
    }

    /// Notes that it begins.
    pub(super) fn begin(&self) {
        let mut progress = self.progress();
        progress.begun.get_or_insert_with(Instant::now);
        progress.sample();
    }

    /// Notes that there is more to warm.
    pub(super) fn listed(&self, objects: u64, bytes: u64) {
        let mut progress = self.progress();
        progress.objects += objects;
        progress.bytes += bytes;
    }

    /// Says how many bytes there are to be in all, now that it is known where.
    pub(super) fn totals(&self, bytes: u64) {
        let mut progress = self.progress();
        progress.bytes = bytes;
        progress.resident = progress.resident.min(bytes);
    }

    /// Notes bytes that were seen to be resident for the first time.
    pub(super) fn came(&self, bytes: u64, came: Came) {
        let mut progress = self.progress();
        let counted = bytes.min(progress.bytes - progress.resident);
        progress.resident += counted;
        if came == Came::Found {
            progress.found += counted;
        }
        if came == Came::Origin {
            progress.origin += bytes;
        }
        progress.sample();
    }

    /// Notes bytes that came from the origin once more.
    pub(super) fn read_again(&self, bytes: u64) {
        self.progress().origin += bytes;
    }

    /// Objects, bytes, those resident, and those read from the origin.
    pub(super) fn counts(&self) -> [u64; 4] {
        let progress = self.progress();
        [
            progress.objects,
            progress.bytes,
            progress.resident,
            progress.origin,
        ]
    }

    /// What it is like now.
    pub fn look(&self) -> Look {
        // First the state: what is counted when it is over changes no more.
        let state = self.state();
        let progress = self.progress();
        Look {
            state,
            objects: progress.objects,
            bytes: progress.bytes,
            resident: progress.resident,
            origin: progress.origin,
            rate: progress.rate(),
            took: match (progress.took, progress.begun) {
                (Some(took), _) => took,
                (None, begun) => begun.map_or(Duration::ZERO, |at| at.elapsed()),
            },
            finished: progress.finished,
        }
    }

    /// The contract's JSON of it.
    pub fn json(&self) -> Value {
        let look = self.look();
        let error = match &look.state {
            State::Failed(reason) => Some(&**reason),
            _ => None,
        };
        json!({
            "id": self.id,
            "dataset": self.order.dataset,
            "prefix": self.order.prefix,
            "tier": self.order.tier,
            "copies": self.order.copies,
            "state": look.state.name(),
            "objects": look.objects,
            "bytes": look.bytes,
            "resident_bytes": look.resident,
            "origin_bytes_read": look.origin,
            "percent": look.percent(),
            "rate": look.rate.map(|rate| rate as u64),
            "eta_seconds": look.eta(),
            "created": rfc3339(self.created),
            "finished": look.finished.map(rfc3339),
            "error": error,
        })
    }

    /// The contract's line of text of it.
    pub fn line(&self) -> String {
        let (id, look) = (&self.id, self.look());
        match &look.state {
            State::Done => {
                let seconds = look.took.as_secs_f64();
                format!("done {id} {} bytes in {seconds:.1}s\n", look.bytes)
            }
            State::Failed(reason) => format!("failed {id} {}\n", reason.replace('\n', " ")),
            State::Cancelled => format!("failed {id} it was cancelled\n"),
            _ => format!("warm {id} {look}\n"),
        }
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Look {
    /// How much of it is resident, in percent; all of it only once that was verified.
    fn percent(&self) -> f64 {
        match (&self.state, self.bytes) {
            (State::Done, _) => 100.0,
            (State::Queued | State::Listing, _) | (_, 0) => 0.0,
            (_, bytes) => (self.resident as f64 * 100.0 / bytes as f64).min(99.9),
        }
    }

    /// Seconds that it will take yet, as far as that can be told.
    fn eta(&self) -> Option<u64> {
        let left = self.bytes - self.resident;
        match &self.state {
            State::Done => Some(0),
            State::Failed(_) | State::Cancelled | State::Queued | State::Listing => None,
            State::Running | State::Verifying if left == 0 => Some(0),
            State::Running | State::Verifying => {
                self.rate.map(|rate| (left as f64 / rate).ceil() as u64)
            }
        }
    }
}

/// What follows the job's name in a line of progress.
impl fmt::Display for Look {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (percent, rate) = (self.percent(), self.rate.unwrap_or(0.0) as u64);
        let eta = self
            .eta()
            .map_or("?".to_owned(), |seconds| seconds.to_string());
        write!(
            f,
            "{percent:.1}% {}/{} bytes {rate} B/s eta {eta}s",
            self.resident, self.bytes
        )
    }
}

fn rfc3339(time: SystemTime) -> String {
    DateTime::<Utc>::from(time).to_rfc3339_opts(SecondsFormat::Secs, true)
}

#[cfg(test)]
mod tests {
    use super::super::order::Tier;
    use super::*;

    fn job() -> Job {
        let order = Order::all("models", "a/", Tier::Memory);
        Job::new("17".to_owned(), order, SystemTime::UNIX_EPOCH)
    }

    #[tokio::test(start_paused = true)]
    async fn progress_is_monotonic_and_full_only_once_it_was_verified() {
        let job = job();
        job.begin();
        job.listed(2, 100);
        job.go_on(State::Running);
        job.came(40, Came::Found);
        tokio::time::advance(Duration::from_secs(2)).await;
        job.came(30, Came::Origin);
        let value = job.json();
        assert_eq!(
            (&value["percent"], &value["rate"]),
            (&json!(70.0), &json!(15))
        );
        assert_eq!(value["eta_seconds"], json!(2));
        assert_eq!(job.line(), "warm 17 70.0% 70/100 bytes 15 B/s eta 2s\n");
        job.came(30, Came::Elsewhere);
        job.came(30, Came::Origin);
        assert_eq!(
            job.json()["resident_bytes"],
            json!(100),
            "no more than there is"
        );
        assert_eq!(job.json()["percent"], json!(99.9));
        job.go_on(State::Done);
        job.go_on(State::Cancelled);
        assert_eq!(job.line(), "done 17 100 bytes in 2.0s\n");
        assert_eq!(job.json()["origin_bytes_read"], json!(60));
        assert_eq!(job.json()["created"], json!("1970-01-01T00:00:00Z"));
    }

    #[tokio::test(start_paused = true)]
    async fn the_rate_is_that_of_late() {
        let job = job();
        job.begin();
        job.listed(1, 1 << 40);
        job.go_on(State::Running);
        for _ in 0..60 {
            tokio::time::advance(Duration::from_secs(1)).await;
            job.came(1000, Came::Origin);
        }
        for _ in 0..30 {
            tokio::time::advance(Duration::from_secs(1)).await;
            job.came(10, Came::Origin);
        }
        assert_eq!(job.json()["rate"], json!(10));
    }

    #[tokio::test]
    async fn a_job_is_cancelled_before_it_begins_too() {
        let job = job();
        job.cancel();
        job.cancelled().await;
        assert!(job.is_cancelled());
    }
}
