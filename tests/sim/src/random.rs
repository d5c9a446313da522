//! The numbers that decide everything: one stream for each who draws, all from one seed.

use std::ops::RangeInclusive;
use std::time::Duration;

use forebay_loadtest::pattern;

/// A stream of numbers (SplitMix64).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The stream of `who` under `seed`. Each who draws has their own, so that a change in what one
    /// draws does not change everybody's luck.
    pub fn new(seed: u64, who: &str) -> Self {
        Self(pattern::seed(who, seed))
    }

    /// Another stream, that begins where this one stands.
    pub fn fork(&mut self) -> Self {
        Self(self.draw())
    }

    fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    /// A number below `end`.
    ///
    /// # Panics
    /// If there is none.
    pub fn below(&mut self, end: u64) -> u64 {
        assert!(end > 0, "there is no number below 0");
        // The bias is below 2^-32 for all that is drawn here.
        ((u128::from(self.draw()) * u128::from(end)) >> 64) as u64
    }

    /// A number from a range, both ends included.
    pub fn from(&mut self, range: RangeInclusive<u64>) -> u64 {
        range.start() + self.below(range.end() - range.start() + 1)
    }

    /// True in `percent` of 100 cases.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// One of several.
    ///
    /// # Panics
    /// If there are none.
    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len() as u64) as usize]
    }

    /// A time of so many milliseconds.
    pub fn millis(&mut self, range: RangeInclusive<u64>) -> Duration {
        Duration::from_millis(self.from(range))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_differ_by_seed_and_by_who_draws() {
        let first = |seed, who| Random::new(seed, who).below(1 << 60);
        assert_eq!(first(1, "origin"), first(1, "origin"));
        assert_ne!(first(1, "origin"), first(2, "origin"));
        assert_ne!(first(1, "origin"), first(1, "reader 0"));
    }

    #[test]
    fn both_ends_of_a_range_are_drawn() {
        let mut random = Random::new(1, "test");
        let mut seen = [false; 3];
        for _ in 0..100 {
            seen[random.from(0..=2) as usize] = true;
        }
        assert_eq!(seen, [true; 3]);
    }
}
