//! The blocks in flight for one request.
//!
//! A fixed window of 16 MiB runs ahead of the socket, so that a run can be 8 MiB while the one
//! before it is being sent.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use forebay_storage::SEGMENT;
use forebay_storage::class::Class;
use forebay_storage::error::OriginError;
use forebay_storage::flight::From;
use forebay_storage::object::ObjectId;
use forebay_storage::store::{Asker, Handle, Level, Outcome, RUN_BYTES};
use forebay_storage::version::Version;

use super::Reads;
use super::fetch;
use crate::dataset::Dataset;
use crate::metrics::Source;

/// Bytes that are opened ahead of the socket at most.
const WINDOW_BYTES: u64 = 2 * RUN_BYTES;

/// Who waits for a block looks this often whether others wait for memory.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// How often a block is looked up again whose fill was given up by others.
const REOPENED: u32 = 3;

/// Something that leaves in a body.
#[derive(Clone, Debug)]
pub enum Piece {
    /// Text of ours: the head of a part.
    Text(Bytes),
    /// Bytes of the object.
    Range(Range<u64>),
}

/// What a reader has next.
#[derive(Debug)]
pub enum Step {
    /// Bytes, and where they were; `None`: text of ours.
    Bytes(Bytes, Option<Source>),
    /// Nothing yet: await [`Reader::waiting`], then step again.
    Wait,
    /// Nothing more.
    End,
    /// The rest can't be had.
    Fail(OriginError),
}

/// What a reader found when it opened its first blocks.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct FirstLook {
    /// Blocks that were in memory.
    pub hits: u32,
    /// Blocks that were on NVMe.
    pub nvme: u32,
    /// Blocks that joined another's fill.
    pub joined: u32,
    /// Blocks that this reader led.
    pub led: u32,
    /// The first block came from another gateway, which had it.
    pub from_peer: bool,
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
    window: VecDeque<(u32, Handle)>,
    /// Blocks up to here (not included) were asked for; reading ahead goes on from it.
    opened_to: u32,
    /// The block at which reading ahead was last tried: where it is refused, once a block is enough.
    tried_at: Option<u32>,
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
            reopened: 0,
            first_look: None,
            first_outcome: None,
        }
    }

    /// The same for another gateway, which asks at `level`.
    pub fn at(self, level: Level) -> Self {
        let class = Class::Peer;
        Self {
            level,
            class,
            ..self
        }
    }

    /// Opens the first window, if that was not done yet, and says what was found.
    pub fn look(&mut self) -> FirstLook {
        let first_range = self.pieces.iter().find_map(|piece| match piece {
            Piece::Range(range) if !range.is_empty() => Some(range.clone()),
            _ => None,
        });
        if let (None, Some(range)) = (self.first_look, first_range) {
            let index = self.reads.store.block_size().index(range.start);
            self.open(index, &range, true);
        }
        self.first_look.unwrap_or_default()
    }

    /// Whether the first block of all is in memory, after [`Self::look`]: then there is nothing to
    /// wait for.
    pub fn is_primed(&self) -> bool {
        matches!(self.window.front(), Some((_, Handle::Resident(_))))
    }

    /// Waits until the first bytes of the object that the pieces hold are here: headers leave with
    /// bytes in hand, so that what fails before them is still answered with a status.
    ///
    /// # Errors
    /// Why the first bytes can't be had.
    pub async fn prime(&mut self) -> Result<(), OriginError> {
        self.look();
        let first_range = self.pieces.iter().find_map(|piece| match piece {
            Piece::Range(range) if !range.is_empty() => Some(range.clone()),
            _ => None,
        });
        let Some(range) = first_range else {
            return Ok(());
        };
        let index = self.reads.store.block_size().index(range.start);
        let place = self.place(range.start);
        for _ in 0..REOPENED {
            self.advance_to(index, &range);
            match self.window.front_mut() {
                Some((_, Handle::Following(_))) => {}
                _ => return Ok(()),
            }
            loop {
                self.waiting_for(place).await;
                let Some((_, Handle::Following(follower))) = self.window.front() else {
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
        let Some((_, handle)) = self.window.front() else {
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
        let Some((_, Handle::Following(follower))) = self.window.front() else {
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
        let place = match self.pieces.front() {
            Some(Piece::Range(range)) => self.place(range.start),
            _ => 0,
        };
        self.waiting_for(place)
    }

    fn waiting_for(&mut self, place: usize) -> impl Future<Output = ()> + Send + use<> {
        if self.reads.store.budget().waiting() > 0 && self.window.len() > 1 {
            self.window.truncate(1);
            self.opened_to = self.window.front().map_or(0, |(index, _)| index + 1);
        }
        let follower = match self.window.front() {
            Some((_, Handle::Following(follower))) => {
                // It may have been read ahead so far.
                follower.urge(self.class);
                Some(follower.clone())
            }
            _ => None,
        };
        let waiting = follower.is_some().then(|| self.reads.demand.wait());
        async move {
            let _waiting = waiting;
            if let Some(mut follower) = follower {
                // How it ended is read from the window's own follower by `step`.
                let _ = tokio::time::timeout(LOOK_AGAIN, follower.wait(place)).await;
            }
        }
    }

    /// Lets all blocks go; they are looked up again when the socket moves.
    pub fn release(&mut self) {
        self.window.clear();
        self.opened_to = 0;
    }

    /// Makes block `index` the first of the window, and keeps the window filled.
    fn advance_to(&mut self, index: u32, range: &Range<u64>) {
        while self.window.front().is_some_and(|(open, _)| *open < index) {
            self.window.pop_front();
        }
        if self.window.front().is_none_or(|(open, _)| *open != index) {
            self.window.clear();
            self.open(index, range, true);
        } else {
            let per_run = u32::try_from(RUN_BYTES / self.reads.store.block_size().bytes());
            let per_run = per_run.unwrap_or(1);
            // Only when a whole run has room: runs of one block each would be a GET each.
            if self.opened_to <= index + per_run && self.tried_at != Some(index) {
                self.tried_at = Some(index);
                self.open(self.opened_to, range, false);
            }
        }
    }

    fn open(&mut self, from: u32, range: &Range<u64>, demanded: bool) {
        let block_size = self.reads.store.block_size();
        let last = block_size.index(range.end - 1);
        let bytes = if demanded { WINDOW_BYTES } else { RUN_BYTES };
        let count = u32::try_from(bytes / block_size.bytes()).unwrap_or(1);
        let last = last.min(from.saturating_add(count - 1));
        if from > last {
            return;
        }
        let demanded = demanded.then_some(from);
        let (object, size, level) = (&self.object, self.version.size, self.level);
        let spot = self.reads.spots(object, size, level);
        let asker = Asker {
            level,
            class: self.class,
            spot: &spot,
        };
        let store = &self.reads.store;
        let opened = store.open_as(&asker, object, &self.version, from..=last, demanded);
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
            self.window.push_back((index, handle));
            self.opened_to = index + 1;
        }
        self.first_look.get_or_insert(look);
    }
}

fn source(from: From) -> Source {
    match from {
        From::Origin => Source::Origin,
        From::Nvme => Source::Nvme,
        From::Peer | From::PeerHit => Source::Peer,
    }
}
