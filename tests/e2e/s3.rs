//! The S3 dialect by boto3, the AWS command line and by hand.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use forebay_tests::cluster::{Dataset, Setup};
use forebay_tests::multipart::content_range;
use forebay_tests::oracle::{self, assert_bytes};
use forebay_tests::servers::moto::Moto;
use forebay_tests::servers::nginx::{Mood, Nginx};
use forebay_tests::servers::scripted::{Asked, Scripted, answer, object};
use forebay_tests::{tools, until};

use crate::stage::{OBJECT, assert_sentence, directory, stage};

#[test]
fn boto3_and_the_aws_command_line_find_s3() {
    let origin = Moto::start();
    let datasets = [("models", "weights"), ("void", "void")];
    let datasets =
        datasets.map(|(name, bucket)| origin.dataset(name, bucket).line("fresh_for = \"1s\""));
    // One claim asks for a version that the origin refuses in its own way.
    let gateway = Setup::of(datasets).start();
    let output = Command::new(tools::python("python3"))
        .arg(tools::client("s3.py"))
        .args([gateway.url(), origin.url()])
        .output()
        .expect("python runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(
        said.lines().filter(|line| line.starts_with("ok ")).count() >= 25,
        "claims were not run: {said}"
    );
}

#[test]
fn a_dataset_with_and_without_slash_is_the_same_listing() {
    let origin = Moto::start();
    origin.bucket("weights");
    origin.put("weights", "a.bin", b"a");
    let gateway = Setup::of([origin.dataset("models", "weights")]).start();
    let plain = gateway.get("/models?list-type=2").expect(200).text();
    assert!(plain.contains("<Key>a.bin</Key>"));
    assert_eq!(
        gateway.get("/models/?list-type=2").expect(200).text(),
        plain
    );
    let first = gateway.get("/models").expect(200);
    assert_eq!(first.need("content-type"), "application/xml");
    assert!(
        first
            .text()
            .contains("<ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">"),
        "{}",
        first.text()
    );
    let buckets = gateway.get("/").expect(200).text();
    assert!(
        buckets.contains("<ListAllMyBucketsResult") && buckets.contains("<Name>models</Name>"),
        "{buckets}"
    );
    let location = gateway.get("/models?location").expect(200).text();
    assert!(location.contains("<LocationConstraint"), "{location}");
}

#[test]
fn writes_are_405_even_where_nothing_is() {
    let stage = stage();
    for target in [OBJECT, "/models/none.bin", "/models", "/"] {
        for method in ["PUT", "POST", "DELETE", "PATCH"] {
            let answer = stage
                .gateway
                .request(method, target, &[("Content-Length", "0")])
                .expect(405);
            assert_eq!(
                answer.xml("Code").as_deref(),
                Some("MethodNotAllowed"),
                "{method} {target}"
            );
            assert!(answer.need("allow").contains("GET"), "{method} {target}");
        }
    }
}

#[test]
fn part_numbers_are_numbers_and_exclude_ranges() {
    let stage = stage();
    for query in [
        "partNumber=0",
        "partNumber=x",
        "partNumber=-1",
        "partNumber=99999999999999999999",
    ] {
        let answer = stage.gateway.get(&format!("{OBJECT}?{query}")).expect(400);
        assert_eq!(
            answer.xml("Code").as_deref(),
            Some("InvalidArgument"),
            "{query}"
        );
    }
    let both = stage
        .gateway
        .range(&format!("{OBJECT}?partNumber=1"), "bytes=0-1")
        .expect(400);
    assert_eq!(both.xml("Code").as_deref(), Some("InvalidRequest"));
}

#[test]
fn query_fields_that_mean_nothing_here_are_ignored() {
    let stage = stage();
    for query in [
        "x-id=GetObject",
        "X-Amz-Signature=0&X-Amz-Expires=60",
        "whatever",
        "a=b&c",
    ] {
        let answer = stage
            .gateway
            .range(&format!("{OBJECT}?{query}"), "bytes=0-9")
            .expect(206);
        assert_eq!(answer.body, stage.bytes[..10], "{query}");
    }
}

/// Sizes of the parts of one object uploaded in three.
const PARTS: [usize; 3] = [700_000, 1_500_001, 12];

/// S3's own behaviour for `HEAD ?partNumber=N`: 206 with the part's Content-Range and the whole object's ETag.
fn uploaded_in_parts(asked: &Asked) -> Vec<u8> {
    let size: usize = PARTS.iter().sum();
    let bytes = oracle::bytes("parts.bin", 1, size);
    let known = "ETag: \"0123456789abcdef0123456789abcdef-3\"\r\nLast-Modified: Sat, 01 Aug 2026 00:00:00 GMT\r\n\
                 Accept-Ranges: bytes\r\nContent-Type: application/octet-stream\r\n";
    let (path, query) = asked.target.split_once('?').unwrap_or((&asked.target, ""));
    if path != "/weights/parts.bin" {
        return answer(
            asked,
            404,
            "Content-Type: application/xml\r\n",
            b"<Error><Code>NoSuchKey</Code></Error>",
        );
    }
    let part = query
        .split('&')
        .find_map(|pair| pair.strip_prefix("partNumber="));
    let range = match (part, asked.range()) {
        (Some(number), _) => {
            let number: usize = number.parse().expect("the gateway asks for a number");
            if number > PARTS.len() {
                return answer(
                    asked,
                    416,
                    "Content-Type: application/xml\r\n",
                    b"<Error><Code>InvalidPartNumber</Code></Error>",
                );
            }
            let first: usize = PARTS[..number - 1].iter().sum();
            Some((first, first + PARTS[number - 1] - 1))
        }
        (None, Some((first, last))) => Some((first, last.unwrap_or(size - 1).min(size - 1))),
        (None, None) => None,
    };
    match range {
        Some((first, last)) => {
            let mut fields = format!("{known}Content-Range: bytes {first}-{last}/{size}\r\n");
            if part.is_some() {
                fields.push_str("x-amz-mp-parts-count: 3\r\n");
            }
            answer(asked, 206, &fields, &bytes[first..=last])
        }
        None => answer(asked, 200, known, &bytes),
    }
}

#[test]
fn part_numbers_of_a_multipart_upload_are_its_parts() {
    let origin = Scripted::start(uploaded_in_parts);
    let dataset = origin.s3("models", "weights");
    let gateway = Setup::of([dataset]).start();
    let size: usize = PARTS.iter().sum();
    let bytes = oracle::bytes("parts.bin", 1, size);
    let mut first = 0;
    for (index, length) in PARTS.into_iter().enumerate() {
        let target = format!("/models/parts.bin?partNumber={}", index + 1);
        let last = first + length - 1;
        let part = gateway.get(&target).expect(206);
        assert_bytes(&target, &part.body, &bytes[first..=last]);
        assert_eq!(
            content_range(part.need("content-range")),
            (first as u64, last as u64, size as u64)
        );
        assert_eq!(part.need("x-amz-mp-parts-count"), "3");
        let head = gateway.request("HEAD", &target, &[]).expect(206);
        assert_eq!(head.need("content-length"), length.to_string());
        first += length;
    }
    let beyond = gateway.get("/models/parts.bin?partNumber=4").expect(416);
    assert_eq!(beyond.xml("Code").as_deref(), Some("InvalidPartNumber"));
}

#[test]
fn oss_reads_from_its_s3_compatible_endpoint() {
    let origin = Scripted::start(uploaded_in_parts);
    // A bucket cannot stand before an address, so here the endpoint is spoken to in path style.
    let dataset = Dataset::new("models", "oss://weights")
        .option("aws_endpoint", origin.url())
        .option("aws_region", "oss-cn-hangzhou")
        .option("aws_access_key_id", "AK")
        .option("aws_secret_access_key", "SK");
    let gateway = Setup::of([dataset]).start();
    let bytes = oracle::bytes("parts.bin", 1, PARTS.iter().sum());
    let whole = gateway.get("/models/parts.bin").expect(200);
    assert_bytes("oss", &whole.body, &bytes);
    let _ = gateway.get("/models/none.bin").expect(404);
}

#[test]
fn the_null_version_shows_an_overwrite_within_fresh_for() {
    // In a bucket without versioning, `null` names whatever is there; moto knows that for GET, but not for HEAD.
    let version = Arc::new(AtomicU64::new(1));
    let current = Arc::clone(&version);
    let origin = Scripted::start(move |asked| {
        if !asked.target.contains("versionId=null") {
            return answer(asked, 404, "", b"");
        }
        let version = current.load(Ordering::SeqCst);
        let bytes = oracle::bytes("a.bin", version, 5000);
        object(asked, &format!("\"{version}\""), "", &bytes)
    });
    let dataset = origin.s3("models", "weights").line("fresh_for = \"300ms\"");
    let gateway = Setup::of([dataset]).start();
    for next in 1..4 {
        version.store(next, Ordering::SeqCst);
        let bytes = oracle::bytes("a.bin", next, 5000);
        until(Duration::from_secs(2), "the overwrite", || {
            let answer = gateway.get("/models/a.bin?versionId=null").expect(200);
            (answer.body == bytes).then_some(())
        });
    }
}

#[test]
fn an_origin_without_versions_has_none_of_any_name() {
    let (_files, path) = directory();
    let nginx = Nginx::start();
    nginx.put("a.bin", b"abc");
    let gateway = Setup::of([
        Dataset::new("files", path),
        Dataset::new("web", nginx.url(Mood::Plain)),
    ])
    .start();
    for target in ["/files/a.bin", "/web/a.bin"] {
        let _ = gateway.get(target).expect(200);
        for id in ["anything", "null", "3sL4kqtJlcpXroDTDmJ+rmSpXd3dIbrHY"] {
            let target = format!("{target}?versionId={id}");
            let answer = gateway.get(&target).expect(404);
            let code = answer.xml("Code");
            assert_eq!(code.as_deref(), Some("NoSuchVersion"), "{target}");
            let _ = gateway.request("HEAD", &target, &[]).expect(404);
        }
        let _ = gateway.get(target).expect(200);
    }
}

#[test]
fn a_key_with_dots_for_a_segment_is_missing_and_the_answer_says_why() {
    let (_files, path) = directory();
    let origin = Scripted::start(uploaded_in_parts);
    let gateway = Setup::of([Dataset::new("files", path), origin.s3("models", "weights")]).start();
    for dataset in ["files", "models"] {
        for key in [
            ".",
            "..",
            "a/../parts.bin",
            "./parts.bin",
            "a/.",
            "%2e%2e/a",
        ] {
            let answer = gateway.get(&format!("/{dataset}/{key}"));
            assert_sentence(&gateway, &answer, &[404]);
            assert_eq!(answer.xml("Code").as_deref(), Some("NoSuchKey"), "{key}");
            let message = answer.xml("Message").unwrap_or_default();
            assert!(message.contains(".."), "{key}: {message}");
        }
    }
}
