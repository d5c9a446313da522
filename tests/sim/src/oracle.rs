//! Which answers are right: versions, freshness, purges.
//!
//! The oracle knows what the origin held at any time, what every reader was told at which door, and when objects were
//! purged. A read takes its measure when it begins, and is judged by it when its answer comes. A *door* is one start of
//! one gateway: what one has told binds it, and no other.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::objects::{Content, Kind, Name, Objects};

/// How long the simulated datasets take a version for current.
pub const FRESH_FOR: Duration = Duration::from_secs(2);

/// How long they serve known versions while the origin is away.
pub const STALE_FOR: Duration = Duration::from_secs(10);

/// How long a 404 is believed: negative answers hold for a second at most.
const ABSENT_FOR: Duration = Duration::from_secs(1);

/// Between the origin's decision and the gateway's hearing of it lies at most what the origin's answer takes when it
/// is not stalled.
const SLACK: Duration = Duration::from_millis(500);

/// The longest that a question may be under way before it counts as an outage, and then the second for which known
/// versions are served without another question.
const OUTAGE: Duration = Duration::from_secs(15 + 1);

/// What is known of all reads and purges.
#[derive(Debug)]
pub struct Oracle {
    /// What the origin holds and held.
    pub objects: Arc<Objects>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    told: BTreeMap<(Arc<str>, Name), u64>,
    purged: BTreeMap<(Arc<str>, Name), Instant>,
    outages: BTreeMap<Kind, Instant>,
}

/// What an answer is measured by: taken when the read begins.
#[derive(Clone, Debug)]
pub struct Measure {
    /// When the read began.
    pub begun: Instant,
    door: Arc<str>,
    /// The newest version that anybody was told there before.
    told: u64,
    /// When the object was last purged.
    purged: Option<Instant>,
}

impl Oracle {
    /// An oracle over `objects`.
    pub fn new(objects: Arc<Objects>) -> Self {
        Self {
            objects,
            state: Mutex::default(),
        }
    }

    /// What a read of `name` that begins now at `door` is measured by.
    pub fn measure(&self, door: &Arc<str>, name: &Name) -> Measure {
        let state = self.lock();
        let here = (Arc::clone(door), name.clone());
        Measure {
            begun: Instant::now(),
            door: Arc::clone(door),
            told: state.told.get(&here).copied().unwrap_or(0),
            purged: state.purged.get(&here).copied(),
        }
    }

    /// Notes that a purge of `name` is done at `door`.
    pub fn purged(&self, door: &Arc<str>, name: &Name) {
        let here = (Arc::clone(door), name.clone());
        self.lock().purged.insert(here, Instant::now());
    }

    /// Notes that what was purged at the door `before` is so at `after`, the next start of the same gateway.
    pub fn stays_purged(&self, before: &Arc<str>, after: &Arc<str>) {
        let mut state = self.lock();
        let purged = state.purged.iter().filter(|((door, _), _)| door == before);
        let purged: Vec<_> = purged
            .map(|((_, name), at)| ((Arc::clone(after), name.clone()), *at))
            .collect();
        state.purged.extend(purged);
    }

    /// Notes that the origin gives, or begins to delay, an answer that counts as an outage.
    pub fn outage(&self, kind: Kind) {
        self.lock().outages.insert(kind, Instant::now());
    }

    /// Judges that an answer was of `content`; `stale`: it said that it is past its time.
    ///
    /// # Errors
    /// What is wrong with that.
    pub fn judge(
        &self,
        name: &Name,
        measure: &Measure,
        content: Content,
        stale: bool,
    ) -> Result<(), String> {
        let now = Instant::now();
        let version = content.version;
        if version < measure.told {
            let told = measure.told;
            return Err(format!(
                "version {version} of {name} came back after {told}"
            ));
        }
        self.told(measure, name, version);
        if name.kind == Kind::Fixed {
            return Ok(());
        }
        if stale && !self.outage_since(name.kind, measure.begun) {
            return Err(format!("{name} was served stale while the origin answers"));
        }
        let may_be = if stale {
            FRESH_FOR + STALE_FOR
        } else {
            FRESH_FOR
        };
        let from = earliest(measure, may_be);
        if self.held(name, from, now, |held| held == Some(content)) {
            return Ok(());
        }
        let why = match measure.purged {
            Some(at) if at == from => "purged",
            _ => "replaced for longer than is allowed",
        };
        Err(format!("version {version} of {name} was {why}"))
    }

    fn told(&self, measure: &Measure, name: &Name, version: u64) {
        let mut state = self.lock();
        let here = (Arc::clone(&measure.door), name.clone());
        let newest = state.told.entry(here).or_default();
        *newest = version.max(*newest);
    }

    /// Judges a 404.
    ///
    /// # Errors
    /// If the object was there all the time.
    pub fn judge_absent(&self, name: &Name, measure: &Measure) -> Result<(), String> {
        let from = earliest(measure, ABSENT_FOR);
        if self.held(name, from, Instant::now(), |held| held.is_none()) {
            return Ok(());
        }
        Err(format!("404, but {name} was there all the time"))
    }

    /// Judges a 412 to a condition that named `version`: known versions may only decide that while the origin is away.
    ///
    /// # Errors
    /// If the version was current all the time.
    pub fn judge_failed_condition(
        &self,
        name: &Name,
        measure: &Measure,
        version: u64,
    ) -> Result<(), String> {
        let other = |held: Option<Content>| held.is_none_or(|held| held.version != version);
        if self.outage_since(name.kind, measure.begun)
            || self.held(name, measure.begun - SLACK, Instant::now(), other)
        {
            return Ok(());
        }
        Err(format!("412, but version {version} of {name} was current"))
    }

    /// Judges a 416 to a range that has a byte in an object unless `beyond` is true of its size.
    ///
    /// # Errors
    /// If no version of late was so short.
    pub fn judge_unsatisfiable(
        &self,
        name: &Name,
        measure: &Measure,
        beyond: impl Fn(u64) -> bool,
    ) -> Result<(), String> {
        let from = earliest(measure, FRESH_FOR + STALE_FOR);
        let short = |held: Option<Content>| held.is_some_and(|held| beyond(held.size));
        if self.held(name, from, Instant::now(), short) {
            return Ok(());
        }
        Err(format!("416, but {name} has bytes there"))
    }

    fn held(
        &self,
        name: &Name,
        from: Instant,
        to: Instant,
        wanted: impl Fn(Option<Content>) -> bool,
    ) -> bool {
        let held = self.objects.between(name, from, to);
        held.into_iter().any(wanted)
    }

    /// Whether the gateway may have found the origin to be away for a read that began at `begun`.
    fn outage_since(&self, kind: Kind, begun: Instant) -> bool {
        let state = self.lock();
        let last = state.outages.get(&kind);
        last.is_some_and(|at| *at + OUTAGE + SLACK >= begun)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The earliest time whose truth an answer may still tell.
fn earliest(measure: &Measure, age: Duration) -> Instant {
    let by_age = measure.begun - (age + SLACK);
    measure.purged.map_or(by_age, |purged| purged.max(by_age))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_replaced_version_is_right_for_as_long_as_it_may_be_and_no_longer() {
        tokio::time::advance(Duration::from_secs(100)).await;
        let objects = Arc::new(Objects::default());
        let name = Name {
            kind: Kind::Models,
            key: "a".into(),
        };
        let one = objects.put(&name, 10);
        tokio::time::advance(Duration::from_secs(1)).await;
        let two = objects.put(&name, 10);
        let oracle = Oracle::new(objects);
        tokio::time::advance(FRESH_FOR).await;
        let door = "a".into();
        let measure = oracle.measure(&door, &name);
        oracle.judge(&name, &measure, one, false).unwrap();
        oracle.judge(&name, &measure, two, false).unwrap();
        // At another door it may still be told.
        let elsewhere = oracle.measure(&"b".into(), &name);
        oracle.judge(&name, &elsewhere, one, false).unwrap();
        // Who begins once the new version was told must not be told the old one.
        let later = oracle.measure(&door, &name);
        assert!(oracle.judge(&name, &later, one, false).is_err());
        tokio::time::advance(SLACK * 2).await;
        let mut late = oracle.measure(&door, &name);
        late.told = 0;
        assert!(oracle.judge(&name, &late, one, false).is_err());
        assert!(oracle.judge(&name, &late, two, true).is_err());
        oracle.outage(Kind::Models);
        oracle.judge(&name, &late, one, true).unwrap();
        oracle.purged(&door, &name);
        let purged = oracle.measure(&door, &name);
        assert!(oracle.judge(&name, &purged, one, true).is_err());
    }
}
