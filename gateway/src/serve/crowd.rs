//! How much may be on its way to one client when many want something.
//!
//! The kernel lets a socket have in flight what the network takes without losing any, and keeps all of it until it is
//! acknowledged: bytes that no lease counts. A few sockets need that. What dozens hold beyond their share only stands in
//! queues: it is had from memory again when its turn comes, since no processor's cache holds it any more (32 streams over
//! loopback ran at 0.57 of a bare server's rate, and at 1.40 of it since they share), and whatever is asked for next
//! waits behind it. So the sockets that are full, clients' and other gateways', share what the link carries in a quarter
//! of a second, which is enough for clients that are as far away as that, and where the share of each is little its send
//! buffer is no larger (`SO_SNDBUF`, socket(7)).
//!
//! What the link carries is what it was seen to carry ([`crate::link`]), so where nothing was seen yet there is a least,
//! from which it grows each half second by as much as clients are nearer than that quarter.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::queue;
use crate::link::Link;

/// How long the link may take to carry what full sockets share.
const LASTS: Duration = Duration::from_millis(250);

/// What they share at least: about what a processor's cache holds.
const BUDGET: u64 = 8 << 20;

/// A share as large as that is no bound: the kernel finds by itself what a socket needs.
const AMPLE: u64 = 1 << 20;

/// The least that a socket may hold, however many there are.
const LEAST: u64 = 16 << 10;

/// What a socket may hold that was bounded, where the kernel can't find out anew: as much as any may (tcp(7)).
const MOST: usize = 4 << 20;

/// Sockets are counted anew so often: who was full in this turn or in the last one counts.
const TURN: Duration = Duration::from_secs(2);

/// The sockets of one gateway that are full. Clones are the same.
#[derive(Clone, Debug)]
pub struct Crowd(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    link: Arc<Link>,
    began: Instant,
    /// The turn that goes on, in the upper half, and how many were full in it.
    now: AtomicU64,
    /// The same of one before it.
    before: AtomicU64,
}

/// One socket's part in what all of them may hold.
#[derive(Debug)]
pub struct Share {
    crowd: Crowd,
    /// In which turn it was counted last.
    counted: Option<u32>,
    /// What it may hold, if that is bounded.
    bound: Option<u32>,
}

impl Share {
    /// Of a socket of `crowd` that was not full yet.
    pub fn of(crowd: Crowd) -> Self {
        Self {
            crowd,
            counted: None,
            bound: None,
        }
    }

    /// `socket`, whose part this is, is full: from now on it holds its share, if many are.
    pub fn full(&mut self, socket: &TcpStream) {
        let bound = self.crowd.share(&mut self.counted);
        if bound == self.bound {
            return;
        }
        self.bound = bound;
        let set = match bound {
            // The kernel doubles what it is told, for what it keeps beside the bytes (socket(7)).
            Some(bytes) => SockRef::from(socket).set_send_buffer_size(bytes as usize / 2),
            // A kernel that can't find out anew lets it have as much as any may.
            None => {
                queue::unbind(socket).or_else(|_| SockRef::from(socket).set_send_buffer_size(MOST))
            }
        };
        if let Err(error) = set {
            tracing::debug!(%error, "a socket option was refused");
        }
    }
}

impl Crowd {
    /// For sockets behind `link`.
    pub fn behind(link: Arc<Link>) -> Self {
        Self(Arc::new(Inner {
            link,
            began: Instant::now(),
            now: AtomicU64::default(),
            before: AtomicU64::default(),
        }))
    }

    /// Counts a socket that is full and was `counted` last in that turn, and says what it may hold: a power of two, so
    /// that it changes seldom. None is as much as the kernel finds right.
    fn share(&self, counted: &mut Option<u32>) -> Option<u32> {
        let turn = self.0.began.elapsed().as_millis() / TURN.as_millis();
        // Centuries fit.
        let turn = u32::try_from(turn).unwrap_or(u32::MAX);
        let more = u64::from(*counted != Some(turn));
        *counted = Some(turn);
        let full = self.count(turn, more);
        let carried = self.0.link.rate() as f64 * LASTS.as_secs_f64();
        let share = BUDGET.max(carried as u64) / full.max(1);
        let share = 1 << share.clamp(LEAST, AMPLE).ilog2();
        u32::try_from(share).ok().filter(|_| share < AMPLE)
    }

    /// Counts `more` of them in `turn`. Returns how many are full.
    fn count(&self, turn: u32, more: u64) -> u64 {
        let first = u64::from(turn) << 32;
        let (now, before) = (&self.0.now, &self.0.before);
        let next = |seen: u64| Some(seen.max(first) + more);
        let seen = match more {
            0 => Ok(now.load(Ordering::Relaxed)),
            _ => now.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next),
        };
        let (Ok(seen) | Err(seen)) = seen;
        if seen < first {
            before.store(seen, Ordering::Relaxed);
        }
        let last = before.load(Ordering::Relaxed);
        let last = turn.checked_sub(1).map_or(0, |turn| within(turn, last));
        last.max(within(turn, seen) + more)
    }
}

/// How many `counted` says there were in `turn`.
fn within(turn: u32, counted: u64) -> u64 {
    match counted >> 32 == u64::from(turn) {
        true => counted & u64::from(u32::MAX),
        false => 0,
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    use super::*;

    /// What each of `sockets` may hold once all of them were full.
    fn shares(crowd: &Crowd, sockets: &mut [Option<u32>]) -> Option<u32> {
        for socket in &mut *sockets {
            crowd.share(socket);
        }
        crowd.share(&mut sockets[0])
    }

    fn sockets(count: usize) -> Vec<Option<u32>> {
        vec![None; count]
    }

    #[tokio::test(start_paused = true)]
    async fn a_few_hold_what_they_need_and_many_have_a_part_of_the_memory_together() {
        for (count, share) in [
            (1, None),
            (8, None),
            (9, Some(512 << 10)),
            (64, Some(128 << 10)),
            (256, Some(32 << 10)),
            (10_000, Some(16 << 10)),
        ] {
            let crowd = Crowd::behind(Arc::default());
            assert_eq!(shares(&crowd, &mut sockets(count)), share, "{count}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_link_carries_in_a_quarter_of_a_second_is_shared() {
        let link = Arc::new(Link::default());
        let crowd = Crowd::behind(Arc::clone(&link));
        let mut many = sockets(512);
        assert_eq!(shares(&crowd, &mut many), Some(16 << 10));
        link.saw(64 << 20, Duration::from_millis(500));
        assert_eq!(crowd.share(&mut many[0]), Some(64 << 10));
        link.saw(1 << 30, Duration::from_millis(500));
        assert_eq!(crowd.share(&mut many[0]), None);
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_not_full_any_more_is_not_counted_after_two_turns() {
        let crowd = Crowd::behind(Arc::default());
        let mut many = sockets(64);
        assert_eq!(shares(&crowd, &mut many), Some(128 << 10));
        tokio::time::advance(TURN).await;
        assert_eq!(crowd.share(&mut many[0]), Some(128 << 10));
        tokio::time::advance(TURN).await;
        assert_eq!(crowd.share(&mut many[0]), None);
    }

    /// Writes until `socket` takes no more, and says how much that was.
    fn fill(socket: &TcpStream) -> usize {
        let mut sent = 0;
        while let Ok(bytes) = socket.try_write(&[7; 64 << 10]) {
            sent += bytes;
        }
        sent
    }

    #[tokio::test]
    async fn one_of_many_that_are_full_holds_a_share_and_the_last_that_is_what_it_needs() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let mut client = TcpStream::connect(address).await.expect("a connection");
        let (socket, _) = listener.accept().await.expect("a connection");
        let buffer = || {
            SockRef::from(&socket)
                .send_buffer_size()
                .expect("an option")
        };
        let crowd = Crowd::behind(Arc::default());
        shares(&crowd, &mut sockets(127));
        let mut share = Share::of(crowd);
        let mut left = fill(&socket);
        share.full(&socket);
        assert_eq!(buffer(), 64 << 10);

        tokio::time::pause();
        tokio::time::advance(2 * TURN).await;
        tokio::time::resume();
        let mut came = vec![0; 64 << 10];
        share.full(&socket);
        for round in 0.. {
            while left > 0 {
                left -= client.read(&mut came).await.expect("they come");
            }
            socket.writable().await.expect("it takes more");
            left = fill(&socket);
            if buffer() > 64 << 10 {
                break;
            }
            assert!(round < 100, "the kernel left it at {}", buffer());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_full_often_is_counted_once_a_turn() {
        let crowd = Crowd::behind(Arc::default());
        let mut one = None;
        for _ in 0..1000 {
            assert_eq!(crowd.share(&mut one), None);
        }
    }
}
