//! What is cached, and how bytes get there.
//!
//! | module | what it holds |
//! |---|---|
//! | [`object`], [`version`] | what is named: an object, and the immutable bytes it had at one time |
//! | [`versions`] | which version of an object is current, asked of the origin once for all askers |
//! | [`block`] | the unit of caching: a fixed, aligned piece of one version |
//! | [`budget`] | leases: every byte of a block that is held, by whom ever, counted once |
//! | [`flight`], [`fill`] | a block while it arrives: followers see each segment as it comes |
//! | [`frames`] | memory for whole segments, given back to the kernel when it is free |
//! | [`memory`], [`residents`] | the memory tier, and our own table of what a tier holds |
//! | [`nvme`] | the disk tier: what it proved to hold, kept over restarts, left alone when it fails |
//! | [`purge`] | what a purge lets go |
//! | [`aside`] | work that waits for a disk, where it holds up nobody |
//! | [`class`] | how urgent a fill is |
//! | [`store`] | one door to all of that: look up, join, or lead |
//! | [`origin`], [`listing`] | the object stores behind us, none of whose answers is trusted |
//! | [`watch`] | a value that many wait on, in the order they came |
//! | [`stats`] | what a dataset cost and saved, counted where it happens |
//!
//! What it is *not*: it serves no HTTP, knows no other gateway and starts no task of its own but
//! those that its callers hand it; who fills a block, and from where, is the gateway's business.
//!
//! Dependencies and why they are here: `object_store` speaks the dialects and signs for the
//! origins; `hyper`, `hyper-util`, `hyper-rustls` and `rustls` carry its requests over a connector
//! of our own (status codes, no redirects, a connection budget); `foyer` lays blocks out on disk; `bytes` shares
//! segments without copying; `aws-lc-rs` names versions by SHA-256, since names are chosen by
//! strangers, and checks what was written, as `md-5` and `base64` do where S3's own checksums are MD5s and
//! written in it, and as `base64` reads those that origins tell; `quick-xml` reads S3's listings, which object_store cannot read when one key is odd;
//! `httpdate` and `chrono` read and write dates; `strsim` guesses what a mistyped option was meant
//! to be; `rustix` names the flags of open files and of direct I/O, maps the memory of segments, and writes a copied file's source beside it;
//! `xxhash-rust` places blocks on disk and sees damage in the journal, and is how a purge tells ETags apart; the rest is plumbing that the ecosystem shares.

pub mod aside;
pub mod block;
pub mod budget;
pub mod class;
pub mod error;
pub mod fill;
pub mod flight;
pub mod frames;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod listing;
pub mod memory;
pub mod nvme;
pub mod object;
pub mod origin;
pub mod purge;
pub mod residents;
pub mod stats;
pub mod store;
pub mod version;
pub mod versions;
pub mod watch;

/// Bytes in a segment: what a follower of a running fill can see, and what a slow socket pins.
///
/// 64 KiB is also the piece that hyper writes fastest: against 1 and 4 MiB pieces it costs about
/// a fifth less CPU per byte.
pub const SEGMENT: usize = 64 * 1024;
