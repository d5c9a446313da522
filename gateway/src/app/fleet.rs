//! The fleet's part of a gateway: its port, its place among the others, and its share of the origins.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::{Context, Result, bail};
use forebay_ring::gossip::{self, Ended, Membership};
use forebay_ring::seal::FleetKeys;
use forebay_ring::{Fleet, Member, Peer, State, Table};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::control::{Exchange, Leave, Revise};
use crate::gateway::{FleetParts, Gateway};
use crate::peer::client::{Http, Syncs, Tcp};
use crate::peer::handshake::{Identity, Keys};
use crate::peer::tls::{self, FleetTls};
use crate::peer::wire;
use crate::serve::{self, crowd::Crowd};
use crate::settings::{FleetSettings, Settings};

/// What the fleet needs before a gateway can be built.
pub(super) struct Prepared {
    /// The fleet's port, taken.
    listener: TcpListener,
    /// Who we are on it.
    own: Identity,
    transport: Arc<Http<Tcp>>,
    fleet: watch::Receiver<Arc<Fleet>>,
    members: Members,
}

/// Where the fleet is heard of.
enum Members {
    /// Gossip.
    Gossip(Arc<Membership>),
    /// A list that does not change.
    Fixed(watch::Sender<Arc<Fleet>>),
}

/// Takes the fleet's port and begins to look for the others. `client` is the address that clients reach.
///
/// # Errors
/// A sentence: a port can't be had, or the name can't be a member's.
pub(super) async fn prepare(
    settings: &Settings,
    fleet: &FleetSettings,
    name: &str,
    client: SocketAddr,
) -> Result<Prepared> {
    let mut listen = fleet.listen;
    let listener = serve::bind(listen)
        .await
        .with_context(|| format!("listen on {listen} ([fleet] listen)"))?;
    // Gossip has the same port, over UDP.
    let port = listener.local_addr().context("ask for our address")?.port();
    listen.set_port(port);
    let keys = std::iter::once(&fleet.key).chain(&fleet.key_next);
    let next = fleet.key_next.as_ref().map(|key| key.expose().as_bytes());
    let fleet_keys = FleetKeys::new(&fleet.name, fleet.key.expose().as_bytes(), next)?;
    let tls = fleet
        .tls
        .then(|| FleetTls::new(&fleet_keys.secrets(tls::PURPOSE)));
    let own = Identity {
        fleet: fleet.name.as_str().into(),
        member: name.into(),
        keys: Keys::new(keys.map(|key| key.expose().as_bytes())),
        tls: tls.transpose().context("prepare TLS between gateways")?,
    };
    let transport = Arc::new(Http::over_tcp(own.clone()));
    let identity = identity(settings, fleet, name, (client, port))?;
    let members = match fixed_members()? {
        Some(others) => {
            Members::Fixed(watch::Sender::new(Arc::new(fixed(&own, &identity, others))))
        }
        None => {
            let gossip = gossip::Settings {
                fleet: fleet.name.clone(),
                keys: fleet_keys,
                identity,
                listen,
                seeds: fleet.seeds.clone(),
            };
            let syncs = Arc::new(Syncs(Arc::clone(&transport)));
            Members::Gossip(Arc::new(Membership::start(gossip, syncs).await?))
        }
    };
    let fleet = match &members {
        Members::Gossip(membership) => membership.fleet(),
        Members::Fixed(sender) => sender.subscribe(),
    };
    Ok(Prepared {
        listener,
        own,
        transport,
        fleet,
        members,
    })
}

/// What others are told of this gateway.
fn identity(
    settings: &Settings,
    fleet: &FleetSettings,
    name: &str,
    (client, port): (SocketAddr, u16),
) -> Result<gossip::Identity> {
    let mut address = fleet.advertise;
    if address.port() == 0 {
        address.set_port(port);
    }
    let member = match fleet.edge {
        true => Member::edge(name, &*fleet.zone),
        false => {
            let weight = NonZeroU16::new(fleet.weight).unwrap_or(NonZeroU16::MIN);
            Member::new(name, &*fleet.zone, weight)
        }
    };
    let derived = || {
        let address = SocketAddr::new(address.ip(), client.port());
        format!("{}://{address}", settings.scheme())
    };
    Ok(gossip::Identity {
        member: member.context("take a place in the fleet")?,
        address,
        client_url: fleet.client_url.clone().unwrap_or_else(derived),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        protocols: (wire::OLDEST, wire::newest()),
        settings: settings.digest(settings.cache.block_size),
        incarnation: incarnation(&settings.data_dir)?,
        instance: super::seed(),
    })
}

/// Larger at each start, also where the clock was set back.
fn incarnation(data_dir: &Path) -> Result<u64> {
    let path = data_dir.join("incarnation");
    let last = std::fs::read_to_string(&path).unwrap_or_default();
    let last: u64 = last.trim().parse().unwrap_or(0);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now = now.map_or(0, |now| u64::try_from(now.as_millis()).unwrap_or(0));
    let next = now.max(last.saturating_add(1));
    let part = path.with_extension("part");
    std::fs::write(&part, next.to_string())
        .and_then(|()| std::fs::rename(&part, &path))
        .with_context(|| format!("write {}", path.display()))?;
    Ok(next)
}

impl Prepared {
    /// What makes a gateway one of this fleet.
    pub(super) fn parts(&self) -> FleetParts {
        FleetParts {
            fleet: self.fleet.clone(),
            transport: Arc::clone(&self.transport) as Arc<dyn crate::peer::Peer>,
        }
    }

    /// Serves the fleet's port among `servers`, with sockets of `crowd`, until `stopped`. What comes back is the gateway's place
    /// among the others.
    pub(super) fn start(
        self,
        settings: &Settings,
        gateway: &Arc<Gateway>,
        servers: &mut JoinSet<()>,
        crowd: Crowd,
        stopped: &watch::Receiver<bool>,
    ) -> Place {
        if let Members::Gossip(membership) = &self.members {
            let [answering, leaving, revising] = [(); 3].map(|()| Arc::clone(membership));
            gateway.state.set_membership(
                Exchange(Box::new(move |from, sealed| {
                    answering.answer_sync(from, sealed)
                })),
                Leave(Box::new(move || leaving.drain())),
                Revise(Box::new(move |digest| revising.revise(digest))),
            );
            gateway.state.set_starting();
            if let Some(fleet) = &settings.fleet {
                gateway.state.handover.set_time(fleet.drain_after);
            }
            if let Some(peers) = &gateway.reads.peers {
                let counting = Arc::clone(membership);
                peers.metrics.count_gossip(move || counting.counts());
            }
        }
        servers.spawn(serve::fleet::serve(
            self.listener,
            Arc::clone(gateway),
            self.own,
            crowd,
            stopped.clone(),
            settings.stop_after,
        ));
        let sharing = share_origins(Arc::clone(gateway), self.fleet);
        let seeds = settings.fleet.as_ref().map_or(0, |fleet| fleet.seeds.len());
        Place {
            members: self.members,
            seeds,
            sharing: tokio::spawn(sharing),
        }
    }
}

/// A gateway's place among the others, until it is dropped.
pub(super) struct Place {
    members: Members,
    /// Where it was told to look for the others: so many places.
    seeds: usize,
    sharing: JoinHandle<()>,
}

impl Place {
    /// Waits until the others are found, or are not to be found.
    pub(super) async fn joined(&self) {
        if let Members::Gossip(membership) = &self.members {
            membership.joined().await;
            let alone = membership.fleet().borrow().sharers() == 1;
            if alone && self.seeds > 0 {
                let seeds = self.seeds;
                tracing::info!(
                    seeds,
                    "no seed has led to another gateway so far: this one begins alone, and goes on asking them"
                );
            }
        }
    }

    /// Waits until the gateway has no place any more, and says why. Else it never returns.
    pub(super) async fn lost(&self) -> Ended {
        match &self.members {
            Members::Gossip(membership) => membership.ended().await,
            Members::Fixed(_) => std::future::pending().await,
        }
    }

    /// Gives this gateway's place up and hands its blocks over, unless `told` once more to stop.
    pub(super) async fn hand_over(
        &self,
        gateway: &Gateway,
        told: impl Future<Output = &'static str>,
    ) {
        if let Members::Fixed(_) = &self.members {
            return;
        }
        gateway.state.drain();
        tokio::select! {
            biased;
            signal = told => tracing::info!("{signal} again: leaving at once"),
            () = gateway.state.handover.give() => {}
        }
    }

    /// Says goodbye.
    pub(super) async fn leave(&self) {
        if let Members::Gossip(membership) = &self.members {
            membership.leave().await;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.sharing.abort();
    }
}

/// The fleet of this gateway and `others`.
fn fixed(own: &Identity, identity: &gossip::Identity, others: Vec<Peer>) -> Fleet {
    let peer = peer(
        identity.member.clone(),
        identity.address,
        identity.client_url.clone(),
    );
    let peers: BTreeMap<String, Peer> = others
        .into_iter()
        .chain([peer])
        .map(|peer| (peer.member.name().to_owned(), peer))
        .collect();
    Fleet {
        name: Arc::clone(&own.fleet),
        own: Arc::clone(&own.member),
        donors: Arc::default(),
        table: Arc::new(Table::build(peers.values().map(|peer| peer.member.clone()))),
        peers: Arc::new(peers),
    }
}

fn peer(member: Member, address: SocketAddr, client_url: String) -> Peer {
    Peer {
        member,
        address,
        client_url,
        incarnation: 0,
        state: State::Alive,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        protocol: wire::PROTOCOL,
        settings: 0,
    }
}

/// What tests and measurements tell a gateway beside its settings. A build without assertions, which is what people
/// run, hears nothing of it.
pub(super) fn for_tests(variable: &str) -> Option<String> {
    match cfg!(debug_assertions) {
        true => std::env::var(variable).ok(),
        false => None,
    }
}

/// Members that do not change and are not asked about each other: for tests of tables that differ, and of
/// whoever stands between two gateways. `NAME=ADDRESS=CLIENT=ZONE=WEIGHT`, separated by semicolons, weight 0 for
/// an edge.
fn fixed_members() -> Result<Option<Vec<Peer>>> {
    let Some(text) = for_tests("FOREBAY_TEST_MEMBERS") else {
        return Ok(None);
    };
    let mut members = Vec::new();
    for entry in text.split(';').filter(|entry| !entry.is_empty()) {
        let fields: Vec<&str> = entry.split('=').collect();
        let [name, address, client, zone, weight] = fields[..] else {
            bail!("FOREBAY_TEST_MEMBERS is not a list of members");
        };
        let member = match NonZeroU16::new(weight.parse()?) {
            Some(weight) => Member::new(name, zone, weight),
            None => Member::edge(name, zone),
        };
        members.push(peer(member?, address.parse()?, format!("http://{client}")));
    }
    Ok(Some(members))
}

/// Gives each dataset its share of what the fleet may have of its origin, as members come and go.
async fn share_origins(gateway: Arc<Gateway>, mut fleet: watch::Receiver<Arc<Fleet>>) {
    loop {
        let sharers = fleet.borrow_and_update().sharers();
        gateway.datasets.share_among(sharers);
        if fleet.changed().await.is_err() {
            return;
        }
    }
}
