//! Datasets as they are served: a name, an origin, and how long its answers hold.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use forebay_storage::block::BlockSize;
use forebay_storage::origin::{HttpClient, Origin, OriginConfig, OriginUrl};
use forebay_storage::residents::Bounds;
use forebay_storage::stats::DatasetStats;
use forebay_storage::versions::Freshness;

use crate::settings::DatasetSettings;

/// One dataset.
#[derive(Debug)]
pub struct Dataset {
    /// Its name: the bucket that S3 clients see.
    pub name: Arc<str>,
    /// Where its objects come from.
    pub origin: Origin,
    /// How long what is known of its objects holds.
    pub rules: Freshness,
    /// The settings that it was made of, to see on a reload whether anything changed.
    settings: DatasetSettings,
}

impl Dataset {
    /// Makes a dataset of its settings; `stats` go on counting where a former one stopped.
    ///
    /// # Errors
    /// A sentence that begins with the dataset's name. Nothing is asked of the origin.
    pub fn new(
        settings: &DatasetSettings,
        block_size: BlockSize,
        transport: &HttpClient,
        stats: Arc<DatasetStats>,
    ) -> Result<Self, String> {
        let config = OriginConfig {
            url: settings.origin.clone(),
            options: settings
                .options
                .iter()
                .map(|(name, secret)| (name.clone(), secret.expose().to_owned()))
                .collect(),
            connections: settings.origin_connections,
            block_size,
            immutable: settings.immutable,
        };
        let origin = Origin::new(&config, transport, stats)
            .map_err(|reason| format!("dataset {}: {reason}", settings.name))?;
        Ok(Self {
            name: settings.name.as_str().into(),
            origin,
            rules: Freshness {
                fresh_for: settings.fresh_for,
                immutable: settings.immutable,
                stale_for: settings.stale_for,
            },
            settings: settings.clone(),
        })
    }

    /// Origins whose pages may read, as the settings write them.
    pub fn cors(&self) -> &[String] {
        &self.settings.cors
    }

    /// Whether copies may write to it.
    pub fn is_writable(&self) -> bool {
        self.settings.writable
    }

    /// What bounds its blocks.
    pub fn bounds(&self) -> Bounds {
        let (quota, ttl) = (self.settings.quota, self.settings.ttl);
        Bounds {
            quota: (quota > 0).then_some(quota),
            ttl: (!ttl.is_zero()).then_some(ttl),
        }
    }

    /// Connections to the origin that the whole fleet may have.
    pub fn origin_connections(&self) -> usize {
        self.settings.origin_connections
    }

    /// Takes this gateway's share of the connections to the origin, which `sharers` gateways have
    /// together.
    fn share_among(&self, sharers: usize) {
        let connections = self.settings.origin_connections;
        self.origin.set_connections(connections.div_ceil(sharers));
    }

    /// The key that an object of this bucket has here, if it is one of this dataset.
    pub fn key_of<'k>(&self, bucket: &str, key: &'k str) -> Option<&'k str> {
        let (own, prefix) = match &self.settings.origin {
            OriginUrl::S3 { bucket, prefix }
            | OriginUrl::Oss { bucket, prefix }
            | OriginUrl::Gcs { bucket, prefix } => (bucket, prefix),
            OriginUrl::Azure { container, prefix } => (container, prefix),
            _ => return None,
        };
        key.strip_prefix(prefix.as_str()).filter(|_| own == bucket)
    }

    /// The origin's address as the settings write it; never a secret.
    pub fn origin_url(&self) -> String {
        self.settings.origin.to_string()
    }
}

/// All datasets, swapped as a whole when the settings are read again.
#[derive(Debug)]
pub struct Datasets {
    by_name: ArcSwap<BTreeMap<Arc<str>, Arc<Dataset>>>,
    block_size: BlockSize,
    transport: HttpClient,
    /// Gateways that have the origins' connections together.
    sharers: AtomicUsize,
    /// When the first datasets were made: what S3 clients are told as their creation.
    pub since: SystemTime,
}

impl Datasets {
    /// Makes the datasets of `settings`.
    ///
    /// # Errors
    /// One sentence for each dataset that can't be made.
    pub fn new(
        settings: &[DatasetSettings],
        block_size: BlockSize,
        transport: HttpClient,
    ) -> Result<Self, Vec<String>> {
        let datasets = Self {
            by_name: ArcSwap::default(),
            block_size,
            transport,
            sharers: AtomicUsize::new(1),
            since: SystemTime::now(),
        };
        datasets.replace(settings)?;
        Ok(datasets)
    }

    /// The dataset of this name.
    pub fn get(&self, name: &str) -> Option<Arc<Dataset>> {
        self.by_name.load().get(name).cloned()
    }

    /// All datasets, by name.
    pub fn all(&self) -> Vec<Arc<Dataset>> {
        self.by_name.load().values().cloned().collect()
    }

    /// Whether origins are being asked, and nothing comes from any of them.
    pub fn are_stuck(&self) -> bool {
        let all = self.by_name.load();
        let stuck = all.values().filter_map(|dataset| dataset.origin.is_stuck());
        stuck.reduce(|one, other| one && other).unwrap_or(false)
    }

    /// Gives every dataset its share of its origin's connections, which `sharers` gateways have
    /// together.
    pub fn share_among(&self, sharers: usize) {
        self.sharers.store(sharers.max(1), Ordering::Release);
        for dataset in self.all() {
            dataset.share_among(sharers.max(1));
        }
    }

    /// Puts the datasets of `settings` in the place of those there are. What did not change stays
    /// as it is, with its connections and counters. Returns the names of those that went, or whose
    /// objects are other ones now: what is cached of them is of no use.
    ///
    /// # Errors
    /// One sentence for each dataset that can't be made; then nothing is replaced.
    pub fn replace(&self, settings: &[DatasetSettings]) -> Result<Vec<Arc<str>>, Vec<String>> {
        let old = self.by_name.load_full();
        let mut new: BTreeMap<Arc<str>, Arc<Dataset>> = BTreeMap::new();
        let mut mistakes = Vec::new();
        for wanted in settings {
            let known = old.get(wanted.name.as_str());
            if let Some(known) = known.filter(|known| known.settings == *wanted) {
                new.insert(Arc::clone(&known.name), Arc::clone(known));
                continue;
            }
            let stats = known.map(|known| Arc::clone(known.origin.stats()));
            let stats = stats.unwrap_or_default();
            match Dataset::new(wanted, self.block_size, &self.transport, stats) {
                Ok(dataset) => {
                    dataset.share_among(self.sharers.load(Ordering::Acquire));
                    new.insert(Arc::clone(&dataset.name), Arc::new(dataset));
                }
                Err(mistake) => mistakes.push(mistake),
            }
        }
        if !mistakes.is_empty() {
            return Err(mistakes);
        }
        let changed = old
            .iter()
            .filter(|(name, dataset)| {
                new.get(*name)
                    .is_none_or(|now| now.origin.identity() != dataset.origin.identity())
            })
            .map(|(name, _)| Arc::clone(name))
            .collect();
        self.by_name.store(Arc::new(new));
        Ok(changed)
    }
}
