//! What `Range` headers come to, as tables.
#![allow(clippy::unwrap_used)]

use super::*;

fn value(text: &str) -> HeaderValue {
    HeaderValue::from_bytes(text.as_bytes()).unwrap()
}

fn judged(text: &str, size: u64) -> Ranges {
    judge(Some(&value(text)), size)
}

fn one(first: u64, last: u64) -> Ranges {
    Ranges::One(ByteRange { first, last })
}

fn several(ranges: &[(u64, u64)]) -> Ranges {
    Ranges::Several(
        ranges
            .iter()
            .map(|&(first, last)| ByteRange { first, last })
            .collect(),
    )
}

#[test]
fn no_header_is_the_whole() {
    assert_eq!(judge(None, 10), Ranges::Whole);
    assert_eq!(first_hint(None), Hint::None);
}

#[test]
fn malformed_headers_are_ignored() {
    for text in [
        "",
        "bytes",
        "bytes=",
        "bytes= ",
        "bytes=,",
        "bytes=, ,\t,",
        "bytes=-",
        "bytes=1",
        "bytes=a-b",
        "bytes=1-b",
        "bytes=+1-2",
        "bytes=1--2",
        "bytes=--1",
        "bytes=1-2-3",
        "bytes=0x1-2",
        "bytes=1 -2",
        "bytes=1- 2",
        "bytes =0-1",
        " bytes=0-1 x",
        "bytes:0-1",
        "items=0-1",
        "byte=0-1",
        "bytes=5-4",
        "bytes=0-1,5-4",
        "bytes=0-1,x",
        "bytes=0-1;2-3",
        "bytes=bytes=0-1",
        "bytes=99999999999999999999-5",
        "bytes=\u{ff}-1",
    ] {
        assert_eq!(judged(text, 100), Ranges::Whole, "{text:?}");
        assert_eq!(
            judged(text, 0),
            Ranges::Whole,
            "{text:?} of an empty object"
        );
        assert_eq!(first_hint(Some(&value(text))), Hint::None, "{text:?}");
    }
}

#[test]
fn single_ranges_are_clamped_to_the_object() {
    for (text, size, expected) in [
        ("bytes=0-0", 1, one(0, 0)),
        ("bytes=0-", 1, one(0, 0)),
        ("bytes=0-9", 10, one(0, 9)),
        ("bytes=0-10", 10, one(0, 9)),
        ("bytes=9-9", 10, one(9, 9)),
        ("bytes=9-", 10, one(9, 9)),
        ("bytes=10-", 10, Ranges::Unsatisfiable),
        ("bytes=10-10", 10, Ranges::Unsatisfiable),
        ("BYTES=1-2", 10, one(1, 2)),
        ("Bytes=1-2", 10, one(1, 2)),
        ("bytes= 1-2 ", 10, one(1, 2)),
        ("bytes=,\t1-2 ,,", 10, one(1, 2)),
        ("bytes=0000000000000000000000001-2", 10, one(1, 2)),
        ("bytes=2-99999999999999999999999999", 10, one(2, 9)),
        ("bytes=2-18446744073709551615", 10, one(2, 9)),
        ("bytes=18446744073709551615-", 10, Ranges::Unsatisfiable),
        (
            "bytes=99999999999999999999999999-",
            10,
            Ranges::Unsatisfiable,
        ),
        (
            "bytes=99999999999999999999-99999999999999999999",
            10,
            Ranges::Unsatisfiable,
        ),
        ("bytes=0-52428799", 0, Ranges::Unsatisfiable),
        ("bytes=0-", 0, Ranges::Unsatisfiable),
        ("bytes=0-", u64::MAX, one(0, u64::MAX - 1)),
        (
            "bytes=0-18446744073709551615",
            u64::MAX,
            one(0, u64::MAX - 1),
        ),
    ] {
        assert_eq!(judged(text, size), expected, "{text:?} of {size}");
    }
}

#[test]
fn suffixes_count_from_the_end() {
    for (text, size, expected) in [
        ("bytes=-1", 10, one(9, 9)),
        ("bytes=-10", 10, one(0, 9)),
        ("bytes=-11", 10, one(0, 9)),
        ("bytes=-99999999999999999999999", 10, one(0, 9)),
        ("bytes=-0", 10, Ranges::Unsatisfiable),
        ("bytes=-0", 0, Ranges::Unsatisfiable),
        ("bytes=-5", 0, Ranges::Unsatisfiable),
    ] {
        assert_eq!(judged(text, size), expected, "{text:?} of {size}");
    }
}

#[test]
fn several_ranges_coalesce_where_they_overlap_or_touch() {
    for (text, expected) in [
        ("bytes=0-1,5-6", several(&[(0, 1), (5, 6)])),
        ("bytes=5-6,0-1", several(&[(5, 6), (0, 1)])),
        ("bytes=0-1,2-3", one(0, 3)),
        ("bytes=2-3,0-1", one(0, 3)),
        ("bytes=0-1,3-4", several(&[(0, 1), (3, 4)])),
        ("bytes=0-50,10-20", one(0, 50)),
        ("bytes=10-20,0-50", one(0, 50)),
        ("bytes=0-0,0-0", one(0, 0)),
        // The joined range stands where the first of its parts stood.
        ("bytes=50-60,0-1,61-70", several(&[(50, 70), (0, 1)])),
        ("bytes=0-1,50-60,2-3", several(&[(0, 3), (50, 60)])),
        ("bytes=90-95,0-1,-5,80-89", several(&[(80, 99), (0, 1)])),
        ("bytes=0-,-1", one(0, 99)),
        ("bytes=0-1 , ,\t-1", several(&[(0, 1), (99, 99)])),
    ] {
        assert_eq!(judged(text, 100), expected, "{text:?}");
    }
}

#[test]
fn unsatisfiable_ranges_among_others_are_dropped() {
    for (text, expected) in [
        ("bytes=100-,0-1", one(0, 1)),
        ("bytes=0-1,100-,-0", one(0, 1)),
        ("bytes=0-1,200-300,5-6", several(&[(0, 1), (5, 6)])),
        ("bytes=100-,200-,-0", Ranges::Unsatisfiable),
    ] {
        assert_eq!(judged(text, 100), expected, "{text:?}");
    }
}

fn every_third_byte(count: u64) -> String {
    let specs: Vec<String> = (0..count).map(|n| format!("{0}-{0}", 3 * n)).collect();
    format!("bytes={}", specs.join(","))
}

#[test]
fn more_than_32_ranges_left_are_the_whole() {
    assert!(matches!(judged(&every_third_byte(32), 1000), Ranges::Several(r) if r.len() == 32));
    assert_eq!(judged(&every_third_byte(33), 1000), Ranges::Whole);
    // Counted after joining: 40 asked, one left.
    let touching: Vec<String> = (0..40).map(|n| format!("{n}-{n}")).collect();
    assert_eq!(
        judged(&format!("bytes={}", touching.join(",")), 1000),
        one(0, 39)
    );
}

#[test]
fn ten_thousand_ranges_come_to_one_or_the_whole() {
    assert_eq!(judged(&every_third_byte(10_000), 1 << 20), Ranges::Whole);
    let touching: Vec<String> = (0..10_000).rev().map(|n| format!("{n}-{n}")).collect();
    assert_eq!(
        judged(&format!("bytes={}", touching.join(",")), 1 << 20),
        one(0, 9_999)
    );
    assert_eq!(
        judged(&format!("bytes={}0-0", ",".repeat(10_000)), 1 << 20),
        one(0, 0)
    );
}

#[test]
fn hint_is_the_first_range_asked() {
    for (text, expected) in [
        (
            "bytes=5-9",
            Hint::From {
                first: 5,
                last: Some(9),
            },
        ),
        (
            "bytes=5-",
            Hint::From {
                first: 5,
                last: None,
            },
        ),
        (
            "bytes=50-60,0-1",
            Hint::From {
                first: 50,
                last: Some(60),
            },
        ),
        (
            "bytes=50-60,-1",
            Hint::From {
                first: 50,
                last: Some(60),
            },
        ),
        (
            "bytes=,, 7-8",
            Hint::From {
                first: 7,
                last: Some(8),
            },
        ),
        ("bytes=-1,50-60", Hint::Suffix),
        ("bytes=-0", Hint::Suffix),
        (
            "bytes=99999999999999999999-",
            Hint::From {
                first: u64::MAX,
                last: None,
            },
        ),
    ] {
        assert_eq!(first_hint(Some(&value(text))), expected, "{text:?}");
    }
}

/// Every set of up to three small ranges over a small object, against the plainest possible reading:
/// the bytes that come back are the bytes that were asked for, each once.
#[test]
fn ranges_cover_exactly_the_bytes_asked_for() {
    const SIZE: u64 = 5;
    let mut specs: Vec<String> = (0..=SIZE).map(|n| format!("-{n}")).collect();
    for first in 0..=SIZE {
        specs.push(format!("{first}-"));
        specs.extend((first..=SIZE).map(|last| format!("{first}-{last}")));
    }
    for a in &specs {
        for b in &specs {
            for c in &specs {
                let ranges = match judged(&format!("bytes={a},{b},{c}"), SIZE) {
                    Ranges::Whole => panic!("{a},{b},{c} was ignored"),
                    Ranges::One(range) => vec![range],
                    Ranges::Several(ranges) => ranges,
                    Ranges::Unsatisfiable => vec![],
                };
                let mut given: Vec<u64> = ranges.iter().flat_map(|r| r.first..=r.last).collect();
                let length: u64 = ranges.iter().map(ByteRange::len).sum();
                assert_eq!(length, given.len() as u64);
                given.sort_unstable();
                let asked: Vec<u64> = (0..SIZE)
                    .filter(|byte| [a, b, c].iter().any(|spec| names_byte(spec, *byte, SIZE)))
                    .collect();
                assert_eq!(given, asked, "bytes={a},{b},{c}");
            }
        }
    }
}

fn names_byte(spec: &str, byte: u64, size: u64) -> bool {
    let (first, last) = spec.split_once('-').unwrap();
    if first.is_empty() {
        return byte + last.parse::<u64>().unwrap() >= size;
    }
    byte >= first.parse().unwrap() && (last.is_empty() || byte <= last.parse().unwrap())
}
