//! The stream that leaves, at the socket's own pace.
//!
//! A slow client must cost neither memory nor anybody's fill. So a body counts the segments that
//! it has handed out and that the socket has not taken yet, hands out few at a time, and lets its
//! blocks go when nothing moves.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
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

/// Segments handed out once the socket has stood still, or while memory is short.
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
    /// The client took no byte for so long.
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
    feed: Kept,
    /// None: at most one piece was handed out, and none is to come.
    handed_out: Option<Arc<HandedOut>>,
    most: usize,
    stalled: Option<Stalled>,
    /// Rings when a socket has stood still for long. It is left running when it moves: setting a
    /// timer costs more than being woken by one four times a second.
    timer: Option<Pin<Box<Sleep>>>,
    /// Bytes handed out so far.
    sent: u64,
    /// Bytes in all.
    length: u64,
    budget: Budget,
    /// Told when bytes are handed out while a fill waits for memory, if a task watches.
    pressed: Option<Arc<Notify>>,
    /// For another gateway: its bytes have a part of the memory for themselves.
    unrationed: bool,
    /// How long it may stand still, where its connection does not watch.
    patience: Option<Duration>,
}

/// What feeds a body. None: all has left, or the rest can't be had.
#[expect(
    clippy::large_enum_variant,
    reason = "most bodies own theirs, and are in a box as they are"
)]
enum Kept {
    /// It is the body's own.
    Own(Option<Feed>),
    /// It is shared with the task that watches it.
    Watched(Arc<Shared>),
}

/// What a body shares with the task that watches it.
struct Shared {
    feed: Mutex<Option<Feed>>,
    polls: AtomicU64,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Option<Feed>> {
        self.feed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lets the blocks go of a body that nobody asks.
fn let_go(shared: &Shared) {
    let forgotten = shared.lock().as_mut().and_then(|feed| {
        feed.release();
        feed.forgotten()
    });
    if let Some(asker) = forgotten {
        asker.wake();
    }
}

impl Kept {
    fn with<T>(&mut self, act: impl FnOnce(&mut Option<Feed>) -> T) -> T {
        match self {
            Self::Own(feed) => act(feed),
            Self::Watched(shared) => {
                shared.polls.fetch_add(1, Ordering::Relaxed);
                act(&mut shared.lock())
            }
        }
    }
}

/// Where a body's bytes come from.
pub enum Feed {
    /// The cache.
    Blocks(Blocks),
    /// One answer of the origin, past the cache.
    Through(Passthrough),
}

/// Bytes from the cache.
pub struct Blocks {
    reader: Reader,
    /// The fill that it waits for.
    waiting: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    /// Who was told last that it waits.
    asker: Option<Waker>,
}

impl From<Reader> for Feed {
    fn from(reader: Reader) -> Self {
        Self::Blocks(Blocks {
            reader,
            waiting: None,
            asker: None,
        })
    }
}

impl Blocks {
    fn poll_step(&mut self, cx: &mut Context<'_>, most: usize) -> Poll<Step> {
        loop {
            if let Some(waiting) = &mut self.waiting {
                if waiting.as_mut().poll(cx).is_pending() {
                    self.asker = Some(cx.waker().clone());
                    return Poll::Pending;
                }
                self.waiting = None;
                self.asker = None;
            }
            let step = self.reader.step(most);
            if !matches!(step, Step::Wait) {
                return Poll::Ready(step);
            }
            self.waiting = Some(Box::pin(self.reader.waiting()));
        }
    }
}

impl Feed {
    fn poll_step(&mut self, cx: &mut Context<'_>, most: usize) -> Poll<Step> {
        match self {
            Self::Blocks(blocks) => blocks.poll_step(cx, most),
            Self::Through(through) => through.poll_step(cx),
        }
    }

    /// Lets go of what can be had again, and says whether that is all: the block that a fill is
    /// awaited of stays until it has come, for nothing else would wake who waits for it.
    fn release(&mut self) -> bool {
        let Self::Blocks(blocks) = self else {
            return true;
        };
        if blocks.waiting.is_some() && blocks.reader.must_wait() {
            blocks.reader.release_ahead();
            return false;
        }
        blocks.waiting = None;
        blocks.reader.release();
        true
    }

    /// Who was told to wait for a fill that is not awaited any more. It came, but what was let go may
    /// not have said so yet: it must be woken.
    fn forgotten(&mut self) -> Option<Waker> {
        match self {
            Self::Blocks(blocks) if blocks.waiting.is_none() => blocks.asker.take(),
            _ => None,
        }
    }
}

#[derive(Debug)]
struct Stalled {
    since: Instant,
    /// When its blocks were last to be let go; at first, when it came to stand still.
    tried: Instant,
    released: bool,
    /// It has lasted [`STALLED`].
    long: bool,
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
    /// The body of `length` bytes that `feed` feeds. `budget` tells whether somebody waits for memory.
    pub fn new(feed: impl Into<Feed>, length: u64, budget: Budget) -> Self {
        Self {
            feed: Kept::Own(Some(feed.into())),
            handed_out: None,
            most: FEW,
            stalled: None,
            timer: None,
            sent: 0,
            length,
            budget,
            pressed: None,
            unrationed: false,
            patience: None,
        }
    }

    /// The same for another gateway, whose bytes are no client's: it is cut once it has taken too little for
    /// `patience`.
    pub fn for_member(mut self, patience: Duration) -> Self {
        self.unrationed = true;
        self.patience = Some(patience);
        self
    }

    /// The client took all of what came before as fast as it came, so this body need not prove that anew: while
    /// sockets hold much it would be handed 4 MiB in small copies first.
    pub fn quick(&mut self) {
        self.most = MANY;
    }

    /// Has a task of its own let the blocks go when nobody asks for bytes any more.
    ///
    /// For HTTP/2: there hyper takes one piece and asks for the next when the stream's window has
    /// room, so a body whose client stands still is not polled at all.
    pub fn watched(mut self) -> Self {
        let shared = Arc::new(Shared {
            feed: Mutex::new(self.feed.with(Option::take)),
            polls: AtomicU64::new(0),
        });
        let watched = Arc::downgrade(&shared);
        self.feed = Kept::Watched(shared);
        let pressed = Arc::new(Notify::new());
        self.pressed = Some(Arc::clone(&pressed));
        tokio::spawn(async move {
            let mut seen = u64::MAX;
            loop {
                tokio::select! {
                    biased;
                    () = pressed.notified() => {
                        seen = watched.upgrade().map_or(seen, |shared| {
                            shared.polls.load(Ordering::Relaxed)
                        });
                        tokio::time::sleep(STALLED_UNDER_PRESSURE).await;
                    }
                    () = tokio::time::sleep(STALLED) => {}
                }
                let Some(shared) = watched.upgrade() else {
                    return;
                };
                let polls = shared.polls.load(Ordering::Relaxed);
                if polls == seen {
                    let_go(&shared);
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
        if self.held() >= most {
            if let Some(handed_out) = &self.handed_out {
                handed_out.taken.register(cx.waker());
            }
            // It may have been taken between the look and the registration.
            if self.held() >= most {
                return self.poll_stalled(cx).map(|error| Some(Err(error)));
            }
        }
        self.moving();
        let step = self.feed.with(|slot| {
            let Some(feed) = slot else {
                return Poll::Ready(Step::End);
            };
            let step = feed.poll_step(cx, bytes);
            if let Poll::Ready(Step::End | Step::Fail(_)) = step {
                *slot = None;
            }
            step
        });
        match step {
            Poll::Pending | Poll::Ready(Step::Wait) => Poll::Pending,
            Poll::Ready(Step::Bytes(bytes, source)) => {
                Poll::Ready(Some(Ok((self.hand_out(bytes, ration), source))))
            }
            Poll::Ready(Step::End) => Poll::Ready(None),
            Poll::Ready(Step::Fail(error)) => Poll::Ready(Some(Err(error.into()))),
        }
    }

    /// Whether the socket holds as much of it as it may.
    pub fn is_full(&self) -> bool {
        self.held() >= self.most
    }

    /// Whether it has stood still for long, and holds no blocks.
    pub fn stands_still(&self) -> bool {
        let stalled = self.stalled.as_ref();
        stalled.is_some_and(|stalled| stalled.released && stalled.long)
    }

    /// Segments that were handed out and not yet taken.
    fn held(&self) -> usize {
        let handed_out = self.handed_out.as_ref();
        handed_out.map_or(0, |handed_out| handed_out.segments.load(Ordering::Acquire))
    }

    fn hand_out(&mut self, bytes: Bytes, ration: Ration) -> Bytes {
        self.sent += bytes.len() as u64;
        let copied = ration == Ration::Sip && bytes.len() <= SIP;
        let bytes = match copied {
            true => Bytes::copy_from_slice(&bytes),
            false => bytes,
        };
        if let Some(pressed) = self.pressed.as_ref().filter(|_| self.budget.waiting() > 0) {
            pressed.notify_one();
        }
        if self.sent >= self.length {
            // Nothing comes behind it that could wait for it.
            return bytes;
        }
        let handed_out = self.handed_out.get_or_insert_with(|| {
            Arc::new(HandedOut {
                segments: AtomicUsize::new(0),
                taken: AtomicWaker::new(),
                budget: self.budget.clone(),
            })
        });
        handed_out.segments.fetch_add(1, Ordering::AcqRel);
        let counted = !copied && !self.unrationed;
        if counted {
            self.budget.hand_out();
        }
        Bytes::from_owner(Handed {
            bytes,
            counted,
            handed_out: Arc::clone(handed_out),
        })
    }

    /// The socket took what it was handed: it may have more at once next time.
    fn moving(&mut self) {
        let quick = match self.stalled.take() {
            None => self.held() == 0,
            Some(stalled) => !stalled.released,
        };
        if self.budget.waiting() > 0 {
            self.most = FEW;
        } else if quick && (self.sent >= SWALLOWED || self.is_spare()) {
            self.most = MANY;
        }
    }

    /// Whether all sockets together hold so little that it does not matter how fast this one is: for want
    /// of it a read of 1 MiB stopped eight times on its way.
    fn is_spare(&self) -> bool {
        self.budget.ration(false) == Ration::Segments
    }

    /// The socket holds as much as it may: its blocks are let go once nothing has moved for long. When a client
    /// has taken nothing for too long is for its connection to say, which sees bytes leave where this sees
    /// segments.
    fn poll_stalled(&mut self, cx: &mut Context<'_>) -> Poll<CutError> {
        let soon = if self.budget.waiting() > 0 {
            STALLED_UNDER_PRESSURE
        } else {
            STALLED
        };
        let stalled = self.stalled.get_or_insert_with(|| {
            let now = Instant::now();
            Stalled {
                since: now,
                tried: now,
                released: false,
                long: false,
            }
        });
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(stalled.since + soon)));
        loop {
            let given_up = self.patience.map(|patience| stalled.since + patience);
            let retry = (!stalled.released).then(|| stalled.tried + soon);
            let long = (!stalled.long).then(|| stalled.since + STALLED);
            let all = [given_up, retry, long];
            let Some(due) = all.into_iter().flatten().min() else {
                return Poll::Pending;
            };
            if timer.deadline() > due {
                timer.as_mut().reset(due);
            }
            std::task::ready!(timer.as_mut().poll(cx));
            if timer.deadline() < due {
                // It was set when the socket stood still before.
                timer.as_mut().reset(due);
                continue;
            }
            if let Some(patience) = self.patience.filter(|_| given_up == Some(due)) {
                return Poll::Ready(CutError::WriteTimeout(patience));
            }
            stalled.long |= long == Some(due);
            if retry != Some(due) {
                continue;
            }
            self.most = FEW;
            stalled.tried = Instant::now();
            stalled.released = self
                .feed
                .with(|slot| slot.as_mut().is_none_or(Feed::release));
        }
    }
}

#[cfg(test)]
mod tests;
