//! Purges under `/-/`, and what members tell each other of them.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::sync::Arc;

use axum::extract::{Path, Query, State as Shared};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use bytes::Bytes;
use forebay_storage::error::OriginError;
use forebay_storage::object::ObjectId;
use forebay_storage::purge::{Place, Purge, Tag, Which};
use forebay_storage::residents::Tally;
use forebay_storage::version::VersionKey;
use http::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Params, Problem, State, fleet, known};
use crate::dataset::Dataset;
use crate::peer::wire;
use crate::warm::Pages;
use crate::warm::order::Tier;

/// Where members are told to purge all there is of a key, or of a prefix.
pub(super) const ALL: &str = "/purge/";

/// Where they are told to purge a part of that. It has a path of its own, since a member of an earlier version would
/// purge more than is meant.
pub(super) const PART: &str = "/purge-part";

/// Bytes of keys in one question to a member. Written out, with escapes, they take several times that at worst, and
/// no member reads a question of more than 2 MiB.
const KEYS: usize = 192 << 10;

/// The routes.
pub(super) fn routes() -> axum::Router<Arc<State>> {
    axum::Router::new()
        .route("/-/purge/{dataset}", post(purge_dataset))
        .route("/-/purge/{dataset}/", post(purge_dataset))
        .route("/-/purge/{dataset}/{*key}", post(purge_key))
}

/// Which versions are to go.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Versions {
    /// All.
    All,
    /// Those with this ETag, quotes and all.
    Tagged(String),
    /// All but the current one.
    Old,
}

/// What a request asks for beside the key.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Asked {
    tier: Tier,
    versions: Versions,
}

impl Asked {
    /// What a query says.
    ///
    /// # Errors
    /// What is wrong with it, as a sentence.
    fn parse(params: &HashMap<String, String>) -> Result<Self, String> {
        let mut asked = Self {
            tier: Tier::Any,
            versions: Versions::All,
        };
        for (name, value) in params {
            match (name.as_str(), value.as_str()) {
                ("tier", "memory") => asked.tier = Tier::Memory,
                ("tier", "nvme") => asked.tier = Tier::Nvme,
                ("tier", _) => {
                    return Err(format!(
                        "tier is memory or nvme, not {value:?}; without one a purge is of both"
                    ));
                }
                ("version", "") => {
                    return Err(
                        "version is an ETag, or old for all but the current one; without one a purge is of all".into(),
                    );
                }
                ("version", "old") => asked.versions = Versions::Old,
                ("version", etag) => asked.versions = Versions::Tagged(quoted(etag)),
                // Those of a presigned request were looked at by whoever judged it.
                (name, _) if name.to_ascii_lowercase().starts_with("x-amz-") => {}
                (name, _) => {
                    return Err(format!(
                        "a purge has no parameter {name:?}, only tier and version"
                    ));
                }
            }
        }
        Ok(asked)
    }
}

/// An ETag as an origin writes it, from one with quotes or without.
fn quoted(etag: &str) -> String {
    match etag.ends_with('"') {
        true => etag.to_owned(),
        false => format!("\"{etag}\""),
    }
}

/// What is to be purged, as one member tells another.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Wanted {
    dataset: String,
    /// One key, or a prefix that is empty or ends in a slash.
    key: String,
    /// From where; `any`: from everywhere.
    tier: Tier,
    /// Only versions with this ETag, quotes and all.
    etag: Option<String>,
    /// Only of these keys, and of each all but this version, if there is one: 32 hexadecimal digits.
    others: Option<HashMap<String, Option<String>>>,
}

/// The versions that are current, by key.
type Current = HashMap<String, Option<VersionKey>>;

impl Wanted {
    /// All of one key, or of all keys below a prefix that is empty or ends in a slash.
    pub(super) fn all(dataset: &str, key: &str) -> Self {
        Self {
            dataset: dataset.to_owned(),
            key: key.to_owned(),
            tier: Tier::Any,
            etag: None,
            others: None,
        }
    }

    fn means(&self, key: &str) -> bool {
        match is_prefix(&self.key) {
            true => key.starts_with(self.key.as_str()),
            false => key == self.key,
        }
    }

    fn is_all(&self) -> bool {
        self.tier == Tier::Any && self.etag.is_none() && self.others.is_none()
    }

    /// The current versions that it spares; `None` where it spares none. What can't be read names no version.
    fn spared(&self) -> Option<Current> {
        let others = self.others.as_ref()?.iter();
        let spared = others.filter_map(|(key, version)| {
            let version = match version {
                None => None,
                Some(hex) => Some(VersionKey(u128::from_str_radix(hex, 16).ok()?)),
            };
            Some((key.clone(), version))
        });
        Some(spared.collect())
    }
}

fn is_prefix(key: &str) -> bool {
    key.is_empty() || key.ends_with('/')
}

impl State {
    /// Lets go of what is wanted here, in a task of its own where it may wait for the disk.
    ///
    /// # Errors
    /// If it can't be noted in the data directory.
    pub(super) async fn purge(self: &Arc<Self>, wanted: Wanted) -> io::Result<Tally> {
        if self.reads.store.nvme().is_none() && self.known_file.get().is_none() {
            return self.purge_now(&wanted);
        }
        let state = Arc::clone(self);
        let purged = tokio::task::spawn_blocking(move || state.purge_now(&wanted)).await;
        purged.unwrap_or_else(|error| Err(io::Error::other(error)))
    }

    fn purge_now(&self, wanted: &Wanted) -> io::Result<Tally> {
        let (dataset, spared) = (wanted.dataset.as_str(), wanted.spared());
        let means = |key: &str| wanted.means(key);
        let purge = Purge {
            dataset,
            wanted: &means,
            which: match (&wanted.etag, &spared) {
                (Some(etag), _) => Which::Tagged(Tag::of(Some(etag))),
                (None, Some(spared)) => Which::Others(spared),
                (None, None) => Which::All,
            },
            place: match wanted.tier {
                Tier::Any => Place::Everywhere,
                Tier::Memory => Place::Memory,
                Tier::Nvme => Place::Nvme,
            },
        };
        // Versions first: a read that comes between the two asks the origin anew. A purge of one tier has no doubt
        // of them.
        let versions = &self.reads.versions;
        let forgotten = match wanted.tier {
            Tier::Any if wanted.is_all() => {
                versions.forget(dataset, means);
                self.listings.forget(dataset);
                true
            }
            Tier::Any => versions.forget_versions(|object, version| {
                purge.takes(object, version.key, Some(Tag::of(version.etag())))
            }),
            Tier::Memory | Tier::Nvme => false,
        };
        let purged = self.reads.store.purge(&purge)?;
        // Else a restart would know the purged version again.
        if let Some(file) = self.known_file.get().filter(|_| forgotten) {
            file.save(&self.reads.versions, &self.datasets)?;
        }
        Ok(purged)
    }
}

/// What all members let go.
#[derive(Default)]
struct Purged {
    blocks: u64,
    bytes: u64,
    absent: BTreeSet<String>,
}

impl Purged {
    fn add(&mut self, tally: Tally) {
        self.blocks += tally.blocks;
        self.bytes += tally.bytes;
    }

    /// What is told of it, here and to whoever asked.
    fn told(self, wanted: &Wanted) -> Value {
        let (what, tier) = (
            format!("{}/{}", wanted.dataset, wanted.key),
            wanted.tier.name(),
        );
        let (blocks, bytes, absent) = (self.blocks, self.bytes, self.absent);
        tracing::info!(what, tier, blocks, bytes, absent = absent.len(), "purged");
        json!({ "blocks": blocks, "bytes": bytes, "absent_members": absent })
    }
}

async fn purge_dataset(
    shared: Shared<Arc<State>>,
    Path(name): Path<String>,
    params: Params,
) -> Result<Response, Problem> {
    purge_key(shared, Path((name, String::new())), params).await
}

async fn purge_key(
    Shared(state): Shared<Arc<State>>,
    Path((name, key)): Path<(String, String)>,
    Query(params): Params,
) -> Result<Response, Problem> {
    let asked = Asked::parse(&params);
    let asked = asked.map_err(|sentence| Problem::new(StatusCode::BAD_REQUEST, sentence))?;
    let dataset = known(&state, &name)?;
    let mut wanted = Wanted {
        tier: asked.tier,
        ..Wanted::all(&name, &key)
    };
    let mut purged = Purged::default();
    match asked.versions {
        Versions::All => purge_all(&state, &wanted, &mut purged).await?,
        Versions::Tagged(etag) => {
            wanted.etag = Some(etag);
            purge_all(&state, &wanted, &mut purged).await?;
        }
        Versions::Old => purge_old(&state, &dataset, wanted.clone(), &mut purged).await?,
    }
    Ok(axum::Json(purged.told(&wanted)).into_response())
}

/// Drops an object, or what is below a prefix, here and on all other members; what that came to.
pub(super) async fn whole(state: &Arc<State>, name: &str, key: &str) -> Result<Value, Problem> {
    known(state, name)?;
    let (wanted, mut purged) = (Wanted::all(name, key), Purged::default());
    purge_all(state, &wanted, &mut purged).await?;
    Ok(purged.told(&wanted))
}

/// Purges all but the current versions, which the origin is asked for: a page of its listing after the other.
async fn purge_old(
    state: &Arc<State>,
    dataset: &Arc<Dataset>,
    wanted: Wanted,
    purged: &mut Purged,
) -> Result<(), Problem> {
    let of_origin = |error: OriginError| Problem::of_origin(&error);
    if !is_prefix(&wanted.key) {
        let object = ObjectId::new(Arc::clone(&dataset.name), wanted.key.as_str());
        let current = match state.reads.current(dataset, &object, None, true).await {
            Err(OriginError::NotFound) => None,
            current => Some(current.map_err(of_origin)?.version.key),
        };
        let others = vec![(wanted.key.clone(), current)];
        return purge_others_of(state, &wanted, others, purged).await;
    }
    let mut pages = Pages::below(&wanted.key);
    let crew = &state.jobs.crew;
    while let Some(current) = crew.current(dataset, &mut pages).await.map_err(of_origin)? {
        purge_others_of(state, &wanted, current, purged).await?;
    }
    Ok(())
}

/// Purges all versions of these keys but the ones that are given.
async fn purge_others_of(
    state: &Arc<State>,
    wanted: &Wanted,
    current: Vec<(String, Option<VersionKey>)>,
    purged: &mut Purged,
) -> Result<(), Problem> {
    let mut others = HashMap::new();
    let mut bytes = 0;
    let mut current = current.into_iter().peekable();
    while let Some((key, version)) = current.next() {
        bytes += key.len();
        others.insert(key, version.map(|version| format!("{:032x}", version.0)));
        if bytes >= KEYS || current.peek().is_none() {
            let wanted = Wanted {
                others: Some(std::mem::take(&mut others)),
                ..wanted.clone()
            };
            bytes = 0;
            purge_all(state, &wanted, purged).await?;
        }
    }
    Ok(())
}

/// Purges here and on all members that answer.
async fn purge_all(
    state: &Arc<State>,
    wanted: &Wanted,
    purged: &mut Purged,
) -> Result<(), Problem> {
    let failed = |error: io::Error| {
        let detail = format!(
            "the blocks are gone, but that can't be noted in the data directory ({error}), so a \
             restart may bring them back: purge again once its disk works"
        );
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, detail)
    };
    purged.add(state.purge(wanted.clone()).await.map_err(failed)?);
    purge_others(state, wanted, purged).await;
    // What came from a member meanwhile that had not purged yet.
    if state.reads.peers.is_some() {
        purged.add(state.purge(wanted.clone()).await.map_err(failed)?);
    }
    Ok(())
}

/// Purges on all other members too, and notes what they let go, and who did not answer.
async fn purge_others(state: &State, wanted: &Wanted, purged: &mut Purged) {
    let (path, body) = match wanted.is_all() {
        true => {
            let (dataset, key) = (wire::encoded(&wanted.dataset), wire::encoded(&wanted.key));
            (format!("{ALL}{dataset}/{key}"), Bytes::new())
        }
        // Texts always serialise.
        false => (
            PART.to_owned(),
            serde_json::to_vec(wanted).unwrap_or_default().into(),
        ),
    };
    for (name, answer) in fleet::tell_others(state, &Method::POST, &path, body).await {
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
pub(super) async fn answer_part(state: &Arc<State>, from: &str, body: &Bytes) -> Option<Value> {
    let wanted = serde_json::from_slice(body).ok()?;
    answer(state, from, wanted).await
}

/// Answers another member that told to purge.
pub(super) async fn answer(state: &Arc<State>, from: &str, wanted: Wanted) -> Option<Value> {
    let _ = state.datasets.get(&wanted.dataset)?;
    let (dataset, key, tier) = (
        wanted.dataset.clone(),
        wanted.key.clone(),
        wanted.tier.name(),
    );
    match state.purge(wanted).await {
        Ok(purged) => {
            let (blocks, bytes) = (purged.blocks, purged.bytes);
            tracing::info!(
                dataset,
                key,
                tier,
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn asked(pairs: &[(&str, &str)]) -> Result<Asked, String> {
        let pairs = pairs.iter();
        Asked::parse(
            &pairs
                .map(|(name, value)| ((*name).into(), (*value).into()))
                .collect(),
        )
    }

    #[test]
    fn an_etag_may_have_its_quotes_or_not() {
        for (text, etag) in [
            ("x-1", "\"x-1\""),
            ("\"x-1\"", "\"x-1\""),
            ("W/\"x\"", "W/\"x\""),
        ] {
            let tagged = Versions::Tagged(etag.to_owned());
            assert_eq!(asked(&[("version", text)]).unwrap().versions, tagged);
        }
        let both = asked(&[("version", "old"), ("tier", "nvme"), ("X-Amz-Date", "d")]).unwrap();
        assert_eq!((both.versions, both.tier), (Versions::Old, Tier::Nvme));
    }

    #[test]
    fn what_is_wrong_with_a_purge_is_a_sentence() {
        for (pair, word) in [
            (("tier", "disk"), "memory or nvme"),
            (("tier", ""), "memory or nvme"),
            (("version", ""), "old"),
            (("speed", "1"), "only tier and version"),
        ] {
            let refused = asked(&[pair]).unwrap_err();
            assert!(refused.contains(word), "{refused}");
        }
    }

    #[test]
    fn a_member_reads_what_another_wants_purged() {
        let wanted = Wanted {
            tier: Tier::Nvme,
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
