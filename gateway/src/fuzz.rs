//! What a fuzzer calls: everything here that reads what clients write, and the settings file.
//!
//! Built for tests and fuzzers only. The targets in `fuzz/` call these, and the test below replays their corpora on
//! every run, without a fuzzer.

use std::time::{Duration, UNIX_EPOCH};

use forebay_storage::listing::ListPage;
use http::{HeaderMap, HeaderValue, Method, Uri, header};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use crate::dialect::conditions::{self, Current, Verdict};
use crate::dialect::range::{self, Hint, MAX_RANGES, Ranges};
use crate::dialect::s3::error::S3Error;
use crate::dialect::s3::list::ListAsked;
use crate::dialect::s3::query::{self, ResponseOverrides};
use crate::dialect::target::{MAX_KEY_BYTES, Place, Target};
use crate::dialect::{head, multipart};

pub use crate::access::signature;
pub use crate::settings::settings;

/// A function that a fuzzer calls with bytes of its own; it panics where something does not hold.
pub type Judge = fn(&[u8]);

/// The targets by name, which is also the name of the corpus.
pub const TARGETS: [(&str, Judge); 5] = [
    ("range", range),
    ("target", target),
    ("conditions", conditions),
    ("settings", settings),
    ("signature", signature),
];

/// Judges a `Range` against the size in the first eight bytes.
///
/// # Panics
/// If a range lies outside of the object, or two of them overlap or touch.
pub fn range(bytes: &[u8]) {
    let Some((size, header)) = bytes.split_first_chunk() else {
        return;
    };
    let size = u64::from_le_bytes(*size);
    let Ok(value) = HeaderValue::from_bytes(header) else {
        return;
    };
    let hint = range::first_hint(Some(&value));
    let ranges = match range::judge(Some(&value), size) {
        Ranges::Whole => return,
        Ranges::Unsatisfiable => Vec::new(),
        Ranges::One(range) => vec![range],
        Ranges::Several(ranges) => {
            assert!((2..=MAX_RANGES).contains(&ranges.len()));
            ranges
        }
    };
    assert_ne!(hint, Hint::None, "what is judged was understood before");
    for range in &ranges {
        assert!(range.first <= range.last && range.last < size);
    }
    let mut sorted = ranges.clone();
    sorted.sort_unstable_by_key(|range| range.first);
    for pair in sorted.windows(2) {
        assert!(pair[0].last + 1 < pair[1].first);
    }
    let framing = multipart::frame(&ranges, size, None, "boundary");
    assert_eq!(framing.parts.len(), ranges.len());
}

/// Reads a request target, and all that its query may say.
///
/// # Panics
/// If what it names, encoded anew, is read as something else, or an answer is not XML.
pub fn target(bytes: &[u8]) {
    let _ = head::is_host(bytes);
    let Ok(uri) = Uri::try_from(bytes) else {
        return;
    };
    let Ok(target) = Target::parse(&uri) else {
        return;
    };
    if let Place::Object { key, .. } = &target.place {
        assert!((1..=MAX_KEY_BYTES).contains(&key.len()) && !key.contains('\0'));
    }
    // What is longer than a URI may be can't be read again.
    if let Ok(uri) = written(&target).parse() {
        let again = Target::parse(&uri).expect("it was read before");
        assert_eq!((&again.place, &again.query), (&target.place, &target.query));
    }
    let query = &target.query;
    let mut errors = Vec::new();
    errors.extend(query::unsupported(query, &target.place).map(S3Error::not_implemented));
    match ResponseOverrides::parse(query) {
        Ok(overrides) => overrides.apply(&mut HeaderMap::new()),
        Err(error) => errors.push(error),
    }
    match ListAsked::parse(query) {
        Ok(asked) => assert_xml(&asked.xml("models", &ListPage::default())),
        Err(error) => errors.push(error),
    }
    let pairs = query.iter();
    errors.extend(pairs.map(|(name, value)| S3Error::no_such_version("models", name, value)));
    for error in errors {
        assert_xml(&error.xml(uri.path(), "id", "gateway"));
    }
}

fn written(target: &Target) -> String {
    let encode = |text| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    let mut text = match &target.place {
        Place::Root => "/".to_owned(),
        Place::Dataset { name, slash } => {
            format!("/{}{}", encode(name), if *slash { "/" } else { "" })
        }
        Place::Object { dataset, key } => format!("/{}/{}", encode(dataset), encode(key)),
        Place::Ours { rest } => format!("/-/{}", encode(rest)),
    };
    let pairs = target.query.iter();
    let pairs: Vec<_> = pairs
        .map(|(name, value)| format!("{}={}", encode(name), encode(value)))
        .collect();
    if !pairs.is_empty() {
        text.push('?');
        text.push_str(&pairs.join("&"));
    }
    text
}

/// Elements that nest, text that is escaped, characters that XML 1.0 has.
fn assert_xml(text: &str) {
    let mut open = Vec::new();
    let document = text.split_once("?>").map_or("", |(_, document)| document);
    for part in document.trim().split('<').skip(1) {
        let (tag, behind) = part.split_once('>').expect("a tag ends");
        match tag.strip_prefix('/') {
            Some(name) => assert_eq!(open.pop(), Some(name)),
            None => open.push(tag.split(' ').next().unwrap_or_default()),
        }
        assert!(!behind.contains(['>', '\r']));
        assert!(behind.chars().all(|c| c >= ' ' || c == '\t' || c == '\n'));
        for entity in behind.split('&').skip(1) {
            let known = ["amp;", "lt;", "gt;", "quot;", "apos;", "#13;"];
            assert!(known.iter().any(|known| entity.starts_with(known)));
        }
    }
    assert!(open.is_empty());
}

/// Judges conditional fields: on the first line the current tag, on each other one a digit that names the field, and
/// its value.
///
/// # Panics
/// If two of the ways to ask the same disagree.
pub fn conditions(bytes: &[u8]) {
    const FIELDS: [header::HeaderName; 6] = [
        header::IF_MATCH,
        header::IF_NONE_MATCH,
        header::IF_MODIFIED_SINCE,
        header::IF_UNMODIFIED_SINCE,
        header::IF_RANGE,
        header::RANGE,
    ];
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let etag = lines.next().and_then(|line| std::str::from_utf8(line).ok());
    let mut headers = HeaderMap::new();
    for line in lines.take(64) {
        let Some((field, value)) = line.split_first() else {
            continue;
        };
        if let Ok(value) = HeaderValue::from_bytes(value) {
            headers.append(&FIELDS[usize::from(*field) % FIELDS.len()], value);
        }
    }
    let current = Current {
        etag: etag.filter(|etag| !etag.is_empty()),
        // Sun, 06 Nov 1994 08:49:37 GMT, the date of RFC 9110's examples.
        last_modified: Some(UNIX_EPOCH + Duration::from_secs(784_111_777)),
    };
    let now = UNIX_EPOCH + Duration::from_secs(1 << 30);
    let judge = |method| {
        let verdict = conditions::judge(&method, &headers, &current, now);
        let failure = conditions::first_failure(&method, &headers, &current);
        let proceeds = matches!(verdict, Verdict::Proceed { .. });
        assert_eq!(proceeds, failure.is_none());
        verdict
    };
    assert_eq!(judge(Method::GET), judge(Method::HEAD));
    assert_ne!(judge(Method::PUT), Verdict::NotModified);
    if conditions::names_another_version(&headers, &current) {
        assert!(headers.contains_key(header::IF_MATCH) || headers.contains_key(header::IF_RANGE));
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn fuzz_corpus_holds() {
        let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
        for (name, target) in TARGETS {
            let corpus = corpora.join(name);
            let files = std::fs::read_dir(&corpus)
                .unwrap_or_else(|error| panic!("{}: {error}", corpus.display()));
            let mut inputs = 0;
            for file in files {
                let path = file.expect("a directory can be listed").path();
                println!("{}", path.display());
                target(&std::fs::read(&path).expect("a corpus can be read"));
                inputs += 1;
            }
            assert!(inputs > 0, "{name} has no corpus");
        }
    }
}
