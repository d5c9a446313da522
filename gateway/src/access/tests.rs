//! Callers, what they may do, and hosts that name datasets.

#![allow(clippy::unwrap_used)]

use http::Request;

use super::*;
use crate::access::canonical::EMPTY_PAYLOAD;
use crate::settings::Secret;

fn key(id: &str, datasets: Option<&[&str]>, admin: bool) -> AccessSettings {
    AccessSettings {
        access_key_id: id.into(),
        secret_access_key: Secret::new(format!("{id}-secret")),
        datasets: datasets.map(|names| names.iter().map(ToString::to_string).collect()),
        admin,
    }
}

fn access() -> Access {
    let keys = [
        key("ALL", None, false),
        key("ONE", Some(&["models"]), false),
        key("ADMIN", Some(&[]), true),
    ];
    Access::new(&keys, Some("S3.example.com"), &[])
}

fn parts(authorization: Option<&str>, address: &str, tls: bool) -> Parts {
    let mut request = Request::builder().uri("/models/a");
    if let Some(value) = authorization {
        request = request.header("authorization", value);
    }
    let (mut parts, ()) = request.body(()).unwrap().into_parts();
    parts.extensions.insert(Remote {
        address: address.parse().unwrap(),
        controls: true,
        tls,
    });
    parts
}

fn judge(access: &Access, parts: &Parts) -> Result<Caller, Refusal> {
    let remote = parts.extensions.get::<Remote>();
    access.caller(parts, &Query::default(), remote, None, SystemTime::now)
}

fn caller(pair: &str) -> Caller {
    let parts = parts(Some(&format!("Bearer {pair}")), "127.0.0.1:1", false);
    judge(&access(), &parts).unwrap()
}

#[test]
fn without_keys_anyone_may_read_and_this_machine_may_all() {
    let open = Access::open();
    for (address, local) in [
        ("127.0.0.1:1", true),
        ("127.9.9.9:1", true),
        ("[::1]:1", true),
        ("[::ffff:127.0.0.1]:1", true),
        ("10.0.0.7:1", false),
        ("[fe80::1]:1", false),
    ] {
        for authorization in [None, Some("AWS4-HMAC-SHA256 x"), Some("Basic x")] {
            let caller = judge(&open, &parts(authorization, address, false)).unwrap();
            assert!(caller.may_read("models"));
            let judged = caller.judge_admin(&HeaderMap::new(), true);
            assert_eq!(judged.is_ok(), local, "{address}");
        }
    }
}

#[test]
fn a_name_that_a_page_made_up_for_this_machine_is_not_this_machine() {
    let open = Access::new(&[], Some("s3.example.com"), &["gw.example.com".to_owned()]);
    for (host, ours) in [
        ("127.0.0.1:7070", true),
        ("[::1]:7070", true),
        ("localhost:7070", true),
        ("LOCALHOST", true),
        ("a.localhost", true),
        ("gw.example.com:7070", true),
        ("s3.example.com", true),
        ("evil.example", false),
        ("127.0.0.1.evil.example", false),
        ("notlocalhost", false),
        ("nots3.example.com", false),
    ] {
        let mut parts = parts(None, "127.0.0.1:1", false);
        parts.headers.insert("host", host.parse().unwrap());
        assert!(judge(&open, &parts).unwrap().may_read("models"));
        assert_eq!(open.judge_host(&parts).is_ok(), ours, "{host}");
        assert!(access().judge_host(&parts).is_ok(), "keys say it all");
    }
}

#[test]
fn a_name_that_stands_for_the_host_names_what_the_host_names() {
    let then = canonical::parse_amz_date("20130524T000000Z").unwrap();
    for (alias, host, good) in [
        ("gw.example.com", "10.0.0.7:7070", true),
        ("gw.example.com", "models.s3.example.com", false),
        ("models.s3.example.com", "10.0.0.7:7070", false),
        ("models.s3.example.com", "other.s3.example.com", false),
        ("models.s3.example.com:8080", "models.s3.example.com", true),
    ] {
        let access = Access::new(
            &[key("ALL", None, false)],
            Some("S3.example.com"),
            &[alias.to_owned()],
        );
        let unsigned = sign::Unsigned {
            method: "GET",
            host: alias,
            path: "/models/a",
            query: "",
        };
        let signer = sign::Signer::new("ALL", "ALL-secret");
        let mut parts = parts(None, "10.0.0.9:1", false);
        parts.headers.insert("host", host.parse().unwrap());
        for (name, value) in signer.headers(&unsigned, UNSIGNED_PAYLOAD, then) {
            parts.headers.insert(name, value.parse().unwrap());
        }
        let judged = access.caller(&parts, &Query::default(), None, None, || then);
        assert_eq!(judged.is_ok(), good, "{alias} for {host}");
    }
}

#[test]
fn with_keys_nobody_may_anything_without_one_on_loopback_too() {
    for address in ["127.0.0.1:1", "10.0.0.7:1"] {
        let refusal = judge(&access(), &parts(None, address, true)).unwrap_err();
        assert_eq!(refusal.reason, "no_credentials");
    }
}

#[test]
fn secrets_are_taken_where_nobody_else_reads_them() {
    let access = access();
    for value in ["Bearer ALL:ALL-secret", "Basic QUxMOkFMTC1zZWNyZXQ="] {
        for (address, tls, taken) in [
            ("127.0.0.1:1", false, true),
            ("10.0.0.7:1", true, true),
            ("10.0.0.7:1", false, false),
        ] {
            let judged = judge(&access, &parts(Some(value), address, tls));
            match judged {
                Ok(caller) => assert!(taken && caller.key_id().unwrap().as_ref() == "ALL"),
                Err(refusal) => assert_eq!((taken, refusal.reason), (false, "in_clear")),
            }
        }
    }
}

#[test]
fn a_wrong_half_of_a_pair_tells_nothing_of_the_other() {
    let access = access();
    let refusals = ["ALL:wrong", "WHO:ALL-secret", "ALL", ":", "ALL:ALL-secret "].map(|pair| {
        judge(
            &access,
            &parts(Some(&format!("Bearer {pair}x")), "[::1]:1", false),
        )
    });
    for judged in refusals {
        let refusal = judged.unwrap_err();
        assert_eq!(refusal.reason, "wrong_secret");
        assert_eq!(refusal.error, Refusal::wrong_pair().error);
    }
}

#[test]
fn lists_bound_what_a_key_reads_and_admin_is_apart_from_reading() {
    for (pair, models, other, admin) in [
        ("ALL:ALL-secret", true, true, false),
        ("ONE:ONE-secret", true, false, false),
        ("ADMIN:ADMIN-secret", false, false, true),
    ] {
        let caller = caller(pair);
        assert_eq!(caller.may_read("models"), models, "{pair}");
        assert_eq!(caller.may_read("other"), other, "{pair}");
        let judged = caller.judge_admin(&HeaderMap::new(), false);
        assert_eq!(judged.is_ok(), admin, "{pair}");
    }
}

#[test]
fn a_page_of_another_site_is_no_administrator() {
    let caller = caller("ADMIN:ADMIN-secret");
    for (name, value, safe, good) in [
        ("sec-fetch-site", "cross-site", true, false),
        ("sec-fetch-site", "same-origin", true, true),
        ("sec-fetch-site", "none", true, true),
        ("origin", "http://evil.example", false, false),
        ("origin", "http://evil.example", true, true),
    ] {
        let mut headers = HeaderMap::new();
        headers.insert(name, value.parse().unwrap());
        let judged = caller.judge_admin(&headers, safe);
        assert_eq!(judged.is_ok(), good, "{name}: {value}");
    }
}

#[test]
fn only_a_signature_may_choose_the_answers_headers() {
    let query = Query::parse("response-content-type=text/html").unwrap();
    let plain = caller("ALL:ALL-secret");
    assert!(plain.judge_overrides(&Query::default()).is_ok());
    let refusal = plain.judge_overrides(&query).unwrap_err();
    assert_eq!(refusal.error.code.status(), 400);
    assert!(
        Caller::Anyone { local: false }
            .judge_overrides(&query)
            .is_ok()
    );
}

#[test]
fn a_host_below_the_domain_names_a_dataset() {
    let access = access();
    for (host, dataset) in [
        ("models.s3.example.com", Some("models")),
        ("models.S3.Example.com:7070", Some("models")),
        ("Models.s3.example.com.", Some("models")),
        ("a.b.s3.example.com", Some("a.b")),
        ("s3.example.com", None),
        (".s3.example.com", None),
        ("modelss3.example.com", None),
        ("models.s3.example.org", None),
        ("127.0.0.1:7070", None),
        ("[::1]:7070", None),
        ("", None),
    ] {
        let request = Request::builder().uri("/-/x").header("host", host);
        let (parts, ()) = request.body(()).unwrap().into_parts();
        assert_eq!(access.dataset_in_host(&parts).as_deref(), dataset, "{host}");
    }
    let request = Request::builder().uri("http://models.s3.example.com/k");
    let (parts, ()) = request.body(()).unwrap().into_parts();
    assert_eq!(access.dataset_in_host(&parts).as_deref(), Some("models"));
    assert_eq!(Access::open().dataset_in_host(&parts), None);
}

#[test]
fn s3s_clients_are_refused_as_s3_does_and_others_are_asked() {
    let headers = |name: &'static str| {
        let mut headers = HeaderMap::new();
        headers.insert(name, "x".parse().unwrap());
        headers
    };
    for (name, code) in [
        ("x-amz-content-sha256", Code::AccessDenied),
        ("amz-sdk-invocation-id", Code::AccessDenied),
        ("accept", Code::NoCredentials),
    ] {
        assert_eq!(code_without_credentials(&headers(name)), code, "{name}");
    }
    let remote = |address: &str, tls| Remote {
        address: address.parse().unwrap(),
        controls: true,
        tls,
    };
    assert!(challenge(Some(&remote("127.0.0.1:1", false))).starts_with("Basic "));
    assert!(challenge(Some(&remote("10.0.0.7:1", true))).starts_with("Basic "));
    assert_eq!(challenge(Some(&remote("10.0.0.7:1", false))), ALGORITHM);
    assert_eq!(challenge(None), ALGORITHM);
}

#[tokio::test]
async fn a_signed_body_is_the_one_that_was_signed() {
    let caller = |payload| Caller::Key {
        key: Arc::new(Key::new(&key("ALL", None, true))),
        signed: Some(payload),
    };
    let hash = |text: &str| Payload::Hash(sha256_hex(text.as_bytes()));
    for (payload, body, reason) in [
        (hash("a"), "a", None),
        (Payload::Hash(EMPTY_PAYLOAD.into()), "", None),
        (hash("a"), "b", Some("payload")),
        (Payload::Hash(EMPTY_PAYLOAD.into()), "b", Some("payload")),
        (Payload::Unsigned, "b", None),
        (Payload::None, "", None),
        (Payload::None, "b", Some("payload")),
        (Payload::Streamed, "", None),
        (Payload::Streamed, "b", Some("payload")),
    ] {
        let read = caller(payload.clone()).signed_body(Body::from(body)).await;
        assert_eq!(
            read.as_ref().err().map(|refusal| refusal.reason),
            reason,
            "{payload:?}"
        );
        if let Ok(read) = read {
            assert_eq!(axum::body::to_bytes(read, 10).await.unwrap(), body);
        }
    }
    let long = "x".repeat(MAX_BODY + 1);
    let read = caller(hash(&long)).signed_body(Body::from(long)).await;
    assert_eq!(read.unwrap_err().error.code, Code::RequestTimeout);
}

#[tokio::test]
async fn a_body_is_read_before_its_sender_is_known_only_if_the_signature_needs_it() {
    let signed = Some("AWS4-HMAC-SHA256 x");
    for (access, authorization, body, hash) in [
        (access(), signed, "a", Some(sha256_hex(b"a"))),
        (access(), signed, "", None),
        (access(), Some("Basic x"), "a", None),
        (access(), None, "a", None),
        (Access::open(), signed, "a", None),
    ] {
        let parts = parts(authorization, "127.0.0.1:1", false);
        let (read, found) = access.read_unsaid(&parts, Body::from(body)).await.unwrap();
        assert_eq!(found, hash, "{authorization:?} {body}");
        assert_eq!(axum::body::to_bytes(read, 10).await.unwrap(), body);
    }
    let mut said = parts(signed, "127.0.0.1:1", false);
    let long = || Body::from("x".repeat(MAX_UNSAID_BODY + 1));
    assert!(access().read_unsaid(&said, long()).await.is_err());
    let hash = EMPTY_PAYLOAD.parse().unwrap();
    said.headers.insert("x-amz-content-sha256", hash);
    assert!(access().read_unsaid(&said, long()).await.is_ok());
}

#[test]
fn rules_are_swapped_for_the_next_request() {
    let access = access();
    let parts = parts(Some("Bearer ALL:ALL-secret"), "127.0.0.1:1", false);
    assert!(judge(&access, &parts).is_ok());
    access.replace(&[key("NEW", None, false)], None, &[]);
    assert_eq!(judge(&access, &parts).unwrap_err().reason, "wrong_secret");
    access.replace(&[], None, &[]);
    assert!(judge(&access, &parts).is_ok());
}

#[test]
fn nothing_here_shows_a_secret() {
    let shown = format!("{:?} {:?}", access(), caller("ALL:ALL-secret"));
    assert!(
        shown.contains("ALL") && !shown.contains("-secret"),
        "{shown}"
    );
}
