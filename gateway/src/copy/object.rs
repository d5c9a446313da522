//! Copying one object: wholly of one version, or not at all.

mod parts;

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use forebay_storage::class::{Class, Urgency};
use forebay_storage::error::OriginError;
use forebay_storage::object::ObjectId;
use forebay_storage::origin::write::{Meta, Payload, Upload, looks_like_md5, source_in, source_of};
use forebay_storage::version::{Version, VersionKey};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Duration, Instant};

use super::plan::Item;
use super::{Copier, CopyError, CopyOrder, GRAIN, Progress};
use crate::dataset::Dataset;
use crate::read::demand;
use crate::read::fetch;
use crate::read::version::Current;
use crate::read::window::{Piece, Reader, Step};
use crate::settings::size::shown;
use crate::warm::breadth::{Breadth, Turn};
use crate::warm::rate::Pace;

/// What is larger is written in parts of so many bytes: many enough to fill the connections, few enough to be sent
/// again at little cost. S3 takes none below 5 MiB.
const PART: u64 = 8 << 20;

/// How often an object is begun anew that changed meanwhile, or whose origin failed.
const TRIES: u32 = 3;

/// How often one request is sent.
const SENT: u32 = 6;

/// Between two requests of which the second is one more than the origin should have for now.
const LATER: Duration = Duration::from_secs(1);

/// What all objects of a copy need.
pub(super) struct Work {
    copier: Arc<Copier>,
    from: Arc<Dataset>,
    to: Arc<Dataset>,
    dry: bool,
    pace: Option<Pace>,
    breadth: Breadth,
    progress: Arc<Progress>,
    /// Uploads that were begun and are not completed, by key.
    open: Mutex<HashMap<String, Arc<Upload>>>,
    /// Keys that were written, and that nobody was told of yet.
    written: Mutex<Vec<String>>,
}

/// A piece that is under way: its turn, and its memory.
struct Leave<'a> {
    _demand: demand::Leave<'a>,
    _turn: Turn<'a>,
    _room: OwnedSemaphorePermit,
    begun: Instant,
}

impl Work {
    pub(super) fn new(
        copier: &Arc<Copier>,
        order: &CopyOrder,
        (from, to): (&Arc<Dataset>, &Arc<Dataset>),
        progress: &Arc<Progress>,
    ) -> Result<Self, CopyError> {
        if copier.most() < PART {
            return Err(CopyError::Refused(format!(
                "a copy needs {} of memory for one part, an eighth of [cache] memory: set 64MiB or more",
                shown(PART)
            )));
        }
        let connections = |dataset: &Dataset| dataset.origin.connections();
        let most = [from, to].into_iter().filter_map(|side| connections(side));
        let most = most.min().unwrap_or(32);
        Ok(Self {
            copier: Arc::clone(copier),
            from: Arc::clone(from),
            to: Arc::clone(to),
            dry: order.dry,
            pace: order.rate.map(Pace::new),
            breadth: Breadth::new(most),
            progress: Arc::clone(progress),
            open: Mutex::default(),
            written: Mutex::default(),
        })
    }

    /// Copies one object, unless it is there.
    pub(super) async fn copy(&self, item: Item) -> Result<(), CopyError> {
        let mut tries = 0;
        loop {
            tries += 1;
            let error = match self.once(&item).await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            let again = error == OriginError::Changed || !fetch::is_final(&error);
            if tries < TRIES && again {
                tokio::time::sleep(fetch::backoff(tries, item.size)).await;
                continue;
            }
            let why = match error {
                OriginError::Changed => "it is overwritten again and again meanwhile".to_owned(),
                error => error.to_string(),
            };
            return Err(CopyError::Object { key: item.key, why });
        }
    }

    async fn once(&self, item: &Item) -> Result<(), OriginError> {
        if self.is_there(item).await? {
            self.progress.was_there(item.size);
            return Ok(());
        }
        if self.dry {
            self.progress.copied(item.size);
            return Ok(());
        }
        let target = ObjectId::new(Arc::clone(&self.to.name), item.to.as_str());
        let bytes = match item.size <= PART {
            true => self.small(item, &target).await?,
            false => {
                let version = self.version(item, None).await?.version;
                self.large(item, &target, version).await?
            }
        };
        self.progress.copied(bytes);
        let copied = &self.copier.reads.metrics.copied_bytes;
        copied.with_label_values(&[&self.to.name]).inc_by(bytes);
        self.written().push(item.to.clone());
        Ok(())
    }

    /// Whether the copy is there: with the same MD5 as its ETag, or naming this version as its source.
    async fn is_there(&self, item: &Item) -> Result<bool, OriginError> {
        let Some((size, etag)) = &item.there else {
            return Ok(false);
        };
        if *size != item.size {
            return Ok(false);
        }
        if etag.is_some() && *etag == item.etag && etag.as_deref().is_some_and(looks_like_md5) {
            return Ok(true);
        }
        let source = match item.version {
            Some(version) => version,
            None => self.version(item, None).await?.version.key,
        };
        let target = ObjectId::new(Arc::clone(&self.to.name), item.to.as_str());
        self.is_copy(&target, source, item.size).await
    }

    /// Whether the target has a copy of this version.
    async fn is_copy(
        &self,
        target: &ObjectId,
        source: VersionKey,
        size: u64,
    ) -> Result<bool, OriginError> {
        match self.to.origin.head(target).await {
            Ok(there) => {
                let named = source_in(&there.headers) == Some(&*source_of(source));
                Ok(named && there.size == size)
            }
            Err(OriginError::NotFound) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The version to copy: the one that was listed, or a newer one.
    async fn version(
        &self,
        item: &Item,
        first: Option<Range<u64>>,
    ) -> Result<Current, OriginError> {
        let object = ObjectId::new(Arc::clone(&self.from.name), item.key.as_str());
        let (reads, asker) = (&self.copier.reads, (0, Class::Warm));
        let mut current = reads
            .current_as(asker, &self.from, &object, first, false)
            .await?;
        if item
            .version
            .is_some_and(|listed| listed != current.version.key)
        {
            // What is known here may be older than the listing.
            current = reads
                .current_as(asker, &self.from, &object, None, true)
                .await?;
        }
        if !current.version.cacheable() {
            return Err(OriginError::Unsupported(
                "the origin names no version of it (no ETag, no Last-Modified), so that nobody could tell whether all of \
                 it is of one: set immutable = true if its objects never change"
                    .into(),
            ));
        }
        Ok(current)
    }

    /// The turn of a piece of so many bytes. Turns are given in the order of asking, so that parts that have to be handed
    /// over in their order are.
    async fn leave(&self, bytes: u64) -> Leave<'_> {
        if let Some(pace) = &self.pace {
            pace.wait(bytes).await;
        }
        // While readers wait, pieces begin one after the other, in a part of the time.
        let demand = self.copier.reads.demand.leave().await;
        let turn = self.breadth.turn().await;
        let grains = u32::try_from(bytes.div_ceil(GRAIN)).unwrap_or(u32::MAX);
        let grains = grains.clamp(1, self.copier.grains);
        // It is never closed.
        let room = Arc::clone(&self.copier.room)
            .acquire_many_owned(grains)
            .await;
        let begun = Instant::now();
        match room {
            Ok(room) => Leave {
                _demand: demand,
                _turn: turn,
                _room: room,
                begun,
            },
            Err(_) => std::future::pending().await,
        }
    }

    fn took(&self, leave: &Leave<'_>, bytes: u64) {
        if !self.copier.reads.demand.is_there() {
            self.breadth.took(bytes, leave.begun.elapsed());
        }
    }

    /// One put.
    async fn small(&self, item: &Item, target: &ObjectId) -> Result<u64, OriginError> {
        let leave = self.leave(item.size).await;
        let current = self.version(item, Some(0..item.size.max(1))).await?;
        let version = Arc::clone(&current.version);
        if version.size > PART {
            drop(leave);
            return Box::pin(self.large(item, target, version)).await;
        }
        let meta = Meta::of_copy(&version);
        let payload = self.read(item, &version, 0..version.size).await?;
        drop(current);
        let urgency = Urgency::from(Class::Warm);
        let written = self
            .again(|| self.to.origin.put(target, &payload, &meta, &urgency))
            .await?;
        if !written.verified {
            let sums = [(0..version.size, payload.sha256())];
            self.read_back(target, version.size, &sums).await?;
        }
        self.progress.moved(version.size);
        self.took(&leave, version.size.max(1));
        Ok(version.size)
    }

    /// The bytes of a range, as a client would read them, but after all of those.
    async fn read(
        &self,
        item: &Item,
        version: &Arc<Version>,
        range: Range<u64>,
    ) -> Result<Payload, OriginError> {
        let bytes = range.end - range.start;
        let mut chunks: Vec<Bytes> = Vec::new();
        if bytes > 0 {
            let object = ObjectId::new(Arc::clone(&self.from.name), item.key.as_str());
            let reader = Reader::new(
                Arc::clone(&self.copier.reads),
                Arc::clone(&self.from),
                object,
                Arc::clone(version),
                [Piece::Range(range)],
            );
            let mut reader = reader.for_nobody();
            loop {
                match reader.step(usize::MAX) {
                    Step::Bytes(more, _) => chunks.push(more),
                    Step::Wait => reader.waiting().await,
                    Step::End => break,
                    Step::Fail(error) => return Err(error),
                }
            }
        }
        self.progress.read(bytes);
        if bytes <= SUMMED_HERE {
            return Ok(Payload::new(chunks));
        }
        let summed = tokio::task::spawn_blocking(move || Payload::new(chunks)).await;
        summed.map_err(|_| OriginError::Abandoned)
    }

    /// Sends a request until it gets an answer that is not for another time.
    async fn again<T, F>(&self, send: impl Fn() -> F) -> Result<T, OriginError>
    where
        F: Future<Output = Result<T, OriginError>>,
    {
        let mut sent = 0;
        loop {
            sent += 1;
            let error = match send().await {
                Err(error) if sent < SENT && !fetch::is_final(&error) => error,
                answer => return answer,
            };
            let dataset = &self.to.name;
            tracing::debug!(%dataset, %error, sent, "a write is sent again");
            tokio::time::sleep(fetch::backoff(sent, u64::from(sent))).await;
            if !self.to.origin.may_ask_again(&Class::Warm.into()) {
                tokio::time::sleep(LATER).await;
            }
        }
    }

    /// Whether what was written is what is there.
    async fn read_back(
        &self,
        target: &ObjectId,
        size: u64,
        sums: &[(Range<u64>, [u8; 32])],
    ) -> Result<(), OriginError> {
        let origin = &self.to.origin;
        let other = || {
            let why = "what it has is not what was written";
            Err(OriginError::BadAnswer(why.into()))
        };
        if size == 0 {
            return match origin.head(target).await?.size {
                0 => Ok(()),
                _ => other(),
            };
        }
        let mut pin: Option<Arc<Version>> = None;
        for (range, sum) in sums {
            let urgency = Urgency::from(Class::Warm);
            let found = origin.sum(target, range.clone(), pin.as_deref(), &urgency);
            let (found, version) = found.await?;
            if found != *sum || version.size != size {
                return other();
            }
            pin = Some(version);
        }
        Ok(())
    }

    /// How many keys were written that nobody was told of.
    pub(super) fn untold(&self) -> usize {
        self.written().len()
    }

    /// Tells the fleet what was written.
    pub(super) async fn tell(&self) {
        let keys = std::mem::take(&mut *self.written());
        self.copier.changed(&self.to.name, keys).await;
    }

    fn written(&self) -> MutexGuard<'_, Vec<String>> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self) -> MutexGuard<'_, HashMap<String, Arc<Upload>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// So few bytes are summed at once; more would keep others from this thread.
const SUMMED_HERE: u64 = 256 << 10;
