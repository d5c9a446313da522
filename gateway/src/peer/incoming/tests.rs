//! Answers that come slowly.

#![allow(clippy::unwrap_used)]

use std::io;
use std::sync::Mutex;

use forebay_storage::block::BlockSize;
use forebay_storage::class::Class;
use forebay_storage::object::ObjectId;
use forebay_storage::store::{Asker, RUN_BYTES, Spot, Store};
use forebay_storage::version::{Identity, Version};
use futures::channel::mpsc;
use futures::future::BoxFuture;
use futures::{SinkExt, StreamExt};
use http::{HeaderMap, Request, Response, header};
use http_body::Frame;
use http_body_util::StreamBody;

use super::*;
use crate::peer::tests::peers_of;
use crate::peer::{Peer, PeerBody};

const MIB: u64 = 1 << 20;

/// A member that answers pings at once, and one question with what is sent here.
#[derive(Debug)]
struct Slow {
    body: Mutex<Option<PeerBody>>,
    length: u64,
}

impl Peer for Slow {
    fn send<'a>(
        &'a self,
        _: &'a forebay_ring::Peer,
        request: Request<Bytes>,
    ) -> BoxFuture<'a, io::Result<Response<PeerBody>>> {
        let (parts, _) = request.into_parts();
        Box::pin(async move {
            if wire::is_ping(&parts.uri) {
                let mut response = Response::new(crate::dialect::peer::nothing());
                *response.headers_mut() = wire::pong(true, false);
                return Ok(response);
            }
            let body = self.body.lock().unwrap().take().unwrap();
            let mut response = Response::new(body);
            let length = self.length.into();
            response
                .headers_mut()
                .insert(header::CONTENT_LENGTH, length);
            Ok(response)
        })
    }
}

fn version(size: u64) -> Arc<Version> {
    let identity = Arc::new(Identity {
        origin: "s3://b/".into(),
        block_size: MIB as u32,
        immutable: false,
    });
    let mut headers = HeaderMap::new();
    headers.insert("etag", "\"x\"".parse().unwrap());
    Arc::new(Version::from_headers(&object(), &identity, size, &headers))
}

fn object() -> ObjectId {
    ObjectId::new("models", "a")
}

/// A client here, of blocks that another gateway owns.
fn client() -> Asker<'static> {
    Asker {
        level: 0,
        class: Class::Demand,
        spot: &|_| Spot {
            source: 2,
            group: 0,
            owned: false,
        },
        run: RUN_BYTES,
    }
}

/// The segment at `offset` with its checksum.
fn segment(version: VersionKey, offset: u64) -> Bytes {
    let mut bytes = vec![7; SEGMENT];
    let mut hash = wire::checksum(version, offset);
    hash.write(&bytes);
    bytes.extend(hash.finish().to_be_bytes());
    bytes.into()
}

#[tokio::test(start_paused = true)]
async fn what_a_client_waits_for_behind_a_slow_block_is_asked_for_by_itself() {
    let (mut sends, comes) = mpsc::channel(1);
    let range = 0..2 * MIB;
    let body = StreamBody::new(comes.map(|bytes| Ok::<_, io::Error>(Frame::data(bytes))));
    let peers = peers_of(Slow {
        body: Mutex::new(Some(PeerBody::new(body))),
        length: wire::body_length(&range),
    });
    let asked = peers.ask("mute", 2, Request::new(Bytes::new())).await;
    let (store, version) = (
        Store::new(64 * MIB, BlockSize::new(1 << 20), None),
        version(range.end),
    );
    let key = version.key;
    let mut incoming = Incoming::new(&peers, "mute", asked.unwrap(), key, &range).unwrap();

    let client = client();
    let mut first = store.open_as(&client, &object(), &version, 0..=1, Some(0));
    let mut run = first.runs.pop().unwrap();
    run.missing();
    let behind = store.open_as(&client, &object(), &version, 1..=1, Some(1));
    assert!(behind.runs.is_empty(), "it joins");

    let left = Mutex::new(Vec::new());
    let apart = |rest: Run| left.lock().unwrap().push((Instant::now(), rest));
    let began = Instant::now();
    let slowly = async {
        for index in 0..MIB / SEGMENT as u64 {
            sends
                .send(segment(key, index * SEGMENT as u64))
                .await
                .unwrap();
            tokio::time::sleep(SLOW / 4).await;
        }
    };
    let (took, ()) = tokio::join!(incoming.take(&mut run, &apart), slowly);
    took.unwrap();
    assert!(run.is_over(), "the block before it came to its end");
    let left = left.into_inner().unwrap();
    let [(when, rest)] = &left[..] else {
        panic!("{} runs left", left.len());
    };
    assert_eq!((rest.index(), rest.last_index()), (Some(1), Some(1)));
    assert!((SLOW..2 * SLOW).contains(&(*when - began)));
}

#[tokio::test(start_paused = true)]
async fn what_a_member_has_and_its_connection_does_not_bring_may_be_asked_for_again() {
    let stands_still = Some(PeerError::StandsStill);
    // Whether the member has it, how many others there are and what they bring for each byte of it, whether they end before
    // they are looked at, and what comes of that.
    for (hit, (others, each), end, error) in [
        (true, (0, 0), false, &stands_still),
        (true, (1, 2 * BEHIND), false, &stands_still),
        (true, (3, 2 * BEHIND), false, &stands_still),
        // It is slow because all are.
        (true, (1, 1), false, &None),
        (true, (3, 2), false, &None),
        (true, (9, 1), true, &None),
        // What it waits for comes no sooner if it is asked again.
        (false, (0, 0), false, &None),
    ] {
        let (mut sends, comes) = mpsc::channel(1);
        let range = 0..MIB;
        let body = StreamBody::new(comes.map(|bytes| Ok::<_, io::Error>(Frame::data(bytes))));
        let peers = peers_of(Slow {
            body: Mutex::new(Some(PeerBody::new(body))),
            length: wire::body_length(&range),
        });
        let mut bodies: Vec<_> = (0..others).map(|_| peers.hits.begin()).collect();
        let asked = peers.ask("mute", 2, Request::new(Bytes::new())).await;
        let mut asked = asked.unwrap();
        let head = wire::Head {
            version: None,
            age: Duration::ZERO,
            stale: false,
            range: None,
            hit,
        };
        asked.parts.headers.extend(head.headers());
        let version = version(range.end);
        let key = version.key;
        let mut incoming = Incoming::new(&peers, "mute", asked, key, &range).unwrap();

        let store = Store::new(64 * MIB, BlockSize::new(1 << 20), None);
        let client = client();
        let mut opened = store.open_as(&client, &object(), &version, 0..=0, Some(0));
        let mut run = opened.runs.pop().unwrap();
        run.missing();
        let slowly = async {
            // Fast enough at first; and then a fourth of a segment at a time, too slowly: only once where the others end.
            for index in 0..MIB / SEGMENT as u64 {
                let mut rest = segment(key, index * SEGMENT as u64);
                let slow = if end { index == 8 } else { index >= 8 };
                let (pieces, pause) = if slow { (4, 3) } else { (1, 4) };
                let size = rest.len().div_ceil(pieces);
                while !rest.is_empty() {
                    let piece = rest.split_to(size.min(rest.len()));
                    for _ in 0..others * each {
                        peers.hits.came(piece.len());
                    }
                    if sends.send(piece).await.is_err() {
                        return;
                    }
                    tokio::time::sleep(STANDS_STILL / pause).await;
                    if end && index == 8 {
                        bodies.clear();
                    }
                }
            }
        };
        let took = async {
            let taken = incoming.take(&mut run, &|_| ()).await;
            drop(incoming);
            taken
        };
        let (took, ()) = tokio::join!(took, slowly);
        assert_eq!(took.err(), *error, "{hit} {others} {each} {end}");
        if error.is_some() {
            assert!(run.reached() >= 8 * SEGMENT as u64, "{}", run.reached());
        }
    }
}
