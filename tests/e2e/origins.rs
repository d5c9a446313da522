//! Each kind of origin: bytes cold and hot, names, listings, fields that pass through.

use forebay_tests::cluster::{Dataset, Gateway, SECRET, Setup};
use forebay_tests::http::target;
use forebay_tests::multipart::content_range;
use forebay_tests::oracle::{self, BLOCK, assert_bytes};
use forebay_tests::scratch::Scratch;
use forebay_tests::servers::azurite::Azurite;
use forebay_tests::servers::gcs::Gcs;
use forebay_tests::servers::moto::Moto;
use forebay_tests::servers::nginx::{Mood, Nginx};
use forebay_tests::servers::s3s::S3s;
use forebay_tests::servers::{self, CONTENT_TYPE, METADATA, Object};

/// What an origin kind can do beyond bytes.
#[derive(Clone, Copy)]
struct Can {
    /// It keeps Content-Type and user metadata.
    fields: bool,
    /// It can be listed.
    list: bool,
}

fn objects() -> Vec<Object> {
    let sized = oracle::SIZES
        .iter()
        .map(|(key, size)| ((*key).to_owned(), *size));
    let named = oracle::NAMES
        .iter()
        .enumerate()
        .map(|(index, key)| ((*key).to_owned(), BLOCK / 2 + index));
    sized
        .chain(named)
        .map(|(key, size)| Object {
            bytes: oracle::bytes(&key, 1, size),
            key,
        })
        .collect()
}

/// Lines that every origin's dataset has here: nothing is asked again within the test.
fn gateway(dataset: Dataset) -> Gateway {
    Setup::of([dataset.line("fresh_for = \"10m\"")]).start()
}

fn origin_holds(gateway: &Gateway, objects: &[Object], can: Can) {
    for (index, object) in objects.iter().enumerate() {
        // Half of the objects are first met by a range in their middle.
        if index % 2 == 1 {
            ranges_agree(gateway, object);
        }
        whole_agrees(gateway, object, can);
    }
    let gets = gateway.origin_gets("models");
    assert!(gets > 0.0, "the origin was read without being counted");
    for object in objects {
        let etag = whole_agrees(gateway, object, can);
        let hot = gateway
            .request("HEAD", &target("models", &object.key), &[])
            .expect(200);
        assert_eq!(hot.header("etag").map(str::to_owned), etag);
        assert_eq!(hot.need("content-length"), object.bytes.len().to_string());
        ranges_agree(gateway, object);
    }
    assert_eq!(
        gateway.origin_gets("models"),
        gets,
        "the second read asked the origin for bytes"
    );
    listing_agrees(gateway, objects, can);
    missing_is_missing(gateway);
}

fn whole_agrees(gateway: &Gateway, object: &Object, can: Can) -> Option<String> {
    let answer = gateway.get(&target("models", &object.key)).expect(200);
    assert_bytes(&object.key, &answer.body, &object.bytes);
    assert_eq!(
        answer.need("content-length"),
        object.bytes.len().to_string(),
        "{}",
        object.key
    );
    assert_eq!(answer.need("accept-ranges"), "bytes");
    assert!(
        answer.header("last-modified").is_some(),
        "{}: {:?}",
        object.key,
        answer.headers
    );
    assert!(answer.need("cache-status").starts_with("forebay; "));
    if can.fields {
        assert_eq!(answer.need("content-type"), CONTENT_TYPE, "{}", object.key);
        assert_eq!(
            answer.need(&format!("x-amz-meta-{}", METADATA.0)),
            METADATA.1,
            "{}",
            object.key
        );
    }
    Some(answer.need("etag").to_owned())
}

fn ranges_agree(gateway: &Gateway, object: &Object) {
    let size = object.bytes.len();
    if size == 0 {
        let answer = gateway
            .range(&target("models", &object.key), "bytes=0-")
            .expect(416);
        assert_eq!(answer.need("content-range"), "bytes */0");
        return;
    }
    let middle = size / 2;
    let mut ranges = vec![
        (0, 0),
        (size - 1, size - 1),
        (middle, (middle + 70_000).min(size - 1)),
        (0, size - 1),
    ];
    if size > BLOCK {
        ranges.push((BLOCK - 1, BLOCK));
    }
    for (first, last) in ranges {
        let answer = gateway
            .range(
                &target("models", &object.key),
                &format!("bytes={first}-{last}"),
            )
            .expect(206);
        assert_bytes(
            &format!("{} {first}-{last}", object.key),
            &answer.body,
            &object.bytes[first..=last],
        );
        let range = content_range(answer.need("content-range"));
        assert_eq!(
            range,
            (first as u64, last as u64, size as u64),
            "{}",
            object.key
        );
    }
    let suffix = size.min(100);
    let answer = gateway
        .range(&target("models", &object.key), "bytes=-100")
        .expect(206);
    assert_bytes(
        &format!("{} suffix", object.key),
        &answer.body,
        &object.bytes[size - suffix..],
    );
}

fn listing_agrees(gateway: &Gateway, objects: &[Object], can: Can) {
    let answer = gateway.get("/models?list-type=2&encoding-type=url");
    if !can.list {
        let answer = answer.expect(501);
        assert_eq!(answer.xml("Code").as_deref(), Some("NotImplemented"));
        assert!(
            answer
                .xml("Message")
                .is_some_and(|message| message.contains(' ')),
            "{}",
            answer.text()
        );
        return;
    }
    let text = answer.expect(200).text();
    let mut keys: Vec<&str> = objects.iter().map(|object| object.key.as_str()).collect();
    keys.sort_unstable();
    let listed: Vec<String> = text
        .split("<Contents>")
        .skip(1)
        .map(|entry| {
            let (_, rest) = entry.split_once("<Key>").expect("a key");
            rest.split_once("</Key>").expect("a key's end").0.to_owned()
        })
        .collect();
    let decoded: Vec<String> = listed.iter().map(|key| decode(key)).collect();
    assert_eq!(decoded, keys, "{text}");
    for object in objects {
        assert!(
            text.contains(&format!("<Size>{}</Size>", object.bytes.len())),
            "{}: {text}",
            object.key
        );
    }
}

fn missing_is_missing(gateway: &Gateway) {
    let answer = gateway.get("/models/no/such.bin").expect(404);
    assert_eq!(answer.need("content-type"), "application/xml");
    assert_eq!(answer.xml("Code").as_deref(), Some("NoSuchKey"));
    assert_eq!(answer.xml("Key").as_deref(), Some("no/such.bin"));
    for odd in ["/models/a/../one.bin", "/models/./one.bin", "/models/.."] {
        let answer = gateway.get(odd).expect(404);
        assert_eq!(answer.xml("Code").as_deref(), Some("NoSuchKey"), "{odd}");
    }
}

fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'%' => {
                out.push(u8::from_str_radix(&text[at + 1..at + 3], 16).expect("two hex digits"));
                at += 3;
            }
            b'+' => {
                out.push(b' ');
                at += 1;
            }
            byte => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8(out).expect("keys are UTF-8")
}

#[test]
fn s3_without_signatures_reads_cold_and_hot() {
    let origin = Moto::start();
    let objects = objects();
    servers::put("s3", &origin.url(), "weights", ("AK", SECRET), &objects);
    let gateway = gateway(origin.dataset("models", "weights"));
    origin_holds(
        &gateway,
        &objects,
        Can {
            fields: true,
            list: true,
        },
    );
}

#[test]
fn s3_that_checks_signatures_reads_cold_and_hot() {
    let origin = S3s::start(env!("CARGO_BIN_EXE_s3-origin"));
    // s3s-fs says `<EncodingType>url</EncodingType>` over keys that it has not encoded, so its own clients misread these.
    let mut objects = objects();
    objects.retain(|object| !object.key.contains(['+', '%']));
    origin.put("weights", &objects);
    let gateway = gateway(origin.dataset("models", "weights", SECRET));
    origin_holds(
        &gateway,
        &objects,
        Can {
            fields: true,
            list: true,
        },
    );
}

#[test]
fn azure_reads_cold_and_hot() {
    let origin = Azurite::start();
    let objects = objects();
    origin.put("weights", &objects);
    let gateway = gateway(origin.dataset("models", "weights"));
    origin_holds(
        &gateway,
        &objects,
        Can {
            fields: true,
            list: true,
        },
    );
}

#[test]
fn gcs_reads_cold_and_hot() {
    let origin = Gcs::start();
    let objects = objects();
    origin.put("weights", &objects);
    let gateway = gateway(origin.dataset("models", "weights"));
    origin_holds(
        &gateway,
        &objects,
        Can {
            fields: false,
            list: true,
        },
    );
    let answer = gateway.get("/models/one.bin").expect(200);
    assert_eq!(answer.need("content-type"), CONTENT_TYPE);
}

#[test]
fn plain_http_reads_cold_and_hot_and_cannot_be_listed() {
    let origin = Nginx::start();
    let objects = objects();
    for object in &objects {
        origin.put(&object.key, &object.bytes);
    }
    let gateway = gateway(Dataset::new("models", origin.url(Mood::Plain)));
    origin_holds(
        &gateway,
        &objects,
        Can {
            fields: false,
            list: false,
        },
    );
}

#[test]
fn a_directory_reads_cold_and_hot() {
    let files = Scratch::new("files");
    let objects = objects();
    for object in &objects {
        files.write(&object.key, &object.bytes);
    }
    let path = files.path().to_str().expect("a temporary path is UTF-8");
    let gateway = gateway(Dataset::new("models", format!("file://{path}")));
    origin_holds(
        &gateway,
        &objects,
        Can {
            fields: false,
            list: true,
        },
    );
}

#[test]
fn a_plain_path_is_a_directory_too() {
    let files = Scratch::new("files");
    files.write("a.bin", oracle::bytes("a.bin", 1, 100));
    let gateway = gateway(Dataset::new(
        "models",
        files.path().to_str().expect("a temporary path is UTF-8"),
    ));
    assert_bytes(
        "a.bin",
        &gateway.get("/models/a.bin").expect(200).body,
        &oracle::bytes("a.bin", 1, 100),
    );
}

#[test]
fn a_prefix_hides_what_is_beside_it() {
    let origin = Moto::start();
    origin.bucket("weights");
    origin.put("weights", "prod/a.bin", b"inside");
    origin.put("weights", "other/b.bin", b"outside");
    let gateway = gateway(origin.dataset("models", "weights/prod"));
    assert_eq!(gateway.get("/models/a.bin").expect(200).body, b"inside");
    for outside in [
        "/models/b.bin",
        "/models/other/b.bin",
        "/models/../other/b.bin",
        "/models/prod/a.bin",
    ] {
        let _ = gateway.get(outside).expect(404);
    }
    let listing = gateway.get("/models?list-type=2").expect(200).text();
    assert!(
        listing.contains("<Key>a.bin</Key>") && !listing.contains("b.bin"),
        "{listing}"
    );
}

#[test]
fn links_out_of_a_directory_are_not_followed() {
    let outside = Scratch::new("outside");
    outside.write("secret.txt", "secret");
    let files = Scratch::new("files");
    files.write("real.bin", "real");
    std::os::unix::fs::symlink(
        outside.path().join("secret.txt"),
        files.path().join("out.bin"),
    )
    .expect("a link");
    std::os::unix::fs::symlink(files.path().join("real.bin"), files.path().join("in.bin"))
        .expect("a link");
    let gateway = gateway(Dataset::new(
        "models",
        files.path().to_str().expect("a temporary path is UTF-8"),
    ));
    assert_eq!(gateway.get("/models/in.bin").expect(200).body, b"real");
    let answer = gateway.get("/models/out.bin");
    assert!(
        answer.status >= 400 && !answer.text().contains("secret\n"),
        "{} {}",
        answer.status,
        answer.text()
    );
}
