//! Requests in other forms that are signed all the same.

use super::*;

#[test]
fn an_http2_authority_is_a_host() {
    let mut parts = with(&signed(), "", "");
    parts.headers.remove("host");
    parts.uri = format!("http://{HOST}/test.txt").parse().unwrap();
    assert!(judge(&parts, then()).is_ok());
}

#[test]
fn an_absolute_target_is_signed_by_its_path() {
    let mut parts = with(&signed(), "", "");
    parts.uri = "http://elsewhere:1/test.txt".parse().unwrap();
    assert!(judge(&parts, then()).is_ok());
}

#[test]
fn a_date_header_stands_in_for_amzs() {
    let scope = Scope {
        day: "20130524",
        region: "",
    };
    let canonical = Canonical {
        method: "GET",
        path: "/a",
        query: "",
        signed_headers: "host",
        payload: EMPTY_PAYLOAD,
    };
    let hash = canonical.hash(|_, text| text.extend_from_slice(HOST.as_bytes()));
    let signature = scope.sign(&scope.signing_key(SECRET), "20130524T000000Z", &hash);
    let authorization = format!(
        "AWS4-HMAC-SHA256 Credential={ID}/{}, SignedHeaders=host, Signature={}",
        scope.text(),
        hex(signature.as_ref())
    );
    for (date, good) in [
        ("Fri, 24 May 2013 00:00:00 GMT", true),
        ("20130524T000000Z", true),
        ("Fri, 24 May 2013 00:00:01 GMT", false),
        ("today", false),
    ] {
        let headers = [
            ("host", HOST),
            ("date", date),
            ("authorization", &authorization),
        ];
        let judged = judge(&request("GET", "/a", &headers), then());
        assert_eq!(judged.is_ok(), good, "{date}");
        if let Ok(Caller::Key { signed, .. }) = judged {
            assert_eq!(signed, Some(Payload::None));
        }
    }
}

#[test]
fn a_query_may_be_signed_as_it_came() {
    // What curl 7.88 does: sorted by whoever wrote the URL, and not encoded again.
    let raw = "list-type=2&prefix=a/b";
    let canonical = Canonical {
        method: Method::GET.as_str(),
        path: "/models",
        query: raw,
        signed_headers: "host;x-amz-date",
        payload: EMPTY_PAYLOAD,
    };
    let hash = canonical.hash(|name, text| {
        let value = if name == "host" {
            HOST
        } else {
            "20130524T000000Z"
        };
        text.extend_from_slice(value.as_bytes());
    });
    let scope = Scope {
        day: "20130524",
        region: "us-east-1",
    };
    let signature = scope.sign(&scope.signing_key(SECRET), "20130524T000000Z", &hash);
    let authorization = format!(
        "AWS4-HMAC-SHA256 Credential={ID}/{}, SignedHeaders=host;x-amz-date, Signature={}",
        scope.text(),
        hex(signature.as_ref())
    );
    let headers = [
        ("host", HOST),
        ("x-amz-date", "20130524T000000Z"),
        ("authorization", authorization.as_str()),
    ];
    for (query, good) in [(raw, true), ("list-type=2&prefix=a/c", false)] {
        let parts = request("GET", &format!("/models?{query}"), &headers);
        assert_eq!(judge(&parts, then()).is_ok(), good, "{query}");
    }
}
