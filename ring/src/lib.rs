//! Who is in the fleet, and who owns what.
//!
//! Placement is a pure function of a table of members: every gateway that knows the same members gives the
//! same answer to "who owns this extent?", with nobody to ask. Membership is gossip among those that have the
//! fleet's key, and makes the table.
//!
//! # Map
//! - [`Member`]: one gateway, by name, zone and weight; an edge owns nothing.
//! - [`Table`]: all of them at one moment, immutable, named by its epoch; owners, candidates, shares.
//! - [`Donors`]: who owned an extent a moment ago, and so may hold it.
//! - [`Fleet`]: the table of the moment, and where each member is and how it does.
//! - [`gossip`]: who is there. [`gossip::Membership`] runs it and gives a [`Fleet`] to be watched.
//! - [`seal`]: keys derived from the fleet's key, and messages that only members read and write.
//! - [`Extents`]: how an object falls into the units that are placed.
//! - `groups`: balance inside one object. `points`: the circle of hashes underneath.
//!
//! # What it is not
//! - Not routing: health is not in a table. To skip a silent member is for whoever walks the candidates.
//! - Not replication: an extent has one owner. Candidates are whom to ask next, not copies.
//! - Not a way to carry bytes: gossip has a UDP socket of its own, and what goes over TCP is handed to
//!   whoever has the fleet's port ([`gossip::Exchange`]). Placement and [`gossip::Core`] do no I/O at all: they
//!   wait for nothing and read no clock.
//!
//! # Placement is a contract between gateways
//! Two builds that place an extent differently read it from the object store twice, for as long as a
//! rolling upgrade takes. Hashes are therefore of explicit bytes, and `tests/golden.tsv` pins the answers:
//! a change that moves a line of it is a change of every fleet's placement.
//!
//! # Dependencies
//! - `foca`: SWIM, sans-I/O, so that the real protocol runs in a simulator; under MPL-2.0, taken unchanged.
//! - `rand` in foca's own version, as `rand-foca`: the traits that it takes its chance by, and a generator that
//!   gives the same numbers on every machine.
//! - `aws-lc-rs`: HKDF and AES-GCM, the cryptography that TLS has brought already.
//! - `bytes`: reading and writing numbers, and what transports carry.
//! - `tokio`: the UDP socket, timers, names, and the `watch` that a [`Fleet`] is seen by.
//! - `rustix`: the priority of the thread that builds tables.
//! - `tracing`: what changed in the fleet, once.
//! - `consistent_hash_ring`: the ring, used point by point (`points` says why).
//! - `xxhash-rust`: xxh3, fast, and fixed by its specification rather than by a compiler.
//! - `thiserror`: errors as sentences.

pub mod donors;
mod extent;
mod fleet;
pub mod gossip;
mod groups;
mod member;
mod points;
pub mod seal;
mod table;

pub use donors::Donors;
pub use extent::Extents;
pub use fleet::{Fleet, Peer, State};
pub use member::{MAX_NAME_BYTES, MAX_WEIGHT, Member, MemberError, Role};
pub use table::{Candidates, Table};
