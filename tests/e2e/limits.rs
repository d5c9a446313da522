//! `[limits]`: how many may connect, how long they may be silent, and who is answered all the same.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use forebay_tests::cluster::{Dataset, Gateway, Setup};
use forebay_tests::http::{Answer, Connection};
use forebay_tests::oracle::{self, BLOCK, assert_bytes};
use forebay_tests::process;
use forebay_tests::scratch::Scratch;
use forebay_tests::servers::scripted::{self, Gate, Scripted};
use forebay_tests::{tools, until};

use crate::stage::directory;

/// What a bound may be passed by on a busy machine of two cores.
const SLACK: Duration = Duration::from_secs(4);

/// Connections of their own that health and metrics have.
const SPARE: usize = 64;

fn start(limits: &str) -> (Scratch, Gateway) {
    let (files, path) = directory();
    let gateway = Setup::of([Dataset::new("models", path)])
        .section(&format!("[limits]\n{limits}"))
        .start();
    (files, gateway)
}

/// A connection that has been answered and stays open.
fn held(gateway: &Gateway) -> Connection {
    let mut connection = Connection::open(gateway.address());
    let answer = connection.request("GET", "/models/a.bin", &[]);
    let _ = answer.expect(200);
    connection
}

/// How long the gateway keeps the connection, on which no answer is to come.
fn closed_after(connection: &mut Connection, begun: Instant) -> Duration {
    let answer = connection.answer(false);
    assert!(answer.is_none(), "{answer:?}");
    begun.elapsed()
}

fn assert_turned_away(gateway: &Gateway, reason: &str) {
    let shed = || gateway.metric("forebay_shed_total", &[("reason", reason)]);
    let before = shed();
    for method in ["GET", "HEAD"] {
        let mut connection = Connection::open(gateway.address());
        let answer = connection.request(method, "/models/a.bin", &[]).expect(503);
        assert_eq!(answer.need("connection"), "close");
        assert_eq!(answer.need("retry-after"), "1");
        assert!(!answer.need("x-amz-request-id").is_empty());
        if method == "GET" {
            assert_eq!(answer.xml("Code").as_deref(), Some("SlowDown"));
            assert!(answer.text().contains(reason), "{}", answer.text());
        }
        assert!(connection.answer(false).is_none(), "it is closed");
    }
    assert_eq!(shed() - before, 2.0);
}

fn assert_looked_after(gateway: &Gateway) {
    for target in ["/-/healthz", "/-/readyz", "/-/metrics"] {
        let _ = gateway.get(target).expect(200);
    }
}

#[test]
fn a_silent_connection_outlives_header_timeout_and_ends_after_idle_timeout() {
    let (_files, gateway) = start("header_timeout = \"500ms\"\nidle_timeout = \"3s\"");
    let mut connection = held(&gateway);
    let took = closed_after(&mut connection, Instant::now());
    let idle = Duration::from_secs(3);
    assert!(
        took > idle * 9 / 10 && took < idle + SLACK,
        "closed after {took:?}"
    );
}

#[test]
fn a_connection_that_waited_long_for_its_answer_ends_after_idle_timeout_too() {
    let gate = Arc::new(Gate::default());
    let passing = Arc::clone(&gate);
    let origin = Scripted::start(move |asked| {
        passing.pass();
        scripted::object(asked, "\"x\"", "", b"late")
    });
    let gateway = Setup::of([origin.s3("models", "bucket")])
        .section("[limits]\nheader_timeout = \"500ms\"\nidle_timeout = \"1s\"")
        .start();
    let mut connection = Connection::open(gateway.address());
    connection.ask("GET", "/models/late", &[]);
    gate.reached();
    // Longer than a head may take: no timer of the head's finds out when the answer has ended.
    std::thread::sleep(Duration::from_secs(1));
    gate.open();
    let answer = connection.answer(false).expect("an answer").expect(200);
    assert_eq!(answer.text(), "late");
    let took = closed_after(&mut connection, Instant::now());
    assert!(
        took < Duration::from_secs(1) + SLACK,
        "closed after {took:?}"
    );
}

#[test]
fn the_next_head_has_header_timeout_from_its_first_byte() {
    let (_files, gateway) = start("header_timeout = \"1s\"");
    let mut connection = held(&gateway);
    // Longer than a head may take.
    std::thread::sleep(Duration::from_secs(2));
    let begun = Instant::now();
    connection.send(b"GET /models/a.bin HTTP/1.1\r\nHo");
    let took = closed_after(&mut connection, begun);
    assert!(
        took > Duration::from_millis(900) && took < SLACK,
        "closed after {took:?}"
    );
}

#[test]
fn a_reader_may_pause_for_longer_than_idle_timeout() {
    let files = Scratch::new("files");
    let bytes = oracle::bytes("big.bin", 1, 16 * BLOCK);
    files.write("big.bin", &bytes);
    let path = files.path().to_str().expect("a temporary path is UTF-8");
    let gateway = Setup::of([Dataset::new("models", path)])
        .section("[limits]\nheader_timeout = \"500ms\"\nidle_timeout = \"500ms\"")
        .start();
    let mut connection = Connection::narrow(gateway.address());
    connection.ask("GET", "/models/big.bin", &[]);
    assert_eq!(connection.head().expect("an answer").status, 200);
    let mut body = connection.read(BLOCK);
    std::thread::sleep(Duration::from_secs(2));
    body.extend(connection.read(15 * BLOCK));
    assert_bytes("after the pause", &body, &bytes);
}

#[test]
fn beyond_max_connections_only_health_and_metrics_are_answered() {
    let (_files, gateway) = start("max_connections = 2");
    let first = held(&gateway);
    let mut second = held(&gateway);
    assert_looked_after(&gateway);
    assert_turned_away(&gateway, "max_connections");
    let other = gateway.get("/-/datasets").expect(503);
    assert_eq!(other.xml("Code").as_deref(), Some("SlowDown"));
    // Who has a place keeps it.
    let _ = second.request("GET", "/models/a.bin", &[]).expect(200);
    drop(first);
    until(Duration::from_secs(5), "the place to be free", || {
        (gateway.get("/models/a.bin").status == 200).then_some(())
    });
}

#[test]
fn beyond_64_more_connections_wait_in_the_kernel() {
    let (_files, gateway) = start("max_connections = 1\nheader_timeout = \"30s\"");
    let client = held(&gateway);
    // They say nothing yet: a spare place is given up with its first answer.
    let mut spare: Vec<Connection> = (0..SPARE)
        .map(|_| Connection::open(gateway.address()))
        .collect();
    let address = gateway.address();
    let waiting = std::thread::spawn(move || {
        let answer: Answer = Connection::open(address).request("GET", "/-/healthz", &[]);
        (answer.expect(200).status, Instant::now())
    });
    // One that has a place is answered while it waits, and its place is the next one's then.
    assert!(!waiting.is_finished());
    let freed = Instant::now();
    let mut served = spare.pop().expect("64 of them");
    let answer = served.request("GET", "/-/readyz", &[]).expect(200);
    assert_eq!(answer.need("connection"), "close");
    let (_, answered) = waiting.join().expect("an answer");
    assert!(answered > freed);
    drop(client);
}

#[test]
fn an_address_beyond_per_address_is_turned_away_and_others_are_not() {
    let (_files, gateway) = start("per_address = 2");
    let first = held(&gateway);
    let _second = held(&gateway);
    assert_looked_after(&gateway);
    assert_turned_away(&gateway, "per_address");
    let other = Command::new("curl")
        .args(["-sS", "--interface", "127.0.0.2", "-o", "/dev/null"])
        .args(["-w", "%{http_code}", &(gateway.url() + "/models/a.bin")])
        .output()
        .expect("curl runs");
    assert_eq!(String::from_utf8_lossy(&other.stdout), "200", "{other:?}");
    drop(first);
    until(Duration::from_secs(5), "the place to be free", || {
        (gateway.get("/models/a.bin").status == 200).then_some(())
    });
}

#[test]
fn few_open_files_lower_max_connections_with_a_warning() {
    let (_files, path) = directory();
    let scratch = Scratch::new("gateway");
    let text = Setup::of([Dataset::new("models", path)]).text(scratch.path());
    let config = scratch.write("forebay.toml", text);
    let mut command = process::command(Path::new("prlimit"));
    command.arg("--nofile=200:400").arg(tools::forebay());
    command.arg("serve").arg("--config").arg(config);
    let gateway = Gateway::start(&mut command, scratch, vec!["is lowered from".into()]);
    // Raised from 200 to 400, of which 128 are for files and health, and 64 for the origin.
    gateway.process().stderr_line("WARN about it", |line| {
        let said = "`max_connections` is lowered from 16384 to 208: the limit on open files \
                    (RLIMIT_NOFILE) is 400";
        (line.contains("WARN") && line.contains(said)).then_some(())
    });
    let mut clients: Vec<Connection> = (0..208).map(|_| held(&gateway)).collect();
    // The limit on files is not met, which would be logged as another WARN.
    assert_turned_away(&gateway, "max_connections");
    assert_looked_after(&gateway);
    for client in &mut clients {
        let _ = client.request("GET", "/models/a.bin", &[]).expect(200);
    }
}
