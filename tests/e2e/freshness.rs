//! Overwrites, deletes, `immutable`, `stale_for`, negative answers.

use std::time::{Duration, Instant};

use forebay_tests::cluster::{Gateway, Setup, command};
use forebay_tests::oracle::{self, BLOCK, assert_bytes};
use forebay_tests::servers::moto::Moto;
use forebay_tests::until;

const SIZE: usize = 2 * BLOCK + 17;
const FRESH_FOR: Duration = Duration::from_millis(500);
/// What a bound may be passed by on a busy machine of two cores.
const SLACK: Duration = Duration::from_millis(1500);

fn start(line: &str) -> (Moto, Gateway) {
    let origin = Moto::start();
    origin.bucket("weights");
    origin.put("weights", "a.bin", &version(1));
    let mut dataset = origin.dataset("models", "weights");
    for line in line.split(';') {
        dataset = dataset.line(line);
    }
    let gateway = Setup::of([dataset]).allow("origin").start();
    (origin, gateway)
}

fn version(version: u64) -> Vec<u8> {
    oracle::bytes("a.bin", version, SIZE)
}

fn origin_requests(gateway: &Gateway) -> f64 {
    gateway.metric("forebay_origin_requests_total", &[("dataset", "models")])
}

#[test]
fn an_overwrite_shows_within_fresh_for_and_no_body_mixes() {
    let (origin, gateway) = start("fresh_for = \"500ms\"");
    for next in 2..5 {
        let before = gateway.get("/models/a.bin").expect(200);
        assert_bytes("before", &before.body, &version(next - 1));
        origin.put("weights", "a.bin", &version(next));
        let overwritten = Instant::now();
        until(FRESH_FOR + SLACK, "the overwrite", || {
            let answer = gateway.get("/models/a.bin").expect(200);
            let new = answer.body == version(next);
            assert!(
                new || answer.body == version(next - 1),
                "a body of neither version"
            );
            assert_eq!(answer.need("content-length"), answer.body.len().to_string());
            new.then_some(())
        });
        assert!(overwritten.elapsed() < FRESH_FOR + SLACK);
    }
}

#[test]
fn an_overwrite_of_another_size_shows_too() {
    let (origin, gateway) = start("fresh_for = \"500ms\"");
    let _ = gateway.get("/models/a.bin").expect(200);
    for size in [100, 0, 3 * BLOCK] {
        origin.put("weights", "a.bin", &oracle::bytes("a.bin", 9, size));
        until(FRESH_FOR + SLACK, "the overwrite", || {
            let answer = gateway.get("/models/a.bin").expect(200);
            (answer.body == oracle::bytes("a.bin", 9, size)).then_some(())
        });
    }
}

#[test]
fn a_gateway_never_goes_back_to_a_version_it_has_seen_replaced() {
    let (origin, gateway) = start("fresh_for = \"500ms\"");
    let _ = gateway.get("/models/a.bin").expect(200);
    origin.put("weights", "a.bin", &version(2));
    until(FRESH_FOR + SLACK, "the overwrite", || {
        (gateway.get("/models/a.bin").expect(200).body == version(2)).then_some(())
    });
    for _ in 0..30 {
        assert_bytes(
            "still new",
            &gateway.get("/models/a.bin").expect(200).body,
            &version(2),
        );
    }
}

#[test]
fn an_immutable_dataset_asks_once() {
    let (origin, gateway) = start("immutable = true");
    let _ = gateway.get("/models/a.bin").expect(200);
    let asked = origin_requests(&gateway);
    origin.put("weights", "a.bin", &version(2));
    for _ in 0..5 {
        assert_bytes(
            "immutable",
            &gateway.get("/models/a.bin").expect(200).body,
            &version(1),
        );
        let _ = gateway.request("HEAD", "/models/a.bin", &[]).expect(200);
    }
    assert_eq!(origin_requests(&gateway), asked);
}

#[test]
fn within_fresh_for_nothing_is_asked() {
    let (_origin, gateway) = start("fresh_for = \"10m\"");
    let _ = gateway.get("/models/a.bin").expect(200);
    let asked = origin_requests(&gateway);
    for _ in 0..5 {
        let _ = gateway.range("/models/a.bin", "bytes=-10").expect(206);
        let _ = gateway.request("HEAD", "/models/a.bin", &[]).expect(200);
    }
    assert_eq!(origin_requests(&gateway), asked);
}

#[test]
fn a_delete_shows_within_fresh_for() {
    let (origin, gateway) = start("fresh_for = \"500ms\"");
    let _ = gateway.get("/models/a.bin").expect(200);
    origin.delete("weights", "a.bin");
    until(FRESH_FOR + SLACK, "the delete", || {
        (gateway.get("/models/a.bin").status == 404).then_some(())
    });
}

#[test]
fn a_404_is_remembered_for_a_second_at_most() {
    let (origin, gateway) = start("fresh_for = \"10m\"");
    let _ = gateway.get("/models/new.bin").expect(404);
    origin.put("weights", "new.bin", b"here");
    let answer = until(Duration::from_secs(1) + SLACK, "the new object", || {
        let answer = gateway.get("/models/new.bin");
        (answer.status == 200).then_some(answer)
    });
    assert_eq!(answer.body, b"here");
}

#[test]
fn a_known_version_is_served_stale_while_the_origin_is_gone() {
    let (mut origin, gateway) = start("fresh_for = \"200ms\";stale_for = \"10m\"");
    let _ = gateway.get("/models/a.bin").expect(200);
    origin.kill();
    let status = until(Duration::from_secs(5), "a stale answer", || {
        let answer = gateway.get("/models/a.bin").expect(200);
        assert_bytes("stale", &answer.body, &version(1));
        let status = answer.need("cache-status").to_owned();
        status.contains("ttl=-").then_some(status)
    });
    let seconds = status
        .strip_prefix("forebay; hit; ttl=-")
        .unwrap_or_else(|| panic!("Cache-Status: {status}"));
    assert!(seconds.parse::<u64>().is_ok(), "{status}");
    let _ = gateway.request("HEAD", "/models/a.bin", &[]).expect(200);
}

#[test]
fn stale_answers_end_with_stale_for() {
    let (mut origin, gateway) = start("fresh_for = \"100ms\";stale_for = \"1s\"");
    let _ = gateway.get("/models/a.bin").expect(200);
    origin.kill();
    let status = until(
        Duration::from_secs(1) + SLACK,
        "the end of stale answers",
        || {
            let answer = gateway.get("/models/a.bin");
            (answer.status != 200).then_some(answer.status)
        },
    );
    assert!([502, 503].contains(&status), "{status}");
}

/// After a kill only the journal of the NVMe tier tells of what was read last, and not when it was current.
#[test]
fn a_version_whose_age_a_kill_lost_stands_in_for_nothing_while_the_origin_is_away() {
    let mut origin = Moto::start();
    origin.bucket("weights");
    origin.put("weights", "a.bin", &version(1));
    let dataset = origin.dataset("models", "weights");
    let setup = Setup::of([dataset.line("fresh_for = \"100ms\"")]);
    let allowed = ["origin", "direct I/O does not work there"];
    let setup = allowed.iter().fold(setup, |setup, line| setup.allow(line));
    let gateway = setup.cache("nvme = \"128MiB\"").start();
    let _ = gateway.get("/models/a.bin").expect(200);
    until(Duration::from_secs(30), "the blocks to be on NVMe", || {
        let answer = gateway.json("/-/datasets/models");
        (answer["datasets"][0]["cached"]["nvme"]["blocks"] == 3).then_some(())
    });
    let scratch = gateway.kill();
    let config = scratch.path().join("forebay.toml");
    origin.kill();
    let gateway = Gateway::start(
        command().arg("serve").arg("--config").arg(config),
        scratch,
        allowed.map(ToString::to_string).into(),
    );
    let status = gateway.get("/models/a.bin").status;
    assert!([502, 503].contains(&status), "{status}");
}

#[test]
fn listings_are_no_older_than_fresh_for() {
    let (origin, gateway) = start("fresh_for = \"500ms\"");
    let listing = || gateway.get("/models?list-type=2").expect(200).text();
    assert!(listing().contains("<Key>a.bin</Key>"));
    origin.put("weights", "b.bin", b"new");
    until(FRESH_FOR + SLACK, "the new object in the listing", || {
        listing().contains("<Key>b.bin</Key>").then_some(())
    });
}
