//! XML answers as S3, moto, Alibaba OSS and hostile servers send them.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use super::*;

const V2: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">
  <Name>weights</Name><Prefix>prod/</Prefix>
  <NextContinuationToken>1ueGcxLPRx1Tr/XYExHnhbYLgveDs2J/wm36Hy4vbOwM=</NextContinuationToken>
  <KeyCount>3</KeyCount><MaxKeys>3</MaxKeys><Delimiter>/</Delimiter><IsTruncated>true</IsTruncated>
  <Contents>
    <Key>prod/a &amp; b&#x2B;&lt;c&gt;</Key>
    <LastModified>2009-10-12T17:50:30.250Z</LastModified>
    <ETag>&quot;fba9dede5f27731c9771645a39863328&quot;</ETag>
    <ChecksumAlgorithm>CRC32</ChecksumAlgorithm>
    <Size>434234</Size>
    <Owner><ID>x</ID><DisplayName>Key</DisplayName></Owner>
    <StorageClass>STANDARD</StorageClass>
  </Contents>
  <Contents><Key> padded </Key><Size>0</Size></Contents>
  <CommonPrefixes><Prefix>prod/x/</Prefix></CommonPrefixes>
</ListBucketResult>
"#;

fn list(inner: &str) -> Result<ParsedList, BadXml> {
    parse_list(format!("<ListBucketResult>{inner}</ListBucketResult>").as_bytes())
}

fn keys(list: &ParsedList) -> Vec<&str> {
    list.page
        .objects
        .iter()
        .map(|object| object.key.as_str())
        .collect()
}

#[test]
fn v2_page_is_read() {
    let list = parse_list(V2.as_bytes()).unwrap();
    let token = "1ueGcxLPRx1Tr/XYExHnhbYLgveDs2J/wm36Hy4vbOwM=";
    assert_eq!(list.next_token.as_deref(), Some(token));
    assert_eq!(list.page.next.as_deref(), Some(token));
    assert_eq!(list.next_marker, None);
    assert_eq!(list.page.prefixes, ["prod/x/"]);
    let modified = SystemTime::UNIX_EPOCH + Duration::from_millis(1_255_369_830_250);
    assert_eq!(
        list.page.objects,
        [
            ListedObject {
                key: "prod/a & b+<c>".into(),
                size: 434_234,
                etag: Some("\"fba9dede5f27731c9771645a39863328\"".into()),
                last_modified: Some(modified),
                storage_class: Some("STANDARD".into()),
            },
            ListedObject {
                key: " padded ".into(),
                size: 0,
                etag: None,
                last_modified: None,
                storage_class: None,
            },
        ]
    );
}

#[test]
fn v1_page_goes_on_at_its_marker_or_its_greatest_entry() {
    let entries = "<Contents><Key>a</Key><Size>1</Size></Contents>\
                   <CommonPrefixes><Prefix>b/</Prefix></CommonPrefixes>";
    for (rest, next) in [
        (
            "<IsTruncated>true</IsTruncated><NextMarker>m</NextMarker>",
            Some("m"),
        ),
        ("<IsTruncated>true</IsTruncated>", Some("b/")),
        (
            "<IsTruncated>false</IsTruncated><NextMarker>m</NextMarker>",
            None,
        ),
        ("<NextMarker></NextMarker>", None),
        ("", None),
    ] {
        let list = list(&format!("{rest}{entries}")).unwrap();
        assert_eq!(list.next_marker.as_deref(), next, "{rest}");
        assert_eq!(list.page.next.as_deref(), next, "{rest}");
        assert_eq!(list.next_token, None);
    }
}

#[test]
fn oss_page_is_read() {
    // Alibaba OSS names no namespace, writes tags in capitals and its own storage classes.
    let body = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<ListBucketResult>\n<Name>oss-example</Name>\
        <Prefix></Prefix><MaxKeys>100</MaxKeys><Delimiter></Delimiter><IsTruncated>false</IsTruncated>\
        <Contents><Key>fun/movie/001.avi</Key><LastModified>2012-02-24T08:43:07.000Z</LastModified>\
        <ETag>\"5B3C1A2E053D763E1B002CC607C5A0FE1****\"</ETag><Type>Normal</Type><Size>344606</Size>\
        <StorageClass>Standard</StorageClass><Owner><ID>00220120222</ID></Owner></Contents>\
        <KeyCount>1</KeyCount></ListBucketResult>";
    let list = parse_list(body.as_bytes()).unwrap();
    assert_eq!(keys(&list), ["fun/movie/001.avi"]);
    assert_eq!(
        list.page.objects[0].storage_class.as_deref(),
        Some("Standard")
    );
    assert_eq!(list.page.next, None);
}

#[test]
fn url_encoding_is_decoded_wherever_it_is_declared() {
    let contents = "<Contents><Key>a+b%2Bc/%E6%A8%A1%01</Key><Size>1</Size></Contents>\
                    <CommonPrefixes><Prefix>x%20y/</Prefix></CommonPrefixes>\
                    <IsTruncated>true</IsTruncated><NextMarker>x%20y/</NextMarker>";
    let encoding = "<EncodingType>url</EncodingType>";
    for body in [
        format!("{encoding}{contents}"),
        format!("{contents}{encoding}"),
    ] {
        let list = list(&body).unwrap();
        assert_eq!(keys(&list), ["a b+c/模\u{1}"]);
        assert_eq!(list.page.prefixes, ["x y/"]);
        assert_eq!(list.page.next.as_deref(), Some("x y/"));
    }
    let plain = list(contents).unwrap();
    assert_eq!(keys(&plain), ["a+b%2Bc/%E6%A8%A1%01"]);
    assert_eq!(plain.page.prefixes, ["x%20y/"]);
}

#[test]
fn tokens_are_never_url_decoded() {
    let body = "<EncodingType>url</EncodingType><IsTruncated>true</IsTruncated>\
                <NextContinuationToken>a+b%20c</NextContinuationToken>";
    assert_eq!(list(body).unwrap().page.next.as_deref(), Some("a+b%20c"));
}

#[test]
fn texts_are_read_as_xml_has_them() {
    for (text, expected) in [
        ("a&amp;amp;b", "a&amp;b"),
        ("<![CDATA[a&amp;<b>]]>", "a&amp;<b>"),
        ("a<!-- c -->b", "ab"),
        ("&#97;&#x1F600;&apos;", "a\u{1F600}'"),
        ("&#x1;", "\u{1}"),
        ("a\r\nb", "a\nb"),
        ("a&#13;b", "a\rb"),
    ] {
        let list = list(&format!(
            "<Contents><Key>{text}</Key><Size>1</Size></Contents>"
        ))
        .unwrap();
        assert_eq!(keys(&list), [expected], "{text}");
    }
}

#[test]
fn etags_have_quotes() {
    for (text, expected) in [
        ("", None),
        ("&quot;a&quot;", Some("\"a\"")),
        ("a", Some("\"a\"")),
        ("W/\"a\"", Some("W/\"a\"")),
    ] {
        let body = format!("<Contents><Key>k</Key><Size>1</Size><ETag>{text}</ETag></Contents>");
        assert_eq!(
            list(&body).unwrap().page.objects[0].etag.as_deref(),
            expected,
            "{text}"
        );
    }
}

#[test]
fn prefixed_names_and_a_byte_order_mark_are_fine() {
    let body = "\u{feff}<s:ListBucketResult xmlns:s=\"x\"><s:Contents><s:Key>k</s:Key><s:Size>1</s:Size>\
                </s:Contents><s:Marker/></s:ListBucketResult>";
    assert_eq!(keys(&parse_list(body.as_bytes()).unwrap()), ["k"]);
}

#[test]
fn fields_elsewhere_are_not_the_pages() {
    let body = "<X><IsTruncated>true</IsTruncated><Contents><Key>no</Key></Contents></X>\
                <Contents><Owner><Key>no</Key></Owner><Key>k</Key><Size>1</Size></Contents>";
    assert_eq!(keys(&list(body).unwrap()), ["k"]);
}

#[test]
fn bad_answers_are_errors() {
    let nested = format!("{}{}", "<a>".repeat(20), "</a>".repeat(20));
    let crowded = "<CommonPrefixes><Prefix>p</Prefix></CommonPrefixes>".repeat(MAX_ENTRIES + 1);
    for inner in [
        "<Contents><Size>1</Size></Contents>",
        "<Contents><Key></Key><Size>1</Size></Contents>",
        "<Contents><Key>k</Key></Contents>",
        "<Contents><Key>k</Key><Size>-1</Size></Contents>",
        "<Contents><Key>k</Key><Size>18446744073709551616</Size></Contents>",
        "<Contents><Key>k</Key><Size>1e3</Size></Contents>",
        "<Contents><Key>&bomb;</Key><Size>1</Size></Contents>",
        "<Contents><Key>&#0;</Key><Size>1</Size></Contents>",
        "<Contents><Key>&#xD800;</Key><Size>1</Size></Contents>",
        "<Contents><Key>a & b</Key><Size>1</Size></Contents>",
        "<EncodingType>url</EncodingType><Contents><Key>%FF</Key><Size>1</Size></Contents>",
        "<IsTruncated>perhaps</IsTruncated>",
        "<IsTruncated>true</IsTruncated>",
        "<Contents>",
        "</Contents>",
        "<Contents></Key>",
        "<",
        &nested,
        &crowded,
    ] {
        assert!(list(inner).is_err(), "{inner:.80}");
    }
    for body in [
        "",
        "   ",
        "not xml",
        "{\"a\":1}",
        "<html><body>502 Bad Gateway</body></html>",
        "<Error><Code>AccessDenied</Code></Error>",
        "<ListBucketResult>",
        "<ListBucketResult/><ListBucketResult/>",
        "<!DOCTYPE x [<!ENTITY bomb \"b\">]><ListBucketResult/>",
        "<ListVersionsResult/>",
    ] {
        assert!(parse_list(body.as_bytes()).is_err(), "{body}");
    }
    assert!(parse_list(b"<ListBucketResult><Name>\xff</Name></ListBucketResult>").is_err());
}

#[test]
fn answers_past_the_bound_are_refused() {
    let filler = " ".repeat(MAX_BODY_BYTES);
    assert_eq!(
        list(&filler).unwrap_err(),
        BadXml::new("it is longer than any page of S3's")
    );
}

/// Cuts and single changed bytes never panic; a cut never passes as a page.
#[test]
fn damaged_answers_never_panic() {
    let body = V2.trim_end().as_bytes();
    for end in 0..body.len() {
        assert!(parse_list(&body[..end]).is_err(), "cut at {end}");
    }
    for at in 0..body.len() {
        for byte in [0_u8, b'<', b'>', b'&', b';', b'/', b'"', 0xff] {
            let mut damaged = body.to_vec();
            damaged[at] = byte;
            let _ = parse_list(&damaged);
        }
    }
}
