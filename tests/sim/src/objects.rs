//! What the origin holds, and held at any time before.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use forebay_loadtest::pattern;
use tokio::time::Instant;

/// Bytes in a block of the simulated gateway, around whose edges sizes and ranges lie: the smallest that the settings
/// allow, so that objects of many blocks stay small.
pub const BLOCK: u64 = 256 << 10;

/// 1 January 2020, from which `Last-Modified` counts a second a version.
const EPOCH: Duration = Duration::from_secs(1_577_836_800);

/// A kind of dataset.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Kind {
    /// Strong ETags.
    Models,
    /// No ETag, only `Last-Modified`.
    Dated,
    /// Strong ETags, and the promise that nothing ever changes.
    Fixed,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Models, Self::Dated, Self::Fixed];

    /// The dataset's name, and its bucket's.
    pub fn name(self) -> &'static str {
        match self {
            Self::Models => "models",
            Self::Dated => "dated",
            Self::Fixed => "fixed",
        }
    }

    /// The kind of the dataset of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// What an object is called.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Name {
    /// Its dataset.
    pub kind: Kind,
    /// Its key.
    pub key: String,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind.name(), self.key)
    }
}

/// One version of an object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Content {
    /// Counts from 1 for each object, and goes on where an object was deleted.
    pub version: u64,
    /// Bytes.
    pub size: u64,
}

impl Content {
    /// The first argument of the pattern's functions.
    pub fn pattern(self, name: &Name) -> u64 {
        pattern::seed(&name.to_string(), self.version)
    }

    /// The ETag, where the dataset has any.
    pub fn etag(self, name: &Name) -> Option<String> {
        let etag = || pattern::etag(&name.to_string(), self.version, self.size);
        (name.kind != Kind::Dated).then(etag)
    }

    /// When the version was made, as the origin tells it.
    pub fn last_modified(self) -> SystemTime {
        SystemTime::UNIX_EPOCH + EPOCH + Duration::from_secs(self.version)
    }
}

/// The version that a `Last-Modified` stands for.
pub fn version_of_date(date: SystemTime) -> Option<u64> {
    let since = date.duration_since(SystemTime::UNIX_EPOCH + EPOCH).ok()?;
    Some(since.as_secs())
}

/// From when on which content was current; `None`: deleted.
type Past = Vec<(Instant, Option<Content>)>;

/// All objects with all they ever were.
#[derive(Debug, Default)]
pub struct Objects {
    all: Mutex<BTreeMap<Name, Past>>,
}

impl Objects {
    /// The names of all objects that ever were.
    pub fn names(&self) -> Vec<Name> {
        self.lock().keys().cloned().collect()
    }

    /// What is current.
    pub fn current(&self, name: &Name) -> Option<Content> {
        let all = self.lock();
        let (_, content) = all.get(name)?.last()?;
        *content
    }

    /// Puts a new version of `size` bytes in place.
    pub fn put(&self, name: &Name, size: u64) -> Content {
        let mut all = self.lock();
        let past = all.entry(name.clone()).or_default();
        let last = past.iter().rev().find_map(|(_, content)| *content);
        let content = Content {
            version: last.map_or(0, |last| last.version) + 1,
            size,
        };
        past.push((Instant::now(), Some(content)));
        content
    }

    /// Deletes an object.
    pub fn delete(&self, name: &Name) {
        if let Some(past) = self.lock().get_mut(name) {
            past.push((Instant::now(), None));
        }
    }

    /// The version of this number, if there ever was one.
    pub fn version(&self, name: &Name, version: u64) -> Option<Content> {
        let all = self.lock();
        let mut past = all.get(name)?.iter().filter_map(|(_, content)| *content);
        past.find(|content| content.version == version)
    }

    /// All that was current at some time from `from` to `to`.
    pub fn between(&self, name: &Name, from: Instant, to: Instant) -> Vec<Option<Content>> {
        let all = self.lock();
        let past = all.get(name).map(Vec::as_slice).unwrap_or_default();
        let ends = past.iter().skip(1).map(|(since, _)| Some(*since));
        let spans = past.iter().zip(ends.chain([None]));
        spans
            .filter(|((since, _), end)| *since <= to && end.is_none_or(|end| end >= from))
            .map(|((_, content), _)| *content)
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Name, Past>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_was_current_in_a_span_is_remembered() {
        let objects = Objects::default();
        let name = Name {
            kind: Kind::Models,
            key: "a".into(),
        };
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let one = objects.put(&name, 10);
        tokio::time::advance(second).await;
        objects.delete(&name);
        tokio::time::advance(second).await;
        let two = objects.put(&name, 20);
        assert_eq!(two.version, 2);
        let half = Duration::from_millis(500);
        let between = |from, to| objects.between(&name, start + from, start + to);
        assert_eq!(between(half, half), [Some(one)]);
        assert_eq!(between(half, 3 * half), [Some(one), None]);
        assert_eq!(between(5 * half, 9 * half), [Some(two)]);
        assert_eq!(version_of_date(two.last_modified()), Some(2));
    }
}
