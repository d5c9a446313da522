//! One request to the model, and its answer.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName};
use http::response::Builder;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use percent_encoding::percent_decode_str;
use thiserror::Error;

use super::State;
use super::body::{PatternBody, Recipe};
use super::faults::Fault;
use super::list::{self, escape};
use super::objects::Object;
use super::pace::Link;
use super::tally::{Kind, Logged, Running};
use crate::pattern;

pub(super) type Body = Either<PatternBody, Full<Bytes>>;

/// Makes hyper close the connection without an answer.
#[derive(Debug, Error)]
#[error("closed on purpose")]
pub(super) struct Hangup;

/// Answers a request.
pub(super) async fn answer(
    state: Arc<State>,
    links: Vec<Arc<Link>>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Hangup> {
    let path = request.uri().path();
    let path = path.strip_prefix('/').unwrap_or(path);
    let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
    let key = percent_decode_str(key).decode_utf8_lossy().into_owned();
    let reads = [Method::GET, Method::HEAD].contains(request.method());
    let kind = match *request.method() {
        Method::HEAD => Kind::Head,
        Method::GET if key.is_empty() => Kind::List,
        Method::GET => Kind::Get,
        _ => Kind::Other,
    };
    let running = Running::begin(&state.tally, kind);
    let struck = state.faults().strike(request.method(), &key);
    if !state.settings.first_byte.is_zero() {
        tokio::time::sleep(state.settings.first_byte).await;
    }
    let asked = Asked {
        method: request.method(),
        headers: request.headers(),
        key: &key,
    };
    let response = if struck.contains(&Fault::Hangup) {
        None
    } else if !reads {
        Some(asked.error(
            StatusCode::METHOD_NOT_ALLOWED,
            "MethodNotAllowed",
            "This store is read-only.",
        ))
    } else if let Some(status) = struck.iter().find_map(status_of) {
        Some(asked.error(status, "SlowDown", "Please reduce your request rate."))
    } else if bucket != state.settings.bucket {
        Some(asked.error(
            StatusCode::NOT_FOUND,
            "NoSuchBucket",
            "The specified bucket does not exist",
        ))
    } else if key.is_empty() {
        Some(asked.bucket(&state, request.uri().query().unwrap_or_default()))
    } else {
        let object = state.objects().get(&key).cloned();
        Some(match object {
            Some(object) => asked.object(&object, &struck, links, running),
            None => asked.error(
                StatusCode::NOT_FOUND,
                "NoSuchKey",
                "The specified key does not exist.",
            ),
        })
    };
    state.tally.note(|| {
        asked.logged(
            response
                .as_ref()
                .map_or(0, |response| response.status().as_u16()),
        )
    });
    response.ok_or(Hangup)
}

fn status_of(fault: &Fault) -> Option<StatusCode> {
    match fault {
        Fault::Status(status) => StatusCode::from_u16(*status).ok(),
        _ => None,
    }
}

/// What a request asks for.
struct Asked<'a> {
    method: &'a Method,
    headers: &'a HeaderMap,
    key: &'a str,
}

impl Asked<'_> {
    fn header(&self, name: HeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    fn logged(&self, status: u16) -> Logged {
        Logged {
            method: self.method.to_string(),
            key: self.key.to_owned(),
            range: self.header(header::RANGE).map(str::to_owned),
            if_match: self.header(header::IF_MATCH).map(str::to_owned),
            status,
        }
    }

    fn bucket(&self, state: &State, query: &str) -> Response<Body> {
        let page = list::page(&state.settings.bucket, query, &state.objects());
        xml(Response::builder(), self.method, page)
    }

    fn object(
        &self,
        object: &Object,
        struck: &[Fault],
        links: Vec<Arc<Link>>,
        running: Running,
    ) -> Response<Body> {
        let size = object.size;
        match self.condition(object, struck.contains(&Fault::IgnoreIfMatch)) {
            Some(StatusCode::NOT_MODIFIED) => {
                let head = self.head(object, struck).status(StatusCode::NOT_MODIFIED);
                return built(head, Either::Right(Full::default()));
            }
            Some(status) => {
                let message = "At least one of the pre-conditions you specified did not hold";
                return self.error(status, "PreconditionFailed", message);
            }
            None => {}
        }
        let range = if struck.contains(&Fault::WholeBody) {
            Range::Whole
        } else {
            self.range(size)
        };
        let (first, end, mut head) = match range {
            Range::Whole => (0, size, self.head(object, struck)),
            Range::Part(first, end) => {
                let shift = u64::from(struck.contains(&Fault::LyingContentRange));
                let range = format!("bytes {}-{}/{size}", first + shift, end - 1 + shift);
                let head = self
                    .head(object, struck)
                    .status(StatusCode::PARTIAL_CONTENT);
                (first, end, head.header(header::CONTENT_RANGE, range))
            }
            Range::Unsatisfiable => return self.unsatisfiable(size),
        };
        let recipe = recipe(object, first, end, struck, links);
        head = head.header(header::CONTENT_LENGTH, recipe.length);
        if self.method == Method::HEAD {
            let mode = self.headers.get("x-amz-checksum-mode");
            if mode.is_some_and(|mode| mode == "ENABLED") {
                head = head
                    .header("x-amz-checksum-crc64nvme", object.crc64nvme())
                    .header("x-amz-checksum-type", "FULL_OBJECT");
            }
            return built(head, Either::Right(Full::default()));
        }
        built(head, Either::Left(PatternBody::new(recipe, running)))
    }

    fn head(&self, object: &Object, struck: &[Fault]) -> Builder {
        let etag = if struck.contains(&Fault::WrongEtag) {
            pattern::etag(&object.key, object.version ^ (1 << 40), object.size)
        } else {
            object.etag()
        };
        Response::builder()
            .header(header::ETAG, etag)
            .header(header::LAST_MODIFIED, object.last_modified())
            .header(header::ACCEPT_RANGES, "bytes")
            .header(header::CONTENT_TYPE, "application/octet-stream")
    }

    /// The status that a conditional header calls for, in RFC 9110's order of precedence (§13.2.2).
    fn condition(&self, object: &Object, ignore: bool) -> Option<StatusCode> {
        let date = |name| {
            self.header(name)
                .and_then(|value| httpdate::parse_http_date(value).ok())
        };
        let etag = object.etag();
        if ignore {
            // The fault: neither of the two that make a read safe is looked at.
        } else if let Some(tags) = self.header(header::IF_MATCH) {
            if !lists(tags, &etag, false) {
                return Some(StatusCode::PRECONDITION_FAILED);
            }
        } else if date(header::IF_UNMODIFIED_SINCE).is_some_and(|time| modified_after(object, time))
        {
            return Some(StatusCode::PRECONDITION_FAILED);
        }
        if let Some(tags) = self.header(header::IF_NONE_MATCH) {
            lists(tags, &etag, true).then_some(StatusCode::NOT_MODIFIED)
        } else {
            let unchanged =
                date(header::IF_MODIFIED_SINCE).is_some_and(|time| !modified_after(object, time));
            unchanged.then_some(StatusCode::NOT_MODIFIED)
        }
    }

    /// The Range header judged as S3 does: one range or none; several, or what makes no sense, are not looked at.
    fn range(&self, size: u64) -> Range {
        let Some(spec) = self
            .header(header::RANGE)
            .and_then(|value| value.strip_prefix("bytes="))
        else {
            return Range::Whole;
        };
        let Some((first, last)) = spec.split_once('-') else {
            return Range::Whole;
        };
        match (first.trim().parse::<u64>(), last.trim().parse::<u64>()) {
            (Ok(first), Ok(last)) if last < first => Range::Whole,
            (Ok(first), _) if !last.is_empty() && last.trim().parse::<u64>().is_err() => {
                // A last byte beyond 64 bits is still a last byte; anything else is not a range.
                if last.bytes().all(|byte| byte.is_ascii_digit()) {
                    Range::part(first, size, size)
                } else {
                    Range::Whole
                }
            }
            (Ok(first), Ok(last)) => Range::part(first, size.min(last.saturating_add(1)), size),
            (Ok(first), Err(_)) => Range::part(first, size, size),
            (Err(_), Ok(0)) if first.is_empty() => Range::Unsatisfiable,
            (Err(_), Ok(length)) if first.is_empty() => {
                Range::part(size.saturating_sub(length), size, size)
            }
            _ => Range::Whole,
        }
    }

    fn unsatisfiable(&self, size: u64) -> Response<Body> {
        let range = self.header(header::RANGE).unwrap_or_default();
        let extra = format!(
            "<RangeRequested>{}</RangeRequested><ActualObjectSize>{size}</ActualObjectSize>",
            escape(range)
        );
        let head = Response::builder()
            .status(StatusCode::RANGE_NOT_SATISFIABLE)
            .header(header::CONTENT_RANGE, format!("bytes */{size}"));
        let page = error_page(
            "InvalidRange",
            "The requested range is not satisfiable",
            self.key,
            &extra,
        );
        xml(head, self.method, page)
    }

    fn error(&self, status: StatusCode, code: &str, message: &str) -> Response<Body> {
        let page = error_page(code, message, self.key, "");
        xml(Response::builder().status(status), self.method, page)
    }
}

enum Range {
    Whole,
    /// The first byte and the one after the last.
    Part(u64, u64),
    Unsatisfiable,
}

impl Range {
    fn part(first: u64, end: u64, size: u64) -> Self {
        if first < size {
            Self::Part(first, end)
        } else {
            Self::Unsatisfiable
        }
    }
}

/// What the body is made of, with the faults that touch it.
fn recipe(
    object: &Object,
    first: u64,
    end: u64,
    struck: &[Fault],
    links: Vec<Arc<Link>>,
) -> Recipe {
    let mut recipe = Recipe {
        seed: object.seed(),
        offset: first,
        length: end - first,
        switch: None,
        cut: None,
        stall: None,
        links,
    };
    for fault in struck {
        match *fault {
            Fault::Cut { after } => recipe.cut = Some(after),
            Fault::Stall { after, time } => recipe.stall = Some((after, time)),
            Fault::Short { by } => recipe.length = recipe.length.saturating_sub(by),
            Fault::Long { by } => recipe.length += by,
            Fault::OtherVersion { after } => {
                let other = object.version.checked_sub(1).unwrap_or(object.version + 1);
                recipe.switch = Some((after, pattern::seed(&object.key, other)));
            }
            _ => {}
        }
    }
    recipe
}

/// Whether a list of entity tags names this one; a weak tag only ever does so weakly (RFC 9110 §8.8.3.2).
fn lists(tags: &str, etag: &str, weakly: bool) -> bool {
    tags.trim() == "*"
        || tags.split(',').map(str::trim).any(|tag| {
            let tag = if weakly {
                tag.strip_prefix("W/").unwrap_or(tag)
            } else {
                tag
            };
            // Some clients leave the quotes out, and S3 lets them.
            tag == etag || tag == etag.trim_matches('"')
        })
}

/// Compared in whole seconds, as the header has no others.
fn modified_after(object: &Object, time: SystemTime) -> bool {
    object
        .modified
        .duration_since(time)
        .is_ok_and(|later| later >= Duration::from_secs(1))
}

fn error_page(code: &str, message: &str, key: &str, extra: &str) -> String {
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>{message}</Message>\
         <Key>{}</Key>{extra}<RequestId>0000000000000000</RequestId><HostId>model</HostId></Error>",
        escape(key)
    )
}

fn xml(head: Builder, method: &Method, page: String) -> Response<Body> {
    let head = head
        .header(header::CONTENT_TYPE, "application/xml")
        .header(header::CONTENT_LENGTH, page.len())
        .header("x-amz-request-id", "0000000000000000");
    let page = if method == Method::HEAD {
        Full::default()
    } else {
        Full::from(page)
    };
    built(head, Either::Right(page))
}

/// Panics if a header is not one, which the values above cannot be.
fn built(head: Builder, body: Body) -> Response<Body> {
    head.body(body).expect("headers are made of ASCII")
}
