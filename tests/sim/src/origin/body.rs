//! The origin's bodies: pieces of a version, each at its time, and an end that may not be the promised one.

use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use forebay_loadtest::pattern;
use http_body::{Body, Frame};
use object_store::client::{HttpError, HttpErrorKind};
use tokio::time::{Instant, Sleep};

use super::faults::Fault;
use crate::random::Random;

/// The largest piece; a multiple of no segment, so that pieces and segments never run in step for long.
const PIECE: u64 = 150_000;

/// How a body ends.
#[derive(Clone, Copy, Debug)]
pub(super) enum Ending {
    /// As promised.
    Whole,
    /// With bytes that nobody asked for.
    Long,
    /// After so many bytes as if they were all.
    Short(u64),
    /// After so many bytes with an error.
    Cut(u64),
    /// After so many bytes not at all.
    Stall(u64),
}

impl Ending {
    pub(super) fn of(fault: Option<Fault>, random: &mut Random, length: u64) -> Self {
        let mut early = || random.below(length.max(1));
        match fault {
            Some(Fault::Long) => Self::Long,
            Some(Fault::Short) => Self::Short(early()),
            Some(Fault::Cut) => Self::Cut(early()),
            Some(Fault::Stall) => Self::Stall(early()),
            _ => Self::Whole,
        }
    }
}

/// A body that arrives piece by piece.
pub(super) struct SimBody {
    pattern: u64,
    range: Range<u64>,
    ending: Ending,
    random: Random,
    next: Pin<Box<Sleep>>,
}

impl SimBody {
    pub(super) fn new(pattern: u64, range: Range<u64>, ending: Ending, random: Random) -> Self {
        let mut range = range;
        match ending {
            Ending::Whole => {}
            Ending::Long => range.end += 1000,
            Ending::Short(after) | Ending::Cut(after) | Ending::Stall(after) => {
                range.end = range.start + after;
            }
        }
        Self {
            pattern,
            range,
            ending,
            random,
            next: Box::pin(tokio::time::sleep(Duration::ZERO)),
        }
    }
}

impl Body for SimBody {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        let this = &mut *self;
        std::task::ready!(this.next.as_mut().poll(cx));
        let left = this.range.end - this.range.start;
        if left == 0 {
            return match this.ending {
                Ending::Whole | Ending::Long | Ending::Short(_) => Poll::Ready(None),
                Ending::Stall(_) => Poll::Pending,
                Ending::Cut(_) => {
                    let error = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
                    let error = HttpError::new(HttpErrorKind::Interrupted, error);
                    Poll::Ready(Some(Err(error)))
                }
            };
        }
        let piece = this.random.from(1..=PIECE).min(left);
        let mut bytes = vec![0; piece as usize];
        pattern::fill(this.pattern, this.range.start, &mut bytes);
        this.range.start += piece;
        let pause = this.random.millis(0..=4);
        this.next.as_mut().reset(Instant::now() + pause);
        Poll::Ready(Some(Ok(Frame::data(bytes.into()))))
    }
}
