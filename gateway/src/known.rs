//! Known versions, kept in the data directory: a gateway that starts while an origin is away still
//! serves what it knows of.
//!
//! One JSON line a version, written as a whole under another name and then renamed. A file that
//! can't be read costs its versions and nothing else: they are asked for anew.

use std::collections::{HashMap, HashSet};
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use forebay_storage::object::ObjectId;
use forebay_storage::version::{Version, VersionKey};
use forebay_storage::versions::Versions;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::dataset::Datasets;
use crate::gateway::Gateway;

/// How often the file is written. What is lost in between is asked for again.
const SAVE_EVERY: Duration = Duration::from_secs(30);

/// One known version.
#[derive(Serialize, Deserialize)]
struct Line {
    dataset: String,
    /// The origin it was asked of: of another one it says nothing.
    origin: String,
    key: String,
    version_id: Option<String>,
    size: u64,
    headers: Vec<(String, String)>,
    /// When the origin was asked, in milliseconds since 1970.
    asked: u64,
}

/// The file of known versions, written by one at a time.
#[derive(Debug)]
pub struct KnownFile {
    path: PathBuf,
    writing: Mutex<()>,
}

impl KnownFile {
    /// The file in this data directory.
    pub fn new(data_dir: &Path) -> Self {
        Self {
            path: data_dir.join("versions.jsonl"),
            writing: Mutex::default(),
        }
    }

    /// Reads the file, if there is one.
    pub fn load(&self, gateway: &Gateway) {
        match load(&self.path, &gateway.reads.versions, &gateway.datasets) {
            Ok(0) => {}
            Ok(versions) => tracing::info!(versions, "known versions were read"),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                tracing::warn!(%error, "the known versions can't be read and are asked for anew");
            }
        }
    }

    /// Writes the file. Blocks on the disk.
    ///
    /// # Errors
    /// If the disk does not take it; then the file is as it was.
    pub fn save(&self, versions: &Versions, datasets: &Datasets) -> io::Result<()> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        save(&self.path, versions, datasets)
    }
}

/// Writes the file now and then, and once more when `stop` says so.
pub async fn keep(gateway: Arc<Gateway>, file: Arc<KnownFile>, stop: oneshot::Receiver<()>) {
    let mut ticks = tokio::time::interval(SAVE_EVERY);
    // The first tick comes at once, when there is nothing new to keep.
    ticks.tick().await;
    let mut stop = std::pin::pin!(stop);
    loop {
        tokio::select! {
            _ = ticks.tick() => save_now(&gateway, &file).await,
            _ = &mut stop => return save_now(&gateway, &file).await,
        }
    }
}

async fn save_now(gateway: &Arc<Gateway>, file: &Arc<KnownFile>) {
    let (gateway, file) = (Arc::clone(gateway), Arc::clone(file));
    let saved =
        tokio::task::spawn_blocking(move || file.save(&gateway.reads.versions, &gateway.datasets));
    if let Ok(Err(error)) = saved.await {
        tracing::warn!(%error, "the known versions can't be written to the data directory");
    }
}

/// Learns the versions of which blocks are on NVMe: the file above is written now and then, a block
/// on disk the moment it is called resident. They are due at once, so that the origin is asked
/// whether they are still current; and where the file says another version, so is that one.
pub fn recall(gateway: &Gateway) {
    let Some(nvme) = gateway.reads.store.nvme() else {
        return;
    };
    let versions = &gateway.reads.versions;
    let known: HashMap<ObjectId, Arc<Version>> = versions
        .export()
        .into_iter()
        .map(|(object, version, _)| (object, version))
        .collect();
    // The journal tells of versions whose blocks have gone, and what was purged is to be asked for anew.
    let datasets = gateway.datasets.all().into_iter();
    let keys = datasets.flat_map(|dataset| nvme.residents().find(&dataset.name, |_| true));
    let held: HashSet<VersionKey> = keys.map(|key| key.version).collect();
    for remembered in nvme.take_remembered() {
        let object = &remembered.object;
        if !held.contains(&remembered.key) {
            continue;
        }
        let Some(dataset) = gateway.datasets.get(&object.dataset) else {
            continue;
        };
        let version = dataset
            .origin
            .describe(object, remembered.size, &remembered.headers);
        // Of another origin, or of other settings, it says nothing.
        let version = version.ok().filter(|version| version.key == remembered.key);
        let Some(version) = version else {
            continue;
        };
        match known.get(object) {
            None => versions.import(object, &Arc::new(version), dataset.rules.fresh_for),
            Some(known) if known.key != version.key => versions.doubt(object, known),
            Some(_) => {}
        }
    }
}

fn save(path: &Path, versions: &Versions, datasets: &Datasets) -> io::Result<()> {
    let part = path.with_extension("part");
    let mut out = BufWriter::new(std::fs::File::create(&part)?);
    for (object, version, age) in versions.export() {
        let Some(dataset) = datasets.get(&object.dataset) else {
            continue;
        };
        let asked = SystemTime::now().checked_sub(age);
        let asked = asked.and_then(|asked| asked.duration_since(SystemTime::UNIX_EPOCH).ok());
        let line = Line {
            dataset: object.dataset.to_string(),
            origin: dataset.origin.identity().origin.clone(),
            key: object.key.to_string(),
            version_id: object.version_id.as_deref().map(str::to_owned),
            size: version.size,
            headers: texts(&version.headers),
            asked: asked.map_or(0, |asked| {
                u64::try_from(asked.as_millis()).unwrap_or(u64::MAX)
            }),
        };
        serde_json::to_writer(&mut out, &line)?;
        out.write_all(b"\n")?;
    }
    out.into_inner()?.sync_all()?;
    std::fs::rename(part, path)
}

fn load(path: &Path, versions: &Versions, datasets: &Datasets) -> io::Result<usize> {
    let mut loaded = 0;
    for line in BufReader::new(std::fs::File::open(path)?).lines() {
        // A line that was torn is one version less.
        let Ok(line) = serde_json::from_str::<Line>(&line?) else {
            continue;
        };
        let Some(dataset) = datasets.get(&line.dataset) else {
            continue;
        };
        if dataset.origin.identity().origin != line.origin {
            continue;
        }
        let mut object = ObjectId::new(Arc::clone(&dataset.name), line.key);
        object.version_id = line.version_id.map(Into::into);
        let headers = headers(&line.headers);
        let Ok(version) = dataset.origin.describe(&object, line.size, &headers) else {
            continue;
        };
        let asked = SystemTime::UNIX_EPOCH + Duration::from_millis(line.asked);
        // A clock that was set back makes it look younger than nothing: then it is due.
        let Ok(age) = SystemTime::now().duration_since(asked) else {
            continue;
        };
        let rules = &dataset.rules;
        if rules.immutable || age < rules.fresh_for + rules.stale_for {
            versions.import(&object, &Arc::new(version), age);
            loaded += 1;
        }
    }
    Ok(loaded)
}

/// Headers as texts; those that are none are left out.
pub(crate) fn texts(headers: &HeaderMap) -> Vec<(String, String)> {
    let pairs = headers.iter();
    pairs
        .filter_map(|(name, value)| Some((name.to_string(), value.to_str().ok()?.to_owned())))
        .collect()
}

/// The headers of such texts.
pub(crate) fn headers(texts: &[(String, String)]) -> HeaderMap {
    let pairs = texts.iter().filter_map(|(name, value)| {
        let name = HeaderName::try_from(name.as_str()).ok()?;
        Some((name, HeaderValue::try_from(value.as_str()).ok()?))
    });
    pairs.collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::settings::DatasetSettings;
    use forebay_storage::block::BlockSize;
    use forebay_storage::origin::{self, OriginUrl};
    use forebay_storage::versions::Known;

    #[tokio::test]
    async fn what_was_known_is_known_after_a_restart_with_its_age() {
        let dir = std::env::temp_dir().join(format!("forebay-known-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let url = OriginUrl::Directory { path: dir.clone() };
        let settings = [DatasetSettings::with_defaults("models", url)];
        let transport = origin::transport().unwrap();
        let datasets = Datasets::new(&settings, BlockSize::new(1 << 20), transport).unwrap();
        let dataset = datasets.get("models").unwrap();
        let object = ObjectId::new("models", "a b");
        let mut headers = HeaderMap::new();
        headers.insert("etag", HeaderValue::from_static("\"x\""));
        let version = dataset.origin.describe(&object, 3, &headers).unwrap();
        let before = Versions::default();
        before.import(&object, &Arc::new(version.clone()), Duration::from_secs(20));
        let file = KnownFile::new(&dir);
        file.save(&before, &datasets).unwrap();

        let after = Versions::default();
        assert_eq!(load(&file.path, &after, &datasets).unwrap(), 1);
        let Known::Due {
            version: kept, age, ..
        } = after.known(&object, &dataset.rules)
        else {
            panic!("20 s are past fresh_for and within stale_for");
        };
        assert_eq!((kept.key, kept.size), (version.key, 3));
        assert!(age >= Duration::from_secs(20));
        std::fs::remove_dir_all(dir).unwrap();
    }
}
