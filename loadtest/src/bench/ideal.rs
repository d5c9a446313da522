//! What waiting in a queue alone makes of reads that arrive by chance.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Enough for a 99th percentile that is good to two figures.
const READS: usize = 400_000;

/// The 99th percentile ÷ the median of the time from arrival to end, for a server with one core whose reads
/// all take the same time, one after the other, and arrive at `load` of the rate that it can do: the
/// queue M/D/1. A server that takes the first that came first, and adds no time outside its queue, is to be
/// expected to show this much.
pub(super) fn tail(load: f64) -> f64 {
    let mut random = StdRng::seed_from_u64(1);
    let mut left = 0.0_f64;
    let mut times: Vec<f64> = (0..READS)
        .map(|_| {
            let gap = -(1.0 - random.random::<f64>()).ln() / load;
            left = (left - gap).max(0.0) + 1.0;
            left
        })
        .collect();
    times.sort_unstable_by(f64::total_cmp);
    times[READS / 100 * 99] / times[READS / 2]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_that_is_seldom_there_changes_little_and_a_long_one_much() {
        assert!((1.0..1.1).contains(&tail(0.001)));
        assert!((4.0..4.6).contains(&tail(0.7)), "{}", tail(0.7));
    }
}
