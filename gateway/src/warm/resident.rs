//! How much of what an origin has is resident: asked of the owners, and nothing is moved.

use std::sync::Arc;

use forebay_storage::error::OriginError;
use forebay_storage::listing::ListPage;
use forebay_storage::object::ObjectId;
use forebay_storage::version::VersionKey;
use futures::{StreamExt, stream};

use super::bring::Failure;
use super::list::{Entry, Pages};
use super::order::{Order, Tier};
use super::place::Crew;
use crate::dataset::Dataset;
use crate::listings::Listings;

/// Keys that are told of.
const TOLD: usize = 10;

/// Objects whose versions are asked for at once, where a listing does not tell them.
const ASKED_AT_ONCE: usize = 16;

/// What of a prefix is resident.
#[derive(Clone, Debug, Default)]
pub struct Resident {
    /// Objects that the origin has.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Of those, the resident ones.
    pub resident_bytes: u64,
    /// The first keys of which something is missing.
    pub missing: Vec<String>,
}

impl Resident {
    /// Whether there is something, and all of it is resident.
    pub fn is_all(&self) -> bool {
        self.objects > 0 && self.missing.is_empty()
    }

    /// The resident part, in percent.
    pub fn percent(&self) -> f64 {
        match self.bytes {
            0 if self.is_all() => 100.0,
            0 => 0.0,
            bytes => self.resident_bytes as f64 * 100.0 / bytes as f64,
        }
    }
}

/// A page of a listing, or the one object of that very name where the origin can't be listed.
enum Page {
    Listed(Arc<ListPage>),
    Named(Entry),
}

impl Crew {
    /// What of everything below `prefix` is resident in `tier` with its owners.
    ///
    /// # Errors
    /// If the origin can't be listed, and has no object of that very name either.
    pub async fn resident(
        self: &Arc<Self>,
        listings: &Arc<Listings>,
        dataset: &Arc<Dataset>,
        prefix: &str,
        tier: Tier,
    ) -> Result<Resident, OriginError> {
        let order = Order::all(&dataset.name, prefix, tier);
        let mut resident = Resident::default();
        let mut pages = Pages::below(prefix);
        while let Some(page) = self.next_page(listings, dataset, &mut pages).await? {
            let entries = match page {
                Page::Listed(page) => self.entries(dataset, &page).await?,
                Page::Named(entry) => vec![entry],
            };
            self.add(dataset, &order, entries, &mut resident).await;
        }
        Ok(resident)
    }

    /// The same of these objects in these versions, whatever the origin has by now.
    pub async fn resident_of(
        self: &Arc<Self>,
        dataset: &Arc<Dataset>,
        objects: impl Iterator<Item = (String, u64, VersionKey)>,
        tier: Tier,
    ) -> Resident {
        let order = Order::all(&dataset.name, "", tier);
        let entries = objects.map(|(key, size, version)| Entry {
            key: key.into(),
            size,
            version: Some(version),
        });
        let mut resident = Resident::default();
        let entries = entries.collect();
        self.add(dataset, &order, entries, &mut resident).await;
        resident
    }

    /// How many objects the origin has below `prefix`, and their bytes.
    ///
    /// # Errors
    /// If the origin can't be listed, and has no object of that very name either.
    pub async fn size(
        self: &Arc<Self>,
        listings: &Arc<Listings>,
        dataset: &Arc<Dataset>,
        prefix: &str,
    ) -> Result<(u64, u64), OriginError> {
        let (mut objects, mut bytes) = (0, 0u64);
        let mut pages = Pages::below(prefix);
        while let Some(page) = self.next_page(listings, dataset, &mut pages).await? {
            let page = match page {
                Page::Listed(page) => page,
                Page::Named(entry) => return Ok((1, entry.size)),
            };
            objects += page.objects.len() as u64;
            let sizes = page.objects.iter().map(|object| object.size);
            bytes = sizes.fold(bytes, u64::saturating_add);
        }
        Ok((objects, bytes))
    }

    /// The keys of the next page below a prefix, each with the version that the origin has now, however young what is
    /// known of it is. `None`: that was all.
    ///
    /// # Errors
    /// If the origin can't be listed.
    pub async fn current(
        self: &Arc<Self>,
        dataset: &Arc<Dataset>,
        pages: &mut Pages,
    ) -> Result<Option<Vec<(String, Option<VersionKey>)>>, OriginError> {
        let Some(page) = pages.next(dataset).await? else {
            return Ok(None);
        };
        let entries = self.entries(dataset, &page).await?.into_iter();
        let current = entries.map(|entry| (entry.key.into(), entry.version));
        Ok(Some(current.collect()))
    }

    async fn next_page(
        self: &Arc<Self>,
        listings: &Arc<Listings>,
        dataset: &Arc<Dataset>,
        pages: &mut Pages,
    ) -> Result<Option<Page>, OriginError> {
        let Some(request) = pages.request() else {
            return Ok(None);
        };
        let page = match listings.page(dataset, request).await {
            Err(OriginError::Unsupported(_)) if !request.prefix.is_empty() => {
                let named = self.named(dataset, &request.prefix).await?;
                pages.after(None);
                return Ok(Some(Page::Named(named)));
            }
            page => page?,
        };
        pages.after(page.next.clone());
        Ok(Some(Page::Listed(page)))
    }

    async fn named(
        self: &Arc<Self>,
        dataset: &Arc<Dataset>,
        key: &str,
    ) -> Result<Entry, OriginError> {
        let object = ObjectId::new(Arc::clone(&dataset.name), key);
        let current = self.reads.current(dataset, &object, None, false).await?;
        Ok(Entry {
            key: key.into(),
            size: current.version.size,
            version: Some(current.version.key),
        })
    }

    /// The objects of a page with their versions.
    async fn entries(
        self: &Arc<Self>,
        dataset: &Arc<Dataset>,
        page: &ListPage,
    ) -> Result<Vec<Entry>, OriginError> {
        let listed = page.objects.iter().cloned();
        let entries = listed.map(|object| async move {
            let entry = Entry::listed(dataset, object);
            match entry.version {
                Some(_) => Ok(entry),
                None if entry.size == 0 => Ok(entry),
                None => match self.named(dataset, &entry.key).await {
                    // It was listed a moment ago: then it is missing here in any case.
                    Err(OriginError::NotFound) => Ok(entry),
                    named => named,
                },
            }
        });
        let entries: Vec<_> = stream::iter(entries)
            .buffered(ASKED_AT_ONCE)
            .collect()
            .await;
        entries.into_iter().collect()
    }

    async fn add(
        self: &Arc<Self>,
        dataset: &Dataset,
        order: &Order,
        entries: Vec<Entry>,
        resident: &mut Resident,
    ) {
        let checked = self.check(dataset, order, &entries).await;
        resident.objects += entries.len() as u64;
        resident.bytes += checked.bytes;
        resident.resident_bytes += checked.bytes.saturating_sub(checked.missing_bytes);
        let mut missing: Vec<usize> = Vec::new();
        for one in &checked.missing {
            missing.push(one.entry);
        }
        for (at, entry) in entries.iter().enumerate() {
            let refuted = &self.purges.refuted;
            if !entry.version.is_some_and(|version| refuted.has(version)) {
                continue;
            }
            // Whatever of it is cached: none of it is what it should be.
            let blocks = checked.missing.iter().filter(|one| one.entry == at);
            let counted = blocks.map(|one| self.bytes_of(&one.share.blocks, entry.size));
            let here = entry.size.saturating_sub(counted.sum::<u64>());
            resident.resident_bytes = resident.resident_bytes.saturating_sub(here);
            missing.push(at);
        }
        missing.sort_unstable();
        missing.dedup();
        for at in missing {
            if resident.missing.len() >= TOLD {
                break;
            }
            resident.missing.push(entries[at].key.to_string());
        }
    }

    /// Whether a job that verifies nothing may call these resident.
    ///
    /// # Errors
    /// Which one is not what it is said to be, as an earlier job found out.
    pub(super) fn not_refuted(&self, order: &Order, entries: &[Entry]) -> Result<(), Failure> {
        let refuted = |entry: &&Entry| {
            let version = entry.version;
            version.is_some_and(|version| self.purges.refuted.has(version))
        };
        match entries.iter().find(refuted).filter(|_| !order.verify) {
            None => Ok(()),
            Some(entry) => Err(Failure::Refused(format!(
                "{} is not what it is said to be, as a job that verified it found: once its origin is mended, warm it \
                 with verify",
                entry.key
            ))),
        }
    }
}
