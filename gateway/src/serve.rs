//! Sockets: the only module that knows hyper's server.

pub mod exchanges;
pub mod fleet;
pub mod refusal;
pub mod seats;
pub mod socket;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use self::exchanges::{Answer, Exchanges};
use self::seats::{Seat, Seats};
use self::socket::{Patience, Socket, Timed};
use crate::gateway::{Gateway, Remote};
use crate::settings::Limits;

/// The kernel keeps no more unsent bytes than this for a connection: what waits in a slow client's
/// socket is memory that no lease counts.
const UNSENT_BYTES: u32 = 256 * 1024;

/// HTTP/2 flow-control window that we announce; requests have no bodies worth more.
const H2_WINDOW: u32 = 64 * 1024;

/// Bytes that an HTTP/2 stream may have buffered for sending.
const H2_SEND_BUFFER: usize = 512 * 1024;

/// Requests side by side on one HTTP/2 connection.
const H2_STREAMS: u32 = 256;

/// After an accept that failed for want of descriptors, the next try waits.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

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
    let builder = builder();
    let mut tasks = JoinSet::new();
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
        let Ok((socket, remote)) = accepted else {
            tracing::warn!("a connection can't be accepted; trying again");
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let Some(seat) = seats.seat(room, remote.ip()) else {
            let shed = &gateway.metrics.shed;
            shed.with_label_values(&["per_address"]).inc();
            continue;
        };
        if let Err(error) = tune(&socket) {
            tracing::debug!(%remote, %error, "a socket option was refused");
        }
        let remote = Remote {
            address: remote,
            controls: side.controls,
        };
        let exchanges = Exchanges::default();
        let patience = Patience::from(&side.limits);
        let socket = Timed::new(socket, patience, exchanges.clone());
        let answers = Arc::new(Answers {
            gateway: Arc::clone(&gateway),
            exchanges,
            remote,
            seat,
        });
        let metrics = Arc::clone(&gateway.metrics);
        let service = service_fn(move |request| answered(Arc::clone(&answers), request));
        let connection = builder
            .serve_connection(Socket::new(socket), service)
            .into_owned();
        let connection = graceful.watch(connection);
        tasks.spawn(async move {
            metrics.connections.inc();
            if let Err(error) = connection.await {
                tracing::debug!(remote = %remote.address, error, "a connection ended badly");
            }
            metrics.connections.dec();
        });
    }
    drop(listener);
    let ended = tokio::time::timeout(stop_after, graceful.shutdown()).await;
    if ended.is_err() {
        tracing::warn!(?stop_after, "answers were still running and are cut");
    }
    tasks.shutdown().await;
}

/// What the requests of one connection are answered from. It is theirs as long as the connection
/// or one of its answers lasts, and so is the seat.
struct Answers {
    gateway: Arc<Gateway>,
    exchanges: Exchanges,
    remote: Remote,
    seat: Seat,
}

async fn answered(
    answers: Arc<Answers>,
    mut request: Request<Incoming>,
) -> Result<Response<Answer>, Infallible> {
    let exchange = answers.exchanges.begin(request.version());
    let refused = answers.seat.refused;
    let refused = refused.filter(|_| !refusal::always_answered(request.uri().path()));
    let response = match refused {
        Some(reason) => {
            answers.exchanges.end();
            refusal::refuse(&answers.gateway, answers.remote.address, reason, &request)
        }
        None => {
            request.extensions_mut().insert(answers.remote);
            answers.gateway.handle(request).await
        }
    };
    Ok(response.map(|body| Answer::new(body, exchange)))
}

fn builder() -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    // Heads are timed by the socket: hyper's own timer would run between two requests as well.
    builder.http1().header_read_timeout(None).keep_alive(true);
    builder
        .http2()
        .timer(TokioTimer::new())
        .initial_stream_window_size(H2_WINDOW)
        .max_concurrent_streams(H2_STREAMS)
        .max_send_buf_size(H2_SEND_BUFFER)
        .max_pending_accept_reset_streams(20)
        .keep_alive_interval(Duration::from_secs(30));
    builder
}

fn tune(socket: &TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    socket2::SockRef::from(socket).set_tcp_notsent_lowat(UNSENT_BYTES)
}
