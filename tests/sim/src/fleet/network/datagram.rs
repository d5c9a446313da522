//! Packets between members: lost, late and in another order than they were sent.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;

use forebay_ring::gossip::Datagrams;
use tokio::sync::mpsc;

use super::{Life, Network, address, node_of};

/// A member's UDP socket.
#[derive(Debug)]
pub struct Socket {
    network: Arc<Network>,
    life: Life,
    received: Mutex<mpsc::Receiver<(Vec<u8>, SocketAddr)>>,
}

impl Socket {
    pub(super) fn new(
        network: Arc<Network>,
        life: Life,
        received: mpsc::Receiver<(Vec<u8>, SocketAddr)>,
    ) -> Self {
        Self {
            network,
            life,
            received: Mutex::new(received),
        }
    }
}

fn put(buffer: &mut [u8], (packet, from): &(Vec<u8>, SocketAddr)) -> (usize, SocketAddr) {
    let length = packet.len().min(buffer.len());
    buffer[..length].copy_from_slice(&packet[..length]);
    (length, *from)
}

impl Datagrams for Socket {
    async fn send_to(&self, packet: &[u8], to: SocketAddr) -> io::Result<usize> {
        let Some(to) = node_of(to) else {
            return Err(io::ErrorKind::HostUnreachable.into());
        };
        let (network, from) = (Arc::clone(&self.network), self.life);
        let mut luck = network.luck("packet", from.node, to);
        let lost = luck.chance(network.nature.lost) && !network.is_calm();
        if lost || !network.lives(from) || !network.passes(from.node, to) {
            network.trace.count("packets lost");
            return Ok(packet.len());
        }
        let delay = network.delay(&mut luck);
        let packet = packet.to_vec();
        let length = packet.len();
        tokio::spawn(async move {
            tokio::time::sleep(delay).await;
            let packets = network
                .lock()
                .ports
                .get(&to)
                .map(|port| port.packets.clone());
            if let Some(packets) = packets {
                // Where too many wait, packets are lost.
                let _ = packets.try_send((packet, address(from.node)));
            }
        });
        Ok(length)
    }

    async fn recv_from(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        let packet = std::future::poll_fn(|cx| {
            let mut received = self.received.lock().unwrap_or_else(PoisonError::into_inner);
            match received.poll_recv(cx) {
                Poll::Ready(Some(packet)) => Poll::Ready(packet),
                // The member was pulled out: nothing comes any more.
                Poll::Ready(None) | Poll::Pending => Poll::Pending,
            }
        });
        Ok(put(buffer, &packet.await))
    }

    fn try_recv_from(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        let mut received = self.received.lock().unwrap_or_else(PoisonError::into_inner);
        let packet = received.try_recv().map_err(|_| io::ErrorKind::WouldBlock)?;
        Ok(put(buffer, &packet))
    }

    fn maps_ipv4(&self) -> bool {
        false
    }
}
