//! Revisions: a dataset that has one serves exactly the keys and versions of its manifest, until it is switched to
//! another, for the whole fleet in one call.
//!
//! | module | its part |
//! |---|---|
//! | [`manifest`] | keys with their versions, and what is wrong with a manifest |
//! | [`standing`] | what a dataset has, what it had, and how that is written down |
//! | `switching` | one revision in the place of another: told to all, written once, told again |
//!
//! The document in the state store is the truth; a switch is one conditional write of it. What a member knows of it
//! holds for [`HOLD`] after it was asked for: whoever has not heard for longer asks before it answers, the store or, if
//! that is away, every other member. So a member that a switch does not reach serves nothing of the old revision once
//! the switch is acknowledged: that waits [`HOLD`] for whoever did not answer. A gateway alone keeps the document in
//! its data directory, and there is nobody to ask.

pub mod manifest;
pub mod standing;
mod switching;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use forebay_storage::origin::documents::{DocumentError, Documents, Tag};
use http::Method;
use serde_json::{Value, json};
use tokio::time::Instant;

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

/// What members ask each other begins with it.
pub(crate) const PATH: &str = "/revision/";

/// What is known of all datasets' revisions.
#[derive(Debug)]
pub struct Revisions {
    reads: Arc<Reads>,
    documents: OnceLock<Arc<Documents>>,
    directory: OnceLock<PathBuf>,
    table: ArcSwap<BTreeMap<String, Arc<Standing>>>,
    /// What another member is about to switch to.
    prepared: Mutex<BTreeMap<String, Standing>>,
    /// When the store, or all others, were last asked whether what is known holds: of all datasets, and of one.
    confirmed: Mutex<Confirmed>,
    /// The documents as they were read; whoever reads them holds it.
    seen: tokio::sync::Mutex<BTreeMap<String, Tag>>,
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
            directory: OnceLock::new(),
            table: ArcSwap::default(),
            prepared: Mutex::default(),
            confirmed: Mutex::default(),
            seen: tokio::sync::Mutex::default(),
            switching: tokio::sync::Mutex::default(),
        })
    }

    /// Keeps what is known in this data directory, and learns what is there. Blocks on the disk.
    pub fn keep_in(&self, data_dir: &Path) {
        let directory = data_dir.join(PLACE);
        for entry in std::fs::read_dir(&directory).into_iter().flatten() {
            let Ok(entry) = entry else { continue };
            let name = entry.file_name().to_string_lossy().into_owned();
            let Some(dataset) = name.strip_suffix(".json") else {
                continue;
            };
            let text = std::fs::read(entry.path()).unwrap_or_default();
            match Standing::parse(&text) {
                Some(standing) => self.install(dataset, &standing),
                None => {
                    tracing::warn!(
                        dataset,
                        "the dataset's revision can't be read in the data directory: switch to it again"
                    );
                }
            }
        }
        // The first directory told stays.
        let _ = self.directory.set(directory);
    }

    /// Takes this state store for the truth. The first one told stays.
    pub fn share(&self, documents: Arc<Documents>) {
        let _ = self.documents.set(documents);
    }

    /// Asks the state store before the first read: a dataset may have got a revision while this gateway was away.
    pub async fn begin(&self) {
        if let Err(error) = self.look().await {
            tracing::info!(%error, "datasets that are known to have a revision are not served before it is confirmed");
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

    /// Whether a dataset has, or had, a revision.
    pub fn concerns(&self, dataset: &str) -> bool {
        let table = self.table.load();
        !table.is_empty() && table.contains_key(dataset)
    }

    /// What a dataset has, as far as it is known here.
    pub fn standing(&self, dataset: &str) -> Option<Arc<Standing>> {
        self.table.load().get(dataset).cloned()
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

    async fn confirm(&self, dataset: &str) -> Result<(), NotNow> {
        if self.is_confirmed(dataset) {
            return Ok(());
        }
        if self.look().await.is_ok() || self.is_confirmed(dataset) || self.agreed(dataset).await {
            return Ok(());
        }
        Err(NotNow::Unconfirmed)
    }

    fn is_confirmed(&self, dataset: &str) -> bool {
        if self.documents.get().is_none() {
            return true;
        }
        let confirmed = self.confirmed();
        let last = confirmed.all.max(confirmed.one.get(dataset).copied());
        last.is_some_and(|last| last.elapsed() < HOLD)
    }

    /// Whether all other members that the fleet knows of have the same; whoever switches is one of them.
    async fn agreed(&self, dataset: &str) -> bool {
        let Some(peers) = &self.reads.peers else {
            return false;
        };
        let began = Instant::now();
        let number = self.standing(dataset).map_or(0, |standing| standing.number);
        let others = peers.fleet().peers.len().saturating_sub(1);
        let path = format!("{PATH}number/{dataset}");
        let told = peers.ask_others(&Method::GET, &path, Bytes::new()).await;
        let same = |answer: &Value| answer["number"].as_u64() == Some(number);
        let agree = told
            .iter()
            .filter(|(_, told)| told.as_ref().is_ok_and(same));
        let agreed = others > 0 && agree.count() == others;
        if agreed {
            self.confirmed().one.insert(dataset.to_owned(), began);
        }
        agreed
    }

    /// Takes over what the state store has, if there is one.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn look(&self) -> Result<(), DocumentError> {
        let Some(documents) = self.documents.get() else {
            return Ok(());
        };
        let mut seen = self.seen.lock().await;
        let began = Instant::now();
        for (name, tag) in documents.list(PLACE).await? {
            let dataset = name
                .strip_prefix("revisions/")
                .and_then(|name| name.strip_suffix(".json"));
            let Some(dataset) = dataset else { continue };
            if seen.get(dataset).is_some_and(|seen| seen.is(&tag)) {
                continue;
            }
            let Some((text, tag)) = documents.get(&name).await? else {
                continue;
            };
            let standing = Standing::parse(&text)
                .ok_or_else(|| DocumentError::Away("has a revision that can't be read".into()))?;
            self.install(dataset, &standing);
            seen.insert(dataset.to_owned(), tag);
        }
        drop(seen);
        self.confirmed().all = Some(began);
        Ok(())
    }

    /// Serves by this standing from now on, unless a later one is known.
    fn install(&self, dataset: &str, standing: &Standing) {
        let mut news = None;
        self.table.rcu(|table| {
            let known = table.get(dataset);
            if known.is_some_and(|known| known.number >= standing.number) {
                news = None;
                return Arc::clone(table);
            }
            if let Some(known) = known {
                standing.learn(known);
            }
            let new = Arc::new(standing.clone());
            news = Some(Arc::clone(&new));
            let mut table = BTreeMap::clone(table);
            table.insert(dataset.to_owned(), new);
            Arc::new(table)
        });
        if let Some(standing) = news {
            let revision = standing
                .current
                .as_ref()
                .map(|revision| revision.id.as_str());
            tracing::info!(
                dataset,
                revision,
                number = standing.number,
                "the dataset's revision"
            );
            if let (Some(directory), Some(_)) = (self.directory.get(), self.documents.get()) {
                // For the next start, which asks the store too: nothing waits for it.
                let (directory, dataset) = (directory.clone(), dataset.to_owned());
                if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                    runtime.spawn_blocking(move || {
                        if let Err(error) = write(&directory, &dataset, &standing.text()) {
                            tracing::warn!(%error, "a revision can't be written down in the data directory");
                        }
                    });
                }
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
                let standing = Standing::parse(body)?;
                self.prepared().insert(dataset.to_owned(), standing);
            }
            (&Method::POST, "commit") => {
                let number: u64 = rest.split('/').nth(1)?.parse().ok()?;
                let prepared = self.prepared().remove(dataset);
                match prepared.filter(|prepared| prepared.number == number) {
                    Some(prepared) => self.install(dataset, &prepared),
                    // It was not told in time; what it knows afterwards is what it answers with.
                    None => {
                        let _ = self.look().await;
                    }
                }
            }
            _ => return None,
        }
        let standing = self.standing(dataset);
        Some(json!({
            "number": standing.as_ref().map_or(0, |standing| standing.number),
            "id": standing.and_then(|standing| Some(standing.current.as_ref()?.id.clone())),
        }))
    }

    fn confirmed(&self) -> MutexGuard<'_, Confirmed> {
        self.confirmed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn prepared(&self) -> MutexGuard<'_, BTreeMap<String, Standing>> {
        self.prepared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Blocks on the disk.
fn write(directory: &Path, dataset: &str, text: &[u8]) -> std::io::Result<()> {
    std::fs::create_dir_all(directory)?;
    let path = directory.join(format!("{dataset}.json"));
    let part = path.with_extension("part");
    let mut file = std::fs::File::create(&part)?;
    file.write_all(text)?;
    file.sync_all()?;
    std::fs::rename(part, path)?;
    // The name is to survive a loss of power too.
    std::fs::File::open(directory)?.sync_all()
}
