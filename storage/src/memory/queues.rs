//! Which block goes next.
//!
//! Two queues, as in segmented LRU: blocks come on *probation*, and those that were used since they
//! came are *protected* when their turn to go comes, up to nine tenths of the bytes. So one pass over
//! a model larger than memory moves through what is on probation. What went is remembered for a
//! while by its name: a block that comes back soon is protected at once, so that new models get in
//! however much the old ones were used.
//!
//! A use is one that comes a while after the block did, counted in accesses: loaders ask for a block
//! in many small ranges, and that is no second use. Uses are only noted; blocks are moved when their
//! turn comes, so looking one up changes no list.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::block::{Block, BlockKey};

/// Of the capacity, what protected blocks may take.
const PROTECTED: (u64, u64) = (9, 10);

/// A use counts once a sixteenth as many blocks were looked up as are here: far more than the ranges
/// of one block, far fewer than a pass over a model that is worth keeping.
const APART: u64 = 16;

/// Resident blocks in the order in which they go.
#[derive(Debug)]
pub(super) struct Queues {
    table: HashMap<BlockKey, Entry>,
    /// Names with the turn that they got when they were queued; one that has another turn now, or
    /// is gone, is skipped when met.
    probation: VecDeque<(BlockKey, u64)>,
    protected: VecDeque<(BlockKey, u64)>,
    bytes: u64,
    protected_bytes: u64,
    most_protected: u64,
    gone: Gone,
    /// Counts look-ups, and hands out turns.
    clock: AtomicU64,
}

#[derive(Debug)]
struct Entry {
    block: Block,
    turn: u64,
    is_protected: bool,
    used: AtomicBool,
}

impl Queues {
    /// Empty queues for `capacity` bytes.
    pub(super) fn new(capacity: u64) -> Self {
        Self {
            table: HashMap::new(),
            probation: VecDeque::new(),
            protected: VecDeque::new(),
            bytes: 0,
            protected_bytes: 0,
            most_protected: capacity / PROTECTED.1 * PROTECTED.0,
            gone: Gone::default(),
            clock: AtomicU64::new(0),
        }
    }

    /// Bytes that the blocks are charged for.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn contains(&self, key: &BlockKey) -> bool {
        self.table.contains_key(key)
    }

    /// The block.
    pub(super) fn peek(&self, key: &BlockKey) -> Option<Block> {
        self.table.get(key).map(|entry| entry.block.clone())
    }

    /// Every block, that first which would go last.
    pub(super) fn hottest(&self) -> Vec<BlockKey> {
        let queued = self
            .protected
            .iter()
            .rev()
            .chain(self.probation.iter().rev());
        let queued = queued.filter(|queued| has_turn(&self.table, queued));
        let (mut used, unused): (Vec<_>, Vec<_>) = queued.map(|(key, _)| *key).partition(|key| {
            let entry = self.table.get(key);
            entry.is_some_and(|entry| entry.is_protected || entry.used.load(Ordering::Relaxed))
        });
        used.extend(unused);
        used
    }

    /// The block, and that it was used.
    pub(super) fn get(&self, key: &BlockKey) -> Option<Block> {
        let now = self.tick();
        let entry = self.table.get(key)?;
        let since = now.saturating_sub(entry.turn);
        if since > self.table.len() as u64 / APART && !entry.used.load(Ordering::Relaxed) {
            entry.used.store(true, Ordering::Relaxed);
        }
        Some(entry.block.clone())
    }

    /// Takes a block; the one that had its name, if there was one.
    pub(super) fn insert(&mut self, key: BlockKey, block: Block) -> Option<Block> {
        let before = self.remove(&key);
        let is_protected = self.gone.forget(&key);
        self.bytes += block.weight() as u64;
        let turn = self.queue(key, is_protected);
        let entry = Entry {
            turn,
            is_protected,
            used: AtomicBool::new(false),
            block,
        };
        if is_protected {
            self.protected_bytes += entry.block.weight() as u64;
        }
        self.table.insert(key, entry);
        self.limit_protected();
        before
    }

    pub(super) fn remove(&mut self, key: &BlockKey) -> Option<Block> {
        let entry = self.table.remove(key)?;
        let weight = entry.block.weight() as u64;
        self.bytes -= weight;
        if entry.is_protected {
            self.protected_bytes -= weight;
        }
        self.forget_skipped();
        Some(entry.block)
    }

    /// Lets the block go whose turn it is and which is not `pinned`; if all are, one that is.
    pub(super) fn evict(
        &mut self,
        pinned: impl Fn(&BlockKey) -> bool,
    ) -> Option<(BlockKey, Block)> {
        // Every turn takes a name off a queue, a block that is moved has its use forgotten, and pinned ones are passed
        // over twice at most, on each queue once, so that this ends.
        let mut passes = 2 * self.table.len();
        loop {
            let key = match next(&self.table, &mut self.probation) {
                Some(key) => key,
                None => next(&self.table, &mut self.protected)?,
            };
            if self.take_use(&key) {
                self.move_to(key, true);
                self.limit_protected();
                continue;
            }
            if passes > 0 && pinned(&key) {
                passes -= 1;
                self.move_to(key, true);
                continue;
            }
            let block = self.remove(&key)?;
            // As many are remembered as are here: fewer, and a load of half the memory is
            // forgotten before it comes again.
            self.gone.note(key, self.table.len() / 2);
            return Some((key, block));
        }
    }

    /// Sends protected blocks back to probation while there are too many.
    fn limit_protected(&mut self) {
        while self.protected_bytes > self.most_protected {
            let Some(key) = next(&self.table, &mut self.protected) else {
                return;
            };
            let used = self.take_use(&key);
            self.move_to(key, used);
        }
    }

    /// Whether the block was used since it was queued; that is forgotten.
    fn take_use(&mut self, key: &BlockKey) -> bool {
        let entry = self.table.get_mut(key);
        entry.is_some_and(|entry| std::mem::take(entry.used.get_mut()))
    }

    /// Queues a block that was just taken off its queue.
    fn move_to(&mut self, key: BlockKey, protected: bool) {
        let turn = self.queue(key, protected);
        let Some(entry) = self.table.get_mut(&key) else {
            return;
        };
        let weight = entry.block.weight() as u64;
        entry.turn = turn;
        match (entry.is_protected, protected) {
            (false, true) => self.protected_bytes += weight,
            (true, false) => self.protected_bytes -= weight,
            _ => {}
        }
        entry.is_protected = protected;
    }

    fn queue(&mut self, key: BlockKey, protected: bool) -> u64 {
        let turn = self.tick();
        if protected {
            self.protected.push_back((key, turn));
        } else {
            self.probation.push_back((key, turn));
        }
        turn
    }

    fn tick(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::Relaxed)
    }

    /// Keeps the queues from growing by what is removed and comes again.
    fn forget_skipped(&mut self) {
        let table = &self.table;
        if self.probation.len() + self.protected.len() > 64 + 2 * table.len() {
            self.probation.retain(|queued| has_turn(table, queued));
            self.protected.retain(|queued| has_turn(table, queued));
        }
    }
}

/// Takes the first name off a queue that still has its turn.
fn next(
    table: &HashMap<BlockKey, Entry>,
    queue: &mut VecDeque<(BlockKey, u64)>,
) -> Option<BlockKey> {
    loop {
        let queued = queue.pop_front()?;
        if has_turn(table, &queued) {
            return Some(queued.0);
        }
    }
}

fn has_turn(table: &HashMap<BlockKey, Entry>, (key, turn): &(BlockKey, u64)) -> bool {
    table.get(key).is_some_and(|entry| entry.turn == *turn)
}

/// Names of blocks that went, the latest and those before them: forgetting is by the half.
#[derive(Debug, Default)]
struct Gone {
    lately: HashSet<BlockKey>,
    before: HashSet<BlockKey>,
}

impl Gone {
    /// Remembers a name, and of those before it between `half` and twice as many.
    fn note(&mut self, key: BlockKey, half: usize) {
        if self.lately.len() >= half.max(1) {
            self.before = std::mem::take(&mut self.lately);
        }
        self.lately.insert(key);
    }

    /// Whether the name was remembered; it is no longer.
    fn forget(&mut self, key: &BlockKey) -> bool {
        self.lately.remove(key) | self.before.remove(key)
    }
}
