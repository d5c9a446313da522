//! `deploy/release.toml`: scale up, warm, start instances, check, scale down, with real processes; and what comes of a
//! failure at each of its steps.

use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use forebay_loadtest::origin::Settings;
use forebay_tests::fleet::{Fleet, Plan};
use forebay_tests::http::request;
use forebay_tests::process::PATIENCE;
use forebay_tests::scratch::Scratch;
use forebay_tests::servers::scripted::{Asked, Scripted, answer};
use forebay_tests::until;
use serde_json::Value;

use super::{begin, marks, step};

/// Bytes of the model.
const SIZE: u64 = 20 << 20;

/// Instances that read it.
const INSTANCES: usize = 4;

/// Starts so many readers, each of which says that it has read all of the model; or stops them.
const SCRIPT: &str = r#"#!/bin/sh
cd HERE
echo "$1" >> calls
[ "$1" = stop ] && exit 0
[ -e broken ] && { echo "no machine is free" >&2; exit 1; }
i=0
while [ $i -lt "$2" ]; do
  (curl -sf -o /dev/null -w '%{size_download}\n' URL/models/llama/model.bin >> read) &
  i=$((i + 1))
done
wait
"#;

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Nothing,
    ScaleUp,
    Members,
    Warm,
    Start,
    Check,
    ScaleDown,
}

/// Everything that a release is about.
struct Stage {
    fleet: Arc<Mutex<Fleet>>,
    fault: Arc<Mutex<Fault>>,
    scratch: Scratch,
    text: String,
    /// Serves as long as this lives.
    _scaler: Scripted,
}

fn locked<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts and stops members, as a scaler does.
fn scale(asked: &Asked, fault: Fault, fleet: &Mutex<Fleet>, plans: &[Plan]) -> u16 {
    let body: Value = serde_json::from_slice(&asked.body).expect("JSON");
    let wanted = usize::try_from(body["replicas"].as_u64().expect("replicas")).expect("a few");
    match (fault, wanted) {
        (Fault::ScaleUp, 3) | (Fault::ScaleDown, 1) => return 500,
        (Fault::Members, 3) => return 200,
        _ => {}
    }
    let mut fleet = locked(fleet);
    while fleet.gateways.len() < wanted {
        let next = &plans[fleet.gateways.len()];
        fleet.join(next, plans);
    }
    while fleet.gateways.len() > wanted {
        let last = fleet.gateways.pop().expect("one more than wanted");
        let _ = last.stop();
    }
    200
}

impl Stage {
    fn set() -> Self {
        let scratch = Scratch::new("release");
        let program = scratch.path().join("instances");
        let mut plans: Vec<Plan> = ["a", "b", "c"].map(Plan::new).into();
        let fault = Arc::new(Mutex::new(Fault::Nothing));
        let fleet: Arc<Mutex<Option<Arc<Mutex<Fleet>>>>> = Arc::default();
        let known: Arc<Mutex<Vec<Plan>>> = Arc::default();
        let scaler = {
            let (fault, fleet, known) =
                (Arc::clone(&fault), Arc::clone(&fleet), Arc::clone(&known));
            let read = scratch.path().join("read");
            Scripted::start(move |asked| {
                let fault = *locked(&fault);
                let status = match asked.target.as_str() {
                    "/scale" => {
                        let fleet = locked(&fleet).clone().expect("a fleet");
                        let plans = locked(&known).clone();
                        scale(asked, fault, &fleet, &plans)
                    }
                    _ if fault == Fault::Check => 503,
                    _ if marks(&read) == vec![SIZE.to_string(); INSTANCES] => 200,
                    _ => 503,
                };
                answer(asked, status, "", b"")
            })
        };
        plans[0].sections.push(format!(
            "[flows]\ncommands = [{program:?}]\nurls = [\"{0}/scale\", \"{0}/health\"]",
            scaler.url()
        ));
        plans
            .iter_mut()
            .for_each(|plan| plan.allowed.push("direct I/O".into()));
        let started = Fleet::start(&plans[..1], Settings::default(), &[]);
        started.origin.put("llama/model.bin", SIZE, 0);
        let script = SCRIPT.replace("HERE", &scratch.path().display().to_string());
        scratch.write(
            "instances",
            script.replace("URL", &started.gateways[0].url()),
        );
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755))
            .expect("it is ours");
        *locked(&known) = plans;
        let started = Arc::new(Mutex::new(started));
        *locked(&fleet) = Some(Arc::clone(&started));
        let text = std::fs::read_to_string(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../deploy/release.toml"
        ));
        let text = text.expect("the example is there");
        let text = text
            .replace("http://127.0.0.1:8090", &scaler.url())
            .replace("/usr/local/bin/instances", &program.display().to_string())
            .replace("\"100\"", &format!("\"{INSTANCES}\""))
            .replace("\"2s\"", "\"50ms\"");
        Self {
            fleet: started,
            fault,
            scratch,
            text,
            _scaler: scaler,
        }
    }

    /// The release with this fault; how it ended.
    fn release(&self, fault: Fault) -> Value {
        for file in ["calls", "read", "broken"] {
            let _ = std::fs::remove_file(self.scratch.path().join(file));
        }
        *locked(&self.fault) = fault;
        let mut text = self.text.clone();
        match fault {
            Fault::Warm => text = text.replace("\"llama/\"", "\"nothing/\""),
            Fault::Start => {
                self.scratch.write("broken", "");
            }
            // What never comes is not waited for long.
            Fault::Members => text = text.replace("timeout = \"5m\"", "timeout = \"1500ms\""),
            Fault::Check => text = text.replace("timeout = \"10m\"", "timeout = \"1500ms\""),
            _ => {}
        }
        let (id, address) = {
            let fleet = locked(&self.fleet);
            let first = &fleet.gateways[0];
            (begin(first, &text), first.address())
        };
        until(PATIENCE, "the release to be over", || {
            let answer = request(address, "GET", &format!("/-/flow/{id}"), &[]);
            let flow: Value = serde_json::from_slice(&answer.body).expect("JSON");
            let state = flow["state"].as_str().expect("a state");
            ["done", "failed"].contains(&state).then_some(flow)
        })
    }

    fn members(&self) -> usize {
        locked(&self.fleet).gateways.len()
    }

    fn calls(&self) -> Vec<String> {
        marks(&self.scratch.path().join("calls"))
    }
}

/// What is told of a release with this fault: the step that fails and why, what the instances' program was asked for, and
/// how many members there are at the end.
fn ends(stage: &Stage, fault: Fault, (name, why): (&str, &str), calls: &[&str], members: usize) {
    let flow = stage.release(fault);
    assert_eq!(flow["state"], "failed", "{flow}");
    let error = flow["error"].as_str().expect("an error");
    assert!(
        error.starts_with(&format!("step {name:?} failed: ")) && error.contains(why),
        "{fault:?}: {error}"
    );
    assert_eq!(step(&flow, name)["state"], "failed", "{fault:?}");
    let down = step(&flow, "scale-down")["state"].as_str();
    let wanted = match fault {
        Fault::ScaleDown => "failed",
        _ => "done",
    };
    assert_eq!(down, Some(wanted), "{fault:?}: {flow}");
    assert_eq!(stage.calls(), calls, "{fault:?}");
    assert_eq!(stage.members(), members, "{fault:?}");
}

#[test]
fn a_release_goes_through_and_each_step_that_fails_ends_it_as_its_policy_says() {
    let stage = Stage::set();
    let flow = stage.release(Fault::Nothing);
    assert_eq!(flow["state"], "done", "{flow}");
    for name in [
        "scale-up",
        "members",
        "warm",
        "start",
        "check",
        "scale-down",
    ] {
        assert_eq!(step(&flow, name)["state"], "done", "{flow}");
    }
    assert_eq!(step(&flow, "stop")["state"], "skipped");
    assert_eq!(
        (stage.members(), stage.calls()),
        (1, vec!["start".to_owned()])
    );
    let up = ("scale-up", "answered 500");
    ends(&stage, Fault::ScaleUp, up, &[], 1);
    let members = ("members", "1 members of 3 are alive");
    ends(&stage, Fault::Members, members, &[], 1);
    let warm = ("warm", "nothing that is asked for");
    ends(&stage, Fault::Warm, warm, &[], 1);
    let start = ("start", "no machine is free");
    ends(&stage, Fault::Start, start, &["start", "stop"], 1);
    let check = ("check", "answered with 503");
    ends(&stage, Fault::Check, check, &["start", "stop"], 1);
    let down = ("scale-down", "answered 500");
    ends(&stage, Fault::ScaleDown, down, &["start"], 3);
    // One that could not be scaled down is, next time.
    let flow = stage.release(Fault::Nothing);
    assert_eq!((&flow["state"], stage.members()), (&"done".into(), 1));
}
