//! HTTP/2 by hand, a frame at a time (RFC 9113): a client library takes what comes and sends what is proper, and these
//! clients must not.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};

use crate::process::PATIENCE;

/// RFC 9113 §6.9.2: what may be sent on a connection or a stream before its client says more.
pub const FIRST_WINDOW: u32 = 65_535;

/// The largest window there is (RFC 9113 §6.9.1): only the socket holds the server back.
pub const OPEN_WINDOW: u32 = (1 << 31) - 1;

/// Types of frames (RFC 9113 §6).
pub const DATA: u8 = 0;
/// See [`DATA`].
pub const HEADERS: u8 = 1;
/// See [`DATA`].
pub const RST_STREAM: u8 = 3;
/// See [`DATA`].
pub const SETTINGS: u8 = 4;
/// See [`DATA`].
pub const PING: u8 = 6;
/// See [`DATA`].
pub const WINDOW_UPDATE: u8 = 8;
/// See [`DATA`].
pub const CONTINUATION: u8 = 9;

/// Flags of frames: this is an answer to the same.
pub const ACK: u8 = 1;
/// A stream's last frame.
pub const END_STREAM: u8 = 1;
/// A field section's last frame.
pub const END_HEADERS: u8 = 4;

/// A frame that came.
#[derive(Debug)]
pub struct Frame {
    /// Its type.
    pub kind: u8,
    /// Its flags.
    pub flags: u8,
    /// Its stream.
    pub id: u32,
    /// Its payload.
    pub payload: Vec<u8>,
}

/// A connection on which every frame is sent by hand. Only SETTINGS and PINGs that come are answered by themselves.
#[derive(Debug)]
pub struct Wire {
    stream: TcpStream,
    address: SocketAddr,
}

impl Wire {
    /// Connects, and lets the server send `window` bytes of each stream, and as many of all together.
    ///
    /// # Panics
    /// If nobody listens.
    #[must_use]
    pub fn open(address: SocketAddr, window: u32) -> Wire {
        let stream = TcpStream::connect(address)
            .unwrap_or_else(|error| panic!("connect to {address}: {error}"));
        for set in [TcpStream::set_read_timeout, TcpStream::set_write_timeout] {
            set(&stream, Some(PATIENCE)).expect("a timeout above zero can be set");
        }
        let mut wire = Wire { stream, address };
        let mut initial_window = 4_u16.to_be_bytes().to_vec();
        initial_window.extend(window.to_be_bytes());
        wire.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        wire.frame(SETTINGS, 0, 0, &initial_window);
        if window > FIRST_WINDOW {
            wire.widen(0, window - FIRST_WINDOW);
        }
        wire
    }

    /// Asks for a target (a path of less than 127 bytes) on a new stream.
    pub fn ask(&mut self, id: u32, target: &str) {
        let head = head(self.address, target);
        self.frame(HEADERS, END_STREAM | END_HEADERS, id, &head);
    }

    /// Lets the server send `more` bytes of a stream; of the connection if that is 0.
    pub fn widen(&mut self, id: u32, more: u32) {
        self.frame(WINDOW_UPDATE, 0, id, &more.to_be_bytes());
    }

    /// Sends a frame. A server that has closed already is not an error here: [`Wire::closes`] sees it.
    pub fn frame(&mut self, kind: u8, flags: u8, id: u32, payload: &[u8]) {
        let length = u32::try_from(payload.len()).expect("our frames are small");
        let mut frame = length.to_be_bytes()[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(id.to_be_bytes());
        frame.extend(payload);
        self.send(&frame);
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    /// The next frame; `None` once the server has closed the connection.
    ///
    /// # Panics
    /// If nothing comes for [`PATIENCE`].
    pub fn receive(&mut self) -> Option<Frame> {
        let mut header = [0; 9];
        self.fill(&mut header)?;
        let [a, b, c, kind, flags, id @ ..] = header;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        self.fill(&mut payload)?;
        if matches!(kind, SETTINGS | PING) && flags & ACK == 0 {
            let answer = if kind == PING {
                payload.as_slice()
            } else {
                &[]
            };
            self.frame(kind, ACK, 0, answer);
        }
        Some(Frame {
            kind,
            flags,
            id: u32::from_be_bytes(id),
            payload,
        })
    }

    /// Reads until the server closes the connection.
    ///
    /// # Panics
    /// If it does not, and nothing comes for [`PATIENCE`].
    pub fn closes(&mut self) {
        let mut bytes = [0; 1 << 16];
        loop {
            match self.stream.read(&mut bytes) {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return refuse_timeout(&error),
            }
        }
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Option<()> {
        let read = self.stream.read_exact(bytes);
        if let Err(error) = &read {
            refuse_timeout(error);
        }
        read.ok()
    }
}

fn refuse_timeout(error: &std::io::Error) {
    let stalled = matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
    assert!(!stalled, "nothing came for {PATIENCE:?}");
}

/// A connection that stands still for as long as this value lives.
#[derive(Debug)]
pub struct Standing {
    _wire: Wire,
}

impl Standing {
    /// Asks for each of `targets` (paths of less than 127 bytes) on a stream of its own, reads until all of them have
    /// begun to be answered, and then takes nothing more. The server may send `window` bytes of each.
    ///
    /// # Panics
    /// If one of them is not answered with a 200.
    #[must_use]
    pub fn ask(address: SocketAddr, targets: &[String], window: u32) -> Standing {
        let mut wire = Wire::open(address, window);
        let ids = (1..).step_by(2).take(targets.len());
        for (id, target) in ids.clone().zip(targets) {
            wire.ask(id, target);
        }
        let mut waiting: BTreeSet<u32> = ids.collect();
        while !waiting.is_empty() {
            let frame = wire.receive().expect("the server answers all of them");
            match frame.kind {
                HEADERS => {
                    // RFC 7541 §6.1, appendix A: `:status: 200` is one byte, and comes first but for table sizes.
                    let status = frame.payload.iter().find(|byte| **byte & 0xe0 != 0x20);
                    let id = frame.id;
                    assert_eq!(
                        status,
                        Some(&0x88),
                        "stream {id} is not answered with a 200"
                    );
                    waiting.remove(&id);
                }
                DATA | SETTINGS | WINDOW_UPDATE => {}
                // Among others a PING: the server has had nothing to send for long.
                _ => panic!("{frame:?}, and {waiting:?} not answered"),
            }
        }
        Standing { _wire: wire }
    }
}

/// A GET's field section (RFC 7541 §6): two fields of the static table, and two literals named by it.
fn head(address: SocketAddr, target: &str) -> Vec<u8> {
    let (get, http, path, authority) = (0x82, 0x86, 0x04, 0x01);
    let mut head = vec![get, http];
    for (name, value) in [(path, target), (authority, &address.to_string())] {
        let length = u8::try_from(value.len()).expect("a short value");
        assert!(length < 127, "longer lengths take more bytes: {value}");
        head.extend([name, length]);
        head.extend(value.as_bytes());
    }
    head
}
