//! Gateways of one process that are a fleet.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::num::NonZeroU16;

use forebay_ring::{Fleet, Member, State, Table};
use forebay_storage::block::BlockSize;
use forebay_storage::object::ObjectId;
use forebay_storage::origin::{self, OriginUrl};
use forebay_storage::stats::DatasetStats;
use forebay_storage::store::{Copies, Store};
use http::StatusCode;
use http_body_util::{BodyExt, Empty};
use object_store::client::HttpClient;
use tokio::sync::watch;

use super::*;
use crate::dataset::Datasets;
use crate::gateway::{FleetParts, Parts};
use crate::peer::wire::{self, Claim, Question};
use crate::purge::Wanted;
use crate::read::route::OWNER;
use crate::read::version::How;
use crate::settings::DatasetSettings;

mod slow;

const BLOCK: u32 = 256 << 10;

fn fleet(own: &str, names: &[&str]) -> Arc<Fleet> {
    let peers: BTreeMap<String, forebay_ring::Peer> = names
        .iter()
        .map(|name| {
            let peer = forebay_ring::Peer {
                member: Member::new(*name, "", NonZeroU16::MIN).unwrap(),
                address: ([127, 0, 0, 1], 1).into(),
                client_url: String::new(),
                incarnation: 0,
                state: State::Alive,
                version: String::new(),
                protocol: 1,
                settings: 0,
            };
            ((*name).to_owned(), peer)
        })
        .collect();
    Arc::new(Fleet {
        name: "test".into(),
        own: own.into(),
        donors: Arc::default(),
        table: Arc::new(Table::build(peers.values().map(|peer| peer.member.clone()))),
        peers: Arc::new(peers),
    })
}

pub(crate) struct World {
    pub(crate) dir: std::path::PathBuf,
    pub(crate) network: Arc<InMemory>,
    pub(crate) gateways: Vec<Arc<Gateway>>,
    _fleets: Vec<watch::Sender<Arc<Fleet>>>,
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

pub(crate) fn world(test: &str, names: &[&str]) -> World {
    world_over(test, names, |network| network)
}

/// The same, whose gateways ask each other by what `transport` makes of the network.
fn world_over<P: Peer + 'static>(
    test: &str,
    names: &[&str],
    transport: impl Fn(Arc<InMemory>) -> Arc<P>,
) -> World {
    world_of(test, names, transport, None)
}

/// The same, of whose one dataset `origin` says where it is and how that is asked: else it is the world's directory.
fn world_of<P: Peer + 'static>(
    test: &str,
    names: &[&str],
    transport: impl Fn(Arc<InMemory>) -> Arc<P>,
    origin: Option<(DatasetSettings, HttpClient)>,
) -> World {
    let dir = std::env::temp_dir().join(format!("forebay-{test}-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let network = Arc::new(InMemory::default());
    let transport = transport(Arc::clone(&network));
    let (mut gateways, mut fleets) = (Vec::new(), Vec::new());
    let (settings, origins) = origin.unwrap_or_else(|| {
        let url = OriginUrl::Directory { path: dir.clone() };
        let settings = DatasetSettings::with_defaults("models", url);
        (settings, origin::transport().unwrap())
    });
    let settings = [settings];
    for name in names {
        let block_size = BlockSize::new(BLOCK);
        let datasets = Datasets::new(&settings, block_size, origins.clone()).unwrap();
        let sender = watch::Sender::new(fleet(name, names));
        let gateway = Gateway::new(Parts {
            store: Store::in_fleet(64 << 20, block_size, None, Copies::Apart),
            datasets: Arc::new(datasets),
            access: crate::access::Access::open(),
            name: (*name).into(),
            max_requests: 100,
            log_access: false,
            seed: 1,
            fleet: Some(FleetParts {
                fleet: sender.subscribe(),
                transport: Arc::clone(&transport) as Arc<dyn Peer>,
            }),
        });
        let gateway = gateway.unwrap();
        network.add(&gateway);
        gateways.push(gateway);
        fleets.push(sender);
    }
    World {
        dir,
        network,
        gateways,
        _fleets: fleets,
    }
}

async fn read(gateway: &Arc<Gateway>, path: &str) -> (StatusCode, Vec<u8>) {
    read_if(gateway, path, None).await
}

/// The same, only if it is of the version with this ETag.
async fn read_if(gateway: &Arc<Gateway>, path: &str, etag: Option<&str>) -> (StatusCode, Vec<u8>) {
    let mut request = Request::get(path).header("host", "gateway");
    if let Some(etag) = etag {
        request = request.header("if-match", etag);
    }
    let request = request.body(Empty::<Bytes>::new()).unwrap();
    let response = gateway.handle(request).await;
    (response.status(), drain(response.into_body()).await)
}

/// All bytes of a body, which hands out no more than its reader lets go of.
async fn drain<B>(mut body: B) -> Vec<u8>
where
    B: http_body::Body<Data = Bytes, Error: std::fmt::Debug> + Unpin,
{
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.unwrap().into_data() {
            bytes.extend_from_slice(&data);
        }
    }
    bytes
}

fn origin_bytes(world: &World) -> u64 {
    let read = world.gateways.iter().map(|gateway| {
        let dataset = gateway.datasets.get("models").unwrap();
        DatasetStats::get(&dataset.origin.stats().origin_bytes)
    });
    read.sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn three_gateways_read_the_origin_once_and_serve_the_same_bytes() {
    let world = world("memory-once", &["a", "b", "c"]);
    let bytes: Vec<u8> = (0..20 * BLOCK + 17).map(|byte| (byte / 7) as u8).collect();
    std::fs::write(world.dir.join("x.bin"), &bytes).unwrap();
    for gateway in &world.gateways {
        let (status, body) = read(gateway, "/models/x.bin").await;
        assert_eq!((status, body.len()), (StatusCode::OK, bytes.len()));
        assert!(body == bytes);
    }
    assert_eq!(origin_bytes(&world), bytes.len() as u64);
    let (status, _) = read(&world.gateways[1], "/models/nothing").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
}

/// The key of an object whose version "a" knows for all.
fn known_to_a(world: &World) -> String {
    let table = world._fleets[1].borrow().table.clone();
    let mut keys = (0..).map(|number| format!("{number}.bin"));
    let owned = |key: &String| table.owner("models", key, 0, 1).unwrap().name() == "a";
    keys.find(owned).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_member_knows_does_not_refuse_a_client_that_knows_more() {
    let world = world("memory-condition", &["a", "b"]);
    let key = known_to_a(&world);
    let path = format!("/models/{key}");
    std::fs::write(world.dir.join(&key), b"before").unwrap();
    let (status, body) = read(&world.gateways[0], &path).await;
    assert_eq!((status, &*body), (StatusCode::OK, &b"before"[..]));
    std::fs::write(world.dir.join(&key), b"and after").unwrap();
    let dataset = world.gateways[1].datasets.get("models").unwrap();
    let object = ObjectId::new("models", key.as_str());
    let now = dataset.origin.head(&object).await.unwrap();
    let (status, body) = read_if(&world.gateways[1], &path, now.etag()).await;
    assert_eq!((status, &*body), (StatusCode::OK, &b"and after"[..]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purge_that_comes_late_brings_no_version_back_that_was_seen_to_be_replaced() {
    let world = world("memory-late", &["a", "b"]);
    let key = known_to_a(&world);
    let path = format!("/models/{key}");
    std::fs::write(world.dir.join(&key), b"before").unwrap();
    // The authority has purged already, and knows this from then on.
    let (status, body) = read(&world.gateways[0], &path).await;
    assert_eq!((status, &*body), (StatusCode::OK, &b"before"[..]));
    std::fs::write(world.dir.join(&key), b"and after").unwrap();
    // The other one was parted from it, asked the origin itself, and hears of the purge when that is over.
    let b = &world.gateways[1];
    let dataset = b.datasets.get("models").unwrap();
    let object = ObjectId::new("models", key.as_str());
    let now = Arc::new(dataset.origin.head(&object).await.unwrap());
    let asked_at = tokio::time::Instant::now();
    b.reads.versions.observe(&object, &now, asked_at);
    let (status, body) = read(b, &path).await;
    assert_eq!((status, &*body), (StatusCode::OK, &b"and after"[..]));
    let late = Wanted::all("models", &key);
    b.state.purges.here(late).await.unwrap();
    let (status, body) = read(b, &path).await;
    assert_eq!((status, &*body), (StatusCode::OK, &b"and after"[..]));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_that_is_heard_of_is_none_of_ones_own() {
    let world = world("memory-heard", &["a", "b", "c", "d"]);
    let table = &world._fleets[1].borrow().table.clone();
    // The owner asks the other candidates too, and what these find is their own.
    let key_of = |owner: &str, last: Option<&str>| {
        let mut keys = (0..).map(|number| format!("{number}.bin"));
        let placed = |key: &String| {
            let order: Vec<_> = table.candidates("models", key, 0, 1).collect();
            order[0].name() == owner && last.is_none_or(|last| order[3].name() == last)
        };
        ObjectId::new("models", keys.find(placed).unwrap().as_str())
    };
    let (heard_of, own) = (key_of("a", Some("b")), key_of("b", None));
    let [a, b] = [0, 1].map(|at| {
        let gateway = &world.gateways[at];
        (&gateway.reads, gateway.datasets.get("models").unwrap())
    });
    for object in [&heard_of, &own] {
        std::fs::write(world.dir.join(&*object.key), b"bytes").unwrap();
        let version = Arc::new(b.1.origin.head(object).await.unwrap());
        for (reads, dataset) in [&a, &b] {
            let past = dataset.rules.fresh_for + std::time::Duration::from_secs(1);
            reads.versions.import(object, &version, past);
        }
    }
    let aside = world.dir.with_extension("aside");
    std::fs::rename(&world.dir, &aside).unwrap();
    for (reads, dataset) in [&a, &b] {
        let current = reads.current(dataset, &heard_of, None, false).await;
        assert!(matches!(current.unwrap().how, How::Stale(_)));
    }
    std::fs::rename(&aside, &world.dir).unwrap();
    // It asks the origin for its own, and has never found it away.
    let current = b.0.current(&b.1, &own, None, false).await;
    assert_eq!(current.unwrap().how, How::Asked);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_is_gone_is_passed_over() {
    let world = world("memory-gone", &["a", "b", "c"]);
    let bytes: Vec<u8> = (0..12 * BLOCK).map(|byte| (byte / 3) as u8).collect();
    std::fs::write(world.dir.join("x.bin"), &bytes).unwrap();
    world.network.remove("b");
    let (status, body) = read(&world.gateways[0], "/models/x.bin").await;
    assert_eq!(status, StatusCode::OK);
    assert!(body == bytes);
    assert_eq!(origin_bytes(&world), bytes.len() as u64);
}

/// A network on which whoever asks `owner` for bytes hears nothing until it is let, and then that nobody is there.
#[derive(Debug)]
struct Hung {
    network: Arc<InMemory>,
    owner: &'static str,
    asked: watch::Sender<bool>,
    let_go: watch::Sender<bool>,
}

impl Peer for Hung {
    fn send<'a>(
        &'a self,
        to: &'a forebay_ring::Peer,
        request: Request<Bytes>,
    ) -> BoxFuture<'a, io::Result<Response<PeerBody>>> {
        let (parts, body) = request.into_parts();
        let hangs = to.member.name() == self.owner && !wire::is_ping(&parts.uri);
        let request = Request::from_parts(parts, body);
        if !hangs {
            return self.network.send(to, request);
        }
        Box::pin(async move {
            self.asked.send_replace(true);
            let _ = self.let_go.subscribe().wait_for(|gone| *gone).await;
            Err(io::ErrorKind::ConnectionRefused.into())
        })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_stand_in_has_read_for_others_it_does_not_read_again_for_its_own_client() {
    let hung = std::sync::OnceLock::new();
    let world = world_over("memory-hung", &["a", "b"], |network| {
        let hung = hung.get_or_init(|| {
            Arc::new(Hung {
                network,
                owner: "a",
                asked: watch::Sender::new(false),
                let_go: watch::Sender::new(false),
            })
        });
        Arc::clone(hung)
    });
    let hung = hung.get().unwrap();
    let stand_in = Arc::clone(&world.gateways[1]);
    let table = &world._fleets[1].borrow().table.clone();
    let mut keys = (0..).map(|number| format!("{number}.bin"));
    let owned = |key: &String| table.owner("models", key, 0, 1).unwrap().name() == hung.owner;
    let key = keys.find(owned).unwrap();
    let bytes: Vec<u8> = (0..BLOCK).map(|byte| (byte / 5) as u8).collect();
    std::fs::write(world.dir.join(&key), &bytes).unwrap();

    // The version is known, so that the client's read asks the owner for the block and nothing else.
    let object = ObjectId::new("models", key.as_str());
    let dataset = stand_in.datasets.get("models").unwrap();
    let current = Arc::new(dataset.origin.head(&object).await.unwrap());
    let now = tokio::time::Instant::now();
    stand_in.reads.versions.observe(&object, &current, now);
    let path = format!("/models/{key}");
    let client = tokio::spawn({
        let stand_in = Arc::clone(&stand_in);
        async move { read(&stand_in, &path).await }
    });
    hung.asked
        .subscribe()
        .wait_for(|asked| *asked)
        .await
        .unwrap();

    // Others take the owner for silent by now, and ask the stand-in.
    let question = Question {
        object,
        version: Some(Claim::of(&current)),
        range: Some(0..u64::from(BLOCK)),
        level: OWNER,
        deadline: std::time::Duration::from_secs(10),
        doubting: false,
        only_if_cached: false,
        ahead: false,
    };
    let answer = stand_in
        .handle_peer("c", question.request().map(Full::new))
        .await;
    assert_eq!(answer.status(), StatusCode::OK);
    drain(answer.into_body()).await;
    assert_eq!(origin_bytes(&world), u64::from(BLOCK));

    hung.let_go.send_replace(true);
    let (status, body) = client.await.unwrap();
    assert_eq!(status, StatusCode::OK);
    assert!(body == bytes);
    assert_eq!(origin_bytes(&world), u64::from(BLOCK), "read twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_takes_nothing_keeps_no_other_from_its_answer() {
    let world = world("memory-frozen", &["a", "b"]);
    let owner = Arc::clone(&world.gateways[0]);
    // More than a body that stands still has handed out.
    let size = 8 * BLOCK;
    let bytes: Vec<u8> = (0..size).map(|byte| (byte / 7) as u8).collect();
    std::fs::write(world.dir.join("a.bin"), &bytes).unwrap();
    let object = ObjectId::new("models", "a.bin");
    let dataset = owner.datasets.get("models").unwrap();
    let current = dataset.origin.head(&object).await.unwrap();
    let question = Question {
        object,
        version: Some(Claim::of(&current)),
        range: Some(0..u64::from(size)),
        level: OWNER,
        deadline: std::time::Duration::from_secs(5),
        doubting: false,
        only_if_cached: false,
        ahead: false,
    };
    let asks = |from| {
        let owner = &owner;
        let request = question.request().map(Full::new);
        async move { owner.handle_peer(from, request).await }
    };
    // More than the places that 64 MiB of memory make: one after the other has to be left by a body that stands still.
    let mut frozen = Vec::new();
    for _ in 0..24 {
        let answer = asks("frozen").await;
        assert_eq!(answer.status(), StatusCode::OK);
        frozen.push(tokio::spawn(async move {
            let (mut body, mut kept) = (answer.into_body(), Vec::new());
            while let Some(frame) = body.frame().await {
                kept.push(frame);
            }
        }));
    }
    let answer = asks("other").await;
    assert_eq!(answer.status(), StatusCode::OK);
    let came = drain(answer.into_body()).await;
    assert_eq!(came.len() as u64, wire::body_length(&(0..u64::from(size))));
    for body in &frozen {
        assert!(!body.is_finished(), "it takes nothing");
        body.abort();
    }
}
