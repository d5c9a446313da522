//! Revisions: a dataset that has one serves exactly the keys and versions of its manifest, until it is switched to
//! another, for the whole fleet in one call.
//!
//! | module | its part |
//! |---|---|
//! | [`manifest`] | keys with their versions, and what is wrong with a manifest |
//! | [`standing`] | what a dataset has, what it had, and how that is written down |
//! | `known`, `disk` | what is known here, and the files of it in the data directory |
//! | `confirm` | whether that still holds: asked of the state store and of all other members |
//! | `switching` | one revision in the place of another: told to all, written once, told again |
//!
//! The document in the state store is the truth; a switch is one conditional write of it. What a member knows of it
//! holds for [`HOLD`] after it was asked for: whoever has not heard for longer asks before it answers, the store or, if
//! that is away, every other member. So a member that a switch does not reach serves nothing of the old revision once
//! the switch is acknowledged: that waits [`HOLD`] for whoever did not answer. A gateway alone keeps the document in
//! its data directory, and there is nobody to ask. What can't be read is no reason to serve what the origin has: such a
//! dataset is not answered until it is switched.

mod confirm;
mod disk;
mod known;
pub mod manifest;
pub mod standing;
mod switching;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use forebay_storage::origin::documents::Documents;
use http::Method;
use serde_json::{Value, json};
use tokio::time::Instant;

use self::confirm::{Looking, Turn};
use self::disk::Disk;
use self::known::{Known, Table};
pub use self::manifest::{Pinned, Revision};
pub use self::standing::Standing;
pub use self::switching::NotSwitched;

use crate::read::Reads;

/// How long a member serves what it knows without asking whether it still holds. Longer than what a store takes to
/// answer now and then; a switch waits so long for a member that it can't reach.
pub const HOLD: Duration = Duration::from_secs(10);

/// How often it asks by itself.
const LOOK: Duration = Duration::from_secs(2);

/// Where documents are, below the state store's address.
const PLACE: &str = "revisions";

/// No document is longer: it takes some hundred thousand keys.
pub(crate) const LONGEST: usize = 16 << 20;

/// What members tell each other: two revisions, and what each of their keys takes more than in a terse manifest.
pub(crate) const LONGEST_TOLD: usize = 4 * LONGEST;

/// What members ask each other begins with it.
pub(crate) const PATH: &str = "/revision/";

/// What is known of all datasets' revisions.
#[derive(Debug)]
pub struct Revisions {
    reads: Arc<Reads>,
    documents: OnceLock<Arc<Documents>>,
    disk: OnceLock<Arc<Disk>>,
    table: Table,
    /// Whether a fleet's state store was not asked yet: any dataset may have a revision.
    unasked: AtomicBool,
    /// When the store, or all others, were last asked whether what is known holds: of all datasets, and of one.
    confirmed: Mutex<Confirmed>,
    turns: Mutex<BTreeMap<String, Arc<Turn>>>,
    looking: tokio::sync::Mutex<Looking>,
    /// One switch at a time goes out from here.
    switching: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Confirmed {
    all: Option<Instant>,
    one: BTreeMap<String, Instant>,
}

/// Why a read can't be answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotNow {
    /// Nobody can say whether the revision still is the dataset's.
    #[error(
        "neither the state store nor all other members say that the dataset's revision still is what this gateway knows"
    )]
    Unconfirmed,
    /// What it has can't be read.
    #[error("{0}: switch it to a revision, or take that off")]
    Unread(Arc<str>),
    /// The reader named one that is neither the current nor the one before.
    #[error("the dataset's revision is neither that one nor was it before this one")]
    Unknown,
}

impl Revisions {
    /// None are known yet.
    pub fn new(reads: &Arc<Reads>) -> Arc<Self> {
        Arc::new(Self {
            reads: Arc::clone(reads),
            documents: OnceLock::new(),
            disk: OnceLock::new(),
            table: Table::default(),
            unasked: AtomicBool::new(false),
            confirmed: Mutex::default(),
            turns: Mutex::default(),
            looking: tokio::sync::Mutex::default(),
            switching: tokio::sync::Mutex::default(),
        })
    }

    /// Keeps what is known in this data directory, and learns what is there. Blocks on the disk.
    pub fn keep_in(&self, data_dir: &Path) {
        let disk = Disk::new(data_dir);
        for (dataset, standing) in disk.read() {
            match standing {
                Ok(standing) => self.learn(&dataset, &Arc::new(standing)),
                Err(why) if self.documents.get().is_some() => {
                    tracing::warn!(dataset, "{why}: what the state store says holds");
                }
                Err(why) => {
                    tracing::warn!(
                        dataset,
                        "{why}: the dataset is answered 503 until it is switched to a revision, or that is taken off"
                    );
                    self.table.doubt(&dataset, &why);
                }
            }
        }
        // The first directory told stays.
        let _ = self.disk.set(Arc::new(disk));
    }

    /// Takes this state store for the truth. The first one told stays.
    pub fn share(&self, documents: Arc<Documents>) {
        if self.documents.set(documents).is_ok() {
            // Nobody but itself switches the datasets of a gateway that is in no fleet.
            let unasked = self.reads.peers.is_some();
            self.unasked.store(unasked, Ordering::Release);
        }
    }

    /// Asks the state store before the first read: a dataset may have got a revision while this gateway was away.
    pub async fn begin(&self) {
        if let Err(error) = self.look().await {
            tracing::info!(%error, "datasets are not served before the state store, or all other members, say which revision they have");
        }
    }

    /// Asks the state store now and then. Never returns where there is one.
    pub async fn keep(self: Arc<Self>) {
        if self.documents.get().is_none() {
            return;
        }
        let mut each = tokio::time::interval(LOOK);
        loop {
            each.tick().await;
            if let Err(error) = self.look().await {
                tracing::debug!(%error, "whether revisions changed is not known anew");
            }
        }
    }

    /// Whether a dataset has, or had, a revision, or may have got one.
    pub fn concerns(&self, dataset: &str) -> bool {
        self.table.has(dataset) || self.unasked.load(Ordering::Acquire)
    }

    /// What a dataset has, as far as it is known here.
    pub fn standing(&self, dataset: &str) -> Option<Arc<Standing>> {
        self.table.get(dataset).map(|known| known.standing)
    }

    /// The sentence that says why it can't be read what a dataset has; `None`: it can.
    pub fn unread(&self, dataset: &str) -> Option<Arc<str>> {
        self.table.unread(dataset)
    }

    /// The revision to read, once it is sure that it holds: the one that the reader names, else the current one. `None`:
    /// the dataset has none.
    ///
    /// # Errors
    /// [`NotNow`].
    pub async fn of(
        &self,
        dataset: &str,
        named: Option<&str>,
    ) -> Result<Option<Arc<Revision>>, NotNow> {
        if self.concerns(dataset) {
            self.confirm(dataset).await?;
        }
        let Some(id) = named else {
            return Ok(self
                .standing(dataset)
                .and_then(|standing| standing.current.clone()));
        };
        let find = || Some(Arc::clone(self.standing(dataset)?.named(id)?));
        if let Some(revision) = find() {
            return Ok(Some(revision));
        }
        // Another member may have answered with it a moment ago.
        if self.look().await.is_err() && self.documents.get().is_some() {
            return Err(NotNow::Unconfirmed);
        }
        find().map(Some).ok_or(NotNow::Unknown)
    }

    /// Serves by this standing from now on, unless a later one is known.
    fn learn(&self, dataset: &str, standing: &Arc<Standing>) {
        self.install(dataset, standing, |known| {
            known.standing.number < standing.number
        });
    }

    /// Serves by this standing from now on, if it `wins` over what is known.
    fn install(&self, dataset: &str, standing: &Arc<Standing>, wins: impl Fn(&Known) -> bool) {
        if !self.table.install(dataset, standing, wins) {
            return;
        }
        tracing::info!(
            dataset,
            revision = standing.id(),
            number = standing.number,
            "the dataset's revision"
        );
        if let (Some(disk), Some(_)) = (self.disk.get(), self.documents.get()) {
            // For the next start, which asks the store too: nothing waits for it.
            let (disk, table, dataset) = (Arc::clone(disk), self.table.clone(), dataset.to_owned());
            if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                runtime.spawn_blocking(move || {
                    let text = || table.get(&dataset).unwrap_or_default().standing.text();
                    if let Err(error) = disk.write(&dataset, text) {
                        tracing::warn!(%error, "a revision can't be written down in the data directory");
                    }
                });
            }
        }
    }

    /// Answers what another member asks or tells.
    pub(crate) async fn answer(&self, method: &Method, path: &str, body: &[u8]) -> Option<Value> {
        let (verb, rest) = path.strip_prefix(PATH)?.split_once('/')?;
        let dataset = rest.split('/').next()?;
        match (method, verb) {
            (&Method::GET, "number") => {}
            (&Method::POST, "prepare") => {
                let standing = Standing::parse(body).ok()?;
                self.table.prepare(dataset, standing);
            }
            (&Method::POST, "commit") => {
                let number: u64 = rest.split('/').nth(1)?.parse().ok()?;
                match self.table.prepared(dataset, number) {
                    Some(prepared) => self.learn(dataset, &prepared),
                    // It was not told in time; what it knows afterwards is what it answers with.
                    None => {
                        let _ = self.look().await;
                    }
                }
            }
            _ => return None,
        }
        let standing = self.standing(dataset).unwrap_or_default();
        Some(json!({ "number": standing.number, "id": standing.id() }))
    }

    fn confirmed(&self) -> MutexGuard<'_, Confirmed> {
        self.confirmed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
