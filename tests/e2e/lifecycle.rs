//! Start, reload, stop, what two processes share, the demo.

use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use forebay_tests::cluster::{Dataset, Gateway, Setup, command};
use forebay_tests::http::Connection;
use forebay_tests::oracle::{self, BLOCK, assert_bytes};
use forebay_tests::process::{PATIENCE, Process, Signal};
use forebay_tests::scratch::Scratch;
use forebay_tests::until;

use crate::stage::{appears, directory, rewrite};

#[test]
fn sighup_reloads_datasets() {
    let (_files, path) = directory();
    let gateway = Setup::of([
        Dataset::new("models", path.clone()),
        Dataset::new("old", path.clone()),
    ])
    .start();
    let _ = gateway.get("/models/a.bin").expect(200);
    let gets = gateway.origin_gets("models");
    rewrite(
        &gateway,
        &Setup::of([
            Dataset::new("models", path.clone()),
            Dataset::new("new", path),
        ]),
    );
    gateway.process().signal(Signal::HUP);
    appears(&gateway, "/new/a.bin", 200);
    let gone = gateway.get("/old/a.bin").expect(404);
    assert_eq!(gone.xml("Code").as_deref(), Some("NoSuchBucket"));
    // What has not changed keeps its blocks.
    let _ = gateway.get("/models/a.bin").expect(200);
    assert_eq!(gateway.origin_gets("models"), gets);
}

#[test]
fn a_changed_file_is_seen_without_a_signal() {
    let (_files, path) = directory();
    let gateway = Setup::of([Dataset::new("models", path.clone())]).start();
    rewrite(
        &gateway,
        &Setup::of([
            Dataset::new("models", path.clone()),
            Dataset::new("new", path),
        ]),
    );
    appears(&gateway, "/new/a.bin", 200);
}

#[test]
fn a_file_with_mistakes_changes_nothing() {
    let (_files, path) = directory();
    let gateway = Setup::of([Dataset::new("models", path.clone())])
        .allow("forebay.toml")
        .start();
    rewrite(
        &gateway,
        &Setup::of([Dataset::new("models", path), Dataset::new("Bad_Name", "/x")]),
    );
    gateway.process().signal(Signal::HUP);
    gateway
        .process()
        .stderr_line("line about the mistake", |line| {
            line.contains("forebay.toml").then_some(())
        });
    let _ = gateway.get("/models/a.bin").expect(200);
}

fn big_body(stop_after: &str) -> (Scratch, Gateway, Connection) {
    let files = Scratch::new("files");
    files.write("big.bin", oracle::bytes("big.bin", 1, 64 * BLOCK));
    let origin = files
        .path()
        .to_str()
        .expect("a temporary path is UTF-8")
        .to_owned();
    let setup =
        Setup::of([Dataset::new("models", origin)]).line(&format!("stop_after = {stop_after:?}"));
    let gateway = setup.allow("cut").allow("stop").start();
    let mut connection = Connection::open(gateway.address());
    connection.ask("GET", "/models/big.bin", &[]);
    assert_eq!(connection.head().expect("an answer").status, 200);
    (files, gateway, connection)
}

#[test]
fn a_stop_lets_running_bodies_end() {
    let (_files, gateway, mut connection) = big_body("20s");
    let expected = oracle::bytes("big.bin", 1, 64 * BLOCK);
    let mut body = connection.read(BLOCK);
    gateway.process().signal(Signal::TERM);
    // The listener closes before the bodies end.
    let address = gateway.address();
    until(Duration::from_secs(5), "the port to close", || {
        TcpStream::connect(address).is_err().then_some(())
    });
    body.extend(connection.read(63 * BLOCK));
    assert_bytes("the running body", &body, &expected);
    gateway.ended();
}

#[test]
fn a_stop_cuts_bodies_after_stop_after() {
    let (_files, gateway, mut connection) = big_body("1s");
    let expected = oracle::bytes("big.bin", 1, 64 * BLOCK);
    let started = Instant::now();
    gateway.process().signal(Signal::TERM);
    gateway.ended();
    let took = started.elapsed();
    assert!(
        took >= Duration::from_millis(900) && took < Duration::from_secs(6),
        "it took {took:?}"
    );
    let body = connection.read(64 * BLOCK);
    assert!(
        body.len() < expected.len(),
        "a body that nobody read cannot have been sent whole"
    );
    assert_bytes("what came", &body, &expected[..body.len()]);
}

#[test]
fn sigint_stops_as_sigterm_does() {
    let (_files, path) = directory();
    let gateway = Setup::of([Dataset::new("models", path)]).start();
    gateway.process().signal(Signal::INT);
    gateway.ended();
}

#[test]
fn two_processes_cannot_share_a_data_directory() {
    let (_files, path) = directory();
    let gateway = Setup::of([Dataset::new("models", path)]).start();
    let output = command()
        .arg("serve")
        .arg("--config")
        .arg(gateway.config())
        .output()
        .expect("forebay runs");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(
        text.contains(gateway.data_dir().to_str().expect("UTF-8")),
        "which directory? {text}"
    );
    let _ = gateway.get("/models/a.bin").expect(200);
}

#[test]
fn a_killed_gateway_starts_again_in_its_directory() {
    let (_files, path) = directory();
    let gateway = Setup::of([Dataset::new("models", path)]).start();
    let _ = gateway.get("/models/a.bin").expect(200);
    let scratch = gateway.kill();
    let config = scratch.path().join("forebay.toml");
    let again = Gateway::start(
        command().arg("serve").arg("--config").arg(config),
        scratch,
        Vec::new(),
    );
    let _ = again.get("/models/a.bin").expect(200);
}

#[test]
fn a_port_that_is_taken_is_said() {
    let (_files, path) = directory();
    let gateway = Setup::of([Dataset::new("models", path.clone())]).start();
    let scratch = Scratch::new("taken");
    let text = Setup::of([Dataset::new("models", path)]).text(scratch.path());
    let config = scratch.write(
        "forebay.toml",
        text.replace("127.0.0.1:0", &gateway.address().to_string()),
    );
    let output = command()
        .arg("serve")
        .arg("--config")
        .arg(config)
        .output()
        .expect("forebay runs");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains(&gateway.address().to_string()), "{text}");
}

#[test]
fn the_demo_prints_curl_lines_that_work_as_pasted() {
    let scratch = Scratch::new("demo");
    let mut command = command();
    command
        .args(["serve", "--listen", "127.0.0.1:0", "--data-dir"])
        .arg(scratch.path().join("data"));
    let process = Process::start("forebay", &mut command);
    process.stdout_line("line `listening on http://…`", |line| {
        line.strip_prefix("listening on http://").map(str::to_owned)
    });
    let lines = until(PATIENCE, "three curl lines", || {
        let out = process.stdout();
        let lines: Vec<String> = out
            .lines()
            .filter(|line| line.starts_with("curl "))
            .map(str::to_owned)
            .collect();
        (lines.len() >= 3).then_some(lines)
    });
    for line in &lines {
        assert_pasted_line_works(line, scratch.path());
    }
    for line in process.stdout().lines() {
        assert!(
            line.starts_with("listening on http://") || line.starts_with("curl "),
            "on standard output: {line}"
        );
    }
    process.signal(Signal::TERM);
    let mut process = process;
    assert_eq!(process.wait(PATIENCE).code(), Some(0));
}

fn assert_pasted_line_works(line: &str, place: &Path) {
    // A second time with -f, which makes an error page a failure, also before a pipe.
    let strict = format!("set -o pipefail; {}", line.replacen("curl ", "curl -f ", 1));
    for script in [line, &strict] {
        let output = Command::new("bash")
            .args(["-c", script])
            .current_dir(place)
            .output()
            .expect("bash runs");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{script}: {text}");
        assert!(!output.stdout.is_empty(), "{script} shows nothing");
    }
}
