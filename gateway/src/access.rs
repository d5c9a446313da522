//! Who may do what: credentials in, a [`Caller`] or a [`Refusal`] out.
//!
//! Asked before anything else is, on hits as on misses; knows nothing of caches or datasets but
//! their names. The rules are swapped as a whole when the settings are read again, and each request
//! is judged by those of its moment, on old connections too.
//!
//! The verifier is ours rather than a library's: those that there are either sign only, or bring an
//! S3 server of their own, which costs twice the CPU time for a small read.

pub mod canonical;
#[cfg(any(test, fuzzing))]
mod fuzz;
pub mod keys;
mod plain;
pub mod refusal;
pub mod sign;
pub mod sigv4;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use axum::body::Body;
use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::request::Parts;
use http::{HeaderMap, header};
use http_body::Body as _;

use self::canonical::{ALGORITHM, UNSIGNED_PAYLOAD, sha256_hex};
#[cfg(any(test, fuzzing))]
pub use self::fuzz::signature;
use self::keys::Key;
pub use self::refusal::Refusal;
use self::sigv4::Claim;
use crate::dialect::s3::error::Code;
use crate::dialect::target::Query;
use crate::gateway::Remote;
use crate::settings::AccessSettings;

/// The longest signed body: a warming job's, with its keys. Its head was verified before it is read.
const MAX_BODY: usize = 16 << 20;

/// The longest body that is read before anybody knows who sends it.
const MAX_UNSAID_BODY: usize = 64 << 10;

/// How long a signed body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// The rules in force.
#[derive(Debug)]
pub struct Access {
    rules: ArcSwap<Rules>,
}

#[derive(Debug)]
struct Rules {
    keys: HashMap<Arc<str>, Arc<Key>>,
    decoy: Key,
    domain: Option<String>,
    hosts: Vec<Alias>,
}

/// A name that clients may sign in place of the one that comes.
#[derive(Debug)]
struct Alias {
    name: String,
    /// The dataset that it names as a virtual host.
    dataset: Option<String>,
}

/// Who asks.
#[derive(Clone, Debug)]
pub enum Caller {
    /// Whoever reaches the port: there is no `[[access]]`.
    Anyone {
        /// Whether they come from this machine.
        local: bool,
    },
    /// Somebody with an access key.
    Key {
        /// Their key.
        key: Arc<Key>,
        /// What their signature says of the body; `None` if they showed the secret itself.
        signed: Option<Payload>,
    },
}

/// What a signature says of a request's body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    /// It may be anything.
    Unsigned,
    /// It is signed in pieces, which are not read here.
    Streamed,
    /// Nothing was said of it, so there must be none.
    None,
    /// Its SHA-256, in hexadecimal digits.
    Hash(String),
}

impl Access {
    /// The rules that these settings make.
    pub fn new(keys: &[AccessSettings], domain: Option<&str>, hosts: &[String]) -> Self {
        Self {
            rules: ArcSwap::from_pointee(Rules::new(keys, domain, hosts)),
        }
    }

    /// Everybody may read, as without any setting.
    pub fn open() -> Self {
        Self::new(&[], None, &[])
    }

    /// Puts other rules in force, from the next request on.
    pub fn replace(&self, keys: &[AccessSettings], domain: Option<&str>, hosts: &[String]) {
        self.rules.store(Arc::new(Rules::new(keys, domain, hosts)));
    }

    /// The dataset that the host names, where `domain` is set (virtual-hosted style of the S3 user
    /// guide); the path is then a key.
    pub fn dataset_in_host(&self, parts: &Parts) -> Option<String> {
        let rules = self.rules.load();
        let domain = rules.domain.as_deref()?;
        dataset_in(Some(domain), host(parts)?)
    }

    /// That a request which needs no key but to come from this machine names a host of ours.
    ///
    /// # Errors
    /// It names another, as the page of another site does that had a browser led here.
    pub fn judge_host(&self, parts: &Parts) -> Result<(), Refusal> {
        let rules = self.rules.load();
        let good = !rules.keys.is_empty() || rules.is_ours(parts);
        good.then_some(()).ok_or_else(Refusal::not_local)
    }

    /// Whether requests need credentials.
    pub fn asks_for_keys(&self) -> bool {
        !self.rules.load().keys.is_empty()
    }

    /// Reads the body of a request whose signature covers it without a word on it, as curl 7.88's
    /// does, and gives its SHA-256 for [`Self::caller`]. Any other body is passed on unread.
    ///
    /// # Errors
    /// It does not come.
    pub async fn read_unsaid(
        &self,
        parts: &Parts,
        body: Body,
    ) -> Result<(Body, Option<String>), Refusal> {
        let value = parts.headers.get(AUTHORIZATION);
        let signed = value.is_some_and(|value| value.as_bytes().starts_with(ALGORITHM.as_bytes()));
        let said = parts.headers.contains_key("x-amz-content-sha256");
        if !signed || said || body.is_end_stream() || self.rules.load().keys.is_empty() {
            return Ok((body, None));
        }
        let bytes = read(body, MAX_UNSAID_BODY).await?;
        let hash = sha256_hex(&bytes);
        Ok((Body::from(bytes), Some(hash)))
    }

    /// Who sent a request, by its credentials at this time and by where it comes from, if that is
    /// known. `body` is its body's SHA-256 if that was read; `now` is asked only where keys are.
    ///
    /// # Errors
    /// It has none, or they are not good.
    pub fn caller(
        &self,
        parts: &Parts,
        query: &Query,
        remote: Option<&Remote>,
        body: Option<&str>,
        now: impl FnOnce() -> SystemTime,
    ) -> Result<Caller, Refusal> {
        let rules = self.rules.load();
        if rules.keys.is_empty() {
            // Credentials that nobody can judge are no reason to refuse: S3 clients send some.
            let local = remote.is_some_and(is_local);
            return Ok(Caller::Anyone { local });
        }
        let now = now();
        let presigned = query.has("X-Amz-Algorithm") || query.has(canonical::SIGNATURE_PARAMETER);
        let Some(value) = parts.headers.get(AUTHORIZATION) else {
            if presigned {
                let claim = Claim::of_query(query, &parts.headers, now)?;
                return rules.verified(&claim, parts, now);
            }
            if query.has("Signature") && query.has("AWSAccessKeyId") {
                return Err(Refusal::old_signature());
            }
            return Err(Refusal::no_credentials());
        };
        if presigned || parts.headers.get_all(AUTHORIZATION).iter().count() > 1 {
            return Err(Refusal::twice());
        }
        let value = value.to_str().map_err(|_| Refusal::unsupported_kind())?;
        let scheme = value.split([' ', ',']).next().unwrap_or_default();
        if scheme == ALGORITHM {
            let claim = Claim::of_header(value, &parts.headers, body)?;
            return rules.verified(&claim, parts, now);
        }
        if scheme == "AWS" {
            return Err(Refusal::old_signature());
        }
        let Some(pair) = plain::pair(value) else {
            return Err(Refusal::unsupported_kind());
        };
        if !remote.is_some_and(takes_secrets) {
            return Err(Refusal::in_clear());
        }
        let pair = pair.ok_or_else(Refusal::wrong_pair)?;
        let key = rules.keys.get(pair.id.as_str());
        let right = key
            .map_or(&rules.decoy, |key| key)
            .has_secret(pair.secret.expose());
        match key.filter(|_| right) {
            Some(key) => Ok(Caller::Key {
                key: Arc::clone(key),
                signed: None,
            }),
            None => Err(Refusal::wrong_pair()),
        }
    }
}

impl Rules {
    fn new(keys: &[AccessSettings], domain: Option<&str>, hosts: &[String]) -> Self {
        let keys = keys.iter().map(|settings| {
            let key = Arc::new(Key::new(settings));
            (Arc::clone(&key.id), key)
        });
        let domain = domain.map(str::to_ascii_lowercase);
        let hosts = hosts.iter().map(|name| Alias {
            name: name.clone(),
            dataset: dataset_in(domain.as_deref(), name),
        });
        Self {
            keys: keys.collect(),
            decoy: Key::decoy(),
            hosts: hosts.collect(),
            domain,
        }
    }

    /// Whether the host that a request names is one of ours: an address, this machine's own name, or
    /// one that the settings know. A page that a browser was led to us from by a name of the page's
    /// own (DNS rebinding) names that.
    fn is_ours(&self, parts: &Parts) -> bool {
        let Some(host) = host(parts) else {
            return true;
        };
        let name = without_port(host).trim_matches(['[', ']']);
        let name = name.to_ascii_lowercase();
        let below = |domain: &str| {
            let rest = name.strip_suffix(domain);
            rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        };
        name.parse::<IpAddr>().is_ok()
            || below("localhost")
            || self.domain.as_deref().is_some_and(below)
            || self.hosts.iter().any(|alias| {
                alias.name.eq_ignore_ascii_case(host) || alias.name.eq_ignore_ascii_case(&name)
            })
    }

    fn verified(
        &self,
        claim: &Claim<'_>,
        parts: &Parts,
        now: SystemTime,
    ) -> Result<Caller, Refusal> {
        let key = self.keys.get(&*claim.id);
        // A name that stands for the host must name what that names: the same path below another
        // host may be another object, or a route of ours.
        // The same goes for a Host field beside a target that has a host itself.
        let domain = self.domain.as_deref();
        let beside = parts.headers.get(header::HOST);
        let beside = beside.filter(|_| parts.uri.authority().is_some());
        let aliases: Vec<&str> = match (self.hosts.is_empty(), beside) {
            (true, None) => Vec::new(),
            _ => {
                let named = host(parts).and_then(|host| dataset_in(domain, host));
                let same = self.hosts.iter().filter(|alias| alias.dataset == named);
                let beside = beside.and_then(|host| host.to_str().ok());
                let beside = beside.filter(|host| dataset_in(domain, host) == named);
                same.map(|alias| &*alias.name).chain(beside).collect()
            }
        };
        claim.verify(parts, key.map(|key| &**key), &self.decoy, &aliases, now)?;
        let key = Arc::clone(key.ok_or_else(|| Refusal::unknown_key(&claim.id))?);
        let payload = match &*claim.payload {
            _ if claim.payload_assumed => Payload::None,
            UNSIGNED_PAYLOAD => Payload::Unsigned,
            hash if hash.len() == 64 => Payload::Hash(hash.to_ascii_lowercase()),
            _ => Payload::Streamed,
        };
        Ok(Caller::Key {
            key,
            signed: Some(payload),
        })
    }
}

impl Caller {
    /// Whether they may read the dataset of this name, if there is one.
    pub fn may_read(&self, dataset: &str) -> bool {
        match self {
            Self::Anyone { .. } => true,
            Self::Key { key, .. } => key.may_read(dataset),
        }
    }

    /// That they may read the dataset of this name.
    ///
    /// # Errors
    /// They may not: the same for one that there is and one that there is not.
    pub fn judge_reader(&self, dataset: &str) -> Result<(), Refusal> {
        let may = self.may_read(dataset);
        may.then_some(()).ok_or_else(Refusal::dataset)
    }

    /// That they may ask and do what concerns the gateway itself.
    ///
    /// # Errors
    /// They may not.
    pub fn judge_admin(&self, headers: &HeaderMap, safe: bool) -> Result<(), Refusal> {
        // A browser adds the credentials that it knows to what any page asks for, and its
        // connections come from its own machine.
        let site = headers.get("sec-fetch-site");
        let foreign = site.is_some_and(|site| site != "none" && site != "same-origin")
            || (headers.contains_key(header::ORIGIN) && !safe);
        match self {
            _ if foreign => Err(Refusal::foreign_page()),
            Self::Anyone { local: true } => Ok(()),
            Self::Anyone { local: false } => Err(Refusal::not_local()),
            Self::Key { key, .. } if key.admin => Ok(()),
            Self::Key { .. } => Err(Refusal::not_admin()),
        }
    }

    /// That they may choose headers of the answer by `response-*`: only a signature says that the
    /// one who wrote the URL was allowed to.
    ///
    /// # Errors
    /// They may not.
    pub fn judge_overrides(&self, query: &Query) -> Result<(), Refusal> {
        let plain = matches!(self, Self::Key { signed: None, .. });
        if plain && query.iter().any(|(name, _)| name.starts_with("response-")) {
            return Err(Refusal::overrides());
        }
        Ok(())
    }

    /// The id of their key, which logs may show.
    pub fn key_id(&self) -> Option<&Arc<str>> {
        match self {
            Self::Anyone { .. } => None,
            Self::Key { key, .. } => Some(&key.id),
        }
    }

    /// The body of their request, once it is what they signed. A body that is not signed is passed
    /// on unread.
    ///
    /// # Errors
    /// It is another one, or does not come.
    pub async fn signed_body(&self, body: Body) -> Result<Body, Refusal> {
        let Self::Key {
            signed: Some(payload),
            ..
        } = self
        else {
            return Ok(body);
        };
        match payload {
            Payload::Unsigned => Ok(body),
            Payload::Streamed | Payload::None if body.is_end_stream() => Ok(body),
            Payload::Streamed => Err(Refusal::streamed_payload()),
            Payload::None => Err(Refusal::no_payload()),
            Payload::Hash(signed) => {
                let bytes = read(body, MAX_BODY).await?;
                let computed = sha256_hex(&bytes);
                if computed != *signed {
                    return Err(Refusal::payload_mismatch(signed, &computed));
                }
                Ok(Body::from(bytes))
            }
        }
    }
}

/// A body of so many bytes at most.
async fn read(body: Body, most: usize) -> Result<Bytes, Refusal> {
    let bytes = axum::body::to_bytes(body, most);
    match tokio::time::timeout(BODY_TIMEOUT, bytes).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(_)) | Err(_) => Err(Refusal::payload_unreadable(most)),
    }
}

/// What a 401 asks for (RFC 9110 §11.6.1): clients that wait to be asked before they send a
/// password are asked only where it may travel.
pub fn challenge(remote: Option<&Remote>) -> &'static str {
    if remote.is_some_and(takes_secrets) {
        "Basic realm=\"forebay\", charset=\"UTF-8\""
    } else {
        ALGORITHM
    }
}

/// The code for a request without credentials. S3's own clients expect 403, others can act on 401.
pub fn code_without_credentials(headers: &HeaderMap) -> Code {
    let mut names = headers.keys().map(http::HeaderName::as_str);
    let speaks_s3 = names.any(|name| name.starts_with("x-amz-") || name.starts_with("amz-sdk-"));
    if speaks_s3 {
        Code::AccessDenied
    } else {
        Code::NoCredentials
    }
}

/// The host that a request names; `None` if it names none, or two. A target that names one itself
/// counts, whatever the Host field says (RFC 9112 §3.2.2; HTTP/2's authority, RFC 9113 §8.3.1).
fn host(parts: &Parts) -> Option<&str> {
    if let Some(authority) = parts.uri.authority() {
        return Some(authority.as_str());
    }
    let mut values = parts.headers.get_all(header::HOST).iter();
    let host = values.next().filter(|_| values.next().is_none())?;
    host.to_str().ok()
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

/// The dataset that a host names below `domain`.
fn dataset_in(domain: Option<&str>, host: &str) -> Option<String> {
    let domain = domain?;
    let name = without_port(host).to_ascii_lowercase();
    let name = name.strip_suffix('.').unwrap_or(&name);
    let dataset = name.strip_suffix(domain)?.strip_suffix('.')?;
    (!dataset.is_empty()).then(|| dataset.to_owned())
}

fn is_local(remote: &Remote) -> bool {
    remote.address.ip().to_canonical().is_loopback()
}

/// Whether nobody reads what they send on its way.
fn takes_secrets(remote: &Remote) -> bool {
    remote.tls || is_local(remote)
}

#[cfg(test)]
mod tests;
