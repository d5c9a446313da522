//! The client against answers written by hand: what the model never says.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::pattern;

const SIZE: u64 = 1000;

fn bytes(version: u64, first: u64, end: u64) -> Vec<u8> {
    let mut out = vec![0; (end - first) as usize];
    pattern::fill(pattern::seed("a", version), first, &mut out);
    out
}

/// Answers one request with these bytes, closes, and gives what the client made of it.
async fn judged(want: Want, head: &str, body: &[u8]) -> Read {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}/d", listener.local_addr().expect("bound"));
    let answer = [head.replace('\n', "\r\n").as_bytes(), body].concat();
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a client");
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            assert!(stream.read_buf(&mut request).await.expect("a request") > 0);
        }
        stream.write_all(&answer).await.expect("a listening client");
    });
    let read = Client::new(&url)
        .expect("a good URL")
        .read(&Ask::new("a", want))
        .await;
    server.await.expect("no panic");
    read
}

fn multipart(parts: &[(u64, u64)], version: u64) -> (String, Vec<u8>) {
    let mut body = Vec::new();
    for &(first, end) in parts {
        body.extend(
            format!(
                "\r\n--xyz\r\nContent-Range: bytes {first}-{}/{SIZE}\r\n\r\n",
                end - 1
            )
            .into_bytes(),
        );
        body.extend(bytes(version, first, end));
    }
    body.extend(b"\r\n--xyz--\r\n");
    let head = format!(
        "HTTP/1.1 206 Partial Content\nETag: {}\nContent-Type: multipart/byteranges; boundary=xyz\n\
         Content-Length: {}\n\n",
        pattern::etag("a", 1, SIZE),
        body.len()
    );
    (head, body)
}

#[tokio::test]
async fn several_ranges_are_checked_part_by_part() {
    let want = Want::Several(vec![(500, 599), (0, 9), (10, 19), (990, 2000)]);
    let (head, body) = multipart(&[(500, 600), (0, 20), (990, 1000)], 1);
    let read = judged(want.clone(), &head, &body).await;
    assert_eq!(
        (read.outcome, read.bytes, read.version),
        (Outcome::Whole, 130, Some(1))
    );
    let (head, body) = multipart(&[(500, 600), (0, 20)], 1);
    assert!(
        judged(want.clone(), &head, &body).await.is_false(),
        "a part is missing"
    );
    let (head, body) = multipart(&[(500, 600), (0, 21), (990, 1000)], 1);
    assert!(
        judged(want.clone(), &head, &body).await.is_false(),
        "a byte too many"
    );
    let (head, body) = multipart(&[(500, 600), (0, 20), (990, 1000)], 2);
    assert!(
        judged(want, &head, &body).await.is_false(),
        "bytes of another version"
    );
}

#[tokio::test]
async fn an_answer_without_an_etag_is_known_by_its_bytes() {
    let head = format!("HTTP/1.1 200 OK\nContent-Length: {SIZE}\n\n");
    let read = judged(Want::Whole, &head, &bytes(7, 0, SIZE)).await;
    assert_eq!((read.outcome, read.version), (Outcome::Whole, Some(7)));
    let body = [bytes(7, 0, 400), bytes(9, 400, SIZE)].concat();
    let read = judged(Want::Whole, &head, &body).await;
    assert!(
        matches!(&read.outcome, Outcome::Mixed(detail) if detail.contains("version 9 from its offset 400"))
    );
    assert_eq!(read.bytes, 400);
}

#[tokio::test]
async fn misplaced_bytes_are_named() {
    let head = format!(
        "HTTP/1.1 200 OK\nETag: {}\nContent-Length: {SIZE}\n\n",
        pattern::etag("a", 1, SIZE)
    );
    let body = [bytes(1, 0, 403), bytes(1, 3, SIZE - 400)].concat();
    let read = judged(Want::Whole, &head, &body).await;
    assert!(
        matches!(&read.outcome, Outcome::Wrong(detail) if detail.contains("at 403") && detail.contains("offset 3")),
        "{:?}",
        read.outcome
    );
}

#[tokio::test]
async fn a_body_that_ends_early_is_cut_and_one_without_length_is_wrong() {
    let etag = pattern::etag("a", 1, SIZE);
    let head = format!("HTTP/1.1 200 OK\nETag: {etag}\nContent-Length: {SIZE}\n\n");
    let read = judged(Want::Whole, &head, &bytes(1, 0, 999)).await;
    assert!(matches!(read.outcome, Outcome::Cut(_)));
    assert_eq!(read.bytes, 999);
    let head = format!("HTTP/1.1 200 OK\nETag: {etag}\nConnection: close\n\n");
    let read = judged(Want::Whole, &head, &bytes(1, 0, SIZE)).await;
    assert!(read.is_false());
}

#[tokio::test]
async fn an_answer_to_another_question_is_wrong() {
    let etag = pattern::etag("a", 1, SIZE);
    for (range, length) in [("0-9", 10), ("1-10", 10), ("1-9", 10), ("1-9", 8)] {
        let head = format!(
            "HTTP/1.1 206 Partial Content\nETag: {etag}\nContent-Range: bytes {range}/{SIZE}\n\
             Content-Length: {length}\n\n"
        );
        assert!(
            judged(Want::Range(1, 9), &head, &bytes(1, 1, 11))
                .await
                .is_false(),
            "{range} {length}"
        );
    }
}

#[tokio::test]
async fn urls_without_a_port_are_refused() {
    for url in ["ftp://127.0.0.1:1/a", "http://host/a", "127.0.0.1:1"] {
        assert_eq!(Client::new(url).map(|_| ()), Err(BadUrl(url.to_owned())));
    }
}
