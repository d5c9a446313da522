//! Times of a cron line in a named time zone.

use std::fmt;
use std::time::{Duration, SystemTime};

use chrono::{DateTime, TimeZone, Utc};
use chrono_tz::Tz;
use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};

/// How far back a time is looked for at first, and then: a line that comes each minute is not walked through a year.
const LOOKS_BACK: [Duration; 2] = [
    Duration::from_secs(24 * 3600),
    Duration::from_secs(40 * 24 * 3600),
];

/// A cron line of five fields and its zone. A time that a clock skips is the next one that there is; one that comes
/// twice is its first, where the line names hours and minutes.
#[derive(Clone, PartialEq, Eq)]
pub struct Timetable {
    line: String,
    cron: Cron,
    zone: Tz,
}

impl Timetable {
    /// Reads a line such as `30 3 * * MON-FRI`, in a zone such as `Europe/Berlin`.
    ///
    /// # Errors
    /// A clause that follows what it is called: the line can't be read, or names no time that ever comes.
    pub fn parse(line: &str, zone: Tz) -> Result<Self, String> {
        let parser = CronParser::builder()
            .seconds(Seconds::Disallowed)
            .year(Year::Disallowed)
            .build();
        let how = "write MINUTE HOUR DAY MONTH WEEKDAY, such as \"30 3 * * MON-FRI\"";
        let fields = line.split_whitespace().count();
        if fields != 5 {
            return Err(format!(
                "is no cron line (it has {fields} fields, not five): {how}"
            ));
        }
        let cron = parser.parse(line);
        let cron = cron.map_err(|error| format!("is no cron line ({error}): {how}"))?;
        let table = Self {
            line: line.to_owned(),
            cron,
            zone,
        };
        match table.next_after(SystemTime::UNIX_EPOCH) {
            Some(_) => Ok(table),
            None => Err(format!("names a time that never comes: {how}")),
        }
    }

    /// The zone of that IANA name.
    ///
    /// # Errors
    /// A clause that follows what it is called.
    pub fn zone(name: &str) -> Result<Tz, String> {
        name.parse()
            .map_err(|_| "is no time zone: write its IANA name, such as \"Asia/Shanghai\"".into())
    }

    /// The first time after this one.
    pub fn next_after(&self, time: SystemTime) -> Option<SystemTime> {
        let time = self
            .zone
            .from_utc_datetime(&DateTime::<Utc>::from(time).naive_utc());
        let next = self.cron.find_next_occurrence(&time, false).ok()?;
        Some(next.with_timezone(&Utc).into())
    }

    /// The last time after `from` and up to `to`.
    pub fn last_between(&self, from: SystemTime, to: SystemTime) -> Option<SystemTime> {
        let begins = LOOKS_BACK.iter().filter_map(|span| to.checked_sub(*span));
        let mut begins = begins.map(|begin| begin.max(from)).chain([from]);
        begins.find_map(|begin| {
            let first = self.next_after(begin);
            let times = std::iter::successors(first, |time| self.next_after(*time));
            times.take_while(|time| *time <= to).last()
        })
    }
}

impl fmt::Debug for Timetable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} in {}", self.line, self.zone)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn table(line: &str, zone: &str) -> Timetable {
        Timetable::parse(line, Timetable::zone(zone).unwrap()).unwrap()
    }

    fn at(text: &str) -> SystemTime {
        DateTime::parse_from_rfc3339(text).unwrap().into()
    }

    /// So many times after this one, as the zone's clocks show them.
    fn shown(table: &Timetable, after: &str, count: usize) -> Vec<String> {
        let first = table.next_after(at(after));
        let times = std::iter::successors(first, |time| table.next_after(*time));
        let shown = times.take(count).map(|time| {
            let time = DateTime::<Utc>::from(time).with_timezone(&table.zone);
            time.format("%m-%dT%H:%M%:z").to_string()
        });
        shown.collect()
    }

    #[test]
    fn a_time_that_does_not_exist_is_the_next_that_does() {
        // On the 29th of March 2026 clocks go from 02:00 to 03:00.
        let berlin = table("30 2 * * *", "Europe/Berlin");
        assert_eq!(
            shown(&berlin, "2026-03-27T12:00:00Z", 3),
            [
                "03-28T02:30+01:00",
                "03-29T03:00+02:00",
                "03-30T02:30+02:00"
            ]
        );
    }

    #[test]
    fn a_time_that_is_twice_comes_once() {
        // On the 25th of October 2026 clocks go from 03:00 back to 02:00.
        let berlin = table("30 2 * * *", "Europe/Berlin");
        assert_eq!(
            shown(&berlin, "2026-10-24T12:00:00Z", 2),
            ["10-25T02:30+02:00", "10-26T02:30+01:00"]
        );
        let new_york = table("30 1 1 11 *", "America/New_York");
        assert_eq!(
            shown(&new_york, "2026-10-31T12:00:00Z", 1),
            ["11-01T01:30-04:00"]
        );
    }

    #[test]
    fn the_zone_says_what_the_line_means() {
        let next = |zone: &str| table("0 9 * * MON", zone).next_after(at("2026-11-28T00:00:00Z"));
        assert_eq!(next("UTC"), Some(at("2026-11-30T09:00:00Z")));
        assert_eq!(next("Asia/Shanghai"), Some(at("2026-11-30T01:00:00Z")));
    }

    #[test]
    fn the_last_time_is_found_however_long_ago() {
        let minutes = table("* * * * *", "UTC");
        let last = minutes.last_between(at("2020-01-01T00:00:00Z"), at("2026-05-05T10:00:59Z"));
        assert_eq!(last, Some(at("2026-05-05T10:00:00Z")));
        let leap = table("0 0 29 2 *", "UTC");
        let last = leap.last_between(at("2020-01-01T00:00:00Z"), at("2026-05-05T10:00:59Z"));
        assert_eq!(last, Some(at("2024-02-29T00:00:00Z")));
        let none = minutes.last_between(at("2026-05-05T10:00:00Z"), at("2026-05-05T10:00:59Z"));
        assert_eq!(none, None);
    }

    #[test]
    fn what_can_not_be_is_refused() {
        for (line, part) in [
            ("", "is no cron line"),
            ("* * * *", "is no cron line"),
            ("60 * * * *", "is no cron line"),
            ("* * * * * *", "is no cron line"),
            ("every day", "is no cron line"),
            ("@daily", "is no cron line"),
            ("0 0 31 2 *", "never comes"),
        ] {
            let refused = Timetable::parse(line, Tz::UTC).unwrap_err();
            assert!(refused.contains(part), "{line}: {refused}");
        }
        assert!(Timetable::zone("Mars/Olympus").is_err());
    }
}
