//! What a flow is asked for: steps, what each needs, and what comes of a failure. All of it is judged before anything
//! begins, and all mistakes are told together.

mod action;
mod step;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value;

pub use self::action::{Action, Pinned, Purged, Scale, Wait, Warmed};
use self::step::Draft;
use super::ask::place;
use crate::copy::CopyOrder;
use crate::settings::{FlowSettings, UrlPrefix, duration};

/// No body of a request for a flow is longer.
pub const LONGEST: usize = 256 << 10;

/// Steps of one flow.
const MOST_STEPS: usize = 200;

/// How long a flow may take that does not say.
const DEADLINE: Duration = Duration::from_secs(24 * 3600);

/// The longest name of a flow or a step.
const LONGEST_NAME: usize = 63;

/// What flows may do here.
pub struct Rules<'a> {
    /// The programs and URLs that they may run and reach.
    pub allowed: &'a FlowSettings,
    /// Whether there is a dataset of that name.
    pub knows: &'a (dyn Fn(&str) -> bool + Sync),
    /// Whether there is a dataset of that name that may be written to.
    pub writes: &'a (dyn Fn(&str) -> bool + Sync),
    /// What is wrong with a copy, as a sentence.
    pub copies: &'a (dyn Fn(&CopyOrder) -> Result<(), String> + Sync),
    /// Whether there is an NVMe tier.
    pub has_nvme: bool,
}

/// A flow that can be run: names are known, nothing goes in a circle, nothing is off the allow-list.
#[derive(Clone, Debug)]
pub struct Graph {
    /// Its name.
    pub name: String,
    /// How long it may take.
    pub deadline: Duration,
    /// Its steps, in the order in which they were written.
    pub steps: Vec<Step>,
    /// As it was asked for.
    pub source: Value,
}

/// One step.
#[derive(Clone, Debug)]
pub struct Step {
    /// Its name.
    pub name: String,
    /// What it does.
    pub action: Action,
    /// The steps that come before it, by index.
    pub needs: Vec<usize>,
    /// How those have to have ended.
    pub when: When,
    /// Tries after the first one.
    pub retries: u32,
    /// The pause before the second try; each one after it is twice as long.
    pub backoff: Duration,
    /// How long one try may take.
    pub timeout: Duration,
    /// What comes of its failure.
    pub on_failure: Policy,
}

/// How the steps that one needs have to have ended for it to run. Else it is skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// All are done.
    Success,
    /// One failed.
    Failure,
    /// However they ended.
    Always,
}

/// What comes of a step's failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Policy {
    /// The flow ends as failed, once these steps have cleaned up.
    Stop(Vec<usize>),
    /// The flow goes on.
    Continue,
}

impl Policy {
    /// The steps that clean up.
    pub fn clean_up(&self) -> &[usize] {
        match self {
            Self::Stop(steps) => steps,
            Self::Continue => &[],
        }
    }
}

impl Graph {
    /// What a text asks for: JSON if it begins with a brace, else TOML.
    ///
    /// # Errors
    /// Where it is neither.
    pub fn source(text: &[u8]) -> Result<Value, String> {
        let text = std::str::from_utf8(text).map_err(|_| "the flow is not UTF-8".to_owned())?;
        if text.trim_start().starts_with('{') {
            return serde_json::from_str(text)
                .map_err(|error| format!("the flow is no JSON: {error}"));
        }
        toml::from_str(text).map_err(|error| format!("the flow is no TOML: {error}"))
    }

    /// The flow that is asked for.
    ///
    /// # Errors
    /// All that is wrong with it, a sentence each.
    pub fn parse(source: Value, rules: &Rules<'_>) -> Result<Self, Vec<String>> {
        let mut mistakes = Vec::new();
        let name = match source.get("name") {
            None => "flow".to_owned(),
            Some(name) => name.as_str().unwrap_or_default().to_owned(),
        };
        if let Err(clause) = judge_name(&name) {
            mistakes.push(format!("the flow's `name` {clause}"));
        }
        for key in source.as_object().into_iter().flat_map(|top| top.keys()) {
            if !["name", "deadline", "on_failure", "steps"].contains(&key.as_str()) {
                let how = "it has name, deadline, on_failure and steps";
                mistakes.push(format!("the flow has no `{key}`: {how}"));
            }
        }
        let deadline = match source.get("deadline") {
            None => DEADLINE,
            Some(deadline) => time(deadline).unwrap_or_else(|clause| {
                mistakes.push(format!("the flow's `deadline` {clause}"));
                DEADLINE
            }),
        };
        let written = source.get("steps").and_then(Value::as_array);
        let written = written.map(Vec::as_slice).unwrap_or_default();
        if written.is_empty() || written.len() > MOST_STEPS {
            let how = "write one table [[steps]] for each";
            mistakes.push(format!("the flow needs 1 to {MOST_STEPS} steps: {how}"));
        }
        let drafts: Vec<Draft> = written
            .iter()
            .take(MOST_STEPS)
            .enumerate()
            .map(|(index, step)| {
                Draft::read(index, step, source.get("on_failure"), rules, &mut mistakes)
            })
            .collect();
        let steps = link(drafts, &mut mistakes);
        match (steps, mistakes.is_empty()) {
            (Some(steps), true) => Ok(Self {
                name,
                deadline,
                steps,
                source,
            }),
            _ => Err(mistakes),
        }
    }

    /// The step of that name.
    pub fn index(&self, name: &str) -> Option<usize> {
        self.steps.iter().position(|step| step.name == name)
    }
}

/// The steps with the names of others made indexes. `None`: a mistake was told before.
fn link(drafts: Vec<Draft>, mistakes: &mut Vec<String>) -> Option<Vec<Step>> {
    let mut places = BTreeMap::new();
    for (index, draft) in drafts.iter().enumerate() {
        if places.insert(draft.name.clone(), index).is_some() {
            mistakes.push(format!("two steps are called {:?}: rename one", draft.name));
        }
    }
    let mut find = |of: &str, what: &str, names: &[String]| {
        let mut found = Vec::new();
        for name in names {
            match places.get(name) {
                Some(index) => found.push(*index),
                None => mistakes.push(format!(
                    "step {of:?}: `{what}` names {name:?}, which is no step"
                )),
            }
        }
        found
    };
    let linked: Vec<(Vec<usize>, Vec<usize>)> = drafts
        .iter()
        .map(|draft| {
            let needs = find(&draft.name, "needs", &draft.needs);
            let clean_up = find(&draft.name, "on_failure", &draft.clean_up);
            (needs, clean_up)
        })
        .collect();
    let needs: Vec<&[usize]> = linked.iter().map(|(needs, _)| needs.as_slice()).collect();
    let circle = circle(&needs);
    if let Some(circle) = &circle {
        let names: Vec<&str> = circle
            .iter()
            .map(|index| drafts[*index].name.as_str())
            .collect();
        let names = names.join(" needs ");
        mistakes.push(format!("the steps go in a circle: {names}"));
    }
    let cleans: BTreeSet<usize> = linked
        .iter()
        .flat_map(|(_, clean_up)| clean_up.clone())
        .collect();
    for (index, draft) in drafts.iter().enumerate() {
        if draft.when == When::Failure && draft.needs.is_empty() && !cleans.contains(&index) {
            let name = &draft.name;
            mistakes.push(format!(
                "step {name:?} would never run: `when = \"failure\"` needs a step in `needs`, or to be named in an \
                 `on_failure`"
            ));
        }
    }
    drafts
        .into_iter()
        .zip(linked)
        .enumerate()
        .map(|(index, (draft, (needs, mut clean_up)))| {
            // The flow's own clean-up is every step's but theirs who do it.
            clean_up.retain(|step| *step != index);
            draft.finish(needs, clean_up)
        })
        .collect()
}

/// Steps that need each other in a circle, the first of them again at the end.
fn circle(needs: &[&[usize]]) -> Option<Vec<usize>> {
    /// Whether a step was met, and whether all that it needs was.
    #[derive(Clone, Copy, PartialEq)]
    enum Met {
        No,
        OnTheWay,
        Wholly,
    }
    let mut met = vec![Met::No; needs.len()];
    for begin in 0..needs.len() {
        // Steps on the way, and which of their needs comes next.
        let mut way = vec![(begin, 0)];
        while let Some((step, next)) = way.pop() {
            if next == 0 {
                if met[step] == Met::Wholly {
                    continue;
                }
                met[step] = Met::OnTheWay;
            }
            let Some(need) = needs[step].get(next) else {
                met[step] = Met::Wholly;
                continue;
            };
            way.push((step, next + 1));
            match met[*need] {
                Met::Wholly => {}
                Met::No => way.push((*need, 0)),
                Met::OnTheWay => {
                    let way: Vec<usize> = way.iter().map(|(step, _)| *step).collect();
                    let first = way.iter().position(|step| step == need).unwrap_or(0);
                    return Some(way[first..].iter().copied().chain([*need]).collect());
                }
            }
        }
    }
    None
}

fn judge_name(name: &str) -> Result<(), String> {
    let edge = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let inner = |c: char| edge(c) || c == '-';
    let right = (1..=LONGEST_NAME).contains(&name.len())
        && name.chars().all(inner)
        && name.starts_with(edge)
        && name.ends_with(edge);
    match right {
        true => Ok(()),
        false => Err(format!(
            "must have 1 to {LONGEST_NAME} lower-case letters, digits or `-`, not at either end"
        )),
    }
}

/// A time above zero, or the clause that says what is wrong with it.
fn time(value: &Value) -> Result<Duration, String> {
    let text = value
        .as_str()
        .ok_or("must be a time in quotes, such as \"10s\"")?;
    match duration::parse(text)? {
        Duration::ZERO => Err("must be above zero".into()),
        time => Ok(time),
    }
}

/// A URL that the settings allow. What may be a secret in it is not told.
fn allowed(url: &str, rules: &Rules<'_>) -> Result<(), String> {
    let place = place(url);
    let parsed = UrlPrefix::parse(url).map_err(|clause| format!("{place:?} {clause}"))?;
    match rules
        .allowed
        .urls
        .iter()
        .any(|prefix| prefix.allows(&parsed))
    {
        true => Ok(()),
        false => Err(format!(
            "{place:?} is not below any of `urls` in [flows] of the settings, and flows reach nothing else"
        )),
    }
}

#[cfg(test)]
mod tests;
