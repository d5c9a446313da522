//! Flows: steps that are done one after another, side by side, or after a failure, as one submission.
//!
//! | module | its part |
//! |---|---|
//! | [`graph`] | what a flow is asked for, judged before anything begins |
//! | [`record`] | how it does, as it is written down and told |
//! | [`plan`] | what comes next: pure functions of the two |
//! | `take` | taking a flow |
//! | `run` | one flow from its first step to its end |
//! | `keep` | whose flow is whose, and those whose gateway died |
//! | [`exec`], [`ask`] | running a program, and asking a URL |
//! | [`schedule`] | flows that begin by themselves |
//!
//! A flow is one document, written before its first step begins and whenever one ends, by whoever holds its
//! [lease](crate::keeping::lease): in the data directory, or in the state store that a fleet shares. So it goes on after
//! a restart, or with another member; steps that had ended are not run again, and one that ran is begun anew, so what a
//! step does has to bear being done twice.
//!
//! Steps are done by [`Hands`], since what they do (warming, pins, purges) is no part of this module.

pub mod ask;
pub mod exec;
pub mod graph;
mod keep;
pub mod plan;
pub mod record;
mod run;
pub mod schedule;
mod take;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use futures::future::BoxFuture;
use prometheus::IntCounterVec;
use serde_json::Value;
use tokio::sync::{Notify, watch};

use self::graph::{Action, Graph, Rules};
use self::record::{Process, Record, State, StepRecord};
use self::schedule::Schedule;
use crate::dataset::Datasets;
use crate::keeping::cabinet::{Cabinet, Mark};
use crate::keeping::lease::{Lease, Own};
use crate::keeping::time;
use crate::keeping::unread::Unread;
use crate::settings::FlowSettings;

/// Flows that are over and still told of.
const REMEMBERED: usize = 100;

/// What does steps.
pub trait Hands: fmt::Debug + Send + Sync {
    /// Does what a step asks for, and tells how it goes. Dropping the future gives it up.
    fn act<'a>(&'a self, action: &'a Action, told: &'a Told) -> BoxFuture<'a, Result<(), String>>;

    /// Ends what goes on of a step though nobody waits for it.
    fn stop<'a>(&'a self, action: &'a Action, told: &'a Told) -> BoxFuture<'a, ()>;

    /// Has what is known of an object be asked anew, or of all of a dataset if no key is named.
    fn doubt<'a>(&'a self, dataset: &'a str, key: &'a str) -> BoxFuture<'a, ()>;
}

/// All flows of a gateway.
#[derive(Debug)]
pub struct Flows {
    datasets: Arc<Datasets>,
    has_nvme: bool,
    own: Own,
    member: Arc<str>,
    seed: u64,
    outcomes: IntCounterVec,
    /// Documents that can't be read.
    unread: Unread<Mark>,
    setup: OnceLock<Setup>,
    table: Mutex<Table>,
    /// Whether the gateway stops: then flows are left as they are, for its next run or another member.
    closed: watch::Sender<bool>,
}

/// What flows work with, once the settings are known.
#[derive(Debug)]
pub struct Setup {
    /// What they may run and reach.
    pub allowed: FlowSettings,
    /// Where they are written down.
    pub cabinet: Cabinet,
    /// What does their steps.
    pub hands: Arc<dyn Hands>,
    /// Where it is written down what schedules ran.
    pub runs: Cabinet,
    /// Those that begin by themselves.
    pub schedules: Vec<Arc<Schedule>>,
}

#[derive(Debug, Default)]
struct Table {
    /// By when they were taken, and their name.
    flows: BTreeMap<(u64, String), Arc<Flow>>,
    count: u64,
    /// Flows that are being written down, and not in the table yet.
    taking: usize,
}

/// One flow.
#[derive(Debug)]
pub struct Flow {
    /// Its name.
    pub id: String,
    /// Or why what it asks for is nothing that this gateway may do.
    graph: Result<Graph, String>,
    record: Mutex<Record>,
    lease: Mutex<Lease<Mark>>,
    changed: watch::Sender<u64>,
    /// Its changes when it was last written down.
    written: AtomicU64,
    /// There is something that is to be written down at once.
    urgent: Notify,
    /// Somebody wants no more of it.
    cancel: watch::Sender<bool>,
    /// Another member works on it.
    theirs: watch::Sender<bool>,
}

/// Why a flow was not taken.
#[derive(Debug)]
pub enum NotTaken {
    /// What is wrong with it, a sentence each.
    Wrong(Vec<String>),
    /// There is one of that name already.
    There,
    /// It can't be written down, or too many are on their way.
    NotNow(String),
}

impl fmt::Display for NotTaken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Wrong(mistakes) => f.write_str(&mistakes.join("; ")),
            Self::There => f.write_str("there is one of that name already"),
            Self::NotNow(why) => f.write_str(why),
        }
    }
}

/// Where a step says how it does.
#[derive(Debug)]
pub struct Told {
    flow: Arc<Flow>,
    step: usize,
    member: Arc<str>,
}

impl Told {
    /// The flow's name.
    pub fn flow_id(&self) -> &str {
        &self.flow.id
    }

    /// The step's name.
    pub fn step_name(&self) -> &str {
        let step = self
            .flow
            .graph
            .as_ref()
            .map(|graph| &graph.steps[self.step]);
        step.map_or("", |step| step.name.as_str())
    }

    /// The flow as it is told of.
    pub fn flow(&self) -> Value {
        self.flow.json()
    }

    /// How it goes, as a sentence.
    pub fn say(&self, detail: String) {
        self.note(|step| step.detail = Some(detail));
    }

    /// The end of what a program wrote. Nobody is woken for it.
    pub fn output(&self, text: String) {
        self.flow.record().steps[self.step].output = Some(text);
    }

    /// The warming job that it began.
    pub fn job(&self, id: &str) {
        self.note(|step| step.job = Some(id.to_owned()));
        self.flow.urgent.notify_one();
    }

    /// The process that it began.
    pub fn process(&self, pid: i32, started: String) {
        let member = self.member.to_string();
        self.note(|step| {
            step.process = Some(Process {
                pid,
                started,
                member,
            });
        });
        self.flow.urgent.notify_one();
    }

    /// What is written down of it.
    pub fn record(&self) -> StepRecord {
        self.flow.record().steps[self.step].clone()
    }

    fn note(&self, change: impl FnOnce(&mut StepRecord)) {
        self.flow
            .change(|record| change(&mut record.steps[self.step]));
    }
}

impl Flow {
    fn new(graph: Result<Graph, String>, record: Record) -> Arc<Self> {
        Arc::new(Self {
            id: record.id.clone(),
            graph,
            cancel: watch::Sender::new(record.cancel),
            record: Mutex::new(record),
            lease: Mutex::default(),
            changed: watch::Sender::new(1),
            written: AtomicU64::new(0),
            urgent: Notify::new(),
            theirs: watch::Sender::new(false),
        })
    }

    /// How it does.
    pub fn state(&self) -> State {
        self.record().state
    }

    /// Counts its changes.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// The JSON of it.
    pub fn json(&self) -> Value {
        self.record().json(self.graph.as_ref().ok())
    }

    /// A line of text of it.
    pub fn line(&self) -> String {
        self.record().line(self.graph.as_ref().ok())
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lease(&self) -> MutexGuard<'_, Lease<Mark>> {
        self.lease.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut Record) -> T) -> T {
        let changed = change(&mut self.record());
        self.changed.send_modify(|count| *count += 1);
        changed
    }

    /// The same where nothing may change, and then nobody is told.
    fn change_if_news<T>(&self, change: impl FnOnce(&mut Record) -> T) -> T {
        let (changed, news) = {
            let mut record = self.record();
            let before = record.clone();
            let changed = change(&mut record);
            (changed, *record != before)
        };
        if news {
            self.changed.send_modify(|count| *count += 1);
        }
        changed
    }

    fn is_theirs(&self) -> bool {
        *self.theirs.borrow()
    }
}

impl Flows {
    /// No flows yet, and none is taken before [`Self::set_up`]. `seed` names them: another one at each start.
    pub fn new(
        datasets: Arc<Datasets>,
        has_nvme: bool,
        member: &Arc<str>,
        seed: u64,
        outcomes: IntCounterVec,
    ) -> Arc<Self> {
        Arc::new(Self {
            datasets,
            has_nvme,
            own: Own::new(member, seed),
            member: Arc::clone(member),
            seed,
            outcomes,
            unread: Unread::default(),
            setup: OnceLock::new(),
            table: Mutex::default(),
            closed: watch::Sender::new(false),
        })
    }

    /// Says what flows may do, and where they are kept. The first word stays.
    pub fn set_up(&self, setup: Setup) {
        let _ = self.setup.set(setup);
    }

    /// Lets flows go on, those of an earlier run first, and begin by themselves. Those on a disk of our own are known
    /// once this returns.
    pub async fn begin(self: &Arc<Self>) {
        let Some(setup) = self.setup.get() else {
            return;
        };
        let known = !setup.cabinet.is_shared() && self.look(setup, true).await.is_ok();
        if !known {
            tokio::spawn(Arc::clone(self).keep());
        }
        tokio::spawn(schedule::keep(Arc::clone(self)));
    }

    /// Lets no flow go on: this gateway stops.
    pub fn close(&self) {
        self.closed.send_replace(true);
    }

    /// Whether flows go on no more, as it changes.
    pub fn closed(&self) -> watch::Receiver<bool> {
        self.closed.subscribe()
    }

    /// Those that begin by themselves.
    pub fn schedules(&self) -> &[Arc<Schedule>] {
        self.setup.get().map_or(&[], |setup| &setup.schedules)
    }

    /// Judges what a text asks for.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub fn judge(&self, text: &[u8]) -> Result<Graph, NotTaken> {
        let source = Graph::source(text).map_err(|mistake| NotTaken::Wrong(vec![mistake]))?;
        self.graph(source).map_err(NotTaken::Wrong)
    }

    /// The flow of that name.
    pub fn get(&self, id: &str) -> Option<Arc<Flow>> {
        let table = self.table();
        table.flows.values().find(|flow| flow.id == id).cloned()
    }

    /// All flows, in the order in which they were taken.
    pub fn all(&self) -> Vec<Arc<Flow>> {
        self.table().flows.values().cloned().collect()
    }

    fn setup(&self) -> Result<&Setup, NotTaken> {
        let why = || NotTaken::NotNow("flows are not kept anywhere here".to_owned());
        self.setup.get().ok_or_else(why)
    }

    fn graph(&self, source: Value) -> Result<Graph, Vec<String>> {
        let nothing = FlowSettings::default();
        let allowed = self.setup.get().map_or(&nothing, |setup| &setup.allowed);
        graph_in(source, allowed, &self.datasets, self.has_nvme)
    }

    /// Puts a flow into the table, unless it is there by now; then that one is told.
    fn insert(&self, flow: &Arc<Flow>) -> Option<Arc<Flow>> {
        let place = (flow.record().created, flow.id.clone());
        match self.table().flows.entry(place) {
            Entry::Occupied(there) => Some(Arc::clone(there.get())),
            Entry::Vacant(free) => {
                free.insert(Arc::clone(flow));
                None
            }
        }
    }

    fn forget(&self, flow: &Flow) {
        self.table().flows.retain(|_, known| known.id != flow.id);
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns once flows go on no more.
    async fn closing(&self) {
        // The sender is ours, so the wait ends only with the word.
        let _ = self.closed().wait_for(|closed| *closed).await;
    }
}

/// What a flow asks for of a gateway with these settings and datasets.
///
/// # Errors
/// All that is wrong with it, a sentence each.
pub fn graph_in(
    source: Value,
    allowed: &FlowSettings,
    datasets: &Datasets,
    has_nvme: bool,
) -> Result<Graph, Vec<String>> {
    let rules = Rules {
        allowed,
        knows: &|name| datasets.get(name).is_some(),
        writes: &|name| {
            datasets
                .get(name)
                .is_some_and(|dataset| dataset.is_writable())
        },
        copies: &|order| match order.judge(datasets) {
            Ok(_) => Ok(()),
            Err(error) => Err(error.to_string()),
        },
        has_nvme,
    };
    Graph::parse(source, &rules)
}

/// How long until a flow has had its time.
fn left(created: u64, deadline: Duration) -> Duration {
    // A clock that was set back makes it look younger than nothing.
    let age = SystemTime::now().duration_since(time(created));
    deadline.saturating_sub(age.unwrap_or(Duration::ZERO))
}

#[cfg(test)]
mod tests;
