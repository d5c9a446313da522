//! An origin that is down is asked now and then, by one request at a time; all others are told so at once. Where nobody
//! asked for a while it may well be back, and who comes then waits for what the first one hears.
//!
//! It is down once several requests in a row, over two seconds, got no answer: until then each is tried as often as
//! any other, so that an origin that restarts fails nobody. Any answer, whatever it says, ends it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};
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

/// After so long in which it was time to ask and nobody did, what is known of it is old.
const OLD: Duration = PAUSES.1;

/// Who asks whether it is back, and what was seen of it.
#[derive(Debug)]
pub(super) struct Breaker {
    state: Mutex<State>,
    /// Whoever asked whether it is back has heard, or has left.
    told: Notify,
}

#[derive(Debug)]
struct State {
    made: Instant,
    /// Requests in a row without an answer, and when the first of them was asked.
    failures: u32,
    since: Option<Instant>,
    /// When somebody who had asked it was done with that, with an answer or without.
    left: Option<Instant>,
    down: Option<Down>,
}

#[derive(Debug)]
struct Down {
    pause: Duration,
    patience: Duration,
    ask_at: Instant,
    asking: bool,
    /// Until when others wait for what the one who asks hears, since what is known is old.
    awaited: Option<Instant>,
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
        let state = Mutex::new(State {
            made: now,
            failures: 0,
            since: None,
            left: None,
            down: None,
        });
        let told = Notify::new();
        Arc::new(Self { state, told })
    }

    /// The leave to ask, once whoever asks whether it is back has heard, where that is worth waiting for: else one that is
    /// back, and that nobody asked for long, would give the first block of a read, and cut it at the others. At most
    /// [`PATIENCE`]'s first. May be dropped at any time.
    ///
    /// # Errors
    /// [`OriginError::Down`] if the origin is, and it is not time to ask whether it is back.
    pub(super) async fn enter_soon(self: &Arc<Self>) -> Result<Leave, OriginError> {
        loop {
            // It hears of all that is told from here on.
            let told = self.told.notified();
            match self.enter(Instant::now()) {
                Ok(leave) => return Ok(leave),
                Err((_, Some(until))) => {
                    let _ = timeout_at(until, told).await;
                }
                Err((refusal, None)) => return Err(refusal),
            }
        }
    }

    /// The leave to ask now; else the refusal, and until when it is worth waiting, if it is.
    fn enter(self: &Arc<Self>, now: Instant) -> Result<Leave, (OriginError, Option<Instant>)> {
        let mut state = self.lock();
        let (refusal, awaited) = (state.refusal(now), state.awaited(now));
        let probe = match &mut state.down {
            None => None,
            Some(down) if down.asking || now < down.ask_at => return Err((refusal, awaited)),
            Some(down) => {
                down.asking = true;
                let old = now >= down.ask_at + OLD;
                down.awaited = old.then(|| now + PATIENCE.0);
                Some(down.patience)
            }
        };
        Ok(Leave {
            breaker: Arc::clone(self),
            asked_at: now,
            probe,
        })
    }

    /// What [`Self::enter_soon`] would refuse with at once, for whoever is about to queue.
    pub(super) fn refuses(&self, now: Instant) -> Option<OriginError> {
        let state = self.lock();
        let down = state.down.as_ref()?;
        let refused = (down.asking || now < down.ask_at) && state.awaited(now).is_none();
        refused.then(|| state.refusal(now))
    }

    /// Somebody asked so long ago, got no answer, and asks elsewhere. True if the origin is down from now on.
    pub(super) fn given_up(&self, now: Instant, asked_at: Instant) -> bool {
        let mut state = self.lock();
        let before = state.down.is_some();
        state.failed(now, asked_at);
        !before && state.down.is_some()
    }

    /// When the one who asked last was done with it, unless what that one saw is old by now.
    pub(super) fn left_lately(&self, now: Instant) -> Option<Instant> {
        let left = self.lock().left;
        left.filter(|left| now.saturating_duration_since(*left) < OLD)
    }

    /// Whether the origin is down.
    pub(super) fn is_down(&self) -> bool {
        self.lock().down.is_some()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn refusal(&self, now: Instant) -> OriginError {
        let since = self.since.unwrap_or(now);
        OriginError::Down {
            seconds: now.saturating_duration_since(since).as_secs(),
        }
    }

    /// Until when what somebody hears just now is waited for, if it is.
    fn awaited(&self, now: Instant) -> Option<Instant> {
        let down = self.down.as_ref().filter(|down| down.asking)?;
        down.awaited.filter(|until| now < *until)
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
                awaited: None,
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
            awaited: None,
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
        let was_down = state.down.take().is_some();
        drop(state);
        self.breaker.told.notify_waiters();
        was_down
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
        if self.probe.take().is_some() {
            self.breaker.told.notify_waiters();
        }
        fell
    }
}

impl Drop for Leave {
    /// Notes when; and where whoever asked whether it is back left before it heard, the next may ask at once.
    fn drop(&mut self) {
        let mut state = self.breaker.lock();
        state.left = Some(Instant::now());
        if self.probe.is_none() {
            return;
        }
        if let Some(down) = &mut state.down {
            down.asking = false;
        }
        drop(state);
        self.breaker.told.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::Poll;

    use futures::poll;

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
            Err((OriginError::Down { seconds: 2 }, None))
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

    /// Somebody asks an origin that is down, when it has been so for `seconds`, and somebody else wants to ask meanwhile.
    async fn probed_after<'a>(
        breaker: &'a Arc<Breaker>,
        seconds: u64,
    ) -> (
        Leave,
        Pin<Box<dyn Future<Output = Result<Leave, OriginError>> + 'a>>,
    ) {
        tokio::time::advance(Duration::from_secs(seconds)).await;
        let probe = breaker.enter(Instant::now()).expect("it is time to ask");
        (probe, Box::pin(breaker.enter_soon()))
    }

    #[tokio::test(start_paused = true)]
    async fn who_comes_when_it_was_not_asked_for_long_waits_for_what_the_first_hears() {
        let (breaker, _) = down();
        let (probe, mut next) = probed_after(&breaker, 60).await;
        assert!(poll!(&mut next).is_pending());
        assert!(breaker.refuses(Instant::now()).is_none(), "it may queue");
        assert!(probe.answered());
        assert!(next.await.is_ok());

        let (breaker, _) = down();
        let (probe, mut next) = probed_after(&breaker, 60).await;
        assert!(poll!(&mut next).is_pending());
        assert!(!probe.failed(Instant::now()), "it was down before");
        assert!(matches!(next.await, Err(OriginError::Down { .. })));

        // One that leaves is followed by whoever waited.
        let (breaker, _) = down();
        let (probe, mut next) = probed_after(&breaker, 60).await;
        assert!(poll!(&mut next).is_pending());
        drop(probe);
        assert!(next.await.is_ok_and(|leave| leave.probe.is_some()));

        // Nor is it waited for longer than for the first answer of an origin that has just gone.
        let (breaker, _) = down();
        let (_probe, mut next) = probed_after(&breaker, 60).await;
        assert!(poll!(&mut next).is_pending());
        tokio::time::advance(PATIENCE.0).await;
        assert!(matches!(next.await, Err(OriginError::Down { .. })));
        assert!(breaker.refuses(Instant::now()).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn while_it_is_asked_all_the_time_nobody_waits() {
        let (breaker, _) = down();
        let (_probe, mut next) = probed_after(&breaker, 3).await;
        assert!(matches!(
            poll!(&mut next),
            Poll::Ready(Err(OriginError::Down { .. }))
        ));
    }
}
