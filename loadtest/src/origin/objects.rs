//! What the model holds: keys, sizes and versions; bytes are made when asked for.

use std::time::SystemTime;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use crc_fast::CrcAlgorithm;

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

    /// S3's checksum of all of it, in base64; made when it is asked for.
    pub fn crc64nvme(&self) -> String {
        let (seed, mut crc) = (self.seed(), crc_fast::Digest::new(CrcAlgorithm::Crc64Nvme));
        let mut bytes = vec![0; 1 << 20];
        let mut offset = 0;
        while offset < self.size {
            let some = usize::try_from(self.size - offset).unwrap_or(usize::MAX);
            let bytes = &mut bytes[..some.min(1 << 20)];
            pattern::fill(seed, offset, bytes);
            crc.update(bytes);
            offset += bytes.len() as u64;
        }
        BASE64_STANDARD.encode(crc.finalize().to_be_bytes())
    }

    /// Its Last-Modified as HTTP writes it, to the second.
    pub(super) fn last_modified(&self) -> String {
        httpdate::fmt_http_date(self.modified)
    }
}
