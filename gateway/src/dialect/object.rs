//! GET and HEAD of an object: the version, the conditions, the ranges, and the body that follows.

mod pinned;

use std::ops::Range;
use std::sync::Arc;
use std::time::SystemTime;

use forebay_storage::error::OriginError;
use forebay_storage::object::ObjectId;
use forebay_storage::version::Version;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use tokio::time::Instant;

use super::Reply;
use super::cache_status::{MISS, about_blocks, about_version, set_cache_status};
use super::conditions::{self, Current as Validators, Verdict};
use super::multipart;
use super::range::{self, ByteRange, Hint, Ranges};
use super::s3::error::{Code, S3Error};
use super::s3::query::ResponseOverrides;
use super::target::Query;
use crate::body::Content;
use crate::dataset::Dataset;
use crate::error::of_origin;
use crate::read::Reads;
use crate::read::body::{Feed, ReadBody};
use crate::read::passthrough;
use crate::read::version::{Current, How};
use crate::read::window::{Piece, Reader};
use crate::revision::Pinned;

/// Bodies over HTTP/2 that are longer than this are watched.
const WATCHED: u64 = 1 << 20;

/// Headers of an answer that are not its version's, about.
const HEADERS: usize = 8;

/// S3 numbers parts from 1 to this.
const MAX_PARTS: u32 = 10_000;

/// One request for an object.
struct Asked<'a> {
    reads: &'a Arc<Reads>,
    dataset: &'a Arc<Dataset>,
    object: ObjectId,
    method: &'a Method,
    headers: &'a HeaderMap,
    overrides: ResponseOverrides,
    part: Option<u32>,
    /// There are conditions among the headers.
    conditional: bool,
    http2: bool,
    /// The version that the dataset's revision names.
    pinned: Option<&'a Pinned>,
}

/// An answer whose first bytes may still be on their way.
struct Begun {
    reply: Reply,
    /// Reads its body; `None`: it has none.
    reader: Option<Reader>,
}

impl Begun {
    fn is_primed(&self) -> bool {
        self.reader.as_ref().is_none_or(Reader::is_primed)
    }
}

/// Why an attempt gave no reply.
enum Failed {
    /// The client's answer.
    Error(S3Error),
    /// The object changed before anything was sent: once more, with the new version.
    Changed,
}

impl From<S3Error> for Failed {
    fn from(error: S3Error) -> Self {
        Self::Error(error)
    }
}

/// Answers a GET or HEAD of `key`, of the version `pinned` if the dataset has a revision.
///
/// # Errors
/// What goes out as S3's error document.
pub async fn answer(
    reads: &Arc<Reads>,
    dataset: &Arc<Dataset>,
    key: &Arc<str>,
    (parts, query): (&Parts, &Query),
    pinned: Option<&Pinned>,
) -> Result<Reply, S3Error> {
    let mut asked = Asked::parse(reads, dataset, key, parts, query)?;
    asked.pinned = pinned;
    // An object that is overwritten between its version and its first block is taken anew, once:
    // nothing was sent yet.
    for _ in 0..2 {
        match asked.attempt().await {
            Ok(mut reply) => {
                reply.stats = Some(Arc::clone(dataset.origin.stats()));
                return Ok(reply);
            }
            Err(Failed::Error(error)) => return Err(error),
            Err(Failed::Changed) => {}
        }
    }
    Err(asked.changed())
}

impl<'a> Asked<'a> {
    fn parse(
        reads: &'a Arc<Reads>,
        dataset: &'a Arc<Dataset>,
        key: &Arc<str>,
        parts: &'a Parts,
        query: &Query,
    ) -> Result<Self, S3Error> {
        let mut object = ObjectId::new(Arc::clone(&dataset.name), Arc::clone(key));
        if let Some(id) = query.get("versionId") {
            if id.is_empty() || id.len() > 1024 {
                let message = "Version id cannot be the empty string";
                return Err(S3Error::invalid_argument(message, "versionId", id));
            }
            object.version_id = Some(id.into());
        }
        let part = query.get("partNumber").map(part_number).transpose()?;
        if part.is_some() && parts.headers.contains_key(header::RANGE) {
            return Err(S3Error::new(
                Code::InvalidRequest,
                "Cannot specify both Range header and partNumber query parameter",
            ));
        }
        Ok(Self {
            reads,
            dataset,
            object,
            method: &parts.method,
            headers: &parts.headers,
            overrides: ResponseOverrides::parse(query)?,
            part,
            conditional: conditions::are_in(&parts.headers),
            http2: parts.version == http::Version::HTTP_2,
            pinned: None,
        })
    }

    fn failure(&self, error: &OriginError) -> S3Error {
        let version = self.object.version_id.as_deref();
        of_origin(error, &self.dataset.name, &self.object.key, version)
    }

    fn origin_failed(&self, error: &OriginError) -> Failed {
        match error {
            OriginError::Changed => Failed::Changed,
            error => Failed::Error(self.failure(error)),
        }
    }

    async fn attempt(&self) -> Result<Reply, Failed> {
        let current = self.current().await?;
        let version = &current.version;
        let with_range = match self.judge(version) {
            Verdict::Proceed { range } => range,
            Verdict::NotModified => return Ok(self.not_modified(&current)),
            Verdict::PreconditionFailed => {
                let current = validators(version);
                let failed = conditions::first_failure(self.method, self.headers, &current);
                let failed = failed.map_or("If-Match", |name| canonical(&name));
                let error = S3Error::precondition_failed(failed);
                return Err(error.about(&self.dataset.name, &self.object.key).into());
            }
        };
        if let Some(number) = self.part {
            return Box::pin(self.reply_part(&current, number)).await;
        }
        let wanted = self.headers.get(header::RANGE).filter(|_| with_range);
        let mut ranges = range::judge(wanted, version.size);
        if !version.cacheable() {
            // Several ranges would be several questions, and their answers perhaps of different
            // versions: a Range header may always be ignored.
            if let Ranges::Several(_) = ranges {
                ranges = Ranges::Whole;
            }
            return Box::pin(self.reply_through(&current, &ranges)).await;
        }
        let begun = match ranges {
            Ranges::Unsatisfiable => return Err(self.unsatisfiable(version)),
            Ranges::Whole => self.begin(&current, StatusCode::OK, 0..version.size),
            Ranges::One(range) => self.begin_range(&current, half_open(range)),
            Ranges::Several(ranges) => self.begin_several(&current, &ranges),
        };
        let begun = match begun.is_primed() {
            true => begun,
            // Boxed, as what hits do not come to is below, so that their future is small: it is moved once a request.
            false => Box::pin(self.prime(begun)).await?,
        };
        Ok(self.filled_in(&current, begun))
    }

    fn judge(&self, version: &Version) -> Verdict {
        if !self.conditional {
            return Verdict::Proceed { range: true };
        }
        let (current, now) = (validators(version), SystemTime::now());
        conditions::judge(self.method, self.headers, &current, now)
    }

    fn unsatisfiable(&self, version: &Version) -> Failed {
        let requested = self.headers.get(header::RANGE);
        let requested = requested.and_then(|value| value.to_str().ok());
        let error = S3Error::invalid_range(requested.unwrap_or_default(), version.size);
        error.about(&self.dataset.name, &self.object.key).into()
    }

    /// The version to answer with. A condition that names another one than we know makes us ask
    /// the origin once: the client may know more.
    async fn current(&self) -> Result<Current, Failed> {
        if let Some(pinned) = self.pinned {
            return Box::pin(self.pinned(pinned)).await;
        }
        let current = match self.reads.fresh(self.dataset, &self.object) {
            Some(current) => current,
            None => {
                let begun = Instant::now();
                let first = self.first_bytes();
                let asked = self.reads.current(self.dataset, &self.object, first, false);
                let asked = Box::pin(asked).await;
                let current = asked.map_err(|error| self.origin_failed(&error))?;
                // Who was asked may have answered from what it knew.
                if current.asked_at >= begun {
                    return Ok(current);
                }
                current
            }
        };
        let other = |known| conditions::names_another_version(self.headers, known);
        if !self.conditional || !other(&validators(&current.version)) {
            return Ok(current);
        }
        let asked = self.reads.current(self.dataset, &self.object, None, true);
        let stays = self.headers.contains_key(header::IF_MATCH);
        match Box::pin(asked).await {
            // A version that nobody could confirm refuses none that may be newer.
            Ok(current) if stays && matches!(current.how, How::Stale(_)) => {
                let reason = "it could not be asked whether the version that is known is current";
                Err(self.origin_failed(&OriginError::Unreachable(reason.into())))
            }
            Ok(current) => Ok(current),
            Err(error) if error.may_be_bridged() && !stays => Ok(current),
            Err(error) => Err(self.origin_failed(&error)),
        }
    }

    /// The bytes that will be read first, where they are known before the size is.
    fn first_bytes(&self) -> Option<Range<u64>> {
        let may_be_304 = self.headers.contains_key(header::IF_NONE_MATCH)
            || self.headers.contains_key(header::IF_MODIFIED_SINCE);
        if *self.method == Method::HEAD || self.part.is_some() || may_be_304 {
            return None;
        }
        match range::first_hint(self.headers.get(header::RANGE)) {
            Hint::From { first, last } => {
                let end = last.map_or(u64::MAX, |last| last.saturating_add(1));
                Some(first..end)
            }
            Hint::None => Some(0..u64::MAX),
            Hint::Suffix => None,
        }
    }

    fn not_modified(&self, current: &Current) -> Reply {
        let mut reply = Reply::empty(StatusCode::NOT_MODIFIED);
        // RFC 9110 §15.4.5: what a 200 would have said of the validators and of caching.
        let about = [
            header::ETAG,
            header::LAST_MODIFIED,
            header::CACHE_CONTROL,
            header::EXPIRES,
        ];
        for name in about {
            if let Some(value) = current.version.headers.get(&name) {
                reply.headers.insert(name, value.clone());
            }
        }
        set_cache_status(&mut reply, about_version(current.how));
        reply
    }

    async fn reply_part(&self, current: &Current, number: u32) -> Result<Reply, Failed> {
        let part = self
            .dataset
            .origin
            .part(&self.object, &current.version, number)
            .await;
        let part = match part {
            Ok(part) => part,
            Err(OriginError::NoSuchPart { count }) => {
                let error = S3Error::invalid_part_number(number.into(), count.into());
                return Err(error.about(&self.dataset.name, &self.object.key).into());
            }
            Err(error) => return Err(self.origin_failed(&error)),
        };
        let range = part.range.clone();
        if !current.version.cacheable() && !range.is_empty() {
            let last = range.end - 1;
            let first = range.start;
            return self
                .reply_through(current, &Ranges::One(ByteRange { first, last }))
                .await;
        }
        let begun = if range.is_empty() {
            // The one part of an empty object: 206 without a range that could be named.
            self.begin(current, StatusCode::PARTIAL_CONTENT, range)
        } else {
            self.begin_range(current, range)
        };
        let begun = self.prime(begun).await?;
        let mut reply = self.filled_in(current, begun);
        if part.count > 1 {
            let count = HeaderValue::from(part.count);
            reply.headers.insert("x-amz-mp-parts-count", count);
        }
        Ok(reply)
    }

    fn begin_range(&self, current: &Current, range: Range<u64>) -> Begun {
        let value = range::content_range(&range, current.version.size);
        let mut begun = self.begin(current, StatusCode::PARTIAL_CONTENT, range);
        begun.reply.headers.insert(header::CONTENT_RANGE, value);
        begun
    }

    fn begin(&self, current: &Current, status: StatusCode, range: Range<u64>) -> Begun {
        let mut reply = self.object_reply(status, &current.version);
        reply.set_length(range.end - range.start);
        self.begun(reply, current, vec![Piece::Range(range)])
    }

    fn begin_several(&self, current: &Current, ranges: &[ByteRange]) -> Begun {
        let mut reply = self.object_reply(StatusCode::PARTIAL_CONTENT, &current.version);
        let boundary = multipart::boundary(current.version.key, ranges);
        let size = current.version.size;
        let framing = multipart::frame(
            ranges,
            size,
            reply.headers.get(header::CONTENT_TYPE),
            &boundary,
        );
        if let Ok(kind) = HeaderValue::try_from(multipart::content_type(&boundary)) {
            reply.headers.insert(header::CONTENT_TYPE, kind);
        }
        reply.set_length(framing.content_length);
        let mut pieces = Vec::with_capacity(2 * framing.parts.len() + 1);
        for part in framing.parts {
            pieces.push(Piece::Text(part.head));
            pieces.push(Piece::Range(half_open(part.range)));
        }
        pieces.push(Piece::Text(framing.close));
        self.begun(reply, current, pieces)
    }

    /// Opens what is to be read for an answer's body, if it is to have one.
    fn begun(&self, reply: Reply, current: &Current, pieces: Vec<Piece>) -> Begun {
        let bodiless = *self.method == Method::HEAD || reply.left == Some(0);
        let reader = (!bodiless).then(|| {
            let mut reader = Reader::new(
                Arc::clone(self.reads),
                Arc::clone(self.dataset),
                self.object.clone(),
                Arc::clone(&current.version),
                pieces,
            );
            reader.look();
            reader
        });
        Begun { reply, reader }
    }

    /// The same once the first bytes of the body are here.
    async fn prime(&self, mut begun: Begun) -> Result<Begun, Failed> {
        if let Some(reader) = &mut begun.reader
            && !reader.is_primed()
        {
            let primed = reader.prime().await;
            primed.map_err(|error| self.origin_failed(&error))?;
        }
        Ok(begun)
    }

    /// Puts the body in, and says what the cache had of it.
    fn filled_in(&self, current: &Current, begun: Begun) -> Reply {
        let Begun { mut reply, reader } = begun;
        let Some(mut reader) = reader else {
            set_cache_status(&mut reply, about_version(current.how));
            return reply;
        };
        set_cache_status(&mut reply, about_blocks(current, reader.look()));
        reply.content = self.content(reader.into(), reply.left.unwrap_or(0));
        reply
    }

    async fn reply_through(&self, current: &Current, ranges: &Ranges) -> Result<Reply, Failed> {
        let known = &current.version;
        let (status, range) = match ranges {
            Ranges::One(range) => (StatusCode::PARTIAL_CONTENT, half_open(*range)),
            Ranges::Unsatisfiable => return Err(self.unsatisfiable(known)),
            Ranges::Whole | Ranges::Several(_) => (StatusCode::OK, 0..known.size),
        };
        if *self.method == Method::HEAD || range.is_empty() {
            let begun = match ranges {
                Ranges::One(_) => self.begin_range(current, range),
                _ => self.begin(current, status, range),
            };
            return Ok(self.filled_in(current, begun));
        }
        let opened = passthrough::open(self.dataset, &self.object, range.clone()).await;
        let (version, got, body) = opened.map_err(|error| self.origin_failed(&error))?;
        // The conditions were judged by what was known.
        let same = version.size == known.size && version.etag() == known.etag();
        if !same || got != range {
            self.reads.versions.doubt(&self.object, known);
            return Err(Failed::Changed);
        }
        let mut reply = self.object_reply(status, &version);
        if status == StatusCode::PARTIAL_CONTENT {
            let value = range::content_range(&range, version.size);
            reply.headers.insert(header::CONTENT_RANGE, value);
        }
        reply.set_length(range.end - range.start);
        set_cache_status(&mut reply, MISS);
        reply.content = self.content(Feed::Through(body), range.end - range.start);
        Ok(reply)
    }

    fn content(&self, feed: Feed, length: u64) -> Content {
        let budget = self.reads.store.budget().clone();
        let body = ReadBody::new(feed, length, budget);
        // What fits the client's first window is not worth a watcher.
        let watched = self.http2 && length > WATCHED;
        Content::Read(Box::new(if watched { body.watched() } else { body }))
    }

    fn object_reply(&self, status: StatusCode, version: &Version) -> Reply {
        let mut reply = Reply::empty(status);
        // With room for what is said below: a map that grows is hashed anew.
        reply.headers = HeaderMap::with_capacity(version.headers.len() + HEADERS);
        let headers = version.headers.iter();
        let headers = headers.map(|(name, value)| (name.clone(), value.clone()));
        headers.for_each(|(name, value)| {
            reply.headers.append(name, value);
        });
        let bytes = HeaderValue::from_static("bytes");
        reply.headers.insert(header::ACCEPT_RANGES, bytes);
        self.overrides.apply(&mut reply.headers);
        reply
    }
}

fn part_number(text: &str) -> Result<u32, S3Error> {
    match text.parse() {
        Ok(number) if (1..=MAX_PARTS).contains(&number) => Ok(number),
        _ => Err(S3Error::invalid_argument(
            "Part number must be an integer between 1 and 10000, inclusive",
            "partNumber",
            text,
        )),
    }
}

fn validators(version: &Version) -> Validators<'_> {
    Validators {
        etag: version.etag(),
        last_modified: version.last_modified(),
    }
}

fn half_open(range: ByteRange) -> Range<u64> {
    range.first..range.last + 1
}

/// S3 writes a condition's name as the RFC does.
fn canonical(name: &header::HeaderName) -> &'static str {
    if *name == header::IF_UNMODIFIED_SINCE {
        "If-Unmodified-Since"
    } else if *name == header::IF_NONE_MATCH {
        "If-None-Match"
    } else {
        "If-Match"
    }
}
