//! Object stores behind us: what they are asked, and what of their answers is believed.

mod answer;
mod breaker;
mod build;
mod connect;
mod digest;
pub mod documents;
mod hedge;
mod limit;
mod list;
mod local;
mod manners;
mod pin;
mod s3;
mod s3_write;
pub(crate) mod s3_xml;
mod slots;
mod spare;
mod transport;
mod url;
pub mod write;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use futures::StreamExt;
use futures::stream::BoxStream;
use http::{HeaderMap, Method, StatusCode};
use object_store::GetOptions;
use object_store::client::{HttpError, HttpErrorKind};
use object_store::path::Path;

pub use self::answer::{Answer, ExactBody};
pub use self::connect::{LOOP_HEADER, loop_value};
pub use self::digest::Digest;
pub use self::manners::Around;
pub use self::transport::{ClientTls, transport, transport_with};
pub use self::url::OriginUrl;
pub use object_store::client::{
    HttpClient, HttpRequest, HttpRequestBody, HttpResponse, HttpResponseBody, HttpService,
};

use self::answer::{bad, claimed_range, content_length, failure, ranged_failure};
use self::build::Remote;
use self::connect::{Connector, Exchange, Seen};
use self::local::Directory;
use self::pin::{pin_headers, pinned, version_id, version_query};
use crate::block::BlockSize;
use crate::class::Urgency;
use crate::error::OriginError;
use crate::object::ObjectId;
use crate::stats::DatasetStats;
use crate::version::{Identity, Version};

/// What an origin is made of: a dataset's settings, as far as they concern it.
#[derive(Clone)]
pub struct OriginConfig {
    /// Where the objects are.
    pub url: OriginUrl,
    /// object_store's own options, by its own names. May hold secrets.
    pub options: BTreeMap<String, String>,
    /// Requests at once, at most.
    pub connections: usize,
    /// How objects are cut; it is part of a version's name.
    pub block_size: BlockSize,
    /// The dataset promises that no object ever changes.
    pub immutable: bool,
}

/// One dataset's object store.
pub struct Origin {
    kind: Kind,
    identity: Arc<Identity>,
    stats: Arc<DatasetStats>,
    block_size: BlockSize,
    /// Objects are had by plain HTTP, as from a hub of models.
    is_http: bool,
}

enum Kind {
    Remote(Box<Remote>),
    Directory(Directory),
}

/// A part of an object that was uploaded in parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Its bytes.
    pub range: Range<u64>,
    /// How many parts the object has.
    pub count: u32,
}

impl Origin {
    /// The origin of `config`, asked through `transport` and counted in `stats`.
    ///
    /// # Errors
    /// A sentence that says what is wrong with the settings. Nothing is asked yet.
    pub fn new(
        config: &OriginConfig,
        transport: &HttpClient,
        stats: Arc<DatasetStats>,
    ) -> Result<Self, String> {
        let kind = match &config.url {
            OriginUrl::Directory { path } => {
                Kind::Directory(Directory::new(path, Arc::clone(&stats))?)
            }
            url => {
                let (name, stats) = (url.to_string(), Arc::clone(&stats));
                let connector = Connector::new(name, transport.clone(), stats, config.connections);
                Kind::Remote(Box::new(build::remote(url, &config.options, &connector)?))
            }
        };
        let identity = Identity {
            origin: match &kind {
                Kind::Remote(remote) => format!("{} at {}", config.url, remote.endpoint),
                Kind::Directory(_) => config.url.to_string(),
            },
            // Block sizes are at most 4 MiB.
            block_size: u32::try_from(config.block_size.bytes()).unwrap_or(u32::MAX),
            immutable: config.immutable,
        };
        Ok(Self {
            kind,
            identity: Arc::new(identity),
            stats,
            block_size: config.block_size,
            is_http: matches!(config.url, OriginUrl::Http { .. }),
        })
    }

    /// What the dataset cost and saved so far.
    pub fn stats(&self) -> &Arc<DatasetStats> {
        &self.stats
    }

    /// `HOST:PORT` that requests go to.
    pub fn endpoint(&self) -> Option<&str> {
        match &self.kind {
            Kind::Remote(remote) => Some(&remote.endpoint),
            Kind::Directory(_) => None,
        }
    }

    /// Where the credentials come from, in words.
    pub fn credentials(&self) -> &'static str {
        match &self.kind {
            Kind::Remote(remote) => remote.credentials,
            Kind::Directory(_) => "none: a directory needs none",
        }
    }

    /// What names this origin in every version of its objects: two datasets with the same identity
    /// can read each other's blocks, but for their names.
    pub fn identity(&self) -> &Arc<Identity> {
        &self.identity
    }

    /// Asks which version is current.
    ///
    /// # Errors
    /// [`OriginError::NotFound`], or what else the origin answered.
    pub async fn head(&self, object: &ObjectId) -> Result<Version, OriginError> {
        let version = self.ask_head(object).await;
        self.note(&version);
        version
    }

    async fn ask_head(&self, object: &ObjectId) -> Result<Version, OriginError> {
        let headers = match self.place(object)? {
            Place::Directory(directory) => {
                let opened = directory.open(&object.key, true).await?;
                return self.describe(object, opened.size, &opened.headers);
            }
            Place::Path(remote, path) => self.head_at(remote, &path, object).await?,
            Place::Odd(s3, key) => {
                let query = version_query(object);
                s3.ask(
                    Method::HEAD,
                    Some(&key),
                    &query,
                    HeaderMap::new(),
                    &Urgency::default(),
                )
                .await?
                .headers
            }
        };
        let size = content_length(&headers)
            .ok_or_else(|| bad("it does not say how long the object is (no Content-Length)"))?;
        self.describe(object, size, &headers)
    }

    async fn head_at(
        &self,
        remote: &Remote,
        path: &Path,
        object: &ObjectId,
    ) -> Result<HeaderMap, OriginError> {
        let options = |exchange: &Exchange| GetOptions {
            head: true,
            version: version_id(object),
            extensions: exchange.extensions(),
            ..GetOptions::default()
        };
        let (exchange, result) = hedge::ask(remote, path, &Urgency::default(), options).await?;
        result.map_err(|error| failure(&exchange, &error))?;
        seen_headers(&exchange)
    }

    /// Asks for `range`, of the version `pin` if one is given, when it is the turn of whoever is of
    /// `urgency`. The answer's range ends with the object if that is shorter.
    ///
    /// # Errors
    /// [`OriginError::Changed`] if the answer is of another version than `pin`, whatever its
    /// status; [`OriginError::PastEnd`] if the range starts past the end.
    pub async fn get(
        &self,
        object: &ObjectId,
        range: Range<u64>,
        pin: Option<&Version>,
        urgency: &Urgency,
    ) -> Result<Answer, OriginError> {
        let start = range.start;
        let answer = self.ask_get(object, range, pin, urgency).await;
        self.note(&answer);
        let answer = match answer {
            // The pinned version has bytes there: this origin looked at another one.
            Err(OriginError::PastEnd) if pin.is_some_and(|pin| start < pin.size) => {
                return Err(OriginError::Changed);
            }
            answer => answer?,
        };
        if pin.is_some_and(|pin| pin.key != answer.version.key) {
            return Err(OriginError::Changed);
        }
        Ok(answer)
    }

    async fn ask_get(
        &self,
        object: &ObjectId,
        range: Range<u64>,
        pin: Option<&Version>,
        urgency: &Urgency,
    ) -> Result<Answer, OriginError> {
        let (headers, chunks): (_, BoxStream<'static, _>) = match self.place(object)? {
            Place::Directory(directory) => {
                return Box::pin(self.read_file(directory, object, range)).await;
            }
            Place::Path(remote, path) => {
                let options = |exchange: &Exchange| pinned(pin, object, &range, exchange);
                let (exchange, result) = hedge::ask(remote, &path, urgency, options).await?;
                let chunks = result
                    .map_err(|error| ranged_failure(&exchange, &error))?
                    .into_stream()
                    .map(|chunk| chunk.map_err(|error| stream_error(&error)));
                (seen_headers(&exchange)?, chunks.boxed())
            }
            Place::Odd(s3, key) => {
                let mut headers = s3::range_header(&range);
                pin_headers(pin, &mut headers);
                let query = version_query(object);
                let answer = s3.ask(Method::GET, Some(&key), &query, headers, urgency);
                let answer = Box::pin(answer).await?;
                if answer.status != StatusCode::PARTIAL_CONTENT {
                    return Err(bad("it ignored the Range header"));
                }
                (answer.headers, s3::stream(answer.response))
            }
        };
        let (range, size) = claimed_range(&headers, &range)?;
        Ok(Answer {
            version: Arc::new(self.describe(object, size, &headers)?),
            body: ExactBody::new(chunks, range.end - range.start),
            range,
        })
    }

    async fn read_file(
        &self,
        directory: &Directory,
        object: &ObjectId,
        range: Range<u64>,
    ) -> Result<Answer, OriginError> {
        let opened = directory.open(&object.key, false).await?;
        if range.start >= opened.size {
            return Err(OriginError::PastEnd);
        }
        let range = range.start..range.end.min(opened.size);
        let version = self.describe(object, opened.size, &opened.headers)?;
        let chunks = directory.read(opened, range.clone());
        Ok(Answer {
            version: Arc::new(version),
            body: ExactBody::new(chunks, range.end - range.start),
            range,
        })
    }

    /// The bytes of part `number` (from 1) of an object.
    ///
    /// An object that was not uploaded in parts is its own first part.
    ///
    /// # Errors
    /// [`OriginError::NoSuchPart`] past the last one.
    pub async fn part(
        &self,
        object: &ObjectId,
        version: &Version,
        number: u32,
    ) -> Result<Part, OriginError> {
        let whole = Part {
            range: 0..version.size,
            count: 1,
        };
        let in_parts = version.etag().is_some_and(is_multipart_etag);
        let remote = match &self.kind {
            Kind::Remote(remote) if in_parts => remote.s3.as_ref().map(|s3| (s3, remote)),
            _ => None,
        };
        let Some((s3, remote)) = remote else {
            return match number {
                1 => Ok(whole),
                _ => Err(OriginError::NoSuchPart { count: 1 }),
            };
        };
        let text = number.to_string();
        let mut query = version_query(object);
        query.push(("partNumber", text.as_str()));
        let key = format!("{}{}", remote.prefix, object.key);
        let count = parts_in_etag(version.etag().unwrap_or_default());
        let mut headers = HeaderMap::new();
        pin_headers(Some(version), &mut headers);
        let urgency = Urgency::default();
        let answer = s3.ask(Method::HEAD, Some(&key), &query, headers, &urgency);
        let answer = answer.await;
        let answer = match answer {
            // S3 answers a part that is not there with 416, others with 400.
            Err(OriginError::PastEnd) => return Err(OriginError::NoSuchPart { count }),
            Err(OriginError::Status { status: 400 }) if number > count => {
                return Err(OriginError::NoSuchPart { count });
            }
            answer => answer?,
        };
        let told = answer.headers.get("x-amz-mp-parts-count");
        let told = told.and_then(|count| count.to_str().ok()?.parse().ok());
        let (range, size) = answer::any_range(&answer.headers)
            .ok_or_else(|| bad("it does not say which bytes a part has"))?;
        if self.describe(object, size, &answer.headers)?.key != version.key {
            return Err(OriginError::Changed);
        }
        Ok(Part {
            range,
            count: told.unwrap_or(count),
        })
    }

    /// The version that an answer with these headers describes.
    ///
    /// # Errors
    /// [`OriginError::BadAnswer`] if the object is larger than can be cut into blocks.
    pub fn describe(
        &self,
        object: &ObjectId,
        size: u64,
        headers: &HeaderMap,
    ) -> Result<Version, OriginError> {
        if size > self.block_size.bytes() * u64::from(u32::MAX) {
            return Err(bad("the object is larger than 2^32 blocks"));
        }
        Ok(Version::from_headers(object, &self.identity, size, headers))
    }

    fn note<T>(&self, answer: &Result<T, OriginError>) {
        let away = answer.as_ref().is_err_and(OriginError::is_outage);
        self.stats.origin_answered(!away);
    }

    /// How the object is asked for.
    fn place(&self, object: &ObjectId) -> Result<Place<'_>, OriginError> {
        let dots = |key: &str| key.split('/').any(|part| part == "." || part == "..");
        if object.key.is_empty() || dots(&object.key) {
            let reason = "No key has an empty name, or . or .. between its slashes";
            return Err(OriginError::Unnameable(reason));
        }
        match &self.kind {
            // They would answer with the current version, whatever was asked for.
            Kind::Directory(_) if object.version_id.is_some() => Err(OriginError::NotFound),
            Kind::Remote(remote) if object.version_id.is_some() && !remote.has_versions => {
                Err(OriginError::NotFound)
            }
            Kind::Directory(directory) => Ok(Place::Directory(directory)),
            Kind::Remote(remote) => {
                let key = format!("{}{}", remote.prefix, object.key);
                // `Path::from` would make another object's name of it, and `parse` drops a final
                // slash: only a key that comes back unchanged is asked for that way.
                match Path::parse(&key) {
                    Ok(path) if path.as_ref() == key => Ok(Place::Path(remote, path)),
                    _ => match &remote.s3 {
                        Some(s3) => Ok(Place::Odd(s3, key)),
                        None => Err(OriginError::Unnameable(
                            "This kind of origin has no keys with empty segments or a final slash",
                        )),
                    },
                }
            }
        }
    }
}

enum Place<'a> {
    Directory(&'a Directory),
    Path(&'a Remote, Path),
    Odd(&'a s3::S3, String),
}

impl std::fmt::Debug for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Origin")
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}

fn seen_headers(exchange: &Exchange) -> Result<HeaderMap, OriginError> {
    match exchange.seen() {
        Some(Seen::Answer { headers, .. }) => Ok(headers.clone()),
        _ => Err(OriginError::Abandoned),
    }
}

fn body_error(error: &HttpError) -> OriginError {
    match error.kind() {
        HttpErrorKind::Timeout => OriginError::TimedOut,
        _ => OriginError::Cut,
    }
}

fn stream_error(error: &object_store::Error) -> OriginError {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(http) = error.downcast_ref::<HttpError>() {
            return body_error(http);
        }
        cause = error.source();
    }
    OriginError::Cut
}

/// `"<32 hex digits>-<parts>"` is what S3 makes of an upload in parts.
fn is_multipart_etag(etag: &str) -> bool {
    parts_in_etag(etag) > 0
}

fn parts_in_etag(etag: &str) -> u32 {
    let etag = etag.trim_matches('"');
    etag.rsplit_once('-')
        .and_then(|(_, parts)| parts.parse().ok())
        .unwrap_or(0)
}
