//! Warming: jobs by curl and by the command line, what `done` means, and what is left of a job after a kill.

mod asked;
mod fleet;
mod jobs;
mod kept;
mod limits;
mod meanwhile;
mod pinned;
mod purge;
pub(super) mod state;
mod verified;

use forebay_loadtest::origin::{Origin, Settings};
use forebay_tests::cluster::{Dataset, Gateway, SECRET, Setup};
use forebay_tests::http::{Answer, Connection};
use forebay_tests::oracle::BLOCK;
use forebay_tests::process::PATIENCE;
use forebay_tests::until;
use serde_json::Value;
use tokio::runtime::Runtime;

/// Bytes of the object that most of these tests warm.
const SIZE: u64 = 24 * BLOCK as u64 + 17;

/// Logged where the temporary directory's file system knows no direct I/O.
const BUFFERED: &str = "direct I/O does not work there";

/// The origin model, and what it runs on.
pub(super) struct Bucket {
    pub(super) origin: Origin,
    _runtime: Runtime,
}

impl Bucket {
    pub(super) fn start(settings: Settings) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        let origin = runtime.block_on(Origin::start(settings));
        Self {
            origin: origin.expect("the origin listens"),
            _runtime: runtime,
        }
    }

    /// One that takes about two seconds for [`SIZE`].
    fn slow() -> Self {
        Self::start(Settings {
            total_rate: Some(SIZE / 2),
            ..Settings::default()
        })
    }

    /// The settings of a gateway whose dataset `models` is this bucket.
    pub(super) fn setup(&self) -> Setup {
        self.setup_with(&[])
    }

    /// The same with these lines in its dataset.
    fn setup_with(&self, lines: &[&str]) -> Setup {
        let mut dataset = Dataset::new("models", "s3://bucket")
            .option("aws_endpoint", self.origin.endpoint())
            .option("aws_region", "us-east-1")
            .option("aws_access_key_id", "AK")
            .option("aws_secret_access_key", SECRET)
            .line("fresh_for = \"10m\"");
        for line in lines {
            dataset = dataset.line(line);
        }
        Setup::of([dataset]).allow(BUFFERED)
    }

    fn sent(&self) -> u64 {
        self.origin.counters().bytes_sent
    }
}

/// Posts a job, as a client that wants JSON.
fn post(gateway: &Gateway, target: &str, body: &str) -> Answer {
    let accept = [("Accept", "application/json")];
    Connection::open(gateway.address()).upload("POST", target, &accept, body.as_bytes())
}

/// Begins a job, and says its id.
fn begin(gateway: &Gateway, target: &str, body: &str) -> String {
    let answer = post(gateway, target, body).expect(202);
    let job: Value = serde_json::from_slice(&answer.body).expect("a job is JSON");
    job["id"].as_str().expect("a job has an id").to_owned()
}

fn job(gateway: &Gateway, id: &str) -> Value {
    gateway.json(&format!("/-/warm/{id}"))
}

/// The job once it is over.
fn over(gateway: &Gateway, id: &str) -> Value {
    until(PATIENCE, "the job to be over", || {
        let job = job(gateway, id);
        let state = job["state"].as_str().expect("a state").to_owned();
        ["done", "failed", "cancelled"]
            .contains(&state.as_str())
            .then_some(job)
    })
}

/// The job once it is done.
fn done(gateway: &Gateway, id: &str) -> Value {
    let job = over(gateway, id);
    assert_eq!(job["state"], "done", "{job}");
    assert_eq!(job["percent"], 100.0, "{job}");
    assert_eq!(job["resident_bytes"], job["bytes"], "{job}");
    job
}

/// Waits until so much of the job's bytes is resident.
fn half_way(gateway: &Gateway, id: &str, bytes: u64) {
    until(PATIENCE, "the job to be on its way", || {
        let resident = job(gateway, id)["resident_bytes"].as_u64();
        (resident >= Some(bytes)).then_some(())
    });
}

fn resident(gateway: &Gateway, prefix: &str) -> (u16, Value) {
    let answer = gateway.get(&format!("/-/resident/models/{prefix}"));
    let value = serde_json::from_slice(&answer.body).expect("JSON");
    (answer.status, value)
}
