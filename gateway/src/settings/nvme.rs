//! The judgment of `nvme`: it needs files to be worth it, memory for its tables, a directory that
//! takes them, and a disk that has room.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use forebay_storage::block::BlockSize;
use forebay_storage::nvme::geometry::Geometry;
use rustix::fs::Access;
use rustix::io::Errno;

use super::report::{Placed, Report};
use super::{NvmeSettings, size};

/// What a file system can give to a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Room {
    /// Bytes that are free for us.
    pub(super) free: u64,
    /// Bytes that our files there take already.
    pub(super) ours: u64,
}

impl Room {
    /// That of the file system that holds `dir`, or will once it is created.
    pub(super) fn measure(dir: &Path) -> Option<Self> {
        let there = dir.ancestors().find(|dir| dir.exists())?;
        let system = rustix::fs::statvfs(there).ok()?;
        Some(Self {
            free: system.f_bavail * system.f_frsize,
            ours: forebay_storage::nvme::bytes_below(dir).ok()?,
        })
    }
}

/// Why no files can be written to `dir`, which is made where it is not there; `None`: they can, as
/// far as that can be told without writing.
///
/// A disk that does not answer is no reason: it is left alone and tried again later.
pub(super) fn unusable(dir: &Path) -> Option<String> {
    for path in dir.ancestors() {
        let path = if path.as_os_str().is_empty() {
            Path::new(".")
        } else {
            path
        };
        let found = match fs::metadata(path) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if fs::symlink_metadata(path).is_ok() {
                    return Some(format!("{} is a link to nothing", path.display()));
                }
                continue;
            }
            // What is above it tells why.
            Err(_) => continue,
        };
        if !found.is_dir() {
            return Some(format!("{} is not a directory", path.display()));
        }
        return match rustix::fs::access(path, Access::WRITE_OK | Access::EXEC_OK) {
            Err(error @ (Errno::ACCESS | Errno::PERM | Errno::ROFS)) => Some(format!(
                "this process may not write to {} ({})",
                path.display(),
                io::Error::from(error)
            )),
            _ => None,
        };
    }
    None
}

/// Judges where the files of the `tier` go, and that `nvme_dir` has a tier to be for.
pub(super) fn judge_dir(
    asked: Option<&Placed<u64>>,
    dir: Option<&Placed<PathBuf>>,
    tier: Option<&NvmeSettings>,
    unusable: &dyn Fn(&Path) -> Option<String>,
    warnings: &mut Vec<String>,
    report: &mut Report,
) {
    let Some(asked) = asked.filter(|asked| asked.value > 0) else {
        if let Some(dir) = dir {
            warnings.push(format!(
                "`nvme_dir` is {}, but nothing is written there, because `nvme` is 0: say how much, \
                 such as nvme = \"200GiB\", or leave `nvme_dir` out",
                dir.value.display()
            ));
        }
        return;
    };
    let Some(tier) = tier else { return };
    let Some(why) = unusable(&tier.dir) else {
        return;
    };
    // It was used before: a disk that broke is left alone, and reading goes on without it.
    if tier.dir.join("layout").exists() {
        warnings.push(format!("the NVMe tier is off as long as {why}"));
        return;
    }
    let sentence = format!(
        "`nvme` has no place for its files: {why}; name a directory that this process may make or \
         write to in `nvme_dir`"
    );
    report.add(dir.map_or(&asked.place, |dir| &dir.place), sentence);
}

/// The tier that was asked for, if any, and its open files.
pub(super) fn judge(
    asked: Option<&Placed<u64>>,
    dir: PathBuf,
    memory: u64,
    block_size: u32,
    room: &dyn Fn(&Path) -> Option<Room>,
    report: &mut Report,
) -> Option<(NvmeSettings, u64)> {
    let Placed { place, value } = asked.filter(|asked| asked.value > 0)?;
    let bytes = *value;
    let block_size = BlockSize::new(block_size);
    let Some(geometry) = Geometry::new(bytes, block_size) else {
        let sentence = format!(
            "`nvme` is {}: write at least {} for blocks of {}, or 0 for memory only",
            size::shown(bytes),
            size::shown(Geometry::least(block_size)),
            size::shown(block_size.bytes()),
        );
        report.add(place, sentence);
        return None;
    };
    if geometry.memory() > memory / 2 {
        let sentence = format!(
            "`nvme` of {} needs {} of memory for its buffers and tables, more than half of \
             `memory`, {}: write more `memory`, less `nvme`, or a larger `block_size`",
            size::shown(bytes),
            size::shown(geometry.memory()),
            size::shown(memory)
        );
        report.add(place, sentence);
    }
    // Once the tier is laid out its room is its own affair: what others fill later is a full disk,
    // which it lives with, and no reason to refuse a reload.
    let laid_out = dir.join("layout").exists();
    if let Some(Room { free, ours }) = room(&dir).filter(|_| !laid_out)
        && bytes > free.saturating_add(ours)
    {
        let sentence = format!(
            "`nvme` is {}, and {} has room for {}: {} are free and {} are block files already; \
             write less, or name another disk in `nvme_dir`",
            size::shown(bytes),
            dir.display(),
            size::shown(free.saturating_add(ours)),
            size::shown(free),
            size::shown(ours)
        );
        report.add(place, sentence);
    }
    Some((NvmeSettings { bytes, dir }, geometry.segments))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::settings::tests::Scratch;

    #[test]
    fn only_a_directory_or_where_one_can_be_made_is_usable() {
        let scratch = Scratch::new();
        let file = scratch.write("there/file", "x");
        assert_eq!(unusable(&scratch.path("there")), None);
        assert_eq!(unusable(&scratch.path("not/yet")), None);
        assert_eq!(unusable(Path::new("relative")), None);
        let is_a_file = format!("{} is not a directory", file.display());
        assert_eq!(unusable(&file), Some(is_a_file.clone()));
        assert_eq!(unusable(&file.join("below")), Some(is_a_file));
        let link = scratch.path("link");
        std::os::unix::fs::symlink("nowhere", &link).unwrap();
        let why = unusable(&link.join("below")).unwrap();
        assert!(why.ends_with("link is a link to nothing"), "{why}");
    }
}
