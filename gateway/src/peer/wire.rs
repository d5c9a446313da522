//! A question to another gateway, and its answer, as HTTP.
//!
//! `GET /blocks/DATASET/KEY` asks for a range of segments up to the end of a block, of an exact version;
//! without a version it asks which one is current, and perhaps for the object's first blocks. `level` says
//! how far up the asker has come, so that the one who is asked goes further up or nowhere. The body is
//! each segment followed by its checksum, of exactly the length that Content-Length says.

use std::ops::Range;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use forebay_storage::SEGMENT;
use forebay_storage::error::OriginError;
use forebay_storage::object::ObjectId;
use forebay_storage::store::Level;
use forebay_storage::version::{Version, VersionKey};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, Uri, header, response};
use percent_encoding::{percent_decode_str, utf8_percent_encode};
use twox_hash::XxHash3_64;
use xxhash_rust::xxh3::xxh3_64;

use super::{PeerError, redirect};

use crate::access::canonical::{PATH, hex};

/// The newest protocol that this build speaks; it speaks the one before too. The second one knows donors, and blocks that
/// are handed over.
pub const PROTOCOL: u16 = 2;

/// The first protocol in which a member may be asked for what another has come to own.
pub const HANDS_OVER: u16 = 2;

/// The oldest protocol that this build speaks.
pub const OLDEST: u16 = if PROTOCOL > 1 { PROTOCOL - 1 } else { 1 };

/// The newest protocol that this gateway speaks: the build's, but for tests of fleets of two releases, which a build
/// without assertions hears nothing of.
pub fn newest() -> u16 {
    static NEWEST: OnceLock<u16> = OnceLock::new();
    *NEWEST.get_or_init(|| {
        let told = std::env::var("FOREBAY_TEST_PROTOCOL").ok();
        let told = told.filter(|_| cfg!(debug_assertions));
        told.and_then(|told| told.parse().ok()).unwrap_or(PROTOCOL)
    })
}

/// Bytes of a checksum.
pub const SUM: usize = 8;

const LEVEL: HeaderName = HeaderName::from_static("forebay-level");
const DEADLINE: HeaderName = HeaderName::from_static("forebay-deadline");
const TO: HeaderName = HeaderName::from_static("forebay-to");
const AHEAD: HeaderName = HeaderName::from_static("forebay-ahead");
const DOUBT: HeaderName = HeaderName::from_static("forebay-doubt");
const VERSION: HeaderName = HeaderName::from_static("forebay-version");
const VERSION_ID: HeaderName = HeaderName::from_static("forebay-version-id");
const SIZE: HeaderName = HeaderName::from_static("forebay-size");
const ABOUT: HeaderName = HeaderName::from_static("forebay-headers");
const AGE: HeaderName = HeaderName::from_static("forebay-age");
const STALE: HeaderName = HeaderName::from_static("forebay-stale");
const CACHE: HeaderName = HeaderName::from_static("forebay-cache");
const FILLING: HeaderName = HeaderName::from_static("forebay-filling");
const STUCK: HeaderName = HeaderName::from_static("forebay-stuck");
const PURGES: HeaderName = HeaderName::from_static("forebay-purges");
const ERROR: HeaderName = HeaderName::from_static("forebay-error");

const BLOCKS: &str = "/blocks/";
const PING: &str = "/ping";

/// Where membership asks for all that a gateway knows.
pub const SYNC: &str = "/sync";

/// Which bytes of an object are wanted.
#[derive(Clone, Debug)]
pub struct Question {
    /// The object.
    pub object: ObjectId,
    /// Exactly this version; `None`: whichever is current.
    pub version: Option<Claim>,
    /// These bytes: from the start of a segment to the end of a block or of the object.
    pub range: Option<Range<u64>>,
    /// How far up the question has come.
    pub level: Level,
    /// How long the asker waits for the first byte.
    pub deadline: Duration,
    /// What is known of the current version is not enough: ask the origin.
    pub doubting: bool,
    /// Nothing is to be set in motion.
    pub only_if_cached: bool,
    /// Nobody waits for it yet: what somebody waits for comes first. It is for who is asked, and older members do not hear it.
    pub ahead: bool,
}

/// A version as the other end names it. What it is to be believed is for whoever knows the dataset.
#[derive(Clone, Debug)]
pub struct Claim {
    /// Its name in every block key.
    pub key: VersionKey,
    /// Bytes in the object.
    pub size: u64,
    /// The headers that belong to it.
    pub headers: HeaderMap,
}

impl Claim {
    /// What is said of this version.
    pub fn of(version: &Version) -> Self {
        Self {
            key: version.key,
            size: version.size,
            headers: version.headers.clone(),
        }
    }
}

/// The head of a good answer to a [`Question`].
#[derive(Clone, Debug)]
pub struct Head {
    /// The version, where the current one was asked for.
    pub version: Option<Claim>,
    /// Time since the origin was asked about it.
    pub age: Duration,
    /// The origin is away, and the version past its time.
    pub stale: bool,
    /// The bytes of the object in the body.
    pub range: Option<Range<u64>>,
    /// They were resident when they were asked for.
    pub hit: bool,
}

impl Question {
    /// The request that asks it. Who is asked is added by [`address`].
    pub fn request(&self) -> Request<Bytes> {
        let dataset = utf8_percent_encode(&self.object.dataset, PATH);
        let key = utf8_percent_encode(&self.object.key, PATH);
        let mut request = Request::new(Bytes::new());
        set_path(&mut request, &format!("{BLOCKS}{dataset}/{key}"));
        let headers = request.headers_mut();
        headers.insert(LEVEL, u64::from(self.level).into());
        let deadline = u64::try_from(self.deadline.as_millis()).unwrap_or(u64::MAX);
        headers.insert(DEADLINE, deadline.into());
        if let Some(id) = &self.object.version_id {
            put(headers, VERSION_ID, &STANDARD.encode(id.as_bytes()));
        }
        if let Some(version) = &self.version {
            put_claim(headers, version);
        }
        if let Some(range) = &self.range {
            let last = range.end.saturating_sub(1);
            put(
                headers,
                header::RANGE,
                &format!("bytes={}-{last}", range.start),
            );
        }
        if self.doubting {
            headers.insert(DOUBT, HeaderValue::from_static("1"));
        }
        if self.only_if_cached {
            let only = HeaderValue::from_static("only-if-cached");
            headers.insert(header::CACHE_CONTROL, only);
        }
        if self.ahead {
            headers.insert(AHEAD, HeaderValue::from_static("1"));
        }
        request
    }

    /// The question of a request; `None` if it is none.
    pub fn parse(parts: &Parts) -> Option<Self> {
        let path = parts.uri.path().strip_prefix(BLOCKS)?;
        let (dataset, key) = path.split_once('/')?;
        let text = |text| percent_decode_str(text).decode_utf8().ok();
        let headers = &parts.headers;
        let mut object = ObjectId::new(&*text(dataset)?, &*text(key)?);
        if let Some(id) = headers.get(VERSION_ID) {
            let id = STANDARD.decode(id.as_bytes()).ok()?;
            object.version_id = Some(String::from_utf8(id).ok()?.into());
        }
        let range = match headers.get(header::RANGE) {
            Some(range) => {
                let text = range.to_str().ok()?.strip_prefix("bytes=")?;
                let (first, last) = text.split_once('-')?;
                let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
                Some(first..last.checked_add(1).filter(|end| *end > first)?)
            }
            None => None,
        };
        let control = headers.get(header::CACHE_CONTROL);
        Some(Self {
            object,
            version: match headers.contains_key(VERSION) {
                true => Some(claim(headers)?),
                false => None,
            },
            range,
            level: Level::try_from(number(headers, &LEVEL)?).ok()?,
            deadline: Duration::from_millis(number(headers, &DEADLINE)?),
            doubting: headers.contains_key(DOUBT),
            only_if_cached: control.is_some_and(|value| value == "only-if-cached"),
            ahead: headers.contains_key(AHEAD),
        })
    }
}

impl Head {
    /// The headers that say so.
    pub fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if let Some(version) = &self.version {
            put_claim(&mut headers, version);
            let age = u64::try_from(self.age.as_micros()).unwrap_or(u64::MAX);
            headers.insert(AGE, age.into());
        }
        if self.stale {
            headers.insert(STALE, HeaderValue::from_static("1"));
        }
        if let Some(range) = &self.range {
            let last = range.end.saturating_sub(1);
            let range = format!("bytes {}-{last}/*", range.start);
            put(&mut headers, header::CONTENT_RANGE, &range);
        }
        let cache = if self.hit { "hit" } else { "miss" };
        headers.insert(CACHE, HeaderValue::from_static(cache));
        headers
    }

    /// What the headers of an answer say.
    ///
    /// # Errors
    /// [`PeerError::Corrupt`] if that can't be read.
    pub fn parse(headers: &HeaderMap) -> Result<Self, PeerError> {
        let version = match headers.contains_key(VERSION) {
            true => Some(claim(headers).ok_or(PeerError::Corrupt)?),
            false => None,
        };
        let range = match headers.get(header::CONTENT_RANGE) {
            Some(value) => Some(content_range(value).ok_or(PeerError::Corrupt)?),
            None => None,
        };
        Ok(Self {
            version,
            age: Duration::from_micros(number(headers, &AGE).unwrap_or(0)),
            stale: headers.contains_key(STALE),
            range,
            hit: is_hit(headers),
        })
    }
}

/// Whether an answer says that its bytes were resident when they were asked for.
pub fn is_hit(headers: &HeaderMap) -> bool {
    headers.get(CACHE).is_some_and(|cache| cache == "hit")
}

/// Says of an answer which purges were applied before anything was looked up for it: their stamp.
pub fn put_purges(headers: &mut HeaderMap, stamp: u64) {
    headers.insert(PURGES, stamp.into());
}

/// What an answer says of that; `None`: nothing, as those of the release before do.
pub fn purges(headers: &HeaderMap) -> Option<u64> {
    number(headers, &PURGES)
}

/// Asks only whether anybody is there.
pub fn ping() -> Request<Bytes> {
    let mut request = Request::new(Bytes::new());
    set_path(&mut request, PING);
    request
}

/// The answer to [`ping`]: whether anything is being filled here, or waits for the link, so that whoever waits knows that
/// it may be the origin that is slow, or that many want the same; and whether nothing comes from there at all, which others may see otherwise.
pub fn pong(filling: bool, stuck: bool) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(FILLING, HeaderValue::from(u16::from(filling)));
    if stuck {
        headers.insert(STUCK, HeaderValue::from(1));
    }
    headers
}

/// Whether the answer to [`ping`] says that nothing comes from the origin there.
pub fn is_stuck(headers: &HeaderMap) -> bool {
    headers.contains_key(STUCK)
}

/// Whether the answer to [`ping`] says that nothing is being filled there. What does not say so may be.
pub fn is_idle(headers: &HeaderMap) -> bool {
    headers.get(FILLING).is_some_and(|filling| filling == "0")
}

/// Whether a request asks for bytes of an exact version.
pub fn is_exact(headers: &HeaderMap) -> bool {
    headers.contains_key(VERSION)
}

/// Whether what is asked for is [`ping`].
pub fn is_ping(uri: &Uri) -> bool {
    uri.path() == PING
}

/// Says who is asked.
pub fn address(request: &mut Request<Bytes>, name: &str) {
    put(request.headers_mut(), TO, &hex(name.as_bytes()));
}

/// Whether a request is meant for the member of this name.
pub fn is_for(headers: &HeaderMap, name: &str) -> bool {
    let to = headers.get(TO);
    to.is_none_or(|to| to.as_bytes() == hex(name.as_bytes()).as_bytes())
}

/// How many bytes a body of `range` has.
pub fn body_length(range: &Range<u64>) -> u64 {
    let bytes = range.end - range.start;
    bytes + bytes.div_ceil(SEGMENT as u64) * SUM as u64
}

/// The checksum of a segment, begun: it covers which version the segment is of, and where in it, so that
/// the right bytes at the wrong place are wrong.
pub fn checksum(version: VersionKey, offset: u64) -> XxHash3_64 {
    XxHash3_64::with_seed(seed(version, offset))
}

/// The checksum of a whole segment.
pub fn sum(version: VersionKey, offset: u64, bytes: &[u8]) -> u64 {
    XxHash3_64::oneshot_with_seed(seed(version, offset), bytes)
}

fn seed(version: VersionKey, offset: u64) -> u64 {
    let mut seed = [0; 24];
    seed[..16].copy_from_slice(&version.0.to_be_bytes());
    seed[16..].copy_from_slice(&offset.to_be_bytes());
    xxh3_64(&seed)
}

/// The status and headers that say that the origin failed.
pub fn of_origin(error: &OriginError) -> (StatusCode, HeaderMap) {
    let (code, status, argument) = match error {
        OriginError::NotFound => ("not-found", 404, 0),
        OriginError::Unnameable(_) => ("unnameable", 404, 0),
        OriginError::Refused { status } => ("refused", 502, u32::from(*status)),
        OriginError::SlowDown { status } => ("slow-down", 503, u32::from(*status)),
        OriginError::Status { status } => ("status", 502, u32::from(*status)),
        OriginError::Unreachable(_) | OriginError::FoundAway => ("unreachable", 503, 0),
        OriginError::Down { seconds } => ("down", 503, u32::try_from(*seconds).unwrap_or(u32::MAX)),
        OriginError::NoCredentials => ("no-credentials", 502, 0),
        OriginError::TimedOut => ("timed-out", 504, 0),
        OriginError::Cut => ("cut", 502, 0),
        OriginError::BadAnswer(_) => ("bad-answer", 502, 0),
        OriginError::Changed => ("changed", 412, 0),
        OriginError::PastEnd => ("past-end", 416, 0),
        OriginError::NoSuchPart { count } => ("no-such-part", 416, *count),
        OriginError::Unsupported(_) => ("unsupported", 501, 0),
        OriginError::Abandoned => ("abandoned", 503, 0),
    };
    let mut headers = HeaderMap::new();
    put(&mut headers, ERROR, &format!("{code} {argument}"));
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY);
    (status, headers)
}

/// The status and headers of an answer that refuses, for a reason in words.
pub fn refusal(status: StatusCode, reason: &str) -> (StatusCode, HeaderMap) {
    let mut headers = HeaderMap::new();
    put(&mut headers, ERROR, &format!("refused: {reason}"));
    (status, headers)
}

/// The status and headers of an answer by which a donor says that it has nothing of so many blocks, from the first that
/// was asked for.
pub fn absent(blocks: u32) -> (StatusCode, HeaderMap) {
    let mut headers = HeaderMap::new();
    put(&mut headers, ERROR, &format!("absent {blocks}"));
    (StatusCode::GATEWAY_TIMEOUT, headers)
}

/// What an answer that is no success says.
pub fn failure(parts: &response::Parts) -> PeerError {
    if let Some(name) = redirect::named(&parts.headers) {
        return PeerError::Elsewhere(name);
    }
    let text = parts.headers.get(ERROR).and_then(|text| text.to_str().ok());
    let Some(text) = text else {
        return PeerError::Refused(parts.status.to_string());
    };
    if let Some(reason) = text.strip_prefix("refused: ") {
        return PeerError::Refused(reason.to_owned());
    }
    let (code, argument) = text.split_once(' ').unwrap_or((text, ""));
    if code == "absent" {
        return PeerError::Absent(argument.parse().unwrap_or(1));
    }
    let status = || argument.parse().unwrap_or(500);
    // Words of our own stand in for the other's: nobody's text travels.
    let said = || -> Arc<str> { "another gateway of the fleet says so".into() };
    PeerError::Origin(match code {
        "not-found" => OriginError::NotFound,
        "unnameable" => OriginError::Unnameable("No object of this origin can have such a name"),
        "refused" => OriginError::Refused { status: status() },
        "slow-down" => OriginError::SlowDown { status: status() },
        "status" => OriginError::Status { status: status() },
        "unreachable" => OriginError::Unreachable(said()),
        "down" => OriginError::Down {
            seconds: argument.parse().unwrap_or(0),
        },
        "no-credentials" => OriginError::NoCredentials,
        "timed-out" => OriginError::TimedOut,
        "cut" => OriginError::Cut,
        "bad-answer" => OriginError::BadAnswer(said()),
        "changed" => OriginError::Changed,
        "past-end" => OriginError::PastEnd,
        "no-such-part" => OriginError::NoSuchPart {
            count: argument.parse().unwrap_or(1),
        },
        "unsupported" => OriginError::Unsupported(said()),
        "abandoned" => OriginError::Abandoned,
        _ => return PeerError::Refused(parts.status.to_string()),
    })
}

/// Puts a path into a request that has none.
pub(crate) fn set_path(request: &mut Request<Bytes>, path: &str) {
    // What is not alphanumeric was percent-encoded, so it parses.
    if let Ok(uri) = path.parse() {
        *request.uri_mut() = uri;
    }
}

/// `text` as one segment, or several, of a path.
pub(crate) fn encoded(text: &str) -> String {
    utf8_percent_encode(text, PATH).to_string()
}

fn put(headers: &mut HeaderMap, name: HeaderName, text: &str) {
    if let Ok(value) = HeaderValue::try_from(text) {
        headers.insert(name, value);
    }
}

fn number(headers: &HeaderMap, name: &HeaderName) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.parse().ok()
}

fn put_claim(headers: &mut HeaderMap, claim: &Claim) {
    put(headers, VERSION, &format!("{:032x}", claim.key.0));
    headers.insert(SIZE, claim.size.into());
    let mut lines = Vec::new();
    for (name, value) in &claim.headers {
        lines.extend_from_slice(name.as_str().as_bytes());
        lines.push(b':');
        // A value holds no line feed.
        lines.extend_from_slice(value.as_bytes());
        lines.push(b'\n');
    }
    put(headers, ABOUT, &STANDARD.encode(lines));
}

fn claim(headers: &HeaderMap) -> Option<Claim> {
    let key = headers.get(VERSION)?.to_str().ok()?;
    let lines = STANDARD.decode(headers.get(ABOUT)?.as_bytes()).ok()?;
    let mut about = HeaderMap::new();
    for line in lines
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
    {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let name = HeaderName::from_bytes(&line[..colon]).ok()?;
        about.insert(name, HeaderValue::from_bytes(&line[colon + 1..]).ok()?);
    }
    Some(Claim {
        key: VersionKey(u128::from_str_radix(key, 16).ok()?),
        size: number(headers, &SIZE)?,
        headers: about,
    })
}

fn content_range(value: &HeaderValue) -> Option<Range<u64>> {
    let text = value.to_str().ok()?;
    let (first, last) = text
        .strip_prefix("bytes ")?
        .strip_suffix("/*")?
        .split_once('-')?;
    let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
    Some(first..last.checked_add(1).filter(|end| *end > first)?)
}

#[cfg(test)]
mod tests;
