//! What bounds jobs themselves: deadlines, memory, how many are remembered; and when they go on no more.

use std::process::Command;

use forebay_loadtest::origin::Settings;
use forebay_tests::fleet::{Fleet, Plan};
use forebay_tests::oracle::BLOCK;
use forebay_tests::process::{PATIENCE, Signal};
use forebay_tests::until;

use super::meanwhile::again;
use super::{Bucket, SIZE, begin, half_way, job, over, post};

/// A bucket in which no job comes to an end, and four that run for ever.
fn busy() -> (Bucket, forebay_tests::cluster::Gateway, Vec<String>) {
    let bucket = Bucket::start(Settings {
        total_rate: Some(BLOCK as u64),
        ..Settings::default()
    });
    bucket.origin.put("a.bin", 200 * BLOCK as u64, 0);
    let gateway = bucket.setup().cache("memory = \"1GiB\"").start();
    let prefixes = ["", "a", "a.", "a.b"];
    let jobs = prefixes.map(|prefix| begin(&gateway, &format!("/-/warm/models/{prefix}"), ""));
    for id in &jobs {
        until(PATIENCE, "it to begin", || {
            (job(&gateway, id)["state"] != "queued").then_some(())
        });
    }
    (bucket, gateway, jobs.into())
}

#[test]
fn a_job_fails_at_its_deadline_while_it_waits_for_its_turn() {
    let (_bucket, gateway, _jobs) = busy();
    let id = begin(&gateway, "/-/warm/models/a.bi", r#"{"deadline": "1s"}"#);
    assert_eq!(job(&gateway, &id)["state"], "queued");
    let ended = over(&gateway, &id);
    let why = ended["error"].as_str().unwrap_or_default();
    assert!(
        ended["state"] == "failed" && why.contains("its turn"),
        "{ended}"
    );
}

#[test]
fn jobs_that_never_began_are_forgotten_like_those_that_did() {
    let (_bucket, gateway, _jobs) = busy();
    for number in 0..110 {
        let body = format!(r#"{{"priority": {number}}}"#);
        let id = begin(&gateway, "/-/warm/models/a.bi", &body);
        let _ = gateway
            .request("DELETE", &format!("/-/warm/{id}"), &[])
            .expect(200);
    }
    until(PATIENCE, "the oldest to be forgotten", || {
        let jobs = gateway.json("/-/warm");
        (jobs["jobs"].as_array().map(Vec::len) == Some(104)).then_some(())
    });
}

#[test]
fn a_stop_leaves_jobs_as_they_are_and_waits_for_none() {
    let bucket = Bucket::start(Settings {
        total_rate: Some(BLOCK as u64),
        ..Settings::default()
    });
    bucket.origin.put("a.bin", 100 * BLOCK as u64, 0);
    let setup = bucket.setup().line("stop_after = \"10m\"");
    let gateway = setup.start();
    let url = format!("{}/-/warm/models/", gateway.url());
    let mut curl = Command::new("curl");
    let curl = curl
        .args(["-sN", "-X", "POST", &url])
        .stdout(std::process::Stdio::null());
    let mut curl = curl.spawn().expect("curl runs");
    let id = until(PATIENCE, "the job to be there", || {
        let jobs = gateway.json("/-/warm");
        jobs["jobs"][0]["id"].as_str().map(str::to_owned)
    });
    half_way(&gateway, &id, 1);
    gateway.process().signal(Signal::TERM);
    // Its body would hold the gateway for ten minutes.
    assert_eq!(curl.wait().expect("curl ends").code(), Some(18));
    gateway.ended();
}

#[test]
fn a_body_that_takes_more_memory_than_jobs_may_have_is_refused() {
    let bucket = Bucket::start(Settings::default());
    let gateway = bucket.setup().cache("memory = \"64MiB\"").start();
    let body = format!(r#"{{"keys": ["{}"]}}"#, "k".repeat(6 << 20));
    let refused = post(&gateway, "/-/warm/models/", &body).expect(413).text();
    assert!(refused.contains("has at most 5.3"), "{refused}");
    let long = "p".repeat(900);
    let keys = r#""x","#.repeat(40_000);
    let body = format!(r#"{{"keys": [{keys}"y"]}}"#);
    let target = format!("/-/warm/models/{long}");
    let refused = post(&gateway, &target, &body).expect(400).text();
    assert!(refused.contains("several jobs"), "{refused}");
}

#[test]
fn a_job_whose_gateway_is_back_before_the_others_waits_for_them() {
    let mut plans: Vec<Plan> = ["a", "b"].map(Plan::new).into();
    for plan in &mut plans {
        plan.memory = "64MiB".to_owned();
    }
    let settings = Settings {
        total_rate: Some(SIZE),
        ..Settings::default()
    };
    let mut fleet = Fleet::start(&plans, settings, &["fresh_for = \"10m\""]);
    // More than one of them keeps.
    let size = 40 * BLOCK as u64;
    fleet.origin.put("a.bin", size, 0);
    let id = begin(&fleet.gateways[0], "/-/warm/models/", "");
    half_way(&fleet.gateways[0], &id, size / 4);
    let _ = fleet.gateways.remove(1).kill();
    let first = again(fleet.gateways.remove(0).kill());
    until(PATIENCE, "it to have looked whether it fits", || {
        (fleet.origin.counters().lists >= 2).then_some(())
    });
    assert_eq!(job(&first, &id)["state"], "listing");
    fleet.gateways.push(first);
    fleet.join(&plans[1], &plans);
    let ended = over(&fleet.gateways[0], &id);
    assert_eq!(ended["state"], "done", "{ended}");
}
