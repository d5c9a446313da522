//! A large object: an upload in parts, several at once, that is gone on with where another life of it left off.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use forebay_storage::class::{Class, Urgency};
use forebay_storage::error::OriginError;
use forebay_storage::object::ObjectId;
use forebay_storage::origin::Origin;
use forebay_storage::origin::write::{Meta, PartDone, Upload, Written, source_of};
use forebay_storage::version::Version;
use futures::StreamExt;
use futures::stream::FuturesUnordered;

use super::{PART, SENT, Work};
use crate::copy::plan::Item;
use crate::copy::uploads::Begun;
use crate::read::fetch;
use crate::settings::size::shown;

/// S3 takes no more parts of one object.
const MOST_PARTS: u64 = 10_000;

/// An object, its copy's name, the version that is copied, and the upload that it goes into.
type What<'a> = (&'a Item, &'a ObjectId, &'a Arc<Version>, &'a Arc<Upload>);

impl Work {
    /// An upload in parts.
    pub(super) async fn large(
        &self,
        item: &Item,
        target: &ObjectId,
        version: Arc<Version>,
    ) -> Result<u64, OriginError> {
        let part_bytes = part_bytes(version.size);
        if part_bytes > self.copier.most() {
            let (part, most) = (shown(part_bytes), shown(self.copier.most()));
            let why = format!(
                "its parts have {part}, and copies may hold {most}, an eighth of [cache] memory: set more"
            );
            return Err(OriginError::Unsupported(why.into()));
        }
        let (upload, found) = self.upload(target, &version, part_bytes).await?;
        let moved = AtomicU64::new(0);
        let what = (item, target, &version, &upload);
        let written = self.parts(what, part_bytes, found, &moved).await;
        if written.is_err() {
            self.progress.moved_in_vain(moved.into_inner());
            // What was begun of this version is of no use to the next, and what failed is begun anew.
            self.abort(&target.key, &upload).await;
        }
        self.open().remove(&*target.key);
        written.map(|()| version.size)
    }

    async fn parts(
        &self,
        (item, target, version, upload): What<'_>,
        part_bytes: u64,
        found: Vec<PartDone>,
        moved: &AtomicU64,
    ) -> Result<(), OriginError> {
        let urgency = Urgency::from(Class::Warm);
        let note = &|bytes: u64| {
            self.progress.moved(bytes);
            moved.fetch_add(bytes, Ordering::Relaxed);
        };
        let mut found: HashMap<u32, PartDone> =
            found.into_iter().map(|part| (part.number, part)).collect();
        let mut done: Vec<(PartDone, Option<[u8; 32]>)> = Vec::new();
        let mut under_way = FuturesUnordered::new();
        let mut number = 0;
        let mut start = 0;
        while start < version.size {
            number += 1;
            let range = start..(start + part_bytes).min(version.size);
            let bytes = range.end - start;
            start = range.end;
            if let Some(part) = found.remove(&number).filter(|part| part.size == bytes) {
                note(bytes);
                done.push((part, None));
                continue;
            }
            // In their order, so that the first of them that has no turn keeps none behind it from going on.
            let mut leave = std::pin::pin!(self.leave(bytes));
            let leave = loop {
                tokio::select! {
                    biased;
                    leave = &mut leave => break leave,
                    Some(part) = under_way.next() => done.push(part?),
                }
            };
            let (number, urgency) = (number, &urgency);
            under_way.push(async move {
                let payload = self.read(item, version, range.clone()).await?;
                let put = || {
                    let place = (number, range.start);
                    self.to.origin.put_part(upload, place, &payload, urgency)
                };
                let part = match Origin::may_put_again(upload) {
                    true => self.again(put).await?,
                    false => put().await?,
                };
                note(bytes);
                self.took(&leave, bytes);
                Ok::<_, OriginError>((part, Some(payload.sha256())))
            });
        }
        while let Some(part) = under_way.next().await {
            done.push(part?);
        }
        drop(under_way);
        self.complete((item, target, version, upload), part_bytes, done)
            .await
    }

    /// Makes the object of its parts, each with its sum as far as that is known.
    async fn complete(
        &self,
        (item, target, version, upload): What<'_>,
        part_bytes: u64,
        mut done: Vec<(PartDone, Option<[u8; 32]>)>,
    ) -> Result<(), OriginError> {
        done.sort_by_key(|(part, _)| part.number);
        let parts: Vec<PartDone> = done.iter().map(|(part, _)| part.clone()).collect();
        let written = self.completed((target, version, upload), &parts).await?;
        self.copier.uploads.forget(&self.to.name, &target.key).await;
        if written.verified {
            return Ok(());
        }
        let mut sums = Vec::new();
        for (part, sum) in done {
            let start = u64::from(part.number - 1) * part_bytes;
            let range = start..start + part.size;
            let sum = match sum {
                Some(sum) => sum,
                // It was there already, and nobody but its source knows what it should be.
                None => {
                    let _leave = self.leave(part.size).await;
                    self.read(item, version, range.clone()).await?.sha256()
                }
            };
            sums.push((range, sum));
        }
        self.read_back(target, version.size, &sums).await
    }

    /// Asks for the object until it is there. The answer to that may be lost, and the next is that there is no such upload
    /// any more: then the object itself says whether it was made.
    async fn completed(
        &self,
        (target, version, upload): (&ObjectId, &Version, &Upload),
        parts: &[PartDone],
    ) -> Result<Written, OriginError> {
        let urgency = Urgency::from(Class::Warm);
        let mut sent = 0;
        loop {
            sent += 1;
            let error = match self.to.origin.complete(upload, parts, &urgency).await {
                Ok(written) => return Ok(written),
                Err(error) => error,
            };
            let is_copy = self.is_copy(target, version.key, version.size).await;
            if is_copy == Ok(true) {
                return Ok(Written { verified: false });
            }
            if sent == SENT || fetch::is_final(&error) || !Origin::may_put_again(upload) {
                return Err(error);
            }
            let dataset = &self.to.name;
            tracing::debug!(%dataset, %error, sent, "an upload is completed once more");
            tokio::time::sleep(fetch::backoff(sent, version.size)).await;
        }
    }

    /// An upload to go on with, and the parts that it has; or a new one.
    async fn upload(
        &self,
        target: &ObjectId,
        version: &Version,
        part_bytes: u64,
    ) -> Result<(Arc<Upload>, Vec<PartDone>), OriginError> {
        let (urgency, uploads) = (Urgency::from(Class::Warm), &self.copier.uploads);
        let origin = &self.to.origin;
        let source = source_of(version.key);
        if let Some(begun) = uploads.find(&self.to.name, &target.key).await
            && let Some((old, parts)) = origin.resume(target, &begun.upload, &urgency).await?
        {
            if begun.source == source && begun.part_bytes == part_bytes {
                let upload = Arc::new(old);
                self.open()
                    .insert(target.key.to_string(), Arc::clone(&upload));
                return Ok((upload, parts));
            }
            self.again(|| origin.abort(&old, &urgency)).await?;
        }
        let meta = Meta::of_copy(version);
        let upload = self.again(|| origin.begin(target, &meta, &urgency)).await?;
        let upload = Arc::new(upload);
        self.open()
            .insert(target.key.to_string(), Arc::clone(&upload));
        if let Some(id) = upload.id() {
            uploads
                .note(&Begun {
                    dataset: self.to.name.to_string(),
                    key: target.key.to_string(),
                    source,
                    part_bytes,
                    upload: id.to_owned(),
                })
                .await;
        }
        Ok((upload, Vec::new()))
    }

    /// Gives up all uploads that were begun: the copy does not go on.
    pub(in crate::copy) async fn give_up(&self) {
        let open: Vec<_> = self.open().drain().collect();
        for (key, upload) in open {
            self.abort(&key, &upload).await;
        }
    }

    async fn abort(&self, key: &str, upload: &Upload) {
        let urgency = Urgency::from(Class::Warm);
        // A part that is still on its way to the bucket may keep it from that for a moment.
        let aborted = self.again(|| self.to.origin.abort(upload, &urgency)).await;
        match aborted {
            Ok(()) => self.copier.uploads.forget(&self.to.name, key).await,
            // It stays written down, for the next copy.
            Err(error) => {
                let dataset = &self.to.name;
                tracing::info!(%dataset, key, %error, "an upload can't be given up for now");
            }
        }
    }
}

/// Parts of an object of `size` bytes: the same at every try.
fn part_bytes(size: u64) -> u64 {
    let least = size.div_ceil(MOST_PARTS);
    PART.max(least.div_ceil(1 << 20) << 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_object_has_more_parts_than_s3_takes() {
        assert_eq!(part_bytes(PART + 1), PART);
        assert_eq!(part_bytes(MOST_PARTS * PART), PART);
        let large = part_bytes(MOST_PARTS * PART + 1);
        assert_eq!(large, PART + (1 << 20));
        let largest = 5 << 40;
        assert!(largest / part_bytes(largest) <= MOST_PARTS);
    }
}
