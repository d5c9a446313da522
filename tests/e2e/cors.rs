//! `cors`: what pages in browsers are told.

use forebay_tests::cluster::{Dataset, Gateway, Setup};
use forebay_tests::http::Answer;
use forebay_tests::scratch::Scratch;

use crate::stage::{appears, directory, rewrite};

const OURS: &str = "https://app.example.com";
const VARY: &str = "Origin, Access-Control-Request-Headers, Access-Control-Request-Method";

fn start() -> (Scratch, String, Gateway) {
    let (files, path) = directory();
    let dataset = |name: &str| Dataset::new(name, path.as_str());
    let gateway = Setup::of([
        dataset("some").line("cors = [\"https://app.example.com\", \"http://*.local:8080\"]"),
        dataset("all").line("cors = [\"*\"]"),
        dataset("none"),
    ]);
    (files, path.clone(), gateway.start())
}

fn preflight(gateway: &Gateway, target: &str, origin: &str, method: &str) -> Answer {
    let fields = [
        ("Origin", origin),
        ("Access-Control-Request-Method", method),
        ("Access-Control-Request-Headers", "range, x-amz-date"),
    ];
    gateway.request("OPTIONS", target, &fields)
}

fn allowed(answer: &Answer) -> Option<&str> {
    answer.header("access-control-allow-origin")
}

#[test]
fn preflights_are_answered_by_the_rules() {
    let (_files, _path, gateway) = start();
    for (target, origin, method, said) in [
        ("/some/a.bin", OURS, "GET", Some(OURS)),
        ("/some/a.bin", OURS, "HEAD", Some(OURS)),
        ("/some/a.bin", OURS, "PUT", None),
        ("/some/a.bin", "https://evil.example.com", "GET", None),
        ("/some/a.bin", "https://app.example.com.evil", "GET", None),
        ("/some/a.bin", "null", "GET", None),
        (
            "/some/a.bin",
            "http://x.local:8080",
            "GET",
            Some("http://x.local:8080"),
        ),
        ("/some?list-type=2", OURS, "GET", Some(OURS)),
        ("/some/no-such-key", OURS, "GET", Some(OURS)),
        ("/all/a.bin", "https://anyone.example", "GET", Some("*")),
        ("/all/a.bin", "null", "GET", Some("*")),
        ("/none/a.bin", OURS, "GET", None),
        ("/nowhere/a.bin", OURS, "GET", None),
        ("/", OURS, "GET", None),
    ] {
        let answer = preflight(&gateway, target, origin, method);
        let case = format!("{method} {target} from {origin}: {:?}", answer.headers);
        if said.is_none() {
            let answer = answer.expect(403);
            assert_eq!(
                answer.xml("Code").as_deref(),
                Some("AccessForbidden"),
                "{case}"
            );
            assert!(
                answer
                    .xml("Message")
                    .is_some_and(|text| text.starts_with("CORSResponse:"))
            );
            continue;
        }
        let answer = answer.expect(200);
        assert_eq!(allowed(&answer), said, "{case}");
        assert_eq!(answer.need("access-control-allow-methods"), "GET, HEAD");
        assert_eq!(
            answer.need("access-control-allow-headers"),
            "range, x-amz-date"
        );
        assert_eq!(answer.need("access-control-max-age"), "3000");
        assert_eq!(answer.need("content-length"), "0");
        assert_eq!(answer.need("vary"), VARY);
        let credentials = answer.header("access-control-allow-credentials");
        assert_eq!(credentials.is_some(), said != Some("*"), "{case}");
    }
}

#[test]
fn a_preflight_tells_nobody_which_datasets_there_are() {
    let (_files, _path, gateway) = start();
    let text = |target: &str, part: &str| {
        let answer = preflight(&gateway, target, OURS, "GET").expect(403);
        (
            answer.xml("Code"),
            answer.xml("Message"),
            answer.text().contains(part),
        )
    };
    assert_eq!(
        text("/none/a.bin", "none"),
        text("/nowhere/a.bin", "nowhere")
    );
}

#[test]
fn a_preflight_that_lacks_a_field_is_a_bad_request() {
    let (_files, _path, gateway) = start();
    for fields in [&[][..], &[("Origin", OURS)]] {
        let answer = gateway
            .request("OPTIONS", "/some/a.bin", fields)
            .expect(400);
        assert_eq!(answer.xml("Code").as_deref(), Some("BadRequest"));
    }
}

#[test]
fn answers_good_and_bad_say_what_a_page_may_see() {
    let (_files, _path, gateway) = start();
    let exposed = |answer: &Answer| {
        let names = answer.need("access-control-expose-headers").to_owned();
        for name in [
            "ETag",
            "Content-Range",
            "Accept-Ranges",
            "Content-Length",
            "x-amz-request-id",
        ] {
            assert!(
                names.split(", ").any(|found| found == name),
                "{name} in {names}"
            );
        }
    };
    for (method, target, range, status) in [
        ("GET", "/some/a.bin", "bytes=0-9", 206),
        ("GET", "/some/a.bin", "bytes=9999-", 416),
        ("HEAD", "/some/a.bin", "", 200),
        ("GET", "/some/b.bin", "", 404),
        ("GET", "/some?list-type=2", "", 200),
        ("PUT", "/some/a.bin", "", 405),
    ] {
        let mut fields = vec![("Origin", OURS)];
        if !range.is_empty() {
            fields.push(("Range", range));
        }
        let answer = gateway.request(method, target, &fields);
        let answer = answer.expect(status);
        assert_eq!(allowed(&answer), Some(OURS), "{method} {target}");
        assert_eq!(answer.need("access-control-allow-credentials"), "true");
        assert_eq!(answer.need("vary"), VARY);
        exposed(&answer);
    }
    let all = gateway
        .request("GET", "/all/a.bin", &[("Origin", OURS)])
        .expect(200);
    assert_eq!(allowed(&all), Some("*"));
    assert!(all.header("access-control-allow-credentials").is_none());
    exposed(&all);
}

#[test]
fn whoever_no_rule_is_for_is_served_and_told_nothing() {
    let (_files, _path, gateway) = start();
    for (target, fields, varies) in [
        ("/some/a.bin", vec![], true),
        (
            "/some/a.bin",
            vec![("Origin", "https://evil.example")],
            true,
        ),
        ("/none/a.bin", vec![("Origin", OURS)], false),
        ("/-/healthz", vec![("Origin", OURS)], false),
    ] {
        let answer = gateway.request("GET", target, &fields).expect(200);
        assert_eq!(allowed(&answer), None, "{target} {fields:?}");
        let vary = answer
            .header("vary")
            .is_some_and(|text| text.contains("Origin"));
        assert_eq!(vary, varies, "{target} {fields:?}");
    }
}

#[test]
fn rules_are_reloaded_with_their_datasets() {
    let (_files, path, gateway) = start();
    let answer = preflight(&gateway, "/none/a.bin", OURS, "GET");
    let _ = answer.expect(403);
    let none = Dataset::new("none", path.as_str()).line("cors = [\"*\"]");
    rewrite(
        &gateway,
        &Setup::of([none, Dataset::new("new", path.as_str())]),
    );
    appears(&gateway, "/new/a.bin", 200);
    let answer = preflight(&gateway, "/none/a.bin", OURS, "GET").expect(200);
    assert_eq!(allowed(&answer), Some("*"));
}
