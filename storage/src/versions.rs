//! Which version of an object is current: asked of the origin once for all who want to know.

mod table;

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::class::{Class, Urgency};
use crate::error::OriginError;
use crate::flight::Follower;
use crate::object::ObjectId;
use crate::version::Version;
use crate::watch;

/// Objects remembered at most; at about 1 KiB each that is 32 MiB.
const REMEMBERED: usize = 32 * 1024;

/// Absences remembered at most. They hold for a second only.
const ABSENCES: usize = 4096;

/// How long a 404 or 403 is believed.
const ABSENT_FOR: Duration = Duration::from_secs(1);

/// How long after a failure a known version is served without asking again, and how often an
/// origin that is away is asked whether it is back.
const FAILED_FOR: Duration = Duration::from_secs(1);

/// A question that was given up while somebody was about to wait for it is asked again this often.
const ASKED_AGAIN: u32 = 3;

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

impl Freshness {
    /// Whether this object never changes, so that a version once known is current for good.
    pub fn never_changes(&self, object: &ObjectId) -> bool {
        self.immutable || object.is_immutable()
    }

    /// How long after it was asked for a version may be served at most, unless nothing ever changes: while the origin is
    /// away.
    pub fn longest(&self) -> Duration {
        self.fresh_for.saturating_add(self.stale_for)
    }
}

/// What is known of an object without asking.
#[derive(Clone, Debug)]
pub enum Known {
    /// The current version, as far as the dataset's bound goes.
    Fresh {
        /// That version.
        version: Arc<Version>,
        /// When the origin was asked.
        asked_at: Instant,
    },
    /// The version that was current when it was last asked for, `age` ago: ask again.
    Due {
        /// That version.
        version: Arc<Version>,
        /// Time since the origin was asked.
        age: Duration,
        /// The origin is away, or failed for this object within the last second, and `stale_for`
        /// allows this version: serve it.
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
    /// Known objects, from the one whose turn it is to be forgotten unless it was used since.
    turns: VecDeque<ObjectId>,
    absent: HashMap<ObjectId, (OriginError, Instant)>,
    /// By object, and by whether the origin itself is asked.
    asking: HashMap<(ObjectId, bool), Asked>,
    /// What was taken over from before a restart while this was set is not known until it is not any more.
    veiled: bool,
    /// Datasets whose origin is away, and when it was last asked whether it is back.
    outages: HashMap<Arc<str>, Instant>,
}

/// Whoever waits subscribes here; the question is given up when nobody does.
type Asking = Arc<watch::Sender<Option<Answer>>>;

/// A question that is being asked, and how urgent it is: as its most urgent asker.
#[derive(Debug)]
struct Asked {
    asking: Asking,
    urgency: Urgency,
}

#[derive(Debug)]
struct Entry {
    version: Arc<Version>,
    asked_at: Instant,
    /// It was then, or at any time before.
    undated: bool,
    /// Somebody saw another version since: ask again, however young this is.
    doubted: bool,
    /// When the origin last failed to confirm it.
    failed_at: Option<Instant>,
    used: bool,
    /// Nothing is known any more but that answers to older questions are of the past.
    forgotten: bool,
    /// It was taken over while such versions were veiled.
    veiled: bool,
}

impl Entry {
    fn is_hidden(&self, veiled: bool) -> bool {
        self.forgotten || veiled && self.veiled
    }

    /// Time since the origin was asked; where nobody knows, too long.
    fn age(&self, rules: &Freshness) -> Duration {
        let least = match self.undated {
            true => rules.longest(),
            false => Duration::ZERO,
        };
        self.asked_at.elapsed().max(least)
    }

    fn forget(&mut self) {
        self.forgotten = true;
        self.used = false;
    }
}

impl Versions {
    /// What is known of `object` now.
    pub fn known(&self, object: &ObjectId, rules: &Freshness) -> Known {
        let mut table = self.lock();
        let away = table.outages.contains_key(&object.dataset);
        let veiled = table.veiled;
        let known = table.known.get_mut(object);
        if let Some(entry) = known.filter(|entry| !entry.is_hidden(veiled)) {
            entry.used = true;
            let age = entry.age(rules);
            let version = Arc::clone(&entry.version);
            let unchanging = rules.never_changes(object);
            if !entry.doubted && (unchanging || age < rules.fresh_for) {
                let asked_at = entry.asked_at;
                return Known::Fresh { version, asked_at };
            }
            let failed = entry.failed_at.is_some_and(|at| at.elapsed() < FAILED_FOR);
            return Known::Due {
                version,
                age,
                stale: (away || failed) && age < rules.longest(),
            };
        }
        match table.absent.get(object) {
            Some((error, at)) if at.elapsed() < ABSENT_FOR => Known::Absent(error.clone()),
            _ => Known::Unknown,
        }
    }

    /// Whether it is time to ask the dataset's origin, which is away, whether it is back. True once
    /// a second, for one asker.
    pub fn may_probe(&self, dataset: &str) -> bool {
        match self.lock().outages.get_mut(dataset) {
            Some(probed) if probed.elapsed() >= FAILED_FOR => {
                *probed = Instant::now();
                true
            }
            _ => false,
        }
    }

    /// Asks by `ask`, or waits for the answer that somebody asks for already.
    ///
    /// `ask` runs in a task of its own: an asker who leaves takes no answer from the others, and
    /// when all have left it is given up.
    ///
    /// # Errors
    /// What the origin answered, or [`OriginError::Abandoned`] if `ask` panicked.
    pub async fn look_up<F>(
        self: &Arc<Self>,
        object: &ObjectId,
        mut ask: impl FnMut() -> F,
    ) -> Result<Found, OriginError>
    where
        F: Future<Output = Answer> + Send + 'static,
    {
        let class = Class::Demand;
        self.look_up_by(object, true, class, |_| ask()).await
    }

    /// The same for an asker of a class, where `ask` may ask another gateway unless it is `direct`. Two gateways
    /// that wait for each other's answers would wait for ever, so what has to be direct joins nothing else.
    ///
    /// `ask` is told how urgent it is: as the most urgent of those who wait for it, at any time.
    ///
    /// # Errors
    /// As [`Self::look_up`].
    pub async fn look_up_by<F>(
        self: &Arc<Self>,
        object: &ObjectId,
        direct: bool,
        class: Class,
        mut ask: impl FnMut(Urgency) -> F,
    ) -> Result<Found, OriginError>
    where
        F: Future<Output = Answer> + Send + 'static,
    {
        let key = (object.clone(), direct);
        for _ in 0..ASKED_AGAIN {
            let answer = {
                let mut table = self.lock();
                match table.asking.get(&key) {
                    Some(asked) => {
                        asked.urgency.raise(class);
                        asked.asking.subscribe()
                    }
                    None => {
                        let urgency = Urgency::of_question(class);
                        let ask = ask(urgency.clone());
                        self.start(&mut table, &key, urgency, ask)
                    }
                }
            };
            match answer.wait_for(Option::is_some).await.as_deref() {
                // Its askers had left just when we came.
                Ok(Some(Err(OriginError::Abandoned))) => {}
                Ok(Some(answer)) => return answer.clone(),
                Ok(None) | Err(_) => return Err(OriginError::Abandoned),
            }
        }
        Err(OriginError::Abandoned)
    }

    fn start<F>(
        self: &Arc<Self>,
        table: &mut Table,
        key: &(ObjectId, bool),
        urgency: Urgency,
        ask: F,
    ) -> watch::Receiver<Option<Answer>>
    where
        F: Future<Output = Answer> + Send + 'static,
    {
        let asking: Asking = Arc::new(watch::Sender::new(None));
        let receiver = asking.subscribe();
        let asked = Asked {
            asking: Arc::clone(&asking),
            urgency,
        };
        table.asking.insert(key.clone(), asked);
        let question = Question {
            versions: Arc::clone(self),
            key: key.clone(),
            asked_at: Instant::now(),
            asking,
        };
        tokio::spawn(async move {
            let answer = tokio::select! {
                biased;
                answer = ask => answer,
                () = question.asking.closed() => return,
            };
            question.answer(answer);
        });
        receiver
    }

    /// Notes that the origin, asked at `asked_at`, answered with `version`.
    ///
    /// An answer to an older question than the one whose answer is known changes nothing: a
    /// version that was seen to be replaced never comes back that way.
    pub fn observe(&self, object: &ObjectId, version: &Arc<Version>, asked_at: Instant) {
        self.lock().observe(object, version, asked_at);
    }

    /// Notes that the origin, asked at `asked_at`, gave no version.
    pub fn observe_error(&self, object: &ObjectId, error: &OriginError, asked_at: Instant) {
        self.lock().observe_error(object, error, asked_at);
    }

    /// Whether what was known here of `object`, and is forgotten, was an answer to a later question than one of
    /// `asked_at`. So another gateway's answer may bring back what readers here have seen replaced: it is to be asked anew.
    pub fn is_outdone(&self, object: &ObjectId, asked_at: Instant) -> bool {
        let table = self.lock();
        let known = table.known.get(object);
        known.is_some_and(|entry| entry.forgotten && entry.asked_at > asked_at)
    }

    /// Every known version and its age, for a restart; `None`: nobody knows that.
    pub fn export(&self) -> Vec<(ObjectId, Arc<Version>, Option<Duration>)> {
        let table = self.lock();
        let known = table.known.iter();
        known
            .filter(|(_, entry)| !entry.forgotten)
            .map(|(object, entry)| {
                let age = (!entry.undated).then(|| entry.asked_at.elapsed());
                (object.clone(), Arc::clone(&entry.version), age)
            })
            .collect()
    }

    /// Takes over what was known before a restart, `age` ago.
    pub fn import(&self, object: &ObjectId, version: &Arc<Version>, age: Duration) {
        self.take_over(object, version, age, false);
    }

    /// Takes over a version of which nobody knows how long ago it was current: `least`, or longer. Unless it can't change it
    /// is to be asked for before it is served, and stands in for nothing while the origin is away.
    pub fn import_undated(&self, object: &ObjectId, version: &Arc<Version>, least: Duration) {
        self.take_over(object, version, least, true);
    }

    fn take_over(&self, object: &ObjectId, version: &Arc<Version>, age: Duration, undated: bool) {
        // The machine may be up for less time than that: then the version is as old as it can be.
        let now = Instant::now();
        let asked_at = now.checked_sub(age).unwrap_or(now);
        let mut table = self.lock();
        let veiled = table.veiled;
        table.insert(object, version, asked_at);
        if let Some(entry) = table.known.get_mut(object)
            && entry.asked_at == asked_at
        {
            (entry.veiled, entry.undated) = (veiled, undated);
        }
        if now.duration_since(asked_at) < age {
            table.doubt(object, version);
        }
    }

    /// Keeps quiet about versions that are taken over from now on, or no longer: whoever was away may have to forget some
    /// of them first.
    pub fn veil(&self, veiled: bool) {
        self.lock().veiled = veiled;
    }

    /// Makes a known version due: somebody saw another one.
    pub fn doubt(&self, object: &ObjectId, version: &Version) {
        self.lock().doubt(object, version);
    }

    /// Forgets what is known of the objects of `dataset` that `wanted` picks by key, also what is
    /// being asked: who asks from now on gets an answer to a new question.
    pub fn forget(&self, dataset: &str, wanted: impl Fn(&str) -> bool) {
        let meant = |object: &ObjectId| &*object.dataset == dataset && wanted(&object.key);
        let mut table = self.lock();
        let known = table.known.iter_mut().filter(|(object, _)| meant(object));
        known.for_each(|(_, entry)| entry.forget());
        table.absent.retain(|object, _| !meant(object));
        table.asking.retain(|(object, _), _| !meant(object));
    }

    /// The same for these keys alone, whichever others are known. Versions that a client named stay: their bytes never
    /// change.
    pub fn forget_keys<'a>(&self, dataset: &str, keys: impl IntoIterator<Item = &'a str>) {
        let (dataset, null) = (Arc::<str>::from(dataset), Arc::<str>::from("null"));
        let mut table = self.lock();
        for key in keys {
            let current = ObjectId::new(Arc::clone(&dataset), key);
            let unversioned = ObjectId {
                version_id: Some(Arc::clone(&null)),
                ..current.clone()
            };
            for object in [current, unversioned] {
                if let Some(entry) = table.known.get_mut(&object) {
                    entry.forget();
                }
                table.absent.remove(&object);
                for direct in [true, false] {
                    table.asking.remove(&(object.clone(), direct));
                }
            }
        }
    }

    /// Forgets the known versions that `wanted` picks, and says whether there were any.
    pub fn forget_versions(&self, wanted: impl Fn(&ObjectId, &Version) -> bool) -> bool {
        let mut table = self.lock();
        let known = table.known.iter_mut();
        let meant =
            known.filter(|(object, entry)| !entry.forgotten && wanted(object, &entry.version));
        meant.map(|(_, entry)| entry.forget()).count() > 0
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A question under way. If it is dropped without an answer, because all askers left or because it
/// panicked, its place is free again.
struct Question {
    versions: Arc<Versions>,
    key: (ObjectId, bool),
    asked_at: Instant,
    asking: Asking,
}

impl Question {
    fn answer(&self, mut answer: Answer) {
        {
            let mut table = self.versions.lock();
            // A question whose object was forgotten meanwhile answers its askers and nobody else.
            let ours = self.leave(&mut table);
            match &mut answer {
                Ok(found) => {
                    table.observe(&self.key.0, &found.version, found.asked_at);
                    if !ours {
                        table.forget_answer(&self.key.0, found.asked_at);
                    }
                    // Nor may it tell them of a version that others, who asked later, have not heard of: it would seem
                    // to go again.
                    table.prefer_newer(&self.key.0, found);
                }
                Err(error) if ours => {
                    table.observe_error(&self.key.0, error, self.asked_at);
                    if !self.key.1 {
                        // Another gateway may have said so, and not how long it had known: believed for a second here
                        // too, it would be two.
                        table.absent.remove(&self.key.0);
                    }
                }
                Err(_) => {}
            }
        }
        self.asking.send_replace(Some(answer));
    }

    /// Takes the question off the table; false if it is not there any more.
    fn leave(&self, table: &mut Table) -> bool {
        let asking = table.asking.get(&self.key);
        let ours = asking.is_some_and(|asked| Arc::ptr_eq(&asked.asking, &self.asking));
        if ours {
            table.asking.remove(&self.key);
        }
        ours
    }
}

impl Drop for Question {
    fn drop(&mut self) {
        self.leave(&mut self.versions.lock());
        self.asking.send_if_modified(|answer| {
            let unanswered = answer.is_none();
            if unanswered {
                *answer = Some(Err(OriginError::Abandoned));
            }
            unanswered
        });
    }
}

#[cfg(test)]
mod tests;
