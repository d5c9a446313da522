//! Who is in the fleet, and who owns what.
//!
//! Today: placement, as pure functions of a table of members. Every gateway that knows the same members
//! gives the same answer to "who owns this extent?", with nobody to ask.
//!
//! # Map
//! - [`Member`]: one gateway, by name, zone and weight; an edge owns nothing.
//! - [`Table`]: all of them at one moment, immutable, named by its epoch; owners, candidates, shares.
//! - [`Fleet`]: the table of the moment, and where each member is and how it does.
//! - [`Extents`]: how an object falls into the units that are placed.
//! - `groups`: balance inside one object. `points`: the circle of hashes underneath.
//!
//! # What it is not
//! - Not membership: who is there, and who is silent, comes from outside as a list of members. A gossip
//!   library will bring it, and its file will stand beside `table`. Health is not in a table: to skip a
//!   silent member is routing, done by whoever walks the candidates.
//! - Not replication: an extent has one owner. Candidates are whom to ask next, not copies.
//! - Not I/O: nothing here waits, reads a clock or draws a random number.
//!
//! # Placement is a contract between gateways
//! Two builds that place an extent differently read it from the object store twice, for as long as a
//! rolling upgrade takes. Hashes are therefore of explicit bytes, and `tests/golden.tsv` pins the answers:
//! a change that moves a line of it is a change of every fleet's placement.
//!
//! # Dependencies
//! - `consistent_hash_ring`: the ring, used point by point (`points` says why).
//! - `xxhash-rust`: xxh3, fast, and fixed by its specification rather than by a compiler.
//! - `thiserror`: errors as sentences.

mod extent;
mod fleet;
mod groups;
mod member;
mod points;
mod table;

pub use extent::Extents;
pub use fleet::{Fleet, Peer, State};
pub use member::{MAX_NAME_BYTES, MAX_WEIGHT, Member, MemberError, Role};
pub use table::{Candidates, Table};
