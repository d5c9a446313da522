//! Methods, targets, connections, h2c, Cache-Status, malformed requests.

use std::process::Command;

use forebay_tests::http::Connection;
use forebay_tests::oracle::{BLOCK, assert_bytes};

use crate::stage::{EMPTY, OBJECT, SIZE, cached, stage};

#[test]
fn head_says_what_get_says() {
    let stage = stage();
    for target in [OBJECT, EMPTY] {
        let get = stage.gateway.get(target).expect(200);
        let head = stage.gateway.request("HEAD", target, &[]).expect(200);
        for field in [
            "content-length",
            "content-type",
            "etag",
            "last-modified",
            "accept-ranges",
        ] {
            assert_eq!(head.header(field), get.header(field), "{target} {field}");
        }
    }
}

#[test]
fn cache_status_says_what_the_cache_did() {
    let stage = stage();
    let status = |range: &str| {
        stage
            .gateway
            .range(OBJECT, range)
            .expect(206)
            .need("cache-status")
            .to_owned()
    };
    assert_eq!(status("bytes=0-9"), "forebay; fwd=miss");
    cached(&stage.gateway, BLOCK);
    assert_eq!(status("bytes=0-9"), "forebay; hit; detail=\"memory\"");
    let across = format!("bytes=0-{}", 2 * BLOCK);
    assert_eq!(status(&across), "forebay; fwd=partial");
    cached(&stage.gateway, 3 * BLOCK);
    assert_eq!(status(&across), "forebay; hit; detail=\"memory\"");
}

#[test]
fn absolute_targets_are_routed_by_their_path() {
    let stage = stage();
    let mut connection = Connection::open(stage.gateway.address());
    for host in [
        "http://elsewhere.example:1",
        "http://127.0.0.1",
        "http://models",
    ] {
        let answer = connection
            .request(
                "GET",
                &format!("{host}{OBJECT}"),
                &[("Range", "bytes=0-99")],
            )
            .expect(206);
        assert_bytes(host, &answer.body, &stage.bytes[..100]);
    }
}

#[test]
fn one_connection_serves_many_requests() {
    let stage = stage();
    let mut connection = Connection::open(stage.gateway.address());
    for n in 0..50 {
        let answer = connection
            .request(
                "GET",
                OBJECT,
                &[("Range", &format!("bytes={n}-{}", n + 70_000))],
            )
            .expect(206);
        assert_bytes("range", &answer.body, &stage.bytes[n..=n + 70_000]);
        let _ = connection.request("HEAD", OBJECT, &[]).expect(200);
        let _ = connection
            .request("GET", "/models/none.bin", &[])
            .expect(404);
    }
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let stage = stage();
    let mut connection = Connection::open(stage.gateway.address());
    for n in 0..5 {
        connection.ask("GET", OBJECT, &[("Range", &format!("bytes={n}-{n}"))]);
    }
    for n in 0..5 {
        let answer = connection.answer(false).expect("an answer").expect(206);
        assert_eq!(answer.body, stage.bytes[n..=n]);
    }
}

#[test]
fn http2_with_prior_knowledge_is_served_on_the_same_port() {
    let stage = stage();
    let output = Command::new("curl")
        .args([
            "-sS",
            "--http2-prior-knowledge",
            "-r",
            "5-70004",
            "-w",
            "%{stderr}%{http_version} %{http_code}",
        ])
        .arg(format!("{}{OBJECT}", stage.gateway.url()))
        .output()
        .expect("curl runs");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "2 206");
    assert_bytes("h2c", &output.stdout, &stage.bytes[5..70_005]);
    let whole = Command::new("curl")
        .args(["-sS", "--http2-prior-knowledge"])
        .arg(format!("{}{OBJECT}", stage.gateway.url()))
        .output()
        .expect("curl runs");
    assert_bytes("h2c", &whole.stdout, &stage.bytes);
}

#[test]
fn curl_resumes() {
    let stage = stage();
    let files = forebay_tests::scratch::Scratch::new("curl");
    let part = files.write("part.bin", &stage.bytes[..BLOCK + 5]);
    let resume = |extra: &str| {
        Command::new("curl")
            .args(["-sSf", "-C", "-", "-o"])
            .arg(&part)
            .args(extra.split_whitespace())
            .arg(format!("{}{OBJECT}", stage.gateway.url()))
            .status()
            .expect("curl runs")
    };
    assert!(resume("").success());
    assert_bytes(
        "resumed",
        &std::fs::read(&part).expect("the file is there"),
        &stage.bytes,
    );
}

#[test]
fn malformed_requests_get_4xx_or_a_close_and_the_next_is_served() {
    let stage = stage();
    let many = format!(
        "GET {OBJECT} HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n",
        "x".repeat(2 << 20)
    );
    let requests: [&[u8]; 13] = [
        b"\x00\x01\x02\x03\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET /models/a.bin HTTP/9.9\r\nHost: a\r\n\r\n",
        b"GET /models/a.bin\r\n\r\n",
        b"GET  /models/a.bin HTTP/1.1\r\nHost: a\r\n\r\n",
        b"G\x7fT /models/a.bin HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /models/a.bin HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n",
        b"GET /models/a.bin HTTP/1.1\r\nHost : a\r\n\r\n",
        b"GET /models/a.bin HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"GET /models/%zz HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /models/%ff%fe HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /models/a%00b HTTP/1.1\r\nHost: a\r\n\r\n",
        many.as_bytes(),
    ];
    for request in requests {
        let mut connection = Connection::open(stage.gateway.address());
        connection.send(request);
        connection.finish();
        let shown = String::from_utf8_lossy(&request[..request.len().min(80)]).into_owned();
        if let Some(answer) = connection.answer(false) {
            assert!(
                (400..500).contains(&answer.status),
                "{shown:?}: {} {}",
                answer.status,
                answer.text()
            );
        }
        let next = stage.gateway.range(OBJECT, "bytes=0-0").expect(206);
        assert_eq!(next.body, stage.bytes[..1], "after {shown:?}");
    }
}

#[test]
fn a_key_is_at_most_1024_bytes() {
    let stage = stage();
    let _ = stage
        .gateway
        .get(&format!("/models/{}", "a/b".repeat(340)))
        .expect(404);
    let answer = stage
        .gateway
        .get(&format!("/models/{}", "a/b".repeat(350)))
        .expect(400);
    assert_eq!(answer.xml("Code").as_deref(), Some("KeyTooLongError"));
}

#[test]
fn a_client_that_leaves_costs_no_other_its_bytes() {
    let stage = stage();
    for _ in 0..10 {
        let mut leaver = Connection::open(stage.gateway.address());
        leaver.ask("GET", OBJECT, &[]);
        drop(leaver);
    }
    let answer = stage.gateway.get(OBJECT).expect(200);
    assert_bytes("the one who stayed", &answer.body, &stage.bytes);
    assert_eq!(answer.body.len(), SIZE);
}
