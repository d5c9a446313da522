//! What a signature covers: the canonical request, the string to sign and the signing key, for the
//! one who signs as for the one who verifies ("Authenticating Requests: Using the Authorization
//! Header" and "… Using Query Parameters" of the S3 API reference).
//!
//! The path is taken as it travels, since S3 signs it encoded once and never folds it.

use std::borrow::Cow;
use std::time::SystemTime;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac::{self, HMAC_SHA256};
use chrono::{DateTime, NaiveDate, Utc};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, percent_encode};

/// The only algorithm.
pub const ALGORITHM: &str = "AWS4-HMAC-SHA256";

/// The last part of every scope.
pub const TERMINATOR: &str = "aws4_request";

/// The only service.
pub const SERVICE: &str = "s3";

/// Stands for a body that the signature does not cover.
pub const UNSIGNED_PAYLOAD: &str = "UNSIGNED-PAYLOAD";

/// SHA-256 of no bytes.
pub const EMPTY_PAYLOAD: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// The parameter that a presigned URL's signature can't cover, being it.
pub const SIGNATURE_PARAMETER: &str = "X-Amz-Signature";

/// What stays as it is in a canonical query: RFC 3986's unreserved characters.
pub const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// The same for a path, whose slashes stay.
pub const PATH: &AsciiSet = &UNRESERVED.remove(b'/');

/// A time as signatures have it, such as `20130524T000000Z`.
pub fn amz_date(time: SystemTime) -> String {
    let time = DateTime::<Utc>::from(time);
    time.format("%Y%m%dT%H%M%SZ").to_string()
}

/// The time that such a text names, or `None` if it is not one.
pub fn parse_amz_date(text: &str) -> Option<SystemTime> {
    let bytes: &[u8; 16] = text.as_bytes().try_into().ok()?;
    if bytes[8] != b'T' || bytes[15] != b'Z' {
        return None;
    }
    let number = |from: usize, to: usize| {
        bytes[from..to].iter().try_fold(0, |number, byte| {
            byte.is_ascii_digit()
                .then(|| number * 10 + u32::from(byte - b'0'))
        })
    };
    let year = i32::try_from(number(0, 4)?).ok()?;
    let day = NaiveDate::from_ymd_opt(year, number(4, 6)?, number(6, 8)?)?;
    let time = day.and_hms_opt(number(9, 11)?, number(11, 13)?, number(13, 15)?)?;
    Some(time.and_utc().into())
}

/// The canonical form of a query, without its `?`: each name and value decoded and encoded again,
/// sorted, and without the signature. `+` is a space, as S3 reads it.
pub fn query(raw: &str) -> String {
    if raw.is_empty() {
        return String::new();
    }
    let pairs = raw.split('&').filter(|pair| !pair.is_empty());
    let mut pairs: Vec<_> = pairs
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (encoded_again(name), encoded_again(value))
        })
        .filter(|(name, _)| name != SIGNATURE_PARAMETER)
        .collect();
    pairs.sort_unstable();
    let mut canonical = String::with_capacity(raw.len() + 16);
    for (name, value) in pairs {
        if !canonical.is_empty() {
            canonical.push('&');
        }
        canonical.push_str(&name);
        canonical.push('=');
        canonical.push_str(&value);
    }
    canonical
}

fn encoded_again(text: &str) -> Cow<'_, str> {
    // What clients that sign send is canonical already, and most requests pass here.
    if is_canonical(text.as_bytes()) {
        return text.into();
    }
    let spaced = text.replace('+', " ");
    let bytes: Cow<'_, [u8]> = percent_decode_str(&spaced).into();
    percent_encode(&bytes, UNRESERVED).to_string().into()
}

/// Whether decoding and encoding again changes nothing.
fn is_canonical(text: &[u8]) -> bool {
    let unreserved = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let digit = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    };
    let mut bytes = text.iter();
    while let Some(&byte) = bytes.next() {
        if byte != b'%' {
            if !unreserved(byte) {
                return false;
            }
            continue;
        }
        let (high, low) = (bytes.next().copied(), bytes.next().copied());
        match (high.and_then(digit), low.and_then(digit)) {
            (Some(high), Some(low)) if !unreserved(high << 4 | low) => {}
            _ => return false,
        }
    }
    true
}

/// A request as its signature covers it.
#[derive(Clone, Copy, Debug)]
pub struct Canonical<'a> {
    /// The method.
    pub method: &'a str,
    /// The path as it travels.
    pub path: &'a str,
    /// [`query`] of the query.
    pub query: &'a str,
    /// The names of the signed headers, in lower case, sorted, between semicolons.
    pub signed_headers: &'a str,
    /// The payload's SHA-256 in hexadecimal digits, or a word that stands for it.
    pub payload: &'a str,
}

impl Canonical<'_> {
    /// The canonical request's SHA-256, in hexadecimal digits. `append` is called for each signed
    /// header in turn, to append its values to the text.
    pub fn hash(&self, append: impl FnMut(&str, &mut Vec<u8>)) -> String {
        sha256_hex(&self.text(append))
    }

    /// The canonical request.
    pub fn text(&self, mut append: impl FnMut(&str, &mut Vec<u8>)) -> Vec<u8> {
        let mut text = Vec::with_capacity(1024);
        for part in [self.method, "\n", self.path, "\n", self.query, "\n"] {
            text.extend_from_slice(part.as_bytes());
        }
        for name in self.signed_headers.split(';') {
            text.extend_from_slice(name.as_bytes());
            text.push(b':');
            append(name, &mut text);
            text.push(b'\n');
        }
        for part in ["\n", self.signed_headers, "\n", self.payload] {
            text.extend_from_slice(part.as_bytes());
        }
        text
    }
}

/// Appends a header's value, without the blanks around it and with runs of them folded into one.
pub fn append_value(value: &[u8], text: &mut Vec<u8>) {
    let value = value.trim_ascii();
    if !value.windows(2).any(|pair| pair == b"  ") {
        text.extend_from_slice(value);
        return;
    }
    let mut blank = false;
    for byte in value {
        if *byte != b' ' || !blank {
            text.push(*byte);
        }
        blank = *byte == b' ';
    }
}

/// Where and when a signing key is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scope<'a> {
    /// The day, as `YYYYMMDD`.
    pub day: &'a str,
    /// The region; any.
    pub region: &'a str,
}

impl Scope<'_> {
    /// As it stands in a credential and in the string to sign.
    pub fn text(&self) -> String {
        let Scope { day, region } = self;
        format!("{day}/{region}/{SERVICE}/{TERMINATOR}")
    }

    /// The key that signs in this scope.
    pub fn signing_key(&self, secret: &str) -> hmac::Key {
        let mut key = hmac::Key::new(HMAC_SHA256, format!("AWS4{secret}").as_bytes());
        for part in [self.day, self.region, SERVICE, TERMINATOR] {
            key = hmac::Key::new(HMAC_SHA256, hmac::sign(&key, part.as_bytes()).as_ref());
        }
        key
    }

    /// The signature of a canonical request of this hash at this time.
    pub fn sign(&self, key: &hmac::Key, amz_date: &str, request_hash: &str) -> hmac::Tag {
        hmac::sign(key, self.to_sign(amz_date, request_hash).as_bytes())
    }

    /// What is signed of a canonical request of this hash at this time.
    pub fn to_sign(&self, amz_date: &str, request_hash: &str) -> String {
        // Written out, since a request that is verified pays for each formatting.
        let mut text = String::with_capacity(256);
        for part in [
            ALGORITHM,
            "\n",
            amz_date,
            "\n",
            self.day,
            "/",
            self.region,
            "/",
        ] {
            text.push_str(part);
        }
        for part in [SERVICE, "/", TERMINATOR, "\n", request_hash] {
            text.push_str(part);
        }
        text
    }
}

/// The SHA-256 of some bytes, in hexadecimal digits.
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex(digest(&SHA256, bytes).as_ref())
}

/// Bytes in hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut digits = vec![0; bytes.len() * 2];
    for (pair, byte) in digits.chunks_exact_mut(2).zip(bytes) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
    // Digits are text.
    String::from_utf8(digits).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_decoded_encoded_again_and_sorted() {
        for (raw, canonical) in [
            ("", ""),
            ("acl", "acl="),
            ("b=2&a=1&a=0", "a=0&a=1&b=2"),
            ("prefix=a/b&list-type=2", "list-type=2&prefix=a%2Fb"),
            ("p=a+b%20c%2bd", "p=a%20b%20c%2Bd"),
            ("%61=%7E~%e4", "a=~~%E4"),
            ("a&&b=&X-Amz-Signature=00", "a=&b="),
            ("a=b=c", "a=b%3Dc"),
            ("a=%2F%20%E4", "a=%2F%20%E4"),
            ("a=%2f", "a=%2F"),
            ("a=%41%2D", "a=A-"),
            ("a=%&b=%4&c=%zz", "a=%25&b=%254&c=%25zz"),
        ] {
            assert_eq!(query(raw), canonical, "{raw}");
        }
    }

    #[test]
    fn times_are_read_to_the_letter_and_written_back() {
        for text in ["20130524T000000Z", "20240229T235959Z"] {
            let time = parse_amz_date(text).expect("a time");
            assert_eq!(amz_date(time), text);
        }
        for text in [
            "",
            "20130524",
            "20130524T000000",
            "20130524T000000z",
            "2013-05-24T00:00:00Z",
            "20130230T000000Z",
            "20130524T240000Z",
            "+0130524T000000Z",
            "2013052４T0000Z",
        ] {
            assert_eq!(parse_amz_date(text), None, "{text}");
        }
    }

    #[test]
    fn values_lose_blanks_around_them_and_runs_of_blanks() {
        for (value, appended) in [("  a  b \t", "a b"), ("a\"b   c\"", "a\"b c\""), ("", "")] {
            let mut text = Vec::new();
            append_value(value.as_bytes(), &mut text);
            assert_eq!(text, appended.as_bytes());
        }
    }

    #[test]
    fn digits_are_in_lower_case() {
        assert_eq!(sha256_hex(b""), EMPTY_PAYLOAD);
        assert_eq!(hex(&[0, 0x1f, 0xf0, 0xab]), "001ff0ab");
    }
}
