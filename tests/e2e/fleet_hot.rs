//! Hot blocks: owners that have more to send than their link takes name a member that has it, and that one gives it.

use forebay_loadtest::client::Outcome;
use forebay_loadtest::origin::Settings;
use forebay_tests::fleet::{Fleet, Plan};
use forebay_tests::oracle::BLOCK;

const SIZE: u64 = 24 * BLOCK as u64 + 17;

/// Four members that take their links for full, whatever leaves; the first has so much memory.
fn busy(memory: &str) -> Fleet {
    let mut plans = ["a", "b", "c", "d"].map(Plan::new);
    for plan in &mut plans {
        plan.busy = true;
    }
    plans[0].memory = memory.to_owned();
    Fleet::start(&plans, Settings::default(), &["fresh_for = \"10m\""])
}

fn read(fleet: &Fleet, key: &str, through: usize) {
    for read in fleet.herd(key, &[through], 1) {
        assert_eq!(read.outcome, Outcome::Whole, "{read:?}");
    }
}

/// Bytes that each has sent to others.
fn sent(fleet: &Fleet) -> Vec<f64> {
    let sent = |index: usize| {
        let way = [("direction", "sent")];
        fleet.gateways[index].metric("forebay_peer_bytes_total", &way)
    };
    (0..fleet.gateways.len()).map(sent).collect()
}

fn redirects(fleet: &Fleet, outcome: &str) -> f64 {
    fleet.metric("forebay_peer_redirects_total", &[("outcome", outcome)])
}

#[test]
fn a_busy_owner_names_who_has_it_once_and_that_one_gives_it() {
    let fleet = busy("256MiB");
    fleet.origin.put("a.bin", SIZE, 0);
    read(&fleet, "a.bin", 0);
    assert_eq!(redirects(&fleet, "sent"), 0.0, "nobody else has it yet");
    let before = sent(&fleet);
    read(&fleet, "a.bin", 1);
    let after = sent(&fleet);
    assert!(redirects(&fleet, "sent") > 0.0);
    assert_eq!(redirects(&fleet, "followed"), redirects(&fleet, "sent"));
    assert_eq!(redirects(&fleet, "denied"), 0.0);
    // All that the second does not own came from the first, also what the others own; the answer about the version and
    // what comes with it is never sent elsewhere.
    let own = BLOCK as f64 * 1.001;
    for index in 2..4 {
        let more = after[index] - before[index];
        assert!(more <= own, "an owner sent {more} bytes more");
    }
    assert!(after[0] - before[0] > SIZE as f64 / 2.0);
    assert_eq!(fleet.origin.counters().bytes_sent, SIZE);
    // Whoever may be named is served: what it lost is not to be had from those who were sent to it.
    let named = redirects(&fleet, "sent");
    for gateway in &fleet.gateways {
        let purge = "/-/purge/models/a.bin?tier=memory";
        let _ = gateway.request("POST", purge, &[]).expect(200);
    }
    read(&fleet, "a.bin", 0);
    assert_eq!(redirects(&fleet, "sent"), named);
}

#[test]
fn who_is_named_and_has_it_no_more_says_no_and_the_owner_serves() {
    // What it keeps of others is less than half of what it reads.
    let fleet = busy("64MiB");
    for key in ["a.bin", "b.bin"] {
        fleet.origin.put(key, SIZE, 0);
        read(&fleet, key, 0);
    }
    read(&fleet, "a.bin", 1);
    let (sent, denied) = (redirects(&fleet, "sent"), redirects(&fleet, "denied"));
    assert!(denied > 0.0);
    assert_eq!(denied + redirects(&fleet, "followed"), sent);
    assert_eq!(fleet.origin.counters().bytes_sent, 2 * SIZE);
    // No owner sends anybody there twice: only what the second owns itself was never asked for by it.
    let plan = fleet.gateways[0].json("/-/plan/models/a.bin");
    let extents = plan["extents"].as_array().expect("extents").iter();
    let of_the_second = extents.filter(|extent| extent["member"] == "b").count() as f64;
    read(&fleet, "a.bin", 2);
    let more = redirects(&fleet, "denied") - denied;
    assert!(more <= of_the_second, "{more} of {of_the_second}: {plan}");
}

#[test]
fn a_member_of_the_release_before_is_never_sent_elsewhere() {
    let mut plans = ["a", "b", "c", "d"].map(Plan::new);
    for plan in &mut plans {
        plan.busy = true;
    }
    plans[1].protocol = Some(1);
    let fleet = Fleet::start(&plans, Settings::default(), &["fresh_for = \"10m\""]);
    fleet.origin.put("a.bin", SIZE, 0);
    read(&fleet, "a.bin", 0);
    read(&fleet, "a.bin", 1);
    assert_eq!(redirects(&fleet, "sent"), 0.0);
    read(&fleet, "a.bin", 2);
    assert!(redirects(&fleet, "sent") > 0.0);
    assert_eq!(fleet.origin.counters().bytes_sent, SIZE);
}
