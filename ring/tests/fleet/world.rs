//! A network of membership cores in virtual time: latency, loss, partitions, kills, restarts, one seed.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU16;
use std::time::Duration;

use forebay_ring::gossip::{Core, Ended, Identity, Sync, View};
use forebay_ring::seal::FleetKeys;
use forebay_ring::{Member, State};
use rand_foca::{RngExt, SeedableRng, rngs::Xoshiro256PlusPlus};
use xxhash_rust::xxh3::Xxh3;

pub(crate) const KEY: &[u8] = b"the key of the fleet";

pub(crate) fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

pub(crate) fn keys(key: &[u8], next: Option<&[u8]>) -> FleetKeys {
    FleetKeys::new("weights", key, next).unwrap()
}

pub(crate) fn address(n: usize) -> SocketAddr {
    let [high, low] = (n as u16).to_be_bytes();
    SocketAddr::new(IpAddr::from(Ipv4Addr::new(10, 0, high, low)), 7071)
}

pub(crate) fn identity(name: &str, address: SocketAddr, incarnation: u64) -> Identity {
    Identity {
        member: Member::new(name, "hangzhou-h", NonZeroU16::MIN).unwrap(),
        address,
        client_url: format!("http://{}:7070", address.ip()),
        version: "0.1.0".into(),
        protocols: (1, 1),
        settings: 7,
        incarnation,
        instance: incarnation ^ xxhash_rust::xxh3::xxh3_64(address.to_string().as_bytes()),
    }
}

pub(crate) struct Node {
    pub(crate) core: Core,
    pub(crate) address: SocketAddr,
    pub(crate) up: bool,
    pub(crate) view: Option<View>,
    pub(crate) ended: Option<Ended>,
    wake: Option<Duration>,
    seeded: bool,
    started: Duration,
}

enum Event {
    Wake(usize),
    Seeds(usize),
    Packet {
        from: usize,
        to: SocketAddr,
        bytes: Vec<u8>,
    },
    Ask {
        from: usize,
        to: SocketAddr,
        sync: Sync,
    },
    Answer {
        from: SocketAddr,
        to: usize,
        sync: Sync,
        bytes: Vec<u8>,
    },
}

struct Queued((Duration, u64), Event);

impl PartialEq for Queued {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}
impl Eq for Queued {}
impl PartialOrd for Queued {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Queued {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.cmp(&other.0)
    }
}

pub(crate) struct World {
    pub(crate) now: Duration,
    pub(crate) nodes: Vec<Node>,
    pub(crate) seeds: Vec<SocketAddr>,
    pub(crate) loss: f64,
    /// Those of each side hear only each other.
    pub(crate) partition: Option<fn(SocketAddr) -> bool>,
    /// Packets that arrived, kept if asked for.
    pub(crate) recorded: Option<Vec<(SocketAddr, Vec<u8>)>>,
    queue: BinaryHeap<Reverse<Queued>>,
    sequence: u64,
    at: BTreeMap<SocketAddr, usize>,
    rng: Xoshiro256PlusPlus,
    trace: Xxh3,
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        println!("seed {seed}");
        Self {
            now: Duration::ZERO,
            nodes: Vec::new(),
            seeds: vec![address(0), address(1), address(2)],
            loss: 0.01,
            partition: None,
            recorded: None,
            queue: BinaryHeap::new(),
            sequence: 0,
            at: BTreeMap::new(),
            rng: Xoshiro256PlusPlus::seed_from_u64(seed),
            trace: Xxh3::new(),
        }
    }

    /// Starts a gateway named after its address, incarnated now.
    pub(crate) fn start(&mut self, n: usize) -> usize {
        let incarnation = 1_000_000 + self.now.as_millis() as u64;
        let identity = identity(&format!("gw-{n}"), address(n), incarnation);
        self.start_as(identity, &keys(KEY, None))
    }

    pub(crate) fn start_as(&mut self, identity: Identity, keys: &FleetKeys) -> usize {
        let address = identity.address;
        let core = Core::new(identity, keys, self.rng.random(), self.now).unwrap();
        let node = self.nodes.len();
        self.nodes.push(Node {
            core,
            address,
            up: true,
            view: None,
            ended: None,
            wake: None,
            seeded: false,
            started: self.now,
        });
        self.at.insert(address, node);
        self.push(self.now, Event::Seeds(node));
        self.pump(node);
        node
    }

    pub(crate) fn kill(&mut self, node: usize) {
        self.nodes[node].up = false;
    }

    /// Starts `count` gateways, one a millisecond.
    pub(crate) fn start_many(&mut self, count: usize) {
        for n in 0..count {
            self.start(n);
            self.run_for(ms(1));
        }
    }

    pub(crate) fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(Reverse(Queued((at, _), _))) = self.queue.peek()
            && *at <= end
        {
            let Some(Reverse(Queued((at, _), event))) = self.queue.pop() else {
                break;
            };
            self.now = at;
            self.handle(event);
        }
        self.now = end;
    }

    /// How long it takes until `holds`, looked at each 50 ms; fails after `limit`.
    pub(crate) fn until(
        &mut self,
        what: &str,
        limit: Duration,
        holds: impl Fn(&Self) -> bool,
    ) -> Duration {
        let started = self.now;
        while !holds(self) {
            assert!(
                self.now - started < limit,
                "{what}: not within {limit:?}; seen by how many: {:?}",
                self.seen()
            );
            self.run_for(ms(50));
        }
        println!("{what}: {:?}", self.now - started);
        self.now - started
    }

    /// How many see whom how, for a failed test's message; those that all see alive are left out.
    fn seen(&self) -> BTreeMap<(String, State), usize> {
        let mut seen = BTreeMap::new();
        for node in self.up() {
            for (name, peer) in self.nodes[node].view.iter().flat_map(|view| &*view.peers) {
                *seen.entry((name.clone(), peer.state)).or_default() += 1;
            }
        }
        let all = self.up().count();
        seen.retain(|(_, state), count| *state != State::Alive || *count != all);
        seen
    }

    pub(crate) fn act(&mut self, node: usize, act: impl FnOnce(&mut Core, Duration)) {
        act(&mut self.nodes[node].core, self.now);
        self.pump(node);
    }

    pub(crate) fn state(&self, node: usize, name: &str) -> Option<State> {
        let view = self.nodes[node].view.as_ref()?;
        view.peers.get(name).map(|peer| peer.state)
    }

    pub(crate) fn up(&self) -> impl Iterator<Item = usize> {
        (0..self.nodes.len()).filter(|node| self.nodes[*node].up)
    }

    /// Whether everybody that is up sees `name` so; itself left out.
    pub(crate) fn all_see(&self, name: &str, state: State) -> bool {
        self.up().all(|node| {
            let own = self.nodes[node].view.as_ref().is_some_and(|view| {
                view.peers
                    .get(name)
                    .is_some_and(|peer| peer.address == self.nodes[node].address)
            });
            own || self.state(node, name) == Some(state)
        })
    }

    /// Whether everybody that is up sees exactly `count` members alive, and as many placed.
    pub(crate) fn converged(&self, count: usize) -> bool {
        self.up().all(|node| {
            self.nodes[node].view.as_ref().is_some_and(|view| {
                let alive = view
                    .peers
                    .values()
                    .filter(|peer| peer.state == State::Alive)
                    .count();
                alive == count && view.placed.len() == count
            })
        })
    }

    pub(crate) fn placed(&self, node: usize) -> Vec<Member> {
        self.nodes[node].view.as_ref().unwrap().placed.clone()
    }

    pub(crate) fn before(&self, node: usize) -> Vec<Vec<Member>> {
        self.nodes[node].view.as_ref().unwrap().before.clone()
    }

    pub(crate) fn trace(&self) -> u64 {
        self.trace.digest()
    }

    fn push(&mut self, at: Duration, event: Event) {
        self.sequence += 1;
        self.queue.push(Reverse(Queued((at, self.sequence), event)));
    }

    fn latency(&mut self) -> Duration {
        Duration::from_micros(self.rng.random_range(200..1000))
    }

    fn reach(&self, from: SocketAddr, to: SocketAddr) -> Option<usize> {
        let node = *self.at.get(&to)?;
        let parted = self.partition.is_some_and(|side| side(from) != side(to));
        (self.nodes[node].up && !parted).then_some(node)
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Wake(node) => {
                if self.nodes[node].wake == Some(self.now) {
                    self.nodes[node].wake = None;
                    self.pump(node);
                }
            }
            Event::Seeds(node) => self.ask_seeds(node),
            Event::Packet { from, to, bytes } => {
                let source = self.nodes[from].address;
                if let Some(node) = self.reach(source, to) {
                    self.trace
                        .update(&(self.now.as_micros() as u64).to_le_bytes());
                    self.trace
                        .update(&[from, node, bytes.len()].map(|n| n as u8));
                    self.nodes[node].core.receive(self.now, source, &bytes);
                    if let Some(recorded) = &mut self.recorded {
                        recorded.push((to, bytes));
                    }
                    self.pump(node);
                }
            }
            Event::Ask { from, to, sync } => {
                let source = self.nodes[from].address;
                let Some(node) = self.reach(source, to) else {
                    return;
                };
                let answer = self.nodes[node]
                    .core
                    .answer(self.now, Some(source), &sync.sealed);
                self.pump(node);
                if let Some(bytes) = answer {
                    let at = self.now + self.latency();
                    let bytes = bytes.to_vec();
                    self.push(
                        at,
                        Event::Answer {
                            from: to,
                            to: from,
                            sync,
                            bytes,
                        },
                    );
                }
            }
            Event::Answer {
                from,
                to,
                sync,
                bytes,
            } => self.take_answer(from, to, &sync, &bytes),
        }
    }

    fn take_answer(&mut self, from: SocketAddr, to: usize, sync: &Sync, bytes: &[u8]) {
        if !self.nodes[to].up {
            return;
        }
        self.trace.update(&[to, bytes.len()].map(|n| n as u8));
        if let Ok(synced) = self.nodes[to].core.synced(self.now, from, sync, bytes) {
            self.nodes[to].seeded |= !synced.ourselves;
            if let Some(sync) = synced.more {
                let at = self.now + self.latency();
                self.push(
                    at,
                    Event::Ask {
                        from: to,
                        to: from,
                        sync,
                    },
                );
            }
        }
        self.pump(to);
    }

    fn ask_seeds(&mut self, node: usize) {
        let Node {
            up,
            seeded,
            started,
            address,
            ..
        } = self.nodes[node];
        if !up {
            return;
        }
        for to in self.seeds.clone() {
            if to != address {
                self.ask(node, to);
            }
        }
        let eager = self.now < started + ms(5000);
        let pause = match (seeded, eager) {
            (true, _) => ms(30_000),
            (false, true) => ms(100),
            (false, false) => ms(3000),
        };
        self.push(self.now + pause, Event::Seeds(node));
    }

    fn ask(&mut self, from: usize, to: SocketAddr) {
        let sync = self.nodes[from].core.request(self.now, to);
        // A connection is made first.
        let at = self.now + self.latency() * 3;
        self.push(at, Event::Ask { from, to, sync });
    }

    /// Does what a driver does after each step.
    fn pump(&mut self, node: usize) {
        if !self.nodes[node].up {
            return;
        }
        self.nodes[node].core.tick(self.now);
        while let Some((to, bytes)) = self.nodes[node].core.transmit() {
            assert!(bytes.len() <= forebay_ring::gossip::MAX_PACKET);
            if self.rng.random::<f64>() >= self.loss {
                let at = self.now + self.latency();
                self.push(
                    at,
                    Event::Packet {
                        from: node,
                        to,
                        bytes,
                    },
                );
            }
        }
        while let Some(to) = self.nodes[node].core.sync_with(self.now) {
            self.ask(node, to);
        }
        let it = &mut self.nodes[node];
        if let Some(view) = it.core.view(self.now) {
            it.view = Some(view);
        }
        if let Some(ended) = it.core.ended() {
            // A gateway stops then.
            it.ended = Some(ended.clone());
            it.up = false;
            return;
        }
        let due = it.core.due().max(self.now + Duration::from_micros(1));
        if it.wake.is_none_or(|wake| due < wake) {
            it.wake = Some(due);
            self.push(due, Event::Wake(node));
        }
    }
}
