//! `[[access]]`, `domain` and `hosts`: who may ask, and by which names the gateway is called.

use toml::de::DeValue;

use super::draft::Surroundings;
use super::report::{Placed, Report};
use super::section::{Section, nearest};
use super::{AccessSettings, Secret, dataset, value};

/// The longest access key id, as at AWS.
const LONGEST_ID: usize = 128;

/// An `[[access]]` whose datasets are still to be compared with those that there are.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) id: Option<Placed<String>>,
    datasets: Option<Placed<Vec<String>>>,
    pub(super) settings: Option<AccessSettings>,
}

/// What an `[[access]]` says.
pub(super) fn read(section: &Section<'_>, around: &Surroundings<'_>, report: &mut Report) -> Draft {
    let id = section.read("access_key_id", report, id_value);
    if let Some(Placed { value, .. }) = section.raw("secret_access_key", report) {
        report.reads(value);
    }
    let secret = section.read(
        "secret_access_key",
        report,
        |value| match dataset::option_value(value, around)? {
            secret if secret.is_empty() => Err("is empty: write a secret".into()),
            secret => Ok(Secret::new(secret)),
        },
    );
    for (key, how) in [
        ("access_key_id", "access_key_id = \"LOADER\""),
        (
            "secret_access_key",
            "secret_access_key = { file = \"/run/secrets/loader\" }",
        ),
    ] {
        if section.raw(key, report).is_none() {
            let sentence = format!("the access key has no `{key}`: add {how}");
            report.missing(section.place(), sentence);
        }
    }
    let datasets = section.read("datasets", report, names);
    let admin = section.read("admin", report, value::boolean);
    let settings = match (&id, secret) {
        (Some(id), Some(secret)) => Some(AccessSettings {
            access_key_id: id.value.clone(),
            secret_access_key: secret.value,
            datasets: datasets.as_ref().map(|datasets| datasets.value.clone()),
            admin: admin.is_some_and(|admin| admin.value),
        }),
        _ => None,
    };
    Draft {
        id,
        datasets,
        settings,
    }
}

/// The access keys of all drafts; a name that no dataset has is worth a warning, for the dataset
/// may come with the next settings.
pub(super) fn finish(
    drafts: Vec<Draft>,
    known: &[&str],
    warnings: &mut Vec<String>,
    report: &mut Report,
) -> Vec<AccessSettings> {
    let mut ids: Vec<&Placed<String>> = Vec::new();
    for id in drafts.iter().filter_map(|draft| draft.id.as_ref()) {
        if let Some(first) = ids.iter().find(|first| first.value == id.value) {
            let sentence = format!(
                "the access key `{}` stands at {} already: remove one of them",
                id.value,
                report.shown(&first.place)
            );
            report.add(&id.place, sentence);
        } else {
            ids.push(id);
        }
    }
    for Placed { place, value } in drafts.iter().filter_map(|draft| draft.datasets.as_ref()) {
        for name in value.iter().filter(|name| !known.contains(&name.as_str())) {
            let near = nearest(name, known.iter().copied());
            let near = near.map_or_else(String::new, |near| format!(": did you mean `{near}`?"));
            let place = report.shown(place);
            warnings.push(format!(
                "{place}: an access key may read `{name}`, which is no dataset{near}"
            ));
        }
    }
    drafts
        .into_iter()
        .filter_map(|draft| draft.settings)
        .collect()
}

/// `open = true` lets everybody in, `[[access]]` does not.
pub(super) fn judge_open(open: Option<&Placed<bool>>, any: bool, report: &mut Report) {
    if let Some(Placed { place, value: true }) = open
        && any
    {
        let sentence = "`open = true` stands beside [[access]], and whoever reaches the port can't \
                        both need an access key and not need one: remove one of the two";
        report.add(place, sentence);
    }
}

/// How an address that others reach may be had.
pub(super) const NEEDS_ACCESS: &str = "add [[access]], or write `open = true` in the settings file, and whoever reaches the port may \
     read; or listen on 127.0.0.1";

/// `domain`: a host name, without a port.
pub(super) fn domain(value: &DeValue<'_>) -> Result<String, String> {
    let name = value::string(value)?.to_ascii_lowercase();
    let name = name.strip_suffix('.').unwrap_or(&name);
    if !is_host_name(name) {
        return Err(
            "must be a host name without a port, such as \"s3.example.com\", below which each \
             dataset has a name of its own"
                .into(),
        );
    }
    Ok(name.to_owned())
}

/// `hosts`: names as clients may have signed them, with or without a port.
pub(super) fn hosts(value: &DeValue<'_>) -> Result<Vec<String>, String> {
    let clause = "must be a list of host names, with or without a port, such as \
                  [\"gw.example.com\", \"10.0.0.5:8080\"]";
    let hosts = strings(value).ok_or(clause)?;
    let right = |host: &String| {
        let (name, port) = match host.rsplit_once(':') {
            Some((name, port)) if !name.ends_with(':') => (name, Some(port)),
            _ => (host.as_str(), None),
        };
        let literal = name
            .strip_prefix('[')
            .and_then(|name| name.strip_suffix(']'))
            .is_some_and(|address| address.parse::<std::net::Ipv6Addr>().is_ok());
        let address = name.parse::<std::net::Ipv4Addr>().is_ok();
        (literal || address || is_host_name(name))
            && port.is_none_or(|port| port.parse::<u16>().is_ok())
    };
    if hosts.iter().all(right) {
        Ok(hosts)
    } else {
        Err(clause.into())
    }
}

/// Labels of letters, digits and hyphens (RFC 1123 §2.1), not all of them numbers.
fn is_host_name(name: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.len() <= 253
        && name.split('.').all(label)
        && !name
            .bytes()
            .all(|byte| byte.is_ascii_digit() || byte == b'.')
}

fn id_value(value: &DeValue<'_>) -> Result<String, String> {
    let id = value::string(value)?;
    // What separates an id from the rest of a credential can't stand in one.
    let letter = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.+=@".contains(&byte);
    if id.is_empty() || id.len() > LONGEST_ID || !id.bytes().all(letter) {
        return Err(format!(
            "must have 1 to {LONGEST_ID} letters, digits or characters of `-_.+=@`"
        ));
    }
    Ok(id)
}

fn names(value: &DeValue<'_>) -> Result<Vec<String>, String> {
    strings(value).ok_or_else(|| "must be a list of datasets' names, such as [\"models\"]".into())
}

fn strings(value: &DeValue<'_>) -> Option<Vec<String>> {
    let items = value.as_array()?.iter();
    items
        .map(|item| item.get_ref().as_str().map(str::to_owned))
        .collect()
}

#[cfg(test)]
mod tests;
