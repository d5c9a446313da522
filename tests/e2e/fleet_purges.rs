//! Purges and overwrites over a fleet: members that were killed, stood still or were alone meanwhile.

use std::collections::BTreeSet;
use std::time::Duration;

use forebay_loadtest::client::{Outcome, Read};
use forebay_loadtest::origin::{Logged, Settings};
use forebay_tests::cluster::Gateway;
use forebay_tests::fleet::{Fleet, Plan};
use forebay_tests::oracle::{self, BLOCK, assert_bytes};
use forebay_tests::process::{PATIENCE, Signal};
use forebay_tests::servers::moto::Moto;
use forebay_tests::until;

const SIZE: u64 = 12 * BLOCK as u64 + 17;

/// Logged where the temporary directory's file system knows no direct I/O.
const BUFFERED: &str = "direct I/O does not work there";

/// Members with a disk of their own each.
fn plans(names: &[&str]) -> Vec<Plan> {
    let plan = |name: &&str| Plan {
        nvme: "128MiB".to_owned(),
        allowed: vec![BUFFERED.to_owned()],
        ..Plan::new(name)
    };
    names.iter().map(plan).collect()
}

/// Their fleet, with `a.bin` and `b.bin` on its disks. Nothing is asked twice there.
fn filled(plans: &[Plan]) -> Fleet {
    let fleet = Fleet::start(plans, Settings::default(), &["immutable = true"]);
    for key in ["a.bin", "b.bin"] {
        fleet.origin.put(key, SIZE, 0);
        all_whole(&fleet.herd(key, &[0], 1));
    }
    let blocks = 2.0 * SIZE.div_ceil(BLOCK as u64) as f64;
    until(PATIENCE, "all blocks to be on disks", || {
        let written = fleet.metric("forebay_cache_blocks", &[("tier", "nvme")]);
        (written >= blocks).then_some(())
    });
    assert_eq!(fleet.origin.counters().bytes_sent, 2 * SIZE);
    fleet
}

fn all_whole(reads: &[Read]) {
    for read in reads {
        assert_eq!(read.outcome, Outcome::Whole, "{read:?}");
    }
}

/// Purges through this gateway, and says who did not answer.
fn purge(gateway: &Gateway, what: &str) -> Vec<String> {
    let answer = gateway.request("POST", &format!("/-/purge/models/{what}"), &[]);
    let answer: serde_json::Value = serde_json::from_slice(&answer.expect(200).body).expect("JSON");
    let absent = answer["absent_members"].as_array().expect("a list");
    let names = absent.iter().filter_map(|name| name.as_str());
    names.map(str::to_owned).collect()
}

/// Bytes that the origin sends for one read of `key` through the gateway at `index`.
fn cost(fleet: &Fleet, key: &str, index: usize) -> u64 {
    let before = fleet.origin.counters().bytes_sent;
    all_whole(&fleet.herd(key, &[index], 1));
    fleet.origin.counters().bytes_sent - before
}

/// The blocks that a request to the origin was for.
fn blocks(asked: &Logged) -> impl Iterator<Item = u64> + use<> {
    let range = asked.range.as_deref().unwrap_or_default();
    let range = range
        .strip_prefix("bytes=")
        .and_then(|range| range.split_once('-'));
    let range = range
        .and_then(|(first, last)| Some(first.parse::<u64>().ok()?..=last.parse::<u64>().ok()?));
    let block = BLOCK as u64;
    range
        .into_iter()
        .flat_map(move |range| range.start() / block..=range.end() / block)
}

fn missed(gateway: &Gateway) -> f64 {
    gateway.metric("forebay_purges_missed_total", &[])
}

#[test]
fn what_was_purged_stays_so_at_a_member_that_was_killed_whenever_it_was_purged() {
    let plans = plans(&["a", "b", "c"]);
    let mut fleet = filled(&plans);
    // Once while it is there: it has heard of that, and its disk too.
    assert_eq!(purge(&fleet.gateways[0], "a.bin"), [""; 0]);
    let left = fleet.gateways.remove(2).kill();
    fleet.revive(&plans[2], &plans, left);
    fleet.know_each_other();
    assert_eq!(cost(&fleet, "a.bin", 2), SIZE);
    assert_eq!(missed(&fleet.gateways[2]), 0.0);
    assert_eq!(cost(&fleet, "a.bin", 1), 0);
    until(PATIENCE, "all blocks to be on disks again", || {
        let written = fleet.metric("forebay_cache_blocks", &[("tier", "nvme")]);
        (written >= 2.0 * SIZE.div_ceil(BLOCK as u64) as f64).then_some(())
    });
    // And once while it is away.
    let left = fleet.gateways.remove(2).kill();
    assert_eq!(purge(&fleet.gateways[1], "a.bin"), ["c"]);
    fleet.revive(&plans[2], &plans, left);
    // It says that it listens once it has asked, so there is nothing to wait for.
    assert_eq!(cost(&fleet, "a.bin", 2), SIZE);
    assert_eq!(missed(&fleet.gateways[2]), 1.0);
    // What was not purged is there on its disk.
    assert_eq!(cost(&fleet, "b.bin", 2), 0);
}

#[test]
fn who_starts_alone_serves_nothing_that_may_be_purged_until_another_has_told() {
    let plans = plans(&["a", "c"]);
    let mut fleet = filled(&plans);
    let c = fleet.gateways.remove(1).kill();
    assert_eq!(purge(&fleet.gateways[0], "a.bin"), ["c"]);
    let a = fleet.gateways.remove(0).kill();
    fleet.revive(&plans[1], &plans, c);
    // Nobody tells, so not even what was not purged may be believed.
    assert_eq!(cost(&fleet, "a.bin", 0), SIZE);
    let there = fleet.gateways[0].json("/-/blocks/models/b.bin");
    assert_eq!(there["blocks"][0]["holders"], serde_json::json!([]));
    fleet.revive(&plans[0], &plans, a);
    until(PATIENCE, "the other to tell", || {
        (missed(&fleet.gateways[0]) == 1.0).then_some(())
    });
    fleet.know_each_other();
    until(PATIENCE, "what was not purged to be believed", || {
        (cost(&fleet, "b.bin", 0) == 0).then_some(())
    });
    assert_eq!(cost(&fleet, "a.bin", 0), SIZE);
}

#[test]
fn a_member_that_stood_still_during_a_purge_gives_nothing_of_it_to_others() {
    let plans = plans(&["a", "b", "c"]);
    let fleet = filled(&plans);
    fleet.gateways[2].process().signal(Signal::STOP);
    assert_eq!(purge(&fleet.gateways[0], "a.bin"), ["c"]);
    fleet.gateways[2].process().signal(Signal::CONT);
    // Whoever asks it first tells it, before anything of its answer counts: every block comes from the origin. What it
    // began to fill in that moment it may have begun twice.
    fleet.origin.log_requests(true);
    let read = cost(&fleet, "a.bin", 1);
    assert!((SIZE..=2 * SIZE).contains(&read), "{read}");
    let log = fleet.origin.take_log();
    let asked: BTreeSet<u64> = log.iter().flat_map(blocks).collect();
    let all: BTreeSet<u64> = (0..SIZE.div_ceil(BLOCK as u64)).collect();
    assert_eq!(asked, all, "{log:#?}");
    // And then it has nothing of it either.
    all_whole(&fleet.herd("a.bin", &[0, 1, 2], 1));
    all_whole(&fleet.herd("b.bin", &[0, 1, 2], 1));
}

#[test]
fn with_a_state_store_a_member_learns_there_what_it_missed_though_nobody_else_is_left() {
    let moto = Moto::start();
    moto.bucket("state");
    let mut plans = plans(&["a", "c"]);
    for plan in &mut plans {
        plan.sections.push(format!(
            "[state]\nurl = \"s3://state/forebay/\"\noptions = {{ aws_endpoint = {:?}, aws_region = \"us-east-1\", \
             aws_access_key_id = \"AK\", aws_secret_access_key = \"SK\" }}",
            moto.url()
        ));
    }
    let mut fleet = filled(&plans);
    let c = fleet.gateways.remove(1).kill();
    assert_eq!(purge(&fleet.gateways[0], "a.bin"), ["c"]);
    let _ = fleet.gateways.remove(0).kill();
    fleet.revive(&plans[1], &plans, c);
    assert_eq!(missed(&fleet.gateways[0]), 1.0);
    assert_eq!(cost(&fleet, "a.bin", 0), SIZE);
    // Its own part of what was not purged is believed at once.
    assert!(cost(&fleet, "b.bin", 0) < SIZE);
}

#[test]
fn whoever_knows_the_newer_version_from_one_gateway_is_refused_by_none() {
    let names = ["a", "b", "c"].map(Plan::new);
    // The default: every gateway takes the old version for current for 10 s yet.
    let fleet = Fleet::start(&names, Settings::default(), &[]);
    fleet.origin.put("a.bin", SIZE, 0);
    all_whole(&fleet.herd("a.bin", &[0, 1, 2], 1));
    fleet.origin.overwrite("a.bin", None);
    let etag = fleet.origin.object("a.bin").expect("it was put").etag();
    let whole = oracle::bytes("a.bin", 1, usize::try_from(SIZE).expect("a small number"));
    let known = ("If-Match", etag.as_str());
    let answer = fleet.gateways[0]
        .request("GET", "/models/a.bin", &[known])
        .expect(200);
    assert_bytes("at the first", &answer.body, &whole);
    for part in 0..whole.len().div_ceil(BLOCK) {
        let (first, end) = (part * BLOCK, whole.len().min((part + 1) * BLOCK));
        let range = format!("bytes={first}-{}", end - 1);
        let gateway = &fleet.gateways[1 + part % 2];
        let answer = gateway.request("GET", "/models/a.bin", &[known, ("Range", &range)]);
        assert_bytes(&range, &answer.expect(206).body, &whole[first..end]);
    }
    assert_eq!(fleet.origin.counters().bytes_sent, 2 * SIZE);
}

#[test]
fn whoever_knows_the_newer_version_is_refused_by_none_that_asks_the_authority() {
    let names = ["a", "b", "c"].map(Plan::new);
    let fleet = Fleet::start(&names, Settings::default(), &[]);
    // Of several objects some have their authority elsewhere than at the gateway that is asked first.
    for number in 0..8 {
        let key = format!("{number}.bin");
        fleet.origin.put(&key, 17, 0);
        all_whole(&fleet.herd(&key, &[0], 1));
        fleet.origin.overwrite(&key, None);
        let etag = fleet.origin.object(&key).expect("it was put").etag();
        let new = oracle::bytes(&key, 1, 17);
        for gateway in &fleet.gateways[1..] {
            let path = format!("/models/{key}");
            let answer = gateway.request("GET", &path, &[("If-Match", etag.as_str())]);
            assert_bytes(&key, &answer.expect(200).body, &new);
        }
    }
}

#[test]
fn what_never_changes_is_read_through_a_newcomer_after_a_restart_of_all_others() {
    let mut plans = plans(&["a", "c", "edge"]);
    plans[2].weight = 0;
    plans[2].nvme = "0".to_owned();
    let mut fleet = filled(&plans[..2]);
    // They know the versions of what is on their disks, and when these were asked for is long ago.
    let left = [0, 0].map(|_| fleet.gateways.remove(0).kill());
    for (plan, left) in plans.iter().zip(left) {
        fleet.revive(plan, &plans, left);
    }
    fleet.join(&plans[2], &plans);
    fleet.know_each_other();
    assert_eq!(cost(&fleet, "a.bin", 2), 0);
}

#[test]
fn an_overwrite_is_seen_through_every_gateway_within_fresh_for() {
    let names = ["a", "b", "c"].map(Plan::new);
    let fleet = Fleet::start(&names, Settings::default(), &["fresh_for = \"2s\""]);
    fleet.origin.put("a.bin", SIZE, 0);
    for version in 1..4 {
        all_whole(&fleet.herd("a.bin", &[0, 1, 2], 1));
        fleet.origin.overwrite("a.bin", None);
        // That is what it promises: no event says so.
        std::thread::sleep(Duration::from_secs(2));
        for read in fleet.herd("a.bin", &[0, 1, 2], 2) {
            assert_eq!(
                (read.version, &read.outcome),
                (Some(version), &Outcome::Whole)
            );
        }
    }
}
