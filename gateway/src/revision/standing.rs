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

    /// The same under another number.
    pub(super) fn renumbered(&self, number: u64) -> Self {
        Self {
            number,
            ..self.clone()
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

    /// The id of what it has.
    pub(super) fn id(&self) -> Option<&str> {
        self.current.as_ref().map(|revision| revision.id.as_str())
    }

    /// Whether both are the same switch to the same revision.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let same = |one: &Option<Arc<Revision>>, other: &Option<Arc<Revision>>| match (one, other) {
            (None, None) => true,
            (Some(one), Some(other)) => one.id == other.id && one.is_same(other),
            _ => false,
        };
        self.number == other.number
            && same(&self.current, &other.current)
            && same(&self.previous, &other.previous)
    }

    /// That of a document.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn parse(text: &[u8]) -> Result<Self, String> {
        let document: Document = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        let revision = |written: Option<Written>| {
            let revision = written.map(Revision::of).transpose()?;
            Ok::<_, String>(revision.map(Arc::new))
        };
        Ok(Self {
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
