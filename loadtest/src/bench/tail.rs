//! The slowest of the reads that come at a rate.

use std::time::Duration;

use crate::report::median;

/// What a machine does for itself holds a core up for milliseconds, now and then, whoever is served by it; and at 70 % of what
/// a server can do, three times as long passes until what queued meanwhile is served. Most stretches of so long
/// are free of that.
const STRETCH: Duration = Duration::from_millis(100);

/// How long reads took, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Times {
    pub(super) median: f64,
    /// The 99th percentile of the reads that came within a stretch, in the middle one of all stretches.
    pub(super) tail: f64,
    /// The 99th percentile of all reads.
    pub(super) tail_of_all: f64,
}

impl Times {
    /// Of reads by when they came, counted from any moment, and what they took; `None` if there are none.
    pub(super) fn of(reads: &[(Duration, Duration)]) -> Option<Self> {
        let all = sorted(reads.iter());
        let mut by_arrival = reads.to_vec();
        by_arrival.sort_unstable();
        let stretch = |read: &(Duration, Duration)| read.0.as_nanos() / STRETCH.as_nanos();
        let stretches = by_arrival.chunk_by(|one, other| stretch(one) == stretch(other));
        let tails = stretches.map(|reads| at(&sorted(reads.iter()), 0.99));
        let tails: Vec<f64> = tails.collect();
        (!all.is_empty()).then(|| Self {
            median: at(&all, 0.5),
            tail: median(tails),
            tail_of_all: at(&all, 0.99),
        })
    }
}

fn sorted<'a>(reads: impl Iterator<Item = &'a (Duration, Duration)>) -> Vec<Duration> {
    let mut times: Vec<Duration> = reads.map(|read| read.1).collect();
    times.sort_unstable();
    times
}

/// The time that `part` of all are within, in milliseconds.
fn at(sorted: &[Duration], part: f64) -> f64 {
    let place = ((sorted.len().max(1) - 1) as f64 * part) as usize;
    sorted
        .get(place)
        .map_or(f64::NAN, |time| time.as_secs_f64() * 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// A read each millisecond of a second, which took so long.
    fn second(took: impl Fn(u32) -> Duration) -> Vec<(Duration, Duration)> {
        (0..1000).map(|at| (MS * at, took(at))).collect()
    }

    #[test]
    fn one_stretch_in_which_all_was_held_up_is_not_the_tail_but_of_the_tail_of_all() {
        let held_up = second(|at| {
            if (300..350).contains(&at) {
                20 * MS
            } else {
                MS
            }
        });
        let times = Times::of(&held_up).expect("reads");
        assert_eq!(
            times,
            Times {
                median: 1.0,
                tail: 1.0,
                tail_of_all: 20.0
            }
        );
    }

    #[test]
    fn what_is_slow_in_every_stretch_is_the_tail() {
        let slow = second(|at| if at % 50 == 0 { 9 * MS } else { MS });
        let times = Times::of(&slow).expect("reads");
        assert!((times.tail - 9.0).abs() < 1e-9, "{times:?}");
        assert_eq!(Times::of(&[]), None);
    }
}
