//! Several gateways: each brings what it owns, whoever took the job, and whoever dies.

use std::collections::BTreeSet;
use std::time::Duration;

use forebay_loadtest::origin::Settings;
use forebay_tests::fleet::{Fleet, Plan};
use forebay_tests::process::{PATIENCE, Signal};
use forebay_tests::until;
use serde_json::Value;

use super::{SIZE, begin, done, half_way, resident};

fn plans() -> Vec<Plan> {
    ["a", "b", "c"].map(Plan::new).into()
}

fn slow() -> Settings {
    Settings {
        total_rate: Some(SIZE / 2),
        first_byte: Duration::from_millis(10),
        ..Settings::default()
    }
}

/// Who owns each block of an object, and who holds it.
fn held(fleet: &Fleet, key: &str) -> Vec<(String, BTreeSet<String>)> {
    let answer = fleet.gateways[0].json(&format!("/-/blocks/models/{key}"));
    let blocks = answer["blocks"].as_array().expect("blocks").clone();
    let name = |value: &Value| value.as_str().expect("a name").to_owned();
    let blocks = blocks.iter().map(|block| {
        let holders = block["holders"].as_array().expect("holders");
        let holders = holders.iter().map(|holder| name(&holder["member"]));
        (name(&block["owner"]), holders.collect())
    });
    blocks.collect()
}

/// A fleet whose members place blocks alike.
fn start(plans: &[Plan]) -> Fleet {
    let fleet = Fleet::start(plans, slow(), &["fresh_for = \"10m\""]);
    until(PATIENCE, "one table", || {
        let rings = fleet.gateways.iter().map(|gateway| gateway.json("/-/ring"));
        let rings: Vec<Value> = rings.collect();
        let shared = |ring: &Value| {
            let members = ring["members"].as_array().expect("members");
            let owning = members
                .iter()
                .filter(|one| one["share"].as_f64() > Some(0.0));
            owning.count() == plans.len() && ring["epoch"] == rings[0]["epoch"]
        };
        rings.iter().all(shared).then_some(())
    });
    fleet
}

fn between(fleet: &Fleet) -> f64 {
    fleet.metric("forebay_peer_bytes_total", &[])
}

#[test]
fn any_member_takes_a_job_and_each_owner_brings_its_part() {
    let fleet = start(&plans());
    fleet.origin.put("a.bin", SIZE, 0);
    for number in 0..50 {
        fleet.origin.put(&format!("small/{number}"), 1000, 0);
    }
    let job = done(
        &fleet.gateways[1],
        &begin(&fleet.gateways[1], "/-/warm/models/", ""),
    );
    assert_eq!(job["origin_bytes_read"], SIZE + 50_000, "{job}");
    assert_eq!(fleet.origin.counters().bytes_sent, SIZE + 50_000);
    let held = held(&fleet, "a.bin");
    for (owner, holders) in &held {
        assert_eq!(holders, &BTreeSet::from([owner.clone()]), "{held:?}");
    }
    let owners: BTreeSet<_> = held.iter().map(|(owner, _)| owner).collect();
    assert_eq!(owners.len(), 3, "{held:?}");
    for gateway in &fleet.gateways {
        assert_eq!(resident(gateway, "").1["percent"], 100.0);
    }
    let before = fleet.origin.counters();
    let again = done(
        &fleet.gateways[2],
        &begin(&fleet.gateways[2], "/-/warm/models/", ""),
    );
    assert_eq!(again["origin_bytes_read"], 0, "{again}");
    let after = fleet.origin.counters();
    assert_eq!((after.gets, after.heads), (before.gets, before.heads));
    assert_eq!(between(&fleet), 0.0, "bytes crossed between members");
}

#[test]
fn a_member_that_dies_leaves_its_part_to_the_others() {
    let plans = plans();
    let mut fleet = start(&plans);
    let size = 3 * SIZE;
    fleet.origin.put("a.bin", size, 0);
    let id = begin(&fleet.gateways[0], "/-/warm/models/", "");
    half_way(&fleet.gateways[0], &id, size / 2);
    let _ = fleet.gateways.remove(2).kill();
    let job = done(&fleet.gateways[0], &id);
    let sent = fleet.origin.counters().bytes_sent;
    assert!(sent <= size + size / 2, "{sent} of {size}: {job}");
    for gateway in &fleet.gateways {
        assert_eq!(resident(gateway, "").0, 200);
    }
    // As they say themselves: readers cost the origin nothing.
    let reads = fleet.herd("a.bin", &[0, 1], 1);
    assert!(
        reads
            .iter()
            .all(|read| read.outcome == forebay_loadtest::client::Outcome::Whole)
    );
    assert_eq!(fleet.origin.counters().bytes_sent, sent);
}

#[test]
fn a_member_that_freezes_costs_time_and_nothing_else() {
    let fleet = start(&plans());
    let size = 2 * SIZE;
    fleet.origin.put("a.bin", size, 0);
    let id = begin(&fleet.gateways[0], "/-/warm/models/", "");
    half_way(&fleet.gateways[0], &id, size / 4);
    fleet.gateways[1].process().signal(Signal::STOP);
    half_way(&fleet.gateways[0], &id, size * 3 / 4);
    fleet.gateways[1].process().signal(Signal::CONT);
    let _ = done(&fleet.gateways[0], &id);
    fleet.know_each_other();
    assert!(fleet.origin.counters().bytes_sent <= size + size / 2);
}

#[test]
fn copies_on_all_members_cost_the_origin_one_read() {
    let fleet = start(&plans());
    fleet.origin.put("a.bin", SIZE, 0);
    let body = r#"{"copies": "all"}"#;
    let job = done(
        &fleet.gateways[0],
        &begin(&fleet.gateways[0], "/-/warm/models/", body),
    );
    assert_eq!(job["bytes"], 3 * SIZE, "{job}");
    assert_eq!(fleet.origin.counters().bytes_sent, SIZE);
    let all = BTreeSet::from(["a", "b", "c"].map(str::to_owned));
    for (_, holders) in held(&fleet, "a.bin") {
        assert_eq!(holders, all);
    }
}

#[test]
fn copies_in_each_zone_are_with_its_owners() {
    let mut plans = plans();
    plans[2].zone = "there".to_owned();
    let fleet = start(&plans);
    fleet.origin.put("a.bin", SIZE, 0);
    let body = r#"{"copies": "zone"}"#;
    let _ = done(
        &fleet.gateways[0],
        &begin(&fleet.gateways[0], "/-/warm/models/", body),
    );
    assert_eq!(fleet.origin.counters().bytes_sent, SIZE);
    for (_, holders) in held(&fleet, "a.bin") {
        assert!(holders.contains("c") && holders.len() == 2, "{holders:?}");
    }
}
