//! A [`Core`] on a UDP socket, or in a simulated network: real time, real names, tables built where nothing waits.
//!
//! One task owns the socket. The core stands behind a lock that is held for microseconds and never while
//! anything is awaited, because syncs come in by another port and ask it too.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use thiserror::Error;
use tokio::net::UdpSocket;
use tokio::sync::{Notify, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep_until, timeout};

use super::core::Core;
use super::identity::{Identity, IdentityError};
use super::report::{Counts, Ended};
use super::seeds::{Outcome, Seed, canonical, pursue};
use super::tables::Tables;
use crate::fleet::Fleet;
use crate::seal::FleetKeys;
use crate::table::Table;

/// How long another member may take to answer a sync.
const SYNC_PATIENCE: Duration = Duration::from_secs(5);
/// Packets taken in before anything else is looked at.
const AT_A_TIME: usize = 64;

/// How a sealed request reaches another member's fleet port over TCP, and its answer comes back.
pub trait Exchange: Send + Sync + 'static {
    /// Sends `sealed` to the member at `to`, where [`Membership::answer_sync`] answers it. Neither is larger
    /// than [`MAX_SYNC_BYTES`](super::MAX_SYNC_BYTES). May be dropped at any time.
    ///
    /// # Errors
    /// What the network said. [`io::ErrorKind::ConnectionRefused`] means that nobody is there.
    fn exchange(
        &self,
        to: SocketAddr,
        sealed: Bytes,
    ) -> impl Future<Output = io::Result<Bytes>> + Send;
}

/// Packets that may be lost, repeated or come in another order: a UDP socket, or a simulated network.
pub trait Datagrams: Send + Sync + 'static {
    /// Sends a packet. May be dropped at any time.
    ///
    /// # Errors
    /// What the network said; the packet is lost then.
    fn send_to(
        &self,
        packet: &[u8],
        to: SocketAddr,
    ) -> impl Future<Output = io::Result<usize>> + Send;

    /// Waits for the next packet and puts it into `buffer`: its length, and who sent it. Dropped, it has taken none.
    ///
    /// # Errors
    /// What the network says of packets that were sent before.
    fn recv_from(
        &self,
        buffer: &mut [u8],
    ) -> impl Future<Output = io::Result<(usize, SocketAddr)>> + Send;

    /// The same without waiting.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] if there is none.
    fn try_recv_from(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)>;

    /// Whether IPv4 addresses are reached by their mapped form.
    fn maps_ipv4(&self) -> bool;
}

impl Datagrams for UdpSocket {
    async fn send_to(&self, packet: &[u8], to: SocketAddr) -> io::Result<usize> {
        Self::send_to(self, packet, to).await
    }

    async fn recv_from(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        Self::recv_from(self, buffer).await
    }

    fn try_recv_from(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        Self::try_recv_from(self, buffer)
    }

    fn maps_ipv4(&self) -> bool {
        self.local_addr().is_ok_and(|own| own.is_ipv6())
    }
}

/// What a gateway needs to belong to a fleet.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The fleet's name.
    pub fleet: String,
    /// The keys, of that same name.
    pub keys: FleetKeys,
    /// What others are told about this gateway.
    pub identity: Identity,
    /// Where to bind the UDP socket. With port 0 the identity's address takes the port that was found.
    pub listen: SocketAddr,
    /// Whom to ask for the fleet.
    pub seeds: Vec<Seed>,
}

/// Why membership did not start.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StartError {
    /// The fleet would not understand who this is.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The port is not to be had.
    #[error(
        "cannot listen for gossip on UDP {listen}: see who else has that port, or set another `listen` in [fleet]"
    )]
    Bind {
        /// Where it was tried.
        listen: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}

/// This gateway's membership of its fleet. It ends when this is dropped, without a word to the others;
/// [`leave`](Self::leave) is the polite way.
pub struct Membership<S = UdpSocket> {
    shared: Arc<Shared<S>>,
    fleet: watch::Receiver<Arc<Fleet>>,
    joined: watch::Receiver<bool>,
    ended: watch::Receiver<Option<Ended>>,
    address: SocketAddr,
    // Its seeds and syncs end with it.
    task: AbortHandle,
}

struct Shared<S> {
    core: Mutex<Core>,
    // Somebody other than the task has given the core something to do.
    nudge: Notify,
    socket: S,
    started: Instant,
    unsettled: AtomicUsize,
}

impl Membership {
    /// Binds the socket and starts to look for the fleet. Must be called on a tokio runtime.
    ///
    /// # Errors
    /// An identity that cannot be told, a port that is not to be had.
    pub async fn start(
        mut settings: Settings,
        exchange: Arc<impl Exchange>,
    ) -> Result<Self, StartError> {
        let bind = |source| StartError::Bind {
            listen: settings.listen,
            source,
        };
        let socket = UdpSocket::bind(settings.listen).await.map_err(bind)?;
        let port = socket.local_addr().map_err(bind)?.port();
        if settings.identity.address.port() == 0 {
            settings.identity.address.set_port(port);
        }
        Self::start_on(socket, chance(), settings, exchange)
    }
}

impl<S: Datagrams> Membership<S> {
    /// The same on a `socket` that is there; `chance` decides what has to differ between gateways.
    ///
    /// # Errors
    /// An identity that cannot be told.
    pub fn start_on(
        socket: S,
        chance: u64,
        settings: Settings,
        exchange: Arc<impl Exchange>,
    ) -> Result<Self, StartError> {
        let address = settings.identity.address;
        let own: Arc<str> = settings.identity.member.name().into();
        let mut core = Core::new(settings.identity, &settings.keys, chance, Duration::ZERO)?;
        let first = core.view(Duration::ZERO);
        let (peers, placed) = first.map_or_else(Default::default, |view| (view.peers, view.placed));
        let table = Arc::new(Table::build(placed.clone()));
        let name = settings.fleet.into();
        let (fleet, fleet_seen) = watch::channel(Arc::new(Fleet {
            name,
            own,
            table,
            donors: Arc::default(),
            peers,
        }));
        let (joined, joined_seen) = watch::channel(false);
        let (ended, ended_seen) = watch::channel(None);
        let shared = Arc::new(Shared {
            core: Mutex::new(core),
            nudge: Notify::new(),
            socket,
            started: Instant::now(),
            unsettled: AtomicUsize::new(settings.seeds.len()),
        });
        let mut children = JoinSet::new();
        for seed in settings.seeds {
            children.spawn(find(
                seed,
                address,
                Arc::clone(&shared),
                Arc::clone(&exchange),
            ));
        }
        let driver = Driver {
            shared: Arc::clone(&shared),
            exchange,
            children,
            tables: Tables::new(fleet, placed),
            joined,
            ended,
        };
        let task = tokio::spawn(driver.run()).abort_handle();
        Ok(Self {
            shared,
            fleet: fleet_seen,
            joined: joined_seen,
            ended: ended_seen,
            address,
            task,
        })
    }

    /// The fleet as this gateway sees it, and whenever that changes.
    pub fn fleet(&self) -> watch::Receiver<Arc<Fleet>> {
        self.fleet.clone()
    }

    /// Where others reach this gateway's fleet port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until each seed has answered, refused or resolved to nothing, or 3 s have passed, and what was
    /// learnt by that is in [`fleet`](Self::fleet). May be called often and dropped at any time.
    pub async fn joined(&self) {
        let mut joined = self.joined.clone();
        // It fails only when the task is gone, and then nobody will join any more.
        let _ = joined.wait_for(|joined| *joined).await;
    }

    /// Waits until this membership has ended by itself: the gateway should stop, with that sentence. Never
    /// returns otherwise. May be dropped at any time.
    pub async fn ended(&self) -> Ended {
        let mut ended = self.ended.clone();
        match ended
            .wait_for(Option::is_some)
            .await
            .map(|ended| ended.clone())
        {
            Ok(Some(ended)) => ended,
            _ => std::future::pending().await,
        }
    }

    /// The answer to a sync that came to the fleet's TCP port `from` somebody, to be sent back as it is; `None` if it is
    /// to be refused.
    pub fn answer_sync(&self, from: SocketAddr, sealed: &[u8]) -> Option<Bytes> {
        let answer = self
            .shared
            .core()
            .answer(self.shared.now(), Some(from), sealed);
        self.shared.nudge.notify_one();
        answer
    }

    /// Gives this gateway's place in the table up: others own its blocks at once. It goes on answering.
    pub fn drain(&self) {
        self.shared.core().drain(self.shared.now());
        self.shared.nudge.notify_one();
    }

    /// Tells the others the digest of the settings that all members must share, as they are by now.
    pub fn revise(&self, settings: u64) {
        self.shared.core().revise(self.shared.now(), settings);
        self.shared.nudge.notify_one();
    }

    /// Says goodbye: the others stop asking at once, and keep its place for 30 s in case it comes back. Returns
    /// when that is sent.
    pub async fn leave(&self) {
        self.shared.core().leave(self.shared.now());
        self.shared.send().await;
    }

    /// What came and went since the start.
    pub fn counts(&self) -> Counts {
        self.shared.core().counts()
    }
}

impl<S> Drop for Membership<S> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl<S> std::fmt::Debug for Membership<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Membership")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl<S: Datagrams> Shared<S> {
    /// A panic elsewhere left the core as it was between two steps; going on is better than stopping the fleet.
    fn core(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    async fn send(&self) {
        loop {
            let Some((to, packet)) = self.core().transmit() else {
                return;
            };
            let to = self.reachable(to);
            // A packet that cannot be sent is a packet lost, which the protocol expects.
            if let Err(error) = self.socket.send_to(&packet, to).await {
                tracing::debug!(%to, %error, "a packet was not sent");
            }
        }
    }

    fn reachable(&self, to: SocketAddr) -> SocketAddr {
        match (self.socket.maps_ipv4(), to.ip()) {
            (true, IpAddr::V4(ip)) => (ip.to_ipv6_mapped(), to.port()).into(),
            _ => to,
        }
    }
}

struct Driver<S, E> {
    shared: Arc<Shared<S>>,
    exchange: Arc<E>,
    children: JoinSet<()>,
    tables: Tables,
    joined: watch::Sender<bool>,
    ended: watch::Sender<Option<Ended>>,
}

impl<S: Datagrams, E: Exchange> Driver<S, E> {
    async fn run(mut self) {
        let mut buffer = vec![0; super::MAX_PACKET + 1];
        loop {
            self.advance();
            self.shared.send().await;
            let due = self.shared.started + self.shared.core().due();
            tokio::select! {
                biased;
                () = self.tables.step() => {}
                // Before what is due: after a pause, probes are then answered before they count as failed.
                received = self.shared.socket.recv_from(&mut buffer) => self.receive(&mut buffer, received),
                () = self.shared.nudge.notified() => {}
                () = sleep_until(due) => {}
                Some(_) = self.children.join_next() => {}
            }
        }
    }

    /// Takes in what has come, up to a number, so that a flood does not hold up the rest.
    fn receive(&mut self, buffer: &mut [u8], received: io::Result<(usize, SocketAddr)>) {
        let mut next = received;
        let mut core = self.shared.core();
        for _ in 0..AT_A_TIME {
            // Errors are of packets sent before (nobody was there); the next call goes on.
            if let Ok((length, from)) = next {
                core.receive(self.shared.now(), canonical(from), &buffer[..length]);
            }
            next = self.shared.socket.try_recv_from(buffer);
            if next
                .as_ref()
                .is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
            {
                return;
            }
        }
    }

    /// Does what is due, and takes up what has changed.
    fn advance(&mut self) {
        let now = self.shared.now();
        // Before the view is taken: what a seed has told is in it then.
        let settled = self.shared.unsettled.load(Ordering::Acquire) == 0;
        let (view, ended, sync_with) = {
            let mut core = self.shared.core();
            core.tick(now);
            (core.view(now), core.ended().cloned(), core.sync_with(now))
        };
        if let Some(view) = view {
            self.tables.take_up(view);
        }
        if ended.is_some() && self.ended.borrow().is_none() {
            self.ended.send_replace(ended);
        }
        if let Some(to) = sync_with {
            let (shared, exchange) = (Arc::clone(&self.shared), Arc::clone(&self.exchange));
            self.children.spawn(async move {
                sync(&shared, &*exchange, to).await;
            });
        }
        if settled && !*self.joined.borrow() && self.tables.up_to_date() {
            self.joined.send_replace(true);
        }
    }
}

async fn find<S: Datagrams, E: Exchange>(
    seed: Seed,
    own: SocketAddr,
    shared: Arc<Shared<S>>,
    exchange: Arc<E>,
) {
    let settled = || {
        shared.unsettled.fetch_sub(1, Ordering::Release);
        shared.nudge.notify_one();
    };
    let alone = || shared.core().others() == 0;
    pursue(
        &seed,
        own,
        |to| sync(&shared, &*exchange, to),
        alone,
        settled,
    )
    .await;
}

/// Compares what both know with whoever is at `to`, and sends what it lacks.
async fn sync<S: Datagrams, E: Exchange>(
    shared: &Shared<S>,
    exchange: &E,
    to: SocketAddr,
) -> Outcome {
    let mut next = Some(shared.core().request(shared.now(), to));
    let mut answered = false;
    // The second round is to tell what the first has shown to be lacking; there is never a third.
    for _ in 0..2 {
        let Some(sync) = next.take() else { break };
        let answer = match timeout(SYNC_PATIENCE, exchange.exchange(to, sync.sealed.clone())).await
        {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
                return Outcome::Settled { answered };
            }
            Ok(Err(error)) => {
                tracing::debug!(%to, %error, "a member could not be synced with");
                return if answered {
                    Outcome::Settled { answered }
                } else {
                    Outcome::Silent
                };
            }
            Err(_) => return Outcome::Silent,
        };
        let synced = shared.core().synced(shared.now(), to, &sync, &answer);
        shared.nudge.notify_one();
        match synced {
            Ok(synced) => {
                answered |= !synced.ourselves;
                next = synced.more;
            }
            // It was counted and told; whoever answers like that will not do better in a moment.
            Err(_) => return Outcome::Settled { answered: false },
        }
    }
    Outcome::Settled { answered }
}

/// A seed for what only has to differ between gateways.
fn chance() -> u64 {
    let mut bytes = [0; 8];
    match aws_lc_rs::rand::fill(&mut bytes) {
        Ok(()) => u64::from_le_bytes(bytes),
        Err(_) => u64::from(std::process::id()),
    }
}
