//! The settings file, walked by hand: a derive would stop at the first mistake and lose the lines.

use std::path::Path;

use toml::de::DeTable;

use super::draft::{Draft, Surroundings};
use super::report::{Place, Report};
use super::section::{ACCESS, CACHE, DATASET, LIMITS, LOG, Section, TOP};
use super::{access, dataset, fleet, flows, schedules, state, tls, value};

/// Reads the file at `path` into `draft`.
pub(super) fn read(path: &Path, around: &Surroundings<'_>, draft: &mut Draft, report: &mut Report) {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            report.add(
                &Place::File,
                format!("the settings file cannot be read ({error})"),
            );
            return;
        }
    };
    walk(&text, around, draft, report);
}

/// Reads the text of a settings file into `draft`.
pub(super) fn walk(text: &str, around: &Surroundings<'_>, draft: &mut Draft, report: &mut Report) {
    report.set_text(text);
    let (tree, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        report.syntax(error.span(), error.message());
    }
    let top = Section::open(tree.get_ref(), &TOP, Place::Line(1), report);
    draft.listen = top.read("listen", report, value::address);
    draft.open = top.read("open", report, value::boolean);
    draft.domain = top.read("domain", report, access::domain);
    draft.hosts = top.read("hosts", report, access::hosts);
    draft.data_dir = top.read("data_dir", report, value::path);
    draft.admin_listen = top.read("admin_listen", report, value::address);
    draft.stop_after = top.read("stop_after", report, value::time);
    cache(&top, draft, report);
    log(&top, draft, report);
    limits(&top, draft, report);
    draft.tls = tls::read(&top, report);
    draft.fleet = fleet::read(&top, around, report);
    draft.state = state::read(&top, around, report);
    draft.flows = flows::read(&top, report);
    draft.schedules = schedules::read(&top, report);
    for section in top.sections("datasets", &DATASET, report) {
        let (name, dataset) = dataset::read(&section, around, report);
        draft.add_dataset(name, dataset, report);
    }
    for section in top.sections("access", &ACCESS, report) {
        draft.keys.push(access::read(&section, around, report));
    }
}

fn cache(top: &Section<'_>, draft: &mut Draft, report: &mut Report) {
    let Some(cache) = top.section("cache", &CACHE, report) else {
        return;
    };
    draft.memory = cache.read("memory", report, value::bytes);
    draft.block_size = cache.read("block_size", report, value::block_size);
    draft.nvme = cache.read("nvme", report, value::bytes);
    draft.nvme_dir = cache.read("nvme_dir", report, value::path);
}

fn log(top: &Section<'_>, draft: &mut Draft, report: &mut Report) {
    let Some(log) = top.section("log", &LOG, report) else {
        return;
    };
    draft.level = log.read("level", report, value::level);
    draft.format = log.read("format", report, value::log_format);
    draft.access = log.read("access", report, value::boolean);
}

fn limits(top: &Section<'_>, draft: &mut Draft, report: &mut Report) {
    let Some(limits) = top.section("limits", &LIMITS, report) else {
        return;
    };
    draft.max_requests = limits.read("max_requests", report, value::count);
    draft.max_connections = limits.read("max_connections", report, value::count);
    draft.per_address = limits.read("per_address", report, value::count_or_none);
    draft.header_timeout = limits.read("header_timeout", report, value::positive_time);
    draft.idle_timeout = limits.read("idle_timeout", report, value::positive_time);
    draft.write_timeout = limits.read("write_timeout", report, value::positive_time);
}
