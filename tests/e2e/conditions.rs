//! The five conditional fields and their precedence (RFC 9110 §13.2.2).

use forebay_tests::oracle::assert_bytes;

use crate::stage::{OBJECT, SIZE, Stage, stage};

const OTHER: &str = "\"another\"";
const EARLIER: &str = "Sat, 01 Jan 2000 00:00:00 GMT";
const LATER: &str = "Wed, 01 Jan 2098 00:00:00 GMT";

fn judge(stage: &Stage, headers: &[(&str, &str)], status: u16) {
    for method in ["GET", "HEAD"] {
        let answer = stage.gateway.request(method, OBJECT, headers);
        assert_eq!(
            answer.status, status,
            "{method} {headers:?}: {:?}",
            answer.headers
        );
        match status {
            304 => {
                assert!(
                    answer.header("etag").is_some(),
                    "RFC 9110 §15.4.5: 304 carries the ETag: {headers:?}"
                );
                assert!(answer.body.is_empty());
            }
            412 if method == "GET" => {
                assert_eq!(
                    answer.xml("Code").as_deref(),
                    Some("PreconditionFailed"),
                    "{}",
                    answer.text()
                );
            }
            _ => {}
        }
    }
}

fn validators(stage: &Stage) -> (String, String, String) {
    let head = stage.gateway.request("HEAD", OBJECT, &[]).expect(200);
    let etag = head.need("etag").to_owned();
    assert!(
        etag.starts_with('"'),
        "nginx's tags are strong, and pass through: {etag}"
    );
    (
        format!("W/{etag}"),
        etag,
        head.need("last-modified").to_owned(),
    )
}

#[test]
fn each_field_alone() {
    let stage = stage();
    let (weak, etag, modified) = validators(&stage);
    let list = format!("{OTHER}, {etag}");
    for (value, status) in [
        (etag.as_str(), 200),
        (OTHER, 412),
        ("*", 200),
        (list.as_str(), 200),
        (weak.as_str(), 412),
    ] {
        judge(&stage, &[("If-Match", value)], status);
    }
    for (value, status) in [
        (etag.as_str(), 304),
        (OTHER, 200),
        ("*", 304),
        (list.as_str(), 304),
        (weak.as_str(), 304),
    ] {
        judge(&stage, &[("If-None-Match", value)], status);
    }
    for (value, status) in [
        (modified.as_str(), 304),
        (EARLIER, 200),
        (LATER, 304),
        ("yesterday", 200),
    ] {
        judge(&stage, &[("If-Modified-Since", value)], status);
    }
    for (value, status) in [
        (modified.as_str(), 200),
        (EARLIER, 412),
        (LATER, 200),
        ("yesterday", 200),
    ] {
        judge(&stage, &[("If-Unmodified-Since", value)], status);
    }
}

#[test]
fn tags_win_over_dates() {
    let stage = stage();
    let (_, etag, _) = validators(&stage);
    judge(
        &stage,
        &[("If-Match", &etag), ("If-Unmodified-Since", EARLIER)],
        200,
    );
    judge(
        &stage,
        &[("If-Match", OTHER), ("If-Unmodified-Since", LATER)],
        412,
    );
    judge(
        &stage,
        &[("If-None-Match", OTHER), ("If-Modified-Since", LATER)],
        200,
    );
    judge(
        &stage,
        &[("If-None-Match", &etag), ("If-Modified-Since", EARLIER)],
        304,
    );
}

#[test]
fn preconditions_that_fail_win_over_304() {
    let stage = stage();
    let (_, etag, _) = validators(&stage);
    judge(
        &stage,
        &[("If-Match", OTHER), ("If-None-Match", &etag)],
        412,
    );
    judge(
        &stage,
        &[("If-Unmodified-Since", EARLIER), ("If-None-Match", &etag)],
        412,
    );
    judge(
        &stage,
        &[("If-Match", &etag), ("If-None-Match", &etag)],
        304,
    );
}

#[test]
fn conditions_are_judged_before_the_range() {
    let stage = stage();
    let (_, etag, _) = validators(&stage);
    judge(
        &stage,
        &[("If-None-Match", &etag), ("Range", "bytes=0-9")],
        304,
    );
    judge(
        &stage,
        &[("If-None-Match", &etag), ("Range", "bytes=99999999-")],
        304,
    );
    judge(&stage, &[("If-Match", OTHER), ("Range", "bytes=0-9")], 412);
    judge(&stage, &[("If-Match", &etag), ("Range", "bytes=0-9")], 206);
    judge(
        &stage,
        &[("If-Match", &etag), ("Range", "bytes=99999999-")],
        416,
    );
}

#[test]
fn if_range_takes_strong_tags_only() {
    let stage = stage();
    let (weak, etag, _) = validators(&stage);
    judge(&stage, &[("If-Range", &etag), ("Range", "bytes=0-9")], 206);
    for other in [OTHER, weak.as_str(), EARLIER, LATER] {
        let answer = stage
            .gateway
            .request(
                "GET",
                OBJECT,
                &[("If-Range", other), ("Range", "bytes=0-9")],
            )
            .expect(200);
        assert_bytes(other, &answer.body, &stage.bytes);
    }
    // A range that cannot be satisfied does not matter once If-Range has failed.
    let past = format!("bytes={SIZE}-");
    judge(&stage, &[("If-Range", OTHER), ("Range", &past)], 200);
    judge(&stage, &[("If-Range", &etag), ("Range", &past)], 416);
    judge(&stage, &[("If-Range", OTHER)], 200);
}

#[test]
fn tags_without_quotes_are_taken() {
    let stage = stage();
    let (_, etag, _) = validators(&stage);
    let bare = etag.trim_matches('"');
    judge(&stage, &[("If-Match", bare)], 200);
    judge(&stage, &[("If-None-Match", bare)], 304);
}

#[test]
fn conditions_hold_on_cold_objects() {
    let first = stage();
    judge(&first, &[("If-Match", OTHER)], 412);
    let second = stage();
    judge(&second, &[("If-None-Match", "*")], 304);
    let third = stage();
    judge(
        &third,
        &[("If-None-Match", OTHER), ("Range", "bytes=0-9")],
        206,
    );
}

#[test]
fn a_condition_on_a_newer_version_is_asked_of_the_origin() {
    let stage = stage();
    let _ = stage.gateway.get(OBJECT).expect(200);
    // Nothing is asked again for ten minutes here, unless the client knows more than the gateway.
    stage.origin.put("a.bin", b"new bytes");
    let url = stage.origin.url(forebay_tests::servers::nginx::Mood::Plain);
    let (address, path) = url
        .strip_prefix("http://")
        .expect("an http URL")
        .split_once('/')
        .expect("a path");
    let address = address.parse().expect("HOST:PORT");
    let newer = forebay_tests::http::request(address, "HEAD", &format!("/{path}a.bin"), &[]);
    let answer = stage
        .gateway
        .request("GET", OBJECT, &[("If-Match", newer.need("etag"))])
        .expect(200);
    assert_eq!(answer.body, b"new bytes");
}
