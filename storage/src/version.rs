//! The immutable bytes that an object had at one time.

use std::sync::Arc;
use std::time::SystemTime;

use aws_lc_rs::digest;
use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use crate::object::ObjectId;

/// Names one version of one object, for one block size: the first 128 bits of a SHA-256.
///
/// Keys and ETags are chosen by strangers, so nothing faster would do: a collision would serve
/// one tenant's bytes to another.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct VersionKey(pub u128);

/// What tells one version of an object from another.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Validator {
    /// A strong ETag, opaque, as the origin wrote it.
    Strong(String),
    /// A weak ETag or none; the time of modification and the size must do.
    Dated {
        /// The weak ETag, compared as text.
        etag: Option<String>,
        /// `Last-Modified`, as the origin wrote it.
        last_modified: String,
    },
    /// Neither: two answers can't be told apart, so nothing is kept from one request to the next.
    None,
}

/// One version: its validator, its size, and the headers that belong to it.
#[derive(Clone, Debug)]
pub struct Version {
    /// The name of this version in every block key.
    pub key: VersionKey,
    /// What tells it from others.
    pub validator: Validator,
    /// Bytes in the whole object.
    pub size: u64,
    /// The origin that it was asked of.
    pub identity: Arc<Identity>,
    /// Headers for clients: ETag, Last-Modified, Content-Type, user metadata and the like.
    pub headers: HeaderMap,
    /// Read once: each request is judged by it.
    last_modified: Option<SystemTime>,
}

/// What goes into a version's name beside the object's own: see [`Version::from_headers`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    /// The origin's address, without credentials.
    pub origin: String,
    /// Bytes in a block.
    pub block_size: u32,
    /// The dataset promises that no object ever changes.
    pub immutable: bool,
}

/// Headers of the origin that belong to the object and are passed on as they are.
const PASSED_ON: [HeaderName; 8] = [
    header::CONTENT_TYPE,
    header::CONTENT_ENCODING,
    header::CONTENT_LANGUAGE,
    header::CONTENT_DISPOSITION,
    header::CACHE_CONTROL,
    header::EXPIRES,
    header::ETAG,
    header::LAST_MODIFIED,
];

/// User metadata goes out under S3's name, whatever the origin calls it.
const METADATA_PREFIXES: [&str; 3] = ["x-amz-meta-", "x-goog-meta-", "x-ms-meta-"];

/// The origin's version ids, by the header that carries them.
const VERSION_ID_HEADERS: [&str; 3] = ["x-amz-version-id", "x-goog-generation", "x-ms-version-id"];

impl Version {
    /// The version that an origin's answer describes; `size` is that of the whole object.
    pub fn from_headers(
        object: &ObjectId,
        identity: &Arc<Identity>,
        size: u64,
        answer: &HeaderMap,
    ) -> Self {
        let headers = passed_on(answer);
        let validator = validator(&headers);
        let key = version_key(object, identity, &validator, size);
        Self {
            key,
            validator,
            size,
            identity: Arc::clone(identity),
            last_modified: last_modified(&headers),
            headers,
        }
    }

    /// The ETag as the origin wrote it.
    pub fn etag(&self) -> Option<&str> {
        self.headers
            .get(header::ETAG)
            .and_then(|value| value.to_str().ok())
    }

    /// The time of modification, if the origin told one that parses.
    pub fn last_modified(&self) -> Option<SystemTime> {
        self.last_modified
    }

    /// Whether blocks of this version may outlive the response they were read for.
    pub fn cacheable(&self) -> bool {
        self.identity.immutable || self.validator != Validator::None
    }
}

fn last_modified(headers: &HeaderMap) -> Option<SystemTime> {
    let value = headers.get(header::LAST_MODIFIED)?.to_str().ok()?;
    httpdate::parse_http_date(value).ok()
}

fn passed_on(answer: &HeaderMap) -> HeaderMap {
    let mut fields = Vec::new();
    for name in PASSED_ON {
        if let Some(value) = answer.get(&name) {
            fields.push((name, value));
        }
    }
    for (name, value) in answer {
        let meta = METADATA_PREFIXES
            .iter()
            .find_map(|prefix| name.as_str().strip_prefix(prefix));
        if let Some(suffix) = meta
            && let Ok(name) = HeaderName::try_from(format!("x-amz-meta-{suffix}"))
        {
            fields.push((name, value));
        }
    }
    for name in VERSION_ID_HEADERS {
        if let Some(value) = answer.get(name)
            && value != HeaderValue::from_static("null")
        {
            fields.push((HeaderName::from_static("x-amz-version-id"), value));
        }
    }
    apart(fields)
}

/// All values in one piece of memory of their own. As they came they are parts of what was read from the origin's
/// socket, 8 KiB and more, and would hold all of that for as long as the version is known. And a piece for each would
/// be two places more to touch for each whenever the version is answered with: its bytes, and the count of their holders.
fn apart(fields: Vec<(HeaderName, &HeaderValue)>) -> HeaderMap {
    let values: Vec<&[u8]> = fields.iter().map(|(_, value)| value.as_bytes()).collect();
    let mut text = Bytes::from(values.concat());
    let mut headers = HeaderMap::with_capacity(fields.len());
    for (name, value) in fields {
        let own = HeaderValue::from_maybe_shared(text.split_to(value.len()));
        headers.insert(name, own.unwrap_or_else(|_| value.clone()));
    }
    headers
}

fn validator(headers: &HeaderMap) -> Validator {
    let text = |name: HeaderName| {
        let value = headers.get(name)?.to_str().ok()?.trim();
        (!value.is_empty()).then(|| value.to_owned())
    };
    let etag = text(header::ETAG);
    let last_modified = text(header::LAST_MODIFIED);
    match (etag, last_modified) {
        (Some(etag), _) if !etag.starts_with("W/") => Validator::Strong(etag),
        (etag, Some(last_modified)) => Validator::Dated {
            etag,
            last_modified,
        },
        (_, None) => Validator::None,
    }
}

fn version_key(
    object: &ObjectId,
    identity: &Identity,
    validator: &Validator,
    size: u64,
) -> VersionKey {
    let mut hash = digest::Context::new(&digest::SHA256);
    // Each field behind its length, so that no two lists of fields run together into one text.
    let mut field = |bytes: &[u8]| {
        hash.update(&(bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    field(object.dataset.as_bytes());
    field(identity.origin.as_bytes());
    field(object.key.as_bytes());
    field(object.version_id.as_deref().unwrap_or("").as_bytes());
    match validator {
        Validator::Strong(etag) => {
            field(b"strong");
            field(etag.as_bytes());
        }
        Validator::Dated {
            etag,
            last_modified,
        } => {
            field(b"dated");
            field(etag.as_deref().unwrap_or("").as_bytes());
            field(last_modified.as_bytes());
        }
        Validator::None => field(b"none"),
    }
    field(&size.to_le_bytes());
    field(&identity.block_size.to_le_bytes());
    let digest = hash.finish();
    let mut first = [0; 16];
    first.copy_from_slice(&digest.as_ref()[..16]);
    VersionKey(u128::from_be_bytes(first))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn identity() -> Arc<Identity> {
        Arc::new(Identity {
            origin: "s3://weights/".into(),
            block_size: 1 << 20,
            immutable: false,
        })
    }

    fn version(key: &str, size: u64, pairs: &[(&'static str, &str)]) -> Version {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.insert(*name, value.parse().unwrap());
        }
        Version::from_headers(&ObjectId::new("models", key), &identity(), size, &headers)
    }

    #[test]
    fn another_etag_size_or_key_is_another_version() {
        let one = version("a", 1, &[("etag", "\"x\"")]);
        assert_eq!(one.key, version("a", 1, &[("etag", "\"x\"")]).key);
        assert_ne!(one.key, version("a", 1, &[("etag", "\"y\"")]).key);
        assert_ne!(one.key, version("a", 2, &[("etag", "\"x\"")]).key);
        assert_ne!(one.key, version("b", 1, &[("etag", "\"x\"")]).key);
    }

    #[test]
    fn fields_that_run_together_do_not_collide() {
        let mut one = ObjectId::new("ab", "c");
        let none = HeaderMap::new();
        let key = |object: &ObjectId| Version::from_headers(object, &identity(), 1, &none).key;
        let first = key(&one);
        one = ObjectId::new("a", "bc");
        assert_ne!(first, key(&one));
    }

    #[test]
    fn a_weak_etag_is_dated_and_alone_it_is_nothing() {
        let date = "Tue, 24 Nov 2026 10:00:00 GMT";
        let dated = version("a", 1, &[("etag", "W/\"x\""), ("last-modified", date)]);
        assert!(matches!(dated.validator, Validator::Dated { .. }));
        let none = version("a", 1, &[("etag", "W/\"x\"")]);
        assert_eq!(none.validator, Validator::None);
        assert!(!none.cacheable());
    }

    #[test]
    fn a_version_holds_nothing_of_what_was_read_from_the_socket() {
        struct Read {
            _held: Arc<()>,
        }
        impl AsRef<[u8]> for Read {
            fn as_ref(&self) -> &[u8] {
                b"\"x\""
            }
        }
        let held = Arc::new(());
        let read = Bytes::from_owner(Read {
            _held: Arc::clone(&held),
        });
        let mut answer = HeaderMap::new();
        for name in ["etag", "x-amz-meta-a", "x-amz-version-id"] {
            let value = HeaderValue::from_maybe_shared(read.clone()).unwrap();
            answer.insert(name, value);
        }
        drop(read);
        let object = ObjectId::new("models", "a");
        let version = Version::from_headers(&object, &identity(), 1, &answer);
        assert_eq!(version.headers.len(), answer.len());
        drop(answer);
        assert_eq!(Arc::strong_count(&held), 1);
    }

    #[test]
    fn metadata_of_every_origin_goes_out_under_one_name() {
        for name in ["x-amz-meta-a", "x-goog-meta-a", "x-ms-meta-a"] {
            let version = version("a", 1, &[(name, "b")]);
            assert_eq!(version.headers.get("x-amz-meta-a").unwrap(), "b");
        }
    }
}
