//! Warming under `/-/`: jobs taken, told of, cancelled and tried again; and how much of a prefix is resident.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, Query, Request, State as Shared};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use bytes::Bytes;
use http_body::Body as _;
use serde_json::{Value, json};

use super::told::{How, told};
use super::{Params, Problem, State, known};
use crate::dataset::Dataset;
use crate::pins::{self, Pin, expiry};
use crate::settings::size::shown;
use crate::warm::job::{Job, State as JobState};
use crate::warm::order::{Order, Tier};
use crate::warm::paper::Sheet;
use crate::warm::resident::Resident;

/// No body of a request for a job is longer: it takes the keys of some hundred thousand objects.
const LONGEST: u64 = 16 << 20;

/// A body, the names in it, and the same written out take so many times its bytes.
const COPIES: u64 = 3;

/// The routes of warming.
pub(super) fn routes() -> axum::Router<Arc<State>> {
    axum::Router::new()
        .route("/-/warm", get(list).post(retry))
        .route("/-/warm/{name}", get(show).delete(cancel).merge(on("")))
        .route("/-/warm/{name}/", on(""))
        // A prefix may have the name of a route.
        .route("/-/warm/{name}/events", get(events).merge(on("events")))
        .route("/-/warm/{name}/{*prefix}", post(below))
        .route("/-/resident/{name}", get(resident_all))
        .route("/-/resident/{name}/", get(resident_all))
        .route("/-/resident/{name}/{*prefix}", get(resident))
}

fn bad(sentence: impl Into<String>) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, sentence)
}

/// Takes a job for this prefix of a dataset.
fn on(prefix: &'static str) -> MethodRouter<Arc<State>> {
    post(
        move |shared, Path(name): Path<String>, params, request: Request| {
            below(shared, Path((name, prefix.to_owned())), params, request)
        },
    )
}

async fn below(
    Shared(state): Shared<Arc<State>>,
    Path((name, prefix)): Path<(String, String)>,
    Query(params): Params,
    request: Request,
) -> Result<Response, Problem> {
    // Those of a presigned request were looked at by whoever judged it.
    let mut names = params.keys();
    if let Some(name) = names.find(|name| !name.to_ascii_lowercase().starts_with("x-amz-")) {
        return Err(bad(format!(
            "a job has no parameter {name:?}: name what is wanted in a JSON body"
        )));
    }
    known(&state, &name)?;
    let has_nvme = state.reads.store.nvme().is_some();
    let (parts, body) = request.into_parts();
    let order = {
        let (body, _sheet) = read(&state, body).await?;
        Order::parse(&name, &prefix, &body, has_nvme).map_err(bad)?
    };
    take(&state, order, &parts.headers).await
}

/// A body, and the memory that it and what is made of it may take.
async fn read(state: &State, body: Body) -> Result<(Bytes, Sheet), Problem> {
    let paper = &state.jobs.crew.paper;
    let most = LONGEST.min(paper.most() / COPIES);
    let length = body.size_hint().exact();
    if length.is_some_and(|length| length > most) {
        let detail = format!(
            "the body of a request for a job has at most {} here: ask for it in several jobs, or name prefixes",
            shown(most)
        );
        return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail));
    }
    let sheet = paper.sheet(length.unwrap_or(most) * COPIES).await;
    let sheet = sheet.ok_or_else(|| {
        let detail = "other requests for jobs, and the lists of jobs that run, take all the memory that they may have; \
                      come again later";
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail)
    })?;
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    let body = axum::body::to_bytes(body, most).await.map_err(|error| {
        let detail = format!("the body of the request can't be read: {error}");
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail)
    })?;
    Ok((body, sheet))
}

/// `POST /-/warm?retry={id}`: the same once more.
async fn retry(
    Shared(state): Shared<Arc<State>>,
    Query(params): Params,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let id = params.get("retry").ok_or_else(|| {
        bad("POST /-/warm/DATASET/PREFIX warms, POST /-/warm?retry=ID tries a job again")
    })?;
    let order = job(&state, id)?.order.clone();
    take(&state, order, &headers).await
}

async fn take(state: &Arc<State>, order: Order, headers: &HeaderMap) -> Result<Response, Problem> {
    let pins = pins_of(state, &order).await?;
    let taken = state.jobs.take(order, pins).await;
    let job = taken.map_err(|error| {
        let detail = format!("the job can't be taken: {error}");
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail)
    })?;
    let accept = headers.get(header::ACCEPT);
    let accept = accept.and_then(|accept| accept.to_str().ok());
    if accept.is_some_and(|accept| accept.contains("application/json")) {
        return Ok((StatusCode::ACCEPTED, axum::Json(job.json())).into_response());
    }
    let kind = [(header::CONTENT_TYPE, "text/plain; charset=utf-8")];
    let (states, closed) = (job.states(), state.jobs.closed());
    let lines = told(states, closed, move || line_of(&job, Job::line), true);
    Ok((kind, Body::from_stream(lines)).into_response())
}

/// The pins of a job, if they fit.
pub(super) async fn pins_of(state: &State, order: &Order) -> Result<Vec<Pin>, Problem> {
    let Some(asked) = &order.pin else {
        return Ok(Vec::new());
    };
    let dataset = known(state, &order.dataset)?;
    let expires = asked.expires.as_deref();
    let expires = expires.map(|text| expiry(text, pins::now()));
    let expires = expires.transpose().map_err(bad)?;
    let mut all = Vec::new();
    for prefix in &order.prefixes {
        let pin = super::pins::judged(state, &dataset, prefix, expires, &all).await?;
        all.push(pin);
    }
    Ok(all)
}

fn job(state: &State, id: &str) -> Result<Arc<Job>, Problem> {
    state.jobs.get(id).ok_or_else(|| {
        let detail = format!("this gateway knows no job {id:?}; GET /-/warm lists its jobs");
        Problem::new(StatusCode::NOT_FOUND, detail)
    })
}

async fn list(Shared(state): Shared<Arc<State>>) -> Response {
    let jobs = state.jobs.all();
    let jobs: Vec<Value> = jobs.iter().map(|job| job.json()).collect();
    axum::Json(json!({ "jobs": jobs })).into_response()
}

async fn show(
    Shared(state): Shared<Arc<State>>,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    Ok(axum::Json(job(&state, &id)?.json()).into_response())
}

async fn cancel(
    Shared(state): Shared<Arc<State>>,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let job = job(&state, &id)?;
    state.jobs.cancel(&job).await.map_err(|error| {
        let detail = format!("whoever works on the job can't be told: {error}");
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail)
    })?;
    Ok(axum::Json(job.json()).into_response())
}

async fn events(
    Shared(state): Shared<Arc<State>>,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let job = job(&state, &id)?;
    let (states, closed) = (job.states(), state.jobs.closed());
    let json = |job: &Job| format!("{}\n", job.json());
    let lines = told(states, closed, move || line_of(&job, json), false);
    let kind = [(header::CONTENT_TYPE, "application/jsonl")];
    Ok((kind, Body::from_stream(lines)).into_response())
}

/// A line of a job, and how the job does. One that has gone on while its line was made has another.
fn line_of(job: &Job, line: impl Fn(&Job) -> String) -> (How, String) {
    let (mut state, mut text) = (job.state(), line(job));
    while job.state() != state {
        (state, text) = (job.state(), line(job));
    }
    let how = match state {
        JobState::Done => How::Well,
        state if state.is_over() => How::Badly,
        _ => How::Going,
    };
    (how, text)
}

async fn resident_all(
    shared: Shared<Arc<State>>,
    Path(name): Path<String>,
    params: Params,
) -> Result<Response, Problem> {
    resident(shared, Path((name, String::new())), params).await
}

async fn resident(
    Shared(state): Shared<Arc<State>>,
    Path((name, prefix)): Path<(String, String)>,
    Query(params): Params,
) -> Result<Response, Problem> {
    let dataset = known(&state, &name)?;
    let tier = match params.get("tier") {
        None => Tier::Any,
        Some(tier) => Tier::parse(tier)
            .ok_or_else(|| bad(format!("tier is memory, nvme or any, not {tier:?}")))?,
    };
    let resident = resident_in(&state, &dataset, &prefix, tier).await?;
    let (revision, resident) = (resident.0, resident.1);
    let status = match resident.is_all() {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    let answer = json!({
        "resident": resident.is_all(),
        "percent": resident.percent(),
        "objects": resident.objects,
        "bytes": resident.bytes,
        "resident_bytes": resident.resident_bytes,
        "missing": resident.missing,
        "revision": revision,
    });
    Ok((status, axum::Json(answer)).into_response())
}

/// What of all that readers may read below a prefix is resident: of the dataset's revision, whose id comes first, or, if
/// it has none, of what its origin has.
///
/// # Errors
/// If it is not known now which revision it has, or what the origin says.
pub(super) async fn resident_in(
    state: &State,
    dataset: &Arc<Dataset>,
    prefix: &str,
    tier: Tier,
) -> Result<(Option<String>, Resident), Problem> {
    let crew = &state.jobs.crew;
    let revision = state.revisions.of(&dataset.name, None).await;
    let revision =
        revision.map_err(|why| Problem::new(StatusCode::SERVICE_UNAVAILABLE, why.to_string()))?;
    let Some(revision) = revision else {
        let resident = crew.resident(&state.listings, dataset, prefix, tier).await;
        return Ok((None, resident.map_err(|error| Problem::of_origin(&error))?));
    };
    let objects = super::revision::objects(dataset, &revision, prefix)?;
    let resident = crew.resident_of(dataset, objects.into_iter(), tier).await;
    Ok((Some(revision.id.clone()), resident))
}
