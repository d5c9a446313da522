//! What may be asked of a job: which objects, which bytes, which tier; and what is refused.

use forebay_loadtest::origin::Settings;
use forebay_tests::cluster::{Dataset, Setup};
use forebay_tests::oracle::{self, BLOCK};
use forebay_tests::scratch::Scratch;
use serde_json::json;

use super::{BUFFERED, Bucket, SIZE, begin, done, over, post, resident};
use crate::stage;

#[test]
fn what_is_wrong_or_not_done_is_refused_and_nothing_begins() {
    let bucket = Bucket::start(Settings::default());
    bucket.origin.put("a.bin", SIZE, 0);
    let gateway = bucket.setup().start();
    for (target, body, status, word) in [
        ("/-/warm/none/", "", 404, "none"),
        ("/-/warm/models/", "{", 400, "body"),
        ("/-/warm/models/", "{\"glob\": \"[a\"}", 400, "glob"),
        ("/-/warm/models/", "{\"pin\": 3}", 400, "pin is"),
        (
            "/-/warm/models/",
            "{\"pin\": {\"expires\": \"soon\"}}",
            400,
            "expires",
        ),
        (
            "/-/warm/models/",
            "{\"pin\": true, \"ranges\": [\"0-9\"]}",
            400,
            "a pin is of",
        ),
        ("/-/warm/models/", "{\"verify\": 1}", 400, "body"),
        (
            "/-/warm/models/",
            "{\"verify\": true, \"ranges\": [\"0-9\"]}",
            400,
            "whole objects",
        ),
        ("/-/warm/models/", "{\"tier\": \"nvme\"}", 400, "nvme"),
        ("/-/warm/models/", "{\"rate\": \"fast\"}", 400, "rate"),
        ("/-/warm/models/", "{\"deadline\": \"0s\"}", 400, "deadline"),
        ("/-/warm/models/", "{\"copies\": 3}", 400, "body"),
        ("/-/warm/models/", "{\"prefix\": \"a\"}", 400, "prefix"),
        ("/-/warm/models/?tier=memory", "", 400, "tier"),
    ] {
        let answer = post(&gateway, target, body).expect(status);
        assert_eq!(answer.need("content-type"), "application/problem+json");
        assert!(answer.text().contains(word), "{body}: {}", answer.text());
    }
    let _ = gateway.get("/-/resident/models/?tier=tape").expect(400);
    assert_eq!(gateway.json("/-/warm"), json!({ "jobs": [] }));
    let counters = bucket.origin.counters();
    assert_eq!((counters.gets, counters.heads, counters.lists), (0, 0, 0));
}

#[test]
fn what_does_not_fit_is_refused_with_the_arithmetic_and_nothing_is_read() {
    let bucket = Bucket::start(Settings::default());
    bucket.origin.put("a.bin", 60 << 20, 0);
    for number in 0..60_000 {
        bucket.origin.put(&format!("small/{number}"), 1, 0);
    }
    let gateway = bucket.setup().cache("memory = \"64MiB\"").start();
    for (prefix, words) in [
        ("a.bin", ["60 MiB in 60 blocks", "keeps 44.7 MiB"]),
        ("small/", ["60000 blocks", "keeps 44.7 MiB"]),
        ("", ["60060 blocks", "keeps 44.7 MiB"]),
    ] {
        let job = over(
            &gateway,
            &begin(&gateway, &format!("/-/warm/models/{prefix}"), ""),
        );
        let why = job["error"].as_str().unwrap_or_default();
        assert!(
            job["state"] == "failed" && why.contains("does not fit"),
            "{job}"
        );
        assert!(words.iter().all(|word| why.contains(word)), "{why}");
    }
    let counters = bucket.origin.counters();
    assert_eq!((counters.gets, counters.heads), (0, 0));
}

#[test]
fn prefixes_globs_and_ranges_choose() {
    let bucket = Bucket::start(Settings::default());
    for key in ["a/x.bin", "a/x.txt", "a/deep/y.bin", "b/z.bin", "c/w.bin"] {
        bucket.origin.put(key, SIZE, 0);
    }
    let gateway = bucket.setup().start();
    let body =
        r#"{"prefixes": ["a/", "a/deep/", "b/"], "glob": "*/*.bin", "ranges": ["0-9", "-1"]}"#;
    let job = done(&gateway, &begin(&gateway, "/-/warm/models/", body));
    assert_eq!(
        (&job["objects"], &job["bytes"]),
        (&2.into(), &(2 * (BLOCK as u64 + 17)).into())
    );
    assert_eq!(bucket.sent(), 2 * (BLOCK as u64 + 17));
    for key in ["a/x.bin", "b/z.bin"] {
        let blocks = gateway.json(&format!("/-/blocks/models/{key}"));
        let blocks = blocks["blocks"].as_array().expect("blocks").clone();
        let held = blocks.iter().filter(|block| block["holders"] != json!([]));
        let held: Vec<_> = held.map(|block| block["index"].as_u64()).collect();
        assert_eq!(held, [Some(0), Some(24)]);
    }
    let (status, answer) = resident(&gateway, "");
    assert_eq!((status, &answer["objects"]), (503, &5.into()));
    assert_eq!(answer["missing"].as_array().map(Vec::len), Some(5));
}

#[test]
fn an_origin_that_cannot_list_takes_keys_a_file_of_them_and_an_index() {
    let stage = stage::stage();
    let index = json!({ "weight_map": { "a": "s/1.bin", "b": "s/2.bin", "c": "s/1.bin" } });
    stage.origin.put(
        "m/model.safetensors.index.json",
        index.to_string().as_bytes(),
    );
    stage.origin.put("m/s/1.bin", &oracle::bytes("1", 1, 100));
    stage
        .origin
        .put("m/s/2.bin", &oracle::bytes("2", 1, BLOCK + 1));
    let gateway = &stage.gateway;
    let job = over(gateway, &begin(gateway, "/-/warm/models/m/", ""));
    let why = job["error"].as_str().unwrap_or_default();
    assert!(why.contains("can't list") && why.contains("keys"), "{job}");
    let job = done(
        gateway,
        &begin(
            gateway,
            "/-/warm/models/m/",
            r#"{"index": "model.safetensors.index.json"}"#,
        ),
    );
    assert_eq!(job["objects"], 3);
    assert_eq!(resident(gateway, "m/s/2.bin").0, 200);
    assert_eq!(resident(gateway, "a.bin").0, 503);
    let job = done(
        gateway,
        &begin(
            gateway,
            "/-/warm/models/",
            r#"{"keys": ["a.bin", "m/s/1.bin"]}"#,
        ),
    );
    assert_eq!(
        (&job["objects"], &job["bytes"]),
        (&2.into(), &(stage.bytes.len() + 100).into())
    );
    assert_eq!(resident(gateway, "a.bin").0, 200);
    // A prefix that is a key's whole name.
    let _ = done(gateway, &begin(gateway, "/-/warm/models/empty.bin", ""));
    let files = Scratch::new("keys");
    let file = files.write("keys", "a.bin\n\nm/s/2.bin\n");
    let file = file.to_str().expect("a temporary path is UTF-8");
    let output = gateway.client(&["warm", "models", "--from", file]);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    for (body, word) in [
        (r#"{"keys": ["none.bin"]}"#, "none.bin"),
        (r#"{"index": "a.bin"}"#, "no index"),
    ] {
        let job = over(gateway, &begin(gateway, "/-/warm/models/", body));
        let why = job["error"].as_str().unwrap_or_default();
        assert!(why.contains(word), "{job}");
    }
}

#[test]
fn done_on_nvme_means_that_it_is_there_after_a_kill() {
    let files = Scratch::new("files");
    for number in 0..4 {
        let name = format!("{number}.bin");
        files.write(&name, oracle::bytes(&name, 1, 6 * BLOCK + 5));
    }
    let path = files.path().to_str().expect("a temporary path is UTF-8");
    // Less memory than there is to warm: blocks pass through it.
    let setup = Setup::of([Dataset::new("models", path)])
        .cache("memory = \"96MiB\"")
        .cache("nvme = \"128MiB\"")
        .allow(BUFFERED);
    let gateway = setup.start();
    let job = done(&gateway, &begin(&gateway, "/-/warm/models/", ""));
    assert_eq!(job["tier"], "nvme");
    let scratch = gateway.kill();
    let config = scratch.path().join("forebay.toml");
    let mut command = forebay_tests::cluster::command();
    command.arg("serve").arg("--config").arg(config);
    let allowed = vec![BUFFERED.to_owned()];
    let gateway = forebay_tests::cluster::Gateway::start(&mut command, scratch, allowed);
    assert_eq!(resident(&gateway, "").1["percent"], 100.0);
    let again = done(&gateway, &begin(&gateway, "/-/warm/models/", ""));
    assert_eq!(again["origin_bytes_read"], 0, "{again}");
    // To memory from the disk, and nothing from the origin.
    let memory = begin(&gateway, "/-/warm/models/", r#"{"tier": "memory"}"#);
    assert_eq!(done(&gateway, &memory)["origin_bytes_read"], 0);
    assert_eq!(gateway.metric("forebay_origin_bytes_total", &[]), 0.0);
}
