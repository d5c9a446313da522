//! Lawful requests in their rarer forms: each is served as its plain form would be.

use std::fs::File;
use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, UNIX_EPOCH};

use forebay_tests::cluster::{Dataset, Setup};
use forebay_tests::http::{Answer, Connection, request};
use forebay_tests::oracle::{self, assert_bytes};
use forebay_tests::scratch::Scratch;

use super::{say, shown};
use crate::stage::{OBJECT, SIZE, Stage, stage};

fn served(stage: &Stage, bytes: &str) -> Answer {
    let answer = say(&stage.gateway, bytes.as_bytes());
    answer.unwrap_or_else(|| panic!("{:?}: closed", shown(bytes.as_bytes())))
}

#[test]
fn absolute_form_is_served_whatever_its_authority() {
    let stage = stage();
    for target in [
        "http://127.0.0.1:7070/models/a.bin",
        "HTTP://ELSEWHERE/models/a.bin",
        "https://elsewhere.example/models/a.bin?x=y",
        "http://[::1]:80/models/a.bin",
        "http://user:secret@elsewhere/models/%61.bin",
        "s3://models.s3/models/a.bin",
    ] {
        let request = format!("GET {target} HTTP/1.1\r\nHost: another\r\nRange: bytes=0-9\r\n\r\n");
        let answer = served(&stage, &request).expect(206);
        assert_eq!(answer.body, stage.bytes[..10], "{target}");
    }
    let root = served(&stage, "GET http://elsewhere HTTP/1.1\r\nHost: a\r\n\r\n").expect(200);
    assert!(root.text().contains("<Name>models</Name>"));
    let log = stage.gateway.stop();
    assert!(!log.contains("user:secret"), "{log}");
}

#[test]
fn white_space_case_and_line_ends_may_vary() {
    let stage = stage();
    for head in [
        "GET /models/a.bin HTTP/1.1\r\nHost: a\r\nRange: bytes=0-9\r\n\r\n",
        "GET /models/a.bin HTTP/1.1\r\nhOsT:a\r\nrAnGe:bytes=0-9\r\n\r\n",
        "GET /models/a.bin HTTP/1.1\r\nHost: \t a \t\r\nRange:\t  bytes=0-9\t \r\n\r\n",
        "GET /models/a.bin HTTP/1.1\r\nHost:\r\nRange: bytes=0-9\r\n\r\n",
        "GET /models/a.bin HTTP/1.1\r\nHost: a\r\nX:\r\nRange: bytes=0-9\r\nX:   \r\n\r\n",
        "GET /models/a.bin HTTP/1.1\r\nHost: [::1]:7070\r\nRange: bytes=0-9\r\n\r\n",
        // RFC 9112 §2.2: a line may end with LF alone, and empty lines may come before the first.
        "GET /models/a.bin HTTP/1.1\nHost: a\nRange: bytes=0-9\n\n",
        "\r\n\r\nGET /models/a.bin HTTP/1.1\r\nHost: a\r\nRange: bytes=0-9\r\n\r\n",
        "GET /models/a.bin HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nRange: bytes=0-9\r\n\r\n",
        "GET /models/a.bin HTTP/1.1\r\nHost: a\r\nX: \u{e4}\u{6a21}\r\nRange: bytes=0-9\r\n\r\n",
        "GET /models/a.bin HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\n\
         HTTP2-Settings: AAMAAABkAAQAAP__\r\nRange: bytes=0-9\r\n\r\n",
        "GET /models/a.bin HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nRange: bytes=0-9\r\n\r\n",
    ] {
        let answer = served(&stage, head).expect(206);
        assert_eq!(answer.body, stage.bytes[..10], "{head:?}");
    }
}

#[test]
fn a_head_may_come_in_any_pieces() {
    let stage = stage();
    let head = format!("GET {OBJECT} HTTP/1.1\r\nHost: a\r\nRange: bytes=5-9\r\n\r\n");
    for piece in [1, 2, 7] {
        let mut connection = Connection::open(stage.gateway.address());
        for bytes in head.as_bytes().chunks(piece) {
            connection.send(bytes);
        }
        let answer = connection.answer(false).expect("an answer").expect(206);
        assert_eq!(answer.body, stage.bytes[5..10], "in pieces of {piece}");
    }
}

#[test]
fn old_clients_get_lengths_and_may_keep_the_connection() {
    let stage = stage();
    for (target, status) in [
        (OBJECT, 200),
        ("/models/none", 404),
        ("/models?location", 200),
        ("/models", 501),
        ("/", 200),
        ("/-/healthz", 200),
        ("/-/metrics", 200),
        ("/-/datasets", 200),
        ("/-/nothing", 404),
    ] {
        // Without a length, a body that breaks off would look whole to them.
        let answer = served(&stage, &format!("GET {target} HTTP/1.0\r\n\r\n")).expect(status);
        assert_eq!(answer.need("content-length"), answer.body.len().to_string());
        assert!(answer.header("transfer-encoding").is_none(), "{target}");
    }
    let mut connection = Connection::open(stage.gateway.address());
    let head = format!("GET {OBJECT} HTTP/1.0\r\nRange: bytes=0-0\r\n");
    connection.send(format!("{head}Connection: keep-alive\r\n\r\n{head}\r\n").as_bytes());
    for _ in 0..2 {
        let answer = connection.answer(false).expect("an answer").expect(206);
        assert_eq!(answer.body, stage.bytes[..1]);
    }
    assert!(connection.answer(false).is_none(), "closed as agreed");
}

#[test]
fn a_client_that_asks_for_a_close_gets_one() {
    let stage = stage();
    for close in ["close", "Close", "x, close", "keep-alive, close"] {
        let head = format!(
            "GET {OBJECT} HTTP/1.1\r\nHost: a\r\nRange: bytes=0-0\r\nConnection: {close}\r\n\r\n"
        );
        let mut connection = Connection::open(stage.gateway.address());
        connection.send(head.repeat(2).as_bytes());
        let answer = connection.answer(false).expect("an answer").expect(206);
        assert_eq!(answer.need("connection"), "close", "{close}");
        assert!(connection.answer(false).is_none(), "{close}");
    }
}

#[test]
fn pipelined_methods_of_all_kinds_are_answered_in_order() {
    let stage = stage();
    let mut connection = Connection::open(stage.gateway.address());
    let mut bytes = String::new();
    let asked = [
        ("GET", "/models/a.bin", 206),
        ("HEAD", "/models/a.bin", 206),
        ("GET", "/models/none", 404),
        ("PUT", "/models/a.bin", 405),
        ("GET", "/-/healthz", 200),
        ("HEAD", "/models/none", 404),
        ("GET", "/models?location", 200),
        ("GET", "/models/a.bin", 206),
    ];
    for (n, (method, target, _)) in asked.iter().enumerate() {
        bytes.push_str(&format!(
            "{method} {target} HTTP/1.1\r\nHost: a\r\nRange: bytes={n}-{}\r\n\r\n",
            n + 70_000
        ));
    }
    connection.send(bytes.as_bytes());
    for (n, (method, target, status)) in asked.iter().enumerate() {
        let answer = connection.answer(*method == "HEAD").expect("an answer");
        let answer = answer.expect(*status);
        if *status == 206 && *method == "GET" {
            assert_bytes(target, &answer.body, &stage.bytes[n..=n + 70_000]);
        }
    }
}

#[test]
fn a_body_is_never_taken_for_a_request() {
    let stage = stage();
    let inner = format!("GET {OBJECT} HTTP/1.1\r\nHost: a\r\nRange: bytes=7-7\r\n\r\n");
    for method in ["GET", "HEAD", "PUT", "POST", "DELETE"] {
        for target in [OBJECT, "/-/healthz", "/-/purge/models/none"] {
            let mut connection = Connection::open(stage.gateway.address());
            let head = format!("{method} {target} HTTP/1.1\r\nHost: a\r\nRange: bytes=3-3\r\n");
            let length = inner.len();
            connection.send(format!("{head}Content-Length: {length}\r\n\r\n{inner}").as_bytes());
            let answer = connection.answer(method == "HEAD").expect("an answer");
            assert_eq!(answer.need("connection"), "close", "{method} {target}");
            let second = connection.answer(false);
            assert!(second.is_none(), "{method} {target}: {second:?}");
        }
    }
    // One byte more than it says: what is behind a body of which nothing is read is not looked at either.
    let mut connection = Connection::open(stage.gateway.address());
    let head = "PUT /models/a.bin HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    connection.send(format!("{head}5\r\nhello\r\n0\r\n\r\n{inner}").as_bytes());
    let _ = connection.answer(false).expect("an answer").expect(405);
    assert!(connection.answer(false).is_none());
}

#[test]
fn a_large_upload_is_told_that_it_is_not_wanted() {
    let stage = stage();
    let body = vec![b'x'; 4 << 20];
    for _ in 0..5 {
        let mut stream = TcpStream::connect(stage.gateway.address()).expect("it listens");
        let head = format!(
            "PUT {OBJECT} HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream
            .write_all(head.as_bytes())
            .expect("the head is taken");
        // However much of it is taken.
        let _ = stream.write_all(&body);
        let mut answer = Vec::new();
        let _ = std::io::Read::read_to_end(&mut stream, &mut answer);
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with("HTTP/1.1 405 "), "{answer:?}");
    }
}

#[test]
fn ranges_in_odd_spellings() {
    let stage = stage();
    let last = SIZE - 1;
    let whole = |range: &str| {
        let answer = stage.gateway.range(OBJECT, range).expect(200);
        assert_bytes(range, &answer.body, &stage.bytes);
    };
    for range in [
        "bytes =0-0",
        "bytes:0-0",
        "bytes=0 -0",
        "bytes=0- 0",
        "bytes=+0-0",
        "bytes=0x0-0x1",
        "bytes=\u{ff11}-\u{ff12}",
        "bytes=-",
        "bytes=0-0;q=1",
        "bytes=0-0 1-1",
        "bytes=0-0,1-0",
        "bytes=,",
        "bytes=0..1",
        "bytes=0-*",
        "bytes=0-1/5",
        "bytes 0-1/5",
        "items=0-0",
        "",
        "=0-0",
        "bytes=1e3-",
        "bytes=0-0,0-0,a",
    ] {
        whole(range);
    }
    for (range, first, end) in [
        ("bytes= 0-0", 0, 0),
        ("bytes=\t0-0\t", 0, 0),
        ("bytes=0-0 , 1-1", 0, 1),
        ("bytes=,,0-0,,", 0, 0),
        ("bYtEs=000000000000000000000000000-0", 0, 0),
        ("bytes=0-18446744073709551615", 0, last),
        ("bytes=0-18446744073709551616", 0, last),
        ("bytes=-18446744073709551616", 0, last),
        ("bytes=-1,-2,-3", last - 2, last),
        ("bytes=18446744073709551615-,5-6", 5, 6),
        ("bytes=1-1,0-0", 0, 1),
    ] {
        let answer = stage.gateway.range(OBJECT, range).expect(206);
        assert_bytes(range, &answer.body, &stage.bytes[first..=end]);
    }
    for range in [
        "bytes=18446744073709551615-",
        "bytes=18446744073709551616-18446744073709551617",
        "bytes=-0,-0",
    ] {
        let _ = stage.gateway.range(OBJECT, range).expect(416);
    }
    // As many as a head can hold, of one byte each and of all.
    let ones: Vec<String> = (0..2500).map(|n| format!("{}-{}", 2 * n, 2 * n)).collect();
    whole(&format!("bytes={}", ones.join(",")));
    let all = format!("bytes={}", vec!["0-"; 8000].join(","));
    let answer = stage.gateway.range(OBJECT, &all).expect(206);
    assert_bytes("the same range 8000 times", &answer.body, &stage.bytes);
}

#[test]
fn a_range_changes_nothing_but_reads_of_objects() {
    let stage = stage();
    for (method, target, status) in [
        ("GET", "/models?location", 200),
        ("GET", "/", 200),
        ("HEAD", "/models", 200),
        ("GET", "/models/none", 404),
        ("PUT", OBJECT, 405),
        ("GET", "/-/healthz", 200),
    ] {
        let answer = stage
            .gateway
            .request(method, target, &[("Range", "bytes=99999999-")]);
        let answer = answer.expect(status);
        assert!(
            answer.header("content-range").is_none(),
            "{method} {target}"
        );
    }
}

/// The same second in the three forms that a recipient reads (RFC 9110 §5.6.7).
const DATES: [&str; 3] = [
    "Sun, 06 Nov 1994 08:49:37 GMT",
    "Sunday, 06-Nov-94 08:49:37 GMT",
    "Sun Nov  6 08:49:37 1994",
];
const BEFORE: &str = "Sun, 06 Nov 1994 08:49:36 GMT";

#[test]
fn conditions_in_odd_spellings() {
    let files = Scratch::new("files");
    let bytes = oracle::bytes("a.bin", 1, 5000);
    let path = files.write("a.bin", &bytes);
    let modified = UNIX_EPOCH + Duration::from_secs(784_111_777);
    let file = File::options().write(true).open(path).expect("it is ours");
    file.set_modified(modified)
        .expect("a file's time can be set");
    let root = files.path().to_str().expect("a temporary path is UTF-8");
    let gateway = Setup::of([Dataset::new("models", root)]).start();
    let get = |fields: &[(&str, &str)]| request(gateway.address(), "GET", OBJECT, fields);
    let head = get(&[]).expect(200);
    assert_eq!(head.need("last-modified"), DATES[0]);
    let etag = head.need("etag").to_owned();
    for date in DATES {
        let _ = get(&[("If-Modified-Since", date)]).expect(304);
        let _ = get(&[("If-Unmodified-Since", date)]).expect(200);
        let part = get(&[("If-Range", date), ("Range", "bytes=0-9")]).expect(206);
        assert_eq!(part.body, bytes[..10]);
    }
    let _ = get(&[("If-Modified-Since", BEFORE)]).expect(200);
    let _ = get(&[("If-Unmodified-Since", BEFORE)]).expect(412);
    let whole = get(&[("If-Range", BEFORE), ("Range", "bytes=0-9")]).expect(200);
    assert_eq!(whole.body, bytes);
    let listed = format!("\"a,b\" ,, {etag}");
    let in_commas = format!("\"x, {}, y\"", etag.trim_matches('"'));
    let table: [(&[(&str, &str)], u16); 22] = [
        (&[("If-None-Match", "\"x\""), ("If-None-Match", &etag)], 304),
        (&[("If-Match", "\"x\""), ("If-Match", &etag)], 200),
        (&[("If-Match", "\"x\""), ("If-Match", "\"y\"")], 412),
        (&[("If-Match", &listed)], 200),
        (&[("If-None-Match", &listed)], 304),
        (&[("If-Match", &in_commas)], 412),
        (&[("If-None-Match", &in_commas)], 200),
        (&[("If-None-Match", "\"*\"")], 200),
        (&[("If-None-Match", "W/*")], 200),
        (&[("If-Match", "")], 412),
        (&[("If-None-Match", "")], 200),
        (&[("If-Match", ",")], 412),
        (&[("If-Match", "\"unclosed")], 412),
        (&[("If-Modified-Since", "")], 200),
        (&[("If-Modified-Since", "784111777")], 200),
        (
            &[("If-Modified-Since", "Sun, 06 Nov 1994 08:49:37 +0000")],
            200,
        ),
        (
            &[("If-Modified-Since", "Sun, 31 Feb 1994 08:49:37 GMT")],
            200,
        ),
        (
            &[
                ("If-Modified-Since", DATES[0]),
                ("If-Modified-Since", DATES[0]),
            ],
            200,
        ),
        (
            &[
                ("If-Unmodified-Since", BEFORE),
                ("If-Unmodified-Since", BEFORE),
            ],
            200,
        ),
        (&[("If-Match", "*"), ("If-None-Match", "*")], 304),
        (&[("If-Range", "*"), ("Range", "bytes=0-9")], 200),
        (&[("If-Range", &listed), ("Range", "bytes=0-9")], 200),
    ];
    for (fields, status) in table {
        assert_eq!(get(fields).status, status, "{fields:?}");
    }
    // Nothing of it changes what a listing or a refusal says.
    let list = request(
        gateway.address(),
        "GET",
        "/models",
        &[("If-None-Match", "*")],
    );
    assert_eq!(list.status, 200);
    let put = request(gateway.address(), "PUT", OBJECT, &[("If-None-Match", "*")]);
    assert_eq!(put.status, 405);
    let none = request(
        gateway.address(),
        "GET",
        "/models/none",
        &[("If-Match", "*")],
    );
    assert_eq!(none.status, 404);
}
