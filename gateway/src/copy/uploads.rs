//! Uploads in parts that were begun: written down before their first part, so that the same copy goes on with them
//! after a kill.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use forebay_storage::origin::documents::Documents;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

use crate::keeping::file;

/// An upload that was begun.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Begun {
    pub(super) dataset: String,
    pub(super) key: String,
    /// The version that it is of, and how it was cut.
    pub(super) source: String,
    pub(super) part_bytes: u64,
    /// Its id at the origin.
    pub(super) upload: String,
}

/// Where they are written down: a state store, else the data directory, else nowhere.
#[derive(Debug, Default)]
pub(super) struct Uploads {
    directory: OnceLock<PathBuf>,
    documents: OnceLock<Arc<Documents>>,
}

impl Uploads {
    pub(super) fn keep_in(&self, data_dir: &Path) {
        let _ = self.directory.set(data_dir.join("copies"));
    }

    pub(super) fn share(&self, documents: Arc<Documents>) {
        let _ = self.documents.set(documents);
    }

    /// That of an object. One that can't be read is as good as none: the object is begun anew.
    pub(super) async fn find(&self, dataset: &str, key: &str) -> Option<Begun> {
        let name = name(dataset, key);
        let text = match (self.documents.get(), self.directory.get()) {
            (Some(documents), _) => {
                let got = documents.get(&format!("copies/{name}")).await;
                got.ok().flatten().map(|(text, _)| text)?
            }
            (None, Some(directory)) => {
                let path = directory.join(name);
                let read = tokio::task::spawn_blocking(move || std::fs::read(path)).await;
                Bytes::from(read.ok()?.ok()?)
            }
            (None, None) => return None,
        };
        let begun: Begun = serde_json::from_slice(&text).ok()?;
        (begun.dataset == dataset && begun.key == key).then_some(begun)
    }

    /// Writes one down. If that fails, a kill leaves an upload that nothing finds again: that is told, and no reason
    /// not to copy.
    pub(super) async fn note(&self, begun: &Begun) {
        let name = name(&begun.dataset, &begun.key);
        // Texts and numbers always serialise.
        let text = serde_json::to_vec(begun).unwrap_or_default();
        let noted = match (self.documents.get(), self.directory.get()) {
            (Some(documents), _) => {
                let name = format!("copies/{name}");
                // What was there before is of an upload that is gone.
                let _ = documents.remove(&name).await;
                let created = documents.create(&name, Bytes::from(text)).await;
                created.map(|_| ()).map_err(|error| error.to_string())
            }
            (None, Some(directory)) => {
                let directory = directory.clone();
                let written = tokio::task::spawn_blocking(move || {
                    std::fs::create_dir_all(&directory)?;
                    file::write(&directory.join(name), &text)
                });
                let written = written.await;
                match written {
                    Ok(written) => written.map_err(|error| error.to_string()),
                    Err(error) => Err(error.to_string()),
                }
            }
            (None, None) => Ok(()),
        };
        if let Err(error) = noted {
            let (dataset, key) = (&begun.dataset, &begun.key);
            tracing::warn!(dataset, key, %error, "an upload can't be written down: a kill would leave it at the origin");
        }
    }

    /// Forgets one that is completed or given up.
    pub(super) async fn forget(&self, dataset: &str, key: &str) {
        let name = name(dataset, key);
        match (self.documents.get(), self.directory.get()) {
            // What can't be removed names an upload that is gone, which is found out.
            (Some(documents), _) => {
                let _ = documents.remove(&format!("copies/{name}")).await;
            }
            (None, Some(directory)) => {
                let path = directory.join(name);
                let _ = tokio::task::spawn_blocking(move || std::fs::remove_file(path)).await;
            }
            (None, None) => {}
        }
    }
}

fn name(dataset: &str, key: &str) -> String {
    // No dataset's name has a slash.
    format!(
        "{:032x}.json",
        xxh3_128(format!("{dataset}/{key}").as_bytes())
    )
}
