//! What steps of flows do: the same as whoever asks under `/-/`, or on the command line of a member.

use std::io;
use std::sync::{Arc, Weak};
use std::time::Duration;

use forebay_ring::State as MemberState;
use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::json;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::{State, events, pins, purge, warm};
use crate::copy::{Copy, CopyOrder};
use crate::flow::ask::Asker;
use crate::flow::graph::{Action, Pinned, Scale, Wait, Warmed};
use crate::flow::{Hands, Told, exec};
use crate::pins::Pin;
use crate::warm::Jobs;
use crate::warm::job::{Job, State as JobState};
use crate::warm::order::{Order, Tier};

/// Between two words of how a step does.
const EACH: Duration = Duration::from_secs(1);

/// Does the steps of flows.
#[derive(Debug)]
pub struct Acts {
    /// Not held: the state holds the flows, which hold this.
    state: Weak<State>,
    asker: Asker,
}

impl Acts {
    /// Those of a gateway with this state.
    pub fn new(state: &Arc<State>, asker: Asker) -> Self {
        Self {
            state: Arc::downgrade(state),
            asker,
        }
    }

    fn state(&self) -> Result<Arc<State>, String> {
        self.state
            .upgrade()
            .ok_or_else(|| "the gateway stops".into())
    }

    async fn act(&self, action: &Action, told: &Told) -> Result<(), String> {
        match action {
            Action::Warm(warmed) => self.warm(warmed, told).await,
            Action::Wait(wait, every) => self.wait(wait, *every, told).await,
            Action::Copy(order) => self.copy(order, told).await,
            Action::Exec(command) => exec::run(command, told).await,
            Action::Scale(scale, replicas) => self.scale(scale, *replicas, told).await,
            Action::Pin(pinned) => self.pin(pinned).await,
            Action::Purge(purged) => {
                let purged = purge::whole(&self.state()?, &purged.dataset, &purged.key).await;
                let purged = purged.map_err(|problem| problem.detail)?;
                match purged["absent_members"]
                    .as_array()
                    .is_some_and(Vec::is_empty)
                {
                    true => Ok(()),
                    false => Err(format!(
                        "these members did not answer and may hold it still: {}",
                        purged["absent_members"]
                    )),
                }
            }
            Action::Notify(url) => self.asker.post(url, &told.flow()).await,
        }
    }

    async fn warm(&self, warmed: &Warmed, told: &Told) -> Result<(), String> {
        let state = self.state()?;
        let keys = match &warmed.manifest {
            None => Vec::new(),
            Some(manifest) => listed_in(&state, &warmed.dataset, manifest).await?,
        };
        let has_nvme = state.reads.store.nvme().is_some();
        let order = warmed.order(keys, has_nvme)?;
        let pins = warm::pins_of(&state, &order).await;
        let pins = pins.map_err(|problem| problem.detail)?;
        let job = job_of(&state.jobs, order, pins, |id| told.job(id)).await;
        let job = job.map_err(|error| format!("the job can't be taken: {error}"))?;
        let mut states = job.states();
        loop {
            told.say(job.line().trim_end().to_owned());
            match job.state() {
                JobState::Done => return Ok(()),
                JobState::Failed(why) => return Err(why.to_string()),
                JobState::Cancelled => return Err("the job was cancelled".into()),
                _ => {}
            }
            // The sender is the job's own, which we hold.
            let _ = tokio::time::timeout(EACH, states.changed()).await;
        }
    }

    /// Copies; what was begun when the step is stopped is for the next copy of the same.
    async fn copy(&self, order: &CopyOrder, told: &Told) -> Result<(), String> {
        let state = self.state()?;
        let copy = Copy::new(&state.copier, order.clone());
        let copy = copy.map_err(|error| error.to_string())?;
        let (progress, begun) = (copy.progress(), Instant::now());
        let mut copying = Box::pin(copy.run(std::future::pending()));
        loop {
            let ended = tokio::time::timeout(EACH, &mut copying).await;
            told.say(progress.line(begun.elapsed()).trim_end().to_owned());
            if let Ok(ended) = ended {
                return ended.map(|_| ()).map_err(|error| error.to_string());
            }
        }
    }

    async fn wait(&self, wait: &Wait, every: Duration, told: &Told) -> Result<(), String> {
        loop {
            match self.look(wait).await {
                Ok(()) => return Ok(()),
                // It may come yet: how long that is waited for is the step's timeout.
                Err(why) => told.say(why),
            }
            tokio::time::sleep(every).await;
        }
    }

    /// Whether it is so, or how far it is.
    async fn look(&self, wait: &Wait) -> Result<(), String> {
        let state = self.state()?;
        match wait {
            Wait::Resident {
                dataset,
                prefix,
                tier,
                percent,
            } => resident(&state, dataset, prefix, *tier, *percent).await,
            Wait::Url { url, status } => match self.asker.status(url).await? {
                answered if answered == *status => Ok(()),
                answered => Err(format!("it is answered with {answered}")),
            },
            Wait::Members(least) => match alive(&state) {
                alive if alive >= *least => Ok(()),
                alive => Err(format!("{alive} members of {least} are alive")),
            },
        }
    }

    async fn scale(&self, scale: &Scale, replicas: u32, told: &Told) -> Result<(), String> {
        match scale {
            Scale::Kubernetes(url) => self.asker.scale(url, replicas).await,
            Scale::Webhook(url) => {
                let (flow, step) = (told.flow_id(), told.step_name());
                let asked = json!({ "flow": flow, "step": step, "replicas": replicas });
                self.asker.post(url, &asked).await
            }
        }
    }

    async fn pin(&self, pinned: &Pinned) -> Result<(), String> {
        let state = self.state()?;
        let (dataset, prefix) = (&pinned.dataset, &pinned.prefix);
        let set = pins::set(&state, dataset, prefix, pinned.expires.as_deref()).await;
        set.map(|_| ()).map_err(|problem| problem.detail)
    }
}

impl Hands for Acts {
    fn act<'a>(&'a self, action: &'a Action, told: &'a Told) -> BoxFuture<'a, Result<(), String>> {
        self.act(action, told).boxed()
    }

    fn stop<'a>(&'a self, action: &'a Action, told: &'a Told) -> BoxFuture<'a, ()> {
        async move {
            let (Action::Warm(_), Ok(state)) = (action, self.state()) else {
                // What else there is ends with its future.
                return;
            };
            let job = told.record().job.and_then(|id| state.jobs.get(&id));
            if let Some(job) = job.filter(|job| !job.state().is_over())
                && let Err(error) = state.jobs.cancel(&job).await
            {
                tracing::warn!(job = job.id, %error, "the job of a step that was stopped goes on");
            }
        }
        .boxed()
    }

    fn doubt<'a>(&'a self, dataset: &'a str, key: &'a str) -> BoxFuture<'a, ()> {
        async move {
            if let Ok(state) = self.state() {
                events::doubt(&state, dataset, key).await;
            }
        }
        .boxed()
    }
}

/// A job that was taken for a step. Where nobody has noted it by the time that this is dropped, the step was stopped
/// meanwhile, and nobody would cancel it.
struct Taken {
    jobs: Arc<Jobs>,
    job: Arc<Job>,
    /// It was begun by somebody else, or noted: then it goes on.
    goes_on: bool,
}

impl Drop for Taken {
    fn drop(&mut self) {
        if self.goes_on {
            return;
        }
        let (jobs, job) = (Arc::clone(&self.jobs), Arc::clone(&self.job));
        // Without a runtime the gateway ends, and so does the job.
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        runtime.spawn(async move {
            if let Err(error) = jobs.cancel(&job).await {
                tracing::warn!(job = job.id, %error, "the job of a step that was stopped goes on");
            }
        });
    }
}

/// Takes a job for a step, and has it noted there if it is the step's own.
async fn job_of(
    jobs: &Arc<Jobs>,
    order: Order,
    pins: Vec<Pin>,
    note: impl FnOnce(&str),
) -> io::Result<Arc<Job>> {
    // One that was begun by somebody else is not ours to cancel.
    let mut others = jobs.all().into_iter();
    let others = others.any(|job| job.order == order && !job.state().is_over());
    let (sender, taken) = oneshot::channel();
    let jobs = Arc::clone(jobs);
    tokio::spawn(async move {
        let taken = jobs.take(order, pins).await.map(|job| Taken {
            jobs,
            job,
            goes_on: others,
        });
        // Nobody is there to have it if the step was stopped.
        let _ = sender.send(taken);
    });
    let taken = taken.await;
    let mut taken = taken.unwrap_or_else(|error| Err(io::Error::other(error)))?;
    if !others {
        note(&taken.job.id);
        taken.goes_on = true;
    }
    Ok(Arc::clone(&taken.job))
}

/// The keys that an object names, one a line.
async fn listed_in(state: &State, dataset: &str, manifest: &str) -> Result<Vec<String>, String> {
    let dataset = state.datasets.get(dataset);
    let dataset = dataset.ok_or("its dataset is there no more")?;
    let text = state.jobs.crew.text(&dataset, manifest).await;
    let (text, _sheet) = text.map_err(|error| error.to_string())?;
    let text = String::from_utf8(text).map_err(|_| format!("{manifest} is not UTF-8"))?;
    let lines = text.lines().map(str::trim);
    let keys = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
    let keys: Vec<String> = keys.map(str::to_owned).collect();
    match keys.is_empty() {
        true => Err(format!("{manifest} names no keys: write one a line")),
        false => Ok(keys),
    }
}

async fn resident(
    state: &State,
    dataset: &str,
    prefix: &str,
    tier: Tier,
    percent: f64,
) -> Result<(), String> {
    let dataset = state.datasets.get(dataset);
    let dataset = dataset.ok_or("its dataset is there no more")?;
    let resident = warm::resident_in(state, &dataset, prefix, tier).await;
    let (_, resident) = resident.map_err(|problem| problem.detail)?;
    let enough = match percent >= 100.0 {
        true => resident.is_all(),
        false => resident.objects > 0 && resident.percent() >= percent,
    };
    match enough {
        true => Ok(()),
        false => Err(format!("{:.1} % are resident", resident.percent())),
    }
}

/// Members that are alive, as seen from here, this one among them.
fn alive(state: &State) -> usize {
    let fleet = state.fleet();
    let seen = fleet
        .peers
        .values()
        .filter(|peer| match &state.reads.peers {
            Some(peers) => peers.state(peer) == MemberState::Alive,
            None => peer.state == MemberState::Alive,
        });
    seen.count()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::alone;

    #[tokio::test]
    async fn the_job_of_a_step_is_cancelled_if_the_step_was_stopped_while_it_was_taken() {
        let directory = std::env::temp_dir().join(format!("forebay-acts-{}", std::process::id()));
        let gateway = alone::gateway(&[]);
        let jobs = &gateway.state.jobs;
        jobs.keep_in(&directory);
        let order = |prefix| Order::parse("models", prefix, b"", false).unwrap();
        let mut noted = None;
        let job = job_of(jobs, order("a/"), Vec::new(), |id| {
            noted = Some(id.to_owned());
        })
        .await;
        let job = job.unwrap();
        assert_eq!(noted, Some(job.id.clone()));
        {
            let stopped = job_of(jobs, order("b/"), Vec::new(), |_| ());
            let mut stopped = Box::pin(stopped);
            assert!(futures::poll!(&mut stopped).is_pending());
        }
        let left = loop {
            let left = jobs.all().into_iter().find(|job| job.order == order("b/"));
            match left {
                Some(left) => break left,
                None => tokio::task::yield_now().await,
            }
        };
        let mut states = left.states();
        let over = states.wait_for(JobState::is_over);
        let over = tokio::time::timeout(Duration::from_secs(30), over).await;
        assert_eq!(*over.unwrap().unwrap(), JobState::Cancelled);
        assert_eq!(job.state(), JobState::Queued);
        let _ = std::fs::remove_dir_all(directory);
    }
}
