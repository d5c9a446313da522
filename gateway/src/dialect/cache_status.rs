//! What an answer says of the cache (RFC 9211), as known when its headers leave.

use forebay_storage::flight::{Follower, From};
use http::{HeaderValue, header};

use super::Reply;
use crate::read::version::{Current, How};
use crate::read::window::FirstLook;

// Most answers say one of a few things, which cost nothing to say.
const KNOWN: HeaderValue = HeaderValue::from_static("forebay; hit");
const MEMORY: HeaderValue = HeaderValue::from_static("forebay; hit; detail=\"memory\"");
const NVME: HeaderValue = HeaderValue::from_static("forebay; hit; detail=\"nvme\"");
const PEER: HeaderValue = HeaderValue::from_static("forebay; hit; detail=\"peer\"");
const PARTIAL: HeaderValue = HeaderValue::from_static("forebay; fwd=partial");
const COLLAPSED: HeaderValue = HeaderValue::from_static("forebay; fwd=miss; collapsed");
pub(super) const MISS: HeaderValue = HeaderValue::from_static("forebay; fwd=miss");

/// Says this in the answer and in its account.
pub(super) fn set_cache_status(reply: &mut Reply, said: HeaderValue) {
    reply.headers.insert(header::CACHE_STATUS, said.clone());
    reply.cache_status = Some(said);
}

/// `forebay; WHAT; ttl=-PAST`: of a version that is so many seconds past its time.
fn stale(what: &str, past: u64) -> HeaderValue {
    let text = format!("forebay; {what}; ttl=-{past}");
    HeaderValue::try_from(text).unwrap_or(MISS)
}

/// RFC 9211 for an answer that needed no block.
pub(super) fn about_version(how: How) -> HeaderValue {
    match how {
        How::Known => KNOWN,
        How::Asked => MISS,
        How::Joined => COLLAPSED,
        How::Stale(past) => stale("hit", past),
    }
}

/// RFC 9211 for an answer whose first window looked like this.
pub(super) fn about_blocks(current: &Current, look: FirstLook) -> HeaderValue {
    match (current.how, &current.fills) {
        (How::Stale(past), _) if look.led + look.joined == 0 => {
            return stale("hit", past);
        }
        // Blocks that were still to be had of a stale version: they come only if it is current.
        (How::Stale(past), _) => {
            let some = look.hits > 0;
            return stale(if some { "fwd=partial" } else { "fwd=miss" }, past);
        }
        // The question for the version brought the first blocks along; by now they may all be here.
        (How::Asked | How::Joined, Some(fills)) if a_peer_had(fills) => {
            return PEER;
        }
        (How::Asked, Some(_)) => return MISS,
        (How::Joined, Some(_)) => return COLLAPSED,
        _ => {}
    }
    if look.from_peer {
        // The tier furthest away that took part, as far as the headers can know.
        return PEER;
    }
    match look {
        FirstLook {
            led: 0,
            joined: 0,
            nvme,
            ..
        } => {
            // The slowest tier that took part.
            if nvme > 0 { NVME } else { MEMORY }
        }
        FirstLook { hits: 1.., .. } | FirstLook { nvme: 1.., .. } => PARTIAL,
        FirstLook { led: 0, .. } => COLLAPSED,
        FirstLook { .. } => MISS,
    }
}

/// Whether what came with the answer about the version comes from another gateway that had it.
fn a_peer_had(fills: &[Follower]) -> bool {
    let first = fills.first().map(Follower::from);
    first == Some(From::PeerHit)
}
