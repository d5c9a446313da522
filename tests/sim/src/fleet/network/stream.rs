//! A connection between two members: bytes in order, each at its time, until it ends or breaks.
//!
//! A way that is cut delays what is sent, as TCP sends it again until it arrives; who waits finds that out by itself.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Buf, Bytes};
use forebay_gateway::peer::client::Dial;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::{Life, Network, Node, address, node_of};
use crate::random::Random;

/// Bytes under way at most, one way.
const WINDOW: usize = 128 << 10;

/// A byte is changed only so far within so large a piece: in the bytes of blocks, which have checksums, and not in what is
/// said of them.
const FLIPPED_AT: usize = 8 << 10;
const FLIPPED_IN: usize = 16 << 10;

/// Where the way is cut, it is tried again after so long.
const AGAIN: Duration = Duration::from_millis(40);

/// How a member connects to others.
#[derive(Clone, Debug)]
pub struct Dialer {
    network: Arc<Network>,
    life: Life,
}

impl Dialer {
    pub(super) fn new(network: Arc<Network>, life: Life) -> Self {
        Self { network, life }
    }
}

impl Dial for Dialer {
    type Stream = Stream;

    async fn dial(&self, to: SocketAddr) -> io::Result<Stream> {
        let (network, from) = (&self.network, self.life);
        let to = node_of(to).ok_or(io::ErrorKind::HostUnreachable)?;
        let mut luck = network.luck("connection", from.node, to);
        tokio::time::sleep(network.delay(&mut luck) * 2).await;
        let both =
            |network: &Network| network.passes(from.node, to) && network.passes(to, from.node);
        while !both(network) {
            tokio::time::sleep(AGAIN).await;
        }
        if !network.lives(from) {
            return Err(io::ErrorKind::NetworkUnreachable.into());
        }
        let port = network
            .lock()
            .ports
            .get(&to)
            .map(|port| (port.life, port.accept.clone()));
        let (number, accept) = port.ok_or(io::ErrorKind::ConnectionRefused)?;
        let called = Life { node: to, number };
        let [near, far] = Stream::pair(network, [from, called], luck);
        match accept.try_send((far, address(from.node))) {
            Ok(()) => Ok(near),
            Err(_) => Err(io::ErrorKind::ConnectionRefused.into()),
        }
    }
}

/// One way of a connection.
#[derive(Debug, Default)]
struct Pipe {
    under_way: VecDeque<(Instant, Bytes)>,
    bytes: usize,
    last: Option<Instant>,
    /// Nothing follows.
    ended: bool,
    /// Nobody reads any more.
    unread: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Pipe {
    fn wake(&mut self) {
        let wakers = [self.reader.take(), self.writer.take()];
        wakers.into_iter().flatten().for_each(Waker::wake);
    }
}

/// A connection.
#[derive(Debug)]
pub(super) struct Conn {
    network: Arc<Network>,
    ends: [Life; 2],
    state: Mutex<ConnState>,
}

#[derive(Debug)]
struct ConnState {
    /// By who writes into it.
    pipes: [Pipe; 2],
    /// After how many bytes more it breaks.
    breaks_after: Option<u64>,
    /// After how many large pieces more one has a byte changed.
    flips_after: Option<u64>,
    broken: bool,
    luck: Random,
}

impl Conn {
    pub(super) fn is_of(&self, life: Life) -> bool {
        self.ends.contains(&life)
    }

    pub(super) fn reset(&self) {
        self.lock().reset();
    }

    fn passes(&self, writer: usize) -> bool {
        let [from, to] = [writer, 1 - writer].map(|end| self.ends[end].node);
        self.network.passes(from, to)
    }

    fn lock(&self) -> MutexGuard<'_, ConnState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ConnState {
    fn reset(&mut self) {
        self.broken = true;
        self.pipes.iter_mut().for_each(Pipe::wake);
    }
}

/// One end of a connection.
#[derive(Debug)]
pub struct Stream {
    conn: Arc<Conn>,
    /// Which end: 0 made the connection.
    end: usize,
    wait: Pin<Box<Sleep>>,
}

impl Stream {
    fn pair(network: &Arc<Network>, ends: [Life; 2], mut luck: Random) -> [Self; 2] {
        let breaks = luck.chance(network.nature.breaks) && !network.is_calm();
        let after = luck.below(600_000);
        let flips = luck.chance(network.nature.flips) && !network.is_calm();
        let flips_after = luck.below(8);
        let conn = Arc::new(Conn {
            network: Arc::clone(network),
            ends,
            state: Mutex::new(ConnState {
                pipes: Default::default(),
                breaks_after: breaks.then_some(after),
                flips_after: flips.then_some(flips_after),
                broken: false,
                luck,
            }),
        });
        network.keep(&conn);
        network.trace.count("connections");
        [0, 1].map(|end| Self {
            conn: Arc::clone(&conn),
            end,
            wait: Box::pin(tokio::time::sleep(Duration::ZERO)),
        })
    }

    /// Who is at the other end.
    pub fn other(&self) -> Node {
        self.conn.ends[1 - self.end].node
    }

    /// Looks again at that time.
    fn look_at(wait: &mut Pin<Box<Sleep>>, at: Instant, cx: &mut Context<'_>) {
        wait.as_mut().reset(at);
        if wait.as_mut().poll(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
    }
}

fn reset() -> io::Error {
    io::ErrorKind::ConnectionReset.into()
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let conn = Arc::clone(&this.conn);
        let writer = 1 - this.end;
        let passes = conn.passes(writer);
        let mut state = conn.lock();
        if state.broken {
            return Poll::Ready(Err(reset()));
        }
        let pipe = &mut state.pipes[writer];
        let now = Instant::now();
        let mut taken = 0;
        while let Some((at, piece)) = pipe.under_way.front_mut() {
            if *at > now || !passes || buffer.remaining() == 0 {
                break;
            }
            let length = piece.len().min(buffer.remaining());
            buffer.put_slice(&piece[..length]);
            piece.advance(length);
            taken += length;
            if piece.is_empty() {
                pipe.under_way.pop_front();
            }
        }
        if taken > 0 {
            pipe.bytes -= taken;
            if let Some(writer) = pipe.writer.take() {
                writer.wake();
            }
            return Poll::Ready(Ok(()));
        }
        let due = pipe.under_way.front().map(|(at, _)| *at);
        let due = due.or(pipe.last.filter(|_| pipe.ended));
        pipe.reader = Some(cx.waker().clone());
        match due {
            Some(_) if !passes => Self::look_at(&mut this.wait, now + AGAIN, cx),
            Some(at) if at > now => Self::look_at(&mut this.wait, at, cx),
            Some(_) => return Poll::Ready(Ok(())),
            None => {}
        }
        Poll::Pending
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let network = &self.conn.network;
        let mut state = self.conn.lock();
        if state.broken {
            return Poll::Ready(Err(reset()));
        }
        let delay = network.delay(&mut state.luck);
        let pipe = &mut state.pipes[self.end];
        if pipe.ended || pipe.unread {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let room = WINDOW - pipe.bytes;
        if room == 0 {
            pipe.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let length = bytes.len().min(room);
        let paced = Duration::from_micros(length as u64 * 1000 / network.nature.pace);
        let now = Instant::now();
        let at = pipe.last.map_or(now, |last| last.max(now)) + paced;
        let at = at.max(now + delay);
        pipe.last = Some(at);
        pipe.bytes += length;
        let mut piece = bytes[..length].to_vec();
        if length >= FLIPPED_IN
            && let Some(left) = state.flips_after
        {
            state.flips_after = left.checked_sub(1);
            if left == 0 && !network.is_calm() {
                network.trace.count("bytes changed");
                piece[FLIPPED_AT] ^= 1;
            }
        }
        let pipe = &mut state.pipes[self.end];
        pipe.under_way.push_back((at, piece.into()));
        if let Some(reader) = pipe.reader.take() {
            reader.wake();
        }
        if let Some(left) = state.breaks_after {
            state.breaks_after = left.checked_sub(length as u64);
            if state.breaks_after.is_none() && !network.is_calm() {
                network.trace.count("connections broken");
                state.reset();
            }
        }
        Poll::Ready(Ok(length))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.conn.lock();
        state.end(self.end, &self.conn.network);
        Poll::Ready(Ok(()))
    }
}

impl ConnState {
    /// Nothing follows from this end.
    fn end(&mut self, end: usize, network: &Network) {
        let delay = network.delay(&mut self.luck);
        let pipe = &mut self.pipes[end];
        if !pipe.ended {
            pipe.ended = true;
            pipe.last = pipe.last.max(Some(Instant::now() + delay));
            if let Some(reader) = pipe.reader.take() {
                reader.wake();
            }
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let mut state = self.conn.lock();
        state.end(self.end, &self.conn.network);
        let pipe = &mut state.pipes[1 - self.end];
        pipe.unread = true;
        if let Some(writer) = pipe.writer.take() {
            writer.wake();
        }
    }
}
