//! The verifier of AWS signatures, version 4, as S3 uses them.
//!
//! A [`Claim`] is what a request says of itself: whose it is, when it was signed, and what is
//! covered. Reading one needs no secret; [`Claim::verify`] then does the work, and the same work
//! whether or not anybody has the key that the claim names.
//!
//! Forgiving where S3 is: any region, headers in any order. Stricter nowhere. Regions are not
//! compared with anything: they are the client's own setting.

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use http::request::Parts;
use http::{HeaderMap, HeaderName, header};

use super::canonical::{
    ALGORITHM, Canonical, EMPTY_PAYLOAD, SERVICE, Scope, TERMINATOR, UNSIGNED_PAYLOAD, amz_date,
    append_value, hex, parse_amz_date, query, sha256_hex,
};
use super::keys::Key;
use super::refusal::Refusal;
use crate::dialect::target::Query;

/// How far the client's clock may be from ours.
pub const MAX_SKEW: Duration = Duration::from_secs(15 * 60);

/// The longest life of a presigned URL: seven days.
pub const MAX_EXPIRES: u64 = 7 * 24 * 3600;

/// The longest name of a region: none is half as long.
const MAX_REGION: usize = 128;

const AMZ_DATE: HeaderName = HeaderName::from_static("x-amz-date");
const PAYLOAD: HeaderName = HeaderName::from_static("x-amz-content-sha256");

/// What a signed request says of itself.
#[derive(Debug)]
pub struct Claim<'a> {
    /// Whose it says it is.
    pub id: Cow<'a, str>,
    day: Cow<'a, str>,
    region: Cow<'a, str>,
    signed_headers: Cow<'a, str>,
    signature: Cow<'a, str>,
    date: Cow<'a, str>,
    /// The payload as the signature covers it.
    pub payload: Cow<'a, str>,
    /// Whether the request had to say that itself, and did not: then there must be no body.
    pub payload_assumed: bool,
    presigned: bool,
}

impl<'a> Claim<'a> {
    /// The claim of an `Authorization` header's value, which begins with the algorithm's name.
    /// `body` is the body's SHA-256, if that was read; it counts where the request says none.
    ///
    /// # Errors
    /// `AuthorizationHeaderMalformed`, and `AccessDenied` when the request has no time.
    pub fn of_header(
        value: &'a str,
        headers: &'a HeaderMap,
        body: Option<&'a str>,
    ) -> Result<Self, Refusal> {
        let fields = value.strip_prefix(ALGORITHM).unwrap_or_default();
        let (mut credential, mut signed_headers, mut signature) = (None, None, None);
        for field in fields.split(',') {
            let (name, value) = field.trim().split_once('=').unwrap_or_default();
            match name {
                "Credential" => credential = Some(value),
                "SignedHeaders" => signed_headers = Some(value),
                "Signature" => signature = Some(value),
                _ => {}
            }
        }
        let (Some(credential), Some(signed_headers), Some(signature)) =
            (credential, signed_headers, signature)
        else {
            let what = "it needs Credential, SignedHeaders and Signature.";
            return Err(Refusal::malformed_header(what));
        };
        let date = header_date(headers).ok_or_else(Refusal::no_date)?;
        let (id, scope) = split_credential(credential).ok_or_else(|| {
            Refusal::malformed_header(
                "the Credential is mal-formed; expecting \
                 \"<YOUR-AKID>/YYYYMMDD/REGION/SERVICE/aws4_request\".",
            )
        })?;
        let scope = judge_scope(scope, &date).map_err(|what| Refusal::malformed_header(&what))?;
        let payload = one(headers, &PAYLOAD).or(body);
        Ok(Self {
            id: id.into(),
            day: scope.day.into(),
            region: scope.region.into(),
            signed_headers: signed_headers.into(),
            signature: signature.into(),
            date,
            payload: judge_payload(payload.unwrap_or(EMPTY_PAYLOAD))?.into(),
            payload_assumed: payload.is_none(),
            presigned: false,
        })
    }

    /// The claim of a presigned URL's query, and of the headers beside it.
    ///
    /// # Errors
    /// `AuthorizationQueryParametersError`; `AccessDenied` once it has expired or long before it is
    /// valid.
    pub fn of_query(
        query: &'a Query,
        headers: &'a HeaderMap,
        now: SystemTime,
    ) -> Result<Self, Refusal> {
        let get = |name| query.get(name);
        let (
            Some(algorithm),
            Some(credential),
            Some(date),
            Some(expires),
            Some(signed_headers),
            Some(signature),
        ) = (
            get("X-Amz-Algorithm"),
            get("X-Amz-Credential"),
            get("X-Amz-Date"),
            get("X-Amz-Expires"),
            get("X-Amz-SignedHeaders"),
            get("X-Amz-Signature"),
        )
        else {
            return Err(Refusal::malformed_query(
                "Query-string authentication version 4 requires the X-Amz-Algorithm, \
                 X-Amz-Credential, X-Amz-Signature, X-Amz-Date, X-Amz-SignedHeaders, and \
                 X-Amz-Expires parameters.",
            ));
        };
        if algorithm != ALGORITHM {
            let message = "X-Amz-Algorithm only supports \"AWS4-HMAC-SHA256\"";
            return Err(Refusal::malformed_query(message));
        }
        let (id, scope) = split_credential(credential).ok_or_else(|| {
            Refusal::malformed_query(
                "Error parsing the X-Amz-Credential parameter; the Credential is mal-formed; \
                 expecting \"<YOUR-AKID>/YYYYMMDD/REGION/SERVICE/aws4_request\".",
            )
        })?;
        let begin = parse_amz_date(date).ok_or_else(|| {
            Refusal::malformed_query(
                "X-Amz-Date must be in the ISO8601 Long Format \"yyyyMMdd'T'HHmmss'Z'\"",
            )
        })?;
        let scope = judge_scope(scope, date).map_err(|what| {
            Refusal::malformed_query(format!(
                "Error parsing the X-Amz-Credential parameter; {what}"
            ))
        })?;
        judge_life(begin, judge_expires(expires)?, now)?;
        let payload = one(headers, &PAYLOAD).or(get("X-Amz-Content-Sha256"));
        Ok(Self {
            id: id.into(),
            day: scope.day.into(),
            region: scope.region.into(),
            signed_headers: signed_headers.into(),
            signature: signature.into(),
            date: date.into(),
            payload: judge_payload(payload.unwrap_or(UNSIGNED_PAYLOAD))?.into(),
            payload_assumed: false,
            presigned: true,
        })
    }

    /// Judges the claim: that all is covered that must be, that the clocks agree, and that the
    /// signature is the one that `key` makes. `hosts` are names that the client may have signed in
    /// place of the `Host` that came.
    ///
    /// `key` is `None` where nobody has the claim's; `decoy` then has the same work done with it.
    ///
    /// # Errors
    /// `AccessDenied` (a header is not signed), `RequestTimeTooSkewed`, `InvalidAccessKeyId`,
    /// `SignatureDoesNotMatch`.
    pub fn verify(
        &self,
        parts: &Parts,
        key: Option<&Key>,
        decoy: &Key,
        hosts: &[&str],
        now: SystemTime,
    ) -> Result<(), Refusal> {
        self.judge_coverage(&parts.headers)?;
        if !self.presigned {
            self.judge_skew(now)?;
        }
        let good = self.matches(parts, key.unwrap_or(decoy), hosts);
        if key.is_none() {
            return Err(Refusal::unknown_key(&self.id));
        }
        good.then_some(()).ok_or_else(|| self.refusal(parts))
    }

    /// Every header that could change the answer's meaning has to be covered.
    fn judge_coverage(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let signed = |wanted: &str| self.signed_headers.split(';').any(|name| name == wanted);
        // Names are tokens, or a line break in one could make one request's text another's.
        let token = |byte: u8| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"!#$%&'*+-.^_`|~".contains(&byte)
        };
        let mut names = self.signed_headers.split(';');
        let tokens = names.all(|name| !name.is_empty() && name.bytes().all(token));
        if !tokens {
            let what = "SignedHeaders must be names in lower case between semicolons";
            return Err(match self.presigned {
                true => Refusal::malformed_query(format!("X-Amz-{what}.")),
                false => Refusal::malformed_header(&format!("{what}.")),
            });
        }
        if !signed("host") {
            return Err(Refusal::not_signed("host"));
        }
        let mut amz = headers.keys().map(HeaderName::as_str);
        match amz.find(|name| name.starts_with("x-amz-") && !signed(name)) {
            Some(name) => Err(Refusal::not_signed(name)),
            None => Ok(()),
        }
    }

    fn judge_skew(&self, now: SystemTime) -> Result<(), Refusal> {
        let signed_at = parse_amz_date(&self.date).ok_or_else(Refusal::no_date)?;
        let apart = now
            .duration_since(signed_at)
            .unwrap_or_else(|ahead| ahead.duration());
        if apart > MAX_SKEW {
            return Err(Refusal::skewed(&self.date, now));
        }
        Ok(())
    }

    /// Whether the signature is one that `key` makes of this request, in one of its spellings.
    fn matches(&self, parts: &Parts, key: &Key, hosts: &[&str]) -> bool {
        // What is not 64 digits has no chance, and the work is the same.
        let claimed = self.signature.as_bytes();
        let scope = Scope {
            day: &self.day,
            region: &self.region,
        };
        let signing_key = key.signing_key(&scope);
        let raw_query = parts.uri.query().unwrap_or_default();
        let canonical_query = query(raw_query);
        // curl before 8.3 signs the query as it stands in its URL. It covers as much.
        let as_it_came = (!self.presigned && raw_query != canonical_query).then_some(raw_query);
        let queries = [Some(canonical_query.as_str()), as_it_came];
        let names = std::iter::once(None).chain(hosts.iter().copied().map(Some));
        for name in names {
            for query in queries.into_iter().flatten() {
                let canonical = Canonical {
                    method: parts.method.as_str(),
                    path: parts.uri.path(),
                    query,
                    signed_headers: &self.signed_headers,
                    payload: &self.payload,
                };
                let hash = canonical.hash(|header, text| append(header, name, parts, text));
                let made = hex(scope.sign(&signing_key.key, &self.date, &hash).as_ref());
                if verify_slices_are_equal(made.as_bytes(), claimed).is_ok() {
                    return true;
                }
            }
        }
        false
    }
}

impl Claim<'_> {
    /// What was signed as we see it, so that a client can compare that with what it signed. It is the
    /// client's own request: nobody else's is in it, and nothing that only we know.
    fn refusal(&self, parts: &Parts) -> Refusal {
        let scope = Scope {
            day: &self.day,
            region: &self.region,
        };
        let canonical = Canonical {
            method: parts.method.as_str(),
            path: parts.uri.path(),
            query: &query(parts.uri.query().unwrap_or_default()),
            signed_headers: &self.signed_headers,
            payload: &self.payload,
        };
        let canonical = canonical.text(|header, text| append(header, None, parts, text));
        let to_sign = scope.to_sign(&self.date, &sha256_hex(&canonical));
        let canonical = String::from_utf8_lossy(&canonical);
        Refusal::bad_signature(&self.id, &to_sign, &self.signature, &canonical)
    }
}

/// The values of a header, joined by commas; of `host`, `name` if there is one.
fn append(header: &str, name: Option<&str>, parts: &Parts, text: &mut Vec<u8>) {
    let mut values = parts.headers.get_all(header).iter();
    if header == "host" {
        // The same as routes by it: HTTP/2 has an authority in its place (RFC 9113 §8.3.1).
        let authority = parts.uri.authority().map(http::uri::Authority::as_str);
        let stands_in = name.or(authority);
        if let Some(host) = stands_in {
            append_value(host.as_bytes(), text);
            return;
        }
    }
    if let Some(first) = values.next() {
        append_value(first.as_bytes(), text);
    }
    for value in values {
        text.push(b',');
        append_value(value.as_bytes(), text);
    }
}

/// A header's value, if it is there once and is text.
fn one<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next().filter(|_| values.next().is_none())?;
    value.to_str().ok().map(str::trim)
}

/// The time of a signed request, as its signature has it: `x-amz-date`, else `Date`.
fn header_date(headers: &HeaderMap) -> Option<Cow<'_, str>> {
    if headers.contains_key(&AMZ_DATE) {
        let date = one(headers, &AMZ_DATE)?;
        parse_amz_date(date)?;
        return Some(date.into());
    }
    let date = one(headers, &header::DATE)?;
    if parse_amz_date(date).is_some() {
        return Some(date.into());
    }
    let time = httpdate::parse_http_date(date).ok()?;
    Some(amz_date(time).into())
}

/// A credential's id, which may hold slashes, and the four parts of its scope.
fn split_credential(credential: &str) -> Option<(&str, [&str; 4])> {
    let mut parts = credential.rsplitn(5, '/');
    let terminator = parts.next()?;
    let service = parts.next()?;
    let region = parts.next()?;
    let day = parts.next()?;
    let id = parts.next().filter(|id| !id.is_empty())?;
    Some((id, [day, region, service, terminator]))
}

fn judge_scope<'a>(scope: [&'a str; 4], date: &str) -> Result<Scope<'a>, String> {
    let [day, region, service, terminator] = scope;
    if terminator != TERMINATOR {
        return Err(format!(
            "incorrect terminal. This endpoint uses \"{TERMINATOR}\"."
        ));
    }
    if service != SERVICE {
        return Err(format!(
            "incorrect service. This endpoint belongs to \"{SERVICE}\"."
        ));
    }
    if date.get(..8) != Some(day) {
        return Err("Invalid credential date. This date is not the same as X-Amz-Date.".to_owned());
    }
    if region.len() > MAX_REGION || !region.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("the region is not a name.".to_owned());
    }
    Ok(Scope { day, region })
}

fn judge_expires(text: &str) -> Result<u64, Refusal> {
    let number: i128 = text
        .parse()
        .map_err(|_| Refusal::malformed_query("X-Amz-Expires should be a number"))?;
    let seconds = u64::try_from(number.min(i128::from(u64::MAX)))
        .map_err(|_| Refusal::malformed_query("X-Amz-Expires must be non-negative"))?;
    if seconds > MAX_EXPIRES {
        return Err(Refusal::malformed_query(
            "X-Amz-Expires must be less than a week (in seconds); that is, the given \
             X-Amz-Expires must be less than 604800 seconds",
        ));
    }
    Ok(seconds)
}

/// A presigned URL is valid from its date, if the clocks agree, until it expires.
fn judge_life(begin: SystemTime, seconds: u64, now: SystemTime) -> Result<(), Refusal> {
    if begin
        .duration_since(now)
        .is_ok_and(|ahead| ahead > MAX_SKEW)
    {
        return Err(Refusal::not_valid_yet(now));
    }
    let end = begin + Duration::from_secs(seconds);
    if now > end {
        return Err(Refusal::expired(seconds, end, now));
    }
    Ok(())
}

fn judge_payload(payload: &str) -> Result<&str, Refusal> {
    let known = payload == UNSIGNED_PAYLOAD
        || payload.starts_with("STREAMING-")
        || (payload.len() == 64 && payload.bytes().all(|byte| byte.is_ascii_hexdigit()));
    known.then_some(payload).ok_or_else(Refusal::bad_payload)
}

#[cfg(test)]
mod tests;
