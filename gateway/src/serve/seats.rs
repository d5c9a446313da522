//! Who may connect: `max_connections`, `per_address`, and 64 seats for those who only look after
//! the gateway.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Connections beyond all limits, on which only health and metrics are answered.
pub const SPARE: usize = 64;

/// All seats of a listener.
#[derive(Debug)]
pub struct Seats {
    clients: Arc<Semaphore>,
    spare: Arc<Semaphore>,
    per_address: usize,
    addresses: Arc<Addresses>,
}

type Addresses = Mutex<HashMap<IpAddr, usize>>;

/// A seat for whoever comes next.
#[derive(Debug)]
pub enum Room {
    /// One of `max_connections`.
    Client(OwnedSemaphorePermit),
    /// One of [`SPARE`].
    Spare(OwnedSemaphorePermit),
}

/// A connection's seat, until it is dropped.
#[derive(Debug)]
pub struct Seat {
    /// Why the connection has only a spare seat, as the label of a metric.
    pub refused: Option<&'static str>,
    _permit: OwnedSemaphorePermit,
    _address: Option<Counted>,
}

/// One more connection of this address.
#[derive(Debug)]
struct Counted {
    addresses: Arc<Addresses>,
    address: IpAddr,
}

impl Seats {
    /// Seats for `clients` connections, `per_address` of them for each address; 0: as many as there
    /// are.
    pub fn new(clients: usize, per_address: usize) -> Self {
        Self {
            clients: Arc::new(Semaphore::new(clients)),
            spare: Arc::new(Semaphore::new(SPARE)),
            per_address,
            addresses: Arc::default(),
        }
    }

    /// Waits for a seat, a client's if there is one. Dropping the future gives up nothing.
    pub async fn room(&self) -> Room {
        // Neither semaphore is ever closed.
        tokio::select! {
            biased;
            Ok(permit) = Arc::clone(&self.clients).acquire_owned() => Room::Client(permit),
            Ok(permit) = Arc::clone(&self.spare).acquire_owned() => Room::Spare(permit),
            else => std::future::pending().await,
        }
    }

    /// Seats a connection from `address`; `None`: it must be closed, since its address has all of
    /// its own and the spare ones are taken too.
    pub fn seat(&self, room: Room, address: IpAddr) -> Option<Seat> {
        let spare = |permit, refused| Seat {
            refused: Some(refused),
            _permit: permit,
            _address: None,
        };
        let counted = match self.count(address.to_canonical()) {
            Ok(counted) => counted,
            Err(Full) => {
                let permit = match room {
                    Room::Spare(permit) => permit,
                    Room::Client(_) => Arc::clone(&self.spare).try_acquire_owned().ok()?,
                };
                return Some(spare(permit, "per_address"));
            }
        };
        let permit = match room {
            Room::Client(permit) => permit,
            // A client may have left while this one was awaited.
            Room::Spare(permit) => match Arc::clone(&self.clients).try_acquire_owned() {
                Ok(permit) => permit,
                Err(_) => return Some(spare(permit, "max_connections")),
            },
        };
        Some(Seat {
            refused: None,
            _permit: permit,
            _address: counted,
        })
    }

    fn count(&self, address: IpAddr) -> Result<Option<Counted>, Full> {
        if self.per_address == 0 {
            return Ok(None);
        }
        let mut addresses = self
            .addresses
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let count = addresses.entry(address).or_default();
        if *count >= self.per_address {
            return Err(Full);
        }
        *count += 1;
        Ok(Some(Counted {
            addresses: Arc::clone(&self.addresses),
            address,
        }))
    }
}

/// An address has all connections that it may have.
struct Full;

impl Drop for Counted {
    fn drop(&mut self) {
        let mut addresses = self
            .addresses
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = addresses.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                addresses.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    const ONE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
    const OTHER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));

    async fn come(seats: &Seats, address: IpAddr) -> Option<Seat> {
        seats.seat(seats.room().await, address)
    }

    #[tokio::test]
    async fn beyond_max_connections_64_get_a_spare_seat_and_the_next_waits() {
        let seats = Seats::new(2, 0);
        let mut taken = Vec::new();
        for place in 0..2 + SPARE {
            let seat = come(&seats, ONE).await.expect("a seat");
            let refused = (place >= 2).then_some("max_connections");
            assert_eq!(seat.refused, refused, "{place}");
            taken.push(seat);
        }
        let mut next = std::pin::pin!(come(&seats, ONE));
        assert!(futures::poll!(&mut next).is_pending());
        taken.remove(0);
        assert_eq!(next.await.expect("a seat").refused, None);
    }

    #[tokio::test]
    async fn a_seat_that_came_free_while_a_client_was_awaited_is_given() {
        let seats = Seats::new(1, 0);
        let first = come(&seats, ONE).await;
        let room = seats.room().await;
        assert!(matches!(room, Room::Spare(_)));
        drop(first);
        assert_eq!(seats.seat(room, ONE).expect("a seat").refused, None);
    }

    #[tokio::test]
    async fn an_address_has_its_number_and_others_have_theirs() {
        let seats = Seats::new(100, 2);
        let first = come(&seats, ONE).await.expect("a seat");
        // The same address, as a listener of both families sees it.
        let mapped = IpAddr::V6(Ipv4Addr::new(10, 0, 0, 1).to_ipv6_mapped());
        let _second = come(&seats, mapped).await.expect("a seat");
        let mut spare = Vec::new();
        for _ in 0..SPARE {
            let seat = come(&seats, ONE).await.expect("a spare seat");
            assert_eq!(seat.refused, Some("per_address"));
            spare.push(seat);
        }
        assert!(come(&seats, ONE).await.is_none());
        assert_eq!(come(&seats, OTHER).await.expect("a seat").refused, None);
        drop(first);
        assert_eq!(come(&seats, ONE).await.expect("a seat").refused, None);
    }

    #[tokio::test]
    async fn an_address_that_left_is_not_remembered() {
        let seats = Seats::new(100, 2);
        drop(come(&seats, ONE).await);
        assert!(seats.addresses.lock().expect("no panic").is_empty());
    }
}
