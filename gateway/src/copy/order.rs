//! What a copy is asked for.

use std::fmt;
use std::sync::Arc;

use forebay_storage::object::ObjectId;

use super::CopyError;
use crate::dataset::{Dataset, Datasets};
use crate::warm::glob::Glob;

/// A dataset, and what its keys begin with.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The dataset.
    pub dataset: String,
    /// What keys begin with; empty: all.
    pub prefix: String,
}

impl Place {
    /// That of `DATASET` or `DATASET/PREFIX`; `None`: it names no dataset.
    pub fn parse(text: &str) -> Option<Self> {
        let (dataset, prefix) = text.split_once('/').unwrap_or((text, ""));
        (!dataset.is_empty()).then(|| Self {
            dataset: dataset.to_owned(),
            prefix: prefix.to_owned(),
        })
    }

    /// Whether a key may lie in both.
    pub(super) fn overlaps(&self, other: &Self) -> bool {
        let (one, two) = (&self.prefix, &other.prefix);
        self.dataset == other.dataset && (one.starts_with(two) || two.starts_with(one))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.dataset, self.prefix)
    }
}

/// What a copy is asked for: each key of `from` goes to `to`, with the prefix of one in the place of that of the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyOrder {
    /// What is copied.
    pub from: Place,
    /// Where to.
    pub to: Place,
    /// Only keys whose rest behind the prefix matches.
    pub glob: Option<String>,
    /// Bytes a second at most.
    pub rate: Option<u64>,
    /// Nothing is written: it is only said what would be.
    pub dry: bool,
}

impl CopyOrder {
    /// The two datasets, if the order makes sense.
    ///
    /// # Errors
    /// [`CopyError::Refused`], with the sentence that says why not.
    pub(crate) fn judge(
        &self,
        datasets: &Datasets,
    ) -> Result<(Arc<Dataset>, Arc<Dataset>), CopyError> {
        let refused = |sentence: String| Err(CopyError::Refused(sentence));
        let known = |name: &str| {
            let unknown = || format!("there is no dataset {name:?}; GET /-/datasets lists them");
            datasets
                .get(name)
                .ok_or_else(|| CopyError::Refused(unknown()))
        };
        let (from, to) = (known(&self.from.dataset)?, known(&self.to.dataset)?);
        if !to.is_writable() {
            return refused(format!(
                "the dataset {} is not writable: set writable = true in its settings to let copies write there",
                to.name
            ));
        }
        if overlap((&from, &self.from), (&to, &self.to)) {
            return refused(format!(
                "{} and {} overlap: a copy can't write to where it reads",
                self.from, self.to
            ));
        }
        // Whatever follows the prefix, it is at least a letter.
        self.may_write(&to, &format!("{}x", self.to.prefix))?;
        if let Some(glob) = &self.glob {
            Glob::parse(glob).map_err(CopyError::Refused)?;
        }
        if self.rate == Some(0) {
            return refused("a rate of 0 would move nothing: leave it out".into());
        }
        Ok((from, to))
    }
}

impl CopyOrder {
    /// Whether there can be a copy of this key.
    pub(super) fn may_write(&self, to: &Dataset, key: &str) -> Result<(), CopyError> {
        let object = ObjectId::new(Arc::clone(&to.name), key);
        to.origin.may_write(&object).map_err(|error| {
            CopyError::Refused(format!(
                "nothing can be copied to {key:.80?} of {}: {error}",
                to.name
            ))
        })
    }
}

/// Whether a key of one place may be a key of the other, at the origin: two datasets may be of one bucket.
fn overlap(one: (&Dataset, &Place), two: (&Dataset, &Place)) -> bool {
    let place = |(dataset, place): (&Dataset, &Place)| {
        let url = dataset.origin_url();
        format!("{}/{}", url.trim_end_matches('/'), place.prefix)
    };
    let same_server = one.0.origin.endpoint() == two.0.origin.endpoint();
    let (one, two) = (place(one), place(two));
    same_server && (one.starts_with(&two) || two.starts_with(&one))
}
