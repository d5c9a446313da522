//! Conditional requests, as tables.
#![allow(clippy::unwrap_used)]

use super::*;

const PROCEED: Verdict = Verdict::Proceed { range: true };
const WITHOUT_RANGE: Verdict = Verdict::Proceed { range: false };

const EARLIER: &str = "Sun, 06 Nov 1994 08:49:36 GMT";
const MODIFIED: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
const LATER: &str = "Sun, 06 Nov 1994 08:49:38 GMT";

fn at(date: &str) -> SystemTime {
    httpdate::parse_http_date(date).unwrap()
}

fn headers(lines: &[(&str, &str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in lines {
        let name: HeaderName = name.parse().unwrap();
        map.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    map
}

/// The version `"a"`, modified within the second `MODIFIED`; asked a day later.
fn verdict_for(etag: Option<&str>, lines: &[(&str, &str)]) -> Verdict {
    let modified = at(MODIFIED) + Duration::from_millis(400);
    let current = Current {
        etag,
        last_modified: Some(modified),
    };
    let now = at(MODIFIED) + Duration::from_secs(86_400);
    judge(&Method::GET, &headers(lines), &current, now)
}

fn verdict(lines: &[(&str, &str)]) -> Verdict {
    verdict_for(Some("\"a\""), lines)
}

#[test]
fn if_match_compares_strongly() {
    let failed = Verdict::PreconditionFailed;
    for (current, asked, expected) in [
        ("\"a\"", "\"a\"", PROCEED),
        ("\"a\"", "a", PROCEED),
        ("a", "\"a\"", PROCEED),
        ("\"a\"", "*", PROCEED),
        ("W/\"a\"", "*", PROCEED),
        ("\"a\"", "\"b\", \"a\"", PROCEED),
        ("\"a\"", "\"b\",,\t\"a\" ,", PROCEED),
        ("\"a\"", "b , a ", PROCEED),
        ("\"a,b\"", "\"x\", \"a,b\"", PROCEED),
        ("\"\"", "\"\"", PROCEED),
        ("\"a\"", "\"b\"", failed),
        ("\"a\"", "\"A\"", failed),
        ("\"a\"", "\"\"", failed),
        ("\"a\"", "", failed),
        ("\"a\"", "\"*\"", failed),
        ("\"a\"", "\"a", failed),
        ("\"a\"", "W/\"a\"", failed),
        ("W/\"a\"", "\"a\"", failed),
        ("W/\"a\"", "W/\"a\"", failed),
        ("\"a,b\"", "a,b", failed),
    ] {
        assert_eq!(
            verdict_for(Some(current), &[("if-match", asked)]),
            expected,
            "{asked} for {current}"
        );
    }
}

#[test]
fn if_none_match_compares_weakly() {
    for (current, asked, expected) in [
        ("\"a\"", "\"a\"", Verdict::NotModified),
        ("\"a\"", "a", Verdict::NotModified),
        ("\"a\"", "W/\"a\"", Verdict::NotModified),
        ("W/\"a\"", "\"a\"", Verdict::NotModified),
        ("W/\"a\"", "W/\"a\"", Verdict::NotModified),
        ("\"a\"", "*", Verdict::NotModified),
        ("\"a\"", "\"b\", W/\"a\"", Verdict::NotModified),
        ("\"a\"", "\"b\"", PROCEED),
        ("\"a\"", "\"*\"", PROCEED),
        ("\"a\"", "", PROCEED),
    ] {
        assert_eq!(
            verdict_for(Some(current), &[("if-none-match", asked)]),
            expected,
            "{asked} for {current}"
        );
    }
}

#[test]
fn lists_go_on_over_several_lines() {
    assert_eq!(
        verdict(&[("if-match", "\"b\""), ("if-match", "\"a\"")]),
        PROCEED
    );
    let lines = [
        ("if-none-match", "\"b\""),
        ("if-none-match", "\"c\", \"a\""),
    ];
    assert_eq!(verdict(&lines), Verdict::NotModified);
}

#[test]
fn no_tag_at_all_matches_only_the_star() {
    assert_eq!(
        verdict_for(None, &[("if-match", "\"a\"")]),
        Verdict::PreconditionFailed
    );
    assert_eq!(verdict_for(None, &[("if-match", "*")]), PROCEED);
    assert_eq!(verdict_for(None, &[("if-none-match", "\"a\"")]), PROCEED);
    assert_eq!(
        verdict_for(None, &[("if-none-match", "*")]),
        Verdict::NotModified
    );
    let ranged = [("range", "bytes=0-1"), ("if-range", "\"a\"")];
    assert_eq!(verdict_for(None, &ranged), WITHOUT_RANGE);
}

#[test]
fn dates_compare_in_whole_seconds() {
    let failed = Verdict::PreconditionFailed;
    for (name, date, expected) in [
        ("if-unmodified-since", EARLIER, failed),
        ("if-unmodified-since", MODIFIED, PROCEED),
        ("if-unmodified-since", LATER, PROCEED),
        ("if-modified-since", EARLIER, PROCEED),
        ("if-modified-since", MODIFIED, Verdict::NotModified),
        ("if-modified-since", LATER, Verdict::NotModified),
        // The two obsolete forms (RFC 9110 §5.6.7).
        (
            "if-modified-since",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            Verdict::NotModified,
        ),
        (
            "if-modified-since",
            "Sun Nov  6 08:49:37 1994",
            Verdict::NotModified,
        ),
        ("if-unmodified-since", "yesterday", PROCEED),
        ("if-unmodified-since", "", PROCEED),
        ("if-modified-since", "yesterday", PROCEED),
        ("if-modified-since", "784111777", PROCEED),
    ] {
        assert_eq!(verdict(&[(name, date)]), expected, "{name}: {date}");
    }
}

#[test]
fn dates_on_several_lines_are_ignored() {
    let unmodified = [
        ("if-unmodified-since", EARLIER),
        ("if-unmodified-since", EARLIER),
    ];
    assert_eq!(verdict(&unmodified), PROCEED);
    let modified = [("if-modified-since", LATER), ("if-modified-since", LATER)];
    assert_eq!(verdict(&modified), PROCEED);
}

#[test]
fn dates_without_last_modified_are_ignored() {
    let current = Current {
        etag: Some("\"a\""),
        last_modified: None,
    };
    for name in ["if-unmodified-since", "if-modified-since"] {
        for date in [EARLIER, LATER] {
            let headers = headers(&[(name, date)]);
            assert_eq!(
                judge(&Method::GET, &headers, &current, at(LATER)),
                PROCEED,
                "{name}"
            );
        }
    }
}

#[test]
fn tags_win_over_dates_and_match_over_none_match() {
    let failed = Verdict::PreconditionFailed;
    for (lines, expected) in [
        (
            vec![("if-match", "\"a\""), ("if-unmodified-since", EARLIER)],
            PROCEED,
        ),
        (
            vec![("if-match", "\"b\""), ("if-unmodified-since", LATER)],
            failed,
        ),
        (
            vec![("if-none-match", "\"b\""), ("if-modified-since", LATER)],
            PROCEED,
        ),
        (
            vec![("if-none-match", "\"a\""), ("if-modified-since", EARLIER)],
            Verdict::NotModified,
        ),
        (
            vec![("if-match", "\"b\""), ("if-none-match", "\"a\"")],
            failed,
        ),
        (
            vec![("if-match", "\"a\""), ("if-none-match", "\"a\"")],
            Verdict::NotModified,
        ),
        (
            vec![("if-match", "\"a\""), ("if-modified-since", LATER)],
            Verdict::NotModified,
        ),
        (
            vec![("if-unmodified-since", EARLIER), ("if-none-match", "\"a\"")],
            failed,
        ),
        (
            vec![("if-unmodified-since", LATER), ("if-none-match", "\"a\"")],
            Verdict::NotModified,
        ),
        // Steps 3 and 4 come before If-Range.
        (
            vec![
                ("range", "bytes=0-1"),
                ("if-range", "\"b\""),
                ("if-none-match", "\"a\""),
            ],
            Verdict::NotModified,
        ),
        (
            vec![
                ("range", "bytes=0-1"),
                ("if-range", "\"b\""),
                ("if-match", "\"a\""),
            ],
            WITHOUT_RANGE,
        ),
    ] {
        assert_eq!(verdict(&lines), expected, "{lines:?}");
    }
}

#[test]
fn the_header_that_fails_is_named() {
    let current = Current {
        etag: Some("\"a\""),
        last_modified: Some(at(MODIFIED)),
    };
    for (lines, expected) in [
        (
            vec![("if-match", "\"b\""), ("if-none-match", "\"a\"")],
            Some(IF_MATCH),
        ),
        (
            vec![("if-unmodified-since", EARLIER)],
            Some(IF_UNMODIFIED_SINCE),
        ),
        (vec![("if-none-match", "\"a\"")], Some(IF_NONE_MATCH)),
        (
            vec![("if-modified-since", MODIFIED)],
            Some(IF_MODIFIED_SINCE),
        ),
        (vec![("if-match", "\"a\"")], None),
    ] {
        assert_eq!(
            first_failure(&Method::GET, &headers(&lines), &current),
            expected,
            "{lines:?}"
        );
    }
}

#[test]
fn head_is_judged_as_get_and_other_methods_get_no_304() {
    let current = Current {
        etag: Some("\"a\""),
        last_modified: Some(at(MODIFIED)),
    };
    let now = at(LATER);
    let matched = headers(&[("if-none-match", "\"a\"")]);
    assert_eq!(
        judge(&Method::HEAD, &matched, &current, now),
        Verdict::NotModified
    );
    assert_eq!(
        judge(&Method::PUT, &matched, &current, now),
        Verdict::PreconditionFailed
    );
    let dated = headers(&[("if-modified-since", LATER)]);
    assert_eq!(
        judge(&Method::HEAD, &dated, &current, now),
        Verdict::NotModified
    );
    assert_eq!(judge(&Method::PUT, &dated, &current, now), PROCEED);
}

#[test]
fn if_range_is_strong_only() {
    for (current, asked, expected) in [
        ("\"a\"", "\"a\"", PROCEED),
        ("\"a\"", "a", PROCEED),
        ("\"a\"", "\"b\"", WITHOUT_RANGE),
        ("\"a\"", "W/\"a\"", WITHOUT_RANGE),
        ("W/\"a\"", "\"a\"", WITHOUT_RANGE),
        ("W/\"a\"", "W/\"a\"", WITHOUT_RANGE),
        ("\"a\"", "*", WITHOUT_RANGE),
        ("\"a\"", "", WITHOUT_RANGE),
        ("\"a\"", "\"a\", \"b\"", WITHOUT_RANGE),
        ("\"a\"", MODIFIED, PROCEED),
        ("\"a\"", EARLIER, WITHOUT_RANGE),
        ("\"a\"", LATER, WITHOUT_RANGE),
        ("\"a\"", "Sun, 06 Nov 1994", WITHOUT_RANGE),
    ] {
        let lines = [("range", "bytes=0-1"), ("if-range", asked)];
        assert_eq!(
            verdict_for(Some(current), &lines),
            expected,
            "{asked} for {current}"
        );
    }
    let twice = [
        ("range", "bytes=0-1"),
        ("if-range", "\"a\""),
        ("if-range", "\"a\""),
    ];
    assert_eq!(verdict(&twice), WITHOUT_RANGE);
}

#[test]
fn if_range_without_range_is_ignored() {
    assert_eq!(verdict(&[("if-range", "\"b\"")]), PROCEED);
}

#[test]
fn if_range_date_must_be_a_second_old() {
    let current = Current {
        etag: None,
        last_modified: Some(at(MODIFIED)),
    };
    let headers = headers(&[("range", "bytes=0-1"), ("if-range", MODIFIED)]);
    let judged = |now| judge(&Method::GET, &headers, &current, now);
    assert_eq!(
        judged(at(MODIFIED) + Duration::from_millis(999)),
        WITHOUT_RANGE
    );
    assert_eq!(judged(at(LATER)), PROCEED);
    assert_eq!(judged(at(EARLIER)), WITHOUT_RANGE);
}

#[test]
fn times_before_1970_are_no_dates() {
    let before = UNIX_EPOCH - Duration::from_secs(5);
    let current = Current {
        etag: None,
        last_modified: Some(before),
    };
    let headers = headers(&[("if-modified-since", LATER)]);
    assert_eq!(judge(&Method::GET, &headers, &current, at(LATER)), PROCEED);
}

#[test]
fn another_version_is_one_whose_tag_is_not_ours() {
    let current = Current {
        etag: Some("\"a\""),
        last_modified: Some(at(MODIFIED)),
    };
    for (lines, expected) in [
        (vec![], false),
        (vec![("if-match", "\"a\"")], false),
        (vec![("if-match", "a")], false),
        (vec![("if-match", "*")], false),
        (vec![("if-match", "W/\"a\"")], false),
        (vec![("if-match", "\"b\", \"a\"")], false),
        (vec![("if-match", "\"b\"")], true),
        (vec![("if-match", "b")], true),
        (vec![("if-match", "\"b\""), ("if-match", "\"a\"")], false),
        (vec![("if-range", "\"a\"")], false),
        (vec![("if-range", "\"b\"")], true),
        (vec![("if-range", LATER)], false),
        (vec![("if-match", "\"a\""), ("if-range", "\"b\"")], true),
        (vec![("if-none-match", "\"b\"")], false),
    ] {
        assert_eq!(
            names_another_version(&headers(&lines), &current),
            expected,
            "{lines:?}"
        );
    }
    let untagged = Current::default();
    assert!(names_another_version(
        &headers(&[("if-match", "\"b\"")]),
        &untagged
    ));
    assert!(!names_another_version(
        &headers(&[("if-match", "*")]),
        &untagged
    ));
}
