//! Everything under `/-/`, the access log, and the command line's client side.

use std::time::Duration;

use forebay_tests::cluster::{Dataset, Setup, command};
use forebay_tests::http::Connection;
use forebay_tests::oracle::BLOCK;
use forebay_tests::servers::moto::Moto;
use forebay_tests::{servers, until};
use serde_json::{Value, json};

use crate::stage::{OBJECT, SIZE, cached, stage};

#[test]
fn a_ready_gateway_is_alive_and_ready() {
    let stage = stage();
    for target in ["/-/healthz", "/-/readyz"] {
        let _ = stage.gateway.get(target).expect(200);
        let _ = stage.gateway.request("HEAD", target, &[]).expect(200);
    }
}

#[test]
fn metrics_count_what_was_done() {
    let stage = stage();
    let gateway = &stage.gateway;
    let _ = gateway.get(OBJECT).expect(200);
    cached(gateway, SIZE);
    let _ = gateway.get(OBJECT).expect(200);
    let _ = gateway.get("/models/none.bin").expect(404);
    let text = gateway.get("/-/metrics").expect(200);
    assert!(
        text.need("content-type").starts_with("text/plain"),
        "{:?}",
        text.headers
    );
    // A request is counted when its body is over, which its client may know first.
    let counted = |status: &str| gateway.metric("forebay_requests_total", &[("status", status)]);
    until(Duration::from_secs(2), "the requests to be counted", || {
        (counted("200") >= 2.0 && counted("404") == 1.0).then_some(())
    });
    let size = SIZE as f64;
    let dataset = [("dataset", "models")];
    assert_eq!(gateway.metric("forebay_origin_bytes_total", &dataset), size);
    assert_eq!(
        gateway.metric("forebay_response_bytes_total", &[]),
        2.0 * size
    );
    assert!(gateway.metric("forebay_response_bytes_total", &[("source", "memory")]) >= size);
    assert_eq!(
        gateway.metric("forebay_cache_bytes", &[("tier", "memory")]),
        size
    );
    assert!(gateway.origin_gets("models") >= 1.0);
    assert!(
        text.text()
            .contains("# TYPE forebay_requests_total counter")
    );
}

#[test]
fn datasets_have_the_contracts_shape() {
    let stage = stage();
    let _ = stage.gateway.get(OBJECT).expect(200);
    cached(&stage.gateway, SIZE);
    let all = stage.gateway.json("/-/datasets");
    assert_eq!(all["scope"], json!("gateway"));
    assert!(all["gateway"].is_string());
    let models = &all["datasets"][0];
    assert_eq!(models["name"], json!("models"));
    assert!(
        models["origin"]
            .as_str()
            .is_some_and(|origin| origin.starts_with("http://"))
    );
    assert_eq!(models["origin_state"], json!("ok"));
    assert_eq!(
        models["cached"]["memory"],
        json!({ "blocks": 4, "bytes": SIZE })
    );
    assert!(models["cached"]["nvme"].is_object());
    for member in [
        "objects",
        "origin_bytes",
        "resident_bytes",
        "percent",
        "hit_ratio",
        "origin_requests",
        "origin_bytes_read",
    ] {
        let value = models
            .get(member)
            .unwrap_or_else(|| panic!("no {member} in {models}"));
        assert!(value.is_number() || value.is_null(), "{member}: {value}");
    }
    for member in ["origin_bytes_saved", "pinned_bytes"] {
        assert!(models.get(member).is_some(), "no {member} in {models}");
    }
    assert_eq!(models["origin_bytes_read"], json!(SIZE));
    let one = stage.gateway.json("/-/datasets/models");
    assert_eq!(one["datasets"].as_array().map(Vec::len), Some(1));
    is_problem(&stage.gateway.get("/-/datasets/none"), 404);
}

#[test]
fn a_listed_dataset_knows_its_objects() {
    let origin = Moto::start();
    origin.bucket("weights");
    origin.put("weights", "a.bin", &[1; 100]);
    origin.put("weights", "b.bin", &[2; 50]);
    let gateway = Setup::of([origin.dataset("models", "weights")]).start();
    let _ = gateway.get("/models/a.bin").expect(200);
    cached(&gateway, 100);
    let models = gateway.json("/-/datasets/models?list=true")["datasets"][0].clone();
    assert_eq!(
        (&models["objects"], &models["origin_bytes"]),
        (&json!(2), &json!(150)),
        "{models}"
    );
    assert_eq!(models["resident_bytes"], json!(100), "{models}");
}

#[test]
fn blocks_tell_where_an_object_lies_and_move_nothing() {
    let stage = stage();
    let gateway = &stage.gateway;
    let _ = gateway
        .range(OBJECT, &format!("bytes={BLOCK}-{}", BLOCK + 9))
        .expect(206);
    cached(gateway, BLOCK);
    let bytes = gateway.metric("forebay_origin_bytes_total", &[("dataset", "models")]);
    let blocks = gateway.json("/-/blocks/models/a.bin");
    assert_eq!(
        gateway.metric("forebay_origin_bytes_total", &[("dataset", "models")]),
        bytes
    );
    assert_eq!(
        (&blocks["dataset"], &blocks["key"]),
        (&json!("models"), &json!("a.bin"))
    );
    assert_eq!(
        (&blocks["size"], &blocks["block_size"]),
        (&json!(SIZE), &json!(BLOCK))
    );
    assert!(
        blocks["etag"]
            .as_str()
            .is_some_and(|etag| etag.starts_with('"')),
        "{blocks}"
    );
    let list = blocks["blocks"].as_array().expect("a list of blocks");
    assert_eq!(list.len(), 4);
    for (index, block) in list.iter().enumerate() {
        assert_eq!(block["index"], json!(index));
        assert!(block["owner"].is_string());
        let held = block["holders"]
            .as_array()
            .is_some_and(|holders| !holders.is_empty());
        assert_eq!(held, index == 1, "{block}");
    }
    assert_eq!(list[1]["holders"][0]["tiers"], json!(["memory"]));
    let page = gateway.json("/-/blocks/models/a.bin?first=1&count=2");
    let indices: Vec<&Value> = page["blocks"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|block| &block["index"])
        .collect();
    assert_eq!(indices, [&json!(1), &json!(2)]);
    is_problem(&gateway.get("/-/blocks/models/none.bin"), 404);
}

#[test]
fn a_purge_takes_a_key_or_a_prefix_with_its_slash() {
    let origin = Moto::start();
    origin.bucket("weights");
    for key in ["a", "ab", "a/1", "a/2", "b/1"] {
        origin.put("weights", key, &[7; 1000]);
    }
    let gateway = Setup::of([origin
        .dataset("models", "weights")
        .line("fresh_for = \"10m\"")])
    .start();
    let fill = || {
        for key in ["a", "ab", "a/1", "a/2", "b/1"] {
            let _ = gateway.get(&format!("/models/{key}")).expect(200);
        }
        cached(&gateway, 5000);
    };
    let purge = |target: &str| {
        let answer = gateway
            .request("POST", target, &[("Content-Length", "0")])
            .expect(200);
        serde_json::from_slice::<Value>(&answer.body).expect("JSON")
    };
    fill();
    let gets = gateway.origin_gets("models");
    assert_eq!(
        purge("/-/purge/models/a"),
        json!({ "blocks": 1, "bytes": 1000, "absent_members": [] })
    );
    assert_eq!(
        purge("/-/purge/models/a"),
        json!({ "blocks": 0, "bytes": 0, "absent_members": [] })
    );
    fill();
    assert_eq!(gateway.origin_gets("models"), gets + 1.0);
    assert_eq!(purge("/-/purge/models/a/")["blocks"], json!(2));
    fill();
    assert_eq!(gateway.origin_gets("models"), gets + 3.0);
    assert_eq!(purge("/-/purge/models/")["blocks"], json!(5));
    assert_eq!(
        gateway.metric("forebay_cache_bytes", &[("tier", "memory")]),
        0.0
    );
}

#[test]
fn a_purge_shows_what_the_origin_has_now() {
    let origin = Moto::start();
    origin.bucket("weights");
    origin.put("weights", "a.bin", b"old");
    let gateway = Setup::of([origin.dataset("models", "weights").line("immutable = true")]).start();
    assert_eq!(gateway.get("/models/a.bin").expect(200).body, b"old");
    origin.put("weights", "a.bin", b"newer");
    assert_eq!(gateway.get("/models/a.bin").expect(200).body, b"old");
    let _ = gateway
        .request("POST", "/-/purge/models/a.bin", &[("Content-Length", "0")])
        .expect(200);
    assert_eq!(gateway.get("/models/a.bin").expect(200).body, b"newer");
}

fn is_problem(answer: &forebay_tests::http::Answer, status: u16) {
    assert_eq!(answer.status, status, "{}", answer.text());
    assert_eq!(answer.need("content-type"), "application/problem+json");
    let problem: Value = serde_json::from_slice(&answer.body).expect("JSON");
    for member in ["type", "title", "detail", "request_id"] {
        assert!(
            problem[member]
                .as_str()
                .is_some_and(|text| !text.is_empty()),
            "no {member} in {problem}"
        );
    }
    assert_eq!(problem["status"], json!(status));
}

#[test]
fn what_is_not_here_is_a_problem_with_a_request_id() {
    let stage = stage();
    is_problem(&stage.gateway.get("/-/nothing"), 404);
    let answer = stage
        .gateway
        .request("POST", "/-/purge/none/a.bin", &[("Content-Length", "0")]);
    is_problem(&answer, 404);
    is_problem(&stage.gateway.get("/-/purge/models/a.bin"), 405);
    is_problem(&stage.gateway.get("/-/blocks/x/a%ffb"), 400);
}

#[test]
fn a_page_in_a_browser_can_purge_nothing() {
    let stage = stage();
    let _ = stage.gateway.get(OBJECT).expect(200);
    cached(&stage.gateway, SIZE);
    // What browsers send with a form or a fetch of a page from elsewhere; older ones send only the first.
    let pages: [&[(&str, &str)]; 3] = [
        &[("Origin", "https://elsewhere.example")],
        &[("Origin", "null"), ("Content-Type", "text/plain")],
        &[("Sec-Fetch-Site", "cross-site")],
    ];
    for page in pages {
        for target in [
            "/-/purge/models",
            "/-/purge/models/",
            "/-/purge/models/a.bin",
        ] {
            let fields = [page, &[("Content-Length", "0")]].concat();
            is_problem(&stage.gateway.request("POST", target, &fields), 403);
        }
    }
    let cached = stage
        .gateway
        .metric("forebay_cache_bytes", &[("tier", "memory")]);
    assert_eq!(cached, SIZE as f64, "something was purged");
}

#[test]
fn each_request_is_one_line_in_the_log() {
    let stage = stage();
    let mut connection = Connection::open(stage.gateway.address());
    let _ = connection
        .request("GET", "/models/a.bin?first", &[])
        .expect(200);
    let _ = connection
        .request("GET", "/models/none.bin?second", &[])
        .expect(404);
    let _ = connection
        .request("GET", "/models/a.bin?third", &[("Range", "bytes=0-9")])
        .expect(206);
    let lines = until(Duration::from_secs(3), "three lines in the log", || {
        let log = stage.gateway.process().stderr();
        let lines: Vec<String> = log
            .lines()
            .filter(|line| line.contains("/models/"))
            .map(str::to_owned)
            .collect();
        (lines.len() >= 3).then_some(lines)
    });
    assert_eq!(lines.len(), 3, "{lines:#?}");
    for (line, (key, status)) in lines.iter().zip([
        ("/models/a.bin", "200"),
        ("/models/none.bin", "404"),
        ("/models/a.bin", "206"),
    ]) {
        assert!(
            line.contains(key) && line.contains(status) && line.contains("GET"),
            "{line}"
        );
    }
    assert!(
        lines[0].contains(&SIZE.to_string()),
        "no bytes in {}",
        lines[0]
    );
}

#[test]
fn signatures_in_addresses_stay_out_of_the_log() {
    let stage = stage();
    let target = format!("{OBJECT}?X-Amz-Signature=feedfacefeedface&X-Amz-Credential=AKIDKNOWN");
    let headers = [
        (
            "Authorization",
            "AWS4-HMAC-SHA256 Credential=AKIDKNOWN/x, Signature=deadbeefdeadbeef",
        ),
        ("Range", "bytes=0-0"),
    ];
    let _ = stage.gateway.request("GET", &target, &headers).expect(206);
    let log = stage.gateway.stop();
    assert!(log.contains(OBJECT), "{log}");
    for secret in ["feedface", "deadbeef"] {
        assert!(!log.contains(secret), "{secret} in {log}");
    }
}

#[test]
fn the_access_log_can_be_off_or_json() {
    let origin = servers::nginx::Nginx::start();
    origin.put("a.bin", b"abc");
    let dataset = || Dataset::new("models", origin.url(servers::nginx::Mood::Plain));
    let quiet = Setup::of([dataset()])
        .section("[log]\naccess = false")
        .start();
    let _ = quiet.get("/models/a.bin").expect(200);
    assert!(!quiet.stop().contains("/models/a.bin"));
    let json = Setup::of([dataset()])
        .section("[log]\nformat = \"json\"")
        .start();
    let _ = json.get("/models/a.bin").expect(200);
    let log = json.stop();
    let lines: Vec<Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).expect("each line is JSON"))
        .collect();
    assert!(
        lines
            .iter()
            .any(|line| line.to_string().contains("/models/a.bin")),
        "{log}"
    );
}

#[test]
fn status_and_purge_on_the_command_line() {
    let stage = stage();
    let _ = stage.gateway.get(OBJECT).expect(200);
    let status = stage.gateway.client(&["status"]);
    let text = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(
        status.status.success() && text.contains("models"),
        "{text}{}",
        String::from_utf8_lossy(&status.stderr)
    );
    let datasets = stage.gateway.client(&["datasets", "--json"]);
    let value: Value =
        serde_json::from_slice(&datasets.stdout).expect("--json prints the API's answer");
    assert_eq!(value["datasets"][0]["name"], json!("models"));
    let purge = stage.gateway.client(&["purge", "models/a.bin", "--json"]);
    let value: Value =
        serde_json::from_slice(&purge.stdout).expect("--json prints the API's answer");
    assert_eq!(
        value,
        json!({ "blocks": 4, "bytes": SIZE, "absent_members": [] })
    );
    let none = stage.gateway.client(&["purge", "none/a.bin"]);
    assert!(!none.status.success() && !none.stderr.is_empty());
}

#[test]
fn a_client_without_a_gateway_says_so() {
    let nobody = servers::free_address();
    let output = command()
        .args(["status", "--gateway", &format!("http://{nobody}")])
        .output()
        .expect("forebay runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success() && said.contains(&nobody.to_string()),
        "{said}"
    );
}
