//! Which revision a dataset has, and where that is written down.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::manifest::{Revision, Written};

/// The revision that a dataset has, and the one before.
#[derive(Clone, Debug, Default)]
pub struct Standing {
    /// Each switch makes it one more.
    pub number: u64,
    /// What it has; `None`: none, and everything is read as its origin has it.
    pub current: Option<Arc<Revision>>,
    /// What it had: readers who began with that may finish with it.
    pub previous: Option<Arc<Revision>>,
}

/// The same as it is written.
#[derive(Serialize, Deserialize)]
struct Document {
    number: u64,
    current: Option<Written>,
    previous: Option<Written>,
}

impl Standing {
    /// What comes after this one.
    pub(super) fn next(&self, current: Option<Arc<Revision>>) -> Self {
        Self {
            number: self.number + 1,
            current,
            previous: self.current.clone().or_else(|| self.previous.clone()),
        }
    }

    /// The revision of this id, if it is one of the two.
    pub fn named(&self, id: &str) -> Option<&Arc<Revision>> {
        let both = [&self.current, &self.previous];
        both.into_iter()
            .flatten()
            .find(|revision| revision.id == id)
    }

    /// Takes over what is known of versions of the standing before.
    pub(super) fn learn(&self, before: &Self) {
        for ours in [&self.current, &self.previous].into_iter().flatten() {
            for theirs in [&before.current, &before.previous].into_iter().flatten() {
                ours.learn(theirs);
            }
        }
    }

    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        let document: Document = serde_json::from_slice(text).ok()?;
        let revision = |written: Option<Written>| match written {
            Some(written) => Revision::of(written).ok().map(|one| Some(Arc::new(one))),
            None => Some(None),
        };
        Some(Self {
            number: document.number,
            current: revision(document.current)?,
            previous: revision(document.previous)?,
        })
    }

    pub(super) fn text(&self) -> Vec<u8> {
        let written = |revision: &Option<Arc<Revision>>| {
            let revision = revision.as_ref();
            revision.map(|revision| revision.written())
        };
        let document = Document {
            number: self.number,
            current: written(&self.current),
            previous: written(&self.previous),
        };
        // Texts and numbers always serialise.
        serde_json::to_vec(&document).unwrap_or_default()
    }
}
