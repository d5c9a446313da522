//! A job: what it was asked for, how far it is, and what is told of it.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use super::bring::Came;
use super::order::Order;
use super::paper::Sheet;
use super::pinned::Made;
use super::progress::{Pace, Progress};
use super::shared::Post;
use crate::plain::one_line;

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
    /// How it ends, from when that is known until it is told: it is written down first.
    end: OnceLock<State>,
    stop: watch::Sender<bool>,
    /// Whether it could be written down, once that was tried.
    written: watch::Sender<Option<bool>>,
    /// Another member works on it.
    theirs: watch::Sender<bool>,
    /// Its document in the state store.
    post: Mutex<Post>,
    /// The pins that it set.
    pins: Mutex<Vec<Made>>,
    /// It was begun before, by an earlier run of this gateway or by another one.
    resumed: AtomicBool,
    /// The memory of what it was asked for.
    pub(super) sheet: Option<Sheet>,
    progress: Mutex<Progress>,
}

/// What has come of blocks of a piece that are not resident yet. Dropping it is saying that nothing has.
#[derive(Debug)]
pub(super) struct Arriving<'a> {
    job: &'a Job,
    bytes: AtomicU64,
}

impl Arriving<'_> {
    /// It is so many bytes by now.
    pub(super) fn set(&self, bytes: u64) {
        let before = self.bytes.swap(bytes, Ordering::AcqRel);
        self.job.progress().arriving(before, bytes);
    }

    /// So many bytes of it are resident by now.
    pub(super) fn less(&self, bytes: u64) {
        let before = self.bytes.load(Ordering::Acquire);
        self.set(before.saturating_sub(bytes));
    }
}

impl Drop for Arriving<'_> {
    fn drop(&mut self) {
        self.set(0);
    }
}

/// What a job is like at one moment.
#[derive(Clone, Debug)]
pub struct Look {
    /// Its state.
    pub state: State,
    objects: u64,
    bytes: u64,
    resident: u64,
    /// Bytes that are to come yet.
    left: u64,
    origin: u64,
    pace: Option<Pace>,
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
            end: OnceLock::new(),
            stop: watch::Sender::new(false),
            written: watch::Sender::new(None),
            theirs: watch::Sender::new(false),
            post: Mutex::default(),
            pins: Mutex::default(),
            resumed: AtomicBool::new(false),
            sheet: None,
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

    /// Decides how it ends; the first word counts. Nobody is told before [`Self::tell`].
    pub(super) fn decide(&self, end: State) {
        let _ = self.end.set(end);
    }

    /// Goes on to what was decided.
    pub(super) fn tell(&self) {
        if let Some(end) = self.end.get() {
            self.go_on(end.clone());
        }
    }

    /// How it does, told or not: what is written down of it.
    pub(super) fn standing(&self) -> State {
        let end = self.end.get().cloned();
        end.unwrap_or_else(|| self.state())
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

    /// Says whether it could be written down.
    pub(super) fn note_written(&self, written: bool) {
        self.written.send_replace(Some(written));
    }

    /// Returns once that was tried, and says whether it is.
    pub(super) async fn is_written(&self) -> bool {
        let mut written = self.written.subscribe();
        let written = written.wait_for(Option::is_some).await;
        // The sender is ours, so the wait ends only with the word.
        written.is_ok_and(|written| *written == Some(true))
    }

    /// Its document in the state store.
    pub(super) fn post(&self) -> MutexGuard<'_, Post> {
        self.post.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The pins that it set.
    pub(super) fn made_pins(&self) -> MutexGuard<'_, Vec<Made>> {
        self.pins.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether another member works on it.
    pub(super) fn is_theirs(&self) -> bool {
        *self.theirs.borrow()
    }

    /// Says whether another member works on it.
    pub(super) fn belongs_to_others(&self, theirs: bool) {
        self.theirs
            .send_if_modified(|now| std::mem::replace(now, theirs) != theirs);
    }

    /// Returns once another member works on it.
    pub(super) async fn lost(&self) {
        // The sender is ours, so the wait ends only with the word.
        let _ = self.theirs.subscribe().wait_for(|theirs| *theirs).await;
    }

    /// Whether it was begun before.
    pub(super) fn is_resumed(&self) -> bool {
        self.resumed.load(Ordering::Acquire)
    }

    /// Notes that it was begun before, and waits for its turn here.
    pub(super) fn resume(&self) {
        self.resumed.store(true, Ordering::Release);
        self.belongs_to_others(false);
        if !self.state().is_over() {
            *self.progress() = Progress::default();
        }
        self.go_on(State::Queued);
    }

    /// Says of it what whoever works on it says.
    pub(super) fn mirror(&self, state: State, counts: [u64; 4], finished: Option<SystemTime>) {
        let [objects, bytes, resident, origin] = counts;
        *self.progress() = Progress {
            objects,
            bytes,
            resident,
            origin,
            found: resident,
            finished,
            took: finished.map(|at| at.duration_since(self.created).unwrap_or_default()),
            ..Progress::default()
        };
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
    }

    /// Notes that blocks are brought from now on, and goes on to that: what went before says nothing of their pace.
    pub(super) fn bring(&self) {
        self.progress().bring();
        self.go_on(State::Running);
    }

    /// Notes that there is more to warm.
    pub(super) fn listed(&self, objects: u64, bytes: u64) {
        let mut progress = self.progress();
        progress.objects += objects;
        progress.bytes += bytes;
    }

    /// Notes what a look found: bytes there are to be in all, where they are to be by now, and of those the missing.
    /// Progress that was told stays, where it is not more than there is.
    pub(super) fn looked(&self, bytes: u64, missing: u64) {
        self.progress().looked(bytes, missing);
    }

    /// Notes how many objects are what they are said to be, and of how many nobody says anything.
    pub(super) fn verified(&self, good: u64, unsaid: u64) {
        self.progress().verified = Some([good, unsaid]);
    }

    /// The same.
    pub(super) fn count_verified(&self) -> Option<[u64; 2]> {
        self.progress().verified
    }

    /// Says of that what was written down.
    pub(super) fn recall_verified(&self, verified: Option<[u64; 2]>) {
        self.progress().verified = verified;
    }

    /// Notes that the list is made anew: what was listed before does not count.
    pub(super) fn list_anew(&self) {
        let mut progress = self.progress();
        (progress.objects, progress.bytes) = (0, 0);
    }

    /// Notes bytes that were seen to be resident for the first time.
    pub(super) fn came(&self, bytes: u64, came: Came) {
        self.progress().came(bytes, came);
    }

    /// A place to tell what comes of blocks that are not resident yet.
    pub(super) fn arriving(&self) -> Arriving<'_> {
        Arriving {
            job: self,
            bytes: AtomicU64::new(0),
        }
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
            left: progress.left(),
            origin: progress.origin,
            pace: progress.pace(),
            took: match (progress.took, progress.begun) {
                (Some(took), _) => took,
                (None, begun) => begun.map_or(Duration::ZERO, |at| at.elapsed()),
            },
            finished: progress.finished,
        }
    }

    /// The contract's JSON of it.
    pub fn json(&self) -> Value {
        let (look, verified) = (self.look(), self.count_verified());
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
            "pinned": self.order.pin.is_some(),
            "verify": self.order.verify,
            "verified": verified.map(|[good, _]| good),
            "unverified": verified.map(|[_, unsaid]| unsaid),
            "state": look.state.name(),
            "objects": look.objects,
            "bytes": look.bytes,
            "resident_bytes": look.resident,
            "origin_bytes_read": look.origin,
            "percent": look.percent(),
            "rate": look.rate(),
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
            State::Failed(reason) => format!("failed {id} {}\n", one_line(reason)),
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

    /// Bytes a second, as far as that can be told.
    fn rate(&self) -> Option<u64> {
        self.pace.map(|pace| pace.rate as u64)
    }

    /// Seconds that it will take yet, as far as that can be told.
    fn eta(&self) -> Option<u64> {
        match &self.state {
            State::Done => Some(0),
            State::Failed(_) | State::Cancelled | State::Queued | State::Listing => None,
            State::Running | State::Verifying if self.resident >= self.bytes => Some(0),
            State::Running | State::Verifying => self.pace.map(|pace| {
                let seconds = self.left as f64 / pace.rate - pace.under_way.as_secs_f64();
                seconds.round().max(1.0) as u64
            }),
        }
    }
}

/// What follows the job's name in a line of progress.
impl fmt::Display for Look {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (percent, rate) = (self.percent(), self.rate().unwrap_or(0));
        // Scripts take a number here. Where nothing is known, as long again as it took so far is the best guess.
        let so_far = self.took.as_secs_f64().ceil().max(1.0) as u64;
        let eta = self.eta().unwrap_or(so_far);
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
mod tests;
