//! Requests made by chance, signed by AWS's own signer.

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{
    PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SignatureLocation,
    SigningSettings, UriPathNormalizationMode, sign,
};
use aws_sigv4::sign::v4::SigningParams;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::*;

const METHODS: [&str; 5] = ["GET", "HEAD", "POST", "PUT", "DELETE"];

/// Texts that have gone wrong somewhere.
const TEXTS: [&str; 20] = [
    "a", "a b", "a+b", "100%25", "模型", "ä", "~x", "'q'", "\"", "(1)!*", "//", "..", "=", "&",
    "?#", ":@", "$,;", "[]", "{}^`|\\", "-._",
];

const VALUES: [&str; 8] = [
    "x",
    "  two  spaces  ",
    "a,b , c",
    "\"quoted   blanks\"",
    "bytes=0-9",
    "",
    "W/\"tag\"",
    "text/plain; charset=utf-8",
];

fn text(random: &mut StdRng) -> String {
    let length = random.random_range(0..4);
    (0..length)
        .map(|_| *TEXTS.choose(random).unwrap())
        .collect()
}

fn encoded(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, crate::access::canonical::UNRESERVED).to_string()
}

/// A target as S3's clients write it: each byte of a key encoded but the unreserved ones and `/`.
fn target(random: &mut StdRng) -> String {
    let key: String = (0..random.random_range(1..4))
        .map(|_| text(random))
        .collect();
    let path = format!("/models/{}", encoded(&key).replace("%2F", "/"));
    let pairs = random.random_range(0..4);
    let query: Vec<_> = (0..pairs)
        .map(|_| {
            let name = format!("n{}", text(random));
            format!("{}={}", encoded(&name), encoded(&text(random)))
        })
        .collect();
    if query.is_empty() {
        path
    } else {
        format!("{path}?{}", query.join("&"))
    }
}

/// A request that AWS's signer has signed, in the header or in the query.
fn signed_by_amazon(random: &mut StdRng, presigned: bool) -> Parts {
    let method = *METHODS.choose(random).unwrap();
    let uri = format!("http://{HOST}{}", target(random));
    let mut headers: Vec<(String, &str)> = vec![("host".into(), HOST)];
    for number in 0..random.random_range(0..4) {
        let prefix = ["x-amz-meta-", "h-", "if-"].choose(random).unwrap();
        headers.push((format!("{prefix}{number}"), VALUES.choose(random).unwrap()));
    }
    let mut settings = SigningSettings::default();
    settings.percent_encoding_mode = PercentEncodingMode::Single;
    settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
    settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
    if presigned {
        settings.signature_location = SignatureLocation::QueryParams;
        settings.expires_in = Some(Duration::from_secs(random.random_range(1..MAX_EXPIRES)));
    }
    let body = if presigned || random.random() {
        SignableBody::UnsignedPayload
    } else {
        SignableBody::Bytes(b"")
    };
    let token = random
        .random::<bool>()
        .then(|| "a/session+token==".to_owned());
    let identity = Credentials::new(ID, SECRET, token, None, "test").into();
    let region = *["us-east-1", "cn-hangzhou", "x"].choose(random).unwrap();
    let params = SigningParams::builder()
        .identity(&identity)
        .region(region)
        .name("s3")
        .time(then())
        .settings(settings)
        .build()
        .unwrap()
        .into();
    let pairs: Vec<_> = headers
        .iter()
        .map(|(name, value)| (name.as_str(), *value))
        .collect();
    let signable = SignableRequest::new(method, uri.as_str(), pairs.iter().copied(), body);
    let (instructions, _) = sign(signable.unwrap(), &params).unwrap().into_parts();
    let mut request = Request::from_parts(request(method, &uri, &pairs), ());
    instructions.apply_to_request_http1x(&mut request);
    let (mut parts, ()) = request.into_parts();
    let target = parts.uri.path_and_query().unwrap().as_str();
    parts.uri = target.parse().unwrap();
    parts
}

#[test]
fn what_amazons_signer_signs_is_good_and_one_change_makes_it_bad() {
    let seed = rand::random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    for round in 0..2000 {
        let mut parts = signed_by_amazon(&mut random, round % 2 == 0);
        let judged = judge(&parts, then());
        assert!(judged.is_ok(), "seed {seed}: {parts:?}: {judged:?}");
        let path = parts.uri.path().to_owned();
        let query = parts.uri.query().unwrap_or_default().to_owned();
        match random.random_range(0..3) {
            0 => parts.uri = format!("{path}x?{query}").parse().unwrap(),
            1 => parts.method = Method::OPTIONS,
            _ => {
                let other = "other.example.com".parse().unwrap();
                parts.headers.insert("host", other);
            }
        }
        let found = refused(judge(&parts, then()));
        assert_eq!(found.0, "SignatureDoesNotMatch", "seed {seed}: {parts:?}");
    }
}
