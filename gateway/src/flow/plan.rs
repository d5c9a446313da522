//! What comes next of a flow: pure functions of its graph and of how its steps ended.

use std::time::SystemTime;

use super::graph::{Graph, Policy, When};
use super::record::{Record, State, StepRecord, StepState};
use crate::keeping::millis;

/// How often a step is begun anew whose gateway stopped or died: more often than a fleet is restarted one by one.
const MOST_RESUMED: u32 = 30;

/// The steps that begin now, marked as running. Those that never will are skipped; if nothing runs and nothing begins,
/// the flow is over.
pub fn next(graph: &Graph, record: &mut Record) -> Vec<usize> {
    let mut begun = Vec::new();
    while !record.state.is_over() {
        let mut news = false;
        for (index, step) in graph.steps.iter().enumerate() {
            if record.steps[index].state != StepState::Waiting {
                continue;
            }
            let cleaning = record.state == State::Cleaning;
            let needs = step.needs.iter();
            // Who cleans up waits only for others who do.
            let needs = needs.filter(|need| !cleaning || record.clean_up.contains(need));
            let needs: Vec<StepState> = needs.map(|need| record.steps[*need].state).collect();
            if needs.iter().any(|state| !state.is_over()) {
                continue;
            }
            let runs = match step.when {
                _ if cleaning => record.clean_up.contains(&index),
                When::Success => needs.iter().all(|state| *state == StepState::Done),
                When::Failure => needs.contains(&StepState::Failed),
                When::Always => true,
            };
            let own = &mut record.steps[index];
            match runs {
                true => {
                    own.state = StepState::Running;
                    own.started.get_or_insert_with(now);
                    begun.push(index);
                }
                false => skip(own),
            }
            news = true;
        }
        if !news {
            break;
        }
    }
    if record.steps.iter().all(|step| step.state.is_over()) && !record.state.is_over() {
        record.state = record.end.unwrap_or(State::Done);
        record.finished = Some(now());
    }
    begun
}

/// Notes how a step ended. True: the flow goes no further, and what runs yet is to be stopped, as is marked already.
pub fn ended(graph: &Graph, record: &mut Record, index: usize, result: Result<(), String>) -> bool {
    let step = &graph.steps[index];
    let own = &mut record.steps[index];
    own.finished = Some(now());
    own.process = None;
    let Err(why) = result else {
        (own.state, own.error, own.detail) = (StepState::Done, None, None);
        return false;
    };
    own.state = StepState::Failed;
    own.error = Some(why.clone());
    let sentence = format!("step {:?} failed: {why}", step.name);
    match (&step.on_failure, record.state) {
        (_, State::Cleaning) => {
            // All of what is to clean up is tried, whatever becomes of the rest.
            let before = record.error.take().unwrap_or_default();
            record.error = Some(format!("{before}; cleaning up, {sentence}"));
            false
        }
        (Policy::Continue, _) => false,
        (Policy::Stop(clean_up), _) => {
            stop(graph, record, State::Failed, sentence, clean_up.clone());
            true
        }
    }
}

/// Ends the flow before its time: it was cancelled, or its deadline passed. Whoever cleans up after a step that has
/// begun does.
pub fn cut(graph: &Graph, record: &mut Record, end: State, why: &str) {
    let begun = graph.steps.iter().zip(&record.steps);
    let begun = begun.filter(|(_, own)| own.started.is_some());
    let clean_up = begun.flat_map(|(step, _)| step.on_failure.clean_up().to_vec());
    let clean_up = clean_up.collect();
    stop(graph, record, end, why.to_owned(), clean_up);
}

/// Has no step run but those that clean up after the one that failed and those that are stopped with it.
fn stop(graph: &Graph, record: &mut Record, end: State, why: String, mut clean_up: Vec<usize>) {
    for (step, own) in graph.steps.iter().zip(&mut record.steps) {
        if own.state == StepState::Running {
            clean_up.extend(step.on_failure.clean_up());
            own.state = StepState::Cancelled;
            own.finished = Some(now());
            own.error = Some(format!("it was stopped: {why}"));
        }
    }
    clean_up.sort_unstable();
    clean_up.dedup();
    // What did its work already, or could not, is not asked again.
    clean_up.retain(|index| {
        let state = record.steps[*index].state;
        !matches!(state, StepState::Done | StepState::Failed)
    });
    for (index, own) in record.steps.iter_mut().enumerate() {
        match clean_up.contains(&index) {
            true => *own = StepRecord::default(),
            false if own.state == StepState::Waiting => skip(own),
            false => {}
        }
    }
    record.state = State::Cleaning;
    record.end = Some(end);
    record.error = Some(why);
    record.clean_up = clean_up;
}

/// Has the steps that ran when their gateway died run again: that try does not count. One that was begun anew too often
/// has failed: it may be what ends gateways.
pub fn resume(graph: &Graph, record: &mut Record) {
    for index in 0..record.steps.len() {
        let step = &record.steps[index];
        if step.state == StepState::Running && step.resumed >= MOST_RESUMED {
            let why = format!(
                "whoever ran it stopped or died {MOST_RESUMED} times and once more: it is not begun again"
            );
            ended(graph, record, index, Err(why));
        }
    }
    for step in &mut record.steps {
        if step.state == StepState::Running {
            step.state = StepState::Waiting;
            step.tries = step.tries.saturating_sub(1);
            step.resumed += 1;
            step.detail = None;
        }
    }
}

fn skip(step: &mut StepRecord) {
    step.state = StepState::Skipped;
    step.finished = Some(now());
}

fn now() -> u64 {
    millis(SystemTime::now())
}

#[cfg(test)]
mod tests;
