//! Judging what an origin sent: nothing is believed because it came with a 200.

use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::Stream;
use futures::stream::BoxStream;
use http::{HeaderMap, StatusCode, header};

use super::connect::{Exchange, Seen};
use crate::error::OriginError;
use crate::version::Version;

/// Bytes of one version as they arrive.
pub struct Answer {
    /// The version that the answer names.
    pub version: Arc<Version>,
    /// The bytes of the object that the body holds.
    pub range: Range<u64>,
    /// The body: exactly that many bytes, or an error at the end.
    pub body: ExactBody,
}

/// A stream that yields exactly as many bytes as were promised, or ends with an error.
pub struct ExactBody {
    chunks: BoxStream<'static, Result<Bytes, OriginError>>,
    left: u64,
    ended: bool,
}

impl ExactBody {
    pub(crate) fn new(
        chunks: BoxStream<'static, Result<Bytes, OriginError>>,
        promised: u64,
    ) -> Self {
        Self {
            chunks,
            left: promised,
            ended: false,
        }
    }
}

impl Stream for ExactBody {
    type Item = Result<Bytes, OriginError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let next = loop {
            match std::task::ready!(self.chunks.as_mut().poll_next(cx)) {
                Some(Ok(chunk)) if chunk.is_empty() => {}
                next => break next,
            }
        };
        let next = match next {
            None if self.left == 0 => None,
            None => Some(Err(OriginError::Cut)),
            Some(Err(error)) => Some(Err(error)),
            Some(Ok(chunk)) => match self.left.checked_sub(chunk.len() as u64) {
                Some(left) => {
                    self.left = left;
                    Some(Ok(chunk))
                }
                None => Some(Err(bad("it sent more bytes than it said"))),
            },
        };
        self.ended = !matches!(next, Some(Ok(_)));
        Poll::Ready(next)
    }
}

/// What went wrong with a ranged request that object_store gave up on.
pub(crate) fn ranged_failure(exchange: &Exchange, error: &object_store::Error) -> OriginError {
    match exchange.seen() {
        // Of an empty object no range can be had, and some servers send the empty whole instead.
        Some(Seen::Answer { status, headers }) if *status == StatusCode::OK => {
            match content_length(headers) {
                Some(0) => OriginError::PastEnd,
                _ => bad("it ignored the Range header; ranges must be on at the origin"),
            }
        }
        _ => failure(exchange, error),
    }
}

/// What went wrong with a request that object_store gave up on.
pub(crate) fn failure(exchange: &Exchange, error: &object_store::Error) -> OriginError {
    match exchange.seen() {
        Some(Seen::Failed(failed)) => failed.clone(),
        // A good status, and still no answer: object_store found something missing in it.
        Some(Seen::Answer { status, .. }) => of_status(*status).unwrap_or_else(|| {
            bad("its headers lack a length, a range or a date that can be read")
        }),
        // The request never left: the only thing that comes before it is credentials.
        None => match error {
            object_store::Error::NotFound { .. } => OriginError::NotFound,
            object_store::Error::Precondition { .. } => OriginError::Changed,
            _ => OriginError::NoCredentials,
        },
    }
}

/// The error that a status stands for; `None` for a success.
pub(crate) fn of_status(status: StatusCode) -> Option<OriginError> {
    let code = status.as_u16();
    Some(match code {
        200..=299 => return None,
        300..=399 if code != 304 => {
            bad("it redirects elsewhere, and redirects are never followed; \
             set the endpoint and the region that the bucket belongs to")
        }
        401 | 403 => OriginError::Refused { status: code },
        404 | 410 => OriginError::NotFound,
        412 => OriginError::Changed,
        416 => OriginError::PastEnd,
        429 | 503 => OriginError::SlowDown { status: code },
        _ => OriginError::Status { status: code },
    })
}

pub(crate) fn bad(reason: &str) -> OriginError {
    OriginError::BadAnswer(reason.into())
}

/// The range and the whole size that a 206 claims (RFC 9110 §14.4), if they are what was asked.
pub(crate) fn claimed_range(
    headers: &HeaderMap,
    asked: &Range<u64>,
) -> Result<(Range<u64>, u64), OriginError> {
    let (claimed, size) =
        any_range(headers).ok_or_else(|| bad("a 206 without a Content-Range that can be read"))?;
    let wanted = asked.start..asked.end.min(size);
    if claimed != wanted {
        return Err(bad("a Content-Range other than the range asked for"));
    }
    if let Some(length) = content_length(headers)
        && length != wanted.end - wanted.start
    {
        return Err(bad("a Content-Length other than its Content-Range"));
    }
    Ok((wanted, size))
}

/// The range, not empty and within the object, and the whole size that an answer claims.
pub(crate) fn any_range(headers: &HeaderMap) -> Option<(Range<u64>, u64)> {
    let value = headers.get(header::CONTENT_RANGE)?.to_str().ok()?;
    let (range, size) = value.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
    let size = size.parse().ok()?;
    (first <= last && last < size).then(|| (first..last + 1, size))
}

/// How many bytes a body is to have, by its range or its length; `None` if neither says.
pub(super) fn promised(headers: &HeaderMap) -> Option<u64> {
    let range = any_range(headers).map(|(range, _)| range.end - range.start);
    range.or_else(|| content_length(headers))
}

pub(crate) fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers
        .get(header::CONTENT_LENGTH)?
        .to_str()
        .ok()?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use futures::{StreamExt, stream};

    fn headers(range: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_RANGE, range.parse().unwrap());
        headers
    }

    #[test]
    fn only_the_range_that_was_asked_for_is_taken() {
        let ok = claimed_range(&headers("bytes 0-9/100"), &(0..10)).unwrap();
        assert_eq!(ok, (0..10, 100));
        let clipped = claimed_range(&headers("bytes 90-99/100"), &(90..200)).unwrap();
        assert_eq!(clipped, (90..100, 100));
        for lie in [
            "bytes 0-8/100",
            "bytes 1-10/100",
            "bytes 0-9/*",
            "bytes 0-9/5",
            "bytes 10-4/5",
            "items 0-9/100",
            "bytes 0-18446744073709551615/100",
        ] {
            assert!(claimed_range(&headers(lie), &(0..10)).is_err(), "{lie}");
        }
    }

    #[tokio::test]
    async fn a_short_body_is_cut_and_a_long_one_is_bad() {
        let body = |promised| {
            let chunks = stream::iter([Ok(Bytes::from_static(b"abc"))]).boxed();
            ExactBody::new(chunks, promised).collect::<Vec<_>>()
        };
        assert_eq!(body(4).await[1], Err(OriginError::Cut));
        assert!(matches!(body(2).await[0], Err(OriginError::BadAnswer(_))));
        assert_eq!(body(3).await.len(), 1);
    }
}
