//! Small documents that are written only if nobody else wrote them meanwhile: in a state store that a fleet shares, or
//! below the data directory, which one process has for itself.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use forebay_storage::origin::documents::{DocumentError, Documents, Tag};
use xxhash_rust::xxh3::xxh3_64;

use super::file;

/// What a document is called on a disk, behind its name.
const SUFFIX: &str = "json";

/// Why a document was not read or written.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CabinetError {
    /// Somebody else wrote it meanwhile, or it is there already: read it again.
    #[error("somebody else changed it meanwhile")]
    Changed,
    /// The state store did not answer, or not as it should. It may later.
    #[error("{0}")]
    Away(DocumentError),
    /// The disk does not take it.
    #[error("the data directory can't be used: {0}")]
    Disk(Arc<io::Error>),
}

impl From<DocumentError> for CabinetError {
    fn from(error: DocumentError) -> Self {
        match error {
            DocumentError::Changed => Self::Changed,
            error => Self::Away(error),
        }
    }
}

impl From<io::Error> for CabinetError {
    fn from(error: io::Error) -> Self {
        Self::Disk(Arc::new(error))
    }
}

/// What a document was like when it was read or written: for the next write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mark {
    /// In a state store.
    Store(Tag),
    /// On a disk: the hash of its bytes.
    Disk(u64),
}

impl Mark {
    /// Whether both are of the same content, as far as that is known.
    pub fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Store(one), Self::Store(other)) => one.is(other),
            (one, other) => one == other,
        }
    }
}

/// The documents of one kind, by name: letters, digits and `-_.`, not a dot first.
#[derive(Clone, Debug)]
pub struct Cabinet {
    place: Place,
    /// What the names begin with.
    below: &'static str,
}

#[derive(Clone, Debug)]
enum Place {
    Store(Arc<Documents>),
    Disk(Arc<Directory>),
}

#[derive(Debug)]
struct Directory {
    path: PathBuf,
    /// Held by whoever writes: what is compared is then what is replaced.
    writing: Mutex<()>,
}

impl Cabinet {
    /// Those of a fleet, whose names begin with `below` and a slash.
    pub fn shared(documents: Arc<Documents>, below: &'static str) -> Self {
        Self {
            place: Place::Store(documents),
            below,
        }
    }

    /// Those of a gateway that is alone, in the directory `below` of the data directory.
    pub fn own(data_dir: &Path, below: &'static str) -> Self {
        let directory = Directory {
            path: data_dir.join(below),
            writing: Mutex::default(),
        };
        Self {
            place: Place::Disk(Arc::new(directory)),
            below,
        }
    }

    /// Whether others write here too.
    pub fn is_shared(&self) -> bool {
        matches!(self.place, Place::Store(_))
    }

    /// The names of all documents, and what they are like.
    ///
    /// # Errors
    /// If the store does not answer, or the disk can't be read.
    pub async fn list(&self) -> Result<Vec<(String, Mark)>, CabinetError> {
        match &self.place {
            Place::Store(documents) => {
                let below = format!("{}/", self.below);
                let listed = documents.list(&below).await?;
                let named = listed.into_iter().filter_map(|(name, tag)| {
                    let name = name.strip_prefix(&below)?.strip_suffix(".json")?;
                    Some((name.to_owned(), Mark::Store(tag)))
                });
                Ok(named.collect())
            }
            Place::Disk(directory) => on_disk(directory, Directory::list).await,
        }
    }

    /// A document; `None`: there is none.
    ///
    /// # Errors
    /// As for [`Self::list`].
    pub async fn get(&self, name: &str) -> Result<Option<(Bytes, Mark)>, CabinetError> {
        match &self.place {
            Place::Store(documents) => {
                let got = documents.get(&self.name(name)).await?;
                Ok(got.map(|(bytes, tag)| (bytes, Mark::Store(tag))))
            }
            Place::Disk(directory) => {
                let name = name.to_owned();
                on_disk(directory, move |directory| directory.get(&name)).await
            }
        }
    }

    /// Writes a document: one that is still what `was` says, or that is not there yet.
    ///
    /// # Errors
    /// [`CabinetError::Changed`] if it is not as it should be; nothing is written then.
    pub async fn put(
        &self,
        name: &str,
        bytes: Bytes,
        was: Option<&Mark>,
    ) -> Result<Mark, CabinetError> {
        match (&self.place, was) {
            (Place::Store(documents), None) => {
                let tag = documents.create(&self.name(name), bytes).await?;
                Ok(Mark::Store(tag))
            }
            (Place::Store(documents), Some(Mark::Store(was))) => {
                let tag = documents.replace(&self.name(name), bytes, was).await?;
                Ok(Mark::Store(tag))
            }
            (Place::Store(_), Some(Mark::Disk(_))) => Err(CabinetError::Changed),
            (Place::Disk(directory), was) => {
                let (name, was) = (name.to_owned(), was.cloned());
                let put = move |directory: &Directory| directory.put(&name, &bytes, was.as_ref());
                on_disk(directory, put).await
            }
        }
    }

    /// Takes a document away, if it is there.
    ///
    /// # Errors
    /// As for [`Self::list`].
    pub async fn remove(&self, name: &str) -> Result<(), CabinetError> {
        match &self.place {
            Place::Store(documents) => Ok(documents.remove(&self.name(name)).await?),
            Place::Disk(directory) => {
                let name = name.to_owned();
                on_disk(directory, move |directory| directory.remove(&name)).await
            }
        }
    }

    fn name(&self, name: &str) -> String {
        format!("{}/{name}.json", self.below)
    }
}

async fn on_disk<T: Send + 'static>(
    directory: &Arc<Directory>,
    act: impl FnOnce(&Directory) -> Result<T, CabinetError> + Send + 'static,
) -> Result<T, CabinetError> {
    let directory = Arc::clone(directory);
    let done = tokio::task::spawn_blocking(move || act(&directory)).await;
    done.unwrap_or_else(|error| Err(io::Error::other(error).into()))
}

impl Directory {
    fn list(&self) -> Result<Vec<(String, Mark)>, CabinetError> {
        let entries = match std::fs::read_dir(&self.path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        };
        let mut listed = Vec::new();
        for entry in entries {
            let path = entry?.path();
            let name = path.file_stem().and_then(|name| name.to_str());
            let Some(name) = name.filter(|_| path.extension().is_some_and(|kind| kind == SUFFIX))
            else {
                continue;
            };
            if let Some((_, mark)) = self.get(name)? {
                listed.push((name.to_owned(), mark));
            }
        }
        Ok(listed)
    }

    fn get(&self, name: &str) -> Result<Option<(Bytes, Mark)>, CabinetError> {
        match std::fs::read(self.file(name)) {
            Ok(bytes) => {
                let mark = Mark::Disk(xxh3_64(&bytes));
                Ok(Some((bytes.into(), mark)))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn put(&self, name: &str, bytes: &[u8], was: Option<&Mark>) -> Result<Mark, CabinetError> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let is = self.get(name)?.map(|(_, mark)| mark);
        if is.as_ref() != was {
            return Err(CabinetError::Changed);
        }
        std::fs::create_dir_all(&self.path)?;
        file::write(&self.file(name), bytes)?;
        Ok(Mark::Disk(xxh3_64(bytes)))
    }

    fn remove(&self, name: &str) -> Result<(), CabinetError> {
        match std::fs::remove_file(self.file(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.path.join(format!("{name}.{SUFFIX}"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn a_document_on_a_disk_is_written_once_and_replaced_as_it_is() {
        let dir = std::env::temp_dir().join(format!("forebay-cabinet-{}", std::process::id()));
        let cabinet = Cabinet::own(&dir, "flows");
        assert!(cabinet.list().await.unwrap().is_empty());
        let bytes = Bytes::from_static;
        let first = cabinet.put("a", bytes(b"1"), None).await.unwrap();
        let again = cabinet.put("a", bytes(b"2"), None).await;
        assert!(matches!(again, Err(CabinetError::Changed)));
        let second = cabinet.put("a", bytes(b"3"), Some(&first)).await.unwrap();
        let stale = cabinet.put("a", bytes(b"4"), Some(&first)).await;
        assert!(matches!(stale, Err(CabinetError::Changed)));
        let got = cabinet.get("a").await.unwrap().unwrap();
        assert_eq!(got, (bytes(b"3"), second.clone()));
        assert_eq!(
            cabinet.list().await.unwrap(),
            [("a".to_owned(), second.clone())]
        );
        cabinet.remove("a").await.unwrap();
        cabinet.remove("a").await.unwrap();
        assert!(cabinet.get("a").await.unwrap().is_none());
        let gone = cabinet.put("a", bytes(b"5"), Some(&second)).await;
        assert!(matches!(gone, Err(CabinetError::Changed)));
        std::fs::remove_dir_all(dir).unwrap();
    }
}
