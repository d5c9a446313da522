//! Access keys: whose they are, what they may do, and their signing keys of late.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac;

use super::canonical::Scope;
use crate::settings::{AccessSettings, Secret};

/// Signing keys kept for each access key: a fleet's clients sign in one or two regions, on one day.
const KEPT: usize = 4;

/// An access key.
pub struct Key {
    /// Its id, which logs may show.
    pub id: Arc<str>,
    secret: Secret,
    /// The only datasets that it may read; `None`: all.
    datasets: Option<BTreeSet<String>>,
    /// Whether it may do what changes or tells of the gateway.
    pub admin: bool,
    /// The latest first. A key costs four rounds of HMAC, as much as all the rest of a verification.
    signing_keys: ArcSwap<Vec<Arc<SigningKey>>>,
}

/// What a key signs with on a day in a region.
pub struct SigningKey {
    day: String,
    region: String,
    /// The key itself.
    pub key: hmac::Key,
}

impl Key {
    /// The key of these settings.
    pub fn new(settings: &AccessSettings) -> Self {
        Self {
            id: settings.access_key_id.as_str().into(),
            secret: settings.secret_access_key.clone(),
            datasets: settings
                .datasets
                .as_ref()
                .map(|names| names.iter().cloned().collect()),
            admin: settings.admin,
            signing_keys: ArcSwap::default(),
        }
    }

    /// A key that nobody has: the work of refusing an unknown id is done with it.
    pub fn decoy() -> Self {
        Self::new(&AccessSettings {
            access_key_id: String::new(),
            secret_access_key: Secret::new("a secret that takes as long to hash as others"),
            datasets: Some(Vec::new()),
            admin: false,
        })
    }

    /// Whether it may read the dataset of this name, if there is one.
    pub fn may_read(&self, dataset: &str) -> bool {
        let datasets = self.datasets.as_ref();
        datasets.is_none_or(|datasets| datasets.contains(dataset))
    }

    /// Whether this is its secret, in a time that tells nothing of either.
    pub fn has_secret(&self, secret: &str) -> bool {
        let hash = |text: &str| digest(&SHA256, text.as_bytes());
        let (ours, theirs) = (hash(self.secret.expose()), hash(secret));
        verify_slices_are_equal(ours.as_ref(), theirs.as_ref()).is_ok()
    }

    /// Its signing key in a scope. It is kept before anybody knows whether the signature is right,
    /// so that a right one is no faster than a wrong one.
    pub fn signing_key(&self, scope: &Scope<'_>) -> Arc<SigningKey> {
        let same = |kept: &&Arc<SigningKey>| kept.day == scope.day && kept.region == scope.region;
        if let Some(kept) = self.signing_keys.load().iter().find(same) {
            return Arc::clone(kept);
        }
        let made = Arc::new(SigningKey {
            day: scope.day.to_owned(),
            region: scope.region.to_owned(),
            key: scope.signing_key(self.secret.expose()),
        });
        self.signing_keys.rcu(|kept| {
            let rest = kept.iter().take(KEPT - 1).cloned();
            std::iter::once(Arc::clone(&made))
                .chain(rest)
                .collect::<Vec<_>>()
        });
        made
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key")
            .field("id", &self.id)
            .field("datasets", &self.datasets)
            .field("admin", &self.admin)
            .finish_non_exhaustive()
    }
}
