//! The blocks in flight for one request.
//!
//! A window runs ahead of the socket: at first 16 MiB, so that a run can be 8 MiB while the one before it is
//! being sent; how it grows is [`super::growth`]'s business.

mod step;

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use forebay_storage::SEGMENT;
use forebay_storage::class::Class;
use forebay_storage::error::OriginError;
use forebay_storage::flight::From;
use forebay_storage::object::ObjectId;
use forebay_storage::store::{Asker, Handle, Level, Outcome, RUN_BYTES};
use forebay_storage::version::Version;

pub use self::step::{FirstLook, Piece, Step};

use super::growth::{BASE, Cold, Led};
use super::{Reads, ahead, fetch};
use crate::dataset::Dataset;
use crate::metrics::Source;

/// Who waits for a block looks this often whether others wait for memory.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// How often a block is looked up again whose fill was given up by others.
const REOPENED: u32 = 3;

/// A block of a window.
#[derive(Debug)]
struct Open {
    index: u32,
    handle: Handle,
    /// This reader leads its fill, and has not waited for it.
    ahead: bool,
}

/// Reads pieces of one version in order, a window of blocks ahead.
#[derive(Debug)]
pub struct Reader {
    reads: Arc<Reads>,
    dataset: Arc<Dataset>,
    object: ObjectId,
    version: Arc<Version>,
    level: Level,
    class: Class,
    pieces: VecDeque<Piece>,
    /// Open blocks from the one being read, consecutive.
    window: VecDeque<Open>,
    /// Blocks up to here (not included) were asked for; reading ahead goes on from it.
    opened_to: u32,
    /// The block at which reading ahead was last tried: where it is refused, once a block is enough.
    tried_at: Option<u32>,
    /// Once it had to wait.
    cold: Option<Box<Cold>>,
    /// From this block on it is time for the next object; `u32::MAX`: there is none.
    next_at: u32,
    reopened: u32,
    first_look: Option<FirstLook>,
    /// How the first block of all was come by.
    first_outcome: Option<Outcome>,
}

impl Reader {
    /// A reader of these pieces.
    pub fn new(
        reads: Arc<Reads>,
        dataset: Arc<Dataset>,
        object: ObjectId,
        version: Arc<Version>,
        pieces: impl IntoIterator<Item = Piece>,
    ) -> Self {
        Self {
            reads,
            dataset,
            object,
            version,
            level: 0,
            class: Class::Demand,
            pieces: pieces.into_iter().collect(),
            window: VecDeque::new(),
            opened_to: 0,
            tried_at: None,
            cold: None,
            next_at: u32::MAX,
            reopened: 0,
            first_look: None,
            first_outcome: None,
        }
    }

    /// The same for another gateway, which asks at `level`.
    pub fn at(mut self, level: Level) -> Self {
        self.level = level;
        self.class = Class::Peer;
        self
    }

    /// The same for work that nobody waits for: it is the last to be served, and nothing is read ahead for it.
    pub fn for_nobody(mut self) -> Self {
        self.class = Class::Warm;
        self
    }

    fn first_range(&self) -> Option<Range<u64>> {
        self.pieces.iter().find_map(|piece| match piece {
            Piece::Range(range) if !range.is_empty() => Some(range.clone()),
            _ => None,
        })
    }

    /// Opens the first window, if that was not done yet, and says what was found.
    pub fn look(&mut self) -> FirstLook {
        if let (None, Some(range)) = (self.first_look, self.first_range()) {
            let index = self.reads.store.block_size().index(range.start);
            self.open_anew(index, &range);
            if self.level == 0 && self.class == Class::Demand {
                self.tell(&range);
            }
        }
        self.first_look.unwrap_or_default()
    }

    /// Says what is about to be read to those who read ahead for others.
    fn tell(&mut self, range: &Range<u64>) {
        let look = self.first_look.unwrap_or_default();
        let missed = look.led + look.joined + look.nvme > 0;
        if !missed && !self.reads.passes.may_know(self.version.key) {
            return;
        }
        let what = (&self.object, &self.version);
        self.reads.asked(&self.dataset, what, range, missed);
        let most = self.version.size / 4 * 3;
        if range.start < most && most < range.end && ahead::next(&self.object).is_some() {
            self.next_at = self.reads.store.block_size().index(most);
        }
    }

    /// Whether the first block of all is in memory, after [`Self::look`]: then there is nothing to
    /// wait for.
    pub fn is_primed(&self) -> bool {
        matches!(self.front(), Some(Handle::Resident(_)))
    }

    /// Waits until the first bytes of the object that the pieces hold are here: headers leave with
    /// bytes in hand, so that what fails before them is still answered with a status.
    ///
    /// # Errors
    /// Why the first bytes can't be had.
    pub async fn prime(&mut self) -> Result<(), OriginError> {
        self.look();
        let Some(range) = self.first_range() else {
            return Ok(());
        };
        let index = self.reads.store.block_size().index(range.start);
        let place = self.place(range.start);
        for _ in 0..REOPENED {
            self.advance_to(index, &range);
            match self.front() {
                Some(Handle::Following(_)) => {}
                _ => return Ok(()),
            }
            loop {
                self.waiting_for(place).await;
                let Some(Handle::Following(follower)) = self.front() else {
                    return Ok(());
                };
                let here = follower.segment(place).is_some();
                let ended = follower.ended();
                let from = follower.from();
                if here || ended.is_some() {
                    self.came_from(from);
                }
                match ended {
                    _ if here => return Ok(()),
                    None => {}
                    Some(Err(OriginError::Abandoned)) => break self.release(),
                    Some(result) => return result,
                }
            }
        }
        Err(OriginError::Abandoned)
    }

    /// Notes where the first block comes from, as far as its being opened could not tell: what was
    /// thought to be on the disk and is not comes from elsewhere.
    fn came_from(&mut self, from: From) {
        let Some(look) = &mut self.first_look else {
            return;
        };
        look.from_peer = from == From::PeerHit;
        if self.first_outcome == Some(Outcome::Nvme) && from != From::Nvme {
            look.nvme = look.nvme.saturating_sub(1);
            look.led += 1;
            self.first_outcome = Some(Outcome::Led);
        }
    }

    /// Which segment of its block holds the byte at `offset`.
    fn place(&self, offset: u64) -> usize {
        let within = offset % self.reads.store.block_size().bytes();
        // A block is at most 4 MiB.
        usize::try_from(within).unwrap_or(usize::MAX) / SEGMENT
    }

    /// The next bytes, as far as they are here: a segment of the object, or `most` bytes of one.
    pub fn step(&mut self, most: usize) -> Step {
        loop {
            let range = match self.pieces.front_mut() {
                None => return Step::End,
                Some(Piece::Text(text)) => {
                    let text = std::mem::take(text);
                    self.pieces.pop_front();
                    return Step::Bytes(text, None);
                }
                Some(Piece::Range(range)) if range.is_empty() => {
                    self.pieces.pop_front();
                    continue;
                }
                Some(Piece::Range(range)) => range.clone(),
            };
            return self.step_in(&range, most);
        }
    }

    fn step_in(&mut self, range: &Range<u64>, most: usize) -> Step {
        let block_size = self.reads.store.block_size();
        let index = block_size.index(range.start);
        self.advance_to(index, range);
        let Some(handle) = self.front() else {
            return Step::Fail(OriginError::Abandoned);
        };
        let place = self.place(range.start);
        let (segment, source) = match handle {
            Handle::Resident(block) => (block.segment(place), Source::Memory),
            Handle::Following(follower) => match follower.segment(place) {
                Some(segment) => (Some(segment), source(follower.from())),
                None => return self.wait_or_fail(index),
            },
        };
        let Some(segment) = segment else {
            return Step::Fail(OriginError::Abandoned);
        };
        // Segments divide blocks, so an offset within one is an offset within a segment's worth.
        let skip = usize::try_from(range.start % SEGMENT as u64).unwrap_or(0);
        let left = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
        let left = left.min(most);
        let bytes = segment.slice(skip..segment.len().min(skip.saturating_add(left)));
        if let Some(Piece::Range(range)) = self.pieces.front_mut() {
            range.start += bytes.len() as u64;
        }
        self.reopened = 0;
        Step::Bytes(bytes, Some(source))
    }

    fn wait_or_fail(&mut self, index: u32) -> Step {
        let Some(Handle::Following(follower)) = self.front() else {
            return Step::Wait;
        };
        match follower.ended() {
            None => Step::Wait,
            // Given up by its leader while we were about to join: somebody must lead anew.
            Some(Ok(()) | Err(OriginError::Abandoned)) if self.reopened < REOPENED => {
                self.reopened += 1;
                self.window.clear();
                self.opened_to = index;
                Step::Wait
            }
            Some(Err(error)) => Step::Fail(error),
            Some(Ok(())) => Step::Fail(OriginError::Abandoned),
        }
    }

    /// A future that ends once [`Self::step`] may have something else to say than [`Step::Wait`],
    /// or now and then. It borrows nothing.
    ///
    /// Whoever waits while others wait for memory lets go of what it holds beyond the block it waits
    /// for: else readers that each hold the end of their windows could wait for each other for ever.
    pub fn waiting(&mut self) -> impl Future<Output = ()> + Send + use<> {
        let place = self
            .first_range()
            .map_or(0, |range| self.place(range.start));
        self.waiting_for(place)
    }

    fn waiting_for(&mut self, place: usize) -> impl Future<Output = ()> + Send + use<> {
        self.waits();
        if self.reads.store.budget().waiting() > 0 {
            self.release_ahead();
        }
        let follower = match self.front() {
            Some(Handle::Following(follower)) => {
                // It may have been read ahead so far.
                follower.urge(self.class);
                Some(follower.clone())
            }
            _ => None,
        };
        let waits = follower.is_some() && self.class != Class::Warm;
        let waiting = waits.then(|| self.reads.demand.wait());
        async move {
            let _waiting = waiting;
            if let Some(mut follower) = follower {
                // How it ended is read from the window's own follower by `step`.
                let _ = tokio::time::timeout(LOOK_AGAIN, follower.wait(place)).await;
            }
        }
    }

    /// Notes that all that came is taken, for the window to grow by.
    fn waits(&mut self) {
        let cold = self.cold.get_or_insert_with(|| Box::new(Cold::new()));
        let mut seen = self.reads.seen(&self.dataset, !cold.shares());
        if self.level == 0 && self.class == Class::Demand {
            seen.least = self.reads.spread_ahead();
        }
        cold.waits(&seen);
    }

    /// Whether [`Self::step`] would still say [`Step::Wait`] of the block that is being read.
    pub fn must_wait(&self) -> bool {
        let (Some(Piece::Range(range)), Some(Handle::Following(follower))) =
            (self.pieces.front(), self.front())
        else {
            return false;
        };
        follower.segment(self.place(range.start)).is_none() && follower.ended().is_none()
    }

    /// Lets all blocks go but the one that is being read.
    pub fn release_ahead(&mut self) {
        self.cold = None;
        self.window.truncate(1);
        self.opened_to = self.window.front().map_or(0, |open| open.index + 1);
    }

    /// Lets all blocks go; they are looked up again when the socket moves.
    pub fn release(&mut self) {
        self.cold = None;
        self.window.clear();
        self.opened_to = 0;
    }

    /// Makes block `index` the first of the window, and keeps the window filled.
    fn advance_to(&mut self, index: u32, range: &Range<u64>) {
        while let Some(open) = self.window.pop_front_if(|open| open.index < index) {
            if open.ahead {
                let [used, _] = &self.reads.metrics.read_ahead;
                used.inc_by(self.reads.store.block_size().bytes());
            }
            if let Some(cold) = &mut self.cold {
                cold.passes(self.reads.store.block_size().bytes());
            }
        }
        if index >= self.next_at {
            self.next_at = u32::MAX;
            let (dataset, object) = (&self.dataset, &self.object);
            self.reads.nears_end(dataset, object, &self.version);
        }
        if self.window.front().is_none_or(|open| open.index != index) {
            self.window.clear();
            self.open_anew(index, range);
        } else {
            let held = self.opened_to.saturating_sub(index);
            let held = u64::from(held) * self.reads.store.block_size().bytes();
            let (room, grown) = match &mut self.cold {
                Some(cold) => (cold.room(held), cold.is_grown()),
                None => (BASE.saturating_sub(held), false),
            };
            // Only when a whole run has room: runs of one block each would be a GET each.
            let run = match grown {
                true => self.reads.run_bytes(&self.dataset),
                false => RUN_BYTES,
            };
            let room = room / run * run;
            if room > 0 && (grown || self.tried_at != Some(index)) {
                self.tried_at = Some(index);
                self.open(self.opened_to, self.blocks(room), range, None);
            }
        }
    }

    /// How many blocks so many bytes are, one at least.
    fn blocks(&self, bytes: u64) -> u32 {
        let blocks = bytes / self.reads.store.block_size().bytes();
        u32::try_from(blocks).unwrap_or(u32::MAX).max(1)
    }

    /// The block that is being read.
    fn front(&self) -> Option<&Handle> {
        self.window.front().map(|open| &open.handle)
    }

    fn open_anew(&mut self, index: u32, range: &Range<u64>) {
        self.open(index, self.blocks(BASE), range, Some(index));
    }

    fn open(&mut self, from: u32, count: u32, range: &Range<u64>, demanded: Option<u32>) {
        let last = self.reads.store.block_size().index(range.end - 1);
        let last = last.min(from.saturating_add(count - 1));
        if from > last {
            return;
        }
        let (object, size, level) = (&self.object, self.version.size, self.level);
        let spot = self.reads.spots(object, size, level);
        let asker = Asker {
            level,
            class: self.class,
            spot: &spot,
            run: self
                .reads
                .run_bytes_of_stream(&self.dataset, range.end - range.start),
        };
        let store = &self.reads.store;
        let opened = store.open_as(&asker, object, &self.version, from..=last, demanded);
        if let Some(cold) = &mut self.cold {
            let block = store.block_size().bytes();
            let follower = |index: u32| match opened.blocks.get((index - from) as usize)? {
                (_, Handle::Following(follower), _) => Some(follower.clone()),
                _ => None,
            };
            let led = opened.runs.iter().filter_map(|run| {
                let (first, last) = (run.index()?, run.last_index()?);
                Some(Led {
                    first: follower(first)?,
                    last: follower(last)?,
                    bytes: u64::from(last - first + 1) * block,
                })
            });
            cold.leads(led, &self.reads.ahead);
        }
        for run in opened.runs {
            fetch::spawn(
                Arc::clone(&self.reads),
                Arc::clone(&self.dataset),
                run,
                None,
            );
        }
        let mut look = FirstLook::default();
        self.opened_to = from;
        for (index, handle, outcome) in opened.blocks {
            match outcome {
                Outcome::Hit => look.hits += 1,
                Outcome::Nvme => look.nvme += 1,
                Outcome::Joined => look.joined += 1,
                Outcome::Led => look.led += 1,
            }
            self.reads.metrics.block_read(outcome);
            self.first_outcome.get_or_insert(outcome);
            let ahead = outcome == Outcome::Led && Some(index) != demanded;
            self.window.push_back(Open {
                index,
                handle,
                ahead,
            });
            self.opened_to = index + 1;
        }
        self.first_look.get_or_insert(look);
    }
}

impl Drop for Reader {
    /// Counts what came for it and nobody read through it.
    fn drop(&mut self) {
        let came = |open: &&Open| match &open.handle {
            Handle::Following(follower) => open.ahead && follower.segment(0).is_some(),
            Handle::Resident(_) => false,
        };
        let blocks = self.window.iter().skip(1).filter(came).count() as u64;
        if blocks > 0 {
            let [_, unused] = &self.reads.metrics.read_ahead;
            unused.inc_by(blocks * self.reads.store.block_size().bytes());
        }
    }
}

fn source(from: From) -> Source {
    match from {
        From::Origin => Source::Origin,
        From::Nvme => Source::Nvme,
        From::Peer | From::PeerHit => Source::Peer,
    }
}
