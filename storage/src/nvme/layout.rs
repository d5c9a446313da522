//! The directory of the block files: how they are cut, whose they are, and whether the disk works.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::geometry::{Geometry, PAGE};

/// Bumped when the bytes on disk mean something else.
const FORMAT: u32 = 3;

/// foyer's names for its files, counted from 0.
const PREFIX: &str = "foyer-storage-direct-fs-";

const LAYOUT: &str = "layout";
const PROBE: &str = "probe";

/// What became of block files that were there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Prepared {
    /// They are used, or there were none.
    Kept,
    /// They were cut otherwise, or are of another journal: they are gone.
    Wiped,
    /// Their layout was lost, and made anew.
    Restored,
}

/// Makes the directory fit `geometry` and `id`, the journal's: block files that were cut otherwise,
/// or that another journal tells of, are removed. `told` says that the journal tells of blocks: then
/// files without a layout that can be read, and cut as they would be, are the ones that it tells of.
///
/// # Errors
/// What the disk says; or that there are block files and no layout of ours, so that they may be
/// somebody else's; or that what has a block file's name is a link or anything else but a file.
pub(super) fn prepare(
    dir: &Path,
    geometry: &Geometry,
    id: u64,
    told: bool,
) -> io::Result<Prepared> {
    super::make_dir(dir)?;
    let wanted = format!(
        "format {FORMAT}\nblock_size {}\nsegment {}\nid {id:016x}\n",
        geometry.block_size.bytes(),
        geometry.segment,
    );
    let path = dir.join(LAYOUT);
    let found = match fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        found => found?,
    };
    let files = block_files(dir)?;
    let restored = told && is_lost(&found, &wanted) && are_cut(&files, geometry)?;
    let fits = restored || found == wanted.as_bytes();
    if !files.is_empty() && !is_layout(&found) && !restored {
        return Err(io::Error::other(format!(
            "it holds files named {PREFIX}* and no `{LAYOUT}` that says that they are this gateway's: \
             move or remove them, or name another directory"
        )));
    }
    let mut prepared = Prepared::Kept;
    for (number, file) in files {
        if !fits || number >= geometry.segments {
            fs::remove_file(file)?;
            if !fits {
                prepared = Prepared::Wiped;
            }
        } else {
            judge_file(&file)?;
        }
    }
    if restored {
        prepared = Prepared::Restored;
    }
    if found != wanted.as_bytes() {
        let part = dir.join("layout.part");
        let mut file = writable().open(&part)?;
        file.write_all(wanted.as_bytes())?;
        file.sync_all()?;
        fs::rename(part, path)?;
        File::open(dir)?.sync_all()?;
    }
    Ok(prepared)
}

/// Whether a layout of ours is lost, or damaged: what can be read and says something else is another's.
fn is_lost(found: &[u8], wanted: &str) -> bool {
    let wanted = wanted.as_bytes();
    let torn = wanted.starts_with(found) || found.starts_with(wanted);
    let blank = found.iter().all(|byte| *byte == 0);
    found != wanted && (torn || blank || std::str::from_utf8(found).is_err())
}

/// Whether there are files, and all of them are as large as a segment or not begun.
fn are_cut(files: &[(u64, PathBuf)], geometry: &Geometry) -> io::Result<bool> {
    for (_, path) in files {
        let file = fs::symlink_metadata(path)?;
        if !file.is_file() || (file.len() != geometry.segment && file.len() != 0) {
            return Ok(false);
        }
    }
    Ok(!files.is_empty())
}

/// foyer follows links, and what is behind one may be anybody's. And nobody else needs to read what
/// is in a block file.
fn judge_file(path: &Path) -> io::Result<()> {
    let file = fs::symlink_metadata(path)?;
    if !file.is_file() {
        let sentence = format!("{} is not a file of ours: remove it", path.display());
        return Err(io::Error::other(sentence));
    }
    if file.permissions().mode() & 0o077 != 0 {
        fs::set_permissions(path, fs::Permissions::from_mode(super::PRIVATE_FILE))?;
    }
    Ok(())
}

/// How a file of our own is made or made anew: never through a link, for nobody else to read.
fn writable() -> OpenOptions {
    let flags = i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).unwrap_or(0);
    let mut options = OpenOptions::new();
    options.create(true).truncate(true).write(true);
    options.mode(super::PRIVATE_FILE).custom_flags(flags);
    options
}

/// Whether these are the lines that [`prepare`] writes, whatever their values.
pub(super) fn is_layout(found: &[u8]) -> bool {
    let text = String::from_utf8_lossy(found);
    let names = text.lines().map(|line| line.split(' ').next());
    names.eq(["format", "block_size", "segment", "id"].map(Some))
}

/// Writes a block's worth, reads it back and removes it.
///
/// # Errors
/// What the disk says, such as that it is full or read-only.
pub(super) fn probe(dir: &Path, bytes: u64) -> io::Result<()> {
    let path = dir.join(PROBE);
    let tried = try_probe(&path, bytes);
    // A probe that failed may still take space.
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => tried.and(Err(error)),
        _ => tried,
    }
}

fn try_probe(path: &Path, bytes: u64) -> io::Result<()> {
    let len = usize::try_from(bytes).unwrap_or(0);
    let pattern: Vec<u8> = (0..len).map(|at| (at % 251) as u8).collect();
    let mut file = writable().read(true).open(path)?;
    file.write_all(&pattern)?;
    file.sync_all()?;
    // Else it is the page cache that answers. Advice only: where it is not taken, so be it.
    let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
    let mut back = Vec::with_capacity(len);
    File::open(path)?.read_to_end(&mut back)?;
    if back == pattern {
        Ok(())
    } else {
        Err(io::Error::other(
            "it gives other bytes back than were written",
        ))
    }
}

/// Whether files here can be read and written past the page cache.
pub(super) fn takes_direct_io(dir: &Path) -> bool {
    let path = dir.join("direct");
    let flags = rustix::fs::OFlags::DIRECT | rustix::fs::OFlags::NOFOLLOW;
    let flags = i32::try_from(flags.bits()).unwrap_or(0);
    let opened = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .custom_flags(flags)
        .open(&path)
        .is_ok();
    // It may not be there at all, which is fine too.
    let _ = fs::remove_file(path);
    opened
}

/// Makes sure that at least one segment is clean.
///
/// foyer 0.22.6 hangs for ever on its first write if none is: it begins to reclaim only after it
/// has got a clean one. A process that was killed while it reclaimed leaves it so. A segment is
/// clean when its first page is zero, so the oldest is made so.
///
/// # Errors
/// What the disk says.
pub(super) fn ensure_clean_segment(dir: &Path, geometry: &Geometry) -> io::Result<()> {
    let files = block_files(dir)?;
    if (files.len() as u64) < geometry.segments {
        return Ok(());
    }
    let mut oldest: Option<(SystemTime, PathBuf)> = None;
    for (_, path) in files {
        let file = File::open(&path)?;
        let mut page = Vec::with_capacity(PAGE as usize);
        file.take(PAGE).read_to_end(&mut page)?;
        if page.iter().all(|byte| *byte == 0) {
            return Ok(());
        }
        let written = fs::metadata(&path)?.modified()?;
        if oldest.as_ref().is_none_or(|(age, _)| written < *age) {
            oldest = Some((written, path));
        }
    }
    if let Some((_, path)) = oldest {
        let file = OpenOptions::new().write(true).open(path)?;
        file.write_all_at(&[0; PAGE as usize], 0)?;
        file.sync_data()?;
    }
    Ok(())
}

/// Bytes that block files take below `dir`, as far as they are written.
///
/// # Errors
/// What the disk says, other than that there is no such directory.
pub fn bytes_below(dir: &Path) -> io::Result<u64> {
    use std::os::unix::fs::MetadataExt;
    let files = match block_files(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        files => files?,
    };
    let sizes = files.iter().map(|(_, path)| {
        // In units of 512 bytes, whatever the file system's own are (stat(2)).
        fs::metadata(path).map_or(0, |file| file.blocks() * 512)
    });
    Ok(sizes.sum())
}

fn block_files(dir: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
        if let Some(number) = number.and_then(|number| number.parse().ok()) {
            found.push((number, entry.path()));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::block::BlockSize;
    use crate::nvme::tests::Scratch;

    fn geometry(block: u32) -> Geometry {
        Geometry::new(64 << 20, BlockSize::new(block)).unwrap()
    }

    #[test]
    fn files_of_another_layout_are_removed_once() {
        let scratch = Scratch::new();
        let dir = scratch.path();
        let prepare = |block, id| prepare(dir, &geometry(block), id, true).unwrap();
        assert_eq!(prepare(1 << 20, 1), Prepared::Kept);
        let file = dir.join(format!("{PREFIX}00000000"));
        fs::write(&file, b"x").unwrap();
        assert_eq!(prepare(1 << 20, 1), Prepared::Kept);
        assert!(file.exists());
        assert_eq!(prepare(1 << 20, 2), Prepared::Wiped, "another id");
        assert!(!file.exists());
        fs::write(&file, b"x").unwrap();
        assert_eq!(prepare(1 << 18, 2), Prepared::Wiped, "another size");
        assert_eq!(prepare(1 << 18, 2), Prepared::Kept);
    }

    #[test]
    fn files_without_a_layout_of_ours_are_left_alone() {
        let scratch = Scratch::new();
        let file = scratch.path().join(format!("{PREFIX}00000000"));
        fs::write(&file, b"x").unwrap();
        let prepare = |told| prepare(scratch.path(), &geometry(1 << 20), 1, told);
        assert!(prepare(false).is_err());
        assert!(prepare(true).is_err(), "no file of ours is cut so");
        fs::write(scratch.path().join(LAYOUT), "somebody else's\n").unwrap();
        let segment = File::options().write(true).open(&file).unwrap();
        segment.set_len(geometry(1 << 20).segment).unwrap();
        assert!(prepare(true).is_err());
        assert!(file.exists());
    }

    #[test]
    fn a_lost_layout_is_made_anew_where_the_journal_tells_of_the_files() {
        let scratch = Scratch::new();
        let cut = geometry(1 << 20);
        let file = scratch.path().join(format!("{PREFIX}00000000"));
        File::create(&file).unwrap().set_len(cut.segment).unwrap();
        let layout = scratch.path().join(LAYOUT);
        let losses = [&b""[..], &[0; 60], &[0xfe; 60], b"format 3\nblo"];
        for lost in std::iter::once(None).chain(losses.map(Some)) {
            let _ = fs::remove_file(&layout);
            if let Some(bytes) = lost {
                fs::write(&layout, bytes).unwrap();
            }
            assert!(prepare(scratch.path(), &cut, 1, false).is_err());
            let prepared = prepare(scratch.path(), &cut, 1, true).unwrap();
            assert_eq!(prepared, Prepared::Restored);
            assert_eq!(
                prepare(scratch.path(), &cut, 1, true).unwrap(),
                Prepared::Kept
            );
        }
        assert!(file.exists());
    }

    #[test]
    fn nothing_is_opened_through_a_link() {
        let scratch = Scratch::new();
        let cut = geometry(1 << 20);
        prepare(scratch.path(), &cut, 1, true).unwrap();
        let foreign = scratch.path().join("foreign");
        fs::write(&foreign, b"x").unwrap();
        let link = |name: &str| {
            let link = scratch.path().join(name);
            std::os::unix::fs::symlink(&foreign, &link).unwrap();
            link
        };
        let block = link(&format!("{PREFIX}00000000"));
        let refused = prepare(scratch.path(), &cut, 1, true).unwrap_err();
        assert!(
            refused.to_string().contains("is not a file of ours"),
            "{refused}"
        );
        fs::remove_file(block).unwrap();
        link("layout.part");
        assert!(prepare(scratch.path(), &cut, 2, true).is_err());
        assert!(try_probe(&link("probing"), 1 << 20).is_err());
        assert_eq!(fs::read(&foreign).unwrap(), b"x");
    }

    #[test]
    fn files_are_for_nobody_else_to_read() {
        let scratch = Scratch::new();
        let dir = scratch.path().join("made");
        prepare(&dir, &geometry(1 << 20), 1, true).unwrap();
        let file = dir.join(format!("{PREFIX}00000000"));
        fs::write(&file, b"x").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        prepare(&dir, &geometry(1 << 20), 1, true).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&dir), 0o700);
        assert_eq!((mode(&file), mode(&dir.join(LAYOUT))), (0o600, 0o600));
    }

    #[test]
    fn files_past_the_last_segment_go() {
        let scratch = Scratch::new();
        let cut = geometry(1 << 20);
        prepare(scratch.path(), &cut, 1, true).unwrap();
        let kept = scratch.path().join(format!("{PREFIX}00000000"));
        let surplus = scratch.path().join(format!("{PREFIX}{:08}", cut.segments));
        fs::write(&kept, b"x").unwrap();
        fs::write(&surplus, b"x").unwrap();
        let prepared = prepare(scratch.path(), &cut, 1, true).unwrap();
        assert_eq!(prepared, Prepared::Kept);
        assert!(kept.exists() && !surplus.exists());
    }

    #[test]
    fn a_full_set_of_files_gets_a_clean_one() {
        let scratch = Scratch::new();
        let cut = geometry(1 << 20);
        for number in 0..cut.segments {
            let path = scratch.path().join(format!("{PREFIX}{number:08}"));
            fs::write(path, [1; 2 * PAGE as usize]).unwrap();
        }
        let clean = || {
            let files = block_files(scratch.path()).unwrap();
            let clean = files.iter().filter(|(_, path)| {
                let bytes = fs::read(path).unwrap();
                bytes[..PAGE as usize].iter().all(|byte| *byte == 0)
            });
            clean.count()
        };
        assert_eq!(clean(), 0);
        ensure_clean_segment(scratch.path(), &cut).unwrap();
        assert_eq!(clean(), 1);
        ensure_clean_segment(scratch.path(), &cut).unwrap();
        assert_eq!(clean(), 1, "one is enough");
    }

    #[test]
    fn a_probe_leaves_nothing() {
        let scratch = Scratch::new();
        probe(scratch.path(), 1 << 20).unwrap();
        assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0);
    }
}
