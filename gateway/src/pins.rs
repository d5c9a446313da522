//! Pins: what is to stay whatever comes, for how long, and how many bytes that is.
//!
//! Every member knows all of them: one that is set is told to the others at once, and members ask each other once a
//! minute, so that who was away learns of it. What was set or taken away last holds. They are in the data directory,
//! so that a restart knows them before anything is evicted.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use chrono::DateTime;
use forebay_storage::origin::documents::{DocumentError, Documents, Tag};
use forebay_storage::residents;
use forebay_storage::store::Store;
use http::Method;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::keeping::{self, file};
use crate::peer::Peers;
use crate::settings::duration;

/// Where members are told of pins, and asked for theirs.
pub const PATH: &str = "/pins";

/// The document's name in the data directory.
const FILE: &str = "pins.json";

/// Pins that there may be.
pub const MOST: usize = 1000;

/// How often a write is tried that somebody else came before.
const TRIES: u32 = 5;

/// What was taken away is remembered for so long, so that no member that was away brings it back.
const REMEMBERED: Duration = Duration::from_secs(7 * 24 * 3600);

/// One pin, or one that was taken away.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    /// The dataset's name.
    pub dataset: String,
    /// What the keys begin with.
    pub prefix: String,
    /// Bytes that the origin had of it when it was pinned.
    pub bytes: u64,
    /// Until when, in milliseconds since 1970; `None`: until it is taken away.
    pub expires: Option<u64>,
    /// When it was set or taken away, in milliseconds since 1970.
    pub changed: u64,
    /// It was taken away.
    pub gone: bool,
}

impl Pin {
    /// Whether it holds at this time.
    pub fn holds(&self, now: u64) -> bool {
        !self.gone && self.expires.is_none_or(|expires| now < expires)
    }

    /// Whether it is of the same prefix as another one.
    pub fn is_in_place_of(&self, other: &Self) -> bool {
        (&self.dataset, &self.prefix) == (&other.dataset, &other.prefix)
    }

    /// Whether nobody need know of it any more.
    fn is_past(&self, now: u64) -> bool {
        let ended = match (self.gone, self.expires) {
            (true, _) => self.changed,
            (false, Some(expires)) => expires,
            (false, None) => return false,
        };
        now.saturating_sub(ended) > REMEMBERED.as_millis() as u64
    }
}

/// Why a pin was not set.
#[derive(Debug, thiserror::Error)]
pub enum NotSet {
    /// The state store did not take it.
    #[error("nothing changed: {0}")]
    Nowhere(DocumentError),
    /// It holds until a restart.
    #[error(
        "it holds, but can't be noted in the data directory ({0}), so a restart may forget it: ask again once its disk \
         works"
    )]
    NotForLong(io::Error),
}

/// Milliseconds since 1970.
pub fn now() -> u64 {
    keeping::millis(SystemTime::now())
}

/// Until when, in milliseconds since 1970: a time, or how long from `now`.
///
/// # Errors
/// A sentence.
pub fn expiry(text: &str, now: u64) -> Result<u64, String> {
    let wrong = || {
        format!(
            "expires is a time such as 2027-01-31T12:00:00Z, or how long, such as 24h, not {text:?}"
        )
    };
    // A plus sign that was not encoded came as a space.
    let time = DateTime::parse_from_rfc3339(text)
        .or_else(|_| DateTime::parse_from_rfc3339(&text.replace(' ', "+")));
    let expires = match time {
        Ok(time) => u64::try_from(time.timestamp_millis()).unwrap_or(0),
        Err(_) => {
            let time = duration::parse(text).map_err(|_| wrong())?;
            let time = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
            now.saturating_add(time)
        }
    };
    match expires > now {
        true => Ok(expires),
        false => Err(format!("expires is over already: {text}")),
    }
}

type Table = BTreeMap<(String, String), Pin>;

/// All pins that this gateway knows.
#[derive(Debug)]
pub struct Pins {
    store: Arc<Store>,
    table: Mutex<Table>,
    path: OnceLock<PathBuf>,
    documents: OnceLock<Arc<Documents>>,
    /// Held by whoever writes the document.
    writing: Mutex<()>,
    changed: Notify,
}

impl Pins {
    /// None yet, of what this store keeps.
    pub fn new(store: &Arc<Store>) -> Self {
        Self {
            store: Arc::clone(store),
            table: Mutex::default(),
            path: OnceLock::new(),
            documents: OnceLock::new(),
            writing: Mutex::default(),
            changed: Notify::new(),
        }
    }

    /// Keeps them in this data directory from now on, and takes over those that are there. Blocks on the disk.
    pub fn keep_in(&self, data_dir: &Path) {
        let path = data_dir.join(FILE);
        let read = std::fs::read(&path);
        let read = read.and_then(|text| Ok(serde_json::from_slice::<Vec<Pin>>(&text)?));
        match read {
            Ok(pins) => {
                self.merge_in(pins);
                self.apply();
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                let path = path.display();
                tracing::warn!(%path, %error, "the pins can't be read: nothing is pinned until other members tell");
            }
        }
        // The first directory told stays.
        let _ = self.path.set(path);
    }

    /// Keeps them in this state store too, which has the last word. The first one told stays.
    pub fn share(&self, documents: Arc<Documents>) {
        let _ = self.documents.set(documents);
    }

    /// Sets a pin, or takes it away, here and with all members that answer: as it is by then, and who did not answer.
    ///
    /// # Errors
    /// As [`Self::set`]; then no other member was told.
    pub async fn set_everywhere(
        self: &Arc<Self>,
        peers: Option<&Arc<Peers>>,
        pin: Pin,
    ) -> Result<(Pin, Vec<String>), NotSet> {
        let pin = self.set(pin).await?;
        let (dataset, prefix, gone) = (&pin.dataset, &pin.prefix, pin.gone);
        tracing::info!(dataset, prefix, bytes = pin.bytes, gone, "a pin changed");
        let Some(peers) = peers else {
            return Ok((pin, Vec::new()));
        };
        // Numbers and texts always serialise.
        let told = Bytes::from(serde_json::to_vec(&[&pin]).unwrap_or_default());
        let answers = peers.ask_others(&Method::POST, PATH, told).await;
        let absent = answers
            .into_iter()
            .filter_map(|(name, answer)| answer.is_err().then_some(name));
        Ok((pin, absent.collect()))
    }

    /// Sets a pin, or takes it away: in the state store first, if there is one. The pin as it is by then.
    ///
    /// # Errors
    /// If the state store does not take it, then nothing changed; or if it can't be written down here.
    pub async fn set(self: &Arc<Self>, mut pin: Pin) -> Result<Pin, NotSet> {
        let place = (pin.dataset.clone(), pin.prefix.clone());
        if let Some(known) = self.table().get(&place) {
            // Whoever changed it last may have had a clock that is ahead.
            pin.changed = pin.changed.max(known.changed.saturating_add(1));
        }
        if let Some(documents) = self.documents.get() {
            put(documents, &pin).await.map_err(NotSet::Nowhere)?;
        }
        let merged = self.merge(vec![pin.clone()]).await;
        merged.map_err(NotSet::NotForLong)?;
        Ok(pin)
    }

    /// Takes over what the state store has, if there is one.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn look(self: &Arc<Self>) -> Result<(), DocumentError> {
        let Some(documents) = self.documents.get() else {
            return Ok(());
        };
        let (pins, _) = read(documents).await?;
        if let Err(error) = self.merge(pins).await {
            tracing::warn!(%error, "pins can't be written down in the data directory");
        }
        Ok(())
    }

    /// Those that hold.
    pub fn all(&self) -> Vec<Pin> {
        let now = now();
        let table = self.table();
        table
            .values()
            .filter(|pin| pin.holds(now))
            .cloned()
            .collect()
    }

    /// Those that hold, and those that were taken away not long ago: what members tell each other.
    pub fn told(&self) -> Vec<Pin> {
        self.table().values().cloned().collect()
    }

    /// Takes over what is newer than what is known here, writes it down, and lets the store know.
    ///
    /// # Errors
    /// If it can't be written down; then it holds all the same, until a restart.
    pub async fn merge(self: &Arc<Self>, pins: Vec<Pin>) -> io::Result<()> {
        if !self.merge_in(pins) {
            return Ok(());
        }
        self.apply();
        self.changed.notify_one();
        let pins = Arc::clone(self);
        let saved = tokio::task::spawn_blocking(move || pins.save()).await;
        saved.unwrap_or_else(|error| Err(io::Error::other(error)))
    }

    /// Lets pins go when their time is over. Never returns.
    pub async fn keep(self: Arc<Self>) {
        loop {
            let changed = self.changed.notified();
            match self.next_end() {
                Some(time) => {
                    tokio::select! {
                        biased;
                        () = tokio::time::sleep(time) => self.apply(),
                        () = changed => {}
                    }
                }
                None => changed.await,
            }
        }
    }

    /// Time until one of them ends.
    fn next_end(&self) -> Option<Duration> {
        let now = now();
        let table = self.table();
        let holding = table.values().filter(|pin| pin.holds(now));
        let next = holding.filter_map(|pin| pin.expires).min()?;
        Some(Duration::from_millis(next.saturating_sub(now)))
    }

    /// True if anything is news.
    fn merge_in(&self, pins: Vec<Pin>) -> bool {
        let now = now();
        let mut table = self.table();
        let mut news = false;
        for pin in pins {
            let place = (pin.dataset.clone(), pin.prefix.clone());
            let known = table.get(&place);
            if known.is_some_and(|known| known.changed >= pin.changed) || pin.is_past(now) {
                continue;
            }
            if known.is_none() && table.len() >= 2 * MOST {
                tracing::warn!(
                    "there are too many pins: one that another member told is not taken over"
                );
                continue;
            }
            table.insert(place, pin);
            news = true;
        }
        table.retain(|_, pin| !pin.is_past(now));
        news
    }

    /// Lets the store know which hold by now.
    pub fn apply(&self) {
        let pins = self.all().into_iter();
        let pins = residents::Pins::new(pins.map(|pin| (pin.dataset, pin.prefix)));
        self.store.pin(&pins);
    }

    fn save(&self) -> io::Result<()> {
        let Some(path) = self.path.get() else {
            return Ok(());
        };
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        file::write(path, &serde_json::to_vec(&self.told())?)
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the state store has.
async fn read(documents: &Documents) -> Result<(Vec<Pin>, Option<Tag>), DocumentError> {
    let Some((bytes, tag)) = documents.get(FILE).await? else {
        return Ok((Vec::new(), None));
    };
    let pins = serde_json::from_slice(&bytes);
    let pins = pins.map_err(|_| {
        let why = format!(
            "has pins that can't be read: remove its document {FILE}, and members put down what they know with the next pin"
        );
        DocumentError::Away(why.into())
    })?;
    Ok((pins, Some(tag)))
}

async fn put(documents: &Documents, pin: &Pin) -> Result<(), DocumentError> {
    let now = now();
    for _ in 0..TRIES {
        let (mut pins, tag) = read(documents).await?;
        pins.retain(|known| {
            (&known.dataset, &known.prefix) != (&pin.dataset, &pin.prefix) && !known.is_past(now)
        });
        pins.push(pin.clone());
        // Numbers and texts always serialise.
        let bytes = serde_json::to_vec(&pins).unwrap_or_default().into();
        let put = match &tag {
            Some(tag) => documents.replace(FILE, bytes, tag).await,
            None => documents.create(FILE, bytes).await,
        };
        match put {
            Err(DocumentError::Changed) => {}
            put => return put.map(|_| ()),
        }
    }
    Err(DocumentError::Changed)
}

#[cfg(test)]
mod tests {
    use forebay_storage::block::BlockSize;

    use super::*;

    fn pin(prefix: &str, changed: u64, gone: bool) -> Pin {
        Pin {
            dataset: "models".to_owned(),
            prefix: prefix.to_owned(),
            bytes: 1,
            expires: None,
            changed,
            gone,
        }
    }

    #[tokio::test]
    async fn what_is_said_here_holds_though_another_clock_was_ahead() {
        let store = Store::new(64 << 20, BlockSize::new(1 << 20), None);
        let pins = Arc::new(Pins::new(&store));
        let ahead = now() + 3_600_000;
        assert!(pins.merge_in(vec![pin("a/", ahead, true)]));
        pins.set(pin("a/", now(), false)).await.expect("it is set");
        assert_eq!(pins.all(), [pin("a/", ahead + 1, false)]);
        pins.set(pin("a/", now(), true)).await.expect("it is set");
        assert!(pins.all().is_empty());
    }

    #[test]
    fn what_was_said_last_holds_whoever_tells_it_when() {
        let store = Store::new(64 << 20, BlockSize::new(1 << 20), None);
        let pins = Pins::new(&store);
        let now = now();
        assert!(pins.merge_in(vec![pin("a/", now, false), pin("b/", now, false)]));
        assert!(pins.merge_in(vec![pin("a/", now + 1, true)]));
        assert!(!pins.merge_in(vec![pin("a/", now, false)]));
        assert_eq!(pins.all(), [pin("b/", now, false)]);
        assert_eq!(pins.told().len(), 2);
        assert!(pins.merge_in(vec![pin("a/", now + 2, false)]));
        assert_eq!(pins.all().len(), 2);
        // One that was taken away long ago is news to nobody.
        assert!(!pins.merge_in(vec![pin("c/", 1, true)]));
    }

    #[test]
    fn an_end_is_a_time_or_how_long() {
        assert_eq!(expiry("1970-01-01T00:00:10Z", 5000), Ok(10_000));
        assert_eq!(expiry("1970-01-01T01:00:10 01:00", 5000), Ok(10_000));
        assert_eq!(expiry("10s", 5000), Ok(15_000));
        for (text, word) in [
            ("1970-01-01T00:00:10Z", "over already"),
            ("tomorrow", "24h"),
            ("0s", "over already"),
        ] {
            let refused = expiry(text, 20_000).err().unwrap_or_default();
            assert!(refused.contains(word), "{refused}");
        }
    }

    #[test]
    fn a_pin_holds_until_its_time_is_over() {
        let mut pin = pin("a/", 5, false);
        assert!(pin.holds(u64::MAX));
        pin.expires = Some(100);
        assert!(pin.holds(99) && !pin.holds(100));
        assert!(!pin.is_past(100));
        assert!(pin.is_past(u64::MAX));
    }
}
