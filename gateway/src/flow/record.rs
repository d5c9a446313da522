//! How a flow does: what is written down of it, and told.

use std::time::SystemTime;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::graph::Graph;
use crate::keeping::{millis, time};

/// How a flow does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Steps run, or are about to.
    Running,
    /// It has failed or was cancelled, and what is to clean up does.
    Cleaning,
    /// Every step ended as its policy lets it.
    Done,
    /// A step failed that stops it, or its deadline passed.
    Failed,
    /// Somebody wanted no more of it.
    Cancelled,
}

impl State {
    /// Whether nothing more will come.
    pub fn is_over(self) -> bool {
        matches!(self, Self::Done | Self::Failed | Self::Cancelled)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Cleaning => "cleaning",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// How a step does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StepState {
    /// Others come first.
    #[default]
    Waiting,
    /// It runs, or waits for its next try.
    Running,
    /// It did what it was asked for.
    Done,
    /// Its last try failed.
    Failed,
    /// It never ran: what it needs ended otherwise than it wants.
    Skipped,
    /// It was stopped.
    Cancelled,
}

impl StepState {
    /// Whether it runs no more.
    pub fn is_over(self) -> bool {
        !matches!(self, Self::Waiting | Self::Running)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Running => "running",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
            Self::Cancelled => "cancelled",
        }
    }
}

/// A process that a step began: its group's number, and when it began, since numbers come again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its number.
    pub pid: i32,
    /// When it began, as the kernel counts.
    pub started: String,
    /// On which gateway.
    pub member: String,
}

/// What is written down of a step.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StepRecord {
    /// How it does.
    pub state: StepState,
    /// Tries that were begun.
    pub tries: u32,
    /// When the first was, in milliseconds since 1970.
    pub started: Option<u64>,
    /// When it ended.
    pub finished: Option<u64>,
    /// Why its last try failed, or why it was stopped.
    pub error: Option<String>,
    /// How its try does.
    pub detail: Option<String>,
    /// The end of what a program wrote.
    pub output: Option<String>,
    /// The warming job that it began.
    pub job: Option<String>,
    /// The process that it began.
    pub process: Option<Process>,
    /// How often it was begun anew because its gateway stopped or died.
    #[serde(default)]
    pub resumed: u32,
}

/// What is written down of a flow.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Its name: 16 hexadecimal digits, or a schedule's name and what the run is for.
    pub id: String,
    /// When it was taken, in milliseconds since 1970.
    pub created: u64,
    /// When it ended.
    pub finished: Option<u64>,
    /// How it does.
    pub state: State,
    /// Why it failed, as a sentence.
    pub error: Option<String>,
    /// How it ends once what is to clean up has.
    pub end: Option<State>,
    /// The steps that clean up, by index.
    pub clean_up: Vec<usize>,
    /// Its steps, in the graph's order.
    pub steps: Vec<StepRecord>,
    /// Who works on it; empty: whoever wants to.
    pub holder: String,
    /// Counts the writes, so that each is news.
    pub turn: u64,
    /// Somebody wants no more of it.
    pub cancel: bool,
    /// Processes that other members may have left behind, for them to end once they are back.
    #[serde(default)]
    pub left: Vec<Process>,
    /// As it was asked for.
    pub source: Value,
}

impl Record {
    /// That of a flow that was just taken.
    pub fn new(id: String, graph: &Graph) -> Self {
        Self {
            id,
            created: millis(SystemTime::now()),
            finished: None,
            state: State::Running,
            error: None,
            end: None,
            clean_up: Vec::new(),
            steps: vec![StepRecord::default(); graph.steps.len()],
            holder: String::new(),
            turn: 0,
            left: Vec::new(),
            cancel: false,
            source: graph.source.clone(),
        }
    }

    /// The JSON of it.
    pub fn json(&self, graph: Option<&Graph>) -> Value {
        let steps = graph
            .map(|graph| graph.steps.as_slice())
            .unwrap_or_default();
        let steps = steps.iter().zip(&self.steps).map(|(step, record)| {
            let needs: Vec<&str> = step
                .needs
                .iter()
                .filter_map(|need| Some(steps.get(*need)?.name.as_str()))
                .collect();
            json!({
                "name": step.name,
                "kind": step.action.kind(),
                "needs": needs,
                "state": record.state.name(),
                "tries": record.tries,
                "started": record.started.map(rfc3339),
                "finished": record.finished.map(rfc3339),
                "error": record.error,
                "detail": record.detail,
                "output": record.output,
                "job": record.job,
            })
        });
        json!({
            "id": self.id,
            "name": graph.map(|graph| graph.name.as_str()),
            "state": self.state.name(),
            "error": self.error,
            "created": rfc3339(self.created),
            "finished": self.finished.map(rfc3339),
            "steps": steps.collect::<Vec<_>>(),
        })
    }

    /// A line of text of it.
    pub fn line(&self, graph: Option<&Graph>) -> String {
        let id = &self.id;
        let over = self
            .steps
            .iter()
            .filter(|step| step.state.is_over())
            .count();
        match self.state {
            State::Done => {
                let millis = self
                    .finished
                    .unwrap_or(self.created)
                    .saturating_sub(self.created);
                let seconds = millis as f64 / 1000.0;
                format!("done {id} {} steps in {seconds:.1}s\n", self.steps.len())
            }
            State::Failed | State::Cancelled => {
                let why = self.error.as_deref().unwrap_or("it was cancelled");
                format!("failed {id} {}\n", why.replace('\n', " "))
            }
            State::Running | State::Cleaning => {
                let steps = graph
                    .map(|graph| graph.steps.as_slice())
                    .unwrap_or_default();
                let running = steps.iter().zip(&self.steps);
                let running = running.filter(|(_, record)| record.state == StepState::Running);
                let told = running.map(|(step, record)| match &record.detail {
                    Some(detail) => format!("{}: {}", step.name, detail.replace('\n', " ")),
                    None => step.name.clone(),
                });
                let told: Vec<String> = told.collect();
                let (state, all) = (self.state.name(), self.steps.len());
                format!("flow {id} {state} {over}/{all} steps {}\n", told.join(", "))
            }
        }
    }
}

fn rfc3339(millis: u64) -> String {
    DateTime::<Utc>::from(time(millis)).to_rfc3339_opts(SecondsFormat::Secs, true)
}
