//! HTTP/2 streams that stand still.
//!
//! In HTTP/1 the socket is the answer's only way out, and whoever takes nothing is seen there. In
//! HTTP/2 a client can shut one stream's window and keep its connection busy, or quiet: the stream
//! then holds its request's permit and what was handed out, and nobody asks its body for anything.
//! So each stream watches itself.
//!
//! And it runs in its connection's task. All that it does ends in bytes for that one, which would otherwise be
//! woken, on another core as often as not, for each piece that a stream hands it.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::io::IoSlice;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::task::AtomicWaker;
use futures::{FutureExt, StreamExt};
use hyper::rt::Executor;
use tokio::time::Instant;

use super::exchanges::Exchanges;

tokio::task_local! {
    /// The stream that is running.
    static STREAM: Arc<Stream>;
}

/// Runs the streams of one connection, each until its answer has been taken, or none of it for
/// `write_timeout`.
#[derive(Clone)]
pub struct Streams {
    exchanges: Exchanges,
    write_timeout: Duration,
    /// Those that nobody has begun to run.
    new: Arc<Mutex<Vec<BoxFuture<'static, ()>>>>,
}

impl Streams {
    /// For the connection of `exchanges`.
    pub fn new(exchanges: Exchanges, write_timeout: Duration) -> Self {
        Self {
            exchanges,
            write_timeout,
            new: Arc::default(),
        }
    }

    /// Runs them in one task with their `connection`, and does `after` after each turn of that. Those that are
    /// left when it ends, to account for what they sent, go on without it. Dropping the future drops them
    /// all.
    pub async fn beside<C: Future>(self, connection: C, after: impl Fn()) -> C::Output {
        let _emptied = Emptied(&self);
        let mut connection = pin!(connection);
        let mut running = FuturesUnordered::new();
        let ended = poll_fn(|cx| {
            let ended = connection.as_mut().poll(cx);
            after();
            running.extend(std::mem::take(&mut *self.lock()));
            // Whoever of them hands bytes out wakes the connection, and so this.
            while let Poll::Ready(Some(())) = running.poll_next_unpin(cx) {}
            ended
        });
        let ended = ended.await;
        for stream in running {
            tokio::spawn(stream);
        }
        ended
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<BoxFuture<'static, ()>>> {
        self.new.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Drops the streams that nobody has begun to run when the connection ends badly: each of them holds them all.
struct Emptied<'a>(&'a Streams);

impl Drop for Emptied<'_> {
    fn drop(&mut self) {
        let left = std::mem::take(&mut *self.0.lock());
        drop(left);
    }
}

impl<F> Executor<F> for Streams
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, future: F) {
        let stream = Arc::new(Stream {
            exchanges: self.exchanges.clone(),
            write_timeout: self.write_timeout,
            begun: Instant::now(),
            moved: AtomicU64::new(0),
            pieces: AtomicUsize::new(0),
            taken: AtomicWaker::new(),
            given_up: AtomicBool::new(false),
        });
        let watched = Arc::clone(&stream);
        let running = async move {
            // What is dropped with the future resets the stream, and frees all that it held.
            tokio::select! {
                biased;
                _ = future => {}
                () = watched.stands_still() => tracing::debug!("a stream stood still and is reset"),
            }
        };
        let running = STREAM.scope(stream, running);
        // What goes wrong with one is no other's.
        let running = AssertUnwindSafe(running).catch_unwind().map(drop);
        self.lock().push(running.boxed());
    }
}

/// One stream: how much of its answer is on its way, and when any of it last left.
#[derive(Debug)]
pub struct Stream {
    exchanges: Exchanges,
    write_timeout: Duration,
    begun: Instant,
    /// Milliseconds from `begun`.
    moved: AtomicU64,
    pieces: AtomicUsize,
    taken: AtomicWaker,
    given_up: AtomicBool,
}

impl Stream {
    /// The stream that is running; `None` in HTTP/1.
    pub fn current() -> Option<Arc<Self>> {
        STREAM.try_with(Arc::clone).ok()
    }

    /// How long it may stand still, if it has done so for too long.
    pub fn given_up(&self) -> Option<Duration> {
        let given_up = self.given_up.load(Ordering::Acquire);
        given_up.then_some(self.write_timeout)
    }

    /// Ready once nothing that was handed out is on its way.
    pub fn poll_taken(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.taken.register(cx.waker());
        if self.pieces.load(Ordering::Acquire) == 0 {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }

    fn moves(&self) {
        let elapsed = self.begun.elapsed().as_millis();
        let elapsed = u64::try_from(elapsed).unwrap_or(u64::MAX);
        self.moved.store(elapsed, Ordering::Relaxed);
    }

    fn moved_at(&self) -> Instant {
        self.begun + Duration::from_millis(self.moved.load(Ordering::Relaxed))
    }

    /// Ends once a piece of the answer has been on its way for `write_timeout` with none of it
    /// taken, while the socket took what it was given.
    async fn stands_still(&self) {
        let mut since = self.begun;
        loop {
            tokio::time::sleep_until(since + self.write_timeout).await;
            let now = Instant::now();
            if self.pieces.load(Ordering::Acquire) == 0 {
                since = now;
                continue;
            }
            // A socket that takes nothing is timed itself, and is nothing that one stream can help.
            since = self.moved_at().max(self.exchanges.blocked_until());
            if since + self.write_timeout <= now {
                self.given_up.store(true, Ordering::Release);
                return;
            }
        }
    }
}

/// A piece of an answer on its way out.
#[derive(Debug)]
pub struct Piece {
    bytes: Bytes,
    /// None of them empty.
    rest: VecDeque<Bytes>,
    /// Of all of them: that is asked for several times a frame.
    left: usize,
    stream: Option<Arc<Stream>>,
}

impl Piece {
    /// `bytes`, on their way out through `stream`, if that is how they leave.
    pub fn new(bytes: Bytes, stream: Option<&Arc<Stream>>) -> Self {
        if let Some(stream) = stream
            && stream.pieces.fetch_add(1, Ordering::AcqRel) == 0
        {
            stream.moves();
        }
        Self {
            left: bytes.len(),
            bytes,
            rest: VecDeque::new(),
            stream: stream.cloned(),
        }
    }

    /// Lets more bytes leave behind these.
    pub fn push(&mut self, bytes: Bytes) {
        self.left += bytes.len();
        if self.bytes.is_empty() {
            self.bytes = bytes;
        } else if !bytes.is_empty() {
            self.rest.push_back(bytes);
        }
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        if let Some(stream) = &self.stream
            && stream.pieces.fetch_sub(1, Ordering::AcqRel) == 1
        {
            stream.taken.wake();
        }
    }
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.left
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let parts = std::iter::once(&self.bytes).chain(&self.rest);
        let parts = parts.filter(|part| !part.is_empty());
        let mut filled = 0;
        for (slice, part) in slices.iter_mut().zip(parts) {
            *slice = IoSlice::new(part);
            filled += 1;
        }
        filled
    }

    /// What has left is let go at once, so that more can be handed out.
    fn advance(&mut self, mut count: usize) {
        self.left -= count;
        while count >= self.bytes.len()
            && let Some(next) = self.rest.pop_front()
        {
            count -= self.bytes.len();
            self.bytes = next;
        }
        self.bytes.advance(count);
        if let Some(stream) = &self.stream {
            stream.moves();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(300);

    #[tokio::test(start_paused = true)]
    async fn a_task_knows_its_stream_and_is_dropped_when_that_stands_still() {
        let (given, got) = tokio::sync::oneshot::channel();
        let (alive, ended) = tokio::sync::oneshot::channel::<()>();
        let streams = Streams::new(Exchanges::default(), TIMEOUT);
        tokio::spawn(streams.clone().beside(std::future::pending::<()>(), || {}));
        streams.execute(async move {
            let _alive = alive;
            let piece = Piece::new(Bytes::from_static(b"abc"), Stream::current().as_ref());
            let _ = given.send(piece);
            std::future::pending::<()>().await;
        });
        let piece = got.await.expect("the task begins");
        assert!(Stream::current().is_none() && piece.stream.is_some());
        assert!(ended.await.is_err(), "nothing is ever sent");
    }

    #[tokio::test]
    async fn what_is_to_be_done_after_each_turn_is_done_after_the_last_too() {
        let (turns, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let connection = poll_fn(|cx| {
            let turn = turns.fetch_add(1, Ordering::Relaxed);
            assert_eq!(turn, done.load(Ordering::Relaxed));
            if turn == 2 {
                return Poll::Ready(());
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        });
        let streams = Streams::new(Exchanges::default(), TIMEOUT);
        let after = || {
            done.fetch_add(1, Ordering::Relaxed);
        };
        streams.beside(connection, after).await;
        assert_eq!(done.load(Ordering::Relaxed), 3);
    }

    fn stream() -> Stream {
        Stream {
            exchanges: Exchanges::default(),
            write_timeout: TIMEOUT,
            begun: Instant::now(),
            moved: AtomicU64::new(0),
            pieces: AtomicUsize::new(0),
            taken: AtomicWaker::new(),
            given_up: AtomicBool::new(false),
        }
    }

    async fn stood_still(stream: &Arc<Stream>) -> Duration {
        let begun = Instant::now();
        stream.stands_still().await;
        begun.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_piece_that_none_is_taken_of_ends_its_stream_in_time() {
        let stream = Arc::new(stream());
        let _piece = Piece::new(Bytes::from_static(b"abc"), Some(&stream));
        assert_eq!(stood_still(&stream).await, TIMEOUT);
        assert_eq!(stream.given_up(), Some(TIMEOUT));
    }

    #[tokio::test(start_paused = true)]
    async fn each_byte_taken_starts_the_time_anew() {
        let stream = Arc::new(stream());
        let mut piece = Piece::new(Bytes::from_static(b"abc"), Some(&stream));
        let taking = tokio::spawn(async move {
            for _ in 0..2 {
                tokio::time::sleep(TIMEOUT / 2).await;
                piece.advance(1);
            }
            piece
        });
        assert_eq!(stood_still(&stream).await, TIMEOUT * 2);
        assert!(taking.await.is_ok_and(|piece| piece.remaining() == 1));
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_for_us_or_for_the_socket_is_no_standing_still() {
        let stream = Arc::new(stream());
        let exchanges = stream.exchanges.clone();
        let held = Arc::clone(&stream);
        let handing = tokio::spawn(async move {
            // Nothing to take for long; then a socket that is full for long.
            tokio::time::sleep(TIMEOUT * 3).await;
            let piece = Piece::new(Bytes::from_static(b"abc"), Some(&held));
            exchanges.blocked(true);
            tokio::time::sleep(TIMEOUT * 3).await;
            exchanges.blocked(false);
            piece
        });
        assert_eq!(stood_still(&stream).await, TIMEOUT * 7);
        assert!(handing.await.is_ok());
    }

    #[test]
    fn a_piece_is_its_parts_in_order_however_they_are_taken() {
        let whole = b"abcdefghi";
        for step in 1..=whole.len() {
            let mut piece = Piece::new(Bytes::new(), None);
            for part in [&whole[..3], &[], &whole[3..4], &whole[4..]] {
                piece.push(Bytes::copy_from_slice(part));
            }
            let mut taken: Vec<u8> = Vec::new();
            while piece.has_remaining() {
                assert_eq!(piece.remaining(), whole.len() - taken.len());
                let mut slices = [IoSlice::new(&[]); 8];
                let filled = piece.chunks_vectored(&mut slices);
                let seen: Vec<u8> = slices[..filled]
                    .iter()
                    .flat_map(|slice| slice.to_vec())
                    .collect();
                assert_eq!(seen, whole[taken.len()..]);
                assert!(seen.starts_with(piece.chunk()) && !piece.chunk().is_empty());
                let count = step.min(piece.remaining());
                taken.extend(&seen[..count]);
                piece.advance(count);
            }
            assert_eq!(taken, whole);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_taken_with_its_last_piece() {
        let stream = Arc::new(stream());
        let pieces = [(); 2].map(|()| Piece::new(Bytes::from_static(b"abc"), Some(&stream)));
        let waiting = Arc::clone(&stream);
        let waiting = tokio::spawn(std::future::poll_fn(move |cx| waiting.poll_taken(cx)));
        let [first, second] = pieces;
        drop(first);
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(second);
        assert!(waiting.await.is_ok());
    }
}
