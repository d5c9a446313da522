//! What one request came to: counted as its answer leaves, told once it has.

use std::sync::Arc;
use std::time::Duration;

use forebay_storage::stats::DatasetStats;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use crate::gateway::Remote;
use crate::metrics::{Metrics, Source};

/// nginx's number for it; no standard has one.
const CLIENT_LEFT: u16 = 499;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-amz-request-id");

/// The id of a request: 16 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct RequestId([u8; 16]);

impl RequestId {
    /// The digits of `number`.
    pub fn new(number: u64) -> Self {
        let mut digits = [0; 16];
        for (place, digit) in digits.iter_mut().enumerate() {
            let value = number >> (60 - 4 * place) & 0xf;
            *digit = b"0123456789ABCDEF"[value as usize];
        }
        Self(digits)
    }

    /// The digits.
    pub fn as_str(&self) -> &str {
        // Invariant: they are ASCII.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    /// Says the id in an answer.
    pub fn tell(&self, headers: &mut HeaderMap) {
        if let Ok(digits) = HeaderValue::from_bytes(&self.0) {
            headers.insert(REQUEST_ID, digits);
        }
    }
}

impl std::fmt::Debug for RequestId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The account of one request, from its headers to the end of its answer.
///
/// It is settled when it is dropped: with the last byte, or when the client left.
#[derive(Debug)]
pub struct Account {
    metrics: Arc<Metrics>,
    log: bool,
    begun: Instant,
    /// The request's id, also in its answer's headers.
    pub request_id: RequestId,
    /// Who asked.
    pub remote: Option<Remote>,
    /// The id of the access key that they used.
    pub key: Option<Arc<str>>,
    /// Its method.
    pub method: Method,
    /// What it asked for, if that is to be told. Only its path ever is: its query may be signed.
    pub target: Option<Uri>,
    /// The dialect that answered.
    pub api: &'static str,
    /// The answer's status.
    pub status: u16,
    /// What the answer said of the cache.
    pub cache_status: Option<HeaderValue>,
    /// The dataset's own counters, if its bytes are in the answer.
    pub stats: Option<Arc<DatasetStats>>,
    /// Its turn among `max_requests`, held to the last byte.
    pub permit: Option<OwnedSemaphorePermit>,
    first_byte: Option<Duration>,
    memory_bytes: u64,
    nvme_bytes: u64,
    origin_bytes: u64,
    peer_bytes: u64,
    other_bytes: u64,
    whole: bool,
    error: Option<String>,
}

impl Account {
    /// Opens the account of a request that has just come.
    pub fn open(metrics: Arc<Metrics>, log: bool, request_id: RequestId, method: Method) -> Self {
        metrics.requests_in_flight.inc();
        Self {
            metrics,
            log,
            begun: Instant::now(),
            request_id,
            remote: None,
            key: None,
            method,
            target: None,
            api: "none",
            // What is said of a client that left before its answer.
            status: CLIENT_LEFT,
            cache_status: None,
            stats: None,
            permit: None,
            first_byte: None,
            memory_bytes: 0,
            nvme_bytes: 0,
            origin_bytes: 0,
            peer_bytes: 0,
            other_bytes: 0,
            whole: false,
            error: None,
        }
    }

    /// Notes bytes that leave; `None`: not an object's.
    pub fn sent(&mut self, source: Option<Source>, bytes: usize) {
        if self.first_byte.is_none() {
            self.first_byte = Some(self.begun.elapsed());
        }
        let bytes = bytes as u64;
        match source {
            Some(Source::Memory) => self.memory_bytes += bytes,
            Some(Source::Nvme) => self.nvme_bytes += bytes,
            Some(Source::Origin) => self.origin_bytes += bytes,
            Some(Source::Peer) => self.peer_bytes += bytes,
            None => self.other_bytes += bytes,
        }
    }

    /// Notes that the answer left whole.
    pub fn finish(&mut self) {
        self.whole = true;
    }

    /// Notes why an answer is not what was asked for, or was cut: `reason` for metrics, `error`
    /// for people.
    pub fn failed(&mut self, error: impl Into<String>) {
        self.error = Some(error.into());
    }

    /// Notes that the body is cut here.
    pub fn cut(&mut self, reason: &'static str, error: impl Into<String>) {
        self.metrics.cut_bodies.with_label_values(&[reason]).inc();
        self.failed(error);
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        let took = self.begun.elapsed();
        let metrics = &self.metrics;
        metrics.requests_in_flight.dec();
        metrics.request(self.api, self.status, took, self.first_byte);
        // Once a request rather than once a segment: the shared counters are hot.
        for (source, bytes) in [
            (Source::Memory, self.memory_bytes),
            (Source::Nvme, self.nvme_bytes),
            (Source::Origin, self.origin_bytes),
            (Source::Peer, self.peer_bytes),
        ] {
            if bytes > 0 {
                metrics.sent(source, bytes);
            }
        }
        if let Some(stats) = &self.stats {
            let cached = self.memory_bytes + self.nvme_bytes;
            let fetched = self.origin_bytes + self.peer_bytes;
            DatasetStats::add(&stats.served_bytes, cached + fetched);
            DatasetStats::add(&stats.served_from_cache, cached);
        }
        if !self.log {
            return;
        }
        tracing::info!(
            target: "access",
            id = self.request_id.as_str(),
            remote = self.remote.map(|remote| tracing::field::display(remote.address)),
            key = self.key.as_deref(),
            method = self.method.as_str(),
            path = self.target.as_ref().map_or("", Uri::path),
            api = self.api,
            status = self.status,
            bytes = self.memory_bytes
                + self.nvme_bytes
                + self.origin_bytes
                + self.peer_bytes
                + self.other_bytes,
            memory_bytes = self.memory_bytes,
            nvme_bytes = self.nvme_bytes,
            origin_bytes = self.origin_bytes,
            peer_bytes = self.peer_bytes,
            cache = self.cache_status.as_ref().and_then(|said| said.to_str().ok()),
            whole = self.whole,
            first_byte_ms = self.first_byte.map(milliseconds),
            took_ms = milliseconds(took),
            error = self.error.as_deref(),
            "request"
        );
    }
}

fn milliseconds(time: Duration) -> f64 {
    // Microseconds are enough to tell a hit from a miss.
    time.as_micros() as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_its_number_in_sixteen_digits() {
        for number in [0, 0xAB, u64::MAX, 0x0123_4567_89AB_CDEF] {
            let id = RequestId::new(number);
            assert_eq!(id.as_str(), format!("{number:016X}"));
            let mut headers = HeaderMap::new();
            id.tell(&mut headers);
            assert_eq!(headers[REQUEST_ID], id.as_str());
        }
    }
}
