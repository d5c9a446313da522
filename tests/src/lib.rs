//! End to end: the harness that starts real gateways, real origins and real clients.
//!
//! | module | what |
//! |---|---|
//! | [`clients`] | clients that exist, unmodified: their drivers, what these have to read, and the judgement |
//! | [`cluster`] | a `forebay serve` process: settings in, answers, metrics and log lines out |
//! | [`servers`] | real origin servers on free ports: moto, s3s-fs, azurite, fake-gcs-server, nginx |
//! | [`http`] | an HTTP/1.1 client that hides nothing: raw bytes out, what came back in |
//! | [`http2`] | HTTP/2 streams that are asked for and never taken |
//! | [`multipart`] | a strict reader of multipart/byteranges |
//! | [`oracle`] | the bytes that (key, version) must have, and names and sizes that hurt |
//! | [`process`] | child processes: output by lines, signals by pid, dead with their test |
//! | [`relay`] | what is between two servers, and may change, cut or hold what passes |
//! | [`secure`] | a client's stream, in clear or through TLS |
//! | [`scratch`] | directories that vanish with their test |
//! | [`tools`] | where `tests/run` has put what is not built here |
//!
//! It is blocking code over `std`: the tests in `e2e/` read as scripts, and each waits for one thing at a time. It is
//! not the place for loads and timings, which `forebay-loadtest` measures.
//!
//! Dependencies: `s3s` and `s3s-fs` are the origin that checks signatures, `hyper-util` and `tokio` serve it, and
//! `tokio` has sockets with small buffers;
//! `forebay-loadtest` has the pattern that objects are made of and signs certificates, and `rustls` is a client that
//! believes them; `rustix` sends signals without `unsafe`; `serde_json` reads the gateway's answers and drivers'
//! reports, and `aws-lc-rs` has the SHA-256 that those are judged by.

// The processes under test live by the real clock, so the harness does too: no paused clock can reach either.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

pub mod clients;
pub mod cluster;
pub mod fleet;
pub mod http;
pub mod http2;
pub mod multipart;
pub mod oracle;
pub mod process;
pub mod relay;
pub mod scratch;
pub mod secure;
pub mod servers;
pub mod tools;

use std::time::{Duration, Instant};

/// Asks `probe` every 20 ms until it gives `Some`, for conditions that announce themselves by no event.
///
/// # Panics
/// After `limit`, naming `what` was waited for.
pub fn until<T>(limit: Duration, what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + limit;
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(Instant::now() < end, "waited {limit:?} in vain for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
