//! What goes over the wire comes back as it was, and what is no question is none.

#![allow(clippy::unwrap_used)]

use super::*;

fn question() -> Question {
    let mut object = ObjectId::new("models", "a b/%2F#ä?.bin");
    object.version_id = Some("id ü".into());
    let mut headers = HeaderMap::new();
    headers.insert("etag", HeaderValue::from_static("\"x\""));
    headers.insert(
        "x-amz-meta-who",
        HeaderValue::from_bytes(b"\xe4:b").unwrap(),
    );
    Question {
        object,
        version: Some(Claim {
            key: VersionKey(77),
            size: 1 << 40,
            headers,
        }),
        range: Some(65536..1 << 20),
        level: 2,
        deadline: Duration::from_millis(1500),
        doubting: true,
        only_if_cached: true,
        ahead: true,
    }
}

#[test]
fn a_question_comes_back_as_it_was() {
    let asked = question();
    let (parts, _) = asked.request().into_parts();
    let found = Question::parse(&parts).unwrap();
    assert_eq!(found.object, asked.object);
    assert_eq!((found.range, found.level), (asked.range, asked.level));
    assert_eq!(found.deadline, asked.deadline);
    assert!(found.doubting && found.only_if_cached && found.ahead);
    let (one, other) = (found.version.unwrap(), asked.version.unwrap());
    assert_eq!((one.key, one.size), (other.key, other.size));
    assert_eq!(one.headers, other.headers);
}

#[test]
fn what_is_no_question_is_none() {
    let (parts, _) = question().request().into_parts();
    for (name, value) in [
        ("forebay-level", "x"),
        ("forebay-level", "256"),
        ("forebay-version", "not hex"),
        ("forebay-headers", "!"),
        ("forebay-size", "-1"),
        ("range", "bytes=5-4"),
        ("range", "bytes=0-18446744073709551615"),
        ("range", "bytes=5-"),
    ] {
        let mut broken = parts.clone();
        broken.headers.insert(name, HeaderValue::from_static(value));
        assert!(Question::parse(&broken).is_none(), "{name}: {value}");
    }
    for path in ["/blocks/", "/blocks/models", "/blocks/%ff/a", "/ping"] {
        let mut broken = parts.clone();
        broken.uri = path.parse().unwrap();
        assert!(Question::parse(&broken).is_none(), "{path}");
    }
}

#[test]
fn an_answers_head_comes_back_as_it_was() {
    let head = Head {
        version: question().version,
        age: Duration::from_micros(1234),
        stale: true,
        range: Some(0..10),
        hit: true,
    };
    let found = Head::parse(&head.headers()).unwrap();
    assert_eq!((found.age, found.range), (head.age, head.range));
    assert!(found.stale && found.hit);
    assert_eq!(found.version.unwrap().size, 1 << 40);
}

#[test]
fn each_failure_of_an_origin_arrives_as_what_it_was() {
    for error in [
        OriginError::NotFound,
        OriginError::Refused { status: 403 },
        OriginError::SlowDown { status: 429 },
        OriginError::Status { status: 500 },
        OriginError::NoCredentials,
        OriginError::TimedOut,
        OriginError::Cut,
        OriginError::Changed,
        OriginError::PastEnd,
        OriginError::NoSuchPart { count: 7 },
        OriginError::Abandoned,
    ] {
        let (status, headers) = of_origin(&error);
        let mut response = http::Response::new(());
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        let (parts, ()) = response.into_parts();
        assert_eq!(failure(&parts), PeerError::Origin(error));
    }
}

#[test]
fn the_right_bytes_at_the_wrong_place_have_another_checksum() {
    let sum = |version, offset| {
        let mut hash = checksum(VersionKey(version), offset);
        std::hash::Hasher::write(&mut hash, b"the same bytes");
        std::hash::Hasher::finish(&hash)
    };
    assert_eq!(sum(1, 0), sum(1, 0));
    assert_ne!(sum(1, 0), sum(1, 65536));
    assert_ne!(sum(1, 0), sum(2, 0));
}

#[test]
fn a_body_is_as_long_as_its_segments_and_their_checksums() {
    assert_eq!(body_length(&(0..1)), 9);
    assert_eq!(body_length(&(0..65536)), 65536 + 8);
    assert_eq!(body_length(&(65536..65536 * 3 + 1)), 65536 * 2 + 1 + 24);
}

#[test]
fn a_checksum_is_xxh3_whole_or_in_pieces() {
    let bytes: Vec<u8> = (0..SEGMENT).map(|index| (index * 7 / 3) as u8).collect();
    for length in [0, 1, 17, 240, 241, 1024, 4097, SEGMENT] {
        let (version, offset) = (VersionKey(77), 3 << 16);
        let mut pieces = checksum(version, offset);
        for piece in bytes[..length].chunks(1000) {
            std::hash::Hasher::write(&mut pieces, piece);
        }
        let expected =
            xxhash_rust::xxh3::xxh3_64_with_seed(&bytes[..length], seed(version, offset));
        assert_eq!(std::hash::Hasher::finish(&pieces), expected, "{length}");
        assert_eq!(sum(version, offset, &bytes[..length]), expected, "{length}");
    }
}
