//! The fleet's port: other gateways, once they have proved that they are.

use std::collections::HashSet;
use std::convert::Infallible;
use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use super::ACCEPT_PAUSE;
use super::crowd::{Crowd, Share};
use crate::gateway::{Gateway, Remote};
use crate::peer::handshake::{self, Identity, Refused};
use crate::peer::tls::Wire;

/// The kernel keeps no more unsent bytes than this for a member, which may stand still in the middle of many
/// answers.
const UNSENT_BYTES: u32 = 1 << 20;

/// Connections at once: those of a fleet of a thousand, and strangers who are not known as such yet.
const CONNECTIONS: usize = 16 * 1024;

/// How long a head may take, once its connection is known.
const HEAD: Duration = Duration::from_secs(60);

/// Strangers whose refusal was logged: each is told of once, and no more of them are remembered.
const REMEMBERED: usize = 1024;

/// Serves other gateways until `stop` turns true, then gives running answers `stop_after` and cuts the
/// rest. `own` is who we are, and `crowd` whom sockets share the link with.
pub async fn serve(
    listener: TcpListener,
    gateway: Arc<Gateway>,
    own: Identity,
    crowd: Crowd,
    mut stop: watch::Receiver<bool>,
    stop_after: Duration,
) {
    let graceful = GracefulShutdown::new();
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let told: Arc<Mutex<HashSet<(IpAddr, &'static str)>>> = Arc::default();
    let mut tasks = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => break,
            accepted = accept(&listener, &room) => accepted,
        };
        while tasks.try_join_next().is_some() {}
        let Ok((socket, remote, permit)) = accepted else {
            tracing::warn!("a connection of the fleet can't be accepted; trying again");
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let (gateway, own, told) = (Arc::clone(&gateway), own.clone(), Arc::clone(&told));
        let share = Share::of(crowd.clone());
        let watcher = graceful.watcher();
        let mut stop = stop.clone();
        tasks.spawn(async move {
            let _permit = permit;
            let met = tokio::select! {
                met = meet(socket, &own) => met,
                _ = stop.wait_for(|stop| *stop) => return,
            };
            match met {
                Ok((wire, member)) => {
                    let socket = Sharing::new(wire, share);
                    speak(socket, remote, &gateway, member, watcher).await;
                }
                Err(refused) => refuse(&gateway, remote, &refused, &told),
            }
        });
    }
    drop(listener);
    let ended = tokio::time::timeout(stop_after, graceful.shutdown()).await;
    if ended.is_err() {
        tracing::warn!(
            ?stop_after,
            "answers to the fleet were still running and are cut"
        );
    }
    tasks.shutdown().await;
}

async fn accept(
    listener: &TcpListener,
    room: &Arc<Semaphore>,
) -> io::Result<(TcpStream, SocketAddr, tokio::sync::OwnedSemaphorePermit)> {
    let permit = Arc::clone(room).acquire_owned().await;
    let permit = permit.map_err(io::Error::other)?;
    let (socket, remote) = listener.accept().await?;
    Ok((socket, remote, permit))
}

async fn meet(socket: TcpStream, own: &Identity) -> Result<(Wire, String), Refused> {
    socket.set_nodelay(true)?;
    socket2::SockRef::from(&socket).set_tcp_notsent_lowat(UNSENT_BYTES)?;
    let met = async {
        let mut socket = match &own.tls {
            Some(tls) => tls.accept(socket).await.map_err(refused_by_tls)?,
            None => Wire::Plain(socket),
        };
        let member = handshake::answer(&mut socket, own).await?;
        Ok((socket, member))
    };
    let met = tokio::time::timeout(handshake::PATIENCE, met).await;
    met.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut).into()))
}

/// A connection that holds no more than its share of what is on its way.
#[derive(Debug)]
struct Sharing {
    wire: Wire,
    share: Share,
}

impl Sharing {
    fn new(wire: Wire, share: Share) -> Self {
        Self { wire, share }
    }

    fn written<T>(&mut self, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        self.share.written(self.wire.socket(), &written);
        written
    }
}

impl AsyncRead for Sharing {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.wire).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Sharing {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut part = [IoSlice::new(&[])];
        let this = &mut *self;
        let slices = this.share.offered(slices, &mut part);
        let written = Pin::new(&mut this.wire).poll_write_vectored(cx, slices);
        this.written(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.wire.is_write_vectored()
    }

    /// TLS takes bytes that the socket does not: that it is full shows here.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.wire).poll_flush(cx);
        self.written(flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.wire).poll_shutdown(cx)
    }
}

fn refused_by_tls(error: io::Error) -> Refused {
    match error.kind() {
        io::ErrorKind::PermissionDenied => Refused::Tls,
        _ => Refused::Io(error),
    }
}

/// Answers the member of this name on a connection that it has proved itself on, until it ends or `watcher` ends it.
pub async fn speak<S>(
    socket: S,
    remote: SocketAddr,
    gateway: &Arc<Gateway>,
    member: String,
    watcher: Watcher,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let member: Arc<str> = member.into();
    let from = Arc::clone(&member);
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(Remote {
            address: remote,
            controls: false,
            tls: false,
        });
        let (gateway, member) = (Arc::clone(gateway), Arc::clone(&member));
        async move { Ok::<_, Infallible>(gateway.handle_peer(&member, request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .serve_connection(TokioIo::new(socket), service);
    if let Err(error) = watcher.watch(connection).await {
        tracing::debug!(member = &*from, %error, "a connection of the fleet ended badly");
    }
}

fn refuse(
    gateway: &Gateway,
    remote: SocketAddr,
    refused: &Refused,
    told: &Mutex<HashSet<(IpAddr, &'static str)>>,
) {
    let reason = refused.label();
    if let Some(peers) = &gateway.reads.peers {
        let refusals = &peers.metrics.refusals;
        refusals.with_label_values(&[reason]).inc();
    }
    if matches!(refused, Refused::Io(_)) {
        tracing::debug!(%remote, %refused, "a connection of the fleet did not come about");
        return;
    }
    let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
    if told.len() < REMEMBERED && told.insert((remote.ip(), reason)) {
        tracing::warn!(%remote, reason = %refused, "a connection to the fleet's port was refused");
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::super::crowd::tests::crowded;
    use super::*;

    #[tokio::test]
    async fn a_members_socket_that_is_full_as_many_are_holds_its_share() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let _client = TcpStream::connect(address).await.expect("a connection");
        let (socket, _) = listener.accept().await.expect("a connection");
        let mut sharing = Sharing::new(Wire::Plain(socket), Share::of(crowded(127)));
        while let Poll::Ready(written) = futures::poll!(Box::pin(sharing.write(&[7; 64 << 10]))) {
            written.expect("it takes them");
            // Else its turn ends before the socket is full.
            tokio::task::yield_now().await;
        }
        let socket = socket2::SockRef::from(sharing.wire.socket());
        assert_eq!(socket.send_buffer_size().expect("an option"), 64 << 10);
    }
}
