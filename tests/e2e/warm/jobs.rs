//! A job's life: taken, told of, done, failed, cancelled, tried again; by curl, by JSON and by the command line.

use std::process::Command;

use forebay_loadtest::origin::{Fault, Rule, Settings};
use forebay_tests::http::Connection;
use forebay_tests::oracle::BLOCK;
use forebay_tests::process::PATIENCE;
use forebay_tests::until;
use serde_json::Value;

use super::{Bucket, SIZE, begin, done, half_way, job, over, post, resident};

fn curl(arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new("curl").args(arguments).output();
    let output = output.expect("curl runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    (output.status.code(), text)
}

#[test]
fn curl_alone_sees_it_arrive_and_knows_when_it_is_there() {
    let bucket = Bucket::slow();
    bucket.origin.put("a/a.bin", SIZE, 0);
    bucket.origin.put("b.bin", SIZE, 0);
    let gateway = bucket.setup().start();
    let url = format!("{}/-/warm/models/a/", gateway.url());
    let (code, text) = curl(&["-sN", "-X", "POST", &url]);
    assert_eq!(code, Some(0), "{text}");
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines.len() >= 3, "one a second: {text}");
    let (last, progress) = lines.split_last().expect("there are lines");
    let id = lines[0].split(' ').nth(1).expect("an id");
    assert!(
        last.starts_with(&format!("done {id} {SIZE} bytes in ")),
        "{text}"
    );
    let mut before = 0;
    for line in progress {
        let words: Vec<&str> = line.split(' ').collect();
        let [
            "warm",
            name,
            percent,
            share,
            "bytes",
            rate,
            "B/s",
            "eta",
            eta,
        ] = words[..]
        else {
            panic!("{line}");
        };
        assert!(name == id && percent.ends_with('%'), "{line}");
        let eta = eta
            .strip_suffix('s')
            .and_then(|eta| eta.parse::<u64>().ok());
        assert!(eta.is_some(), "{line}");
        let (here, total) = share.split_once('/').expect("RESIDENT/TOTAL");
        let here: u64 = here.parse().expect("bytes");
        assert!(here >= before && rate.parse::<u64>().is_ok(), "{text}");
        assert!(["0", &SIZE.to_string()].contains(&total), "{line}");
        before = here;
    }
    assert_eq!(bucket.sent(), SIZE, "only what was asked for, and once");
    assert_eq!(resident(&gateway, "a/").0, 200);
    let _ = gateway.get("/models/a/a.bin").expect(200);
    assert_eq!(bucket.sent(), SIZE);
}

#[test]
fn a_job_has_the_contracts_shape() {
    let bucket = Bucket::slow();
    bucket.origin.put("a/a.bin", SIZE, 0);
    let gateway = bucket.setup().start();
    let id = begin(&gateway, "/-/warm/models/a/", "");
    half_way(&gateway, &id, 1);
    let running = job(&gateway, &id);
    for (field, value) in [
        ("id", id.as_str()),
        ("dataset", "models"),
        ("prefix", "a/"),
        ("tier", "memory"),
        ("state", "running"),
    ] {
        assert_eq!(running[field], value, "{running}");
    }
    assert!(running["finished"].is_null() && running["error"].is_null());
    assert!(
        running["created"]
            .as_str()
            .is_some_and(|time| time.ends_with('Z'))
    );
    let done = done(&gateway, &id);
    assert_eq!(done["objects"], 1);
    assert_eq!(done["origin_bytes_read"], SIZE, "{done}");
    assert!(
        done["rate"].as_u64() > Some(0) && done["eta_seconds"] == 0,
        "{done}"
    );
    assert!(done["finished"].is_string());
    let jobs = gateway.json("/-/warm");
    assert_eq!(jobs["jobs"].as_array().map(Vec::len), Some(1));
    assert_eq!(jobs["jobs"][0]["id"], id);
    let _ = gateway.get("/-/warm/0000").expect(404);
}

#[test]
fn the_same_job_twice_costs_nothing_and_while_it_runs_is_one() {
    let bucket = Bucket::slow();
    bucket.origin.put("a.bin", SIZE, 0);
    let gateway = bucket.setup().start();
    let first = begin(&gateway, "/-/warm/models/", "");
    assert_eq!(begin(&gateway, "/-/warm/models", ""), first);
    let _ = done(&gateway, &first);
    let before = bucket.origin.counters();
    let second = begin(&gateway, "/-/warm/models/", "");
    assert_ne!(second, first);
    let job = done(&gateway, &second);
    assert_eq!(job["origin_bytes_read"], 0, "{job}");
    let after = bucket.origin.counters();
    assert_eq!((after.gets, after.heads), (before.gets, before.heads));
    assert_eq!((before.bytes_sent, after.bytes_sent), (SIZE, SIZE));
}

#[test]
fn a_job_that_fails_breaks_its_body_off_behind_the_reason() {
    let bucket = Bucket::start(Settings::default());
    bucket.origin.put("a/a.bin", SIZE, 0);
    bucket.origin.put("a/b.bin", 17, 0);
    bucket
        .origin
        .fault(Rule::always(Fault::Status(403)).on("a/a.bin"));
    let gateway = bucket.setup().start();
    let url = format!("{}/-/warm/models/a/", gateway.url());
    let (code, text) = curl(&["-sN", "-X", "POST", &url]);
    assert_eq!(
        code,
        Some(18),
        "curl says that the transfer broke off: {text}"
    );
    let last = text.lines().last().expect("a line");
    assert!(last.starts_with("failed "), "{text}");
    assert!(last.contains("a/a.bin") && last.contains("403"), "{text}");
    // What could be had was.
    let (status, answer) = resident(&gateway, "a/");
    assert_eq!((status, &answer["missing"][0]), (503, &"a/a.bin".into()));
    assert_eq!(answer["resident_bytes"], 17);
    // Nothing at all is a failure too: somebody mistyped.
    let nothing = over(&gateway, &begin(&gateway, "/-/warm/models/nothing/", ""));
    let why = nothing["error"].as_str().unwrap_or_default();
    assert!(why.contains("models/nothing/"), "{nothing}");
    // Once the origin lets us, the same is tried again.
    bucket.origin.clear_faults();
    let jobs = gateway.json("/-/warm");
    let id = jobs["jobs"][0]["id"].as_str().expect("an id");
    // That it was refused is believed for a second.
    until(PATIENCE, "the job to be done", || {
        let again = begin(&gateway, &format!("/-/warm?retry={id}"), "");
        let job = over(&gateway, &again);
        assert_eq!(job["prefix"], "a/");
        (job["state"] == "done").then_some(())
    });
    let _ = post(&gateway, "/-/warm?retry=0000", "").expect(404);
    let _ = post(&gateway, "/-/warm", "").expect(400);
}

#[test]
fn a_job_is_cancelled_at_once_and_stays_so() {
    let bucket = Bucket::slow();
    bucket.origin.put("a.bin", 100 * SIZE / 24, 0);
    let gateway = bucket.setup().start();
    let id = begin(&gateway, "/-/warm/models/", "");
    let cancelled = gateway
        .request("DELETE", &format!("/-/warm/{id}"), &[])
        .expect(200);
    let cancelled: Value = serde_json::from_slice(&cancelled.body).expect("a job");
    assert_eq!(cancelled["state"], "cancelled", "{cancelled}");
    // What waits for its turn is cancelled as well.
    let prefixes = ["", "a", "a.", "a.b", "a.bi"];
    let jobs = prefixes.map(|prefix| begin(&gateway, &format!("/-/warm/models/{prefix}"), ""));
    let last = jobs.last().expect("there are five");
    assert_eq!(job(&gateway, last)["state"], "queued");
    for id in jobs.iter().rev() {
        let _ = gateway
            .request("DELETE", &format!("/-/warm/{id}"), &[])
            .expect(200);
        assert_eq!(job(&gateway, id)["state"], "cancelled");
    }
    until(PATIENCE, "the origin to be left alone", || {
        (bucket.origin.counters().concurrent == 0).then_some(())
    });
    assert!(bucket.sent() < 60 * SIZE / 24, "{}", bucket.sent());
    let _ = gateway.request("DELETE", "/-/warm/0000", &[]).expect(404);
}

#[test]
fn events_are_lines_of_json_to_the_end() {
    let bucket = Bucket::slow();
    bucket.origin.put("a.bin", SIZE, 0);
    let gateway = bucket.setup().start();
    let id = begin(&gateway, "/-/warm/models/", "");
    let events = gateway.get(&format!("/-/warm/{id}/events")).expect(200);
    let text = events.text();
    let events = text.lines().map(serde_json::from_str::<Value>);
    let events: Vec<Value> = events.map(|event| event.expect("JSON")).collect();
    assert!(events.len() >= 3, "{text}");
    let bytes = events.iter().map(|event| event["resident_bytes"].as_u64());
    assert!(bytes.is_sorted(), "{text}");
    assert_eq!(events.last().expect("a line")["state"], "done", "{text}");
}

#[test]
fn progress_moves_with_every_block() {
    let bucket = Bucket::slow();
    bucket.origin.put("a.bin", SIZE, 0);
    let gateway = bucket.setup().start();
    let id = begin(&gateway, "/-/warm/models/", "");
    let mut seen = std::collections::BTreeSet::new();
    until(PATIENCE, "the job to be done", || {
        let job = job(&gateway, &id);
        let resident = job["resident_bytes"].as_u64().expect("bytes");
        assert!(resident <= bucket.sent(), "{job}");
        seen.insert(resident);
        (job["state"] == "done").then_some(())
    });
    assert!(seen.len() >= 8, "it jumps: {seen:?}");
    assert_eq!(seen.last(), Some(&SIZE));
}

#[test]
fn the_command_line_warms_waits_and_fails() {
    let bucket = Bucket::start(Settings::default());
    bucket.origin.put("a/a.bin", SIZE, 0);
    bucket.origin.put("b.bin", BLOCK as u64, 0);
    let gateway = bucket.setup().start();
    let said = |output: &std::process::Output| {
        let (out, err) = (&output.stdout, &output.stderr);
        format!(
            "{}{}",
            String::from_utf8_lossy(out),
            String::from_utf8_lossy(err)
        )
    };
    let late = gateway.client(&["wait", "models/a/", "--timeout", "1s"]);
    assert_eq!(late.status.code(), Some(1), "{}", said(&late));
    let told = "after 1s models/a/ is resident to 0.0 %: ";
    assert!(said(&late).contains(told), "{}", said(&late));
    let warmed = gateway.client(&["warm", "models/a/", "models/b"]);
    assert!(warmed.status.success(), "{}", said(&warmed));
    assert!(
        said(&warmed).contains("models/a/ done"),
        "{}",
        said(&warmed)
    );
    let waited = gateway.client(&["wait", "models", "--tier", "memory"]);
    assert!(waited.status.success(), "{}", said(&waited));
    let json = gateway.client(&["warm", "models/a/", "--json"]);
    let job: Value = serde_json::from_slice(&json.stdout).expect("--json prints the job");
    assert_eq!(
        (&job["state"], &job["origin_bytes_read"]),
        (&"done".into(), &0.into())
    );
    for arguments in [
        &["warm", "models/none/"][..],
        &["warm", "none"],
        &["warm", "models", "--tier", "nvme"],
        &["warm", "models", "--glob", "[a"],
        &["wait", "none"],
    ] {
        let failed = gateway.client(arguments);
        assert_eq!(
            failed.status.code(),
            Some(1),
            "{arguments:?}: {}",
            said(&failed)
        );
        assert!(!failed.stderr.is_empty(), "{arguments:?}");
    }
    assert_eq!(bucket.sent(), SIZE + BLOCK as u64);
}

#[test]
fn thousands_of_small_objects_are_a_request_each() {
    let bucket = Bucket::start(Settings::default());
    let count = 2500;
    for number in 0..count {
        bucket
            .origin
            .put(&format!("small/{number:05}"), 3000 + number, 0);
    }
    let bytes: u64 = (0..count).map(|number| 3000 + number).sum();
    let gateway = bucket.setup().start();
    let job = done(&gateway, &begin(&gateway, "/-/warm/models/small/", ""));
    assert_eq!(
        (&job["objects"], &job["bytes"]),
        (&count.into(), &bytes.into())
    );
    let counters = bucket.origin.counters();
    assert_eq!((counters.gets, counters.heads), (count, 0));
    assert_eq!((counters.lists, counters.bytes_sent), (3, bytes));
    let mut connection = Connection::open(gateway.address());
    let answer = connection
        .request("GET", "/models/small/00017", &[])
        .expect(200);
    assert!(answer.need("cache-status").contains("hit"));
}
