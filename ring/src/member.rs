//! A gateway as placement sees it: its name, its zone and how much it takes on.
//!
//! A member is its name. Where it is reached may change (a restarted pod, a second network card) while
//! its blocks stay where they are, so no address enters placement and none is kept here.

use std::num::NonZeroU16;

use thiserror::Error;

/// The most that one member may weigh.
///
/// Each unit of weight puts 512 points of about 48 bytes on two rings, so 100 units cost every gateway
/// 5 MiB. Weights say how members compare; a fleet that needs finer steps than 1 in 100 is not mixed but
/// mistaken about its units.
pub const MAX_WEIGHT: u16 = 100;

/// The longest name of a member or a zone, in bytes: what DNS allows a host name.
pub const MAX_NAME_BYTES: usize = 255;

/// What a gateway does in its fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Owns extents, in proportion to its weight.
    Member,
    /// Owns nothing; sits beside a loader and asks those that own.
    Edge,
}

/// One gateway of the fleet, as it stands in the [`Table`](crate::Table).
///
/// Two values are equal if all of it is equal; in a table the name alone tells members apart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Member {
    // The order of the fields is the order of the members: by name first.
    name: String,
    zone: String,
    // Invariant: 0 for an edge, 1 to MAX_WEIGHT for a member.
    weight: u16,
}

/// Why a gateway cannot stand in a table.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum MemberError {
    /// The name is empty or too long.
    #[error(
        "a member's name has 1 to {MAX_NAME_BYTES} bytes and this one has {0}: choose another, \
         and keep it over restarts"
    )]
    Name(usize),
    /// The zone's name is too long.
    #[error(
        "a zone's name has at most {MAX_NAME_BYTES} bytes and this one has {0}: choose a shorter one"
    )]
    Zone(usize),
    /// The weight is too large.
    #[error(
        "a member's weight is 1 to {MAX_WEIGHT}, not {0}: divide all weights of the fleet by the same number"
    )]
    Weight(u16),
}

impl Member {
    /// A member that owns extents in proportion to `weight`. An empty `zone` is a zone like any other.
    ///
    /// # Errors
    /// A name that is empty or over [`MAX_NAME_BYTES`], a zone over it, a weight over [`MAX_WEIGHT`].
    pub fn new(
        name: impl Into<String>,
        zone: impl Into<String>,
        weight: NonZeroU16,
    ) -> Result<Self, MemberError> {
        if weight.get() > MAX_WEIGHT {
            return Err(MemberError::Weight(weight.get()));
        }
        Self::checked(name.into(), zone.into(), weight.get())
    }

    /// An edge: in the table, so that others know it, but never an owner.
    ///
    /// # Errors
    /// A name that is empty or over [`MAX_NAME_BYTES`], a zone over it.
    pub fn edge(name: impl Into<String>, zone: impl Into<String>) -> Result<Self, MemberError> {
        Self::checked(name.into(), zone.into(), 0)
    }

    /// The stable name by which the fleet knows this gateway.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The zone that it stands in; empty where none was set.
    pub fn zone(&self) -> &str {
        &self.zone
    }

    /// Whether it owns extents or sits beside a loader.
    pub fn role(&self) -> Role {
        match self.weight {
            0 => Role::Edge,
            _ => Role::Member,
        }
    }

    /// How much it owns, relative to the others: 1 to [`MAX_WEIGHT`], and 0 for an edge.
    pub fn weight(&self) -> u16 {
        self.weight
    }

    fn checked(name: String, zone: String, weight: u16) -> Result<Self, MemberError> {
        if name.is_empty() || name.len() > MAX_NAME_BYTES {
            return Err(MemberError::Name(name.len()));
        }
        if zone.len() > MAX_NAME_BYTES {
            return Err(MemberError::Zone(zone.len()));
        }
        Ok(Self { name, zone, weight })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn weight(units: u16) -> NonZeroU16 {
        NonZeroU16::new(units).unwrap()
    }

    #[test]
    fn an_edge_weighs_nothing_and_a_member_what_it_was_given() {
        let edge = Member::edge("pod-7", "h").unwrap();
        assert_eq!((edge.role(), edge.weight()), (Role::Edge, 0));
        let member = Member::new("gw-0", "", weight(3)).unwrap();
        assert_eq!((member.role(), member.weight()), (Role::Member, 3));
    }

    #[test]
    fn names_and_weights_have_bounds() {
        let long = "n".repeat(MAX_NAME_BYTES + 1);
        let fits = &long[1..];
        assert_eq!(Member::edge("", "h"), Err(MemberError::Name(0)));
        assert_eq!(Member::edge(&long, "h"), Err(MemberError::Name(256)));
        assert_eq!(Member::edge("gw-0", &long), Err(MemberError::Zone(256)));
        assert!(Member::edge(fits, fits).is_ok());
        assert!(Member::new("gw-0", "h", weight(MAX_WEIGHT)).is_ok());
        assert_eq!(
            Member::new("gw-0", "h", weight(MAX_WEIGHT + 1)),
            Err(MemberError::Weight(101))
        );
    }
}
