//! What an origin says of an object's bytes as a whole.
//!
//! Of the digests that object stores have, those count that are of all bytes in their order: S3's checksums of type
//! `FULL_OBJECT` (asked for by a HEAD of our own, for object_store has no such option), GCS's CRC32C, and the SHA-256 that
//! hubs of models name. An ETag is none: of an upload in parts, or an encrypted one, it is something else.

use std::fmt;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::{HeaderMap, HeaderValue, Method};

use super::answer::{bad, content_length};
use super::pin::{pin_headers, version_query};
use super::{Origin, Place};
use crate::class::{Class, Urgency};
use crate::error::OriginError;
use crate::object::ObjectId;
use crate::version::Version;

/// What the bytes of a whole object come to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Digest {
    /// SHA-256.
    Sha256([u8; 32]),
    /// CRC-64/NVME.
    Crc64Nvme(u64),
    /// CRC-32C.
    Crc32c(u32),
}

impl Digest {
    /// A SHA-256 in 64 hexadecimal digits.
    pub fn of_hex(text: &str) -> Option<Self> {
        if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        let mut digest = [0; 32];
        for (at, byte) in digest.iter_mut().enumerate() {
            *byte = u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok()?;
        }
        Some(Self::Sha256(digest))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sha256(digest) => {
                f.write_str("SHA-256 ")?;
                digest.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
            Self::Crc64Nvme(crc) => write!(f, "CRC64NVME {crc:016x}"),
            Self::Crc32c(crc) => write!(f, "CRC32C {crc:08x}"),
        }
    }
}

impl Origin {
    /// The digest that the origin has of a version, if it has one that counts. Costs a HEAD.
    ///
    /// # Errors
    /// [`OriginError::Changed`] if another version is current; or what else the origin answered.
    pub async fn digest(
        &self,
        object: &ObjectId,
        version: &Version,
    ) -> Result<Option<Digest>, OriginError> {
        let headers = match self.place(object)? {
            Place::Directory(_) => return Ok(None),
            Place::Path(remote, path) => match &remote.s3 {
                Some(s3) => {
                    let key = format!("{}{}", remote.prefix, object.key);
                    ask(s3, &key, object, version).await?
                }
                None => self.head_at(remote, &path, object).await?,
            },
            Place::Odd(s3, key) => ask(s3, &key, object, version).await?,
        };
        let size = content_length(&headers)
            .ok_or_else(|| bad("it does not say how long the object is (no Content-Length)"))?;
        if self.describe(object, size, &headers)?.key != version.key {
            return Err(OriginError::Changed);
        }
        Ok(told(&headers, self.is_http))
    }
}

async fn ask(
    s3: &super::s3::S3,
    key: &str,
    object: &ObjectId,
    version: &Version,
) -> Result<HeaderMap, OriginError> {
    let mut headers = HeaderMap::new();
    let enabled = HeaderValue::from_static("ENABLED");
    headers.insert("x-amz-checksum-mode", enabled);
    pin_headers(Some(version), &mut headers);
    let (query, urgency) = (version_query(object), Urgency::from(Class::Warm));
    let answer = s3.ask(Method::HEAD, Some(key), &query, headers, &urgency);
    let answer = Box::pin(answer).await;
    // Its version was current a moment ago.
    let answer = answer.map_err(|error| match error {
        OriginError::Status { status: 412 } => OriginError::Changed,
        error => error,
    });
    Ok(answer?.headers)
}

/// The digest that these headers tell, the strongest if there are several; `hub`: an ETag may be one.
fn told(headers: &HeaderMap, hub: bool) -> Option<Digest> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let whole = text("x-amz-checksum-type").is_none_or(|kind| kind == "FULL_OBJECT");
    // One that was made of the parts' checksums ends in their number, which is no base64.
    let amz = |name: &str| text(name).filter(|_| whole).and_then(decoded);
    let sha256 = || {
        let digest = amz("x-amz-checksum-sha256")?;
        Some(Digest::Sha256(digest.try_into().ok()?))
    };
    let hub_sha256 = || {
        let name = |name| text(name).map(|etag| etag.trim_matches('"'));
        let etag = name("etag").filter(|_| hub);
        name("x-linked-etag").or(etag).and_then(Digest::of_hex)
    };
    let crc64 = || {
        let crc = amz("x-amz-checksum-crc64nvme")?;
        Some(Digest::Crc64Nvme(u64::from_be_bytes(crc.try_into().ok()?)))
    };
    let crc32c = || {
        let crc = amz("x-amz-checksum-crc32c").or_else(|| {
            let hashes = headers.get_all("x-goog-hash").into_iter();
            let mut hashes = hashes.flat_map(|hash| hash.to_str().unwrap_or("").split(','));
            hashes.find_map(|hash| decoded(hash.trim().strip_prefix("crc32c=")?))
        })?;
        Some(Digest::Crc32c(u32::from_be_bytes(crc.try_into().ok()?)))
    };
    sha256().or_else(hub_sha256).or_else(crc64).or_else(crc32c)
}

fn decoded(text: &str) -> Option<Vec<u8>> {
    BASE64_STANDARD.decode(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(&'static str, &str)]) -> Option<String> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_str(value).expect("a value"));
        }
        told(&headers, true).map(|digest| digest.to_string())
    }

    #[test]
    fn what_is_of_the_whole_object_counts_and_nothing_else() {
        let crc64 = ("x-amz-checksum-crc64nvme", "AAAAAAAAAAE=");
        let full = ("x-amz-checksum-type", "FULL_OBJECT");
        let composite = ("x-amz-checksum-type", "COMPOSITE");
        let seen = Some("CRC64NVME 0000000000000001".to_owned());
        assert_eq!(of(&[crc64, full]), seen);
        assert_eq!(of(&[crc64]), seen, "of an upload in one part");
        assert_eq!(of(&[crc64, composite]), None);
        assert_eq!(of(&[("x-amz-checksum-crc32c", "AAAAAQ==-3")]), None);
        assert_eq!(
            of(&[("x-amz-checksum-crc32c", "AAAAAQ=="), full]),
            Some("CRC32C 00000001".to_owned())
        );
        assert_eq!(
            of(&[
                ("x-goog-hash", "md5=AAAA"),
                ("x-goog-hash", "crc32c=AAAAAg==")
            ]),
            Some("CRC32C 00000002".to_owned())
        );
        let sha = "a".repeat(64);
        let seen = Some(format!("SHA-256 {sha}"));
        assert_eq!(of(&[("etag", &format!("\"{sha}\"")), crc64]), seen);
        assert_eq!(of(&[("etag", "\"0123\""), ("x-linked-etag", &sha)]), seen);
        assert_eq!(of(&[("etag", "\"0123\"")]), None);
        assert_eq!(of(&[("x-amz-checksum-sha256", "AAAA")]), None, "too short");
    }
}
