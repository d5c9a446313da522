//! The body of an answer: pattern bytes in pieces of 64 KiB, each when its link says so.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep};

use super::pace::Link;
use super::tally::Running;
use crate::pattern;

/// The bytes of one piece: what a link sends at a time.
const PIECE: u64 = 64 << 10;

/// Before a cut the connection is given this long to send what it holds; hyper drops the rest with the connection.
const FLUSH: Duration = Duration::from_millis(5);

/// What a body is to be made of.
#[derive(Debug)]
pub(super) struct Recipe {
    /// The seed of the bytes, and where they begin in the object.
    pub(super) seed: u64,
    pub(super) offset: u64,
    /// How many there are.
    pub(super) length: u64,
    /// From this byte of the body on, another seed.
    pub(super) switch: Option<(u64, u64)>,
    /// The connection is closed at this byte of the body.
    pub(super) cut: Option<u64>,
    /// A pause at this byte of the body.
    pub(super) stall: Option<(u64, Duration)>,
    /// The links that the bytes pass: the connection's own, and the origin's.
    pub(super) links: Vec<Arc<Link>>,
}

/// A body that makes its bytes as they leave.
#[derive(Debug)]
pub(super) struct PatternBody {
    recipe: Recipe,
    sent: u64,
    /// Set while a piece is queued on the links, or during a stall.
    wait: Option<Pin<Box<Sleep>>>,
    queued: bool,
    running: Running,
}

impl PatternBody {
    pub(super) fn new(recipe: Recipe, running: Running) -> Self {
        Self {
            recipe,
            sent: 0,
            wait: None,
            queued: false,
            running,
        }
    }

    /// The bytes up to the next place where something happens, at most a piece.
    fn next_piece(&self) -> u64 {
        let recipe = &self.recipe;
        let marks = [
            recipe.cut,
            recipe.stall.map(|(at, _)| at),
            recipe.switch.map(|(at, _)| at),
        ];
        let next = marks
            .into_iter()
            .flatten()
            .filter(|&at| at > self.sent)
            .min()
            .unwrap_or(u64::MAX);
        PIECE.min(recipe.length - self.sent).min(next - self.sent)
    }

    fn make(&self, length: usize) -> Bytes {
        let seed = match self.recipe.switch {
            Some((at, other)) if self.sent >= at => other,
            _ => self.recipe.seed,
        };
        let mut piece = BytesMut::zeroed(length);
        pattern::fill(seed, self.recipe.offset + self.sent, &mut piece);
        piece.freeze()
    }

    fn sleep(&mut self, until: Instant) {
        if until > Instant::now() {
            self.wait = Some(Box::pin(tokio::time::sleep_until(until)));
        }
    }
}

impl Body for PatternBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        loop {
            if let Some(wait) = &mut self.wait {
                ready!(wait.as_mut().poll(context));
                self.wait = None;
            }
            if self.sent >= self.recipe.length {
                return Poll::Ready(None);
            }
            if self.recipe.cut.is_some_and(|at| self.sent >= at) {
                if self.queued {
                    return Poll::Ready(Some(Err(io::Error::other("cut on purpose"))));
                }
                self.queued = true;
                self.sleep(Instant::now() + FLUSH);
                continue;
            }
            let sent = self.sent;
            if let Some((_, time)) = self.recipe.stall.take_if(|(at, _)| sent >= *at) {
                self.sleep(Instant::now() + time);
                continue;
            }
            let length = self.next_piece() as usize;
            if !self.queued {
                self.queued = true;
                if let Some(due) = self.recipe.links.iter().map(|link| link.send(length)).max() {
                    self.sleep(due);
                    continue;
                }
            }
            self.queued = false;
            let piece = self.make(length);
            self.sent += length as u64;
            self.running.tally().sent(length);
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
    }

    fn is_end_stream(&self) -> bool {
        self.sent >= self.recipe.length
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.recipe.length - self.sent)
    }
}
