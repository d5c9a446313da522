//! Two members compare what they know, over TCP: gossip alone forgets to tell somebody, now and then.
//!
//! The asker sends a digest; whoever knows the same says so in 200 bytes, so an idle fleet pays little.
//! Otherwise the answer is all that the other knows, and the asker then sends what the other lacks.
//!
//! A request is believed only if it names the start that it is for and has a number that has not come yet;
//! the first one, to somebody unknown, can therefore only ask. An answer carries its request's nonce.

use bytes::{Buf, BufMut};
use foca::{Member as News, State};
use xxhash_rust::xxh3::xxh3_64;

use super::codec::{CodecError, full, news, put_full, put_news};
use super::identity::{Id, Rank};

/// The most members in one message. 4096 of the longest descriptions are 1.6 MiB.
const MAX_MEMBERS: usize = 4096;

/// The most bytes that a sync's request or answer may have, sealed: what a transport has to take.
pub const MAX_SYNC_BYTES: usize = 2 << 20;

const VERSION: u8 = 1;

/// What is known of a member, and for how many milliseconds it has been down, if it is; else for how many it has had
/// its place, or 0 where that is not told.
pub(super) type Known = (News<Id>, u32);

/// "This is what I know; do you know the same?"
pub(super) struct Request {
    pub(super) nonce: u64,
    /// The instance that it is for; 0 if that is not known yet.
    pub(super) to: u64,
    pub(super) number: u64,
    pub(super) from: Id,
    pub(super) digest: u64,
    pub(super) known: Vec<Known>,
    /// For how many milliseconds the asker has had its place; 0 from a release that does not tell.
    pub(super) placed_for: u32,
}

/// The answer: nothing more where both know the same.
pub(super) struct Answer {
    pub(super) nonce: u64,
    pub(super) from: Id,
    pub(super) same: bool,
    pub(super) known: Vec<Known>,
    /// The same of whoever answers.
    pub(super) placed_for: u32,
}

impl Request {
    pub(super) fn encode(&self) -> Result<Vec<u8>, CodecError> {
        let mut bytes = vec![VERSION];
        bytes.put_u64(self.nonce);
        bytes.put_u64(self.to);
        bytes.put_u64(self.number);
        put_full(&mut bytes, &self.from)?;
        bytes.put_u64(self.digest);
        put_known(&mut bytes, &self.known)?;
        // What stands behind the end is stepped over by releases that do not know it.
        bytes.put_u32(self.placed_for);
        Ok(bytes)
    }

    pub(super) fn decode(mut bytes: &[u8]) -> Result<Self, CodecError> {
        let buf = &mut bytes;
        version(buf)?;
        Ok(Self {
            nonce: u64(buf)?,
            to: u64(buf)?,
            number: u64(buf)?,
            from: full(buf)?,
            digest: u64(buf)?,
            known: known(buf)?,
            placed_for: buf.try_get_u32().unwrap_or(0),
        })
    }
}

impl Answer {
    pub(super) fn encode(&self) -> Result<Vec<u8>, CodecError> {
        let mut bytes = vec![VERSION];
        bytes.put_u64(self.nonce);
        put_full(&mut bytes, &self.from)?;
        bytes.put_u8(u8::from(self.same));
        put_known(&mut bytes, &self.known)?;
        // What stands behind the end is stepped over by releases that do not know it.
        bytes.put_u32(self.placed_for);
        Ok(bytes)
    }

    pub(super) fn decode(mut bytes: &[u8]) -> Result<Self, CodecError> {
        let buf = &mut bytes;
        version(buf)?;
        Ok(Self {
            nonce: u64(buf)?,
            from: full(buf)?,
            same: buf.try_get_u8().map_err(|_| CodecError::Malformed)? == 1,
            known: known(buf)?,
            placed_for: buf.try_get_u32().unwrap_or(0),
        })
    }
}

/// A part of the digest; all of them are combined by exclusive or, so that no order matters. A suspicion
/// passes by itself and is left out.
pub(super) fn digest(key: u64, rank: Rank, down: bool) -> u64 {
    let mut bytes = Vec::with_capacity(29);
    bytes.put_u64(key);
    bytes.put_u64(rank.incarnation);
    bytes.put_u64(rank.instance);
    bytes.put_u32(rank.revision);
    bytes.put_u8(u8::from(down));
    xxh3_64(&bytes)
}

/// What of `ours` whoever knows `theirs` lacks.
pub(super) fn lacking(ours: Vec<Known>, theirs: &[Known]) -> Vec<Known> {
    let theirs: std::collections::HashMap<u64, (Rank, bool)> = theirs
        .iter()
        .map(|(news, _)| (news.id().key, (news.id().rank, news.state() == State::Down)))
        .collect();
    ours.into_iter()
        .filter(|(news, _)| match theirs.get(&news.id().key) {
            None => true,
            Some((rank, down)) => {
                news.id().rank > *rank
                    || news.id().rank == *rank && news.state() == State::Down && !down
            }
        })
        .collect()
}

fn put_known(bytes: &mut Vec<u8>, known: &[Known]) -> Result<(), CodecError> {
    let count = known.len().min(MAX_MEMBERS);
    bytes.put_u16(count as u16);
    for (news, age) in &known[..count] {
        put_news(bytes, news)?;
        bytes.put_u32(*age);
    }
    Ok(())
}

fn known(buf: &mut &[u8]) -> Result<Vec<Known>, CodecError> {
    let count = usize::from(buf.try_get_u16().map_err(|_| CodecError::Malformed)?);
    if count > MAX_MEMBERS {
        return Err(CodecError::Malformed);
    }
    (0..count)
        .map(|_| {
            let news = news(buf)?;
            let age = buf.try_get_u32().map_err(|_| CodecError::Malformed)?;
            Ok((news, age))
        })
        .collect()
}

fn version(buf: &mut &[u8]) -> Result<(), CodecError> {
    match buf.try_get_u8() {
        Ok(VERSION) => Ok(()),
        _ => Err(CodecError::Malformed),
    }
}

fn u64(buf: &mut &[u8]) -> Result<u64, CodecError> {
    buf.try_get_u64().map_err(|_| CodecError::Malformed)
}
