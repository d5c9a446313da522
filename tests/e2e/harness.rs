//! The harness itself: an odd origin that were not odd would prove nothing.

use forebay_tests::http::{Answer, request};
use forebay_tests::oracle;
use forebay_tests::servers::nginx::{Mood, Nginx};
use forebay_tests::servers::{Object, gcs::Gcs, s3s::S3s};

fn ask(nginx: &Nginx, mood: Mood) -> Answer {
    let url = nginx.url(mood);
    let (address, path) = url
        .strip_prefix("http://")
        .expect("an http URL")
        .split_once('/')
        .expect("a path");
    let address = address.parse().expect("HOST:PORT");
    request(
        address,
        "GET",
        &format!("/{path}a.txt"),
        &[("Range", "bytes=1-2")],
    )
}

#[test]
fn each_mood_of_nginx_is_as_odd_as_it_says() {
    let nginx = Nginx::start();
    nginx.put("a.txt", &oracle::bytes("a", 1, 1000));
    let plain = ask(&nginx, Mood::Plain).expect(206);
    assert!(plain.need("etag").starts_with('"'));
    assert!(plain.header("last-modified").is_some());
    let no_tag = ask(&nginx, Mood::NoTag).expect(206);
    assert!(no_tag.header("etag").is_none() && no_tag.header("last-modified").is_some());
    let none = ask(&nginx, Mood::NoValidator).expect(206);
    assert!(none.header("etag").is_none() && none.header("last-modified").is_none());
    let weak = ask(&nginx, Mood::WeakTag).expect(206);
    assert!(weak.need("etag").starts_with("W/"));
    ask(&nginx, Mood::NoRanges).expect(200);
    ask(&nginx, Mood::Compresses).expect(206);
    let always = ask(&nginx, Mood::AlwaysCompresses).expect(200);
    assert_eq!(always.need("content-encoding"), "gzip");
    assert!(always.header("content-length").is_none());
}

#[test]
fn fake_gcs_server_takes_objects() {
    let gcs = Gcs::start();
    gcs.put(
        "weights",
        &[Object {
            key: "a b.bin".into(),
            bytes: b"abc".to_vec(),
        }],
    );
}

#[test]
fn s3s_takes_signed_objects() {
    let s3s = S3s::start(env!("CARGO_BIN_EXE_s3-origin"));
    s3s.put(
        "weights",
        &[Object {
            key: "deep/a b.bin".into(),
            bytes: b"abc".to_vec(),
        }],
    );
}
