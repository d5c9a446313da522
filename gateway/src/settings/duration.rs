//! Times in settings: "250ms", "10s", "5m", "1h".

use std::time::Duration;

/// A time from a whole number and one of `ms`, `s`, `m`, `h`.
///
/// # Errors
/// A clause that follows the setting's name.
pub fn parse(text: &str) -> Result<Duration, String> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let millis: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => 0,
    };
    if number.is_empty() || millis == 0 {
        return Err(
            "is not a time: write a whole number with ms, s, m or h, such as \"10s\"".into(),
        );
    }
    let time = number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(millis));
    // Deadlines are points in time plus such a span, and may not run off the end of the clock.
    match time.map(Duration::from_millis) {
        Some(time) if time <= LONGEST => Ok(time),
        _ => Err("is too long a time: write at most \"876000h\"".into()),
    }
}

/// A hundred years of 365 days.
const LONGEST: Duration = Duration::from_secs(876_000 * 3_600);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_four_units_are_read() {
        assert_eq!(parse("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(parse("5m"), Ok(Duration::from_secs(300)));
        assert_eq!(parse("1h"), Ok(Duration::from_secs(3600)));
        assert_eq!(parse("0s"), Ok(Duration::ZERO));
    }

    #[test]
    fn a_number_needs_a_unit_and_a_unit_a_number() {
        for text in ["", "10", "s", "1d", "1h30m", "-1s", "1.5s", "10 s", "10S"] {
            assert!(
                parse(text).is_err_and(|clause| clause.contains("not a time")),
                "{text}"
            );
        }
    }

    #[test]
    fn what_no_clock_reaches_is_refused() {
        assert_eq!(parse("876000h"), Ok(LONGEST));
        for text in ["876001h", "18446744073709551615h", "99999999999999999999ms"] {
            assert!(
                parse(text).is_err_and(|clause| clause.contains("too long")),
                "{text}"
            );
        }
    }
}
