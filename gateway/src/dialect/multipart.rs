//! Framing of `multipart/byteranges` bodies (RFC 9110 §14.6, RFC 2046 §5.1).
//!
//! Everything but the objects' own bytes is built before the first byte leaves, so `Content-Length` is known.

use bytes::Bytes;
use forebay_storage::version::VersionKey;
use http::HeaderValue;
use xxhash_rust::xxh3::xxh3_64;

use crate::dialect::range::ByteRange;

/// One part: what stands before its bytes, and which bytes those are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The delimiter and the part's header lines, to the empty line.
    pub head: Bytes,
    /// The part's bytes.
    pub range: ByteRange,
}

/// A body of several ranges: each part's head and bytes, then `close`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Framing {
    /// The parts in the order they are sent.
    pub parts: Vec<Part>,
    /// The closing delimiter, after the last part's bytes.
    pub close: Bytes,
    /// Length of the whole body in bytes.
    pub content_length: u64,
}

/// Frames `ranges` of an object of `size` bytes.
///
/// `content_type` is the object's own, repeated in every part; without one the parts have none. `boundary`
/// must be at most 70 letters and digits (RFC 2046 §5.1.1) that do not occur in the object: a fresh random
/// one for each response.
pub fn frame(
    ranges: &[ByteRange],
    size: u64,
    content_type: Option<&HeaderValue>,
    boundary: &str,
) -> Framing {
    let parts: Vec<Part> = ranges
        .iter()
        .map(|range| Part {
            head: part_head(*range, size, content_type, boundary),
            range: *range,
        })
        .collect();
    let close = Bytes::from(format!("\r\n--{boundary}--\r\n"));
    // Saturating, because the size is the origin's word: a sum past `u64` could never be sent anyway.
    let content_length = parts.iter().fold(close.len() as u64, |total, part| {
        total
            .saturating_add(part.head.len() as u64)
            .saturating_add(part.range.len())
    });
    Framing {
        parts,
        close,
        content_length,
    }
}

/// The `Content-Type` of a body framed with `boundary`.
pub fn content_type(boundary: &str) -> String {
    format!("multipart/byteranges; boundary={boundary}")
}

/// A boundary that nobody can have put into the object: its hash covers the version's own key.
pub fn boundary(version: VersionKey, ranges: &[ByteRange]) -> String {
    let mut seed = version.0.to_le_bytes().to_vec();
    for range in ranges {
        seed.extend_from_slice(&range.first.to_le_bytes());
    }
    format!("forebay{:016x}{:016x}", xxh3_64(&seed), version.0 >> 64)
}

fn part_head(
    range: ByteRange,
    size: u64,
    content_type: Option<&HeaderValue>,
    boundary: &str,
) -> Bytes {
    let mut head = format!("\r\n--{boundary}\r\n").into_bytes();
    if let Some(value) = content_type {
        head.extend_from_slice(b"Content-Type: ");
        head.extend_from_slice(value.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    let ByteRange { first, last } = range;
    let content_range = format!("Content-Range: bytes {first}-{last}/{size}\r\n\r\n");
    head.extend_from_slice(content_range.as_bytes());
    Bytes::from(head)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn body(object: &[u8], framing: &Framing) -> Vec<u8> {
        let mut body = Vec::new();
        for part in &framing.parts {
            body.extend_from_slice(&part.head);
            let (first, last) = (part.range.first as usize, part.range.last as usize);
            body.extend_from_slice(&object[first..=last]);
        }
        body.extend_from_slice(&framing.close);
        body
    }

    #[test]
    fn body_is_framed_to_the_letter() {
        let ranges = [
            ByteRange { first: 0, last: 1 },
            ByteRange { first: 9, last: 9 },
        ];
        let content_type = HeaderValue::from_static("text/plain");
        let framing = frame(&ranges, 10, Some(&content_type), "B0");
        let expected = "\r\n--B0\r\nContent-Type: text/plain\r\nContent-Range: bytes 0-1/10\r\n\r\n01\
                        \r\n--B0\r\nContent-Type: text/plain\r\nContent-Range: bytes 9-9/10\r\n\r\n9\
                        \r\n--B0--\r\n";
        assert_eq!(
            String::from_utf8(body(b"0123456789", &framing)).unwrap(),
            expected
        );
    }

    #[test]
    fn content_length_is_the_bodys() {
        let object: Vec<u8> = (0..=255).cycle().take(2000).collect();
        for count in 1..=32_u64 {
            let ranges: Vec<ByteRange> = (0..count)
                .map(|n| ByteRange {
                    first: n * 60,
                    last: n * 60 + n,
                })
                .collect();
            for content_type in [None, Some(HeaderValue::from_static("a/b"))] {
                let framing = frame(&ranges, 2000, content_type.as_ref(), "boundary");
                assert_eq!(body(&object, &framing).len() as u64, framing.content_length);
            }
        }
    }

    #[test]
    fn object_without_a_type_has_parts_without_one() {
        let framing = frame(&[ByteRange { first: 3, last: 4 }], 5, None, "B");
        assert_eq!(
            framing.parts[0].head,
            "\r\n--B\r\nContent-Range: bytes 3-4/5\r\n\r\n"
        );
    }

    #[test]
    fn sizes_beyond_reason_do_not_overflow() {
        let range = ByteRange {
            first: 0,
            last: u64::MAX - 1,
        };
        assert_eq!(
            frame(&[range], u64::MAX, None, "B").content_length,
            u64::MAX
        );
    }

    #[test]
    fn content_type_names_the_boundary() {
        assert_eq!(content_type("B0"), "multipart/byteranges; boundary=B0");
    }
}
