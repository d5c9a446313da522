//! The origin: as much S3 as reads need, behind object_store's own HTTP seam, with faults.
//!
//! It is the only party that lies, and only so that the lie can be seen: in a status, a length, a range, a tag, or in
//! time. What no reader could tell from the truth (the right headers around other bytes) is left out.

mod body;
mod faults;
mod own;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use forebay_storage::origin::{HttpRequest, HttpResponse, HttpResponseBody, HttpService};
use http::{Method, Response, StatusCode, header};
use object_store::client::{HttpError, HttpErrorKind};

use self::body::{Ending, SimBody};
use self::faults::{Asked, Away, Fault, Nature};
pub(crate) use self::own::OwnOrigin;
use crate::objects::{BLOCK, Content, Kind, Name, version_of_date};
use crate::oracle::Oracle;
use crate::random::Random;
use crate::trace::Trace;

/// A simulated origin.
pub struct SimOrigin {
    oracle: Arc<Oracle>,
    trace: Arc<Trace>,
    nature: Nature,
    away: Away,
    random: Mutex<Random>,
    /// What answers while it is away: a chance of its own, so that all else is as it would be without.
    away_random: Mutex<Random>,
    /// Whether it may still do anything but answer.
    faulty: Arc<AtomicBool>,
    requests: AtomicU64,
    given: Mutex<BTreeMap<(Name, u64, u64), u64>>,
}

impl fmt::Debug for SimOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimOrigin").finish_non_exhaustive()
    }
}

/// What one request will meet.
struct Luck {
    fault: Option<Fault>,
    /// Before the origin decides, and before its answer is heard.
    delays: [Duration; 2],
    pace: Random,
}

impl SimOrigin {
    /// The origin of `seed`. It is faulty for as long as `faulty` says.
    pub fn new(seed: u64, oracle: Arc<Oracle>, trace: Arc<Trace>, faulty: Arc<AtomicBool>) -> Self {
        let mut random = Random::new(seed, "origin");
        let nature = Nature::draw(&mut random);
        trace.note("origin", format_args!("{nature:?}"));
        let mut away_random = Random::new(seed, "away");
        let away = Away::draw(&mut away_random);
        Self {
            oracle,
            trace,
            nature,
            away,
            random: Mutex::new(random),
            away_random: Mutex::new(away_random),
            faulty,
            requests: AtomicU64::new(0),
            given: Mutex::default(),
        }
    }

    /// How often each block of a version was asked for and given, by the block's number.
    pub fn given(&self, name: &Name, version: u64) -> BTreeMap<u64, u64> {
        let given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        let of = given.range((name.clone(), version, 0)..(name.clone(), version + 1, 0));
        of.map(|((.., block), times)| (*block, *times)).collect()
    }

    fn note_given(&self, name: &Name, version: u64, range: &Range<u64>) {
        let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        for block in range.start / BLOCK..range.end.div_ceil(BLOCK) {
            *given.entry((name.clone(), version, block)).or_default() += 1;
        }
    }

    fn luck(&self, asked: &Asked) -> Luck {
        let mut random = self.random.lock().unwrap_or_else(PoisonError::into_inner);
        let fault = self.nature.fault(&mut random, asked);
        let fault = self.away().or(fault);
        let slowest = self.nature.slowest_ms;
        Luck {
            fault: fault.filter(|_| self.faulty.load(Ordering::Relaxed)),
            delays: [random.millis(0..=slowest), random.millis(0..=slowest)],
            pace: random.fork(),
        }
    }

    fn away(&self) -> Option<Fault> {
        let random = self.away_random.lock();
        self.away
            .fault(&mut random.unwrap_or_else(PoisonError::into_inner))
    }

    async fn answer(&self, asked: Asked, who: &str) -> Result<HttpResponse, HttpError> {
        let mut luck = self.luck(&asked);
        tokio::time::sleep(luck.delays[0]).await;
        if let Some(fault) = luck.fault {
            self.trace.note(who, format_args!("{fault:?}"));
            self.trace.count(fault.name());
            if fault.is_outage() {
                self.oracle.outage(asked.name.kind);
            }
        }
        match luck.fault {
            Some(Fault::Refuse) => {
                let error = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
                return Err(HttpError::new(HttpErrorKind::Connect, error));
            }
            Some(Fault::Silence) => std::future::pending().await,
            Some(Fault::Status(status)) => {
                tokio::time::sleep(luck.delays[1]).await;
                return Ok(empty(status));
            }
            _ => {}
        }
        let held = self.oracle.objects.current(&asked.name);
        let answer = self.decide(&asked, held, &mut luck, who);
        tokio::time::sleep(luck.delays[1]).await;
        Ok(answer)
    }

    /// What S3 would answer, or a lie about it.
    fn decide(
        &self,
        asked: &Asked,
        held: Option<Content>,
        luck: &mut Luck,
        who: &str,
    ) -> HttpResponse {
        let Some(held) = held else {
            self.trace.note(who, format_args!("404"));
            return empty(404);
        };
        if !asked.holds(held) && luck.fault != Some(Fault::NoIfMatch) {
            self.trace
                .note(who, format_args!("412 of {}", held.version));
            self.trace.count("412 from the origin");
            return empty(412);
        }
        if asked.method == Method::HEAD {
            self.trace
                .note(who, format_args!("200 of {}", held.version));
            let headers = describe(Response::builder(), &asked.name, held, None);
            return finish(headers.header(header::CONTENT_LENGTH, held.size), no_body());
        }
        let range = asked.range.clone().unwrap_or(0..held.size);
        if range.start >= held.size && asked.range.is_some() {
            self.trace
                .note(who, format_args!("416 of {}", held.version));
            return empty(416);
        }
        let range = range.start..range.end.min(held.size);
        let of = held.version;
        self.trace.note(who, format_args!("206 of {of}, {range:?}"));
        self.give(asked, held, range, luck)
    }

    fn give(
        &self,
        asked: &Asked,
        held: Content,
        range: Range<u64>,
        luck: &mut Luck,
    ) -> HttpResponse {
        let fault = luck.fault;
        let (told, status) = match fault {
            Some(Fault::WrongRange) => (range.start + 8..range.end + 8, 206),
            Some(Fault::WholeInstead) => (0..held.size, 200),
            _ => (range.clone(), 206),
        };
        let total = match fault {
            Some(Fault::WrongTotal) => held.size + 8,
            Some(Fault::WrongRange) => held.size.max(told.end),
            _ => held.size,
        };
        let etag = (fault == Some(Fault::WrongTag)).then_some("\"another\"");
        let mut answer = describe(Response::builder(), &asked.name, held, etag)
            .status(status)
            .header(header::CONTENT_LENGTH, told.end - told.start);
        if status == 206 {
            let text = format!("bytes {}-{}/{total}", told.start, told.end - 1);
            answer = answer.header(header::CONTENT_RANGE, text);
        }
        let bytes = if status == 200 { 0..held.size } else { range };
        self.note_given(&asked.name, held.version, &bytes);
        let ending = Ending::of(fault, &mut luck.pace, bytes.end - bytes.start);
        let pace = luck.pace.clone();
        let body = SimBody::new(held.pattern(&asked.name), bytes, ending, pace);
        finish(answer, HttpResponseBody::new(body))
    }
}

#[async_trait]
impl HttpService for SimOrigin {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        let Some(asked) = Asked::read(&request) else {
            let who = format!("origin {number}");
            let (method, uri) = (request.method(), request.uri());
            let what = format!("the origin can't answer {method} {uri}");
            self.trace.violation(who, what);
            return Ok(empty(501));
        };
        let who = format!("origin {number}");
        let Asked { name, method, .. } = &asked;
        let (range, pin) = (&asked.range, &asked.pin);
        self.trace
            .note(&who, format_args!("{method} {name} {range:?} {pin:?}"));
        self.trace.count("requests to the origin");
        self.answer(asked, &who).await
    }
}

/// The headers that tell which version an answer is of.
fn describe(
    answer: http::response::Builder,
    name: &Name,
    content: Content,
    etag: Option<&str>,
) -> http::response::Builder {
    let date = httpdate::fmt_http_date(content.last_modified());
    let mut answer = answer
        .header(header::LAST_MODIFIED, date)
        .header(header::CONTENT_TYPE, "application/octet-stream")
        .header(header::ACCEPT_RANGES, "bytes");
    let own = content.etag(name);
    if let Some(etag) = etag.or(own.as_deref()) {
        answer = answer.header(header::ETAG, etag);
    }
    answer
}

fn no_body() -> HttpResponseBody {
    HttpResponseBody::from(Bytes::new())
}

fn empty(status: u16) -> HttpResponse {
    finish(Response::builder().status(status), no_body())
}

fn finish(answer: http::response::Builder, body: HttpResponseBody) -> HttpResponse {
    answer.body(body).unwrap_or_else(|_| {
        let mut broken = Response::new(no_body());
        *broken.status_mut() = StatusCode::NOT_IMPLEMENTED;
        broken
    })
}

impl Asked {
    /// Reads a request, or tells that it is none that reads need.
    fn read(request: &HttpRequest) -> Option<Self> {
        let text = |name| request.headers().get(name)?.to_str().ok();
        let (bucket, key) = request.uri().path().strip_prefix('/')?.split_once('/')?;
        let range = match text(header::RANGE) {
            None => None,
            Some(range) => {
                let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
                Some(first.parse().ok()?..last.parse::<u64>().ok()?.checked_add(1)?)
            }
        };
        let date = text(header::IF_UNMODIFIED_SINCE);
        let date = date.and_then(|date| httpdate::parse_http_date(date).ok());
        Some(Self {
            name: Name {
                kind: Kind::named(bucket)?,
                key: key.to_owned(),
            },
            method: request.method().clone(),
            range,
            pin: text(header::IF_MATCH).map(str::to_owned),
            unmodified_since: date.and_then(version_of_date),
        })
    }

    /// Whether the conditions hold for `held`.
    fn holds(&self, held: Content) -> bool {
        let etag = held.etag(&self.name);
        let matches = self.pin.is_none() || self.pin == etag;
        matches
            && self
                .unmodified_since
                .is_none_or(|last| held.version <= last)
    }
}
