//! What there is to copy: both sides are listed at once, in the order of their keys, so that of neither more than a page
//! is kept.

use std::collections::VecDeque;
use std::sync::Arc;

use forebay_storage::class::Class;
use forebay_storage::error::OriginError;
use forebay_storage::listing::ListedObject;
use forebay_storage::object::ObjectId;
use forebay_storage::version::VersionKey;
use tokio::sync::mpsc;

use super::{CopyError, CopyOrder};
use crate::dataset::Dataset;
use crate::read::Reads;
use crate::warm::glob::Glob;
use crate::warm::list::{Entry, Pages};

/// An object to be copied, as the listings tell of it.
#[derive(Clone, Debug)]
pub(super) struct Item {
    /// Its key, and that of its copy.
    pub(super) key: String,
    pub(super) to: String,
    pub(super) size: u64,
    pub(super) etag: Option<String>,
    /// Its version, as far as that is known.
    pub(super) version: Option<VersionKey>,
    /// What is at the copy's place: its size and ETag.
    pub(super) there: Option<(u64, Option<String>)>,
}

/// The listings of a copy.
pub(super) struct Plan {
    order: CopyOrder,
    from: Arc<Dataset>,
    to: Arc<Dataset>,
    glob: Option<Glob>,
    source: Side,
    target: Side,
}

/// One side, listed page by page.
struct Side {
    pages: Pages,
    page: VecDeque<ListedObject>,
    over: bool,
}

impl Side {
    fn below(prefix: &str) -> Self {
        Self {
            pages: Pages::below(prefix),
            page: VecDeque::new(),
            over: false,
        }
    }

    async fn front(&mut self, dataset: &Dataset) -> Result<Option<&ListedObject>, OriginError> {
        while self.page.is_empty() && !self.over {
            match self.pages.next(dataset).await? {
                Some(page) => self.page.extend(page.objects),
                None => self.over = true,
            }
        }
        Ok(self.page.front())
    }
}

impl Plan {
    pub(super) fn new(order: &CopyOrder, from: &Arc<Dataset>, to: &Arc<Dataset>) -> Self {
        Self {
            order: order.clone(),
            from: Arc::clone(from),
            to: Arc::clone(to),
            // It was judged before.
            glob: order
                .glob
                .as_deref()
                .and_then(|glob| Glob::parse(glob).ok()),
            source: Side::below(&order.from.prefix),
            target: Side::below(&order.to.prefix),
        }
    }

    /// Hands on what there is, as fast as it is taken; false: nobody takes it any more.
    pub(super) async fn list(
        mut self,
        reads: Arc<Reads>,
        items: mpsc::Sender<Item>,
    ) -> Result<bool, CopyError> {
        while let Some(item) = self.next(&reads).await? {
            if items.send(item).await.is_err() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The next object; `None`: that was the last.
    async fn next(&mut self, reads: &Arc<Reads>) -> Result<Option<Item>, CopyError> {
        loop {
            let found = match self.source.front(&self.from).await {
                Ok(Some(object)) => object.clone(),
                Ok(None) => return Ok(None),
                Err(OriginError::Unsupported(why)) => self.named(reads, &why).await?,
                Err(error) => return Err(CopyError::of_listing(&self.from, &error)),
            };
            let rest = found.key.strip_prefix(&self.order.from.prefix);
            let rest = rest.unwrap_or(&found.key).to_owned();
            if self.glob.as_ref().is_some_and(|glob| !glob.matches(&rest)) {
                self.source.page.pop_front();
                continue;
            }
            let to = format!("{}{rest}", self.order.to.prefix);
            if to.is_empty() {
                return Err(CopyError::Refused(format!(
                    "{} would be copied to a key without a name: name one behind {}/",
                    found.key, self.order.to.dataset
                )));
            }
            self.order.may_write(&self.to, &to)?;
            let there = self.there(&to).await?;
            self.source.page.pop_front();
            let etag = found.etag.clone();
            let Entry { key, size, version } = Entry::listed(&self.from, found);
            return Ok(Some(Item {
                key: key.into(),
                to,
                size,
                etag,
                version,
                there,
            }));
        }
    }

    /// What is at the place of a copy. Keys come in their order, so what lies before it is of no use any more.
    async fn there(&mut self, key: &str) -> Result<Option<(u64, Option<String>)>, CopyError> {
        loop {
            let front = self.target.front(&self.to).await;
            let front = front.map_err(|error| CopyError::of_listing(&self.to, &error))?;
            match front {
                Some(object) if object.key.as_str() < key => {
                    self.target.page.pop_front();
                }
                Some(object) if object.key == key => {
                    return Ok(Some((object.size, object.etag.clone())));
                }
                _ => return Ok(None),
            }
        }
    }

    /// An origin that can't list may have an object of that very name.
    async fn named(&mut self, reads: &Arc<Reads>, why: &str) -> Result<ListedObject, CopyError> {
        let key = &self.order.from.prefix;
        if key.is_empty() || key.ends_with('/') || self.glob.is_some() {
            return Err(CopyError::Refused(format!(
                "{why}: name a key instead of a prefix"
            )));
        }
        let object = ObjectId::new(Arc::clone(&self.from.name), key.as_str());
        let asker = (0, Class::Warm);
        let current = reads
            .current_as(asker, &self.from, &object, None, false)
            .await;
        let version = current.map_err(|error| CopyError::Object {
            key: key.clone(),
            why: error.to_string(),
        })?;
        let object = ListedObject {
            key: key.clone(),
            size: version.version.size,
            etag: version.version.etag().map(str::to_owned),
            last_modified: None,
            storage_class: None,
        };
        self.source.over = true;
        self.source.page.push_back(object.clone());
        Ok(object)
    }
}
