//! One start of one gateway of a fleet: its membership, its port, and what it does by itself.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use forebay_gateway::access::Access;
use forebay_gateway::control::{Exchange, Leave, Revise};
use forebay_gateway::gateway::{FleetParts, Gateway, Parts};
use forebay_gateway::peer::client::{Http, Syncs};
use forebay_gateway::peer::handshake::{self, Identity, Keys};
use forebay_gateway::peer::wire;
use forebay_gateway::{purge, serve};
use forebay_ring::State;
use forebay_ring::gossip::{self, Membership};
use forebay_ring::seal::FleetKeys;
use forebay_storage::block::BlockSize;
use forebay_storage::origin::HttpClient;
use forebay_storage::residents::Residents;
use forebay_storage::store::Store;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinHandle, JoinSet};

use super::Fleet;
use super::network::{Dialer, Life, Node, Plug, Socket, Stream, address};
use crate::disk::End;
use crate::house::{House, Keeping};
use crate::objects::BLOCK;
use crate::origin::OwnOrigin;
use crate::random::Random;
use crate::reader::Readers;
use crate::reader::door::Gone;
use crate::world::{MAX_REQUESTS, datasets, tier};

const FLEET: &str = "simulated";
const KEY: &[u8] = b"the key of the simulated fleet";

/// How long a member that is told to leave may take to hand over.
const HAND_OVER: Duration = Duration::from_secs(10);

/// One start of one gateway.
#[derive(Debug)]
pub struct Member {
    /// Its name in the fleet.
    pub name: String,
    /// Which start it is.
    pub life: Life,
    /// The gateway, and who reads there.
    pub readers: Arc<Readers>,
    membership: Arc<Membership<Socket>>,
    house: Option<Arc<House>>,
    /// What is written down when it leaves.
    keeping: Mutex<Option<Keeping>>,
    tasks: Vec<AbortHandle>,
}

impl Member {
    /// Starts the member of this number. Readers come once it has found the others.
    pub(super) fn start(fleet: &Arc<Fleet>, node: Node) -> anyhow::Result<Arc<Self>> {
        let Plug {
            life,
            accept,
            socket,
            dialer,
        } = fleet.network.plug_in(node);
        let name = format!("m{node}");
        let own = Identity {
            fleet: FLEET.into(),
            member: name.as_str().into(),
            keys: Keys::new([KEY]),
            tls: None,
        };
        let http = Arc::new(Http::new(own.clone(), dialer));
        let gone = Arc::new(Gone::default());
        let membership = membership(fleet, &name, life, socket, &http)?;
        let membership = Arc::new(membership);
        let house = fleet.house(node)?;
        let gateway = gateway(
            fleet,
            (&name, life),
            &gone,
            (&membership, http),
            house.as_deref(),
        )?;
        let door: Arc<str> = format!("{name}.{}", life.number).into();
        fleet.trace.note(&door, format_args!("starts"));
        let readers = Arc::new(Readers {
            door,
            gateway: Arc::clone(&gateway),
            oracle: Arc::clone(&fleet.oracle),
            trace: Arc::clone(&fleet.trace),
            reads: Arc::clone(&fleet.reads),
            gone,
            disk: house.as_ref().map(|house| house.disk()),
        });
        let state = &gateway.state;
        let keeping = house.as_ref().map(|house| house.keep(&gateway));
        state.bound();
        if let (Some(disk), Some(nvme)) = (&readers.disk, gateway.reads.store.nvme()) {
            disk.judge_purges(nvme, &fleet.trace);
        }
        let tasks = [
            tokio::spawn(accept_all(accept, Arc::clone(&gateway), own)),
            tokio::spawn(Arc::clone(&state.handover).keep()),
            tokio::spawn(purge::told::keep(Arc::clone(&state.purges))),
            tokio::spawn(share_origins(Arc::clone(&gateway), Arc::clone(&membership))),
        ];
        let tasks = tasks.map(|task| task.abort_handle()).into_iter();
        let kept = keeping.iter().flat_map(|keeping| &keeping.tasks);
        let tasks = tasks.chain(kept.map(JoinHandle::abort_handle));
        let member = Arc::new(Self {
            name,
            life,
            readers,
            membership,
            house,
            tasks: tasks.collect(),
            keeping: Mutex::new(keeping),
        });
        tokio::spawn(Arc::clone(&member).find(Arc::clone(fleet)));
        tokio::spawn(Arc::clone(&member).bury(Arc::clone(fleet)));
        Ok(member)
    }

    /// Wants readers once the others are found, as the program does.
    async fn find(self: Arc<Self>, fleet: Arc<Fleet>) {
        let found = async {
            self.membership.joined().await;
            let state = &self.readers.gateway.state;
            purge::told::catch_up(&state.purges).await;
            state.set_ready(true);
        };
        tokio::select! {
            biased;
            () = self.readers.gone.wait() => return,
            () = found => {}
        }
        fleet
            .trace
            .note(&self.readers.door, format_args!("is ready"));
        fleet.doors.open(&self.name, Arc::clone(&self.readers));
    }

    /// Once it is killed, nothing of it goes on.
    async fn bury(self: Arc<Self>, fleet: Arc<Fleet>) {
        tokio::select! {
            biased;
            () = self.readers.gone.wait() => {}
            ended = self.membership.ended() => {
                fleet.trace.note(&self.readers.door, format_args!("{ended}"));
                fleet.trace.count("memberships ended");
                self.kill(&fleet);
            }
        }
        self.tasks.iter().for_each(AbortHandle::abort);
    }

    /// Kills it, whatever it is doing.
    pub(super) fn kill(&self, fleet: &Fleet) {
        if self.readers.gone.is_set() {
            return;
        }
        fleet
            .trace
            .note(&self.readers.door, format_args!("is killed"));
        let open = fleet.doors.of(&self.name);
        if open.is_some_and(|open| Arc::ptr_eq(&open, &self.readers)) {
            fleet.doors.close(&self.name);
        }
        fleet.network.pull_out(self.life);
        self.readers.gone.set();
        let mut random = Random::new(fleet.seed, &format!("end of {}", self.readers.door));
        let end = match random.chance(40) {
            true => End::PowerLost,
            false => End::Killed,
        };
        let left = self.house.as_ref().map(|house| house.left(end));
        if let Some(Err(error)) = left {
            fleet.trace.violation(&self.name, format_args!("{error:#}"));
        }
    }

    /// Leaves as it is told to: gives its place up, hands over, says goodbye.
    pub(super) async fn leave(&self, fleet: &Fleet) {
        let door = &self.readers.door;
        fleet.trace.note(door, format_args!("drains"));
        fleet.doors.close(&self.name);
        let state = &self.readers.gateway.state;
        state.set_ready(false);
        state.drain();
        tokio::select! {
            biased;
            () = self.readers.gone.wait() => return,
            () = state.handover.give() => {}
        }
        fleet.trace.note(door, format_args!("has handed over"));
        self.membership.leave().await;
        // Answers that are under way are given some time.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let keeping = self
            .keeping
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(keeping) = keeping.filter(|_| !self.readers.gone.is_set()) {
            keeping.write_down().await;
        }
        self.kill(fleet);
    }

    /// What it sees otherwise than that these are the fleet, and well.
    pub(super) fn differs(&self, alive: &[Arc<Self>]) -> Option<String> {
        let gateway = &self.readers.gateway;
        let (fleet, door) = (gateway.state.fleet(), &self.readers.door);
        let placed: Vec<&str> = fleet
            .table
            .members()
            .iter()
            .map(forebay_ring::Member::name)
            .collect();
        let wanted: Vec<&str> = alive.iter().map(|member| member.name.as_str()).collect();
        if placed != wanted {
            return Some(format!("{door} places blocks at {placed:?}"));
        }
        let seen = |peer: &forebay_ring::Peer| match &gateway.reads.peers {
            Some(peers) => peers.state(peer),
            None => peer.state,
        };
        let other = wanted.iter().find_map(|name| {
            let peer = fleet.peer(name)?;
            let state = seen(peer);
            (state != State::Alive).then(|| {
                let told = peer.state;
                format!("{door} sees {name} {state} and is told {told}")
            })
        });
        let is_open = !gateway.state.is_starting();
        other.or_else(|| (!is_open).then(|| format!("{door} is not ready")))
    }
}

fn membership(
    fleet: &Fleet,
    name: &str,
    life: Life,
    socket: Socket,
    http: &Arc<Http<Dialer>>,
) -> anyhow::Result<Membership<Socket>> {
    let zone = match fleet.zones && life.node.is_multiple_of(2) {
        true => "b",
        false => "a",
    };
    let mut random = Random::new(fleet.seed, &format!("membership {}", life.number));
    let identity = gossip::Identity {
        member: forebay_ring::Member::new(name, zone, NonZeroU16::MIN)?,
        address: address(life.node),
        client_url: format!("http://{name}:7070"),
        version: "simulated".into(),
        protocols: (wire::OLDEST, wire::newest()),
        settings: 7,
        incarnation: life.number,
        instance: random.below(u64::MAX),
    };
    // Those of the beginning may all be gone: whoever comes is told of who is there too, as the name of a service does it.
    let there = fleet.alive().into_iter().map(|member| member.life.node);
    let seeds: BTreeSet<Node> = (1..=fleet.size).chain(there).collect();
    let seeds = seeds
        .into_iter()
        .map(|node| address(node).to_string().parse());
    let settings = gossip::Settings {
        fleet: FLEET.into(),
        keys: FleetKeys::new(FLEET, KEY, None)?,
        identity,
        listen: address(life.node),
        seeds: seeds.collect::<Result<_, _>>()?,
    };
    let syncs = Arc::new(Syncs(Arc::clone(http)));
    let chance = random.below(u64::MAX);
    Membership::start_on(socket, chance, settings, syncs).context("start a membership")
}

fn gateway(
    fleet: &Fleet,
    (name, life): (&str, Life),
    gone: &Arc<Gone>,
    (membership, http): (&Arc<Membership<Socket>>, Arc<Http<Dialer>>),
    house: Option<&House>,
) -> anyhow::Result<Arc<Gateway>> {
    let origin = OwnOrigin {
        origin: Arc::clone(&fleet.origin),
        gone: Arc::clone(gone),
    };
    let datasets = datasets(fleet.connections, HttpClient::new(origin))?;
    let block_size = BlockSize::new(u32::try_from(BLOCK)?);
    let residents = Arc::new(Residents::default());
    let memory = fleet.memory.bytes();
    // The shares of a gateway's own tiers: of 70 % of the memory, 25 % are for copies.
    let tiers = [45, 25].map(|percent| {
        let capacity = memory / 100 * percent;
        tier(capacity, &residents, &fleet.trace)
    });
    let nvme = house.map(House::nvme).transpose()?;
    // The tables of a tier come on top: a member with a disk has as much for its readers.
    let memory = memory + nvme.as_ref().map_or(0, |nvme| nvme.geometry().memory());
    let gateway = Gateway::new(Parts {
        store: Store::in_fleet_with_tiers(memory, block_size, tiers, residents, nvme),
        datasets: Arc::new(datasets),
        access: Access::open(),
        name: name.into(),
        max_requests: MAX_REQUESTS,
        log_access: false,
        seed: fleet.seed ^ life.number,
        fleet: Some(FleetParts {
            fleet: membership.fleet(),
            transport: http,
        }),
    })?;
    let [answering, leaving, revising] = [(); 3].map(|()| Arc::clone(membership));
    gateway.state.set_membership(
        Exchange(Box::new(move |from, sealed| {
            answering.answer_sync(from, sealed)
        })),
        Leave(Box::new(move || leaving.drain())),
        Revise(Box::new(move |digest| revising.revise(digest))),
    );
    gateway.state.set_starting();
    gateway.state.handover.set_time(HAND_OVER);
    gateway.state.purges.settle_with_others();
    Ok(gateway)
}

/// Serves the fleet's port, each connection as the program does.
async fn accept_all(
    mut accept: mpsc::Receiver<(Stream, SocketAddr)>,
    gateway: Arc<Gateway>,
    own: Identity,
) {
    let graceful = GracefulShutdown::new();
    let mut tasks = JoinSet::new();
    while let Some((mut stream, remote)) = accept.recv().await {
        while tasks.try_join_next().is_some() {}
        let (gateway, own, watcher) = (Arc::clone(&gateway), own.clone(), graceful.watcher());
        tasks.spawn(async move {
            let met = handshake::answer(&mut stream, &own);
            if let Ok(Ok(member)) = tokio::time::timeout(handshake::PATIENCE, met).await {
                serve::fleet::speak(stream, remote, &gateway, member, watcher).await;
            }
        });
    }
}

/// Gives each dataset its share of what the fleet may have of its origin.
async fn share_origins(gateway: Arc<Gateway>, membership: Arc<Membership<Socket>>) {
    let mut fleet = membership.fleet();
    loop {
        let sharers = fleet.borrow_and_update().sharers();
        gateway.datasets.share_among(sharers);
        if fleet.changed().await.is_err() {
            return;
        }
    }
}
