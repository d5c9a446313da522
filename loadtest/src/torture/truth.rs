//! What the origin held when, and what a reader may therefore be told.
//!
//! A read that begins at *t* may get a version that was current at some time since *t* less `fresh_for`, and a 404 where
//! the object was away since then; who has seen a newer version so long ago can then never get an older one. While the origin
//! can't be asked, or not by all, known versions may be served for longer: then only that a version ever was is judged.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::origin::Origin;

/// The dataset's `fresh_for`.
pub(super) const FRESH_FOR: Duration = Duration::from_secs(2);

/// Beyond it: a request of the gateway's that was under way, and a machine that is busy.
const SLACK: Duration = Duration::from_millis(1500);

/// How long a 404 is remembered, here and at the member that knows the version for all.
const ABSENT_FOR: Duration = Duration::from_secs(2);

/// One version, or that there is none.
#[derive(Clone, Copy, Debug)]
struct Held {
    /// Its number and size; `None`: deleted.
    what: Option<(u64, u64)>,
    /// Until just after the next was put.
    until: Option<Instant>,
}

/// A time in which the origin, or the way to it, was not whole.
#[derive(Clone, Copy, Debug)]
struct Span {
    from: Instant,
    until: Option<Instant>,
    /// Nothing could be had from it by anybody.
    only_path: bool,
}

/// What a read found that is not as it has to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// As it has to be.
    Right,
    /// So much too old.
    Stale(Duration),
    /// Never was.
    Never,
}

/// The origin's objects over time. Only through it are they changed.
#[derive(Debug, Default)]
pub(super) struct Truth {
    objects: Mutex<HashMap<String, Vec<Held>>>,
    spans: Mutex<Vec<Span>>,
}

impl Truth {
    /// Puts the next version of an object, and says which.
    pub(super) fn put(&self, origin: &Origin, key: &str, size: u64) -> u64 {
        let mut objects = self.objects();
        let history = objects.entry(key.to_owned()).or_default();
        let versions = history.iter().filter_map(|held| held.what);
        let version = versions.map(|(version, _)| version + 1).max().unwrap_or(0);
        origin.put(key, size, version);
        follow(history, Some((version, size)));
        version
    }

    /// Deletes an object.
    pub(super) fn delete(&self, origin: &Origin, key: &str) {
        let mut objects = self.objects();
        let history = objects.entry(key.to_owned()).or_default();
        origin.delete(key);
        follow(history, None);
    }

    /// The newest version and size of an object; `None` while it is deleted.
    pub(super) fn current(&self, key: &str) -> Option<(u64, u64)> {
        self.objects().get(key)?.last()?.what
    }

    /// The size of a version.
    pub(super) fn size(&self, key: &str, version: u64) -> Option<u64> {
        let objects = self.objects();
        let mut versions = objects.get(key)?.iter().filter_map(|held| held.what);
        versions
            .find(|(one, _)| *one == version)
            .map(|(_, size)| size)
    }

    /// Judges that a read that began at `begun` got this version.
    pub(super) fn judge(&self, key: &str, version: u64, begun: Instant) -> Verdict {
        let objects = self.objects();
        let history = objects.get(key).map(Vec::as_slice).unwrap_or_default();
        let held = history
            .iter()
            .find(|held| held.what.is_some_and(|(one, _)| one == version));
        let Some(held) = held else {
            return Verdict::Never;
        };
        let Some(until) = held.until else {
            return Verdict::Right;
        };
        let bound = FRESH_FOR + SLACK;
        let age = begun.saturating_duration_since(until);
        if age <= bound || self.is_troubled(begun - bound, begun) {
            Verdict::Right
        } else {
            Verdict::Stale(age - FRESH_FOR)
        }
    }

    /// Whether a read since `begun` may be told that what it pinned has changed or is gone.
    pub(super) fn may_have_changed(&self, key: &str, version: u64) -> bool {
        self.current(key).is_none_or(|(now, _)| now != version) || self.size(key, version).is_none()
    }

    /// Whether a read since `begun` may be told that there is no such object.
    pub(super) fn may_be_absent(&self, key: &str, begun: Instant) -> bool {
        let since = begun - (FRESH_FOR + ABSENT_FOR + SLACK);
        self.some_since(key, since, |what| what.is_none())
    }

    /// Whether a read since `begun` may be told that it asked for what is beyond the end.
    pub(super) fn may_end_before(&self, key: &str, first: u64, begun: Instant) -> bool {
        let since = begun - (FRESH_FOR + SLACK);
        self.is_troubled(since, begun)
            || self.some_since(key, since, |what| {
                what.is_none_or(|(_, size)| size <= first)
            })
    }

    fn some_since(
        &self,
        key: &str,
        since: Instant,
        is: impl Fn(Option<(u64, u64)>) -> bool,
    ) -> bool {
        let objects = self.objects();
        let history = objects.get(key).map(Vec::as_slice).unwrap_or_default();
        history
            .iter()
            .filter(|held| held.until.is_none_or(|until| until >= since))
            .any(|held| is(held.what))
    }

    /// Notes that the origin, or somebody's way to it, is not whole; the number ends it.
    pub(super) fn trouble(&self, only_path: bool) -> usize {
        let mut spans = self.spans();
        spans.push(Span {
            from: Instant::now(),
            until: None,
            only_path,
        });
        spans.len() - 1
    }

    /// Notes that it is whole again, `after` now: a gateway asks each two seconds whether it is.
    pub(super) fn trouble_ends(&self, number: usize, after: Duration) {
        self.spans()[number].until = Some(Instant::now() + after);
    }

    /// Whether the origin was away at some time between.
    pub(super) fn no_path(&self, from: Instant, to: Instant) -> bool {
        self.overlaps(from, to, |span| span.only_path)
    }

    fn is_troubled(&self, from: Instant, to: Instant) -> bool {
        self.overlaps(from, to, |_| true)
    }

    fn overlaps(&self, from: Instant, to: Instant, which: impl Fn(&Span) -> bool) -> bool {
        let spans = self.spans();
        let mut recent = spans.iter().filter(|span| which(span));
        recent.any(|span| span.from <= to && span.until.is_none_or(|until| until >= from))
    }

    fn objects(&self) -> MutexGuard<'_, HashMap<String, Vec<Held>>> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn spans(&self) -> MutexGuard<'_, Vec<Span>> {
        self.spans.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn follow(history: &mut Vec<Held>, what: Option<(u64, u64)>) {
    if let Some(last) = history.last_mut() {
        last.until = Some(Instant::now());
    }
    history.push(Held { what, until: None });
}
