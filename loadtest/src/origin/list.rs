//! The model's listings: S3's ListObjects, versions 1 and 2, as XML.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::ops::Bound;

use chrono::{DateTime, SecondsFormat, Utc};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::objects::Object;

/// What `encoding-type=url` leaves as it is: unreserved characters and the slash.
const KEPT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'/');

/// S3's largest page.
const MOST: usize = 1000;

/// The answer to `GET /BUCKET?query`: the location if that is asked for, else a page of the listing.
pub(super) fn page(bucket: &str, query: &str, objects: &BTreeMap<String, Object>) -> String {
    let query = Query::parse(query);
    if query.has("location") {
        return format!(
            "{HEAD}<LocationConstraint xmlns=\"{NAMESPACE}\">us-east-1</LocationConstraint>"
        );
    }
    let found = Found::collect(&query, objects);
    let name = |text: &str| query.name(text);
    let mut xml = format!("{HEAD}<ListBucketResult xmlns=\"{NAMESPACE}\"><Name>{bucket}</Name>");
    element(&mut xml, "Prefix", &name(query.text("prefix")));
    element(&mut xml, "MaxKeys", &query.most().to_string());
    element(
        &mut xml,
        "IsTruncated",
        if found.next.is_some() {
            "true"
        } else {
            "false"
        },
    );
    // A name that is given, its element, and the version of the listing that echoes it, if not both.
    let echoes = [
        ("delimiter", "Delimiter", None),
        ("encoding-type", "EncodingType", None),
        ("start-after", "StartAfter", Some(true)),
        ("marker", "Marker", Some(false)),
    ];
    for (given, tag, second) in echoes {
        if query.has(given) && second.is_none_or(|second| second == query.second()) {
            element(&mut xml, tag, &name(query.text(given)));
        }
    }
    if query.second() {
        if query.has("continuation-token") {
            element(
                &mut xml,
                "ContinuationToken",
                query.text("continuation-token"),
            );
        }
        element(
            &mut xml,
            "KeyCount",
            &(found.objects.len() + found.prefixes.len()).to_string(),
        );
    }
    if let Some(next) = &found.next {
        if query.second() {
            element(&mut xml, "NextContinuationToken", &token(next));
        } else {
            element(&mut xml, "NextMarker", &name(next));
        }
    }
    found.write(&query, &mut xml);
    xml.push_str("</ListBucketResult>");
    xml
}

/// Text as XML takes it; line ends too, which a parser would otherwise change.
pub(super) fn escape(text: &str) -> Cow<'_, str> {
    if !text.contains(['&', '<', '>', '"', '\'', '\r', '\n', '\t']) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            '\r' => escaped.push_str("&#13;"),
            '\n' => escaped.push_str("&#10;"),
            '\t' => escaped.push_str("&#9;"),
            other => escaped.push(other),
        }
    }
    Cow::Owned(escaped)
}

const HEAD: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n";
const NAMESPACE: &str = "http://s3.amazonaws.com/doc/2006-03-01/";

/// The query's parameters, decoded; `+` is a space in a query.
struct Query(BTreeMap<String, String>);

impl Query {
    fn parse(query: &str) -> Self {
        let decode = |text: &str| {
            percent_decode_str(&text.replace('+', " "))
                .decode_utf8_lossy()
                .into_owned()
        };
        let pairs = query
            .split('&')
            .filter(|pair| !pair.is_empty())
            .map(|pair| {
                let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                (decode(name), decode(value))
            });
        Self(pairs.collect())
    }

    fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    fn text(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    fn second(&self) -> bool {
        self.text("list-type") == "2"
    }

    fn most(&self) -> usize {
        self.text("max-keys").parse().unwrap_or(MOST).min(MOST)
    }

    /// A key, prefix or marker as the client wants it written.
    fn name(&self, text: &str) -> String {
        if self.text("encoding-type") == "url" {
            utf8_percent_encode(text, KEPT).to_string()
        } else {
            text.to_owned()
        }
    }

    /// What the page begins after, and whether it is an item of a page before (then keys below it are skipped too
    /// if it is a common prefix).
    fn after(&self) -> (String, bool) {
        if !self.second() {
            return (self.text("marker").to_owned(), true);
        }
        if self.has("continuation-token") {
            let token = self.text("continuation-token");
            return (
                percent_decode_str(token).decode_utf8_lossy().into_owned(),
                true,
            );
        }
        (self.text("start-after").to_owned(), false)
    }
}

/// A continuation token: opaque to clients, and free of anything that XML or a query would touch.
fn token(next: &str) -> String {
    utf8_percent_encode(next, NON_ALPHANUMERIC).to_string()
}

/// One page.
struct Found<'a> {
    objects: Vec<&'a Object>,
    prefixes: Vec<&'a str>,
    /// The last item, if there are more.
    next: Option<String>,
}

impl<'a> Found<'a> {
    fn collect(query: &Query, objects: &'a BTreeMap<String, Object>) -> Self {
        let (prefix, delimiter) = (query.text("prefix"), query.text("delimiter"));
        let (after, item) = query.after();
        let mut found = Self {
            objects: Vec::new(),
            prefixes: Vec::new(),
            next: None,
        };
        let mut last: Option<&str> = None;
        let begin = if after.as_str() < prefix {
            Bound::Included(prefix)
        } else {
            Bound::Excluded(after.as_str())
        };
        let keys = objects.range::<str, _>((begin, Bound::Unbounded));
        for (key, object) in keys.take_while(|(key, _)| key.starts_with(prefix)) {
            let common = common_prefix(key, prefix, delimiter);
            let seen = common.is_some_and(|common| {
                found.prefixes.last() == Some(&common) || (item && common == after.as_str())
            });
            if seen {
                continue;
            }
            if found.objects.len() + found.prefixes.len() == query.most() {
                found.next = last.map(str::to_owned);
                break;
            }
            match common {
                Some(common) => found.prefixes.push(common),
                None => found.objects.push(object),
            }
            last = Some(common.unwrap_or(key));
        }
        found
    }

    fn write(&self, query: &Query, xml: &mut String) {
        for object in &self.objects {
            xml.push_str("<Contents>");
            element(xml, "Key", &query.name(&object.key));
            let modified = DateTime::<Utc>::from(object.modified);
            element(
                xml,
                "LastModified",
                &modified.to_rfc3339_opts(SecondsFormat::Millis, true),
            );
            element(xml, "ETag", &object.etag());
            element(xml, "Size", &object.size.to_string());
            xml.push_str("<StorageClass>STANDARD</StorageClass></Contents>");
        }
        for prefix in &self.prefixes {
            xml.push_str("<CommonPrefixes>");
            element(xml, "Prefix", &query.name(prefix));
            xml.push_str("</CommonPrefixes>");
        }
    }
}

fn common_prefix<'a>(key: &'a str, prefix: &str, delimiter: &str) -> Option<&'a str> {
    if delimiter.is_empty() {
        return None;
    }
    let at = key[prefix.len()..].find(delimiter)?;
    Some(&key[..prefix.len() + at + delimiter.len()])
}

fn element(xml: &mut String, tag: &str, text: &str) {
    // Writing to a String cannot fail.
    let _ = write!(xml, "<{tag}>{}</{tag}>", escape(text));
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    fn objects(keys: &[&str]) -> BTreeMap<String, Object> {
        let object = |key: &&str| Object {
            key: (*key).to_owned(),
            size: 1,
            version: 0,
            modified: SystemTime::now(),
        };
        keys.iter()
            .map(|key| ((*key).to_owned(), object(key)))
            .collect()
    }

    fn all(xml: &str, tag: &str) -> Vec<String> {
        let (open, close) = (format!("<{tag}>"), format!("</{tag}>"));
        xml.split(&open)
            .skip(1)
            .map(|rest| rest.split(&close).next().unwrap_or("").to_owned())
            .collect()
    }

    /// Pages through a listing as a client does, and gives every item in order.
    fn walk(query: &str, next: (&str, &str), objects: &BTreeMap<String, Object>) -> Vec<String> {
        let mut items = Vec::new();
        let mut more = String::new();
        loop {
            let xml = page("bucket", &format!("{query}{more}"), objects);
            for item in all(&xml, "Contents") {
                items.extend(all(&item, "Key"));
            }
            for item in all(&xml, "CommonPrefixes") {
                items.extend(all(&item, "Prefix"));
            }
            if all(&xml, "IsTruncated") != ["true"] {
                return items;
            }
            let token = utf8_percent_encode(&all(&xml, next.0)[0], NON_ALPHANUMERIC).to_string();
            more = format!("&{}={token}", next.1);
        }
    }

    const KEYS: [&str; 7] = ["a b+c%2Fd", "a/", "a//b", "a/x", "b/1", "b/2", "ü"];

    #[test]
    fn pages_of_any_size_give_every_key_once() {
        let objects = objects(&KEYS);
        for most in 1..8 {
            let second = walk(
                &format!("list-type=2&max-keys={most}"),
                ("NextContinuationToken", "continuation-token"),
                &objects,
            );
            let first = walk(
                &format!("max-keys={most}"),
                ("NextMarker", "marker"),
                &objects,
            );
            assert_eq!(second, KEYS);
            assert_eq!(first, KEYS);
        }
    }

    #[test]
    fn a_delimiter_folds_keys_into_prefixes_once() {
        let objects = objects(&KEYS);
        for most in 1..6 {
            let query = format!("list-type=2&delimiter=/&max-keys={most}");
            let mut items = walk(
                &query,
                ("NextContinuationToken", "continuation-token"),
                &objects,
            );
            items.sort();
            assert_eq!(items, ["a b+c%2Fd", "a/", "b/", "ü"]);
        }
        let items = walk("list-type=2&delimiter=%2F&prefix=a/", ("", ""), &objects);
        assert_eq!(items, ["a/", "a/x", "a//"]);
    }

    #[test]
    fn start_after_and_encoding_are_honoured() {
        let objects = objects(&KEYS);
        assert_eq!(
            walk("list-type=2&start-after=b/1", ("", ""), &objects),
            ["b/2", "ü"]
        );
        let encoded = walk(
            "list-type=2&encoding-type=url&prefix=a+b",
            ("", ""),
            &objects,
        );
        assert_eq!(encoded, ["a%20b%2Bc%252Fd"]);
    }

    #[test]
    fn max_keys_0_is_an_empty_page() {
        let xml = page("bucket", "list-type=2&max-keys=0", &objects(&KEYS));
        assert_eq!(all(&xml, "IsTruncated"), ["false"]);
        assert_eq!(all(&xml, "KeyCount"), ["0"]);
    }

    #[test]
    fn markup_in_keys_is_escaped() {
        let xml = page("bucket", "", &objects(&["<&>\n"]));
        assert_eq!(all(&xml, "Key"), ["&lt;&amp;&gt;&#10;"]);
    }
}
