//! Sizes and times as people write them.

use std::time::Duration;

/// Reads `17`, `64KiB`, `1 GiB`, `100MB`: whole numbers with a binary or a decimal unit, in bytes.
///
/// # Errors
/// A sentence that says what is accepted.
pub fn size(text: &str) -> Result<u64, String> {
    let digits = text
        .find(|character: char| !character.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor = match unit.trim() {
        "" | "B" => 1,
        "kB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => {
            return Err(format!(
                "{text:?} is no size: give bytes, or a number with KiB, MiB, GiB, TiB, kB, MB, GB or TB"
            ));
        }
    };
    let number: u64 = number
        .parse()
        .map_err(|_| format!("{text:?} is no size: begin with a whole number"))?;
    number
        .checked_mul(factor)
        .ok_or_else(|| format!("{text:?} is more than 2^64 bytes"))
}

/// Reads `30ms`, `10s`, `5m`, `1h`.
///
/// # Errors
/// A sentence that says what is accepted.
pub fn time(text: &str) -> Result<Duration, String> {
    let digits = text
        .find(|character: char| !character.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number
        .parse()
        .map_err(|_| format!("{text:?} is no time: begin with a whole number"))?;
    match unit.trim() {
        "ms" => Ok(Duration::from_millis(number)),
        "s" => Ok(Duration::from_secs(number)),
        "m" => Ok(Duration::from_secs(number.saturating_mul(60))),
        "h" => Ok(Duration::from_secs(number.saturating_mul(3600))),
        _ => Err(format!(
            "{text:?} is no time: give a number with ms, s, m or h"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_binary_and_decimal_units() {
        assert_eq!(size("17"), Ok(17));
        assert_eq!(size("64KiB"), Ok(65_536));
        assert_eq!(size("100 MB"), Ok(100_000_000));
        for bad in ["", "MiB", "1.5GiB", "1mb", "99999999TiB"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn times_need_a_unit() {
        assert_eq!(time("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(time("5m"), Ok(Duration::from_secs(300)));
        assert!(time("5").is_err());
    }
}
