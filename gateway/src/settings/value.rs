//! Readers of single values: each takes a TOML value and gives plain data, or a clause that follows
//! the key's name.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use toml::de::DeValue;

use super::{LogFormat, duration, size};

/// A string.
pub(super) fn string(value: &DeValue<'_>) -> Result<String, String> {
    match value.as_str() {
        Some(text) => Ok(text.to_owned()),
        None => Err(format!("must be a string in quotes, not {}", kind(value))),
    }
}

/// `true` or `false`.
pub(super) fn boolean(value: &DeValue<'_>) -> Result<bool, String> {
    value
        .as_bool()
        .ok_or_else(|| format!("must be true or false, without quotes, not {}", kind(value)))
}

/// A SIZE, in bytes.
pub(super) fn bytes(value: &DeValue<'_>) -> Result<u64, String> {
    match value {
        DeValue::Integer(_) => whole(value, 0..=u64::MAX),
        DeValue::String(text) => size::parse(text),
        _ => Err(format!(
            "must be a size such as \"8GiB\", not {}",
            kind(value)
        )),
    }
}

/// A time that may be zero.
pub(super) fn time(value: &DeValue<'_>) -> Result<Duration, String> {
    match value {
        DeValue::String(text) => duration::parse(text),
        _ => Err(format!(
            "must be a time in quotes, such as \"10s\", not {}",
            kind(value)
        )),
    }
}

/// A time above zero.
pub(super) fn positive_time(value: &DeValue<'_>) -> Result<Duration, String> {
    match time(value)? {
        Duration::ZERO => Err("must be above zero".into()),
        time => Ok(time),
    }
}

/// How many: a whole number from 1 to a million.
pub(super) fn count(value: &DeValue<'_>) -> Result<usize, String> {
    let count = whole(value, 1..=1_000_000)?;
    usize::try_from(count).map_err(|_| "must be a smaller number".into())
}

/// How many: as [`count`], or 0.
pub(super) fn count_or_none(value: &DeValue<'_>) -> Result<usize, String> {
    let count = whole(value, 0..=1_000_000)?;
    usize::try_from(count).map_err(|_| "must be a smaller number".into())
}

/// An IP address with a port.
pub(super) fn address(value: &DeValue<'_>) -> Result<SocketAddr, String> {
    parse_address(&string(value)?)
}

/// An IP address with a port, from its text.
pub(super) fn parse_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        "must be an IP address with a port, such as 127.0.0.1:7070 or [::1]:7070".into()
    })
}

/// A path that is not empty.
pub(super) fn path(value: &DeValue<'_>) -> Result<PathBuf, String> {
    match string(value)? {
        text if text.is_empty() => Err("is empty: write a directory".into()),
        text => Ok(text.into()),
    }
}

/// A path to a file, that is not empty.
pub(super) fn file(value: &DeValue<'_>) -> Result<PathBuf, String> {
    match string(value)? {
        text if text.is_empty() => Err("is empty: write a file".into()),
        text => Ok(text.into()),
    }
}

/// Origins whose pages may read: `*`, or SCHEME://HOST[:PORT] with at most one `*`.
pub(super) fn cors(value: &DeValue<'_>) -> Result<Vec<String>, String> {
    const HOW: &str = "such as [\"https://app.example.com\"], or [\"*\"] for all";
    let DeValue::Array(items) = value else {
        return Err(format!("must be a list, {HOW}, not {}", kind(value)));
    };
    let origins = items.iter().map(|item| {
        let origin = item
            .get_ref()
            .as_str()
            .ok_or_else(|| format!("must hold strings, {HOW}, not {}", kind(item.get_ref())))?;
        let (_, host) = origin.split_once("://").unwrap_or(("", ""));
        let whole = !host.is_empty() && !host.contains(['/', '?', '#', '@']);
        let plain = origin.bytes().all(|byte| byte.is_ascii_graphic());
        if origin == "*" || (whole && plain && origin.matches('*').count() <= 1) {
            Ok(origin.to_owned())
        } else {
            Err(
                "must hold origins, as SCHEME://HOST or SCHEME://HOST:PORT without a path, \
                 each with one `*` at most"
                    .to_owned(),
            )
        }
    });
    origins.collect()
}

/// The unit of caching, in bytes.
pub(super) fn block_size(value: &DeValue<'_>) -> Result<u32, String> {
    match bytes(value)? {
        size if size.is_power_of_two() && (256 << 10..=4 << 20).contains(&size) => {
            u32::try_from(size).map_err(|_| "must be at most 4MiB".into())
        }
        size => Err(format!(
            "must be a power of two from 256KiB to 4MiB, not {}",
            size::shown(size)
        )),
    }
}

/// How much is logged.
pub(super) fn level(value: &DeValue<'_>) -> Result<tracing::Level, String> {
    match string(value)?.as_str() {
        "error" => Ok(tracing::Level::ERROR),
        "warn" => Ok(tracing::Level::WARN),
        "info" => Ok(tracing::Level::INFO),
        "debug" => Ok(tracing::Level::DEBUG),
        "trace" => Ok(tracing::Level::TRACE),
        _ => Err("must be \"error\", \"warn\", \"info\", \"debug\" or \"trace\"".into()),
    }
}

/// The form of log lines.
pub(super) fn log_format(value: &DeValue<'_>) -> Result<LogFormat, String> {
    match string(value)?.as_str() {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err("must be \"text\" or \"json\"".into()),
    }
}

fn whole(value: &DeValue<'_>, range: RangeInclusive<u64>) -> Result<u64, String> {
    let DeValue::Integer(integer) = value else {
        return Err(format!(
            "must be a whole number without quotes, not {}",
            kind(value)
        ));
    };
    match u64::from_str_radix(integer.as_str(), integer.radix()) {
        Ok(number) if range.contains(&number) => Ok(number),
        _ => Err(format!(
            "must be a whole number from {} to {}",
            range.start(),
            range.end()
        )),
    }
}

/// What a value is, with its article.
pub(super) fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
