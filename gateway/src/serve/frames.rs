//! The frames that an HTTP/2 client sends, looked at as they come: what costs us more than its
//! client is counted, and a field section that does not end is seen.
//!
//! h2 bounds what such frames may pile up (streams reset before they were accepted, continuations
//! of one field section, pongs unsent), but not how many of them a client may have answered: pings,
//! settings, priorities, resets of answered streams and windows opened a byte at a time are free to
//! send and cost us a frame or a write each (RFC 9113 §10.5). So each connection has an allowance,
//! which time and requests fill up again.

use tokio::time::Instant;

/// What HTTP/2 begins with (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The allowance at most: a thousand frames, as nghttp2 has it.
const MOST: i64 = 4000;

/// What comes back in a second: a hundred frames.
const A_SECOND: i64 = 400;

/// What a frame that asks nothing costs.
const IDLE_FRAME: i64 = 4;

/// What a window opened by less than [`SMALL`] costs. Clients open windows by what they took, which
/// may be little once a request.
const SMALL_UPDATE: i64 = 1;
const SMALL: u32 = 1024;

/// What a request gives: less than its reset costs.
const REQUEST: i64 = 2;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const SETTINGS: u8 = 4;
const PING: u8 = 6;

const END_STREAM_OR_ACK: u8 = 1;
const END_HEADERS: u8 = 4;

/// The client sends frames that ask nothing, faster than anybody needs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the client floods this connection with frames that ask nothing")]
pub struct Flood;

/// What has come of a connection's frames.
#[derive(Debug)]
pub struct Frames {
    at: At,
    /// A field section has begun, and goes on in the next frame.
    open: bool,
    /// Frames that have begun.
    count: u64,
    allowance: i64,
    filled: Instant,
}

#[derive(Debug)]
enum At {
    /// So many bytes of the preface have come.
    Preface(usize),
    /// It is another protocol: nothing is looked at.
    Elsewhere,
    /// Within a frame's header.
    Header { bytes: [u8; 9], have: usize },
    /// Within a frame's payload: the header, and of the payload what is to come and its first bytes.
    Payload {
        header: Header,
        left: usize,
        first: [u8; 4],
        have: usize,
    },
}

#[derive(Clone, Copy, Debug)]
struct Header {
    kind: u8,
    flags: u8,
    length: usize,
}

impl Header {
    fn of(bytes: &[u8; 9]) -> Self {
        let [a, b, c, kind, flags, ..] = *bytes;
        Self {
            kind,
            flags,
            length: u32::from_be_bytes([0, a, b, c]) as usize,
        }
    }

    fn is_section(&self) -> bool {
        matches!(self.kind, HEADERS | CONTINUATION)
    }
}

const HEADER: At = At::Header {
    bytes: [0; 9],
    have: 0,
};

impl Default for Frames {
    /// Nothing has come yet.
    fn default() -> Self {
        Self {
            at: At::Preface(0),
            open: false,
            count: 0,
            allowance: MOST,
            filled: Instant::now(),
        }
    }
}

impl Frames {
    /// The number of the frame that a field section, or a frame's header, has begun in and not
    /// ended; `None`: nothing is half here.
    pub fn unfinished(&self) -> Option<u64> {
        let half = match &self.at {
            At::Preface(_) | At::Elsewhere => false,
            At::Header { have, .. } => *have > 0,
            At::Payload { header, .. } => header.is_section(),
        };
        (half || self.open).then_some(self.count)
    }

    /// Looks at what came.
    ///
    /// # Errors
    /// The allowance is used up: the connection is not worth keeping.
    pub fn read(&mut self, mut bytes: &[u8]) -> Result<(), Flood> {
        while !bytes.is_empty() {
            match &mut self.at {
                At::Elsewhere => return Ok(()),
                At::Preface(have) => {
                    let wanted = &PREFACE[*have..];
                    let common = wanted.len().min(bytes.len());
                    if wanted[..common] != bytes[..common] {
                        self.at = At::Elsewhere;
                        return Ok(());
                    }
                    *have += common;
                    bytes = &bytes[common..];
                    if *have == PREFACE.len() {
                        self.at = HEADER;
                    }
                }
                At::Header {
                    bytes: header,
                    have,
                } => {
                    let common = (header.len() - *have).min(bytes.len());
                    header[*have..*have + common].copy_from_slice(&bytes[..common]);
                    if *have == 0 && !self.open {
                        self.count += 1;
                    }
                    *have += common;
                    bytes = &bytes[common..];
                    if *have == header.len() {
                        let header = Header::of(header);
                        self.at = At::Payload {
                            header,
                            left: header.length,
                            first: [0; 4],
                            have: 0,
                        };
                        self.ended()?;
                    }
                }
                At::Payload {
                    left, first, have, ..
                } => {
                    let common = (*left).min(bytes.len());
                    for byte in &bytes[..common.min(first.len() - *have)] {
                        first[*have] = *byte;
                        *have += 1;
                    }
                    *left -= common;
                    bytes = &bytes[common..];
                    self.ended()?;
                }
            }
        }
        Ok(())
    }

    /// If the frame has ended, judges it.
    fn ended(&mut self) -> Result<(), Flood> {
        let At::Payload {
            header,
            left: 0,
            first,
            ..
        } = self.at
        else {
            return Ok(());
        };
        self.at = HEADER;
        let flagged = header.flags & END_STREAM_OR_ACK != 0;
        let cost = match header.kind {
            // The first frame of a section pays for it; the others ask nothing.
            HEADERS => -REQUEST,
            DATA if header.length > 0 || flagged => 0,
            SETTINGS | PING if flagged => 0,
            // The highest bit is reserved and says nothing (RFC 9113 §6.9).
            WINDOW_UPDATE if u32::from_be_bytes(first) & 0x7fff_ffff >= SMALL => 0,
            WINDOW_UPDATE => SMALL_UPDATE,
            _ => IDLE_FRAME,
        };
        if header.is_section() {
            self.open = header.flags & END_HEADERS == 0;
        }
        self.charge(cost)
    }

    fn charge(&mut self, cost: i64) -> Result<(), Flood> {
        if cost == 0 {
            return Ok(());
        }
        self.allowance -= cost;
        if self.allowance < 0 {
            let elapsed = self.filled.elapsed();
            self.filled = Instant::now();
            let milliseconds = i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX);
            self.allowance += milliseconds.saturating_mul(A_SECOND) / 1000;
        }
        self.allowance = self.allowance.min(MOST);
        if self.allowance < 0 {
            Err(Flood)
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests;
