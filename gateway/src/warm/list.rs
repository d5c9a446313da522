//! What there is to warm: listed page by page, or named; of each object little more than its key is kept.

use std::collections::BTreeSet;
use std::sync::Arc;

use forebay_storage::error::OriginError;
use forebay_storage::listing::{ListPage, ListRequest, ListedObject, Start};
use forebay_storage::object::ObjectId;
use forebay_storage::version::VersionKey;
use futures::{StreamExt, TryStreamExt, stream};
use http::{HeaderMap, HeaderValue, header};

use super::bring::Failure;
use super::glob::Glob;
use super::job::Job;
use super::order::Order;
use super::place::Crew;
use crate::dataset::Dataset;
use crate::read::window::{Piece, Reader, Step};

/// Objects whose versions are asked for at once, where they were named and not listed.
const ASKED_AT_ONCE: usize = 16;

/// No index file is longer.
const LONGEST_INDEX: u64 = 64 << 20;

/// What is kept of an object beside its key, in bytes, about.
const ENTRY_BYTES: u64 = 96;

/// An object to be warmed.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// Its key.
    pub key: Box<str>,
    /// Its bytes.
    pub size: u64,
    /// Its version, as far as that is known.
    pub version: Option<VersionKey>,
}

impl Entry {
    /// That of a listing: a strong ETag names the version that a GET would, for its other headers do not count.
    pub(super) fn listed(dataset: &Dataset, object: ListedObject) -> Self {
        let id = ObjectId::new(Arc::clone(&dataset.name), object.key.as_str());
        let etag = object.etag.as_deref().filter(|etag| etag.starts_with('"'));
        let etag = etag.and_then(|etag| HeaderValue::try_from(etag).ok());
        let version = etag.and_then(|etag| {
            let headers = HeaderMap::from_iter([(header::ETAG, etag)]);
            dataset.origin.describe(&id, object.size, &headers).ok()
        });
        Self {
            key: object.key.into(),
            size: object.size,
            version: version.map(|version| version.key),
        }
    }

    /// Its object.
    pub(super) fn object(&self, dataset: &Dataset) -> ObjectId {
        ObjectId::new(Arc::clone(&dataset.name), &*self.key)
    }
}

/// Hands every page of what begins with `prefix` to `take`, one after the other.
pub(super) async fn pages(
    dataset: &Dataset,
    prefix: &str,
    mut take: impl FnMut(ListPage),
) -> Result<(), OriginError> {
    let mut request = ListRequest {
        prefix: prefix.to_owned(),
        delimiter: None,
        start: Start::Beginning,
        max_keys: 1000,
    };
    let mut tries = 0;
    loop {
        let mut page = match dataset.origin.list(&request).await {
            Err(error) if error.retryable() && tries < 4 => {
                tries += 1;
                tokio::time::sleep(crate::read::fetch::backoff(tries, prefix.len() as u64)).await;
                continue;
            }
            page => page?,
        };
        tries = 0;
        let next = page.next.take();
        take(page);
        match next {
            Some(token) => request.start = Start::Token(token),
            None => return Ok(()),
        }
    }
}

/// All objects that a job was asked for, in the order of their keys where they are listed. Of more than `most` bytes,
/// their tables counted, none is kept: they are only counted.
pub(super) async fn gather(
    crew: &Crew,
    dataset: &Arc<Dataset>,
    job: &Job,
    most: u64,
) -> Result<Vec<Entry>, Failure> {
    let order = &job.order;
    let glob = order.glob.as_deref().map(Glob::parse).transpose();
    let glob = glob.map_err(Failure::Refused)?;
    let mut gathering = Gathering {
        dataset,
        job,
        glob,
        most,
        taken: 0,
        entries: Vec::new(),
    };
    for prefix in &order.prefixes {
        match pages(dataset, prefix, |page| gathering.take(page)).await {
            Ok(()) => {}
            // An origin that can't list may have an object of that very name.
            Err(OriginError::Unsupported(why)) => {
                if prefix.is_empty() || prefix.ends_with('/') || order.glob.is_some() {
                    return Err(Failure::Refused(format!(
                        "{why}: name a key instead of a prefix, a list of `keys`, or an `index`"
                    )));
                }
                let named = vec![prefix.clone()];
                gathering.add(named_ones(crew, dataset, named).await?);
            }
            Err(error) => return Err(error.into()),
        }
    }
    let mut names: BTreeSet<String> = order.keys.iter().cloned().collect();
    for index in &order.index {
        names.extend(shards(crew, dataset, index).await?);
    }
    if !names.is_empty() {
        let named = named_ones(crew, dataset, names.into_iter().collect()).await?;
        gathering.add(named);
    }
    Ok(gathering.entries)
}

struct Gathering<'a> {
    dataset: &'a Dataset,
    job: &'a Job,
    glob: Option<Glob>,
    most: u64,
    /// Bytes of objects, and of what is kept of them.
    taken: u64,
    entries: Vec<Entry>,
}

impl Gathering<'_> {
    fn take(&mut self, page: ListPage) {
        let Order { prefix, .. } = &self.job.order;
        let glob = self.glob.take();
        let wanted = page.objects.into_iter().filter(|object| {
            let rest = object.key.strip_prefix(prefix.as_str());
            glob.as_ref()
                .is_none_or(|glob| glob.matches(rest.unwrap_or(&object.key)))
        });
        let wanted = wanted.map(|object| Entry::listed(self.dataset, object));
        let wanted: Vec<Entry> = wanted.collect();
        self.glob = glob;
        self.add(wanted);
    }

    fn add(&mut self, entries: Vec<Entry>) {
        let bytes = entries.iter().map(|entry| entry.size).sum();
        self.job.listed(entries.len() as u64, bytes);
        let kept = entries
            .iter()
            .map(|entry| ENTRY_BYTES + entry.key.len() as u64);
        self.taken = self.taken.saturating_add(bytes + kept.sum::<u64>());
        match self.taken > self.most {
            true => self.entries = Vec::new(),
            false => self.entries.extend(entries),
        }
    }
}

/// Objects that were named, each with what its origin says of it.
async fn named_ones(
    crew: &Crew,
    dataset: &Arc<Dataset>,
    keys: Vec<String>,
) -> Result<Vec<Entry>, Failure> {
    let asked = keys.into_iter().map(|key| async move {
        let object = ObjectId::new(Arc::clone(&dataset.name), key.as_str());
        let current = crew.reads.current(dataset, &object, None, false).await;
        let current = current.map_err(|error| about(&key, &error))?;
        Ok::<_, Failure>(Entry {
            key: key.into(),
            size: current.version.size,
            version: Some(current.version.key),
        })
    });
    stream::iter(asked)
        .buffered(ASKED_AT_ONCE)
        .try_collect()
        .await
}

fn about(key: &str, error: &OriginError) -> Failure {
    Failure::Refused(format!("{key}: {error}"))
}

/// The files that an index of safetensors names, which lie beside it, and the index itself.
async fn shards(
    crew: &Crew,
    dataset: &Arc<Dataset>,
    index: &str,
) -> Result<BTreeSet<String>, Failure> {
    let text = whole(crew, dataset, index).await?;
    let none = |why: &str| Failure::Refused(format!("{index} is no index of safetensors: {why}"));
    let parsed: serde_json::Value =
        serde_json::from_slice(&text).map_err(|_| none("it is no JSON"))?;
    let map = parsed["weight_map"].as_object();
    let map = map.ok_or_else(|| none("it has no weight_map"))?;
    let beside = index.rsplit_once('/').map_or("", |(place, _)| place);
    let mut names = BTreeSet::from([index.to_owned()]);
    for name in map.values() {
        let name = name.as_str();
        let name = name.ok_or_else(|| none("its weight_map names something else than files"))?;
        names.insert(match beside {
            "" => name.to_owned(),
            beside => format!("{beside}/{name}"),
        });
    }
    Ok(names)
}

/// The bytes of a small object, read as a client would.
async fn whole(crew: &Crew, dataset: &Arc<Dataset>, key: &str) -> Result<Vec<u8>, Failure> {
    let object = ObjectId::new(Arc::clone(&dataset.name), key);
    let reads = &crew.reads;
    let current = reads.current(dataset, &object, None, false).await;
    let version = current.map_err(|error| about(key, &error))?.version;
    if version.size > LONGEST_INDEX {
        let bytes = version.size;
        return Err(Failure::Refused(format!(
            "{key} has {bytes} bytes, which is too long for an index"
        )));
    }
    if !version.cacheable() {
        return Err(Failure::Unversioned);
    }
    let pieces = [Piece::Range(0..version.size)];
    let mut reader = Reader::new(
        Arc::clone(reads),
        Arc::clone(dataset),
        object,
        version,
        pieces,
    );
    let mut bytes = Vec::new();
    loop {
        match reader.step(usize::MAX) {
            Step::Bytes(more, _) => bytes.extend_from_slice(&more),
            Step::Wait => reader.waiting().await,
            Step::End => return Ok(bytes),
            Step::Fail(error) => return Err(about(key, &error)),
        }
    }
}
