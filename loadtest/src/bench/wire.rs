//! The client: raw HTTP/1.1 on one connection, which costs so little that the server is what is measured.
//!
//! What is measured is thrown away in the kernel (`MSG_TRUNC`, tcp(7)), so that the client's copy is nobody's cost;
//! bytes are compared in passes of their own. Over TLS they must be decrypted, and are.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, bail, ensure};
use rustix::net::{RecvFlags, recv};
use rustls::pki_types::ServerName;
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::pattern;

/// Read with a head: a whole answer of 4 KiB fits.
const HEAD: usize = 16 << 10;

/// 1500 bytes less the headers of IP and TCP, with timestamps.
const SEGMENT_SIZE: u32 = 1448;

/// Read at a time behind it.
const PIECE: usize = 1 << 20;

/// What becomes of a body's bytes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Sink {
    /// They are counted.
    Discard,
    /// They are compared with the pattern of this seed, from this offset.
    Verify { seed: u64, offset: u64 },
}

#[derive(Debug)]
enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// A connection, and what it counts into.
#[derive(Debug)]
pub(super) struct Wire {
    stream: Stream,
    buffer: Vec<u8>,
    received: Arc<AtomicU64>,
}

impl Wire {
    /// Connects; `tls`: whose certificates are believed.
    pub(super) async fn connect(
        address: SocketAddr,
        tls: Option<&Arc<rustls::ClientConfig>>,
        received: Arc<AtomicU64>,
    ) -> anyhow::Result<Self> {
        let stream = connect(address).await?;
        let stream = match tls {
            None => Stream::Plain(stream),
            Some(config) => {
                let name = ServerName::try_from("localhost").context("name the server")?;
                let connector = TlsConnector::from(Arc::clone(config));
                let stream = connector.connect(name, stream).await;
                Stream::Tls(Box::new(stream.context("TLS handshake")?))
            }
        };
        Ok(Self {
            stream,
            buffer: vec![0; PIECE],
            received,
        })
    }

    /// Sends a request and takes the whole answer: the length of its body.
    ///
    /// # Errors
    /// Anything but a whole 200 or 206 of known length, and bytes that are not the pattern's.
    pub(super) async fn exchange(&mut self, request: &[u8], sink: Sink) -> anyhow::Result<u64> {
        match &mut self.stream {
            Stream::Plain(stream) => stream.write_all(request).await,
            Stream::Tls(stream) => stream.write_all(request).await,
        }
        .context("send request")?;
        let mut had = 0;
        let head = loop {
            ensure!(
                had < HEAD,
                "the head of an answer is longer than {HEAD} bytes"
            );
            let came = self.read(had, HEAD).await?;
            ensure!(came > 0, "closed before the end of a head");
            had += came;
            if let Some(head) = Head::parse(&self.buffer[..had])? {
                break head;
            }
        };
        let begun = (had - head.end) as u64;
        ensure!(begun <= head.length, "more bytes than were announced");
        self.take(head.end, had, sink, 0)?;
        let mut done = begun;
        while done < head.length {
            let most = PIECE.min((head.length - done) as usize);
            let came = match (&mut self.stream, sink) {
                (Stream::Plain(stream), Sink::Discard) => {
                    discard(stream, &mut self.buffer[..most]).await?
                }
                _ => self.read(0, most).await?,
            };
            ensure!(came > 0, "cut {} bytes before the end", head.length - done);
            self.take(0, came, sink, done)?;
            done += came as u64;
        }
        Ok(head.length)
    }

    async fn read(&mut self, from: usize, to: usize) -> anyhow::Result<usize> {
        let room = &mut self.buffer[from..to];
        match &mut self.stream {
            Stream::Plain(stream) => stream.read(room).await,
            Stream::Tls(stream) => stream.read(room).await,
        }
        .context("read answer")
    }

    /// Counts or compares what lies in the buffer and in the body from `done` on.
    fn take(&self, from: usize, to: usize, sink: Sink, done: u64) -> anyhow::Result<()> {
        self.received
            .fetch_add((to - from) as u64, Ordering::Relaxed);
        match sink {
            Sink::Discard => Ok(()),
            Sink::Verify { seed, offset } => {
                pattern::check(seed, offset + done, &self.buffer[from..to]).context("a wrong byte")
            }
        }
    }
}

/// Connects with the segment size that clients on Ethernet announce. Loopback's own, 65 483 bytes, makes the end of a
/// 64 KiB answer the small segment that Nagle holds back for the delayed acknowledgement of the first: 40 ms a read
/// from nginx with `tcp_nopush`, on no other network.
async fn connect(address: SocketAddr) -> anyhow::Result<TcpStream> {
    let socket = TcpSocket::new_v4().context("open socket")?;
    SockRef::from(&socket)
        .set_tcp_mss(SEGMENT_SIZE)
        .context("set TCP_MAXSEG")?;
    let stream = socket.connect(address).await.context("connect")?;
    stream.set_nodelay(true).context("set TCP_NODELAY")?;
    Ok(stream)
}

/// Has the kernel throw away what came, at most so many bytes as `room` has, and says how many.
async fn discard(stream: &TcpStream, room: &mut [u8]) -> anyhow::Result<usize> {
    loop {
        let came = stream.try_io(Interest::READABLE, || {
            let (_, came) = recv(stream, &mut *room, RecvFlags::TRUNC)?;
            Ok(came)
        });
        match came {
            Ok(came) => return Ok(came),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                stream.readable().await.context("wait for bytes")?;
            }
            Err(error) => return Err(error).context("read answer"),
        }
    }
}

/// What must be known of an answer's head.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Head {
    /// Where the body begins.
    end: usize,
    /// How long the body is.
    length: u64,
}

impl Head {
    /// `None`: the head has not ended yet.
    fn parse(bytes: &[u8]) -> anyhow::Result<Option<Self>> {
        let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
            return Ok(None);
        };
        let head = std::str::from_utf8(&bytes[..end]).context("read the head of an answer")?;
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap_or_default();
        if !status.starts_with("HTTP/1.1 200") && !status.starts_with("HTTP/1.1 206") {
            bail!("answered {status:?}");
        }
        let length = lines.find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length")
                .then(|| value.trim().parse::<u64>().ok())?
        });
        let length = length.context("an answer without Content-Length")?;
        Ok(Some(Self {
            end: end + 4,
            length,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_known_once_it_is_whole() {
        let text = b"HTTP/1.1 206 Partial Content\r\nServer: x\r\ncontent-LENGTH: 17\r\n\r\nabc";
        assert_eq!(Head::parse(&text[..40]).expect("so far so good"), None);
        let head = Head::parse(text)
            .expect("a good head")
            .expect("a whole one");
        assert_eq!((head.end, head.length), (text.len() - 3, 17));
        for bad in [
            "HTTP/1.1 404 Not Found\r\ncontent-length: 1\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
        ] {
            assert!(Head::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
