//! Writing files: each under another name first, in a directory of ours, and then renamed, so that no reader ever sees
//! half of one.

use std::fs::File;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderValue;
use rustix::fs::{CWD, Mode, OFlags, XattrFlags};
use rustix::io::Errno;

use super::{Directory, blocking, is_plain, resolve};
use crate::error::OriginError;
use crate::origin::answer::bad;
use crate::origin::write::SOURCE;

/// Where drafts are, below the root. No key begins with it.
pub(super) const DRAFTS: &str = ".forebay-drafts";

/// Counts the drafts of this process.
static NUMBER: AtomicU64 = AtomicU64::new(0);

/// Drafts of other lives are looked for with the first draft of a process, and with every thousandth.
const SWEEP_EACH: u64 = 1000;

/// A draft that nobody wrote to for so long is nobody's: whoever wrote it was killed.
const ABANDONED: Duration = Duration::from_secs(24 * 3600);

/// A file that is being written. It is gone when this is dropped, if it was not finished.
#[derive(Debug)]
pub(in crate::origin) struct Draft {
    file: Arc<File>,
    draft: PathBuf,
    place: PathBuf,
    root: PathBuf,
}

impl Directory {
    /// Begins the file of `key`, which is to name `source` as what it is a copy of.
    pub(in crate::origin) async fn draft(
        &self,
        key: &str,
        source: Option<&str>,
    ) -> Result<Draft, OriginError> {
        if !is_plain(key) {
            let reason =
                "No file has an empty name between slashes, a final slash, or our own drafts' name";
            return Err(OriginError::Unnameable(reason));
        }
        let (root, key) = (self.root.clone(), key.to_owned());
        let source = source.map(str::to_owned);
        blocking(move || begin(&resolve(&root)?, &key, source.as_deref())).await
    }
}

fn begin(root: &Path, key: &str, source: Option<&str>) -> Result<Draft, OriginError> {
    let drafts = root.join(DRAFTS);
    std::fs::create_dir_all(&drafts).map_err(|error| failed(&error))?;
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    if number.is_multiple_of(SWEEP_EACH) {
        sweep(&drafts);
    }
    let (draft, file) = open(&drafts).map_err(|error| failed(&error))?;
    if let Some(source) = source {
        let name = format!("user.{SOURCE}");
        // A file system that keeps no attributes has its files copied anew by the same copy.
        let _ = rustix::fs::fsetxattr(&file, name, source.as_bytes(), XattrFlags::empty());
    }
    Ok(Draft {
        file: Arc::new(file),
        draft,
        place: root.join(key),
        root: root.to_owned(),
    })
}

/// A file that nobody else writes to. Gateways on several machines may share the directory, and in containers all have
/// the same process number: so its name is random, and it is never one that is there.
fn open(drafts: &Path) -> io::Result<(PathBuf, File)> {
    loop {
        let name = RandomState::new().build_hasher().finish();
        let draft = drafts.join(format!("{name:016x}"));
        match File::options().write(true).create_new(true).open(&draft) {
            Ok(file) => return Ok((draft, file)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
}

/// Takes drafts away that nobody finishes any more.
fn sweep(drafts: &Path) {
    let entries = std::fs::read_dir(drafts).into_iter().flatten();
    for entry in entries.filter_map(Result::ok) {
        let modified = entry.metadata().and_then(|metadata| metadata.modified());
        let age = modified.ok().and_then(|modified| modified.elapsed().ok());
        if age.is_some_and(|age| age > ABANDONED) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// What a file says that it is a copy of.
pub(super) fn source(file: &File) -> Option<HeaderValue> {
    let mut text = [0; 64];
    let length = rustix::fs::fgetxattr(file, format!("user.{SOURCE}"), &mut text).ok()?;
    HeaderValue::from_bytes(text.get(..length)?).ok()
}

impl Draft {
    /// Writes `chunks` from `offset` on.
    pub(in crate::origin) async fn write(
        &self,
        offset: u64,
        chunks: Vec<Bytes>,
    ) -> Result<(), OriginError> {
        let file = Arc::clone(&self.file);
        blocking(move || {
            let mut offset = offset;
            for chunk in chunks {
                let written = file.write_all_at(&chunk, offset);
                written.map_err(|error| failed(&error))?;
                offset += chunk.len() as u64;
            }
            Ok(())
        })
        .await
    }

    /// Puts the file in its place, on the disk.
    pub(in crate::origin) async fn finish(&self) -> Result<(), OriginError> {
        let file = Arc::clone(&self.file);
        let (draft, place, root) = (self.draft.clone(), self.place.clone(), self.root.clone());
        blocking(move || {
            let name = place
                .file_name()
                .ok_or_else(|| bad("the file has no name"))?;
            let above = enter(&root, place.parent().unwrap_or(&root))?;
            file.sync_all().map_err(|error| failed(&error))?;
            let moved = rustix::fs::renameat(CWD, &draft, &above, name);
            moved.map_err(|errno| failed(&errno.into()))?;
            // The name is to survive a loss of power too.
            above.sync_all().map_err(|error| failed(&error))
        })
        .await
    }
}

/// The directory at `path`, made where it is not there. Each on the way is opened below the one before and looked at
/// before anything is made in it: a link may lead out of the root, where nothing is ours to write.
fn enter(root: &Path, path: &Path) -> Result<File, OriginError> {
    let below = path.strip_prefix(root);
    let below = below.map_err(|_| bad("the file is not below the directory"))?;
    let mut directory = File::open(root).map_err(|error| failed(&error))?;
    for part in below.components() {
        let part = part.as_os_str();
        let mode = Mode::from_raw_mode(0o777);
        match rustix::fs::mkdirat(&directory, part, mode) {
            Ok(()) => directory.sync_all().map_err(|error| failed(&error))?,
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(failed(&errno.into())),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = rustix::fs::openat(&directory, part, flags, Mode::empty());
        directory = File::from(opened.map_err(|errno| failed(&errno.into()))?);
        let is = std::fs::read_link(format!("/proc/self/fd/{}", directory.as_raw_fd()));
        if !is.map_err(|error| failed(&error))?.starts_with(root) {
            return Err(bad("a link leads out of the directory"));
        }
    }
    Ok(directory)
}

impl Drop for Draft {
    fn drop(&mut self) {
        // Once it is in its place there is none of that name.
        let _ = std::fs::remove_file(&self.draft);
    }
}

fn failed(error: &io::Error) -> OriginError {
    match error.kind() {
        io::ErrorKind::PermissionDenied => bad("the gateway's user may not write there"),
        io::ErrorKind::StorageFull => bad("its disk is full"),
        kind => bad(&format!("the file can't be written: {kind}")),
    }
}
