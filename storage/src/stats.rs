//! What a dataset cost and saved, counted where it happens.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// A body takes so many times as long as its beginning is waited for.
const FIRST_BYTES: u32 = 5;

/// And no less than this: 34 MB/s and more are asked for as much as may be asked for at once.
const SHORTEST_BODY: Duration = Duration::from_millis(250);

/// In milliseconds: many bodies are measured at once, and what is known falls to the half in two seconds, not sooner.
const FALLS_EACH: u64 = 100;

/// No request is for less, however slow its connection.
const FEWEST_BYTES: u64 = 1 << 20;

/// Counters of one dataset, from the gateway's start.
#[derive(Debug, Default)]
pub struct DatasetStats {
    /// GET requests that left for the origin, listings included.
    pub origin_gets: AtomicU64,
    /// HEAD requests that left for the origin.
    pub origin_heads: AtomicU64,
    /// Other requests that left for the origin (PROPFIND).
    pub origin_others: AtomicU64,
    /// Body bytes that arrived from the origin.
    pub origin_bytes: AtomicU64,
    /// Object requests that failed at the origin and were tried again.
    pub origin_retries: AtomicU64,
    /// Answers that stood still, and were asked for once more beside it.
    pub origin_hedges: AtomicU64,
    /// Answers that asked for fewer requests: 429 and 503.
    pub origin_slow_downs: AtomicU64,
    /// Body bytes that went to clients.
    pub served_bytes: AtomicU64,
    /// Of those, bytes that were in memory or on NVMe when they were asked for.
    pub served_from_cache: AtomicU64,
    /// From a GET to the head of its answer, on average of late, in microseconds; 0: none came yet.
    first_byte: AtomicU64,
    /// Bytes a second that one answer's body brings where nothing else holds it; 0: none was seen for long enough.
    body_rate: AtomicU64,
    /// When that fell last, in milliseconds since the first body was measured.
    body_rate_fell: AtomicU64,
    first_body: OnceLock<Instant>,
    /// Whether the last question got an answer: 0 not asked yet, 1 yes, 2 no.
    origin_state: AtomicU64,
}

impl DatasetStats {
    /// Adds to a counter.
    pub fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }

    /// Reads a counter.
    pub fn get(counter: &AtomicU64) -> u64 {
        counter.load(Ordering::Relaxed)
    }

    /// Notes how long a GET's answer took to begin.
    pub(crate) fn began_after(&self, took: Duration) {
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1);
        // Two at once may lose one of them: it is an average.
        let before = self.first_byte.load(Ordering::Relaxed);
        let average = match before {
            0 => took,
            before => before - before / 8 + took / 8,
        };
        self.first_byte.store(average.max(1), Ordering::Relaxed);
    }

    /// How long a GET's answer takes to begin, on average of late; zero before the first.
    pub fn first_byte(&self) -> Duration {
        Duration::from_micros(self.first_byte.load(Ordering::Relaxed))
    }

    /// Notes how fast one answer's body came for a while.
    pub(crate) fn body_came(&self, bytes: u64, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1);
        let now = bytes.saturating_mul(1_000_000) / micros;
        let before = self.body_rate.load(Ordering::Relaxed);
        let average = match before {
            0 => now,
            before if now > before => before - before / 4 + now / 4,
            // Many at once share a link, and each of them is slow: that says little of what one would bring alone.
            before if self.may_fall() => before - before / 32 + now / 32,
            before => before,
        };
        self.body_rate.store(average.max(1), Ordering::Relaxed);
    }

    /// Whether it is [`FALLS_EACH`] since this was so last.
    fn may_fall(&self) -> bool {
        let since = self.first_body.get_or_init(Instant::now).elapsed();
        let now = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        let fell = self.body_rate_fell.load(Ordering::Relaxed);
        now.saturating_sub(fell) >= FALLS_EACH
            && self
                .body_rate_fell
                .compare_exchange(fell, now, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
    }

    /// Bytes a second that one answer's body brings where nothing else holds it, as far as that was seen of late; zero
    /// before.
    pub fn body_rate(&self) -> u64 {
        self.body_rate.load(Ordering::Relaxed)
    }

    /// Bytes that are worth a request of their own, up to `most`: those of a connection that gives little a second are
    /// fewer, so that many connections share what one stream waits for, and still so many that waiting for their answers
    /// to begin is a small part of the time.
    pub fn worth_a_request(&self, most: u64) -> u64 {
        let rate = self.body_rate();
        if rate == 0 {
            return most;
        }
        let time = (self.first_byte() * FIRST_BYTES).max(SHORTEST_BODY);
        let bytes = u128::from(rate) * time.as_micros() / 1_000_000;
        u64::try_from(bytes)
            .unwrap_or(u64::MAX)
            .clamp(FEWEST_BYTES.min(most), most)
    }

    /// Notes whether the origin answered.
    pub fn origin_answered(&self, answered: bool) {
        let state = if answered { 1 } else { 2 };
        self.origin_state.store(state, Ordering::Relaxed);
    }

    /// `unknown` until the origin was asked, then `ok` or `down`, by its last answer.
    pub fn origin_state(&self) -> &'static str {
        match self.origin_state.load(Ordering::Relaxed) {
            0 => "unknown",
            1 => "ok",
            _ => "down",
        }
    }

    /// Requests that left for the origin, of any method.
    pub fn origin_requests(&self) -> u64 {
        Self::get(&self.origin_gets)
            + Self::get(&self.origin_heads)
            + Self::get(&self.origin_others)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_slow_connection_is_asked_for_less_at_once() {
        const MOST: u64 = 8 << 20;
        let stats = DatasetStats::default();
        assert_eq!(stats.worth_a_request(MOST), MOST, "nothing is known");
        for _ in 0..64 {
            stats.began_after(Duration::from_millis(50));
            stats.body_came(857_000, Duration::from_millis(100));
        }
        let bytes = stats.worth_a_request(MOST);
        assert!((2_000_000..2_200_000).contains(&bytes), "0.25 s: {bytes}");
        for _ in 0..128 {
            stats.body_came(10_000, Duration::from_millis(100));
        }
        assert_eq!(stats.worth_a_request(MOST), bytes, "one moment");
        for _ in 0..128 {
            tokio::time::advance(Duration::from_millis(100)).await;
            stats.body_came(10_000, Duration::from_millis(100));
        }
        assert_eq!(stats.worth_a_request(MOST), FEWEST_BYTES);
        for _ in 0..64 {
            stats.body_came(10_000_000, Duration::from_millis(100));
        }
        assert_eq!(stats.worth_a_request(MOST), MOST);
    }
}
