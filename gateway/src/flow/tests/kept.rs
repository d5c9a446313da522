//! What is written down of flows, who works on one, and what becomes of it if that can't be written.

use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::Command;

use async_trait::async_trait;
use bytes::Bytes;
use forebay_storage::origin::documents::Documents;
use forebay_storage::origin::{
    HttpClient, HttpRequest, HttpResponse, HttpResponseBody, HttpService, OriginUrl,
};
use http::{Method, StatusCode, header};
use http_body_util::BodyExt;
use object_store::client::HttpError;
use rustix::process::Pid;

use super::*;
use crate::flow::keep::Written;
use crate::flow::take::MOST;
use crate::keeping::lease::{LEASE, TICK};

/// How a state store does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Does {
    #[default]
    Well,
    /// It answers nothing.
    Silent,
    /// It takes no writes.
    Refusing,
}

/// A state store in memory: documents by their paths, and how often each was written.
#[derive(Debug, Default)]
struct Store {
    documents: Mutex<BTreeMap<String, (u64, Bytes)>>,
    does: Mutex<Does>,
}

#[derive(Debug)]
struct Served(Arc<Store>);

#[async_trait]
impl HttpService for Served {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let does = *self.0.does.lock().unwrap();
        if does == Does::Silent {
            return std::future::pending().await;
        }
        let (parts, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        if parts.method == Method::PUT && does == Does::Refusing {
            return Ok(answer(StatusCode::FORBIDDEN, None, Bytes::new()));
        }
        Ok(self.0.answer(&parts, body))
    }
}

fn answer(status: StatusCode, turn: Option<u64>, body: Bytes) -> HttpResponse {
    let length = body.len();
    let mut response = HttpResponse::new(HttpResponseBody::from(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_LENGTH, length.into());
    let date = "Sun, 29 Nov 2026 12:00:00 GMT";
    headers.insert(header::LAST_MODIFIED, date.parse().unwrap());
    if let Some(turn) = turn {
        headers.insert(header::ETAG, format!("\"{turn}\"").parse().unwrap());
    }
    response
}

impl Store {
    fn answer(&self, parts: &http::request::Parts, body: Bytes) -> HttpResponse {
        let mut documents = self.documents.lock().unwrap();
        let path = parts.uri.path().to_owned();
        if parts
            .uri
            .query()
            .is_some_and(|query| query.contains("list-type=2"))
        {
            let listed = documents.iter().map(|(path, (turn, bytes))| {
                let (key, size) = (path.trim_start_matches("/state/"), bytes.len());
                format!(
                    "<Contents><Key>{key}</Key><Size>{size}</Size><ETag>\"{turn}\"</ETag>\
                     <LastModified>2026-11-29T12:00:00Z</LastModified></Contents>"
                )
            });
            let listed: String = listed.collect();
            let text = format!("<ListBucketResult>{listed}</ListBucketResult>");
            return answer(StatusCode::OK, None, text.into());
        }
        let there = documents.get(&path).cloned();
        if parts.method == Method::GET {
            return match there {
                Some((turn, bytes)) => answer(StatusCode::OK, Some(turn), bytes),
                None => answer(StatusCode::NOT_FOUND, None, Bytes::new()),
            };
        }
        let turn = there.map(|(turn, _)| turn);
        let was = parts.headers.get(header::IF_MATCH);
        let was = was.map(|was| was.to_str().unwrap().trim_matches('"').to_owned());
        if was != turn.map(|turn| turn.to_string()) {
            return answer(StatusCode::PRECONDITION_FAILED, None, Bytes::new());
        }
        let turn = turn.unwrap_or(0) + 1;
        documents.insert(path, (turn, body));
        answer(StatusCode::OK, Some(turn), Bytes::new())
    }

    fn does(&self, does: Does) {
        *self.does.lock().unwrap() = does;
    }

    fn cabinet(self: &Arc<Self>) -> Cabinet {
        let options = [
            ("aws_endpoint", "http://127.0.0.1:1"),
            ("aws_region", "us-east-1"),
            ("aws_access_key_id", "AK"),
            ("aws_secret_access_key", "SK"),
        ];
        let options = options.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let url = OriginUrl::parse("s3://state/").unwrap();
        let client = HttpClient::new(Served(Arc::clone(self)));
        let documents = Documents::open(&url, &options.into(), client).unwrap();
        Cabinet::shared(Arc::new(documents), "flows")
    }

    fn record(&self, id: &str) -> Record {
        let documents = self.documents.lock().unwrap();
        let (_, bytes) = &documents[&format!("/state/flows/{id}.json")];
        serde_json::from_slice(bytes).unwrap()
    }
}

fn member(name: &str, store: &Arc<Store>, hands: Scripted) -> House {
    house_of(name, store.cabinet(), directory(name), hands)
}

async fn take(house: &House, text: &str) -> Arc<Flow> {
    let graph = house.flows.judge(text.as_bytes()).unwrap();
    house.flows.take(graph, None).await.unwrap()
}

/// A flow whose step hangs.
async fn hanging(house: &House) -> Arc<Flow> {
    let flow = take(house, &step("a", "")).await;
    until(|| flow.record().steps[0].detail.is_some()).await;
    flow
}

/// Waits, on a clock that goes by itself, for what needs many turns of others.
async fn until(what: impl Fn() -> bool) {
    for _ in 0..100_000 {
        if what() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it never came");
}

async fn over(flow: &Flow) -> Record {
    let mut changes = flow.changes();
    let _ = changes.wait_for(|_| flow.state().is_over()).await;
    flow.record().clone()
}

async fn look(house: &House, first: bool) {
    let setup = house.flows.setup.get().unwrap();
    house.flows.look(setup, first).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_flow_whose_taker_leaves_is_taken_all_the_same() {
    let house = house("leaves", &[]);
    let graph = house.flows.judge(step("a", "").as_bytes()).unwrap();
    {
        let mut taken = Box::pin(house.flows.take(graph, Some("nightly-1".into())));
        assert!(futures::poll!(&mut taken).is_pending());
    }
    until(|| house.flows.get("nightly-1").is_some()).await;
    let flow = house.flows.get("nightly-1").unwrap();
    assert_eq!(over(&flow).await.state, State::Done);
}

#[tokio::test(start_paused = true)]
async fn a_flow_that_was_written_down_and_never_known_begins_once_its_lease_is_over() {
    let house = house("orphan", &[]);
    let graph = house.flows.judge(step("a", "").as_bytes()).unwrap();
    let mut record = Record::new("nightly-1".into(), &graph);
    house.flows.own.holder().clone_into(&mut record.holder);
    let bytes = serde_json::to_vec(&record).unwrap();
    let cabinet = Cabinet::own(&house.directory, "flows");
    cabinet.put("nightly-1", bytes.into(), None).await.unwrap();
    look(&house, true).await;
    let flow = house.flows.get("nightly-1").unwrap();
    assert_eq!(flow.record().steps[0].state, StepState::Waiting);
    tokio::time::advance(LEASE).await;
    look(&house, false).await;
    assert_eq!(over(&flow).await.state, State::Done);
}

#[tokio::test(start_paused = true)]
async fn no_more_flows_are_taken_side_by_side_than_may_be_on_their_way() {
    let house = house("most", &[("a", &[Try::Hangs; 2 * MOST])]);
    let taken = (0..2 * MOST).map(|_| async {
        let graph = house.flows.judge(step("a", "").as_bytes()).unwrap();
        house.flows.take(graph, None).await.is_ok()
    });
    let taken = futures::future::join_all(taken).await;
    assert_eq!(taken.iter().filter(|taken| **taken).count(), MOST);
    assert_eq!(house.flows.table().taking, 0);
}

#[tokio::test(start_paused = true)]
async fn a_flow_that_can_not_be_written_down_stops_before_another_member_begins_it() {
    let store = Arc::new(Store::default());
    let house = member("alone", &store, scripted(&[("a", &[Try::Hangs])]));
    house.flows.begin().await;
    let flow = hanging(&house).await;
    let written = house.flows.write(&flow).await;
    assert_eq!(written, Written::Ours);
    store.does(Does::Silent);
    let away = Instant::now();
    let mut given_up = house.hands.given_up.subscribe();
    let _ = given_up.wait_for(|count| *count == 1).await;
    assert!(away.elapsed() < LEASE, "{:?}", away.elapsed());
    assert!(!flow.state().is_over());
    // Nobody else has it, so it goes on here.
    store.does(Does::Well);
    let record = over(&flow).await;
    assert_eq!(record.state, State::Done, "{record:?}");
    assert_eq!((record.steps[0].tries, record.steps[0].resumed), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_flow_is_written_again_while_its_steps_are_stopped() {
    let store = Arc::new(Store::default());
    let hands = Scripted {
        stopping: 5 * LEASE,
        ..scripted(&[("a", &[Try::Hangs])])
    };
    let house = member("stops", &store, hands);
    let flow = hanging(&house).await;
    house.flows.cancel(&flow).await.unwrap();
    for _ in 0..4 {
        let turn = store.record(&flow.id).turn;
        tokio::time::sleep(2 * TICK).await;
        assert!(store.record(&flow.id).turn > turn);
        assert!(!flow.state().is_over());
    }
    assert_eq!(over(&flow).await.state, State::Cancelled);
}

#[tokio::test(start_paused = true)]
async fn that_a_flow_is_cancelled_is_written_down_before_it_is_answered() {
    let house = house("cancel", &[("a", &[Try::Hangs])]);
    let flow = hanging(&house).await;
    house.flows.cancel(&flow).await.unwrap();
    let path = house.directory.join(format!("flows/{}.json", flow.id));
    let record: Record = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    assert!(record.cancel);
    assert_eq!(over(&flow).await.state, State::Cancelled);
}

#[tokio::test(start_paused = true)]
async fn a_flow_that_may_not_be_done_here_goes_on_as_long_as_that_is_not_written_down() {
    let store = Arc::new(Store::default());
    let house = member("may-not", &store, Scripted::default());
    let graph = house.flows.judge(step("a", "").as_bytes()).unwrap();
    let mut record = Record::new("1".into(), &graph);
    "other/1".clone_into(&mut record.holder);
    record.source =
        serde_json::json!({ "steps": [{ "name": "a", "exec": { "command": ["/bin/sh"] } }] });
    let bytes = serde_json::to_vec(&record).unwrap();
    store.cabinet().put("1", bytes.into(), None).await.unwrap();
    look(&house, true).await;
    let flow = house.flows.get("1").unwrap();
    store.does(Does::Refusing);
    tokio::time::advance(10 * LEASE).await;
    look(&house, false).await;
    assert_eq!(flow.state(), State::Running);
    store.does(Does::Well);
    look(&house, false).await;
    assert_eq!(flow.state(), State::Failed);
    let why = store.record("1").error.unwrap();
    assert!(
        why.contains("this gateway may not do what it asks for"),
        "{why}"
    );
}

/// A record of a flow on a disk, as others left it.
async fn left(house: &House, change: impl FnOnce(&mut Record)) {
    let graph = house.flows.judge(step("a", "").as_bytes()).unwrap();
    let mut record = Record::new("1".into(), &graph);
    change(&mut record);
    let bytes = serde_json::to_vec(&record).unwrap();
    let cabinet = Cabinet::own(&house.directory, "flows");
    cabinet.put("1", bytes.into(), None).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_program_that_another_member_left_behind_is_remembered_for_it() {
    let house = house("left", &[]);
    let process = Process {
        pid: i32::MAX,
        started: "1".into(),
        member: "gw-1".into(),
    };
    left(&house, |record| {
        record.steps[0].state = StepState::Running;
        record.steps[0].process = Some(process.clone());
    })
    .await;
    house.flows.begin().await;
    let record = over(&house.flows.get("1").unwrap()).await;
    assert_eq!((record.state, record.left), (State::Done, vec![process]));
}

#[tokio::test(start_paused = true)]
async fn a_member_ends_what_it_left_behind_whoever_works_on_the_flow_by_now() {
    let house = house("comes-back", &[]);
    let mut sleeps = Command::new("sleep");
    let mut child = sleeps.arg("30").process_group(0).spawn().unwrap();
    let pid = i32::try_from(child.id()).unwrap();
    let began = exec::began(Pid::from_raw(pid).unwrap()).unwrap();
    left(&house, |record| {
        "gw-1/1".clone_into(&mut record.holder);
        record.left = vec![Process {
            pid,
            started: began,
            member: "gw-0".into(),
        }];
    })
    .await;
    house.flows.begin().await;
    let ended = child.wait().unwrap();
    assert_eq!(ended.signal(), Some(9), "{ended}");
}
