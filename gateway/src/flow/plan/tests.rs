//! What comes next, given a graph and how its steps ended.

#![allow(clippy::unwrap_used)]

use super::super::graph::Rules;
use super::*;
use crate::settings::FlowSettings;

/// A graph of steps that wait for a member, by name and further lines.
fn graph(steps: &[(&str, &str)]) -> (Graph, Record) {
    let steps = steps.iter().map(|(name, lines)| {
        format!("[[steps]]\nname = \"{name}\"\nwait = {{ members = 1 }}\n{lines}\n")
    });
    let text: String = steps.collect();
    let allowed = FlowSettings::default();
    let rules = Rules {
        allowed: &allowed,
        knows: &|_| true,
        writes: &|_| true,
        copies: &|_| Ok(()),
        has_nvme: false,
    };
    let graph = Graph::parse(Graph::source(text.as_bytes()).unwrap(), &rules).unwrap();
    let record = Record::new("1".into(), &graph);
    (graph, record)
}

fn states(record: &Record) -> Vec<&'static str> {
    record.steps.iter().map(|step| step.state.name()).collect()
}

fn fails() -> Result<(), String> {
    Err("it broke".into())
}

#[test]
fn steps_whose_needs_are_met_begin_side_by_side() {
    let (graph, mut record) = graph(&[
        ("a", ""),
        ("b", ""),
        ("c", "needs = [\"a\", \"b\"]"),
        ("d", "needs = [\"a\"]"),
    ]);
    assert_eq!(next(&graph, &mut record), [0, 1]);
    assert_eq!(next(&graph, &mut record), [0; 0]);
    assert!(!ended(&graph, &mut record, 0, Ok(())));
    assert_eq!(next(&graph, &mut record), [3]);
    assert!(!ended(&graph, &mut record, 1, Ok(())));
    assert_eq!(next(&graph, &mut record), [2]);
    ended(&graph, &mut record, 2, Ok(()));
    assert_eq!(record.state, State::Running);
    ended(&graph, &mut record, 3, Ok(()));
    assert_eq!(next(&graph, &mut record), [0; 0]);
    assert_eq!((record.state, record.error.clone()), (State::Done, None));
    assert!(record.finished.is_some());
}

#[test]
fn a_failed_step_stops_the_flow_and_what_runs() {
    let (graph, mut record) = graph(&[("a", ""), ("b", ""), ("c", "needs = [\"a\"]")]);
    next(&graph, &mut record);
    assert!(ended(&graph, &mut record, 0, fails()));
    assert_eq!(states(&record), ["failed", "cancelled", "skipped"]);
    assert_eq!(next(&graph, &mut record), [0; 0]);
    assert_eq!(record.state, State::Failed);
    assert_eq!(record.error.unwrap(), "step \"a\" failed: it broke");
    assert_eq!(
        record.steps[1].error.as_deref(),
        Some("it was stopped: step \"a\" failed: it broke")
    );
}

#[test]
fn a_flow_goes_on_after_a_failure_that_its_policy_lets_pass() {
    let (graph, mut record) = graph(&[
        ("a", "on_failure = \"continue\""),
        ("good", "needs = [\"a\"]"),
        ("bad", "needs = [\"a\"]\nwhen = \"failure\""),
        ("any", "needs = [\"a\", \"good\"]\nwhen = \"always\""),
    ]);
    next(&graph, &mut record);
    assert!(!ended(&graph, &mut record, 0, fails()));
    assert_eq!(next(&graph, &mut record), [2, 3]);
    assert_eq!(states(&record), ["failed", "skipped", "running", "running"]);
    ended(&graph, &mut record, 2, Ok(()));
    ended(&graph, &mut record, 3, Ok(()));
    next(&graph, &mut record);
    assert_eq!((record.state, record.error), (State::Done, None));
}

#[test]
fn a_step_for_failures_is_skipped_where_nothing_failed() {
    let (graph, mut record) = graph(&[("a", ""), ("b", "needs = [\"a\"]\nwhen = \"failure\"")]);
    next(&graph, &mut record);
    ended(&graph, &mut record, 0, Ok(()));
    assert_eq!(next(&graph, &mut record), [0; 0]);
    assert_eq!(states(&record), ["done", "skipped"]);
    assert_eq!(record.state, State::Done);
}

/// Up, then work beside other work, then down; down cleans up.
fn release() -> (Graph, Record) {
    graph(&[
        ("up", "on_failure = \"down\""),
        ("work", "needs = [\"up\"]\non_failure = \"down\""),
        ("other", "needs = [\"up\"]\non_failure = [\"tell\"]"),
        ("down", "needs = [\"work\", \"other\"]"),
        ("tell", "when = \"failure\"\nneeds = [\"down\"]"),
    ])
}

#[test]
fn what_cleans_up_runs_in_the_order_of_its_needs_and_then_the_flow_has_failed() {
    let (graph, mut record) = release();
    next(&graph, &mut record);
    ended(&graph, &mut record, 0, Ok(()));
    assert_eq!(next(&graph, &mut record), [1, 2]);
    assert!(ended(&graph, &mut record, 1, fails()));
    assert_eq!(record.state, State::Cleaning);
    // `other` was stopped too, and `tell` cleans up after it.
    assert_eq!(next(&graph, &mut record), [3]);
    assert_eq!(
        states(&record),
        ["done", "failed", "cancelled", "running", "waiting"]
    );
    ended(&graph, &mut record, 3, fails());
    assert_eq!(next(&graph, &mut record), [4]);
    ended(&graph, &mut record, 4, Ok(()));
    assert_eq!(next(&graph, &mut record), [0; 0]);
    assert_eq!(record.state, State::Failed);
    let error = record.error.unwrap();
    assert!(
        error.starts_with("step \"work\" failed: it broke"),
        "{error}"
    );
    assert!(
        error.ends_with("cleaning up, step \"down\" failed: it broke"),
        "{error}"
    );
}

#[test]
fn a_flow_that_is_cut_cleans_up_after_all_that_had_begun() {
    let (graph, mut record) = release();
    cut(&graph, &mut record, State::Cancelled, "it was cancelled");
    assert_eq!(next(&graph, &mut record), [0; 0]);
    assert_eq!(record.state, State::Cancelled);
    assert!(
        record
            .steps
            .iter()
            .all(|step| step.state == StepState::Skipped)
    );

    let (graph, mut record) = release();
    next(&graph, &mut record);
    ended(&graph, &mut record, 0, Ok(()));
    cut(&graph, &mut record, State::Cancelled, "it was cancelled");
    assert_eq!(next(&graph, &mut record), [3]);
    ended(&graph, &mut record, 3, Ok(()));
    next(&graph, &mut record);
    assert_eq!(record.state, State::Cancelled);
    assert_eq!(
        states(&record),
        ["done", "skipped", "skipped", "done", "skipped"]
    );
}

#[test]
fn what_ran_when_its_gateway_died_runs_again_and_what_had_ended_does_not() {
    let (graph, mut record) = graph(&[("a", ""), ("b", "needs = [\"a\"]")]);
    next(&graph, &mut record);
    record.steps[0].tries = 1;
    ended(&graph, &mut record, 0, Ok(()));
    next(&graph, &mut record);
    record.steps[1].tries = 3;
    let text = serde_json::to_vec(&record).unwrap();
    let mut read: Record = serde_json::from_slice(&text).unwrap();
    assert_eq!(read, record);
    resume(&graph, &mut read);
    assert_eq!(next(&graph, &mut read), [1]);
    assert_eq!((read.steps[0].tries, read.steps[1].tries), (1, 2));
}

#[test]
fn a_step_that_ends_every_gateway_that_runs_it_has_failed_at_last() {
    let (graph, mut record) = graph(&[
        ("a", "on_failure = \"tell\""),
        ("tell", "when = \"failure\""),
        ("beside", ""),
    ]);
    assert_eq!(next(&graph, &mut record), [0, 2]);
    for _ in 0..MOST_RESUMED {
        record.steps[0].tries += 1;
        // It takes nothing with it that ran beside.
        record.steps[2].resumed = 0;
        resume(&graph, &mut record);
        assert_eq!(next(&graph, &mut record), [0, 2]);
    }
    resume(&graph, &mut record);
    assert_eq!(states(&record), ["failed", "waiting", "cancelled"]);
    assert_eq!(next(&graph, &mut record), [1]);
    ended(&graph, &mut record, 1, Ok(()));
    next(&graph, &mut record);
    assert_eq!(record.state, State::Failed);
}
