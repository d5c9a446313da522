//! What the model holds: keys, sizes and versions; bytes are made when asked for.

use std::time::SystemTime;

use crate::pattern;

/// One version of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Its key: any UTF-8.
    pub key: String,
    /// Its bytes.
    pub size: u64,
    /// Its version: with the key, what its bytes are made from.
    pub version: u64,
    /// When it was put.
    pub modified: SystemTime,
}

impl Object {
    /// The seed of its bytes, for [`pattern::check`].
    pub fn seed(&self) -> u64 {
        pattern::seed(&self.key, self.version)
    }

    /// Its strong ETag, with quotes.
    pub fn etag(&self) -> String {
        pattern::etag(&self.key, self.version, self.size)
    }

    /// Its Last-Modified as HTTP writes it, to the second.
    pub(super) fn last_modified(&self) -> String {
        httpdate::fmt_http_date(self.modified)
    }
}
