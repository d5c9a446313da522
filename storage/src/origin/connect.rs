//! The connection to an origin: object_store's requests over a transport of our own.
//!
//! object_store alone would follow redirects, lose the status code, read error bodies of any
//! length, and never say how long the first byte took. Here every request about data carries an
//! [`Exchange`] that is told what came back; it holds one of the dataset's connection slots until
//! its body ends, and is counted. Requests for credentials carry none and are not.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Limited};
use hyper_rustls::{ConfigBuilderExt, HttpsConnector};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector as TcpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody,
    HttpResponse, HttpResponseBody, HttpService,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use tokio::time::{Instant, Sleep};

use super::slots::{Slot, Slots};
use crate::class::Urgency;
use crate::error::OriginError;
use crate::stats::DatasetStats;

/// What one read of an origin's socket may bring. hyper would let the buffer of each connection
/// grow to 400 KiB, and keep it while the connection idles; a segment at a time is as fast.
const READ_BYTES: usize = crate::SEGMENT;

/// How long a connection may take to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// How long an origin may take to begin its answer.
const FIRST_BYTE_TIMEOUT: Duration = Duration::from_secs(15);

/// How long a body may stand still.
const STALL_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a request for credentials may take in all. Off a cloud, the metadata address answers
/// nobody, and whoever forgot their keys should hear of it soon.
const CREDENTIALS_TIMEOUT: Duration = Duration::from_secs(5);

/// No token is longer.
const CREDENTIALS_BYTES: usize = 1 << 20;

/// Says to whoever gets a request that it went through us (RFC 8586): an origin that is this very
/// gateway would ask itself for ever.
pub const LOOP_HEADER: HeaderName = HeaderName::from_static("cdn-loop");

/// The value of [`LOOP_HEADER`]: another one for each process.
pub fn loop_value() -> &'static HeaderValue {
    static VALUE: OnceLock<HeaderValue> = OnceLock::new();
    VALUE.get_or_init(|| {
        let id = RandomState::new().build_hasher().finish();
        HeaderValue::try_from(format!("forebay; id={id:016x}"))
            .unwrap_or_else(|_| HeaderValue::from_static("forebay"))
    })
}

/// Idle connections are closed by us before most servers do it at a bad moment.
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(20);

/// What came back for one request.
#[derive(Clone, Debug)]
pub(crate) enum Seen {
    /// An answer of any status.
    Answer {
        /// Its status.
        status: StatusCode,
        /// Its headers.
        headers: HeaderMap,
    },
    /// None.
    Failed(OriginError),
}

/// Travels with a request about data, says how urgent it is, and is told what came back.
#[derive(Clone, Debug, Default)]
pub(crate) struct Exchange {
    seen: Arc<OnceLock<Seen>>,
    urgency: Urgency,
    /// Its turn, if that came before the request was made.
    turn: Arc<Mutex<Option<Slot>>>,
}

impl Exchange {
    /// For a request of this urgency.
    pub(crate) fn of(urgency: &Urgency) -> Self {
        Self {
            seen: Arc::default(),
            urgency: urgency.clone(),
            turn: Arc::default(),
        }
    }

    /// Request extensions that carry this exchange.
    pub(crate) fn extensions(&self) -> http::Extensions {
        let mut extensions = http::Extensions::new();
        extensions.insert(self.clone());
        extensions
    }

    /// What came back, if the request got as far as leaving.
    pub(crate) fn seen(&self) -> Option<&Seen> {
        self.seen.get()
    }

    fn turn(&self) -> MutexGuard<'_, Option<Slot>> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, seen: Seen) {
        // One request a exchange: a second answer can't be meant for whoever reads the first.
        let _ = self.seen.set(seen);
    }
}

/// HTTP to the world: hyper's pooled client, TLS by rustls with the system's roots.
#[derive(Debug)]
struct Transport(Client<HttpsConnector<TcpConnector>, HttpRequestBody>);

/// A transport that all datasets share.
///
/// # Errors
/// If no root certificates are to be had.
pub fn transport() -> std::io::Result<HttpClient> {
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let builder = hyper_rustls::HttpsConnectorBuilder::new;
    // A machine without a certificate store still reaches public origins.
    let tls = match builder().with_provider_and_native_roots(provider.clone()) {
        Ok(tls) => tls,
        Err(_) => builder()
            .with_provider_and_webpki_roots(provider)
            .map_err(std::io::Error::other)?,
    };
    Ok(transport_over(|tcp| {
        tls.https_or_http().enable_http1().wrap_connector(tcp)
    }))
}

/// Whom a transport believes, and as whom it comes; all of it PEM.
#[derive(Default)]
pub struct ClientTls {
    /// The only authorities that it believes; `None`: the system's.
    pub authorities: Option<Vec<u8>>,
    /// Its certificate, with those between it and an authority, and the certificate's key.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
}

/// A transport that is not for origins: it believes and shows what `tls` says.
///
/// # Errors
/// If something in `tls` can't be used, or no root certificates are to be had.
pub fn transport_with(tls: &ClientTls) -> std::io::Result<HttpClient> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(std::io::Error::other)?;
    let builder = match &tls.authorities {
        None => builder.with_native_roots()?,
        Some(text) => {
            let mut roots = RootCertStore::empty();
            for authority in certificates(text)? {
                roots.add(authority).map_err(std::io::Error::other)?;
            }
            builder.with_root_certificates(roots)
        }
    };
    let config = match &tls.identity {
        None => builder.with_no_client_auth(),
        Some((chain, key)) => {
            let key = PrivateKeyDer::from_pem_slice(key).map_err(std::io::Error::other)?;
            builder
                .with_client_auth_cert(certificates(chain)?, key)
                .map_err(std::io::Error::other)?
        }
    };
    let tls = hyper_rustls::HttpsConnectorBuilder::new().with_tls_config(config);
    Ok(transport_over(|tcp| {
        tls.https_or_http().enable_http1().wrap_connector(tcp)
    }))
}

fn certificates(text: &[u8]) -> std::io::Result<Vec<CertificateDer<'static>>> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
    let certificates = certificates.map_err(std::io::Error::other)?;
    if certificates.is_empty() {
        let sentence = "it holds no certificate; write one in PEM";
        return Err(std::io::Error::other(sentence));
    }
    Ok(certificates)
}

fn transport_over(wrap: impl FnOnce(TcpConnector) -> HttpsConnector<TcpConnector>) -> HttpClient {
    let mut tcp = TcpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
    tcp.set_keepalive(Some(Duration::from_secs(30)));
    let https = wrap(tcp);
    let client = Client::builder(TokioExecutor::new())
        .pool_idle_timeout(POOL_IDLE_TIMEOUT)
        .pool_timer(TokioTimer::new())
        .timer(TokioTimer::new())
        .http1_max_buf_size(READ_BYTES)
        .build(https);
    HttpClient::new(Transport(client))
}

#[async_trait]
impl HttpService for Transport {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let response = self.0.request(request).await.map_err(|error| {
            let kind = if error.is_connect() {
                HttpErrorKind::Connect
            } else {
                HttpErrorKind::Interrupted
            };
            HttpError::new(kind, error)
        })?;
        let (parts, body) = response.into_parts();
        let body = body.map_err(|error| HttpError::new(HttpErrorKind::Interrupted, error));
        Ok(HttpResponse::from_parts(parts, HttpResponseBody::new(body)))
    }
}

/// Gives object_store clients that meter what they do for one dataset.
#[derive(Clone, Debug)]
pub(crate) struct Connector {
    transport: HttpClient,
    stats: Arc<DatasetStats>,
    slots: Slots,
    /// The exchange of requests that carry none.
    exchange: Option<Exchange>,
}

impl Connector {
    pub(crate) fn new(transport: HttpClient, stats: Arc<DatasetStats>, connections: usize) -> Self {
        Self {
            transport,
            stats,
            slots: Slots::new(connections),
            exchange: None,
        }
    }

    /// The same, telling `exchange` what came back for requests that carry none themselves.
    pub(crate) fn telling(&self, exchange: &Exchange) -> Self {
        Self {
            exchange: Some(exchange.clone()),
            ..self.clone()
        }
    }

    /// Makes it `connections` requests at once.
    pub(crate) fn set_connections(&self, connections: usize) {
        self.slots.set(connections);
    }

    /// How many requests it makes at once.
    pub(crate) fn connections(&self) -> usize {
        self.slots.wanted()
    }

    /// An exchange whose turn has come. A request that is made only then is signed when it leaves, and
    /// thousands that wait for their turn take no more than their place in the queue.
    pub(crate) async fn turn(&self, urgency: &Urgency) -> Exchange {
        let exchange = Exchange::of(urgency);
        let slot = self.slots.take(urgency).await;
        *exchange.turn() = Some(slot);
        exchange
    }

    /// The client that object_store would be given.
    pub(crate) fn client(&self) -> HttpClient {
        HttpClient::new(self.clone())
    }
}

impl HttpConnector for Connector {
    fn connect(&self, _options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(self.client())
    }
}

#[async_trait]
impl HttpService for Connector {
    async fn call(&self, mut request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let user_agent = concat!("forebay/", env!("CARGO_PKG_VERSION"));
        let user_agent = HeaderValue::from_static(user_agent);
        request.headers_mut().insert(header::USER_AGENT, user_agent);
        request
            .headers_mut()
            .insert(LOOP_HEADER, loop_value().clone());
        let carried = request.extensions().get::<Exchange>().cloned();
        let Some(exchange) = carried.or_else(|| self.exchange.clone()) else {
            return self.credentials(request).await;
        };
        let turn = exchange.turn().take();
        let slot = match turn {
            Some(slot) => slot,
            None => self.slots.take(&exchange.urgency).await,
        };
        self.count(request.method());
        let (asked, is_get) = (Instant::now(), *request.method() == Method::GET);
        let answer = self.transport.execute(request);
        match tokio::time::timeout(FIRST_BYTE_TIMEOUT, answer).await {
            Ok(Ok(response)) => {
                if is_get && response.status().is_success() {
                    self.stats.began_after(asked.elapsed());
                }
                Ok(self.answered(&exchange, response, slot))
            }
            Ok(Err(error)) => {
                let reason = Arc::from(reason(&error));
                exchange.set(Seen::Failed(OriginError::Unreachable(reason)));
                Err(error)
            }
            Err(elapsed) => {
                exchange.set(Seen::Failed(OriginError::TimedOut));
                Err(HttpError::new(HttpErrorKind::Timeout, elapsed))
            }
        }
    }
}

impl Connector {
    /// A request for credentials, body and all, in its time.
    async fn credentials(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let answer = async {
            let (parts, body) = self.transport.execute(request).await?.into_parts();
            let body = Limited::new(body, CREDENTIALS_BYTES).collect().await;
            let body = body.map_err(|error| HttpError::new_boxed(HttpErrorKind::Decode, error))?;
            let body = HttpResponseBody::from(body.to_bytes());
            Ok(HttpResponse::from_parts(parts, body))
        };
        let answer = tokio::time::timeout(CREDENTIALS_TIMEOUT, answer).await;
        answer.unwrap_or_else(|elapsed| Err(HttpError::new(HttpErrorKind::Timeout, elapsed)))
    }

    fn count(&self, method: &Method) {
        let counter = match *method {
            Method::GET => &self.stats.origin_gets,
            Method::HEAD => &self.stats.origin_heads,
            _ => &self.stats.origin_others,
        };
        DatasetStats::add(counter, 1);
    }

    fn answered(&self, exchange: &Exchange, response: HttpResponse, slot: Slot) -> HttpResponse {
        let (mut parts, body) = response.into_parts();
        exchange.set(Seen::Answer {
            status: parts.status,
            headers: parts.headers.clone(),
        });
        // object_store refuses an answer of which any header it looks at is not ASCII, be it the name
        // of whoever wrote the object. What we pass on we take from the exchange.
        parts.headers = parts
            .headers
            .iter()
            .filter(|(_, value)| value.to_str().is_ok())
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        // The text of an error is the origin's and may be of any length: nobody reads it. The
        // multistatus of a PROPFIND and the like are success too.
        let body = if parts.status.is_success() {
            HttpResponseBody::new(Metered {
                body,
                stats: Arc::clone(&self.stats),
                _slot: slot,
                timer: Box::pin(tokio::time::sleep(STALL_TIMEOUT)),
                moved_at: Instant::now(),
            })
        } else {
            HttpResponseBody::from(Bytes::new())
        };
        HttpResponse::from_parts(parts, body)
    }
}

/// The kind of failure at the bottom of an error, without addresses or queries.
fn reason(error: &HttpError) -> String {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    let mut found = "the connection broke".to_owned();
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            found = match io.kind() {
                std::io::ErrorKind::Other => io.to_string(),
                kind => kind.to_string(),
            };
        }
        if error.to_string().contains("dns error") {
            return "its name does not resolve".to_owned();
        }
        cause = error.source();
    }
    found
}

/// A body that is counted, holds its connection slot to the end, and may not stand still.
struct Metered {
    body: HttpResponseBody,
    stats: Arc<DatasetStats>,
    _slot: Slot,
    /// Asks now and then how long ago the last bytes came.
    timer: Pin<Box<Sleep>>,
    moved_at: Instant,
}

impl Body for Metered {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(frame) => {
                if let Some(Ok(frame)) = &frame
                    && let Some(data) = frame.data_ref()
                {
                    DatasetStats::add(&self.stats.origin_bytes, data.len() as u64);
                }
                self.moved_at = Instant::now();
                Poll::Ready(frame)
            }
            Poll::Pending => {
                // The timer is set anew only when it has run out: not with every chunk.
                while self.timer.as_mut().poll(cx).is_ready() {
                    let until = self.moved_at + STALL_TIMEOUT;
                    if until <= Instant::now() {
                        let error = std::io::Error::from(std::io::ErrorKind::TimedOut);
                        let error = HttpError::new(HttpErrorKind::Timeout, error);
                        return Poll::Ready(Some(Err(error)));
                    }
                    self.timer.as_mut().reset(until);
                }
                Poll::Pending
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}
