//! A revision: which keys there are, and which version of each.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, OnceLock};

use forebay_storage::listing::{ListPage, ListRequest, ListedObject, Start, page};
use forebay_storage::object::ObjectId;
use forebay_storage::version::{Version, VersionKey};
use http::{HeaderMap, HeaderValue, header};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

use crate::dataset::Dataset;
use crate::dialect::target::MAX_KEY_BYTES;

/// No id is longer.
const LONGEST_ID: usize = 64;

/// A manifest of keys with their versions.
#[derive(Clone, Debug)]
pub struct Revision {
    /// What it is called.
    pub id: String,
    keys: BTreeMap<String, Pinned>,
}

/// The version of one key.
#[derive(Clone, Debug)]
pub struct Pinned {
    /// Its ETag, as its origin writes it.
    pub etag: String,
    /// Its bytes.
    pub size: u64,
    /// All that its origin says of it, once that is known.
    version: OnceLock<Arc<Version>>,
}

/// A manifest as it is written.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Written {
    #[serde(default)]
    id: Option<String>,
    keys: Vec<Line>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    key: String,
    etag: String,
    size: u64,
}

impl Revision {
    /// That of a manifest.
    ///
    /// # Errors
    /// The sentence that says what is wrong with it.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        let written: Written = serde_json::from_slice(text).map_err(|error| {
            format!(
                "the manifest can't be read ({error}): it is JSON like \
                 {{\"id\":\"v2\",\"keys\":[{{\"key\":\"a\",\"etag\":\"\\\"x\\\"\",\"size\":1}}]}}"
            )
        })?;
        let revision = Self::of(written)?;
        revision.judge()?;
        Ok(revision)
    }

    /// Whether each of its keys can be read, and all of it counted.
    fn judge(&self) -> Result<(), String> {
        for key in self.keys.keys() {
            let dots = key.split('/').any(|part| matches!(part, "." | ".."));
            if dots || key.len() > MAX_KEY_BYTES || key.contains('\0') {
                return Err(format!(
                    "the manifest has the key {key:.80?}: a key has at most {MAX_KEY_BYTES} bytes, no zero byte, and \
                     neither . nor .. between its slashes"
                ));
            }
        }
        let mut sizes = self.keys.values().map(|pinned| pinned.size);
        match sizes.try_fold(0, u64::checked_add) {
            Some(_) => Ok(()),
            None => Err(
                "the manifest's sizes come to more than 2^64 bytes: no object is so large".into(),
            ),
        }
    }

    pub(super) fn of(written: Written) -> Result<Self, String> {
        if written.keys.is_empty() {
            return Err("the manifest names no keys: a revision has at least one".into());
        }
        let mut keys = BTreeMap::new();
        for Line { key, etag, size } in written.keys {
            if key.is_empty() {
                return Err("the manifest has a key without a name".into());
            }
            let etag = strong(&etag).ok_or_else(|| {
                format!("the ETag of {key:?} is {etag:?}: a revision needs strong ones, as their origin writes them")
            })?;
            let version = OnceLock::new();
            let pinned = Pinned {
                etag,
                size,
                version,
            };
            if keys.insert(key.clone(), pinned).is_some() {
                return Err(format!("the manifest names {key:?} twice"));
            }
        }
        let mut revision = Self {
            id: String::new(),
            keys,
        };
        revision.id = match written.id {
            Some(id) => id,
            None => revision.digest(),
        };
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let id = &revision.id;
        if id.is_empty() || id.len() > LONGEST_ID || !id.bytes().all(plain) {
            return Err(format!(
                "the manifest's id {id:?} is no name: 1 to {LONGEST_ID} letters, digits, dots, dashes and underscores"
            ));
        }
        Ok(revision)
    }

    pub(super) fn written(&self) -> Written {
        let keys = self.keys.iter().map(|(key, pinned)| Line {
            key: key.clone(),
            etag: pinned.etag.clone(),
            size: pinned.size,
        });
        Written {
            id: Some(self.id.clone()),
            keys: keys.collect(),
        }
    }

    fn digest(&self) -> String {
        // Texts and numbers always serialise.
        let text = serde_json::to_vec(&self.written().keys).unwrap_or_default();
        format!("{:016x}", xxh3_128(&text) >> 64)
    }

    /// Whether both are of the same keys in the same versions.
    pub fn is_same(&self, other: &Self) -> bool {
        let one =
            |(key, pinned): (&String, &Pinned)| (key.clone(), pinned.etag.clone(), pinned.size);
        self.keys.iter().map(one).eq(other.keys.iter().map(one))
    }

    /// Takes over what is known of versions that both have.
    pub(super) fn learn(&self, other: &Self) {
        for (key, pinned) in &self.keys {
            let known = other.keys.get(key);
            let known =
                known.filter(|known| known.etag == pinned.etag && known.size == pinned.size);
            if let Some(version) = known.and_then(|known| known.version.get()) {
                let _ = pinned.version.set(Arc::clone(version));
            }
        }
    }

    /// The version of a key; `None`: there is no such key in it.
    pub fn get(&self, key: &str) -> Option<&Pinned> {
        self.keys.get(key)
    }

    /// Its keys.
    pub fn keys(&self) -> impl Iterator<Item = (&str, &Pinned)> {
        self.keys.iter().map(|(key, pinned)| (&**key, pinned))
    }

    /// How many keys, and their bytes.
    pub fn size(&self) -> (usize, u64) {
        let sizes = self.keys.values().map(|pinned| pinned.size);
        (self.keys.len(), sizes.fold(0, u64::saturating_add))
    }

    /// A page of the list of its keys.
    pub fn page(&self, request: &ListRequest) -> ListPage {
        // A page costs what is on it, wherever it begins.
        let first = match &request.start {
            Start::Beginning => request.prefix.as_str(),
            Start::After(last) | Start::Marker(last) | Start::Token(last) => {
                last.as_str().max(&request.prefix)
            }
        };
        let following = (Bound::Included(first), Bound::Unbounded);
        let keys = self.keys.range::<str, _>(following);
        let objects = keys.map(|(key, pinned)| ListedObject {
            key: key.clone(),
            size: pinned.size,
            etag: Some(pinned.etag.clone()),
            last_modified: pinned
                .version
                .get()
                .and_then(|version| version.last_modified()),
            storage_class: None,
        });
        page(objects, request)
    }
}

impl Pinned {
    /// The version as far as the manifest tells it. `None`: it is larger than any object can be.
    pub fn bare(&self, dataset: &Dataset, key: &str) -> Option<Version> {
        let object = ObjectId::new(Arc::clone(&dataset.name), key);
        let etag = HeaderValue::try_from(&self.etag).ok()?;
        let headers = HeaderMap::from_iter([(header::ETAG, etag)]);
        dataset.origin.describe(&object, self.size, &headers).ok()
    }

    /// All that is known of it.
    pub fn known(&self) -> Option<&Arc<Version>> {
        self.version.get()
    }

    /// Notes what its origin says of it, if that is the version `key`.
    pub fn learn(&self, version: &Arc<Version>, key: VersionKey) -> bool {
        let same = version.key == key;
        if same {
            // Others may have learnt it meanwhile.
            let _ = self.version.set(Arc::clone(version));
        }
        same
    }
}

/// A strong ETag with its quotes.
fn strong(etag: &str) -> Option<String> {
    let inner = match etag.strip_prefix('"') {
        Some(rest) => rest.strip_suffix('"')?,
        None => etag,
    };
    let plain = |byte: u8| byte == 0x21 || (0x23..=0x7e).contains(&byte);
    (!inner.is_empty() && !inner.starts_with("W/") && inner.bytes().all(plain))
        .then(|| format!("\"{inner}\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_manifest_is_refused_with_a_sentence() {
        for text in [
            "",
            "[]",
            "{}",
            r#"{"keys":[]}"#,
            r#"{"keys":[{"key":"a","size":1}]}"#,
            r#"{"keys":[{"key":"","etag":"x","size":1}]}"#,
            r#"{"keys":[{"key":"a","etag":"W/\"x\"","size":1}]}"#,
            r#"{"keys":[{"key":"a","etag":"\"x","size":1}]}"#,
            r#"{"keys":[{"key":"a","etag":"x","size":-1}]}"#,
            r#"{"keys":[{"key":"a","etag":"x","size":1},{"key":"a","etag":"y","size":1}]}"#,
            r#"{"keys":[{"key":"../x","etag":"x","size":1}]}"#,
            r#"{"keys":[{"key":"a\u0000","etag":"x","size":1}]}"#,
            r#"{"keys":[{"key":"a","etag":"x","size":18446744073709551615},{"key":"b","etag":"x","size":1}]}"#,
            r#"{"id":"a b","keys":[{"key":"a","etag":"x","size":1}]}"#,
            r#"{"colour":1,"keys":[{"key":"a","etag":"x","size":1}]}"#,
        ] {
            let sentence = Revision::parse(text.as_bytes()).expect_err(text);
            assert!(sentence.contains(' '), "{text}: {sentence}");
        }
    }

    #[test]
    fn a_manifest_without_an_id_is_named_by_what_it_says() {
        let one =
            r#"{"keys":[{"key":"b","etag":"x","size":1},{"key":"a","etag":"\"y\"","size":2}]}"#;
        let other =
            r#"{"keys":[{"key":"a","etag":"y","size":2},{"key":"b","etag":"\"x\"","size":1}]}"#;
        let third =
            r#"{"keys":[{"key":"a","etag":"y","size":3},{"key":"b","etag":"\"x\"","size":1}]}"#;
        let [one, other, third] =
            [one, other, third].map(|text| Revision::parse(text.as_bytes()).expect("it is one"));
        assert_eq!(one.id, other.id);
        assert!(one.is_same(&other) && !one.is_same(&third));
        assert_ne!(one.id, third.id);
        assert_eq!(one.size(), (2, 3));
    }
}
