//! How much the kernel may hold unsent for a connection.
//!
//! What waits in a slow client's socket is memory that no lease counts, so it is little. But a limit costs whoever
//! takes bytes as fast as they come: the kernel is never far enough ahead of the network, and under BBR, which
//! takes that for all that the network gives, one stream over loopback ran at two thirds of its rate. So the limit
//! is raised once a client has taken 8 MiB without keeping its socket full for 50 ms, and is back with the first
//! time that it does. It may be raised for as many sockets as the blocks' memory has room for 16 times over.
//!
//! What is in flight is bounded too where many sockets are full ([`super::crowd`]).
//!
//! And the kernel says that a socket takes bytes again only once a third of its buffer is free, which may be
//! minutes after its client took the first of them. So while a socket is full its queue is looked at.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::cork::Cork;
use super::crowd::{Crowd, Share};
use super::exchanges::Exchanges;
use super::queue;

/// What the kernel keeps unsent at most, for as long as there is a limit.
const LIMIT: u32 = 256 << 10;

/// The same for a client who takes what comes.
const RAISED: u32 = 1 << 20;

/// The part of the blocks' memory that raised limits may come to, all of them together.
const PART: u64 = 16;

/// Bytes after which a client has shown that it takes what comes.
const PROOF: u64 = 8 << 20;

/// A socket that takes nothing for so long has a client who is slow, or away.
const STALL: Duration = Duration::from_millis(50);

/// What sockets may hold, all of them together.
#[derive(Clone, Debug)]
pub struct Room {
    /// How many of them may hold more unsent than others.
    raised: Arc<Semaphore>,
    crowd: Crowd,
}

impl Room {
    /// For sockets of `crowd` beside blocks of `memory` bytes; one at least may be raised.
    pub fn beside(memory: u64, crowd: Crowd) -> Self {
        let sockets = memory / PART / u64::from(RAISED);
        let sockets = usize::try_from(sockets).unwrap_or(usize::MAX);
        let sockets = sockets.clamp(1, Semaphore::MAX_PERMITS);
        Self {
            raised: Arc::new(Semaphore::new(sockets)),
            crowd,
        }
    }
}

/// A client's socket, which holds little unsent while its client is slow.
#[derive(Debug)]
pub struct Unsent {
    socket: Cork,
    /// What the connection knows of itself: while its client is quick, the limit is raised.
    exchanges: Exchanges,
    room: Room,
    /// The limit is raised, or what it let in may not have left yet.
    raised: Option<OwnedSemaphorePermit>,
    /// Whether its timers are told each time that bytes are taken.
    tells: bool,
    /// Bytes taken since the last stall, as far as they matter.
    taken: u64,
    /// What it may hold in flight too.
    share: Share,
    /// Since when it takes nothing.
    full: Option<Instant>,
    /// When it was last looked at while full, and how many bytes it held then.
    looked: Option<(Instant, usize)>,
}

impl Unsent {
    /// `socket`, with the limit set, and raised as far as there is `room`. `exchanges` hear whether its client
    /// takes what comes.
    pub fn new(socket: Cork, exchanges: Exchanges, room: Room) -> Self {
        let unsent = Self {
            socket,
            exchanges,
            share: Share::of(room.crowd.clone()),
            room,
            raised: None,
            tells: false,
            taken: 0,
            full: None,
            looked: None,
        };
        unsent.limit(LIMIT);
        unsent
    }

    /// The same below TLS, where the timers are told each time that it takes bytes: TLS itself takes them while the
    /// socket does not.
    pub fn telling(self) -> Self {
        Self {
            tells: true,
            ..self
        }
    }

    fn limit(&self, bytes: u32) {
        if let Err(error) =
            socket2::SockRef::from(self.socket.socket()).set_tcp_notsent_lowat(bytes)
        {
            tracing::debug!(%error, "a socket option was refused");
        }
    }

    /// More is to be written. Whoever stalled has to prove anew that it takes what comes, and gets no more than
    /// others from now on.
    fn before_writing(&mut self) {
        if self.full.is_none_or(|since| since.elapsed() < STALL) {
            return;
        }
        self.taken = 0;
        if self.exchanges.quick() {
            self.exchanges.takes_what_comes(false);
            self.limit(LIMIT);
        }
    }

    fn written(&mut self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        self.share.written(self.socket.socket(), &written);
        match written {
            Poll::Pending => self.look(),
            Poll::Ready(Ok(bytes)) => self.took(bytes),
            Poll::Ready(Err(_)) => {}
        }
        written
    }

    /// It takes nothing: has its client, since it was looked at last?
    fn look(&mut self) {
        let now = Instant::now();
        let since = *self.full.get_or_insert(now);
        let last = self.looked.map_or(since, |(last, _)| last);
        if now - last < STALL {
            return;
        }
        let Ok(held) = queue::held(self.socket.socket()) else {
            return;
        };
        // What is full takes nothing more, so what it holds gets less by what its client takes.
        if self.looked.is_some_and(|(_, before)| held < before) {
            self.exchanges.took();
        }
        self.looked = Some((now, held));
    }

    fn took(&mut self, bytes: usize) {
        if self.tells && bytes > 0 {
            self.exchanges.took();
        }
        self.looked = None;
        self.full = None;
        if self.exchanges.quick() {
            return;
        }
        // It took more below the lower limit, so it holds no more than that lets in.
        self.raised = None;
        self.taken += bytes as u64;
        if self.taken < PROOF {
            return;
        }
        self.exchanges.takes_what_comes(true);
        self.raised = Arc::clone(&self.room.raised).try_acquire_owned().ok();
        if self.raised.is_some() {
            self.limit(RAISED);
        }
    }
}

impl AsyncRead for Unsent {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.socket.poll_read(cx, buffer)
    }
}

impl AsyncWrite for Unsent {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.before_writing();
        let more = self.exchanges.multiplexed();
        let mut part = [IoSlice::new(&[])];
        let this = &mut *self;
        let slices = this.share.offered(slices, &mut part);
        let written = this.socket.poll_write(cx, slices, more);
        this.written(written)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// What is kept back leaves at the end of its task's turn.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.socket.shut())
    }
}

#[cfg(test)]
mod tests {
    use std::mem::MaybeUninit;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::super::cork;
    use super::super::crowd::tests::crowded;
    use super::*;

    fn crowd() -> Crowd {
        Crowd::behind(Arc::default())
    }

    async fn pair() -> (Unsent, TcpStream) {
        let (socket, client) = cork::tests::pair().await;
        let unsent = Unsent::new(socket, Exchanges::default(), Room::beside(1 << 30, crowd()));
        (unsent, client)
    }

    fn limit(unsent: &Unsent) -> u32 {
        let socket = socket2::SockRef::from(unsent.socket.socket());
        socket.tcp_notsent_lowat().expect("an option")
    }

    /// `bytes` go to a client who reads them as they come.
    async fn pass(unsent: &mut Unsent, client: &mut TcpStream, bytes: u64) {
        let piece = vec![7; 64 << 10];
        let mut came = vec![0; 64 << 10];
        for _ in 0..bytes.div_ceil(piece.len() as u64) {
            let (sent, read) = tokio::join!(unsent.write_all(&piece), client.read_exact(&mut came));
            sent.expect("it takes them");
            read.expect("they come");
        }
    }

    /// Writes until the socket takes no more, and says how much that was.
    async fn fill(unsent: &mut Unsent) -> usize {
        let mut sent = 0;
        while let Poll::Ready(written) = futures::poll!(Box::pin(unsent.write(&[7; 64 << 10]))) {
            sent += written.expect("it takes them");
        }
        sent
    }

    /// Reads `left` bytes.
    async fn drain(client: &mut TcpStream, mut left: usize) {
        let mut came = vec![0; 64 << 10];
        while left > 0 {
            left -= client.read(&mut came).await.expect("they come");
        }
    }

    #[tokio::test]
    async fn who_takes_what_comes_has_a_higher_limit_and_who_stalls_has_it_again() {
        let (mut unsent, mut client) = pair().await;
        assert_eq!(limit(&unsent), LIMIT);
        pass(&mut unsent, &mut client, PROOF - (64 << 10)).await;
        assert_eq!(limit(&unsent), LIMIT);
        pass(&mut unsent, &mut client, 64 << 10).await;
        assert_eq!(limit(&unsent), RAISED);
        assert!(unsent.exchanges.quick());

        let left = fill(&mut unsent).await;
        tokio::time::pause();
        tokio::time::advance(STALL).await;
        tokio::time::resume();
        drain(&mut client, left).await;
        pass(&mut unsent, &mut client, 64 << 10).await;
        assert_eq!(limit(&unsent), LIMIT);
        assert!(!unsent.exchanges.quick());
        pass(&mut unsent, &mut client, PROOF).await;
        assert_eq!(limit(&unsent), RAISED);
    }

    #[tokio::test]
    async fn the_limit_is_raised_for_no_more_sockets_than_there_is_room_for() {
        let room = Room::beside(0, crowd());
        let (mut first, mut client) = pair().await;
        first.room = room.clone();
        pass(&mut first, &mut client, PROOF).await;
        let (mut second, mut other) = pair().await;
        second.room = room;
        pass(&mut second, &mut other, PROOF).await;
        assert_eq!((limit(&first), limit(&second)), (RAISED, LIMIT));
        assert!(second.exchanges.quick());
        drop(first);
        let (mut third, mut another) = pair().await;
        third.room = second.room.clone();
        pass(&mut third, &mut another, PROOF).await;
        assert_eq!(limit(&third), RAISED);
    }

    #[tokio::test]
    async fn one_of_many_that_are_full_holds_its_share_in_flight_too() {
        let (mut unsent, _client) = pair().await;
        unsent.share = Share::of(crowded(127));
        fill(&mut unsent).await;
        let socket = socket2::SockRef::from(unsent.socket.socket());
        assert_eq!(socket.send_buffer_size().expect("an option"), 64 << 10);
    }

    #[tokio::test]
    async fn what_a_client_takes_of_a_full_socket_is_seen_though_that_stays_full() {
        let (mut unsent, mut client) = pair().await;
        let mut left = fill(&mut unsent).await;
        let told = unsent.exchanges.taken();
        for _ in 0..2 {
            look_again(&mut unsent).await;
        }
        assert_eq!(unsent.exchanges.taken(), told);
        let mut came = vec![0; 16 << 10];
        while unsent.exchanges.taken() == told {
            assert!(left > 0, "all of it came, and nobody was told");
            left -= client.read(&mut came).await.expect("they come");
            look_again(&mut unsent).await;
        }
    }

    /// Has it looked at as if that were long after it was last.
    async fn look_again(unsent: &mut Unsent) {
        tokio::time::pause();
        tokio::time::advance(STALL).await;
        tokio::time::resume();
        unsent.look();
    }

    #[tokio::test]
    async fn frames_of_http_2_wait_for_the_end_of_a_turn_and_answers_of_http_1_do_not() {
        let (mut unsent, mut client) = pair().await;
        let mut came = [0; 8];
        unsent.write_all(b"http1").await.expect("it takes them");
        client.read_exact(&mut came[..5]).await.expect("they come");
        let _exchange = unsent.exchanges.begin(http::Version::HTTP_2);
        unsent.write_all(b"http2").await.expect("it takes them");
        unsent.flush().await.expect("it is a frame's end only");
        let early = socket2::SockRef::from(&client).peek(&mut [MaybeUninit::uninit(); 8]);
        assert_eq!(
            early.expect_err("it waits").kind(),
            io::ErrorKind::WouldBlock
        );
        unsent.socket.push();
        client.read_exact(&mut came[..5]).await.expect("they come");
        assert_eq!(&came[..5], b"http2");
    }

    #[tokio::test]
    async fn a_pause_that_is_short_is_no_stall() {
        let (mut unsent, mut client) = pair().await;
        pass(&mut unsent, &mut client, PROOF).await;
        tokio::time::pause();
        let left = fill(&mut unsent).await;
        tokio::time::advance(STALL / 2).await;
        drain(&mut client, left).await;
        pass(&mut unsent, &mut client, 64 << 10).await;
        assert_eq!(limit(&unsent), RAISED);
    }
}
