//! Objects whose versions can't be told apart: neither a strong ETag nor a time of modification.
//!
//! Two answers about such an object may be of two versions without anybody noticing, so one
//! response is fed by one request, nothing is kept, and a body that breaks off is cut.

use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use forebay_storage::error::OriginError;
use forebay_storage::object::ObjectId;
use forebay_storage::origin::{Answer, ExactBody};
use forebay_storage::version::Version;
use futures::Stream;

use crate::dataset::Dataset;

/// One answer of the origin on its way through.
pub struct Passthrough {
    body: ExactBody,
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
    let answer = dataset.origin.get(object, range, None).await?;
    let Answer {
        version,
        range,
        body,
    } = answer;
    Ok((version, range, Passthrough { body }))
}

impl Passthrough {
    /// The next bytes.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, OriginError>>> {
        Pin::new(&mut self.body).poll_next(cx)
    }
}
