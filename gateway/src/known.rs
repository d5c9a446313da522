//! Known versions, kept in the data directory: a gateway that starts while an origin is away still
//! serves what it knows of.
//!
//! One JSON line a version, written as a whole under another name and then renamed. A file that
//! can't be read costs its versions and nothing else: they are asked for anew.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use forebay_storage::aside::aside;
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
    /// Which time the machine was up then, and for how many milliseconds.
    #[serde(default)]
    up: Option<(String, u64)>,
}

impl Line {
    /// How long ago the origin was asked, at least. `None`: before that, by a clock that was set back.
    ///
    /// The clock may also have been set back by less than what went by since: then only the time that the machine is up
    /// shows it. Where it was not up all the while, the clock is believed.
    fn age(&self, now: &Shown) -> Option<Duration> {
        let asked = SystemTime::UNIX_EPOCH + Duration::from_millis(self.asked);
        let by_clock = now.wall.duration_since(asked).ok()?;
        let by_machine = match (&self.up, &now.up) {
            (Some((boot, asked)), Some((now_boot, now))) if boot == now_boot => {
                now.checked_sub(Duration::from_millis(*asked))
            }
            _ => None,
        };
        Some(by_machine.map_or(by_clock, |by_machine| by_machine.max(by_clock)))
    }
}

/// What the clocks of a machine show.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Shown {
    /// The time of day, which may be wrong, and may be set.
    pub wall: SystemTime,
    /// Which time the machine is up, and for how long: nobody sets that. `None` where it can't be told.
    pub up: Option<(String, Duration)>,
}

/// Reads the clocks of a machine.
#[derive(Clone)]
pub struct Clocks(Arc<dyn Fn() -> Shown + Send + Sync>);

impl Clocks {
    /// Clocks that are read by `read`.
    pub fn by(read: impl Fn() -> Shown + Send + Sync + 'static) -> Self {
        Self(Arc::new(read))
    }

    /// Those of this machine.
    fn own() -> Self {
        Self::by(|| Shown {
            wall: SystemTime::now(),
            up: up(),
        })
    }

    fn read(&self) -> Shown {
        (self.0)()
    }
}

impl fmt::Debug for Clocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Clocks").field(&self.read()).finish()
    }
}

/// Which time this machine is up, and for how long, suspended or not (proc(5)).
fn up() -> Option<(String, Duration)> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let uptime = std::fs::read_to_string("/proc/uptime").ok()?;
    let seconds = uptime.split(' ').next()?.parse().ok()?;
    let up = Duration::try_from_secs_f64(seconds).ok()?;
    Some((boot.trim().to_owned(), up))
}

/// The file of known versions, written by one at a time.
#[derive(Debug)]
pub struct KnownFile {
    path: PathBuf,
    clocks: Clocks,
    writing: Mutex<()>,
}

impl KnownFile {
    /// The file in this data directory.
    pub fn new(data_dir: &Path) -> Self {
        Self::by(data_dir, Clocks::own())
    }

    /// The same by other clocks.
    pub fn by(data_dir: &Path, clocks: Clocks) -> Self {
        Self {
            path: data_dir.join("versions.jsonl"),
            clocks,
            writing: Mutex::default(),
        }
    }

    /// Reads the file, if there is one.
    pub fn load(&self, gateway: &Gateway) {
        match self.tell(&gateway.reads.versions, &gateway.datasets) {
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
        save(&self.path, &self.clocks, versions, datasets)
    }

    fn tell(&self, versions: &Versions, datasets: &Datasets) -> io::Result<usize> {
        load(&self.path, &self.clocks, versions, datasets)
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
            biased;
            _ = &mut stop => return save_now(&gateway, &file).await,
            _ = ticks.tick() => save_now(&gateway, &file).await,
        }
    }
}

async fn save_now(gateway: &Arc<Gateway>, file: &Arc<KnownFile>) {
    let (gateway, file) = (Arc::clone(gateway), Arc::clone(file));
    let saved = aside(move || file.save(&gateway.reads.versions, &gateway.datasets));
    if let Ok(Err(error)) = saved.await {
        tracing::warn!(%error, "the known versions can't be written to the data directory");
    }
}

/// Learns the versions of which blocks are on NVMe: the file above is written now and then, a block
/// on disk the moment it is called resident. When the origin was asked for these nobody knows, so it is asked before they
/// are served, and while it is away they stand in for nothing; and where the file says another version, that one is due.
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
            None => {
                let least = dataset.rules.longest();
                versions.import_undated(object, &Arc::new(version), least);
            }
            Some(known) if known.key != version.key => versions.doubt(object, known),
            Some(_) => {}
        }
    }
}

fn save(path: &Path, clocks: &Clocks, versions: &Versions, datasets: &Datasets) -> io::Result<()> {
    let part = path.with_extension("part");
    let now = clocks.read();
    let mut out = BufWriter::new(std::fs::File::create(&part)?);
    for (object, version, age) in versions.export() {
        let (Some(dataset), Some(age)) = (datasets.get(&object.dataset), age) else {
            continue;
        };
        let asked = now.wall.checked_sub(age);
        let up = now.up.as_ref().and_then(|(boot, up)| {
            // Asked before the boot, it is as old as that at least.
            let asked = up.saturating_sub(age);
            Some((boot.clone(), u64::try_from(asked.as_millis()).ok()?))
        });
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
            up,
        };
        serde_json::to_writer(&mut out, &line)?;
        out.write_all(b"\n")?;
    }
    out.into_inner()?.sync_all()?;
    std::fs::rename(part, path)
}

fn load(
    path: &Path,
    clocks: &Clocks,
    versions: &Versions,
    datasets: &Datasets,
) -> io::Result<usize> {
    let now = clocks.read();
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
        let age = line.age(&now);
        let mut object = ObjectId::new(Arc::clone(&dataset.name), line.key);
        object.version_id = line.version_id.map(Into::into);
        let headers = headers(&line.headers);
        let Ok(version) = dataset.origin.describe(&object, line.size, &headers) else {
            continue;
        };
        let Some(age) = age else {
            continue;
        };
        let rules = &dataset.rules;
        if rules.immutable || age < rules.longest() {
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
        assert_eq!(file.tell(&after, &datasets).unwrap(), 1);
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

    #[test]
    fn a_clock_that_was_set_back_makes_nothing_younger() {
        let line = |up| Line {
            dataset: "models".into(),
            origin: "s3://b/".into(),
            key: "a".into(),
            version_id: None,
            size: 3,
            headers: Vec::new(),
            asked: 1_000_000,
            up,
        };
        let now = |wall, boot: &str, up| Shown {
            wall: SystemTime::UNIX_EPOCH + Duration::from_secs(wall),
            up: Some((boot.to_owned(), Duration::from_secs(up))),
        };
        let age = |up: Option<(&str, u64)>, now: &Shown| {
            let up = up.map(|(boot, up)| (boot.to_owned(), up));
            line(up).age(now).map(|age| age.as_secs())
        };
        assert!(Clocks::own().read().up.is_some(), "else this shows nothing");
        // An hour went by, in which it was set back by almost as much.
        assert_eq!(
            age(Some(("a", 50_000)), &now(1_001, "a", 3_650)),
            Some(3_600)
        );
        assert_eq!(age(Some(("a", 50_000)), &now(900, "a", 3_650)), None);
        assert_eq!(
            age(Some(("a", 50_000)), &now(4_600, "a", 3_650)),
            Some(3_600)
        );
        // The machine began anew: there is only the clock.
        assert_eq!(age(Some(("a", 50_000)), &now(1_007, "b", 3_650)), Some(7));
        assert_eq!(age(None, &now(1_007, "a", 3_650)), Some(7));
    }
}
