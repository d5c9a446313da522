//! Flows that begin by themselves: at a time, or when something at an origin changed.
//!
//! A run's flow is named after its schedule and what it is for, and its document is made only if there is none, so that
//! one member of a fleet begins it. What was run last is a document of its own.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use forebay_storage::error::OriginError;
use forebay_storage::listing::{ListRequest, Start};
use forebay_storage::object::ObjectId;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::Notify;
use xxhash_rust::xxh3::Xxh3;

use super::graph::Graph;
use super::{Flows, NotTaken};
use crate::dataset::Dataset;
use crate::keeping::cabinet::{Cabinet, CabinetError, Mark};
use crate::keeping::lease::{TICK, TRIES};
use crate::keeping::{millis, time};
use crate::settings::timetable::Timetable;
use crate::settings::{Begins, ScheduleSettings, Watched};

/// A time that is longer ago was missed.
const LATE: Duration = Duration::from_secs(60);

/// How long is slept at most: clocks are set.
const LONGEST_SLEEP: Duration = Duration::from_secs(30);

/// What is written where there is no such object.
const ABSENT: &str = "absent";

/// One that begins by itself.
#[derive(Debug)]
pub struct Schedule {
    /// Its name.
    pub name: String,
    /// When it begins.
    pub begins: Begins,
    source: Value,
    /// What it watches may have changed.
    look: Notify,
}

/// What is known of a schedule's runs.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Memory {
    /// The time that was run or left out last, in milliseconds since 1970.
    last: u64,
    /// What that is watched was like.
    seen: String,
    /// Counts the changes that were seen.
    turn: u64,
}

/// The same, and what its document was like.
type Known = (Memory, Mark);

impl Schedule {
    /// That of these settings.
    ///
    /// # Errors
    /// If its flow's file is neither TOML nor JSON.
    pub fn new(settings: &ScheduleSettings) -> Result<Self, String> {
        let source = match (&settings.flow, &settings.begins) {
            (Some(text), _) => Graph::source(text.as_bytes())?,
            (None, Begins::OnChange { dataset, what, .. }) => warms(&settings.name, dataset, what),
            (None, Begins::At { .. }) => return Err("it has no flow".into()),
        };
        Ok(Self {
            name: settings.name.clone(),
            begins: settings.begins.clone(),
            source,
            look: Notify::new(),
        })
    }

    /// What its flow asks for.
    pub fn source(&self) -> &Value {
        &self.source
    }

    /// Has it look at once, if it watches this object.
    pub fn changed(&self, dataset: &str, key: &str) {
        let Begins::OnChange {
            dataset: own, what, ..
        } = &self.begins
        else {
            return;
        };
        let watched = match what {
            Watched::Manifest(object) | Watched::Index(object) => object == key,
            Watched::Prefix(prefix) => key.starts_with(prefix),
        };
        if watched && own == dataset {
            self.look.notify_one();
        }
    }
}

/// The flow of a watch that names none: it warms what changed.
fn warms(name: &str, dataset: &str, what: &Watched) -> Value {
    let warm = match what {
        Watched::Manifest(key) => json!({ "dataset": dataset, "manifest": key }),
        Watched::Index(key) => json!({ "dataset": dataset, "index": key }),
        Watched::Prefix(prefix) => json!({ "dataset": dataset, "prefix": prefix }),
    };
    json!({ "name": name, "steps": [{ "name": "warm", "warm": warm }] })
}

/// Begins what is due, until flows go on no more.
pub(super) async fn keep(flows: Arc<Flows>) {
    let kept = flows.schedules().iter().map(|schedule| {
        let (flows, schedule) = (&flows, Arc::clone(schedule));
        async move {
            match &schedule.begins {
                Begins::At { table, run_missed } => {
                    keep_time(flows, &schedule, table, *run_missed).await;
                }
                Begins::OnChange {
                    dataset,
                    what,
                    every,
                } => {
                    watch(flows, &schedule, dataset, what, *every).await;
                }
            }
        }
    });
    tokio::select! {
        biased;
        () = flows.closing() => {}
        _ = futures::future::join_all(kept) => {}
    }
}

async fn keep_time(flows: &Arc<Flows>, schedule: &Schedule, table: &Timetable, run_missed: bool) {
    loop {
        let now = SystemTime::now();
        let first = Memory {
            last: millis(now),
            ..Memory::default()
        };
        let known = recall(flows, schedule, &first).await;
        let Some((mut memory, mark)) = known else {
            tokio::time::sleep(TICK).await;
            continue;
        };
        let last = time(memory.last);
        let Some(due) = table.last_between(last, now) else {
            let next = table
                .next_after(now)
                .and_then(|next| next.duration_since(now).ok());
            let pause = next.unwrap_or(LONGEST_SLEEP).min(LONGEST_SLEEP);
            tokio::time::sleep(pause.max(Duration::from_millis(1))).await;
            continue;
        };
        let late = now.duration_since(due).unwrap_or_default();
        if late < LATE || run_missed {
            let what = DateTime::<Utc>::from(due).format("%Y%m%dT%H%M%SZ");
            if !begin(flows, schedule, &what.to_string()).await {
                tokio::time::sleep(TICK).await;
                continue;
            }
        } else {
            let (name, due) = (&schedule.name, DateTime::<Utc>::from(due));
            tracing::info!(schedule = name, %due, "a run that was missed is left out");
        }
        memory.last = millis(due);
        remember(flows, schedule, &memory, Some(&mark)).await;
    }
}

async fn watch(
    flows: &Arc<Flows>,
    schedule: &Schedule,
    dataset: &str,
    what: &Watched,
    every: Duration,
) {
    loop {
        // What is known is asked for first: a look that takes long must not be compared with what another member saw later.
        let known = known(flows, schedule).await;
        if let (Some(dataset), Ok(known)) = (flows.datasets.get(dataset), known) {
            match like(&dataset, what).await {
                Ok(seen) => compare(flows, schedule, (&dataset.name, what), known, seen).await,
                Err(error) => {
                    tracing::debug!(schedule = schedule.name, %error, "what is watched can't be seen now");
                }
            }
        }
        let _ = tokio::time::timeout(every, schedule.look.notified()).await;
    }
}

/// Begins a run if what is watched is other than it was.
pub(super) async fn compare(
    flows: &Arc<Flows>,
    schedule: &Schedule,
    (dataset, what): (&str, &Watched),
    known: Option<Known>,
    seen: String,
) {
    let Some((mut memory, mark)) = known else {
        let first = Memory {
            seen,
            ..Memory::default()
        };
        remember(flows, schedule, &first, None).await;
        return;
    };
    if memory.seen == seen {
        return;
    }
    memory.turn += 1;
    if seen != ABSENT {
        // It is seen again at the next look. Nothing is doubtful for a run that does not begin.
        if goes(flows, schedule) {
            return;
        }
        let key = match what {
            Watched::Manifest(key) | Watched::Index(key) => key,
            Watched::Prefix(_) => "",
        };
        if let Some(setup) = flows.setup.get() {
            setup.hands.doubt(dataset, key).await;
        }
        if !begin(flows, schedule, &memory.turn.to_string()).await {
            return;
        }
    }
    memory.seen = seen;
    remember(flows, schedule, &memory, Some(&mark)).await;
}

/// Whether a run of it goes on.
fn goes(flows: &Flows, schedule: &Schedule) -> bool {
    let name = &schedule.name;
    let is_ours = |id: &str| id.rsplit_once('-').is_some_and(|(known, _)| known == name);
    let mut all = flows.all().into_iter();
    all.any(|flow| is_ours(&flow.id) && !flow.state().is_over())
}

/// Begins a run. False: not now.
async fn begin(flows: &Arc<Flows>, schedule: &Schedule, what: &str) -> bool {
    let name = &schedule.name;
    if goes(flows, schedule) {
        tracing::debug!(schedule = name, what, "a run waits for the one before");
        return false;
    }
    let taken = match flows.graph(schedule.source.clone()) {
        Ok(graph) => flows.take(graph, Some(format!("{name}-{what}"))).await,
        Err(mistakes) => Err(NotTaken::Wrong(mistakes)),
    };
    match taken {
        Ok(flow) => tracing::info!(
            schedule = name,
            flow = flow.id,
            "a schedule begins its flow"
        ),
        // Another member did.
        Err(NotTaken::There) => {}
        Err(why @ NotTaken::Wrong(_)) => {
            tracing::warn!(schedule = name, %why, "the flow of a schedule can't be run any more");
        }
        Err(why @ NotTaken::NotNow(_)) => {
            tracing::warn!(schedule = name, %why, "the flow of a schedule can't be begun now");
            return false;
        }
    }
    true
}

/// What is known of a schedule's runs; of one that was never seen, `first`.
async fn recall(flows: &Flows, schedule: &Schedule, first: &Memory) -> Option<Known> {
    for _ in 0..TRIES {
        if let Some(known) = known(flows, schedule).await.ok()? {
            return Some(known);
        }
        let runs = &flows.setup.get()?.runs;
        match runs.put(&schedule.name, bytes(first), None).await {
            Ok(mark) => return Some((first.clone(), mark)),
            Err(CabinetError::Changed) => {}
            Err(_) => return None,
        }
    }
    None
}

/// The same; nothing is made of one that was never seen. An error is told.
pub(super) async fn known(flows: &Flows, schedule: &Schedule) -> Result<Option<Known>, ()> {
    let runs = &flows.setup.get().ok_or(())?.runs;
    let known = read(runs, &schedule.name).await;
    known.map_err(|error| {
        tracing::debug!(schedule = schedule.name, %error, "what a schedule ran is not known now");
    })
}

async fn read(runs: &Cabinet, name: &str) -> Result<Option<(Memory, Mark)>, CabinetError> {
    let Some((bytes, mark)) = runs.get(name).await? else {
        return Ok(None);
    };
    match serde_json::from_slice(&bytes) {
        Ok(memory) => Ok(Some((memory, mark))),
        Err(error) => anew(runs, name, &mark, &error).await.map(Some),
    }
}

/// What is known of a schedule whose document can't be read: as of one that was never seen, and written down, or it
/// would never come to run. Turns are counted on from a number that no run had, so that the next change begins one.
async fn anew(
    runs: &Cabinet,
    name: &str,
    mark: &Mark,
    error: &serde_json::Error,
) -> Result<(Memory, Mark), CabinetError> {
    let now = millis(SystemTime::now());
    let memory = Memory {
        last: now,
        seen: String::new(),
        turn: now,
    };
    let mark = runs.put(name, bytes(&memory), Some(mark)).await?;
    tracing::warn!(
        schedule = name,
        %error,
        "what the schedule ran can't be read in schedules/NAME.json, and is begun anew: a time that was missed is left \
         out, and what it watches counts as changed"
    );
    Ok((memory, mark))
}

/// Writes down what was run, unless another member did.
async fn remember(flows: &Flows, schedule: &Schedule, memory: &Memory, mark: Option<&Mark>) {
    let Some(setup) = flows.setup.get() else {
        return;
    };
    match setup.runs.put(&schedule.name, bytes(memory), mark).await {
        Ok(_) | Err(CabinetError::Changed) => {}
        Err(error) => {
            // The run's own document keeps it from being begun twice.
            tracing::debug!(schedule = schedule.name, %error, "what a schedule ran can't be written down now");
            tokio::time::sleep(TICK).await;
        }
    }
}

fn bytes(memory: &Memory) -> Bytes {
    // Texts and numbers always serialise.
    serde_json::to_vec(memory).unwrap_or_default().into()
}

/// What that is watched is like, asked of the origin alone.
async fn like(dataset: &Dataset, what: &Watched) -> Result<String, OriginError> {
    let prefix = match what {
        Watched::Prefix(prefix) => prefix,
        Watched::Manifest(key) | Watched::Index(key) => {
            let object = ObjectId::new(Arc::clone(&dataset.name), key.as_str());
            return match dataset.origin.head(&object).await {
                Ok(version) => Ok(format!("{:032x}", version.key.0)),
                Err(OriginError::NotFound) => Ok(ABSENT.into()),
                Err(error) => Err(error),
            };
        }
    };
    let mut request = ListRequest {
        prefix: prefix.clone(),
        delimiter: None,
        start: Start::Beginning,
        max_keys: 1000,
    };
    let (mut hash, mut count) = (Xxh3::new(), 0u64);
    loop {
        let page = dataset.origin.list(&request).await?;
        for object in &page.objects {
            let changed = object.last_modified.map_or(0, millis);
            for part in [
                object.key.as_str(),
                object.etag.as_deref().unwrap_or_default(),
            ] {
                hash.update(&(part.len() as u64).to_le_bytes());
                hash.update(part.as_bytes());
            }
            hash.update(&object.size.to_le_bytes());
            hash.update(&changed.to_le_bytes());
        }
        count += page.objects.len() as u64;
        match page.next {
            Some(token) => request.start = Start::Token(token),
            None if count == 0 => return Ok(ABSENT.into()),
            None => return Ok(format!("{:032x}", hash.digest128())),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn what_cannot_be_read_of_a_schedule_is_begun_anew_once() {
        let dir = std::env::temp_dir().join(format!("forebay-anew-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("schedules")).unwrap();
        std::fs::write(dir.join("schedules/nightly.json"), "{").unwrap();
        let runs = Cabinet::own(&dir, "schedules");
        let (first, mark) = read(&runs, "nightly").await.unwrap().unwrap();
        assert!(first.last > 0 && first.turn > 0);
        let (again, same) = read(&runs, "nightly").await.unwrap().unwrap();
        assert_eq!((again.last, again.turn), (first.last, first.turn));
        assert_eq!(same, mark, "it is written down");
        std::fs::remove_dir_all(dir).unwrap();
    }
}
