//! Warming: jobs that bring what they were asked for, and are done when it is there.
//!
//! | module | its part |
//! |---|---|
//! | [`order`], [`glob`] | what a job is asked for, judged before anything begins |
//! | [`job`], `progress`, `record` | how it is doing, and what is left of it on disk |
//! | `pinned` | the pins that jobs set |
//! | [`paper`] | the memory of what jobs know |
//! | `list` | what there is to warm |
//! | [`place`], `fit` | whose part of it is what, and whether it fits |
//! | `check` | asking everybody whether they have what is theirs |
//! | `verify` | whether what is there is what it is said to be |
//! | [`bring`], [`remote`] | bringing blocks here, and having another member bring them |
//! | `work`, `breadth`, `rate` | a job from its first listing to its last look; how much of it at once, and how fast |
//!
//! A job belongs to the gateway that took it, which asks each owner to bring its part: no byte crosses twice. It is
//! written to the data directory before it is answered, so that it goes on after a restart; or to a state store
//! (`shared`), so that it goes on whoever is left.

pub(crate) mod breadth;
pub mod bring;
mod check;
mod fit;
pub mod glob;
pub mod job;
pub(crate) mod list;
pub mod order;
pub mod paper;
mod pinned;
pub mod place;
mod progress;
pub(crate) mod rate;
mod record;
pub mod remote;
pub(crate) mod resident;
mod shared;
mod verify;
mod work;

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use futures::FutureExt;
use tokio::sync::watch;
use xxhash_rust::xxh3::xxh3_64_with_seed;

pub use self::list::Pages;
pub use self::resident::Resident;

use self::job::{Job, State};
use self::order::Order;
use self::paper::Sheet;
use self::place::Crew;
use self::record::Records;
use self::shared::Shared;
use crate::pins::Pin;
use crate::settings::size::shown;

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
    shared: OnceLock<Shared>,
    seed: u64,
    numbers: AtomicU64,
    /// Whether the gateway stops: then jobs are left as they are, for its next run.
    closed: watch::Sender<bool>,
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
            shared: OnceLock::new(),
            seed,
            numbers: AtomicU64::new(0),
            closed: watch::Sender::new(false),
        })
    }

    /// Keeps jobs in this data directory from now on, and learns those that are there. Blocks on the disk.
    pub fn keep_in(&self, data_dir: &Path) {
        let records = Records::new(data_dir);
        let mut table = self.table();
        for mut job in records.load() {
            let sheet = self.crew.paper.sheet(job.order.bytes());
            // Nothing holds memory yet, so there is none to wait for.
            let sheet = sheet.now_or_never().flatten();
            if sheet.is_none() && job.state().is_over() {
                continue;
            }
            job.sheet = sheet;
            job.resume();
            job.note_written(true);
            let number = self.numbers.fetch_add(1, Ordering::Relaxed);
            table.jobs.insert((job.created, number), Arc::new(job));
        }
        // The first directory told stays.
        let _ = self.records.set(records);
    }

    /// Lets jobs begin, those of an earlier run first.
    pub fn begin(self: &Arc<Self>) {
        let all = {
            let mut table = self.table();
            table.open = true;
            table.jobs.values().cloned().collect::<Vec<_>>()
        };
        for job in all {
            match job.state() {
                State::Queued => self.watch_deadline(&job),
                // A run that ended just then may have left its pins.
                State::Failed(_) | State::Cancelled => {
                    let jobs = Arc::clone(self);
                    tokio::spawn(async move { jobs.take_back(&job).await });
                }
                _ => {}
            }
        }
        if self.shared.get().is_some() {
            tokio::spawn(Arc::clone(self).keep_shared());
        }
        self.next();
    }

    /// Lets no job go on: this gateway stops. What they have to do yet is for its next run.
    pub fn close(&self) {
        self.table().open = false;
        self.closed.send_replace(true);
    }

    /// Whether jobs go on no more, as it changes.
    pub fn closed(&self) -> watch::Receiver<bool> {
        self.closed.subscribe()
    }

    /// Takes a job and sets its pins, or finds the one that does just that already. Dropping the future ends nothing: the
    /// job is taken all the same.
    ///
    /// # Errors
    /// If it can't be written down, or a pin can't be set; or if too many wait.
    pub async fn take(self: &Arc<Self>, order: Order, pins: Vec<Pin>) -> io::Result<Arc<Job>> {
        let jobs = Arc::clone(self);
        // In a task of its own: one that is in the table and never said to be written would keep its place for good.
        let taken = tokio::spawn(async move { jobs.take_through(order, pins).await }).await;
        taken.unwrap_or_else(|error| Err(io::Error::other(error)))
    }

    async fn take_through(self: &Arc<Self>, order: Order, pins: Vec<Pin>) -> io::Result<Arc<Job>> {
        let sheet = self.sheet(&order).await?;
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
                    let mut job = Job::new(format!("{id:016x}"), order, created);
                    job.sheet = Some(sheet);
                    let job = Arc::new(job);
                    table.jobs.insert((created, number), Arc::clone(&job));
                    (job, true)
                }
            }
        };
        if !is_new {
            return match job.is_written().await {
                true => Ok(job),
                false => Err(io::Error::other("it can't be written down")),
            };
        }
        let saved = match (self.set_pins(&job, pins).await, self.shared.get()) {
            (Err(error), _) => Err(error),
            (Ok(()), Some(shared)) => {
                let created = self.create_shared(shared, &job).await;
                created.map_err(io::Error::other)
            }
            (Ok(()), None) => self.save(&job).await,
        };
        job.note_written(saved.is_ok());
        if let Err(error) = saved {
            job.cancel();
            job.decide(State::Cancelled);
            self.take_back(&job).await;
            job.tell();
            self.forget(&job);
            return Err(error);
        }
        self.watch_deadline(&job);
        self.next();
        Ok(job)
    }

    /// Memory for what a job is asked for. Jobs that are over are forgotten for it, the oldest first.
    async fn sheet(self: &Arc<Self>, order: &Order) -> io::Result<Sheet> {
        loop {
            if let Some(sheet) = self.crew.paper.sheet(order.bytes()).await {
                return Ok(sheet);
            }
            let oldest = {
                let table = self.table();
                let mut jobs = table.jobs.values();
                jobs.find(|job| job.state().is_over()).cloned()
            };
            let Some(oldest) = oldest else {
                return Err(io::Error::other(format!(
                    "what jobs are asked for takes all that they may have of memory, {}; come again once some are \
                     done, or ask for less at once",
                    shown(self.crew.paper.most())
                )));
            };
            self.forget(&oldest);
            self.unwrite(vec![oldest.id.clone()]).await;
        }
    }

    /// Ends a job whose deadline passes while it waits for its turn.
    fn watch_deadline(self: &Arc<Self>, job: &Arc<Job>) {
        if job.order.time().is_none() {
            return;
        }
        let (jobs, job) = (Arc::clone(self), Arc::clone(job));
        tokio::spawn(async move {
            let mut states = job.states();
            tokio::select! {
                biased;
                // The sender is the job's own, which we hold.
                _ = states.wait_for(|state| *state != State::Queued) => return,
                () = too_late(&job) => {}
            }
            {
                // Whoever gives it its turn holds the table too.
                let _table = jobs.table();
                if job.standing() != State::Queued {
                    return;
                }
                let reason = "its deadline passed before it had its turn";
                job.decide(State::Failed(reason.into()));
            }
            jobs.note(job);
        });
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
    ///
    /// # Errors
    /// If another member works on it and can't be told.
    pub async fn cancel(self: &Arc<Self>, job: &Arc<Job>) -> io::Result<()> {
        if let Some(shared) = self.shared.get().filter(|_| job.is_theirs()) {
            let told = self.cancel_shared(shared, job).await;
            told.map_err(io::Error::other)?;
        }
        job.cancel();
        // One that has not begun has nobody else to end it.
        self.next();
        let mut states = job.states();
        // The sender is the job's own, which we hold.
        let _ = states.wait_for(State::is_over).await;
        Ok(())
    }

    /// Begins what may begin: by priority, then by age.
    fn next(self: &Arc<Self>) {
        loop {
            let job = {
                let mut table = self.table();
                let queued = |job: &&Arc<Job>| job.standing() == State::Queued && !job.is_theirs();
                let gone: Vec<_> = table
                    .jobs
                    .values()
                    .filter(queued)
                    .filter(|job| job.is_cancelled())
                    .cloned()
                    .collect();
                gone.iter().for_each(|job| job.decide(State::Cancelled));
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
                if !*self.0.closed.borrow() && !self.1.is_theirs() {
                    let reason = "its task ended early: see the log";
                    self.1.go_on(State::Failed(reason.into()));
                }
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
            () = self.closing() => return,
            () = job.lost() => return,
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
        let outcomes = &self.crew.reads.metrics.warm_jobs;
        outcomes.with_label_values(&[state.name()]).inc();
        job.decide(state);
        if let Err(error) = self.save(&job).await {
            tracing::warn!(job = id, %error, "how a job ended can't be written down: a restart begins it again");
        }
        self.take_back(&job).await;
        job.tell();
        self.forget_the_oldest().await;
        drop(turn);
    }

    /// Returns once jobs go on no more.
    async fn closing(&self) {
        // The sender is ours, so the wait ends only with the word.
        let _ = self.closed().wait_for(|closed| *closed).await;
    }

    /// Writes the end of a job down, and tells it, where nobody waits for the disk.
    fn note(self: &Arc<Self>, job: Arc<Job>) {
        let jobs = Arc::clone(self);
        tokio::spawn(async move {
            if let Err(error) = jobs.save(&job).await {
                tracing::warn!(job = job.id, %error, "how a job ended can't be written down");
            }
            jobs.take_back(&job).await;
            job.tell();
            jobs.forget_the_oldest().await;
        });
    }

    async fn save(self: &Arc<Self>, job: &Arc<Job>) -> io::Result<()> {
        if let Some(shared) = self.shared.get() {
            let ended = self.end_shared(shared, job).await;
            return ended.map_err(io::Error::other);
        }
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
        self.unwrite(forgotten).await;
    }

    /// Puts a job into the table.
    fn insert(&self, job: Arc<Job>) {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        self.table().jobs.insert((job.created, number), job);
    }

    /// Takes a job out of the table.
    fn forget(&self, job: &Arc<Job>) {
        let jobs = &mut self.table().jobs;
        jobs.retain(|_, known| !Arc::ptr_eq(known, job));
    }

    /// Takes the documents of forgotten jobs away.
    async fn unwrite(self: &Arc<Self>, forgotten: Vec<String>) {
        if forgotten.is_empty() {
            return;
        }
        if let Some(shared) = self.shared.get() {
            return Self::remove_shared(shared, &forgotten).await;
        }
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

#[cfg(test)]
mod tests;
