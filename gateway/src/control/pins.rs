//! Pins under `/-/`, and what members tell each other of them.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, Query, State as Shared};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Value, json};
use tokio::time::{MissedTickBehavior, interval};

use super::{Params, Problem, State, fleet, known};
use crate::dataset::Dataset;
use crate::pins::{self, MOST, NotSet, PATH, Pin, expiry};
use crate::settings::size::shown;

/// Between two questions to other members for theirs.
const EACH: Duration = Duration::from_secs(60);

/// Between two looks whether blocks are kept that their dataset's bounds are against.
const SWEEP: Duration = Duration::from_secs(1);

/// The routes.
pub(super) fn routes() -> axum::Router<Arc<State>> {
    axum::Router::new()
        .route("/-/pin", get(list))
        .route("/-/pin/{name}", whole())
        .route("/-/pin/{name}/", whole())
        .route("/-/pin/{name}/{*prefix}", post(pin).delete(unpin))
}

/// All of a dataset.
fn whole() -> MethodRouter<Arc<State>> {
    let all = |Path(name): Path<String>| Path((name, String::new()));
    post(move |shared, path, params| pin(shared, all(path), params))
        .delete(move |shared, path| unpin(shared, all(path)))
}

fn bad(sentence: impl Into<String>) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, sentence)
}

async fn list(Shared(state): Shared<Arc<State>>) -> Response {
    let pins = state.pins.all().into_iter().map(|pin| {
        json!({
            "dataset": pin.dataset,
            "prefix": pin.prefix,
            "bytes": pin.bytes,
            "expires": pin.expires.map(rfc3339),
        })
    });
    axum::Json(json!({ "pins": pins.collect::<Vec<_>>() })).into_response()
}

async fn pin(
    Shared(state): Shared<Arc<State>>,
    Path((name, prefix)): Path<(String, String)>,
    Query(params): Params,
) -> Result<Response, Problem> {
    let mut names = params.keys().filter(|name| *name != "expires");
    if let Some(name) = names.find(|name| !name.to_ascii_lowercase().starts_with("x-amz-")) {
        return Err(bad(format!(
            "a pin has no parameter {name:?}, only expires"
        )));
    }
    let expires = params.get("expires").map(String::as_str);
    Ok(axum::Json(set(&state, &name, &prefix, expires).await?).into_response())
}

/// Pins what a dataset has below a prefix, if it fits.
pub(super) async fn set(
    state: &Arc<State>,
    name: &str,
    prefix: &str,
    expires: Option<&str>,
) -> Result<Value, Problem> {
    let dataset = known(state, name)?;
    let expires = expires.map(|text| expiry(text, pins::now()));
    let expires = expires.transpose().map_err(bad)?;
    let pin = judged(state, &dataset, prefix, expires, &[]).await?;
    tell(state, pin).await
}

/// The pin of a prefix, if it fits beside those that hold and these.
pub(super) async fn judged(
    state: &State,
    dataset: &Arc<Dataset>,
    prefix: &str,
    expires: Option<u64>,
    beside: &[Pin],
) -> Result<Pin, Problem> {
    let name = &*dataset.name;
    let mut others = state.pins.all();
    others.retain(|pin| beside.iter().all(|one| !one.is_in_place_of(pin)));
    others.extend_from_slice(beside);
    others.retain(|pin| (&*pin.dataset, &*pin.prefix) != (name, prefix));
    if others.len() >= MOST {
        return Err(bad(format!(
            "there are {MOST} pins already: take some away"
        )));
    }
    let (crew, listings) = (&state.jobs.crew, &state.listings);
    let there = crew.size(listings, dataset, prefix).await;
    let (objects, bytes) = there.map_err(|error| Problem::of_origin(&error))?;
    if objects == 0 {
        let detail = format!("the origin has nothing whose key begins with {name}/{prefix}");
        return Err(Problem::new(StatusCode::NOT_FOUND, detail));
    }
    // What lies within another pin is counted twice: then less is pinned than may be.
    let pinned: u64 = others.iter().map(|pin| pin.bytes).sum();
    let most = crew.pinnable().await;
    if pinned.saturating_add(bytes) > most {
        let detail = format!(
            "it does not fit: {name}/{prefix} has {} in {objects} objects and {} are pinned, {} together; the members \
             that answer may pin {}, half of what their tiers keep: {} too many; pin less, or take pins away",
            shown(bytes),
            shown(pinned),
            shown(pinned.saturating_add(bytes)),
            shown(most),
            shown(pinned.saturating_add(bytes) - most),
        );
        return Err(Problem::new(StatusCode::INSUFFICIENT_STORAGE, detail));
    }
    Ok(Pin {
        dataset: name.to_owned(),
        prefix: prefix.to_owned(),
        bytes,
        expires,
        changed: pins::now(),
        gone: false,
    })
}

async fn unpin(
    Shared(state): Shared<Arc<State>>,
    Path((name, prefix)): Path<(String, String)>,
) -> Result<Response, Problem> {
    let all = state.pins.all().into_iter();
    let mut found = all.filter(|pin| pin.dataset == name && pin.prefix == prefix);
    let pin = found.next().ok_or_else(|| {
        let detail = format!("{name}/{prefix} is not pinned; GET /-/pin lists what is");
        Problem::new(StatusCode::NOT_FOUND, detail)
    })?;
    let gone = Pin {
        changed: pins::now(),
        gone: true,
        ..pin
    };
    Ok(axum::Json(tell(&state, gone).await?).into_response())
}

/// Has everybody know a pin that changed.
async fn tell(state: &Arc<State>, pin: Pin) -> Result<Value, Problem> {
    let peers = state.reads.peers.as_ref();
    let set = state.pins.set_everywhere(peers, pin).await;
    let (pin, absent) = set.map_err(|error| match error {
        NotSet::Nowhere(_) => Problem::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
        NotSet::NotForLong(_) => Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    })?;
    Ok(json!({
        "bytes": pin.bytes,
        "expires": pin.expires.map(rfc3339),
        "absent_members": absent,
    }))
}

/// Answers what other members tell of pins, and ask.
pub(super) async fn answer(state: &State, method: &Method, body: &Bytes) -> Option<Value> {
    if *method == Method::POST {
        let pins: Vec<Pin> = serde_json::from_slice(body).ok()?;
        if let Err(error) = state.pins.merge(pins).await {
            tracing::warn!(%error, "a pin can't be written down: a restart forgets it until other members tell");
        }
    }
    serde_json::to_value(state.pins.told()).ok()
}

/// Keeps pins as they are set, here and elsewhere, and blocks within the bounds of their datasets. Never returns.
pub async fn keep(state: Arc<State>) {
    let (mut ask, mut sweep) = (interval(EACH), interval(SWEEP));
    ask.set_missed_tick_behavior(MissedTickBehavior::Delay);
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // One that has just come knows nothing until somebody has told it.
    let mut told = state.reads.peers.is_none();
    loop {
        tokio::select! {
            biased;
            _ = sweep.tick() => {
                let datasets = state.datasets.all();
                let bounded = datasets.iter().filter(|dataset| dataset.bounds().quota.is_some());
                let bounded: Vec<&str> = bounded.map(|dataset| &*dataset.name).collect();
                state.reads.store.enforce_bounds(&bounded);
                if !told {
                    told = hear(&state).await;
                }
            }
            _ = ask.tick() => {
                state.pins.apply();
                if let Err(error) = state.pins.look().await {
                    tracing::debug!(%error, "what is pinned is not known anew");
                }
                told |= hear(&state).await;
            }
        }
    }
}

/// Takes over what the others have by now. Whether anybody told.
async fn hear(state: &Arc<State>) -> bool {
    let mut heard = false;
    for (_, answer) in fleet::tell_others(state, &Method::GET, PATH, Bytes::new()).await {
        let told = answer
            .ok()
            .and_then(|told| serde_json::from_value(told).ok());
        let Some(told) = told else { continue };
        heard = true;
        if let Err(error) = state.pins.merge(told).await {
            tracing::warn!(%error, "pins can't be written down: a restart forgets them until other members tell");
        }
    }
    heard
}

fn rfc3339(millis: u64) -> String {
    let millis = i64::try_from(millis).unwrap_or(i64::MAX);
    let time = DateTime::<Utc>::from_timestamp_millis(millis).unwrap_or(DateTime::<Utc>::MAX_UTC);
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_written_whatever_it_is() {
        assert_eq!(rfc3339(10_000), "1970-01-01T00:00:10Z");
        assert!(!rfc3339(u64::MAX).is_empty());
    }
}
