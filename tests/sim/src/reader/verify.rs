//! Headers and bytes against the oracle: nothing is taken on the gateway's word.

use std::ops::Range;

use forebay_loadtest::pattern;
use http::response::Parts;
use http::{HeaderName, Method, header};

use super::Outcome;
use super::ask::{Ask, Expected};
use crate::objects::{Content, Kind, version_of_date};
use crate::oracle::{Measure, Oracle};

/// What an answer's head comes to.
pub enum Verdict {
    /// It is the object's: these bytes must follow.
    Object(Bytes),
    /// It is something else, and right.
    Other(Outcome),
}

/// Bytes that must come, in order.
pub struct Bytes {
    /// The version that they are of.
    pub content: Content,
    pattern: u64,
    pieces: Vec<Piece>,
    /// The piece that is next, and how much of it came.
    at: usize,
    within: u64,
}

enum Piece {
    /// What stands between the parts of a multipart body.
    Text(Vec<u8>),
    /// Bytes of the version.
    Range(Range<u64>),
}

impl Piece {
    fn len(&self) -> u64 {
        match self {
            Self::Text(text) => text.len() as u64,
            Self::Range(range) => range.end - range.start,
        }
    }
}

/// Judges the head of an answer to `ask`.
///
/// # Errors
/// What is wrong with it.
pub fn head(
    oracle: &Oracle,
    ask: &Ask,
    measure: &Measure,
    answer: &Parts,
) -> Result<Verdict, String> {
    let name = &ask.name;
    match answer.status.as_u16() {
        200 | 206 => {}
        404 => {
            oracle.judge_absent(name, measure)?;
            return Ok(Verdict::Other(Outcome::Absent));
        }
        412 => {
            let only = ask.only.ok_or("412 without a condition")?;
            oracle.judge_failed_condition(name, measure, only.version)?;
            return Ok(Verdict::Other(Outcome::Refused));
        }
        416 => {
            let beyond = |size| ask.wanted.of(size) == Expected::Unsatisfiable;
            oracle.judge_unsatisfiable(name, measure, beyond)?;
            return Ok(Verdict::Other(Outcome::Refused));
        }
        status @ (500 | 502 | 503) => return Ok(Verdict::Other(Outcome::Failed(status))),
        status => return Err(format!("status {status}")),
    }
    let content = content(oracle, ask, answer)?;
    let cache = text(answer, &HeaderName::from_static("cache-status"));
    let stale = cache.is_some_and(|cache| cache.contains("ttl=-"));
    oracle.judge(name, measure, content, stale)?;
    if let Some(only) = ask.only.filter(|only| only.version != content.version) {
        let (asked, got) = (only.version, content.version);
        return Err(format!("version {got} where only {asked} was asked for"));
    }
    let mut bytes = Bytes {
        content,
        pattern: content.pattern(name),
        pieces: pieces(ask, answer, content)?,
        at: 0,
        within: 0,
    };
    let told = text(answer, &header::CONTENT_LENGTH).and_then(|length| length.parse().ok());
    let length = bytes.pieces.iter().map(Piece::len).sum::<u64>();
    if told != Some(length) {
        return Err(format!("Content-Length {told:?} instead of {length}"));
    }
    if ask.method == Method::HEAD {
        bytes.pieces.clear();
    }
    Ok(Verdict::Object(bytes))
}

fn text<'a>(answer: &'a Parts, name: &HeaderName) -> Option<&'a str> {
    answer.headers.get(name)?.to_str().ok()
}

/// The version that an answer says it is of.
fn content(oracle: &Oracle, ask: &Ask, answer: &Parts) -> Result<Content, String> {
    let name = &ask.name;
    let etag = text(answer, &header::ETAG);
    let date = text(answer, &header::LAST_MODIFIED).ok_or("no Last-Modified")?;
    let date = httpdate::parse_http_date(date).map_err(|error| error.to_string())?;
    let version = version_of_date(date).ok_or("a Last-Modified that is no version's")?;
    let content = oracle.objects.version(name, version);
    let content = content.ok_or("a Last-Modified that is no version's")?;
    match (name.kind, etag) {
        (Kind::Dated, None) => Ok(content),
        (Kind::Dated, Some(_)) => Err("an ETag that the origin never gave".into()),
        (_, etag) if etag == content.etag(name).as_deref() => Ok(content),
        (_, etag) => Err(format!("ETag {etag:?} beside version {version}'s date")),
    }
}

/// What must follow a head.
fn pieces(ask: &Ask, answer: &Parts, content: Content) -> Result<Vec<Piece>, String> {
    let size = content.size;
    let range = text(answer, &header::CONTENT_RANGE);
    let head = |range: &Range<u64>| format!("bytes {}-{}/{size}", range.start, range.end - 1);
    match (answer.status.as_u16(), ask.wanted.of(size)) {
        (200, Expected::Whole) => Ok(vec![Piece::Range(0..size)]),
        (206, Expected::One(wanted)) if range == Some(&*head(&wanted)) => {
            Ok(vec![Piece::Range(wanted)])
        }
        (206, Expected::Several(wanted)) => {
            let kind = text(answer, &header::CONTENT_TYPE).unwrap_or_default();
            let boundary = kind.strip_prefix("multipart/byteranges; boundary=");
            let boundary = boundary.ok_or_else(|| format!("Content-Type {kind}"))?;
            let mut pieces = Vec::new();
            for wanted in wanted {
                let kind = "Content-Type: application/octet-stream";
                let range = head(&wanted);
                let text = format!("\r\n--{boundary}\r\n{kind}\r\nContent-Range: {range}\r\n\r\n");
                pieces.push(Piece::Text(text.into_bytes()));
                pieces.push(Piece::Range(wanted));
            }
            let text = format!("\r\n--{boundary}--\r\n");
            pieces.push(Piece::Text(text.into_bytes()));
            Ok(pieces)
        }
        (status, expected) => Err(format!(
            "status {status} with Content-Range {range:?} of {size} bytes instead of {expected:?}"
        )),
    }
}

impl Bytes {
    /// Judges the next bytes of the body.
    ///
    /// # Errors
    /// The first byte that is wrong, or that nobody asked for.
    pub fn take(&mut self, mut bytes: &[u8]) -> Result<(), String> {
        while !bytes.is_empty() {
            let Some(piece) = self.pieces.get(self.at) else {
                return Err(format!("{} bytes past the end", bytes.len()));
            };
            let left = piece.len() - self.within;
            let now = left.min(bytes.len() as u64) as usize;
            match piece {
                Piece::Text(text) => {
                    let within = self.within as usize;
                    if text[within..within + now] != bytes[..now] {
                        return Err("a multipart body with other words in it".into());
                    }
                }
                Piece::Range(range) => {
                    let offset = range.start + self.within;
                    pattern::check(self.pattern, offset, &bytes[..now])
                        .map_err(|wrong| format!("wrong bytes: {wrong}"))?;
                }
            }
            self.within += now as u64;
            bytes = &bytes[now..];
            self.skip_done();
        }
        Ok(())
    }

    fn skip_done(&mut self) {
        while let Some(piece) = self.pieces.get(self.at)
            && piece.len() == self.within
        {
            self.at += 1;
            self.within = 0;
        }
    }

    /// Judges that the body ends here.
    ///
    /// # Errors
    /// If there was more to come.
    pub fn end(&mut self) -> Result<(), String> {
        self.skip_done();
        let left: u64 = self.pieces[self.at..].iter().map(Piece::len).sum();
        match left - self.within {
            0 => Ok(()),
            left => Err(format!("a body that ends as if whole, {left} bytes early")),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn bytes(of: u64) -> Bytes {
        Bytes {
            content: Content {
                version: 1,
                size: 100,
            },
            pattern: of,
            pieces: vec![Piece::Text(b"ab".to_vec()), Piece::Range(3..60)],
            at: 0,
            within: 0,
        }
    }

    fn body(of: u64) -> Vec<u8> {
        let mut body = vec![0; 59];
        body[..2].copy_from_slice(b"ab");
        pattern::fill(of, 3, &mut body[2..]);
        body
    }

    #[test]
    fn the_right_bytes_are_right_in_any_pieces() {
        for size in [1, 2, 7, 59] {
            let mut right = bytes(1);
            for piece in body(1).chunks(size) {
                right.take(piece).unwrap();
            }
            right.end().unwrap();
        }
    }

    #[test]
    fn other_missing_and_further_bytes_are_wrong() {
        assert!(bytes(2).take(&body(1)).is_err());
        let mut short = bytes(1);
        short.take(&body(1)[..58]).unwrap();
        assert!(short.end().is_err());
        let mut long = body(1);
        long.push(0);
        assert!(bytes(1).take(&long).is_err());
    }
}
