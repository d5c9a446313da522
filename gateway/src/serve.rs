//! Sockets: the only module that knows hyper's server.

pub mod socket;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use self::socket::{Socket, Timed};
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
    let connections = Arc::new(Semaphore::new(side.limits.max_connections));
    let builder = Arc::new(builder(&side.limits));
    let mut tasks = JoinSet::new();
    loop {
        // Accepting stops at the limit: the rest waits in the kernel's queue.
        let slot = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => break,
            slot = Arc::clone(&connections).acquire_owned() => slot,
        };
        let accepted = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => break,
            accepted = listener.accept() => accepted,
        };
        // Finished connections are taken off as new ones come.
        while tasks.try_join_next().is_some() {}
        let (Ok(slot), Ok((socket, remote))) = (slot, accepted) else {
            tracing::warn!("a connection can't be accepted; trying again");
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        if let Err(error) = tune(&socket) {
            tracing::debug!(%remote, %error, "a socket option was refused");
        }
        let controls = side.controls;
        let gateway = Arc::clone(&gateway);
        let metrics = Arc::clone(&gateway.metrics);
        let socket = Timed::new(
            socket,
            side.limits.header_timeout,
            side.limits.write_timeout,
        );
        let first_request = socket.first_request();
        let service = service_fn(move |mut request: Request<Incoming>| {
            first_request.came();
            let gateway = Arc::clone(&gateway);
            request.extensions_mut().insert(Remote {
                address: remote,
                controls,
            });
            async move { Ok::<_, std::convert::Infallible>(gateway.handle(request).await) }
        });
        let connection = builder
            .serve_connection(Socket::new(socket), service)
            .into_owned();
        let connection = graceful.watch(connection);
        tasks.spawn(async move {
            metrics.connections.inc();
            if let Err(error) = connection.await {
                tracing::debug!(%remote, error, "a connection ended badly");
            }
            metrics.connections.dec();
            drop(slot);
        });
    }
    drop(listener);
    let ended = tokio::time::timeout(stop_after, graceful.shutdown()).await;
    if ended.is_err() {
        tracing::warn!(?stop_after, "answers were still running and are cut");
    }
    tasks.shutdown().await;
}

fn builder(limits: &Limits) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .keep_alive(true);
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
