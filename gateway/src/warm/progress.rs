//! How far a job is, and at what pace it gets on.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::bring::Came;

/// The rate is that of so much time up to now.
const RATE_OVER: Duration = Duration::from_secs(10);

/// Between two samples of it.
const SAMPLE_EVERY: Duration = Duration::from_millis(250);

/// What comes is heard of in swells: many blocks are under way side by side and end together, and of what has come of
/// one that is not whole is told now and then. For so long after the last news the next is taken to be on its way at the
/// rate of those before; only then is the rate less.
const SWELL: Duration = Duration::from_secs(2);

/// Bytes, and when they came.
#[derive(Debug, Default)]
pub(super) struct Progress {
    pub(super) objects: u64,
    pub(super) bytes: u64,
    /// Bytes that were seen to be resident; those of them that were before the job; those that came from the origin.
    pub(super) resident: u64,
    pub(super) found: u64,
    pub(super) origin: u64,
    /// Those that have come of blocks which are not resident yet.
    pub(super) arriving: u64,
    /// Of the resident bytes, those that went again: what comes next makes good for them before it is progress.
    pub(super) gone: u64,
    /// Objects that are what they are said to be, and those of which nobody says anything; where that was asked.
    pub(super) verified: Option<[u64; 2]>,
    pub(super) begun: Option<Instant>,
    pub(super) took: Option<Duration>,
    pub(super) finished: Option<SystemTime>,
    /// Bytes that had come, and when.
    pub(super) samples: VecDeque<(Instant, u64)>,
    /// The same, when the last of them came.
    pub(super) last: Option<(Instant, u64)>,
}

/// How fast bytes come.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// Bytes a second.
    pub(super) rate: f64,
    /// Of the time since the last bytes came, what counts as time in which the next were on their way.
    pub(super) under_way: Duration,
}

impl Progress {
    fn brought(&self) -> u64 {
        self.resident - self.found
    }

    /// Bytes that are to come yet.
    pub(super) fn left(&self) -> u64 {
        self.bytes.saturating_sub(self.resident + self.arriving)
    }

    /// Bytes of blocks that are not resident yet are `now` where they were `before`.
    pub(super) fn arriving(&mut self, before: u64, now: u64) {
        self.arriving = (self.arriving + now).saturating_sub(before);
        if now > before {
            self.note();
        }
    }

    /// The pace of what had to be brought; `None` before there is any.
    pub(super) fn pace(&self) -> Option<Pace> {
        if let Some(took) = self.took {
            let rate = per_second(self.brought(), took)?;
            let under_way = Duration::ZERO;
            return Some(Pace { rate, under_way });
        }
        let (since, before) = *self.samples.front()?;
        let (at, brought) = self.last?;
        let idle = at.elapsed();
        let time = at.duration_since(since) + idle.saturating_sub(SWELL);
        Some(Pace {
            rate: per_second(brought.saturating_sub(before), time)?,
            under_way: idle.min(SWELL),
        })
    }

    /// Begins the pace anew: what went before says nothing of it.
    pub(super) fn bring(&mut self) {
        self.samples.clear();
        self.last = None;
        self.sample();
    }

    /// What a look found: bytes that are to be, and of those the missing.
    pub(super) fn looked(&mut self, bytes: u64, missing: u64) {
        self.bytes = bytes;
        self.resident = self.resident.min(bytes);
        self.found = self.found.min(self.resident);
        let there = bytes.saturating_sub(missing);
        self.gone = self.resident.saturating_sub(there);
        let found = there.saturating_sub(self.resident);
        self.resident += found;
        self.found += found;
    }

    /// Bytes that are resident by now.
    pub(super) fn came(&mut self, bytes: u64, came: Came) {
        if came == Came::Origin {
            self.origin += bytes;
        }
        let again = bytes.min(self.gone);
        self.gone -= again;
        let counted = (bytes - again).min(self.bytes.saturating_sub(self.resident));
        self.resident += counted;
        if came == Came::Found {
            self.found += counted;
        } else if counted > 0 {
            self.note();
        }
    }

    fn note(&mut self) {
        self.last = Some((Instant::now(), self.brought() + self.arriving));
        self.sample();
    }

    fn sample(&mut self) {
        let (now, brought) = (Instant::now(), self.brought() + self.arriving);
        let last = self.samples.back();
        if last.is_some_and(|(at, _)| now.duration_since(*at) < SAMPLE_EVERY) {
            return;
        }
        self.samples.push_back((now, brought));
        // One that is older stays, so that there is always a time to divide by.
        while let Some((second, _)) = self.samples.get(1)
            && now.duration_since(*second) > RATE_OVER
        {
            self.samples.pop_front();
        }
    }
}

fn per_second(bytes: u64, time: Duration) -> Option<f64> {
    let seconds = time.as_secs_f64();
    (bytes > 0 && seconds > 0.0).then(|| bytes as f64 / seconds)
}
