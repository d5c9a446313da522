//! The body of an answer to another gateway.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use forebay_storage::version::VersionKey;
use http_body::{Body as HttpBody, Frame, SizeHint};
use prometheus::IntCounter;

use super::places::Place;
use super::sums::Sums;
use crate::peer::egress::Outflow;
use crate::peer::wire::SUM;
use crate::read::body::{Leaving, ReadBody};

/// Segments, each followed by its checksum.
///
/// One whose asker takes nothing for a while holds no block, and leaves its place to others until it is taken from again:
/// a gateway that is frozen would keep all of them otherwise.
pub(super) struct Segments {
    pub(super) body: ReadBody,
    pub(super) sums: Arc<Sums>,
    /// The purges that were counted before anything was looked up.
    pub(super) purges: u64,
    pub(super) version: VersionKey,
    pub(super) offset: u64,
    /// The checksum that comes next.
    pub(super) sum: Option<Bytes>,
    pub(super) sent: IntCounter,
    /// Checksums among them.
    pub(super) outflow: Outflow,
    pub(super) place: Place,
}

impl Segments {
    /// The next bytes, for which it needs its place again if it left that.
    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Option<Leaving>> {
        if !self.body.is_full() {
            ready!(self.place.poll_held(cx));
        }
        let next = self.body.poll_next(cx);
        if self.body.stands_still() {
            self.place.leave();
        }
        next
    }
}

impl HttpBody for Segments {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let this = &mut *self;
        let bytes = match this.sum.take() {
            Some(sum) => sum,
            None => match this.poll_body(cx) {
                Poll::Pending => {
                    this.outflow.runs_dry();
                    return Poll::Pending;
                }
                Poll::Ready(None) => return Poll::Ready(None),
                // The connection is closed on it: what is cut looks cut.
                Poll::Ready(Some(Err(error))) => {
                    return Poll::Ready(Some(Err(io::Error::other(error))));
                }
                Poll::Ready(Some(Ok((bytes, _)))) => {
                    let sum = this.sums.of(this.version, this.offset, &bytes, this.purges);
                    let sum: [u8; SUM] = sum.to_be_bytes();
                    this.sum = Some(Bytes::copy_from_slice(&sum));
                    this.offset += bytes.len() as u64;
                    bytes
                }
            },
        };
        this.outflow.leave(bytes.len() as u64);
        this.sent.inc_by(bytes.len() as u64);
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.outflow.left() == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.outflow.left())
    }
}
