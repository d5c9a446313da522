//! A strict reader of multipart/byteranges (RFC 9110 §14.6, RFC 2046 §5.1.1).

use crate::http::Answer;

/// One part.
#[derive(Debug, PartialEq, Eq)]
pub struct Part {
    /// Its Content-Type, if it has one.
    pub content_type: Option<String>,
    /// First and last position, and the object's size, from Content-Range.
    pub range: (u64, u64, u64),
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// The parts of a 206 answer, in order.
///
/// # Panics
/// If the answer is not exactly framed: boundary, lengths, closing delimiter.
#[must_use]
pub fn parts(answer: &Answer) -> Vec<Part> {
    let content_type = answer.need("content-type");
    let boundary = content_type
        .strip_prefix("multipart/byteranges; boundary=")
        .or_else(|| content_type.strip_prefix("multipart/byteranges;boundary="))
        .unwrap_or_else(|| panic!("Content-Type {content_type}"))
        .trim_matches('"');
    assert!(
        answer.header("content-range").is_none(),
        "RFC 9110 §15.3.7.2: no Content-Range beside several parts"
    );
    let delimiter = format!("--{boundary}");
    let mut rest = answer.body.as_slice();
    if let Some(after) = rest.strip_prefix(b"\r\n") {
        rest = after;
    }
    rest = rest
        .strip_prefix(delimiter.as_bytes())
        .unwrap_or_else(|| panic!("the body begins without its boundary"));
    let mut parts = Vec::new();
    while !rest.starts_with(b"--") {
        let (part, after) = part(rest);
        parts.push(part);
        rest = after
            .strip_prefix(b"\r\n")
            .and_then(|after| after.strip_prefix(delimiter.as_bytes()))
            .unwrap_or_else(|| panic!("no boundary after part {}", parts.len()));
    }
    assert!(
        rest == b"--" || rest == b"--\r\n",
        "{} bytes after the closing delimiter",
        rest.len()
    );
    parts
}

fn part(rest: &[u8]) -> (Part, &[u8]) {
    let rest = rest
        .strip_prefix(b"\r\n")
        .expect("a line end after the boundary");
    let end = rest
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .expect("an empty line after the part's fields");
    let fields = String::from_utf8_lossy(&rest[..end]).into_owned();
    let body = &rest[end + 4..];
    let mut content_type = None;
    let mut range = None;
    for line in fields.split("\r\n") {
        let (name, value) = line
            .split_once(':')
            .unwrap_or_else(|| panic!("not a field: {line:?}"));
        match name.to_ascii_lowercase().as_str() {
            "content-type" => content_type = Some(value.trim().to_owned()),
            "content-range" => range = Some(content_range(value.trim())),
            _ => {}
        }
    }
    let range = range.unwrap_or_else(|| panic!("a part without Content-Range: {fields}"));
    let length = usize::try_from(range.1 - range.0 + 1).expect("a part fits memory");
    assert!(
        body.len() >= length,
        "a part of {length} bytes in a body with {} left",
        body.len()
    );
    (
        Part {
            content_type,
            range,
            bytes: body[..length].to_vec(),
        },
        &body[length..],
    )
}

/// `bytes F-L/N` as (F, L, N).
///
/// # Panics
/// If it is anything else.
#[must_use]
pub fn content_range(value: &str) -> (u64, u64, u64) {
    let numbers = value.strip_prefix("bytes ").and_then(|rest| {
        let (range, size) = rest.split_once('/')?;
        let (first, last) = range.split_once('-')?;
        Some((first.parse().ok()?, last.parse().ok()?, size.parse().ok()?))
    });
    numbers.unwrap_or_else(|| panic!("Content-Range {value}"))
}
