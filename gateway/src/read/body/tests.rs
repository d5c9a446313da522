//! What a body keeps while its client stands still, who is told, and when it is given up.

use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use forebay_storage::SEGMENT;
use forebay_storage::block::BlockSize;
use forebay_storage::object::ObjectId;
use forebay_storage::origin::{
    HttpClient, HttpRequest, HttpResponse, HttpResponseBody, HttpService, OriginUrl,
};
use forebay_storage::store::Store;
use futures::StreamExt;
use futures::task::{ArcWake, waker};
use http::{Method, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::StreamBody;
use object_store::client::HttpError;
use tokio::sync::watch;

use super::*;
use crate::access::Access;
use crate::dataset::Datasets;
use crate::gateway::{Gateway, Parts};
use crate::read::window::Piece;
use crate::settings::DatasetSettings;

/// A block, and the only object.
const BYTES: usize = 16 * SEGMENT;

/// An origin whose bodies come as far as they are let.
#[derive(Debug)]
struct Gated(watch::Receiver<usize>);

#[async_trait]
impl HttpService for Gated {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let answer = Response::builder()
            .header(header::ETAG, "\"only\"")
            .header(header::CONTENT_LENGTH, BYTES);
        let answer = if request.method() == Method::HEAD {
            answer.body(HttpResponseBody::from(Bytes::new()))
        } else {
            let range = format!("bytes 0-{}/{BYTES}", BYTES - 1);
            let pieces =
                futures::stream::unfold((self.0.clone(), 0), |(mut gate, sent)| async move {
                    gate.wait_for(|segments| *segments > sent).await.ok()?;
                    let piece = Frame::data(Bytes::from(vec![7; SEGMENT]));
                    Some((Ok::<_, HttpError>(piece), (gate, sent + 1)))
                });
            answer
                .status(StatusCode::PARTIAL_CONTENT)
                .header(header::CONTENT_RANGE, range)
                .body(HttpResponseBody::new(StreamBody::new(
                    pieces.take(BYTES / SEGMENT),
                )))
        };
        Ok(answer.expect("good headers"))
    }
}

/// Counts how often it is woken.
#[derive(Default)]
struct Asker(AtomicUsize);

impl ArcWake for Asker {
    fn wake_by_ref(asker: &Arc<Self>) {
        asker.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Asker {
    fn poll(self: &Arc<Self>, body: &mut ReadBody) -> Poll<Option<Leaving>> {
        body.poll_next(&mut Context::from_waker(&waker(Arc::clone(self))))
    }

    fn segment(self: &Arc<Self>, body: &mut ReadBody) -> Bytes {
        match self.poll(body) {
            Poll::Ready(Some(Ok((bytes, _)))) => bytes,
            _ => panic!("a segment that has come is handed out"),
        }
    }

    fn woken(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// A body of the only object, of which so many segments have come, and what lets more come.
async fn body(segments: usize) -> (ReadBody, watch::Sender<usize>) {
    let (come, gate) = watch::channel(segments);
    let block_size = BlockSize::new(u32::try_from(BYTES).expect("a block is small"));
    let url = OriginUrl::parse("http://origin.invalid/").expect("a good address");
    let settings = [DatasetSettings::with_defaults("gated", url)];
    let datasets = Datasets::new(&settings, block_size, HttpClient::new(Gated(gate)));
    let gateway = Gateway::new(Parts {
        store: Store::new(64 << 20, block_size, None),
        datasets: Arc::new(datasets.expect("good settings")),
        access: Access::open(),
        name: "gateway".into(),
        max_requests: 1,
        log_access: false,
        seed: 1,
        fleet: None,
    });
    let gateway = gateway.expect("metrics with different names");
    let dataset = gateway.datasets.get("gated").expect("it was given");
    let object = ObjectId {
        dataset: "gated".into(),
        key: "only.bin".into(),
        version_id: None,
    };
    let reads = Arc::clone(&gateway.reads);
    let current = reads.current(&dataset, &object, None, false).await;
    let version = current.expect("the origin answers").version;
    let budget = reads.store.budget().clone();
    let mut reader = Reader::new(
        reads,
        dataset,
        object,
        version,
        [Piece::Range(0..BYTES as u64)],
    );
    reader.prime().await.expect("the first segment comes");
    // All that is let come has.
    tokio::time::sleep(Duration::from_millis(1)).await;
    (ReadBody::new(reader, BYTES as u64, budget), come)
}

#[tokio::test(start_paused = true)]
async fn a_member_is_given_up_though_what_it_waits_for_never_comes() {
    const PATIENCE: Duration = Duration::from_secs(2);
    let asker = Arc::new(Asker::default());
    let (body, _come) = body(FEW + 1).await;
    let mut body = body.for_member(PATIENCE);
    body.quick();
    let _held: Vec<_> = (0..=FEW).map(|_| asker.segment(&mut body)).collect();
    assert!(asker.poll(&mut body).is_pending());
    // Memory has got short meanwhile.
    body.most = FEW;
    let begun = Instant::now();
    let next = std::future::poll_fn(|cx| body.poll_next(cx));
    let cut = tokio::time::timeout(2 * PATIENCE, next).await;
    let cut = cut.expect("it is given up, and says so itself");
    assert!(matches!(cut, Some(Err(CutError::WriteTimeout(PATIENCE)))));
    assert!(begun.elapsed() >= PATIENCE);
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_a_fill_is_told_when_what_came_is_let_go() {
    let asker = Arc::new(Asker::default());
    let (body, come) = body(1).await;
    let mut body = body.watched();
    drop(asker.segment(&mut body));
    assert!(asker.poll(&mut body).is_pending());
    // The fill tells it, and nobody asks, as if it had not been told yet.
    come.send_replace(2);
    tokio::time::sleep(STALLED + STALLED / 2).await;
    let told = asker.woken();
    tokio::time::sleep(STALLED).await;
    assert_eq!(asker.woken(), told + 1);
    drop(asker.segment(&mut body));
}
