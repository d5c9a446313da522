//! The network between members: who is there, which ways are cut, and how long everything takes.
//!
//! A *life* of a member is one start of it. What belongs to a life that has ended reaches nobody any more, whatever its
//! tasks still do: to all others it was killed between two awaits.

mod datagram;
mod stream;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::mpsc;

pub use self::datagram::Socket;
use self::stream::Conn;
pub use self::stream::{Dialer, Stream};
use crate::random::Random;
use crate::trace::Trace;

/// A member's number, which its address is made of.
pub type Node = u8;

/// The fleet's port.
const PORT: u16 = 7071;

/// Connections that wait to be accepted.
const BACKLOG: usize = 1024;

/// Packets that wait to be taken.
const PACKETS: usize = 1024;

/// How the network is, for the whole of a seed.
#[derive(Clone, Copy, Debug)]
pub struct Nature {
    /// The longest that a packet or a piece takes, in microseconds.
    slowest_us: u64,
    /// Bytes a millisecond that one connection carries.
    pace: u64,
    /// Percent of connections that break at some time.
    breaks: u64,
    /// Percent of connections that change a byte at some time.
    flips: u64,
    /// Percent of datagrams that are lost.
    lost: u64,
}

impl Nature {
    fn draw(random: &mut Random) -> Self {
        Self {
            slowest_us: *random.pick(&[200, 2000, 20_000]),
            pace: *random.pick(&[4_000, 50_000, 500_000]),
            breaks: *random.pick(&[0, 0, 10, 40]),
            flips: *random.pick(&[0, 0, 20]),
            lost: *random.pick(&[0, 1, 10]),
        }
    }
}

/// The network.
#[derive(Debug)]
pub struct Network {
    trace: Arc<Trace>,
    nature: Nature,
    seed: u64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    ports: BTreeMap<Node, Port>,
    lives: u64,
    /// From whom to whom nothing gets.
    cut: BTreeSet<(Node, Node)>,
    /// Whether anything still breaks or is lost.
    calm: bool,
    conns: Vec<Weak<Conn>>,
    /// How many connections and packets there were from one to another.
    made: BTreeMap<(Node, Node), u64>,
}

#[derive(Debug)]
struct Port {
    life: u64,
    accept: mpsc::Sender<(Stream, SocketAddr)>,
    packets: mpsc::Sender<(Vec<u8>, SocketAddr)>,
}

/// One start of a member, as the network knows it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Life {
    /// The member.
    pub node: Node,
    /// Which start, of all starts of all members.
    pub number: u64,
}

/// What a member that starts gets of the network.
#[derive(Debug)]
pub struct Plug {
    /// Which start it is.
    pub life: Life,
    /// Connections that others make.
    pub accept: mpsc::Receiver<(Stream, SocketAddr)>,
    /// Its UDP socket.
    pub socket: Socket,
    /// How it connects to others.
    pub dialer: Dialer,
}

/// Where a member is reached.
pub fn address(node: Node) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, node)), PORT)
}

fn node_of(address: SocketAddr) -> Option<Node> {
    match address.ip() {
        IpAddr::V4(ip) if ip.octets()[..3] == [10, 0, 0] => Some(ip.octets()[3]),
        _ => None,
    }
}

impl Network {
    /// A network in which nobody is yet.
    pub fn new(seed: u64, trace: Arc<Trace>) -> Arc<Self> {
        let nature = Nature::draw(&mut Random::new(seed, "network"));
        trace.note("network", format_args!("{nature:?}"));
        Arc::new(Self {
            trace,
            nature,
            seed,
            state: Mutex::default(),
        })
    }

    /// Lets a member be reached, in a new life of its own.
    pub fn plug_in(self: &Arc<Self>, node: Node) -> Plug {
        let (accept, accepted) = mpsc::channel(BACKLOG);
        let (packets, received) = mpsc::channel(PACKETS);
        let mut state = self.lock();
        state.lives += 1;
        let life = Life {
            node,
            number: state.lives,
        };
        let port = Port {
            life: life.number,
            accept,
            packets,
        };
        state.ports.insert(node, port);
        Plug {
            life,
            accept: accepted,
            socket: Socket::new(Arc::clone(self), life, received),
            dialer: Dialer::new(Arc::clone(self), life),
        }
    }

    /// Ends a life: nobody is reached by it any more, and its connections break.
    pub fn pull_out(&self, life: Life) {
        let conns = {
            let mut state = self.lock();
            if state.ports.get(&life.node).map(|port| port.life) == Some(life.number) {
                state.ports.remove(&life.node);
            }
            state.conns.clone()
        };
        let conns = conns.iter().filter_map(Weak::upgrade);
        conns
            .filter(|conn| conn.is_of(life))
            .for_each(|conn| conn.reset());
    }

    /// Lets nothing get from one member to another, until [`heal`](Self::heal).
    pub fn cut(&self, from: Node, to: Node) {
        self.lock().cut.insert((from, to));
    }

    /// Lets everything get everywhere again.
    pub fn heal(&self) {
        self.lock().cut.clear();
    }

    /// Breaks and loses nothing from now on.
    pub fn calm_down(&self) {
        let mut state = self.lock();
        state.cut.clear();
        state.calm = true;
    }

    /// Whether this start of a member goes on.
    fn lives(&self, life: Life) -> bool {
        let state = self.lock();
        state.ports.get(&life.node).map(|port| port.life) == Some(life.number)
    }

    /// Whether anything gets from one to another now.
    fn passes(&self, from: Node, to: Node) -> bool {
        !self.lock().cut.contains(&(from, to))
    }

    /// The numbers of the next connection, or packet, from one to another: a stream of their own, so that what happens on
    /// one way changes nothing on another.
    fn luck(&self, kind: &str, from: Node, to: Node) -> Random {
        let number = {
            let mut state = self.lock();
            let made = state.made.entry((from, to)).or_default();
            *made += 1;
            *made
        };
        Random::new(self.seed, &format!("{kind} {from} {to} {number}"))
    }

    fn is_calm(&self) -> bool {
        self.lock().calm
    }

    fn delay(&self, random: &mut Random) -> Duration {
        // Most are quick, some are not: so they overtake each other.
        let slowest = match random.chance(80) {
            true => self.nature.slowest_us / 4,
            false => self.nature.slowest_us,
        };
        Duration::from_micros(random.from(slowest / 4..=slowest))
    }

    fn keep(&self, conn: &Arc<Conn>) {
        let mut state = self.lock();
        state.conns.retain(|conn| conn.strong_count() > 0);
        state.conns.push(Arc::downgrade(conn));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
