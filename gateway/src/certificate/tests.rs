//! What is taken for a certificate and its key, and what is said of the rest.

#![allow(clippy::unwrap_used)]
use super::*;
use rcgen::{CertificateParams, KeyPair, date_time_ymd};

fn contents(cert: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>, ca: Option<&str>) -> Contents {
    Contents {
        cert: cert.into(),
        key: key.into(),
        client_ca: ca.map(|text| text.as_bytes().to_vec()),
    }
}

fn pair() -> (String, String) {
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.not_after = date_time_ymd(2049, 12, 31);
    let key = KeyPair::generate().unwrap();
    let cert = params.self_signed(&key).unwrap();
    (cert.pem(), key.serialize_pem())
}

fn mistake(contents: &Contents) -> Mistake {
    contents.identity().unwrap_err()
}

#[test]
fn a_pair_is_an_identity_that_says_when_it_ends() {
    let (cert, key) = pair();
    let identity = contents(cert.clone(), key, Some(&cert)).identity().unwrap();
    let expires = identity.expires.unwrap();
    assert_eq!(expires.timestamp(), 2_524_521_600);
    assert!(identity.config.ignore_client_order);
    let first = identity.config.crypto_provider().cipher_suites[0].suite();
    assert_eq!(first.as_str(), Some("TLS13_AES_128_GCM_SHA256"));
}

#[test]
fn what_is_missing_or_does_not_belong_together_is_said_of_the_right_file() {
    let ((cert, key), (other, _)) = (pair(), pair());
    for (wrong, part, said) in [
        (
            contents("", key.clone(), None),
            Part::Cert,
            "holds no certificate",
        ),
        (
            contents(key.clone(), key.clone(), None),
            Part::Cert,
            "holds no certificate",
        ),
        (
            contents(cert.clone(), "", None),
            Part::Key,
            "holds no private key",
        ),
        (
            contents(cert.clone(), cert.clone(), None),
            Part::Key,
            "holds no private key",
        ),
        (
            contents(other, key.clone(), None),
            Part::Key,
            "is not the key",
        ),
        (
            contents(cert.clone(), key.clone(), Some("")),
            Part::ClientCa,
            "holds no certificate",
        ),
        (
            contents(cert[..cert.len() / 2].to_owned(), key, None),
            Part::Cert,
            "holds no certificate",
        ),
    ] {
        let found = mistake(&wrong);
        assert_eq!(found.part, part, "{found}");
        assert!(found.clause.starts_with(said), "{found}");
    }
}

#[test]
fn a_certificate_of_nonsense_is_a_mistake() {
    let (_, key) = pair();
    let nonsense = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let found = mistake(&contents(nonsense, key, None));
    assert_eq!(found.part, Part::Cert, "{found}");
}

#[test]
fn nothing_shows_a_key() {
    let (cert, key) = pair();
    let contents = contents(cert, key, None);
    assert_eq!(format!("{contents:?}"), "Contents(…)");
}
