//! A directory as an origin.
//!
//! object_store's stream over a file never ends when the file shrinks under it, so the file is
//! read here: exactly, and looked at again after each piece.

use std::fs::{File, Metadata};
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use http::{HeaderMap, HeaderValue, header};

use super::answer::bad;
use crate::error::OriginError;
use crate::listing::{ListPage, ListRequest, ListedObject, page};
use crate::stats::DatasetStats;

/// Bytes read at once: one block of the usual size.
const PIECE: u64 = 1 << 20;

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

    /// A change within the clock's tick may leave the time as it was, but not together with the
    /// inode and the size: nothing better is to be had without reading the file.
    fn etag(&self) -> String {
        let (seconds, nanos) = self.modified;
        format!("\"{:x}-{seconds:x}.{nanos:x}-{:x}\"", self.inode, self.size)
    }
}

impl Directory {
    /// The directory at `root`, which must be there.
    ///
    /// # Errors
    /// A sentence if it is not.
    pub(crate) fn new(root: &Path, stats: Arc<DatasetStats>) -> Result<Self, String> {
        let root = root.canonicalize().map_err(|error| {
            format!("the directory {} can't be opened: {error}", root.display())
        })?;
        if !root.is_dir() {
            return Err(format!("{} is not a directory", root.display()));
        }
        Ok(Self { root, stats })
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
        blocking(move || open_file(&root, &key)).await
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

    /// One page of the files below the directory, as keys.
    pub(crate) async fn list(&self, request: &ListRequest) -> Result<ListPage, OriginError> {
        DatasetStats::add(&self.stats.origin_gets, 1);
        let (root, request) = (self.root.clone(), request.clone());
        blocking(move || {
            let walk = Walk::below(&root, &request.prefix);
            Ok(page(walk, &request))
        })
        .await
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

fn open_file(root: &Path, key: &str) -> Result<Opened, OriginError> {
    let plain = Path::new(key)
        .components()
        .all(|part| matches!(part, Component::Normal(_)));
    if key.is_empty() || key.ends_with('/') || key.contains("//") || !plain {
        return Err(OriginError::NotFound);
    }
    let file = File::open(root.join(key)).map_err(|error| io_error(&error))?;
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
    Ok(Opened {
        headers: headers(key, &seen, metadata.modified().ok()),
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
        io::ErrorKind::PermissionDenied => OriginError::Refused { status: 403 },
        // A name that no file can have.
        io::ErrorKind::InvalidInput => OriginError::NotFound,
        kind => bad(&format!("the file can't be read: {kind}")),
    }
}

/// The files below a directory, as keys in the order of their bytes.
struct Walk {
    root: PathBuf,
    prefix: String,
    /// Keys still to be visited, the next one last; those of directories end in a slash.
    todo: Vec<String>,
}

impl Walk {
    fn below(root: &Path, prefix: &str) -> Self {
        let mut walk = Self {
            root: root.to_owned(),
            prefix: prefix.to_owned(),
            todo: Vec::new(),
        };
        // Nothing outside the prefix's own directory can begin with the prefix.
        let directory = prefix
            .rsplit_once('/')
            .map_or("", |(directory, _)| directory);
        let plain = Path::new(directory)
            .components()
            .all(|part| matches!(part, Component::Normal(_)));
        if plain && !directory.contains("//") {
            let start = if directory.is_empty() {
                String::new()
            } else {
                format!("{directory}/")
            };
            walk.enter(&start);
        }
        walk
    }

    fn enter(&mut self, key: &str) {
        let path = self.root.join(key);
        let inside = path
            .canonicalize()
            .is_ok_and(|path| path.starts_with(&self.root));
        let Ok(entries) = std::fs::read_dir(&path) else {
            return;
        };
        if !inside {
            return;
        }
        let mut found: Vec<String> = entries
            .filter_map(Result::ok)
            .filter_map(|entry| {
                let name = entry.file_name().into_string().ok()?;
                let kind = entry.file_type().ok()?;
                let directory = kind.is_dir() || (kind.is_symlink() && entry.path().is_dir());
                Some(format!("{key}{name}{}", if directory { "/" } else { "" }))
            })
            .filter(|name| name.starts_with(&self.prefix) || self.prefix.starts_with(name.as_str()))
            .collect();
        found.sort_unstable_by(|a, b| b.cmp(a));
        self.todo.append(&mut found);
    }
}

impl Iterator for Walk {
    type Item = ListedObject;

    fn next(&mut self) -> Option<ListedObject> {
        loop {
            let key = self.todo.pop()?;
            if key.ends_with('/') {
                // Links may make a loop; no path is longer than this.
                if key.len() < 4096 {
                    self.enter(&key);
                }
                continue;
            }
            let Ok(opened) = open_file(&self.root, &key) else {
                continue;
            };
            let text = |name| Some(opened.headers.get(name)?.to_str().ok()?.to_owned());
            let date = text(header::LAST_MODIFIED);
            return Some(ListedObject {
                key,
                size: opened.size,
                etag: text(header::ETAG),
                last_modified: date.and_then(|date| httpdate::parse_http_date(&date).ok()),
                storage_class: None,
            });
        }
    }
}
