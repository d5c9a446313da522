//! What holds Forebay to its word: an origin model whose every byte is known, a client that checks every byte, and
//! the checks that measure a real gateway process between the two.
//!
//! - [`pattern`] says what each byte of each version of each object is;
//! - [`origin`] serves such objects as an S3-compatible store, with rates, latency, faults and counters;
//! - [`client`] asks for ranges and compares what comes, in clear or through TLS with a [`certificate`], by HTTP/1.1 or HTTP/2;
//! - [`gateway`] starts and stops a `forebay serve`;
//! - [`check`] has one check for each thing that Forebay promises, and [`report`] what a check found;
//! - [`scenario`] has the fleet's claims over shaped links, in network namespaces ([`namespace`]) of its own;
//! - [`torture`] does everything to a fleet that can go wrong, and compares every byte meanwhile;
//! - [`soak`] loads gateways for long, and looks whether anything grows;
//! - [`mod@bench`] measures it beside other servers, with [`bare`] as the ceiling, and [`plot`] draws what came of it;
//! - [`port`] finds ports for servers that must be told theirs;
//! - [`replay`] plays made loads to eviction policies;
//! - [`quantity`] reads sizes, rates and times from the command line.
//!
//! It is no general S3 mock: the model stores nothing and checks no signatures, and the client believes only the
//! model's bytes.
//!
//! Dependencies that only the benches have, and why: `png` packs plots and `noto-sans-mono-bitmap` letters them;
//! `rustls` and `tokio-rustls` read the TLS rows; `socket2` sets the segment size that the client announces; `foyer` brings the eviction policies that the replay compares ours
//! with; `mimalloc` is the gateway's allocator, so that the bare server is a ceiling of the same make.
//! Of the others, `futures` lets one reader's requests take turns in one task, and `rustix` enters namespaces, sends
//! signals and raises limits without `unsafe`; `crc-fast` and `base64` make the checksum that the origin model tells of an object.

pub mod bare;
pub mod bench;
pub mod certificate;
pub mod check;
pub mod client;
mod curl;
pub mod gateway;
pub mod namespace;
pub mod origin;
pub mod pattern;
pub mod plot;
pub mod port;
pub mod quantity;
pub mod replay;
pub mod report;
pub mod scenario;
pub mod soak;
pub mod torture;
