//! Request heads: what HTTP asks of one and the server's parser lets pass.
//!
//! The parser refuses what has no syntax, by itself. What remains is whom a request is for, how long its head
//! may be, and a body where none can be meant: each of them a way for a proxy and this gateway to read one
//! connection differently.

use forebay_storage::origin::{LOOP_HEADER, loop_value};
use http::request::Parts;
use http::{Method, StatusCode, Version, header};

/// Longest path and query together, in bytes. An S3 key takes up to 3 KiB once it is percent-encoded, and a
/// presigned query with a session token about 2 KiB.
pub const MAX_TARGET_BYTES: usize = 8 * 1024;

/// Longest field section: names, values and 4 bytes for each line's colon, space and end. S3 allows a
/// quarter of it.
pub const MAX_FIELD_BYTES: usize = 32 * 1024;

/// Why a head is refused. All are the client's mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// RFC 9112 §3.2: an HTTP/1.1 request has a Host.
    #[error("the request has no Host field; HTTP/1.1 asks for one")]
    NoHost,
    /// RFC 9112 §3.2: no request has two.
    #[error("the request has several Host fields; send one")]
    SeveralHosts,
    /// RFC 9110 §7.2: it is a name or an address, and a port if need be.
    #[error("the Host field is not HOST or HOST:PORT")]
    BadHost,
    /// RFC 9113 §8.3.1: whoever looks at one of them only would send it elsewhere.
    #[error("the Host field is not what :authority says; send one of them")]
    TwoHosts,
    /// RFC 9112 §6.1: nothing defines what it would mean, and some proxies don't look for it.
    #[error("the request is a {0} with a Transfer-Encoding; send it without a body")]
    CodedBody(Reading),
    /// RFC 9110 §15.5.15.
    #[error("the request target is longer than {MAX_TARGET_BYTES} bytes")]
    TargetTooLong,
    /// RFC 6585 §5.
    #[error("the request's fields are longer than {MAX_FIELD_BYTES} bytes together")]
    FieldsTooLong,
}

/// A method that only reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// GET.
    Get,
    /// HEAD.
    Head,
}

impl std::fmt::Display for Reading {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
        })
    }
}

impl HeadError {
    /// The status to answer with.
    pub fn status(self) -> StatusCode {
        match self {
            Self::NoHost
            | Self::SeveralHosts
            | Self::BadHost
            | Self::TwoHosts
            | Self::CodedBody(_) => StatusCode::BAD_REQUEST,
            Self::TargetTooLong => StatusCode::URI_TOO_LONG,
            Self::FieldsTooLong => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        }
    }
}

/// Judges a request's head.
///
/// # Errors
/// [`HeadError`], the first that applies.
pub fn judge(parts: &Parts) -> Result<(), HeadError> {
    let target = parts.uri.path().len() + parts.uri.query().map_or(0, |query| query.len() + 1);
    if target > MAX_TARGET_BYTES {
        return Err(HeadError::TargetTooLong);
    }
    let fields = parts.headers.iter();
    let fields = fields.map(|(name, value)| name.as_str().len() + value.len() + 4);
    if fields.sum::<usize>() > MAX_FIELD_BYTES {
        return Err(HeadError::FieldsTooLong);
    }
    let mut hosts = parts.headers.get_all(header::HOST).iter();
    match (hosts.next(), hosts.next()) {
        // HTTP/2 has `:authority` for it, and HTTP/1.0 did not know it.
        (None, _) if parts.version == Version::HTTP_11 => return Err(HeadError::NoHost),
        (None, _) => {}
        (Some(_), Some(_)) => return Err(HeadError::SeveralHosts),
        (Some(host), None) if !is_host(host.as_bytes()) => return Err(HeadError::BadHost),
        (Some(host), None) if parts.version == Version::HTTP_2 => {
            let authority = parts.uri.authority();
            let same = |authority: &http::uri::Authority| {
                authority
                    .as_str()
                    .as_bytes()
                    .eq_ignore_ascii_case(host.as_bytes())
            };
            if !authority.is_none_or(same) {
                return Err(HeadError::TwoHosts);
            }
        }
        (Some(_), None) => {}
    }
    let reading = match parts.method {
        Method::GET => Some(Reading::Get),
        Method::HEAD => Some(Reading::Head),
        _ => None,
    };
    match reading {
        Some(method) if parts.headers.contains_key(header::TRANSFER_ENCODING) => {
            Err(HeadError::CodedBody(method))
        }
        _ => Ok(()),
    }
}

/// Whether the connection ends with this request: a body that is not read stands in the way of the next one
/// on an HTTP/1 connection, so the client is told that there is none (RFC 9112 §9.6).
pub fn ends_connection(parts: &Parts) -> bool {
    let length = parts.headers.get(header::CONTENT_LENGTH);
    let body = length.is_some_and(|length| length != "0")
        || parts.headers.contains_key(header::TRANSFER_ENCODING);
    body && parts.version <= Version::HTTP_11
}

/// Whether this is a request of our own to an origin (RFC 8586).
pub fn came_back(parts: &Parts) -> bool {
    let mut values = parts.headers.get_all(LOOP_HEADER).iter();
    values.any(|value| value == loop_value())
}

/// Whether this may stand in a Host field: `uri-host [ ":" port ]` (RFC 9110 §7.2, RFC 3986 §3.2.2). An empty
/// one may, where the target has no authority.
pub fn is_host(value: &[u8]) -> bool {
    let (host, port) = match value {
        [b'[', rest @ ..] => {
            let Some(end) = rest.iter().position(|byte| *byte == b']') else {
                return false;
            };
            let literal = &rest[..end];
            // An IPv6 address, or `v1.` and what later versions may have.
            let known = |byte: &u8| is_plain(*byte) || *byte == b':';
            if literal.is_empty() || !literal.iter().all(known) {
                return false;
            }
            (&b""[..], &rest[end + 1..])
        }
        _ => {
            let colon = value.iter().position(|byte| *byte == b':');
            value.split_at(colon.unwrap_or(value.len()))
        }
    };
    let port = match port {
        [] => true,
        [b':', digits @ ..] => digits.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    port && is_name(host)
}

fn is_name(mut host: &[u8]) -> bool {
    loop {
        host = match host {
            [] => return true,
            [b'%', one, two, rest @ ..] if [one, two].iter().all(|b| b.is_ascii_hexdigit()) => rest,
            [byte, rest @ ..] if is_plain(*byte) => rest,
            _ => return false,
        }
    }
}

/// RFC 3986's unreserved characters and sub-delims.
const PLAIN: [bool; 256] = {
    let marks = b"-._~!$&'()*+,;=";
    let mut plain = [false; 256];
    let mut byte = 0;
    while byte < 128 {
        plain[byte] = (byte as u8).is_ascii_alphanumeric();
        byte += 1;
    }
    let mut mark = 0;
    while mark < marks.len() {
        plain[marks[mark] as usize] = true;
        mark += 1;
    }
    plain
};

fn is_plain(byte: u8) -> bool {
    PLAIN[usize::from(byte)]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use http::Request;

    use super::*;

    fn head(version: Version, fields: &[(&str, &str)]) -> Parts {
        let request = fields.iter().fold(
            Request::builder().uri("/m/a").version(version),
            |request, (name, value)| request.header(*name, *value),
        );
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn hosts_follow_the_grammar() {
        for host in [
            "",
            "a",
            "gw:7070",
            "gw:",
            "10.0.0.7:7070",
            "[::1]",
            "[::1]:7070",
            "[v1.x:y]",
            "a_b.example",
            "%41",
            "~!$&'()*+,;=",
            ":7070",
        ] {
            assert!(is_host(host.as_bytes()), "{host}");
        }
        for host in [
            "a b",
            "a/b",
            "user@gw",
            "gw:port",
            "gw:70:70",
            "::1",
            "[::1",
            "[]",
            "[::1]x",
            "[a b]",
            "a%4",
            "a%zz",
            "a\tb",
            "a,b c",
            "http://gw",
            "\u{e4}",
            "gw?x",
            "gw#x",
            "\\",
        ] {
            assert!(!is_host(host.as_bytes()), "{host}");
        }
    }

    #[test]
    fn one_host_is_asked_for_where_the_version_has_it() {
        let two = [("host", "a"), ("host", "a")];
        for version in [Version::HTTP_10, Version::HTTP_11, Version::HTTP_2] {
            assert_eq!(judge(&head(version, &two[..1])), Ok(()));
            assert_eq!(judge(&head(version, &two)), Err(HeadError::SeveralHosts));
            let bad = head(version, &[("host", "a b")]);
            assert_eq!(judge(&bad), Err(HeadError::BadHost));
        }
        for (version, host, judged) in [
            (Version::HTTP_2, "b", Err(HeadError::TwoHosts)),
            (Version::HTTP_2, "A", Ok(())),
            (Version::HTTP_11, "b", Ok(())),
        ] {
            let mut parts = head(version, &[("host", host)]);
            parts.uri = "http://a/models".parse().unwrap();
            assert_eq!(judge(&parts), judged);
        }
        let none = head(Version::HTTP_11, &[]);
        assert_eq!(judge(&none), Err(HeadError::NoHost));
        for version in [Version::HTTP_10, Version::HTTP_2] {
            assert_eq!(judge(&head(version, &[])), Ok(()));
        }
    }

    #[test]
    fn heads_end_at_their_limits() {
        let of = |target: usize| {
            let mut parts = head(Version::HTTP_11, &[("host", "a")]);
            parts.uri = format!("/{}?q", "a".repeat(target - 3)).parse().unwrap();
            judge(&parts)
        };
        assert_eq!(of(MAX_TARGET_BYTES), Ok(()));
        assert_eq!(of(MAX_TARGET_BYTES + 1), Err(HeadError::TargetTooLong));
        let of = |bytes: usize| {
            let value = "x".repeat(bytes - "hosta".len() - "x".len() - 2 * 4);
            judge(&head(Version::HTTP_11, &[("host", "a"), ("x", &value)]))
        };
        assert_eq!(of(MAX_FIELD_BYTES), Ok(()));
        assert_eq!(of(MAX_FIELD_BYTES + 1), Err(HeadError::FieldsTooLong));
    }

    #[test]
    fn a_read_has_no_transfer_encoding() {
        let mut parts = head(
            Version::HTTP_11,
            &[("host", "a"), ("transfer-encoding", "chunked")],
        );
        assert_eq!(judge(&parts), Err(HeadError::CodedBody(Reading::Get)));
        parts.method = Method::HEAD;
        assert_eq!(judge(&parts), Err(HeadError::CodedBody(Reading::Head)));
        parts.method = Method::POST;
        assert_eq!(judge(&parts), Ok(()));
    }
}
