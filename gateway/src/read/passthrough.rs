//! Objects whose versions can't be told apart: neither a strong ETag nor a time of modification.
//!
//! Two answers about such an object may be of two versions without anybody noticing, so one
//! response is fed by one request, nothing is kept, and a body that breaks off is cut.

use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use forebay_storage::SEGMENT;
use forebay_storage::class::Urgency;
use forebay_storage::error::OriginError;
use forebay_storage::object::ObjectId;
use forebay_storage::origin::{Answer, ExactBody};
use forebay_storage::version::Version;
use futures::Stream;

use super::window::Step;
use crate::dataset::Dataset;
use crate::metrics::Source;

/// One answer of the origin on its way through.
pub struct Passthrough {
    body: ExactBody,
    /// What came and was not handed on yet.
    rest: Bytes,
}

/// Asks for `range`. The version that comes with it is the response's own: what was known before
/// may be another one.
///
/// # Errors
/// What the origin answered.
pub async fn open(
    dataset: &Dataset,
    object: &ObjectId,
    range: Range<u64>,
) -> Result<(Arc<Version>, Range<u64>, Passthrough), OriginError> {
    let answer = dataset
        .origin
        .get(object, range, None, &Urgency::default())
        .await?;
    let Answer {
        version,
        range,
        body,
    } = answer;
    let rest = Bytes::new();
    Ok((version, range, Passthrough { body, rest }))
}

impl Passthrough {
    /// The next bytes, no more than a segment.
    pub fn poll_step(&mut self, cx: &mut Context<'_>) -> Poll<Step> {
        if self.rest.is_empty() {
            match ready!(Pin::new(&mut self.body).poll_next(cx)) {
                None => return Poll::Ready(Step::End),
                Some(Err(error)) => return Poll::Ready(Step::Fail(error)),
                Some(Ok(bytes)) => self.rest = bytes,
            }
        }
        let next = self.rest.split_to(self.rest.len().min(SEGMENT));
        Poll::Ready(Step::Bytes(next, Some(Source::Origin)))
    }
}
