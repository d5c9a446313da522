//! What an object store tells of its objects: what is known of them is doubtful then, and what watches them looks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State as Shared;
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use serde_json::json;

use super::{Problem, State, fleet};

/// Where members are told that an object may have changed.
pub(super) const DOUBT: &str = "/doubt/";

/// No notification is longer.
const LONGEST: usize = 1 << 20;

/// The routes of notifications.
pub(super) fn routes() -> axum::Router<Arc<State>> {
    axum::Router::new().route("/-/events/s3", post(s3))
}

/// A notification of S3, as far as it is looked at ("Event message structure" of its user guide).
#[derive(Deserialize)]
struct Notification {
    /// None in the one that only tries whether it arrives.
    #[serde(default, rename = "Records")]
    records: Vec<Record>,
}

#[derive(Deserialize)]
struct Record {
    s3: Subject,
}

#[derive(Deserialize)]
struct Subject {
    bucket: Bucket,
    object: Object,
}

#[derive(Deserialize)]
struct Bucket {
    name: String,
}

#[derive(Deserialize)]
struct Object {
    /// Encoded as in a form.
    key: String,
}

async fn s3(Shared(state): Shared<Arc<State>>, body: Body) -> Result<Response, Problem> {
    let body = axum::body::to_bytes(body, LONGEST).await.map_err(|error| {
        let detail = format!("the body can't be read, or is longer than {LONGEST} bytes: {error}");
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail)
    })?;
    let told: Notification = serde_json::from_slice(&body).map_err(|error| {
        let detail = format!("the body is no notification of S3: {error}");
        Problem::new(StatusCode::BAD_REQUEST, detail)
    })?;
    let (mut doubted, mut unknown) = (0u64, 0u64);
    // All that it says of a dataset is one question to the others.
    let mut keys: BTreeMap<Arc<str>, BTreeSet<String>> = BTreeMap::new();
    for Record { s3: subject } in told.records {
        let key = subject.object.key.replace('+', " ");
        let Ok(key) = percent_decode_str(&key).decode_utf8() else {
            unknown += 1;
            continue;
        };
        let datasets = state.datasets.all();
        let held = datasets.iter().filter_map(|dataset| {
            let key = dataset.key_of(&subject.bucket.name, &key)?;
            Some((Arc::clone(&dataset.name), key.to_owned()))
        });
        let before = doubted;
        for (dataset, key) in held {
            doubted += 1;
            keys.entry(dataset).or_default().insert(key);
        }
        unknown += u64::from(doubted == before);
    }
    for (dataset, keys) in keys {
        let told: Vec<String> = keys.iter().cloned().collect();
        state.copier.changed(&dataset, told).await;
        for schedule in state.flows.schedules() {
            keys.iter().for_each(|key| schedule.changed(&dataset, key));
        }
    }
    Ok(axum::Json(json!({ "doubted": doubted, "unknown": unknown })).into_response())
}

/// Has every member ask anew what an object's version is, or each object's if no key is named. Their blocks stay: they
/// are of a version.
pub(super) async fn doubt(state: &Arc<State>, dataset: &str, key: &str) {
    if !key.is_empty() {
        return state.copier.changed(dataset, vec![key.to_owned()]).await;
    }
    doubt_here(state, dataset, key);
    let path = fleet::path_of(DOUBT, dataset, key);
    for (name, answer) in fleet::ask_others(state, &Method::POST, &path).await {
        if let Err(error) = answer {
            // It asks by itself once what it knows is due.
            tracing::debug!(member = name, %error, "a member was not told that objects may have changed");
        }
    }
    // What was learnt meanwhile of a member that was not told yet.
    doubt_here(state, dataset, key);
}

/// The same for this gateway.
pub(super) fn doubt_here(state: &State, dataset: &str, key: &str) {
    match key {
        "" => state.reads.versions.forget(dataset, |_| true),
        key => state.reads.versions.forget_keys(dataset, [key]),
    }
    state.listings.forget(dataset);
}
