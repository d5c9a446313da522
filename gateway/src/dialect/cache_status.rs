//! What an answer says of the cache (RFC 9211), as known when its headers leave.

use std::sync::Arc;

use forebay_storage::flight::{Follower, From};
use http::HeaderValue;

use super::Reply;
use crate::read::version::{Current, How};
use crate::read::window::FirstLook;

/// Says `text` in the answer and in its account.
pub(super) fn set_cache_status(reply: &mut Reply, text: Arc<str>) {
    if let Ok(value) = HeaderValue::try_from(&*text) {
        reply.headers.insert("cache-status", value);
    }
    reply.cache_status = Some(text);
}

/// RFC 9211 for an answer that needed no block.
pub(super) fn about_version(how: How) -> Arc<str> {
    match how {
        How::Known => "forebay; hit".into(),
        How::Asked => "forebay; fwd=miss".into(),
        How::Joined => "forebay; fwd=miss; collapsed".into(),
        How::Stale(past) => format!("forebay; hit; ttl=-{past}").into(),
    }
}

/// RFC 9211 for an answer whose first window looked like this.
pub(super) fn about_blocks(current: &Current, look: FirstLook) -> Arc<str> {
    match (current.how, &current.fills) {
        (How::Stale(past), _) if look.led + look.joined == 0 => {
            return format!("forebay; hit; ttl=-{past}").into();
        }
        // Blocks that were still to be had of a stale version: they come only if it is current.
        (How::Stale(past), _) => {
            let some = if look.hits > 0 { "partial" } else { "miss" };
            return format!("forebay; fwd={some}; ttl=-{past}").into();
        }
        // The question for the version brought the first blocks along; by now they may all be here.
        (How::Asked | How::Joined, Some(fills)) if a_peer_had(fills) => {
            return "forebay; hit; detail=\"peer\"".into();
        }
        (How::Asked, Some(_)) => return "forebay; fwd=miss".into(),
        (How::Joined, Some(_)) => return "forebay; fwd=miss; collapsed".into(),
        _ => {}
    }
    if look.from_peer {
        // The tier furthest away that took part, as far as the headers can know.
        return "forebay; hit; detail=\"peer\"".into();
    }
    match look {
        FirstLook {
            led: 0,
            joined: 0,
            nvme,
            ..
        } => {
            // The slowest tier that took part.
            let tier = if nvme > 0 { "nvme" } else { "memory" };
            format!("forebay; hit; detail=\"{tier}\"").into()
        }
        FirstLook { hits: 1.., .. } | FirstLook { nvme: 1.., .. } => "forebay; fwd=partial".into(),
        FirstLook { led: 0, .. } => "forebay; fwd=miss; collapsed".into(),
        FirstLook { .. } => "forebay; fwd=miss".into(),
    }
}

/// Whether what came with the answer about the version comes from another gateway that had it.
fn a_peer_had(fills: &[Follower]) -> bool {
    let first = fills.first().map(Follower::from);
    first == Some(From::PeerHit)
}
