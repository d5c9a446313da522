//! Copying: objects of one dataset into another that is marked writable, each whole, of one version, and verified.
//!
//! | module | its part |
//! |---|---|
//! | [`order`] | what a copy is asked for, judged before anything is looked at |
//! | `plan` | what is there on both sides, side by side |
//! | `object` | one object: read as a client would, written, verified, and begun again if it changed |
//! | `uploads` | the uploads in parts that were begun, so that a copy goes on after a kill |
//! | [`progress`] | how far it is |
//!
//! Whoever begins a copy waits for it; nothing of it is kept but the uploads that it left half done. The same copy once
//! more passes over what is there already.

mod object;
pub mod order;
mod plan;
pub mod progress;
mod uploads;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use forebay_storage::error::OriginError;
use forebay_storage::origin::documents::Documents;
use http::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;

pub use self::order::{CopyOrder, Place};
pub use self::progress::Progress;

use self::object::Work;
use self::plan::Plan;
use self::uploads::Uploads;
use crate::dataset::{Dataset, Datasets};
use crate::listings::Listings;
use crate::read::Reads;

/// What members tell each other of what was written.
pub(crate) const CHANGED: &str = "/changed";

/// Of `memory`, what copies may hold of what they have read and not yet written: one part in so many.
const ROOM_PART: u64 = 8;

/// Room is counted in so many bytes.
const GRAIN: u64 = 4 << 10;

/// Objects of one copy that are looked at or under way at once.
const AT_ONCE: usize = 128;

/// What was written is told of each so many keys, and each so long.
const TOLD_KEYS: usize = 1000;
const TOLD_EACH: Duration = Duration::from_millis(250);

/// What all copies of a gateway work with.
#[derive(Debug)]
pub struct Copier {
    reads: Arc<Reads>,
    datasets: Arc<Datasets>,
    listings: Arc<Listings>,
    uploads: Uploads,
    /// Memory for what was read and is not yet written.
    room: Arc<Semaphore>,
    grains: u32,
    /// Where copies that run write to: two to one place would undo each other's work.
    running: Mutex<BTreeSet<Place>>,
}

/// What came of a copy.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CopySummary {
    /// Objects that were copied, and their bytes. Of a dry run: that would be.
    pub objects: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Objects that were there already, and their bytes.
    pub objects_there: u64,
    /// Bytes of them.
    pub bytes_there: u64,
    /// Bytes that were read of their source: less than `bytes` where a copy that was killed had parts up already.
    pub bytes_read: u64,
    /// How long it took.
    pub seconds: f64,
}

/// Why a copy did not end well.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CopyError {
    /// What was asked for can't be, whatever time it is.
    #[error("{0}")]
    Refused(String),
    /// A copy to the same place runs.
    #[error("a copy to {0} runs already: wait for its end")]
    Busy(Place),
    /// One object could not be copied; those before it are.
    #[error("{key} can't be copied: {why}; the same copy again goes on with what is not there yet")]
    Object {
        /// Its key at the source.
        key: String,
        /// Why.
        why: String,
    },
    /// What there is can't be listed.
    #[error("{0}")]
    List(String),
    /// It was cancelled.
    #[error("it was cancelled")]
    Cancelled,
}

/// A copy that was judged and not begun.
#[derive(Debug)]
pub struct Copy {
    copier: Arc<Copier>,
    order: CopyOrder,
    from: Arc<Dataset>,
    to: Arc<Dataset>,
    progress: Arc<Progress>,
}

/// The place that a copy has among those that run, until this is dropped.
struct Running<'a>(&'a Copier, Place);

impl Copier {
    /// That of a gateway.
    pub fn new(reads: Arc<Reads>, datasets: Arc<Datasets>, listings: Arc<Listings>) -> Arc<Self> {
        let grains = (reads.store.budget().limit() / ROOM_PART / GRAIN).max(1);
        let grains = u32::try_from(grains).unwrap_or(u32::MAX);
        Arc::new(Self {
            reads,
            datasets,
            listings,
            uploads: Uploads::default(),
            room: Arc::new(Semaphore::new(grains as usize)),
            grains,
            running: Mutex::default(),
        })
    }

    /// Keeps what a copy that is killed leaves half done in this data directory. The first one told stays.
    pub fn keep_in(&self, data_dir: &Path) {
        self.uploads.keep_in(data_dir);
    }

    /// Keeps it in this state store, which has the last word. The first one told stays.
    pub fn share(&self, documents: Arc<Documents>) {
        self.uploads.share(documents);
    }

    /// The most bytes that one piece may have, for lack of memory.
    fn most(&self) -> u64 {
        u64::from(self.grains) * GRAIN
    }

    /// Forgets what is known of objects that were written, or may have been, here and at all members that answer.
    pub(crate) async fn changed(&self, dataset: &str, keys: Vec<String>) {
        if keys.is_empty() {
            return;
        }
        let changed = Changed {
            dataset: dataset.to_owned(),
            keys,
        };
        // Before, so that nobody learns from here what was; and after, for the same was learnt of others meanwhile.
        self.forget(&changed);
        if let Some(peers) = &self.reads.peers {
            // Texts always serialise.
            let body = serde_json::to_vec(&changed).unwrap_or_default();
            for (member, told) in peers
                .ask_others(&Method::POST, CHANGED, Bytes::from(body))
                .await
            {
                if let Err(error) = told {
                    tracing::info!(member, %error, "a member was not told of objects that changed: it finds out within fresh_for");
                }
            }
        }
        self.forget(&changed);
    }

    /// What another member says that it wrote.
    pub(crate) fn told(&self, body: &[u8]) -> Option<Value> {
        let changed: Changed = serde_json::from_slice(body).ok()?;
        self.forget(&changed);
        Some(json!({ "keys": changed.keys.len() }))
    }

    fn forget(&self, changed: &Changed) {
        let keys = changed.keys.iter().map(String::as_str);
        self.reads.versions.forget_keys(&changed.dataset, keys);
        self.listings.forget(&changed.dataset);
    }

    fn running(&self) -> MutexGuard<'_, BTreeSet<Place>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, place: &Place) -> Result<Running<'_>, CopyError> {
        let mut running = self.running();
        let other = running.iter().find(|other| other.overlaps(place));
        if let Some(other) = other {
            return Err(CopyError::Busy(other.clone()));
        }
        running.insert(place.clone());
        Ok(Running(self, place.clone()))
    }
}

/// Keys of a dataset that were written.
#[derive(Serialize, Deserialize)]
struct Changed {
    dataset: String,
    keys: Vec<String>,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running().remove(&self.1);
    }
}

impl Copy {
    /// Judges an order. Nothing is asked of any origin yet.
    ///
    /// # Errors
    /// [`CopyError::Refused`], with the sentence that says why.
    pub fn new(copier: &Arc<Copier>, order: CopyOrder) -> Result<Self, CopyError> {
        let (from, to) = order.judge(&copier.datasets)?;
        Ok(Self {
            copier: Arc::clone(copier),
            order,
            from,
            to,
            progress: Arc::default(),
        })
    }

    /// How far it is, at any time.
    pub fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.progress)
    }

    /// Copies, until all is there, something can't be copied, or `cancel` is ready. Uploads that were begun and not
    /// completed are given up then. Dropping the future leaves those to the next copy of the same.
    ///
    /// # Errors
    /// Why it did not end well.
    pub async fn run(self, cancel: impl Future<Output = ()>) -> Result<CopySummary, CopyError> {
        let began = Instant::now();
        let _running = self.copier.enter(&self.order.to)?;
        let work = Work::new(
            &self.copier,
            &self.order,
            (&self.from, &self.to),
            &self.progress,
        )?;
        let work = Arc::new(work);
        let copied = {
            let mut cancel = std::pin::pin!(cancel);
            tokio::select! {
                biased;
                () = &mut cancel => Err(CopyError::Cancelled),
                copied = self.copy(&work) => copied,
            }
        };
        if copied.is_err() {
            work.give_up().await;
        }
        // Whatever the end is, what was written is.
        work.tell().await;
        let outcome = match &copied {
            Ok(()) => "done",
            Err(CopyError::Cancelled) => "cancelled",
            Err(_) => "failed",
        };
        let counted = &self.copier.reads.metrics.copies;
        counted.with_label_values(&[outcome]).inc();
        copied.map(|()| self.progress.summary(began.elapsed()))
    }

    async fn copy(&self, work: &Arc<Work>) -> Result<(), CopyError> {
        let plan = Plan::new(&self.order, &self.from, &self.to);
        let (sender, mut items) = mpsc::channel(AT_ONCE);
        let (mut lists, mut tasks) = (JoinSet::new(), JoinSet::new());
        lists.spawn(plan.list(Arc::clone(&self.copier.reads), sender));
        let mut each = tokio::time::interval(TOLD_EACH);
        let lost = || Err(CopyError::List("its task ended early: see the log".into()));
        let mut over = false;
        while !(over && tasks.is_empty()) {
            tokio::select! {
                biased;
                Some(copied) = tasks.join_next() => {
                    copied.unwrap_or_else(|_| lost())?;
                    if work.untold() >= TOLD_KEYS {
                        work.tell().await;
                    }
                }
                _ = each.tick() => work.tell().await,
                item = items.recv(), if !over && tasks.len() < AT_ONCE => {
                    let Some(item) = item else {
                        over = true;
                        continue;
                    };
                    self.progress.listed(item.size);
                    let work = Arc::clone(work);
                    tasks.spawn(async move { work.copy(item).await });
                }
            }
        }
        let listed = lists.join_next().await;
        let listed = listed.map(|listed| listed.unwrap_or_else(|_| lost().map(|()| false)));
        listed.transpose()?;
        if self.progress.is_empty() {
            return Err(CopyError::Refused(format!(
                "the origin has nothing that is asked for below {}",
                self.order.from
            )));
        }
        self.progress.all_listed();
        Ok(())
    }
}

impl CopyError {
    /// Whether the same order would end the same way.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Refused(_) | Self::Cancelled)
    }

    fn of_listing(dataset: &Dataset, error: &OriginError) -> Self {
        Self::List(format!(
            "the dataset {} can't be listed: {error}",
            dataset.name
        ))
    }
}
