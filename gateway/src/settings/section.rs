//! One table of the settings file: its known keys, its unknown ones, and values with their places.

use toml::de::{DeTable, DeValue};

use super::report::{Place, Placed, Report};
use super::value;

/// What may stand in a table.
pub(super) struct Shape {
    /// The header as it is written, empty for the top of the file.
    pub(super) header: &'static str,
    /// The keys of this version.
    pub(super) keys: &'static [&'static str],
    /// The keys that a later version brings, which are refused by name.
    pub(super) later: &'static [&'static str],
}

/// The top of the file.
pub(super) const TOP: Shape = Shape {
    header: "",
    keys: &[
        "listen",
        "data_dir",
        "open",
        "admin_listen",
        "stop_after",
        "cache",
        "log",
        "limits",
        "tls",
        "datasets",
        "access",
        "domain",
        "fleet",
        "hosts",
        "state",
        "flows",
        "schedules",
    ],
    later: &[],
};

/// `[cache]`.
pub(super) const CACHE: Shape = Shape {
    header: "[cache]",
    keys: &["memory", "nvme", "nvme_dir", "block_size"],
    later: &[],
};

/// `[log]`.
pub(super) const LOG: Shape = Shape {
    header: "[log]",
    keys: &["level", "format", "access"],
    later: &[],
};

/// `[limits]`.
pub(super) const LIMITS: Shape = Shape {
    header: "[limits]",
    keys: &[
        "max_requests",
        "max_connections",
        "per_address",
        "header_timeout",
        "idle_timeout",
        "write_timeout",
    ],
    later: &[],
};

/// `[tls]`.
pub(super) const TLS: Shape = Shape {
    header: "[tls]",
    keys: &["cert", "key", "client_ca"],
    later: &[],
};

/// One `[[datasets]]`.
pub(super) const DATASET: Shape = Shape {
    header: "[[datasets]]",
    keys: &[
        "name",
        "origin",
        "options",
        "fresh_for",
        "immutable",
        "stale_for",
        "origin_connections",
        "cors",
        "quota",
        "ttl",
        "writable",
    ],
    later: &[],
};

/// One `[[access]]`.
pub(super) const ACCESS: Shape = Shape {
    header: "[[access]]",
    keys: &["access_key_id", "secret_access_key", "datasets", "admin"],
    later: &[],
};

/// `[fleet]`.
pub(super) const FLEET: Shape = Shape {
    header: "[fleet]",
    keys: &[
        "name",
        "member",
        "role",
        "weight",
        "key",
        "key_next",
        "listen",
        "advertise",
        "client_url",
        "seeds",
        "zone",
        "tls",
        "drain_after",
    ],
    later: &[],
};

/// `[state]`.
pub(super) const STATE: Shape = Shape {
    header: "[state]",
    keys: &["url", "options"],
    later: &[],
};

/// `[flows]`.
pub(super) const FLOWS: Shape = Shape {
    header: "[flows]",
    keys: &[
        "commands",
        "urls",
        "kubernetes",
        "kubernetes_token",
        "kubernetes_ca",
    ],
    later: &[],
};

/// One `[[schedules]]`.
pub(super) const SCHEDULE: Shape = Shape {
    header: "[[schedules]]",
    keys: &["name", "cron", "time_zone", "missed", "watch", "flow"],
    later: &[],
};

/// What one of them watches.
pub(super) const WATCH: Shape = Shape {
    header: "[schedules.watch]",
    keys: &["dataset", "manifest", "index", "prefix", "every"],
    later: &[],
};

/// Those that a header of their own begins.
const SHAPES: [&Shape; 11] = [
    &TOP, &CACHE, &LOG, &LIMITS, &TLS, &DATASET, &ACCESS, &FLEET, &STATE, &FLOWS, &SCHEDULE,
];

/// A table whose keys have been judged.
pub(super) struct Section<'a> {
    table: &'a DeTable<'a>,
    place: Place,
}

impl<'a> Section<'a> {
    /// Opens `table`, which stands at `place`, and reports every key that does not belong there.
    pub(super) fn open(
        table: &'a DeTable<'a>,
        shape: &Shape,
        place: Place,
        report: &mut Report,
    ) -> Self {
        for (key, value) in table {
            let (name, place) = (key.get_ref().as_ref(), report.place(&key.span()));
            if shape.later.contains(&name) {
                report.add(
                    &place,
                    format!(
                        "`{}` is not in this version: remove it",
                        written(name, value.get_ref())
                    ),
                );
            } else if !shape.keys.contains(&name) {
                report.add(&place, unknown(name, shape));
            }
        }
        Self { table, place }
    }

    /// Where the table stands.
    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    /// The value of `key` as it stands there.
    pub(super) fn raw(&self, key: &str, report: &Report) -> Option<Placed<&'a DeValue<'a>>> {
        let (key, value) = self.table.get_key_value(key)?;
        Some(Placed {
            place: report.place(&key.span()),
            value: value.get_ref(),
        })
    }

    /// The value of `key` as `read` understands it; `None` if it is absent, or wrong and reported.
    pub(super) fn read<T>(
        &self,
        key: &str,
        report: &mut Report,
        read: impl FnOnce(&DeValue<'_>) -> Result<T, String>,
    ) -> Option<Placed<T>> {
        let Placed { place, value } = self.raw(key, report)?;
        match read(value) {
            Ok(value) => Some(Placed { place, value }),
            Err(clause) => {
                report.add(&place, format!("`{key}` {clause}"));
                None
            }
        }
    }

    /// The table below `key`, opened; `None` if it is absent, or no table and reported.
    pub(super) fn section(
        &self,
        key: &str,
        shape: &Shape,
        report: &mut Report,
    ) -> Option<Section<'a>> {
        let Placed { place, value } = self.raw(key, report)?;
        if let DeValue::Table(table) = value {
            return Some(Section::open(table, shape, place, report));
        }
        report.add(
            &place,
            format!(
                "`{key}` must be a table, headed {}, not {}",
                shape.header,
                value::kind(value)
            ),
        );
        None
    }

    /// The tables of the list below `key`, opened.
    pub(super) fn sections(
        &self,
        key: &str,
        shape: &Shape,
        report: &mut Report,
    ) -> Vec<Section<'a>> {
        let Some(Placed { place, value }) = self.raw(key, report) else {
            return Vec::new();
        };
        let DeValue::Array(items) = value else {
            let kind = value::kind(value);
            report.add(
                &place,
                format!(
                    "`{key}` must be a list: head each one with {}, not {kind}",
                    shape.header
                ),
            );
            return Vec::new();
        };
        let mut sections = Vec::new();
        for item in items {
            let place = report.place(&item.span());
            match item.get_ref() {
                DeValue::Table(table) => sections.push(Section::open(table, shape, place, report)),
                other => report.add(
                    &place,
                    format!(
                        "{} must be a table, not {}",
                        shape.header,
                        value::kind(other)
                    ),
                ),
            }
        }
        sections
    }
}

/// The known word that a slip of the finger would turn into `word`, if there is one.
pub(super) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_lowercase();
    let near = known
        .into_iter()
        .map(|name| (strsim::osa_distance(&word, name), name))
        .min()?;
    // One slip for each six letters, and one for short words.
    (near.0 <= 1 + word.chars().count() / 6).then_some(near.1)
}

/// A key as its owner wrote it: `key`, `[key]` or `[[key]]`.
fn written(key: &str, value: &DeValue<'_>) -> String {
    match value {
        DeValue::Table(_) => format!("[{key}]"),
        DeValue::Array(items) if items.iter().any(|item| item.get_ref().is_table()) => {
            format!("[[{key}]]")
        }
        _ => key.to_owned(),
    }
}

fn unknown(name: &str, shape: &Shape) -> String {
    let here = if shape.header.is_empty() {
        "at the top of the file"
    } else {
        shape.header
    };
    // A key below a header belongs to that header: `open = true` after `[cache]` is a common
    // surprise.
    if let Some(home) = SHAPES.iter().find(|other| other.keys.contains(&name)) {
        let home = if home.header.is_empty() {
            "at the top, above the first header"
        } else {
            home.header
        };
        return format!(
            "`{name}` is not a setting {}: it belongs {}",
            of(here),
            belongs(home)
        );
    }
    let known = shape.keys.iter().chain(shape.later).copied();
    match nearest(name, known) {
        Some(near) => format!(
            "`{name}` is not a setting {}: did you mean `{near}`?",
            of(here)
        ),
        None => format!(
            "`{name}` is not a setting {}: its settings are {}",
            of(here),
            shape.keys.join(", ")
        ),
    }
}

fn of(here: &str) -> String {
    if here.starts_with('[') {
        format!("of {here}")
    } else {
        here.to_owned()
    }
}

fn belongs(home: &str) -> String {
    if home.starts_with('[') {
        format!("under {home}")
    } else {
        home.to_owned()
    }
}
