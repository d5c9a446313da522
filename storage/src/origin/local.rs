//! A directory as an origin.
//!
//! object_store's stream over a file never ends when the file shrinks under it, so the file is
//! read here: exactly, and looked at again after each piece.

mod walk;
pub(super) mod write;

use std::fs::{File, Metadata};
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use http::{HeaderMap, HeaderValue, header};

use self::walk::{Leave, Walk};
use super::answer::bad;
use super::write::SOURCE_HEADER;
use crate::error::OriginError;
use crate::listing::{ListPage, ListRequest, page};
use crate::stats::DatasetStats;

/// Bytes read at once: few enough that what is not yet in a block does not count.
const PIECE: u64 = 256 << 10;

/// A directory whose files are objects.
#[derive(Debug)]
pub(crate) struct Directory {
    root: PathBuf,
    stats: Arc<DatasetStats>,
}

/// A file, opened and looked at.
pub(crate) struct Opened {
    file: File,
    seen: Stamp,
    /// The headers that an HTTP origin would have sent for it.
    pub(crate) headers: HeaderMap,
    /// Its size when it was opened.
    pub(crate) size: u64,
}

/// What changes when a file is written to.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            inode: metadata.ino(),
            size: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// The time of change is in it because nobody can set it: a file that is unpacked over another
    /// may have its time of modification, its size and, once that is deleted, its inode. A change
    /// within the clock's tick may still leave all of them as they were; nothing better is to be
    /// had without reading the file.
    fn etag(&self) -> String {
        let (modified, changed) = (self.modified, self.changed);
        format!(
            "\"{:x}-{:x}-{:x}.{:x}-{:x}.{:x}\"",
            self.inode, self.size, modified.0, modified.1, changed.0, changed.1
        )
    }
}

impl Directory {
    /// The directory at `root`, which must be there.
    ///
    /// # Errors
    /// A sentence if it is not.
    pub(crate) fn new(root: &Path, stats: Arc<DatasetStats>) -> Result<Self, String> {
        let found = root.canonicalize().map_err(|error| {
            format!("the directory {} can't be opened: {error}", root.display())
        })?;
        if !found.is_dir() {
            return Err(format!("{} is not a directory", root.display()));
        }
        Ok(Self {
            root: root.to_owned(),
            stats,
        })
    }

    /// Opens the file of `key`.
    pub(crate) async fn open(&self, key: &str, head: bool) -> Result<Opened, OriginError> {
        let counter = if head {
            &self.stats.origin_heads
        } else {
            &self.stats.origin_gets
        };
        DatasetStats::add(counter, 1);
        let (root, key) = (self.root.clone(), key.to_owned());
        blocking(move || open_file(&resolve(&root)?, &key)).await
    }

    /// The bytes of `range`, which lies within the file as it was opened.
    pub(crate) fn read(
        &self,
        opened: Opened,
        range: Range<u64>,
    ) -> BoxStream<'static, Result<Bytes, OriginError>> {
        let file = Arc::new(opened.file);
        let seen = opened.seen;
        let stats = Arc::clone(&self.stats);
        stream::try_unfold(range, move |left| {
            let (file, stats) = (Arc::clone(&file), Arc::clone(&stats));
            async move {
                if left.is_empty() {
                    return Ok(None);
                }
                let end = left.end.min(left.start + PIECE);
                let piece = left.start..end;
                let bytes = blocking(move || read_piece(&file, seen, piece)).await?;
                DatasetStats::add(&stats.origin_bytes, bytes.len() as u64);
                Ok(Some((bytes, end..left.end)))
            }
        })
        .boxed()
    }

    /// One page of the files below the directory, as keys. Dropping the future ends the walk.
    pub(crate) async fn list(&self, request: &ListRequest) -> Result<ListPage, OriginError> {
        DatasetStats::add(&self.stats.origin_gets, 1);
        let (root, request) = (self.root.clone(), request.clone());
        let (leave, left) = Leave::new();
        let listed = blocking(move || {
            let walk = Walk::below(&resolve(&root)?, &request, left);
            Ok(page(walk, &request))
        });
        let listed = listed.await;
        drop(leave);
        listed
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, OriginError> + Send + 'static,
) -> Result<T, OriginError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(_) => Err(OriginError::Abandoned),
    }
}

/// Where the root is now: a link to it may have been turned to another directory.
fn resolve(root: &Path) -> Result<PathBuf, OriginError> {
    let gone = |_| OriginError::Unreachable("the directory is not there".into());
    root.canonicalize().map_err(gone)
}

/// Whether a file may have this key.
pub(super) fn is_plain(key: &str) -> bool {
    let plain = Path::new(key)
        .components()
        .all(|part| matches!(part, Component::Normal(_)));
    let ours = key.split('/').next() == Some(self::write::DRAFTS);
    plain && !ours && !key.is_empty() && !key.ends_with('/') && !key.contains("//")
}

fn open_file(root: &Path, key: &str) -> Result<Opened, OriginError> {
    if !is_plain(key) {
        return Err(OriginError::NotFound);
    }
    // A pipe without a writer would hold the thread for ever.
    let nonblocking = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or(0);
    let file = File::options()
        .read(true)
        .custom_flags(nonblocking)
        .open(root.join(key))
        .map_err(|error| io_error(&error))?;
    let metadata = file.metadata().map_err(|error| io_error(&error))?;
    if !metadata.is_file() {
        return Err(OriginError::NotFound);
    }
    // Where the open file really is: a symbolic link may lead out of the root, and asking the
    // descriptor leaves no moment in which the link could be turned after the question.
    let place = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))
        .map_err(|error| io_error(&error))?;
    if !place.starts_with(root) {
        return Err(OriginError::NotFound);
    }
    let seen = Stamp::of(&metadata);
    let mut headers = headers(key, &seen, metadata.modified().ok());
    if let Some(source) = self::write::source(&file) {
        headers.insert(SOURCE_HEADER, source);
    }
    Ok(Opened {
        headers,
        size: seen.size,
        seen,
        file,
    })
}

fn headers(key: &str, seen: &Stamp, modified: Option<SystemTime>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if let Ok(etag) = HeaderValue::try_from(seen.etag()) {
        headers.insert(header::ETAG, etag);
    }
    let date = modified.map(httpdate::fmt_http_date);
    if let Some(Ok(date)) = date.map(HeaderValue::try_from) {
        headers.insert(header::LAST_MODIFIED, date);
    }
    let kind = match key.rsplit_once('.').map(|(_, ending)| ending) {
        Some("json") => "application/json",
        Some("txt" | "md" | "py") => "text/plain; charset=utf-8",
        Some("html") => "text/html; charset=utf-8",
        _ => "application/octet-stream",
    };
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers
}

fn read_piece(file: &File, seen: Stamp, piece: Range<u64>) -> Result<Bytes, OriginError> {
    let len = usize::try_from(piece.end - piece.start).map_err(|_| OriginError::Cut)?;
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, piece.start)
        .map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => OriginError::Changed,
            _ => io_error(&error),
        })?;
    let now = file.metadata().map_err(|error| io_error(&error))?;
    // Looked at after the read: whatever changed before it shows here.
    if Stamp::of(&now) != seen {
        return Err(OriginError::Changed);
    }
    Ok(bytes.into())
}

fn io_error(error: &io::Error) -> OriginError {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::InvalidFilename => {
            OriginError::NotFound
        }
        io::ErrorKind::PermissionDenied => bad("the gateway's user may not read the file"),
        // A name that no file can have.
        io::ErrorKind::InvalidInput => OriginError::NotFound,
        kind => bad(&format!("the file can't be read: {kind}")),
    }
}

#[cfg(test)]
mod tests;
