//! What a client can ask for.

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{Method, Request};
use http_body_util::Full;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// What a path segment holds as it is: RFC 3986's unreserved characters, and the slashes between segments.
const KEPT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'/');

/// The bytes wanted of an object (RFC 9110 §14.1.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Want {
    /// All, without a Range header.
    Whole,
    /// From the first to the last byte given, both included.
    Range(u64, u64),
    /// From this byte on.
    Open(u64),
    /// The last bytes, so many.
    Suffix(u64),
    /// Several ranges, each from its first to its last byte.
    Several(Vec<(u64, u64)>),
}

impl Want {
    /// The value of the Range header; `None` for the whole.
    pub fn header(&self) -> Option<String> {
        Some(match self {
            Self::Whole => return None,
            Self::Range(first, last) => format!("bytes={first}-{last}"),
            Self::Open(first) => format!("bytes={first}-"),
            Self::Suffix(length) => format!("bytes=-{length}"),
            Self::Several(ranges) => {
                let ranges: Vec<_> = ranges
                    .iter()
                    .map(|(first, last)| format!("{first}-{last}"))
                    .collect();
                format!("bytes={}", ranges.join(","))
            }
        })
    }

    /// The bytes this is of an object of `size`: pairs of the first byte and the one after the last, in order,
    /// merged where they overlap or touch. None if there is nothing to send.
    pub fn resolve(&self, size: u64) -> Vec<(u64, u64)> {
        let clip = |&(first, last): &(u64, u64)| (first, last.saturating_add(1).min(size));
        let spans = match self {
            Self::Whole => vec![(0, size)],
            Self::Range(first, last) => vec![clip(&(*first, *last))],
            Self::Open(first) => vec![(*first, size)],
            Self::Suffix(length) => vec![(size.saturating_sub(*length), size)],
            Self::Several(ranges) => ranges.iter().map(clip).collect(),
        };
        merge(spans)
    }
}

/// Sorts spans and joins those that overlap or touch; empty ones go.
pub(super) fn merge(mut spans: Vec<(u64, u64)>) -> Vec<(u64, u64)> {
    spans.retain(|(first, end)| first < end);
    spans.sort_unstable();
    let mut merged: Vec<(u64, u64)> = Vec::with_capacity(spans.len());
    for (first, end) in spans {
        match merged.last_mut() {
            Some(last) if first <= last.1 => last.1 = last.1.max(end),
            _ => merged.push((first, end)),
        }
    }
    merged
}

/// One request.
#[derive(Clone, Debug)]
pub struct Ask {
    /// The key, as it is; it is encoded here.
    pub key: String,
    /// The bytes wanted.
    pub want: Want,
    /// More headers, such as If-Match.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    method: Method,
}

impl Ask {
    /// Asks for these bytes of this key, without conditions.
    pub fn new(key: &str, want: Want) -> Self {
        Self {
            key: key.to_owned(),
            want,
            headers: Vec::new(),
            method: Method::GET,
        }
    }

    /// Asks for the head of the whole only.
    pub fn head(key: &str) -> Self {
        Self {
            method: Method::HEAD,
            ..Self::new(key, Want::Whole)
        }
    }

    /// GET or HEAD.
    pub fn method(&self) -> &Method {
        &self.method
    }

    /// The path as it travels, below this root.
    pub(crate) fn path(&self, root: &str) -> String {
        format!("{}/{}", root.trim_end_matches('/'), encode(&self.key))
    }

    /// Adds a header.
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    pub(super) fn request(
        &self,
        authority: &str,
        root: &str,
    ) -> Result<Request<Full<Bytes>>, String> {
        let mut request = Request::builder()
            .method(&self.method)
            .uri(self.path(root))
            .header(header::HOST, authority);
        if let Some(range) = self.want.header() {
            request = request.header(header::RANGE, range);
        }
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        request
            .body(Full::default())
            .map_err(|error| format!("make the request: {error}"))
    }
}

/// A key as it stands in a request's path, each segment percent-encoded.
fn encode(key: &str) -> String {
    utf8_percent_encode(key, KEPT).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_encoded_segment_by_segment() {
        assert_eq!(encode("a//b/c d+e%2Fü"), "a//b/c%20d%2Be%252F%C3%BC");
    }

    #[test]
    fn wants_resolve_to_what_an_object_has() {
        assert_eq!(Want::Whole.resolve(0), []);
        assert_eq!(Want::Range(5, 100).resolve(10), [(5, 10)]);
        assert_eq!(Want::Range(10, 11).resolve(10), []);
        assert_eq!(Want::Open(9).resolve(10), [(9, 10)]);
        assert_eq!(Want::Suffix(100).resolve(10), [(0, 10)]);
        assert_eq!(Want::Suffix(0).resolve(10), []);
        assert_eq!(
            Want::Several(vec![(6, 7), (0, 1), (2, 3), (9, 50)]).resolve(10),
            [(0, 4), (6, 8), (9, 10)]
        );
    }
}
