//! The verifier against what AWS publishes and against AWS's own signer.

#![allow(clippy::unwrap_used)]

mod forms;
mod oracle;
mod vectors;

use http::{Method, Request};

use super::*;
use crate::access::Caller;
use crate::access::sign::{Signer, Unsigned};
use crate::access::{Access, Payload};
use crate::settings::{AccessSettings, Secret};

const ID: &str = "AKIAIOSFODNN7EXAMPLE";
const SECRET: &str = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";
const HOST: &str = "examplebucket.s3.amazonaws.com";

/// The time of S3's examples: 2013-05-24 00:00:00 UTC.
fn then() -> SystemTime {
    parse_amz_date("20130524T000000Z").unwrap()
}

fn access(hosts: &[&str]) -> Access {
    let key = AccessSettings {
        access_key_id: ID.into(),
        secret_access_key: Secret::new(SECRET),
        datasets: None,
        admin: false,
    };
    let hosts: Vec<_> = hosts.iter().map(ToString::to_string).collect();
    Access::new(&[key], None, &hosts)
}

fn request(method: &str, target: &str, headers: &[(&str, &str)]) -> Parts {
    let mut request = Request::builder().method(method).uri(target);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

fn judge_by(access: &Access, parts: &Parts, now: SystemTime) -> Result<Caller, Refusal> {
    let query = Query::parse(parts.uri.query().unwrap_or_default()).unwrap();
    access.caller(parts, &query, None, None, || now)
}

fn judge(parts: &Parts, now: SystemTime) -> Result<Caller, Refusal> {
    judge_by(&access(&[]), parts, now)
}

/// The code of a refusal, and its reason.
fn refused(judged: Result<Caller, Refusal>) -> (&'static str, &'static str) {
    let refusal = judged.unwrap_err();
    (refusal.error.code.as_str(), refusal.reason)
}

/// A GET of `/test.txt` in the example bucket, signed then.
fn signed() -> Vec<(String, String)> {
    let unsigned = Unsigned {
        method: "GET",
        host: HOST,
        path: "/test.txt",
        query: "",
    };
    let headers = Signer::new(ID, SECRET).headers(&unsigned, EMPTY_PAYLOAD, then());
    let headers = headers.map(|(name, value)| (name.to_owned(), value));
    [vec![("host".to_owned(), HOST.to_owned())], headers.to_vec()].concat()
}

fn with(headers: &[(String, String)], name: &str, value: &str) -> Parts {
    let mut parts = request("GET", "/test.txt", &[]);
    for (name, value) in headers {
        let name: HeaderName = name.parse().unwrap();
        parts.headers.insert(name, value.parse().unwrap());
    }
    if !name.is_empty() {
        let name: HeaderName = name.parse().unwrap();
        parts.headers.insert(name, value.parse().unwrap());
    }
    parts
}

#[test]
fn the_published_suite_has_our_canonical_forms() {
    for vector in vectors::VECTORS {
        let target = if vector.target.is_empty() {
            "/"
        } else {
            vector.target
        };
        let parts = request(vector.method, target, vector.headers);
        let canonical = Canonical {
            method: vector.method,
            path: parts.uri.path(),
            query: &query(parts.uri.query().unwrap_or_default()),
            signed_headers: vector.signed_headers,
            payload: vector.payload,
        };
        let hash = canonical.hash(|header, text| append(header, None, &parts, text));
        assert_eq!(hash, vector.hash, "{}", vector.name);
    }
    assert!(vectors::VECTORS.len() >= 20);
}

/// Method, target, headers, which of them are signed, and the signature.
type Example = (
    &'static str,
    &'static str,
    &'static [(&'static str, &'static str)],
    &'static str,
    &'static str,
);

#[test]
fn s3s_examples_of_signed_requests_are_good() {
    const DATE: (&str, &str) = ("x-amz-date", "20130524T000000Z");
    const EMPTY: (&str, &str) = ("x-amz-content-sha256", EMPTY_PAYLOAD);
    const PUT: &str = "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072";
    let examples: [Example; 4] = [
        (
            "GET",
            "/test.txt",
            &[("range", "bytes=0-9"), EMPTY, DATE],
            "host;range;x-amz-content-sha256;x-amz-date",
            "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
        ),
        (
            "PUT",
            "/test%24file.text",
            &[
                ("date", "Fri, 24 May 2013 00:00:00 GMT"),
                ("x-amz-content-sha256", PUT),
                DATE,
                ("x-amz-storage-class", "REDUCED_REDUNDANCY"),
            ],
            "date;host;x-amz-content-sha256;x-amz-date;x-amz-storage-class",
            "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd",
        ),
        (
            "GET",
            "/?lifecycle",
            &[EMPTY, DATE],
            "host;x-amz-content-sha256;x-amz-date",
            "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543",
        ),
        (
            "GET",
            "/?max-keys=2&prefix=J",
            &[EMPTY, DATE],
            "host;x-amz-content-sha256;x-amz-date",
            "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
        ),
    ];
    for (method, target, headers, signed_headers, signature) in examples {
        let mut parts = request(method, target, headers);
        parts.headers.insert("host", HOST.parse().unwrap());
        let authorization = format!(
            "AWS4-HMAC-SHA256 Credential={ID}/20130524/us-east-1/s3/aws4_request,\
             SignedHeaders={signed_headers},Signature={signature}"
        );
        let value = authorization.parse().unwrap();
        parts.headers.insert("authorization", value);
        assert!(judge(&parts, then()).is_ok(), "{method} {target}");
        let other = request(method, "/other", &[]);
        parts.uri = other.uri;
        assert_eq!(refused(judge(&parts, then())).1, "bad_signature");
    }
}

const PRESIGNED: &str = "/test.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256\
    &X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request\
    &X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host\
    &X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404";

#[test]
fn s3s_example_of_a_presigned_url_is_good_until_it_expires() {
    let parts = request("GET", PRESIGNED, &[("host", HOST)]);
    let seconds = |seconds: u64| then() + Duration::from_secs(seconds);
    assert!(judge(&parts, then()).is_ok());
    assert!(judge(&parts, seconds(86_400)).is_ok());
    let late = judge(&parts, seconds(86_401)).unwrap_err();
    assert_eq!(late.error.code.as_str(), "AccessDenied");
    assert_eq!(late.error.message, "Request has expired");
    assert_eq!(late.reason, "expired");
    let early = then() - Duration::from_secs(15 * 60);
    assert!(judge(&parts, early).is_ok());
    let early = early - Duration::from_secs(1);
    assert_eq!(refused(judge(&parts, early)), ("AccessDenied", "skewed"));
    let head = request("HEAD", PRESIGNED, &[("host", HOST)]);
    assert_eq!(refused(judge(&head, then())).1, "bad_signature");
}

#[test]
fn parameters_of_presigned_urls_are_judged_as_s3_does() {
    let none = ("X-Amz-Expires=86400&", "");
    let wrong = "AuthorizationQueryParametersError";
    for ((old, new), code, part) in [
        (none, wrong, "requires the X-Amz-Algorithm"),
        (("=AWS4-HMAC", "=AWS4-ECDSA"), wrong, "only supports"),
        (("=86400", "=604801"), wrong, "less than a week"),
        (("=86400", "=-1"), wrong, "non-negative"),
        (("=86400", "=1e3"), wrong, "should be a number"),
        (
            ("=86400", "=99999999999999999999999"),
            wrong,
            "less than a week",
        ),
        (("20130524T000000Z", "2013-05-24"), wrong, "ISO8601 Long"),
        (
            ("%2F20130524%2F", "%2F20130525%2F"),
            wrong,
            "credential date",
        ),
        (("%2Fs3%2F", "%2Fec2%2F"), wrong, "incorrect service"),
        (("aws4_request", "aws4"), wrong, "incorrect terminal"),
        (("%2F20130524", ""), wrong, "mal-formed"),
        (("=host", "=Host"), wrong, "lower case"),
        (("=host", "=host%0Ax"), wrong, "lower case"),
        (("=host", "="), wrong, "lower case"),
        (("=host", "=range"), "AccessDenied", "were not signed"),
        (
            ("AKIAIOSFODNN7EXAMPLE", "AKIAOTHER"),
            "InvalidAccessKeyId",
            "exist",
        ),
        (("=aeee", "=beee"), "SignatureDoesNotMatch", "signature"),
        (("=aeee", "="), "SignatureDoesNotMatch", "signature"),
        (("=86400", "=86401"), "SignatureDoesNotMatch", "signature"),
        (
            ("us-east-1", "eu-west-1"),
            "SignatureDoesNotMatch",
            "signature",
        ),
    ] {
        assert!(PRESIGNED.contains(old), "{old}");
        let parts = request("GET", &PRESIGNED.replacen(old, new, 1), &[("host", HOST)]);
        let refusal = judge(&parts, then()).unwrap_err();
        assert_eq!(refusal.error.code.as_str(), code, "{old} → {new}");
        let message = refusal.error.message;
        assert!(message.contains(part), "{old} → {new}: {message}");
    }
}

#[test]
fn a_presigned_url_of_seven_days_is_good() {
    let unsigned = Unsigned {
        method: "GET",
        host: HOST,
        path: "/a%20b",
        query: "response-content-type=text%2Fplain",
    };
    let week = Duration::from_secs(MAX_EXPIRES);
    let query = Signer::new(ID, SECRET).presign(&unsigned, then(), week);
    let parts = request("GET", &format!("/a%20b?{query}"), &[("host", HOST)]);
    assert!(judge(&parts, then() + week).is_ok());
    let token = ("x-amz-security-token", "token");
    let parts = request("GET", &format!("/a%20b?{query}"), &[("host", HOST), token]);
    let unsigned = refused(judge(&parts, then()));
    assert_eq!(unsigned, ("AccessDenied", "not_signed"));
}

#[test]
fn clocks_may_differ_by_fifteen_minutes_either_way() {
    let parts = with(&signed(), "", "");
    for seconds in [0, 899, 900] {
        let apart = Duration::from_secs(seconds);
        assert!(judge(&parts, then() + apart).is_ok(), "{seconds}");
        assert!(judge(&parts, then() - apart).is_ok(), "{seconds}");
    }
    let apart = Duration::from_secs(901);
    for now in [then() + apart, then() - apart] {
        let found = refused(judge(&parts, now));
        assert_eq!(found, ("RequestTimeTooSkewed", "skewed"));
    }
}

#[test]
fn every_amz_header_and_the_host_have_to_be_signed() {
    let good = signed();
    for name in [
        "x-amz-security-token",
        "x-amz-meta-a",
        "x-amz-expected-bucket-owner",
    ] {
        let judged = judge(&with(&good, name, "x"), then());
        assert_eq!(refused(judged), ("AccessDenied", "not_signed"), "{name}");
    }
    for name in [
        "range",
        "accept-encoding",
        "amz-sdk-request",
        "x-amzn-trace-id",
    ] {
        let judged = judge(&with(&good, name, "x"), then());
        assert!(judged.is_ok(), "{name}");
    }
    let authorization = &good[3].1;
    for (old, new) in [
        ("host;", ""),
        (";x-amz-content-sha256", ""),
        (";x-amz-date", ""),
    ] {
        let less = authorization.replace(old, new);
        let judged = judge(&with(&good, "authorization", &less), then());
        assert_eq!(refused(judged), ("AccessDenied", "not_signed"), "{old}");
    }
}

#[test]
fn authorization_headers_are_judged_as_s3_does() {
    let good = signed();
    let authorization = good[3].1.as_str();
    let malformed = "AuthorizationHeaderMalformed";
    for (value, code) in [
        ("AWS4-HMAC-SHA256", malformed),
        ("AWS4-HMAC-SHA256 Credential=a", malformed),
        (&authorization.replace("/s3/", "/ec2/"), malformed),
        (&authorization.replace("20130524/", "20130525/"), malformed),
        (&authorization.replace("/aws4_request", ""), malformed),
        (&authorization.replace("host;", "Host;"), malformed),
        (&authorization.replace(ID, ""), malformed),
        (&authorization.replace(ID, "OTHER"), "InvalidAccessKeyId"),
        (
            &authorization.replace("us-east-1", "eu-1"),
            "SignatureDoesNotMatch",
        ),
        (
            &authorization[..authorization.len() - 1],
            "SignatureDoesNotMatch",
        ),
        (
            &authorization.to_uppercase().replace("AWS4", "AWS5"),
            "InvalidArgument",
        ),
        ("AWS AKID:c2lnbmF0dXJl", "InvalidRequest"),
        ("Digest username=x", "InvalidArgument"),
        ("", "InvalidArgument"),
    ] {
        let judged = judge(&with(&good, "authorization", value), then());
        assert_eq!(refused(judged).0, code, "{value}");
    }
    for (name, value, code) in [
        ("x-amz-date", "yesterday", "AccessDenied"),
        ("x-amz-date", "20130525T000000Z", malformed),
        ("x-amz-date", "20130524T000001Z", "SignatureDoesNotMatch"),
        ("x-amz-content-sha256", "none", "InvalidArgument"),
        (
            "x-amz-content-sha256",
            UNSIGNED_PAYLOAD,
            "SignatureDoesNotMatch",
        ),
        ("host", "other.example.com", "SignatureDoesNotMatch"),
    ] {
        let judged = judge(&with(&good, name, value), then());
        assert_eq!(refused(judged).0, code, "{name}: {value}");
    }
}

#[test]
fn two_ways_at_once_and_old_signatures_are_refused() {
    let mut parts = request("GET", PRESIGNED, &[("host", HOST)]);
    parts
        .headers
        .insert("authorization", "Basic YTpi".parse().unwrap());
    assert_eq!(refused(judge(&parts, then())).0, "InvalidArgument");
    let mut parts = with(&signed(), "", "");
    parts
        .headers
        .append("authorization", "Basic YTpi".parse().unwrap());
    assert_eq!(refused(judge(&parts, then())).0, "InvalidArgument");
    let old = "/a?AWSAccessKeyId=a&Signature=b&Expires=1";
    let judged = judge(&request("GET", old, &[]), then());
    assert_eq!(refused(judged), ("InvalidRequest", "unsupported"));
    let judged = judge(&request("GET", "/a", &[]), then());
    assert_eq!(refused(judged).1, "no_credentials");
}

#[test]
fn the_host_may_be_one_that_the_settings_name() {
    let good = signed();
    let rewritten = with(&good, "host", "10.0.0.7:7070");
    let refusal = judge(&rewritten, then()).unwrap_err();
    assert_eq!(refusal.reason, "bad_signature");
    // S3 tells the client what it would have signed, so that the two can be compared.
    let told = |name| {
        let mut details = refusal.error.details.iter();
        details
            .find(|(found, _)| *found == name)
            .map(|(_, text)| text.as_str())
    };
    assert_eq!(told("AWSAccessKeyId"), Some(ID));
    assert!(
        told("StringToSign")
            .unwrap()
            .starts_with("AWS4-HMAC-SHA256\n20130524T000000Z\n")
    );
    let canonical = told("CanonicalRequest").unwrap();
    assert!(canonical.starts_with("GET\n/test.txt\n\nhost:10.0.0.7:7070\n"));
    assert_eq!(told("SignatureProvided").unwrap().len(), 64);
    assert!(
        !format!("{refusal}").contains("host:10.0.0.7"),
        "logs have none of it"
    );
    let named = access(&["gw.example.com:8080", HOST]);
    assert!(judge_by(&named, &rewritten, then()).is_ok());
    assert!(judge_by(&named, &with(&good, "", ""), then()).is_ok());
    let others = access(&["gw.example.com"]);
    assert_eq!(
        refused(judge_by(&others, &rewritten, then())).1,
        "bad_signature"
    );
}
