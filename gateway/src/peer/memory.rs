//! Asking gateways of the same process, without sockets: for simulations and tests.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Request, Response, header};
use http_body::Body as _;
use http_body_util::Full;

use super::{Peer, PeerBody};
use crate::gateway::Gateway;

/// The gateways of one process, by name. A gateway that is gone is refused like a port where nobody
/// listens.
#[derive(Debug, Default)]
pub struct InMemory {
    gateways: Mutex<HashMap<String, Weak<Gateway>>>,
}

impl InMemory {
    /// Lets `gateway` be asked under its name.
    pub fn add(&self, gateway: &Arc<Gateway>) {
        let name = gateway.state.name.to_string();
        self.lock().insert(name, Arc::downgrade(gateway));
    }

    /// Lets the gateway of this name be asked no more.
    pub fn remove(&self, name: &str) {
        self.lock().remove(name);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Weak<Gateway>>> {
        self.gateways.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Peer for InMemory {
    fn send<'a>(
        &'a self,
        to: &'a forebay_ring::Peer,
        request: Request<Bytes>,
    ) -> BoxFuture<'a, io::Result<Response<PeerBody>>> {
        let gateway = self.lock().get(to.member.name()).and_then(Weak::upgrade);
        Box::pin(async move {
            let gateway = gateway.ok_or(io::ErrorKind::ConnectionRefused)?;
            let request = request.map(Full::new);
            let mut response = gateway.handle_peer("in memory", request).await;
            // What hyper would say of a body whose length is known.
            if let Some(length) = response.body().size_hint().exact() {
                let headers = response.headers_mut();
                headers.insert(header::CONTENT_LENGTH, length.into());
            }
            Ok(response)
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeMap;
    use std::num::NonZeroU16;

    use forebay_ring::{Fleet, Member, State, Table};
    use forebay_storage::block::BlockSize;
    use forebay_storage::origin::{self, OriginUrl};
    use forebay_storage::stats::DatasetStats;
    use forebay_storage::store::{Copies, Store};
    use http::StatusCode;
    use http_body_util::{BodyExt, Empty};
    use tokio::sync::watch;

    use super::*;
    use crate::dataset::Datasets;
    use crate::gateway::{FleetParts, Parts};
    use crate::settings::DatasetSettings;

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
            table: Arc::new(Table::build(peers.values().map(|peer| peer.member.clone()))),
            peers: Arc::new(peers),
        })
    }

    struct World {
        dir: std::path::PathBuf,
        network: Arc<InMemory>,
        gateways: Vec<Arc<Gateway>>,
        _fleets: Vec<watch::Sender<Arc<Fleet>>>,
    }

    impl Drop for World {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }

    fn world(test: &str, names: &[&str]) -> World {
        let dir = std::env::temp_dir().join(format!("forebay-{test}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let network = Arc::new(InMemory::default());
        let (mut gateways, mut fleets) = (Vec::new(), Vec::new());
        for name in names {
            let block_size = BlockSize::new(BLOCK);
            let url = OriginUrl::Directory { path: dir.clone() };
            let settings = [DatasetSettings::with_defaults("models", url)];
            let transport = origin::transport().unwrap();
            let datasets = Datasets::new(&settings, block_size, transport).unwrap();
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
                    transport: Arc::clone(&network) as Arc<dyn Peer>,
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
        let request = Request::get(path)
            .header("host", "gateway")
            .body(Empty::<Bytes>::new())
            .unwrap();
        let response = gateway.handle(request).await;
        let status = response.status();
        let (mut body, mut bytes) = (response.into_body(), Vec::new());
        // A body hands out no more than its reader lets go of.
        while let Some(frame) = body.frame().await {
            bytes.extend_from_slice(&frame.unwrap().into_data().unwrap());
        }
        (status, bytes)
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
}
