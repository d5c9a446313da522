//! What happens while a job runs: kills, purges, overwrites, origins that fail.

use forebay_loadtest::origin::{Fault, Rule, Settings};
use forebay_tests::cluster::{Gateway, command};
use forebay_tests::oracle::BLOCK;
use forebay_tests::scratch::Scratch;

use super::{BUFFERED, Bucket, SIZE, begin, done, half_way, job, over, resident};

/// Starts the gateway whose files lie in `scratch` once more.
pub(super) fn again(scratch: Scratch) -> Gateway {
    let config = scratch.path().join("forebay.toml");
    let mut command = command();
    command.arg("serve").arg("--config").arg(config);
    Gateway::start(&mut command, scratch, vec![BUFFERED.to_owned()])
}

#[test]
fn a_job_survives_a_kill_of_its_gateway_and_reads_little_twice() {
    let size = 256 * BLOCK as u64;
    let bucket = Bucket::start(Settings {
        total_rate: Some(size / 4),
        ..Settings::default()
    });
    bucket.origin.put("a.bin", size, 0);
    let setup = bucket.setup();
    let gateway = setup
        .cache("memory = \"128MiB\"")
        .cache("nvme = \"512MiB\"")
        .start();
    let body = r#"{"priority": 3, "deadline": "1h"}"#;
    let id = begin(&gateway, "/-/warm/models/", body);
    half_way(&gateway, &id, size / 2);
    let gateway = again(gateway.kill());
    let job = done(&gateway, &id);
    assert_eq!(
        (&job["bytes"], &job["tier"]),
        (&size.into(), &"nvme".into())
    );
    // What was under way and what waited for its turn to be written.
    let most = size + size / 20;
    assert!(bucket.sent() <= most, "{} of {most}", bucket.sent());
    // One that is over is known and not begun again.
    let sent = bucket.sent();
    let gateway = again(gateway.kill());
    assert_eq!(super::job(&gateway, &id)["state"], "done");
    assert_eq!(super::job(&gateway, &id)["bytes"], size);
    assert_eq!(bucket.sent(), sent);
}

#[test]
fn a_job_survives_a_stop_of_its_gateway() {
    let bucket = Bucket::slow();
    bucket.origin.put("a.bin", 4 * SIZE, 0);
    let gateway = bucket.setup().line("stop_after = \"100ms\"").start();
    let id = begin(&gateway, "/-/warm/models/", "");
    half_way(&gateway, &id, 1);
    let config = gateway.config();
    let text = std::fs::read_to_string(&config).expect("its settings");
    let data = gateway.data_dir();
    let saved = Scratch::new("saved");
    let status = std::process::Command::new("cp")
        .arg("-r")
        .arg(&data)
        .arg(saved.path().join("data"))
        .status();
    assert!(status.expect("cp runs").success());
    let text = text.replace(
        data.to_str().expect("UTF-8"),
        saved.path().join("data").to_str().expect("UTF-8"),
    );
    saved.write("forebay.toml", text);
    let _ = gateway.stop();
    let gateway = again(saved);
    let job = job(&gateway, &id);
    assert!(
        job["state"] != "failed" && job["finished"].is_null(),
        "{job}"
    );
    let _ = gateway
        .request("DELETE", &format!("/-/warm/{id}"), &[])
        .expect(200);
}

#[test]
fn what_goes_while_a_job_runs_is_brought_again_before_it_is_done() {
    let bucket = Bucket::slow();
    bucket.origin.put("a.bin", SIZE, 0);
    let gateway = bucket.setup().start();
    let id = begin(&gateway, "/-/warm/models/", "");
    half_way(&gateway, &id, SIZE / 2);
    let purged = gateway
        .request("POST", "/-/purge/models/a.bin", &[("Content-Length", "0")])
        .expect(200);
    assert!(
        !purged.text().contains("\"blocks\":0,"),
        "{}",
        purged.text()
    );
    let job = done(&gateway, &id);
    assert_eq!(resident(&gateway, "").0, 200);
    let read = job["origin_bytes_read"].as_u64();
    assert!(read >= Some(SIZE + SIZE / 2 - BLOCK as u64), "{job}");
}

#[test]
fn what_can_not_stay_is_reported_and_never_called_done() {
    let bucket = Bucket::start(Settings {
        total_rate: Some(SIZE),
        ..Settings::default()
    });
    // Each fits by itself, and not both.
    bucket.origin.put("a.bin", 40 << 20, 0);
    bucket.origin.put("b.bin", 40 << 20, 0);
    let gateway = bucket.setup().cache("memory = \"64MiB\"").start();
    let _ = done(&gateway, &begin(&gateway, "/-/warm/models/a.bin", ""));
    assert_eq!(resident(&gateway, "a.bin").0, 200);
    let _ = done(&gateway, &begin(&gateway, "/-/warm/models/b.bin", ""));
    assert_eq!(resident(&gateway, "b.bin").0, 200);
    let (status, answer) = resident(&gateway, "");
    assert_eq!((status, &answer["missing"][0]), (503, &"a.bin".into()));
}

#[test]
fn an_overwrite_meanwhile_ends_with_the_new_version() {
    let bucket = Bucket::start(Settings {
        total_rate: Some(SIZE),
        ..Settings::default()
    });
    // More than is under way at once.
    let size = 4 * SIZE;
    bucket.origin.put("a.bin", size, 0);
    let gateway = bucket.setup().start();
    let id = begin(&gateway, "/-/warm/models/", "");
    half_way(&gateway, &id, 1);
    bucket.origin.overwrite("a.bin", Some(size + BLOCK as u64));
    let job = done(&gateway, &id);
    let blocks = gateway.json("/-/blocks/models/a.bin");
    assert_eq!(blocks["size"], size + BLOCK as u64, "{job}");
    assert_eq!(resident(&gateway, "").1["percent"], 100.0, "{job}");
}

#[test]
fn an_origin_that_fails_now_and_then_is_tried_again() {
    let bucket = Bucket::start(Settings::default());
    bucket.origin.put("a.bin", SIZE, 0);
    for fault in [
        Fault::Status(503),
        Fault::Hangup,
        Fault::Cut { after: 100_000 },
    ] {
        let rule = Rule {
            times: 6,
            ..Rule::always(fault)
        };
        bucket.origin.fault(rule.on("a.bin"));
    }
    let gateway = bucket.setup().start();
    let _ = done(&gateway, &begin(&gateway, "/-/warm/models/", ""));
    assert_eq!(resident(&gateway, "").0, 200);
}

#[test]
fn a_deadline_ends_a_job_that_is_not_done() {
    let bucket = Bucket::slow();
    bucket.origin.put("a.bin", 4 * SIZE, 0);
    let gateway = bucket.setup().start();
    let job = over(
        &gateway,
        &begin(&gateway, "/-/warm/models/", r#"{"deadline": "1s"}"#),
    );
    let why = job["error"].as_str().unwrap_or_default();
    assert!(
        job["state"] == "failed" && why.contains("deadline"),
        "{job}"
    );
}

#[test]
fn a_reader_comes_before_a_job() {
    let bucket = Bucket::start(Settings {
        total_rate: Some(16 << 20),
        ..Settings::default()
    });
    let read = 32 << 20;
    bucket.origin.put("job/a.bin", 4 * read, 0);
    bucket.origin.put("read.bin", read, 0);
    let gateway = bucket.setup().start();
    let id = begin(&gateway, "/-/warm/models/job/", "");
    half_way(&gateway, &id, read / 4);
    let resident = || {
        job(&gateway, &id)["resident_bytes"]
            .as_u64()
            .expect("bytes")
    };
    let before = resident();
    let answer = gateway.get("/models/read.bin").expect(200);
    assert_eq!(answer.body.len() as u64, read);
    let meanwhile = resident() - before;
    // What was under way, and the part that is left for jobs: alone they would share the link.
    assert!(meanwhile <= read / 2, "{meanwhile} bytes beside {read}");
    // It goes on by itself.
    half_way(&gateway, &id, resident() + read / 4);
    let _ = gateway
        .request("DELETE", &format!("/-/warm/{id}"), &[])
        .expect(200);
}
