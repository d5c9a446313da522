//! How much the kernel may hold unsent for a connection.
//!
//! What waits in a slow client's socket is memory that no lease counts, so it is little. But a limit costs whoever
//! takes bytes as fast as they come: the kernel is never far enough ahead of the network, and under BBR, which
//! takes that for all that the network gives, one stream over loopback ran at two thirds of its rate. So the limit
//! is lifted once a client has taken 8 MiB without keeping its socket full for 50 ms, and is back
//! with the first time that it does.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::exchanges::Exchanges;

/// What the kernel keeps unsent at most, for as long as there is a limit.
const LIMIT: u32 = 256 << 10;

/// The kernel's own measure, which is none unless somebody has set one for the machine (tcp(7), TCP_NOTSENT_LOWAT).
const NO_LIMIT: u32 = 0;

/// Bytes after which a client has shown that it takes what comes.
const PROOF: u64 = 8 << 20;

/// A socket that takes nothing for so long has a client who is slow, or away.
const STALL: Duration = Duration::from_millis(50);

/// A client's socket, which holds little unsent while its client is slow.
#[derive(Debug)]
pub struct Unsent {
    socket: TcpStream,
    /// What the connection knows of itself: while its client is quick, the limit is lifted.
    exchanges: Exchanges,
    /// Whether its timers are told each time that bytes are taken.
    tells: bool,
    /// Bytes taken since the last stall, as far as they matter.
    taken: u64,
    /// Since when it takes nothing.
    full: Option<Instant>,
}

impl Unsent {
    /// `socket`, with the limit set. `exchanges` hear whether its client takes what comes.
    pub fn new(socket: TcpStream, exchanges: Exchanges) -> Self {
        let unsent = Self {
            socket,
            exchanges,
            tells: false,
            taken: 0,
            full: None,
        };
        unsent.limit(LIMIT);
        unsent
    }

    /// The same below TLS, where the timers are told each time that it takes bytes: TLS itself takes them while the
    /// socket does not.
    pub fn telling(self) -> Self {
        Self {
            tells: true,
            ..self
        }
    }

    fn limit(&self, bytes: u32) {
        if let Err(error) = socket2::SockRef::from(&self.socket).set_tcp_notsent_lowat(bytes) {
            tracing::debug!(%error, "a socket option was refused");
        }
    }

    fn written(&mut self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match written {
            Poll::Pending => {
                self.full.get_or_insert_with(Instant::now);
            }
            Poll::Ready(Ok(bytes)) => self.took(bytes),
            Poll::Ready(Err(_)) => {}
        }
        written
    }

    fn took(&mut self, bytes: usize) {
        if self.tells && bytes > 0 {
            self.exchanges.took();
        }
        let stalled = self
            .full
            .take()
            .is_some_and(|since| since.elapsed() >= STALL);
        if stalled {
            self.taken = 0;
            if self.exchanges.quick() {
                self.exchanges.takes_what_comes(false);
                self.limit(LIMIT);
            }
        } else if !self.exchanges.quick() {
            self.taken += bytes as u64;
            if self.taken >= PROOF {
                self.exchanges.takes_what_comes(true);
                self.limit(NO_LIMIT);
            }
        }
    }
}

impl AsyncRead for Unsent {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Unsent {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write(cx, bytes);
        self.written(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write_vectored(cx, slices);
        self.written(written)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (Unsent, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("its address");
        let (client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        let (socket, _) = accepted.expect("a connection");
        let unsent = Unsent::new(socket, Exchanges::default());
        (unsent, client.expect("a connection"))
    }

    fn limit(unsent: &Unsent) -> u32 {
        let socket = socket2::SockRef::from(&unsent.socket);
        socket.tcp_notsent_lowat().expect("an option")
    }

    /// `bytes` go to a client who reads them as they come.
    async fn pass(unsent: &mut Unsent, client: &mut TcpStream, bytes: u64) {
        let piece = vec![7; 64 << 10];
        let mut came = vec![0; 64 << 10];
        for _ in 0..bytes.div_ceil(piece.len() as u64) {
            let (sent, read) = tokio::join!(unsent.write_all(&piece), client.read_exact(&mut came));
            sent.expect("it takes them");
            read.expect("they come");
        }
    }

    /// Writes until the socket takes no more, and says how much that was.
    async fn fill(unsent: &mut Unsent) -> usize {
        let mut sent = 0;
        while let Poll::Ready(written) = futures::poll!(Box::pin(unsent.write(&[7; 64 << 10]))) {
            sent += written.expect("it takes them");
        }
        sent
    }

    #[tokio::test]
    async fn who_takes_what_comes_has_no_limit_and_who_stalls_has_it_again() {
        let (mut unsent, mut client) = pair().await;
        assert_eq!(limit(&unsent), LIMIT);
        pass(&mut unsent, &mut client, PROOF - (64 << 10)).await;
        assert_eq!(limit(&unsent), LIMIT);
        pass(&mut unsent, &mut client, 64 << 10).await;
        assert_eq!(limit(&unsent), NO_LIMIT);
        assert!(unsent.exchanges.quick());

        let mut left = fill(&mut unsent).await;
        tokio::time::pause();
        tokio::time::advance(STALL).await;
        tokio::time::resume();
        let mut came = vec![0; 64 << 10];
        while left > 0 {
            left -= client.read(&mut came).await.expect("they come");
        }
        pass(&mut unsent, &mut client, 64 << 10).await;
        assert_eq!(limit(&unsent), LIMIT);
        assert!(!unsent.exchanges.quick());
        pass(&mut unsent, &mut client, PROOF).await;
        assert_eq!(limit(&unsent), NO_LIMIT);
    }

    #[tokio::test]
    async fn a_pause_that_is_short_is_no_stall() {
        let (mut unsent, mut client) = pair().await;
        pass(&mut unsent, &mut client, PROOF).await;
        tokio::time::pause();
        let mut left = fill(&mut unsent).await;
        tokio::time::advance(STALL / 2).await;
        let mut came = vec![0; 64 << 10];
        while left > 0 {
            left -= client.read(&mut came).await.expect("they come");
        }
        pass(&mut unsent, &mut client, 64 << 10).await;
        assert_eq!(limit(&unsent), NO_LIMIT);
    }
}
