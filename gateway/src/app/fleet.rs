//! The fleet's part of a gateway: its port, its place among the others, and its share of the origins.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use forebay_ring::{Fleet, Member, Peer, State, Table};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use xxhash_rust::xxh3::Xxh3;

use crate::gateway::{FleetParts, Gateway};
use crate::peer::client::Tcp;
use crate::peer::handshake::{Identity, Keys};
use crate::peer::wire;
use crate::serve;
use crate::settings::{FleetSettings, Settings};

/// What the fleet needs before a gateway can be built.
pub(super) struct Prepared {
    /// The fleet's port, taken.
    pub(super) listener: TcpListener,
    /// Who we are on it.
    pub(super) own: Identity,
    /// Who is there.
    pub(super) fleet: watch::Sender<Arc<Fleet>>,
}

/// Takes the fleet's port and begins the fleet, of this gateway alone at first. `client` is the address
/// that clients reach.
///
/// # Errors
/// A sentence: the port can't be had, or the name can't be a member's.
pub(super) async fn prepare(
    settings: &Settings,
    fleet: &FleetSettings,
    name: &str,
    client: SocketAddr,
) -> Result<Prepared> {
    let listen = fleet.listen;
    let listener = serve::bind(listen)
        .await
        .with_context(|| format!("listen on {listen} ([fleet] listen)"))?;
    let port = listener.local_addr().context("ask for our address")?.port();
    let mut advertise = fleet.advertise;
    if advertise.port() == 0 {
        advertise.set_port(port);
    }
    let member = match fleet.edge {
        true => Member::edge(name, &*fleet.zone),
        false => {
            let weight = NonZeroU16::new(fleet.weight).unwrap_or(NonZeroU16::MIN);
            Member::new(name, &*fleet.zone, weight)
        }
    };
    let own = Peer {
        member: member.context("take a place in the fleet")?,
        address: advertise,
        client_url: fleet.client_url.clone().unwrap_or_else(|| {
            format!("http://{}", SocketAddr::new(advertise.ip(), client.port()))
        }),
        incarnation: 0,
        state: State::Alive,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        protocol: wire::PROTOCOL,
        settings: digest(settings),
    };
    let keys = std::iter::once(&fleet.key).chain(&fleet.key_next);
    let identity = Identity {
        fleet: fleet.name.as_str().into(),
        member: name.into(),
        keys: Keys::new(keys.map(|key| key.expose().as_bytes())),
    };
    let others = fixed_members()?;
    Ok(Prepared {
        listener,
        fleet: watch::Sender::new(Arc::new(of(&identity, own, others))),
        own: identity,
    })
}

impl Prepared {
    /// What makes a gateway one of this fleet.
    pub(super) fn parts(&self) -> FleetParts {
        FleetParts {
            fleet: self.fleet.subscribe(),
            transport: Arc::new(Tcp::new(self.own.clone())),
        }
    }
}

impl Prepared {
    /// Serves the fleet's port among `servers`, until `stopped`. What comes back holds the membership.
    pub(super) fn start(
        self,
        settings: &Settings,
        gateway: &Arc<Gateway>,
        servers: &mut JoinSet<()>,
        stopped: &watch::Receiver<bool>,
    ) -> Membership {
        servers.spawn(serve::fleet::serve(
            self.listener,
            Arc::clone(gateway),
            self.own,
            stopped.clone(),
            settings.stop_after,
        ));
        let sharing = share_origins(Arc::clone(gateway), self.fleet.subscribe());
        Membership {
            _fleet: self.fleet,
            sharing: tokio::spawn(sharing),
        }
    }
}

/// A gateway's place among the others, until it is dropped.
pub(super) struct Membership {
    _fleet: watch::Sender<Arc<Fleet>>,
    sharing: JoinHandle<()>,
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.sharing.abort();
    }
}

fn of(identity: &Identity, own: Peer, others: Vec<Peer>) -> Fleet {
    let peers: BTreeMap<String, Peer> = others
        .into_iter()
        .chain([own])
        .map(|peer| (peer.member.name().to_owned(), peer))
        .collect();
    Fleet {
        name: Arc::clone(&identity.fleet),
        own: Arc::clone(&identity.member),
        table: Arc::new(Table::build(peers.values().map(|peer| peer.member.clone()))),
        peers: Arc::new(peers),
    }
}

/// Members that do not change, for tests: `NAME=ADDRESS=CLIENT=ZONE=WEIGHT`, separated by semicolons, weight
/// 0 for an edge.
fn fixed_members() -> Result<Vec<Peer>> {
    let Ok(text) = std::env::var("FOREBAY_TEST_MEMBERS") else {
        return Ok(Vec::new());
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
        members.push(Peer {
            member: member?,
            address: address.parse()?,
            client_url: format!("http://{client}"),
            incarnation: 0,
            state: State::Alive,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            protocol: wire::PROTOCOL,
            settings: 0,
        });
    }
    Ok(members)
}

/// What all members must have alike: block size, and the datasets by name and origin.
fn digest(settings: &Settings) -> u64 {
    let mut hash = Xxh3::new();
    hash.update(&settings.cache.block_size.to_le_bytes());
    let datasets: BTreeMap<&str, String> = settings
        .datasets
        .iter()
        .map(|dataset| (dataset.name.as_str(), dataset.origin.to_string()))
        .collect();
    for (name, origin) in datasets {
        for text in [name, &origin] {
            hash.update(&(text.len() as u64).to_le_bytes());
            hash.update(text.as_bytes());
        }
    }
    hash.digest()
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
