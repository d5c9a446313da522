//! Listings of keys: what is asked, what a page holds, and the roll-up of sorted keys into pages as S3 does
//! it, for origins that know nothing but flat keys.

use std::time::SystemTime;

/// One page of a listing, as asked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ListRequest {
    /// Only keys that begin with this.
    pub prefix: String,
    /// Keys that hold this after the prefix are rolled up into one common prefix, which ends with it. Never
    /// empty.
    pub delimiter: Option<String>,
    /// Where the page begins.
    pub start: Start,
    /// Most keys and common prefixes together; with 0 the page is empty and the last.
    pub max_keys: usize,
}

/// Where a page of a listing begins.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Start {
    /// At the first key.
    Beginning,
    /// At the first key greater than this (`start-after` of ListObjectsV2).
    After(String),
    /// At the first key greater than this that is not rolled up into it (`marker` of ListObjects V1, which may
    /// be a common prefix of the page before).
    Marker(String),
    /// Where the page before ended: its [`ListPage::next`], which only its origin understands.
    Token(String),
}

/// One object in a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedObject {
    /// The object's key.
    pub key: String,
    /// The object's size in bytes.
    pub size: u64,
    /// The entity tag, with its quotes.
    pub etag: Option<String>,
    /// When the object was last modified.
    pub last_modified: Option<SystemTime>,
    /// The storage class in the origin's own words.
    pub storage_class: Option<String>,
}

/// One page of a listing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListPage {
    /// Objects, ascending by the UTF-8 bytes of their keys.
    pub objects: Vec<ListedObject>,
    /// Common prefixes, ascending by their UTF-8 bytes.
    pub prefixes: Vec<String>,
    /// For [`Start::Token`] of the next page; `None` on the last one.
    pub next: Option<String>,
}

impl ListPage {
    /// The greatest key or common prefix of the page: where ListObjects V1 goes on.
    pub fn greatest(&self) -> Option<&str> {
        let key = self.objects.last().map(|object| object.key.as_str());
        key.max(self.prefixes.last().map(String::as_str))
    }
}

/// Makes one page out of all of an origin's objects, ascending by the UTF-8 bytes of their keys.
///
/// Takes no more from `keys` than it needs to know that the page is full and not the last. The page's token is
/// its greatest key or common prefix, so any text is a valid token and a listing goes on in the right place
/// even when that key is gone.
pub fn page(keys: impl Iterator<Item = ListedObject>, request: &ListRequest) -> ListPage {
    let mut page = ListPage::default();
    if request.max_keys == 0 {
        return page;
    }
    for object in keys {
        if !object.key.starts_with(&request.prefix) {
            if object.key > request.prefix {
                break;
            }
            continue;
        }
        let rolled = rolled_up(&object.key, request);
        if before_start(&object.key, rolled, &request.start) {
            continue;
        }
        if rolled.is_some() && rolled == page.prefixes.last().map(String::as_str) {
            continue;
        }
        if page.objects.len() + page.prefixes.len() == request.max_keys {
            page.next = page.greatest().map(str::to_owned);
            break;
        }
        match rolled {
            Some(prefix) => page.prefixes.push(prefix.to_owned()),
            None => page.objects.push(object),
        }
    }
    page
}

/// The common prefix that a key, which has the request's prefix, is rolled up into.
fn rolled_up<'a>(key: &'a str, request: &ListRequest) -> Option<&'a str> {
    let delimiter = request
        .delimiter
        .as_deref()
        .filter(|delimiter| !delimiter.is_empty())?;
    let found = key[request.prefix.len()..].find(delimiter)?;
    Some(&key[..request.prefix.len() + found + delimiter.len()])
}

fn before_start(key: &str, rolled: Option<&str>, start: &Start) -> bool {
    match start {
        Start::Beginning => false,
        Start::After(last) => key <= last.as_str(),
        // A token is a key or a common prefix, as a marker is, and no entry of one listing can be both.
        Start::Marker(last) | Start::Token(last) => {
            key <= last.as_str() || rolled == Some(last.as_str())
        }
    }
}

#[cfg(test)]
mod tests;
