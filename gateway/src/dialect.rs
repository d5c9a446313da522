//! The languages that clients speak: plain HTTP ranges and S3, which is HTTP with a grammar.

mod cache_status;
pub mod conditions;
pub mod cors;
pub mod head;
pub mod multipart;
pub mod object;
pub mod peer;
pub mod range;
pub mod s3;
pub mod target;

use std::sync::Arc;

use bytes::Bytes;
use forebay_storage::stats::DatasetStats;
use http::{HeaderMap, HeaderValue, StatusCode, header};

use crate::body::Content;

/// An answer before it is accounted for.
pub struct Reply {
    /// Its status.
    pub status: StatusCode,
    /// Its headers, Content-Length included.
    pub headers: HeaderMap,
    /// Its body.
    pub content: Content,
    /// Bytes in the body.
    pub left: Option<u64>,
    /// What it says of the cache (RFC 9211), for the log.
    pub cache_status: Option<HeaderValue>,
    /// The counters of the dataset whose bytes the body holds.
    pub stats: Option<Arc<DatasetStats>>,
}

impl Reply {
    /// An answer without a body.
    pub fn empty(status: StatusCode) -> Self {
        Self {
            status,
            headers: HeaderMap::new(),
            content: Content::Empty,
            left: Some(0),
            cache_status: None,
            stats: None,
        }
    }

    /// Text of ours.
    pub fn text(status: StatusCode, content_type: &'static str, text: Bytes) -> Self {
        let mut reply = Self::empty(status);
        reply
            .headers
            .insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        reply.set_length(text.len() as u64);
        reply.content = Content::Text(text);
        reply
    }

    /// Says how long the body is.
    pub fn set_length(&mut self, length: u64) {
        self.headers
            .insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        self.left = Some(length);
    }
}
