//! A flow from its first step to its end, over hands that do as they are told.

#![allow(clippy::unwrap_used)]

mod kept;
mod schedules;

use std::collections::VecDeque;
use std::path::PathBuf;

use forebay_storage::block::BlockSize;
use forebay_storage::origin;
use futures::FutureExt;
use prometheus::Opts;
use tokio::time::Instant;

use super::record::StepState;
use super::*;

/// What comes of a try.
#[derive(Clone, Copy, Debug)]
enum Try {
    Good,
    Bad,
    Hangs,
}

/// Hands that do as they are told, step by step; a step of which nothing is told is done.
#[derive(Debug, Default)]
struct Scripted {
    tries: Mutex<BTreeMap<String, VecDeque<Try>>>,
    stopped: Mutex<Vec<String>>,
    /// How long it takes to stop a step.
    stopping: Duration,
    /// Tries that hung and were given up.
    given_up: watch::Sender<usize>,
    /// What was doubted.
    doubted: Mutex<Vec<String>>,
}

/// A try that hangs, until this is dropped.
struct Hung<'a>(&'a Scripted);

impl Drop for Hung<'_> {
    fn drop(&mut self) {
        self.0.given_up.send_modify(|count| *count += 1);
    }
}

impl Hands for Scripted {
    fn act<'a>(&'a self, _: &'a Action, told: &'a Told) -> BoxFuture<'a, Result<(), String>> {
        async move {
            let next = {
                let mut tries = self.tries.lock().unwrap();
                tries
                    .get_mut(told.step_name())
                    .and_then(VecDeque::pop_front)
            };
            match next.unwrap_or(Try::Good) {
                Try::Good => Ok(()),
                Try::Bad => Err("it broke".into()),
                Try::Hangs => {
                    let _hung = Hung(self);
                    told.say("it hangs".into());
                    std::future::pending().await
                }
            }
        }
        .boxed()
    }

    fn stop<'a>(&'a self, _: &'a Action, told: &'a Told) -> BoxFuture<'a, ()> {
        let name = told.step_name().to_owned();
        self.stopped.lock().unwrap().push(name);
        tokio::time::sleep(self.stopping).boxed()
    }

    fn doubt<'a>(&'a self, dataset: &'a str, key: &'a str) -> BoxFuture<'a, ()> {
        let doubted = format!("{dataset}/{key}");
        self.doubted.lock().unwrap().push(doubted);
        async {}.boxed()
    }
}

/// Flows below a directory of their own, and what does their steps.
struct House {
    flows: Arc<Flows>,
    hands: Arc<Scripted>,
    directory: PathBuf,
}

impl Drop for House {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn house(name: &str, tries: &[(&str, &[Try])]) -> House {
    let directory = directory(name);
    let cabinet = Cabinet::own(&directory, "flows");
    house_of("gw-0", cabinet, directory, scripted(tries))
}

fn directory(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("forebay-{name}-{}", std::process::id()))
}

fn scripted(tries: &[(&str, &[Try])]) -> Scripted {
    let tries = tries.iter();
    let tries = tries.map(|(step, tries)| ((*step).to_owned(), tries.iter().copied().collect()));
    Scripted {
        tries: Mutex::new(tries.collect()),
        ..Scripted::default()
    }
}

fn house_of(member: &str, cabinet: Cabinet, directory: PathBuf, hands: Scripted) -> House {
    let transport = origin::transport().unwrap();
    let datasets = Datasets::new(&[], BlockSize::new(1 << 20), transport).unwrap();
    let outcomes = IntCounterVec::new(Opts::new("flows_total", "flows"), &["outcome"]).unwrap();
    let flows = Flows::new(Arc::new(datasets), false, &member.into(), 7, outcomes);
    let hands = Arc::new(hands);
    flows.set_up(Setup {
        allowed: FlowSettings::default(),
        cabinet,
        runs: Cabinet::own(&directory, "schedules"),
        hands: Arc::clone(&hands) as Arc<dyn Hands>,
        schedules: Vec::new(),
    });
    House {
        flows,
        hands,
        directory,
    }
}

/// A step that the hands do, with these lines.
fn step(name: &str, lines: &str) -> String {
    format!("[[steps]]\nname = \"{name}\"\nwait = {{ members = 1 }}\n{lines}\n")
}

/// Runs a flow to its end.
async fn run(house: &House, text: &str) -> Record {
    let graph = house.flows.judge(text.as_bytes()).unwrap();
    let flow = house.flows.take(graph, None).await.unwrap();
    let mut changes = flow.changes();
    let _ = changes.wait_for(|_| flow.state().is_over()).await;
    flow.record().clone()
}

#[tokio::test(start_paused = true)]
async fn a_step_is_tried_again_after_pauses_that_grow() {
    let house = house(
        "retries",
        &[("a", &[Try::Bad, Try::Bad, Try::Bad, Try::Good])],
    );
    let begun = Instant::now();
    let record = run(&house, &step("a", "retries = 3\nbackoff = \"30s\"")).await;
    assert_eq!((record.state, record.steps[0].tries), (State::Done, 4));
    // 30 s, 60 s, and 60 s again, for no pause is longer.
    let took = begun.elapsed().as_secs();
    assert!((150..160).contains(&took), "{took}");
}

#[tokio::test(start_paused = true)]
async fn a_step_that_fails_as_often_as_it_may_ends_the_flow() {
    let house = house("gives-up", &[("a", &[Try::Bad, Try::Bad, Try::Good])]);
    let text = step("a", "retries = 1\non_failure = \"b\"") + &step("b", "when = \"failure\"");
    let record = run(&house, &text).await;
    assert_eq!(record.state, State::Failed);
    assert_eq!(record.error.as_deref(), Some("step \"a\" failed: it broke"));
    assert_eq!(
        (record.steps[0].tries, record.steps[1].state),
        (2, StepState::Done)
    );
}

#[tokio::test(start_paused = true)]
async fn a_try_that_takes_too_long_is_stopped_and_says_how_far_it_was() {
    let house = house("timeout", &[("a", &[Try::Hangs])]);
    let record = run(&house, &step("a", "timeout = \"5m\"")).await;
    assert_eq!(
        record.error.as_deref(),
        Some("step \"a\" failed: it took longer than 300s: it hangs")
    );
    assert_eq!(*house.hands.stopped.lock().unwrap(), ["a"]);
}

#[tokio::test(start_paused = true)]
async fn what_runs_beside_a_step_that_fails_is_stopped() {
    let house = house("beside", &[("a", &[Try::Bad]), ("b", &[Try::Hangs])]);
    let text = step("a", "needs = [\"c\"]") + &step("b", "") + &step("c", "");
    let record = run(&house, &text).await;
    assert_eq!(record.state, State::Failed);
    assert_eq!(record.steps[1].state, StepState::Cancelled);
    assert_eq!(*house.hands.stopped.lock().unwrap(), ["b"]);
}

#[tokio::test(start_paused = true)]
async fn a_flow_ends_at_its_deadline() {
    let house = house("deadline", &[("a", &[Try::Hangs])]);
    let record = run(&house, &format!("deadline = \"10m\"\n{}", step("a", ""))).await;
    assert_eq!(record.state, State::Failed);
    assert_eq!(record.error.as_deref(), Some("its deadline of 600s passed"));
}

#[tokio::test(start_paused = true)]
async fn a_name_is_taken_once() {
    let house = house("once", &[]);
    let graph = |house: &House| house.flows.judge(step("a", "").as_bytes()).unwrap();
    let first = house
        .flows
        .take(graph(&house), Some("nightly-1".into()))
        .await;
    assert!(first.is_ok());
    let again = house
        .flows
        .take(graph(&house), Some("nightly-1".into()))
        .await;
    assert!(matches!(again, Err(NotTaken::There)));
}
