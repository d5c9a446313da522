//! Copying between datasets: every byte, of one version, once; what a kill leaves; what is refused.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use forebay_loadtest::origin::{Origin, Settings};
use forebay_tests::cluster::{Dataset, Gateway, SECRET, Setup, command};
use forebay_tests::http::{Answer, Connection, target};
use forebay_tests::oracle;
use forebay_tests::process::PATIENCE;
use forebay_tests::scratch::Scratch;
use forebay_tests::servers::Object;
use forebay_tests::servers::azurite::Azurite;
use forebay_tests::servers::moto::Moto;
use forebay_tests::servers::scripted::{Scripted, answer, object};
use forebay_tests::until;
use serde_json::Value;
use tokio::runtime::Runtime;

/// Bytes of a part of a large object.
const PART: u64 = 8 << 20;

/// Names that clients, servers and signatures have been wrong about.
const ODD: [&str; 4] = [
    "a b+c",
    "deep/\u{fc}n\u{ee}c\u{f6}de \u{6a21}",
    "a%2Fb",
    "a//b",
];

fn target_dataset(moto: &Moto) -> Dataset {
    moto.dataset("copies", "target").line("writable = true")
}

fn post(gateway: &Gateway, target: &str) -> Answer {
    gateway.request("POST", target, &[("Content-Length", "0")])
}

/// Copies, as a client that wants JSON, and says how it ended.
fn copy(gateway: &Gateway, from: &str, to: &str) -> Value {
    let headers = [("Content-Length", "0"), ("Accept", "application/json")];
    let answer = gateway.request("POST", &format!("/-/copy/{from}?to={to}"), &headers);
    let text = answer.expect(200).text();
    let last = text.lines().last().expect("a line");
    serde_json::from_str(last).expect("JSON")
}

fn done(gateway: &Gateway, from: &str, to: &str) -> Value {
    let ended = copy(gateway, from, to);
    assert_eq!(ended["state"], "done", "{ended}");
    ended
}

#[test]
fn every_object_is_copied_once_whatever_its_name_and_size() {
    let moto = Moto::start();
    moto.bucket("source");
    moto.bucket("target");
    let mut objects: Vec<(String, Vec<u8>)> = ODD
        .iter()
        .map(|key| ((*key).to_owned(), oracle::bytes(key, 1, 1000)))
        .collect();
    objects.push(("empty".into(), Vec::new()));
    let large = usize::try_from(2 * PART + 17).expect("small enough");
    objects.push(("large".into(), oracle::bytes("large", 1, large)));
    for (key, bytes) in &objects {
        moto.put("source", key, bytes);
    }
    let models = moto.dataset("models", "source");
    let gateway = Setup::of([models, target_dataset(&moto)]).start();
    // What is known not to be there is not believed once it is.
    let _ = gateway.get(&target("copies", "new/empty")).expect(404);
    let dry = post(&gateway, "/-/copy/models?to=copies/new/&dry=true").expect(200);
    let listed = gateway.get("/copies?list-type=2&prefix=new/").expect(200);
    assert!(dry.text().starts_with("done 6 objects"), "{}", dry.text());
    assert!(listed.text().contains("<KeyCount>0</KeyCount>"));
    let ended = done(&gateway, "models", "copies/new/");
    assert_eq!(
        (&ended["objects"], &ended["objects_there"]),
        (&6.into(), &0.into())
    );
    for (key, bytes) in &objects {
        let copied = format!("new/{key}");
        assert!(
            moto.get("target", &copied).expect(200).body == *bytes,
            "{key}"
        );
        let read = gateway.get(&target("copies", &copied)).expect(200);
        assert!(read.body == *bytes, "{key}");
        assert_eq!(read.need("content-type"), "application/octet-stream");
    }
    let listed = gateway.get("/copies?list-type=2&prefix=new/").expect(200);
    assert!(
        listed.text().contains("<KeyCount>6</KeyCount>"),
        "{}",
        listed.text()
    );
    // Once more there is nothing to do, and nothing is read.
    let gets = gateway.origin_gets("models");
    let again = done(&gateway, "models", "copies/new/");
    assert_eq!(
        (&again["objects"], &again["objects_there"]),
        (&0.into(), &6.into())
    );
    assert_eq!(again["bytes_read"], 0);
    let listing = gateway.origin_gets("models") - gets;
    assert!(
        listing <= 1.0,
        "{listing} GETs: only the listing is asked for"
    );
    // One that changed is copied again, and seen at once.
    moto.put("source", "empty", b"no more");
    let again = done(&gateway, "models", "copies/new/");
    assert_eq!(
        (&again["objects"], &again["objects_there"]),
        (&1.into(), &5.into())
    );
    let read = gateway.get(&target("copies", "new/empty")).expect(200);
    assert_eq!(read.body, b"no more");
    assert!(!moto.uploads("target").contains("<UploadId>"));
}

/// The origin model at a rate, and what it runs on.
struct Slow {
    origin: Origin,
    _runtime: Runtime,
}

impl Slow {
    fn start(rate: u64) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        let settings = Settings {
            total_rate: Some(rate),
            ..Settings::default()
        };
        let origin = runtime.block_on(Origin::start(settings));
        Self {
            origin: origin.expect("the origin listens"),
            _runtime: runtime,
        }
    }

    fn dataset(&self) -> Dataset {
        Dataset::new("models", "s3://bucket")
            .option("aws_endpoint", self.origin.endpoint())
            .option("aws_region", "us-east-1")
            .option("aws_access_key_id", "AK")
            .option("aws_secret_access_key", SECRET)
    }

    fn sent(&self) -> u64 {
        self.origin.counters().bytes_sent
    }
}

/// Begins a copy on a connection of its own, which is to be held while it lasts.
fn begin(gateway: &Gateway, target: &str) -> Connection {
    let mut connection = Connection::open(gateway.address());
    connection.ask("POST", target, &[("Content-Length", "0")]);
    connection
}

#[test]
fn what_a_kill_left_half_done_is_gone_on_with() {
    let size = 8 * PART + 1;
    let slow = Slow::start(size / 4);
    slow.origin.put("large", size, 0);
    for number in 0..20 {
        slow.origin.put(&format!("small/{number}"), 10_000, 0);
    }
    let moto = Moto::start();
    moto.bucket("target");
    let gateway = Setup::of([slow.dataset(), target_dataset(&moto)]).start();
    let _body = begin(&gateway, "/-/copy/models?to=copies");
    until(PATIENCE, "half of it to be there", || {
        let uploads = moto.uploads("target");
        // An eighth of the memory is four parts: no more than those are under way, and the others are up.
        (uploads.contains("<UploadId>") && slow.sent() > 5 * PART + PART / 2).then_some(())
    });
    let before = slow.sent();
    let config = gateway.config();
    let scratch = gateway.kill();
    assert!(config.starts_with(scratch.path()));
    let gateway = Gateway::start(
        command().arg("serve").arg("--config").arg(&config),
        scratch,
        Vec::new(),
    );
    let ended = done(&gateway, "models", "copies");
    assert!(ended["bytes_read"].as_u64() < Some(size), "{ended}");
    assert!(ended["bytes_read"].as_u64() > Some(0), "{ended}");
    let after = slow.sent() - before;
    assert!(
        after <= size - PART,
        "{after} of {size} bytes were read again"
    );
    for key in ["large", "small/7"] {
        let source = gateway.get(&target("models", key)).expect(200).body;
        assert!(moto.get("target", key).expect(200).body == source, "{key}");
    }
    assert!(!moto.uploads("target").contains("<UploadId>"));
}

/// A bucket of one object of these bytes that is uploaded in parts: it makes the object, and does not say so.
fn says_nothing_of_what_it_completes(bytes: Arc<OnceLock<Vec<u8>>>) -> (Scripted, Arc<AtomicU32>) {
    let completed = Arc::new(AtomicU32::new(0));
    let (count, source) = (Arc::clone(&completed), Mutex::new(String::new()));
    let bucket = Scripted::speaking(move |asked, out| {
        let source = &mut *source.lock().expect("no script panics");
        let is_there = count.load(Ordering::Acquire) > 0;
        let answer = match (&*asked.method, asked.target.split_once('?')) {
            ("GET", Some((_, query))) if query.contains("list-type") => answer(
                asked,
                200,
                "",
                b"<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>",
            ),
            ("POST", Some((_, query))) if query.starts_with("uploads") => {
                let named = asked.header("x-amz-meta-forebaysource");
                named.expect("a copy names its source").clone_into(source);
                let text = "<InitiateMultipartUploadResult><UploadId>1</UploadId></InitiateMultipartUploadResult>";
                answer(asked, 200, "", text.as_bytes())
            }
            ("PUT", Some(_)) => answer(asked, 200, "ETag: \"part\"\r\n", b""),
            ("POST", Some(_)) if is_there => answer(asked, 404, "", b""),
            ("POST", Some(_)) => {
                count.fetch_add(1, Ordering::AcqRel);
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            ("GET" | "HEAD", None) if is_there => {
                let field = format!("x-amz-meta-forebaysource: {source}\r\n");
                object(
                    asked,
                    "\"whole\"",
                    &field,
                    bytes.get().expect("known by now"),
                )
            }
            _ => answer(asked, 404, "", b""),
        };
        out.write_all(&answer)
    });
    (bucket, completed)
}

#[test]
fn an_upload_that_was_completed_is_whole_though_the_bucket_did_not_say_so() {
    let size = 2 * PART + 1;
    let slow = Slow::start(size * 8);
    slow.origin.put("large", size, 0);
    let bytes = Arc::default();
    let (bucket, completed) = says_nothing_of_what_it_completes(Arc::clone(&bytes));
    let copies = bucket.s3("copies", "target").line("writable = true");
    let gateway = Setup::of([slow.dataset(), copies]).start();
    let source = gateway.get(&target("models", "large")).expect(200).body;
    bytes.set(source).expect("it is known once");
    let ended = done(&gateway, "models", "copies");
    assert_eq!(ended["objects"], 1, "{ended}");
    assert_eq!(
        completed.load(Ordering::Acquire),
        1,
        "nothing was sent twice"
    );
}

#[test]
fn a_copy_whose_client_leaves_leaves_no_upload() {
    let size = 6 * PART;
    let slow = Slow::start(size / 20);
    slow.origin.put("large", size, 0);
    let moto = Moto::start();
    moto.bucket("target");
    let gateway = Setup::of([slow.dataset(), target_dataset(&moto)]).start();
    let body = begin(&gateway, "/-/copy/models?to=copies");
    until(PATIENCE, "the upload to begin", || {
        moto.uploads("target").contains("<UploadId>").then_some(())
    });
    drop(body);
    until(PATIENCE, "the upload to be given up", || {
        (!moto.uploads("target").contains("<UploadId>")).then_some(())
    });
    until(PATIENCE, "the copy to be counted", || {
        let cancelled = gateway.metric("forebay_copies_total", &[("outcome", "cancelled")]);
        (cancelled > 0.0).then_some(())
    });
}

#[test]
fn a_source_that_is_overwritten_meanwhile_is_copied_whole_of_one_version() {
    let size = 6 * PART;
    let slow = Slow::start(size / 3);
    slow.origin.put("large", size, 0);
    let moto = Moto::start();
    moto.bucket("target");
    let gateway = Setup::of([slow.dataset(), target_dataset(&moto)]).start();
    let mut body = begin(&gateway, "/-/copy/models?to=copies");
    until(PATIENCE, "it to be on its way", || {
        (slow.sent() > size / 3).then_some(())
    });
    slow.origin.put("large", size, 1);
    let text = body.answer(false).expect("an answer").expect(200).text();
    assert!(text.contains("\ndone 1 objects"), "{text}");
    let copied = moto.get("target", "large").expect(200).body;
    let source = gateway
        .request("GET", "/models/large", &[("Cache-Control", "no-cache")])
        .expect(200)
        .body;
    assert!(
        copied == source,
        "of the version that is there now, and no other"
    );
    assert!(!moto.uploads("target").contains("<UploadId>"));
}

#[test]
fn what_makes_no_sense_is_refused_with_a_sentence() {
    let moto = Moto::start();
    moto.bucket("source");
    moto.bucket("target");
    let models = moto.dataset("models", "source");
    let gateway = Setup::of([models, target_dataset(&moto)]).start();
    for (target, part) in [
        (
            "/-/copy/copies?to=models",
            "models is not writable: set writable = true",
        ),
        ("/-/copy/copies/a?to=copies/a/b", "overlap"),
        ("/-/copy/copies?to=copies", "overlap"),
        ("/-/copy/nothing?to=copies", "no dataset \"nothing\""),
        ("/-/copy/models", "say where to"),
        ("/-/copy/models?to=copies&glob=[", "[\""),
        ("/-/copy/models?to=copies&rate=fast", "`rate`"),
        ("/-/copy/models?to=copies/a/../b", "between its slashes"),
        (
            "/-/copy/models?to=copies&colour=red",
            "no parameter \"colour\"",
        ),
    ] {
        let answer = post(&gateway, target).expect(400);
        let detail: Value = serde_json::from_slice(&answer.body).expect("JSON");
        let detail = detail["detail"].as_str().expect("a sentence");
        assert!(
            detail.contains(part) || target.contains('['),
            "{target}: {detail}"
        );
    }
    let nothing = copy(&gateway, "models/none/", "copies/");
    assert_eq!(nothing["state"], "failed");
    let why = nothing["error"].as_str().expect("a sentence");
    assert!(
        why.contains("nothing that is asked for below models/none/"),
        "{why}"
    );
    let refused = gateway.client(&["copy", "copies", "models"]);
    assert_eq!(refused.status.code(), Some(1));
}

#[test]
fn directories_are_copied_from_and_to_by_the_command_line() {
    let files = Scratch::new("copy");
    let from = files.path().join("from");
    let to = files.path().join("to");
    std::fs::create_dir_all(from.join("deep")).expect("a directory");
    std::fs::create_dir_all(&to).expect("a directory");
    let large = oracle::bytes("large", 1, usize::try_from(PART + 5).expect("it fits"));
    for (name, bytes) in [("deep/large", large), ("empty", Vec::new())] {
        std::fs::write(from.join(name), bytes).expect("a file");
    }
    let models = Dataset::new("models", from.display().to_string());
    let copies = Dataset::new("copies", to.display().to_string()).line("writable = true");
    let gateway = Setup::of([models, copies]).start();
    let _ = gateway.get("/copies/x/empty").expect(404);
    let copied = gateway.client(&["copy", "models", "copies/x/"]);
    let said = String::from_utf8_lossy(&copied.stdout).into_owned();
    assert_eq!(copied.status.code(), Some(0), "{said}");
    assert!(
        said.contains("models/ to copies/x/ done 100.0 %: 2 objects"),
        "{said}"
    );
    for name in ["deep/large", "empty"] {
        let [one, other] = [from.join(name), to.join("x").join(name)].map(std::fs::read);
        assert!(
            one.expect("it is there") == other.expect("it is there"),
            "{name}"
        );
    }
    let listed = gateway.get("/copies?list-type=2").expect(200).text();
    assert!(
        listed.contains("<KeyCount>2</KeyCount>"),
        "no draft is listed: {listed}"
    );
    let _ = gateway.get("/copies/.forebay-drafts/x").expect(404);
}

/// Copies a large, a small and an empty object to `copies`, reads them back, and copies them once more.
fn every_byte_comes_to(copies: Dataset) {
    let moto = Moto::start();
    moto.bucket("source");
    let large = usize::try_from(2 * PART + 17).expect("it fits");
    let objects = [
        ("deep/large", oracle::bytes("large", 1, large)),
        ("a b", oracle::bytes("small", 1, 1000)),
        ("empty", Vec::new()),
    ];
    for (key, bytes) in &objects {
        moto.put("source", key, bytes);
    }
    let models = moto.dataset("models", "source");
    let gateway = Setup::of([models, copies.line("writable = true")]).start();
    let ended = done(&gateway, "models", "copies/new/");
    assert_eq!(ended["objects"], 3, "{ended}");
    for (key, bytes) in &objects {
        let read = gateway
            .get(&target("copies", &format!("new/{key}")))
            .expect(200);
        assert!(read.body == *bytes, "{key}");
    }
    let again = done(&gateway, "models", "copies/new/");
    assert_eq!(
        (&again["objects"], &again["objects_there"]),
        (&0.into(), &3.into())
    );
}

/// What makes the bucket or container.
fn first() -> [Object; 1] {
    [Object {
        key: "first".into(),
        bytes: b"first".to_vec(),
    }]
}

#[test]
fn azure_takes_copies_and_is_read_back() {
    let azurite = Azurite::start();
    azurite.put("target", &first());
    every_byte_comes_to(azurite.dataset("copies", "target"));
}
