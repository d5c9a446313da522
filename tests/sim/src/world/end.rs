//! After the storm: everything is readable, and everything that was lent is back.

use std::sync::Arc;
use std::time::Duration;

use forebay_gateway::gateway::Gateway;
use forebay_storage::block::OVERHEAD;
use http::StatusCode;
use tokio::task::JoinSet;

use super::{MAX_REQUESTS, World};
use crate::objects::{Kind, Name};
use crate::oracle::Oracle;
use crate::reader::ask::Ask;
use crate::reader::socket::Pace;
use crate::reader::{Outcome, Readers};
use crate::trace::Trace;

/// Until nothing that was true in the storm may still be told: versions, stale versions, negative answers, and
/// questions that were never answered.
pub(crate) const SETTLED: Duration = Duration::from_secs(30);

/// How long a read may take when nothing goes wrong.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Readers of each object in the calm.
const READERS: usize = 3;

/// Has an object read by all of these at once; each read must be whole and of what is current.
pub(crate) async fn read_by_all(
    all: Vec<Arc<Readers>>,
    name: &Name,
    (oracle, trace): (&Oracle, &Trace),
) {
    let mut tasks = JoinSet::new();
    let count = all.len();
    for readers in all {
        let ask = Ask::whole(name);
        tasks.spawn(async move { readers.read(&ask, Pace::FAST).await });
    }
    let wanted = oracle.objects.current(name);
    let wanted = wanted.map_or(Outcome::Absent, Outcome::Whole);
    for _ in 0..count {
        match tokio::time::timeout(PATIENCE, tasks.join_next()).await {
            Ok(Some(Ok(outcome))) if outcome == wanted => {}
            Ok(Some(Ok(outcome))) => {
                let what = format!("{outcome:?} of {name} instead of {wanted:?}");
                trace.violation("calm", what);
            }
            Ok(_) => trace.violation("calm", "a reader came to a bad end"),
            Err(_) => {
                let what = format!("{name} did not come in {PATIENCE:?}");
                trace.violation("calm", what);
            }
        }
    }
}

impl World {
    /// Reads every object several times at once, before and after a restart where there is a disk.
    pub(super) async fn calm(&self) {
        tokio::time::sleep(SETTLED).await;
        self.read_all().await;
        match self.judge_restart().await {
            Ok(()) if self.house.is_some() => self.read_all().await,
            Ok(()) => {}
            Err(error) => self.trace.violation("calm", format_args!("{error:#}")),
        }
    }

    async fn read_all(&self) {
        let Ok(readers) = self.readers() else {
            return self.trace.violation("calm", "there is no gateway");
        };
        for name in self.oracle.objects.names() {
            let all = vec![Arc::clone(&readers); READERS];
            read_by_all(all, &name, (&self.oracle, &self.trace)).await;
        }
    }

    /// Counts what was lent.
    pub(super) async fn end(&self) {
        let names = self.oracle.objects.names();
        let there = |name: &&Name| {
            let current = self.oracle.objects.current(name);
            name.kind == Kind::Fixed && current.is_some_and(|content| content.size > 0)
        };
        let held = names.iter().find(there);
        if let Ok(readers) = self.readers() {
            accounts("end", &readers.gateway, &self.trace, held).await;
        }
    }
}

/// Counts what a gateway has lent; `held` is an object of at least a byte, to try its permits with.
pub(crate) async fn accounts(
    who: &str,
    gateway: &Arc<Gateway>,
    trace: &Trace,
    held: Option<&Name>,
) {
    let store = &gateway.reads.store;
    let fills_done = async {
        while store.running_fills() > 0 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    if tokio::time::timeout(PATIENCE, fills_done).await.is_err() {
        let running = store.running_fills();
        let what = format!("{running} fills run on with nobody to follow them");
        trace.violation(who, what);
    }
    // The last fill's task may be a step from its end.
    tokio::time::sleep(Duration::from_millis(100)).await;
    // A tier's tables are leased for good.
    let tables = store.nvme().map_or(0, |nvme| nvme.geometry().memory());
    let leased = store.budget().used().saturating_sub(tables);
    let in_memory = store.memory_usage();
    let known = store.residents().total();
    let charged = known.bytes + known.blocks * u64::from(OVERHEAD);
    if leased != in_memory || charged != in_memory {
        let what = format!("{leased} bytes are leased, {in_memory} held, known: {known:?}");
        trace.violation(who, what);
    }
    let waiting = store.budget().waiting();
    let in_flight = gateway.metrics.requests_in_flight.get();
    if waiting != 0 || in_flight != 0 {
        let what = format!("{waiting} reservations and {in_flight} requests are left");
        trace.violation(who, what);
    }
    trace.note(who, format_args!("{in_memory} bytes held"));
    if let Some(name) = held {
        permits(who, gateway, trace, name).await;
    }
}

/// Holds as many answers as there are permits: one that was lost is missed now, and one too many refused.
async fn permits(who: &str, gateway: &Arc<Gateway>, trace: &Trace, name: &Name) {
    let mut held = Vec::new();
    for number in 0..=MAX_REQUESTS {
        let Ok(request) = Ask::whole(name).request() else {
            return;
        };
        let answer = gateway.handle(request).await;
        let wanted = match number == MAX_REQUESTS {
            false => StatusCode::OK,
            true => StatusCode::SERVICE_UNAVAILABLE,
        };
        if answer.status() != wanted {
            let status = answer.status();
            let what = format!("{status} for request {number} of {MAX_REQUESTS} permits");
            trace.violation(who, what);
        }
        held.push(answer);
    }
}
