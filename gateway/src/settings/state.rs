//! `[state]`: where a fleet keeps its jobs and pins.

use forebay_storage::origin::documents::Documents;

use super::draft::Surroundings;
use super::report::Report;
use super::section::{STATE, Section};
use super::{StateSettings, dataset};

/// Reads the section. That a store of this kind can't be written as it has to be is a mistake on the line that names it.
pub(super) fn read(
    top: &Section<'_>,
    around: &Surroundings<'_>,
    report: &mut Report,
) -> Option<StateSettings> {
    let section = top.section("state", &STATE, report)?;
    let url = section.read("url", report, dataset::origin_value);
    if section.raw("url", report).is_none() {
        let how = "[state] has no `url`: add url = \"s3://BUCKET/PREFIX/\"";
        report.missing(section.place(), how);
    }
    let origin = url.as_ref().map(|url| &url.value);
    let options = dataset::options(&section, origin, around, report);
    let url = url?;
    if let Err(sentence) = Documents::judge(&url.value) {
        report.add(&url.place, format!("`url` is wrong: {sentence}"));
        return None;
    }
    Some(StateSettings {
        url: url.value,
        options,
    })
}
