//! Flows under `/-/`: taken, told of and cancelled.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, Query, Request, State as Shared};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::{Value, json};

use super::told::{How, told};
use super::{Params, Problem, State};
use crate::flow::graph::LONGEST;
use crate::flow::record::State as FlowState;
use crate::flow::{Flow, NotTaken};

/// The routes of flows.
pub(super) fn routes() -> axum::Router<Arc<State>> {
    axum::Router::new()
        .route("/-/flow", get(list).post(run))
        .route("/-/flow/{id}", get(show).delete(cancel))
        .route("/-/flow/{id}/events", get(events))
}

async fn run(
    Shared(state): Shared<Arc<State>>,
    Query(params): Params,
    request: Request,
) -> Result<Response, Problem> {
    // Those of a presigned request were looked at by whoever judged it.
    let mut names = params.keys();
    if let Some(name) = names.find(|name| !name.to_ascii_lowercase().starts_with("x-amz-")) {
        let detail = format!("a flow has no parameter {name:?}: what it does is in the body");
        return Err(Problem::new(StatusCode::BAD_REQUEST, detail));
    }
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, LONGEST).await.map_err(|error| {
        let detail = format!("the body can't be read, or is longer than {LONGEST} bytes: {error}");
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail)
    })?;
    let graph = state.flows.judge(&body).map_err(problem)?;
    let flow = state.flows.take(graph, None).await.map_err(problem)?;
    if wants_json(&parts.headers) {
        return Ok((StatusCode::ACCEPTED, axum::Json(flow.json())).into_response());
    }
    let kind = [(header::CONTENT_TYPE, "text/plain; charset=utf-8")];
    let (changes, closed) = (flow.changes(), state.flows.closed());
    let lines = told(changes, closed, move || line_of(&flow, Flow::line), true);
    Ok((kind, Body::from_stream(lines)).into_response())
}

fn problem(why: NotTaken) -> Problem {
    let (status, detail) = match why {
        NotTaken::Wrong(mistakes) => {
            let mistakes = mistakes.join("; ");
            let detail = format!("nothing was begun: {mistakes}");
            (StatusCode::BAD_REQUEST, detail)
        }
        NotTaken::There => (StatusCode::CONFLICT, NotTaken::There.to_string()),
        NotTaken::NotNow(why) => {
            let detail = format!("the flow can't be taken: {why}");
            (StatusCode::SERVICE_UNAVAILABLE, detail)
        }
    };
    Problem::new(status, detail)
}

fn wants_json(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT);
    let accept = accept.and_then(|accept| accept.to_str().ok());
    accept.is_some_and(|accept| accept.contains("application/json"))
}

/// A line of a flow, and how the flow does.
fn line_of(flow: &Flow, line: impl Fn(&Flow) -> String) -> (How, String) {
    let (mut state, mut text) = (flow.state(), line(flow));
    while flow.state() != state {
        (state, text) = (flow.state(), line(flow));
    }
    let how = match state {
        FlowState::Done => How::Well,
        FlowState::Failed | FlowState::Cancelled => How::Badly,
        FlowState::Running | FlowState::Cleaning => How::Going,
    };
    (how, text)
}

fn known(state: &State, id: &str) -> Result<Arc<Flow>, Problem> {
    state.flows.get(id).ok_or_else(|| {
        let detail = format!("this gateway knows no flow {id:?}; GET /-/flow lists its flows");
        Problem::new(StatusCode::NOT_FOUND, detail)
    })
}

async fn list(Shared(state): Shared<Arc<State>>) -> Response {
    let flows = state.flows.all();
    let flows: Vec<Value> = flows.iter().map(|flow| flow.json()).collect();
    axum::Json(json!({ "flows": flows })).into_response()
}

async fn show(
    Shared(state): Shared<Arc<State>>,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    Ok(axum::Json(known(&state, &id)?.json()).into_response())
}

/// What cleans up may take its time: it is begun, and told of elsewhere.
async fn cancel(
    Shared(state): Shared<Arc<State>>,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let flow = known(&state, &id)?;
    let cancelled = state.flows.cancel(&flow).await;
    cancelled.map_err(|why| Problem::new(StatusCode::SERVICE_UNAVAILABLE, why))?;
    Ok((StatusCode::ACCEPTED, axum::Json(flow.json())).into_response())
}

async fn events(
    Shared(state): Shared<Arc<State>>,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let flow = known(&state, &id)?;
    let (changes, closed) = (flow.changes(), state.flows.closed());
    let json = |flow: &Flow| format!("{}\n", flow.json());
    let lines = told(changes, closed, move || line_of(&flow, json), false);
    let kind = [(header::CONTENT_TYPE, "application/jsonl")];
    Ok((kind, Body::from_stream(lines)).into_response())
}
