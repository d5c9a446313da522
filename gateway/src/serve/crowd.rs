//! How much may be on its way to one client when many want something.
//!
//! The kernel lets a socket have in flight what the network takes without losing any, and keeps all of it until it is
//! acknowledged: bytes that no lease counts. A few sockets need that. What dozens hold beyond their share only stands in
//! queues, whatever is asked for next waits behind it, and where it comes to more than a processor's cache it may have to
//! be had from memory again (32 streams over loopback ran at 0.57 of a bare server's rate, and at 1.4 of it and more since
//! they share; that the cache is why was not profiled).
//!
//! So the sockets that are full, or lately were, clients' and other gateways', share what the link carries in half a
//! second, and where the share of each is little its send buffer is no larger (`SO_SNDBUF`, socket(7)). A share is rounded
//! down, to a half at worst, so that is enough for clients a quarter of a second away.
//!
//! What the link carries is what it was seen to send ([`crate::link`]), so where nothing was seen yet there is a least,
//! from which it grows each half second by as much as clients are nearer than that.
//!
//! A kernel that can't give a bounded socket its freedom back (`SO_BUF_LOCK`, Linux 5.14) is left to itself.

use std::io::{self, IoSlice};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::queue;
use crate::link::Link;

/// How long the link may take to carry what full sockets share.
const ON_ITS_WAY: Duration = Duration::from_millis(500);

/// Bytes that they share at least: about what a processor's cache holds.
const SHARED: u64 = 8 << 20;

/// A share of so many bytes is no bound: the kernel finds by itself what a socket needs.
const AMPLE: u64 = 1 << 20;

/// Bytes that each may hold at least, however many there are.
const LEAST: u64 = 16 << 10;

/// Sockets are counted anew so often: who was full in this turn or in the last one counts.
const TURN: Duration = Duration::from_secs(2);

/// The sockets of one gateway that are full. Clones are the same.
#[derive(Clone, Debug)]
pub struct Crowd(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    link: Arc<Link>,
    began: Instant,
    /// Asked once a filling of a socket, not once a write.
    counts: Mutex<Counts>,
}

/// How many were full, in the turn that goes on and in the one before it.
#[derive(Debug, Default)]
struct Counts {
    turn: u64,
    now: u64,
    before: u64,
}

/// One socket's part in what all of them may hold.
#[derive(Debug)]
pub struct Share {
    crowd: Crowd,
    /// In which turn it was counted last.
    counted: Option<u64>,
    /// Bytes that it may hold, if that is bounded.
    bound: Option<usize>,
    /// It takes nothing now.
    full: bool,
}

impl Drop for Share {
    fn drop(&mut self) {
        if let Some(turn) = self.counted {
            self.crowd.forget(turn);
        }
    }
}

impl Share {
    /// Of a socket of `crowd` that was not full yet.
    pub fn of(crowd: Crowd) -> Self {
        Self {
            crowd,
            counted: None,
            bound: None,
            full: false,
        }
    }

    /// `socket`, whose part this is, was written to. If that filled it, it is counted, and from now on holds no more than
    /// its share, if many are full.
    pub fn written<T>(&mut self, socket: &TcpStream, written: &Poll<io::Result<T>>) {
        // A task that had its turn is to come back later; that says nothing of the socket.
        let full = written.is_pending() && tokio::task::coop::has_budget_remaining();
        if full && !self.full {
            self.fills(socket);
        }
        self.full = full;
    }

    /// As much of `slices` as it may hold: a socket that holds nothing takes all that it is offered at once, however small
    /// its buffer is (393 216 bytes into one of 131 072, Linux 6.18). `part` is where a part of one slice is named.
    pub fn offered<'a>(
        &self,
        slices: &'a [IoSlice<'a>],
        part: &'a mut [IoSlice<'a>; 1],
    ) -> &'a [IoSlice<'a>] {
        let Some(bound) = self.bound else {
            return slices;
        };
        let (mut room, mut whole) = (bound, 0);
        for slice in slices {
            if slice.len() > room {
                break;
            }
            room -= slice.len();
            whole += 1;
        }
        if room < bound || whole == slices.len() {
            return &slices[..whole];
        }
        part[0] = IoSlice::new(&slices[whole][..bound]);
        part
    }

    fn fills(&mut self, socket: &TcpStream) {
        let bound = self.crowd.share(&mut self.counted);
        if bound == self.bound {
            return;
        }
        let set = match bound {
            // The kernel doubles what it is told, for what it keeps beside the bytes (socket(7)).
            Some(bytes) => queue::unbind(socket)
                .and_then(|()| SockRef::from(socket).set_send_buffer_size(bytes / 2)),
            None => queue::unbind(socket),
        };
        match set {
            Ok(()) => self.bound = bound,
            Err(error) => tracing::debug!(%error, "a socket option was refused"),
        }
    }
}

impl Crowd {
    /// For sockets behind `link`.
    pub fn behind(link: Arc<Link>) -> Self {
        Self(Arc::new(Inner {
            link,
            began: Instant::now(),
            counts: Mutex::default(),
        }))
    }

    /// Counts a socket that is full and was `counted` last in that turn, and says how many bytes it may hold: a power of
    /// two, so that it changes seldom. None is as much as the kernel finds right.
    fn share(&self, counted: &mut Option<u64>) -> Option<usize> {
        let turn = (self.0.began.elapsed().as_millis() / TURN.as_millis()) as u64;
        let full = self.count(turn, counted);
        let carried = self.0.link.sends() as f64 * ON_ITS_WAY.as_secs_f64();
        let share = SHARED.max(carried as u64) / full.max(1);
        let share = 1 << share.clamp(LEAST, AMPLE).ilog2();
        usize::try_from(share).ok().filter(|_| share < AMPLE)
    }

    /// Counts it in `turn`, once. Returns how many are full.
    fn count(&self, turn: u64, counted: &mut Option<u64>) -> u64 {
        let mut counts = self.0.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.begin(turn);
        if counted.is_none_or(|last| last < counts.turn) {
            counts.now += 1;
        }
        *counted = Some(counts.turn);
        counts.now.max(counts.before)
    }

    /// One that was counted in `turn` last is gone.
    fn forget(&self, turn: u64) {
        let mut counts = self.0.counts.lock().unwrap_or_else(PoisonError::into_inner);
        // One that was counted in both stays in the older one until that is over.
        if turn == counts.turn {
            counts.now -= 1;
        } else if turn + 1 == counts.turn {
            counts.before -= 1;
        }
    }
}

impl Counts {
    /// Turns to `turn`, unless it has begun.
    fn begin(&mut self, turn: u64) {
        if turn <= self.turn {
            return;
        }
        self.before = match turn - self.turn {
            1 => self.now,
            _ => 0,
        };
        (self.turn, self.now) = (turn, 0);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    use super::*;

    /// What each of `sockets` may hold once all of them were full.
    fn shares(crowd: &Crowd, sockets: &mut [Option<u64>]) -> Option<usize> {
        for socket in &mut *sockets {
            crowd.share(socket);
        }
        crowd.share(&mut sockets[0])
    }

    /// A crowd of so many that are full.
    pub(in super::super) fn crowded(count: usize) -> Crowd {
        let crowd = Crowd::behind(Arc::default());
        shares(&crowd, &mut sockets(count));
        crowd
    }

    fn sockets(count: usize) -> Vec<Option<u64>> {
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
    async fn what_the_link_carries_in_half_a_second_is_shared() {
        let link = Arc::new(Link::default());
        let crowd = Crowd::behind(Arc::clone(&link));
        let mut many = sockets(512);
        assert_eq!(shares(&crowd, &mut many), Some(16 << 10));
        link.saw([0, 64 << 20], Duration::from_millis(500));
        assert_eq!(crowd.share(&mut many[0]), Some(128 << 10));
        link.saw([0, 1 << 30], Duration::from_millis(500));
        assert_eq!(crowd.share(&mut many[0]), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_share_grows_for_clients_that_are_a_fifth_of_a_second_away() {
        let link = Arc::new(Link::default());
        let crowd = Crowd::behind(Arc::clone(&link));
        let mut many = sockets(64);
        let mut share = shares(&crowd, &mut many);
        while let Some(bytes) = share {
            // What they carry who have as much on its way each.
            let carried = many.len() as u64 * bytes as u64;
            link.saw([0, carried], Duration::from_millis(200));
            share = crowd.share(&mut many[0]);
            assert!(share.is_none_or(|more| more > bytes), "it stays at {bytes}");
        }
    }

    #[tokio::test]
    async fn no_more_is_offered_than_a_share() {
        let [empty, small, large] = [0, 10, 100].map(|length| vec![0; length]);
        let slices = |parts: &[&Vec<u8>]| -> Vec<usize> {
            let mut share = Share::of(crowded(1));
            share.bound = Some(50);
            let slices: Vec<_> = parts.iter().map(|part| IoSlice::new(part)).collect();
            let mut part = [IoSlice::new(&[])];
            let offered = share.offered(&slices, &mut part);
            offered.iter().map(|slice| slice.len()).collect()
        };
        assert_eq!(slices(&[&small, &small]), [10, 10]);
        assert_eq!(slices(&[&small, &large]), [10]);
        assert_eq!(slices(&[&empty, &large, &small]), [50]);
        assert_eq!(slices(&[&empty]), [0]);
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_gone_is_not_counted() {
        let crowd = Crowd::behind(Arc::default());
        let shares: Vec<_> = (0..64)
            .map(|_| {
                let mut share = Share::of(crowd.clone());
                crowd.share(&mut share.counted);
                share
            })
            .collect();
        let mut one = None;
        assert_eq!(crowd.share(&mut one), Some(64 << 10));
        drop(shares);
        assert_eq!(crowd.share(&mut one), None);
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
        let mut share = Share::of(crowded(127));
        let full = Poll::<io::Result<()>>::Pending;
        let mut left = fill(&socket);
        share.written(&socket, &full);
        assert_eq!(buffer(), 64 << 10);

        tokio::time::pause();
        tokio::time::advance(2 * TURN).await;
        tokio::time::resume();
        let mut came = vec![0; 64 << 10];
        share.written(&socket, &Poll::Ready(Ok(())));
        share.written(&socket, &full);
        assert_eq!(share.bound, None);
        assert_eq!(buffer(), 64 << 10, "the kernel has it grow");
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
