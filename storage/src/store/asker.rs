//! Who asks for blocks, and where the missing ones would come from.
//!
//! A client asks at level 0. Between gateways a question only goes upwards, and each step has its
//! level. That alone stops loops of questions, but not loops of joins: two fills that wait for each
//! other would wait for ever. So a fill knows how far above it its source lies, and whoever asks
//! joins it only if that is above the asker's own level.

use std::fmt;

use super::RUN_BYTES;
use crate::class::Class;

/// A step on the way up: 0 is a client, [`ORIGIN`] is what asks nobody any more.
pub type Level = u8;

/// The level of the origin and of our own disk: above everybody who asks.
pub const ORIGIN: Level = Level::MAX;

/// Where a missing block comes from, if the asker is to lead its fill.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Spot {
    /// The level of the first that will be asked. It may rise while the block is being filled, and
    /// never falls.
    pub source: Level,
    /// Blocks of different groups are not fetched with one request.
    pub group: u64,
    /// Whether this gateway owns the block: else what it keeps is a copy.
    pub owned: bool,
}

impl Spot {
    /// In a fleet of one: everything is ours, and comes from the origin.
    pub const ALONE: Self = Self {
        source: ORIGIN,
        group: 0,
        owned: true,
    };
}

/// Whoever asks the store for blocks.
#[derive(Clone, Copy)]
pub struct Asker<'a> {
    /// Its level.
    pub level: Level,
    /// How urgent it is to it.
    pub class: Class,
    /// Where a missing block would come from, by index. Called with a lock held: it must not wait.
    pub spot: &'a dyn Fn(u32) -> Spot,
    /// Bytes that are asked of the origin at once, at most; a block at least, and no more than [`RUN_BYTES`].
    pub run: u64,
}

impl fmt::Debug for Asker<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Asker")
            .field("level", &self.level)
            .field("class", &self.class)
            .finish_non_exhaustive()
    }
}

impl Asker<'static> {
    /// A client of a gateway that is a fleet of one.
    pub const ALONE: Self = Self {
        level: 0,
        class: Class::Demand,
        spot: &|_| Spot::ALONE,
        run: RUN_BYTES,
    };
}
