//! HTTP/2 streams that are asked for and never taken.
//!
//! Frames by hand (RFC 9113): a client library takes what comes, and this one must not.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use crate::process::PATIENCE;

/// RFC 9113 §6.9.2: what may be sent on a connection or a stream before its client says more.
pub const FIRST_WINDOW: u32 = 65_535;

/// The largest window there is (RFC 9113 §6.9.1): only the socket holds the server back.
pub const OPEN_WINDOW: u32 = (1 << 31) - 1;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const WINDOW_UPDATE: u8 = 8;

const ACK: u8 = 1;
const END_STREAM_AND_HEADERS: u8 = 1 | 4;

/// A connection that stands still for as long as this value lives.
#[derive(Debug)]
pub struct Standing {
    stream: TcpStream,
}

impl Standing {
    /// Asks for each of `targets` (paths of less than 127 bytes) on a stream of its own, reads until all of them have
    /// begun to be answered, and then takes nothing more. The server may send `window` bytes of each.
    ///
    /// # Panics
    /// If one of them is not answered with a 200.
    #[must_use]
    pub fn ask(address: SocketAddr, targets: &[String], window: u32) -> Standing {
        let stream = TcpStream::connect(address)
            .unwrap_or_else(|error| panic!("connect to {address}: {error}"));
        stream
            .set_read_timeout(Some(PATIENCE))
            .expect("a timeout above zero can be set");
        let mut standing = Standing { stream };
        standing.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        let mut initial_window = 4_u16.to_be_bytes().to_vec();
        initial_window.extend(window.to_be_bytes());
        standing.frame(SETTINGS, 0, 0, &initial_window);
        if window > FIRST_WINDOW {
            let more = (window - FIRST_WINDOW).to_be_bytes();
            standing.frame(WINDOW_UPDATE, 0, 0, &more);
        }
        let ids = (1..).step_by(2).take(targets.len());
        for (id, target) in ids.clone().zip(targets) {
            standing.frame(HEADERS, END_STREAM_AND_HEADERS, id, &head(address, target));
        }
        standing.until_begun(ids.collect());
        standing
    }

    fn until_begun(&mut self, mut waiting: BTreeSet<u32>) {
        while !waiting.is_empty() {
            let mut header = [0; 9];
            self.fill(&mut header);
            let [a, b, c, kind, flags, id @ ..] = header;
            let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
            self.fill(&mut payload);
            let id = u32::from_be_bytes(id);
            match kind {
                HEADERS => {
                    // RFC 7541 §6.1, appendix A: `:status: 200` is one byte, and comes first but for table sizes.
                    let status = payload.iter().find(|byte| **byte & 0xe0 != 0x20);
                    assert_eq!(
                        status,
                        Some(&0x88),
                        "stream {id} is not answered with a 200"
                    );
                    waiting.remove(&id);
                }
                SETTINGS if flags & ACK == 0 => self.frame(SETTINGS, ACK, 0, &[]),
                DATA | SETTINGS | WINDOW_UPDATE => {}
                // Among others a PING: the server has had nothing to send for long.
                other => panic!(
                    "a frame of type {other} on stream {id}, and {waiting:?} not answered: {payload:?}"
                ),
            }
        }
    }

    fn frame(&mut self, kind: u8, flags: u8, id: u32, payload: &[u8]) {
        let length = u32::try_from(payload.len()).expect("our frames are small");
        let mut frame = length.to_be_bytes()[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(id.to_be_bytes());
        frame.extend(payload);
        self.send(&frame);
    }

    fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the server reads");
    }

    fn fill(&mut self, bytes: &mut [u8]) {
        let read = self.stream.read_exact(bytes);
        read.unwrap_or_else(|error| panic!("not all streams were answered: {error}"));
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
