//! Asking other gateways: HTTP/1.1, connections kept and reused, over TCP or whatever else [`Dial`]s.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use forebay_ring::gossip::{Exchange, MAX_SYNC_BYTES};
use futures::future::BoxFuture;
use http::{HeaderValue, Method, Request, Response, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::handshake::{self, Identity};
use super::tls::{FleetTls, Wire};
use super::{Peer, PeerBody, wire};

/// How long a connection may take to come about. Who waits for it finds out earlier whether the
/// member is there at all.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Idle connections are closed by us before the other end does it at a bad moment.
pub(super) const IDLE: Duration = Duration::from_secs(30);

/// Idle connections that are kept to one member.
const KEPT: usize = 64;

/// The same of those on which it is asked whether it is there.
const KEPT_FOR_PINGS: usize = 2;

/// How a bare connection to another gateway's fleet port comes about: over TCP, or in a simulated network.
pub trait Dial: std::fmt::Debug + Clone + Send + Sync + 'static {
    /// The connection.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// Connects to the gateway at `to`. May be dropped at any time.
    ///
    /// # Errors
    /// What the network said. [`io::ErrorKind::ConnectionRefused`] means that nobody is there.
    fn dial(&self, to: SocketAddr) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

/// TCP, with TLS where the settings ask for it.
#[derive(Clone, Debug)]
pub struct Tcp {
    /// What is under it all; `None`: the bare connection.
    pub tls: Option<FleetTls>,
}

impl Dial for Tcp {
    type Stream = Wire;

    async fn dial(&self, to: SocketAddr) -> io::Result<Wire> {
        let stream = TcpStream::connect(to).await?;
        stream.set_nodelay(true)?;
        match &self.tls {
            Some(tls) => tls.connect(stream).await,
            None => Ok(Wire::Plain(stream)),
        }
    }
}

/// The fleet over HTTP.
#[derive(Debug)]
pub struct Http<D> {
    client: Client<Connector<D>, Full<Bytes>>,
    /// Asks whether members are there, on connections of its own that are kept: one that has to come about first loses
    /// its first packet on a full link for a second, and a member that is merely busy would be taken for a dead one.
    pings: Client<Connector<D>, Full<Bytes>>,
}

impl Http<Tcp> {
    /// The fleet over TCP, where this gateway is `own`.
    pub fn over_tcp(own: Identity) -> Self {
        let tls = own.tls.clone();
        Self::new(own, Tcp { tls })
    }
}

impl<D: Dial> Http<D> {
    /// Connections that `dial` makes, on which this gateway is `own`.
    pub fn new(own: Identity, dial: D) -> Self {
        let connector = Connector { own, dial };
        let client = |kept| {
            Client::builder(TokioExecutor::new())
                .pool_idle_timeout(IDLE)
                .pool_max_idle_per_host(kept)
                .pool_timer(TokioTimer::new())
                .timer(TokioTimer::new())
                .build(connector.clone())
        };
        Self {
            client: client(KEPT),
            pings: client(KEPT_FOR_PINGS),
        }
    }
}

impl<D: Dial> Peer for Http<D> {
    fn send<'a>(
        &'a self,
        to: &'a forebay_ring::Peer,
        request: Request<Bytes>,
    ) -> BoxFuture<'a, io::Result<Response<PeerBody>>> {
        Box::pin(self.send_to(to.address, request))
    }
}

impl<D: Dial> Http<D> {
    async fn send_to(
        &self,
        address: SocketAddr,
        request: Request<Bytes>,
    ) -> io::Result<Response<PeerBody>> {
        let ping = wire::is_ping(request.uri());
        let mut request = request.map(Full::new);
        let address = address.to_string();
        let path = request.uri().path_and_query().cloned();
        let path = path.map_or_else(String::new, |path| path.to_string());
        let uri = format!("http://{address}{path}").parse();
        *request.uri_mut() = uri.map_err(io::Error::other)?;
        if let Ok(host) = HeaderValue::try_from(address) {
            request.headers_mut().insert(header::HOST, host);
        }
        let client = if ping { &self.pings } else { &self.client };
        let response = client.request(request).await.map_err(cause)?;
        Ok(response.map(|body| body.map_err(io::Error::other).boxed_unsync()))
    }
}

/// How membership asks another gateway for all that it knows.
#[derive(Debug)]
pub struct Syncs<D>(pub Arc<Http<D>>);

impl<D: Dial> Exchange for Syncs<D> {
    async fn exchange(&self, to: SocketAddr, sealed: Bytes) -> io::Result<Bytes> {
        let mut request = Request::new(sealed);
        *request.method_mut() = Method::POST;
        wire::set_path(&mut request, wire::SYNC);
        let response = self.0.send_to(to, request).await?;
        if !response.status().is_success() {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let body = Limited::new(response.into_body(), MAX_SYNC_BYTES).collect();
        Ok(body.await.map_err(io::Error::other)?.to_bytes())
    }
}

/// The error of the socket, if there is one at the bottom: what matters is whether anybody listens.
fn cause(error: hyper_util::client::legacy::Error) -> io::Error {
    let mut found: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(error) = found {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            return io::Error::new(io.kind(), io.to_string());
        }
        found = error.source();
    }
    io::Error::other(error)
}

/// Connects and proves who we are.
#[derive(Clone, Debug)]
struct Connector<D> {
    own: Identity,
    dial: D,
}

impl<D: Dial> tower::Service<Uri> for Connector<D> {
    type Response = Stream<D::Stream>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Self::Response>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let this = self.clone();
        Box::pin(async move {
            let connected = tokio::time::timeout(CONNECT_TIMEOUT, this.connect(&uri)).await;
            connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        })
    }
}

impl<D: Dial> Connector<D> {
    async fn connect(&self, uri: &Uri) -> io::Result<Stream<D::Stream>> {
        let authority = uri.authority().map(http::uri::Authority::as_str);
        let address: SocketAddr = authority
            .unwrap_or_default()
            .parse()
            .map_err(io::Error::other)?;
        let mut stream = self.dial.dial(address).await?;
        handshake::call(&mut stream, &self.own)
            .await
            .map_err(|refused| match refused {
                handshake::Refused::Io(error) => error,
                refused => io::Error::new(io::ErrorKind::PermissionDenied, refused),
            })?;
        Ok(Stream(TokioIo::new(stream)))
    }
}

/// A connection for hyper's client.
#[derive(Debug)]
struct Stream<S>(TokioIo<S>);

impl<S> Connection for Stream<S> {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl<S: AsyncRead + Unpin> Read for Stream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> Write for Stream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
