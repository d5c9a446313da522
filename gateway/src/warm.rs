//! Warming: jobs that bring what they were asked for, and are done when it is there.
//!
//! | module | its part |
//! |---|---|
//! | [`order`], [`glob`] | what a job is asked for, judged before anything begins |
//! | [`job`], `record` | how it is doing, and what is left of it on disk |
//! | `list` | what there is to warm |
//! | [`place`] | whose part of it is what, and whether it fits |
//! | `check` | asking everybody whether they have what is theirs |
//! | [`bring`], [`remote`] | bringing blocks here, and having another member bring them |
//! | `work` | a job from its first listing to its last look |
//!
//! A job belongs to the gateway that took it, which asks each owner to bring its part: no byte crosses twice. It is
//! written to the data directory before it is answered, so that it goes on after a restart.

pub mod bring;
mod check;
pub mod glob;
pub mod job;
mod list;
pub mod order;
pub mod place;
mod record;
pub mod remote;
mod resident;
mod work;

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use xxhash_rust::xxh3::xxh3_64_with_seed;

pub use self::resident::Resident;

use self::job::{Job, State};
use self::order::Order;
use self::place::Crew;
use self::record::Records;

/// Jobs that run at once; those beyond wait for their turn.
const AT_ONCE: usize = 4;

/// Jobs that are over and still told of.
const REMEMBERED: usize = 100;

/// Jobs that may wait for their turn.
const MOST_WAITING: usize = 1000;

/// All jobs of a gateway.
#[derive(Debug)]
pub struct Jobs {
    /// What they work with.
    pub crew: Arc<Crew>,
    table: Mutex<Table>,
    records: OnceLock<Records>,
    seed: u64,
    numbers: AtomicU64,
}

#[derive(Debug, Default)]
struct Table {
    /// By when they were taken, and their number: who waits is served in this order among equals.
    jobs: BTreeMap<(SystemTime, u64), Arc<Job>>,
    running: usize,
    /// Whether jobs may begin: not before the gateway is in its fleet, and not once it stops.
    open: bool,
}

impl Jobs {
    /// No jobs yet. `seed` names them; any number, another one at each start.
    pub fn new(crew: Crew, seed: u64) -> Arc<Self> {
        Arc::new(Self {
            crew: Arc::new(crew),
            table: Mutex::default(),
            records: OnceLock::new(),
            seed,
            numbers: AtomicU64::new(0),
        })
    }

    /// Keeps jobs in this data directory from now on, and learns those that are there. Blocks on the disk.
    pub fn keep_in(&self, data_dir: &Path) {
        let records = Records::new(data_dir);
        let mut table = self.table();
        for job in records.load() {
            let number = self.numbers.fetch_add(1, Ordering::Relaxed);
            table.jobs.insert((job.created, number), Arc::new(job));
        }
        // The first directory told stays.
        let _ = self.records.set(records);
    }

    /// Lets jobs begin, those of an earlier run first.
    pub fn begin(self: &Arc<Self>) {
        self.table().open = true;
        self.next();
    }

    /// Takes a job, or finds the one that does just that already.
    ///
    /// # Errors
    /// If it can't be written down; or if too many wait.
    pub async fn take(self: &Arc<Self>, order: Order) -> io::Result<Arc<Job>> {
        let (job, is_new) = {
            let mut table = self.table();
            let waiting = || table.jobs.values().filter(|job| !job.state().is_over());
            let same = waiting().find(|job| job.order == order && !job.is_cancelled());
            match same {
                Some(job) => (Arc::clone(job), false),
                None if waiting().count() >= MOST_WAITING => {
                    return Err(io::Error::other(
                        "too many jobs wait already; come again once some are done",
                    ));
                }
                None => {
                    let number = self.numbers.fetch_add(1, Ordering::Relaxed);
                    let id = xxh3_64_with_seed(&number.to_le_bytes(), self.seed);
                    let created = SystemTime::now();
                    let job = Arc::new(Job::new(format!("{id:016x}"), order, created));
                    table.jobs.insert((created, number), Arc::clone(&job));
                    (job, true)
                }
            }
        };
        if is_new && let Err(error) = self.save(&job).await {
            job.cancel();
            job.go_on(State::Cancelled);
            return Err(error);
        }
        self.next();
        Ok(job)
    }

    /// The job of that name.
    pub fn get(&self, id: &str) -> Option<Arc<Job>> {
        let table = self.table();
        table.jobs.values().find(|job| job.id == id).cloned()
    }

    /// All jobs, in the order in which they were taken.
    pub fn all(&self) -> Vec<Arc<Job>> {
        self.table().jobs.values().cloned().collect()
    }

    /// Ends a job that is not over, and returns once it has ended.
    pub async fn cancel(self: &Arc<Self>, job: &Arc<Job>) {
        job.cancel();
        // One that has not begun has nobody else to end it.
        self.next();
        let mut states = job.states();
        // The sender is the job's own, which we hold.
        let _ = states.wait_for(State::is_over).await;
    }

    /// Begins what may begin: by priority, then by age.
    fn next(self: &Arc<Self>) {
        loop {
            let job = {
                let mut table = self.table();
                let queued = |job: &&Arc<Job>| job.state() == State::Queued;
                let gone: Vec<_> = table
                    .jobs
                    .values()
                    .filter(queued)
                    .filter(|job| job.is_cancelled())
                    .cloned()
                    .collect();
                gone.iter().for_each(|job| job.go_on(State::Cancelled));
                if !gone.is_empty() {
                    drop(table);
                    for job in gone {
                        self.note(job);
                    }
                    continue;
                }
                if !table.open || table.running >= AT_ONCE {
                    return;
                }
                let queued = table.jobs.values().filter(queued);
                let next = queued.max_by_key(|job| (job.order.priority, Reverse(job.created)));
                let Some(job) = next.cloned() else { return };
                job.go_on(State::Listing);
                table.running += 1;
                job
            };
            tokio::spawn(Arc::clone(self).see_through(job));
        }
    }

    async fn see_through(self: Arc<Self>, job: Arc<Job>) {
        /// Makes room for the next job, even after a panic.
        struct Turn(Arc<Jobs>, Arc<Job>);
        impl Drop for Turn {
            fn drop(&mut self) {
                self.1
                    .go_on(State::Failed("its task ended early: see the log".into()));
                self.0.table().running -= 1;
                self.0.next();
            }
        }
        let turn = Turn(Arc::clone(&self), Arc::clone(&job));
        let (id, dataset, prefix) = (&job.id, &job.order.dataset, &job.order.prefix);
        tracing::info!(job = id, dataset, prefix, "a warming job begins");
        let work = Box::pin(work::run(&self.crew, &job));
        let state = tokio::select! {
            biased;
            () = job.cancelled() => State::Cancelled,
            () = too_late(&job) => {
                let percent = job.json()["percent"].clone();
                State::Failed(format!("its deadline passed at {percent} %").into())
            }
            worked = work => match worked {
                Ok(()) => State::Done,
                Err(failure) => State::Failed(failure.to_string().into()),
            },
        };
        let [objects, bytes, _, read] = job.counts();
        match &state {
            State::Failed(reason) => {
                tracing::info!(job = id, dataset, prefix, %reason, "a warming job failed");
            }
            state => tracing::info!(
                job = id,
                objects,
                bytes,
                origin_bytes_read = read,
                "a warming job is {}",
                state.name()
            ),
        }
        job.go_on(state);
        if let Err(error) = self.save(&job).await {
            tracing::warn!(job = id, %error, "how a job ended can't be written down: a restart begins it again");
        }
        self.forget_the_oldest().await;
        drop(turn);
    }

    /// Writes a job down where nobody waits for the disk.
    fn note(self: &Arc<Self>, job: Arc<Job>) {
        let jobs = Arc::clone(self);
        tokio::spawn(async move {
            if let Err(error) = jobs.save(&job).await {
                tracing::warn!(job = job.id, %error, "how a job ended can't be written down");
            }
        });
    }

    async fn save(self: &Arc<Self>, job: &Arc<Job>) -> io::Result<()> {
        if self.records.get().is_none() {
            return Ok(());
        }
        let (jobs, job) = (Arc::clone(self), Arc::clone(job));
        let saved = tokio::task::spawn_blocking(move || match jobs.records.get() {
            Some(records) => records.save(&job),
            None => Ok(()),
        });
        saved
            .await
            .unwrap_or_else(|error| Err(io::Error::other(error)))
    }

    async fn forget_the_oldest(self: &Arc<Self>) {
        let forgotten: Vec<String> = {
            let mut table = self.table();
            let over = table.jobs.iter().filter(|(_, job)| job.state().is_over());
            let over: Vec<_> = over.map(|(place, _)| *place).collect();
            let oldest = over.iter().take(over.len().saturating_sub(REMEMBERED));
            let oldest = oldest.filter_map(|place| table.jobs.remove(place));
            oldest.map(|job| job.id.clone()).collect()
        };
        let jobs = Arc::clone(self);
        // It is a few files; nothing depends on when.
        let removed = tokio::task::spawn_blocking(move || {
            if let Some(records) = jobs.records.get() {
                forgotten.iter().for_each(|id| records.remove(id));
            }
        });
        let _ = removed.await;
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns once a job's deadline has passed.
async fn too_late(job: &Job) {
    let Some(time) = job.order.time() else {
        return std::future::pending().await;
    };
    // A clock that was set back makes it look younger than nothing.
    let age = SystemTime::now().duration_since(job.created);
    let left = time.saturating_sub(age.unwrap_or(Duration::ZERO));
    tokio::time::sleep(left).await;
}
