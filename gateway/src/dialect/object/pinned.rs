//! The version of an object that a dataset's revision names.

use std::sync::Arc;

use forebay_storage::error::OriginError;
use tokio::time::Instant;

use super::{Asked, Failed};
use crate::dialect::s3::error::{Code, S3Error};
use crate::read::version::{Current, How};
use crate::revision::Pinned;

impl Asked<'_> {
    /// That version, with all that its origin says of it while it has it; and else, if it is cached, what the manifest
    /// says of it.
    pub(super) async fn pinned(&self, pinned: &Pinned) -> Result<Current, Failed> {
        if self.object.version_id.is_some() {
            let message =
                "A dataset with a revision has one version of each key; leave versionId out";
            return Err(S3Error::new(Code::InvalidRequest, message).into());
        }
        let known = |version| Current {
            version,
            how: How::Known,
            asked_at: Instant::now(),
            fills: None,
        };
        if let Some(version) = pinned.known() {
            return Ok(known(Arc::clone(version)));
        }
        let bare = pinned.bare(self.dataset, &self.object.key);
        let bare = bare.ok_or_else(|| self.gone())?;
        let first = self.first_bytes();
        let current = self.reads.current(self.dataset, &self.object, first, false);
        match Box::pin(current).await {
            Ok(current) if pinned.learn(&current.version, bare.key) => Ok(current),
            // What is known here may be older than the manifest.
            Ok(_) => {
                let current = self.reads.current(self.dataset, &self.object, None, true);
                match Box::pin(current).await {
                    Ok(current) if pinned.learn(&current.version, bare.key) => Ok(current),
                    _ => Ok(known(Arc::new(bare))),
                }
            }
            Err(_) => Ok(known(Arc::new(bare))),
        }
    }

    /// What is said where the version is to be had nowhere.
    pub(super) fn gone(&self) -> S3Error {
        let message = "The version that the dataset's revision names is neither cached nor at the origin any more; \
                       switch to a revision of what is there";
        S3Error::new(Code::NoSuchVersion, message).about(&self.dataset.name, &self.object.key)
    }

    /// The answer to an object that turned out to be another version again and again.
    pub(super) fn changed(&self) -> S3Error {
        match self.pinned {
            Some(_) => self.gone(),
            None => self.failure(&OriginError::Changed),
        }
    }
}
