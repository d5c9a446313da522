//! The connection to an origin: object_store's requests over a transport of our own.
//!
//! object_store alone would follow redirects, lose the status code, read error bodies of any
//! length, and never say how long the first byte took. Here every request about data carries an
//! [`Exchange`] that is told what came back; it holds one of the dataset's connection slots until
//! its body ends, or a little longer if it is given up before, and is counted. Requests for credentials carry none and are not.

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
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse,
    HttpResponseBody, HttpService,
};
use tokio::time::{Instant, Sleep};

use super::answer::promised;
use super::breaker::Leave;
use super::manners::Manners;
use super::slots::{Slot, UnderWay};
use crate::class::Urgency;
use crate::error::OriginError;
use crate::stats::DatasetStats;

/// How long an origin may take to begin its answer.
pub(super) const FIRST_BYTE_TIMEOUT: Duration = Duration::from_secs(15);

/// How long a body may stand still.
const STALL_TIMEOUT: Duration = Duration::from_secs(10);

/// What is written is to leave at so many bytes a second at least: 8 MiB in half a minute.
const SLOWEST_SENDING: f64 = 256.0 * 1024.0;

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
    /// What the answer may take to begin beyond what any may.
    patience: Duration,
}

impl Exchange {
    /// For a request of this urgency.
    pub(crate) fn of(urgency: &Urgency) -> Self {
        Self {
            seen: Arc::default(),
            urgency: urgency.clone(),
            turn: Arc::default(),
            patience: Duration::ZERO,
        }
    }

    /// The same, whose answer may take so much longer than others' to begin.
    pub(crate) fn patient(self, patience: Duration) -> Self {
        Self { patience, ..self }
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

    /// The same once its turn has come.
    fn with(self, slot: Slot) -> Self {
        *self.turn() = Some(slot);
        self
    }

    fn turn(&self) -> MutexGuard<'_, Option<Slot>> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, seen: Seen) {
        // One request a exchange: a second answer can't be meant for whoever reads the first.
        let _ = self.seen.set(seen);
    }
}

/// Gives object_store clients that meter what they do for one dataset.
#[derive(Clone, Debug)]
pub(crate) struct Connector {
    transport: HttpClient,
    manners: Arc<Manners>,
    /// The exchange of requests that carry none.
    exchange: Option<Exchange>,
}

impl Connector {
    /// For the origin that the settings call `name`.
    pub(crate) fn new(
        name: String,
        transport: HttpClient,
        stats: Arc<DatasetStats>,
        connections: usize,
    ) -> Self {
        Self {
            transport,
            manners: Arc::new(Manners::new(name, stats, connections)),
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

    /// How the origin is treated.
    pub(super) fn manners(&self) -> &Manners {
        &self.manners
    }

    /// An exchange whose turn has come. A request that is made only then is signed when it leaves, and
    /// thousands that wait for their turn take no more than their place in the queue.
    ///
    /// # Errors
    /// [`OriginError::Down`] if the origin is: nobody queues for it.
    pub(crate) async fn turn(&self, urgency: &Urgency) -> Result<Exchange, OriginError> {
        if let Some(error) = self.manners.refuses() {
            return Err(error);
        }
        let slot = self.manners.slots.take(urgency).await;
        Ok(Exchange::of(urgency).with(slot))
    }

    /// The same for a request beside another one, if a connection is free and one may be spared for it.
    pub(super) fn turn_beside(&self, urgency: &Urgency) -> Option<Exchange> {
        let slot = self.manners.slots.take_free()?;
        let may = self.manners.may_hedge(urgency);
        may.then(|| Exchange::of(urgency).with(slot))
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
        let leave = self.leave(&exchange).await;
        let (slot, leave) = match leave {
            Ok(leave) => leave,
            Err(error) => {
                let sentence = std::io::Error::other(error.to_string());
                exchange.set(Seen::Failed(error));
                return Err(HttpError::new(HttpErrorKind::Connect, sentence));
            }
        };
        self.count(request.method());
        let (asked_at, method) = (Instant::now(), request.method().clone());
        let sending = sending(request.body().content_length());
        let patience = leave.patience() + sending + exchange.patience;
        let mut slot = UnderWay::new(slot);
        let answer = self.transport.execute(request);
        match tokio::time::timeout(patience, answer).await {
            Ok(Ok(response)) => {
                self.manners
                    .heard(leave, &method, response.status(), asked_at);
                Ok(self.answered(&exchange, response, slot))
            }
            Ok(Err(error)) => {
                slot.end();
                self.manners.silent(leave);
                let reason = Arc::from(reason(&error));
                exchange.set(Seen::Failed(OriginError::Unreachable(reason)));
                Err(error)
            }
            Err(elapsed) => {
                self.manners.silent(leave);
                exchange.set(Seen::Failed(OriginError::TimedOut));
                Err(HttpError::new(HttpErrorKind::Timeout, elapsed))
            }
        }
    }
}

impl Connector {
    /// The turn of a request, and the leave to ask.
    async fn leave(&self, exchange: &Exchange) -> Result<(Slot, Leave), OriginError> {
        let turn = exchange.turn().take();
        let slot = match turn {
            Some(slot) => slot,
            None => {
                if let Some(error) = self.manners.refuses() {
                    return Err(error);
                }
                self.manners.slots.take(&exchange.urgency).await
            }
        };
        Ok((slot, self.manners.enter().await?))
    }

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
            Method::GET => &self.manners.stats.origin_gets,
            Method::HEAD => &self.manners.stats.origin_heads,
            _ => &self.manners.stats.origin_others,
        };
        DatasetStats::add(counter, 1);
    }

    fn answered(
        &self,
        exchange: &Exchange,
        response: HttpResponse,
        mut slot: UnderWay,
    ) -> HttpResponse {
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
        // The answer to a HEAD has none, and is over by now.
        let is_read = parts.status.is_success() && !body.is_end_stream();
        if !is_read {
            slot.end();
        }
        let body = if is_read {
            HttpResponseBody::new(Metered {
                body,
                stats: Arc::clone(&self.manners.stats),
                slot,
                left: promised(&parts.headers),
                timer: Box::pin(tokio::time::sleep(STALL_TIMEOUT)),
                moved_at: Instant::now(),
                measured: None,
            })
        } else {
            HttpResponseBody::from(Bytes::new())
        };
        HttpResponse::from_parts(parts, body)
    }
}

/// How long a body of so many bytes may take to leave, before its answer is waited for.
fn sending(bytes: usize) -> Duration {
    Duration::from_secs_f64(bytes as f64 / SLOWEST_SENDING)
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

/// A body's rate is noted at its end, if so many bytes came by then, or each time it was measured so long: a store that caps
/// a connection's rate lets it catch up for a moment on what the link held back. The first is noted early.
const MEASURED: Duration = Duration::from_millis(500);
const MEASURED_FIRST: Duration = Duration::from_millis(50);
const TELLING: u64 = 256 << 10;

/// A body that is counted, holds its connection slot to the end, and may not stand still.
struct Metered {
    body: HttpResponseBody,
    stats: Arc<DatasetStats>,
    slot: UnderWay,
    /// Bytes that are to come, if that was said.
    left: Option<u64>,
    /// Asks now and then how long ago the last bytes came.
    timer: Pin<Box<Sleep>>,
    moved_at: Instant,
    /// Since when its rate is measured, and how much came since.
    measured: Option<(Instant, u64)>,
}

impl Metered {
    /// Bytes came, or the end did: then what was measured so far counts if it is enough to tell anything.
    fn measure(&mut self, came: Option<u64>) {
        let Some((since, bytes)) = &mut self.measured else {
            // What came with the head says nothing of the time that it took.
            self.measured = came.map(|_| (self.moved_at, 0));
            return;
        };
        *bytes += came.unwrap_or(0);
        let took = self.moved_at.saturating_duration_since(*since);
        let ends = came.is_none() || self.left == Some(0);
        let enough = match self.stats.body_rate() {
            0 => MEASURED_FIRST,
            _ => MEASURED,
        };
        if took >= enough || (ends && *bytes >= TELLING) {
            self.stats.body_came(*bytes, took);
            self.measured = Some((self.moved_at, 0));
        }
    }
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
                let data = frame
                    .as_ref()
                    .and_then(|frame| frame.as_ref().ok()?.data_ref());
                let came = data.map_or(0, |data| data.len() as u64);
                DatasetStats::add(&self.stats.origin_bytes, came);
                self.left = self.left.map(|left| left.saturating_sub(came));
                self.moved_at = Instant::now();
                self.measure(matches!(frame, Some(Ok(_))).then_some(came));
                // Whoever has all bytes asks for no end: of a chunked body that would come by itself.
                if self.left == Some(0) || !matches!(frame, Some(Ok(_))) {
                    self.slot.end();
                }
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

#[cfg(test)]
mod tests {
    use futures::{StreamExt, stream};
    use http_body_util::StreamBody;

    use super::*;
    use crate::class::Class;

    /// Answers so, with a body of two pieces that does not say when it ends.
    #[derive(Debug)]
    struct Scripted {
        status: u16,
        range: &'static str,
        pieces: &'static [&'static str],
    }

    #[async_trait]
    impl HttpService for Scripted {
        async fn call(&self, _request: HttpRequest) -> Result<HttpResponse, HttpError> {
            let pieces = stream::iter(self.pieces);
            let frames = pieces.map(|piece| Ok(Frame::data(Bytes::from_static(piece.as_bytes()))));
            let body = match self.pieces {
                [] => HttpResponseBody::from(Bytes::new()),
                _ => HttpResponseBody::new(StreamBody::new(frames)),
            };
            let mut response = HttpResponse::new(body);
            *response.status_mut() = StatusCode::from_u16(self.status).expect("a status");
            let range = HeaderValue::from_static(self.range);
            response.headers_mut().insert(header::CONTENT_RANGE, range);
            Ok(response)
        }
    }

    /// Slots in use once so many pieces were read and the answer was let go, and a second later.
    async fn in_use(scripted: Scripted, read: usize) -> (usize, usize) {
        let transport = HttpClient::new(scripted);
        let connector = Connector::new("o".to_owned(), transport, Arc::default(), 1);
        let exchange = Exchange::of(&Class::Demand.into());
        let mut request = HttpRequest::new(Bytes::new().into());
        *request.extensions_mut() = exchange.extensions();
        let answer = connector.client().execute(request).await;
        let mut body = answer.expect("an answer").into_body();
        for _ in 0..read {
            body.frame().await.expect("a piece").expect("a whole one");
        }
        drop(body);
        let slots = &connector.manners().slots;
        let before = slots.in_use();
        tokio::time::sleep(Duration::from_secs(1)).await;
        (before, slots.in_use())
    }

    fn two_pieces(status: u16) -> Scripted {
        Scripted {
            status,
            range: "bytes 0-5/10",
            pieces: &["abc", "def"],
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_all_bytes_gives_the_slot_back_at_once() {
        assert_eq!(in_use(two_pieces(206), 2).await, (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn who_leaves_in_the_middle_keeps_the_slot_a_while() {
        assert_eq!(in_use(two_pieces(206), 1).await, (1, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn errors_and_answers_without_a_body_keep_no_slot() {
        assert_eq!(in_use(two_pieces(503), 0).await, (0, 0));
        let empty = Scripted {
            pieces: &[],
            ..two_pieces(200)
        };
        assert_eq!(in_use(empty, 0).await, (0, 0));
    }
}
