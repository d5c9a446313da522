//! The ways that bytes take through a fleet: how many requests, how often between zones, which version, and around what is
//! cut.

use std::time::{Duration, Instant};

use forebay_loadtest::client::Outcome;
use forebay_loadtest::origin::Settings;
use forebay_tests::fleet::{Fleet, Plan};
use forebay_tests::oracle::BLOCK;
use forebay_tests::process::Signal;
use forebay_tests::relay::Gate;
use forebay_tests::until;

const SIZE: u64 = 24 * BLOCK as u64 + 17;

/// Blocks that one request asks for at most, and that a reader opens first.
const RUN: usize = 8;
const WINDOW: usize = 16;

/// The owner of each block of an object whose extents are blocks.
fn owners(fleet: &Fleet, key: &str) -> Vec<String> {
    let plan = fleet.gateways[0].json(&format!("/-/plan/models/{key}"));
    let extents = plan["extents"].as_array().expect("extents");
    extents
        .iter()
        .map(|extent| extent["member"].as_str().expect("a name").to_owned())
        .collect()
}

#[test]
fn blocks_that_follow_each_other_and_have_one_owner_are_one_request() {
    let plans: Vec<Plan> = ["a", "b"].map(Plan::new).into();
    let fleet = Fleet::start(&plans, Settings::default(), &["fresh_for = \"10m\""]);
    fleet.origin.put("a.bin", SIZE, 0);
    let owners = owners(&fleet, "a.bin");
    // The plan has asked for the version; the blocks are cold.
    assert_eq!(fleet.origin.counters().gets, 0);
    let mut requests = [0usize; 2];
    for (index, owner) in owners.iter().enumerate() {
        let goes_on = index > 0 && owners[index - 1] == *owner && !index.is_multiple_of(RUN);
        requests[usize::from(owner == "b")] += usize::from(!goes_on);
    }
    for read in fleet.herd("a.bin", &[0], 1) {
        assert_eq!(read.outcome, Outcome::Whole, "{read:?}");
    }
    let gets = fleet.origin.counters().gets as usize;
    let blocks = owners.len();
    assert!(gets < blocks, "{gets} GETs for {blocks} blocks");
    // Where a reader's window ends, and at every eighth block, a request may end too.
    let most = requests.iter().sum::<usize>() + blocks / RUN + blocks / WINDOW;
    assert!(gets <= most, "{gets} GETs, {most} expected: {owners:?}");
    let asked = fleet.gateways[0].metric("forebay_peer_requests_total", &[]) as usize;
    assert!(
        asked <= requests[1] + blocks / RUN + blocks / WINDOW + 1,
        "{asked} questions: {owners:?}"
    );
}

#[test]
fn a_run_of_several_extents_whose_owner_dies_is_had_elsewhere() {
    let plans: Vec<Plan> = ["a", "b"].map(Plan::new).into();
    let slow = Settings {
        connection_rate: Some(4_000_000),
        first_byte: Duration::from_millis(30),
        ..Settings::default()
    };
    let mut fleet = Fleet::start(&plans, slow, &["fresh_for = \"10m\""]);
    fleet.origin.put("a.bin", SIZE, 0);
    let victim = fleet.gateways.remove(1);
    let url = format!("{}/models", fleet.gateways[0].url());
    let reading = fleet.runtime.spawn(async move {
        let client = forebay_loadtest::client::Client::new(&url).expect("a URL");
        let mut client = client.patience(Duration::from_secs(60));
        let ask =
            forebay_loadtest::client::Ask::new("a.bin", forebay_loadtest::client::Want::Whole);
        client.read(&ask).await
    });
    until(Duration::from_secs(10), "bytes from the peer", || {
        let crossed = fleet.gateways[0].metric("forebay_peer_bytes_total", &[]);
        (crossed > 0.0).then_some(())
    });
    let _ = victim.kill();
    let read = fleet.runtime.block_on(reading).expect("no reader panics");
    assert_eq!(read.outcome, Outcome::Whole, "{read:?}");
    let broken = fleet.gateways[0].metric("forebay_peer_fills_broken_total", &[]);
    assert!(broken > 0.0, "the owner died in the middle of a run");
}

#[test]
fn a_block_crosses_from_zone_to_zone_once() {
    let mut plans: Vec<Plan> = ["a", "b", "c", "d"].map(Plan::new).into();
    for plan in &mut plans[2..] {
        plan.zone = "there".to_owned();
    }
    let fleet = Fleet::start(&plans, Settings::default(), &["fresh_for = \"10m\""]);
    fleet.origin.put("a.bin", SIZE, 0);
    let foreign = owners(&fleet, "a.bin");
    let foreign = foreign.iter().filter(|owner| owner.as_str() < "c");
    let foreign = foreign.count() as u64 * BLOCK as u64;
    assert!(foreign > 0);
    for _ in 0..3 {
        for read in fleet.herd("a.bin", &[2, 3], 4) {
            assert_eq!(read.outcome, Outcome::Whole, "{read:?}");
        }
    }
    assert_eq!(fleet.origin.counters().bytes_sent, SIZE);
    // Nobody here was asked by a client: what they sent went there, each block once, with its checksums.
    let sent: f64 = fleet.gateways[..2]
        .iter()
        .map(|gateway| gateway.metric("forebay_peer_bytes_total", &[("direction", "sent")]))
        .sum();
    let most = foreign as f64 * 1.001 + BLOCK as f64 * 0.5;
    assert!(sent <= most, "{sent} crossed, {foreign} are owned here");
    assert!(sent >= foreign as f64 - BLOCK as f64, "{sent} of {foreign}");
}

#[test]
fn a_member_that_knows_an_old_version_is_told_so_and_its_client_gets_the_new_one_whole() {
    let plans: Vec<Plan> = ["a", "b", "c"].map(Plan::new).into();
    let fleet = Fleet::start(&plans, Settings::default(), &["fresh_for = \"10m\""]);
    fleet.origin.put("a.bin", SIZE, 0);
    let owners = owners(&fleet, "a.bin");
    // A block of another's that nobody has yet, and not the authority's own first.
    let cold = (1..owners.len()).find(|index| owners[*index] != "a");
    let cold = cold.expect("others own something");
    fleet.origin.overwrite("a.bin", None);
    let etag = fleet.origin.object("a.bin").expect("it was put").etag();
    let range = format!("bytes={}-{}", cold * BLOCK, cold * BLOCK + 9);
    let answer = fleet.gateways[0].range("/models/a.bin", &range).expect(206);
    assert_eq!(answer.need("etag"), etag);
    let told = fleet.metric("forebay_peer_answers_total", &[("status", "412")]);
    assert!(told > 0.0, "the owner was asked for a version that is gone");
}

#[test]
fn settings_that_differ_after_a_reload_are_shown_by_the_others() {
    let plans: Vec<Plan> = ["a", "b"].map(Plan::new).into();
    let fleet = Fleet::start(&plans, Settings::default(), &["fresh_for = \"10m\""]);
    let same = |wanted: bool| {
        until(Duration::from_secs(10), "what b is seen to have", || {
            let ring = fleet.gateways[0].json("/-/ring");
            let members = ring["members"].as_array()?.iter();
            let mut others = members.filter(|member| member["name"] == "b");
            (others.next()?["same_settings"] == wanted).then_some(())
        });
    };
    same(true);
    let config = fleet.gateways[1].config();
    let before = std::fs::read_to_string(&config).expect("the settings are there");
    let directory = config.parent().expect("a file lies in a directory");
    let more = format!("[[datasets]]\nname = \"more\"\norigin = {directory:?}\n");
    let changed = before.replacen("[[datasets]]", &format!("{more}[[datasets]]"), 1);
    std::fs::write(&config, changed).expect("the settings are written");
    fleet.gateways[1].process().signal(Signal::HUP);
    same(false);
    std::fs::write(&config, before).expect("the settings are written");
    fleet.gateways[1].process().signal(Signal::HUP);
    same(true);
}

#[test]
fn a_byte_read_at_an_edge_crosses_once_and_is_kept_there() {
    let mut plans: Vec<Plan> = ["a", "b", "c", "edge"].map(Plan::new).into();
    plans[3].weight = 0;
    // Half of it fits into what a member keeps of others, all of it into what an edge does.
    plans[3].memory = "64MiB".to_owned();
    let fleet = Fleet::start(&plans, Settings::default(), &["fresh_for = \"10m\""]);
    fleet.origin.put("a.bin", SIZE, 0);
    let crossed = |index: usize, way: &str| {
        fleet.gateways[index].metric("forebay_peer_bytes_total", &[("direction", way)])
    };
    for _ in 0..2 {
        for read in fleet.herd("a.bin", &[3], 1) {
            assert_eq!(read.outcome, Outcome::Whole, "{read:?}");
        }
        let received = crossed(3, "received");
        // With 8 bytes of checksum for each 64 KiB.
        let most = SIZE as f64 * 1.001;
        assert!((SIZE as f64..most).contains(&received), "{received} bytes");
        for member in 0..3 {
            assert_eq!(crossed(member, "received"), 0.0, "of a member");
        }
    }
    assert_eq!(fleet.origin.counters().bytes_sent, SIZE);
    let asked = fleet.gateways[3].metric("forebay_origin_requests_total", &[]);
    assert_eq!((asked, crossed(3, "sent")), (0.0, 0.0));
}

#[test]
fn a_member_whose_way_to_the_origin_is_cut_serves_its_clients_by_another() {
    let mut plans: Vec<Plan> = ["a", "b", "c"].map(Plan::new).into();
    let gate = Gate::default();
    plans[0].gate = Some(gate.clone());
    let fleet = Fleet::start(&plans, Settings::default(), &["fresh_for = \"10m\""]);
    let came = || fleet.gateways[0].metric("forebay_origin_bytes_total", &[]);
    let whole = |key: &str| {
        fleet.origin.put(key, SIZE, 0);
        let begun = Instant::now();
        let read = fleet.herd(key, &[0], 1).remove(0);
        assert_eq!(read.outcome, Outcome::Whole, "{read:?}");
        begun.elapsed()
    };
    let _ = whole("before.bin");
    let before = came();
    assert!(before > 0.0, "a third of the extents are its own");
    gate.close();
    let begun = Instant::now();
    // So long that what begins it, what goes on and what the breaker makes of it is seen.
    for place in 0.. {
        let took = whole(&format!("{place}.bin"));
        // One question that nobody answers is waited for at a time: for the version, and for what one request brings.
        assert!(took < Duration::from_secs(4), "{took:?} for read {place}");
        if begun.elapsed() > Duration::from_secs(6) {
            break;
        }
    }
    assert_eq!(came(), before);
    gate.open();
    until(
        Duration::from_secs(20),
        "its own way to be used again",
        || {
            let _ = whole(&format!("after-{:?}.bin", begun.elapsed()));
            (came() > before).then_some(())
        },
    );
}
