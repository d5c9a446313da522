//! What concerns the whole fleet: the routes under `/-/`, and what members ask each other on their port.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use axum::extract::{Path, State as Shared};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use forebay_ring::gossip::MAX_SYNC_BYTES;
use forebay_ring::{Extents, Fleet, Member, Peer, Role};
use forebay_storage::block::BlockKey;
use forebay_storage::object::ObjectId;
use forebay_storage::stats::DatasetStats;
use forebay_storage::version::{Version, VersionKey};
use http::{Method, request};
use http_body_util::{BodyExt, Full, Limited};
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

use super::{Problem, State, dataset_json, events, known};
use crate::copy;
use crate::dialect::peer::nothing;
use crate::gateway::Remote;
use crate::peer::{PeerBody, PeerError, wire};
use crate::purge;
use crate::revision;
use crate::warm;

/// No question of a member is longer.
const LONGEST_QUESTION: usize = MAX_SYNC_BYTES;

/// `GET /-/ring`.
pub(super) async fn ring(Shared(state): Shared<Arc<State>>) -> Response {
    let fleet = state.fleet();
    let members: Vec<Value> = fleet
        .peers
        .values()
        .map(|peer| member_json(&state, &fleet, peer))
        .collect();
    let (blocks, bytes) = state.handover.moving();
    axum::Json(json!({
        "fleet": if fleet.name.is_empty() { Value::Null } else { (*fleet.name).into() },
        "self": &*fleet.own,
        "epoch": fleet.table.epoch(),
        "members": members,
        "moving": { "blocks": blocks, "bytes": bytes },
    }))
    .into_response()
}

fn member_json(state: &State, fleet: &Fleet, peer: &Peer) -> Value {
    let name = peer.member.name();
    let seen = match &state.reads.peers {
        Some(peers) => peers.state(peer),
        None => peer.state,
    };
    let own = name == &*fleet.own;
    let state_word = match own && state.is_draining() {
        true => "draining".to_owned(),
        false => seen.to_string(),
    };
    let address = (peer.address.port() != 0).then(|| peer.address.to_string());
    let role = match peer.member.role() {
        Role::Member => "member",
        Role::Edge => "edge",
    };
    let ours = fleet.peer(&fleet.own).map(|own| own.settings);
    json!({
        "name": name,
        "address": address,
        "client_url": client_url(state, fleet, name),
        "zone": peer.member.zone(),
        "role": role,
        "weight": peer.member.weight(),
        "state": state_word,
        "share": fleet.table.share(name),
        "version": peer.version,
        "same_settings": ours == Some(peer.settings),
    })
}

/// Where clients reach a member; `None` where that is not known.
fn client_url(state: &State, fleet: &Fleet, name: &str) -> Option<String> {
    let told = fleet.peer(name).map(|peer| peer.client_url.clone());
    let told = told.filter(|url| !url.is_empty());
    told.or_else(|| {
        let own = name == &*fleet.own;
        state.client_url.get().filter(|_| own).cloned()
    })
}

/// `GET /-/plan/{dataset}/{key}`.
pub(super) async fn plan(
    Shared(state): Shared<Arc<State>>,
    Path((name, key)): Path<(String, String)>,
) -> Result<Response, Problem> {
    let dataset = known(&state, &name)?;
    let object = ObjectId::new(Arc::clone(&dataset.name), key.as_str());
    let current = state.reads.current(&dataset, &object, None, false).await;
    let version = current.map_err(|error| Problem::of_origin(&error))?.version;
    let fleet = state.fleet();
    let extents = Extents::new(version.size, state.reads.store.block_size().bytes());
    let count = if version.size == 0 {
        0
    } else {
        extents.count()
    };
    let path = format!("/{}/{}", wire::encoded(&name), wire::encoded(&key));
    let planned = (0..count).map(|extent| {
        let range = extents.range(extent);
        let member = match &state.reads.peers {
            Some(peers) => peers.stands_in(&fleet, (&name, &key), (extent, count)),
            None => fleet.table.owner(&name, &key, extent, count),
        };
        let member = member.map(Member::name);
        let url = member.and_then(|member| client_url(&state, &fleet, member));
        json!({
            "first": range.start,
            "last": range.end - 1,
            "member": member,
            "url": url.map(|url| format!("{url}{path}")),
        })
    });
    let answer = json!({
        "etag": version.etag(),
        "size": version.size,
        "epoch": fleet.table.epoch(),
        "extents": planned.collect::<Vec<_>>(),
    });
    Ok(axum::Json(answer).into_response())
}

/// `POST /-/drain`.
pub(super) async fn drain(Shared(state): Shared<Arc<State>>) -> Response {
    state.drain();
    let handover = Arc::clone(&state.handover);
    tokio::spawn(async move { handover.give().await });
    let answer = axum::Json(json!({ "state": "draining" }));
    (StatusCode::ACCEPTED, answer).into_response()
}

/// `GET /-/hot`.
pub(super) async fn hot(Shared(state): Shared<Arc<State>>) -> Result<Response, Problem> {
    let (lines, silent) = state.handover.hottest().await;
    if !silent.is_empty() {
        let detail = format!(
            "these members do not tell what they hold, and the list would lack it: {}",
            silent.join(", ")
        );
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail));
    }
    let kind = [(header::CONTENT_TYPE, "application/x-ndjson")];
    Ok((kind, lines).into_response())
}

/// Who holds blocks of a version, in the order of the members: for each block, member and tiers.
pub(super) async fn holders(
    state: &State,
    object: &ObjectId,
    version: &Version,
    blocks: std::ops::Range<u32>,
) -> Vec<Vec<Value>> {
    let mut held: Vec<BTreeMap<String, Value>> = vec![BTreeMap::new(); blocks.len()];
    let own = tiers(state, version.key, blocks.clone());
    let path = format!(
        "/holders/{}/{}?version={:032x}&first={}&end={}",
        wire::encoded(&object.dataset),
        wire::encoded(&object.key),
        version.key.0,
        blocks.start,
        blocks.end
    );
    let others = ask_others(state, &Method::GET, &path).await;
    let others = others
        .into_iter()
        .filter_map(|(name, answer)| Some((name, answer.ok()?)));
    for (name, tiers) in others.chain([(state.name.to_string(), own)]) {
        for (block, tiers) in held.iter_mut().zip(tiers.as_array().into_iter().flatten()) {
            if tiers.as_array().is_some_and(|tiers| !tiers.is_empty()) {
                let holder = json!({ "member": name, "tiers": tiers });
                block.insert(name.clone(), holder);
            }
        }
    }
    held.into_iter()
        .map(|block| block.into_values().collect())
        .collect()
}

fn tiers(state: &State, version: VersionKey, blocks: std::ops::Range<u32>) -> Value {
    let store = &state.reads.store;
    let tiers = blocks.map(|index| {
        let key = BlockKey { version, index };
        json!(store.tiers(&key).collect::<Vec<_>>())
    });
    Value::Array(tiers.collect())
}

/// The path of a question about an object.
pub(super) fn path_of(verb: &str, dataset: &str, key: &str) -> String {
    let (dataset, key) = (wire::encoded(dataset), wire::encoded(key));
    format!("{verb}{dataset}/{key}")
}

/// What all members that answer say of their datasets, added up. `described` are this gateway's.
pub(super) async fn add_others(state: &State, described: &mut [Value]) {
    for (_, answer) in ask_others(state, &Method::GET, "/datasets").await {
        let Ok(answer) = answer else { continue };
        for theirs in answer.as_array().into_iter().flatten() {
            let ours = described
                .iter_mut()
                .find(|ours| ours["name"] == theirs["name"]);
            if let Some(ours) = ours {
                add(ours, theirs);
            }
        }
    }
    for dataset in described {
        let number = |value: &Value| value.as_u64().unwrap_or(0);
        let (served, cached) = (
            number(&dataset["served_bytes"]),
            number(&dataset["served_from_cache"]),
        );
        let read = number(&dataset["origin_bytes_read"]);
        dataset["hit_ratio"] = match served {
            0 => Value::Null,
            served => json!(cached as f64 / served as f64),
        };
        dataset["origin_bytes_saved"] = json!(served.saturating_sub(read));
        // Members hold copies of each other's blocks, so a sum of bytes says nothing of the share.
        if state.reads.peers.is_some() {
            dataset["percent"] = Value::Null;
        }
    }
}

/// Adds the numbers of one description to those of another that are counts.
fn add(ours: &mut Value, theirs: &Value) {
    for field in [
        "/cached/memory/blocks",
        "/cached/memory/bytes",
        "/cached/nvme/blocks",
        "/cached/nvme/bytes",
        "/resident_bytes",
        "/origin_requests",
        "/origin_bytes_read",
        "/served_bytes",
        "/served_from_cache",
        "/pinned_bytes",
    ] {
        let more = theirs.pointer(field).and_then(Value::as_u64).unwrap_or(0);
        if let Some(sum) = ours.pointer_mut(field) {
            *sum = json!(sum.as_u64().unwrap_or(0).saturating_add(more));
        }
    }
    if theirs["origin_state"] == "down" {
        ours["origin_state"] = "down".into();
    }
}

/// Asks all other members that membership knows of, side by side. One that is down is not asked; one
/// that is silent has not answered.
pub(super) async fn ask_others(
    state: &State,
    method: &Method,
    path: &str,
) -> Vec<(String, Result<Value, PeerError>)> {
    tell_others(state, method, path, Bytes::new()).await
}

/// The same with a body.
pub(super) async fn tell_others(
    state: &State,
    method: &Method,
    path: &str,
    body: Bytes,
) -> Vec<(String, Result<Value, PeerError>)> {
    match &state.reads.peers {
        Some(peers) => peers.ask_others(method, path, body).await,
        None => Vec::new(),
    }
}

/// Answers what members ask each other beside blocks.
pub async fn answer<B>(
    state: &Arc<State>,
    from: &str,
    parts: &request::Parts,
    body: B,
) -> Response<PeerBody>
where
    B: http_body::Body<Data = Bytes, Error: std::error::Error + Send + Sync + 'static>,
{
    let path = parts.uri.path();
    if path.starts_with("/warm") {
        let crew = &state.jobs.crew;
        let answered = warm::remote::answer(crew, &parts.method, path, body).await;
        return answered.unwrap_or_else(unknown);
    }
    if path.starts_with("/handover/") {
        let (handover, draining) = (&state.handover, state.is_draining());
        let answered = handover
            .answer(from, &parts.method, path, draining, body)
            .await;
        return answered.unwrap_or_else(unknown);
    }
    if (&parts.method, path) == (&Method::POST, wire::SYNC) {
        return sync(state, parts, body).await;
    }
    match told(state, from, parts, body).await {
        Some(value) => text(value.to_string()),
        None => unknown(),
    }
}

/// What is answered in one value.
async fn told<B>(state: &Arc<State>, from: &str, parts: &request::Parts, body: B) -> Option<Value>
where
    B: http_body::Body<Data = Bytes, Error: std::error::Error + Send + Sync + 'static>,
{
    let (method, path) = (&parts.method, parts.uri.path());
    let query = parts.uri.query().unwrap_or_default();
    if path == purge::told::PATH {
        let body = whole(body, purge::told::LONGEST).await;
        return purge::told::answer(&state.purges, from, method, query, &body).await;
    }
    if path == crate::pins::PATH {
        let body = whole(body, LONGEST_QUESTION).await;
        return super::pins::answer(state, method, &body).await;
    }
    if path.starts_with(revision::PATH) {
        let body = whole(body, revision::LONGEST_TOLD).await;
        return state.revisions.answer(method, path, &body).await;
    }
    match (method, path) {
        (&Method::POST, purge::PART) => {
            let body = whole(body, LONGEST_QUESTION).await;
            state.purges.answer_part(from, &body).await
        }
        (&Method::POST, copy::CHANGED) => {
            let body = whole(body, LONGEST_QUESTION).await;
            state.copier.told(&body)
        }
        (&Method::GET, "/datasets") => Some(datasets(state)),
        (&Method::GET, _) => {
            path.strip_prefix("/holders/")?;
            held(state, query)
        }
        (&Method::POST, _) => {
            let about = |verb| path.strip_prefix(verb).and_then(split);
            if let Some((dataset, key)) = about(purge::ALL) {
                let wanted = purge::Wanted::all(&dataset, &key);
                return state.purges.answer(from, wanted).await;
            }
            let (dataset, key) = about(events::DOUBT)?;
            events::doubt_here(state, &dataset, &key);
            Some(Value::Null)
        }
        _ => None,
    }
}

/// A body, if it is not longer than that.
async fn whole<B>(body: B, longest: usize) -> Bytes
where
    B: http_body::Body<Data = Bytes, Error: std::error::Error + Send + Sync + 'static>,
{
    let body = Limited::new(body, longest).collect().await;
    body.map(http_body_util::Collected::to_bytes)
        .unwrap_or_default()
}

fn unknown() -> Response<PeerBody> {
    let (status, headers) = wire::refusal(StatusCode::NOT_FOUND, "it knows no such question");
    let mut response = Response::new(nothing());
    (*response.status_mut(), *response.headers_mut()) = (status, headers);
    response
}

async fn sync<B>(state: &State, parts: &request::Parts, body: B) -> Response<PeerBody>
where
    B: http_body::Body<Data = Bytes, Error: std::error::Error + Send + Sync + 'static>,
{
    let body = Limited::new(body, LONGEST_QUESTION).collect().await;
    let answer = match (body, state.exchange.get()) {
        (Ok(body), Some(exchange)) => {
            let remote = parts.extensions.get::<Remote>();
            let unknown = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
            let from = remote.map_or(unknown, |remote| remote.address);
            (exchange.0)(from, &body.to_bytes())
        }
        _ => None,
    };
    match answer {
        Some(answer) => text(answer),
        None => {
            let (status, headers) = wire::refusal(StatusCode::FORBIDDEN, "it can't read that");
            let mut response = Response::new(nothing());
            (*response.status_mut(), *response.headers_mut()) = (status, headers);
            response
        }
    }
}

fn text(text: impl Into<Bytes>) -> Response<PeerBody> {
    let body = Full::new(text.into()).map_err(|never| match never {});
    Response::new(body.boxed_unsync())
}

/// Dataset and key of a path.
fn split(path: &str) -> Option<(String, String)> {
    let (dataset, key) = path.split_once('/')?;
    let text = |text| {
        let text = percent_decode_str(text).decode_utf8().ok()?;
        Some(text.into_owned())
    };
    Some((text(dataset)?, text(key)?))
}

fn datasets(state: &State) -> Value {
    let datasets = state.datasets.all();
    let described = datasets
        .iter()
        .map(|dataset| with_served(dataset_json(state, dataset, None), dataset.origin.stats()));
    Value::Array(described.collect())
}

/// A description with what sums are made of.
pub(super) fn with_served(mut described: Value, stats: &DatasetStats) -> Value {
    described["served_bytes"] = json!(DatasetStats::get(&stats.served_bytes));
    described["served_from_cache"] = json!(DatasetStats::get(&stats.served_from_cache));
    described
}

fn held(state: &State, query: &str) -> Option<Value> {
    let field = |name: &str| {
        query
            .split('&')
            .find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
    };
    let version = VersionKey(u128::from_str_radix(field("version")?, 16).ok()?);
    let (first, end): (u32, u32) = (field("first")?.parse().ok()?, field("end")?.parse().ok()?);
    let most = first.saturating_add(super::MOST_BLOCKS);
    Some(tiers(state, version, first..end.min(most)))
}
