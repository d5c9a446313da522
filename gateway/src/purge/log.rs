//! What was purged, as every member of a fleet writes it down, so that one that was away can be told.
//!
//! A member that was killed comes back with its disk, and with it what was purged meanwhile; so does one that stood
//! still or was cut off. Therefore each has a log of purges, and whoever lacks one of another's applies it. The log
//! has a *stamp*, the same on all members that know of the same purges: a member says it with each answer about
//! bytes, and who asked and knows of others than that settles both logs before anything of the answer counts
//! ([`crate::peer::agreement`]).
//!
//! [`MOST`] purges are remembered, however old. A log that had to let go of some says up to which; a member that has
//! not heard of that one was away for too long to know what it missed, and forgets all that it has.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use forebay_storage::origin::documents::{DocumentError, Documents};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::Wanted;
use crate::peer::agreement::Agreement;
use crate::pins::now;

/// The document's name in the data directory and in the state store.
const FILE: &str = "purges.json";

/// Purges that are remembered. With keys of 1 KiB, the longest, that is 5 MiB of JSON; with the keys that there are, a
/// tenth of it.
pub const MOST: usize = 4096;

/// How often a write is tried that somebody else came before.
const TRIES: u32 = 5;

/// When it was, and what tells it from others of that moment: the order of the log.
type Place = (u64, u64);

/// One purge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Purge {
    /// When, in milliseconds since 1970, by the clock of whoever began it, but after all that it knew of.
    pub at: u64,
    /// A number by chance, since two members may purge in one moment.
    pub id: u64,
    /// The dataset's name.
    pub dataset: String,
    /// An exact key, or what keys begin with if it ends in a slash or is empty.
    pub key: String,
    /// Only versions with this ETag, quotes and all.
    #[serde(default)]
    pub etag: Option<String>,
    /// Only this version, which is another than it is said to be: 32 hexadecimal digits.
    #[serde(default)]
    pub refuted: Option<String>,
}

impl Purge {
    /// What is to be let go.
    pub fn wanted(&self) -> Wanted {
        Wanted {
            etag: self.etag.clone(),
            refuted: self.refuted.clone(),
            ..Wanted::all(&self.dataset, &self.key)
        }
    }

    fn place(&self) -> Place {
        (self.at, self.id)
    }

    fn stamp(&self) -> u64 {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.at.to_be_bytes());
        bytes[8..].copy_from_slice(&self.id.to_be_bytes());
        xxh3_64(&bytes)
    }
}

/// A log as members tell it to each other, and as it is written down.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// The stamp of the whole log.
    #[serde(default)]
    pub stamp: u64,
    /// The last that the log had to let go of.
    #[serde(default)]
    pub gone: Option<(u64, u64)>,
    /// Purges of it: all, or those that are news.
    #[serde(default)]
    pub purges: Vec<Purge>,
    /// Whether other members were ever met: where none was, nobody can have purged anything meanwhile.
    #[serde(default)]
    pub met: bool,
    /// It is told while it is done: nobody missed it.
    #[serde(default)]
    pub begins: bool,
}

/// What a member has to do by what it was told.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct News {
    /// To forget everything: it can't know what it missed.
    pub all: bool,
    /// To purge these.
    pub purges: Vec<Purge>,
}

impl News {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        !self.all && self.purges.is_empty()
    }
}

/// The log itself.
#[derive(Debug, Default)]
struct Log {
    purges: BTreeMap<Place, Purge>,
    gone: Option<Place>,
    stamp: u64,
    met: bool,
}

impl Log {
    /// Takes over what is news. The outcome does not depend on who tells what in which order.
    fn merge(&mut self, told: Told) -> News {
        let too_long = told.gone > self.gone
            && told
                .gone
                .is_some_and(|gone| !self.purges.contains_key(&gone));
        let mut news = News {
            all: too_long && (self.met || !self.purges.is_empty()),
            purges: Vec::new(),
        };
        self.gone = self.gone.max(told.gone);
        for purge in told.purges {
            if let Entry::Vacant(free) = self.purges.entry(purge.place()) {
                // What is older than all that is remembered is applied too: better twice than never.
                news.purges.push(purge.clone());
                free.insert(purge);
            }
        }
        while self.purges.len() > MOST
            || self
                .purges
                .first_key_value()
                .is_some_and(|(place, _)| Some(*place) <= self.gone)
        {
            if let Some((place, _)) = self.purges.pop_first() {
                self.gone = self.gone.max(Some(place));
            }
        }
        self.stamp = self.purges.values().fold(0, |sum, one| sum ^ one.stamp());
        news
    }

    /// A purge of now, which comes after all that are known, whatever the clocks say.
    fn next(&self, wanted: &Wanted, id: u64) -> Purge {
        let newest = self.purges.last_key_value().map(|(place, _)| place.0);
        let after = newest.max(self.gone.map(|gone| gone.0));
        Purge {
            at: now().max(after.map_or(0, |at| at.saturating_add(1))),
            id,
            dataset: wanted.dataset.clone(),
            key: wanted.key.clone(),
            etag: wanted.etag.clone(),
            refuted: wanted.refuted.clone(),
        }
    }

    fn tell(&self, with_purges: bool) -> Told {
        let purges = with_purges.then(|| self.purges.values().cloned().collect());
        Told {
            stamp: self.stamp,
            gone: self.gone,
            purges: purges.unwrap_or_default(),
            met: self.met,
            begins: false,
        }
    }
}

/// The log of this gateway.
#[derive(Debug)]
pub struct PurgeLog {
    log: Mutex<Log>,
    path: OnceLock<PathBuf>,
    documents: OnceLock<Arc<Documents>>,
    /// Held while news are applied: what is applied is then what is known.
    pub turn: tokio::sync::Mutex<()>,
    agreement: Arc<Agreement>,
    /// Members that did not answer when they were told.
    owed: Mutex<BTreeSet<String>>,
    /// The state store lacks something.
    owed_store: AtomicBool,
    /// Where numbers by chance come from.
    seed: AtomicU64,
}

impl PurgeLog {
    /// An empty log, which tells `agreement` its stamp.
    pub fn new(agreement: Arc<Agreement>) -> Self {
        Self {
            log: Mutex::default(),
            path: OnceLock::new(),
            documents: OnceLock::new(),
            turn: tokio::sync::Mutex::default(),
            agreement,
            owed: Mutex::default(),
            owed_store: AtomicBool::new(false),
            seed: AtomicU64::new(RandomState::new().build_hasher().finish()),
        }
    }

    /// Keeps it in this data directory from now on, and takes over what is there. Blocks on the disk. True if other
    /// members were met before, so that some may have purged since what is cached here.
    pub fn keep_in(&self, data_dir: &Path) -> bool {
        let path = data_dir.join(FILE);
        let read = std::fs::read(&path);
        let read = read.and_then(|text| Ok(serde_json::from_slice::<Told>(&text)?));
        let met = match read {
            Ok(told) => {
                let mut log = self.log();
                log.merge(told.clone());
                log.met = told.met;
                told.met
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => {
                let path = path.display();
                tracing::warn!(%path, %error, "the log of purges can't be read: other members are asked for theirs");
                self.log().met = true;
                true
            }
        };
        // The first directory told stays.
        let _ = self.path.set(path);
        self.applied();
        met
    }

    /// Writes it into this state store too. The first one told stays.
    pub fn share(&self, documents: Arc<Documents>) {
        let _ = self.documents.set(documents);
    }

    /// Another number at each time, and at each start.
    pub fn chance(&self) -> u64 {
        let next = self.seed.fetch_add(1, Ordering::Relaxed);
        xxh3_64(&next.to_le_bytes())
    }

    /// A purge that is not in the log yet.
    pub fn begin(&self, wanted: &Wanted, id: u64) -> Purge {
        self.log().next(wanted, id)
    }

    /// Takes over what is news; from here on nothing counts that another member says without it.
    pub fn note(&self, told: Told) -> News {
        let mut log = self.log();
        let news = log.merge(told);
        self.agreement.note(log.stamp);
        news
    }

    /// All that was noted is applied by now: so answers from here on say.
    pub fn applied(&self) {
        let log = self.log();
        self.agreement.note(log.stamp);
        self.agreement.apply(log.stamp);
    }

    /// Notes that there are other members; true if that is news.
    pub fn meet(&self) -> bool {
        !std::mem::replace(&mut self.log().met, true)
    }

    /// The whole log, or if that is `known` already, only its stamp.
    pub fn told(&self, known: Option<u64>) -> Told {
        let log = self.log();
        log.tell(known != Some(log.stamp))
    }

    /// This purge, and the stamp of the log that it is in.
    pub fn tell_of(&self, purge: &Purge) -> Told {
        Told {
            purges: vec![purge.clone()],
            begins: true,
            ..self.log().tell(false)
        }
    }

    /// A member did not answer: it is to be told later.
    pub fn owe(&self, name: &str) {
        self.owing().insert(name.to_owned());
    }

    /// Members that are to be told.
    pub fn owed(&self) -> BTreeSet<String> {
        self.owing().clone()
    }

    /// This one was, or is gone.
    pub fn paid(&self, name: &str) {
        self.owing().remove(name);
    }

    /// The state store did not answer: it is to be told later.
    pub fn owe_store(&self) {
        self.owed_store.store(true, Ordering::Release);
    }

    /// Whether it is.
    pub fn owes_store(&self) -> bool {
        self.owed_store.load(Ordering::Acquire)
    }

    /// It was.
    pub fn paid_store(&self) {
        self.owed_store.store(false, Ordering::Release);
    }

    fn owing(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.owed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there is a data directory to write it to.
    pub fn is_kept(&self) -> bool {
        self.path.get().is_some()
    }

    /// Writes it to the data directory. Blocks on the disk.
    ///
    /// # Errors
    /// If the disk does not take it; then the file is as it was.
    pub fn save(&self) -> io::Result<()> {
        let Some(path) = self.path.get() else {
            return Ok(());
        };
        let told = self.log().tell(true);
        let part = path.with_extension("part");
        let mut file = std::fs::File::create(&part)?;
        file.write_all(&serde_json::to_vec(&told)?)?;
        file.sync_all()?;
        std::fs::rename(part, path)?;
        // The name is to survive a loss of power too.
        let directory = path.parent().unwrap_or(Path::new("."));
        std::fs::File::open(directory)?.sync_all()
    }

    /// Has the state store know all that is known here. What it had before comes back; `None`: there is no such store.
    ///
    /// # Errors
    /// If it does not answer or takes no writes.
    pub async fn store(&self) -> Result<Option<Told>, DocumentError> {
        let Some(documents) = self.documents.get() else {
            return Ok(None);
        };
        for _ in 0..TRIES {
            let stored = documents.get(FILE).await?;
            let (theirs, tag) = match stored {
                Some((bytes, tag)) => (read(&bytes)?, Some(tag)),
                None => (Told::default(), None),
            };
            let mut both = Log::default();
            both.merge(theirs.clone());
            both.merge(self.told(None));
            let both = both.tell(true);
            if (both.stamp, both.gone) == (theirs.stamp, theirs.gone) {
                return Ok(Some(theirs));
            }
            // Numbers and texts always serialise.
            let bytes = serde_json::to_vec(&both).unwrap_or_default().into();
            let put = match &tag {
                Some(tag) => documents.replace(FILE, bytes, tag).await,
                None => documents.create(FILE, bytes).await,
            };
            match put {
                Err(DocumentError::Changed) => {}
                put => return put.map(|_| Some(theirs)),
            }
        }
        Err(DocumentError::Changed)
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read(bytes: &[u8]) -> Result<Told, DocumentError> {
    let told = serde_json::from_slice(bytes);
    told.map_err(|_| DocumentError::Away("has a log of purges that can't be read".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn purge(at: u64) -> Purge {
        Purge {
            at,
            id: at % 7,
            dataset: "models".to_owned(),
            key: format!("{at}.bin"),
            etag: None,
            refuted: None,
        }
    }

    fn told(purges: impl IntoIterator<Item = u64>) -> Told {
        Told {
            purges: purges.into_iter().map(purge).collect(),
            ..Told::default()
        }
    }

    #[test]
    fn logs_of_the_same_purges_have_one_stamp_in_whatever_order_they_came() {
        let (mut one, mut other) = (Log::default(), Log::default());
        assert_eq!(one.merge(told([1, 2])).purges, [purge(1), purge(2)]);
        assert_eq!(one.merge(told([2, 3])).purges, [purge(3)]);
        other.merge(told([3]));
        assert_ne!(one.stamp, other.stamp);
        assert!(!other.merge(one.tell(true)).all);
        assert!(one.merge(other.tell(true)).is_empty());
        assert_eq!((one.stamp, one.gone), (other.stamp, other.gone));
        assert_ne!(one.stamp, 0);
    }

    #[test]
    fn a_purge_comes_after_all_that_are_known_though_the_clock_is_behind() {
        let mut log = Log::default();
        let ahead = now() + 3_600_000;
        log.merge(told([ahead]));
        let next = log.next(&Wanted::all("models", "a"), 5);
        assert_eq!((next.at, next.id), (ahead + 1, 5));
    }

    #[test]
    fn who_was_away_for_longer_than_is_remembered_forgets_everything() {
        let most = MOST as u64;
        let mut here = Log::default();
        let mut away = Log::default();
        for log in [&mut here, &mut away] {
            log.met = true;
            log.merge(told(1..=most));
        }
        // As many more as it has: all that were let go of are known to the one that was away.
        here.merge(told(most + 1..=2 * most));
        assert_eq!(here.gone, Some(purge(most).place()));
        let mut late = Log {
            met: true,
            ..Log::default()
        };
        late.merge(told(1..=most));
        let news = late.merge(here.tell(true));
        assert!(!news.all && news.purges.len() == MOST);
        assert_eq!(late.stamp, here.stamp);
        // One more, and it can't know what the first of them was.
        here.merge(told([2 * most + 1]));
        let news = away.merge(here.tell(true));
        assert!(news.all);
        assert_eq!((away.stamp, away.gone), (here.stamp, here.gone));
        assert!(away.merge(here.tell(true)).is_empty());
        // One that is new has nothing to forget.
        assert!(!Log::default().merge(here.tell(true)).all);
    }
}
