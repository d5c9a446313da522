//! Jobs of a fleet that keeps them in a state store: every member knows all of them, and one works on each.
//!
//! A job is two documents: what it was asked for, which never changes, and how it does, which whoever works on it
//! writes every few seconds: that is its [lease](crate::keeping::lease). So a job outlives its gateway, and all of them.
//!
//! A store that does not answer stops nothing but changes: whoever works on a job works on, and writes once it can.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use forebay_storage::origin::documents::{DocumentError, Documents, Tag};
use serde::{Deserialize, Serialize};

use super::Jobs;
use super::job::{Job, State};
use super::order::Order;
use super::pinned::Made;
use crate::keeping::lease::{Lease, Own, TICK, TRIES};
use crate::keeping::unread::Unread;
use crate::keeping::{millis, time};

/// What the names of the documents begin with.
const BELOW: &str = "jobs/";

/// Where they are, and as whom we write them.
#[derive(Debug)]
pub(super) struct Shared {
    documents: Arc<Documents>,
    own: Own,
    unread: Unread<Tag>,
}

impl Shared {
    /// Whether a document that can't be read was not told of yet.
    fn is_news(&self, id: &str, tag: &Tag) -> bool {
        self.unread.is_news(id, tag.clone(), |known| known.is(tag))
    }
}

/// Who works on a job, as its document has it.
#[derive(Debug, Default)]
pub(super) struct Post {
    lease: Lease<Tag>,
    /// What is not in the document yet: how it ended.
    owed: bool,
}

/// How a job does, as it is written.
#[derive(Debug, Serialize, Deserialize)]
struct Status {
    id: String,
    /// Milliseconds since 1970.
    created: u64,
    /// NAME/RUN of whoever works on it; empty: whoever wants to.
    holder: String,
    /// Counts the writes, so that each is news.
    turn: u64,
    /// Somebody wants no more of it.
    cancel: bool,
    state: String,
    error: Option<String>,
    finished: Option<u64>,
    /// The pins that it set.
    #[serde(default)]
    pins: Vec<Made>,
    /// Objects, bytes, those resident, those read from the origin.
    counts: [u64; 4],
    /// Objects verified, and those of which nobody says what they should be.
    #[serde(default)]
    verified: Option<[u64; 2]>,
}

impl Status {
    fn of(job: &Job, holder: &str, turn: u64) -> Self {
        let state = job.standing();
        let over = state.is_over();
        Self {
            id: job.id.clone(),
            created: millis(job.created),
            holder: holder.to_owned(),
            turn,
            cancel: job.is_cancelled(),
            state: state.name().to_owned(),
            error: match state {
                State::Failed(reason) => Some(reason.to_string()),
                _ => None,
            },
            finished: over.then(|| millis(SystemTime::now())),
            pins: job.made_pins().clone(),
            counts: job.counts(),
            verified: job.count_verified(),
        }
    }

    fn state(&self) -> State {
        match self.state.as_str() {
            "listing" => State::Listing,
            "running" => State::Running,
            "verifying" => State::Verifying,
            "done" => State::Done,
            "failed" => State::Failed(self.error.clone().unwrap_or_default().into()),
            "cancelled" => State::Cancelled,
            _ => State::Queued,
        }
    }

    fn bytes(&self) -> Bytes {
        // Numbers and texts always serialise.
        serde_json::to_vec(self).unwrap_or_default().into()
    }
}

fn status_of(id: &str) -> String {
    format!("{BELOW}{id}.json")
}

fn order_of(id: &str) -> String {
    format!("{BELOW}{id}.order")
}

impl Jobs {
    /// Keeps jobs in this store from now on, and shares them with whoever else does.
    pub fn share(&self, documents: Arc<Documents>) {
        let shared = Shared {
            documents,
            own: Own::new(&self.crew.own, self.seed),
            unread: Unread::default(),
        };
        // The first store told stays.
        let _ = self.shared.set(shared);
    }

    /// Sees to it that each job has somebody who works on it, as long as jobs go on.
    pub(super) async fn keep_shared(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(TICK);
        let (mut first, mut away) = (true, false);
        loop {
            tokio::select! {
                biased;
                () = self.closing() => return,
                _ = ticks.tick() => {}
            }
            match self.look(first).await {
                Ok(()) => (first, away) = (false, false),
                Err(error) => {
                    if !away {
                        tracing::warn!(%error, "jobs go on, and no change is taken until the state store is back");
                    }
                    away = true;
                }
            }
        }
    }

    async fn look(self: &Arc<Self>, first: bool) -> Result<(), DocumentError> {
        let Some(shared) = self.shared.get() else {
            return Ok(());
        };
        let mut there = HashSet::new();
        for (name, tag) in shared.documents.list(BELOW).await? {
            let id = name.strip_prefix(BELOW);
            let Some(id) = id.and_then(|name| name.strip_suffix(".json")) else {
                continue;
            };
            let known = self.get(id);
            let is_news = known.as_ref().is_none_or(|job| {
                let post = job.post();
                let known = post.lease.mark.as_ref();
                !known.is_some_and(|known| known.is(&tag))
            });
            if is_news {
                self.read(shared, id, known, first).await?;
            }
            there.insert(id.to_owned());
        }
        shared.unread.retain(|id| there.contains(id));
        for job in self.all() {
            let (theirs, over) = (job.is_theirs(), job.state().is_over());
            let owed = job.post().owed;
            if theirs && !over && job.post().lease.is_anybodys() {
                self.take_over(shared, &job).await?;
            } else if !theirs && (!over || owed) {
                self.write(shared, &job).await?;
            } else if !there.contains(&job.id) && (theirs || over) {
                // Whoever still waits for its end has it; of one that is over nothing changes.
                let reason = "it is in the state store no more";
                job.go_on(State::Failed(reason.into()));
                self.forget(&job);
            }
        }
        Ok(())
    }

    /// Takes over what the document of a job says.
    async fn read(
        self: &Arc<Self>,
        shared: &Shared,
        id: &str,
        known: Option<Arc<Job>>,
        first: bool,
    ) -> Result<(), DocumentError> {
        let Some((bytes, tag)) = shared.documents.get(&status_of(id)).await? else {
            return Ok(());
        };
        let status: Status = match serde_json::from_slice(&bytes) {
            Ok(status) => status,
            Err(error) => {
                if shared.is_news(id, &tag) {
                    let document = status_of(id);
                    tracing::warn!(job = id, document, %error, "a job in the state store can't be read and is left out: remove its document");
                }
                return Ok(());
            }
        };
        let job = match known {
            Some(job) => job,
            None => match self.learn(shared, (id, &tag), &status).await? {
                Some(job) => job,
                None => return Ok(()),
            },
        };
        job.post().lease.note(tag, &status.holder, status.turn);
        if status.cancel {
            job.cancel();
        }
        let ours = status.holder == shared.own.holder();
        if !ours && !job.is_theirs() && !job.state().is_over() {
            tracing::info!(
                job = id,
                by = status.holder,
                "another member works on a job by now"
            );
        }
        job.belongs_to_others(!ours);
        if !ours {
            job.made_pins().clone_from(&status.pins);
            job.mirror(status.state(), status.counts, status.finished.map(time));
            job.recall_verified(status.verified);
        }
        let earlier_run = first && shared.own.is_a_run_of_ours(&status.holder);
        if !ours && earlier_run && !job.state().is_over() {
            self.take_over(shared, &job).await?;
        }
        self.next();
        Ok(())
    }

    /// A job that was not known here. Its order is another document.
    async fn learn(
        &self,
        shared: &Shared,
        (id, tag): (&str, &Tag),
        status: &Status,
    ) -> Result<Option<Arc<Job>>, DocumentError> {
        let Some((bytes, _)) = shared.documents.get(&order_of(id)).await? else {
            return Ok(None);
        };
        let order: Order = match serde_json::from_slice(&bytes) {
            Ok(order) => order,
            Err(error) => {
                if shared.is_news(id, tag) {
                    let document = order_of(id);
                    tracing::warn!(job = id, document, %error, "what a job was asked for can't be read, and it is left out: remove its documents");
                }
                return Ok(None);
            }
        };
        let Some(sheet) = self.crew.paper.sheet(order.bytes()).await else {
            // It is met again at the next look.
            return Ok(None);
        };
        let mut job = Job::new(id.to_owned(), order, time(status.created));
        job.sheet = Some(sheet);
        job.note_written(true);
        job.belongs_to_others(true);
        let job = Arc::new(job);
        self.insert(Arc::clone(&job));
        Ok(Some(job))
    }

    async fn take_over(
        self: &Arc<Self>,
        shared: &Shared,
        job: &Arc<Job>,
    ) -> Result<(), DocumentError> {
        match self.write(shared, job).await {
            Ok(true) => {
                tracing::info!(
                    job = job.id,
                    "a job that nobody works on any more is taken over"
                );
                job.resume();
                self.watch_deadline(job);
                self.next();
                Ok(())
            }
            Ok(false) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Writes how a job does, as ours. False: somebody else wrote it meanwhile, and what that was is known now.
    async fn write(
        self: &Arc<Self>,
        shared: &Shared,
        job: &Arc<Job>,
    ) -> Result<bool, DocumentError> {
        self.write_as(shared, job, shared.own.holder()).await
    }

    async fn write_as(
        self: &Arc<Self>,
        shared: &Shared,
        job: &Arc<Job>,
        holder: &str,
    ) -> Result<bool, DocumentError> {
        let (tag, turn) = {
            let post = job.post();
            (post.lease.mark.clone(), post.lease.turn + 1)
        };
        let status = Status::of(job, holder, turn);
        let over = job.standing().is_over();
        let name = status_of(&job.id);
        let written = match &tag {
            Some(tag) => shared.documents.replace(&name, status.bytes(), tag).await,
            None => shared.documents.create(&name, status.bytes()).await,
        };
        match written {
            Ok(tag) => {
                let mut post = job.post();
                post.lease.note(tag, holder, turn);
                post.owed &= !over;
                Ok(true)
            }
            Err(DocumentError::Changed) => {
                Box::pin(self.read(shared, &job.id, Some(Arc::clone(job)), false)).await?;
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Writes a job down that was just taken.
    pub(super) async fn create_shared(
        self: &Arc<Self>,
        shared: &Shared,
        job: &Arc<Job>,
    ) -> Result<(), DocumentError> {
        let order = serde_json::to_vec(&job.order).unwrap_or_default();
        shared
            .documents
            .create(&order_of(&job.id), order.into())
            .await?;
        self.write(shared, job).await.map(|_| ())
    }

    /// Writes down how a job ended. What the store does not take now it is given at the next look.
    pub(super) async fn end_shared(
        self: &Arc<Self>,
        shared: &Shared,
        job: &Arc<Job>,
    ) -> Result<(), DocumentError> {
        job.post().owed = true;
        for _ in 0..TRIES {
            if job.is_theirs() || self.write(shared, job).await? {
                break;
            }
        }
        Ok(())
    }

    /// Asks whoever works on a job to work on it no more.
    pub(super) async fn cancel_shared(
        self: &Arc<Self>,
        shared: &Shared,
        job: &Arc<Job>,
    ) -> Result<(), DocumentError> {
        for _ in 0..TRIES {
            let name = status_of(&job.id);
            let Some((bytes, tag)) = shared.documents.get(&name).await? else {
                return Ok(());
            };
            let Ok(mut status) = serde_json::from_slice::<Status>(&bytes) else {
                return Ok(());
            };
            if status.state().is_over() || status.cancel {
                return Ok(());
            }
            status.cancel = true;
            status.turn += 1;
            match shared.documents.replace(&name, status.bytes(), &tag).await {
                Err(DocumentError::Changed) => {}
                written => return written.map(|_| ()),
            }
        }
        Err(DocumentError::Changed)
    }

    /// Takes the documents of forgotten jobs away.
    pub(super) async fn remove_shared(shared: &Shared, ids: &[String]) {
        for id in ids {
            for name in [status_of(id), order_of(id)] {
                // What stays is met again, and no harm.
                let _ = shared.documents.remove(&name).await;
            }
        }
    }

    /// Lets others have the jobs that this gateway works on, at once: it stops.
    pub async fn release(self: &Arc<Self>) {
        let Some(shared) = self.shared.get() else {
            return;
        };
        let ours = self.all().into_iter();
        let ours = ours.filter(|job| !job.is_theirs() && !job.state().is_over());
        let released = futures::future::join_all(ours.map(|job| async move {
            if let Err(error) = self.write_as(shared, &job, "").await {
                tracing::info!(job = job.id, %error, "a job is left to its lease");
            }
        }));
        // They are anybody's in a while in any case.
        let _ = tokio::time::timeout(TICK, released).await;
    }
}
