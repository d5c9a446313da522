//! Jobs that verify: what is there is what its publisher or its origin says, or the job fails and nothing calls it
//! resident.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use crc_fast::CrcAlgorithm;
use forebay_loadtest::origin::{Fault, Rule, Settings};
use forebay_tests::cluster::{Dataset, Gateway, Setup};
use forebay_tests::fleet::{Fleet, Plan};
use forebay_tests::oracle::{self, BLOCK};
use forebay_tests::process::PATIENCE;
use forebay_tests::servers::moto::Moto;
use forebay_tests::servers::scripted::{Scripted, answer, object};
use forebay_tests::until;
use serde_json::{Value, json};

use super::kept::cached;
use super::{SIZE, begin, done, over, resident};

/// Logged of what is not what it should be.
const REFUTED: &str = "is not what it is said to be";

fn hex(bytes: &[u8]) -> String {
    let digest = digest(&SHA256, bytes);
    digest
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// The checksum of these bytes by this algorithm, as S3 tells it.
fn checksum(algorithm: &str, bytes: &[u8]) -> String {
    let crc = |of| crc_fast::checksum(of, bytes);
    match algorithm {
        "crc64nvme" => BASE64_STANDARD.encode(crc(CrcAlgorithm::Crc64Nvme).to_be_bytes()),
        "crc32c" => BASE64_STANDARD.encode(&crc(CrcAlgorithm::Crc32Iscsi).to_be_bytes()[4..]),
        _ => BASE64_STANDARD.encode(digest(&SHA256, bytes)),
    }
}

fn verify(gateway: &Gateway, prefix: &str) -> Value {
    let id = begin(
        gateway,
        &format!("/-/warm/models/{prefix}"),
        r#"{"verify": true}"#,
    );
    over(gateway, &id)
}

#[test]
fn what_an_object_store_says_of_whole_objects_is_compared() {
    let moto = Moto::start();
    moto.bucket("weights");
    for algorithm in ["crc64nvme", "crc32c", "sha256"] {
        let bytes = oracle::bytes(algorithm, 1, 2 * BLOCK + 17);
        let sum = checksum(algorithm, &bytes);
        moto.put_with(&format!("a/{algorithm}"), &bytes, algorithm, &sum);
    }
    moto.put("weights", "a/none", &oracle::bytes("none", 1, BLOCK));
    moto.put("weights", "a/empty", b"");
    let models = moto
        .dataset("models", "weights")
        .line("fresh_for = \"100ms\"");
    let gateway = Setup::of([models]).allow(REFUTED).start();
    let job = verify(&gateway, "a/");
    assert_eq!(job["state"], "done", "{job}");
    assert_eq!(
        (&job["verified"], &job["unverified"]),
        (&3.into(), &2.into())
    );
    // One of which the store says something else than it gives.
    let bytes = oracle::bytes("b", 1, 2 * BLOCK);
    let stated = checksum("crc64nvme", b"something else");
    moto.put_with("b/b.bin", &bytes, "crc64nvme", &stated);
    moto.put("weights", "b/c.bin", &oracle::bytes("c", 1, BLOCK));
    let failed = verify(&gateway, "b/");
    let why = failed["error"].as_str().unwrap_or_default();
    let crc = |bytes| {
        format!(
            "CRC64NVME {:016x}",
            crc_fast::checksum(CrcAlgorithm::Crc64Nvme, bytes)
        )
    };
    for part in [
        "b/b.bin",
        "its origin",
        &crc(b"something else"),
        &crc(&bytes),
    ] {
        assert!(why.contains(part), "{part}: {failed}");
    }
    let (status, answer) = resident(&gateway, "b/");
    assert_eq!((status, &answer["missing"]), (503, &json!(["b/b.bin"])));
    assert_eq!(answer["resident_bytes"], BLOCK, "the other one");
    // Whoever reads it has what the store gives, and it is not called resident for that.
    assert_eq!(gateway.get("/models/b/b.bin").expect(200).body, bytes);
    assert_eq!(resident(&gateway, "b/").1["resident_bytes"], BLOCK);
    let again = over(&gateway, &begin(&gateway, "/-/warm/models/b/", ""));
    let why = again["error"].as_str().unwrap_or_default();
    assert!(why.contains("b/b.bin") && why.contains("verify"), "{again}");
    // Once it is put right, under another ETag.
    let mended = oracle::bytes("b", 2, 2 * BLOCK);
    moto.put_with(
        "b/b.bin",
        &mended,
        "crc64nvme",
        &checksum("crc64nvme", &mended),
    );
    let job = verify(&gateway, "b/");
    assert_eq!(job["state"], "done", "{job}");
    until(PATIENCE, "another listing", || {
        (resident(&gateway, "b/").0 == 200).then_some(())
    });
}

type Files = Arc<Mutex<HashMap<String, (String, Vec<u8>)>>>;

/// An HTTP origin of files, each with its tag.
fn files() -> (Files, Scripted, Gateway) {
    let files = Files::default();
    let served = Arc::clone(&files);
    let server = Scripted::start(move |asked| {
        let files = served.lock().expect("no test panics with it");
        let key = asked.target.trim_start_matches('/');
        match files.get(key) {
            // It can't be listed.
            _ if !["GET", "HEAD"].contains(&asked.method.as_str()) => answer(asked, 405, "", b""),
            Some((tag, bytes)) => object(asked, tag, "", bytes),
            None => answer(asked, 404, "", b""),
        }
    });
    let models = Dataset::new("models", format!("{}/", server.url()));
    let gateway = Setup::of([models.line("fresh_for = \"10m\"")]).allow(REFUTED);
    let gateway = gateway.start();
    (files, server, gateway)
}

fn put(files: &Files, key: &str, tag: &str, bytes: &[u8]) {
    let mut files = files.lock().expect("no test panics with it");
    files.insert(key.to_owned(), (tag.to_owned(), bytes.to_vec()));
}

/// Verifies these keys.
fn keys(gateway: &Gateway, keys: &[&str]) -> Value {
    let body = json!({ "keys": keys, "verify": true }).to_string();
    over(gateway, &begin(gateway, "/-/warm/models/", &body))
}

#[test]
fn what_a_manifest_says_is_compared_and_a_byte_that_flipped_under_its_etag_is_found() {
    let (files, _server, gateway) = files();
    let (one, two) = (
        oracle::bytes("1", 1, 3 * BLOCK + 5),
        oracle::bytes("2", 1, BLOCK),
    );
    put(&files, "m/1.bin", "\"one\"", &one);
    put(&files, "m/2.bin", "\"two\"", &two);
    put(
        &files,
        "m/3.bin",
        "\"three\"",
        b"of which nobody says anything",
    );
    let manifest = format!("{}  1.bin\n", hex(&one));
    put(&files, "m/SHA256SUMS", "\"sums\"", manifest.as_bytes());
    put(&files, "m/2.bin.sha256", "\"sum\"", hex(&two).as_bytes());
    let job = keys(&gateway, &["m/1.bin", "m/2.bin", "m/3.bin"]);
    assert_eq!(job["state"], "done", "{job}");
    assert_eq!(
        (&job["verified"], &job["unverified"]),
        (&2.into(), &1.into())
    );
    let mut lie = one.clone();
    lie[2 * BLOCK + 1] ^= 1;
    put(&files, "m/1.bin", "\"one\"", &lie);
    let _ = gateway
        .request(
            "POST",
            "/-/purge/models/m/1.bin",
            &[("Content-Length", "0")],
        )
        .expect(200);
    let failed = keys(&gateway, &["m/1.bin", "m/2.bin"]);
    let why = failed["error"].as_str().unwrap_or_default();
    for part in ["m/1.bin is not", "m/SHA256SUMS", &hex(&one), &hex(&lie)] {
        assert!(why.contains(part), "{part}: {failed}");
    }
    assert_eq!(resident(&gateway, "m/1.bin").0, 503);
    assert_eq!(resident(&gateway, "m/2.bin").0, 200);
    // The origin is mended, and no validator tells.
    put(&files, "m/1.bin", "\"one\"", &one);
    assert_eq!(keys(&gateway, &["m/1.bin"])["state"], "done");
    assert_eq!(resident(&gateway, "m/1.bin").0, 200);
}

#[test]
fn the_sha256_that_a_hub_has_for_an_etag_is_compared() {
    let (files, _server, gateway) = files();
    let bytes = oracle::bytes("a", 1, BLOCK + 1);
    put(&files, "a.bin", &format!("\"{}\"", hex(&bytes)), &bytes);
    assert_eq!(keys(&gateway, &["a.bin"])["verified"], 1);
    put(&files, "b.bin", &format!("\"{}\"", hex(b"another")), &bytes);
    let failed = keys(&gateway, &["b.bin"]);
    let why = failed["error"].as_str().unwrap_or_default();
    assert!(why.contains(&hex(b"another")), "{failed}");
}

#[test]
fn owners_sum_up_their_parts_and_a_lie_is_let_go_of_by_all() {
    let mut plans: Vec<Plan> = ["a", "b", "c"].map(Plan::new).into();
    plans[1].allowed.push(REFUTED.to_owned());
    let fleet = Fleet::start(&plans, Settings::default(), &["fresh_for = \"10m\""]);
    fleet.origin.put("a.bin", SIZE, 0);
    fleet.origin.put("b.bin", SIZE, 0);
    let id = begin(
        &fleet.gateways[1],
        "/-/warm/models/a",
        r#"{"verify": true}"#,
    );
    let job = done(&fleet.gateways[1], &id);
    assert_eq!(
        (&job["verified"], &job["unverified"]),
        (&1.into(), &0.into())
    );
    assert_eq!(
        fleet.metric("forebay_peer_bytes_total", &[]),
        0.0,
        "bytes crossed between members"
    );
    assert_eq!(fleet.origin.counters().bytes_sent, SIZE);
    let lie = Rule::always(Fault::OtherVersion { after: 100_000 });
    fleet.origin.fault(lie.on("b.bin"));
    let failed = verify(&fleet.gateways[1], "b");
    let why = failed["error"].as_str().unwrap_or_default();
    assert!(
        why.contains("b.bin is not") && why.contains("CRC64NVME"),
        "{failed}"
    );
    for gateway in &fleet.gateways {
        assert_eq!(resident(gateway, "b").0, 503);
        assert_eq!(resident(gateway, "a").0, 200);
    }
    let held: u64 = fleet
        .gateways
        .iter()
        .map(|gateway| cached(gateway, "/cached/memory/bytes"))
        .sum();
    assert_eq!(held, SIZE, "of the other one");
}
