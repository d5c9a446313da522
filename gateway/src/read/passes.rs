//! Readers that go over an object in ranges, one after the other, recognised by the object and not by the
//! connection: loaders spread one pass over many connections, and several of them read one file.
//!
//! A range that begins where another ended makes a *span* longer; what lies behind a span of two ranges and
//! more is read ahead. Ranges at random make no span, and get nothing. The table is bounded, and what is read
//! from memory comes near its lock only while something was read ahead for that very object.
//!
//! In a fleet, a range of ours makes a span longer that ended before extents of others: who asks each extent of its owner
//! asks us for ours alone, and only those are read ahead then.

mod own;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use forebay_storage::block::BlockSize;
use forebay_storage::store::RUN_BYTES;
use forebay_storage::version::VersionKey;
use prometheus::IntCounter;
use tokio::time::Instant;

pub(super) use self::own::Own;
use super::growth::{Growth, Seen, WANTS_ALL};

/// Objects that are known at once; the one that was read longest ago goes first.
const PASSES: usize = 256;

/// Spans of one object that are known at once.
const SPANS: usize = 16;

/// What nobody came for in so long is not come for any more.
pub(super) const IDLE: Duration = Duration::from_secs(30);

/// So many times what was read of a span is read ahead of it at most, where it left out what is not ours.
const OURS: u64 = 8;

/// Marks by which a read from memory sees without a lock that nothing was read ahead for its object.
const MARKS: usize = 256;

/// What a reader is about to read.
pub(super) struct Asked<'a> {
    /// Of which version.
    pub(super) version: VersionKey,
    /// Its size.
    pub(super) size: u64,
    /// These bytes.
    pub(super) range: Range<u64>,
    /// Not all of what it looked at was in memory.
    pub(super) missed: bool,
    /// What of the object is ours; `None` in a fleet of one.
    pub(super) own: Option<Own<'a>>,
}

/// What is to be done for those who come next.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Plan {
    /// Blocks to read ahead, in order.
    pub(super) blocks: Vec<Range<u32>>,
    /// The object after this one is to be begun.
    pub(super) next: bool,
}

/// The passes that are under way.
#[derive(Debug)]
pub struct Passes {
    table: Mutex<BTreeMap<u128, Pass>>,
    marks: Box<[AtomicU64]>,
    block_size: BlockSize,
    used: IntCounter,
    unused: IntCounter,
}

#[derive(Debug)]
struct Pass {
    spans: Vec<Span>,
    /// Blocks that were read ahead and that nobody asked for so far.
    ahead: BTreeSet<u32>,
    size: u64,
    growth: Growth,
    touched: Instant,
    next_begun: bool,
}

/// Bytes that were asked for without a gap.
#[derive(Clone, Debug)]
struct Span {
    bytes: Range<u64>,
    ranges: u32,
    /// Bytes of it that others own and nobody asked us for.
    others: u64,
    /// Nobody asked us for what others own of it.
    ours_only: bool,
    /// Blocks up to here (not included) were read ahead.
    ahead_to: u32,
    touched: Instant,
}

impl Passes {
    /// None yet; `used` and `unused` count bytes that were read ahead and came to be asked for, or not.
    pub(crate) fn new(block_size: BlockSize, used: IntCounter, unused: IntCounter) -> Self {
        Self {
            table: Mutex::default(),
            marks: (0..MARKS).map(|_| AtomicU64::new(0)).collect(),
            block_size,
            used,
            unused,
        }
    }

    /// Whether anything is known of this version that a read from memory could matter for. Takes no lock.
    pub(super) fn may_know(&self, version: VersionKey) -> bool {
        self.mark(version.0).load(Ordering::Relaxed) == marked(version.0)
    }

    /// A reader is about to read: what is to be done for those who come behind it?
    pub(super) fn asked(&self, asked: &Asked<'_>, seen: &Seen) -> Plan {
        let mut table = self.lock();
        self.sweep_in(&mut table, seen.now);
        let key = asked.version.0;
        let pass = self.pass(&mut table, key, asked.size, seen.now);
        pass.touched = seen.now;
        let used = pass.takes(asked, self.block_size);
        self.used.inc_by(used);
        let Some(span) = pass.extend(asked, self.block_size, seen.now) else {
            return Plan::default();
        };
        match asked.missed {
            // What it began with was asked for by nobody before.
            _ if pass.spans[span].ranges == 1 => {}
            true => pass.growth.waits(seen),
            false if pass.growth.is_grown() => {
                pass.growth.passes(asked.range.end - asked.range.start);
            }
            false => {}
        }
        let plan = pass.plan(span, asked.own.as_ref(), self.block_size);
        // Nothing is ahead of anybody: reads from memory need not come by.
        if pass.ahead.is_empty() {
            self.unmark(key);
        }
        plan
    }

    /// Blocks of a version of `size` bytes were read ahead, for readers that have not come yet; those for which somebody came
    /// while they were asked for are of use already.
    pub(super) fn led(&self, version: VersionKey, size: u64, blocks: &[u32], now: Instant) {
        if blocks.is_empty() {
            return;
        }
        let mut table = self.lock();
        let pass = self.pass(&mut table, version.0, size, now);
        let wanted = |index: &&u32| pass.wants(self.block_size.range(**index, size));
        let (used, ahead): (Vec<u32>, Vec<u32>) = blocks.iter().partition(wanted);
        self.used.inc_by(pass.bytes(&used, self.block_size));
        pass.ahead.extend(ahead);
        self.mark(version.0)
            .store(marked(version.0), Ordering::Relaxed);
    }

    /// Whether the object after this one is to be begun: only once is it.
    pub(super) fn begins_next(&self, version: VersionKey, size: u64, now: Instant) -> bool {
        let mut table = self.lock();
        let pass = self.pass(&mut table, version.0, size, now);
        !std::mem::replace(&mut pass.next_begun, true)
    }

    /// Lets go of what nobody came for.
    pub(super) fn sweep(&self, now: Instant) {
        self.sweep_in(&mut self.lock(), now);
    }

    fn sweep_in(&self, table: &mut BTreeMap<u128, Pass>, now: Instant) {
        table.retain(|key, pass| {
            let kept = now.saturating_duration_since(pass.touched) < IDLE;
            if !kept {
                self.ends(*key, pass);
            }
            kept
        });
    }

    /// The pass over a version of `size` bytes, begun if there is none yet.
    fn pass<'a>(
        &self,
        table: &'a mut BTreeMap<u128, Pass>,
        key: u128,
        size: u64,
        now: Instant,
    ) -> &'a mut Pass {
        if !table.contains_key(&key) {
            self.make_room(table);
        }
        table.entry(key).or_insert_with(|| Pass::new(size, now))
    }

    fn make_room(&self, table: &mut BTreeMap<u128, Pass>) {
        if table.len() < PASSES {
            return;
        }
        let oldest = table.iter().min_by_key(|(_, pass)| pass.touched);
        if let Some(key) = oldest.map(|(key, _)| *key)
            && let Some(pass) = table.remove(&key)
        {
            self.ends(key, &pass);
        }
    }

    fn ends(&self, key: u128, pass: &Pass) {
        self.unused.inc_by(pass.bytes(&pass.ahead, self.block_size));
        self.unmark(key);
    }

    fn unmark(&self, key: u128) {
        let mark = self.mark(key);
        // Another's mark may be there by now.
        let _ = mark.compare_exchange(marked(key), 0, Ordering::Relaxed, Ordering::Relaxed);
    }

    fn mark(&self, key: u128) -> &AtomicU64 {
        &self.marks[(key >> 64) as usize % MARKS]
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u128, Pass>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What stands at a version's mark; never 0.
fn marked(key: u128) -> u64 {
    key as u64 | 1
}

impl Pass {
    fn new(size: u64, now: Instant) -> Self {
        Self {
            spans: Vec::new(),
            ahead: BTreeSet::new(),
            size,
            growth: Growth::new(),
            touched: now,
            next_begun: false,
        }
    }

    fn bytes<'a>(&self, blocks: impl IntoIterator<Item = &'a u32>, block_size: BlockSize) -> u64 {
        let lengths = blocks.into_iter().map(|index| {
            let range = block_size.range(*index, self.size);
            range.end.saturating_sub(range.start)
        });
        lengths.sum()
    }

    /// Whether somebody asked for all of these bytes.
    fn wants(&self, bytes: Range<u64>) -> bool {
        let spans = self.spans.iter();
        spans
            .map(|span| &span.bytes)
            .any(|span| span.start <= bytes.start && span.end >= bytes.end)
    }

    /// Takes out what was read ahead and is asked for now, and says how many bytes that is.
    fn takes(&mut self, asked: &Asked<'_>, block_size: BlockSize) -> u64 {
        if self.ahead.is_empty() || asked.range.is_empty() {
            return 0;
        }
        let blocks = block_size.index(asked.range.start)..=block_size.index(asked.range.end - 1);
        let taken: Vec<u32> = self.ahead.range(blocks).copied().collect();
        for index in &taken {
            self.ahead.remove(index);
        }
        self.bytes(&taken, block_size)
    }

    /// Notes the range, and says which span it made longer, or began with the first that is ours; `None`: none.
    fn extend(&mut self, asked: &Asked<'_>, cut: BlockSize, now: Instant) -> Option<usize> {
        let range = &asked.range;
        let own = asked.own.as_ref();
        let since = own.map_or(range.start, |own| own.since(range.start, cut));
        let ours = own.is_some_and(|own| own.has(range, cut));
        let touching = |span: &Span| since <= span.bytes.end && range.end >= span.bytes.start;
        let Some(place) = self.spans.iter().position(touching) else {
            self.begin(range, ours, now);
            // Who asks us for the first extent of ours, all of it, was told who owns what, and will come for the others.
            let begins = ours && since == 0 && range.end - range.start >= cut.bytes();
            if begins {
                self.growth = Growth::from(WANTS_ALL);
            }
            return begins.then(|| self.spans.len() - 1);
        };
        let span = &mut self.spans[place];
        span.touched = now;
        let inside = range.start >= span.bytes.start && range.end <= span.bytes.end;
        if inside {
            // It was read before, and is gone by now: another pass begins.
            if asked.missed && range.end < span.bytes.end && span.ranges > 1 {
                self.spans.remove(place);
                self.begin(range, ours, now);
            }
            return None;
        }
        // Only right behind: ranges that lie before each other or overlap do so by chance, and make no pass.
        let follows = (since..=range.start).contains(&span.bytes.end);
        if follows {
            span.others += range.start - span.bytes.end;
            span.ours_only &= ours;
        }
        span.bytes = span.bytes.start.min(range.start)..span.bytes.end.max(range.end);
        span.ranges += u32::from(follows);
        let place = self.merge(place);
        follows.then_some(place)
    }

    fn begin(&mut self, range: &Range<u64>, ours_only: bool, now: Instant) {
        if self.spans.len() >= SPANS {
            let places = self.spans.iter().enumerate();
            let oldest = places.min_by_key(|(_, span)| span.touched);
            if let Some((place, _)) = oldest {
                self.spans.remove(place);
            }
        }
        self.spans.push(Span {
            bytes: range.clone(),
            ranges: 1,
            others: 0,
            ours_only,
            ahead_to: 0,
            touched: now,
        });
    }

    /// Makes one of the span at `place` and of all that it touches by now; says where it is.
    fn merge(&mut self, place: usize) -> usize {
        let mut span = self.spans.remove(place);
        self.spans.retain(|other| {
            let apart = other.bytes.start > span.bytes.end || other.bytes.end < span.bytes.start;
            if !apart {
                span.bytes =
                    span.bytes.start.min(other.bytes.start)..span.bytes.end.max(other.bytes.end);
                span.ranges += other.ranges;
                span.others += other.others;
                span.ahead_to = span.ahead_to.max(other.ahead_to);
            }
            apart
        });
        self.spans.push(span);
        self.spans.len() - 1
    }

    /// What to read ahead of a span: no more than was read of it, in whole runs unless the object ends, or in whole extents
    /// of ours.
    fn plan(&mut self, place: usize, own: Option<&Own<'_>>, block_size: BlockSize) -> Plan {
        let span = &mut self.spans[place];
        let read = (span.bytes.end - span.bytes.start).saturating_sub(span.others);
        let next = span.bytes.end >= self.size / 4 * 3 && span.ranges > 1;
        let next = next && !std::mem::replace(&mut self.next_begun, true);
        let blocks = |bytes: u64| u32::try_from(bytes / block_size.bytes()).unwrap_or(u32::MAX);
        let here = block_size.index(span.bytes.end - 1) + 1;
        let from = span.ahead_to.max(here);
        // Who leaves out just what is others' does not read at random; who was asked for ours alone so far may do that.
        let times = match own.filter(|_| span.ours_only) {
            Some(_) if span.ranges == 1 => OURS / 4,
            Some(_) if span.others > 0 => OURS,
            Some(_) => OURS / 2,
            None => 1,
        };
        let wanted = blocks(read.saturating_mul(times).min(self.growth.bytes()));
        let blocks = match own.filter(|_| span.ours_only) {
            Some(own) => own.ahead((here, from), wanted, block_size),
            None => {
                let last = block_size.count(self.size);
                let to = here.saturating_add(wanted);
                let per_run = blocks(RUN_BYTES).max(1);
                let to = match to >= last {
                    true => last,
                    false => from + to.saturating_sub(from) / per_run * per_run,
                };
                Vec::from_iter((to > from).then_some(from..to))
            }
        };
        if let Some(last) = blocks.last() {
            span.ahead_to = last.end;
        }
        Plan { blocks, next }
    }
}

#[cfg(test)]
mod tests;
