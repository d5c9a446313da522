//! What goes into a reader, and what comes of each of its steps.

use std::ops::Range;

use bytes::Bytes;
use forebay_storage::error::OriginError;

use crate::metrics::Source;

/// Something that leaves in a body.
#[derive(Clone, Debug)]
pub enum Piece {
    /// Text of ours: the head of a part.
    Text(Bytes),
    /// Bytes of the object.
    Range(Range<u64>),
}

/// What a reader has next.
#[derive(Debug)]
pub enum Step {
    /// Bytes, and where they were; `None`: text of ours.
    Bytes(Bytes, Option<Source>),
    /// Nothing yet: await [`super::Reader::waiting`], then step again.
    Wait,
    /// Nothing more.
    End,
    /// The rest can't be had.
    Fail(OriginError),
}

/// What a reader found when it opened its first blocks.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct FirstLook {
    /// Blocks that were in memory.
    pub hits: u32,
    /// Blocks that were on NVMe.
    pub nvme: u32,
    /// Blocks that joined another's fill.
    pub joined: u32,
    /// Blocks that this reader led.
    pub led: u32,
    /// The first block came from another gateway, which had it.
    pub from_peer: bool,
}
