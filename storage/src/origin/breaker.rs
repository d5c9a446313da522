//! An origin that is down is asked now and then, by one request at a time; all others are told so at once.
//!
//! It is down once several requests in a row, over two seconds, got no answer: until then each is tried as often as
//! any other, so that an origin that restarts fails nobody. Any answer, whatever it says, ends it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use xxhash_rust::xxh3::xxh3_64;

use crate::error::OriginError;

/// So many requests in a row got no answer …
const FAILURES: u32 = 5;

/// … since so long ago.
const FAILING_FOR: Duration = Duration::from_secs(2);

/// How long the answer to the question whether it is back may take to begin, at first and at most: an origin that has
/// become slow is not down for good.
const PATIENCE: (Duration, Duration) = (Duration::from_secs(3), super::connect::FIRST_BYTE_TIMEOUT);

/// Between two questions whether it is back, at first and at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(2));

/// Who asks whether it is back, and what was seen of it.
#[derive(Debug)]
pub(super) struct Breaker(Mutex<State>);

#[derive(Debug)]
struct State {
    made: Instant,
    /// Requests in a row without an answer, and when the first of them was asked.
    failures: u32,
    since: Option<Instant>,
    down: Option<Down>,
}

#[derive(Debug)]
struct Down {
    pause: Duration,
    patience: Duration,
    ask_at: Instant,
    asking: bool,
}

/// The leave to ask. Dropped without a word it says nothing about the origin.
#[derive(Debug)]
pub(super) struct Leave {
    breaker: Arc<Breaker>,
    asked_at: Instant,
    /// It asks whether the origin is back, and waits so long.
    probe: Option<Duration>,
}

impl Breaker {
    pub(super) fn new(now: Instant) -> Arc<Self> {
        Arc::new(Self(Mutex::new(State {
            made: now,
            failures: 0,
            since: None,
            down: None,
        })))
    }

    /// The leave to ask now.
    ///
    /// # Errors
    /// [`OriginError::Down`] if the origin is, and it is not time to ask whether it is back.
    pub(super) fn enter(self: &Arc<Self>, now: Instant) -> Result<Leave, OriginError> {
        let mut state = self.lock();
        let refusal = state.refusal(now);
        let probe = match &mut state.down {
            None => None,
            Some(down) if down.asking || now < down.ask_at => return Err(refusal),
            Some(down) => {
                down.asking = true;
                Some(down.patience)
            }
        };
        Ok(Leave {
            breaker: Arc::clone(self),
            asked_at: now,
            probe,
        })
    }

    /// What [`Self::enter`] would refuse with, for whoever is about to queue.
    pub(super) fn refuses(&self, now: Instant) -> Option<OriginError> {
        let state = self.lock();
        let down = state.down.as_ref()?;
        (down.asking || now < down.ask_at).then(|| state.refusal(now))
    }

    /// Whether the origin is down.
    pub(super) fn is_down(&self) -> bool {
        self.lock().down.is_some()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn refusal(&self, now: Instant) -> OriginError {
        let since = self.since.unwrap_or(now);
        OriginError::Down {
            seconds: now.saturating_duration_since(since).as_secs(),
        }
    }

    fn failed(&mut self, now: Instant, asked_at: Instant) {
        self.failures = self.failures.saturating_add(1);
        let since = self.since.map_or(asked_at, |since| since.min(asked_at));
        self.since = Some(since);
        let long = now.saturating_duration_since(since) >= FAILING_FOR;
        if self.down.is_none() && self.failures >= FAILURES && long {
            self.down = Some(Down {
                pause: PAUSES.0,
                patience: PATIENCE.0,
                ask_at: now + self.jittered(PAUSES.0, now),
                asking: false,
            });
        }
    }

    /// Whoever asked whether it is back has heard nothing.
    fn still_down(&mut self, now: Instant) {
        let Some((pause, patience)) = self.down.as_ref().map(|down| (down.pause, down.patience))
        else {
            return;
        };
        let ask_at = now + self.jittered(pause, now);
        self.down = Some(Down {
            pause: (2 * pause).min(PAUSES.1),
            patience: (2 * patience).min(PATIENCE.1),
            ask_at,
            asking: false,
        });
    }

    /// From three quarters of `pause` to all of it: gateways do not ask together.
    fn jittered(&self, pause: Duration, now: Instant) -> Duration {
        let since = now.saturating_duration_since(self.made).as_nanos();
        let part = u32::try_from(xxh3_64(&since.to_le_bytes()) % 256).unwrap_or(0);
        pause - pause / 1024 * part
    }
}

impl Leave {
    /// How long this one may wait for its answer to begin.
    pub(super) fn patience(&self) -> Duration {
        self.probe.unwrap_or(PATIENCE.1)
    }

    /// An answer came. True if the origin was down until then.
    pub(super) fn answered(self) -> bool {
        let mut state = self.breaker.lock();
        state.failures = 0;
        state.since = None;
        state.down.take().is_some()
    }

    /// None came. True if the origin is down from now on.
    pub(super) fn failed(mut self, now: Instant) -> bool {
        let mut state = self.breaker.lock();
        let before = state.down.is_some();
        state.failed(now, self.asked_at);
        if self.probe.is_some() {
            state.still_down(now);
        }
        let fell = !before && state.down.is_some();
        drop(state);
        self.probe = None;
        fell
    }
}

impl Drop for Leave {
    /// Whoever asked whether it is back left before it heard: the next may ask at once.
    fn drop(&mut self) {
        if self.probe.is_some()
            && let Some(down) = &mut self.breaker.lock().down
        {
            down.asking = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(now: Instant, milliseconds: u64) -> Instant {
        now + Duration::from_millis(milliseconds)
    }

    /// A breaker of an origin that got five requests in two seconds and answered none, and when that was.
    fn down() -> (Arc<Breaker>, Instant) {
        let begun = Instant::now();
        let breaker = Breaker::new(begun);
        let mut fell = Vec::new();
        for tenth in [0, 5, 10, 15, 20] {
            let now = after(begun, tenth * 100);
            let leave = breaker.enter(now).expect("it is not known to be down");
            fell.push(leave.failed(now));
        }
        assert_eq!(fell, [false, false, false, false, true]);
        (breaker, after(begun, 2000))
    }

    #[tokio::test]
    async fn a_moment_without_answers_is_no_outage() {
        let now = Instant::now();
        let breaker = Breaker::new(now);
        for _ in 0..100 {
            let leave = breaker.enter(now).expect("nothing is known of it");
            assert!(!leave.failed(after(now, 1900)));
        }
        let leave = breaker.enter(after(now, 1900)).expect("it may be back");
        assert!(!leave.answered());
        let leave = breaker.enter(after(now, 2500)).expect("it answered");
        assert!(!leave.failed(after(now, 2600)));
        assert!(!breaker.is_down());
    }

    #[tokio::test]
    async fn while_it_is_down_one_at_a_time_asks_and_less_and_less_often() {
        let (breaker, mut now) = down();
        assert_eq!(
            breaker.enter(now).map(|_| ()),
            Err(OriginError::Down { seconds: 2 })
        );
        let (mut pauses, mut patience) = (Vec::new(), Vec::new());
        for _ in 0..6 {
            let before = now;
            let probe = loop {
                now = after(now, 1);
                match breaker.enter(now) {
                    Ok(probe) => break probe,
                    Err(_) => assert!(breaker.refuses(now).is_some()),
                }
            };
            patience.push(probe.patience().as_secs());
            assert!(breaker.enter(after(now, 5000)).is_err(), "one at a time");
            assert!(!probe.failed(now), "it was down before");
            pauses.push((now - before).as_millis());
        }
        assert!((180..=251).contains(&pauses[0]), "{pauses:?}");
        assert!((1500..=2001).contains(&pauses[5]), "{pauses:?}");
        assert_eq!(patience, [3, 6, 12, 15, 15, 15]);
    }

    #[tokio::test]
    async fn any_answer_ends_it() {
        let (breaker, now) = down();
        let probe = breaker.enter(after(now, 300)).expect("it is time to ask");
        assert!(probe.answered());
        assert!(!breaker.is_down());
        assert!(breaker.enter(after(now, 300)).is_ok());
    }

    #[tokio::test]
    async fn a_probe_that_leaves_is_followed_by_another() {
        let (breaker, now) = down();
        let probe = breaker.enter(after(now, 300)).expect("it is time to ask");
        drop(probe);
        assert!(breaker.enter(after(now, 301)).is_ok());
    }
}
