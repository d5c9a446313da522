//! Revisions: a dataset is read by one manifest or by the next, whole, whoever switches it and whoever is away.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};

use forebay_loadtest::origin::Settings;
use forebay_tests::cluster::{Gateway, Setup, command};
use forebay_tests::fleet::{Fleet, Plan};
use forebay_tests::http::{Answer, Connection, request};
use forebay_tests::oracle;
use forebay_tests::process::PATIENCE;
use forebay_tests::servers::moto::Moto;
use forebay_tests::until;
use serde_json::{Value, json};

/// Files of the model that is released.
const FILES: [&str; 3] = ["config.json", "one.bin", "two.bin"];

/// Bytes of each.
const SIZE: u64 = (2 << 20) + 17;

/// Logged while members come and go.
const ALLOWED: [&str; 2] = ["until the state store is", "settings differ"];

fn state(moto: &Moto) -> String {
    format!(
        "[state]\nurl = \"s3://state/forebay/\"\noptions = {{ aws_endpoint = {:?}, aws_region = \"us-east-1\", \
         aws_access_key_id = \"AK\", aws_secret_access_key = \"SK\" }}",
        moto.url()
    )
}

fn plans(moto: &Moto) -> Vec<Plan> {
    let plan = |name| Plan {
        sections: vec![state(moto)],
        allowed: ALLOWED.map(str::to_owned).into(),
        ..Plan::new(name)
    };
    ["a", "b", "c"].map(plan).into()
}

fn store() -> Moto {
    let moto = Moto::start();
    moto.bucket("state");
    moto
}

/// Puts all files at the origin, as the version of this number, and says the manifest of them.
fn publish(fleet: &Fleet, id: &str, version: u64) -> String {
    let address: SocketAddr = fleet
        .origin
        .endpoint()
        .trim_start_matches("http://")
        .parse()
        .expect("HOST:PORT");
    let keys = FILES.map(|key| {
        fleet.origin.put(key, SIZE, version);
        let head = request(address, "HEAD", &format!("/bucket/{key}"), &[]);
        json!({ "key": key, "etag": head.need("etag"), "size": SIZE })
    });
    json!({ "id": id, "keys": keys }).to_string()
}

fn switch(gateway: &Gateway, query: &str, manifest: &str) -> Answer {
    let target = format!("/-/revision/models{query}");
    Connection::open(gateway.address()).upload("POST", &target, &[], manifest.as_bytes())
}

/// Warms all that the origin has by now.
fn warm(gateway: &Gateway) {
    let warmed = gateway.request("POST", "/-/warm/models", &[("Content-Length", "0")]);
    let text = warmed.expect(200).text();
    assert!(
        text.contains("\ndone ") || text.starts_with("done "),
        "{text}"
    );
}

/// Reads all files as a loader does that stays with what it began with: each through another gateway.
fn load(gateways: &[SocketAddr], first: usize) -> (String, Vec<u64>) {
    let mut revision: Option<String> = None;
    let mut sums = Vec::new();
    for (place, key) in FILES.iter().enumerate() {
        let address = gateways[(first + place) % gateways.len()];
        let named = revision.clone();
        let headers: Vec<(&str, &str)> = named
            .iter()
            .map(|id| ("x-forebay-revision", id.as_str()))
            .collect();
        let answer = request(address, "GET", &format!("/models/{key}"), &headers).expect(200);
        let id = answer.need("x-forebay-revision").to_owned();
        assert!(
            revision.get_or_insert_with(|| id.clone()) == &id,
            "{key} is of {id}"
        );
        assert_eq!(answer.body.len() as u64, SIZE);
        let sum = answer.body.iter().fold(0u64, |sum, byte| {
            sum.wrapping_mul(31).wrapping_add(u64::from(*byte))
        });
        sums.push(sum);
    }
    (revision.expect("a revision"), sums)
}

#[test]
fn a_switch_under_readers_shows_each_of_them_the_old_or_the_new_one_whole() {
    let moto = store();
    let fleet = Fleet::start(&plans(&moto), Settings::default(), &["fresh_for = \"1s\""]);
    let one = publish(&fleet, "v1", 0);
    warm(&fleet.gateways[0]);
    let _ = switch(&fleet.gateways[0], "?require=resident", &one).expect(200);
    let two = publish(&fleet, "v2", 1);
    // Nothing of the second is here yet.
    let refused = switch(&fleet.gateways[1], "?require=resident", &two).expect(503);
    assert!(
        refused.text().contains("v2 is resident to 0.0 %"),
        "{}",
        refused.text()
    );
    let addresses: Vec<SocketAddr> = fleet.gateways.iter().map(Gateway::address).collect();
    let (before, _) = load(&addresses, 0);
    assert_eq!(before, "v1", "though its origin has other versions by now");
    let stop = AtomicBool::new(false);
    let seen = std::thread::scope(|scope| {
        let readers: Vec<_> = (0..32)
            .map(|reader| {
                let (addresses, stop) = (&addresses, &stop);
                scope.spawn(move || {
                    let mut seen = BTreeSet::new();
                    // Once more after the word to stop: then it is the new one.
                    loop {
                        let last = stop.load(Ordering::Acquire);
                        let loaded = load(addresses, reader);
                        if last {
                            assert_eq!(loaded.0, "v2", "after the switch");
                        }
                        seen.insert(loaded);
                        if last {
                            return seen;
                        }
                    }
                })
            })
            .collect();
        warm(&fleet.gateways[0]);
        let switched = switch(&fleet.gateways[2], "?require=resident", &two).expect(200);
        stop.store(true, Ordering::Release);
        let told: Value = serde_json::from_slice(&switched.body).expect("JSON");
        assert_eq!(
            (&told["current"]["id"], &told["previous"]["id"]),
            (&"v2".into(), &"v1".into())
        );
        let members = told["members"].as_array().expect("members");
        assert!(
            members.len() == 2 && members.iter().all(|one| one["agrees"] == true),
            "{told}"
        );
        let mut all: BTreeMap<String, BTreeSet<Vec<u64>>> = BTreeMap::new();
        for reader in readers {
            for (id, sums) in reader.join().expect("a reader fails never") {
                all.entry(id).or_default().insert(sums);
            }
        }
        all
    });
    assert!(
        seen.values().all(|sums| sums.len() == 1),
        "one revision, one content"
    );
    assert_ne!(seen.get("v1"), seen.get("v2"));
    assert_eq!(seen.len(), 2, "both were read");
    // Who began with the old one may finish with it.
    let old = [("x-forebay-revision", "v1")];
    let answer = fleet.gateways[1].request("GET", "/models/two.bin", &old);
    assert_eq!(answer.expect(200).need("x-forebay-revision"), "v1");
}

#[test]
fn a_member_that_was_away_serves_the_new_one_with_its_first_answer() {
    let moto = store();
    let plans = plans(&moto);
    let mut fleet = Fleet::start(&plans, Settings::default(), &["fresh_for = \"1s\""]);
    let one = publish(&fleet, "v1", 0);
    let _ = switch(&fleet.gateways[0], "", &one).expect(200);
    for gateway in &fleet.gateways {
        let answer = gateway.get("/models/one.bin").expect(200);
        assert_eq!(answer.need("x-forebay-revision"), "v1");
    }
    let _ = fleet.gateways.remove(2).kill();
    let two = publish(&fleet, "v2", 1);
    let _ = switch(&fleet.gateways[0], "", &two).expect(200);
    fleet.join(&plans[2], &plans);
    for gateway in &fleet.gateways {
        let answer = gateway.get("/models/one.bin").expect(200);
        assert_eq!(answer.need("x-forebay-revision"), "v2");
    }
}

#[test]
fn a_member_that_hears_of_nobody_serves_no_old_revision() {
    let mut moto = store();
    let address = forebay_tests::servers::free_address();
    moto.bucket("bucket");
    moto.put("bucket", "a", b"abc");
    let fleet = format!(
        "[fleet]\nname = \"test\"\nmember = \"a\"\nkey = \"the key of this fleet\"\nlisten = \"{address}\"\n"
    );
    let models = moto.dataset("models", "bucket");
    let setup = Setup::of([models]).section(&state(&moto)).section(&fleet);
    let gateway = setup.allow(ALLOWED[0]).start();
    let head = gateway.request("HEAD", "/models/a", &[]);
    let etag = head.need("etag");
    let manifest = json!({ "id": "v1", "keys": [{ "key": "a", "etag": etag, "size": 3 }] });
    let _ = switch(&gateway, "", &manifest.to_string()).expect(200);
    assert_eq!(gateway.get("/models/a").expect(200).body, b"abc");
    moto.kill();
    // What it knew holds for a while, and then no more.
    let refused = until(PATIENCE, "it to be unsure", || {
        let answer = gateway.get("/models/a");
        (answer.status == 503).then_some(answer)
    });
    assert!(
        refused.text().contains("neither the state store"),
        "{}",
        refused.text()
    );
}

fn alone(moto: &Moto) -> Gateway {
    let models = moto.dataset("models", "bucket").line("fresh_for = \"0s\"");
    Setup::of([models]).start()
}

/// Whose keys are told of as resident or not, and how many they are.
fn resident(gateway: &Gateway) -> (Value, Value) {
    let answer = gateway.get("/-/resident/models").expect(503);
    let answer: Value = serde_json::from_slice(&answer.body).expect("JSON");
    (answer["revision"].clone(), answer["objects"].clone())
}

#[test]
fn a_dataset_with_a_revision_has_its_keys_in_their_versions_and_nothing_else() {
    let moto = Moto::start();
    moto.bucket("bucket");
    for key in ["a", "deep/b", "c"] {
        moto.put("bucket", key, &oracle::bytes(key, 1, 1000));
    }
    let gateway = alone(&moto);
    let etag = |key: &str| {
        let head = gateway.request("HEAD", &format!("/models/{key}"), &[]);
        head.need("etag").to_owned()
    };
    let keys = ["a", "deep/b"].map(|key| json!({ "key": key, "etag": etag(key), "size": 1000 }));
    let manifest = json!({ "id": "v1", "keys": keys }).to_string();
    moto.put("bucket", "manifest.json", manifest.as_bytes());
    let none = gateway.json("/-/revision/models");
    assert!(none["current"].is_null());
    let _ = switch(&gateway, "?manifest=manifest.json", "").expect(200);
    let _ = gateway.get("/models/c").expect(404);
    assert_eq!(resident(&gateway), ("v1".into(), 2.into()));
    let read = gateway.get("/models/a").expect(200);
    assert_eq!(read.need("x-forebay-revision"), "v1");
    assert_eq!(read.body, oracle::bytes("a", 1, 1000));
    let listed = gateway.get("/models?list-type=2&delimiter=/").expect(200);
    assert_eq!(listed.need("x-forebay-revision"), "v1");
    let text = listed.text();
    assert!(
        text.contains("<Key>a</Key>") && text.contains("<Prefix>deep/</Prefix>"),
        "{text}"
    );
    assert!(text.contains("<KeyCount>2</KeyCount>"), "{text}");
    let other = [("x-forebay-revision", "v0")];
    let _ = gateway.request("GET", "/models/a", &other).expect(412);
    // What is overwritten is served while it is cached; what is not cached is had nowhere, and never another version.
    for key in ["a", "deep/b"] {
        moto.put("bucket", key, &oracle::bytes(key, 2, 1000));
    }
    assert_eq!(
        gateway.get("/models/a").expect(200).body,
        oracle::bytes("a", 1, 1000)
    );
    let gone = gateway.get("/models/deep/b").expect(404);
    assert_eq!(gone.xml("Code").as_deref(), Some("NoSuchVersion"));
    // It outlives a kill.
    let config = gateway.config();
    let scratch = gateway.kill();
    let mut serve = command();
    let gateway = Gateway::start(
        serve.arg("serve").arg("--config").arg(&config),
        scratch,
        Vec::new(),
    );
    let _ = gateway.get("/models/c").expect(404);
    let shown = gateway.client(&["revision", "show", "models"]);
    let text = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(text.contains("current v1: 2 keys"), "{text}");
    let cleared = gateway.client(&["revision", "clear", "models"]);
    assert_eq!(cleared.status.code(), Some(0));
    assert_eq!(
        gateway
            .get("/models/c")
            .expect(200)
            .header("x-forebay-revision"),
        None
    );
    assert_eq!(
        gateway.get("/models/a").expect(200).body,
        oracle::bytes("a", 2, 1000)
    );
}

#[test]
fn what_is_no_manifest_is_refused_with_a_sentence_and_changes_nothing() {
    let moto = Moto::start();
    moto.bucket("bucket");
    let gateway = alone(&moto);
    for (query, manifest, part) in [
        ("", "", "the manifest can't be read"),
        ("", r#"{"keys":[]}"#, "names no keys"),
        (
            "",
            r#"{"keys":[{"key":"a","etag":"W/\"x\"","size":1}]}"#,
            "strong",
        ),
        (
            "?require=luck",
            r#"{"keys":[{"key":"a","etag":"x","size":1}]}"#,
            "`require` is resident",
        ),
        (
            "?manifest=nowhere",
            "",
            "nowhere: the origin has no such object",
        ),
        ("?colour=red", "", "no parameter"),
    ] {
        let refused = switch(&gateway, query, manifest).expect(400);
        assert!(refused.text().contains(part), "{part}: {}", refused.text());
    }
    let one = r#"{"id":"v1","keys":[{"key":"a","etag":"x","size":1}]}"#;
    let other = r#"{"id":"v1","keys":[{"key":"a","etag":"y","size":1}]}"#;
    let refused = switch(&gateway, "?require=resident", one).expect(503);
    assert!(
        refused.text().contains("0 of 1 bytes"),
        "{}",
        refused.text()
    );
    assert!(gateway.json("/-/revision/models")["current"].is_null());
    let _ = switch(&gateway, "", one).expect(200);
    let refused = switch(&gateway, "", other).expect(409);
    assert!(refused.text().contains("another id"), "{}", refused.text());
}
