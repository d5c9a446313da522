//! One file, whole or not at all: written under another name, and then renamed.

use std::io::{self, Write};
use std::path::Path;

/// Writes a file so that whoever reads it later has all of it or what was there before, also after a loss of power.
/// Blocks on the disk; one writer at a time.
///
/// # Errors
/// If the disk does not take it; then what it had stays.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let part = path.with_extension("part");
    let mut file = std::fs::File::create(&part)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    drop(file);
    std::fs::rename(part, path)?;
    // The name is to survive a loss of power too.
    let directory = path.parent().unwrap_or(Path::new("."));
    std::fs::File::open(directory)?.sync_all()
}
