//! One step as it is written, before the names of others in it are looked up.

use std::time::Duration;

use serde_json::Value;

use super::{Action, Policy, Rules, Step, When, judge_name, time};

/// Tries after the first one, at most.
const MOST_RETRIES: u64 = 100;

/// The pause before the second try of a step that does not say.
const BACKOFF: Duration = Duration::from_secs(1);

/// How long a try may take of a step that does not say.
const TIMEOUT: Duration = Duration::from_secs(3600);

/// What a step has beside the one key that says what it does.
const KEYS: [&str; 7] = [
    "name",
    "needs",
    "when",
    "retries",
    "backoff",
    "timeout",
    "on_failure",
];

/// A step whose names are still to be looked up.
pub(super) struct Draft {
    pub(super) name: String,
    pub(super) needs: Vec<String>,
    pub(super) when: When,
    /// Who cleans up after it.
    pub(super) clean_up: Vec<String>,
    action: Option<Action>,
    retries: u32,
    backoff: Duration,
    timeout: Duration,
    goes_on: bool,
}

impl Draft {
    /// What the step at this index says. `usual` is the flow's own `on_failure`.
    pub(super) fn read(
        index: usize,
        step: &Value,
        usual: Option<&Value>,
        rules: &Rules<'_>,
        mistakes: &mut Vec<String>,
    ) -> Self {
        let name = step.get("name").and_then(Value::as_str).unwrap_or_default();
        let at = match name {
            "" => format!("step {}", index + 1),
            name => format!("step {name:?}"),
        };
        let mut told = |sentence: String| mistakes.push(format!("{at}: {sentence}"));
        if let Err(clause) = judge_name(name) {
            told(format!("its `name` {clause}"));
        }
        let retries = match step.get("retries").map(Value::as_u64) {
            None => 0,
            Some(Some(number)) if number <= MOST_RETRIES => number,
            Some(_) => {
                told(format!(
                    "`retries` must be a whole number from 0 to {MOST_RETRIES}"
                ));
                0
            }
        };
        let mut span = |key: &str, usual: Duration| match step.get(key).map(time) {
            None => usual,
            Some(Ok(time)) => time,
            Some(Err(clause)) => {
                told(format!("`{key}` {clause}"));
                usual
            }
        };
        let (backoff, timeout) = (span("backoff", BACKOFF), span("timeout", TIMEOUT));
        let when = when_of(step.get("when")).unwrap_or_else(|| {
            told("`when` must be \"success\", \"failure\" or \"always\"".into());
            When::Success
        });
        let needs = match step.get("needs") {
            None => Vec::new(),
            Some(needs) => names(needs).unwrap_or_else(|| {
                told("`needs` must be a list of steps' names".into());
                Vec::new()
            }),
        };
        let (goes_on, clean_up) = match step.get("on_failure").or(usual) {
            None => (false, Vec::new()),
            Some(policy) => policy_of(policy).unwrap_or_else(|| {
                told("`on_failure` must be \"stop\", \"continue\" or the names of steps that clean up".into());
                (false, Vec::new())
            }),
        };
        if step.get("on_failure").is_some() && clean_up.iter().any(|other| other == name) {
            told("`on_failure` names the step itself, which has failed then".into());
        }
        let action = action(step, rules).map_err(&mut told).ok();
        Self {
            name: name.to_owned(),
            needs,
            when,
            clean_up,
            action,
            retries: u32::try_from(retries).unwrap_or(0),
            backoff,
            timeout,
            goes_on,
        }
    }

    /// The step, if what it does could be read.
    pub(super) fn finish(self, needs: Vec<usize>, clean_up: Vec<usize>) -> Option<Step> {
        Some(Step {
            name: self.name,
            action: self.action?,
            needs,
            when: self.when,
            retries: self.retries,
            backoff: self.backoff,
            timeout: self.timeout,
            on_failure: match self.goes_on {
                true => Policy::Continue,
                false => Policy::Stop(clean_up),
            },
        })
    }
}

/// How the steps that it needs have to have ended.
fn when_of(when: Option<&Value>) -> Option<When> {
    match when.map(Value::as_str) {
        None | Some(Some("success")) => Some(When::Success),
        Some(Some("failure")) => Some(When::Failure),
        Some(Some("always")) => Some(When::Always),
        Some(_) => None,
    }
}

/// The one thing that a step does.
fn action(step: &Value, rules: &Rules<'_>) -> Result<Action, String> {
    let table = step.as_object().ok_or("it must be a table")?;
    let mut kinds = table.keys().filter(|key| !KEYS.contains(&key.as_str()));
    let all = Action::KINDS.join(", ");
    let kind = kinds
        .next()
        .ok_or_else(|| format!("it does nothing: write one of {all}"))?;
    if !Action::KINDS.contains(&kind.as_str()) {
        return Err(format!(
            "there is no kind of step `{kind}`: the kinds are {all}"
        ));
    }
    if let Some(second) = kinds.next() {
        return Err(format!(
            "it says `{kind}` and `{second}`: a step does one thing of {all}"
        ));
    }
    Action::read(kind, &table[kind], rules).map_err(|sentence| format!("`{kind}`: {sentence}"))
}

/// Whether a flow goes on after the step failed, and who cleans up if it does not.
fn policy_of(policy: &Value) -> Option<(bool, Vec<String>)> {
    match policy.as_str() {
        Some("stop") => Some((false, Vec::new())),
        Some("continue") => Some((true, Vec::new())),
        Some(name) => Some((false, vec![name.to_owned()])),
        None => Some((false, names(policy)?)),
    }
}

fn names(value: &Value) -> Option<Vec<String>> {
    let names = value.as_array()?.iter();
    names.map(|name| name.as_str().map(str::to_owned)).collect()
}
