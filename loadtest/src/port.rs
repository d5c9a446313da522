//! Ports for servers that must be told theirs.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::ops::RangeInclusive;
use std::sync::Mutex;

/// Linux's range of ports for connections and for binds to port 0, when `/proc` does not tell it.
const EPHEMERAL: (u16, u16) = (32_768, 60_999);

/// Where Linux says that range (`ip_local_port_range` in ip(7)).
const RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// A port on loopback that nobody listens on, never given twice by one process: the server that gets it binds it itself.
/// It lies outside the range that the system takes ports from for connections and for binds to port 0, so that none of
/// those can take it before that server does.
///
/// # Errors
/// If none is free.
pub fn free_address() -> io::Result<SocketAddr> {
    static NEXT: Mutex<Option<usize>> = Mutex::new(None);
    let ports = ports();
    let count = ports.len();
    for _ in 0..count {
        let offset = {
            let mut next = NEXT.lock().expect("no holder panics");
            let offset = next.unwrap_or_else(|| rand::random_range(0..count));
            *next = Some((offset + 1) % count);
            offset
        };
        let port = ports
            .clone()
            .nth(offset)
            .expect("an offset below the count");
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if TcpListener::bind(address).is_ok() {
            return Ok(address);
        }
    }
    Err(io::ErrorKind::AddrNotAvailable.into())
}

/// The wider side of the unprivileged ports that the ephemeral ones leave.
fn ports() -> RangeInclusive<u16> {
    let (low, high) = std::fs::read_to_string(RANGE)
        .ok()
        .and_then(|text| {
            let (low, high) = text.trim().split_once(char::is_whitespace)?;
            Some((low.parse().ok()?, high.trim().parse().ok()?))
        })
        .unwrap_or(EPHEMERAL);
    let (below, above) = (
        10_000..=low.saturating_sub(1),
        high.saturating_add(1)..=u16::MAX,
    );
    if below.len() >= above.len() {
        below
    } else {
        above
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_given_port_is_free_and_not_one_that_port_zero_can_be() {
        let given = free_address().expect("a free port");
        let bound = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind");
        let ephemeral = bound.local_addr().expect("its address").port();
        assert!(!ports().contains(&ephemeral) && ports().contains(&given.port()));
        assert_ne!(free_address().expect("a free port"), given);
        TcpListener::bind(given).expect("it is free");
    }
}
