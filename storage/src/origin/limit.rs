//! How many requests at once an origin takes: its settings' number at most, fewer while it asks for less.
//!
//! It asks for less by 503 or 429, or by answers that begin much later than they used to. Each step down is
//! followed by a round trip in which nothing is learnt: what is answered then was asked before the step. What was
//! given up comes back with every answer up to a little below what was refused, for a refusal may be chance, and then
//! by one request each time that all of them were answered.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use xxhash_rust::xxh3::xxh3_64;

/// Of the requests under way, so many percent are left by a step down, and up to [`SPREAD`] more: gateways that
/// were refused together do not come back together.
const LEFT: u64 = 50;
const SPREAD: u64 = 25;

/// Of what was refused, so much is gone back to fast.
const BELOW: f64 = 0.9;

/// Answers begin late if they take so many times what they usually do, and by so much more.
const LATE: u32 = 8;
const LATE_BY: Duration = Duration::from_millis(300);

/// What answers late still gets one part in so many of its connections: late is not refused.
const LATE_PART: usize = 4;

/// What answers usually take follows those that take longer by one part in so many.
const SLOWLY: u32 = 512;

/// The least and the most that a round trip is taken for.
const ROUND_TRIP: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(2));

/// The requests at once that are allowed, and what that was learnt from.
#[derive(Debug)]
pub(super) struct Limit(Mutex<State>);

#[derive(Debug)]
struct State {
    /// What the settings allow.
    share: usize,
    allowed: f64,
    made: Instant,
    /// Below this it comes back fast.
    fast_to: f64,
    /// Nothing is learnt before.
    blind_until: Option<Instant>,
    /// From a request to the head of its answer, as it usually is.
    usual: Option<Duration>,
}

impl Limit {
    pub(super) fn new(share: usize, now: Instant) -> Self {
        Self(Mutex::new(State {
            share,
            allowed: share as f64,
            made: now,
            fast_to: 0.0,
            blind_until: None,
            usual: None,
        }))
    }

    /// What the settings allow is another number by now. Returns what is allowed.
    pub(super) fn set_share(&self, share: usize) -> usize {
        self.with(|state| {
            // What was whole stays whole.
            let whole = state.allowed >= state.share as f64;
            let share_now = share as f64;
            state.allowed = if whole {
                share_now
            } else {
                state.allowed.min(share_now)
            };
            state.share = share;
        })
    }

    /// The origin asked for fewer requests while `in_use` were under way, each of which takes `round_trip` to be
    /// answered. Returns what is allowed.
    pub(super) fn refused(&self, now: Instant, in_use: usize, round_trip: Duration) -> usize {
        self.with(|state| state.step_down(now, in_use, round_trip, 1))
    }

    /// An answer began after `took`; of late they take `average`. Returns what is allowed.
    pub(super) fn answered(
        &self,
        now: Instant,
        in_use: usize,
        (took, average): (Duration, Duration),
    ) -> usize {
        self.with(|state| {
            let usual = state.usual.unwrap_or(took);
            let later = took.saturating_sub(usual);
            state.usual = Some(usual.min(took) + later / SLOWLY);
            if average >= usual * LATE && average >= usual + LATE_BY {
                let least = state.share / LATE_PART;
                return state.step_down(now, in_use, average, least);
            }
            state.step_up(now);
        })
    }

    /// An answer came that brings no bytes, so that its time says nothing. Returns what is allowed.
    pub(super) fn took_it(&self, now: Instant) -> usize {
        self.with(|state| state.step_up(now))
    }

    fn with(&self, then: impl FnOnce(&mut State)) -> usize {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        then(&mut state);
        // At least one, at most the share.
        (state.allowed as usize).max(1)
    }
}

impl State {
    fn step_up(&mut self, now: Instant) {
        if self.blind_until.is_some_and(|until| now < until) {
            return;
        }
        let step = match self.allowed < self.fast_to {
            true => 1.0,
            false => 1.0 / self.allowed,
        };
        self.allowed = (self.allowed + step).min(self.share as f64);
    }

    fn step_down(&mut self, now: Instant, in_use: usize, round_trip: Duration, least: usize) {
        if self.blind_until.is_some_and(|until| now < until) {
            return;
        }
        let chance = self.chance(now);
        let left = (LEFT + chance % (SPREAD + 1)) as f64 / 100.0;
        // What was not in use was not what was too much.
        let had = self.allowed.min(in_use as f64);
        let least = least.clamp(1, self.share.max(1)) as f64;
        self.allowed = (had * left).max(least).min(self.allowed);
        self.fast_to = had * BELOW;
        let round_trip = round_trip.clamp(ROUND_TRIP.0, ROUND_TRIP.1);
        let part = u32::try_from(chance / 1000 % 256).unwrap_or(0);
        self.blind_until = Some(now + round_trip + round_trip / 512 * part);
    }

    /// Something that differs between gateways, and from one time to the next.
    fn chance(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.made).as_nanos();
        xxh3_64(&since.to_le_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRIP: Duration = Duration::from_millis(30);

    #[tokio::test]
    async fn it_steps_down_once_a_round_trip() {
        let now = Instant::now();
        let limit = Limit::new(64, now);
        let one = limit.refused(now, 64, TRIP);
        assert!((32..=48).contains(&one), "{one}");
        // All that were asked together are refused together.
        for _ in 0..30 {
            assert_eq!(limit.refused(now + TRIP / 2, 64, TRIP), one);
        }
        let two = limit.refused(now + 2 * TRIP, one, TRIP);
        assert!((one / 2..one).contains(&two), "{two}");
        let mut now = now;
        for _ in 0..50 {
            now += 2 * TRIP;
            limit.refused(now, 64, TRIP);
        }
        assert_eq!(limit.refused(now, 1, TRIP), 1);
    }

    #[tokio::test]
    async fn what_was_not_in_use_is_given_up_first() {
        let now = Instant::now();
        let limit = Limit::new(64, now);
        assert!(limit.refused(now, 8, TRIP) <= 6);
    }

    #[tokio::test]
    async fn it_comes_back_fast_to_a_little_below_and_then_by_one_a_round() {
        let mut now = Instant::now();
        let limit = Limit::new(16, now);
        let mut allowed = limit.refused(now, 16, TRIP);
        let answered = |now, count: usize| {
            let answers = (0..count).map(|_| limit.answered(now, count, (TRIP, TRIP)));
            answers.last().expect("some were under way")
        };
        assert_eq!(
            answered(now, 100),
            allowed,
            "what was asked before the step"
        );
        now += 2 * TRIP;
        allowed = answered(now, allowed);
        assert!((14..16).contains(&allowed), "{allowed}");
        for _ in 0..2 {
            now += TRIP;
            let next = answered(now, allowed);
            assert!(next <= allowed + 1, "{allowed} {next}");
            allowed = next;
        }
        assert_eq!(answered(now, 100), 16);
    }

    #[tokio::test]
    async fn answers_that_begin_much_later_than_usual_are_asked_for_less() {
        let mut now = Instant::now();
        let limit = Limit::new(64, now);
        for _ in 0..100 {
            assert_eq!(limit.answered(now, 64, (TRIP, TRIP)), 64);
        }
        // A busy processor of ours is no reason.
        let busy = 4 * TRIP;
        assert_eq!(limit.answered(now, 64, (busy, busy)), 64);
        let late = Duration::from_secs(1);
        for _ in 0..20 {
            now += 2 * late;
            limit.answered(now, 64, (late, late));
        }
        assert_eq!(limit.answered(now, 64, (late, late)), 16);
    }

    #[tokio::test]
    async fn another_share_holds_at_once() {
        let now = Instant::now();
        let limit = Limit::new(64, now);
        assert_eq!(limit.set_share(32), 32);
        assert_eq!(limit.set_share(64), 64);
        let less = limit.refused(now, 64, TRIP);
        assert_eq!(limit.set_share(8), 8);
        assert!(less > 8);
        assert_eq!(limit.set_share(64), 64, "all of its share was allowed");
    }
}
