//! S3's listings: ListObjects V1 and V2, ListBuckets and GetBucketLocation.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Datelike, SecondsFormat, Utc};
use forebay_storage::listing::{ListPage, ListRequest, ListedObject, Start};
use percent_encoding::utf8_percent_encode;

use super::error::S3Error;
use super::xml::Document;
use crate::access::canonical::PATH;
use crate::dialect::target::Query;

/// The most entries of one page, and what a request without `max-keys` gets.
pub const MAX_KEYS: usize = 1000;

/// Who owns every object and bucket, where S3 names an owner.
const OWNER: &str = "forebay";

/// A listing as a client asked for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListAsked {
    /// What to ask the origin.
    pub request: ListRequest,
    /// Whether keys, prefixes and markers are to be percent-encoded (`encoding-type=url`).
    pub url_encoded: bool,
    /// Which of the two operations, and its own parameters.
    pub version: ListVersion,
}

/// The two list operations, with what their answers echo.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListVersion {
    /// ListObjects.
    V1 {
        /// `marker`, as asked; empty if not.
        marker: String,
    },
    /// ListObjectsV2 (`list-type=2`).
    V2 {
        /// `start-after`, as asked.
        start_after: Option<String>,
        /// `continuation-token`, as asked.
        continuation_token: Option<String>,
        /// `fetch-owner`: whether entries name their owner.
        fetch_owner: bool,
    },
}

impl ListAsked {
    /// Reads the parameters of a listing. Empty ones are as good as absent, but for `continuation-token`.
    ///
    /// # Errors
    /// `InvalidArgument`, naming the parameter.
    pub fn parse(query: &Query) -> Result<Self, S3Error> {
        let (version, start) = match query.get("list-type") {
            None => parse_v1(query),
            Some("2") => parse_v2(query)?,
            Some(other) => {
                let message = "Invalid List Type specified in Request";
                return Err(S3Error::invalid_argument(message, "list-type", other));
            }
        };
        Ok(Self {
            request: ListRequest {
                prefix: query.get("prefix").unwrap_or_default().to_owned(),
                delimiter: non_empty(query, "delimiter"),
                start,
                max_keys: max_keys(query)?,
            },
            url_encoded: url_encoded(query)?,
            version,
        })
    }

    /// The `ListBucketResult` for one page of `bucket`.
    ///
    /// A truncated V1 page goes on after its greatest entry, so it needs one: a caller whose origin answers an
    /// empty page with a `next` follows it first.
    pub fn xml(&self, bucket: &str, page: &ListPage) -> String {
        let mut document = Document::new();
        document.root("ListBucketResult", |list| {
            list.leaf("Name", bucket);
            list.leaf("Prefix", &self.encoded(&self.request.prefix));
            self.write_positions(list, page);
            list.number("MaxKeys", self.request.max_keys as u64);
            if let Some(delimiter) = &self.request.delimiter {
                list.leaf("Delimiter", &self.encoded(delimiter));
            }
            if self.url_encoded {
                list.leaf("EncodingType", "url");
            }
            list.leaf(
                "IsTruncated",
                if page.next.is_some() { "true" } else { "false" },
            );
            for object in &page.objects {
                list.element("Contents", |contents| self.write_object(contents, object));
            }
            for prefix in &page.prefixes {
                let prefix = self.encoded(prefix);
                list.element("CommonPrefixes", |common| common.leaf("Prefix", &prefix));
            }
        });
        document.finish()
    }

    /// Where the page begins and where the next one does.
    fn write_positions(&self, list: &mut Document, page: &ListPage) {
        match &self.version {
            ListVersion::V1 { marker } => {
                list.leaf("Marker", &self.encoded(marker));
                if let Some(greatest) = page.next.as_ref().and_then(|_| page.greatest()) {
                    list.leaf("NextMarker", &self.encoded(greatest));
                }
            }
            ListVersion::V2 {
                start_after,
                continuation_token,
                ..
            } => {
                if let Some(start_after) = start_after {
                    list.leaf("StartAfter", &self.encoded(start_after));
                }
                if let Some(token) = continuation_token {
                    list.leaf("ContinuationToken", token);
                }
                if let Some(next) = &page.next {
                    list.leaf("NextContinuationToken", &URL_SAFE_NO_PAD.encode(next));
                }
                list.number(
                    "KeyCount",
                    (page.objects.len() + page.prefixes.len()) as u64,
                );
            }
        }
    }

    fn write_object(&self, contents: &mut Document, object: &ListedObject) {
        contents.leaf("Key", &self.encoded(&object.key));
        // Clients that parse strictly fail a page without LastModified, so an unknown time is 1970's start.
        contents.leaf(
            "LastModified",
            &iso_8601(object.last_modified.unwrap_or(UNIX_EPOCH)),
        );
        if let Some(etag) = &object.etag {
            contents.leaf("ETag", etag);
        }
        contents.number("Size", object.size);
        contents.leaf(
            "StorageClass",
            object.storage_class.as_deref().unwrap_or("STANDARD"),
        );
        match self.version {
            ListVersion::V1 { .. }
            | ListVersion::V2 {
                fetch_owner: true, ..
            } => {
                write_owner(contents);
            }
            ListVersion::V2 { .. } => {}
        }
    }

    fn encoded(&self, text: &str) -> String {
        if self.url_encoded {
            // S3 also leaves `*` and writes a space as `+`; escapes are read the same way by clients that
            // take `+` for a space and by those that don't.
            return utf8_percent_encode(text, PATH).to_string();
        }
        text.to_owned()
    }
}

/// The `ListAllMyBucketsResult` of ListBuckets. `created` stands for every bucket's creation: datasets have
/// none of their own.
pub fn buckets_xml<'a>(names: impl Iterator<Item = &'a str>, created: SystemTime) -> String {
    let created = iso_8601(created);
    let mut document = Document::new();
    document.root("ListAllMyBucketsResult", |result| {
        write_owner(result);
        result.element("Buckets", |buckets| {
            for name in names {
                buckets.element("Bucket", |bucket| {
                    bucket.leaf("Name", name);
                    bucket.leaf("CreationDate", &created);
                });
            }
        });
    });
    document.finish()
}

/// The `LocationConstraint` of GetBucketLocation. us-east-1, which is what `None` means, is an empty element.
pub fn location_xml(region: Option<&str>) -> String {
    let region = region
        .filter(|region| *region != "us-east-1")
        .unwrap_or_default();
    let mut document = Document::new();
    document.root("LocationConstraint", |constraint| constraint.text(region));
    document.finish()
}

fn write_owner(parent: &mut Document) {
    parent.element("Owner", |owner| {
        owner.leaf("ID", OWNER);
        owner.leaf("DisplayName", OWNER);
    });
}

fn parse_v1(query: &Query) -> (ListVersion, Start) {
    let marker = query.get("marker").unwrap_or_default().to_owned();
    let start = if marker.is_empty() {
        Start::Beginning
    } else {
        Start::Marker(marker.clone())
    };
    (ListVersion::V1 { marker }, start)
}

fn parse_v2(query: &Query) -> Result<(ListVersion, Start), S3Error> {
    let start_after = non_empty(query, "start-after");
    let continuation_token = query.get("continuation-token").map(str::to_owned);
    // A token wins over start-after, which clients repeat on every page.
    let start = match (&continuation_token, &start_after) {
        (Some(token), _) => Start::Token(origin_token(token)?),
        (None, Some(after)) => Start::After(after.clone()),
        (None, None) => Start::Beginning,
    };
    let fetch_owner = query
        .get("fetch-owner")
        .is_some_and(|value| value == "true");
    Ok((
        ListVersion::V2 {
            start_after,
            continuation_token,
            fetch_owner,
        },
        start,
    ))
}

/// The origin's token inside one of ours.
fn origin_token(token: &str) -> Result<String, S3Error> {
    let decoded = URL_SAFE_NO_PAD
        .decode(token)
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok());
    decoded.filter(|origin| !origin.is_empty()).ok_or_else(|| {
        let message = "The continuation token provided is incorrect";
        S3Error::invalid_argument(message, "continuation-token", token)
    })
}

fn max_keys(query: &Query) -> Result<usize, S3Error> {
    let Some(text) = query.get("max-keys").filter(|text| !text.is_empty()) else {
        return Ok(MAX_KEYS);
    };
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        let message = "Provided max-keys not an integer or within integer range";
        return Err(S3Error::invalid_argument(message, "max-keys", text));
    }
    // Only digits: what does not fit is more than the most.
    Ok(text.parse().unwrap_or(MAX_KEYS).min(MAX_KEYS))
}

fn url_encoded(query: &Query) -> Result<bool, S3Error> {
    match query.get("encoding-type") {
        None | Some("") => Ok(false),
        Some("url") => Ok(true),
        Some(other) => {
            let message = "Invalid Encoding Method specified in Request";
            Err(S3Error::invalid_argument(message, "encoding-type", other))
        }
    }
}

fn non_empty(query: &Query, name: &str) -> Option<String> {
    query
        .get(name)
        .filter(|text| !text.is_empty())
        .map(str::to_owned)
}

/// A time as S3 writes it, such as `2009-10-12T17:50:30.000Z`. One that four-digit years cannot say, or before
/// 1970, is 1970's start.
fn iso_8601(time: SystemTime) -> String {
    let since_epoch = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_epoch.as_secs())
        .ok()
        .and_then(|seconds| DateTime::<Utc>::from_timestamp(seconds, since_epoch.subsec_nanos()))
        .filter(|time| time.year() <= 9999)
        .unwrap_or_default()
        .to_rfc3339_opts(SecondsFormat::Millis, true)
}

#[cfg(test)]
mod tests;
