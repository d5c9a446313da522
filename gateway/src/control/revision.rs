//! `/-/revision/{dataset}`: which revision a dataset has, switching it, and taking it off.

use std::collections::HashMap;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, State as Shared};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use forebay_storage::version::VersionKey;
use http::Method;
use serde_json::{Value, json};

use super::{Params, Problem, State, fleet, known};
use crate::dataset::Dataset;
use crate::revision::{LONGEST, NotSwitched, PATH, Revision};
use crate::settings::size::shown;
use crate::warm::list::whole;
use crate::warm::order::Tier;

/// The routes of revisions.
pub(super) fn routes() -> axum::Router<Arc<State>> {
    let one = || get(show).post(switch).delete(clear);
    axum::Router::new()
        .route("/-/revision/{name}", one())
        .route("/-/revision/{name}/", one())
}

impl From<NotSwitched> for Problem {
    fn from(error: NotSwitched) -> Self {
        let status = match error {
            NotSwitched::NoStore | NotSwitched::Changed | NotSwitched::Taken(_) => {
                StatusCode::CONFLICT
            }
            NotSwitched::Unreached(_) | NotSwitched::Behind(_) | NotSwitched::Away(_) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            NotSwitched::Disk(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, error.to_string())
    }
}

fn bad(sentence: impl Into<String>) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, sentence)
}

async fn show(
    Shared(state): Shared<Arc<State>>,
    Path(name): Path<String>,
) -> Result<Response, Problem> {
    let dataset = known(&state, &name)?;
    Ok(axum::Json(described(&state, &dataset).await).into_response())
}

async fn described(state: &State, dataset: &Dataset) -> Value {
    let standing = state.revisions.standing(&dataset.name).unwrap_or_default();
    let revision = |revision: &Option<Arc<Revision>>| {
        revision.as_ref().map(|revision| {
            let (keys, bytes) = revision.size();
            json!({ "id": revision.id, "keys": keys, "bytes": bytes })
        })
    };
    let path = format!("{PATH}number/{}", dataset.name);
    let others = fleet::tell_others(state, &Method::GET, &path, Bytes::new()).await;
    let mut members: Vec<Value> = others
        .into_iter()
        .map(|(name, told)| match told {
            Ok(told) => {
                let id = standing
                    .current
                    .as_ref()
                    .map(|revision| revision.id.as_str());
                let same = told["number"].as_u64() == Some(standing.number);
                let agrees = same && told["id"].as_str() == id;
                json!({ "member": name, "revision": told["id"], "agrees": agrees })
            }
            Err(_) => json!({ "member": name, "revision": null, "agrees": null }),
        })
        .collect();
    members.sort_by_key(|member| member["member"].to_string());
    json!({
        "dataset": &*dataset.name,
        "number": standing.number,
        "current": revision(&standing.current),
        "previous": revision(&standing.previous),
        "members": members,
        "unread": state.revisions.unread(&dataset.name).as_deref(),
    })
}

async fn switch(
    Shared(state): Shared<Arc<State>>,
    Path(name): Path<String>,
    Query(params): Params,
    body: Body,
) -> Result<Response, Problem> {
    let dataset = known(&state, &name)?;
    judge(&params)?;
    let text = match params.get("manifest") {
        Some(key) => {
            let read = whole(&state.jobs.crew, &dataset, key).await;
            let (text, _sheet) = read.map_err(|failure| bad(failure.to_string()))?;
            Bytes::from(text)
        }
        None => axum::body::to_bytes(body, LONGEST).await.map_err(|error| {
            let detail = format!(
                "the manifest can't be read ({error}): it has at most {}",
                shown(LONGEST as u64)
            );
            Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail)
        })?,
    };
    let revision = Revision::parse(&text).map_err(bad)?;
    if params.contains_key("require") {
        require_resident(&state, &dataset, &revision).await?;
    }
    state
        .revisions
        .switch(&dataset.name, Some(revision))
        .await?;
    Ok(axum::Json(described(&state, &dataset).await).into_response())
}

fn judge(params: &HashMap<String, String>) -> Result<(), Problem> {
    for (name, value) in params {
        match name.as_str() {
            "manifest" => {}
            "require" if value == "resident" => {}
            "require" => return Err(bad("`require` is resident, or is left out")),
            // Those of a presigned request were looked at by whoever judged it.
            name if name.to_ascii_lowercase().starts_with("x-amz-") => {}
            name => {
                let sentence =
                    format!("a switch has no parameter {name:?}: it has manifest and require");
                return Err(bad(sentence));
            }
        }
    }
    Ok(())
}

/// The keys of a revision below a prefix, with their sizes and versions.
pub(super) fn objects(
    dataset: &Dataset,
    revision: &Revision,
    prefix: &str,
) -> Result<Vec<(String, u64, VersionKey)>, Problem> {
    let mut objects = Vec::new();
    for (key, pinned) in revision.keys().filter(|(key, _)| key.starts_with(prefix)) {
        let version = pinned.bare(dataset, key);
        let version =
            version.ok_or_else(|| bad(format!("{key} has more bytes than any object")))?;
        objects.push((key.to_owned(), pinned.size, version.key));
    }
    Ok(objects)
}

/// Refuses a revision of which something is not resident with its owners.
async fn require_resident(
    state: &State,
    dataset: &Arc<Dataset>,
    revision: &Revision,
) -> Result<(), Problem> {
    let objects = objects(dataset, revision, "")?;
    let resident = state
        .jobs
        .crew
        .resident_of(dataset, objects.into_iter(), Tier::Any)
        .await;
    if resident.is_all() {
        return Ok(());
    }
    let detail = format!(
        "the revision {} is resident to {:.1} %: {} of {} bytes of its {} objects, missing among others {}; warm it, and \
         switch again: a job warms what the origin has, so these versions have to be there",
        revision.id,
        resident.percent(),
        resident.resident_bytes,
        resident.bytes,
        resident.objects,
        resident.missing.join(", "),
    );
    Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail))
}

async fn clear(
    Shared(state): Shared<Arc<State>>,
    Path(name): Path<String>,
) -> Result<Response, Problem> {
    let dataset = known(&state, &name)?;
    state.revisions.switch(&dataset.name, None).await?;
    Ok(axum::Json(described(&state, &dataset).await).into_response())
}
