//! Several gateways, one cache: once per fleet, whoever dies, freezes or lies.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use forebay_loadtest::client::{Ask, Client, Outcome, Read, Want};
use forebay_loadtest::origin::Settings;
use forebay_tests::fleet::{Fleet, Plan};
use forebay_tests::oracle::BLOCK;
use forebay_tests::process::Signal;
use forebay_tests::until;

const SIZE: u64 = 24 * BLOCK as u64 + 17;

fn plans() -> Vec<Plan> {
    ["a", "b", "c"].map(Plan::new).into()
}

/// An origin that takes its time, so that a herd meets while the first bytes are still to come.
fn slow() -> Settings {
    Settings {
        first_byte: Duration::from_millis(30),
        ..Settings::default()
    }
}

fn all_whole(reads: &[Read]) {
    for read in reads {
        assert_eq!(read.outcome, Outcome::Whole, "{read:?}");
    }
}

#[test]
fn a_herd_on_any_gateways_costs_one_origin_read_a_block_and_one_question() {
    let fleet = Fleet::start(&plans(), slow(), &["fresh_for = \"10m\""]);
    fleet.origin.put("herd", SIZE, 0);
    fleet.origin.log_requests(true);
    all_whole(&fleet.herd("herd", &[0, 1, 2], 10));
    let counters = fleet.origin.counters();
    let log = fleet.origin.take_log();
    assert_eq!(counters.bytes_sent, SIZE, "{log:#?}");
    let ranges: BTreeSet<_> = log.iter().map(|asked| asked.range.clone()).collect();
    assert_eq!(
        ranges.len() as u64,
        counters.gets,
        "a range was read twice: {log:#?}"
    );
    assert_eq!(
        counters.heads, 0,
        "the first block's answer tells the version"
    );
    // Again, from what is resident: copies or peers, not the origin.
    all_whole(&fleet.herd("herd", &[2, 1, 0], 5));
    for gateway in &fleet.gateways {
        let _ = gateway.request("HEAD", "/models/herd", &[]).expect(200);
    }
    let after = fleet.origin.counters();
    assert_eq!((after.bytes_sent, after.heads), (SIZE, 0));
    let peers = fleet.metric("forebay_response_bytes_total", &[("source", "peer")]);
    assert!(peers > 0.0);
    assert_eq!(fleet.metric("forebay_last_resort_reads_total", &[]), 0.0);
}

#[test]
fn a_question_about_the_version_is_asked_once_and_has_its_age() {
    let fleet = Fleet::start(&plans(), slow(), &["fresh_for = \"10m\""]);
    fleet.origin.put("a.bin", SIZE, 0);
    for gateway in &fleet.gateways {
        let answer = gateway.request("HEAD", "/models/a.bin", &[]).expect(200);
        assert_eq!(answer.need("content-length"), SIZE.to_string());
    }
    assert_eq!(fleet.origin.counters().heads, 1);
    let missing = fleet.gateways[0].get("/models/nothing").expect(404);
    assert_eq!(missing.xml("Code").as_deref(), Some("NoSuchKey"));
}

#[test]
fn what_a_peer_had_is_a_hit_and_says_so() {
    let fleet = Fleet::start(&plans(), slow(), &["fresh_for = \"10m\""]);
    fleet.origin.put("a.bin", 17, 0);
    let said: Vec<String> = fleet
        .gateways
        .iter()
        .map(|gateway| {
            let answer = gateway.get("/models/a.bin").expect(200);
            answer.need("cache-status").to_owned()
        })
        .collect();
    // The first to be asked misses; of the others, who is not the owner has it from a peer.
    assert_eq!(said[0], "forebay; fwd=miss");
    assert!(
        said[1..]
            .iter()
            .any(|said| said == "forebay; hit; detail=\"peer\""),
        "{said:?}"
    );
    assert_eq!(fleet.origin.counters().bytes_sent, 17);
}

#[test]
fn an_overwrite_is_seen_through_the_authority_within_fresh_for_and_never_undone() {
    let fleet = Fleet::start(&plans(), slow(), &["fresh_for = \"500ms\""]);
    fleet.origin.put("a.bin", SIZE, 0);
    all_whole(&fleet.herd("a.bin", &[0, 1, 2], 1));
    fleet.origin.overwrite("a.bin", None);
    let overwritten = Instant::now();
    let mut seen = [0; 3];
    until(Duration::from_secs(4), "the overwrite everywhere", || {
        for (index, last) in seen.iter_mut().enumerate() {
            let reads = fleet.herd("a.bin", &[index], 1);
            all_whole(&reads);
            let version = reads[0].version.unwrap_or(0);
            assert!(version >= *last, "gateway {index} went back to {version}");
            *last = version;
        }
        (seen == [1; 3]).then_some(())
    });
    assert!(overwritten.elapsed() < Duration::from_secs(4));
    // A client that knows more is believed to: the question goes to the authority, and on.
    fleet.origin.overwrite("a.bin", None);
    let etag = fleet.origin.object("a.bin").expect("it was put").etag();
    for gateway in &fleet.gateways {
        let known = [("If-Match", etag.as_str()), ("Range", "bytes=0-9")];
        let _ = gateway.request("GET", "/models/a.bin", &known).expect(206);
    }
}

#[test]
fn a_member_killed_under_load_fails_no_read() {
    let mut fleet = Fleet::start(&plans(), slow(), &["fresh_for = \"10m\""]);
    for object in 0..8 {
        fleet.origin.put(&format!("{object}.bin"), SIZE, 0);
    }
    let urls: Vec<String> = [0, 2]
        .map(|index: usize| format!("{}/models", fleet.gateways[index].url()))
        .into();
    let (over, done) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(0)),
    );
    let readers: Vec<_> = (0..8)
        .map(|reader| {
            let (over, done) = (Arc::clone(&over), Arc::clone(&done));
            let mut client = Client::new(&urls[reader % 2]).expect("a URL");
            fleet.runtime.spawn(async move {
                let mut reads = Vec::new();
                for round in 0.. {
                    let key = format!("{}.bin", (reader + round) % 8);
                    reads.push(client.read(&Ask::new(&key, Want::Whole)).await);
                    done.fetch_add(1, Ordering::Relaxed);
                    if over.load(Ordering::Relaxed) {
                        break;
                    }
                }
                reads
            })
        })
        .collect();
    until(Duration::from_secs(30), "the first reads", || {
        (done.load(Ordering::Relaxed) >= 4).then_some(())
    });
    let _ = fleet.gateways.remove(1).kill();
    let then = done.load(Ordering::Relaxed);
    until(Duration::from_secs(30), "reads after the kill", || {
        (done.load(Ordering::Relaxed) >= then + 24).then_some(())
    });
    over.store(true, Ordering::Relaxed);
    for reader in readers {
        let reads = fleet.runtime.block_on(reader).expect("no reader panics");
        all_whole(&reads);
    }
    // What is cold by now has another owner's stand-in, and no last resort.
    fleet.origin.put("cold.bin", SIZE, 0);
    all_whole(&fleet.herd("cold.bin", &[0, 1], 2));
    let ring = fleet.gateways[0].json("/-/ring");
    let members = ring["members"].as_array().expect("members");
    let dead = members.iter().find(|member| member["name"] == "b");
    assert_eq!(dead.expect("it is still known")["state"], "silent");
}

#[test]
fn a_frozen_owner_costs_time_and_nothing_else() {
    let settings = Settings {
        connection_rate: Some(20_000_000),
        ..slow()
    };
    let fleet = Fleet::start(&plans(), settings, &["fresh_for = \"10m\""]);
    fleet.origin.put("a.bin", SIZE, 0);
    let frozen = std::thread::scope(|scope| {
        let reads = scope.spawn(|| fleet.herd("a.bin", &[0, 2], 10));
        // In mid-fill: some of it has crossed by then.
        until(Duration::from_secs(10), "bytes from peers", || {
            let crossed = fleet.gateways[0].metric("forebay_peer_bytes_total", &[]);
            (crossed > 0.0).then_some(())
        });
        fleet.gateways[1].process().signal(Signal::STOP);
        std::thread::sleep(Duration::from_secs(5));
        fleet.gateways[1].process().signal(Signal::CONT);
        reads.join().expect("no reader panics")
    });
    all_whole(&frozen);
    // Nobody waited for the thaw.
    let slowest = frozen.iter().map(|read| read.took).max();
    assert!(slowest < Some(Duration::from_millis(4500)), "{slowest:?}");
    // Once thawed it is asked again.
    until(Duration::from_secs(10), "its return", || {
        let alive = fleet.gateways[0].metric("forebay_members", &[("state", "alive")]);
        (alive >= 3.0).then_some(())
    });
    let read = fleet.origin.counters().bytes_sent;
    assert!(read <= SIZE * 3 / 2, "{read} of {SIZE} were read");
}

#[test]
fn two_gateways_that_name_each_other_as_owner_serve_200_readers() {
    // Each has little memory, and takes the other for the only member: every block is the other's.
    let mut plans: Vec<Plan> = ["a", "b"].map(Plan::new).into();
    for plan in &mut plans {
        plan.memory = "64MiB".to_owned();
    }
    let as_seen = plans.clone();
    for (index, plan) in plans.iter_mut().enumerate() {
        plan.others = Some(vec![as_seen[1 - index].clone()]);
        plan.weight = 0;
    }
    let fleet = Fleet::start(&plans, slow(), &["fresh_for = \"10m\""]);
    let size = 48 * BLOCK as u64;
    fleet.origin.put("a.bin", size, 0);
    let begun = Instant::now();
    let progress = Arc::new(AtomicBool::new(true));
    let reads = std::thread::scope(|scope| {
        let watched = Arc::clone(&progress);
        let fleet = &fleet;
        let watcher = scope.spawn(move || longest_gap(fleet, &watched));
        let reads = fleet.herd("a.bin", &[0, 1], 100);
        progress.store(false, Ordering::Relaxed);
        let gap = watcher.join().expect("the watcher does not panic");
        assert!(gap < Duration::from_secs(1), "nothing left for {gap:?}");
        reads
    });
    all_whole(&reads);
    println!("200 readers of 48 MiB: {:?}", begun.elapsed());
}

/// The longest time in which nothing left any of the gateways' sockets for clients, seen from outside: the
/// bytes that both processes wrote.
fn longest_gap(fleet: &Fleet, on: &AtomicBool) -> Duration {
    let written = || -> u64 {
        let pids = fleet.gateways.iter().map(|gateway| gateway.process().pid());
        let sums = pids.map(|pid| {
            let io = std::fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
            let line = io.lines().find_map(|line| line.strip_prefix("wchar: "));
            line.and_then(|bytes| bytes.parse().ok()).unwrap_or(0u64)
        });
        sums.sum()
    };
    let (mut last, mut since, mut longest) = (written(), Instant::now(), Duration::ZERO);
    while on.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(20));
        let now = written();
        longest = longest.max(since.elapsed());
        if now > last {
            (last, since) = (now, Instant::now());
        }
    }
    longest
}

#[test]
fn another_key_is_refused_logged_once_and_counted() {
    let mut plans = plans();
    plans.truncate(2);
    plans[1].key = "the key of another fleet".to_owned();
    for plan in &mut plans {
        plan.allowed.push("refused".to_owned());
        plan.allowed.push("key".to_owned());
    }
    let fleet = Fleet::start(&plans, slow(), &["fresh_for = \"10m\""]);
    fleet.origin.put("a.bin", SIZE, 0);
    all_whole(&fleet.herd("a.bin", &[0, 1], 3));
    let refused = fleet.metric("forebay_peer_refusals_total", &[("reason", "key")]);
    assert!(refused > 0.0);
    let mut told_in_all = 0;
    for gateway in &fleet.gateways {
        let log = gateway.process().stderr();
        let told = log.matches("has another key").count();
        assert!(told <= 1, "{log}");
        assert!(!log.contains("the key of"));
        told_in_all += told;
    }
    assert!(told_in_all > 0, "nobody said so");
}

#[test]
fn a_purge_reaches_every_member_and_says_who_did_not_answer() {
    let mut fleet = Fleet::start(&plans(), slow(), &["fresh_for = \"10m\""]);
    fleet.origin.put("a.bin", SIZE, 0);
    all_whole(&fleet.herd("a.bin", &[0, 1, 2], 1));
    let purge = |fleet: &Fleet| {
        let answer = fleet.gateways[0].request("POST", "/-/purge/models/a.bin", &[]);
        let text = answer.expect(200).text();
        serde_json::from_str::<serde_json::Value>(&text).expect("JSON")
    };
    let purged = purge(&fleet);
    assert_eq!(purged["absent_members"], serde_json::json!([]));
    assert!(purged["bytes"].as_u64() >= Some(SIZE), "{purged}");
    assert_eq!(
        fleet.metric("forebay_cache_blocks", &[("tier", "memory")]),
        0.0
    );
    let _ = fleet.gateways.remove(2).kill();
    let purged = purge(&fleet);
    assert_eq!(purged["absent_members"], serde_json::json!(["c"]));
    let output = fleet.gateways[0].client(&["purge", "models/a.bin"]);
    assert!(
        !output.status.success(),
        "a purge that missed a member says so"
    );
}

/// Three members and an edge, through which and through the first the object `d/a b.bin` was read.
fn four_with_an_edge(size: u64) -> (Vec<Plan>, Fleet) {
    let mut plans = plans();
    plans.push(Plan {
        weight: 0,
        ..Plan::new("edge")
    });
    let fleet = Fleet::start(&plans, slow(), &["fresh_for = \"10m\""]);
    fleet.origin.put("d/a b.bin", size, 0);
    all_whole(&fleet.herd("d/a b.bin", &[0, 3], 1));
    (plans, fleet)
}

#[test]
fn the_ring_tells_of_every_member() {
    let (plans, fleet) = four_with_an_edge(17);
    let ring = fleet.gateways[3].json("/-/ring");
    assert_eq!(
        (ring["fleet"].as_str(), ring["self"].as_str()),
        (Some("test"), Some("edge"))
    );
    assert_eq!(ring["epoch"], fleet.gateways[0].json("/-/ring")["epoch"]);
    let members = ring["members"].as_array().expect("members");
    assert_eq!(members.len(), 4);
    let share: f64 = members
        .iter()
        .filter_map(|member| member["share"].as_f64())
        .sum();
    assert!((share - 1.0).abs() < 1e-6, "{ring}");
    for (member, plan) in members.iter().zip(&plans) {
        assert_eq!(member["name"], plan.name.as_str());
        assert_eq!(member["address"], plan.fleet.to_string());
        assert_eq!(member["client_url"], format!("http://{}", plan.client));
        assert_eq!(member["state"], "alive");
        assert_eq!(member["zone"], "here");
    }
    for words in [&["ring"][..], &["status"]] {
        let output = fleet.gateways[0].client(words);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let client = plans[0].client.to_string();
        assert!(output.status.success() && text.contains(&client), "{text}");
    }
}

#[test]
fn plan_blocks_and_datasets_tell_who_owns_and_who_holds() {
    let size = 6 * BLOCK as u64 + 17;
    let (plans, fleet) = four_with_an_edge(size);
    let ring = fleet.gateways[3].json("/-/ring");
    let planned = fleet.gateways[3].json("/-/plan/models/d/a%20b.bin");
    assert_eq!(
        (planned["size"].as_u64(), &planned["epoch"]),
        (Some(size), &ring["epoch"])
    );
    let extents = planned["extents"].as_array().expect("extents");
    assert_eq!(extents.len(), 7);
    let mut next = 0;
    for extent in extents {
        assert_eq!(extent["first"].as_u64(), Some(next));
        next = extent["last"].as_u64().expect("a number") + 1;
        let plan = plans
            .iter()
            .find(|plan| extent["member"] == plan.name.as_str());
        let plan = plan.expect("a member of the fleet");
        assert!(plan.weight > 0);
        assert_eq!(
            extent["url"],
            format!("http://{}/models/d/a%20b.bin", plan.client)
        );
    }
    assert_eq!(next, size);

    let blocks = fleet.gateways[3].json("/-/blocks/models/d/a%20b.bin");
    for (block, extent) in blocks["blocks"]
        .as_array()
        .expect("blocks")
        .iter()
        .zip(extents)
    {
        assert_eq!(block["owner"], extent["member"]);
        let holders = block["holders"].as_array().expect("holders");
        assert!(
            holders
                .iter()
                .any(|holder| holder["member"] == extent["member"]),
            "{block}"
        );
        assert!(
            holders.iter().any(|holder| holder["member"] == "edge"),
            "{block}"
        );
    }

    let datasets = fleet.gateways[1].json("/-/datasets?scope=fleet");
    let models = &datasets["datasets"][0];
    assert_eq!(models["origin_bytes_read"].as_u64(), Some(size));
    assert!(
        models["resident_bytes"].as_u64() >= Some(2 * size),
        "{models}"
    );
    let output = fleet.gateways[0].client(&["plan", "models/d/a b.bin"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success() && text.contains("/models/d/a%20b.bin"),
        "{text}"
    );
}

#[test]
fn a_drained_member_owns_nothing_wants_no_traffic_and_answers() {
    let (plans, fleet) = four_with_an_edge(17);
    let output = fleet.gateways[0].client(&["drain"]);
    assert!(output.status.success());
    assert_eq!(fleet.gateways[0].get("/-/readyz").status, 503);
    until(Duration::from_secs(10), "its place to be given up", || {
        let ring = fleet.gateways[1].json("/-/ring");
        let members = ring["members"].as_array()?.iter();
        let name = plans[0].name.as_str();
        let drained = members.into_iter().find(|member| member["name"] == name)?;
        (drained["state"] == "draining" && drained["share"] == 0.0).then_some(())
    });
    let _ = fleet.gateways[0].get("/models/d/a%20b.bin").expect(200);
}
