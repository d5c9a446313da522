//! Who a member of the fleet is: a name that stays, one start of it, and what others must know of that start.

use std::net::SocketAddr;
use std::sync::Arc;

use thiserror::Error;
use xxhash_rust::xxh3::xxh3_64;

use crate::member::Member;

/// The most that a member's description may take in a packet, in bytes. With it, a packet of 1200 bytes
/// holds its sender, whom it is for, whom it is about, and at least one piece of news.
pub(super) const MAX_DETAILS: usize = 400;

/// What one start of a gateway tells the fleet about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its place in the table: name, zone, weight, and whether it is an edge.
    pub member: Member,
    /// Its fleet port, as others reach it: gossip over UDP and peers over TCP.
    pub address: SocketAddr,
    /// The URL that clients reach it by.
    pub client_url: String,
    /// Its build, for people.
    pub version: String,
    /// The oldest and the newest peer protocol that it speaks.
    pub protocols: (u16, u16),
    /// A digest of the settings that all members must share.
    pub settings: u64,
    /// Larger at each start: milliseconds since 1970, or one more than at the last start if that is larger.
    pub incarnation: u64,
    /// A random number, chosen at each start: it tells two starts apart that chose the same incarnation.
    pub instance: u64,
}

/// Why a gateway cannot tell the fleet about itself.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// Its texts do not fit a packet.
    #[error(
        "name, zone, client_url and version of a member have at most {MAX_DETAILS} bytes together with what is \
         around them, and these have {0}: shorten them"
    )]
    TooLong(usize),
    /// Nobody can reach such an address.
    #[error("{0} is no address that others can reach: set `advertise` in [fleet]")]
    Address(SocketAddr),
}

/// An identity as the gossip library handles it: what tells it from others, where it is, and, unless it
/// is only being spoken to or about, the rest.
///
/// Equal are those of one name, start and revision; a change of anything else makes a new revision.
#[derive(Clone, Debug)]
pub(super) struct Id {
    pub(super) key: u64,
    pub(super) rank: Rank,
    pub(super) address: SocketAddr,
    pub(super) details: Option<Arc<Details>>,
}

/// One start of one gateway: its name's key, its incarnation and its lot.
pub(super) type Start = (u64, (u64, u64));

/// Which of two that claim one name is the later: by incarnation, then by lot; then the revision of one start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Rank {
    pub(super) incarnation: u64,
    pub(super) instance: u64,
    pub(super) revision: u32,
}

/// What only the table and people need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Details {
    pub(super) member: Member,
    pub(super) draining: bool,
    pub(super) client_url: String,
    pub(super) version: String,
    pub(super) protocols: (u16, u16),
    pub(super) settings: u64,
}

/// A name as it is compared: 64 bits of hash, so that the library's linear look-ups stay cheap.
pub(super) fn key_of(name: &str) -> u64 {
    xxh3_64(name.as_bytes())
}

impl Id {
    pub(super) fn new(identity: Identity) -> Result<Self, IdentityError> {
        let address = identity.address;
        if address.ip().is_unspecified() || address.port() == 0 {
            return Err(IdentityError::Address(address));
        }
        let id = Self {
            key: key_of(identity.member.name()),
            rank: Rank {
                incarnation: identity.incarnation,
                instance: identity.instance,
                revision: 0,
            },
            address,
            details: Some(Arc::new(Details {
                member: identity.member,
                draining: false,
                client_url: identity.client_url,
                version: identity.version,
                protocols: identity.protocols,
                settings: identity.settings,
            })),
        };
        match super::codec::full_len(&id) {
            Some(length) if length <= MAX_DETAILS => Ok(id),
            length => Err(IdentityError::TooLong(length.unwrap_or(usize::MAX))),
        }
    }

    /// Whether both are one start of one gateway.
    pub(super) fn same_start(&self, other: &Self) -> bool {
        self.start() == other.start()
    }

    /// Names one start of one gateway.
    pub(super) fn start(&self) -> Start {
        (self.key, self.rank.start())
    }

    /// The next revision of this start.
    pub(super) fn revised(&self) -> Self {
        let mut id = self.clone();
        id.rank.revision = id.rank.revision.saturating_add(1);
        id
    }

    /// The next revision of this start, whose settings have this digest by now.
    pub(super) fn with_settings(&self, settings: u64) -> Self {
        let mut id = self.revised();
        if let Some(details) = &mut id.details {
            Arc::make_mut(details).settings = settings;
        }
        id
    }

    /// The next revision of this start, which hands its blocks over.
    pub(super) fn draining(&self) -> Self {
        let mut id = self.revised();
        if let Some(details) = &mut id.details {
            Arc::make_mut(details).draining = true;
        }
        id
    }
}

impl Rank {
    /// What changes with each start and only then.
    pub(super) fn start(self) -> (u64, u64) {
        (self.incarnation, self.instance)
    }
}

impl PartialEq for Id {
    fn eq(&self, other: &Self) -> bool {
        (self.key, self.rank) == (other.key, other.rank)
    }
}

impl Eq for Id {}

impl foca::Identity for Id {
    type Addr = u64;

    /// A start that was taken for dead comes back as its next revision.
    fn renew(&self) -> Option<Self> {
        Some(self.revised())
    }

    fn addr(&self) -> u64 {
        self.key
    }

    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        self.rank > adversary.rank
    }
}
