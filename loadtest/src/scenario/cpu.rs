//! How idle the machine was: a figure from links that the CPU held back says nothing about links.

use std::fs;

/// The machine's CPU time so far, in clock ticks over all cores (`/proc/stat`, proc_stat(5)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ticks {
    idle: u64,
    all: u64,
}

impl Ticks {
    /// Now; zeros where `/proc` is not to be had.
    pub(crate) fn now() -> Self {
        Self::parse(&fs::read_to_string("/proc/stat").unwrap_or_default())
    }

    fn parse(text: &str) -> Self {
        let line = text.lines().next().unwrap_or_default();
        let ticks: Vec<u64> = line
            .split_whitespace()
            .skip(1)
            // Guests' time is part of the user's.
            .take(8)
            .filter_map(|number| number.parse().ok())
            .collect();
        let idle = ticks.iter().skip(3).take(2).sum();
        Self {
            idle,
            all: ticks.iter().sum(),
        }
    }

    /// The percentage of CPU time since `before` that nobody used, waiting for disks included.
    pub(crate) fn idle_since(self, before: Self) -> f64 {
        let all = self.all.saturating_sub(before.all).max(1);
        100.0 * self.idle.saturating_sub(before.idle) as f64 / all as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_is_idle_and_waiting_over_all_but_guests() {
        let before = Ticks::parse("cpu  100 0 100 700 100 0 0 0 50 0\ncpu0 1 2 3\n");
        let after = Ticks::parse("cpu  150 0 120 730 100 0 0 0 99 0\n");
        assert_eq!(before.all, 1000);
        assert!((after.idle_since(before) - 30.0).abs() < 1e-9);
    }
}
