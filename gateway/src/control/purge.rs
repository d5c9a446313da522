//! Purges under `/-/`.

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::{Path, Query, State as Shared};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use forebay_storage::error::OriginError;
use forebay_storage::object::ObjectId;
use forebay_storage::purge::Place;
use forebay_storage::version::VersionKey;
use serde_json::{Value, json};

use super::{Params, Problem, State, known};
use crate::dataset::Dataset;
use crate::purge::{Purged, Wanted, is_prefix, told};
use crate::warm::Pages;

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
    place: Place,
    versions: Versions,
}

impl Asked {
    /// What a query says.
    ///
    /// # Errors
    /// What is wrong with it, as a sentence.
    fn parse(params: &HashMap<String, String>) -> Result<Self, String> {
        let mut asked = Self {
            place: Place::Everywhere,
            versions: Versions::All,
        };
        for (name, value) in params {
            match (name.as_str(), value.as_str()) {
                ("tier", "memory") => asked.place = Place::Memory,
                ("tier", "nvme") => asked.place = Place::Nvme,
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
        place: asked.place,
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
    Ok(axum::Json(told_of(&wanted, purged)).into_response())
}

/// Drops an object, or what is below a prefix, here and on all other members; what that came to.
pub(super) async fn whole(state: &Arc<State>, name: &str, key: &str) -> Result<Value, Problem> {
    known(state, name)?;
    let (wanted, mut purged) = (Wanted::all(name, key), Purged::default());
    purge_all(state, &wanted, &mut purged).await?;
    Ok(told_of(&wanted, purged))
}

/// What is told of a purge, in the log and to whoever asked.
fn told_of(wanted: &Wanted, purged: Purged) -> Value {
    let what = format!("{}/{}", wanted.dataset, wanted.key);
    let (blocks, bytes, absent) = (purged.blocks, purged.bytes, purged.absent);
    let place = wanted.place.name();
    tracing::info!(what, place, blocks, bytes, absent = absent.len(), "purged");
    json!({ "blocks": blocks, "bytes": bytes, "absent_members": absent })
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
        others.insert(key, version.map(told));
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

async fn purge_all(
    state: &Arc<State>,
    wanted: &Wanted,
    purged: &mut Purged,
) -> Result<(), Problem> {
    let done = state.purges.everywhere(wanted, purged).await;
    done.map_err(|error| {
        let detail = format!(
            "the blocks are gone, but that can't be noted in the data directory ({error}), so a \
             restart may bring them back: purge again once its disk works"
        );
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, detail)
    })
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
        assert_eq!((both.versions, both.place), (Versions::Old, Place::Nvme));
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
}
