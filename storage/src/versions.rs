//! Which version of an object is current: asked of the origin once for all who want to know.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::error::OriginError;
use crate::flight::Follower;
use crate::object::ObjectId;
use crate::version::Version;

/// Objects remembered at most; at about 1 KiB each that is 32 MiB.
const REMEMBERED: usize = 32 * 1024;

/// How long a 404 or 403 is believed.
const ABSENT_FOR: Duration = Duration::from_secs(1);

/// How long after the origin was found to be away it is not asked again while we know a version.
const OUTAGE_FOR: Duration = Duration::from_secs(1);

/// How long answers about versions hold in a dataset.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Freshness {
    /// A version is taken as current for so long after it was asked for.
    pub fresh_for: Duration,
    /// No object ever changes: a version once known is current for good.
    pub immutable: bool,
    /// While the origin is away, known versions go on being served for so long.
    pub stale_for: Duration,
}

/// What is known of an object without asking.
#[derive(Clone, Debug)]
pub enum Known {
    /// The current version, as far as the dataset's bound goes.
    Fresh(Arc<Version>),
    /// The version that was current when it was last asked for, `age` ago: ask again.
    Due {
        /// That version.
        version: Arc<Version>,
        /// Time since the origin was asked.
        age: Duration,
        /// The origin was found to be away within the last second, and `stale_for` allows this
        /// version: serve it.
        stale: bool,
    },
    /// It was not there, or not for us, a moment ago.
    Absent(OriginError),
    /// Nothing.
    Unknown,
}

/// The answer to a look-up.
#[derive(Clone, Debug)]
pub struct Found {
    /// The current version.
    pub version: Arc<Version>,
    /// When the origin was asked.
    pub asked_at: Instant,
    /// Fills that the look-up's own answer feeds. Who holds this keeps them from being given up
    /// before they are joined.
    pub fills: Option<Arc<Vec<Follower>>>,
}

type Answer = Result<Found, OriginError>;

/// The table of known versions.
#[derive(Debug, Default)]
pub struct Versions {
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    known: HashMap<ObjectId, Entry>,
    /// Objects in the order they were first known: the longest known are forgotten first.
    order: VecDeque<ObjectId>,
    asking: HashMap<ObjectId, watch::Receiver<Option<Answer>>>,
    outages: HashMap<Arc<str>, Instant>,
}

#[derive(Debug)]
struct Entry {
    state: Result<Arc<Version>, OriginError>,
    asked_at: Instant,
    /// Somebody saw another version since: ask again, however young this is.
    doubted: bool,
}

impl Versions {
    /// What is known of `object` now.
    pub fn known(&self, object: &ObjectId, rules: &Freshness) -> Known {
        let table = self.lock();
        let Some(entry) = table.known.get(object) else {
            return Known::Unknown;
        };
        let age = entry.asked_at.elapsed();
        match &entry.state {
            // A version that the client named by its id never changes.
            Ok(version)
                if !entry.doubted
                    && (rules.immutable
                        || object.version_id.is_some()
                        || age < rules.fresh_for) =>
            {
                Known::Fresh(Arc::clone(version))
            }
            Ok(version) => {
                let away = table.outages.get(&object.dataset);
                let away = away.is_some_and(|at| at.elapsed() < OUTAGE_FOR);
                Known::Due {
                    version: Arc::clone(version),
                    age,
                    stale: away && age < rules.fresh_for + rules.stale_for,
                }
            }
            Err(error) if age < ABSENT_FOR => Known::Absent(error.clone()),
            Err(_) => Known::Unknown,
        }
    }

    /// Asks by `ask`, or waits for the answer that somebody asks for already.
    ///
    /// `ask` runs in a task of its own: an asker who leaves takes no answer from the others.
    ///
    /// # Errors
    /// What the origin answered, or [`OriginError::Abandoned`] if `ask` panicked.
    pub async fn look_up<F>(
        self: &Arc<Self>,
        object: &ObjectId,
        ask: impl FnOnce() -> F,
    ) -> Result<Found, OriginError>
    where
        F: Future<Output = Answer> + Send + 'static,
    {
        let mut answer = {
            let mut table = self.lock();
            // A sender that is gone without an answer panicked: its place is free.
            let asking = table.asking.get(object).cloned();
            match asking.filter(|answer| answer.has_changed().is_ok()) {
                Some(answer) => answer,
                None => self.start(&mut table, object, ask()),
            }
        };
        let seen = answer.wait_for(Option::is_some).await;
        match seen {
            Ok(answer) => answer.clone().unwrap_or(Err(OriginError::Abandoned)),
            Err(_) => Err(OriginError::Abandoned),
        }
    }

    fn start<F>(
        self: &Arc<Self>,
        table: &mut Table,
        object: &ObjectId,
        ask: F,
    ) -> watch::Receiver<Option<Answer>>
    where
        F: Future<Output = Answer> + Send + 'static,
    {
        let (sender, receiver) = watch::channel(None);
        table.asking.insert(object.clone(), receiver.clone());
        let (versions, object) = (Arc::clone(self), object.clone());
        let asked_at = Instant::now();
        tokio::spawn(async move {
            let answer = ask.await;
            match &answer {
                Ok(found) => versions.observe(&object, &found.version, found.asked_at),
                Err(error) => versions.observe_error(&object, error, asked_at),
            }
            versions.lock().asking.remove(&object);
            sender.send_replace(Some(answer));
        });
        receiver
    }

    /// Notes that the origin, asked at `asked_at`, answered with `version`.
    ///
    /// An answer to an older question than the one whose answer is known changes nothing: a
    /// version that was seen to be replaced never comes back that way.
    pub fn observe(&self, object: &ObjectId, version: &Arc<Version>, asked_at: Instant) {
        self.lock().outages.remove(&object.dataset);
        self.note(object, Ok(Arc::clone(version)), asked_at);
    }

    /// Notes that the origin, asked at `asked_at`, gave no version.
    pub fn observe_error(&self, object: &ObjectId, error: &OriginError, asked_at: Instant) {
        match error {
            OriginError::NotFound | OriginError::Refused { .. } => {
                self.note(object, Err(error.clone()), asked_at);
            }
            error if error.is_outage() => {
                let dataset = Arc::clone(&object.dataset);
                self.lock().outages.insert(dataset, Instant::now());
            }
            _ => {}
        }
    }

    fn note(&self, object: &ObjectId, state: Result<Arc<Version>, OriginError>, asked_at: Instant) {
        let mut table = self.lock();
        let entry = Entry {
            state,
            asked_at,
            doubted: false,
        };
        match table.known.get_mut(object) {
            Some(known) if known.asked_at > asked_at => {}
            Some(known) => *known = entry,
            None => {
                table.known.insert(object.clone(), entry);
                table.order.push_back(object.clone());
                while table.known.len() > REMEMBERED {
                    let Some(oldest) = table.order.pop_front() else {
                        break;
                    };
                    table.known.remove(&oldest);
                }
            }
        }
    }

    /// Every known version and its age, for a restart.
    pub fn export(&self) -> Vec<(ObjectId, Arc<Version>, Duration)> {
        let table = self.lock();
        let known = table.known.iter().filter_map(|(object, entry)| {
            let version = entry.state.as_ref().ok()?;
            Some((
                object.clone(),
                Arc::clone(version),
                entry.asked_at.elapsed(),
            ))
        });
        known.collect()
    }

    /// Takes over what was known before a restart, `age` ago.
    pub fn import(&self, object: &ObjectId, version: &Arc<Version>, age: Duration) {
        // The machine may be up for less time than that: then the version is as old as it can be.
        let now = Instant::now();
        let asked_at = now.checked_sub(age).unwrap_or(now);
        let doubted = now.duration_since(asked_at) < age;
        self.note(object, Ok(Arc::clone(version)), asked_at);
        if doubted {
            self.doubt(object, version);
        }
    }

    /// Makes a known version due: somebody saw another one.
    pub fn doubt(&self, object: &ObjectId, version: &Version) {
        if let Some(entry) = self.lock().known.get_mut(object)
            && matches!(&entry.state, Ok(known) if known.key == version.key)
        {
            entry.doubted = true;
        }
    }

    /// Forgets what is known of the objects of `dataset` that `wanted` picks by key.
    pub fn forget(&self, dataset: &str, wanted: impl Fn(&str) -> bool) {
        self.lock()
            .forget(|object| &*object.dataset == dataset && wanted(&object.key));
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn forget(&mut self, wanted: impl Fn(&ObjectId) -> bool) {
        self.known.retain(|object, _| !wanted(object));
        let known = &self.known;
        self.order.retain(|object| known.contains_key(object));
    }
}

#[cfg(test)]
mod tests;
