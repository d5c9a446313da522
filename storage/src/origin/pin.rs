//! Which version of an object a request asks for, as options and as headers.

use std::ops::Range;

use chrono::{DateTime, Utc};
use http::{HeaderMap, HeaderValue, header};
use object_store::{GetOptions, GetRange};

use super::connect::Exchange;
use crate::object::ObjectId;
use crate::version::{Validator, Version};

pub(super) fn version_id(object: &ObjectId) -> Option<String> {
    object.version_id.as_deref().map(str::to_owned)
}

pub(super) fn version_query(object: &ObjectId) -> Vec<(&str, &str)> {
    let id = object.version_id.as_deref();
    id.map(|id| ("versionId", id)).into_iter().collect()
}

pub(super) fn pinned(
    pin: Option<&Version>,
    object: &ObjectId,
    range: &Range<u64>,
    exchange: &Exchange,
) -> GetOptions {
    let mut options = GetOptions {
        range: Some(GetRange::Bounded(range.clone())),
        version: version_id(object),
        extensions: exchange.extensions(),
        ..GetOptions::default()
    };
    match pin.map(|pin| &pin.validator) {
        Some(Validator::Strong(etag)) => options.if_match = Some(etag.clone()),
        // A weak tag under If-Match never matches (RFC 9110 §13.1.1).
        Some(Validator::Dated { .. }) => {
            let date = pin.and_then(Version::last_modified);
            options.if_unmodified_since = date.map(DateTime::<Utc>::from);
        }
        Some(Validator::None) | None => {}
    }
    options
}

/// The same pin as headers of a request of our own.
pub(super) fn pin_headers(pin: Option<&Version>, headers: &mut HeaderMap) {
    let (name, text) = match pin.map(|pin| &pin.validator) {
        Some(Validator::Strong(etag)) => (header::IF_MATCH, etag),
        Some(Validator::Dated { last_modified, .. }) => {
            (header::IF_UNMODIFIED_SINCE, last_modified)
        }
        Some(Validator::None) | None => return,
    };
    if let Ok(value) = HeaderValue::try_from(text) {
        headers.insert(name, value);
    }
}
