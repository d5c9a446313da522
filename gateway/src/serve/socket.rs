//! A client's socket, with the patience that we have for it.
//!
//! hyper can time a request's head, but its timer runs between two requests too. So all times are
//! kept here: a head that does not end, a connection that asks nothing more, a socket that takes
//! nothing, whatever is being sent and however little of it is left.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::exchanges::Exchanges;
use super::frames::Frames;
use super::wire::Wire;
use crate::settings::Limits;

/// A socket for hyper.
pub type Socket = TokioIo<Timed<Wire>>;

/// How long a client may take to read the answer that it shall not ask more.
const LINGER: Duration = Duration::from_secs(1);

/// While an answer is under way, whether it has ended is looked at so often in an `idle_timeout`, which is
/// passed by as much at most; and while a socket is full, whether its client takes bytes, in a `write_timeout`.
const LOOKS: u32 = 8;
const LEAST_LOOK: Duration = Duration::from_millis(100);

/// How long a client may take.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For a head: the first one from the beginning of the connection, others from their first
    /// byte.
    pub header: Duration,
    /// Between two requests, while nothing is being sent.
    pub idle: Duration,
    /// Taking no byte of an answer.
    pub write: Duration,
}

impl From<&Limits> for Patience {
    fn from(limits: &Limits) -> Self {
        Self {
            header: limits.header_timeout,
            idle: limits.idle_timeout,
            write: limits.write_timeout,
        }
    }
}

/// What a connection waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waiting {
    /// Us: reading has no end.
    Answer,
    /// The rest of a head.
    Head,
    /// The next request.
    Next,
}

/// A stream that fails when nothing moves for too long.
#[derive(Debug)]
pub struct Timed<S> {
    stream: S,
    patience: Patience,
    exchanges: Exchanges,
    /// What is awaited, after how many requests.
    waiting: (Waiting, u64),
    /// When that has taken too long.
    due: Instant,
    /// Rings at `due` or before. It is left running while that moves on: setting a timer costs more than
    /// being woken by one now and then.
    read_until: Pin<Box<Sleep>>,
    /// How many requests had come when bytes last did.
    heard: Option<u64>,
    /// Has the task look at a full socket. It is left running while that takes bytes.
    write_look: Option<Pin<Box<Sleep>>>,
    /// When a full socket has been so for too long.
    write_due: Instant,
    writing: bool,
    /// TLS holds bytes that the socket does not take.
    flushing: bool,
    /// How often bytes were taken, of the socket or below TLS, when this was last looked at.
    seen: u64,
    frames: Frames,
    /// The HTTP/2 frame that has begun and not ended, and until when it must.
    half: Option<(u64, Pin<Box<Sleep>>)>,
    /// When bytes were last taken, or this was opened.
    taken: Instant,
    /// Whether bytes were taken since this was last looked at.
    took: bool,
}

impl<S> Timed<S> {
    /// `stream`, which has all of `patience`; `exchanges` is told of its requests.
    pub fn new(stream: S, patience: Patience, exchanges: Exchanges) -> Self {
        let now = Instant::now();
        let due = now + patience.header;
        Self {
            stream,
            exchanges,
            waiting: (Waiting::Head, 0),
            due,
            read_until: Box::pin(tokio::time::sleep_until(due)),
            patience,
            heard: None,
            write_look: None,
            write_due: due,
            writing: false,
            flushing: false,
            seen: 0,
            frames: Frames::default(),
            half: None,
            taken: now,
            took: false,
        }
    }

    /// What is awaited of a connection that has brought `begun` requests.
    fn awaited(&self, begun: u64) -> Waiting {
        if self.writing || self.flushing || self.exchanges.running() {
            Waiting::Answer
        } else if begun == 0 || (self.heard == Some(begun) && !self.exchanges.multiplexed()) {
            Waiting::Head
        } else {
            Waiting::Next
        }
    }

    /// Ready with an error once the client has said nothing for too long.
    fn poll_read_until(&mut self, cx: &mut Context<'_>, begun: u64) -> Poll<io::Error> {
        // Before looking: an answer that ends from now on wakes us.
        self.exchanges.register(cx.waker());
        if self.poll_half(cx).is_ready() {
            let sentence = "the client sent no whole frame";
            return Poll::Ready(io::Error::new(io::ErrorKind::TimedOut, sentence));
        }
        let waiting = self.awaited(begun);
        let taken = std::mem::take(&mut self.took).then_some(self.taken);
        let (timeout, sentence) = match waiting {
            Waiting::Answer => {
                self.waiting = (waiting, begun);
                return self.poll_look(cx);
            }
            Waiting::Head => (self.patience.header, "the client sent no whole request"),
            Waiting::Next if self.exchanges.over() => (LINGER, "the client was turned away"),
            Waiting::Next => (self.patience.idle, "the client asked nothing more"),
        };
        let taken = taken.filter(|_| waiting == Waiting::Next);
        if self.waiting != (waiting, begun) {
            self.waiting = (waiting, begun);
            self.due = taken.unwrap_or_else(Instant::now) + timeout;
        } else if let Some(taken) = taken {
            self.due = taken + timeout;
        }
        self.poll_due(cx)
            .map(|()| io::Error::new(io::ErrorKind::TimedOut, sentence))
    }

    /// Ready once what is awaited is due.
    fn poll_due(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.read_until.deadline() > self.due {
            self.read_until.as_mut().reset(self.due);
        }
        loop {
            std::task::ready!(self.read_until.as_mut().poll(cx));
            if self.read_until.deadline() >= self.due {
                return Poll::Ready(());
            }
            self.read_until.as_mut().reset(self.due);
        }
    }

    /// Has the task come back before long: in HTTP/1 nobody says that an answer has ended, since a word
    /// for each would cost a turn of the task for each.
    fn poll_look(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let pause = (self.patience.idle / LOOKS).max(LEAST_LOOK);
        let deadline = self.read_until.deadline();
        // Mostly that is soon enough after what left last, and the clock need not be read.
        if deadline > self.taken + pause {
            let look = Instant::now() + pause;
            if deadline > look {
                self.read_until.as_mut().reset(look);
            }
        }
        while self.read_until.as_mut().poll(cx).is_ready() {
            self.read_until.as_mut().reset(Instant::now() + pause);
        }
        Poll::Pending
    }

    /// Ready once an HTTP/2 field section has been half here for too long, whatever else goes on.
    fn poll_half(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(frame) = self.frames.unfinished() else {
            self.half = None;
            return Poll::Pending;
        };
        if self.half.as_ref().is_none_or(|(begun, _)| *begun != frame) {
            let until = tokio::time::sleep(self.patience.header);
            self.half = Some((frame, Box::pin(until)));
        }
        match &mut self.half {
            Some((_, until)) => until.as_mut().poll(cx),
            None => Poll::Pending,
        }
    }

    /// Ready with an error once a write has been pending for too long; now it `begins` to be.
    fn poll_write_until(&mut self, cx: &mut Context<'_>, begins: bool) -> Poll<io::Error> {
        if begins {
            self.exchanges.blocked(true);
        }
        let timeout = self.patience.write;
        let taken = self.exchanges.taken();
        if begins || taken != self.seen {
            self.seen = taken;
            self.write_due = Instant::now() + timeout;
        }
        let due = self.write_due;
        let look = self
            .write_look
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(timeout / LOOKS)));
        loop {
            std::task::ready!(look.as_mut().poll(cx));
            let now = Instant::now();
            if now >= due {
                self.exchanges.give_up(timeout);
                let sentence = "the client took no byte";
                return Poll::Ready(io::Error::new(io::ErrorKind::TimedOut, sentence));
            }
            look.as_mut().reset(due.min(now + timeout / LOOKS));
        }
    }

    fn written(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if written.is_pending() {
            let begins = !std::mem::replace(&mut self.writing, true);
            return self.poll_write_until(cx, begins && !self.flushing).map(Err);
        }
        self.takes();
        let waited = std::mem::take(&mut self.writing);
        self.goes_on(waited);
        written
    }
}

impl<S> Timed<S> {
    fn takes(&mut self) {
        (self.taken, self.took) = (Instant::now(), true);
    }

    /// The socket takes bytes, for which one of the two may have `waited`.
    fn goes_on(&self, waited: bool) {
        if waited && !self.writing && !self.flushing {
            self.exchanges.blocked(false);
            // hyper may not come back to reading by itself, and that is where silence is timed.
            self.exchanges.wake();
        }
    }

    /// What TLS holds back is timed like a write: it ends with all of it at the socket.
    fn flushed(
        &mut self,
        cx: &mut Context<'_>,
        flushed: Poll<io::Result<()>>,
    ) -> Poll<io::Result<()>> {
        if flushed.is_pending() {
            let begins = !std::mem::replace(&mut self.flushing, true);
            return self.poll_write_until(cx, begins && !self.writing).map(Err);
        }
        if std::mem::take(&mut self.flushing) {
            self.takes();
            self.goes_on(true);
        }
        flushed
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Timed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let begun = this.exchanges.begun();
        let before = buffer.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(cx, buffer);
        if read.is_pending() {
            return this.poll_read_until(cx, begun).map(Err);
        }
        if buffer.filled().len() > before {
            this.heard = Some(begun);
            if let Err(flood) = this.frames.read(&buffer.filled()[before..]) {
                this.exchanges.flood();
                return Poll::Ready(Err(io::Error::other(flood)));
            }
        }
        read
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
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.flushed(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.flushed(cx, shut)
    }
}

#[cfg(test)]
mod tests;
