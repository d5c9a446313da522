//! Conditional requests: `If-Match`, `If-Unmodified-Since`, `If-None-Match`, `If-Modified-Since` and
//! `If-Range`, in the order of RFC 9110 §13.2.2.
//!
//! Entity tags are compared as opaque text. S3 clients leave the quotes out at times, so an unquoted tag is
//! taken as if it had them. A date that cannot be read, or that comes on several lines, is ignored.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::header::{
    IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, RANGE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method};

/// The validators of the version that an answer would come from.
#[derive(Clone, Copy, Debug, Default)]
pub struct Current<'a> {
    /// The entity tag as the origin wrote it, with its quotes and `W/` if it has them.
    pub etag: Option<&'a str>,
    /// When the version was last modified. Only whole seconds count: HTTP can say no more.
    pub last_modified: Option<SystemTime>,
}

/// What the conditions come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The request is answered.
    Proceed {
        /// Whether a `Range` header counts: false when `If-Range` does not hold.
        range: bool,
    },
    /// 304.
    NotModified,
    /// 412.
    PreconditionFailed,
}

/// Judges the conditional headers of a request against the current version.
///
/// A date in `If-Range` holds only if it is `Last-Modified` to the second and a whole second older than
/// `now`, so that the object cannot have changed twice within it (RFC 9110 §8.8.2.2 and §13.1.5).
pub fn judge(
    method: &Method,
    headers: &HeaderMap,
    current: &Current<'_>,
    now: SystemTime,
) -> Verdict {
    match first_failure(method, headers, current) {
        None => Verdict::Proceed {
            range: if_range_holds(headers, current, now),
        },
        Some(IF_MATCH | IF_UNMODIFIED_SINCE) => Verdict::PreconditionFailed,
        Some(_) if reads(method) => Verdict::NotModified,
        Some(_) => Verdict::PreconditionFailed,
    }
}

/// The header that decides against the request, if one does: what S3 puts into a 412's `<Condition>`.
///
/// The order is that of RFC 9110 §13.2.2: a date counts only where the entity-tag condition of the same
/// kind is absent, and `If-Modified-Since` only for GET and HEAD.
pub fn first_failure(
    method: &Method,
    headers: &HeaderMap,
    current: &Current<'_>,
) -> Option<HeaderName> {
    let modified = current.last_modified.and_then(whole_seconds);
    if headers.contains_key(IF_MATCH) {
        if !any_tag(headers, &IF_MATCH, |tag| tag.matches_strongly(current.etag)) {
            return Some(IF_MATCH);
        }
    } else if let (Some(modified), Some(date)) = (modified, date(headers, &IF_UNMODIFIED_SINCE))
        && modified > date
    {
        return Some(IF_UNMODIFIED_SINCE);
    }
    if headers.contains_key(IF_NONE_MATCH) {
        if any_tag(headers, &IF_NONE_MATCH, |tag| {
            tag.matches_weakly(current.etag)
        }) {
            return Some(IF_NONE_MATCH);
        }
    } else if reads(method)
        && let (Some(modified), Some(date)) = (modified, date(headers, &IF_MODIFIED_SINCE))
        && modified <= date
    {
        return Some(IF_MODIFIED_SINCE);
    }
    None
}

/// Whether `If-Match` or `If-Range` holds entity tags none of which is the current one.
///
/// Such a client may know a newer version than we do, so the caller asks the origin once more before it
/// answers 412 or ignores the range.
pub fn names_another_version(headers: &HeaderMap, current: &Current<'_>) -> bool {
    let names_other = |name: &HeaderName| {
        any_tag(headers, name, |_| true)
            && !any_tag(headers, name, |tag| tag.matches_weakly(current.etag))
    };
    names_other(&IF_MATCH) || (names_other(&IF_RANGE) && date(headers, &IF_RANGE).is_none())
}

/// Whether a request has any of the headers that this is about. Most have none, and a look at each name costs less
/// than a dozen look-ups.
pub fn are_in(headers: &HeaderMap) -> bool {
    headers.keys().any(|name| name.as_str().starts_with("if-"))
}

fn reads(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
}

/// `If-Range`, RFC 9110 §13.1.5: strong comparison only. True where it does not apply.
fn if_range_holds(headers: &HeaderMap, current: &Current<'_>, now: SystemTime) -> bool {
    if !headers.contains_key(RANGE) || !headers.contains_key(IF_RANGE) {
        return true;
    }
    let Some(value) = only_value(headers, &IF_RANGE) else {
        return false;
    };
    if let Some(date) = parse_date(value) {
        let second = Duration::from_secs(1);
        return current.last_modified.and_then(whole_seconds) == Some(date)
            && date
                .checked_add(second)
                .is_some_and(|settled| settled <= now);
    }
    let mut tags = Tags {
        rest: value.as_bytes(),
    };
    match (tags.next(), tags.next()) {
        (Some(tag @ Tag::Entity { .. }), None) => tag.matches_strongly(current.etag),
        _ => false,
    }
}

fn any_tag(headers: &HeaderMap, name: &HeaderName, mut test: impl FnMut(Tag<'_>) -> bool) -> bool {
    headers.get_all(name).iter().any(|line| {
        Tags {
            rest: line.as_bytes(),
        }
        .any(&mut test)
    })
}

fn date(headers: &HeaderMap, name: &HeaderName) -> Option<SystemTime> {
    only_value(headers, name).and_then(parse_date)
}

/// The header's value if it stands on one line; a date on several is not valid (RFC 9110 §13.1.3).
fn only_value<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut lines = headers.get_all(name).iter();
    let first = lines.next()?;
    if lines.next().is_some() {
        None
    } else {
        Some(first)
    }
}

fn parse_date(value: &HeaderValue) -> Option<SystemTime> {
    httpdate::parse_http_date(value.to_str().ok()?.trim()).ok()
}

/// `time` as `Last-Modified` can say it; nothing for a time before 1970.
fn whole_seconds(time: SystemTime) -> Option<SystemTime> {
    let since_epoch = time.duration_since(UNIX_EPOCH).ok()?;
    Some(UNIX_EPOCH + Duration::from_secs(since_epoch.as_secs()))
}

/// One member of an `If-Match` or `If-None-Match` list.
#[derive(Clone, Copy)]
enum Tag<'a> {
    /// `*`: whatever is there.
    Any,
    /// An entity tag without its quotes.
    Entity { weak: bool, opaque: &'a [u8] },
}

impl Tag<'_> {
    /// RFC 9110 §8.8.3.2: equal, and neither weak.
    fn matches_strongly(self, current: Option<&str>) -> bool {
        self.matches(current, |tag_weak, current_weak| !tag_weak && !current_weak)
    }

    /// RFC 9110 §8.8.3.2: equal, `W/` or not.
    fn matches_weakly(self, current: Option<&str>) -> bool {
        self.matches(current, |_, _| true)
    }

    fn matches(self, current: Option<&str>, strength: impl Fn(bool, bool) -> bool) -> bool {
        match self {
            Tag::Any => true,
            Tag::Entity { weak, opaque } => current.is_some_and(|current| {
                let (current_weak, current) = current_opaque(current.as_bytes());
                opaque == current && strength(weak, current_weak)
            }),
        }
    }
}

/// Whether the origin's own tag is weak, and its text without quotes.
fn current_opaque(etag: &[u8]) -> (bool, &[u8]) {
    let (weak, tag) = match etag.strip_prefix(b"W/") {
        Some(tag) => (true, tag),
        None => (false, etag),
    };
    match tag {
        [b'"', opaque @ .., b'"'] => (weak, opaque),
        _ => (weak, tag),
    }
}

/// The members of one header line. A quoted tag may hold commas; an unquoted one ends at the next.
struct Tags<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Tags<'a> {
    type Item = Tag<'a>;

    fn next(&mut self) -> Option<Tag<'a>> {
        while let [b' ' | b'\t' | b',', rest @ ..] = self.rest {
            self.rest = rest;
        }
        if self.rest.is_empty() {
            return None;
        }
        let weak = self.rest.starts_with(b"W/");
        let tag = if weak { &self.rest[2..] } else { self.rest };
        if let [b'"', quoted @ ..] = tag
            && let Some(end) = quoted.iter().position(|byte| *byte == b'"')
        {
            self.rest = &quoted[end + 1..];
            return Some(Tag::Entity {
                weak,
                opaque: &quoted[..end],
            });
        }
        let end = tag
            .iter()
            .position(|byte| *byte == b',')
            .unwrap_or(tag.len());
        self.rest = &tag[end..];
        match tag[..end].trim_ascii_end() {
            b"*" if !weak => Some(Tag::Any),
            opaque => Some(Tag::Entity { weak, opaque }),
        }
    }
}

#[cfg(test)]
mod tests;
