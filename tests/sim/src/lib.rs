//! The whole read path in one thread, under faults, decided by one number.
//!
//! A *seed* makes a world: a gateway, or a fleet of them, without sockets, an origin that is slow, breaks and lies, objects that are
//! overwritten while they are read, and readers who check every byte. The clock is paused and jumps from event to
//! event, so minutes take a moment, and one seed gives one trace: what a seed found can be looked at again.
//!
//! | module | what it holds |
//! |---|---|
//! | [`world`] | one seed from beginning to end: storm, calm, and the accounts at the end |
//! | [`fleet`] | the same for several gateways: members, the network between them, who kills and parts them |
//! | [`objects`] | what the origin holds, and held at any time before |
//! | [`origin`] | the origin: S3 behind object_store's own HTTP seam, with faults |
//! | [`tier`] | a memory tier whose order of eviction is known |
//! | [`disk`] | what the NVMe tier lies on: a disk that tears, loses, flips, fills up and fails |
//! | `house` | what outlives a start of a gateway: its disk, its data directory, its wall clock |
//! | [`reader`] | readers: what they ask, at which pace they take it, and how they judge it |
//! | [`oracle`] | which answers are right: versions, freshness, purges |
//! | [`trace`] | one line an event, hashed; violations; how often what happened |
//! | [`random`] | the numbers that decide everything |
//! | [`mutation`] | planted bugs that the simulator must find, or it is no use |
//!
//! What it is *not*: it runs no sockets, no TLS and no files of blocks, measures nothing, and finds no race between threads;
//! the tests with real processes are for those.
//!
//! Dependencies and why they are here: `object_store` for the error type of its HTTP seam, `async-trait` because that
//! seam is one; `forebay-loadtest` for its pattern of bytes that tell their version; `httpdate` writes
//! `Last-Modified`; `xxhash-rust` hashes the trace; `hyper-util` ends a member's
//! connections; `serde_json` reads what a purge says; `clap` and `anyhow` make the program.

pub mod disk;
pub mod fleet;
mod house;
pub mod mutation;
pub mod objects;
pub mod oracle;
pub mod origin;
pub mod random;
pub mod reader;
pub mod tier;
pub mod trace;
pub mod world;
