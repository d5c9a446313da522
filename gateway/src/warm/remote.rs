//! What members ask each other for a job: to bring their part, what they miss of it, and what room they have.
//!
//! `POST /warm` brings blocks of one object. Its answer is a line for each thing told ([`Told`]), and four a
//! second where there is nothing to tell, so that a member that froze is noticed; it ends with `end`, or with why it failed.
//! `POST /warm/missing` moves nothing; `POST /warm/sum` reads what is there.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use forebay_storage::block::BlockKey;
use forebay_storage::object::ObjectId;
use forebay_storage::version::VersionKey;
use futures::stream;
use http::{Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, Full, Limited, StreamBody};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::bring::{ARRIVING, Came, Failure, Part, Told, bring};
use super::order::Tier;
use super::place::{Crew, Room};
use super::verify::sum;
use crate::dialect::peer::nothing;
use crate::peer::{Asked, PeerBody, PeerError, Peers, wire};
use crate::read::route::WARMING;

/// Where a member is asked to bring its part.
const BRING: &str = "/warm";
/// Where it is asked what it misses.
const MISSING: &str = "/warm/missing";
/// Where it is asked what its part of an object comes to.
const SUM: &str = "/warm/sum";
/// Where it is asked what its tiers may keep.
const ROOM: &str = "/warm/room";

/// No question is longer, and no answer but those of lines.
const LONGEST: usize = 8 << 20;

/// No line is longer.
const LONGEST_LINE: usize = 64 << 10;

#[derive(Serialize, Deserialize)]
struct Bring {
    dataset: String,
    key: String,
    /// The version that a listing has named, and the object's bytes.
    listed: Option<(String, u64)>,
    first: u32,
    end: u32,
    tier: Tier,
}

#[derive(Serialize, Deserialize)]
struct Looks {
    tier: Tier,
    /// Version, first block, and the one behind the last.
    parts: Vec<(String, u32, u32)>,
}

/// Makes the member of this name bring `part`, as [`bring`] does here.
///
/// # Errors
/// As there; and [`Failure::Member`] if the member did not see it through.
pub(super) async fn bring_by(
    peers: &Arc<Peers>,
    name: &str,
    part: &Part,
    tell: &(dyn Fn(Told) + Send + Sync),
) -> Result<(), Failure> {
    let question = Bring {
        dataset: part.object.dataset.to_string(),
        key: part.object.key.to_string(),
        listed: part.listed.map(|(key, size)| (hex(key), size)),
        first: part.blocks.start,
        end: part.blocks.end,
        tier: part.tier,
    };
    let failed = |error: PeerError| match error {
        PeerError::Refused(reason) => {
            Failure::Member(name.to_owned(), format!("refuses: {reason}"))
        }
        error => Failure::Member(name.to_owned(), format!("did not do its part: {error}")),
    };
    let asked = peers.ask(name, WARMING, request(BRING, &question)).await;
    let mut asked = asked.map_err(failed)?;
    let mut lines = Vec::new();
    loop {
        let frame = asked.body.frame();
        let known = Arc::clone(&asked.known);
        let frame = peers.patiently(&known, name, false, frame).await;
        known.heard();
        let chunk = match frame.map_err(failed)? {
            Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
            Some(Err(_)) | None => return Err(failed(PeerError::Cut)),
        };
        lines.extend_from_slice(&chunk);
        let mut rest = &lines[..];
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let line = std::str::from_utf8(&rest[..end]).unwrap_or_default();
            rest = &rest[end + 1..];
            match heard(line).ok_or_else(|| failed(PeerError::Corrupt))? {
                Heard::Beat => {}
                Heard::Told(told) => tell(told),
                Heard::End => return Ok(()),
                Heard::Failed(true, reason) => return Err(Failure::Told(reason)),
                Heard::Failed(false, reason) => {
                    return Err(Failure::Member(name.to_owned(), format!("says: {reason}")));
                }
            }
        }
        let used = lines.len() - rest.len();
        lines.drain(..used);
        if lines.len() > LONGEST_LINE {
            return Err(failed(PeerError::Corrupt));
        }
    }
}

/// What a member of this name has not of these blocks in `tier`: places in `parts`, and blocks.
pub(super) async fn missing_at(
    peers: &Arc<Peers>,
    name: &str,
    tier: Tier,
    parts: &[(VersionKey, Range<u32>)],
) -> Result<Vec<(usize, Range<u32>)>, PeerError> {
    let parts = parts.iter();
    let looks = Looks {
        tier,
        parts: parts
            .map(|(version, blocks)| (hex(*version), blocks.start, blocks.end))
            .collect(),
    };
    let asked = peers.ask(name, WARMING, request(MISSING, &looks)).await?;
    let missing: Vec<(usize, u32, u32)> = answer_of(asked).await?;
    let missing = missing.into_iter();
    Ok(missing.map(|(at, first, end)| (at, first..end)).collect())
}

/// What the tiers of the member of this name may keep.
pub(crate) async fn room_of(peers: &Arc<Peers>, name: &str) -> Result<Room, PeerError> {
    let mut request = Request::new(Bytes::new());
    wire::set_path(&mut request, ROOM);
    answer_of(peers.ask(name, WARMING, request).await?).await
}

/// What the part of the member of this name comes to.
pub(super) async fn sum_at(
    peers: &Arc<Peers>,
    name: &str,
    ask: &sum::Ask,
) -> Result<u64, PeerError> {
    answer_of(peers.ask(name, WARMING, request(SUM, ask)).await?).await
}

fn request(path: &str, question: &impl Serialize) -> Request<Bytes> {
    // Numbers and texts always serialise.
    let body = serde_json::to_vec(question).unwrap_or_default();
    let mut request = Request::new(Bytes::from(body));
    *request.method_mut() = Method::POST;
    wire::set_path(&mut request, path);
    request
}

async fn answer_of<T: for<'de> Deserialize<'de>>(asked: Asked) -> Result<T, PeerError> {
    let body = Limited::new(asked.body, LONGEST).collect();
    let body = tokio::time::timeout(crate::peer::NO_PROGRESS, body).await;
    let body = body.map_err(|_| PeerError::Stalled)?;
    let body = body.map_err(|_| PeerError::Cut)?.to_bytes();
    serde_json::from_slice(&body).map_err(|_| PeerError::Corrupt)
}

fn hex(version: VersionKey) -> String {
    format!("{:032x}", version.0)
}

fn unhex(text: &str) -> Option<VersionKey> {
    u128::from_str_radix(text, 16).ok().map(VersionKey)
}

/// What a line says.
#[derive(Debug, PartialEq, Eq)]
enum Heard {
    /// It is at it.
    Beat,
    Told(Told),
    End,
    /// For good or not, and why.
    Failed(bool, String),
}

fn line(told: Told) -> String {
    match told {
        Told::Version(version, size) => format!("version {} {size}\n", hex(version)),
        Told::Block(index, came) => {
            let came = match came {
                Came::Found => "found",
                Came::Origin => "origin",
                Came::Elsewhere => "elsewhere",
            };
            format!("block {index} {came}\n")
        }
        // Those who know of no bytes take it for a sign of life.
        Told::Arriving(bytes) => format!("beat {bytes}\n"),
    }
}

fn last_line(brought: Result<(), Failure>) -> String {
    match brought {
        Ok(()) => "end\n".to_owned(),
        Err(failure) => {
            let word = if failure.is_final() { "final" } else { "again" };
            format!("failed {word} {}\n", failure.to_string().replace('\n', " "))
        }
    }
}

fn heard(line: &str) -> Option<Heard> {
    let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
    let (first, second) = rest.split_once(' ').unwrap_or((rest, ""));
    Some(match word {
        "beat" => match first.parse() {
            Ok(bytes) => Heard::Told(Told::Arriving(bytes)),
            Err(_) => Heard::Beat,
        },
        "end" => Heard::End,
        "failed" => Heard::Failed(first == "final", second.to_owned()),
        "version" => Heard::Told(Told::Version(unhex(first)?, second.parse().ok()?)),
        "block" => {
            let came = match second {
                "found" => Came::Found,
                "origin" => Came::Origin,
                "elsewhere" => Came::Elsewhere,
                _ => return None,
            };
            Heard::Told(Told::Block(first.parse().ok()?, came))
        }
        _ => return None,
    })
}

/// Answers what another member asks for a job; `None`: that is no such question.
pub(crate) async fn answer<B>(
    crew: &Arc<Crew>,
    method: &Method,
    path: &str,
    body: B,
) -> Option<Response<PeerBody>>
where
    B: http_body::Body<Data = Bytes, Error: std::error::Error + Send + Sync + 'static>,
{
    if (method, path) == (&Method::GET, ROOM) {
        return Some(json(&Room::of(&crew.reads.store)));
    }
    if *method != Method::POST || ![BRING, MISSING, SUM].contains(&path) {
        return None;
    }
    let body = Limited::new(body, LONGEST).collect().await;
    let body = body.map(|body| body.to_bytes()).unwrap_or_default();
    let answered = match path {
        BRING => serde_json::from_slice(&body).map(|asked| brought(crew, asked)),
        SUM => match serde_json::from_slice(&body) {
            Ok(asked) => Ok(summed(crew, &asked).await.map(|sum| json(&sum))),
            Err(error) => Err(error),
        },
        _ => serde_json::from_slice(&body).map(|looks| Ok(json(&missing(crew, &looks)))),
    };
    let reason = match answered {
        Ok(Ok(response)) => return Some(response),
        Ok(Err(reason)) => reason,
        Err(_) => "it can't read that",
    };
    let (status, headers) = wire::refusal(StatusCode::BAD_REQUEST, reason);
    let mut response = Response::new(nothing());
    (*response.status_mut(), *response.headers_mut()) = (status, headers);
    Some(response)
}

/// The answer to a question for [`SUM`].
async fn summed(crew: &Arc<Crew>, asked: &sum::Ask) -> Result<u64, &'static str> {
    let dataset = crew.datasets.get(&asked.dataset);
    let dataset = dataset.ok_or("it has no dataset of that name")?;
    let object = ObjectId::new(Arc::clone(&dataset.name), asked.key.as_str());
    let current = crew.reads.current(&dataset, &object, None, false).await;
    let version = current.map_err(|_| "it does not know the version")?.version;
    if Some(version.key) != unhex(&asked.version) {
        return Err("it knows another version");
    }
    let blocks = asked.first..asked.end;
    let sum = sum::here(&crew.reads, &dataset, &object, &version, blocks, asked.crc).await;
    sum.map_err(|_| "it can't read that")
}

fn json(answer: &impl Serialize) -> Response<PeerBody> {
    let text = serde_json::to_vec(answer).unwrap_or_default();
    let body = Full::new(Bytes::from(text)).map_err(|never| match never {});
    Response::new(body.boxed_unsync())
}

fn missing(crew: &Crew, looks: &Looks) -> Vec<(usize, u32, u32)> {
    let mut missing = Vec::new();
    for (at, (version, first, end)) in looks.parts.iter().enumerate() {
        let Some(version) = unhex(version) else {
            missing.push((at, *first, *end));
            continue;
        };
        let ranges = not_held(crew, looks.tier, version, *first..*end);
        missing.extend(
            ranges
                .into_iter()
                .map(|blocks| (at, blocks.start, blocks.end)),
        );
    }
    missing
}

/// Which of these blocks this gateway has not in `tier`; moves nothing.
pub(super) fn not_held(
    crew: &Crew,
    tier: Tier,
    version: VersionKey,
    blocks: Range<u32>,
) -> Vec<Range<u32>> {
    let mut missing: Vec<Range<u32>> = Vec::new();
    for index in blocks {
        let key = BlockKey { version, index };
        if tier.holds(&crew.reads.store, &key) {
            continue;
        }
        match missing.last_mut() {
            Some(last) if last.end == index => last.end += 1,
            _ => missing.push(index..index + 1),
        }
    }
    missing
}

/// The answer to a question for [`BRING`]: it lives as long as whoever asked reads it.
fn brought(crew: &Arc<Crew>, asked: Bring) -> Result<Response<PeerBody>, &'static str> {
    let dataset = crew.datasets.get(&asked.dataset);
    let dataset =
        dataset.ok_or("it has no dataset of that name: give all members the same datasets")?;
    let most = forebay_storage::store::RUN_BYTES / crew.reads.store.block_size().bytes();
    let count = asked.end.saturating_sub(asked.first);
    if u64::from(count) > most.max(1) {
        return Err("those are more blocks than a question may name");
    }
    let part = Part {
        object: ObjectId::new(Arc::clone(&dataset.name), asked.key),
        listed: match asked.listed {
            Some((version, size)) => Some((unhex(&version).ok_or("that names no version")?, size)),
            None => None,
        },
        blocks: asked.first..asked.end,
        tier: asked.tier,
    };
    // Room for every line there can be: nothing waits for whoever reads. What is on its way is told in the next beat.
    let lines = 2 * count as usize * 3 + 8;
    let (sender, receiver) = mpsc::channel(lines);
    let arriving = Arc::new(AtomicU64::new(0));
    let mut task = JoinSet::new();
    let (reads, arrived) = (Arc::clone(&crew.reads), Arc::clone(&arriving));
    task.spawn(async move {
        let tell = |told| match told {
            Told::Arriving(bytes) => arrived.store(bytes, Ordering::Release),
            told => {
                let _ = sender.try_send(line(told));
            }
        };
        let brought = bring(&reads, &dataset, &part, &tell).await;
        let _ = sender.try_send(last_line(brought));
    });
    // The set ends its task when it is dropped, and it is when the body is.
    let state = (receiver, task, arriving);
    let lines = stream::unfold(state, |(mut receiver, task, arriving)| async move {
        let line = match tokio::time::timeout(ARRIVING, receiver.recv()).await {
            Ok(line) => line?,
            Err(_) => line(Told::Arriving(arriving.load(Ordering::Acquire))),
        };
        Some((
            Ok(Frame::data(Bytes::from(line))),
            (receiver, task, arriving),
        ))
    });
    Ok(Response::new(StreamBody::new(lines).boxed_unsync()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use forebay_storage::error::OriginError;

    #[test]
    fn what_is_told_is_heard() {
        for told in [
            Told::Version(VersionKey(u128::MAX - 1), 17),
            Told::Block(3, Came::Found),
            Told::Block(u32::MAX, Came::Origin),
            Told::Block(0, Came::Elsewhere),
            Told::Arriving(1 << 40),
        ] {
            assert_eq!(heard(line(told).trim_end()), Some(Heard::Told(told)));
        }
        assert_eq!(heard("beat"), Some(Heard::Beat));
        assert_eq!(heard(last_line(Ok(())).trim_end()), Some(Heard::End));
        let failed = last_line(Err(Failure::Origin(OriginError::NotFound)));
        let reason = "the origin has no such object".to_owned();
        assert_eq!(heard(failed.trim_end()), Some(Heard::Failed(true, reason)));
        for nonsense in ["", "block x found", "block 1", "version z 1", "what"] {
            assert_eq!(heard(nonsense), None, "{nonsense}");
        }
    }
}
