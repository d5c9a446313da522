//! The S3 dialect by boto3, the AWS command line and by hand.

use std::process::Command;

use forebay_tests::cluster::{Dataset, Setup};
use forebay_tests::multipart::content_range;
use forebay_tests::oracle::{self, assert_bytes};
use forebay_tests::servers::moto::Moto;
use forebay_tests::servers::scripted::{Asked, Scripted, answer};
use forebay_tests::tools;

use crate::stage::{OBJECT, stage};

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
    let dataset = Dataset::new("models", "s3://weights")
        .option("aws_endpoint", origin.url())
        .option("aws_region", "us-east-1")
        .option("aws_access_key_id", "AK")
        .option("aws_secret_access_key", "SK");
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
