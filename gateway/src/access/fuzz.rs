//! What must hold of any request that is signed, and of any that only says that it is.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, Request, Uri, header};

use super::canonical::{append_value, query};
use super::sign::{Signer, Unsigned};
use super::{Access, Caller};
use crate::dialect::target::Query;
use crate::settings::{AccessSettings, Secret};

/// Whose key the gateway has; the fuzzer knows the name and not the secret.
const ID: &str = "AKIDEXAMPLE";

/// The name that clients may sign in place of the `Host` that comes.
const BALANCER: &str = "gw.example.com";

/// Reads two requests: for each a line `METHOD TARGET HOST`, then lines `NAME: VALUE` up to an empty one.
///
/// # Panics
/// If a request is taken for signed that nobody signed, if a signed one is refused, or if what one signature allows is
/// also allowed to a request that differs in anything that is signed.
pub fn signature(bytes: &[u8]) {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let now = UNIX_EPOCH + Duration::from_secs(1_440_938_160);
    let key = AccessSettings {
        access_key_id: ID.to_owned(),
        secret_access_key: Secret::new("not in any corpus, since it is made here"),
        datasets: None,
        admin: false,
    };
    let signer = Signer::new(ID, key.secret_access_key.expose());
    let access = Access::new(&[key], Some("s3.example.com"), &[BALANCER.to_owned()]);
    let (Some(signed), Some(other)) = (request(&mut lines), request(&mut lines)) else {
        return;
    };
    for parts in [&signed, &other] {
        let _ = access.dataset_in_host(parts);
        assert!(!allowed(&access, parts, now), "nobody signed {parts:?}");
        canonical_forms_are_their_own(parts);
    }
    let of_signed = with_signature(&signed, &signed, &signer, now);
    if asks_by_query(&signed) {
        return;
    }
    assert!(allowed(&access, &of_signed, now), "refused {of_signed:?}");
    if !asks_by_query(&other) {
        let of_other = with_signature(&other, &signed, &signer, now);
        // A name of the settings' own stands for any that names no dataset.
        let path_style = access.dataset_in_host(&other).is_none();
        let any_host = host(&signed) == BALANCER && path_style;
        let same =
            covered(&other) == covered(&signed) && (any_host || host(&other) == host(&signed));
        assert_eq!(allowed(&access, &of_other, now), same, "{of_other:?}");
    }
    let presigned = presigned(&signed, &signer, now);
    assert!(allowed(&access, &presigned, now), "refused {presigned:?}");
    let late = now + Duration::from_secs(61);
    assert!(!allowed(&access, &presigned, late), "it has expired");
}

fn request<'a>(lines: &mut impl Iterator<Item = &'a [u8]>) -> Option<Parts> {
    let line = std::str::from_utf8(lines.next()?).ok()?;
    let mut words = line.split(' ');
    let method = Method::from_bytes(words.next()?.as_bytes()).ok()?;
    let uri: Uri = words.next()?.parse().ok()?;
    // Forms that name no path are answered before anybody asks who sends them.
    if !uri.path().starts_with('/') || uri.authority().is_some() {
        return None;
    }
    Query::parse(uri.query().unwrap_or_default()).ok()?;
    let host = HeaderValue::from_str(words.next()?).ok()?;
    let (mut parts, ()) = Request::new(()).into_parts();
    parts.method = method;
    parts.uri = uri;
    parts.headers.insert(header::HOST, host);
    for line in lines.take_while(|line| !line.is_empty()).take(64) {
        let end = line.iter().position(|byte| *byte == b':')?;
        let name = HeaderName::from_bytes(&line[..end]).ok()?;
        let value = HeaderValue::from_bytes(line[end + 1..].trim_ascii()).ok()?;
        if name != header::HOST {
            parts.headers.append(name, value);
        }
    }
    Some(parts)
}

fn allowed(access: &Access, parts: &Parts, now: SystemTime) -> bool {
    let query = asked(parts);
    let caller = access.caller(parts, &query, None, None, || now);
    matches!(
        caller,
        Ok(Caller::Key {
            signed: Some(_),
            ..
        })
    )
}

/// `bearer` with what signs `signed` in place of all else that a signature could cover or be.
fn with_signature(bearer: &Parts, signed: &Parts, signer: &Signer, now: SystemTime) -> Parts {
    let mut parts = bearer.clone();
    let names: Vec<_> = parts.headers.keys().cloned().collect();
    for name in names {
        let amz = name.as_str().starts_with("x-amz-");
        if amz || name == header::AUTHORIZATION {
            parts.headers.remove(name);
        }
    }
    let host = host(signed);
    let unsigned = unsigned(signed, &host);
    for (name, value) in signer.headers(&unsigned, super::UNSIGNED_PAYLOAD, now) {
        let value = HeaderValue::try_from(value).expect("a signature is text");
        parts.headers.insert(name, value);
    }
    parts
}

fn presigned(signed: &Parts, signer: &Signer, now: SystemTime) -> Parts {
    let host = host(signed);
    let query = signer.presign(&unsigned(signed, &host), now, Duration::from_secs(60));
    let mut parts = Request::new(()).into_parts().0;
    parts.method = signed.method.clone();
    let target = format!("{}?{query}", signed.uri.path());
    parts.uri = target.parse().expect("a presigned URL is one");
    let host = HeaderValue::from_str(&host).expect("it was one");
    parts.headers.insert(header::HOST, host);
    parts
}

fn unsigned<'a>(parts: &'a Parts, host: &'a str) -> Unsigned<'a> {
    Unsigned {
        method: parts.method.as_str(),
        host,
        path: parts.uri.path(),
        query: parts.uri.query().unwrap_or_default(),
    }
}

/// Whether its query alone says whose the request is: a second signature is refused then.
fn asks_by_query(parts: &Parts) -> bool {
    let query = asked(parts);
    let said = query.iter().any(|(name, _)| name.starts_with("X-Amz-"));
    said || query.has("Signature")
}

fn asked(parts: &Parts) -> Query {
    let raw = parts.uri.query().unwrap_or_default();
    Query::parse(raw).expect("only requests whose query can be read are tried")
}

/// All that the signature of such a request covers, but for the host.
fn covered(parts: &Parts) -> (Method, String, String) {
    let raw = parts.uri.query().unwrap_or_default();
    let path = parts.uri.path().to_owned();
    (parts.method.clone(), path, query(raw))
}

/// The host as a signature has it.
fn host(parts: &Parts) -> String {
    let mut text = Vec::new();
    append_value(parts.headers[header::HOST].as_bytes(), &mut text);
    String::from_utf8(text).expect("it was text")
}

fn canonical_forms_are_their_own(parts: &Parts) {
    let once = query(parts.uri.query().unwrap_or_default());
    assert_eq!(query(&once), once);
    assert!(once.split('&').is_sorted_by_key(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (name.to_owned(), value.to_owned())
    }));
    for value in parts.headers.values() {
        let (mut once, mut twice) = (Vec::new(), Vec::new());
        append_value(value.as_bytes(), &mut once);
        append_value(&once, &mut twice);
        assert_eq!(once, twice);
    }
}
