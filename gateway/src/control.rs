//! Everything of ours: the routes under `/-/`.
//!
//! axum routes them and tower-http wraps them; objects never come this way, since a route table
//! costs microseconds and stands in the way of odd keys.

mod acts;
mod copy;
mod events;
pub mod fleet;
mod flow;
pub mod guard;
pub mod pins;
mod purge;
mod revision;
mod state;
mod told;
mod warm;
mod well_formed;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, Query, Request, State as Shared};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use forebay_ring::{Extents, Member};
use forebay_storage::error::OriginError;
use forebay_storage::listing::{ListRequest, Start};
use forebay_storage::object::ObjectId;
use forebay_storage::stats::DatasetStats;
use serde_json::{Value, json};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::set_header::SetResponseHeaderLayer;
use tower_http::timeout::TimeoutLayer;

pub use self::acts::Acts;
pub use self::state::{Exchange, Leave, Revise, State};

use crate::account::RequestId;
use crate::dataset::Dataset;
use crate::gateway::Remote;

/// Blocks that one answer of `/-/blocks` tells of at most.
const MOST_BLOCKS: u32 = 100_000;

/// How long a route may take. The longest lists a whole origin.
const TIMEOUT: Duration = Duration::from_secs(300);

/// A failure under `/-/` (RFC 9457).
#[derive(Debug)]
struct Problem {
    status: StatusCode,
    detail: String,
}

impl Problem {
    fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self {
            status,
            detail: detail.into(),
        }
    }

    fn of_origin(error: &OriginError) -> Self {
        let status = match error {
            OriginError::NotFound | OriginError::Unnameable(_) => StatusCode::NOT_FOUND,
            OriginError::Unsupported(_) => StatusCode::NOT_IMPLEMENTED,
            error if error.is_outage() => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::BAD_GATEWAY,
        };
        Self::new(status, error.to_string())
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        // The middleware that knows the request's id writes the document.
        response.extensions_mut().insert(Detail(self.detail));
        response
    }
}

#[derive(Clone)]
struct Detail(String);

/// The routes.
pub fn router(state: Arc<State>) -> axum::Router {
    let admin = axum::Router::new()
        .route("/-/datasets", get(datasets))
        .route("/-/datasets/{name}", get(one_dataset))
        .route("/-/blocks/{dataset}/{*key}", get(blocks))
        .route("/-/ring", get(fleet::ring))
        .route("/-/drain", post(fleet::drain))
        .route("/-/hot", get(fleet::hot));
    let open = axum::Router::new()
        .route("/-/healthz", get(|| async { "ok\n" }))
        .route("/-/readyz", get(readyz))
        .route("/-/plan/{dataset}/{*key}", get(fleet::plan))
        .route("/-/metrics", get(metrics));
    open.merge(admin)
        .merge(purge::routes())
        .merge(warm::routes())
        .merge(copy::routes())
        .merge(revision::routes())
        .merge(pins::routes())
        .merge(flow::routes())
        .merge(events::routes())
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        .layer(TimeoutLayer::with_status_code(
            StatusCode::SERVICE_UNAVAILABLE,
            TIMEOUT,
        ))
        .layer(CatchPanicLayer::new())
        .layer(middleware::from_fn(well_formed::only_well_formed))
        .layer(middleware::from_fn(guard::only_admitted))
        .layer(middleware::from_fn(only_where_offered))
        .layer(middleware::from_fn(write_problem))
        .layer(SetResponseHeaderLayer::if_not_present(
            header::CACHE_CONTROL,
            HeaderValue::from_static("no-store"),
        ))
        .with_state(state)
}

/// Where `/-/` has a listener of its own, the other one only says how the gateway is.
async fn only_where_offered(request: Request, next: Next) -> Response {
    let remote = request.extensions().get::<Remote>();
    let health = matches!(request.uri().path(), "/-/healthz" | "/-/readyz");
    if health || remote.is_none_or(|remote| remote.controls) {
        return next.run(request).await;
    }
    unknown().await.into_response()
}

/// Gives every failure its document.
async fn write_problem(request: Request, next: Next) -> Response {
    // Put there by the gateway.
    let id = request.extensions().get::<RequestId>().copied();
    let mut response = next.run(request).await;
    let status = response.status();
    let written = response
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind == "application/json");
    if !(status.is_client_error() || status.is_server_error()) || written {
        return response;
    }
    let title = status.canonical_reason().unwrap_or("Error");
    let detail = response.extensions_mut().remove::<Detail>();
    let problem = json!({
        "type": "about:blank",
        "title": title,
        "status": status.as_u16(),
        "detail": detail.map_or_else(|| title.to_owned(), |detail| detail.0),
        "request_id": id.as_ref().map(RequestId::as_str),
    });
    let mut written = (status, problem.to_string()).into_response();
    for name in [header::ALLOW, header::WWW_AUTHENTICATE] {
        if let Some(value) = response.headers_mut().remove(&name) {
            written.headers_mut().insert(name, value);
        }
    }
    let kind = HeaderValue::from_static("application/problem+json");
    written.headers_mut().insert(header::CONTENT_TYPE, kind);
    written
}

async fn unknown() -> Problem {
    let detail = "there is no such route; README.md lists those under /-/";
    Problem::new(StatusCode::NOT_FOUND, detail)
}

async fn wrong_method() -> Problem {
    let detail = "this route knows another method; README.md lists them";
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, detail)
}

fn known(state: &State, name: &str) -> Result<Arc<Dataset>, Problem> {
    state.datasets.get(name).ok_or_else(|| {
        let detail = format!("there is no dataset {name:?}; GET /-/datasets lists them");
        Problem::new(StatusCode::NOT_FOUND, detail)
    })
}

async fn readyz(Shared(state): Shared<Arc<State>>) -> Result<&'static str, Problem> {
    if state.is_ready() {
        return Ok("ready\n");
    }
    let detail = "the gateway is starting, draining or stopping";
    Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail))
}

async fn metrics(Shared(state): Shared<Arc<State>>) -> Response {
    let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4")];
    (kind, state.reads.metrics.text()).into_response()
}

type Params = Query<HashMap<String, String>>;

async fn datasets(
    Shared(state): Shared<Arc<State>>,
    Query(params): Params,
) -> Result<Response, Problem> {
    let all = state.datasets.all();
    describe(&state, &all, &params).await
}

async fn one_dataset(
    Shared(state): Shared<Arc<State>>,
    Path(name): Path<String>,
    Query(params): Params,
) -> Result<Response, Problem> {
    let dataset = known(&state, &name)?;
    describe(&state, &[dataset], &params).await
}

async fn describe(
    state: &State,
    datasets: &[Arc<Dataset>],
    params: &HashMap<String, String>,
) -> Result<Response, Problem> {
    let scope = params.get("scope").map_or("gateway", String::as_str);
    if !matches!(scope, "gateway" | "fleet") {
        let detail = "scope is gateway or fleet";
        return Err(Problem::new(StatusCode::BAD_REQUEST, detail));
    }
    let list = params.get("list").is_some_and(|list| list == "true");
    let mut described = Vec::new();
    for dataset in datasets {
        let at_origin = if list {
            let counted = count(dataset).await;
            Some(counted.map_err(|error| Problem::of_origin(&error))?)
        } else {
            None
        };
        described.push(dataset_json(state, dataset, at_origin));
    }
    if scope == "fleet" {
        for (described, dataset) in described.iter_mut().zip(datasets) {
            *described = fleet::with_served(described.take(), dataset.origin.stats());
        }
        fleet::add_others(state, &mut described).await;
    }
    let nvme = state.reads.store.nvme();
    let answer = json!({
        "gateway": &*state.name,
        "scope": scope,
        "datasets": described,
        "nvme": {
            "state": nvme.map_or("none", |nvme| nvme.state()),
            "detail": nvme.and_then(|nvme| nvme.trouble()).as_deref(),
        },
    });
    Ok(axum::Json(answer).into_response())
}

/// Objects and bytes at the origin.
async fn count(dataset: &Dataset) -> Result<(u64, u64), OriginError> {
    let mut request = ListRequest {
        prefix: String::new(),
        delimiter: None,
        start: Start::Beginning,
        max_keys: 1000,
    };
    let (mut objects, mut bytes) = (0, 0);
    loop {
        let page = dataset.origin.list(&request).await?;
        objects += page.objects.len() as u64;
        let sizes = page.objects.iter().map(|object| object.size);
        bytes = sizes.fold(bytes, u64::saturating_add);
        match page.next {
            Some(token) => request.start = Start::Token(token),
            None => return Ok((objects, bytes)),
        }
    }
}

fn dataset_json(state: &State, dataset: &Dataset, at_origin: Option<(u64, u64)>) -> Value {
    let stats = dataset.origin.stats();
    let store = &state.reads.store;
    let memory = store.residents().tally(&dataset.name);
    let nvme = store.nvme().map(|nvme| nvme.tally(&dataset.name));
    let nvme = nvme.unwrap_or_default();
    let resident = store.resident_bytes(&dataset.name);
    let (objects, origin_bytes) = at_origin.unzip();
    let percent = origin_bytes.map(|bytes| match bytes {
        0 => 100.0,
        bytes => resident as f64 * 100.0 / bytes as f64,
    });
    let served = DatasetStats::get(&stats.served_bytes);
    let from_cache = DatasetStats::get(&stats.served_from_cache);
    let read = DatasetStats::get(&stats.origin_bytes);
    json!({
        "name": &*dataset.name,
        "origin": dataset.origin_url(),
        "origin_state": stats.origin_state(),
        "objects": objects,
        "origin_bytes": origin_bytes,
        "cached": {
            "memory": { "blocks": memory.blocks, "bytes": memory.bytes },
            "nvme": { "blocks": nvme.blocks, "bytes": nvme.bytes },
        },
        "resident_bytes": resident,
        "percent": percent,
        "hit_ratio": (served > 0).then(|| from_cache as f64 / served as f64),
        "origin_requests": stats.origin_requests(),
        "origin_bytes_read": read,
        "origin_bytes_saved": served.saturating_sub(read),
        "pinned_bytes": store.pinned_bytes(&dataset.name),
    })
}

async fn blocks(
    Shared(state): Shared<Arc<State>>,
    Path((name, key)): Path<(String, String)>,
    Query(params): Params,
) -> Result<Response, Problem> {
    let number = |name: &str, default: u32| match params.get(name) {
        None => Ok(default),
        Some(text) => text.parse().map_err(|_| {
            let detail = format!("{name} is a number of blocks, not {text:?}");
            Problem::new(StatusCode::BAD_REQUEST, detail)
        }),
    };
    let first = number("first", 0)?;
    let count = number("count", 1000)?.min(MOST_BLOCKS);
    let dataset = known(&state, &name)?;
    let object = ObjectId::new(Arc::clone(&dataset.name), key.as_str());
    let current = state.reads.current(&dataset, &object, None, false).await;
    let version = current.map_err(|error| Problem::of_origin(&error))?.version;
    let block_size = state.reads.store.block_size();
    let end = first
        .saturating_add(count)
        .min(block_size.count(version.size));
    let extents = Extents::new(version.size, block_size.bytes());
    let ring = state.fleet();
    let held = fleet::holders(&state, &object, &version, first..end.max(first)).await;
    let blocks = (first..end).zip(held).map(|(index, holders)| {
        let extent = extents.holding(u64::from(index));
        let owner = ring
            .table
            .owner(&dataset.name, &key, extent, extents.count());
        json!({ "index": index, "owner": owner.map(Member::name), "holders": holders })
    });
    let answer = json!({
        "dataset": &*dataset.name,
        "key": key,
        "etag": version.etag(),
        "size": version.size,
        "block_size": block_size.bytes(),
        "blocks": blocks.collect::<Vec<_>>(),
    });
    Ok(axum::Json(answer).into_response())
}
