//! Bytes of packets, by hand: numbers big-endian, texts with their length, nothing that a compiler chooses.
//!
//! A description has its own length in front, so that a later release may append to it and this one steps
//! over what it does not know. What is malformed is refused whole; nothing here panics on what came in.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::{Buf, BufMut};
use foca::{Header, Member as News, Message, State};
use thiserror::Error;

use super::identity::{Details, Id, MAX_DETAILS, Rank};
use crate::member::Member;

/// Something that is not as it should be on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(super) enum CodecError {
    #[error(
        "a packet ends before it should or says what no member says: members of this fleet run releases too far apart"
    )]
    Malformed,
    #[error("there is no room for it in this packet")]
    Full,
}

/// How foca's messages are written, and where it shows that it has taken news in.
#[derive(Debug, Default)]
pub(super) struct Codec {
    /// Set whenever news is written. foca writes each piece that changed what it knows once, to spread it, so
    /// this says that its members should be looked at again. It has no notification for a suspicion.
    pub(super) wrote: Arc<AtomicBool>,
}

impl foca::Codec<Id> for Codec {
    type Error = CodecError;

    fn encode_header(
        &mut self,
        header: &Header<Id>,
        mut buf: impl BufMut,
    ) -> Result<(), CodecError> {
        let mut bytes = Vec::with_capacity(256);
        put_full(&mut bytes, &header.src)?;
        bytes.put_u16(header.src_incarnation);
        put_short(&mut bytes, &header.dst);
        put_message(&mut bytes, &header.message);
        put_all(&mut buf, &bytes)
    }

    fn decode_header(&mut self, mut buf: impl Buf) -> Result<Header<Id>, CodecError> {
        header(&mut buf)
    }

    fn encode_member(&mut self, member: &News<Id>, mut buf: impl BufMut) -> Result<(), CodecError> {
        self.wrote.store(true, Ordering::Relaxed);
        let mut bytes = Vec::with_capacity(128);
        put_news(&mut bytes, member)?;
        put_all(&mut buf, &bytes)
    }

    fn decode_member(&mut self, mut buf: impl Buf) -> Result<News<Id>, CodecError> {
        news(&mut buf)
    }
}

/// Reads a packet of foca's as foca will, without taking it in.
pub(super) fn peek(mut data: &[u8]) -> Result<(Header<Id>, Vec<News<Id>>), CodecError> {
    let header = header(&mut data)?;
    let mut all = Vec::new();
    if data.len() >= 2 && header.message != Message::Broadcast {
        for _ in 0..data.get_u16() {
            all.push(news(&mut data)?);
        }
    }
    Ok((header, all))
}

/// How many bytes an identity takes in full; `None` if a text is too long to be written at all.
pub(super) fn full_len(id: &Id) -> Option<usize> {
    let mut bytes = Vec::new();
    put_full(&mut bytes, id).ok().map(|()| bytes.len())
}

pub(super) fn put_news(bytes: &mut Vec<u8>, member: &News<Id>) -> Result<(), CodecError> {
    put_full(bytes, member.id())?;
    bytes.put_u16(member.incarnation());
    bytes.put_u8(match member.state() {
        State::Alive => 0,
        State::Suspect => 1,
        State::Down => 2,
    });
    Ok(())
}

pub(super) fn news(buf: &mut impl Buf) -> Result<News<Id>, CodecError> {
    let id = full(buf)?;
    let incarnation = buf.try_get_u16().map_err(malformed)?;
    let state = match buf.try_get_u8().map_err(malformed)? {
        0 => State::Alive,
        1 => State::Suspect,
        2 => State::Down,
        _ => return Err(CodecError::Malformed),
    };
    Ok(News::new(id, incarnation, state))
}

pub(super) fn put_full(bytes: &mut Vec<u8>, id: &Id) -> Result<(), CodecError> {
    // Only whoever is spoken to or about goes without details, and foca never spreads those.
    let details = id.details.as_ref().ok_or(CodecError::Malformed)?;
    let at = bytes.len();
    bytes.put_u16(0);
    put_rank(bytes, id.rank);
    put_address(bytes, id.address);
    bytes.put_u8(u8::from(details.draining));
    bytes.put_u16(details.member.weight());
    bytes.put_u16(details.protocols.0);
    bytes.put_u16(details.protocols.1);
    bytes.put_u64(details.settings);
    for text in [
        details.member.name(),
        details.member.zone(),
        &details.client_url,
        &details.version,
    ] {
        bytes.put_u8(u8::try_from(text.len()).map_err(|_| CodecError::Full)?);
        bytes.put_slice(text.as_bytes());
    }
    let length = u16::try_from(bytes.len() - at - 2).map_err(|_| CodecError::Full)?;
    bytes[at..at + 2].copy_from_slice(&length.to_be_bytes());
    Ok(())
}

pub(super) fn full(buf: &mut impl Buf) -> Result<Id, CodecError> {
    let length = usize::from(buf.try_get_u16().map_err(malformed)?);
    // Twice what we write: room for what a later release appends.
    if length > buf.remaining() || length > 2 * MAX_DETAILS {
        return Err(CodecError::Malformed);
    }
    let bytes = buf.copy_to_bytes(length);
    let mut buf = &bytes[..];
    let rank = rank(&mut buf)?;
    let address = address(&mut buf)?;
    let flags = buf.try_get_u8().map_err(malformed)?;
    let weight = buf.try_get_u16().map_err(malformed)?;
    let oldest = buf.try_get_u16().map_err(malformed)?;
    let newest = buf.try_get_u16().map_err(malformed)?;
    let settings = buf.try_get_u64().map_err(malformed)?;
    let (name, zone) = (text(&mut buf)?, text(&mut buf)?);
    let (client_url, version) = (text(&mut buf)?, text(&mut buf)?);
    let member = match NonZeroU16::new(weight) {
        Some(weight) => Member::new(name, zone, weight),
        None => Member::edge(name, zone),
    };
    let member = member.map_err(malformed)?;
    Ok(Id {
        key: super::identity::key_of(member.name()),
        rank,
        address,
        details: Some(Arc::new(Details {
            member,
            draining: flags & 1 != 0,
            client_url,
            version,
            protocols: (oldest, newest),
            settings,
        })),
    })
}

fn header(buf: &mut impl Buf) -> Result<Header<Id>, CodecError> {
    Ok(Header {
        src: full(buf)?,
        src_incarnation: buf.try_get_u16().map_err(malformed)?,
        dst: short(buf)?,
        message: message(buf)?,
    })
}

/// Enough to find and to compare: 47 bytes at most.
fn put_short(bytes: &mut Vec<u8>, id: &Id) {
    bytes.put_u64(id.key);
    put_rank(bytes, id.rank);
    put_address(bytes, id.address);
}

fn short(buf: &mut impl Buf) -> Result<Id, CodecError> {
    Ok(Id {
        key: buf.try_get_u64().map_err(malformed)?,
        rank: rank(buf)?,
        address: address(buf)?,
        details: None,
    })
}

fn put_message(bytes: &mut Vec<u8>, message: &Message<Id>) {
    let (kind, number, about) = match message {
        Message::Ping(number) => (0, Some(number), None),
        Message::Ack(number) => (1, Some(number), None),
        Message::PingReq {
            target,
            probe_number,
        } => (2, Some(probe_number), Some(target)),
        Message::IndirectPing {
            origin,
            probe_number,
        } => (3, Some(probe_number), Some(origin)),
        Message::IndirectAck {
            target,
            probe_number,
        } => (4, Some(probe_number), Some(target)),
        Message::ForwardedAck {
            origin,
            probe_number,
        } => (5, Some(probe_number), Some(origin)),
        Message::Announce => (6, None, None),
        Message::Feed => (7, None, None),
        Message::Gossip => (8, None, None),
        Message::Broadcast => (9, None, None),
        Message::TurnUndead => (10, None, None),
    };
    bytes.put_u8(kind);
    if let Some(number) = number {
        bytes.put_u8(*number);
    }
    if let Some(about) = about {
        put_short(bytes, about);
    }
}

fn message(buf: &mut impl Buf) -> Result<Message<Id>, CodecError> {
    let kind = buf.try_get_u8().map_err(malformed)?;
    let probe_number = match kind {
        0..=5 => buf.try_get_u8().map_err(malformed)?,
        _ => 0,
    };
    Ok(match kind {
        0 => Message::Ping(probe_number),
        1 => Message::Ack(probe_number),
        2 => Message::PingReq {
            target: short(buf)?,
            probe_number,
        },
        3 => Message::IndirectPing {
            origin: short(buf)?,
            probe_number,
        },
        4 => Message::IndirectAck {
            target: short(buf)?,
            probe_number,
        },
        5 => Message::ForwardedAck {
            origin: short(buf)?,
            probe_number,
        },
        6 => Message::Announce,
        7 => Message::Feed,
        8 => Message::Gossip,
        9 => Message::Broadcast,
        10 => Message::TurnUndead,
        _ => return Err(CodecError::Malformed),
    })
}

fn put_rank(bytes: &mut Vec<u8>, rank: Rank) {
    bytes.put_u64(rank.incarnation);
    bytes.put_u64(rank.instance);
    bytes.put_u32(rank.revision);
}

fn rank(buf: &mut impl Buf) -> Result<Rank, CodecError> {
    Ok(Rank {
        incarnation: buf.try_get_u64().map_err(malformed)?,
        instance: buf.try_get_u64().map_err(malformed)?,
        revision: buf.try_get_u32().map_err(malformed)?,
    })
}

fn put_address(bytes: &mut Vec<u8>, address: SocketAddr) {
    match address.ip() {
        IpAddr::V4(ip) => {
            bytes.put_u8(4);
            bytes.put_slice(&ip.octets());
        }
        IpAddr::V6(ip) => {
            bytes.put_u8(6);
            bytes.put_slice(&ip.octets());
        }
    }
    bytes.put_u16(address.port());
}

fn address(buf: &mut impl Buf) -> Result<SocketAddr, CodecError> {
    let ip = match buf.try_get_u8().map_err(malformed)? {
        4 => IpAddr::from(buf.try_get_u32().map_err(malformed)?.to_be_bytes()),
        6 => IpAddr::from(buf.try_get_u128().map_err(malformed)?.to_be_bytes()),
        _ => return Err(CodecError::Malformed),
    };
    Ok(SocketAddr::new(ip, buf.try_get_u16().map_err(malformed)?))
}

fn text(buf: &mut &[u8]) -> Result<String, CodecError> {
    let length = usize::from(buf.try_get_u8().map_err(malformed)?);
    let (text, rest) = buf.split_at_checked(length).ok_or(CodecError::Malformed)?;
    *buf = rest;
    String::from_utf8(text.to_vec()).map_err(malformed)
}

fn malformed<E>(_: E) -> CodecError {
    CodecError::Malformed
}

/// All or nothing, as foca demands.
fn put_all(buf: &mut impl BufMut, bytes: &[u8]) -> Result<(), CodecError> {
    if buf.remaining_mut() < bytes.len() {
        return Err(CodecError::Full);
    }
    buf.put_slice(bytes);
    Ok(())
}
