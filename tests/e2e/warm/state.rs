//! Jobs and pins in a state store: they outlive every member, and a store that is away stops nothing but changes.

use std::process::Command;

use forebay_loadtest::origin::Settings;
use forebay_tests::cluster::{Dataset, Gateway, Setup, command};
use forebay_tests::oracle::BLOCK;
use forebay_tests::process::PATIENCE;
use forebay_tests::scratch::Scratch;
use forebay_tests::servers::moto::Moto;
use forebay_tests::servers::scripted::{Scripted, answer};
use forebay_tests::until;

use super::{Bucket, SIZE, begin, done, half_way, job, over};

/// Logged while the state store is away.
const AWAY: &str = "until the state store is";

fn state(moto: &Moto) -> String {
    format!(
        "[state]\nurl = \"s3://state/forebay/\"\noptions = {{ aws_endpoint = {:?}, aws_region = \"us-east-1\", \
         aws_access_key_id = \"AK\", aws_secret_access_key = \"SK\" }}",
        moto.url()
    )
}

/// A state store, and what a gateway has to be told of it.
pub(crate) fn store() -> (Moto, String) {
    let moto = Moto::start();
    moto.bucket("state");
    let section = state(&moto);
    (moto, section)
}

/// A member of this name that knows nobody, of a bucket that takes so long that nothing ends by itself.
fn member(bucket: &Bucket, section: &str, name: &str) -> Gateway {
    let address = forebay_tests::servers::free_address();
    let fleet = format!(
        "[fleet]\nname = \"test\"\nmember = {name:?}\nkey = \"the key of this fleet\"\nlisten = \"{address}\"\n"
    );
    let setup = bucket.setup().section(section).section(&fleet);
    setup.allow(AWAY).allow("can't be written down").start()
}

fn slow() -> Bucket {
    taking(4)
}

/// A bucket whose one object takes so many seconds.
fn taking(seconds: u64) -> Bucket {
    let bucket = Bucket::start(Settings {
        total_rate: Some(2 * SIZE / seconds),
        ..Settings::default()
    });
    bucket.origin.put("a.bin", 2 * SIZE, 0);
    bucket
}

#[test]
fn a_job_is_known_and_goes_on_when_its_gateway_came_up_anew_on_another_disk() {
    let (_moto, section) = store();
    let bucket = slow();
    let gateway = member(&bucket, &section, "a");
    let id = begin(&gateway, "/-/warm/models/", r#"{"priority": 7}"#);
    half_way(&gateway, &id, SIZE / 2);
    let _ = gateway.kill();
    let gateway = member(&bucket, &section, "a");
    until(PATIENCE, "the job to be known", || {
        let answer = gateway.get(&format!("/-/warm/{id}"));
        (answer.status == 200).then_some(())
    });
    let job = done(&gateway, &id);
    assert_eq!(
        (&job["bytes"], &job["prefix"]),
        (&(2 * SIZE).into(), &"".into())
    );
    // And so it is once it is over.
    let _ = gateway.kill();
    let gateway = member(&bucket, &section, "a");
    until(PATIENCE, "the job to be known as done", || {
        let answer = gateway.get(&format!("/-/warm/{id}"));
        (answer.status == 200 && answer.text().contains("\"done\"")).then_some(())
    });
}

/// A job that `first` works on and `other` knows of.
fn begin_known(first: &Gateway, other: &Gateway) -> String {
    let id = begin(first, "/-/warm/models/", "");
    until(PATIENCE, "the other to know it", || {
        (other.get(&format!("/-/warm/{id}")).status == 200).then_some(())
    });
    id
}

#[test]
fn a_job_whose_gateway_is_lost_is_taken_over_and_every_member_tells_of_it() {
    let (_moto, section) = store();
    let bucket = slow();
    let (first, other) = (
        member(&bucket, &section, "a"),
        member(&bucket, &section, "b"),
    );
    let id = begin_known(&first, &other);
    assert_eq!(
        begin(&other, "/-/warm/models/", ""),
        id,
        "asked for there it is the same"
    );
    let _ = first.kill();
    let job = done(&other, &id);
    assert_eq!(job["bytes"], 2 * SIZE);
    assert!(job["origin_bytes_read"].as_u64() > Some(0), "{job}");
}

#[test]
fn a_job_is_cancelled_through_a_member_that_does_not_work_on_it() {
    let (_moto, section) = store();
    let bucket = taking(25);
    let (first, other) = (
        member(&bucket, &section, "a"),
        member(&bucket, &section, "b"),
    );
    let id = begin_known(&first, &other);
    let _ = other
        .request("DELETE", &format!("/-/warm/{id}"), &[])
        .expect(200);
    assert_eq!(job(&other, &id)["state"], "cancelled");
    assert_eq!(over(&first, &id)["state"], "cancelled");
}

#[test]
fn a_store_that_is_away_stops_nothing_but_changes() {
    let (mut moto, section) = store();
    let bucket = slow();
    bucket.origin.put("b.bin", BLOCK as u64, 0);
    let gateway = member(&bucket, &section, "a");
    let id = begin(&gateway, "/-/warm/models/a", "");
    half_way(&gateway, &id, 1);
    moto.kill();
    for (method, target) in [("POST", "/-/warm/models/b"), ("POST", "/-/pin/models/b")] {
        let answer = gateway.request(method, target, &[("Content-Length", "0")]);
        let answer = answer.expect(503);
        assert!(
            answer.text().contains("the state store"),
            "{}",
            answer.text()
        );
    }
    assert_eq!(gateway.get("/-/pin").expect(200).text(), "{\"pins\":[]}");
    let _ = gateway.get("/models/b.bin").expect(200);
    let job = done(&gateway, &id);
    assert_eq!(job["bytes"], 2 * SIZE, "{job}");
}

#[test]
fn pins_come_back_with_the_state_store() {
    let (_moto, section) = store();
    let bucket = slow();
    let gateway = member(&bucket, &section, "a");
    let pinned = gateway.request("POST", "/-/pin/models/a", &[("Content-Length", "0")]);
    let _ = pinned.expect(200);
    let _ = gateway.kill();
    let gateway = member(&bucket, &section, "b");
    until(PATIENCE, "the pin to be known", || {
        let pins = gateway.json("/-/pin");
        (pins["pins"][0]["prefix"] == "a").then_some(())
    });
}

#[test]
fn the_pin_of_a_job_goes_though_another_member_took_the_job_over() {
    let (_moto, section) = store();
    let bucket = taking(100);
    let (first, other) = (
        member(&bucket, &section, "a"),
        member(&bucket, &section, "b"),
    );
    let id = begin(&first, "/-/warm/models/a", r#"{"pin": true}"#);
    until(PATIENCE, "the other to know it", || {
        (other.get(&format!("/-/warm/{id}")).status == 200).then_some(())
    });
    let _ = first.kill();
    until(PATIENCE, "the other to work on it", || {
        (job(&other, &id)["resident_bytes"].as_u64() > Some(0)).then_some(())
    });
    let _ = other
        .request("DELETE", &format!("/-/warm/{id}"), &[])
        .expect(200);
    until(PATIENCE, "the pin to go", || {
        (other.json("/-/pin")["pins"] == serde_json::json!([])).then_some(())
    });
    let third = member(&bucket, &section, "c");
    assert_eq!(third.json("/-/pin")["pins"], serde_json::json!([]));
}

/// What `forebay VERB` says of these settings, and how it ends.
fn said(verb: &str, section: &str) -> (Option<i32>, String) {
    let scratch = Scratch::new("state");
    let dataset = Dataset::new("models", scratch.path().join("files").display().to_string());
    std::fs::create_dir_all(scratch.path().join("files")).expect("a directory");
    let text = Setup::of([dataset]).section(section).text(scratch.path());
    let config = scratch.write("forebay.toml", text);
    let mut command: Command = command();
    let output = command.arg(verb).arg("--config").arg(config).output();
    let output = output.expect("forebay runs");
    let (out, err) = (&output.stdout, &output.stderr);
    let text = [String::from_utf8_lossy(out), String::from_utf8_lossy(err)].concat();
    (output.status.code(), text)
}

#[test]
fn a_store_without_conditional_writes_is_refused_at_the_start() {
    let (code, text) = said("serve", "[state]\nurl = \"/srv/state\"");
    assert!(
        code == Some(2) && text.contains("If-None-Match"),
        "{code:?}: {text}"
    );
    // One that takes every write, whatever the conditions.
    let server = Scripted::start(|asked| answer(asked, 200, "ETag: \"x\"\r\n", b""));
    let section = format!(
        "[state]\nurl = \"s3://state/\"\noptions = {{ aws_endpoint = {:?}, aws_region = \"us-east-1\", \
         aws_access_key_id = \"AK\", aws_secret_access_key = \"SK\" }}",
        server.url()
    );
    let (code, text) = said("serve", &section);
    assert!(
        code == Some(1) && text.contains("makes what is there already"),
        "{code:?}: {text}"
    );
    let (code, text) = said("check", &section);
    assert!(
        code == Some(1) && text.contains("FAILED"),
        "{code:?}: {text}"
    );
    let (_moto, section) = store();
    let (code, text) = said("check", &section);
    assert!(
        code == Some(0) && text.contains("s3://state/forebay: ok"),
        "{code:?}: {text}"
    );
}
