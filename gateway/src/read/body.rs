//! The stream that leaves, at the socket's own pace.
//!
//! A slow client must cost neither memory nor anybody's fill. So a body counts the segments that
//! it has handed out and that the socket has not taken yet, hands out few at a time, and lets its
//! blocks go when nothing moves.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use forebay_storage::budget::{Budget, Ration, SIP};
use forebay_storage::error::OriginError;
use futures::task::AtomicWaker;
use tokio::sync::Notify;
use tokio::time::{Instant, Sleep};

use super::passthrough::Passthrough;
use super::window::{Reader, Step};
use crate::metrics::Source;

/// Segments handed out at first, and again once the socket has stood still.
const FEW: usize = 2;

/// Segments handed out while the socket drains. hyper stops asking at about 400 KiB, that is in
/// its seventh segment; below that it is we who notice that nothing moves.
const MANY: usize = 6;

/// Before so much has left, a socket that drains may only be filling the kernel's buffers: a client
/// that never reads takes about 2.5 MiB that way.
const SWALLOWED: u64 = 4 << 20;

/// A socket that took nothing for so long is slow: its blocks are let go.
const STALLED: Duration = Duration::from_millis(250);

/// The same while a fill waits for memory.
const STALLED_UNDER_PRESSURE: Duration = Duration::from_millis(10);

/// Why a body ended before it was whole.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CutError {
    /// The rest can't be had.
    #[error("the rest of the object can't be read: {0}")]
    Origin(#[from] OriginError),
    /// The client took no byte for `write_timeout`.
    #[error("the client took no byte for {0:?}")]
    WriteTimeout(Duration),
}

impl CutError {
    /// The label for metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Origin(OriginError::Changed) => "changed",
            Self::Origin(_) => "origin",
            Self::WriteTimeout(_) => "write_timeout",
        }
    }
}

/// Bytes that leave and where they were (`None`: text of ours), or why none do.
pub type Leaving = Result<(Bytes, Option<Source>), CutError>;

/// The body of an object's answer.
pub struct ReadBody {
    feed: Arc<Shared>,
    handed_out: Arc<HandedOut>,
    most: usize,
    stalled: Option<Stalled>,
    /// Bytes handed out so far.
    sent: u64,
    write_timeout: Duration,
    budget: Budget,
    /// Told when bytes are handed out while a fill waits for memory, if a task watches.
    pressed: Option<Arc<Notify>>,
    /// For another gateway: its bytes have a part of the memory for themselves.
    unrationed: bool,
}

/// What a body shares with the task that watches it, if one does.
struct Shared {
    /// None: all has left, or the rest can't be had. Nobody but the watcher ever contends for it.
    feed: Mutex<Option<Feed>>,
    polls: AtomicU64,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Option<Feed>> {
        self.feed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn release(&self) {
        let mut feed = self.lock();
        *feed = feed.take().map(Feed::release);
    }
}

/// Where a body's bytes come from.
pub enum Feed {
    /// The cache.
    Blocks(Reader),
    /// The cache, which is waiting for a fill.
    Waiting(Reader, Pin<Box<dyn Future<Output = ()> + Send>>),
    /// One answer of the origin, past the cache.
    Through(Passthrough),
}

impl Feed {
    fn poll_step(self, cx: &mut Context<'_>, most: usize) -> (Poll<Step>, Self) {
        let mut reader = match self {
            Self::Through(mut through) => {
                let step = through.poll_step(cx);
                return (step, Self::Through(through));
            }
            Self::Blocks(reader) => reader,
            Self::Waiting(reader, mut waiting) => match waiting.as_mut().poll(cx) {
                Poll::Ready(()) => reader,
                Poll::Pending => return (Poll::Pending, Self::Waiting(reader, waiting)),
            },
        };
        loop {
            let step = reader.step(most);
            if !matches!(step, Step::Wait) {
                return (Poll::Ready(step), Self::Blocks(reader));
            }
            let mut waiting = Box::pin(reader.waiting());
            if waiting.as_mut().poll(cx).is_pending() {
                return (Poll::Pending, Self::Waiting(reader, waiting));
            }
        }
    }

    /// Lets go of what can be had again. Not while it waits for a fill: who waits is woken by it.
    fn release(self) -> Self {
        match self {
            Self::Blocks(mut reader) => {
                reader.release();
                Self::Blocks(reader)
            }
            other => other,
        }
    }
}

#[derive(Debug)]
struct Stalled {
    since: Instant,
    timer: Pin<Box<Sleep>>,
    released: bool,
}

/// Segments that were handed out and not yet dropped, and who waits for that.
#[derive(Debug)]
struct HandedOut {
    segments: AtomicUsize,
    taken: AtomicWaker,
    budget: Budget,
}

/// A segment on its way through the socket.
struct Handed {
    bytes: Bytes,
    /// It is a segment's, and counted with those of all bodies.
    counted: bool,
    handed_out: Arc<HandedOut>,
}

impl AsRef<[u8]> for Handed {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Handed {
    fn drop(&mut self) {
        if self.counted {
            self.handed_out.budget.take_back();
        }
        self.handed_out.segments.fetch_sub(1, Ordering::AcqRel);
        self.handed_out.taken.wake();
    }
}

impl ReadBody {
    /// The body that `feed` feeds. `budget` tells whether somebody waits for memory.
    pub fn new(feed: Feed, write_timeout: Duration, budget: Budget) -> Self {
        Self {
            feed: Arc::new(Shared {
                feed: Mutex::new(Some(feed)),
                polls: AtomicU64::new(0),
            }),
            handed_out: Arc::new(HandedOut {
                segments: AtomicUsize::new(0),
                taken: AtomicWaker::new(),
                budget: budget.clone(),
            }),
            most: FEW,
            stalled: None,
            sent: 0,
            write_timeout,
            budget,
            pressed: None,
            unrationed: false,
        }
    }

    /// The same for another gateway, whose bytes are no client's.
    pub fn unrationed(mut self) -> Self {
        self.unrationed = true;
        self
    }

    /// Has a task of its own let the blocks go when nobody asks for bytes any more.
    ///
    /// For HTTP/2: there hyper takes one piece and asks for the next when the stream's window has
    /// room, so a body whose client stands still is not polled at all.
    pub fn watched(mut self) -> Self {
        let shared = Arc::downgrade(&self.feed);
        let pressed = Arc::new(Notify::new());
        self.pressed = Some(Arc::clone(&pressed));
        tokio::spawn(async move {
            let mut seen = u64::MAX;
            loop {
                tokio::select! {
                    () = tokio::time::sleep(STALLED) => {}
                    () = pressed.notified() => {
                        seen = shared.upgrade().map_or(seen, |shared| {
                            shared.polls.load(Ordering::Relaxed)
                        });
                        tokio::time::sleep(STALLED_UNDER_PRESSURE).await;
                    }
                }
                let Some(shared) = shared.upgrade() else {
                    return;
                };
                let polls = shared.polls.load(Ordering::Relaxed);
                if polls == seen {
                    shared.release();
                }
                seen = polls;
            }
        });
        self
    }

    /// The next bytes and where they were.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Leaving>> {
        let ration = match self.unrationed {
            true => Ration::Segments,
            false => self.budget.ration(self.most == MANY),
        };
        let (most, bytes) = match ration {
            Ration::Segments => (self.most, usize::MAX),
            Ration::Segment => (1, usize::MAX),
            Ration::Sip => (1, SIP),
        };
        if self.handed_out.segments.load(Ordering::Acquire) >= most {
            self.handed_out.taken.register(cx.waker());
            // It may have been taken between the look and the registration.
            if self.handed_out.segments.load(Ordering::Acquire) >= most {
                return self.poll_stalled(cx).map(|error| Some(Err(error)));
            }
        }
        self.moving();
        self.feed.polls.fetch_add(1, Ordering::Relaxed);
        let shared = Arc::clone(&self.feed);
        let mut slot = shared.lock();
        let Some(feed) = slot.take() else {
            return Poll::Ready(None);
        };
        let (step, feed) = feed.poll_step(cx, bytes);
        match step {
            Poll::Pending | Poll::Ready(Step::Wait) => {
                *slot = Some(feed);
                Poll::Pending
            }
            Poll::Ready(Step::Bytes(bytes, source)) => {
                *slot = Some(feed);
                drop(slot);
                Poll::Ready(Some(Ok((self.hand_out(bytes, ration), source))))
            }
            Poll::Ready(Step::End) => Poll::Ready(None),
            Poll::Ready(Step::Fail(error)) => Poll::Ready(Some(Err(error.into()))),
        }
    }

    fn hand_out(&mut self, bytes: Bytes, ration: Ration) -> Bytes {
        self.handed_out.segments.fetch_add(1, Ordering::AcqRel);
        self.sent += bytes.len() as u64;
        let copied = ration == Ration::Sip && bytes.len() <= SIP;
        let counted = !copied && !self.unrationed;
        if counted {
            self.budget.hand_out();
        }
        if let Some(pressed) = self.pressed.as_ref().filter(|_| self.budget.waiting() > 0) {
            pressed.notify_one();
        }
        Bytes::from_owner(Handed {
            bytes: match copied {
                true => Bytes::copy_from_slice(&bytes),
                false => bytes,
            },
            counted,
            handed_out: Arc::clone(&self.handed_out),
        })
    }

    /// The socket took what it was handed: it may have more at once next time.
    fn moving(&mut self) {
        let quick = match self.stalled.take() {
            None => self.handed_out.segments.load(Ordering::Acquire) == 0,
            Some(stalled) => !stalled.released,
        };
        if self.budget.waiting() > 0 {
            self.most = FEW;
        } else if quick && self.sent >= SWALLOWED {
            self.most = MANY;
        }
    }

    /// The socket holds as much as it may: how long has nothing moved?
    fn poll_stalled(&mut self, cx: &mut Context<'_>) -> Poll<CutError> {
        let soon = if self.budget.waiting() > 0 {
            STALLED_UNDER_PRESSURE
        } else {
            STALLED
        };
        let stalled = self.stalled.get_or_insert_with(|| Stalled {
            since: Instant::now(),
            timer: Box::pin(tokio::time::sleep(soon)),
            released: false,
        });
        while stalled.timer.as_mut().poll(cx).is_ready() {
            if stalled.released {
                return Poll::Ready(CutError::WriteTimeout(self.write_timeout));
            }
            stalled.released = true;
            stalled
                .timer
                .as_mut()
                .reset(stalled.since + self.write_timeout);
            self.most = FEW;
            self.feed.release();
        }
        Poll::Pending
    }
}
