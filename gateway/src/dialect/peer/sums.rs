//! Checksums of segments that were sent: what is hot is sent to many gateways, and need not be hashed for each.
//!
//! A segment that changed in memory since is found out by whoever receives it, as one that changes under way is.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use forebay_storage::version::VersionKey;

use crate::peer::wire;

/// A sum and its name take about 48 bytes in a table, of which there are two: with so many in each 6 MiB. They are the
/// sums of 8 GiB.
const MOST: usize = 64 << 10;

/// The sums of the last segments that were sent.
#[derive(Debug)]
pub(super) struct Sums {
    /// As many as there is memory for segments.
    most: usize,
    tables: Mutex<Tables>,
}

/// A table that is filled, and the one before it: what neither holds was not sent for long.
#[derive(Debug, Default)]
struct Tables {
    now: HashMap<(VersionKey, u64), u64>,
    before: HashMap<(VersionKey, u64), u64>,
    /// The purges that were counted when they were begun.
    purges: u64,
}

impl Sums {
    /// Room for the sums of `segments`, or of [`MOST`].
    pub(super) fn new(segments: u64) -> Self {
        Self {
            most: usize::try_from(segments).map_or(MOST, |segments| segments.clamp(1, MOST)),
            tables: Mutex::default(),
        }
    }

    /// The checksum of `bytes`, the segment at `offset` of a version, in a body that was begun when `purges` were counted.
    /// Nothing is remembered over a purge: what was purged may come back with other bytes.
    pub(super) fn of(&self, version: VersionKey, offset: u64, bytes: &[u8], purges: u64) -> u64 {
        let key = (version, offset);
        {
            let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
            if tables.purges < purges {
                *tables = Tables {
                    purges,
                    ..Tables::default()
                };
            }
            let known = tables.now.get(&key).or_else(|| tables.before.get(&key));
            if let Some(sum) = known.filter(|_| tables.purges == purges) {
                return *sum;
            }
        }
        let sum = wire::sum(version, offset, bytes);
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        if tables.now.len() >= self.most {
            tables.before = std::mem::take(&mut tables.now);
        }
        if tables.purges == purges {
            tables.now.insert(key, sum);
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_is_remembered_until_something_is_purged() {
        let sums = Sums::new(8);
        let version = VersionKey(7);
        let sum = sums.of(version, 0, b"right", 0);
        assert_eq!(sum, wire::sum(version, 0, b"right"));
        assert_eq!(sums.of(version, 0, b"wrong", 0), sum);
        assert_ne!(sums.of(version, 1, b"right", 0), sum);
        assert_eq!(
            sums.of(version, 0, b"other", 1),
            wire::sum(version, 0, b"other")
        );
    }

    #[test]
    fn the_tables_stay_small() {
        let sums = Sums::new(8);
        for offset in 0..1000 {
            let _ = sums.of(VersionKey(1), offset, b"bytes", 0);
        }
        let tables = sums.tables.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(tables.now.len() + tables.before.len() <= 16);
    }
}
