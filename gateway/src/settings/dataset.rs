//! One dataset: its name, its origin, and the options that go with it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::net::Ipv4Addr;
use std::time::Duration;

use forebay_storage::origin::OriginUrl;
use toml::de::{DeTable, DeValue};

use super::draft::Surroundings;
use super::report::{Place, Placed, Report};
use super::section::Section;
use super::{DatasetSettings, Secret, value};

pub(super) const FRESH_FOR: Duration = Duration::from_secs(10);
pub(super) const STALE_FOR: Duration = Duration::from_secs(3600);
pub(super) const ORIGIN_CONNECTIONS: usize = 64;

/// No credential is larger; a file beyond this was named by mistake.
const LARGEST_SECRET: u64 = 1 << 20;

/// What `[[datasets]]` says: the name, for the search for doubles, and the dataset if all of it is
/// right.
pub(super) fn read(
    section: &Section<'_>,
    around: &Surroundings<'_>,
    report: &mut Report,
) -> (Option<Placed<String>>, Option<DatasetSettings>) {
    let name = section.read("name", report, name_value);
    let origin = section.read("origin", report, origin_value);
    for (key, how) in [("name", "models"), ("origin", "s3://BUCKET/PREFIX")] {
        if section.raw(key, report).is_none() {
            report.missing(
                section.place(),
                format!("the dataset has no `{key}`: add {key} = \"{how}\""),
            );
        }
    }
    let options = options(
        section,
        origin.as_ref().map(|origin| &origin.value),
        around,
        report,
    );
    let fresh_for = section.read("fresh_for", report, value::time);
    let immutable = section
        .read("immutable", report, value::boolean)
        .is_some_and(|immutable| immutable.value);
    if let (true, Some(fresh_for)) = (immutable, &fresh_for) {
        report.add(
            &fresh_for.place,
            "`fresh_for` says nothing beside `immutable = true`: remove one of the two",
        );
    }
    let stale_for = section.read("stale_for", report, value::time);
    let origin_connections = section.read("origin_connections", report, value::count);
    let cors = section.read("cors", report, value::cors);
    let quota = section.read("quota", report, value::bytes);
    let ttl = section.read("ttl", report, value::time);
    let writable = section.read("writable", report, value::boolean);
    let is_http = |origin: &Placed<OriginUrl>| matches!(origin.value, OriginUrl::Http { .. });
    if let Some(writable) = writable.as_ref().filter(|writable| writable.value)
        && origin.as_ref().is_some_and(is_http)
    {
        report.add(
            &writable.place,
            "`writable` can't be true for an http:// or https:// origin: plain HTTP has no way to write that all \
             servers know; remove it, or name an object store",
        );
    }

    let dataset = match (&name, origin) {
        (Some(name), Some(origin)) => Some(DatasetSettings {
            options,
            fresh_for: fresh_for.map_or(FRESH_FOR, |time| time.value),
            immutable,
            stale_for: stale_for.map_or(STALE_FOR, |time| time.value),
            origin_connections: origin_connections.map_or(ORIGIN_CONNECTIONS, |count| count.value),
            cors: cors.map(|origins| origins.value).unwrap_or_default(),
            quota: quota.map_or(0, |bytes| bytes.value),
            ttl: ttl.map_or(Duration::ZERO, |time| time.value),
            writable: writable.is_some_and(|writable| writable.value),
            ..DatasetSettings::with_defaults(&name.value, origin.value)
        }),
        _ => None,
    };
    (name, dataset)
}

/// What a NAME=ORIGIN of the command line says, with its place; the dataset if both are right.
pub(super) fn from_argument(
    argument: &str,
    report: &mut Report,
) -> (Option<Placed<String>>, Option<DatasetSettings>) {
    // The argument itself is not shown: a misplaced one may hold a credential.
    let Some((name, origin)) = argument.split_once('=') else {
        let place = Place::Flag("NAME=ORIGIN".into());
        let how = "write a dataset as NAME=ORIGIN, such as models=s3://BUCKET/PREFIX";
        report.add(&place, format!("an argument has no `=`: {how}"));
        return (None, None);
    };
    if let Err(clause) = check_name(name) {
        report.add(
            &Place::Flag("NAME=ORIGIN".into()),
            format!("the dataset's name {clause}"),
        );
        return (None, None);
    }
    let place = Place::Flag(format!("{name}=ORIGIN"));
    let origin = OriginUrl::parse(origin)
        .map_err(|sentence| report.add(&place, sentence))
        .ok();
    let dataset = origin.map(|origin| DatasetSettings::with_defaults(name, origin));
    (
        Some(Placed {
            place,
            value: name.to_owned(),
        }),
        dataset,
    )
}

fn name_value(value: &DeValue<'_>) -> Result<String, String> {
    let name = value::string(value)?;
    check_name(&name)?;
    Ok(name)
}

pub(super) fn origin_value(value: &DeValue<'_>) -> Result<OriginUrl, String> {
    let text = value::string(value)?;
    OriginUrl::parse(&text).map_err(|sentence| format!("is wrong: {sentence}"))
}

/// S3's rules for the names of buckets ("General purpose bucket naming rules" of the S3 user
/// guide): clients see a dataset as a bucket, and some check these rules before they send anything.
fn check_name(name: &str) -> Result<(), String> {
    const RESERVED_STARTS: [&str; 3] = ["xn--", "sthree-", "amzn-s3-demo-"];
    const RESERVED_ENDS: [&str; 5] = ["-s3alias", "--ol-s3", ".mrap", "--x-s3", "--table-s3"];

    let edge = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    if !(3..=63).contains(&name.len()) {
        return Err(format!(
            "must have 3 to 63 characters, not {}",
            name.chars().count()
        ));
    }
    if !name.chars().all(|c| edge(c) || c == '-' || c == '.') {
        return Err("may hold only lower-case letters, digits, `-` and `.`".into());
    }
    if !(name.starts_with(edge) && name.ends_with(edge)) {
        return Err("must begin and end with a lower-case letter or a digit".into());
    }
    if name.contains("..") {
        return Err("may not hold two dots in a row".into());
    }
    if name.parse::<Ipv4Addr>().is_ok() {
        return Err("may not look like an IP address".into());
    }
    if let Some(start) = RESERVED_STARTS
        .iter()
        .find(|start| name.starts_with(*start))
    {
        return Err(format!(
            "may not begin with `{start}`, which S3 keeps for itself"
        ));
    }
    if let Some(end) = RESERVED_ENDS.iter().find(|end| name.ends_with(*end)) {
        return Err(format!(
            "may not end with `{end}`, which S3 keeps for itself"
        ));
    }
    Ok(())
}

/// The options, judged by the origin's kind; an origin that is itself wrong judges none.
pub(super) fn options(
    section: &Section<'_>,
    origin: Option<&OriginUrl>,
    around: &Surroundings<'_>,
    report: &mut Report,
) -> BTreeMap<String, Secret> {
    let mut options = BTreeMap::new();
    let Some(Placed { place, value }) = section.raw("options", report) else {
        return options;
    };
    let Some(table) = value.as_table() else {
        report.add(
            &place,
            format!(
                "`options` must be a table, such as {{ aws_region = \"us-east-1\" }}, not {}",
                value::kind(value)
            ),
        );
        return options;
    };
    for (key, value) in table {
        let (name, place) = (key.get_ref().as_ref(), report.place(&key.span()));
        if let Some(Err(sentence)) = origin.map(|origin| origin.check_option(name)) {
            report.add(&place, sentence);
            continue;
        }
        report.reads(value.get_ref());
        match option_value(value.get_ref(), around) {
            Ok(value) => {
                options.insert(name.to_owned(), Secret::new(value));
            }
            Err(clause) => report.add(&place, format!("the option `{name}` {clause}")),
        }
    }
    options
}

/// A string as it stands there, or from where it refers to.
pub(super) fn option_value(
    value: &DeValue<'_>,
    around: &Surroundings<'_>,
) -> Result<String, String> {
    match value {
        DeValue::String(text) => Ok(text.as_ref().to_owned()),
        DeValue::Table(table) => referred(table, around),
        _ => Err(format!(
            "must be a string in quotes, {{ file = \"…\" }} or {{ env = \"…\" }}, not {}",
            value::kind(value)
        )),
    }
}

/// The value that `{ file = … }` or `{ env = … }` refers to.
fn referred(table: &DeTable<'_>, around: &Surroundings<'_>) -> Result<String, String> {
    let entries: Vec<_> = table
        .iter()
        .map(|(key, value)| (key.get_ref().as_ref(), value.get_ref().as_str()))
        .collect();
    match entries.as_slice() {
        [("file", Some(path))] => file(path),
        [("env", Some(name))] => match (around.env)(name).map(std::ffi::OsString::into_string) {
            Some(Ok(value)) => Ok(value),
            Some(Err(_)) => Err(format!(
                "refers to the environment variable {name}, which is not UTF-8"
            )),
            None => Err(format!(
                "refers to the environment variable {name}, which is not set: set it"
            )),
        },
        _ => Err(
            "must be a string, or a table of one string: { file = \"…\" } or { env = \"…\" }"
                .into(),
        ),
    }
}

/// A file's text without its final newline.
fn file(path: &str) -> Result<String, String> {
    let mut text = String::new();
    let read =
        File::open(path).and_then(|file| file.take(LARGEST_SECRET + 1).read_to_string(&mut text));
    read.map_err(|error| format!("refers to the file {path}, which cannot be read ({error})"))?;
    if text.len() as u64 > LARGEST_SECRET {
        return Err(format!(
            "refers to the file {path}, which is larger than 1 MiB: name the right one"
        ));
    }
    let line = text
        .strip_suffix('\n')
        .map(|line| line.strip_suffix('\r').unwrap_or(line));
    Ok(line.unwrap_or(&text).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_rules_of_buckets() {
        for name in [
            "abc",
            "demo",
            "llama-3.1-70b",
            "0x0",
            "a.b",
            &"a".repeat(63),
        ] {
            assert_eq!(check_name(name), Ok(()), "{name}");
        }
        for name in [
            "",
            "ab",
            &"a".repeat(64),
            "Models",
            "my_models",
            "-abc",
            "abc-",
            ".abc",
            "abc.",
            "a..b",
            "10.0.0.5",
            "a/b",
            "modèle",
            "xn--abc",
            "sthree-abc",
            "amzn-s3-demo-x",
            "abc-s3alias",
            "abc--ol-s3",
            "abc.mrap",
            "abc--x-s3",
            "abc--table-s3",
        ] {
            assert!(check_name(name).is_err(), "{name}");
        }
    }
}
