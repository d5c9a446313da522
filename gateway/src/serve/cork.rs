//! Frames that leave together.
//!
//! hyper hands an HTTP/2 answer to the socket frame by frame, 16 KiB each, and flushes each of them. Each would be a
//! packet of its own through all of the kernel, and wake its client: a read of 1 MiB cost more than twice the
//! processor time that it does over HTTP/1.1. So the kernel is told with each frame that more comes (`MSG_MORE`,
//! send(2)), and keeps back what does not fill a packet until the connection's task has had its turn.

use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};
use tokio::io::{Interest, ReadBuf};
use tokio::net::TcpStream;

/// A socket that can be told that more comes. Clones are the same socket.
#[derive(Clone, Debug)]
pub struct Cork(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    socket: TcpStream,
    /// It was told that more comes, and not yet that nothing does.
    awaits_more: AtomicBool,
}

impl Cork {
    /// `socket`, each write to which leaves at once until it is told otherwise.
    pub fn new(socket: TcpStream) -> Self {
        Self(Arc::new(Inner {
            socket,
            awaits_more: AtomicBool::new(false),
        }))
    }

    /// The socket itself, for its options.
    pub fn socket(&self) -> &TcpStream {
        &self.0.socket
    }

    /// Lets what is kept back leave.
    pub fn push(&self) {
        if !self.0.awaits_more.load(Ordering::Relaxed) {
            return;
        }
        self.0.awaits_more.store(false, Ordering::Relaxed);
        // That is what setting it again is good for (tcp(7)). Who can't will see it leave after 200 ms.
        if let Err(error) = self.0.socket.set_nodelay(true) {
            tracing::debug!(%error, "a socket option was refused");
        }
    }

    /// As [`tokio::io::AsyncRead::poll_read`].
    pub fn poll_read(
        &self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let socket = &self.0.socket;
        let room = buffer.remaining();
        loop {
            ready!(socket.poll_read_ready(cx))?;
            let mut came = 0;
            // Less than there is room for is all that there was: then the next look need not ask the kernel, and waits
            // for what comes after this one began.
            let read = socket.try_io(Interest::READABLE, || {
                came = socket.try_read_buf(buffer)?;
                match came > 0 && came < room {
                    true => Err(io::ErrorKind::WouldBlock.into()),
                    false => Ok(()),
                }
            });
            match read {
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                    return Poll::Ready(Err(error));
                }
                Err(_) if came == 0 => {}
                _ => return Poll::Ready(Ok(())),
            }
        }
    }

    /// As [`tokio::io::AsyncWrite::poll_shutdown`].
    pub fn shut(&self) -> io::Result<()> {
        match socket2::SockRef::from(&self.0.socket).shutdown(Shutdown::Write) {
            // The client was first.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
            shut => shut,
        }
    }

    /// As [`tokio::io::AsyncWrite::poll_write_vectored`]; with `more` to come, which [`Self::push`] ends.
    pub fn poll_write(
        &self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
        more: bool,
    ) -> Poll<io::Result<usize>> {
        let socket = &self.0.socket;
        let flags = match more {
            true => SendFlags::NOSIGNAL | SendFlags::MORE,
            false => SendFlags::NOSIGNAL,
        };
        loop {
            ready!(socket.poll_write_ready(cx))?;
            let sent = socket.try_io(Interest::WRITABLE, || {
                let nothing = &mut SendAncillaryBuffer::default();
                Ok(sendmsg(socket, slices, nothing, flags)?)
            });
            match sent {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                sent => {
                    if more && sent.is_ok() {
                        self.0.awaits_more.store(true, Ordering::Relaxed);
                    }
                    return Poll::Ready(sent);
                }
            }
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::future::poll_fn;
    use std::mem::MaybeUninit;

    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    use super::*;

    /// A socket and its client.
    pub(in crate::serve) async fn pair() -> (Cork, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("its address");
        let (client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        let (socket, _) = accepted.expect("a connection");
        (Cork::new(socket), client.expect("a connection"))
    }

    async fn write(cork: &Cork, bytes: &[u8], more: bool) {
        let sent = poll_fn(|cx| cork.poll_write(cx, &[IoSlice::new(bytes)], more)).await;
        assert_eq!(sent.expect("it takes them"), bytes.len());
    }

    #[tokio::test]
    async fn what_is_kept_back_leaves_with_a_push() {
        let (cork, mut client) = pair().await;
        write(&cork, b"one ", true).await;
        write(&cork, b"two", true).await;
        let mut came = [0; 16];
        let early = socket2::SockRef::from(&client).peek(&mut [MaybeUninit::uninit(); 16]);
        assert_eq!(
            early.expect_err("it is kept back").kind(),
            io::ErrorKind::WouldBlock
        );
        cork.push();
        client.read_exact(&mut came[..7]).await.expect("it comes");
        assert_eq!(&came[..7], b"one two");
        write(&cork, b"three", false).await;
        client.read_exact(&mut came[..5]).await.expect("it comes");
        assert_eq!(&came[..5], b"three");
    }

    #[tokio::test]
    async fn what_is_kept_back_leaves_with_the_end() {
        let (cork, mut client) = pair().await;
        write(&cork, b"last", true).await;
        cork.shut().expect("it ends");
        let mut came = Vec::new();
        client.read_to_end(&mut came).await.expect("it comes");
        assert_eq!(came, b"last");
    }

    #[tokio::test]
    async fn reads_end_where_the_client_does() {
        let (cork, client) = pair().await;
        client.try_write(b"hello").expect("room for five bytes");
        let mut space = [0; 3];
        let mut buffer = ReadBuf::new(&mut space);
        for expected in ["hel", "lo"] {
            buffer.clear();
            let read = poll_fn(|cx| cork.poll_read(cx, &mut buffer)).await;
            read.expect("it is read");
            assert_eq!(buffer.filled(), expected.as_bytes());
        }
        buffer.clear();
        let read = futures::poll!(poll_fn(|cx| cork.poll_read(cx, &mut buffer)));
        assert!(read.is_pending());
        client.try_write(b"more").expect("room for four bytes");
        for expected in ["mor", "e"] {
            buffer.clear();
            let read = poll_fn(|cx| cork.poll_read(cx, &mut buffer)).await;
            read.expect("it is read");
            assert_eq!(buffer.filled(), expected.as_bytes());
        }
        buffer.clear();
        drop(client);
        let read = poll_fn(|cx| cork.poll_read(cx, &mut buffer)).await;
        read.expect("it ends well");
        assert!(buffer.filled().is_empty());
    }
}
