//! What S3 origins answer in XML: listings (ListObjects V1 and V2, and Alibaba OSS's same shape).
//!
//! Nothing in an answer is trusted: its length, depth and number of entries are bounded, a document type is
//! refused, and whatever cannot be read is an error. Elements may come in any order, as S3's own do.

use std::borrow::Cow;
use std::time::SystemTime;

use chrono::DateTime;
use percent_encoding::percent_decode_str;
use quick_xml::Reader;
use quick_xml::encoding::EncodingError;
use quick_xml::escape::resolve_xml_entity;
use quick_xml::events::{BytesRef, Event};

use crate::listing::{ListPage, ListedObject};

/// Longest answer that is read, in bytes: 1000 keys of 1024 bytes, each byte as an entity of up to 6, and 600
/// bytes of other fields for each come to 6.4 MiB.
pub(crate) const MAX_BODY_BYTES: usize = 8 << 20;

/// Most entries of one page. S3 stops at 1000; servers that count keys and prefixes apart at twice that.
const MAX_ENTRIES: usize = 2000;

/// Deepest nesting; S3's own is 4 (`ListBucketResult/Contents/Owner/ID`).
const MAX_DEPTH: usize = 8;

/// A listing's page as an origin answered it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ParsedList {
    /// The page; its `next` is `next_token`, else `next_marker`.
    pub(crate) page: ListPage,
    /// `continuation-token` of the next page (V2).
    pub(crate) next_token: Option<String>,
    /// `marker` of the next page (V1): as answered, or the greatest entry of a truncated page that names
    /// neither token nor marker, as S3 does where no delimiter was given.
    pub(crate) next_marker: Option<String>,
}

/// An XML answer that cannot be used: the origin's fault, and the same for every reason.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the origin's XML answer cannot be used: {reason}")]
pub(crate) struct BadXml {
    reason: Cow<'static, str>,
}

impl BadXml {
    fn new(reason: impl Into<Cow<'static, str>>) -> Self {
        Self {
            reason: reason.into(),
        }
    }
}

impl From<quick_xml::Error> for BadXml {
    fn from(error: quick_xml::Error) -> Self {
        Self::new(error.to_string())
    }
}

impl From<EncodingError> for BadXml {
    fn from(error: EncodingError) -> Self {
        Self::new(error.to_string())
    }
}

/// Reads a `ListBucketResult`, V1 or V2; with `encoding-type=url` its keys and prefixes are decoded.
///
/// # Errors
/// [`BadXml`] when the answer is too long, not XML, not a listing, or lacks what every entry must have.
pub(crate) fn parse_list(body: &[u8]) -> Result<ParsedList, BadXml> {
    let mut raw = RawList::default();
    walk(body, "ListBucketResult", |path, text| {
        raw.element(path, text)
    })?;
    raw.finish()
}

/// A listing while it is read: texts not decoded yet, as `EncodingType` may come last.
#[derive(Default)]
struct RawList {
    url_encoded: bool,
    truncated: bool,
    next_token: Option<String>,
    next_marker: Option<String>,
    prefixes: Vec<String>,
    objects: Vec<ListedObject>,
    entry: Entry,
}

/// The `Contents` element being read.
#[derive(Default)]
struct Entry {
    key: Option<String>,
    size: Option<u64>,
    etag: Option<String>,
    last_modified: Option<SystemTime>,
    storage_class: Option<String>,
}

impl RawList {
    /// Takes the element at `path` (below the root) that has just ended, and its own text.
    fn element(&mut self, path: &str, text: String) -> Result<(), BadXml> {
        match path {
            "EncodingType" => self.url_encoded = text.trim().eq_ignore_ascii_case("url"),
            "IsTruncated" => self.truncated = boolean(&text)?,
            "NextContinuationToken" => self.next_token = non_empty(text),
            "NextMarker" => self.next_marker = non_empty(text),
            "CommonPrefixes/Prefix" => self.prefixes.push(text),
            "Contents/Key" => self.entry.key = non_empty(text),
            "Contents/Size" => self.entry.size = Some(size(&text)?),
            "Contents/ETag" => self.entry.etag = quoted(text.trim()),
            "Contents/LastModified" => self.entry.last_modified = time(text.trim()),
            "Contents/StorageClass" => self.entry.storage_class = non_empty(text),
            "Contents" => {
                let object = std::mem::take(&mut self.entry).finish()?;
                self.objects.push(object);
            }
            _ => {}
        }
        if self.objects.len() + self.prefixes.len() > MAX_ENTRIES {
            return Err(BadXml::new("the page has more entries than S3 allows"));
        }
        Ok(())
    }

    fn finish(mut self) -> Result<ParsedList, BadXml> {
        if self.url_encoded {
            let keys = self.objects.iter_mut().map(|object| &mut object.key);
            for text in keys.chain(&mut self.prefixes).chain(&mut self.next_marker) {
                *text = url_decode(text)?;
            }
        }
        let page = ListPage {
            objects: self.objects,
            prefixes: self.prefixes,
            next: None,
        };
        let mut list = ParsedList {
            page,
            next_token: None,
            next_marker: None,
        };
        if self.truncated {
            list.next_token = self.next_token;
            list.next_marker = self.next_marker;
            if list.next_token.is_none() && list.next_marker.is_none() {
                list.next_marker = list.page.greatest().map(str::to_owned);
            }
            list.page.next = list.next_token.clone().or_else(|| list.next_marker.clone());
            if list.page.next.is_none() {
                return Err(BadXml::new(
                    "the page is truncated and does not say where to go on",
                ));
            }
        }
        Ok(list)
    }
}

impl Entry {
    fn finish(self) -> Result<ListedObject, BadXml> {
        Ok(ListedObject {
            key: self.key.ok_or_else(|| BadXml::new("an entry has no key"))?,
            size: self
                .size
                .ok_or_else(|| BadXml::new("an entry has no size"))?,
            etag: self.etag,
            last_modified: self.last_modified,
            storage_class: self.storage_class,
        })
    }
}

/// Calls `ended` for each element below `root` when it ends, with its path and the text since the last tag.
pub(super) fn walk(
    body: &[u8],
    root: &str,
    mut ended: impl FnMut(&str, String) -> Result<(), BadXml>,
) -> Result<(), BadXml> {
    if body.len() > MAX_BODY_BYTES {
        return Err(BadXml::new("it is longer than any page of S3's"));
    }
    let body = std::str::from_utf8(body).map_err(|_| BadXml::new("it is not UTF-8"))?;
    let mut reader = Reader::from_str(body.trim_start_matches('\u{feff}'));
    reader.config_mut().expand_empty_elements = true;
    let mut open = OpenElements::default();
    let mut text = String::new();
    let mut root_seen = false;
    loop {
        match reader.read_event()? {
            Event::Start(tag) => {
                let name = tag.local_name();
                if open.names.is_empty() && (root_seen || name.as_ref() != root.as_bytes()) {
                    return Err(BadXml::new(format!("its root is not one {root}")));
                }
                root_seen = true;
                open.push(&String::from_utf8_lossy(name.as_ref()))?;
                text.clear();
            }
            Event::End(_) => {
                ended(open.path(), std::mem::take(&mut text))?;
                open.pop();
            }
            Event::Text(part) => text.push_str(&part.xml10_content()?),
            Event::CData(part) => text.push_str(&part.xml10_content()?),
            Event::GeneralRef(reference) => push_reference(&mut text, &reference)?,
            Event::DocType(_) => return Err(BadXml::new("it declares a document type")),
            Event::Eof if open.names.is_empty() && root_seen => return Ok(()),
            Event::Eof => return Err(BadXml::new("it ends too early")),
            Event::Empty(_) | Event::Decl(_) | Event::PI(_) | Event::Comment(_) => {}
        }
    }
}

/// The elements that are open, from the root down.
#[derive(Default)]
struct OpenElements {
    /// For each element the length of `joined` without it.
    names: Vec<usize>,
    joined: String,
}

impl OpenElements {
    fn push(&mut self, name: &str) -> Result<(), BadXml> {
        if self.names.len() == MAX_DEPTH {
            return Err(BadXml::new("its elements are nested too deep"));
        }
        self.names.push(self.joined.len());
        // The root is left out of the path, and so is the slash before its children.
        if self.names.len() > 2 {
            self.joined.push('/');
        }
        if self.names.len() > 1 {
            self.joined.push_str(name);
        }
        Ok(())
    }

    fn pop(&mut self) {
        self.joined.truncate(self.names.pop().unwrap_or_default());
    }

    fn path(&self) -> &str {
        &self.joined
    }
}

fn push_reference(text: &mut String, reference: &BytesRef<'_>) -> Result<(), BadXml> {
    if let Some(character) = reference.resolve_char_ref()? {
        text.push(character);
        return Ok(());
    }
    let name = reference.decode()?;
    let entity =
        resolve_xml_entity(&name).ok_or_else(|| BadXml::new("it uses an unknown entity"))?;
    text.push_str(entity);
    Ok(())
}

fn non_empty(text: String) -> Option<String> {
    if text.is_empty() { None } else { Some(text) }
}

fn boolean(text: &str) -> Result<bool, BadXml> {
    match text.trim() {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(BadXml::new("IsTruncated is neither true nor false")),
    }
}

fn size(text: &str) -> Result<u64, BadXml> {
    text.trim()
        .parse()
        .map_err(|_| BadXml::new("an entry's size is not a number"))
}

/// The entity tag with its quotes, which some servers leave out here and send with the object.
fn quoted(etag: &str) -> Option<String> {
    match etag {
        "" => None,
        _ if etag.ends_with('"') => Some(etag.to_owned()),
        _ => Some(format!("\"{etag}\"")),
    }
}

/// A time that cannot be read is as good as none: no answer depends on it.
fn time(text: &str) -> Option<SystemTime> {
    DateTime::parse_from_rfc3339(text)
        .ok()
        .map(SystemTime::from)
}

/// Decodes S3's url encoding, in which `+` is a space.
fn url_decode(text: &str) -> Result<String, BadXml> {
    let spaced = text.replace('+', " ");
    let decoded = percent_decode_str(&spaced).decode_utf8();
    decoded
        .map(Cow::into_owned)
        .map_err(|_| BadXml::new("a key is not UTF-8 once decoded"))
}

#[cfg(test)]
mod tests;
