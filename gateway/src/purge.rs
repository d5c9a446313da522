//! Letting go of what is cached of objects: here, and on all members.

pub mod log;
pub mod refuted;
pub mod told;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use forebay_storage::aside::{aside, done};
use forebay_storage::origin::documents::Documents;
use forebay_storage::purge::{Place, Purge, Tag, Which};
use forebay_storage::residents::Tally;
use forebay_storage::version::VersionKey;
use http::Method;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Value, json};

use self::log::PurgeLog;
use self::refuted::Refuted;

use crate::dataset::Datasets;
use crate::known::KnownFile;
use crate::listings::Listings;
use crate::peer::wire;
use crate::read::Reads;

/// Where members are told to purge all there is of a key, or of a prefix.
pub const ALL: &str = "/purge/";

/// Where they are told to purge a part of that. It has a path of its own, since a member of an earlier version would
/// purge more than is meant.
pub const PART: &str = "/purge-part";

/// What is to be purged, as one member tells another.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Wanted {
    /// The dataset's name.
    pub dataset: String,
    /// One key, or a prefix that is empty or ends in a slash.
    pub key: String,
    /// From where.
    #[serde(serialize_with = "place_told", deserialize_with = "place_heard")]
    pub place: Place,
    /// Only versions with this ETag, quotes and all.
    pub etag: Option<String>,
    /// Only of these keys, and of each all but this version, if there is one: 32 hexadecimal digits.
    pub others: Option<HashMap<String, Option<String>>>,
    /// Only this version: 32 hexadecimal digits. What its origin has is not what it says of it.
    pub refuted: Option<String>,
}

/// The versions that are current, by key.
type Current = HashMap<String, Option<VersionKey>>;

impl Wanted {
    /// All of one key, or of all keys below a prefix that is empty or ends in a slash.
    pub fn all(dataset: &str, key: &str) -> Self {
        Self {
            dataset: dataset.to_owned(),
            key: key.to_owned(),
            place: Place::Everywhere,
            etag: None,
            others: None,
            refuted: None,
        }
    }

    fn means(&self, key: &str) -> bool {
        match is_prefix(&self.key) {
            true => key.starts_with(self.key.as_str()),
            false => key == self.key,
        }
    }

    fn is_all(&self) -> bool {
        self.place == Place::Everywhere
            && self.etag.is_none()
            && self.others.is_none()
            && self.refuted.is_none()
    }

    /// The current versions that it spares; `None` where it spares none. What can't be read names no version.
    fn spared(&self) -> Option<Current> {
        let others = self.others.as_ref()?.iter();
        let spared = others.filter_map(|(key, version)| {
            let version = match version {
                None => None,
                Some(hex) => Some(version_of(hex)?),
            };
            Some((key.clone(), version))
        });
        Some(spared.collect())
    }
}

/// How a member is told that has no log, or to purge what is in none.
fn question(wanted: &Wanted) -> (String, Bytes) {
    match wanted.is_all() {
        true => {
            let (dataset, key) = (wire::encoded(&wanted.dataset), wire::encoded(&wanted.key));
            (format!("{ALL}{dataset}/{key}"), Bytes::new())
        }
        // Texts always serialise.
        false => (
            PART.to_owned(),
            serde_json::to_vec(wanted).unwrap_or_default().into(),
        ),
    }
}

/// Those of one dataset that are of all versions, together, in the order of their names: they cost one look at what there
/// is. The others alone.
fn together(all: impl Iterator<Item = Wanted>) -> Vec<Vec<Wanted>> {
    let (mut by_dataset, mut alone) = (BTreeMap::<String, Vec<Wanted>>::new(), Vec::new());
    for wanted in all {
        match wanted.is_all() {
            true => by_dataset
                .entry(wanted.dataset.clone())
                .or_default()
                .push(wanted),
            false => alone.push(vec![wanted]),
        }
    }
    alone.extend(by_dataset.into_values());
    alone
}

/// A version as members tell each other of it.
pub fn told(version: VersionKey) -> String {
    format!("{:032x}", version.0)
}

fn version_of(told: &str) -> Option<VersionKey> {
    u128::from_str_radix(told, 16).ok().map(VersionKey)
}

fn place_told<S: Serializer>(place: &Place, serializer: S) -> Result<S::Ok, S::Error> {
    place.name().serialize(serializer)
}

fn place_heard<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Place, D::Error> {
    let name = String::deserialize(deserializer)?;
    Place::parse(&name).ok_or_else(|| serde::de::Error::custom("there is no such tier"))
}

/// Whether a purge of this key is of all that begins with it.
pub fn is_prefix(key: &str) -> bool {
    key.is_empty() || key.ends_with('/')
}

/// What is purged with, and what must not know it any more.
#[derive(Debug)]
pub struct Purges {
    reads: Arc<Reads>,
    datasets: Arc<Datasets>,
    listings: Arc<Listings>,
    /// Where known versions are kept over restarts; a gateway without a disk has none.
    known_file: OnceLock<Arc<KnownFile>>,
    /// Versions that turned out to be others than they are said to be.
    pub refuted: Refuted,
    /// What was purged, for members that were away.
    log: PurgeLog,
    /// What was cached before this start is left alone: some of it may have been purged meanwhile.
    veiled: AtomicBool,
}

/// What was let go, and by whom not.
#[derive(Debug, Default)]
pub struct Purged {
    /// Blocks, each counted once a member.
    pub blocks: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Members that did not answer.
    pub absent: BTreeSet<String>,
}

impl Purged {
    fn add(&mut self, tally: Tally) {
        self.blocks += tally.blocks;
        self.bytes += tally.bytes;
    }
}

impl Purges {
    /// Those of a gateway.
    pub fn new(reads: &Arc<Reads>, datasets: &Arc<Datasets>, listings: &Arc<Listings>) -> Self {
        let peers = reads.peers.as_ref();
        let agreement = peers.map(|peers| Arc::clone(&peers.agreement));
        Self {
            log: PurgeLog::new(agreement.unwrap_or_default()),
            veiled: AtomicBool::new(false),
            reads: Arc::clone(reads),
            datasets: Arc::clone(datasets),
            listings: Arc::clone(listings),
            known_file: OnceLock::new(),
            refuted: Refuted::default(),
        }
    }

    /// Names the file that must not know what was purged. The first one told stays.
    pub fn remember_in(&self, file: Arc<KnownFile>) {
        let _ = self.known_file.set(file);
    }

    /// Lets answers of other members that know of other purges settle logs with them.
    pub fn settle_with_others(self: &Arc<Self>) {
        told::settle_by(self);
    }

    /// Keeps the log in this data directory. Where others may have purged since what is cached here was written, nothing
    /// of it is served until [`told::catch_up`] has asked. Blocks on the disk.
    pub fn log_in(self: &Arc<Self>, data_dir: &Path) {
        if self.reads.peers.is_none() {
            return;
        }
        self.settle_with_others();
        let may_lack = self.log.keep_in(data_dir);
        self.set_veiled(may_lack);
    }

    /// Keeps the log in this state store too. The first one told stays.
    pub fn share(&self, documents: Arc<Documents>) {
        self.log.share(documents);
    }

    fn is_veiled(&self) -> bool {
        self.veiled.load(Ordering::Acquire)
    }

    /// What was purged meanwhile is gone: the rest is as good as before.
    fn unveil(&self) {
        tracing::info!(
            "what was purged while this gateway was away is known: what it had is served"
        );
        self.set_veiled(false);
    }

    fn set_veiled(&self, veiled: bool) {
        self.reads.versions.veil(veiled);
        self.reads.store.veil(veiled);
        self.veiled.store(veiled, Ordering::Release);
    }

    /// Lets go of what is wanted here, in a task of its own where it may wait for the disk.
    ///
    /// # Errors
    /// If it can't be noted in the data directory.
    pub async fn here(self: &Arc<Self>, wanted: Wanted) -> io::Result<Tally> {
        self.here_all(vec![wanted]).await
    }

    /// The same for several that differ in nothing but what keys they mean ([`together`]).
    async fn here_all(self: &Arc<Self>, wanted: Vec<Wanted>) -> io::Result<Tally> {
        if self.reads.store.nvme().is_none() && self.known_file.get().is_none() {
            return self.now(&wanted);
        }
        let purges = Arc::clone(self);
        let purged = done(&mut aside(move || purges.now(&wanted))).await;
        purged.unwrap_or_else(|error| Err(io::Error::other(error)))
    }

    fn now(&self, all: &[Wanted]) -> io::Result<Tally> {
        let Some(wanted) = all.first() else {
            return Ok(Tally::default());
        };
        let (dataset, spared) = (wanted.dataset.as_str(), wanted.spared());
        let refuted = wanted.refuted.as_deref().map(version_of);
        let means = |key: &str| all.iter().any(|wanted| wanted.means(key));
        let purge = Purge {
            dataset,
            wanted: &means,
            which: match (&wanted.etag, &spared, refuted) {
                (.., Some(version)) => {
                    // One that can't be read is none.
                    let Some(version) = version else {
                        return Ok(Tally::default());
                    };
                    self.refuted.add(version);
                    Which::One(version)
                }
                (Some(etag), ..) => Which::Tagged(Tag::of(Some(etag))),
                (None, Some(spared), _) => Which::Others(spared),
                (None, None, _) => Which::All,
            },
            place: wanted.place,
        };
        // Versions first: a read that comes between the two asks the origin anew. A purge of one tier has no doubt
        // of them.
        let versions = &self.reads.versions;
        let forgotten = match wanted.place {
            Place::Everywhere if wanted.is_all() => {
                versions.forget(dataset, means);
                self.listings.forget(dataset);
                true
            }
            Place::Everywhere => versions.forget_versions(|object, version| {
                purge.takes(object, version.key, Some(Tag::of(version.etag())))
            }),
            Place::Memory | Place::Nvme => false,
        };
        let purged = self.reads.store.purge(&purge)?;
        // Else a restart would know the purged version again.
        if let Some(file) = self.known_file.get().filter(|_| forgotten) {
            file.save(&self.reads.versions, &self.datasets)?;
        }
        Ok(purged)
    }

    /// Lets go of what is wanted here and on all members that answer, and adds what that was.
    ///
    /// # Errors
    /// As [`Self::here`].
    pub async fn everywhere(
        self: &Arc<Self>,
        wanted: &Wanted,
        purged: &mut Purged,
    ) -> io::Result<()> {
        if self.reads.peers.is_some() && told::is_remembered(wanted) {
            return told::everywhere(self, wanted, purged).await;
        }
        purged.add(self.here(wanted.clone()).await?);
        self.others(wanted, purged).await;
        // What came from a member meanwhile that had not purged yet.
        if self.reads.peers.is_some() {
            purged.add(self.here(wanted.clone()).await?);
        }
        Ok(())
    }

    async fn others(&self, wanted: &Wanted, purged: &mut Purged) {
        let Some(peers) = &self.reads.peers else {
            return;
        };
        let (path, body) = question(wanted);
        for (name, answer) in peers.ask_others(&Method::POST, &path, body).await {
            match answer {
                Ok(answer) => {
                    purged.blocks += answer["blocks"].as_u64().unwrap_or(0);
                    purged.bytes += answer["bytes"].as_u64().unwrap_or(0);
                }
                Err(error) => {
                    tracing::info!(member = name, %error, "a member did not purge");
                    purged.absent.insert(name);
                }
            }
        }
    }

    /// Answers another member that told to purge a part.
    pub async fn answer_part(self: &Arc<Self>, from: &str, body: &Bytes) -> Option<Value> {
        let wanted = serde_json::from_slice(body).ok()?;
        self.answer(from, wanted).await
    }

    /// Answers another member that told to purge.
    pub async fn answer(self: &Arc<Self>, from: &str, wanted: Wanted) -> Option<Value> {
        let _ = self.datasets.get(&wanted.dataset)?;
        let (dataset, key) = (wanted.dataset.clone(), wanted.key.clone());
        let place = wanted.place.name();
        match self.here(wanted).await {
            Ok(purged) => {
                let (blocks, bytes) = (purged.blocks, purged.bytes);
                tracing::info!(
                    dataset,
                    key,
                    place,
                    blocks,
                    bytes,
                    member = from,
                    "purged for a member"
                );
                Some(json!({ "blocks": blocks, "bytes": bytes }))
            }
            Err(error) => {
                tracing::warn!(dataset, %error, "what a member purged may come back with a restart");
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_member_reads_what_another_wants_purged() {
        let wanted = Wanted {
            place: Place::Nvme,
            others: Some(HashMap::from([
                ("a".to_owned(), Some(format!("{:032x}", 7))),
                ("b".to_owned(), None),
                ("c".to_owned(), Some("no number".to_owned())),
            ])),
            ..Wanted::all("models", "")
        };
        let told: Wanted = serde_json::from_slice(&serde_json::to_vec(&wanted).unwrap()).unwrap();
        let spared = told.spared().unwrap();
        let all = HashMap::from([
            ("a".to_owned(), Some(VersionKey(7))),
            ("b".to_owned(), None),
        ]);
        assert_eq!(spared, all, "what can't be read is left alone");
    }
}
