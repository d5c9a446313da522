//! What the routes see and change.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU16;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use forebay_ring::{Fleet, Member, Peer, Table};
use forebay_storage::origin::documents::Documents;

use crate::copy::Copier;
use crate::dataset::Datasets;
use crate::flow::Flows;
use crate::handover::Handover;
use crate::link::Link;
use crate::listings::Listings;
use crate::pins::Pins;
use crate::purge::{Purges, Wanted};
use crate::read::Reads;
use crate::revision::Revisions;
use crate::warm::Jobs;
use crate::warm::paper::Paper;
use crate::warm::place::Crew;

/// Answers a question of another member about membership; `None`: it can't be read.
pub struct Exchange(pub Box<Answer>);

/// From whom it came, and what was asked.
type Answer = dyn Fn(SocketAddr, &[u8]) -> Option<Bytes> + Send + Sync;

/// Tells the other members that this one drains.
pub struct Leave(pub Box<dyn Fn() + Send + Sync>);

/// Tells the other members the digest of this one's settings, once it has others.
pub struct Revise(pub Box<dyn Fn(u64) + Send + Sync>);

impl fmt::Debug for Revise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Revise")
    }
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Exchange")
    }
}

impl fmt::Debug for Leave {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Leave")
    }
}

/// What these routes see and change.
#[derive(Debug)]
pub struct State {
    /// The gateway's own name.
    pub name: Arc<str>,
    /// The fleet of a gateway that is alone: it owns everything.
    alone: Arc<Fleet>,
    pub(super) reads: Arc<Reads>,
    pub(super) datasets: Arc<Datasets>,
    pub(super) listings: Arc<Listings>,
    /// How fast the gateway's link was seen to be.
    pub link: Arc<Link>,
    /// What changes hands as members come and go.
    pub handover: Arc<Handover>,
    /// Warming jobs.
    pub jobs: Arc<Jobs>,
    /// Flows.
    pub flows: Arc<Flows>,
    /// What is pinned.
    pub pins: Arc<Pins>,
    /// Copies between datasets.
    pub copier: Arc<Copier>,
    /// Revisions of datasets.
    pub revisions: Arc<Revisions>,
    ready: AtomicBool,
    starting: AtomicBool,
    draining: AtomicBool,
    /// Where clients reach this gateway, once that is known.
    pub(super) client_url: OnceLock<String>,
    /// Who answers other members' questions about membership.
    pub(super) exchange: OnceLock<Exchange>,
    /// Who tells the others that this gateway drains.
    leave: OnceLock<Leave>,
    /// Who tells the others that its settings changed.
    revise: OnceLock<Revise>,
    /// Who lets go of what is cached.
    pub purges: Arc<Purges>,
    /// Where a fleet keeps its jobs and pins; else each gateway does in its data directory.
    documents: OnceLock<Arc<Documents>>,
}

impl State {
    /// The state of a gateway that is not ready yet. `seed` names its jobs: another one at each start.
    pub fn new(
        name: Arc<str>,
        reads: Arc<Reads>,
        datasets: Arc<Datasets>,
        listings: Arc<Listings>,
        seed: u64,
    ) -> Self {
        let pins = Arc::new(Pins::new(&reads.store));
        let purges = Arc::new(Purges::new(&reads, &datasets, &listings));
        let crew = || Crew {
            purges: Arc::clone(&purges),
            pins: Arc::clone(&pins),
            reads: Arc::clone(&reads),
            datasets: Arc::clone(&datasets),
            own: Arc::clone(&name),
            paper: Paper::new(&reads.store),
        };
        let peers = reads.peers.as_ref();
        let link = peers.map_or_else(Arc::default, |peers| Arc::clone(&peers.link));
        let handover = Handover::new(crew(), Arc::clone(&link));
        let jobs = Jobs::new(crew(), seed);
        let (has_nvme, ended) = (reads.store.nvme().is_some(), reads.metrics.flows.clone());
        Self {
            alone: Arc::new(alone(&name)),
            flows: Flows::new(Arc::clone(&datasets), has_nvme, &name, seed, ended),
            link,
            handover: Arc::new(handover),
            jobs,
            pins,
            revisions: Revisions::new(&reads),
            copier: Copier::new(
                Arc::clone(&reads),
                Arc::clone(&datasets),
                Arc::clone(&listings),
            ),
            name,
            reads,
            datasets,
            listings,
            ready: AtomicBool::new(false),
            starting: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            client_url: OnceLock::new(),
            exchange: OnceLock::new(),
            leave: OnceLock::new(),
            revise: OnceLock::new(),
            purges,
            documents: OnceLock::new(),
        }
    }

    /// The fleet as it is: of this gateway alone, if there is no other.
    pub fn fleet(&self) -> Arc<Fleet> {
        match &self.reads.peers {
            Some(peers) => peers.fleet(),
            None => Arc::clone(&self.alone),
        }
    }

    /// Says where clients reach this gateway. The first word stays.
    pub fn set_client_url(&self, url: String) {
        let _ = self.client_url.set(url);
    }

    /// Names who answers other members about membership, who tells them that this one drains, and who tells
    /// them that its settings changed. The first ones named stay.
    pub fn set_membership(&self, exchange: Exchange, leave: Leave, revise: Revise) {
        let _ = self.exchange.set(exchange);
        let _ = self.leave.set(leave);
        let _ = self.revise.set(revise);
    }

    /// Says the digest of the settings that all members must have alike, as it is by now.
    pub fn revise(&self, digest: u64) {
        if let Some(revise) = self.revise.get() {
            (revise.0)(digest);
        }
    }

    /// Whether the gateway wants traffic.
    pub(super) fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire) && !self.is_draining()
    }

    /// Whether the gateway is about to leave.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// Wants no traffic from now on, and owns nothing any more. What is asked all the same is answered.
    pub fn drain(&self) {
        if self.draining.swap(true, Ordering::AcqRel) {
            return;
        }
        tracing::info!("draining");
        if let Some(leave) = self.leave.get() {
            (leave.0)();
        }
    }

    /// Lets jobs and flows begin, those of an earlier run first.
    pub async fn begin(&self) {
        self.jobs.begin();
        self.flows.begin().await;
    }

    /// Lets no job and no flow go on: this gateway stops.
    pub fn close(&self) {
        self.flows.close();
        self.jobs.close();
    }

    /// Lets others have the jobs and flows that this gateway works on, at once.
    pub async fn release(&self) {
        futures::future::join(self.jobs.release(), self.flows.release()).await;
    }

    /// Says that the fleet is looked for: until the gateway is ready it does not know who had what it owns, and would read
    /// that from the origin for whoever has heard of it already.
    pub fn set_starting(&self) {
        self.starting.store(true, Ordering::Release);
    }

    /// Whether the fleet is being looked for.
    pub fn is_starting(&self) -> bool {
        self.starting.load(Ordering::Acquire)
    }

    /// Says whether the gateway wants traffic.
    pub fn set_ready(&self, ready: bool) {
        self.starting.store(false, Ordering::Release);
        self.ready.store(ready, Ordering::Release);
    }

    /// Keeps jobs, pins and revisions in this state store. The first one told stays.
    pub fn share(&self, documents: Arc<Documents>) {
        self.jobs.share(Arc::clone(&documents));
        self.pins.share(Arc::clone(&documents));
        self.purges.share(Arc::clone(&documents));
        self.copier.share(Arc::clone(&documents));
        self.revisions.share(Arc::clone(&documents));
        let _ = self.documents.set(documents);
    }

    /// The state store, if there is one.
    pub fn documents(&self) -> Option<&Arc<Documents>> {
        self.documents.get()
    }

    /// Bounds the blocks of all datasets as their settings say.
    pub fn bound(&self) {
        for dataset in self.datasets.all() {
            self.reads.store.set_bounds(&dataset.name, dataset.bounds());
        }
    }

    /// Forgets what is known and cached of a dataset that changed or went.
    pub async fn forget(self: &Arc<Self>, dataset: &str) {
        let all = Wanted::all(dataset, "");
        if let Err(error) = self.purges.here(all).await {
            tracing::warn!(dataset, %error, "what was cached of a dataset may come back with a restart");
        }
    }
}

/// The fleet that `name` makes by itself.
fn alone(name: &str) -> Fleet {
    let member = Member::new(name, "", NonZeroU16::MIN).ok();
    let peers = member.iter().map(|member| {
        let peer = Peer {
            member: member.clone(),
            address: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
            client_url: String::new(),
            incarnation: 0,
            state: forebay_ring::State::Alive,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            protocol: crate::peer::wire::PROTOCOL,
            settings: 0,
        };
        (name.to_owned(), peer)
    });
    Fleet {
        name: "".into(),
        own: name.into(),
        peers: Arc::new(BTreeMap::from_iter(peers)),
        donors: Arc::default(),
        table: Arc::new(Table::build(member.clone())),
    }
}
