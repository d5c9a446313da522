//! What a purge takes of an object, and what it leaves: tiers and versions.

use forebay_loadtest::client::Outcome;
use forebay_loadtest::origin::Settings;
use forebay_tests::cluster::Gateway;
use forebay_tests::fleet::{Fleet, Plan};
use serde_json::Value;

use super::kept::{ask, cached};
use super::meanwhile::again;
use super::{Bucket, SIZE, begin, done, resident};

const MEMORY: &str = "/cached/memory/bytes";
const NVME: &str = "/cached/nvme/bytes";

/// Purges, and says how many bytes went.
fn purge(gateway: &Gateway, target: &str) -> u64 {
    let answer = ask(gateway, "POST", &format!("/-/purge/models/{target}")).expect(200);
    let answer: Value = serde_json::from_slice(&answer.body).expect("JSON");
    assert_eq!(answer["absent_members"], serde_json::json!([]));
    answer["bytes"].as_u64().expect("bytes")
}

/// Makes a gateway know of an overwrite, however fresh what it knew is; the new ETag.
fn notice(gateway: &Gateway, key: &str) -> String {
    let target = format!("/models/{key}");
    let _ = gateway
        .request("GET", &target, &[("If-Match", "\"another\"")])
        .expect(412);
    gateway
        .request("HEAD", &target, &[])
        .expect(200)
        .need("etag")
        .to_owned()
}

/// A bucket with `a.bin`, of which two versions are resident with the gateway; the ETags of both.
fn two_versions() -> (Bucket, Gateway, [String; 2]) {
    let bucket = Bucket::start(Settings::default());
    bucket.origin.put("a.bin", SIZE, 0);
    let gateway = bucket.setup().start();
    let old = gateway.get("/models/a.bin").expect(200);
    bucket.origin.overwrite("a.bin", None);
    let new = notice(&gateway, "a.bin");
    let _ = gateway.get("/models/a.bin").expect(200);
    assert_eq!(cached(&gateway, MEMORY), 2 * SIZE);
    let old = old.need("etag").to_owned();
    assert_ne!(old, new);
    (bucket, gateway, [old, new])
}

#[test]
fn a_purge_of_one_tier_leaves_the_other() {
    let bucket = Bucket::start(Settings::default());
    bucket.origin.put("a.bin", SIZE, 0);
    let setup = bucket.setup().cache("memory = \"128MiB\"");
    let gateway = setup.cache("nvme = \"160MiB\"").start();
    let _ = done(&gateway, &begin(&gateway, "/-/warm/models/", ""));
    assert_eq!(
        (cached(&gateway, MEMORY), cached(&gateway, NVME)),
        (SIZE, SIZE)
    );
    assert_eq!(purge(&gateway, "a.bin?tier=memory"), SIZE);
    assert_eq!(
        (cached(&gateway, MEMORY), cached(&gateway, NVME)),
        (0, SIZE)
    );
    assert_eq!(purge(&gateway, "?tier=memory"), 0);
    let answer = gateway.get("/models/a.bin").expect(200);
    assert_eq!(answer.need("cache-status"), "forebay; hit; detail=\"nvme\"");
    assert_eq!(purge(&gateway, "?tier=nvme"), SIZE);
    assert_eq!(
        (cached(&gateway, MEMORY), cached(&gateway, NVME)),
        (SIZE, 0)
    );
    assert_eq!(resident(&gateway, "?tier=memory").0, 200);
    assert_eq!(resident(&gateway, "?tier=nvme").0, 503);
    assert_eq!(bucket.sent(), SIZE);
    // For good: a restart brings nothing back.
    let gateway = again(gateway.kill());
    assert_eq!(cached(&gateway, NVME), 0);
}

#[test]
fn a_purge_of_old_versions_leaves_the_current_one() {
    let (bucket, gateway, _) = two_versions();
    let sent = bucket.sent();
    assert_eq!(purge(&gateway, "?version=old"), SIZE);
    assert_eq!(cached(&gateway, MEMORY), SIZE);
    assert_eq!(resident(&gateway, "").0, 200);
    let _ = gateway.get("/models/a.bin").expect(200);
    assert_eq!(bucket.sent(), sent);
    assert_eq!(purge(&gateway, "a.bin?version=old"), 0);
    // What is current the origin says, whatever is known of it.
    bucket.origin.overwrite("a.bin", None);
    assert_eq!(purge(&gateway, "a.bin?version=old"), SIZE);
    let _ = gateway.get("/models/a.bin").expect(200);
    assert_eq!(bucket.sent(), sent + SIZE);
}

#[test]
fn a_purge_of_one_version_leaves_the_others() {
    let (bucket, gateway, [old, new]) = two_versions();
    let sent = bucket.sent();
    let bare = old.trim_matches('"');
    assert_eq!(purge(&gateway, &format!("a.bin?version={bare}")), SIZE);
    assert_eq!(cached(&gateway, MEMORY), SIZE);
    let _ = gateway.get("/models/a.bin").expect(200);
    assert_eq!(bucket.sent(), sent);
    assert_eq!(purge(&gateway, &format!("?version={bare}")), 0);
    let quoted = new.replace('"', "%22");
    assert_eq!(purge(&gateway, &format!("?version={quoted}")), SIZE);
    assert_eq!(cached(&gateway, MEMORY), 0);
}

#[test]
fn what_a_purge_can_not_do_is_refused_and_nothing_goes() {
    let bucket = Bucket::start(Settings::default());
    bucket.origin.put("a.bin", SIZE, 0);
    let gateway = bucket.setup().start();
    let _ = gateway.get("/models/a.bin").expect(200);
    for (query, word) in [
        ("tier=disk", "tier is memory or nvme"),
        ("tier=any", "tier is memory or nvme"),
        ("version=", "version is an ETag"),
        ("versions=old", "no parameter"),
    ] {
        let target = format!("/-/purge/models/a.bin?{query}");
        let refused = ask(&gateway, "POST", &target).expect(400).text();
        assert!(refused.contains(word), "{refused}");
    }
    let _ = ask(&gateway, "POST", "/-/purge/none/?version=old").expect(404);
    assert_eq!(cached(&gateway, MEMORY), SIZE);
    // The command line asks for the same.
    let out = gateway.client(&["purge", "models/a.bin", "--tier", "nvme", "--json"]);
    let answer: Value = serde_json::from_slice(&out.stdout).expect("JSON");
    assert_eq!(answer["bytes"], 0, "there is no such tier here");
    let out = gateway.client(&["purge", "models/", "--version", "old", "--json"]);
    let answer: Value = serde_json::from_slice(&out.stdout).expect("JSON");
    assert_eq!(answer["bytes"], 0, "what is there is current");
    let out = gateway.client(&["purge", "models/", "--tier", "memory", "--json"]);
    let answer: Value = serde_json::from_slice(&out.stdout).expect("JSON");
    assert_eq!(answer["bytes"], SIZE);
}

#[test]
fn every_member_lets_old_versions_go_and_keeps_the_current_one() {
    let plans: Vec<Plan> = ["a", "b", "c"].map(Plan::new).into();
    let fleet = Fleet::start(&plans, Settings::default(), &["fresh_for = \"10m\""]);
    fleet.origin.put("a.bin", SIZE, 0);
    fleet.origin.put("b.bin", SIZE, 0);
    let read = |key: &str| {
        let reads = fleet.herd(key, &[0, 1, 2], 1);
        assert!(reads.iter().all(|read| read.outcome == Outcome::Whole));
    };
    let held = || fleet.metric("forebay_cache_bytes", &[("tier", "memory")]) as u64;
    read("a.bin");
    read("b.bin");
    let before = held();
    fleet.origin.overwrite("a.bin", None);
    for gateway in &fleet.gateways {
        let _ = notice(gateway, "a.bin");
    }
    read("a.bin");
    let sent = fleet.origin.counters().bytes_sent;
    let purged = purge(&fleet.gateways[1], "?version=old");
    assert!(purged >= SIZE, "{purged}");
    assert_eq!(held(), before, "as much of the new version as of the old");
    assert_eq!(purge(&fleet.gateways[2], "?version=old"), 0);
    read("a.bin");
    read("b.bin");
    assert_eq!(fleet.origin.counters().bytes_sent, sent);
    // One tier of all members.
    assert_eq!(purge(&fleet.gateways[0], "?tier=nvme"), 0);
    assert!(purge(&fleet.gateways[0], "?tier=memory") >= before);
    assert_eq!(held(), 0);
}
