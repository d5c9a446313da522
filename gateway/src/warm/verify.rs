//! Whether what was brought is what it is said to be: each object's own digest, compared with its bytes.
//!
//! | module | its part |
//! |---|---|
//! | `manifest` | the SHA-256 that somebody put beside an object |
//! | `sum` | what its bytes come to, as they are cached |
//!
//! A manifest says more than an origin, for it was written where the bytes were made. What an origin says comes next,
//! and an object of which nobody says anything is counted and is no failure. A version that is not what it is said to
//! be is let go of by all members and called resident no more.

mod manifest;
pub(super) mod sum;

use std::sync::Arc;

use forebay_storage::error::OriginError;
use forebay_storage::object::ObjectId;
use forebay_storage::origin::Digest;
use forebay_storage::version::{Version, VersionKey};
use futures::{StreamExt, stream};

use self::manifest::Manifests;
use super::bring::Failure;
use super::job::Job;
use super::list::Entry;
use super::place::Crew;
use crate::dataset::Dataset;
use crate::purge::{Purged, Wanted, told};
use crate::read::fetch;

/// Objects that are looked at side by side: enough for the origin's answers to overlap, and for a window each.
const AT_ONCE: usize = 8;

/// What became of an object.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
enum Seen {
    /// Nothing yet, or not since it was brought.
    #[default]
    Due,
    /// It is what it is said to be.
    Good,
    /// Nobody says what it should be.
    Unsaid,
}

/// What a look at one object found.
enum Found {
    Seen(Seen),
    /// Another version is current by now.
    Replaced,
    /// What it should be by whose word, and what it is.
    Wrong(Digest, String, Digest),
}

/// The verifying of one job's objects.
pub(super) struct Verifying<'a> {
    crew: &'a Arc<Crew>,
    job: &'a Job,
    dataset: &'a Arc<Dataset>,
    manifests: Manifests<'a>,
    seen: Vec<Seen>,
}

impl<'a> Verifying<'a> {
    /// Nothing is verified yet of these.
    pub(super) fn new(
        crew: &'a Arc<Crew>,
        job: &'a Job,
        dataset: &'a Arc<Dataset>,
        entries: &[Entry],
    ) -> Self {
        Self {
            crew,
            job,
            dataset,
            manifests: Manifests::new(crew, dataset, &job.order, entries),
            seen: vec![Seen::Due; entries.len()],
        }
    }

    /// Whether something is to be verified yet.
    pub(super) fn is_due(&self) -> bool {
        self.job.order.verify && self.seen.contains(&Seen::Due)
    }

    /// Notes that some of an object was brought since.
    pub(super) fn brought(&mut self, at: usize) {
        if let Some(seen) = self.seen.get_mut(at) {
            *seen = Seen::Due;
        }
    }

    /// Verifies what is due. Of what was replaced meanwhile the version is forgotten: it is brought anew.
    ///
    /// # Errors
    /// Which objects are not what they should be: they are let go of. Or that it can't be found out.
    pub(super) async fn all(&mut self, entries: &mut [Entry]) -> Result<(), Failure> {
        let due: Vec<usize> = (0..entries.len())
            .filter(|at| self.seen[*at] == Seen::Due)
            .collect();
        let mut wrong: Option<(String, u64)> = None;
        {
            let this = &*self;
            let looks = due.into_iter().map(|at| {
                let entry = entries[at].clone();
                async move { (at, this.look(&entry).await) }
            });
            let mut looks = stream::iter(looks).buffer_unordered(AT_ONCE);
            let mut found = Vec::new();
            while let Some((at, looked)) = looks.next().await {
                found.push((at, looked?));
            }
            drop(looks);
            for (at, found) in found {
                match found {
                    Found::Seen(seen) => self.seen[at] = seen,
                    Found::Replaced => entries[at].version = None,
                    Found::Wrong(expected, source, is) => {
                        let key = &entries[at].key;
                        let (_, more) = wrong.get_or_insert_with(|| {
                            let sentence = format!(
                                "{key} is not what {source} says: {expected} is expected, and its bytes have {is}; they \
                                 were let go of, and are not called resident"
                            );
                            (sentence, 0)
                        });
                        *more += 1;
                    }
                }
            }
        }
        self.count();
        match wrong {
            None => Ok(()),
            Some((sentence, 1)) => Err(Failure::Refused(sentence)),
            Some((sentence, all)) => Err(Failure::Refused(format!(
                "{sentence} (and so it is with {} more objects)",
                all - 1
            ))),
        }
    }

    fn count(&self) {
        let of = |what| self.seen.iter().filter(|seen| **seen == what).count() as u64;
        self.job.verified(of(Seen::Good), of(Seen::Unsaid));
    }

    async fn look(&self, entry: &Entry) -> Result<Found, Failure> {
        let id = entry.object(self.dataset);
        let about = |error: OriginError| Failure::Refused(format!("{id}: {error}"));
        let current = self
            .crew
            .reads
            .current(self.dataset, &id, None, false)
            .await;
        let version = match current {
            Err(OriginError::NotFound) => return Ok(Found::Replaced),
            current => current.map_err(about)?.version,
        };
        if entry.size > 0 && entry.version != Some(version.key) {
            return Ok(Found::Replaced);
        }
        let (expected, source) = match self.manifests.of(&entry.key).await? {
            Some(said) => said,
            None => match self.digest(&id, &version).await {
                Ok(Some(digest)) => (digest, "its origin".to_owned()),
                Ok(None) => return Ok(Found::Seen(Seen::Unsaid)),
                Err(OriginError::Changed | OriginError::NotFound) => return Ok(Found::Replaced),
                Err(error) => return Err(about(error)),
            },
        };
        let is = match sum::of(self.crew, self.dataset, &id, &version, &expected).await {
            Err(OriginError::Changed) => return Ok(Found::Replaced),
            is => is.map_err(about)?,
        };
        let refuted = &self.crew.purges.refuted;
        if is == expected {
            refuted.clear(version.key);
            return Ok(Found::Seen(Seen::Good));
        }
        tracing::warn!(object = %id, %expected, %is, source, "an object is not what it is said to be");
        self.refute(&id, version.key).await;
        Ok(Found::Wrong(expected, source, is))
    }

    async fn digest(
        &self,
        id: &ObjectId,
        version: &Version,
    ) -> Result<Option<Digest>, OriginError> {
        let mut tries = 0;
        loop {
            match self.dataset.origin.digest(id, version).await {
                Err(error) if !fetch::is_final(&error) && tries < fetch::TRIES => {
                    tries += 1;
                    let spread = id.key.len() as u64;
                    tokio::time::sleep(fetch::backoff(tries, spread)).await;
                }
                digest => return digest,
            }
        }
    }

    /// Lets all members go of a version.
    async fn refute(&self, id: &ObjectId, version: VersionKey) {
        let wanted = Wanted {
            refuted: Some(told(version)),
            ..Wanted::all(&id.dataset, &id.key)
        };
        let mut purged = Purged::default();
        let done = self.crew.purges.everywhere(&wanted, &mut purged).await;
        if let Err(error) = done {
            tracing::warn!(object = %id, %error, "what is not what it should be may come back with a restart");
        }
        if !purged.absent.is_empty() {
            let absent = purged.absent;
            tracing::warn!(object = %id, ?absent, "members did not let go of what is not what it should be");
        }
    }
}
