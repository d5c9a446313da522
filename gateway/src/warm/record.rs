//! Jobs as documents in the data directory: one JSON file each.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::job::{Job, State};
use super::order::Order;
use super::pinned::Made;
use crate::keeping::{file, millis, time};

/// The directory of the documents, below the data directory.
const DIRECTORY: &str = "jobs";

/// One job on disk.
#[derive(Serialize, Deserialize)]
struct Record {
    id: String,
    order: Order,
    /// Milliseconds since 1970.
    created: u64,
    /// How it ended, if it has.
    ended: Option<Ended>,
    /// The pins that it set.
    #[serde(default)]
    pins: Vec<Made>,
}

#[derive(Serialize, Deserialize)]
struct Ended {
    state: String,
    finished: u64,
    error: Option<String>,
    /// Objects, bytes, those resident, those read from the origin.
    counts: [u64; 4],
    /// Objects verified, and those of which nobody says what they should be.
    #[serde(default)]
    verified: Option<[u64; 2]>,
}

/// The documents of one data directory.
#[derive(Debug)]
pub(super) struct Records {
    directory: PathBuf,
    /// Held by whoever writes: a job that ends quickly is written again before it is written first.
    writing: Mutex<()>,
}

impl Records {
    pub(super) fn new(data_dir: &Path) -> Self {
        Self {
            directory: data_dir.join(DIRECTORY),
            writing: Mutex::default(),
        }
    }

    /// All jobs that can be read. Blocks on the disk.
    pub(super) fn load(&self) -> Vec<Job> {
        let Ok(entries) = std::fs::read_dir(&self.directory) else {
            return Vec::new();
        };
        let mut jobs = Vec::new();
        for path in entries.flatten().map(|entry| entry.path()) {
            if path.extension().is_none_or(|kind| kind != "json") {
                continue;
            }
            let read = std::fs::read(&path).and_then(|text| Ok(serde_json::from_slice(&text)?));
            match read {
                Ok(record) if is_of(&record, &path) => jobs.push(job(record)),
                Ok(_) => {
                    let path = path.display();
                    tracing::warn!(%path, "a warming job has another's name and is left out");
                }
                Err(error) => {
                    let path = path.display();
                    tracing::warn!(%path, %error, "a warming job can't be read and is left out");
                }
            }
        }
        jobs
    }

    /// Writes a job as it is. Blocks on the disk.
    ///
    /// # Errors
    /// If the disk does not take it; then what it had stays.
    pub(super) fn save(&self, job: &Job) -> io::Result<()> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let state = job.standing();
        let record = Record {
            id: job.id.clone(),
            order: job.order.clone(),
            created: millis(job.created),
            pins: job.made_pins().clone(),
            ended: state.is_over().then(|| Ended {
                state: state.name().to_owned(),
                finished: millis(SystemTime::now()),
                error: match &state {
                    State::Failed(reason) => Some(reason.to_string()),
                    _ => None,
                },
                counts: job.counts(),
                verified: job.count_verified(),
            }),
        };
        std::fs::create_dir_all(&self.directory)?;
        file::write(&self.path(&job.id), &serde_json::to_vec(&record)?)
    }

    /// Forgets a job. Blocks on the disk.
    pub(super) fn remove(&self, id: &str) {
        // What can't be removed is met again at the next start, and no harm.
        let _ = std::fs::remove_file(self.path(id));
    }

    fn path(&self, id: &str) -> PathBuf {
        self.directory.join(format!("{id}.json"))
    }
}

/// Whether the document is where it was written: its name says where it is written next.
fn is_of(record: &Record, path: &Path) -> bool {
    let named = path
        .file_stem()
        .is_some_and(|stem| stem == record.id.as_str());
    named && record.id.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn job(record: Record) -> Job {
    let job = Job::new(record.id, record.order, time(record.created));
    *job.made_pins() = record.pins;
    let Some(ended) = record.ended else {
        return job;
    };
    let state = match ended.state.as_str() {
        "done" => State::Done,
        "cancelled" => State::Cancelled,
        _ => State::Failed(Arc::from(ended.error.unwrap_or_default())),
    };
    let job = job.ended(state, time(ended.finished), ended.counts);
    job.recall_verified(ended.verified);
    job
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use super::super::order::Tier;
    use super::*;

    #[test]
    fn a_job_is_read_as_it_was_written_and_a_torn_one_is_left_out() {
        let dir = std::env::temp_dir().join(format!("forebay-jobs-{}", std::process::id()));
        let records = Records::new(&dir);
        let created = SystemTime::UNIX_EPOCH + Duration::from_secs(7);
        let order = Order::all("models", "a/", Tier::Any);
        let one = Job::new("1".into(), order.clone(), created);
        let two = Job::new("2".into(), order, created);
        two.listed(3, 30);
        two.go_on(State::Failed("it broke".into()));
        records.save(&one).unwrap();
        records.save(&two).unwrap();
        std::fs::write(dir.join("jobs/3.json"), b"{\"id\": \"3\", ").unwrap();
        let mut jobs = records.load();
        jobs.sort_by(|a, b| a.id.cmp(&b.id));
        assert_eq!(jobs.len(), 2);
        assert_eq!((jobs[0].state(), jobs[0].created), (State::Queued, created));
        assert_eq!(jobs[0].order, one.order);
        assert_eq!(jobs[1].state(), State::Failed("it broke".into()));
        assert_eq!(jobs[1].counts(), [3, 30, 0, 0]);
        records.remove("1");
        assert_eq!(records.load().len(), 1);
        std::fs::remove_dir_all(dir).unwrap();
    }
}
