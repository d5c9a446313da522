//! Which messages of a sender were taken in already: each carries a number that grows, and counts once.
//!
//! With it a recorded message can do no harm, and no clock has to be right for that. A packet names the
//! start of the gateway that it is for, so nothing recorded before this start is taken in; and what came
//! since then comes once. Old news cannot come back either way, for instance that of a member long gone.

use std::collections::{HashMap, VecDeque};

use super::identity::Start;

/// Starts of gateways remembered: the oldest is forgotten for the next. A fleet of 1000 that restarts
/// every day fills it in four days, and what is forgotten then is of members whom foca refuses by rank.
const STARTS: usize = 4096;

/// Numbers behind the largest seen that are still told apart: packets overtake each other.
const BITS: u64 = 128;

/// What was taken in, by the start that sent it.
#[derive(Debug, Default)]
pub(super) struct Windows {
    seen: HashMap<Start, (u64, u128)>,
    order: VecDeque<Start>,
}

impl Windows {
    /// Whether the message of that number has not come before; then it now has.
    pub(super) fn admit(&mut self, start: Start, number: u64) -> bool {
        let Some((largest, bits)) = self.seen.get_mut(&start) else {
            if self.order.len() == STARTS
                && let Some(oldest) = self.order.pop_front()
            {
                self.seen.remove(&oldest);
            }
            self.order.push_back(start);
            self.seen.insert(start, (number, 1));
            return true;
        };
        if number > *largest {
            let ahead = number - *largest;
            *bits = if ahead < BITS { *bits << ahead } else { 0 } | 1;
            *largest = number;
            return true;
        }
        let behind = *largest - number;
        if behind >= BITS || *bits & (1 << behind) != 0 {
            return false;
        }
        *bits |= 1 << behind;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Start = (1, (1, 1));

    #[test]
    fn each_number_counts_once_in_whatever_order() {
        let mut windows = Windows::default();
        for number in [5, 3, 9, 4, 137, 136, 10] {
            assert!(windows.admit(ONE, number), "{number}");
            assert!(!windows.admit(ONE, number), "{number} again");
        }
        assert!(!windows.admit(ONE, 9), "too far behind to tell");
        assert!(windows.admit((2, (1, 1)), 9), "another sender");
        assert!(windows.admit(ONE, u64::MAX));
        assert!(!windows.admit(ONE, 137));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut windows = Windows::default();
        for instance in 0..=STARTS as u64 {
            assert!(windows.admit((instance, (1, 1)), 1));
        }
        assert_eq!(windows.seen.len(), STARTS);
        assert!(!windows.admit((STARTS as u64, (1, 1)), 1));
    }
}
