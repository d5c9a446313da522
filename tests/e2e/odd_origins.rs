//! Origins that are not as they should be: right bytes or a sentence, never wrong bytes.

use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use forebay_tests::cluster::{Dataset, Gateway, SECRET, Setup};
use forebay_tests::http::Answer;
use forebay_tests::oracle::{self, BLOCK, assert_bytes};
use forebay_tests::servers::Object;
use forebay_tests::servers::moto::Moto;
use forebay_tests::servers::nginx::{Mood, Nginx};
use forebay_tests::servers::s3s::S3s;
use forebay_tests::servers::scripted::{Scripted, answer, object};
use forebay_tests::until;

use crate::stage::assert_sentence;

fn gunzip(bytes: &[u8]) -> Vec<u8> {
    let mut child = Command::new("gzip")
        .args(["-dc"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("gzip runs");
    let mut input = child.stdin.take().expect("stdin is piped");
    let bytes = bytes.to_vec();
    let writer = std::thread::spawn(move || input.write_all(&bytes));
    let output = child.wait_with_output().expect("a child can be waited for");
    writer
        .join()
        .expect("the writer does not panic")
        .expect("gzip reads its input");
    output.stdout
}

fn right_bytes_or_a_sentence(
    gateway: &Gateway,
    what: &str,
    answer: &Answer,
    expected: &[u8],
    status: u16,
) {
    if answer.status >= 500 {
        assert_sentence(gateway, answer, &[501, 502, 503]);
        return;
    }
    assert_eq!(answer.status, status, "{what}: {:?}", answer.headers);
    if !answer.whole {
        // Cut, not padded: a prefix of the right bytes.
        assert_bytes(what, &answer.body, &expected[..answer.body.len()]);
    } else if answer.header("content-encoding") == Some("gzip") {
        assert_eq!(
            status, 200,
            "{what}: a range of a compressed body is a range of other bytes"
        );
        assert_bytes(what, &gunzip(&answer.body), expected);
    } else {
        assert_bytes(what, &answer.body, expected);
    }
}

#[test]
fn odd_http_origins_give_right_bytes_or_a_sentence() {
    let origin = Nginx::start();
    let sizes = [
        ("one.txt", 1),
        ("small.txt", 5000),
        ("blocks.txt", 3 * BLOCK + 17),
    ];
    for (name, size) in sizes {
        origin.put(name, &oracle::bytes(name, 1, size));
    }
    let datasets = Mood::ODD
        .map(|mood| Dataset::new(mood.name(), origin.url(mood)).line("fresh_for = \"10m\""));
    let gateway = Setup::of(datasets).allow("origin").start();
    for mood in Mood::ODD {
        for (name, size) in sizes {
            let bytes = oracle::bytes(name, 1, size);
            let target = format!("/{}/{name}", mood.name());
            for pass in ["cold", "hot"] {
                let what = format!("{target} {pass}");
                let tail = size - 1;
                let answer = gateway.range(&target, &format!("bytes={tail}-"));
                if answer.status == 200 {
                    right_bytes_or_a_sentence(&gateway, &what, &answer, &bytes, 200);
                } else {
                    right_bytes_or_a_sentence(&gateway, &what, &answer, &bytes[tail..], 206);
                }
                right_bytes_or_a_sentence(&gateway, &what, &gateway.get(&target), &bytes, 200);
            }
        }
    }
}

#[test]
fn odd_origins_that_can_be_cached_are() {
    let origin = Nginx::start();
    origin.put("a.txt", &oracle::bytes("a.txt", 1, 2 * BLOCK));
    // Both are dated: Last-Modified and size name the version.
    let moods = [Mood::NoTag, Mood::WeakTag, Mood::Compresses];
    let datasets =
        moods.map(|mood| Dataset::new(mood.name(), origin.url(mood)).line("fresh_for = \"10m\""));
    let gateway = Setup::of(datasets).start();
    for mood in moods {
        let target = format!("/{}/a.txt", mood.name());
        let _ = gateway.get(&target).expect(200);
        let gets = gateway.origin_gets(mood.name());
        let hot = gateway.get(&target).expect(200);
        assert_bytes(
            mood.name(),
            &hot.body,
            &oracle::bytes("a.txt", 1, 2 * BLOCK),
        );
        assert_eq!(gateway.origin_gets(mood.name()), gets, "{}", mood.name());
    }
}

#[test]
fn an_origin_without_validators_shows_overwrites_at_once() {
    let origin = Nginx::start();
    origin.put("a.txt", &oracle::bytes("a.txt", 1, 5000));
    let dataset = Dataset::new("models", origin.url(Mood::NoValidator)).line("fresh_for = \"10m\"");
    let gateway = Setup::of([dataset]).allow("origin").start();
    let first = gateway.get("/models/a.txt");
    right_bytes_or_a_sentence(
        &gateway,
        "first",
        &first,
        &oracle::bytes("a.txt", 1, 5000),
        200,
    );
    origin.put("a.txt", &oracle::bytes("a.txt", 2, 5000));
    let second = gateway.get("/models/a.txt");
    right_bytes_or_a_sentence(
        &gateway,
        "second",
        &second,
        &oracle::bytes("a.txt", 2, 5000),
        200,
    );
}

#[test]
fn the_one_part_of_an_object_without_validators_is_never_an_old_one() {
    let origin = Nginx::start();
    let dataset = Dataset::new("models", origin.url(Mood::NoValidator)).line("fresh_for = \"10m\"");
    let gateway = Setup::of([dataset]).start();
    for version in 1..4 {
        let bytes = oracle::bytes("a.txt", version, 2 * BLOCK + 5);
        origin.put("a.txt", &bytes);
        for _ in 0..2 {
            let part = gateway.get("/models/a.txt?partNumber=1").expect(206);
            assert_bytes(&format!("version {version}"), &part.body, &bytes);
        }
    }
}

#[test]
fn head_of_a_range_says_content_range_without_validators_too() {
    let origin = Nginx::start();
    origin.put("a.txt", &oracle::bytes("a.txt", 1, 5000));
    let gateway = Setup::of([Dataset::new("models", origin.url(Mood::NoValidator))]).start();
    let head = gateway
        .request("HEAD", "/models/a.txt", &[("Range", "bytes=10-19")])
        .expect(206);
    assert_eq!(head.need("content-range"), "bytes 10-19/5000");
    assert_eq!(head.need("content-length"), "10");
    let beyond = gateway
        .request("HEAD", "/models/a.txt", &[("Range", "bytes=5000-")])
        .expect(416);
    assert_eq!(beyond.need("content-range"), "bytes */5000");
}

#[test]
fn an_immutable_origin_without_validators_is_cached() {
    let origin = Nginx::start();
    origin.put("a.txt", &oracle::bytes("a.txt", 1, 5000));
    let dataset = Dataset::new("models", origin.url(Mood::NoValidator)).line("immutable = true");
    let gateway = Setup::of([dataset]).start();
    let _ = gateway.get("/models/a.txt").expect(200);
    let gets = gateway.origin_gets("models");
    let hot = gateway.get("/models/a.txt").expect(200);
    assert_bytes("hot", &hot.body, &oracle::bytes("a.txt", 1, 5000));
    assert_eq!(gateway.origin_gets("models"), gets);
}

#[test]
fn a_weak_tag_that_never_changes_does_not_hide_an_overwrite() {
    let origin = Nginx::start();
    origin.put("a.txt", &oracle::bytes("a.txt", 1, 5000));
    let dataset = Dataset::new("models", origin.url(Mood::WeakTag)).line("fresh_for = \"100ms\"");
    let gateway = Setup::of([dataset]).allow("origin").start();
    let _ = gateway.get("/models/a.txt").expect(200);
    // Last-Modified counts seconds, and only a date or a size tells these versions apart.
    origin.put("a.txt", &oracle::bytes("a.txt", 2, 6000));
    until(Duration::from_secs(3), "the overwrite", || {
        let answer = gateway.get("/models/a.txt");
        (answer.whole && answer.body == oracle::bytes("a.txt", 2, 6000)).then_some(())
    });
}

#[test]
fn wrong_credentials_are_said_without_showing_them() {
    let origin = S3s::start(env!("CARGO_BIN_EXE_s3-origin"));
    origin.put(
        "weights",
        &[Object {
            key: "a.bin".into(),
            bytes: vec![7; 100],
        }],
    );
    // The gateway's own key is the secret here: it must not turn up although it is wrong.
    let wrong = format!("{SECRET}-wrong");
    let gateway = Setup::of([origin.dataset("models", "weights", &wrong)])
        .allow("origin")
        .start();
    for target in ["/models/a.bin", "/models?list-type=2"] {
        let answer = gateway.get(target);
        assert_sentence(&gateway, &answer, &[502, 503]);
        assert!(
            answer.text().to_lowercase().contains("credential"),
            "the cause is missing: {}",
            answer.text()
        );
    }
    let head = gateway.request("HEAD", "/models/a.bin", &[]);
    assert!([502, 503].contains(&head.status), "{}", head.status);
}

#[test]
fn a_dead_origin_leaves_cached_bytes_served() {
    let mut origin = Moto::start();
    origin.bucket("weights");
    let bytes = oracle::bytes("cached.bin", 1, 2 * BLOCK + 5);
    origin.put("weights", "cached.bin", &bytes);
    origin.put("weights", "cold.bin", &bytes);
    let gateway = Setup::of([origin.dataset("models", "weights")])
        .allow("origin")
        .start();
    let _ = gateway.get("/models/cached.bin").expect(200);
    origin.kill();
    assert_bytes(
        "cached",
        &gateway.get("/models/cached.bin").expect(200).body,
        &bytes,
    );
    assert_bytes(
        "cached range",
        &gateway
            .range("/models/cached.bin", "bytes=5-9")
            .expect(206)
            .body,
        &bytes[5..10],
    );
    assert_sentence(&gateway, &gateway.get("/models/cold.bin"), &[502, 503]);
    assert_sentence(&gateway, &gateway.get("/models?list-type=2"), &[502, 503]);
    let _ = gateway.get("/-/healthz").expect(200);
}

#[test]
fn an_origin_that_was_never_there_is_said() {
    let nobody = forebay_tests::servers::free_address();
    let gateway = Setup::of([Dataset::new("models", format!("http://{nobody}/weights/"))])
        .allow("origin")
        .start();
    assert_sentence(&gateway, &gateway.get("/models/a.bin"), &[502, 503]);
    // It would not be listed either if it were up, but that is not what keeps it from being listed now.
    assert_sentence(&gateway, &gateway.get("/models?list-type=2"), &[503]);
}

#[test]
fn an_origin_that_dies_in_a_body_cuts_it_and_never_pads() {
    let mut origin = Nginx::start();
    let bytes = oracle::bytes("big.bin", 1, 64 * BLOCK);
    origin.put("big.bin", &bytes);
    let dataset = Dataset::new("models", origin.url(Mood::Plain));
    let gateway = Setup::of([dataset])
        .cache("memory = \"64MiB\"")
        .allow("origin")
        .allow("cut")
        .start();
    let mut connection = forebay_tests::http::Connection::open(gateway.address());
    connection.ask("GET", "/models/big.bin", &[]);
    let head = connection.head().expect("an answer");
    assert_eq!(head.status, 200);
    let mut body = connection.read(BLOCK);
    origin.kill();
    body.extend(connection.read(64 * BLOCK));
    assert_bytes("what came", &body, &bytes[..body.len()]);
    assert!(
        body.len() < bytes.len(),
        "the origin died with its bytes unread, and yet all of them came"
    );
}

#[test]
fn credentials_that_become_wrong_leave_cached_objects_served() {
    let locked = Arc::new(AtomicBool::new(false));
    let lock = Arc::clone(&locked);
    let bytes = oracle::bytes("a.bin", 1, BLOCK + 5);
    let served = bytes.clone();
    let origin = Scripted::start(move |asked| {
        if lock.load(Ordering::SeqCst) {
            return answer(asked, 403, "Content-Type: application/xml\r\n", b"<Error/>");
        }
        object(asked, "\"one\"", "", &served)
    });
    let dataset = origin.s3("models", "weights").line("fresh_for = \"200ms\"");
    let gateway = Setup::of([dataset]).allow("origin").start();
    assert_bytes(
        "cold",
        &gateway.get("/models/a.bin").expect(200).body,
        &bytes,
    );
    locked.store(true, Ordering::SeqCst);
    let status = until(Duration::from_secs(5), "a stale answer", || {
        let answer = gateway.get("/models/a.bin").expect(200);
        assert_bytes("cached", &answer.body, &bytes);
        let status = answer.need("cache-status").to_owned();
        status.contains("ttl").then_some(status)
    });
    let past = status.strip_prefix("forebay; hit; ttl=-");
    assert!(
        past.is_some_and(|past| past.parse::<u64>().is_ok()),
        "{status}"
    );
    for _ in 0..3 {
        assert_sentence(&gateway, &gateway.get("/models/cold.bin"), &[502]);
        // What is refused for one object says nothing of the other.
        let again = gateway.get("/models/a.bin").expect(200);
        assert_bytes("still cached", &again.body, &bytes);
    }
    locked.store(false, Ordering::SeqCst);
    until(Duration::from_secs(5), "a fresh answer", || {
        let answer = gateway.get("/models/a.bin").expect(200);
        (!answer.need("cache-status").contains("ttl")).then_some(())
    });
}

#[test]
fn a_500_for_one_key_makes_no_other_object_stale() {
    let version = Arc::new(AtomicU64::new(1));
    let current = Arc::clone(&version);
    let origin = Scripted::start(move |asked| {
        let version = current.load(Ordering::SeqCst);
        if asked.target.contains("/broken.bin") && version > 1 {
            return answer(asked, 500, "", b"");
        }
        let bytes = oracle::bytes("a.bin", version, 5000);
        object(asked, &format!("\"{version}\""), "", &bytes)
    });
    let dataset = origin.s3("models", "weights").line("fresh_for = \"300ms\"");
    let gateway = Setup::of([dataset]).allow("origin").start();
    for key in ["a.bin", "broken.bin"] {
        let _ = gateway.get(&format!("/models/{key}")).expect(200);
    }
    version.store(2, Ordering::SeqCst);
    let broken = |gateway: &Gateway| {
        let answer = gateway.get("/models/broken.bin").expect(200);
        answer.need("cache-status").contains("ttl=-")
    };
    until(Duration::from_secs(5), "the 500", || {
        broken(&gateway).then_some(())
    });
    for next in 3..6 {
        version.store(next, Ordering::SeqCst);
        let overwritten = Instant::now();
        let bytes = oracle::bytes("a.bin", next, 5000);
        until(Duration::from_secs(2), "the overwrite", || {
            assert!(broken(&gateway), "the 500 is over");
            let never_seen = gateway.get("/models/cold/broken.bin");
            assert_sentence(&gateway, &never_seen, &[502, 503]);
            let answer = gateway.get("/models/a.bin").expect(200);
            let late = overwritten.elapsed() > Duration::from_millis(1800);
            assert!(!late, "{:?}", answer.headers);
            (answer.body == bytes).then_some(())
        });
    }
}

#[test]
fn metadata_that_is_not_ascii_hides_no_object() {
    let bytes = oracle::bytes("a.bin", 1, BLOCK + 5);
    let served = bytes.clone();
    let origin = Scripted::start(move |asked| {
        let odd = "x-amz-meta-author: J\u{f6}rg \u{6a21}\u{578b}\r\nx-amz-meta-plain: yes\r\n";
        object(asked, "\"one\"", odd, &served)
    });
    let gateway = Setup::of([origin.s3("models", "weights")]).start();
    let head = gateway.request("HEAD", "/models/a.bin", &[]).expect(200);
    assert_eq!(head.need("x-amz-meta-plain"), "yes");
    for pass in ["cold", "hot"] {
        let answer = gateway.get("/models/a.bin").expect(200);
        assert_bytes(pass, &answer.body, &bytes);
        assert_eq!(answer.need("x-amz-meta-plain"), "yes");
        let range = gateway.range("/models/a.bin", "bytes=7-9").expect(206);
        assert_bytes(pass, &range.body, &bytes[7..10]);
    }
}
