//! What an object is called.

use std::fmt;
use std::sync::Arc;

/// A key in a dataset, and the origin's version id if the client named one.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ObjectId {
    /// The dataset's name.
    pub dataset: Arc<str>,
    /// The key, decoded, without the dataset's own prefix at the origin.
    pub key: Arc<str>,
    /// `versionId` of S3 (`generation` of GCS): then the bytes behind this name never change.
    pub version_id: Option<Arc<str>>,
}

impl ObjectId {
    /// The current version of `key` in `dataset`.
    pub fn new(dataset: impl Into<Arc<str>>, key: impl Into<Arc<str>>) -> Self {
        Self {
            dataset: dataset.into(),
            key: key.into(),
            version_id: None,
        }
    }

    /// Whether this names bytes that never change. S3's version `null` is the one that does: it is
    /// what is written while versioning is off.
    pub fn is_immutable(&self) -> bool {
        self.version_id.as_deref().is_some_and(|id| id != "null")
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.dataset, self.key)
    }
}
