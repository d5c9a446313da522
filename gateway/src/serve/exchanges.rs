//! What a connection was asked and is still being answered: the service tells, the socket's timers
//! listen.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use futures::task::AtomicWaker;
use http::Version;
use http_body::{Body as HttpBody, Frame, SizeHint};

use crate::body::Body;

/// The requests of one connection.
#[derive(Clone, Debug, Default)]
pub struct Exchanges(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    begun: AtomicU64,
    running: AtomicUsize,
    multiplexed: AtomicBool,
    over: AtomicBool,
    reader: AtomicWaker,
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
pub struct Answer {
    body: Body,
    _exchange: Exchange,
}

impl Answer {
    /// `body`, the answer of `exchange`.
    pub fn new(body: Body, exchange: Exchange) -> Self {
        Self {
            body,
            _exchange: exchange,
        }
    }
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
