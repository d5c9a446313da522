//! Writing objects: what the bytes are, and the ways in which each kind of origin takes them.
//!
//! Nothing is believed to be written because it came with a 200: the origin's own checksum says so
//! ([`Written::verified`]), or whoever wrote it reads it back.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::digest;
use bytes::Bytes;
use futures::TryStreamExt;
use futures::future::BoxFuture;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use object_store::{
    Attribute, Attributes, Error, MultipartUpload, PutMultipartOptions, PutOptions, PutPayload,
    PutResult,
};
use tokio::sync::watch;

use super::answer::{bad, failure};
use super::connect::Exchange;
use super::local::is_plain;
use super::local::write::Draft;
use super::{Kind, Origin, Place, s3_write};
use crate::class::Urgency;
use crate::error::OriginError;
use crate::object::ObjectId;
use crate::version::{Version, VersionKey};

/// Names, in an object's user metadata, the version that it is a copy of. Azure takes letters and digits only.
pub(super) const SOURCE: &str = "forebaysource";

/// The header that carries it.
pub const SOURCE_HEADER: HeaderName = HeaderName::from_static("x-amz-meta-forebaysource");

/// Headers of the source that a copy has too, and what object_store calls them.
const KEPT: [(HeaderName, Attribute); 5] = [
    (header::CONTENT_TYPE, Attribute::ContentType),
    (header::CONTENT_ENCODING, Attribute::ContentEncoding),
    (header::CONTENT_LANGUAGE, Attribute::ContentLanguage),
    (header::CONTENT_DISPOSITION, Attribute::ContentDisposition),
    (header::CACHE_CONTROL, Attribute::CacheControl),
];

/// No object store takes a longer key.
const LONGEST_KEY: usize = 1024;

/// No file system of Linux takes a longer name.
const LONGEST_FILE_NAME: usize = 255;

/// Bytes to be written, and their sum.
#[derive(Clone, Debug)]
pub struct Payload {
    pub(super) chunks: Vec<Bytes>,
    pub(super) sha256: [u8; 32],
}

impl Payload {
    /// Those of `chunks`. Their sum is made here, which takes a moment: 8 MiB some 5 ms.
    pub fn new(chunks: Vec<Bytes>) -> Self {
        Self {
            sha256: s3_write::sha256(&chunks),
            chunks,
        }
    }

    /// How many bytes.
    pub fn len(&self) -> u64 {
        self.chunks.iter().map(|chunk| chunk.len() as u64).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Their SHA-256.
    pub fn sha256(&self) -> [u8; 32] {
        self.sha256
    }

    pub(super) fn md5(&self) -> [u8; 16] {
        s3_write::md5(&self.chunks)
    }

    pub(super) fn put(&self) -> PutPayload {
        self.chunks.iter().cloned().collect()
    }
}

/// What an object says of itself beside its bytes.
#[derive(Clone, Debug, Default)]
pub struct Meta(HeaderMap);

impl Meta {
    /// That of a copy of `version`, which the copy names.
    pub fn of_copy(version: &Version) -> Self {
        let mut headers = HeaderMap::new();
        let kept = KEPT.iter().map(|(name, _)| name);
        for name in kept {
            if let Some(value) = version.headers.get(name) {
                headers.insert(name.clone(), value.clone());
            }
        }
        for (name, value) in &version.headers {
            if name.as_str().starts_with("x-amz-meta-") {
                headers.insert(name.clone(), value.clone());
            }
        }
        if let Ok(value) = HeaderValue::try_from(source_of(version.key)) {
            headers.insert(SOURCE_HEADER, value);
        }
        Self(headers)
    }

    fn source(&self) -> Option<&str> {
        source_in(&self.0)
    }

    fn attributes(&self) -> Attributes {
        let mut attributes = Attributes::new();
        for (name, value) in &self.0 {
            let Ok(value) = value.to_str() else { continue };
            let known = KEPT.iter().find(|(kept, _)| kept == name);
            let meta = name.as_str().strip_prefix("x-amz-meta-");
            let attribute = match (known, meta) {
                (Some((_, attribute)), _) => attribute.clone(),
                (None, Some(name)) => Attribute::Metadata(Cow::Owned(name.to_owned())),
                (None, None) => continue,
            };
            attributes.insert(attribute, value.to_owned().into());
        }
        attributes
    }
}

/// What a copy of a version says that it is one of.
pub fn source_of(version: VersionKey) -> String {
    format!("{:032x}", version.0)
}

/// What an object with these headers says that it is a copy of.
pub fn source_in(headers: &HeaderMap) -> Option<&str> {
    headers.get(SOURCE_HEADER)?.to_str().ok()
}

/// Whether an ETag looks like what S3 makes of an object that was put at once and is not encrypted with a key of its own.
pub fn looks_like_md5(etag: &str) -> bool {
    let etag = etag.trim_matches('"');
    etag.len() == 32 && etag.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// An object is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Written {
    /// Its origin proved by a checksum that it has what was sent. If not, only reading it back does.
    pub verified: bool,
}

/// A part of an upload that its origin has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartDone {
    /// From 1.
    pub number: u32,
    /// Its bytes.
    pub size: u64,
    /// What the origin calls it.
    pub etag: String,
}

/// An object that is being written in parts, which come in any order, several at once.
#[derive(Debug)]
pub struct Upload(Way);

#[derive(Debug)]
enum Way {
    S3 { key: String, id: String },
    Store(Stored),
    File(Draft),
}

/// An upload through object_store, which numbers parts by the order in which they are handed to it.
struct Stored {
    upload: Mutex<Option<Box<dyn MultipartUpload>>>,
    /// The part whose turn it is.
    next: watch::Sender<u32>,
}

impl std::fmt::Debug for Stored {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Stored")
    }
}

impl Upload {
    /// What finds it again after a restart; `None`: nothing does.
    pub fn id(&self) -> Option<&str> {
        match &self.0 {
            Way::S3 { id, .. } => Some(id),
            Way::Store(_) | Way::File(_) => None,
        }
    }
}

impl Origin {
    /// Whether an object of this name can be written here at all. Asks nothing.
    ///
    /// # Errors
    /// [`OriginError::Unnameable`] if it can't.
    pub fn may_write(&self, object: &ObjectId) -> Result<(), OriginError> {
        let prefix = match &self.kind {
            Kind::Remote(remote) => remote.prefix.len(),
            Kind::Directory(_) => 0,
        };
        if prefix + object.key.len() > LONGEST_KEY || object.key.contains('\0') {
            let reason = "No key has more than 1024 bytes, that of its origin's prefix included, or a zero byte";
            return Err(OriginError::Unnameable(reason));
        }
        let is_file = matches!(self.place(object)?, Place::Directory(_));
        let long = |name: &str| name.len() > LONGEST_FILE_NAME;
        if is_file && (!is_plain(&object.key) || object.key.split('/').any(long)) {
            let reason = "No file has an empty name or one of more than 255 bytes between slashes, a final slash, or our \
                          own drafts' name";
            return Err(OriginError::Unnameable(reason));
        }
        Ok(())
    }

    /// Writes a whole object.
    ///
    /// # Errors
    /// What the origin says, or that it got other bytes.
    pub async fn put(
        &self,
        object: &ObjectId,
        payload: &Payload,
        meta: &Meta,
        urgency: &Urgency,
    ) -> Result<Written, OriginError> {
        if let (Kind::Remote(remote), Some(s3)) = (&self.kind, self.bucket()) {
            let key = format!("{}{}", remote.prefix, object.key);
            self.place(object)?;
            return s3.put(&key, payload, meta.0.clone(), urgency).await;
        }
        match self.place(object)? {
            Place::Directory(directory) => {
                let draft = directory.draft(&object.key, meta.source()).await?;
                draft.write(0, payload.chunks.clone()).await?;
                draft.finish().await?;
            }
            Place::Path(remote, path) => {
                let exchange = Exchange::of(urgency);
                let options = PutOptions {
                    attributes: meta.attributes(),
                    extensions: exchange.extensions(),
                    ..PutOptions::default()
                };
                let put = remote.store.put_opts(&path, payload.put(), options).await;
                put.map_err(|error| failure(&exchange, &error))?;
            }
            // Only buckets are spoken to that way.
            Place::Odd(..) => return Err(OriginError::Abandoned),
        }
        Ok(Written { verified: false })
    }

    /// Begins an object that is to be written in parts.
    ///
    /// # Errors
    /// What the origin says.
    pub async fn begin(
        &self,
        object: &ObjectId,
        meta: &Meta,
        urgency: &Urgency,
    ) -> Result<Upload, OriginError> {
        if let (Kind::Remote(remote), Some(s3)) = (&self.kind, self.bucket()) {
            let key = format!("{}{}", remote.prefix, object.key);
            self.place(object)?;
            let id = s3.begin(&key, meta.0.clone(), urgency).await?;
            return Ok(Upload(Way::S3 { key, id }));
        }
        Ok(Upload(match self.place(object)? {
            Place::Directory(directory) => {
                Way::File(directory.draft(&object.key, meta.source()).await?)
            }
            Place::Path(remote, path) => {
                let writes = remote.writes.as_ref().ok_or(OriginError::Abandoned)?;
                let options = PutMultipartOptions {
                    attributes: meta.attributes(),
                    ..PutMultipartOptions::default()
                };
                let upload = writes.put_multipart_opts(&path, options).await;
                let upload = upload.map_err(|error| store_error(&error))?;
                Way::Store(Stored {
                    upload: Mutex::new(Some(upload)),
                    next: watch::Sender::new(1),
                })
            }
            Place::Odd(..) => return Err(OriginError::Abandoned),
        }))
    }

    /// An upload that was begun in another life, and the parts that it has; `None`: it is gone.
    ///
    /// # Errors
    /// What the origin says.
    pub async fn resume(
        &self,
        object: &ObjectId,
        id: &str,
        urgency: &Urgency,
    ) -> Result<Option<(Upload, Vec<PartDone>)>, OriginError> {
        let (Kind::Remote(remote), Some(s3)) = (&self.kind, self.bucket()) else {
            return Ok(None);
        };
        let key = format!("{}{}", remote.prefix, object.key);
        let parts = match s3.parts((&key, id), urgency).await {
            Ok(parts) => parts,
            Err(OriginError::NotFound) => return Ok(None),
            Err(error) => return Err(error),
        };
        let id = id.to_owned();
        Ok(Some((Upload(Way::S3 { key, id }), parts)))
    }

    /// Writes part `number`, from 1, whose bytes begin at `offset`. Where parts are numbered by the order in which they
    /// are handed over, it waits for those before it.
    ///
    /// # Errors
    /// What the origin says, or that it got other bytes.
    pub async fn put_part(
        &self,
        upload: &Upload,
        (number, offset): (u32, u64),
        payload: &Payload,
        urgency: &Urgency,
    ) -> Result<PartDone, OriginError> {
        let done = |etag| PartDone {
            number,
            size: payload.len(),
            etag,
        };
        match &upload.0 {
            Way::S3 { key, id } => {
                let s3 = self.bucket().ok_or(OriginError::Abandoned)?;
                s3.put_part((key, id), number, payload, urgency).await
            }
            Way::Store(stored) => {
                let put = stored.in_turn(number, payload).await?;
                put.await.map_err(|error| store_error(&error))?;
                Ok(done(String::new()))
            }
            Way::File(draft) => {
                draft.write(offset, payload.chunks.clone()).await?;
                Ok(done(String::new()))
            }
        }
    }

    /// Whether a part that failed may be written again: not where a part's number is used up by a try.
    pub fn may_put_again(upload: &Upload) -> bool {
        !matches!(upload.0, Way::Store(_))
    }

    /// Makes an object of an upload, all parts of which, in the order of their numbers, are `parts`.
    ///
    /// # Errors
    /// What the origin says.
    pub async fn complete(
        &self,
        upload: &Upload,
        parts: &[PartDone],
        urgency: &Urgency,
    ) -> Result<Written, OriginError> {
        match &upload.0 {
            Way::S3 { key, id } => {
                let s3 = self.bucket().ok_or(OriginError::Abandoned)?;
                return s3.complete((key, id), parts, urgency).await;
            }
            Way::Store(stored) => {
                let mut upload = stored.take().ok_or(OriginError::Abandoned)?;
                let completed: Result<PutResult, Error> = upload.complete().await;
                completed.map_err(|error| store_error(&error))?;
            }
            Way::File(draft) => draft.finish().await?,
        }
        Ok(Written { verified: false })
    }

    /// Gives an upload up: nothing of it stays.
    ///
    /// # Errors
    /// What the origin says.
    pub async fn abort(&self, upload: &Upload, urgency: &Urgency) -> Result<(), OriginError> {
        match &upload.0 {
            Way::S3 { key, id } => {
                let s3 = self.bucket().ok_or(OriginError::Abandoned)?;
                s3.abort((key, id), urgency).await
            }
            Way::Store(stored) => match stored.take() {
                Some(mut upload) => {
                    let aborted = upload.abort().await;
                    aborted.map_err(|error| store_error(&error))
                }
                None => Ok(()),
            },
            // Goes with its value.
            Way::File(_) => Ok(()),
        }
    }

    /// The SHA-256 of `range` of what an object is by now, or of the version `pin`; and which version it is.
    ///
    /// # Errors
    /// What the origin says.
    pub async fn sum(
        &self,
        object: &ObjectId,
        range: Range<u64>,
        pin: Option<&Version>,
        urgency: &Urgency,
    ) -> Result<([u8; 32], Arc<Version>), OriginError> {
        let mut answer = self.get(object, range, pin, urgency).await?;
        let mut hash = digest::Context::new(&digest::SHA256);
        while let Some(chunk) = answer.body.try_next().await? {
            hash.update(&chunk);
        }
        let mut sum = [0; 32];
        sum.copy_from_slice(hash.finish().as_ref());
        Ok((sum, answer.version))
    }

    fn bucket(&self) -> Option<&super::s3::S3> {
        match &self.kind {
            Kind::Remote(remote) => remote.s3.as_ref(),
            Kind::Directory(_) => None,
        }
    }
}

impl Stored {
    /// Hands a part over when its turn has come.
    async fn in_turn(
        &self,
        number: u32,
        payload: &Payload,
    ) -> Result<BoxFuture<'static, object_store::Result<()>>, OriginError> {
        let mut turn = self.next.subscribe();
        // The sender is ours.
        let _ = turn.wait_for(|next| *next == number).await;
        let put = {
            let mut upload = self.upload.lock().unwrap_or_else(PoisonError::into_inner);
            let upload = upload.as_mut().ok_or(OriginError::Abandoned)?;
            upload.put_part(payload.put())
        };
        self.next.send_replace(number + 1);
        Ok(put)
    }

    fn take(&self) -> Option<Box<dyn MultipartUpload>> {
        let mut upload = self.upload.lock().unwrap_or_else(PoisonError::into_inner);
        upload.take()
    }
}

/// What an error means that no exchange tells more of. Its text may hold addresses, so none of it is told.
fn store_error(error: &Error) -> OriginError {
    match error {
        Error::NotFound { .. } => OriginError::NotFound,
        Error::PermissionDenied { .. } => OriginError::Refused { status: 403 },
        Error::Unauthenticated { .. } => OriginError::Refused { status: 401 },
        Error::Precondition { .. } | Error::AlreadyExists { .. } => OriginError::Changed,
        _ => bad("it did not take a part of an object"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_etag_of_one_put_is_a_sum() {
        assert!(looks_like_md5("\"0cc175b9c0f1b6a831c399e269772661\""));
        assert!(!looks_like_md5("\"0cc175b9c0f1b6a831c399e269772661-2\""));
        assert!(!looks_like_md5("\"1-2-3\""));
    }
}
