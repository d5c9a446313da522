//! How far one stream reads ahead: as far as more requests at once bring more bytes.
//!
//! A reader that waits for bytes asks for more at once, and looks whether more came in all, once what it asked for last
//! has begun to come: if so it asks for more still, if not it goes back to what was as good. One that never waits
//! asks for less. So a client that is slow, an origin that gives no more, and a processor that is busy all end it,
//! and none of them has to be known.
//!
//! In a fleet one that goes on waiting asks for a run's worth for each owner, whatever that brings it: readers that go over
//! the same object in the same order would else all be at the same few, whose links are full while those of the others
//! are idle.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use forebay_storage::flight::Follower;
use forebay_storage::store::RUN_BYTES;
use tokio::time::Instant;

/// What every stream may have ahead of its socket: a run that is being sent, and one behind it.
pub(super) const BASE: u64 = 2 * RUN_BYTES;

/// What a reader that is known to want all of it may have ahead from the start.
pub(super) const WANTS_ALL: u64 = 4 * BASE;

/// More requests must bring so much more, or they are not worth it.
const WORTH: f64 = 1.25;

/// Of what they would bring if nothing held them, requests that bring so much are held by nothing yet. Where they bring
/// less, there is as much under way as can come: more would only make each of them slower, the first of them too, for
/// which the reader waits.
const UNHELD: f64 = 0.8;

/// So many times the requests that would bring what comes, if nothing held them, are enough of them.
const AMPLE: f64 = 1.5;

/// What was tried in vain is tried again after so many round trips: the origin may give more by then, or the
/// processor was busy with something else.
const HOLD: u32 = 8;

/// A reader that took so many windows without waiting has more of it than it needs.
const UNWAITED: u64 = 4;

/// A rate over less time than this is chance.
const SHORTEST: Duration = Duration::from_millis(10);

/// A round trip that nobody has measured yet.
const ROUND_TRIP: Duration = Duration::from_millis(50);

/// No stream waits longer before it tries again.
const LONGEST_HOLD: Duration = Duration::from_secs(2);

/// What the growth of one stream's window depends on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    /// When.
    pub(super) now: Instant,
    /// Bytes that came in all, for whomever.
    pub(super) arrived: u64,
    /// From a request to the first byte of its answer; zero: not known.
    pub(super) round_trip: Duration,
    /// Bytes that are asked for at once.
    pub(super) run: u64,
    /// Bytes a second that one request brings where nothing else holds it; zero: not known.
    pub(super) each: u64,
    /// What the window of a reader that waits comes to at least, as far as the next lets it.
    pub(super) least: u64,
    /// What the window may come to, as others need memory and the origin too.
    pub(super) most: u64,
    /// What was asked for last has begun to come, as far as that is known: it may have had to queue.
    pub(super) begun: bool,
}

impl Seen {
    /// Bytes a second that requests bring, one after the other, where nothing else holds them.
    fn each_brings(&self) -> Option<f64> {
        let run = self.run as f64;
        let took = self.round_trip().as_secs_f64() + run / self.each as f64;
        (self.each > 0).then_some(run / took)
    }

    fn most(&self) -> u64 {
        self.most.max(BASE)
    }

    fn least(&self) -> u64 {
        self.least.clamp(BASE, self.most())
    }

    fn round_trip(&self) -> Duration {
        match self.round_trip {
            Duration::ZERO => ROUND_TRIP,
            measured => measured.max(SHORTEST),
        }
    }
}

/// The size of one stream's window, and what it was learnt from.
#[derive(Debug)]
pub(super) struct Growth {
    bytes: u64,
    /// The window that it began with.
    first: u64,
    /// The window before this one, and the bytes a second that came with it.
    before: Option<(Tried, f64)>,
    sample: Option<Sample>,
    held_until: Option<Instant>,
    /// Bytes that were taken since the reader waited last.
    unwaited: u64,
}

/// A window that was tried.
#[derive(Clone, Copy, Debug)]
struct Tried {
    bytes: u64,
    /// In how many requests.
    requests: f64,
}

/// A rate that is being measured.
#[derive(Debug)]
struct Sample {
    /// What was asked for last has begun to come by then.
    from: Instant,
    begun: Option<(Instant, u64)>,
}

impl Growth {
    pub(super) fn new() -> Self {
        Self::from(BASE)
    }

    /// Begins with a window of so many bytes, one that every stream may have at least.
    pub(super) fn from(first: u64) -> Self {
        Self {
            bytes: first,
            first,
            before: None,
            sample: None,
            held_until: None,
            unwaited: 0,
        }
    }

    /// The window, in bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether it is more than every stream has.
    pub(super) fn is_grown(&self) -> bool {
        self.bytes > BASE
    }

    /// The reader has to wait: all that came is taken.
    pub(super) fn waits(&mut self, seen: &Seen) {
        self.unwaited = 0;
        self.bytes = self.bytes.min(seen.most());
        if self.held_until.is_some_and(|until| seen.now < until) {
            return;
        }
        self.held_until = None;
        let round_trip = seen.round_trip();
        let Some(sample) = &mut self.sample else {
            // The first window was asked for before anybody waited.
            let begun = self.before.is_none().then_some((seen.now, seen.arrived));
            let from = seen.now + round_trip;
            self.sample = Some(Sample { from, begun });
            return;
        };
        if sample.begun.is_none() && (seen.now < sample.from || !seen.begun) {
            return;
        }
        let (begun, had) = *sample.begun.get_or_insert((seen.now, seen.arrived));
        let took = seen.now.saturating_duration_since(begun);
        if took < round_trip {
            return;
        }
        let came = seen.arrived.saturating_sub(had);
        self.sample = None;
        // What comes from nearer needs no window.
        if came > 0 {
            self.judge(came as f64 / took.as_secs_f64(), seen);
        }
    }

    fn judge(&mut self, rate: f64, seen: &Seen) {
        let now = Tried {
            bytes: self.bytes,
            requests: self.bytes as f64 / seen.run.max(1) as f64,
        };
        if let Some(each) = seen.each_brings()
            && self.is_grown()
            && rate < UNHELD * now.requests * each
        {
            // Each of them is slower than one would be alone: as much is under way as can come.
            let enough = rate / each * AMPLE * seen.run as f64;
            self.shrink(enough as u64, seen);
            return self.hold(seen);
        }
        let Some((before, was)) = self.before.replace((now, rate)) else {
            // At first by enough to be seen; what was tried before is tried with care.
            let times = if self.bytes <= self.first { 4.0 } else { 1.5 };
            return self.grow(times, seen);
        };
        let gain = rate / was;
        let asked = now.requests / before.requests;
        if gain >= 1.0 + UNHELD * (asked - 1.0) {
            self.grow(4.0, seen);
        } else {
            if gain < WORTH {
                // As much as came would have come with so much.
                let enough = (before.bytes as f64 * gain.max(1.0)) as u64;
                self.shrink(enough, seen);
            }
            self.hold(seen);
        }
    }

    fn grow(&mut self, times: f64, seen: &Seen) {
        let most = seen.most();
        if self.bytes >= most {
            return self.hold(seen);
        }
        let grown = (self.bytes as f64 * times) as u64;
        self.bytes = grown.max(seen.least()).min(most);
    }

    /// So much is enough; what reaches over all owners stays.
    fn shrink(&mut self, enough: u64, seen: &Seen) {
        self.bytes = self.bytes.min(enough.max(seen.least()));
    }

    fn hold(&mut self, seen: &Seen) {
        self.before = None;
        let hold = (HOLD * seen.round_trip()).min(LONGEST_HOLD);
        self.held_until = Some(seen.now + hold);
    }

    /// The reader took `bytes` more without having waited for them.
    pub(super) fn passes(&mut self, bytes: u64) {
        self.unwaited += bytes;
        if self.unwaited >= UNWAITED * self.bytes {
            let bytes = self.bytes - self.bytes / 4;
            *self = Self::new();
            self.bytes = bytes.max(BASE);
        }
    }
}

/// What a stream that had to wait knows; one that reads from memory has none.
#[derive(Debug)]
pub(super) struct Cold {
    growth: Growth,
    /// While it leads more than every stream may.
    sharer: Option<Sharer>,
    /// The last block of each run that it leads and that was under way when it was looked at last, and the run's bytes.
    under_way: Vec<(Follower, u64)>,
    /// The first block of the run that was begun last.
    newest: Option<Follower>,
    /// What the window might have come to when the reader waited last.
    most: u64,
}

/// A run that a stream leads from now on.
#[derive(Debug)]
pub(super) struct Led {
    /// Its first block.
    pub(super) first: Follower,
    /// Its last one.
    pub(super) last: Follower,
    /// All of it.
    pub(super) bytes: u64,
}

impl Cold {
    pub(super) fn new() -> Self {
        Self {
            growth: Growth::new(),
            sharer: None,
            under_way: Vec::new(),
            newest: None,
            most: BASE,
        }
    }

    /// Whether it is among those who share what there is for reading ahead.
    pub(super) fn shares(&self) -> bool {
        self.sharer.is_some()
    }

    /// Whether it may have more under way than every stream.
    pub(super) fn is_grown(&self) -> bool {
        self.growth.is_grown()
    }

    /// The reader has to wait.
    pub(super) fn waits(&mut self, seen: &Seen) {
        self.forget_ended();
        self.most = seen.most();
        let begun = self.newest.is_none();
        self.growth.waits(&Seen { begun, ..*seen });
        // One that its share keeps from growing takes its part still: else all would grow by turns.
        if !self.is_grown() && self.most > BASE {
            self.sharer = None;
        }
    }

    /// The reader took `bytes` more.
    pub(super) fn passes(&mut self, bytes: u64) {
        if self.is_grown() {
            self.growth.passes(bytes);
        }
    }

    /// Runs that it leads from now on.
    pub(super) fn leads(&mut self, runs: impl Iterator<Item = Led>, ahead: &Ahead) {
        self.forget_ended();
        let before = self.under_way.len();
        for run in runs {
            self.under_way.push((run.last, run.bytes));
            self.newest = Some(run.first);
        }
        if self.under_way.len() == before {
            // Others lead what it reads: it takes no part of what there is to share.
            self.sharer = None;
        } else if self.is_grown() {
            self.sharer.get_or_insert_with(|| ahead.join());
        }
    }

    /// Who follows a fill holds its bytes too, and nobody needs those of one that has ended.
    fn forget_ended(&mut self) {
        self.under_way.retain(|(last, _)| last.ended().is_none());
        let begun = |run: &mut Follower| run.segment(0).is_some() || run.ended().is_some();
        self.newest.take_if(begun);
    }

    /// How many bytes more may be opened, `held` being ahead of the reader. What came already is in nobody's
    /// way: a reader waits for the first of its runs while those behind it come in, and others must follow them. So as
    /// much as may be under way at most may be here beside it.
    pub(super) fn room(&mut self, held: u64) -> u64 {
        self.forget_ended();
        if !self.is_grown() {
            return BASE.saturating_sub(held);
        }
        let under_way: u64 = self.under_way.iter().map(|(_, bytes)| bytes).sum();
        let bytes = self.growth.bytes();
        let least = bytes.saturating_sub(under_way);
        least.min((bytes + self.most).saturating_sub(held))
    }
}

/// Who reads ahead by more than the base: they share what there is for that.
#[derive(Debug, Default)]
pub struct Ahead(Arc<AtomicUsize>);

impl Ahead {
    /// One more; it counts until it is dropped.
    pub(super) fn join(&self) -> Sharer {
        self.0.fetch_add(1, Ordering::Relaxed);
        Sharer(Arc::clone(&self.0))
    }

    /// How many there are.
    pub(super) fn sharers(&self) -> u64 {
        self.0.load(Ordering::Relaxed) as u64
    }
}

/// One of those who share.
#[derive(Debug)]
pub(super) struct Sharer(Arc<AtomicUsize>);

impl Drop for Sharer {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
