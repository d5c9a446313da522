//! Versions that other gateways have named in their questions.
//!
//! Who owns a part of an object and not its beginning is never asked which version of it is current, and need not know:
//! each question names one. What it holds by those names it could not hand over without them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use forebay_storage::object::ObjectId;
use forebay_storage::version::{Version, VersionKey};

/// Versions in each of two tables; at about 1 KiB each they take 8 MiB.
const MOST: usize = 4096;

/// The versions that were named last.
#[derive(Debug, Default)]
pub struct Told(Mutex<Tables>);

/// A table that is filled, and the one before it: what neither holds was not named for long.
#[derive(Debug, Default)]
struct Tables {
    now: HashMap<VersionKey, Named>,
    before: HashMap<VersionKey, Named>,
}

/// A version and what it is of.
pub type Named = (ObjectId, Arc<Version>);

impl Told {
    /// Notes that a version was named.
    pub fn note(&self, object: &ObjectId, version: &Arc<Version>) {
        let mut tables = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if tables.now.contains_key(&version.key) {
            return;
        }
        if tables.now.len() >= MOST {
            tables.before = std::mem::take(&mut tables.now);
        }
        let named = (object.clone(), Arc::clone(version));
        tables.now.insert(version.key, named);
    }

    /// All of them.
    pub fn all(&self) -> Vec<Named> {
        let tables = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let all = tables.before.values().chain(tables.now.values());
        all.cloned().collect()
    }
}
