//! What a connection was asked and is still being answered: the service tells, the socket's timers
//! listen.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use forebay_storage::store::Place;
use futures::task::AtomicWaker;
use http::Version;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::Instant;

use super::streams::{Piece, Stream};
use crate::body::Body;

/// The requests of one connection.
#[derive(Clone, Debug, Default)]
pub struct Exchanges(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    opened: Instant,
    begun: AtomicU64,
    running: AtomicUsize,
    multiplexed: AtomicBool,
    over: AtomicBool,
    flooded: AtomicBool,
    /// For how many milliseconds the socket took nothing when it was given up; 0: it was not.
    given_up: AtomicU64,
    /// How often the socket below TLS took bytes, or a full one's client did.
    taken: AtomicU64,
    /// Until how many milliseconds after `opened` the socket took nothing; [`BLOCKED`]: it does so.
    blocked: AtomicU64,
    quick: AtomicBool,
    reader: AtomicWaker,
}

/// The socket takes nothing now.
const BLOCKED: u64 = u64::MAX;

impl Default for Inner {
    fn default() -> Self {
        Self {
            opened: Instant::now(),
            begun: AtomicU64::default(),
            running: AtomicUsize::default(),
            multiplexed: AtomicBool::default(),
            over: AtomicBool::default(),
            flooded: AtomicBool::default(),
            given_up: AtomicU64::default(),
            taken: AtomicU64::default(),
            blocked: AtomicU64::default(),
            quick: AtomicBool::default(),
            reader: AtomicWaker::default(),
        }
    }
}

impl Exchanges {
    /// A request has come; it is being answered until the value is dropped.
    pub fn begin(&self, version: Version) -> Exchange {
        if version == Version::HTTP_2 {
            self.0.multiplexed.store(true, Ordering::Relaxed);
        }
        self.0.running.fetch_add(1, Ordering::AcqRel);
        self.0.begun.fetch_add(1, Ordering::AcqRel);
        Exchange(self.clone())
    }

    /// No more requests are wanted here.
    pub fn end(&self) {
        self.0.over.store(true, Ordering::Release);
    }

    /// Requests that have come.
    pub(super) fn begun(&self) -> u64 {
        self.0.begun.load(Ordering::Acquire)
    }

    /// Whether an answer is under way.
    pub(super) fn running(&self) -> bool {
        self.0.running.load(Ordering::Acquire) > 0
    }

    /// Whether bytes may be of any request, or of none (HTTP/2).
    pub(super) fn multiplexed(&self) -> bool {
        self.0.multiplexed.load(Ordering::Relaxed)
    }

    /// Whether [`Self::end`] was called.
    pub(super) fn over(&self) -> bool {
        self.0.over.load(Ordering::Acquire)
    }

    /// The connection was given up for a flood of frames.
    pub(super) fn flood(&self) {
        self.0.flooded.store(true, Ordering::Relaxed);
    }

    /// Whether [`Self::flood`] was called.
    pub(super) fn flooded(&self) -> bool {
        self.0.flooded.load(Ordering::Relaxed)
    }

    /// The socket is given up: it took nothing for `timeout`.
    pub(super) fn give_up(&self, timeout: Duration) {
        let timeout = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        self.0.given_up.store(timeout.max(1), Ordering::Release);
    }

    /// For how long the socket took nothing, if that is why it was given up.
    fn given_up(&self) -> Option<Duration> {
        let timeout = self.0.given_up.load(Ordering::Acquire);
        (timeout > 0).then(|| Duration::from_millis(timeout))
    }

    /// The socket below TLS took bytes, or the client took some of a full one's.
    pub(super) fn took(&self) {
        self.0.taken.fetch_add(1, Ordering::Relaxed);
    }

    /// How often [`Self::took`] was called.
    pub(super) fn taken(&self) -> u64 {
        self.0.taken.load(Ordering::Relaxed)
    }

    /// Whether the socket takes nothing.
    pub(super) fn blocked(&self, blocked: bool) {
        let elapsed = self.0.opened.elapsed().as_millis();
        let until = if blocked {
            BLOCKED
        } else {
            u64::try_from(elapsed).unwrap_or(BLOCKED - 1)
        };
        self.0.blocked.store(until, Ordering::Relaxed);
    }

    /// Until when the socket took nothing: now, if it does so.
    pub(super) fn blocked_until(&self) -> Instant {
        match self.0.blocked.load(Ordering::Relaxed) {
            BLOCKED => Instant::now(),
            until => self.0.opened + Duration::from_millis(until),
        }
    }

    /// Whether the client takes bytes as fast as they come, as far as the last megabytes show.
    pub(super) fn takes_what_comes(&self, quick: bool) {
        self.0.quick.store(quick, Ordering::Relaxed);
    }

    /// What [`Self::takes_what_comes`] was told last.
    pub(super) fn quick(&self) -> bool {
        self.0.quick.load(Ordering::Relaxed)
    }

    /// Has `waker` woken by [`Self::wake`], and when the last answer under way ends elsewhere.
    pub(super) fn register(&self, waker: &Waker) {
        self.0.reader.register(waker);
    }

    /// Wakes who reads the socket.
    pub(super) fn wake(&self) {
        self.0.reader.wake();
    }
}

/// A request that is being answered.
#[derive(Debug)]
pub struct Exchange(Exchanges);

impl Drop for Exchange {
    fn drop(&mut self) {
        let last = self.0.0.running.fetch_sub(1, Ordering::AcqRel) == 1;
        // In HTTP/1 the task that ends an answer is the one that reads, and goes on to do so.
        if last && self.0.multiplexed() {
            self.0.wake();
        }
    }
}

/// The body of an answer, which is under way until this is dropped.
///
/// In HTTP/2 it ends only once the last of it was taken, so that its permit, its account and its
/// stream's patience last as long as its bytes do; HTTP/1 keeps its own watch at the socket. And
/// what is ready leaves in one frame there, as far as the client takes such: each one costs its task
/// and the connection's a turn, and the kernel a write.
pub struct Answer {
    body: Body,
    stream: Option<Arc<Stream>>,
    /// How far an HTTP/2 answer has come.
    way: Way,
    /// What ended it, behind bytes that leave first.
    failed: Option<std::io::Error>,
    exchange: Exchange,
    _place: Option<Place>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// No byte was handed out.
    Begun,
    /// Some were.
    Leaving,
    /// All were.
    Left,
    /// All were taken.
    Taken,
}

impl Answer {
    /// `body`, the answer of `exchange`, made in the task that will send it.
    pub fn new(mut body: Body, exchange: Exchange) -> Self {
        let stream = Stream::current();
        // Of a stream among others the socket says nothing.
        if stream.is_none() && exchange.0.quick() {
            body.quick();
        }
        Self {
            body,
            stream,
            way: Way::Begun,
            failed: None,
            exchange,
            _place: None,
        }
    }

    /// The same, which keeps its place in the memory for as long as it is under way.
    pub fn in_place(mut self, place: Option<Place>) -> Self {
        self._place = place;
        self
    }

    /// Ready with the body's end once all of it was taken.
    fn poll_end(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Piece>, std::io::Error>>> {
        if let Some(stream) = &self.stream {
            std::task::ready!(stream.poll_taken(cx));
        }
        self.way = Way::Taken;
        Poll::Ready(None)
    }
}

impl HttpBody for Answer {
    type Data = Piece;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Piece>, std::io::Error>>> {
        let this = &mut *self;
        if let Some(error) = this.failed.take() {
            return Poll::Ready(Some(Err(error)));
        }
        if this.way == Way::Left {
            return this.poll_end(cx);
        }
        let mut piece: Option<Piece> = None;
        loop {
            match (Pin::new(&mut this.body).poll_frame(cx), &mut piece) {
                (Poll::Pending, None) => return Poll::Pending,
                (Poll::Ready(Some(Err(error))), None) => return Poll::Ready(Some(Err(error))),
                (Poll::Ready(None), None) => {
                    this.way = Way::Left;
                    return this.poll_end(cx);
                }
                (Poll::Pending, Some(_)) => break,
                (Poll::Ready(Some(Err(error))), Some(_)) => {
                    this.failed = Some(error);
                    break;
                }
                (Poll::Ready(None), Some(_)) => {
                    this.way = Way::Left;
                    break;
                }
                (Poll::Ready(Some(Ok(frame))), gathered) => {
                    // Nothing of ours has trailers.
                    let Ok(bytes) = frame.into_data() else {
                        continue;
                    };
                    this.way = Way::Leaving;
                    match gathered {
                        None => *gathered = Some(Piece::new(bytes, this.stream.as_ref())),
                        Some(piece) => piece.push(bytes),
                    }
                    // HTTP/1 gathers what it writes itself.
                    if this.stream.is_none() {
                        break;
                    }
                }
            }
        }
        Poll::Ready(piece.map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        match (&self.stream, self.way) {
            (Some(_), Way::Leaving | Way::Left) => false,
            _ => self.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        let Some(stream) = &self.stream else {
            if let Some(timeout) = self.exchange.0.given_up() {
                self.body.give_up(timeout);
            }
            return;
        };
        let under_way = matches!(self.way, Way::Leaving | Way::Left);
        // Its own patience, or that of the socket below all streams.
        let socket = self.exchange.0.given_up().filter(|_| under_way);
        if let Some(timeout) = stream.given_up().or(socket) {
            self.body.give_up(timeout);
        } else if under_way {
            self.body.lose();
        }
    }
}
