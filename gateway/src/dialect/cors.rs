//! Pages in browsers that read a dataset: what S3 does for a rule of GET and HEAD from the origins
//! of `cors`, with any header (Fetch §3.3, and "How Amazon S3 evaluates the CORS configuration").
//!
//! A preflight is answered before anybody is asked who they are: browsers send none of what would
//! tell. So it must not show whether a dataset exists: one without `cors` and none at all are
//! refused in the same words.

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, StatusCode};

use super::Reply;
use super::s3::error::{Code, S3Error};
use crate::dataset::Dataset;

const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD");

/// What a page may see besides what every page may. `*` would not do for answers to requests with
/// credentials (Fetch §3.3.5).
const EXPOSED: HeaderValue = HeaderValue::from_static(
    "ETag, Content-Range, Accept-Ranges, Content-Length, Content-Encoding, Last-Modified, \
     Cache-Status, x-amz-request-id, x-amz-version-id, x-amz-bucket-region, x-amz-mp-parts-count, \
     x-amz-storage-class, x-amz-expiration, x-amz-restore, x-amz-server-side-encryption",
);

/// Seconds for which a browser may remember a preflight: S3's examples have this number.
const MAX_AGE: HeaderValue = HeaderValue::from_static("3000");

const VARIES: HeaderValue = HeaderValue::from_static(
    "Origin, Access-Control-Request-Headers, Access-Control-Request-Method",
);

/// What a request's answer says to browsers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cors {
    /// The dataset has no rule, or there is none.
    Off,
    /// It has, and none is for this request.
    Unmatched,
    /// Any page may read.
    Anyone,
    /// This origin's pages may.
    Only(HeaderValue),
}

impl Cors {
    /// What is to be said of a request for something of `dataset`, if it is of one that there is.
    pub fn of(dataset: Option<&Dataset>, headers: &HeaderMap) -> Self {
        match dataset.map(Dataset::cors) {
            Some(rules) if !rules.is_empty() => Self::judge(rules, headers.get(ORIGIN)),
            _ => Self::Off,
        }
    }

    fn judge(rules: &[String], origin: Option<&HeaderValue>) -> Self {
        let Some(origin) = origin else {
            return Self::Unmatched;
        };
        let text = origin.to_str().unwrap_or_default();
        let matched = rules.iter().find(|rule| matches(rule, text));
        match matched.map(String::as_str) {
            None => Self::Unmatched,
            Some("*") => Self::Anyone,
            Some(_) => Self::Only(origin.clone()),
        }
    }

    /// The answer to a preflight. `None`: the request is none.
    pub fn preflight(&self, parts: &Parts) -> Option<Result<Reply, S3Error>> {
        (parts.method == Method::OPTIONS).then(|| self.answer(&parts.headers))
    }

    fn answer(&self, headers: &HeaderMap) -> Result<Reply, S3Error> {
        if !headers.contains_key(ORIGIN) {
            let sentence = "Insufficient information. Origin request header needed.";
            return Err(S3Error::new(Code::BadRequest, sentence));
        }
        let Some(method) = headers.get(ACCESS_CONTROL_REQUEST_METHOD) else {
            let sentence = "Invalid Access-Control-Request-Method: null";
            return Err(S3Error::new(Code::BadRequest, sentence));
        };
        if *self == Self::Off {
            let sentence = "CORSResponse: CORS is not enabled for this bucket.";
            return Err(S3Error::new(Code::AccessForbidden, sentence));
        }
        if *self == Self::Unmatched || !(method == "GET" || method == "HEAD") {
            let sentence = "CORSResponse: This CORS request is not allowed. This is usually \
                            because the evaluation of Origin, request method / \
                            Access-Control-Request-Method or Access-Control-Request-Headers are \
                            not whitelisted by the resource's CORS spec.";
            return Err(S3Error::new(Code::AccessForbidden, sentence));
        }
        let mut reply = Reply::empty(StatusCode::OK);
        reply.set_length(0);
        reply.headers.insert(ACCESS_CONTROL_MAX_AGE, MAX_AGE);
        if let Some(wanted) = headers.get(ACCESS_CONTROL_REQUEST_HEADERS) {
            let allowed = wanted.clone();
            reply.headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, allowed);
        }
        Ok(reply)
    }

    /// Adds to an answer, good or bad, what it says to browsers. Where there is a rule, every answer
    /// says that it depends on who asks, or a cache between would give one page's answer to another.
    pub fn tell(&self, headers: &mut HeaderMap) {
        let origin = match self {
            Self::Off => return,
            Self::Unmatched => None,
            Self::Anyone => Some(HeaderValue::from_static("*")),
            Self::Only(origin) => Some(origin.clone()),
        };
        headers.append(VARY, VARIES);
        let Some(origin) = origin else { return };
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, METHODS);
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
        if let Self::Only(_) = self {
            let credentials = HeaderValue::from_static("true");
            headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, credentials);
        }
    }
}

/// Whether an origin is the rule's, of which one `*` stands for anything.
fn matches(rule: &str, origin: &str) -> bool {
    match rule.split_once('*') {
        None => rule == origin,
        Some((start, end)) => {
            origin.len() >= start.len() + end.len()
                && origin.starts_with(start)
                && origin.ends_with(end)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_anything_and_the_rest_for_itself() {
        for (rule, origin, same) in [
            ("*", "https://a.example", true),
            ("*", "null", true),
            ("https://a.example", "https://a.example", true),
            ("https://a.example", "http://a.example", false),
            ("https://a.example", "https://A.example", false),
            ("https://a.example", "https://a.example.org", false),
            ("https://*.example", "https://a.b.example", true),
            ("https://*.example", "https://.example", true),
            ("https://*.example", "https://example", false),
            ("https://a*a", "https://a", false),
        ] {
            assert_eq!(matches(rule, origin), same, "{rule} {origin}");
        }
    }

    #[test]
    fn the_first_rule_that_matches_is_the_one() {
        let origin = HeaderValue::from_static("https://a.example");
        let judge = |rules: &[&str]| {
            let rules: Vec<String> = rules.iter().map(|rule| (*rule).to_owned()).collect();
            Cors::judge(&rules, Some(&origin))
        };
        assert_eq!(
            judge(&["https://a.example", "*"]),
            Cors::Only(origin.clone())
        );
        assert_eq!(judge(&["*", "https://a.example"]), Cors::Anyone);
        assert_eq!(judge(&["https://b.example"]), Cors::Unmatched);
        assert_eq!(Cors::judge(&["*".to_owned()], None), Cors::Unmatched);
    }
}
