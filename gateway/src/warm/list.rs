//! What there is to warm: listed page by page, or named; of each object little more than its key is kept.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use forebay_storage::class::Class;
use forebay_storage::error::OriginError;
use forebay_storage::listing::{ListPage, ListRequest, ListedObject, Start};
use forebay_storage::object::ObjectId;
use forebay_storage::version::VersionKey;
use futures::{StreamExt, TryStreamExt, stream};
use http::{HeaderMap, HeaderValue, header};
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::bring::Failure;
use super::glob::Glob;
use super::job::Job;
use super::order::Order;
use super::paper::Sheet;
use super::place::Crew;
use crate::dataset::Dataset;
use crate::read::fetch;
use crate::read::window::{Piece, Reader, Step};
use crate::settings::size::shown;

/// Objects whose versions are asked for at once, where they were named and not listed.
const ASKED_AT_ONCE: usize = 16;

/// No index file is longer.
const LONGEST_INDEX: u64 = 64 << 20;

/// What is kept of an object beside its key, in bytes, about.
const ENTRY_BYTES: u64 = 96;

/// An object to be warmed.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// Its key.
    pub key: Box<str>,
    /// Its bytes.
    pub size: u64,
    /// Its version, as far as that is known.
    pub version: Option<VersionKey>,
}

impl Entry {
    /// That of a listing: a strong ETag names the version that a GET would, for its other headers do not count.
    pub(crate) fn listed(dataset: &Dataset, object: ListedObject) -> Self {
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

/// What is left to be listed below a prefix.
#[derive(Debug)]
pub struct Pages(Option<ListRequest>);

impl Pages {
    /// All of it.
    pub fn below(prefix: &str) -> Self {
        Self(Some(ListRequest {
            prefix: prefix.to_owned(),
            delimiter: None,
            start: Start::Beginning,
            max_keys: 1000,
        }))
    }

    /// What to ask next; `None`: that was all.
    pub(super) fn request(&self) -> Option<&ListRequest> {
        self.0.as_ref()
    }

    /// Notes that a page came, and where the next one begins.
    pub(super) fn after(&mut self, next: Option<String>) {
        match (&mut self.0, next) {
            (Some(request), Some(token)) => request.start = Start::Token(token),
            (request, _) => *request = None,
        }
    }

    /// The next page, asked of the origin alone; `None`: that was all.
    pub(crate) async fn next(
        &mut self,
        dataset: &Dataset,
    ) -> Result<Option<ListPage>, OriginError> {
        let Some(request) = self.request() else {
            return Ok(None);
        };
        let mut tries = 0;
        let mut page = loop {
            match dataset.origin.list(request).await {
                Err(error)
                    if !fetch::is_final(&error)
                        && tries < fetch::TRIES
                        && dataset.origin.may_ask_again(&Class::Warm.into()) =>
                {
                    tries += 1;
                    let spread = request.prefix.len() as u64;
                    tokio::time::sleep(fetch::backoff(tries, spread)).await;
                }
                page => break page?,
            }
        };
        self.after(page.next.take());
        Ok(Some(page))
    }
}

/// What there is to warm, and the memory of its list.
#[derive(Debug)]
pub(super) struct List {
    /// The objects, in the order of their keys where they are listed.
    pub entries: Vec<Entry>,
    _sheet: Sheet,
}

/// All objects that a job was asked for. Of more than `most` bytes none is kept: they are only counted.
///
/// # Errors
/// What the origin says; or that the list takes more memory than jobs may have.
pub(super) async fn gather(
    crew: &Crew,
    dataset: &Arc<Dataset>,
    job: &Job,
    most: u64,
) -> Result<List, Failure> {
    let order = &job.order;
    let glob = order.glob.as_deref().map(Glob::parse).transpose();
    let glob = glob.map_err(Failure::Refused)?;
    job.list_anew();
    let mut gathering = Gathering {
        crew,
        dataset,
        job,
        glob,
        most,
        taken: 0,
        kept: 0,
        sheet: crew.paper.sheet(1).await.ok_or_else(|| full(crew, 0))?,
        entries: Vec::new(),
    };
    for prefix in &order.prefixes {
        let mut pages = Pages::below(prefix);
        loop {
            match pages.next(dataset).await {
                Ok(Some(page)) => gathering.take(page).await?,
                Ok(None) => break,
                // An origin that can't list may have an object of that very name.
                Err(OriginError::Unsupported(why)) => {
                    if prefix.is_empty() || prefix.ends_with('/') || order.glob.is_some() {
                        return Err(Failure::Refused(format!(
                            "{why}: name a key instead of a prefix, a list of `keys`, or an `index`"
                        )));
                    }
                    let named = named_ones(crew, dataset, vec![prefix.clone()]).await?;
                    gathering.add(named).await?;
                    break;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
    let mut names: BTreeSet<String> = order.keys.iter().cloned().collect();
    for index in &order.index {
        names.extend(shards(crew, dataset, index).await?);
    }
    if !names.is_empty() {
        let named = named_ones(crew, dataset, names.into_iter().collect()).await?;
        gathering.add(named).await?;
    }
    Ok(List {
        entries: gathering.entries,
        _sheet: gathering.sheet,
    })
}

/// That a list of so many objects has no room.
fn full(crew: &Crew, objects: usize) -> Failure {
    Failure::Refused(format!(
        "the list of its objects takes more memory than is left: it is at {objects} objects, and all jobs together have \
         {} for what they know, a quarter of [cache] memory; warm a part at a time, or fewer jobs at once, or set more",
        shown(crew.paper.most())
    ))
}

struct Gathering<'a> {
    crew: &'a Crew,
    dataset: &'a Dataset,
    job: &'a Job,
    glob: Option<Glob>,
    most: u64,
    /// Bytes of objects, and bytes of their list.
    taken: u64,
    kept: u64,
    sheet: Sheet,
    entries: Vec<Entry>,
}

impl Gathering<'_> {
    async fn take(&mut self, page: ListPage) -> Result<(), Failure> {
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
        self.add(wanted).await
    }

    /// Bytes of an object, or of the part that is asked for by itself.
    fn wanted(&self, entry: &Entry) -> u64 {
        let order = &self.job.order;
        if !order.parts.contains_key(&*entry.key) {
            return entry.size;
        }
        let blocks = order.blocks(&entry.key, self.crew.reads.store.block_size(), entry.size);
        let bytes = blocks
            .iter()
            .map(|blocks| self.crew.bytes_of(blocks, entry.size));
        bytes.sum()
    }

    async fn add(&mut self, entries: Vec<Entry>) -> Result<(), Failure> {
        let sizes = entries.iter().map(|entry| self.wanted(entry));
        let bytes = sizes.fold(0, u64::saturating_add);
        self.job.listed(entries.len() as u64, bytes);
        self.taken = self.taken.saturating_add(bytes);
        if self.taken > self.most {
            self.entries = Vec::new();
            return Ok(());
        }
        let kept = entries
            .iter()
            .map(|entry| ENTRY_BYTES + entry.key.len() as u64);
        self.kept += kept.sum::<u64>();
        if !self.crew.paper.grow(&mut self.sheet, self.kept).await {
            return Err(full(self.crew, self.entries.len() + entries.len()));
        }
        self.entries.extend(entries);
        Ok(())
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

impl Crew {
    /// The text of a small object, and the memory that it takes.
    ///
    /// # Errors
    /// What the origin says; or that it is too long, or takes more memory than jobs may have.
    pub async fn text(
        &self,
        dataset: &Arc<Dataset>,
        key: &str,
    ) -> Result<(Vec<u8>, Sheet), Failure> {
        whole(self, dataset, key).await
    }
}

/// The files that an index of safetensors names, which lie beside it, and the index itself.
async fn shards(
    crew: &Crew,
    dataset: &Arc<Dataset>,
    index: &str,
) -> Result<BTreeSet<String>, Failure> {
    let (text, _sheet) = whole(crew, dataset, index).await?;
    let none = |why: &str| Failure::Refused(format!("{index} is no index of safetensors: {why}"));
    let parsed: Index = serde_json::from_slice(&text).map_err(|error| {
        none(match error.is_data() {
            true => "it has no weight_map that names files",
            false => "it is no JSON",
        })
    })?;
    let beside = index.rsplit_once('/').map_or("", |(place, _)| place);
    let mut names = BTreeSet::from([index.to_owned()]);
    for name in parsed.weight_map.0 {
        names.insert(match beside {
            "" => name,
            beside => format!("{beside}/{name}"),
        });
    }
    Ok(names)
}

/// An index of safetensors, as far as it is looked at.
#[derive(Deserialize)]
struct Index {
    weight_map: Files,
}

/// The files in which tensors are, each once: an index names some of them for each of many thousand tensors.
struct Files(BTreeSet<String>);

impl<'de> Deserialize<'de> for Files {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Names;
        impl<'de> Visitor<'de> for Names {
            type Value = BTreeSet<String>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the files of tensors by their names")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut names = BTreeSet::new();
                while let Some((_, name)) = map.next_entry::<IgnoredAny, String>()? {
                    names.insert(name);
                }
                Ok(names)
            }
        }
        deserializer.deserialize_map(Names).map(Self)
    }
}

/// The bytes of a small object, read as a client would, but behind all of those.
///
/// # Errors
/// What keeps them from being had, as a sentence with the key.
pub(crate) async fn whole(
    crew: &Crew,
    dataset: &Arc<Dataset>,
    key: &str,
) -> Result<(Vec<u8>, Sheet), Failure> {
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
    // Its text, and what is made of it.
    let sheet = crew.paper.sheet(version.size.saturating_mul(2)).await;
    let sheet = sheet.ok_or_else(|| full(crew, 0))?;
    let pieces = [Piece::Range(0..version.size)];
    let _leave = reads.demand.leave().await;
    let reader = Reader::new(
        Arc::clone(reads),
        Arc::clone(dataset),
        object,
        version,
        pieces,
    );
    let mut reader = reader.for_nobody();
    let mut bytes = Vec::new();
    loop {
        match reader.step(usize::MAX) {
            Step::Bytes(more, _) => bytes.extend_from_slice(&more),
            Step::Wait => reader.waiting().await,
            Step::End => return Ok((bytes, sheet)),
            Step::Fail(error) => return Err(about(key, &error)),
        }
    }
}
