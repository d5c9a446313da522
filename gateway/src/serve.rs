//! Sockets: the only module that knows hyper's server.

pub mod cork;
pub mod crowd;
pub mod exchanges;
pub mod fleet;
pub mod frames;
pub mod queue;
pub mod refusal;
pub mod seats;
pub mod socket;
pub mod streams;
pub mod tls;
pub mod unsent;
pub mod wire;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use forebay_storage::store::{CONNECTION_BYTES, STREAM_BYTES, Store};
use http::{HeaderValue, Method, Request, Response, Version, header};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioTimer;
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use self::cork::Cork;
use self::exchanges::{Answer, Exchanges};
use self::seats::{Seat, Seats};
use self::socket::{Patience, Socket, Timed};
use self::streams::Streams;
use self::tls::Tls;
use self::unsent::{Room, Unsent};
use self::wire::Wire;
use crate::body::Body;
use crate::gateway::{Gateway, Remote};
use crate::settings::Limits;

/// HTTP/2 flow-control window that we announce; requests have no bodies worth more.
const H2_WINDOW: u32 = 64 * 1024;

/// Bytes that an HTTP/2 stream may have buffered for sending.
const H2_SEND_BUFFER: usize = 512 * 1024;

/// Requests side by side on one HTTP/2 connection.
const H2_STREAMS: u32 = 256;

/// Bytes of a head, as far as it has come, that a connection may hold, and bytes of an answer that may be
/// queued; one number, because hyper has one for both. It is hyper's own default: less would slow
/// answers down. Whole heads have a limit of their own ([`crate::dialect::head`]), and at 100 fields
/// hyper's parser answers 431 by itself.
const H1_BUFFER: usize = 408 * 1024;

/// A request's HTTP/2 field section: twice a presigned URL of the longest key. How many CONTINUATION
/// frames it may come in follows from this.
const H2_HEADER_LIST: u32 = 32 * 1024;

/// HTTP/2 streams that a client may have reset before we came to them (CVE-2023-44487).
const H2_RESET_STREAMS: usize = 20;

/// HTTP/2 streams that we had to reset for what their client did.
const H2_BAD_STREAMS: usize = 64;

/// A client that does not answer a PING for so long, and 20 s more, is gone.
const H2_PING: Duration = Duration::from_secs(30);

/// After an accept that failed for want of descriptors, the next try waits.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Once none has failed for so long, the next that does is said again.
const ACCEPT_QUIET: Duration = Duration::from_secs(10);

/// Listens.
///
/// # Errors
/// If the address can't be had.
pub async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address).await
}

/// What one listener offers.
#[derive(Clone, Debug)]
pub struct Side {
    /// What clients may ask at once.
    pub limits: Limits,
    /// Whether all of `/-/` is there, or only healthz and readyz.
    pub controls: bool,
    /// TLS; `None`: clients speak in clear.
    pub tls: Option<Arc<Tls>>,
    /// Quick clients' sockets, with those of the other listeners.
    pub room: Room,
}

/// Serves clients until `stop` turns true, then gives running answers `stop_after` and cuts the
/// rest.
pub async fn serve(
    listener: TcpListener,
    gateway: Arc<Gateway>,
    side: Side,
    mut stop: watch::Receiver<bool>,
    stop_after: Duration,
) {
    let graceful = GracefulShutdown::new();
    let seats = Seats::new(side.limits.max_connections, side.limits.per_address);
    let side = Arc::new(side);
    let mut tasks = JoinSet::new();
    let mut failing = Failing::default();
    loop {
        // Accepting stops where no seat is left: the rest waits in the kernel's queue.
        let room = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => break,
            room = seats.room() => room,
        };
        let accepted = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => break,
            accepted = listener.accept() => accepted,
        };
        // Finished connections are taken off as new ones come.
        while tasks.try_join_next().is_some() {}
        let (socket, remote) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                failing.failed(&error);
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Some(seat) = seats.seat(room, remote.ip()) else {
            let shed = &gateway.metrics.shed;
            shed.with_label_values(&["per_address"]).inc();
            continue;
        };
        let connection = Connection {
            gateway: Arc::clone(&gateway),
            side: Arc::clone(&side),
            remote,
            seat,
        };
        tasks.spawn(connection.run(socket, graceful.watcher(), stop.clone()));
    }
    drop(listener);
    let ended = tokio::time::timeout(stop_after, graceful.shutdown()).await;
    if ended.is_err() {
        tracing::warn!(?stop_after, "answers were still running and are cut");
    }
    tasks.shutdown().await;
}

/// Accepts that fail, one after the other: said once for all of them.
#[derive(Debug, Default)]
struct Failing {
    last: Option<Instant>,
}

impl Failing {
    fn failed(&mut self, error: &io::Error) {
        let now = Instant::now();
        let last = self.last.replace(now);
        if last.is_none_or(|last| now - last > ACCEPT_QUIET) {
            tracing::warn!(
                %error,
                "connections can't be accepted; trying again, and saying so no more until it works"
            );
        }
    }
}

/// One connection, from its acceptance on.
struct Connection {
    gateway: Arc<Gateway>,
    side: Arc<Side>,
    remote: SocketAddr,
    seat: Seat,
}

impl Connection {
    /// Serves it to its end. A handshake that is under way when `stop` turns true is given up.
    async fn run(self, socket: TcpStream, watcher: Watcher, mut stop: watch::Receiver<bool>) {
        let remote = self.remote;
        if let Err(error) = socket.set_nodelay(true) {
            tracing::debug!(%remote, %error, "a socket option was refused");
        }
        let metrics = Arc::clone(&self.gateway.metrics);
        metrics.connections.inc();
        let exchanges = Exchanges::default();
        let socket = Cork::new(socket);
        let opened = tokio::select! {
            opened = self.open(socket.clone(), &exchanges) => opened,
            _ = stop.wait_for(|stop| *stop) => None,
        };
        if let Some(wire) = opened {
            let store = Arc::clone(&self.gateway.reads.store);
            let conversation = pin!(self.converse(socket, wire, exchanges.clone(), watcher));
            in_its_place(&store, conversation).await;
        }
        if exchanges.flooded() {
            metrics.shed.with_label_values(&["flood"]).inc();
        }
        metrics.connections.dec();
    }

    /// Finishes TLS, where there is any.
    async fn open(&self, socket: Cork, exchanges: &Exchanges) -> Option<Wire> {
        let socket = Unsent::new(socket, exchanges.clone(), self.side.room.clone());
        let Some(tls) = &self.side.tls else {
            return Some(Wire::Clear(socket));
        };
        let socket = socket.telling();
        match Box::pin(tls.accept(socket, self.side.limits.header_timeout)).await {
            Ok(stream) => Some(Wire::Tls(Box::new(stream))),
            Err(error) => {
                tracing::debug!(remote = %self.remote, %error, "a TLS handshake failed");
                None
            }
        }
    }

    /// Speaks HTTP.
    async fn converse(self, cork: Cork, wire: Wire, exchanges: Exchanges, watcher: Watcher) {
        let remote = Remote {
            address: self.remote,
            controls: self.side.controls,
            tls: self.side.tls.is_some(),
        };
        let gateway = Arc::clone(&self.gateway);
        let patience = Patience::from(&self.side.limits);
        let streams = Streams::new(exchanges.clone(), patience.write);
        let builder = builder(streams.clone());
        let socket = Timed::new(wire, patience, exchanges.clone());
        let answers = Arc::new(Answers {
            gateway: self.gateway,
            exchanges,
            remote,
            seat: self.seat,
            known: AtomicBool::new(false),
        });
        // Boxed, so that what making the answer took is gone while the answer leaves.
        let service = service_fn(move |request| Box::pin(answered(Arc::clone(&answers), request)));
        let connection = builder.serve_connection(Socket::new(socket), service);
        let connection = streams.beside(watcher.watch(connection.into_owned()), || cork.push());
        if let Err(error) = connection.await {
            tracing::debug!(remote = %remote.address, error, "a connection ended badly");
            if let Some(status) = refusal::by_parser(&*error) {
                gateway.refused(remote.address, status, error.to_string());
            }
        }
    }
}

/// What the requests of one connection are answered from. It is theirs as long as the connection
/// or one of its answers lasts, and so is the seat.
struct Answers {
    gateway: Arc<Gateway>,
    exchanges: Exchanges,
    remote: Remote,
    seat: Seat,
    /// Whether a request of theirs was let in.
    known: AtomicBool,
}

impl Answers {
    /// Ends a connection on which nobody has shown that they may be here, once it was answered: a
    /// seat is not to be kept by asking, now and then, for what is refused or is anybody's.
    fn end_unless_known(&self, anybody_s: bool, response: &mut Response<Body>, version: Version) {
        let status = response.status();
        // Who may not ask does not hear whether a thing is there, so all but these were let in.
        let let_in =
            status.is_success() || matches!(status.as_u16(), 304 | 404 | 405 | 412 | 416 | 500..);
        let spare = self.seat.refused.is_some();
        if let_in && !anybody_s && !spare {
            self.known.store(true, Ordering::Relaxed);
        }
        let known = || self.known.load(Ordering::Relaxed);
        if !spare && (known() || !self.gateway.access.asks_for_keys()) {
            return;
        }
        self.exchanges.end();
        // HTTP/2 knows no such field (RFC 9113 §8.2.2): there the socket is closed once it is idle.
        if version <= Version::HTTP_11 {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(header::CONNECTION, close);
        }
    }
}

#[allow(
    clippy::manual_async_fn,
    reason = "the future of an async fn holds what it is given twice, and one is made for each request"
)]
fn answered(
    answers: Arc<Answers>,
    request: Request<Incoming>,
) -> impl Future<Output = Result<Response<Answer>, Infallible>> {
    async move {
        let exchange = answers.exchanges.begin(request.version());
        let mut place = None;
        let refused = answers.seat.refused;
        let looks_after = refusal::always_answered(request.uri().path());
        let refused = refused.filter(|_| !looks_after);
        let anybody_s = looks_after || *request.method() == Method::OPTIONS;
        let version = request.version();
        let gateway = &answers.gateway;
        let mut response = match refused {
            Some(reason) => refusal::refuse(gateway, answers.remote.address, reason, &request),
            None => {
                if version == Version::HTTP_2 && !looks_after {
                    // Before anything else is held, so that nobody waits for what this stream has.
                    place = gateway.reads.store.place(STREAM_BYTES).await;
                }
                gateway.handle_from(answers.remote, request).await
            }
        };
        answers.end_unless_known(anybody_s, &mut response, version);
        Ok(response.map(|body| Answer::new(body, exchange).in_place(place)))
    }
}

/// Carries a conversation on, and has the memory that it takes counted with the blocks' as soon as
/// there is room for it.
async fn in_its_place(store: &Store, mut conversation: Pin<&mut impl Future<Output = ()>>) {
    let _place = tokio::select! {
        biased;
        place = store.place(CONNECTION_BYTES) => place,
        () = &mut conversation => return,
    };
    conversation.await;
}

fn builder(streams: Streams) -> Builder<Streams> {
    let mut builder = Builder::new(streams);
    // Heads are timed by the socket: hyper's own timer would run between two requests as well.
    builder
        .http1()
        .header_read_timeout(None)
        .keep_alive(true)
        .max_buf_size(H1_BUFFER);
    builder
        .http2()
        .timer(TokioTimer::new())
        .initial_stream_window_size(H2_WINDOW)
        .max_concurrent_streams(H2_STREAMS)
        .max_send_buf_size(H2_SEND_BUFFER)
        .max_header_list_size(H2_HEADER_LIST)
        .max_pending_accept_reset_streams(H2_RESET_STREAMS)
        .max_local_error_reset_streams(H2_BAD_STREAMS)
        .keep_alive_interval(H2_PING);
    builder
}
