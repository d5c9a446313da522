//! Jobs that pin what they bring: the pin is taken with the job, and goes again if that does not end well.

use forebay_loadtest::origin::{Fault, Rule, Settings};
use forebay_tests::cluster::Gateway;
use forebay_tests::oracle::BLOCK;
use serde_json::{Value, json};

use super::kept::{ask, cached, pins};
use super::meanwhile::again;
use super::{Bucket, SIZE, begin, done, half_way, job, over, post};

const MIB: u64 = BLOCK as u64;

fn prefixes(gateway: &Gateway) -> Vec<Value> {
    let pins = pins(gateway);
    pins.iter().map(|pin| pin["prefix"].clone()).collect()
}

/// A bucket in which nothing ends by itself.
fn endless() -> Bucket {
    let bucket = Bucket::start(Settings {
        total_rate: Some(SIZE / 24),
        ..Settings::default()
    });
    bucket.origin.put("a/a.bin", 20 * MIB, 0);
    bucket
}

#[test]
fn a_job_that_is_done_keeps_its_pin_and_one_that_does_not_fit_begins_nothing() {
    let bucket = Bucket::start(Settings::default());
    bucket.origin.put("a/a.bin", 10 * MIB, 0);
    bucket.origin.put("b/b.bin", 10 * MIB, 0);
    bucket.origin.put("c/c.bin", 30 * MIB, 0);
    let gateway = bucket.setup().cache("memory = \"64MiB\"").start();
    let body = r#"{"prefixes": ["a/", "b/"], "pin": true}"#;
    let job = done(&gateway, &begin(&gateway, "/-/warm/models/", body));
    assert_eq!(job["pinned"], true, "{job}");
    assert_eq!(prefixes(&gateway), ["a/", "b/"]);
    assert_eq!(cached(&gateway, "/pinned_bytes"), 20 * MIB);
    let before = bucket.origin.counters();
    let refused = post(&gateway, "/-/warm/models/c/", r#"{"pin": true}"#).expect(507);
    for part in ["30 MiB in 1 objects", "20 MiB are pinned", "22.3 MiB"] {
        assert!(refused.text().contains(part), "{part}: {}", refused.text());
    }
    let _ = post(&gateway, "/-/warm/models/none/", r#"{"pin": true}"#).expect(404);
    let after = bucket.origin.counters();
    assert_eq!((after.gets, after.heads), (before.gets, before.heads));
    let jobs = gateway.json("/-/warm");
    assert_eq!(jobs["jobs"].as_array().map(Vec::len), Some(1));
    // By the command line, for a time.
    let out = gateway.client(&["warm", "models/a/", "--pin", "--expires", "24h"]);
    assert!(out.status.success(), "{out:?}");
    assert!(pins(&gateway)[0]["expires"].is_string());
}

#[test]
fn a_job_that_fails_or_is_cancelled_leaves_what_was_pinned_before() {
    let bucket = endless();
    bucket.origin.put("b/b.bin", MIB, 0);
    bucket
        .origin
        .fault(Rule::always(Fault::Status(403)).on("b/b.bin"));
    let gateway = bucket.setup().start();
    let failed = over(
        &gateway,
        &begin(&gateway, "/-/warm/models/b/", r#"{"pin": true}"#),
    );
    assert_eq!(failed["state"], "failed", "{failed}");
    assert_eq!(prefixes(&gateway), [""; 0]);
    let _ = ask(&gateway, "POST", "/-/pin/models/a/").expect(200);
    let pinned = pins(&gateway);
    let body = r#"{"pin": {"expires": "24h"}}"#;
    let cancel = |id: &str| {
        let target = format!("/-/warm/{id}");
        let _ = gateway.request("DELETE", &target, &[]).expect(200);
    };
    let id = begin(&gateway, "/-/warm/models/a/", body);
    assert!(pins(&gateway)[0]["expires"].is_string());
    cancel(&id);
    assert_eq!(pins(&gateway), pinned, "as it was before");
    // What somebody changes meanwhile stays as it is.
    let id = begin(&gateway, "/-/warm/models/a/", body);
    let _ = ask(&gateway, "POST", "/-/pin/models/a/?expires=48h").expect(200);
    let changed = pins(&gateway);
    cancel(&id);
    assert_eq!(pins(&gateway), changed);
}

#[test]
fn the_pin_of_a_job_that_goes_on_after_a_kill_goes_with_it() {
    let bucket = endless();
    let gateway = bucket.setup().start();
    let id = begin(&gateway, "/-/warm/models/a/", r#"{"pin": true}"#);
    half_way(&gateway, &id, 1);
    let gateway = again(gateway.kill());
    assert_eq!(prefixes(&gateway), ["a/"]);
    assert_eq!(job(&gateway, &id)["pinned"], true);
    let target = format!("/-/warm/{id}");
    let _ = gateway.request("DELETE", &target, &[]).expect(200);
    assert_eq!(gateway.json("/-/pin"), json!({ "pins": [] }));
    let gateway = again(gateway.kill());
    assert_eq!(gateway.json("/-/pin"), json!({ "pins": [] }));
}
