//! Listings as S3 answers them, to the letter.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use super::*;

const HEAD: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
    <ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Name>models</Name>";

fn query(raw: &str) -> Query {
    Query::parse(raw).unwrap()
}

fn asked(raw: &str) -> ListAsked {
    ListAsked::parse(&query(raw)).unwrap()
}

fn object(key: &str) -> ListedObject {
    ListedObject {
        key: key.to_owned(),
        size: 434_234,
        etag: Some("\"fba9\"".into()),
        last_modified: Some(UNIX_EPOCH + Duration::from_millis(1_255_369_830_250)),
        storage_class: None,
    }
}

fn page(keys: &[&str], prefixes: &[&str], next: Option<&str>) -> ListPage {
    ListPage {
        objects: keys.iter().map(|key| object(key)).collect(),
        prefixes: prefixes.iter().map(|&prefix| prefix.to_owned()).collect(),
        next: next.map(str::to_owned),
    }
}

fn contents(key: &str, owner: &str) -> String {
    format!(
        "<Contents><Key>{key}</Key><LastModified>2009-10-12T17:50:30.250Z</LastModified>\
         <ETag>&quot;fba9&quot;</ETag><Size>434234</Size><StorageClass>STANDARD</StorageClass>\
         {owner}</Contents>"
    )
}

const OWNED: &str = "<Owner><ID>forebay</ID><DisplayName>forebay</DisplayName></Owner>";

#[test]
fn v2_document_is_s3s() {
    let asked = asked("list-type=2&prefix=p/&delimiter=/&max-keys=2&start-after=p/0");
    let expected = format!(
        "{HEAD}<Prefix>p/</Prefix><StartAfter>p/0</StartAfter>\
         <NextContinuationToken>b3JpZ2luJ3MrL3Rva2Vu</NextContinuationToken><KeyCount>2</KeyCount>\
         <MaxKeys>2</MaxKeys><Delimiter>/</Delimiter><IsTruncated>true</IsTruncated>{}\
         <CommonPrefixes><Prefix>p/b/</Prefix></CommonPrefixes></ListBucketResult>",
        contents("p/a", "")
    );
    assert_eq!(
        asked.xml(
            "models",
            &page(&["p/a"], &["p/b/"], Some("origin's+/token"))
        ),
        expected
    );
}

#[test]
fn v1_document_is_s3s() {
    let asked = asked("prefix=p/&delimiter=/&max-keys=2&marker=p/0");
    let expected = format!(
        "{HEAD}<Prefix>p/</Prefix><Marker>p/0</Marker><NextMarker>p/b/</NextMarker><MaxKeys>2</MaxKeys>\
         <Delimiter>/</Delimiter><IsTruncated>true</IsTruncated>{}\
         <CommonPrefixes><Prefix>p/b/</Prefix></CommonPrefixes></ListBucketResult>",
        contents("p/a", OWNED)
    );
    assert_eq!(
        asked.xml("models", &page(&["p/a"], &["p/b/"], Some("token"))),
        expected
    );
}

#[test]
fn last_page_says_so() {
    let v1 = "<Prefix></Prefix><Marker></Marker><MaxKeys>1000</MaxKeys>";
    let v2 = "<Prefix></Prefix><KeyCount>0</KeyCount><MaxKeys>1000</MaxKeys>";
    for (raw, expected) in [("", v1), ("list-type=2", v2)] {
        let tail = "<IsTruncated>false</IsTruncated></ListBucketResult>";
        assert_eq!(
            asked(raw).xml("models", &page(&[], &[], None)),
            format!("{HEAD}{expected}{tail}")
        );
    }
}

#[test]
fn keys_are_escaped_or_url_encoded() {
    let key = "a b+c&<模>%2F~*(1)/x";
    let plain = "a b+c&amp;&lt;模&gt;%2F~*(1)/x";
    let encoded = "a%20b%2Bc%26%3C%E6%A8%A1%3E%252F~%2A%281%29/x";
    let common = |text: &str| format!("<CommonPrefixes><Prefix>{text}</Prefix></CommonPrefixes>");

    let xml = asked("list-type=2").xml("models", &page(&[key], &[key], None));
    assert!(xml.contains(&format!("<Key>{plain}</Key>")), "{xml}");
    assert!(xml.contains(&common(plain)), "{xml}");
    assert!(!xml.contains("EncodingType"));

    let xml = asked("list-type=2&encoding-type=url").xml("models", &page(&[key], &[key], None));
    assert!(xml.contains(&format!("<Key>{encoded}</Key>")), "{xml}");
    assert!(xml.contains(&common(encoded)), "{xml}");
    assert!(xml.contains("<EncodingType>url</EncodingType>"));
}

#[test]
fn url_encoding_covers_what_was_asked_but_no_token() {
    let raw = "encoding-type=url&prefix=%20p&delimiter=%20&max-keys=1";
    let v1 = asked(&format!("{raw}&marker=%20m")).xml("models", &page(&[" x"], &[], Some("t")));
    assert!(
        v1.contains("<Prefix>%20p</Prefix><Marker>%20m</Marker><NextMarker>%20x</NextMarker>"),
        "{v1}"
    );
    assert!(v1.contains("<Delimiter>%20</Delimiter>"), "{v1}");
    let raw = format!("{raw}&list-type=2&start-after=%20s&continuation-token=ICsv");
    let v2 = asked(&raw).xml("models", &page(&[], &[], Some(" +/")));
    assert!(
        v2.contains("<StartAfter>%20s</StartAfter><ContinuationToken>ICsv</ContinuationToken>")
    );
    assert!(
        v2.contains("<NextContinuationToken>ICsv</NextContinuationToken>"),
        "{v2}"
    );
}

#[test]
fn owners_are_named_when_asked() {
    for (raw, named) in [
        ("", true),
        ("list-type=2", false),
        ("list-type=2&fetch-owner=false", false),
        ("list-type=2&fetch-owner=true", true),
    ] {
        let xml = asked(raw).xml("models", &page(&["a"], &[], None));
        assert_eq!(xml.contains(OWNED), named, "{raw}");
    }
}

#[test]
fn unknown_fields_are_left_out_or_neutral() {
    let bare = ListedObject {
        etag: None,
        last_modified: None,
        storage_class: Some("GLACIER".into()),
        ..object("k")
    };
    let page = ListPage {
        objects: vec![bare],
        ..ListPage::default()
    };
    let xml = asked("list-type=2").xml("models", &page);
    let expected = "<Contents><Key>k</Key><LastModified>1970-01-01T00:00:00.000Z</LastModified>\
                    <Size>434234</Size><StorageClass>GLACIER</StorageClass></Contents>";
    assert!(xml.contains(expected), "{xml}");
}

#[test]
fn starts_are_read() {
    let token = URL_SAFE_NO_PAD.encode("origin's+/token");
    let tokened = Start::Token("origin's+/token".into());
    for (raw, start) in [
        (String::new(), Start::Beginning),
        ("marker=".into(), Start::Beginning),
        ("marker=a%2Fb".into(), Start::Marker("a/b".into())),
        ("start-after=a".into(), Start::Beginning),
        ("list-type=2".into(), Start::Beginning),
        ("list-type=2&marker=a".into(), Start::Beginning),
        ("list-type=2&start-after=".into(), Start::Beginning),
        ("list-type=2&start-after=a".into(), Start::After("a".into())),
        (
            format!("list-type=2&continuation-token={token}"),
            tokened.clone(),
        ),
        (
            format!("list-type=2&start-after=a&continuation-token={token}"),
            tokened,
        ),
    ] {
        assert_eq!(asked(&raw).request.start, start, "{raw}");
    }
}

#[test]
fn tokens_come_back_as_the_origins() {
    for origin in [
        "a",
        "1ueGcxLPRx1Tr/XYExHnhbYLgveDs2J/wm36Hy4vbOwM=",
        "模型/\u{1F600}",
        " +&",
    ] {
        let xml = asked("list-type=2").xml("models", &page(&["k"], &[], Some(origin)));
        let (_, rest) = xml.split_once("<NextContinuationToken>").unwrap();
        let (token, _) = rest.split_once('<').unwrap();
        let next = asked(&format!("list-type=2&continuation-token={token}"));
        assert_eq!(next.request.start, Start::Token(origin.into()));
    }
}

#[test]
fn max_keys_are_clamped_to_1000() {
    for (raw, expected) in [
        ("", 1000),
        ("max-keys=", 1000),
        ("max-keys=0", 0),
        ("max-keys=7", 7),
        ("max-keys=1000", 1000),
        ("max-keys=1001", 1000),
        ("max-keys=99999999999999999999999", 1000),
    ] {
        assert_eq!(asked(raw).request.max_keys, expected, "{raw}");
    }
}

#[test]
fn prefix_and_delimiter_are_read() {
    let asked = asked("prefix=a+b%2F&delimiter=%2F");
    assert_eq!(asked.request.prefix, "a b/");
    assert_eq!(asked.request.delimiter.as_deref(), Some("/"));
    assert_eq!(self::asked("delimiter=").request.delimiter, None);
}

#[test]
fn wrong_parameters_are_invalid_arguments() {
    for (raw, name) in [
        ("max-keys=-1", "max-keys"),
        ("max-keys=%2B1", "max-keys"),
        ("max-keys=1.5", "max-keys"),
        ("max-keys=blah", "max-keys"),
        ("encoding-type=xml", "encoding-type"),
        ("list-type=1", "list-type"),
        ("list-type=", "list-type"),
        ("list-type=2&continuation-token=", "continuation-token"),
        ("list-type=2&continuation-token=a", "continuation-token"),
        ("list-type=2&continuation-token=a%2Fb", "continuation-token"),
        ("list-type=2&continuation-token=__8", "continuation-token"),
    ] {
        let error = ListAsked::parse(&query(raw)).unwrap_err();
        assert_eq!(error.code.status(), 400, "{raw}");
        assert_eq!(error.code.as_str(), "InvalidArgument", "{raw}");
        assert_eq!(error.details[0], ("ArgumentName", name.to_owned()), "{raw}");
    }
}

#[test]
fn buckets_document_is_s3s() {
    let created = UNIX_EPOCH + Duration::from_secs(1_255_369_830);
    assert_eq!(
        buckets_xml(["demo", "models"].into_iter(), created),
        format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
             <ListAllMyBucketsResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">{OWNED}<Buckets>\
             <Bucket><Name>demo</Name><CreationDate>2009-10-12T17:50:30.000Z</CreationDate></Bucket>\
             <Bucket><Name>models</Name><CreationDate>2009-10-12T17:50:30.000Z</CreationDate></Bucket>\
             </Buckets></ListAllMyBucketsResult>"
        )
    );
}

#[test]
fn location_of_us_east_1_is_empty() {
    let document = |region| {
        format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
             <LocationConstraint xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">{region}\
             </LocationConstraint>"
        )
    };
    assert_eq!(location_xml(None), document(""));
    assert_eq!(location_xml(Some("us-east-1")), document(""));
    assert_eq!(location_xml(Some("eu-central-1")), document("eu-central-1"));
}

#[test]
fn times_are_utc_with_milliseconds() {
    for (time, expected) in [
        (UNIX_EPOCH, "1970-01-01T00:00:00.000Z"),
        (
            UNIX_EPOCH + Duration::from_millis(951_782_399_999),
            "2000-02-28T23:59:59.999Z",
        ),
        (
            UNIX_EPOCH + Duration::from_nanos(1_709_164_800_000_999_999),
            "2024-02-29T00:00:00.000Z",
        ),
        (
            UNIX_EPOCH - Duration::from_secs(1),
            "1970-01-01T00:00:00.000Z",
        ),
        (
            UNIX_EPOCH + Duration::from_secs(253_402_300_799),
            "9999-12-31T23:59:59.000Z",
        ),
        (
            UNIX_EPOCH + Duration::from_secs(253_402_300_800),
            "1970-01-01T00:00:00.000Z",
        ),
        (
            UNIX_EPOCH + Duration::from_secs(1 << 60),
            "1970-01-01T00:00:00.000Z",
        ),
    ] {
        assert_eq!(iso_8601(time), expected);
    }
}
