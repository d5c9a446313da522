//! What a gateway's membership says about itself: why it ended, what it refused, what came and went.

use std::net::SocketAddr;

use thiserror::Error;

use super::codec::CodecError;
use crate::seal::OpenError;

/// Why the membership of this gateway ended by itself.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Ended {
    /// Another gateway with the same name was started later.
    #[error(
        "another gateway named `{name}` has joined the fleet, at {address}, and was started later than this one: \
         give each its own `member` name in [fleet], or let the other one go on"
    )]
    Superseded {
        /// The name of both.
        name: String,
        /// Where the other is.
        address: SocketAddr,
    },
}

/// Why something that came in was not taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Refused {
    /// Not sealed by a member.
    Foreign,
    /// Sealed with another key or for another fleet.
    Key,
    /// Changed on its way, or not understood by this release.
    Malformed,
    /// Taken in before, or meant for an earlier start.
    Stale,
}

impl Refused {
    /// The reason as a label of a metric.
    pub fn label(self) -> &'static str {
        match self {
            Self::Foreign => "foreign",
            Self::Key => "key",
            Self::Malformed => "malformed",
            Self::Stale => "stale",
        }
    }
}

/// What came and went, counted since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Packets sent.
    pub packets_sent: u64,
    /// Bytes of them, sealed, without headers of IP and UDP.
    pub bytes_sent: u64,
    /// Packets that came in, refused ones too.
    pub packets_received: u64,
    /// Bytes of them.
    pub bytes_received: u64,
    /// Syncs completed as the asker.
    pub syncs: u64,
    /// Bytes of requests and answers that syncs have sent from here.
    pub sync_bytes_sent: u64,
    /// Refused, by reason: foreign, key, malformed, stale.
    pub refused: [u64; 4],
}

impl From<OpenError> for Refused {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Foreign => Self::Foreign,
            OpenError::Key => Self::Key,
            OpenError::Damaged => Self::Malformed,
        }
    }
}

impl From<CodecError> for Refused {
    fn from(_: CodecError) -> Self {
        Self::Malformed
    }
}
