//! Range (RFC 9110 §14): one, several, none, unsatisfiable.

use forebay_tests::http::Answer;
use forebay_tests::multipart::{content_range, parts};
use forebay_tests::oracle::{BLOCK, assert_bytes};

use crate::stage::{EMPTY, OBJECT, SIZE, stage};

#[test]
fn one_range_is_a_206_of_exactly_these_bytes() {
    let stage = stage();
    let end = SIZE - 1;
    let block = BLOCK - 1;
    let table = [
        ("bytes=0-0".to_owned(), 0, 0),
        (format!("bytes={block}-{BLOCK}"), block, BLOCK),
        ("bytes=7-".to_owned(), 7, end),
        (format!("bytes={end}-"), end, end),
        ("bytes=-7".to_owned(), SIZE - 7, end),
        (format!("bytes=-{SIZE}"), 0, end),
        ("bytes=-99999999999".to_owned(), 0, end),
        ("bytes=5-99999999999".to_owned(), 5, end),
        ("bytes=5-99999999999999999999999999".to_owned(), 5, end),
        ("BYTES=1-2".to_owned(), 1, 2),
        ("bytes=1-2,".to_owned(), 1, 2),
        ("bytes=,1-2".to_owned(), 1, 2),
        ("bytes=0-9,10-19".to_owned(), 0, 19),
        ("bytes=0-9,5-19".to_owned(), 0, 19),
        ("bytes=0-9, 99999999-".to_owned(), 0, 9),
        ("bytes=0-0,-99999999".to_owned(), 0, end),
    ];
    for (range, first, last) in table {
        let answer = stage.gateway.range(OBJECT, &range).expect(206);
        assert_bytes(&range, &answer.body, &stage.bytes[first..=last]);
        assert_eq!(
            content_range(answer.need("content-range")),
            (first as u64, last as u64, SIZE as u64),
            "{range}"
        );
        assert_eq!(
            answer.need("content-length"),
            (last - first + 1).to_string(),
            "{range}"
        );
        assert!(
            answer.header("etag").is_some() && answer.header("last-modified").is_some(),
            "{range}"
        );
    }
}

#[test]
fn a_range_that_is_none_is_ignored() {
    let stage = stage();
    for range in [
        "bytes=",
        "bytes=a-b",
        "bytes=5-3",
        "bytes=0-1,x-",
        "lines=0-1",
        "bytes",
        "bytes=0-1-2",
        "bytes=--5",
        "0-1",
    ] {
        let answer = stage.gateway.range(OBJECT, range).expect(200);
        assert_bytes(range, &answer.body, &stage.bytes);
        assert!(answer.header("content-range").is_none(), "{range}");
    }
}

fn is_unsatisfiable(answer: Answer, size: usize, range: &str) {
    let answer = answer.expect(416);
    assert_eq!(
        answer.need("content-range"),
        format!("bytes */{size}"),
        "{range}"
    );
    assert_eq!(answer.need("content-type"), "application/xml", "{range}");
    assert_eq!(
        answer.xml("Code").as_deref(),
        Some("InvalidRange"),
        "{range}"
    );
    assert_eq!(
        answer.xml("ActualObjectSize"),
        Some(size.to_string()),
        "{range}"
    );
    assert_eq!(answer.xml("RangeRequested").as_deref(), Some(range));
}

#[test]
fn a_range_past_the_end_is_416() {
    let stage = stage();
    for range in [
        format!("bytes={SIZE}-"),
        format!("bytes={SIZE}-{SIZE}"),
        "bytes=-0".to_owned(),
        "bytes=99999999999999999999999999-".to_owned(),
        format!("bytes={SIZE}-,-0"),
    ] {
        is_unsatisfiable(stage.gateway.range(OBJECT, &range), SIZE, &range);
    }
}

#[test]
fn any_range_of_an_empty_object_is_416() {
    let stage = stage();
    // The C clients take exactly this for "the object is empty".
    for range in ["bytes=0-8388607", "bytes=0-", "bytes=-5", "bytes=0-0"] {
        is_unsatisfiable(stage.gateway.range(EMPTY, range), 0, range);
    }
    let whole = stage.gateway.get(EMPTY).expect(200);
    assert_eq!(whole.need("content-length"), "0");
}

#[test]
fn several_ranges_come_as_parts_in_the_order_asked() {
    let stage = stage();
    let end = SIZE as u64 - 1;
    let table = [
        ("bytes=0-9,20-29".to_owned(), vec![(0, 9), (20, 29)]),
        ("bytes=20-29,0-9".to_owned(), vec![(20, 29), (0, 9)]),
        ("bytes=-5,0-0".to_owned(), vec![(end - 4, end), (0, 0)]),
        (
            "bytes=0-9,5-14,100-109".to_owned(),
            vec![(0, 14), (100, 109)],
        ),
        (
            format!("bytes=3-5,{}-{},{SIZE}-", BLOCK - 3, 2 * BLOCK + 3),
            vec![(3, 5), (BLOCK as u64 - 3, 2 * BLOCK as u64 + 3)],
        ),
        (format!("bytes=0-0,{}-", SIZE - 1), vec![(0, 0), (end, end)]),
    ];
    for (range, expected) in table {
        let answer = stage.gateway.range(OBJECT, &range).expect(206);
        assert_eq!(
            answer.need("content-length"),
            answer.body.len().to_string(),
            "{range}"
        );
        let parts = parts(&answer);
        let found: Vec<(u64, u64)> = parts
            .iter()
            .map(|part| (part.range.0, part.range.1))
            .collect();
        assert_eq!(found, expected, "{range}");
        let whole_type = stage.gateway.request("HEAD", OBJECT, &[]).expect(200);
        for part in parts {
            let (first, last) = (part.range.0 as usize, part.range.1 as usize);
            assert_eq!(part.range.2, SIZE as u64);
            assert_eq!(
                part.content_type.as_deref(),
                whole_type.header("content-type")
            );
            assert_bytes(&range, &part.bytes, &stage.bytes[first..=last]);
        }
    }
}

#[test]
fn ranges_that_touch_in_any_order_are_one() {
    let stage = stage();
    // Backwards, so that nothing but coalescing makes one of them.
    let ranges: Vec<String> = (0..200)
        .rev()
        .map(|n| format!("{}-{}", n * 10, n * 10 + 9))
        .collect();
    let answer = stage
        .gateway
        .range(OBJECT, &format!("bytes={}", ranges.join(",")))
        .expect(206);
    assert_eq!(
        content_range(answer.need("content-range")),
        (0, 1999, SIZE as u64)
    );
    assert_bytes("200 ranges", &answer.body, &stage.bytes[..2000]);
}

#[test]
fn thirty_two_ranges_are_answered_and_thirty_three_ignored() {
    let stage = stage();
    let ranges = |count: usize| {
        let list: Vec<String> = (0..count)
            .map(|n| format!("{}-{}", n * 100, n * 100 + 9))
            .collect();
        format!("bytes={}", list.join(","))
    };
    let answer = stage.gateway.range(OBJECT, &ranges(32)).expect(206);
    assert_eq!(parts(&answer).len(), 32);
    let answer = stage.gateway.range(OBJECT, &ranges(33)).expect(200);
    assert_bytes("33 ranges", &answer.body, &stage.bytes);
}

#[test]
fn head_with_a_range_is_answered_like_its_206() {
    let stage = stage();
    for range in ["bytes=0-9", "bytes=-5", "bytes=5-", "bytes=0-9,20-29"] {
        let get = stage.gateway.range(OBJECT, range).expect(206);
        let head = stage
            .gateway
            .request("HEAD", OBJECT, &[("Range", range)])
            .expect(206);
        for field in ["content-length", "content-range", "etag", "last-modified"] {
            assert_eq!(head.header(field), get.header(field), "{range} {field}");
        }
    }
    let head = stage
        .gateway
        .request("HEAD", OBJECT, &[("Range", "bytes=99999999-")])
        .expect(416);
    assert_eq!(head.need("content-range"), format!("bytes */{SIZE}"));
}

#[test]
fn a_cold_suffix_and_a_cold_416_are_right_too() {
    let suffix = stage();
    let answer = suffix.gateway.range(OBJECT, "bytes=-9").expect(206);
    assert_bytes("suffix", &answer.body, &suffix.bytes[SIZE - 9..]);
    let past = stage();
    is_unsatisfiable(
        past.gateway.range(OBJECT, "bytes=99999999-"),
        SIZE,
        "bytes=99999999-",
    );
    let head = stage();
    let answer = head
        .gateway
        .request("HEAD", OBJECT, &[("Range", "bytes=0-9")])
        .expect(206);
    assert_eq!(answer.need("content-range"), format!("bytes 0-9/{SIZE}"));
    let several = stage();
    let answer = several
        .gateway
        .range(OBJECT, "bytes=3000000-3000009,0-9")
        .expect(206);
    assert_bytes(
        "first part",
        &parts(&answer)[0].bytes,
        &several.bytes[3_000_000..3_000_010],
    );
}
