//! The fleet as one gateway sees it at one moment: the table that places, and who can be reached.
//!
//! Two things change at different speeds, and are kept apart for it. Placement (the [`Table`]) changes
//! when a member comes, leaves for good or drains; routing (the [`State`] of each) changes as soon as
//! somebody falls silent. A member that is silent for a moment keeps its blocks; it is only not asked.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::donors::Donors;
use crate::member::Member;
use crate::table::Table;

/// How a member does, as far as this gateway has heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// It answers.
    Alive,
    /// It is suspected, or has been found dead so lately that its blocks still wait for it.
    Silent,
    /// It hands its blocks over and leaves: it answers, and owns nothing any more.
    Draining,
    /// It has been gone for so long that others own its blocks now.
    Down,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Alive => "alive",
            Self::Silent => "silent",
            Self::Draining => "draining",
            Self::Down => "down",
        })
    }
}

/// A member and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its place in the table.
    pub member: Member,
    /// Its fleet port: peers over TCP, gossip over UDP.
    pub address: SocketAddr,
    /// The URL that clients reach it by.
    pub client_url: String,
    /// Which start of it this is: larger than at any earlier one.
    pub incarnation: u64,
    /// How it does.
    pub state: State,
    /// Its build, for people.
    pub version: String,
    /// The newest peer protocol that it speaks.
    pub protocol: u16,
    /// A digest of the settings that all members must share: block size, and datasets by name and origin.
    pub settings: u64,
}

/// The fleet at one moment. Immutable: a change makes another.
#[derive(Clone, Debug)]
pub struct Fleet {
    /// The fleet's name.
    pub name: Arc<str>,
    /// This gateway's own name in it.
    pub own: Arc<str>,
    /// Who owns what. Rebuilt off the read path when placement changes, and shared until then.
    pub table: Arc<Table>,
    /// Who owned it a moment ago, where somebody came or goes.
    pub donors: Arc<Donors>,
    /// Everybody heard of, this gateway too, by name; those that are down for a while yet, for people to see.
    pub peers: Arc<BTreeMap<String, Peer>>,
}

impl Fleet {
    /// The member of that name, if it was heard of.
    pub fn peer(&self, name: &str) -> Option<&Peer> {
        self.peers.get(name)
    }

    /// Whether that member answers, as far as was heard.
    pub fn answers(&self, name: &str) -> bool {
        self.peer(name)
            .is_some_and(|peer| matches!(peer.state, State::Alive | State::Draining))
    }

    /// Members that share the origin's connections: those that answer, edges included.
    pub fn sharers(&self) -> usize {
        self.peers
            .values()
            .filter(|peer| matches!(peer.state, State::Alive | State::Draining))
            .count()
            .max(1)
    }

    /// Members whose shared settings differ from this gateway's, those that are down left out.
    pub fn differing(&self) -> impl Iterator<Item = &Peer> {
        let own = self.peer(&self.own).map(|peer| peer.settings);
        self.peers.values().filter(move |peer| {
            peer.state != State::Down && own.is_some_and(|own| own != peer.settings)
        })
    }
}
