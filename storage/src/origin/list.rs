//! Listing what an origin has.

use std::sync::Arc;
use std::time::SystemTime;

use futures::TryStreamExt;
use object_store::ObjectMeta;
use object_store::list::{PaginatedListOptions, PaginatedListStore};
use object_store::path::Path;

use super::answer::failure;
use super::build::Remote;
use super::connect::Exchange;
use super::{Kind, Origin};
use crate::error::OriginError;
use crate::listing::{ListPage, ListRequest, ListedObject, Start, page};

/// What a web server that knows no PROPFIND comes to.
const CANNOT_LIST: &str = "this origin is a plain HTTP server that can't list (it does not know \
    PROPFIND); ask for objects by their keys";

/// Keys that an origin without pages may list; more would have to be held at once.
const LARGEST_FLAT_LISTING: usize = 100_000;

impl Origin {
    /// One page of the dataset's keys.
    ///
    /// # Errors
    /// [`OriginError::Unsupported`] where the origin can't list: an HTTP server that knows no
    /// PROPFIND.
    pub async fn list(&self, request: &ListRequest) -> Result<ListPage, OriginError> {
        let page = match &self.kind {
            Kind::Directory(directory) => directory.list(request).await,
            Kind::Remote(remote) => list_remote(remote, request).await,
        };
        self.note(&page);
        page
    }
}

async fn list_remote(remote: &Remote, request: &ListRequest) -> Result<ListPage, OriginError> {
    let asked = prefixed(request, &remote.prefix);
    let mut page = match (&remote.s3, &remote.pages) {
        (Some(s3), _) => s3.list(&asked).await?,
        (None, Some(pages)) => list_pages(pages.as_ref(), &asked).await?,
        (None, None) => list_flat(remote, &asked).await?,
    };
    let strip = |key: &mut String| match key.strip_prefix(&remote.prefix) {
        Some(rest) => {
            *key = rest.to_owned();
            true
        }
        // Not what was asked for, so not the dataset's.
        None => false,
    };
    page.objects.retain_mut(|object| strip(&mut object.key));
    page.prefixes.retain_mut(strip);
    // The "directory object" at the prefix itself has no name in the dataset.
    page.objects.retain(|object| !object.key.is_empty());
    Ok(page)
}

fn prefixed(request: &ListRequest, prefix: &str) -> ListRequest {
    let start = match &request.start {
        Start::After(key) => Start::After(format!("{prefix}{key}")),
        Start::Marker(key) => Start::Marker(format!("{prefix}{key}")),
        start => start.clone(),
    };
    ListRequest {
        prefix: format!("{prefix}{}", request.prefix),
        start,
        ..request.clone()
    }
}

/// Dialects with pages of their own: Google's and Azure's.
async fn list_pages(
    store: &dyn PaginatedListStore,
    request: &ListRequest,
) -> Result<ListPage, OriginError> {
    let (after, token) = match &request.start {
        Start::Beginning => (None, None),
        Start::After(key) | Start::Marker(key) => (Some(key.clone()), None),
        Start::Token(token) => (None, Some(token.clone())),
    };
    let marker = matches!(request.start, Start::Marker(_));
    let mut found = ListPage::default();
    let mut token = token;
    loop {
        let exchange = Exchange::default();
        let options = PaginatedListOptions {
            // Some dialects begin with it and some do not know it: what was not skipped is below.
            offset: after.clone(),
            delimiter: request.delimiter.clone().map(Into::into),
            max_keys: Some(request.max_keys.max(1)),
            page_token: token.take(),
            extensions: exchange.extensions(),
        };
        let prefix = (!request.prefix.is_empty()).then_some(request.prefix.as_str());
        let listed = store
            .list_paginated(prefix, options)
            .await
            .map_err(|error| failure(&exchange, &error))?;
        for meta in listed.result.objects {
            let object = listed_object(meta);
            if after.as_ref().is_none_or(|after| object.key > *after) {
                found.objects.push(object);
            }
        }
        for path in listed.result.common_prefixes {
            let delimiter = request.delimiter.as_deref().unwrap_or("/");
            // A path loses a final slash and no other delimiter.
            let mut prefix = path.to_string();
            if !prefix.ends_with(delimiter) {
                prefix.push_str(delimiter);
            }
            let skipped = after.as_ref().is_some_and(|after| match marker {
                true => prefix <= *after,
                false => prefix <= *after && !after.starts_with(&prefix),
            });
            if !skipped {
                found.prefixes.push(prefix);
            }
        }
        match listed.page_token {
            // A page of which all was skipped is not yet an answer.
            Some(next) if found.objects.is_empty() && found.prefixes.is_empty() => {
                token = Some(next);
            }
            next => {
                found.next = next;
                return Ok(found);
            }
        }
    }
}

/// WebDAV's PROPFIND: everything at once, if the server knows it.
async fn list_flat(remote: &Remote, request: &ListRequest) -> Result<ListPage, OriginError> {
    let directory = request.prefix.rsplit_once('/').map(|(place, _)| place);
    let directory = match directory.map(Path::parse) {
        None => None,
        Some(Ok(path)) => Some(path),
        Some(Err(_)) => return Ok(ListPage::default()),
    };
    let exchange = Exchange::default();
    let store = match &remote.listing {
        Some(listing) => listing(&exchange),
        None => Arc::clone(&remote.store),
    };
    let mut keys = Vec::new();
    let mut stream = store.list(directory.as_ref());
    loop {
        let next = stream.try_next().await;
        let next = next.map_err(|error| match failure(&exchange, &error) {
            OriginError::Status {
                status: 400 | 405 | 501,
            }
            | OriginError::BadAnswer(_) => OriginError::Unsupported(CANNOT_LIST.into()),
            error => error,
        })?;
        match next {
            Some(meta) => keys.push(listed_object(meta)),
            None => break,
        }
        if keys.len() > LARGEST_FLAT_LISTING {
            return Err(OriginError::Unsupported(
                "this origin lists without pages and has over 100 000 objects; ask by key".into(),
            ));
        }
    }
    keys.sort_by(|a, b| a.key.cmp(&b.key));
    Ok(page(keys.into_iter(), request))
}

fn listed_object(meta: ObjectMeta) -> ListedObject {
    ListedObject {
        key: meta.location.to_string(),
        size: meta.size,
        etag: meta.e_tag,
        last_modified: Some(SystemTime::from(meta.last_modified)),
        storage_class: None,
    }
}
