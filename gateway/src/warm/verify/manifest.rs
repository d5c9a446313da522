//! The SHA-256 that somebody put beside an object: `SHA256SUMS` in its directory, or its own key with `.sha256`.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use forebay_storage::error::OriginError;
use forebay_storage::object::ObjectId;
use forebay_storage::origin::Digest;
use tokio::sync::OnceCell;

use crate::dataset::Dataset;
use crate::warm::bring::Failure;
use crate::warm::list::{Entry, whole};
use crate::warm::order::Order;
use crate::warm::place::Crew;

/// The name of a directory's manifest.
const OF_DIRECTORY: &str = "SHA256SUMS";

/// What the name of an object's own manifest ends in.
const OF_OBJECT: &str = ".sha256";

/// What a manifest says, by name; a digest without a name is of "".
type Sums = HashMap<Box<str>, Digest>;

/// A manifest that is read once, whoever wants it first.
type Lazy = Arc<OnceCell<Arc<Sums>>>;

/// The manifests that a job comes by.
pub(super) struct Manifests<'a> {
    crew: &'a Arc<Crew>,
    dataset: &'a Arc<Dataset>,
    /// The keys of objects' own manifests, where all that is there was listed.
    listed: Option<HashSet<Box<str>>>,
    directories: Mutex<HashMap<String, Lazy>>,
}

impl<'a> Manifests<'a> {
    /// None is read yet.
    pub(super) fn new(
        crew: &'a Arc<Crew>,
        dataset: &'a Arc<Dataset>,
        order: &Order,
        entries: &[Entry],
    ) -> Self {
        let listed = !order.prefixes.is_empty() && order.glob.is_none();
        let own = entries.iter().map(|entry| &entry.key);
        let own = own.filter(|key| key.ends_with(OF_OBJECT));
        Self {
            crew,
            dataset,
            listed: listed.then(|| own.cloned().collect()),
            directories: Mutex::default(),
        }
    }

    /// The digest of an object that a manifest names, and which one.
    ///
    /// # Errors
    /// If one is there and can't be read.
    pub(super) async fn of(&self, key: &str) -> Result<Option<(Digest, String)>, Failure> {
        let (directory, name) = key.rsplit_once('/').unwrap_or(("", key));
        if name == OF_DIRECTORY || name.ends_with(OF_OBJECT) {
            return Ok(None);
        }
        let own = format!("{key}{OF_OBJECT}");
        let listed = self.listed.as_ref();
        if listed.is_none_or(|listed| listed.contains(own.as_str())) {
            let sums = self.read(&own).await?;
            let digest = sums.get(name).or_else(|| sums.get(""));
            if let Some(digest) = digest {
                return Ok(Some((*digest, own)));
            }
        }
        let manifest = match directory {
            "" => OF_DIRECTORY.to_owned(),
            directory => format!("{directory}/{OF_DIRECTORY}"),
        };
        let lazy = {
            let directories = self.directories.lock();
            let mut directories = directories.unwrap_or_else(PoisonError::into_inner);
            Arc::clone(directories.entry(manifest.clone()).or_default())
        };
        let sums = lazy.get_or_try_init(|| self.read(&manifest)).await?;
        Ok(sums.get(name).map(|digest| (*digest, manifest)))
    }

    /// What the manifest of this key says: nothing, if there is none.
    async fn read(&self, key: &str) -> Result<Arc<Sums>, Failure> {
        let object = ObjectId::new(Arc::clone(&self.dataset.name), key);
        let reads = &self.crew.reads;
        let there = reads.current(self.dataset, &object, None, false).await;
        match there {
            Ok(_) => {}
            // Where nothing may be listed, S3 refuses what is not there.
            Err(
                OriginError::NotFound | OriginError::Unnameable(_) | OriginError::Refused { .. },
            ) => return Ok(Arc::default()),
            Err(error) => return Err(Failure::Refused(format!("{key}: {error}"))),
        }
        let (text, _sheet) = whole(self.crew, self.dataset, key).await?;
        Ok(Arc::new(sums(&String::from_utf8_lossy(&text))))
    }
}

/// What a manifest says, as `sha256sum` writes it with or without `--tag`, or a digest alone.
fn sums(text: &str) -> Sums {
    let line = |line: &str| -> Option<(Box<str>, Digest)> {
        if let Some(tagged) = line.strip_prefix("SHA256 (") {
            let (name, digest) = tagged.rsplit_once(") = ")?;
            return Some((name.into(), Digest::of_hex(digest.trim())?));
        }
        let (digest, name) = line.split_once([' ', '\t']).unwrap_or((line, ""));
        let name = name.trim_start().trim_start_matches('*');
        let name = name.strip_prefix("./").unwrap_or(name);
        Some((name.into(), Digest::of_hex(digest)?))
    };
    text.lines()
        .filter_map(|text| line(text.trim_end()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_is_read_in_each_of_its_forms() {
        let (one, two) = ("1".repeat(64), "ab".repeat(32));
        let text = format!(
            "# weights\n{one}  a.bin\r\n{two} *b c.bin\nSHA256 (d.bin) = {one}\n{two}  ./e.bin\nshort  f.bin\n"
        );
        let sums = sums(&text);
        let of = |name: &str| sums.get(name).map(|digest| digest.to_string());
        let said = |hex: &str| Some(format!("SHA-256 {hex}"));
        assert_eq!((of("a.bin"), of("b c.bin")), (said(&one), said(&two)));
        assert_eq!((of("d.bin"), of("e.bin")), (said(&one), said(&two)));
        assert_eq!(sums.len(), 4);
        assert_eq!(super::sums(&format!("{two}\n")).len(), 1, "a digest alone");
    }
}
