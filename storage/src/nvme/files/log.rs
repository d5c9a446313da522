//! The journal's file.

use std::fs::{self, File};
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::nvme::PRIVATE_FILE;
use crate::nvme::medium::Log;

/// A file, and another one beside it while it is written anew.
#[derive(Debug)]
pub(in crate::nvme) struct LogFile {
    path: PathBuf,
    file: Option<File>,
    /// Bytes that are good: an append that failed half-way is cut off again.
    len: u64,
}

impl LogFile {
    /// The file at `path`; nothing is written yet.
    pub(in crate::nvme) fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            file: None,
            len: 0,
        }
    }
}

impl Log for LogFile {
    fn path(&self) -> &Path {
        &self.path
    }

    fn read(&self) -> io::Result<Option<Vec<u8>>> {
        match fs::read(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            bytes => bytes.map(Some),
        }
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some(file) = &mut self.file else {
            return Err(io::Error::other("the journal was not written yet"));
        };
        if let Err(error) = file.write_all(bytes) {
            // If that fails too, the rest of a frame stays, and what is appended behind it makes
            // the journal unbelievable: nothing purged comes back either way.
            let _ = file.set_len(self.len);
            let _ = file.seek(SeekFrom::Start(self.len));
            return Err(error);
        }
        self.len += bytes.len() as u64;
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file.as_ref().map_or(Ok(()), File::sync_data)
    }

    fn replace(
        &mut self,
        write: &mut dyn FnMut(&mut dyn Write) -> io::Result<()>,
    ) -> io::Result<()> {
        let part = self.path.with_extension("part");
        let dir = self.path.parent().map(File::open).transpose()?;
        let flags = i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).unwrap_or(0);
        let file = File::options()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(PRIVATE_FILE)
            .custom_flags(flags)
            .open(&part)?;
        let mut out = BufWriter::new(file);
        write(&mut out)?;
        let mut file = out.into_inner()?;
        file.sync_all()?;
        self.len = file.stream_position()?;
        fs::rename(&part, &self.path)?;
        // From here on the old file has no name: what is noted must go to the new one.
        self.file = Some(file);
        dir.map_or(Ok(()), |dir| dir.sync_all())
    }
}
