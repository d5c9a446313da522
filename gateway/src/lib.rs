//! The gateway: listeners, dialects, the read path and the command line.
//!
//! One range request goes down this list, and every arrow between modules points down it too:
//!
//! | module | its part |
//! |---|---|
//! | [`cli`], [`app`], [`reload`], [`known`], [`check`], [`client`], [`demo`], [`notify`], `say` | arguments, what is built of them, what survives a restart, and in which order it all starts and stops |
//! | [`serve`] | sockets: the only module that knows hyper's server |
//! | [`gateway`] | a request in, an answer out, without sockets |
//! | [`access`] | who may do what; asked before anything else is |
//! | [`control`] | everything of ours, under `/-/` |
//! | [`dialect`] | target, conditions, ranges; HTTP and S3 |
//! | [`listings`] | listings, asked once for all |
//! | [`warm`], [`handover`], [`pins`] | jobs that bring blocks before anybody reads them; blocks that change hands with members; what is to stay |
//! | [`flow`] | steps that are done as one submission, and what begins by itself |
//! | [`purge`] | letting go of what is cached, here and on all members |
//! | [`read`] | one read: version, window, fills, the stream that leaves |
//! | [`peer`] | the other gateways of the fleet, and asking them |
//! | [`keeping`] | documents that outlive a run, and who works on what they say |
//! | [`dataset`], [`error`] | what is served; how failures look to clients |
//! | [`body`], [`account`], [`metrics`], [`link`], [`telemetry`], [`plain`] | what left, counted and told; what the link was seen to carry; texts of others as one line |
//! | [`settings`], [`certificate`] | every setting, once; the certificate that clients see |
//!
//! What it is *not*: it keeps no bytes and trusts no origin (that is `forebay-storage`), and it
//! does not decide who owns a block (that is `forebay-ring`).
//!
//! Dependencies and why they are here: `hyper` and `hyper-util` carry the object path, where an
//! HTTP framework's microseconds would show; `axum` and `tower-http` carry `/-/`, where they do
//! not; `tokio` runs it; `clap` reads the command line and `toml` the settings file, with the
//! places of mistakes; `strsim` guesses what a mistyped key was meant to be; `prometheus` keeps
//! counters; `aws-lc-rs` hashes, and compares in constant time, what signatures are made of, as it
//! does for TLS, which `rustls` and `tokio-rustls` speak; `aws-sigv4`, AWS's own signer, is only what
//! tests hold our verifier against; `tracing` and `tracing-subscriber` log; `arc-swap` replaces
//! datasets under readers;
//! `mimalloc` allocates, because glibc gives segments back to the kernel and faults them in again;
//! `aws-lc-rs` proves who belongs to the fleet; `crc-fast` computes and combines the checksums that object stores keep of whole objects, and is object_store's own; `rustix` and `socket2` set limits and socket options, say what a socket holds, and tell it that more comes, and `libc` says what they can't: that a socket's buffer is the kernel's to size again; `percent-encoding`,
//! `base64`, `httpdate`, `chrono`, `serde_json` and `xxhash-rust` write and read what their names
//! say; `croner` and `chrono-tz` know when a cron line is due in a zone whose clocks jump; `twox-hash` is the same XXH3 with AVX2 where the processor has it, for what gateways send each other; `anyhow` carries errors to a person, `thiserror` to code.

pub mod access;
pub mod account;
#[cfg(test)]
mod alone;
pub mod app;
pub mod body;
pub mod certificate;
pub mod check;
pub mod cli;
pub mod client;
pub mod control;
pub mod copy;
pub mod dataset;
pub mod demo;
pub mod dialect;
pub mod error;
pub mod flow;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod gateway;
pub mod handover;
pub mod keeping;
pub mod known;
pub mod link;
pub mod listings;
pub mod metrics;
pub mod notify;
pub mod peer;
pub mod pins;
pub mod plain;
pub mod purge;
pub mod read;
pub mod reload;
pub mod revision;
mod say;
pub mod serve;
pub mod settings;
pub mod telemetry;
pub mod warm;
