//! Versions of which it was found that their origin's bytes are not what they are said to be.

use std::collections::{HashSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use forebay_storage::version::VersionKey;

/// Versions remembered at most; of more, those that were refuted last.
const MOST: usize = 10_000;

/// Versions that are called resident no more, whatever of them is cached, until they are verified or the gateway
/// restarts.
#[derive(Debug, Default)]
pub struct Refuted(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    versions: HashSet<VersionKey>,
    order: VecDeque<VersionKey>,
}

impl Refuted {
    /// Notes a version.
    pub fn add(&self, version: VersionKey) {
        let mut table = self.lock();
        if !table.versions.insert(version) {
            return;
        }
        table.order.push_back(version);
        if table.order.len() > MOST
            && let Some(oldest) = table.order.pop_front()
        {
            table.versions.remove(&oldest);
        }
    }

    /// Notes that a version is what it is said to be after all, and says whether it was noted otherwise.
    pub fn clear(&self, version: VersionKey) -> bool {
        let mut table = self.lock();
        let was = table.versions.remove(&version);
        if was {
            table.order.retain(|noted| *noted != version);
        }
        was
    }

    /// Whether a version is noted.
    pub fn has(&self, version: VersionKey) -> bool {
        self.lock().versions.contains(&version)
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_ones_are_remembered_until_they_are_cleared() {
        let refuted = Refuted::default();
        let most = u128::try_from(MOST).unwrap_or(0);
        for number in 0..=most {
            refuted.add(VersionKey(number));
            refuted.add(VersionKey(number));
        }
        assert!(!refuted.has(VersionKey(0)) && refuted.has(VersionKey(1)));
        assert!(refuted.clear(VersionKey(1)) && !refuted.clear(VersionKey(1)));
        assert!(!refuted.has(VersionKey(1)) && refuted.has(VersionKey(most)));
    }
}
