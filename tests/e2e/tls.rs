//! `[tls]`: versions and protocols, client certificates, certificates that change, handshakes that fail.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use forebay_loadtest::certificate::{Authority, Pair};
use forebay_tests::cluster::{self, Dataset, Gateway, Setup};
use forebay_tests::http::Connection;
use forebay_tests::oracle::{self, assert_bytes};
use forebay_tests::scratch::Scratch;
use forebay_tests::until;
use rustls::version::{TLS12, TLS13};

use crate::stage::directory;

/// What is served by [`directory`].
fn object() -> Vec<u8> {
    oracle::bytes("a.bin", 1, 5000)
}

fn authority() -> Authority {
    Authority::new("forebay-tests").expect("an authority")
}

fn sign(authority: &Authority, name: &str) -> Pair {
    authority.sign(name).expect("a certificate")
}

/// A certificate's files.
struct Files(Scratch);

impl Files {
    fn new(authority: &Authority) -> Files {
        let files = Files(Scratch::new("tls"));
        files.write(&sign(authority, "first"));
        files.0.write("ca.crt", authority.pem());
        files
    }

    fn write(&self, pair: &Pair) {
        self.0.write("tls.crt", &pair.cert);
        self.0.write("tls.key", &pair.key);
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    fn section(&self, more: &str) -> String {
        let (cert, key) = (self.path("tls.crt"), self.path("tls.key"));
        format!("[tls]\ncert = {cert:?}\nkey = {key:?}\n{more}")
    }
}

/// A gateway over [`directory`], and whom it is believed by.
struct Stage {
    gateway: Gateway,
    files: Files,
    authority: Authority,
    _origin: Scratch,
}

fn stage(more: &str) -> Stage {
    staged(more, |setup| setup)
}

fn staged(more: &str, change: impl FnOnce(Setup) -> Setup) -> Stage {
    let (origin, path) = directory();
    let authority = authority();
    let files = Files::new(&authority);
    let tls = Arc::new(authority.client(None).expect("a client"));
    let setup = Setup::of([Dataset::new("models", path)])
        .section(&files.section(more))
        .ask_by(&tls);
    Stage {
        gateway: change(setup).start(),
        files,
        authority,
        _origin: origin,
    }
}

fn handshakes(gateway: &Gateway, outcome: &str) -> f64 {
    gateway.metric("forebay_tls_handshakes_total", &[("outcome", outcome)])
}

#[test]
fn curl_reads_by_every_version_and_protocol() {
    let stage = stage("");
    let line = stage.gateway.process().stdout();
    assert!(
        line.starts_with("listening on https://127.0.0.1:"),
        "{line}"
    );
    for version in [
        ["--tlsv1.2", "--tls-max", "1.2"],
        ["--tlsv1.3", "--tls-max", "1.3"],
    ] {
        for (protocol, spoken) in [("--http1.1", "1.1"), ("--http2", "2")] {
            for (range, first, last) in [("0-", 0, 4999), ("1000-2999", 1000, 2999)] {
                let body = stage.files.path("body");
                let output = Command::new("curl")
                    .args(["-sS", "-f", "--cacert", &stage.files.path("ca.crt")])
                    .args(version)
                    .args([protocol, "-r", range, "-o", &body, "-w", "%{http_version}"])
                    .arg(stage.gateway.url() + "/models/a.bin")
                    .output()
                    .expect("curl runs");
                let said = String::from_utf8_lossy(&output.stdout);
                assert_eq!(said, spoken, "{version:?} {protocol}: {output:?}");
                let body = std::fs::read(body).expect("curl wrote a file");
                assert_bytes("curl's file", &body, &object()[first..=last]);
            }
        }
    }
    let refused = Command::new("curl")
        .args(["-sS", &(stage.gateway.url() + "/models/a.bin")])
        .output()
        .expect("curl runs");
    assert!(!refused.status.success(), "nobody knows this authority");
}

#[test]
fn a_session_is_resumed_by_each_version_and_counted() {
    let stage = stage("");
    for version in [&TLS12, &TLS13] {
        let client = stage.authority.client_of(None, &[version]);
        let client = Arc::new(client.expect("a client"));
        let before = handshakes(&stage.gateway, "resumed");
        for _ in 0..3 {
            let mut connection = Connection::secure(stage.gateway.address(), &client);
            let answer = connection.request("GET", "/models/a.bin", &[]).expect(200);
            assert_bytes("through TLS", &answer.body, &object());
        }
        let resumed = handshakes(&stage.gateway, "resumed") - before;
        // The connections that ask for metrics may be resumed too.
        assert!(resumed >= 2.0, "{version:?}: {resumed} resumed");
    }
}

#[test]
fn client_certificates_are_asked_for_and_only_those_of_client_ca_are_taken() {
    let (ours, theirs) = (authority(), authority());
    let clients = Scratch::new("clients");
    clients.write("ca.crt", ours.pem());
    let pair = sign(&ours, "loader");
    clients.write("c.crt", &pair.cert);
    clients.write("c.key", &pair.key);
    let ca = clients.path().join("ca.crt");
    let (origin, path) = directory();
    let server = authority();
    let files = Files::new(&server);
    let good = Arc::new(server.client(Some(&pair)).expect("a client"));
    let gateway = Setup::of([Dataset::new("models", path)])
        .section(&files.section(&format!("client_ca = {ca:?}")))
        .ask_by(&good)
        .start();
    let answer = gateway.get("/models/a.bin").expect(200);
    assert_bytes("with a certificate", &answer.body, &object());

    let before = handshakes(&gateway, "refused");
    let foreign = sign(&theirs, "loader");
    for pair in [None, Some(&foreign)] {
        for version in [&TLS12, &TLS13] {
            let client = server.client_of(pair, &[version]).expect("a client");
            let mut connection = Connection::secure(gateway.address(), &Arc::new(client));
            connection.ask("GET", "/models/a.bin", &[]);
            assert!(connection.answer(false).is_none(), "{version:?}");
        }
    }
    until(Duration::from_secs(5), "four refusals", || {
        (handshakes(&gateway, "refused") - before >= 4.0).then_some(())
    });

    let file = |name: &str| clients.path().join(name).display().to_string();
    let ca = files.path("ca.crt");
    let shown = ["--cert", &file("c.crt"), "--key", &file("c.key")].map(ToOwned::to_owned);
    let mut with = vec!["status", "--ca", &ca];
    let without = gateway.client(&with);
    assert_eq!(without.status.code(), Some(1), "{without:?}");
    with.extend(shown.iter().map(String::as_str));
    let with = gateway.client(&with);
    assert_eq!(with.status.code(), Some(0), "{with:?}");
    drop(origin);
}

#[test]
fn the_command_line_speaks_to_a_gateway_by_the_authority_it_is_told() {
    let stage = stage("");
    let unknown = stage.gateway.client(&["status"]);
    assert_eq!(unknown.status.code(), Some(1), "{unknown:?}");
    let ca = stage.files.path("ca.crt");
    let told = stage.gateway.client(&["datasets", "--ca", &ca]);
    let text = String::from_utf8_lossy(&told.stdout);
    assert!(told.status.success() && text.contains("models"), "{told:?}");
    let nothing = stage
        .gateway
        .client(&["status", "--ca", &stage.files.path("tls.key")]);
    let text = String::from_utf8_lossy(&nothing.stderr);
    assert!(text.contains("holds no certificate"), "{text}");
}

#[test]
fn a_plan_names_urls_that_the_listener_can_answer() {
    let stage = stage("");
    let ca = stage.files.path("ca.crt");
    let told = stage
        .gateway
        .client(&["plan", "models/a.bin", "--json", "--ca", &ca]);
    let text = String::from_utf8_lossy(&told.stdout);
    assert!(told.status.success(), "{told:?}");
    assert!(text.contains("\"url\":\"https://"), "{text}");
}

/// The certificate that a new connection is shown.
fn shown(stage: &Stage) -> Vec<u8> {
    let tls = stage.authority.client(None).expect("a client");
    let mut connection = Connection::secure(stage.gateway.address(), &Arc::new(tls));
    let _ = connection.request("GET", "/-/healthz", &[]).expect(200);
    connection.certificate().expect("a certificate")
}

/// Reads on connection after connection, and on one that stays, until told to stop: how many reads there were.
fn load(stage: &Stage, stop: &AtomicBool, reads: &AtomicUsize) {
    let tls = Arc::new(stage.authority.client(None).expect("a client"));
    let mut kept = Connection::secure(stage.gateway.address(), &tls);
    while !stop.load(Ordering::Relaxed) {
        let mut fresh = Connection::secure(stage.gateway.address(), &tls);
        for connection in [&mut kept, &mut fresh] {
            let answer = connection.request("GET", "/models/a.bin", &[]).expect(200);
            assert_bytes("under load", &answer.body, &object());
            reads.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Does something while two clients read, and waits for another certificate than `old` to be shown.
fn renewed(stage: &Stage, old: &[u8], change: impl FnOnce()) -> Vec<u8> {
    let (stop, reads) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| load(stage, &stop, &reads));
        }
        change();
        let begun = Instant::now();
        let new = loop {
            let new = shown(stage);
            if new != old || begun.elapsed() > Duration::from_secs(15) {
                break new;
            }
        };
        let so_far = reads.load(Ordering::Relaxed);
        while reads.load(Ordering::Relaxed) < so_far + 20 {
            std::thread::yield_now();
        }
        stop.store(true, Ordering::Relaxed);
        assert_ne!(new, old, "another certificate is shown");
        new
    })
}

#[test]
fn files_that_change_are_taken_over_under_load_without_an_error() {
    let stage = stage("");
    let old = shown(&stage);
    let pair = sign(&stage.authority, "second");
    renewed(&stage, &old, || stage.files.write(&pair));
    let expires = stage
        .gateway
        .metric("forebay_tls_certificate_expires_timestamp_seconds", &[]);
    assert!(expires > 4e9, "{expires}");
}

/// A pair in a directory of this name, as Kubernetes lays a secret out: the names are links through `..data`, which is
/// turned as a whole.
fn release(authority: &Authority, files: &Files, name: &str) {
    let pair = sign(authority, name);
    std::fs::create_dir(files.0.path().join(name)).expect("a directory");
    files.0.write(&format!("{name}/tls.crt"), &pair.cert);
    files.0.write(&format!("{name}/tls.key"), &pair.key);
}

fn turn(files: &Files, name: &str) {
    let beside = files.0.path().join("..data_tmp");
    std::os::unix::fs::symlink(name, &beside).expect("a link");
    std::fs::rename(beside, files.0.path().join("..data")).expect("the link is turned");
}

#[test]
fn links_that_are_turned_are_taken_over_under_load_without_an_error() {
    let (origin, path) = directory();
    let authority = authority();
    let files = Files::new(&authority);
    release(&authority, &files, "..1");
    turn(&files, "..1");
    for name in ["tls.crt", "tls.key"] {
        let path = files.0.path().join(name);
        std::fs::remove_file(&path).expect("it is there");
        std::os::unix::fs::symlink(Path::new("..data").join(name), path).expect("a link");
    }
    let tls = Arc::new(authority.client(None).expect("a client"));
    let gateway = Setup::of([Dataset::new("models", path)])
        .section(&files.section(""))
        .ask_by(&tls)
        .start();
    let stage = Stage {
        gateway,
        authority,
        files,
        _origin: origin,
    };
    let old = shown(&stage);
    renewed(&stage, &old, || {
        release(&stage.authority, &stage.files, "..2");
        turn(&stage.files, "..2");
        let first = stage.files.0.path().join("..1");
        std::fs::remove_dir_all(first).expect("it is there");
    });
}

#[test]
fn a_broken_pair_changes_nothing_and_is_warned_of_once() {
    let stage = staged("", |setup| {
        setup.allow("a changed certificate is not taken over")
    });
    let old = shown(&stage);
    // A certificate whose key does not come.
    stage
        .files
        .0
        .write("tls.crt", &sign(&stage.authority, "second").cert);
    let warned = || {
        let log = stage.gateway.process().stderr();
        log.matches("a changed certificate is not taken over")
            .count()
    };
    stage.gateway.process().stderr_line("a warning", |line| {
        line.contains("`key` is not the key").then_some(())
    });
    // Two looks later it has not been said again.
    std::thread::sleep(Duration::from_millis(2500));
    assert_eq!(warned(), 1);
    assert_eq!(shown(&stage), old);
    let pair = sign(&stage.authority, "third");
    renewed(&stage, &old, || stage.files.write(&pair));
}

#[test]
fn a_certificate_that_is_wrong_at_the_start_is_a_mistake_with_its_line() {
    let scratch = Scratch::new("gateway");
    let authority = authority();
    let files = Files::new(&authority);
    files.0.write("tls.key", sign(&authority, "other").key);
    let (_origin, path) = directory();
    let setup = Setup::of([Dataset::new("models", path)]).section(&files.section(""));
    let text = setup.text(scratch.path());
    let line = 1 + text
        .lines()
        .position(|line| line.starts_with("key = "))
        .expect("a key");
    let config = scratch.write("forebay.toml", text);
    for command in ["serve", "check"] {
        let output = cluster::command()
            .args([command, "--config"])
            .arg(&config)
            .output()
            .expect("forebay runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(
            said.contains(&format!(":{line}: `key` is not the key")),
            "{said}"
        );
    }
}

#[test]
fn handshakes_that_do_not_come_to_an_end_are_given_up_and_keep_nobody_waiting() {
    let stage = stage("[limits]\nheader_timeout = \"1s\"");
    let begun = Instant::now();
    let mut silent: Vec<TcpStream> = (0..50)
        .map(|_| TcpStream::connect(stage.gateway.address()).expect("it listens"))
        .collect();
    let _ = stage.gateway.get("/models/a.bin").expect(200);
    assert!(
        begun.elapsed() < Duration::from_secs(1),
        "it waited for them"
    );
    for stream in &mut silent {
        let ended = stream.read(&mut [0]);
        assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    }
    let took = begun.elapsed();
    assert!(took > Duration::from_millis(900), "given up after {took:?}");
    // The last one's end is seen here before it is counted there.
    until(Duration::from_secs(5), "all to be counted", || {
        (handshakes(&stage.gateway, "timeout") == 50.0).then_some(())
    });
}

#[test]
fn what_is_no_tls_is_refused_and_who_goes_away_is_counted() {
    let stage = stage("");
    let mut clear = Connection::open(stage.gateway.address());
    clear.send(b"GET /models/a.bin HTTP/1.1\r\nHost: gateway\r\n\r\n");
    let mut came = Vec::new();
    let mut gone = TcpStream::connect(stage.gateway.address()).expect("it listens");
    gone.write_all(&[0x16, 3, 1]).expect("it takes bytes");
    drop(gone);
    came.extend(clear.read(1000));
    assert!(!came.starts_with(b"HTTP"), "an answer in clear");
    until(Duration::from_secs(5), "both to be counted", || {
        let counted = |outcome| handshakes(&stage.gateway, outcome) == 1.0;
        (counted("refused") && counted("closed")).then_some(())
    });
}
