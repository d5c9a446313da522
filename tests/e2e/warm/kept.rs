//! What stays and what goes: pins, quotas and times to live.

use forebay_loadtest::origin::Settings;
use forebay_tests::cluster::Gateway;
use forebay_tests::fleet::{Fleet, Plan};
use forebay_tests::http::Answer;
use forebay_tests::oracle::BLOCK;
use forebay_tests::process::PATIENCE;
use forebay_tests::until;
use serde_json::{Value, json};

use super::meanwhile::again;
use super::{Bucket, begin, done, over, resident};

const MIB: u64 = BLOCK as u64;

pub(super) fn ask(gateway: &Gateway, method: &str, target: &str) -> Answer {
    gateway.request(method, target, &[("Content-Length", "0")])
}

pub(super) fn pins(gateway: &Gateway) -> Vec<Value> {
    let pins = gateway.json("/-/pin");
    pins["pins"].as_array().expect("pins").clone()
}

pub(super) fn cached(gateway: &Gateway, field: &str) -> u64 {
    let dataset = gateway.json("/-/datasets/models");
    let value = dataset["datasets"][0].pointer(field);
    value.and_then(Value::as_u64).expect("a number")
}

/// A bucket with what is to be pinned and what is to push it out of 64 MiB.
fn bucket() -> Bucket {
    let bucket = Bucket::start(Settings::default());
    bucket.origin.put("a/a.bin", 10 * MIB, 0);
    bucket.origin.put("b/b.bin", 90 * MIB, 0);
    bucket
}

#[test]
fn what_is_pinned_is_not_evicted_and_is_counted_until_it_is_pinned_no_more() {
    let bucket = bucket();
    let gateway = bucket.setup().cache("memory = \"64MiB\"").start();
    let answer = ask(&gateway, "POST", "/-/pin/models/a/").expect(200);
    let answer: Value = serde_json::from_slice(&answer.body).expect("JSON");
    assert_eq!(answer["bytes"], 10 * MIB);
    assert!(answer["expires"].is_null(), "{answer}");
    let _ = done(&gateway, &begin(&gateway, "/-/warm/models/a/", ""));
    assert_eq!(cached(&gateway, "/pinned_bytes"), 10 * MIB);
    for _ in 0..3 {
        let _ = gateway.get("/models/b/b.bin").expect(200);
    }
    assert_eq!(resident(&gateway, "a/").0, 200);
    let again = ask(&gateway, "DELETE", "/-/pin/models/a/").expect(200);
    assert!(
        again.text().contains("\"bytes\":10485760"),
        "{}",
        again.text()
    );
    let _ = ask(&gateway, "DELETE", "/-/pin/models/a/").expect(404);
    assert_eq!(cached(&gateway, "/pinned_bytes"), 0);
}

#[test]
fn pins_survive_a_restart_and_end_when_their_time_is_over() {
    let bucket = bucket();
    let gateway = bucket.setup().cache("memory = \"64MiB\"").start();
    let _ = ask(&gateway, "POST", "/-/pin/models/a/").expect(200);
    let late = "/-/pin/models/a/a.bin?expires=2100-01-01T00:00:00Z";
    let late = ask(&gateway, "POST", late).expect(200);
    assert!(
        late.text().contains("\"2100-01-01T00:00:00Z\""),
        "{}",
        late.text()
    );
    let gateway = again(gateway.kill());
    let known: Vec<Value> = pins(&gateway)
        .iter()
        .map(|pin| pin["prefix"].clone())
        .collect();
    assert_eq!(known, ["a/", "a/a.bin"]);
    let _ = done(&gateway, &begin(&gateway, "/-/warm/models/a/", ""));
    assert_eq!(cached(&gateway, "/pinned_bytes"), 10 * MIB);
    // Set anew, it ends soon.
    for prefix in ["a/", "a/a.bin"] {
        let soon = format!("/-/pin/models/{prefix}?expires=500ms");
        let _ = ask(&gateway, "POST", &soon).expect(200);
    }
    until(PATIENCE, "the pins to end", || {
        pins(&gateway).is_empty().then_some(())
    });
    until(PATIENCE, "the store to know", || {
        (cached(&gateway, "/pinned_bytes") == 0).then_some(())
    });
}

#[test]
fn what_can_not_be_pinned_is_refused_with_the_arithmetic() {
    let bucket = bucket();
    bucket.origin.put("c/c.bin", 14 * MIB, 0);
    let gateway = bucket.setup().cache("memory = \"64MiB\"").start();
    let _ = ask(&gateway, "POST", "/-/pin/models/a/").expect(200);
    let refused = ask(&gateway, "POST", "/-/pin/models/c/").expect(507).text();
    for part in [
        "14 MiB in 1 objects",
        "10 MiB are pinned",
        "24 MiB together",
        "22.3 MiB",
    ] {
        assert!(refused.contains(part), "{part}: {refused}");
    }
    for (target, status) in [
        ("/-/pin/none/", 404),
        ("/-/pin/models/nothing/", 404),
        ("/-/pin/models/a/?expires=yesterday", 400),
        ("/-/pin/models/a/?expires=2020-01-01T00:00:00Z", 400),
        ("/-/pin/models/a/?for=1h", 400),
    ] {
        let _ = ask(&gateway, "POST", target).expect(status);
    }
    assert_eq!(pins(&gateway).len(), 1);
    // Less of it does, by the command line.
    let out = gateway.client(&["pin", "models/a/", "--remove"]);
    assert!(out.status.success(), "{out:?}");
    let out = gateway.client(&["pin", "models/c/", "--expires", "24h"]);
    assert!(out.status.success(), "{out:?}");
    assert_eq!(pins(&gateway)[0]["prefix"], "c/");
}

#[test]
fn every_member_knows_what_is_pinned_and_one_that_was_away_learns_it() {
    let plans: Vec<Plan> = ["a", "b", "c"].map(Plan::new).into();
    let mut fleet = Fleet::start(&plans, Settings::default(), &["fresh_for = \"10m\""]);
    fleet.origin.put("a.bin", MIB, 0);
    let _ = fleet.gateways.pop().map(Gateway::stop);
    let _ = ask(&fleet.gateways[0], "POST", "/-/pin/models/").expect(200);
    let pin = json!({"dataset": "models", "prefix": "", "bytes": MIB, "expires": null});
    assert_eq!(pins(&fleet.gateways[1]), std::slice::from_ref(&pin));
    fleet.join(&plans[2], &plans);
    until(PATIENCE, "the third to learn it", || {
        (pins(&fleet.gateways[2]) == std::slice::from_ref(&pin)).then_some(())
    });
    let _ = ask(&fleet.gateways[2], "DELETE", "/-/pin/models/").expect(200);
    assert!(pins(&fleet.gateways[0]).is_empty());
}

#[test]
fn a_quota_bounds_a_dataset_and_its_jobs() {
    let bucket = bucket();
    let setup = bucket.setup_with(&["quota = \"8MiB\""]);
    let gateway = setup.start();
    let _ = gateway.get("/models/b/b.bin").expect(200);
    let bytes = cached(&gateway, "/cached/memory/bytes");
    assert!((7 * MIB..=8 * MIB).contains(&bytes), "{bytes}");
    let before = bucket.origin.counters();
    let job = over(&gateway, &begin(&gateway, "/-/warm/models/a/", ""));
    let why = job["error"].as_str().unwrap_or_default();
    for part in ["it is 10 MiB", "quota is 8 MiB", "2 MiB too many"] {
        assert!(why.contains(part), "{part}: {job}");
    }
    let after = bucket.origin.counters();
    assert_eq!(
        (after.gets, after.heads),
        (before.gets, before.heads),
        "something was read"
    );
}

#[test]
fn what_is_older_than_its_time_goes() {
    let bucket = bucket();
    let setup = bucket.setup_with(&["ttl = \"2s\""]);
    let gateway = setup.start();
    let _ = gateway.get("/models/a/a.bin").expect(200);
    assert_eq!(cached(&gateway, "/cached/memory/bytes"), 10 * MIB);
    until(PATIENCE, "the blocks to go", || {
        (cached(&gateway, "/cached/memory/bytes") == 0).then_some(())
    });
    let _ = gateway.get("/models/a/a.bin").expect(200);
    assert_eq!(bucket.sent(), 20 * MIB);
}
