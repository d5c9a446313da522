//! Membership: who is in the fleet, told by each to a few, and known by all within seconds.
//!
//! The protocol is foca's (SWIM: each second every member probes another, and what it learns rides on the
//! probes), so that idle traffic does not grow with the fleet. Ours is what stands around it: sealed packets
//! (`seal`), descriptions of explicit bytes (`codec`), no packet twice (`replay`), a sync over TCP (`sync`),
//! and what readers go by (`view`). [`Core`] is all of that without sockets or clocks, for simulators;
//! [`Membership`] drives one over a UDP socket.
//!
//! Nobody is asked for permission and nobody decides: whoever has the fleet's key belongs.

mod codec;
mod core;
mod driver;
mod identity;
mod outbox;
mod replay;
mod report;
mod seeds;
mod sync;
mod tables;
mod view;

pub use self::core::{Core, Sync, Synced};
pub use driver::{Datagrams, Exchange, Membership, Settings, StartError};
pub use identity::{Identity, IdentityError};
pub use outbox::MAX_PACKET;
pub use report::{Counts, Ended, Refused};
pub use seeds::{Seed, SeedError};
pub use sync::MAX_SYNC_BYTES;
pub use view::{KEEPS_PLACE, SHOWN_DOWN, View};
