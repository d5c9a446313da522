//! Writing to a bucket: one put for what is small, an upload in parts for what is large.
//!
//! Parts are verified one by one, by the MD5 that their ETags are; the upload's own ETag is then known before the
//! bucket tells it. A bucket whose ETags are something else has its objects read back by whoever wrote them.

use std::fmt::Write as _;

use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use http_body_util::{BodyExt, Limited};
use md5::{Digest, Md5};

use super::answer::bad;
use super::s3::S3;
use super::s3_xml;
use super::write::{PartDone, Payload, Written, looks_like_md5};
use crate::class::Urgency;
use crate::error::OriginError;

/// What S3 is told of a put's bytes, and says again when it has them.
const CHECKSUM: HeaderName = HeaderName::from_static("x-amz-checksum-sha256");

impl S3 {
    /// Puts a whole object.
    pub(super) async fn put(
        &self,
        key: &str,
        payload: &Payload,
        mut headers: HeaderMap,
        urgency: &Urgency,
    ) -> Result<Written, OriginError> {
        let sum = STANDARD.encode(payload.sha256);
        if let Ok(sum) = HeaderValue::try_from(&sum) {
            headers.insert(CHECKSUM, sum);
        }
        let answer = self.send(Method::PUT, Some(key), &[], headers, Some(payload), urgency);
        let answer = answer.await?;
        let text = |name: HeaderName| answer.headers.get(name)?.to_str().ok();
        let verified = match text(CHECKSUM) {
            Some(told) if told == sum => true,
            Some(_) => return Err(bad("it says that it got other bytes than were sent")),
            None => text(header::ETAG).is_some_and(|etag| is_md5(etag, &payload.md5())),
        };
        Ok(Written { verified })
    }

    /// Begins an upload in parts, and says its id.
    pub(super) async fn begin(
        &self,
        key: &str,
        headers: HeaderMap,
        urgency: &Urgency,
    ) -> Result<String, OriginError> {
        let query = [("uploads", "")];
        let text = self.xml(Method::POST, key, &query, headers, None, urgency);
        let mut id = None;
        let text = text.await?;
        let read = s3_xml::walk(&text, "InitiateMultipartUploadResult", |path, text| {
            if path == "UploadId" {
                id = Some(text);
            }
            Ok(())
        });
        read.map_err(|_| bad("its answer to an upload that begins is not S3's"))?;
        id.filter(|id| !id.is_empty())
            .ok_or_else(|| bad("it gave an upload no id"))
    }

    /// Puts part `number`, from 1.
    pub(super) async fn put_part(
        &self,
        (key, upload): (&str, &str),
        number: u32,
        payload: &Payload,
        urgency: &Urgency,
    ) -> Result<PartDone, OriginError> {
        let text = number.to_string();
        let query = [("partNumber", text.as_str()), ("uploadId", upload)];
        let headers = HeaderMap::new();
        let answer = self.send(
            Method::PUT,
            Some(key),
            &query,
            headers,
            Some(payload),
            urgency,
        );
        let answer = answer.await?;
        let etag = answer.headers.get(header::ETAG);
        let etag = etag.and_then(|etag| etag.to_str().ok());
        let etag = etag.ok_or_else(|| bad("it gave a part no ETag"))?;
        if looks_like_md5(etag) && !is_md5(etag, &payload.md5()) {
            return Err(bad("it says that it got other bytes than were sent"));
        }
        Ok(PartDone {
            number,
            size: payload.len(),
            etag: etag.to_owned(),
        })
    }

    /// The parts that an upload has.
    ///
    /// # Errors
    /// [`OriginError::NotFound`]: there is no such upload any more.
    pub(super) async fn parts(
        &self,
        (key, upload): (&str, &str),
        urgency: &Urgency,
    ) -> Result<Vec<PartDone>, OriginError> {
        let mut parts: Vec<PartDone> = Vec::new();
        let mut marker = "0".to_owned();
        loop {
            let query = [("uploadId", upload), ("part-number-marker", &*marker)];
            let text = self.xml(Method::GET, key, &query, HeaderMap::new(), None, urgency);
            let page = Page::parse(&text.await?)?;
            let before = parts.len();
            parts.extend(page.parts);
            let Some(next) = page.next.filter(|_| page.truncated) else {
                return Ok(parts);
            };
            if parts.len() == before {
                return Err(bad("its list of parts does not end"));
            }
            marker = next;
        }
    }

    /// Makes an object of an upload's parts.
    pub(super) async fn complete(
        &self,
        (key, upload): (&str, &str),
        parts: &[PartDone],
        urgency: &Urgency,
    ) -> Result<Written, OriginError> {
        let mut list = "<CompleteMultipartUpload>".to_owned();
        for PartDone { number, etag, .. } in parts {
            let etag = quick_xml::escape::escape(etag.as_str());
            // Writing to a string can't fail.
            let _ = write!(
                list,
                "<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>"
            );
        }
        list.push_str("</CompleteMultipartUpload>");
        let list = Payload::new(vec![Bytes::from(list)]);
        let query = [("uploadId", upload)];
        let headers = HeaderMap::new();
        let text = self.xml(Method::POST, key, &query, headers, Some(&list), urgency);
        let text = text.await?;
        let mut etag = None;
        // An upload that can't be completed is told of with status 200 too, in another document.
        let read = s3_xml::walk(&text, "CompleteMultipartUploadResult", |path, text| {
            if path == "ETag" {
                etag = Some(text);
            }
            Ok(())
        });
        read.map_err(|_| bad("it did not complete the upload"))?;
        let expected = etag_of(parts);
        let verified = expected.is_some_and(|expected| {
            etag.is_some_and(|etag| etag.trim().trim_matches('"') == expected)
        });
        Ok(Written { verified })
    }

    /// Gives an upload up, with all its parts.
    pub(super) async fn abort(
        &self,
        (key, upload): (&str, &str),
        urgency: &Urgency,
    ) -> Result<(), OriginError> {
        let query = [("uploadId", upload)];
        let headers = HeaderMap::new();
        let answer = self.send(Method::DELETE, Some(key), &query, headers, None, urgency);
        match answer.await {
            Ok(_) | Err(OriginError::NotFound) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn xml(
        &self,
        method: Method,
        key: &str,
        query: &[(&str, &str)],
        headers: HeaderMap,
        payload: Option<&Payload>,
        urgency: &Urgency,
    ) -> Result<Bytes, OriginError> {
        let answer = self.send(method, Some(key), query, headers, payload, urgency);
        let body = Limited::new(answer.await?.response.into_body(), s3_xml::MAX_BODY_BYTES);
        let body = body.collect().await.map_err(|_| OriginError::Cut)?;
        Ok(body.to_bytes())
    }
}

/// A page of the list of an upload's parts.
#[derive(Default)]
struct Page {
    parts: Vec<PartDone>,
    truncated: bool,
    next: Option<String>,
}

impl Page {
    fn parse(text: &[u8]) -> Result<Self, OriginError> {
        // The second name is moto's, and what some servers took from the same description of S3.
        let page = Self::of(text, "ListPartsResult");
        let page = page.or_else(|_| Self::of(text, "ListPartsResponse"));
        page.map_err(|_| bad("its list of parts is not S3's"))
    }

    fn of(text: &[u8], root: &str) -> Result<Self, s3_xml::BadXml> {
        let mut page = Self::default();
        let (mut number, mut size, mut etag) = (None, None, None);
        s3_xml::walk(text, root, |path, text| {
            match path {
                "IsTruncated" => page.truncated = text.trim() == "true",
                "NextPartNumberMarker" => page.next = Some(text.trim().to_owned()),
                "Part/PartNumber" => number = text.trim().parse().ok(),
                "Part/Size" => size = text.trim().parse().ok(),
                "Part/ETag" => etag = Some(text.trim().to_owned()),
                "Part" => {
                    if let (Some(number), Some(size), Some(etag)) =
                        (number.take(), size.take(), etag.take())
                    {
                        page.parts.push(PartDone { number, size, etag });
                    }
                }
                _ => {}
            }
            Ok(())
        })?;
        Ok(page)
    }
}

fn is_md5(etag: &str, md5: &[u8; 16]) -> bool {
    etag.trim_matches('"').eq_ignore_ascii_case(&hex(md5))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string can't fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The ETag of an object made of these parts, where their own are MD5s.
fn etag_of(parts: &[PartDone]) -> Option<String> {
    let mut hash = Md5::new();
    for part in parts {
        let etag = part.etag.trim_matches('"');
        if !looks_like_md5(etag) {
            return None;
        }
        for pair in etag.as_bytes().chunks(2) {
            let pair = std::str::from_utf8(pair).ok()?;
            hash.update([u8::from_str_radix(pair, 16).ok()?]);
        }
    }
    Some(format!("{}-{}", hex(&hash.finalize()), parts.len()))
}

/// SHA-256 and its like over pieces.
pub(super) fn sha256(chunks: &[Bytes]) -> [u8; 32] {
    let mut hash = digest::Context::new(&digest::SHA256);
    chunks.iter().for_each(|chunk| hash.update(chunk));
    let mut sum = [0; 32];
    sum.copy_from_slice(hash.finish().as_ref());
    sum
}

/// MD5 over pieces.
pub(super) fn md5(chunks: &[Bytes]) -> [u8; 16] {
    let mut hash = Md5::new();
    chunks.iter().for_each(|chunk| hash.update(chunk));
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(number: u32, etag: &str) -> PartDone {
        PartDone {
            number,
            size: 1,
            etag: etag.to_owned(),
        }
    }

    #[test]
    fn the_etag_of_parts_is_that_of_their_sums() {
        // The MD5 of "a" and of "b"; and `printf` of both sums through md5sum.
        let parts = [
            part(1, "\"0cc175b9c0f1b6a831c399e269772661\""),
            part(2, "\"92eb5ffee6ae2fec3ad71c777531578f\""),
        ];
        let mut both = Md5::new();
        both.update(md5(&[Bytes::from_static(b"a")]));
        both.update(md5(&[Bytes::from_static(b"b")]));
        let expected = format!("{}-2", hex(&both.finalize()));
        assert_eq!(etag_of(&parts), Some(expected));
        assert_eq!(etag_of(&[part(1, "\"not-md5\"")]), None);
    }

    #[test]
    fn a_list_of_parts_is_read_and_what_is_none_is_refused() {
        let text =
            b"<ListPartsResult><IsTruncated>false</IsTruncated><Part><PartNumber>2</PartNumber>\
                     <ETag>&quot;x&quot;</ETag><Size>5</Size></Part></ListPartsResult>";
        let page = Page::parse(text).expect("it is one");
        let expected = PartDone {
            number: 2,
            size: 5,
            etag: "\"x\"".into(),
        };
        assert_eq!((page.parts, page.truncated), (vec![expected], false));
        assert!(Page::parse(b"<Error/>").is_err());
        assert!(Page::parse(b"no XML").is_err());
    }
}
