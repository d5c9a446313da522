//! The judgment of `nvme`: it needs files to be worth it, memory for its tables, and a disk that
//! has room.

use std::path::{Path, PathBuf};

use forebay_storage::block::BlockSize;
use forebay_storage::nvme::geometry::Geometry;

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
