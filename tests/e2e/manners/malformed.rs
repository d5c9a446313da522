//! Requests that are none: each gets a 4xx or a closed connection, and the next good one is served.

use forebay_tests::cluster::{Dataset, Setup};
use forebay_tests::http::Connection;
use forebay_tests::scratch::Scratch;

use super::{say, shown};
use crate::stage::{OBJECT, Stage, stage};

/// A refusal by the gateway itself, with a request id, or by its parser, without; or a close.
const REFUSED: &[u16] = &[];

const BAD: &[u16] = &[400];

/// Each of `requests` is answered with one of `statuses` (none named: any 4xx, or a close without a word), by all
/// versions of the truth a client could check: its connection, and the next one.
fn each_is_refused(stage: &Stage, requests: &[(Vec<u8>, &[u16])]) {
    for (request, statuses) in requests {
        let shown = shown(request);
        match say(&stage.gateway, request) {
            Some(answer) if statuses.is_empty() => assert!(
                (400..500).contains(&answer.status),
                "{shown:?}: {} {}",
                answer.status,
                answer.text()
            ),
            Some(answer) => assert!(
                statuses.contains(&answer.status),
                "{shown:?}: {} {}",
                answer.status,
                answer.text()
            ),
            None => assert!(statuses.is_empty(), "{shown:?}: closed without an answer"),
        }
        let next = stage.gateway.range(OBJECT, "bytes=0-0").expect(206);
        assert_eq!(next.body, stage.bytes[..1], "after {shown:?}");
    }
}

/// A GET of the object with these fields, each with its line end.
fn with(fields: &str) -> Vec<u8> {
    format!("GET {OBJECT} HTTP/1.1\r\n{fields}\r\n").into_bytes()
}

fn to(target: &str) -> Vec<u8> {
    format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n").into_bytes()
}

#[test]
fn bodies_of_two_lengths_are_refused() {
    let stage = stage();
    let lengths = [
        "Content-Length: 1\r\nContent-Length: 2\r\n",
        "Content-Length: 5, 5\r\n",
        "Content-Length: 5, 6\r\n",
        "Content-Length: +5\r\n",
        "Content-Length: -5\r\n",
        "Content-Length: 0x5\r\n",
        "Content-Length: 5 5\r\n",
        "Content-Length: five\r\n",
        "Content-Length:\r\n",
        "Content-Length: 99999999999999999999\r\n",
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Transfer-Encoding: Chunked\r\n",
        "transfer-encoding: gzip, chunked\r\n",
        "Transfer-Encoding: chunked, gzip\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        "Transfer-Encoding: identity\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding:\r\n",
        "Transfer-Encoding: \x0bchunked\r\n",
        "Transfer-Encoding : chunked\r\n",
        "Transfer_Encoding: chunked\r\nContent-Length: 1\r\nContent-Length: 0\r\n",
    ];
    let requests: Vec<(Vec<u8>, &[u16])> = lengths
        .iter()
        .map(|fields| (with(&format!("Host: a\r\n{fields}")), BAD))
        .collect();
    each_is_refused(&stage, &requests);
    let old = format!("GET {OBJECT} HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n");
    each_is_refused(&stage, &[(old.into_bytes(), &[400])]);
}

#[test]
fn a_request_has_one_host_that_is_one() {
    let stage = stage();
    let hosts = [
        "",
        "Host: a\r\nHost: a\r\n",
        "Host: a\r\nhost: b\r\n",
        "Host: a b\r\n",
        "Host: a/b\r\n",
        "Host: user@a\r\n",
        "Host: a:port\r\n",
        "Host: a:1:2\r\n",
        "Host: [::1\r\n",
        "Host: a, b\r\n",
        "Host: http://a\r\n",
        "Host: a\tb\r\n",
        "Host: \u{e4}\r\n",
        "Host: a%zz\r\n",
    ];
    for method in ["GET", "HEAD"] {
        for target in [OBJECT, "/-/healthz", "/", "http://a/models/a.bin"] {
            let requests: Vec<(Vec<u8>, &[u16])> = hosts
                .iter()
                .map(|fields| {
                    let request = format!("{method} {target} HTTP/1.1\r\n{fields}\r\n");
                    (request.into_bytes(), BAD)
                })
                .collect();
            each_is_refused(&stage, &requests[..if target == OBJECT { 14 } else { 4 }]);
        }
    }
    let old = format!("GET {OBJECT} HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n");
    each_is_refused(&stage, &[(old.into_bytes(), &[400])]);
    // The two dialects say it in their own words, with an id for the log.
    let answer = say(&stage.gateway, &with(""))
        .expect("an answer")
        .expect(400);
    assert_eq!(answer.xml("Code").as_deref(), Some("InvalidRequest"));
    assert!(!answer.need("x-amz-request-id").is_empty());
    let answer = say(&stage.gateway, b"GET /-/healthz HTTP/1.1\r\n\r\n");
    let answer = answer.expect("an answer").expect(400);
    assert_eq!(answer.need("content-type"), "application/problem+json");
}

#[test]
fn fields_that_are_none_are_refused() {
    let stage = stage();
    let fields = [
        "X: a\r\n folded\r\n",
        "X: a\r\n\tfolded\r\n",
        " X: a\r\n",
        "X : a\r\n",
        "X\r\n",
        ": a\r\n",
        "X Y: a\r\n",
        "X\0: a\r\n",
        "X: a\0b\r\n",
        "X: a\x01b\r\n",
        "X: a\x7fb\r\n",
        "X: a\rb\r\n",
        "X\u{e4}: a\r\n",
        "(X): a\r\n",
        "\"X\": a\r\n",
    ];
    let requests: Vec<(Vec<u8>, &[u16])> = fields
        .iter()
        .map(|field| (with(&format!("Host: a\r\n{field}")), BAD))
        .collect();
    each_is_refused(&stage, &requests);
}

#[test]
fn targets_that_are_none_are_refused() {
    let stage = stage();
    let mut requests: Vec<(Vec<u8>, &[u16])> = [
        "/models/%",
        "/models/%4",
        "/models/%zz",
        "/models/%%41",
        "/models/%u0041",
        "/models/%ff%fe",
        "/models/%C0%AF",
        "/models/%ED%A0%80",
        "/models/a%00b",
        "/models%00/a.bin",
        "/models/a.bin?prefix=%zz",
        "/models/a.bin?%4",
        "/models?prefix=%ff",
        "models/a.bin",
        "a",
        "*",
        "?",
        "http://",
        "http:///models/a.bin",
        "//",
    ]
    .map(|target| (to(target), REFUSED))
    .into();
    for raw in [
        &b"/models/a\0b"[..],
        b"/models/a\x01b",
        b"/models/a\x7fb",
        b"/models/a b",
        b"/models/a\tb",
        b"",
        b"/models/\xff\xfe",
        b"/models/<a>\"{}|\\^`",
    ] {
        let request = [b"GET ", raw, b" HTTP/1.1\r\nHost: a\r\n\r\n"].concat();
        requests.push((request, REFUSED));
    }
    each_is_refused(&stage, &requests);
}

#[test]
fn heads_beyond_their_limits_are_refused_by_name() {
    let stage = stage();
    let fields = |count: usize, length: usize| {
        let line = |n| format!("X-{n}: {}\r\n", "x".repeat(length));
        let lines: String = (0..count).map(line).collect();
        with(&format!("Host: a\r\n{lines}"))
    };
    let query = |length: usize| to(&format!("{OBJECT}?q={}", "q".repeat(length)));
    each_is_refused(
        &stage,
        &[
            (fields(1, 64 << 10), &[431]),
            (fields(80, 820), &[431]),
            (fields(1, 32 << 10), &[431]),
            (fields(101, 1), &[431]),
            (fields(5000, 1), &[431]),
            (query(8 << 10), &[414]),
            (query(64 << 10), &[414]),
            (query(100 << 10), &[414]),
            (to(&format!("/models/{}", "k".repeat(1025))), &[400]),
            // More than a connection may hold of a head: whatever the parser says, or a close in the middle.
            (query(2 << 20), REFUSED),
            (fields(1, 2 << 20), REFUSED),
            ([&b"GET /"[..], &vec![b'a'; 2 << 20]].concat(), REFUSED),
            (vec![b'A'; 1 << 20], REFUSED),
            (
                [vec![b'\n'; 1 << 20], vec![b'x'; 8], b"\r\n\r\n".to_vec()].concat(),
                REFUSED,
            ),
        ],
    );
    // What is within them is served.
    let near = fields(90, 300);
    assert!(near.len() > 27_000);
    let _ = say(&stage.gateway, &near).expect("an answer").expect(200);
    let _ = say(&stage.gateway, &query(8100))
        .expect("an answer")
        .expect(200);
}

#[test]
fn lines_that_ask_for_nothing_are_refused() {
    let stage = stage();
    let mut requests: Vec<(Vec<u8>, &[u16])> = [
        "GET /models/a.bin\r\n\r\n",
        "GET /models/a.bin HTTP/0.9\r\nHost: a\r\n\r\n",
        "GET /models/a.bin HTTP/1.2\r\nHost: a\r\n\r\n",
        "GET /models/a.bin HTTP/2.0\r\nHost: a\r\n\r\n",
        "GET /models/a.bin HTTP/3\r\nHost: a\r\n\r\n",
        "GET /models/a.bin HTTP/1\r\nHost: a\r\n\r\n",
        "GET /models/a.bin HTTP/1.10\r\nHost: a\r\n\r\n",
        "GET /models/a.bin http/1.1\r\nHost: a\r\n\r\n",
        "GET /models/a.bin HTTP /1.1\r\nHost: a\r\n\r\n",
        "GET /models/a.bin FTP/1.1\r\nHost: a\r\n\r\n",
        "GET  /models/a.bin HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET\t/models/a.bin\tHTTP/1.1\r\nHost: a\r\n\r\n",
        " GET /models/a.bin HTTP/1.1\r\nHost: a\r\n\r\n",
        "G\0T /models/a.bin HTTP/1.1\r\nHost: a\r\n\r\n",
        "G(T /models/a.bin HTTP/1.1\r\nHost: a\r\n\r\n",
        " /models/a.bin HTTP/1.1\r\nHost: a\r\n\r\n",
        "/models/a.bin HTTP/1.1\r\nHost: a\r\n\r\n",
        "SSH-2.0-OpenSSH_9.2\r\n",
        "*1\r\n$4\r\nPING\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n",
    ]
    .map(|request| (request.as_bytes().to_vec(), REFUSED))
    .into();
    requests.push((
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n".to_vec(),
        REFUSED,
    ));
    requests.push((b"\0\x01\x02\x03\r\n\r\n".to_vec(), REFUSED));
    requests.push((b"GET /models\r\n".to_vec(), &[400]));
    each_is_refused(&stage, &requests);
}

#[test]
fn methods_that_do_not_read_are_refused() {
    let stage = stage();
    let mut requests: Vec<(Vec<u8>, &[u16])> = Vec::new();
    for method in [
        "get", "Get", "PUT", "POST", "DELETE", "PATCH", "TRACE", "PROPFIND", "X", "GETX",
    ] {
        let request = format!("{method} {OBJECT} HTTP/1.1\r\nHost: a\r\n\r\n");
        requests.push((request.into_bytes(), &[405]));
    }
    for line in [
        "CONNECT a:443",
        "OPTIONS *",
        "GET *",
        "GET a:443",
        "TRACE *",
    ] {
        let request = format!("{line} HTTP/1.1\r\nHost: a\r\n\r\n");
        requests.push((request.into_bytes(), &[400]));
    }
    each_is_refused(&stage, &requests);
}

#[test]
fn no_path_leads_out_of_a_dataset() {
    const OUTSIDE: &str = "what no dataset holds";
    let files = Scratch::new("files");
    files.write("outside.txt", OUTSIDE);
    files.write("models/a.bin", b"inside");
    let root = files.path().join("models");
    let root = root.to_str().expect("a temporary path is UTF-8");
    let gateway = Setup::of([Dataset::new("models", root)]).start();
    let ups = [
        "..",
        "%2e%2e",
        ".%2e",
        "%2E.",
        "%252e%252e",
        "..%2f..",
        "..%252f..",
        "..%5c..",
        "..\\..",
        "..;",
        "...",
        "a.bin/..",
        "./..",
        "..%00",
        "%c0%ae%c0%ae",
        "%u002e%u002e",
        "..%c0%af..",
    ];
    for up in ups {
        for target in [
            format!("/models/{up}/outside.txt"),
            format!("/models/{up}/{up}/{up}/{up}/{up}/{up}/etc/passwd"),
            format!("/{up}/outside.txt"),
            format!("/models/{up}%2foutside.txt"),
            format!("/models//{up}/outside.txt"),
            format!("/models/{up}"),
            format!("/{up}/models/a.bin"),
            format!("/-/blocks/models/{up}/outside.txt"),
            format!("http://a/models/{up}/outside.txt"),
            format!("/models?list-type=2&prefix={up}/"),
        ] {
            let Some(answer) = say(&gateway, &to(&target)) else {
                continue;
            };
            let text = answer.text();
            assert!(
                !text.contains(OUTSIDE) && !text.contains("root:"),
                "{target}"
            );
            let listing = target.contains("list-type") && text.contains("<KeyCount>0<");
            assert!(
                (400..500).contains(&answer.status) || listing,
                "{target}: {} {text}",
                answer.status
            );
        }
    }
    assert_eq!(gateway.get("/models/a.bin").expect(200).body, b"inside");
}

#[test]
fn what_the_parser_refuses_is_counted_and_logged() {
    let stage = stage();
    let count = |status| {
        let labels = [("api", "none"), ("status", status)];
        stage.gateway.metric("forebay_requests_total", &labels)
    };
    let many: String = (0..101).map(|n| format!("X-{n}: x\r\n")).collect();
    for (request, status) in [
        (with("Host: a\r\nX: a\0b\r\n"), "400"),
        (with(&many), "431"),
        (to(&format!("/{}", "a".repeat(70_000))), "414"),
    ] {
        let before = count(status);
        let answer = say(&stage.gateway, &request).expect("an answer");
        assert_eq!(answer.status.to_string(), status);
        forebay_tests::until(std::time::Duration::from_secs(5), "the count", || {
            (count(status) - before == 1.0).then_some(())
        });
        stage
            .gateway
            .process()
            .stderr_line("line about it", |line| {
                let told =
                    line.contains("api=\"none\"") && line.contains(&format!("status={status}"));
                told.then_some(())
            });
    }
}

#[test]
fn a_malformed_request_ends_a_pipeline_where_its_own_end_is_unknown() {
    let stage = stage();
    let good = |n| format!("GET {OBJECT} HTTP/1.1\r\nHost: a\r\nRange: bytes={n}-{n}\r\n\r\n");
    // (the one in the middle, its status, whether the one behind it is answered)
    for (middle, status, goes_on) in [
        ("GET /models/%zz HTTP/1.1\r\nHost: a\r\n\r\n", 400, true),
        ("GET /models/a.bin HTTP/1.1\r\n\r\n", 400, true),
        ("PUT /models/a.bin HTTP/1.1\r\nHost: a\r\n\r\n", 405, true),
        (
            "GET /models/a.bin HTTP/1.1\r\nHost: a\r\nX : a\r\n\r\n",
            400,
            false,
        ),
        ("GET /models/a.bin HTTP/7.0\r\nHost: a\r\n\r\n", 400, false),
        (
            "GET /models/a.bin HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
            false,
        ),
        (
            "PUT /models/a.bin HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
            405,
            false,
        ),
    ] {
        let mut connection = Connection::open(stage.gateway.address());
        connection.send(format!("{}{}{middle}{}", good(1), good(2), good(3)).as_bytes());
        for n in 1..=2 {
            let answer = connection.answer(false).expect("an answer").expect(206);
            assert_eq!(answer.body, stage.bytes[n..=n], "{middle:?}");
        }
        let answer = connection.answer(false).expect("an answer");
        assert_eq!(answer.status, status, "{middle:?}");
        match connection.answer(false) {
            Some(answer) if goes_on => {
                assert_eq!(answer.expect(206).body, stage.bytes[3..=3], "{middle:?}");
            }
            last => assert_eq!(last.is_some(), goes_on, "{middle:?}: {last:?}"),
        }
    }
}
