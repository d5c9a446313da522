//! One flow from its first step to its end.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::graph::Graph;
use super::keep::Written;
use super::plan;
use super::record::{State, StepState};
use super::{Flow, Flows, Hands, Told, exec, left};
use crate::keeping::lease::TICK;

/// The longest pause between two tries of a step.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Programs that others may have left behind, as far as they are remembered.
const MOST_LEFT: usize = 100;

/// How a step ended, and which.
type Ended = (usize, Result<(), String>);

/// A flow under way.
struct Run<'a> {
    flows: &'a Arc<Flows>,
    flow: &'a Arc<Flow>,
    graph: &'a Graph,
    hands: &'a Arc<dyn Hands>,
    /// When it has had its time; `None`: that is longer than any clock goes.
    deadline: Option<Instant>,
    running: JoinSet<Ended>,
}

/// What a flow waited for.
enum Came {
    Ended(Ended),
    /// The flow is to end before its time.
    Cut(State, String),
    /// It is written again.
    Time,
    /// It goes on elsewhere or later.
    Leave,
}

impl Flows {
    /// Sees a flow through, in a task of its own.
    pub(super) fn see_through(self: &Arc<Self>, flow: Arc<Flow>) {
        let flows = Arc::clone(self);
        tokio::spawn(async move {
            let id = &flow.id;
            tracing::info!(flow = id, "a flow begins or goes on");
            flows.run(&flow).await;
            let (state, error) = {
                let record = flow.record();
                (record.state, record.error.clone())
            };
            if flow.is_theirs() || !state.is_over() {
                return;
            }
            let error = error.unwrap_or_default();
            tracing::info!(flow = id, %error, "a flow is {}", state.name());
            flows.outcomes.with_label_values(&[state.name()]).inc();
            flows.forget_the_oldest().await;
        });
    }

    async fn run(self: &Arc<Self>, flow: &Arc<Flow>) {
        let (Ok(graph), Some(setup)) = (&flow.graph, self.setup.get()) else {
            return;
        };
        let mut run = Run {
            flows: self,
            flow,
            graph,
            hands: &setup.hands,
            deadline: Instant::now().checked_add(left(flow.record().created, graph.deadline)),
            running: JoinSet::new(),
        };
        run.tidy();
        let mut owed = Vec::new();
        // What an earlier owner marked as stopped may go on.
        let mut halts = flow.state() == State::Cleaning;
        loop {
            if halts && !run.halt().await {
                return run.leave().await;
            }
            if owed.is_empty() {
                owed = flow.change_if_news(|record| plan::next(graph, record));
            }
            match run.write().await {
                Written::Ours if flow.state().is_over() => return,
                Written::Ours => owed.drain(..).for_each(|step| run.begin(step)),
                Written::Theirs => return,
                // What runs goes on; nothing begins that is not written down.
                Written::NotNow => {}
            }
            halts = match run.wait().await {
                Came::Ended((step, result)) => {
                    flow.change(|record| plan::ended(graph, record, step, result))
                }
                Came::Cut(end, why) => {
                    flow.change(|record| plan::cut(graph, record, end, &why));
                    true
                }
                Came::Time => false,
                Came::Leave => return run.leave().await,
            };
            if halts {
                owed.clear();
            }
        }
    }
}

impl Run<'_> {
    /// Ends the programs that an earlier run of this gateway left behind, and remembers those that another member did: it
    /// ends them once it is back.
    fn tidy(&self) {
        for step in self.of_state(StepState::Running) {
            let Some(process) = self.flow.record().steps[step].process.take() else {
                continue;
            };
            if *process.member == *self.flows.member {
                exec::kill_left(&process);
                continue;
            }
            let mut record = self.flow.record();
            record.left.push(process);
            let forgotten = record.left.len().saturating_sub(MOST_LEFT);
            record.left.drain(..forgotten);
        }
        self.flow.change(|record| plan::resume(self.graph, record));
    }

    /// Until when the flow is ours for sure. Once it is over, its last write alone is left, which is done by none or one.
    fn until(&self) -> Option<Instant> {
        let shared = self.flows.setup.get();
        let shared = shared.is_some_and(|setup| setup.cabinet.is_shared());
        let watched = shared && !self.flow.state().is_over();
        let until = self.flow.lease().held_until();
        until.filter(|_| watched)
    }

    /// Writes how the flow does, as long as it is ours for sure.
    async fn write(&self) -> Written {
        let write = self.flows.write(self.flow);
        match self.until() {
            Some(until) => {
                let written = tokio::time::timeout_at(until, write).await;
                written.unwrap_or(Written::NotNow)
            }
            None => write.await,
        }
    }

    /// Lets go of the flow. One that is ours for sure no more may go on with another member by now; if none has it, it
    /// goes on here once it can be written down.
    async fn leave(mut self) {
        if self.until().is_none_or(|until| Instant::now() < until) || self.flow.is_theirs() {
            return;
        }
        let id = &self.flow.id;
        tracing::info!(
            flow = id,
            "a flow can't be written down: its steps are stopped before another member begins them"
        );
        self.running.shutdown().await;
        self.flow.theirs.send_replace(true);
    }

    fn of_state(&self, state: StepState) -> Vec<usize> {
        let record = self.flow.record();
        let steps = record.steps.iter().enumerate();
        let steps = steps.filter(|(_, step)| step.state == state);
        steps.map(|(index, _)| index).collect()
    }

    fn told(&self, step: usize) -> Told {
        Told {
            flow: Arc::clone(self.flow),
            step,
            member: Arc::clone(&self.flows.member),
        }
    }

    fn begin(&mut self, step: usize) {
        let (graph, hands) = (self.graph.clone(), Arc::clone(self.hands));
        let told = self.told(step);
        self.running.spawn(async move {
            let result = tries(&graph, step, &*hands, &told).await;
            (step, result)
        });
    }

    /// Waits until something is to be done.
    async fn wait(&mut self) -> Came {
        // What cleans up has its own time.
        let runs = self.flow.state() == State::Running;
        let deadline = self.deadline.filter(|_| runs);
        let mut cancel = self.flow.cancel.subscribe();
        let mut theirs = self.flow.theirs.subscribe();
        tokio::select! {
            biased;
            () = self.flows.closing() => Came::Leave,
            _ = theirs.wait_for(|theirs| *theirs) => Came::Leave,
            () = sleep(self.until()) => Came::Leave,
            _ = cancel.wait_for(|cancel| *cancel), if runs => Came::Cut(State::Cancelled, "it was cancelled".into()),
            () = sleep(deadline) => {
                let why = format!("its deadline of {:?} passed", self.graph.deadline);
                Came::Cut(State::Failed, why)
            }
            Some(ended) = self.running.join_next() => match ended {
                Ok(ended) => Came::Ended(ended),
                Err(error) => self.lost(&error),
            },
            () = self.flow.urgent.notified() => Came::Time,
            () = tokio::time::sleep(TICK) => Came::Time,
        }
    }

    /// A step's task ended without a word: it panicked.
    fn lost(&self, error: &tokio::task::JoinError) -> Came {
        tracing::error!(flow = self.flow.id, %error, "a step's task ended early");
        let why = "the task of a step ended early: see the log";
        Came::Cut(State::Failed, why.into())
    }

    /// Ends the steps that were marked as stopped. That may take its time, in which the flow is written again and again.
    /// False: it goes on elsewhere or later.
    async fn halt(&mut self) -> bool {
        self.running.shutdown().await;
        let stopped = self.of_state(StepState::Cancelled);
        let stopping = async {
            for step in stopped {
                let action = &self.graph.steps[step].action;
                self.hands.stop(action, &self.told(step)).await;
            }
        };
        let mut stopping = std::pin::pin!(stopping);
        loop {
            let written = async {
                tokio::time::sleep(TICK).await;
                self.write().await
            };
            tokio::select! {
                biased;
                () = &mut stopping => return true,
                () = self.flows.closing() => return false,
                () = sleep(self.until()) => return false,
                written = written => if written == Written::Theirs {
                    return false;
                },
            }
        }
    }
}

/// Tries a step as often as it may be tried.
async fn tries(graph: &Graph, index: usize, hands: &dyn Hands, told: &Told) -> Result<(), String> {
    let step = &graph.steps[index];
    let mut pause = step.backoff;
    loop {
        told.note(|record| record.tries += 1);
        let tried = tokio::time::timeout(step.timeout, hands.act(&step.action, told)).await;
        let why = match tried {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(why)) => why,
            Err(_) => {
                hands.stop(&step.action, told).await;
                let detail = told.record().detail;
                let detail = detail.map_or_else(String::new, |detail| format!(": {detail}"));
                format!("it took longer than {:?}{detail}", step.timeout)
            }
        };
        if told.record().tries > step.retries {
            return Err(why);
        }
        told.say(format!("tried again in {pause:?}: {why}"));
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Sleeps until then; without a time, for ever.
async fn sleep(until: Option<Instant>) {
    match until {
        Some(until) => tokio::time::sleep_until(until).await,
        None => std::future::pending().await,
    }
}
