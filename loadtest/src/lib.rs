//! What holds Forebay to its word: an origin model whose every byte is known, a client that checks every byte, and
//! the checks that measure a real gateway process between the two.
//!
//! - [`pattern`] says what each byte of each version of each object is;
//! - [`origin`] serves such objects as an S3-compatible store, with rates, latency, faults and counters;
//! - [`client`] asks for ranges and compares what comes;
//! - [`gateway`] starts and stops a `forebay serve`;
//! - [`check`] has one check for each thing that Forebay promises, and [`report`] what a check found;
//! - [`scenario`] has the fleet's claims over shaped links, in network namespaces ([`namespace`]) of its own;
//! - [`quantity`] reads sizes, rates and times from the command line.
//!
//! It is no benchmark of other servers and no general S3 mock: the model stores nothing and checks no signatures, and
//! the client believes only the model's bytes.
//!
//! Of the dependencies, `futures` lets one reader's requests take turns in one task, and `rustix` enters namespaces,
//! sends signals and raises limits without `unsafe`.

pub mod check;
pub mod client;
pub mod gateway;
pub mod namespace;
pub mod origin;
pub mod pattern;
pub mod quantity;
pub mod report;
pub mod scenario;
