//! The ceiling: a bare hyper server that answers ranges of objects which it holds as 64 KiB `Bytes`.
//!
//! It looks at nothing but the path and `Range: bytes=FIRST-LAST`: what a cache that is served by hyper could reach
//! if everything else were free. It is no peer, and nothing to serve with.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use anyhow::Context as _;
use bytes::{Bytes, BytesMut};
use http::{Request, Response, StatusCode, header};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use crate::pattern;

/// The bytes of one piece: what hyper's writer likes best.
const PIECE: usize = 64 << 10;

/// An object as its pieces.
#[derive(Debug)]
struct Object {
    pieces: Box<[Bytes]>,
    size: u64,
}

/// Serves these objects, as `/ANYTHING/KEY`, until it is cancelled. Their bytes are version 0 of the pattern.
///
/// # Errors
/// The address cannot be listened on.
pub async fn serve(listen: SocketAddr, objects: &[(String, u64)]) -> anyhow::Result<()> {
    let held: HashMap<String, Object> = objects
        .iter()
        .map(|(key, size)| (key.clone(), Object::new(key, *size)))
        .collect();
    let held = Arc::new(held);
    let listener = TcpListener::bind(listen)
        .await
        .with_context(|| format!("listen on {listen}"))?;
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of file descriptors: somebody must leave first.
            tokio::task::yield_now().await;
            continue;
        };
        stream.set_nodelay(true).context("set TCP_NODELAY")?;
        let held = Arc::clone(&held);
        tokio::spawn(async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let answer = answer(&held, &request);
                async move { Ok::<_, Infallible>(answer) }
            });
            // What ends a connection is the client's business.
            let _ = http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

impl Object {
    fn new(key: &str, size: u64) -> Self {
        let seed = pattern::seed(key, 0);
        let pieces = (0..size)
            .step_by(PIECE)
            .map(|offset| {
                let length = PIECE.min((size - offset) as usize);
                let mut piece = BytesMut::zeroed(length);
                pattern::fill(seed, offset, &mut piece);
                piece.freeze()
            })
            .collect();
        Self { pieces, size }
    }
}

fn answer(held: &HashMap<String, Object>, request: &Request<Incoming>) -> Response<Pieces> {
    let path = request.uri().path().trim_start_matches('/');
    let key = path.split_once('/').map_or("", |(_, key)| key);
    let Some(object) = held.get(key) else {
        return refusal(StatusCode::NOT_FOUND);
    };
    let size = object.size;
    let asked = request.headers().get(header::RANGE);
    let (status, first, end) = match asked.map(|value| closed_range(value.as_bytes(), size)) {
        None => (StatusCode::OK, 0, size),
        Some(Some((first, end))) => (StatusCode::PARTIAL_CONTENT, first, end),
        Some(None) => return refusal(StatusCode::RANGE_NOT_SATISFIABLE),
    };
    let mut response = Response::new(Pieces::new(object, first, end));
    *response.status_mut() = status;
    if status == StatusCode::PARTIAL_CONTENT {
        let text = format!("bytes {first}-{}/{size}", end - 1);
        if let Ok(value) = text.parse() {
            response.headers_mut().insert(header::CONTENT_RANGE, value);
        }
    }
    response
}

/// `bytes=FIRST-LAST` as where it begins and ends in an object of `size`; `None` for any other form.
fn closed_range(value: &[u8], size: u64) -> Option<(u64, u64)> {
    let text = std::str::from_utf8(value).ok()?.strip_prefix("bytes=")?;
    let (first, last) = text.split_once('-')?;
    let first: u64 = first.parse().ok()?;
    let last: u64 = last.parse().ok()?;
    (first <= last && first < size).then(|| (first, last.min(size - 1) + 1))
}

fn refusal(status: StatusCode) -> Response<Pieces> {
    let mut response = Response::new(Pieces::default());
    *response.status_mut() = status;
    response
}

/// A body of slices of an object's pieces.
#[derive(Default)]
struct Pieces {
    left: VecDeque<Bytes>,
    bytes: u64,
}

impl Pieces {
    fn new(object: &Object, first: u64, end: u64) -> Self {
        let mut left = VecDeque::new();
        let mut at = first;
        while at < end {
            let piece = &object.pieces[(at / PIECE as u64) as usize];
            let skip = (at % PIECE as u64) as usize;
            let take = (piece.len() - skip).min((end - at) as usize);
            left.push_back(piece.slice(skip..skip + take));
            at += take as u64;
        }
        Self {
            left,
            bytes: end - first,
        }
    }
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let next = self.left.pop_front();
        self.bytes -= next.as_ref().map_or(0, |piece| piece.len() as u64);
        Poll::Ready(next.map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_the_range_that_was_asked_for() {
        let size = 3 * PIECE as u64 + 10;
        let object = Object::new("a", size);
        for (first, end) in [(0, size), (5, 6), (PIECE as u64 - 1, 2 * PIECE as u64 + 1)] {
            let body = Pieces::new(&object, first, end);
            assert_eq!(body.size_hint().exact(), Some(end - first));
            let bytes: Vec<u8> = body.left.into_iter().flatten().collect();
            assert_eq!(bytes.len() as u64, end - first);
            assert_eq!(pattern::check(pattern::seed("a", 0), first, &bytes), Ok(()));
        }
    }

    #[test]
    fn only_closed_ranges_within_the_object_are_taken() {
        assert_eq!(closed_range(b"bytes=2-5", 10), Some((2, 6)));
        assert_eq!(closed_range(b"bytes=2-50", 10), Some((2, 10)));
        for bad in ["bytes=10-11", "bytes=5-2", "bytes=-5", "bytes=5-", "5-6"] {
            assert_eq!(closed_range(bad.as_bytes(), 10), None, "{bad}");
        }
    }
}
