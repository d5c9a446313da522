//! What a gateway knows of revisions, in its data directory: the truth where it is alone, else for its next start.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::{PLACE, Standing};
use crate::keeping::file;

/// A file for each dataset.
#[derive(Debug)]
pub(super) struct Disk {
    directory: PathBuf,
    /// Held by whoever writes: two would write into the same file before it has its name.
    writing: Mutex<()>,
}

impl Disk {
    /// Those of this data directory.
    pub(super) fn new(data_dir: &Path) -> Self {
        Self {
            directory: data_dir.join(PLACE),
            writing: Mutex::default(),
        }
    }

    /// What is there of each dataset, or the sentence that says why it can't be read. Blocks on the disk.
    pub(super) fn read(&self) -> Vec<(String, Result<Standing, String>)> {
        let entries = std::fs::read_dir(&self.directory).into_iter().flatten();
        let files = entries.flatten().filter_map(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            let dataset = name.strip_suffix(".json")?.to_owned();
            let text = std::fs::read(entry.path()).map_err(|error| error.to_string());
            let standing = text.and_then(|text| Standing::parse(&text));
            let standing = standing.map_err(|why| {
                let path = entry.path();
                format!(
                    "what revision the dataset has can't be read in {} ({why})",
                    path.display()
                )
            });
            Some((dataset, standing))
        });
        files.collect()
    }

    /// Writes what `text` says once nobody else writes: so what was known last is what stays. Blocks on the disk.
    ///
    /// # Errors
    /// If the disk does not take it.
    pub(super) fn write(&self, dataset: &str, text: impl FnOnce() -> Vec<u8>) -> io::Result<()> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        std::fs::create_dir_all(&self.directory)?;
        file::write(&self.directory.join(format!("{dataset}.json")), &text())
    }
}
