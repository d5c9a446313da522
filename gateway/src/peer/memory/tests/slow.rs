//! Members that have what they are asked for, and to which nothing comes, or from which hardly anything.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use forebay_storage::SEGMENT;
use futures::StreamExt;
use http::header;
use http_body::Frame;
use http_body_util::StreamBody;
use object_store::client::{
    HttpClient, HttpError, HttpRequest, HttpResponse, HttpResponseBody, HttpService,
};

use super::*;
use crate::peer::PeerError;
use crate::read::remote::AGAIN;
use crate::read::route::DONOR;
use crate::settings::Secret;

const SIZE: u64 = 2 * BLOCK as u64;

/// An origin that sends the first block of what it has, and no other.
#[derive(Debug)]
struct FirstBlock;

#[async_trait]
impl HttpService for FirstBlock {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let range = request.headers().get(header::RANGE).unwrap();
        if range != &format!("bytes=0-{}", BLOCK - 1) {
            return std::future::pending().await;
        }
        let bytes = Bytes::from(vec![7; BLOCK as usize]);
        let mut response = HttpResponse::new(HttpResponseBody::from(bytes));
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        let headers = response.headers_mut();
        let range = format!("bytes 0-{}/{SIZE}", BLOCK - 1);
        headers.insert(header::CONTENT_RANGE, range.parse().unwrap());
        headers.insert(header::CONTENT_LENGTH, BLOCK.into());
        headers.extend(version_headers());
        Ok(response)
    }
}

fn version_headers() -> http::HeaderMap {
    let date = "Sun, 29 Nov 2026 12:00:00 GMT";
    let headers = [(header::ETAG, "\"x\""), (header::LAST_MODIFIED, date)];
    let headers = headers.map(|(name, value)| (name, value.parse().unwrap()));
    headers.into_iter().collect()
}

fn settings() -> DatasetSettings {
    let options = [
        ("aws_endpoint", "http://127.0.0.1:1"),
        ("aws_region", "us-east-1"),
        ("aws_access_key_id", "AK"),
        ("aws_secret_access_key", "SK"),
    ];
    let options = options.map(|(name, value)| (name.to_owned(), Secret::new(value)));
    let url = OriginUrl::parse("s3://bucket/").unwrap();
    DatasetSettings {
        options: options.into(),
        ..DatasetSettings::with_defaults("models", url)
    }
}

#[tokio::test(start_paused = true)]
async fn a_donor_to_which_nothing_comes_has_what_it_holds() {
    let origin = (settings(), HttpClient::new(FirstBlock));
    let world = world_of("memory-stuck", &["a", "b"], |network| network, Some(origin));
    let donor = &world.gateways[0];
    let object = ObjectId::new("models", "a.bin");
    let dataset = donor.datasets.get("models").unwrap();
    let version = dataset.origin.describe(&object, SIZE, &version_headers());
    let version = version.unwrap();
    let asks = |level, range, deadline| {
        let question = Question {
            object: object.clone(),
            version: Some(Claim::of(&version)),
            range: Some(range),
            level,
            deadline,
            doubting: false,
            only_if_cached: level == DONOR,
            ahead: false,
        };
        let (donor, request) = (Arc::clone(donor), question.request().map(Full::new));
        async move { donor.handle_peer("b", request).await }
    };
    let (block, long) = (u64::from(BLOCK), Duration::from_secs(20));
    let first = asks(OWNER, 0..block, long).await;
    let came = drain(first.into_body()).await;
    assert_eq!(came.len() as u64, wire::body_length(&(0..block)));

    let filling = tokio::spawn(asks(OWNER, block..SIZE, long));
    tokio::time::sleep(Duration::from_millis(100)).await;
    // It may come yet.
    let soon = asks(DONOR, block..SIZE, Duration::from_millis(200)).await;
    let (parts, _) = soon.into_parts();
    assert!(
        !matches!(wire::failure(&parts), PeerError::Absent(_)),
        "{parts:?}"
    );
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(dataset.origin.is_stuck(), Some(true));
    let begun = tokio::time::Instant::now();
    let late = asks(DONOR, block..SIZE, long).await;
    let (parts, _) = late.into_parts();
    assert_eq!(wire::failure(&parts), PeerError::Absent(1));
    assert_eq!(begun.elapsed(), Duration::ZERO, "it says so at once");

    let held = asks(DONOR, 0..SIZE, long).await;
    assert_eq!(held.status(), StatusCode::OK);
    let came = drain(held.into_body()).await;
    assert_eq!(came.len() as u64, wire::body_length(&(0..block)));
    assert!(came[..SEGMENT].iter().all(|byte| *byte == 7));
    assert!(!filling.is_finished());
    filling.abort();
}

/// A network on which blocks from "a" come in pieces of so many bytes, each so long after the one before.
#[derive(Debug)]
struct Trickle {
    network: Arc<InMemory>,
    piece: usize,
    pause: Duration,
    /// So often a block was asked for.
    asked: AtomicU32,
}

impl Peer for Trickle {
    fn send<'a>(
        &'a self,
        to: &'a forebay_ring::Peer,
        request: Request<Bytes>,
    ) -> BoxFuture<'a, io::Result<Response<PeerBody>>> {
        let trickles = to.member.name() == "a" && wire::is_exact(request.headers());
        Box::pin(async move {
            let response = self.network.send(to, request).await?;
            if !trickles {
                return Ok(response);
            }
            self.asked.fetch_add(1, Ordering::Relaxed);
            let (parts, body) = response.into_parts();
            let bytes = body.collect().await?.to_bytes();
            let (piece, pause) = (self.piece, self.pause);
            let pieces: Vec<_> = bytes.chunks(piece).map(Bytes::copy_from_slice).collect();
            let slowly = futures::stream::iter(pieces).then(move |piece| async move {
                tokio::time::sleep(pause).await;
                Ok(Frame::data(piece))
            });
            Ok(Response::from_parts(
                parts,
                PeerBody::new(StreamBody::new(slowly)),
            ))
        })
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_member_has_is_read_from_the_origin_only_if_a_segment_takes_too_long() {
    for (piece, pause, from_origin) in [(16 << 10, 400, false), (1 << 10, 100, true)] {
        let trickle = OnceLock::new();
        let world = world_over("memory-trickle", &["a", "b"], |network| {
            let trickle = trickle.get_or_init(|| {
                Arc::new(Trickle {
                    network,
                    piece,
                    pause: Duration::from_millis(pause),
                    asked: AtomicU32::new(0),
                })
            });
            Arc::clone(trickle)
        });
        let table = world._fleets[1].borrow().table.clone();
        let mut keys = (0..).map(|number| format!("{number}.bin"));
        let owned = |key: &String| table.owner("models", key, 0, 1).unwrap().name() == "a";
        let key = keys.find(owned).unwrap();
        let bytes: Vec<u8> = (0..BLOCK).map(|byte| (byte / 5) as u8).collect();
        std::fs::write(world.dir.join(&key), &bytes).unwrap();
        let path = format!("/models/{key}");
        let (_, body) = read(&world.gateways[0], &path).await;
        assert!(body == bytes);

        // The version is known, so that the owner is asked for the block and nothing else.
        let reader = &world.gateways[1];
        let object = ObjectId::new("models", key.as_str());
        let dataset = reader.datasets.get("models").unwrap();
        let current = Arc::new(dataset.origin.head(&object).await.unwrap());
        let now = tokio::time::Instant::now();
        reader.reads.versions.observe(&object, &current, now);
        let before = origin_bytes(&world);
        let (_, body) = read(reader, &path).await;
        assert!(body == bytes);
        assert_eq!(
            trickle.get().unwrap().asked.load(Ordering::Relaxed),
            1 + AGAIN
        );
        let read = origin_bytes(&world) - before;
        assert_eq!(
            read,
            u64::from(from_origin) * u64::from(BLOCK),
            "{piece} in {pause} ms"
        );
    }
}
