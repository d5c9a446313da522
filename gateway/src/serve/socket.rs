//! A client's socket, with the patience that we have for it.
//!
//! hyper times a request's head once it knows which HTTP is spoken, and nothing else. So a socket
//! that says nothing, and one that takes nothing, are timed here: whatever is being sent, and
//! however little of it is left.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

/// A socket for hyper.
pub type Socket = TokioIo<Timed<TcpStream>>;

/// Told when the first request of a connection is here.
#[derive(Clone, Debug, Default)]
pub struct FirstRequest(Arc<AtomicBool>);

impl FirstRequest {
    /// The connection has brought a request.
    pub fn came(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A stream that fails when nothing moves for too long.
#[derive(Debug)]
pub struct Timed<S> {
    stream: S,
    first_request: FirstRequest,
    head_until: Option<Pin<Box<Sleep>>>,
    write_timeout: Duration,
    write_until: Option<Pin<Box<Sleep>>>,
    writing: bool,
}

impl<S> Timed<S> {
    /// `stream`, which has `header_timeout` to bring its first request, and `write_timeout` to take
    /// some bytes whenever there are any.
    pub fn new(stream: S, header_timeout: Duration, write_timeout: Duration) -> Self {
        Self {
            stream,
            first_request: FirstRequest::default(),
            head_until: Some(Box::pin(tokio::time::sleep(header_timeout))),
            write_timeout,
            write_until: None,
            writing: false,
        }
    }

    /// To be told of the first request.
    pub fn first_request(&self) -> FirstRequest {
        self.first_request.clone()
    }

    /// Ready with an error once a write has been pending for too long.
    fn poll_write_until(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let timeout = self.write_timeout;
        let until = self
            .write_until
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(timeout)));
        if !self.writing {
            self.writing = true;
            until.as_mut().reset(Instant::now() + timeout);
        }
        until
            .as_mut()
            .poll(cx)
            .map(|()| io::Error::new(io::ErrorKind::TimedOut, "the client took no byte"))
    }

    fn written(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if written.is_pending() {
            return self.poll_write_until(cx).map(Err);
        }
        self.writing = false;
        written
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Timed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.head_until.is_some() && this.first_request.0.load(Ordering::Relaxed) {
            this.head_until = None;
        }
        if let Some(until) = &mut this.head_until
            && until.as_mut().poll(cx).is_ready()
        {
            let error = io::Error::new(io::ErrorKind::TimedOut, "the client sent no request");
            return Poll::Ready(Err(error));
        }
        Pin::new(&mut this.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Timed<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.written(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.written(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    const HEADER: Duration = Duration::from_secs(10);
    const WRITE: Duration = Duration::from_secs(300);

    #[tokio::test(start_paused = true)]
    async fn a_socket_that_says_nothing_fails_after_header_timeout() {
        let (ours, _theirs) = tokio::io::duplex(1);
        let mut socket = Timed::new(ours, HEADER, WRITE);
        let begun = Instant::now();
        let error = socket.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(begun.elapsed(), HEADER);
    }

    #[tokio::test(start_paused = true)]
    async fn after_its_first_request_it_may_be_idle() {
        let (ours, mut theirs) = tokio::io::duplex(1);
        let mut socket = Timed::new(ours, HEADER, WRITE);
        socket.first_request().came();
        let reading = tokio::spawn(async move { socket.read_u8().await });
        tokio::time::sleep(HEADER * 2).await;
        theirs.write_u8(7).await.unwrap();
        assert_eq!(reading.await.unwrap().unwrap(), 7);
    }

    #[tokio::test(start_paused = true)]
    async fn a_socket_that_takes_nothing_fails_after_write_timeout() {
        let (ours, mut theirs) = tokio::io::duplex(1);
        let mut socket = Timed::new(ours, HEADER, WRITE);
        socket.write_all(b"1").await.unwrap();
        let begun = Instant::now();
        let writing = tokio::spawn(async move { socket.write_all(b"23").await });
        tokio::time::sleep(WRITE / 2).await;
        assert_eq!(theirs.read_u8().await.unwrap(), b'1');
        let error = writing.await.unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(
            begun.elapsed(),
            WRITE / 2 + WRITE,
            "each byte taken starts the time anew"
        );
    }
}
