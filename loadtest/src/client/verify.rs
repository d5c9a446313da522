//! Judges an answer: its head against what was asked, its bytes against the version that it names.

use http::header::{self, HeaderName};
use http::response::Parts;
use http::{HeaderMap, StatusCode};

use super::Outcome;
use super::ask::{Ask, merge};
use super::multipart::{ContentRange, Event, Multipart, boundary};
use crate::pattern::{self, Candidate};

/// Versions to each side of the expected one that stray bytes are looked for in.
const NEIGHBOURS: u64 = 4096;

/// Bytes enough to tell one version from the thousands that [`identify`] tries.
const ENOUGH: usize = 64;

/// Larger than any object: the bound on where [`pattern::locate`] may place a word.
const ANYWHERE: u64 = 1 << 44;

/// One answer's bytes, checked as they come.
#[derive(Debug)]
pub(super) struct Verifier {
    version: Version,
    shape: Shape,
    /// What must have come by the end, merged.
    wanted: Option<Vec<(u64, u64)>>,
    verified: u64,
}

/// The version whose bytes these must be.
#[derive(Debug)]
struct Version {
    ask: Ask,
    etag: Option<String>,
    /// Known from the ETag, or from the first bytes if there is none.
    known: Option<(u64, u64)>,
}

#[derive(Debug)]
enum Shape {
    One {
        at: u64,
        end: u64,
    },
    Parts {
        reader: Multipart,
        size: Option<u64>,
        came: Vec<(u64, u64)>,
    },
}

impl Verifier {
    /// Judges the head of a 200 or 206.
    ///
    /// # Errors
    /// The head is wrong: another range than was asked for, a length that does not fit, a foreign ETag.
    pub(super) fn new(ask: &Ask, head: &Parts) -> Result<Self, Outcome> {
        let etag = text(&head.headers, header::ETAG).map(str::to_owned);
        let mut version = Version {
            ask: ask.clone(),
            etag,
            known: None,
        };
        let length = text(&head.headers, header::CONTENT_LENGTH)
            .and_then(|length| length.parse::<u64>().ok());
        let length = length.ok_or_else(|| wrong("no Content-Length"))?;
        let content_type = text(&head.headers, header::CONTENT_TYPE).unwrap_or_default();
        if head.status == StatusCode::OK {
            version.settle(length)?;
            let shape = Shape::One { at: 0, end: length };
            return Ok(Self {
                version,
                shape,
                wanted: None,
                verified: 0,
            });
        }
        if let Some(boundary) = boundary(content_type) {
            let shape = Shape::Parts {
                reader: Multipart::new(boundary),
                size: None,
                came: Vec::new(),
            };
            return Ok(Self {
                version,
                shape,
                wanted: None,
                verified: 0,
            });
        }
        let value = text(&head.headers, header::CONTENT_RANGE)
            .ok_or_else(|| wrong("206 without Content-Range"))?;
        let range =
            ContentRange::parse(value).ok_or_else(|| wrong(format!("Content-Range {value:?}")))?;
        if ask.want.resolve(range.size) != [(range.first, range.end)] {
            return Err(wrong(format!(
                "{:?} answered with Content-Range {value:?}",
                ask.want
            )));
        }
        if length != range.end - range.first {
            return Err(wrong(format!(
                "Content-Range {value:?} with Content-Length {length}"
            )));
        }
        version.settle(range.size)?;
        let shape = Shape::One {
            at: range.first,
            end: range.end,
        };
        Ok(Self {
            version,
            shape,
            wanted: None,
            verified: 0,
        })
    }

    /// The version of the bytes, once it is known.
    pub(super) fn version(&self) -> Option<u64> {
        self.version.known.map(|(version, _)| version)
    }

    /// Bytes that came and were right.
    pub(super) fn verified(&self) -> u64 {
        self.verified
    }

    /// Checks the next piece of the body.
    ///
    /// # Errors
    /// A byte is wrong, or one too many, or the multipart body is none.
    pub(super) fn feed(&mut self, piece: &[u8]) -> Result<(), Outcome> {
        let Self {
            version,
            shape,
            wanted,
            verified,
        } = self;
        match shape {
            Shape::One { at, end } => {
                if *end - *at < piece.len() as u64 {
                    return Err(wrong(format!("bytes after the end, at {end}")));
                }
                version.check(*at, piece, verified)?;
                *at += piece.len() as u64;
                Ok(())
            }
            Shape::Parts { reader, size, came } => {
                let fed: Result<(), Outcome> = reader.feed(piece, &mut |event| match event {
                    Event::Part(range) => {
                        if *size.get_or_insert(range.size) != range.size {
                            return Err(wrong("two sizes in one multipart body"));
                        }
                        version.settle(range.size)?;
                        let all =
                            wanted.get_or_insert_with(|| version.ask.want.resolve(range.size));
                        if !all
                            .iter()
                            .any(|(first, end)| *first <= range.first && range.end <= *end)
                        {
                            return Err(wrong(format!(
                                "part {}..{} was not asked for",
                                range.first, range.end
                            )));
                        }
                        came.push((range.first, range.end));
                        Ok(())
                    }
                    Event::Data(at, bytes) => version.check(at, bytes, verified),
                });
                fed
            }
        }
    }

    /// Judges the end of a body that ended without an error.
    ///
    /// # Errors
    /// Something that was promised or asked for is missing.
    pub(super) fn finish(self) -> Result<(), Outcome> {
        match self.shape {
            Shape::One { at, end } if at == end => Ok(()),
            Shape::One { at, end } => Err(wrong(format!(
                "ended at {at} as if complete, instead of {end}"
            ))),
            Shape::Parts { reader, .. } if !reader.ended() => Err(wrong("no closing delimiter")),
            Shape::Parts { came, .. } if Some(merge(came.clone())) != self.wanted => {
                Err(wrong(format!(
                    "parts {came:?} instead of {:?}",
                    self.wanted.unwrap_or_default()
                )))
            }
            Shape::Parts { .. } => Ok(()),
        }
    }
}

impl Version {
    /// Finds the version in the ETag, now that the object's size is known.
    fn settle(&mut self, size: u64) -> Result<(), Outcome> {
        let Some(etag) = &self.etag else {
            return Ok(());
        };
        let version = pattern::version_of(etag, &self.ask.key, size).ok_or_else(|| {
            wrong(format!(
                "ETag {etag} is of no version of {:?} with {size} bytes",
                self.ask.key
            ))
        })?;
        self.known = Some((version, pattern::seed(&self.ask.key, version)));
        Ok(())
    }

    fn check(&mut self, at: u64, bytes: &[u8], verified: &mut u64) -> Result<(), Outcome> {
        if bytes.is_empty() {
            return Ok(());
        }
        let (version, seed) = match self.known {
            Some(known) => known,
            None => identify(&self.ask.key, at, bytes)
                .ok_or_else(|| wrong(format!("no ETag, and bytes of no version at {at}")))?,
        };
        self.known = Some((version, seed));
        let Err(mismatch) = pattern::check(seed, at, bytes) else {
            *verified += bytes.len() as u64;
            return Ok(());
        };
        *verified += mismatch.index as u64;
        let key = &self.ask.key;
        let found = trace(key, version, &bytes[mismatch.index..]);
        Err(match found {
            Some((other, offset)) if other != version && *verified > 0 => Outcome::Mixed(format!(
                "{key:?}: version {version} up to {}, then version {other} from its offset {offset}",
                mismatch.offset
            )),
            Some((other, offset)) => wrong(format!(
                "{key:?}: at {} of version {version} come bytes of version {other} from its offset {offset}",
                mismatch.offset
            )),
            None => wrong(format!(
                "{key:?}, version {version}: {mismatch}, and no known version's"
            )),
        })
    }
}

/// The version, and its seed, that the first bytes of an answer without an ETag are of.
fn identify(key: &str, at: u64, bytes: &[u8]) -> Option<(u64, u64)> {
    let bytes = &bytes[..bytes.len().min(ENOUGH)];
    (0..NEIGHBOURS)
        .map(|version| (version, pattern::seed(key, version)))
        .find(|&(_, seed)| pattern::check(seed, at, bytes).is_ok())
}

/// Where wrong bytes come from: the version, and the offset in it of the first of them, wherever a word begins.
fn trace(key: &str, version: u64, bytes: &[u8]) -> Option<(u64, u64)> {
    let around = version.saturating_sub(NEIGHBOURS)..=version.saturating_add(NEIGHBOURS);
    let candidates: Vec<_> = around
        .map(|version| Candidate {
            version,
            seed: pattern::seed(key, version),
            size: ANYWHERE,
        })
        .collect();
    bytes
        .windows(8)
        .take(8)
        .enumerate()
        .find_map(|(skipped, word)| {
            let word = u64::from_le_bytes(word.try_into().expect("windows of eight bytes"));
            let (version, offset) = pattern::locate(word, &candidates)?;
            Some((version, offset.checked_sub(skipped as u64)?))
        })
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

fn wrong(detail: impl Into<String>) -> Outcome {
    Outcome::Wrong(detail.into())
}

impl From<String> for Outcome {
    /// A multipart body that is none.
    fn from(detail: String) -> Self {
        Self::Wrong(detail)
    }
}
