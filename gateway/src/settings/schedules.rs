//! `[[schedules]]`: flows that begin by themselves, at a time or when something at an origin changed.

use std::time::Duration;

use toml::de::DeValue;

use super::report::{Placed, Report};
use super::section::{SCHEDULE, Section, WATCH};
use super::timetable::Timetable;
use super::{Begins, ScheduleSettings, Watched, value};

/// Between two looks at what is watched, of a schedule that does not say.
const EVERY: Duration = Duration::from_secs(30);

/// The longest name: a run's is longer by its time.
const LONGEST_NAME: usize = 40;

/// No flow is longer.
const LONGEST_FLOW: u64 = 256 << 10;

/// All schedules. Files that they name are read.
pub(super) fn read(top: &Section<'_>, report: &mut Report) -> Vec<ScheduleSettings> {
    let mut names: Vec<Placed<String>> = Vec::new();
    let mut schedules = Vec::new();
    for section in top.sections("schedules", &SCHEDULE, report) {
        let name = section.read("name", report, name);
        if section.raw("name", report).is_none() {
            let how = "the schedule has no `name`: add name = \"nightly\"";
            report.missing(section.place(), how);
        }
        let schedule = one(&section, name.as_ref(), report);
        if let Some(name) = name {
            if let Some(first) = names.iter().find(|first| first.value == name.value) {
                let first = report.shown(&first.place);
                let sentence = format!(
                    "the schedule `{}` stands at {first} already: rename one",
                    name.value
                );
                report.add(&name.place, sentence);
            }
            names.push(name);
        }
        schedules.extend(schedule);
    }
    schedules
}

fn one(
    section: &Section<'_>,
    name: Option<&Placed<String>>,
    report: &mut Report,
) -> Option<ScheduleSettings> {
    let zone = section.read("time_zone", report, |value| {
        Timetable::zone(&value::string(value)?)
    });
    let zone_value = zone.as_ref().map_or(chrono_tz::Tz::UTC, |zone| zone.value);
    let cron = section.read("cron", report, |value| {
        Timetable::parse(&value::string(value)?, zone_value)
    });
    let missed = section.read("missed", report, |value| {
        match value::string(value)?.as_str() {
            "run_once" => Ok(true),
            "skip" => Ok(false),
            _ => Err("must be \"run_once\" or \"skip\"".into()),
        }
    });
    let watch = section.section("watch", &WATCH, report);
    let flow = section.read("flow", report, flow);
    let said = (
        section.raw("cron", report).is_some(),
        section.raw("watch", report).is_some(),
    );
    let place = section.place();
    match said {
        (false, false) => {
            report.missing(place, "the schedule begins nothing: add `cron` or `watch`");
        }
        (true, true) => report.add(place, "the schedule has `cron` and `watch`: make two of it"),
        (true, false) if section.raw("flow", report).is_none() => {
            report.missing(place, "the schedule does nothing: add flow = \"FILE.toml\"");
        }
        _ => {}
    }
    if said.1
        && let Some(place) = zone
            .map(|zone| zone.place)
            .or(missed.as_ref().map(|missed| missed.place.clone()))
    {
        report.add(&place, "it says nothing beside `watch`: remove it");
    }
    let begins = match (cron, watch) {
        (Some(table), None) => Begins::At {
            table: Box::new(table.value),
            run_missed: missed.is_some_and(|missed| missed.value),
        },
        (None, Some(watch)) => watched(&watch, report)?,
        _ => return None,
    };
    Some(ScheduleSettings {
        name: name?.value.clone(),
        begins,
        flow: flow.map(|flow| flow.value),
    })
}

fn watched(watch: &Section<'_>, report: &mut Report) -> Option<Begins> {
    let dataset = watch.read("dataset", report, value::string);
    if watch.raw("dataset", report).is_none() {
        report.missing(watch.place(), "`watch` names no `dataset`");
    }
    let every = watch.read("every", report, value::positive_time);
    let said: Vec<&str> = ["manifest", "index", "prefix"]
        .into_iter()
        .filter(|key| watch.raw(key, report).is_some())
        .collect();
    let [key] = said[..] else {
        let how = "`watch` is of one thing: `manifest` or `index`, an object, or `prefix`";
        report.missing(watch.place(), how);
        return None;
    };
    let what = watch.read(key, report, value::string)?;
    if key != "prefix" && what.value.is_empty() {
        report.add(
            &what.place,
            format!("`{key}` is empty: write an object's key"),
        );
        return None;
    }
    let what = match key {
        "manifest" => Watched::Manifest(what.value),
        "index" => Watched::Index(what.value),
        _ => Watched::Prefix(what.value),
    };
    Some(Begins::OnChange {
        dataset: dataset?.value,
        what,
        every: every.map_or(EVERY, |every| every.value),
    })
}

fn name(value: &DeValue<'_>) -> Result<String, String> {
    let name = value::string(value)?;
    let edge = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let right = (1..=LONGEST_NAME).contains(&name.len())
        && name.chars().all(|c| edge(c) || c == '-')
        && name.starts_with(edge)
        && name.ends_with(edge);
    match right {
        true => Ok(name),
        false => Err(format!(
            "must have 1 to {LONGEST_NAME} lower-case letters, digits or `-`, not at either end"
        )),
    }
}

/// The text of a flow's file. Whether it is one is judged where datasets are known.
fn flow(value: &DeValue<'_>) -> Result<String, String> {
    let path = value::file(value)?;
    let shown = path.display();
    let size = std::fs::metadata(&path).map(|metadata| metadata.len());
    if size.is_ok_and(|size| size > LONGEST_FLOW) {
        return Err(format!("names {shown}, which is longer than a flow may be"));
    }
    std::fs::read_to_string(&path)
        .map_err(|error| format!("names {shown}, which can't be read ({error})"))
}
