//! The writing end of fills: a run of missing blocks that one GET after another brings.
//!
//! Who fetches is not decided here. The gateway takes a [`Run`], asks for a range whenever there
//! is memory for it ([`Run::next`]), and writes what arrives; the run cuts it into segments and
//! blocks, shows them to followers, and files whole blocks in the store.

mod shared;

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use crate::SEGMENT;
use crate::budget::{For, Lease};
use crate::class::{Class, Urgency};
use crate::error::OriginError;
use crate::flight::{Flight, From};
use crate::frames::Buffer;
use crate::object::ObjectId;
use crate::store::{Level, Store};
use crate::version::Version;

pub use self::shared::Shared;

/// Consecutive missing blocks of one version, led by whoever holds this.
///
/// Dropping it ends the fills that are not done, with an error that readers may try again on.
#[derive(Debug)]
pub struct Run {
    store: Arc<Store>,
    object: ObjectId,
    version: Arc<Version>,
    /// Blocks not done yet, in order; the first may be partly written.
    flights: VecDeque<Arc<Flight>>,
    /// Memory for the first of `flights`: those that the current GET brings.
    leases: VecDeque<Lease>,
    /// The GET under way brings all of `flights`, with memory or without.
    brings_all: bool,
    /// Segments of the first block that are set, and the bytes of the one that is not.
    segments: usize,
    partial: Option<Buffer>,
}

/// What came of reading from the NVMe tier.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FromNvme {
    /// The block is here.
    Read,
    /// Nobody waits for it any more.
    Unwanted,
    /// It is not there (any more): fetch it.
    Missing,
}

/// What the writer should do after a write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flow {
    /// Go on: somebody waits for what is to come.
    More,
    /// Stop: the range is done, or nobody waits for the rest of it.
    Done,
}

impl Run {
    pub(crate) fn new(
        store: Arc<Store>,
        object: ObjectId,
        version: Arc<Version>,
        flights: VecDeque<Arc<Flight>>,
    ) -> Self {
        Self {
            store,
            object,
            version,
            flights,
            leases: VecDeque::new(),
            brings_all: false,
            segments: 0,
            partial: None,
        }
    }

    /// The object whose blocks are filled.
    pub fn object(&self) -> &ObjectId {
        &self.object
    }

    /// The version that every byte written must be of.
    pub fn version(&self) -> &Arc<Version> {
        &self.version
    }

    /// The level of whoever leads this run.
    pub fn level(&self) -> Level {
        self.flights.front().map_or(0, |flight| flight.level())
    }

    /// The level of the one who is asked for its blocks: nobody below it may be asked, since others
    /// may have joined that must not wait for those.
    pub fn source(&self) -> Level {
        let sources = self.flights.iter().map(|flight| flight.source());
        sources.max().unwrap_or(0)
    }

    /// Says who is asked from now on: their level, and what they are.
    pub fn set_source(&self, source: Level, from: From) {
        for flight in &self.flights {
            flight.raise_source(source);
            flight.set_from(from);
        }
    }

    /// Says whether the one who is asked from now on was named by an owner, and gets the blocks from there: then nobody who
    /// was sent here by an owner may wait for them, for two could wait for each other.
    pub fn set_handed(&self, handed: bool) {
        for flight in &self.flights {
            flight.set_handed(handed);
        }
    }

    /// How urgent it is, now and at any time to come: for the request to the origin that brings it.
    pub fn urgency(&self) -> Urgency {
        Urgency::of(self.flights.iter().cloned())
    }

    /// The first block that is not done.
    pub fn index(&self) -> Option<u32> {
        self.flights.front().map(|flight| flight.key().index)
    }

    /// The last block that is not done.
    pub fn last_index(&self) -> Option<u32> {
        self.flights.back().map(|flight| flight.key().index)
    }

    /// Takes the blocks from `index` on out of this run, into one of their own. There must be no memory for any of
    /// them yet; `None`: this run has none of them.
    pub fn split_off(&mut self, index: u32) -> Option<Self> {
        debug_assert!(self.leases.is_empty());
        let place = self.flights.iter();
        let place = place
            .take_while(|flight| flight.key().index < index)
            .count();
        self.split_at(place)
    }

    /// The same from the first block on that a client waits for already, though another comes before it. The memory for
    /// them goes back.
    pub fn split_off_awaited(&mut self) -> Option<Self> {
        let behind = self.flights.iter().skip(1);
        let awaited = |flight: &Arc<Flight>| flight.class() == Class::Demand;
        let place = 1 + behind.into_iter().position(awaited)?;
        self.leases.truncate(place);
        self.split_at(place)
    }

    fn split_at(&mut self, place: usize) -> Option<Self> {
        // Nothing of the first block may be lost: it may be partly written.
        if place == 0 || place >= self.flights.len() {
            return None;
        }
        let flights = self.flights.split_off(place);
        let (store, version) = (Arc::clone(&self.store), Arc::clone(&self.version));
        Some(Self::new(store, self.object.clone(), version, flights))
    }

    /// The bytes that are still missing, with memory or without: for a source that is asked before
    /// there is memory. `None`: all is done, or nobody waits any more.
    pub fn missing(&mut self) -> Option<Range<u64>> {
        debug_assert!(self.leases.is_empty() && self.partial.is_none());
        self.drop_unfollowed();
        self.store.drop_unfollowed_tail(&mut self.flights);
        let last = self.flights.back()?;
        let end = self.store.block_size().start(last.key().index) + u64::from(last.len());
        Some(self.reached()..end)
    }

    /// Whether there is memory for the next byte.
    pub fn has_memory(&self) -> bool {
        !self.leases.is_empty()
    }

    /// Whether somebody waits for one of its blocks: a client here, or whoever is at another gateway.
    pub fn is_awaited(&self) -> bool {
        let class = |flight: &Arc<Flight>| flight.class();
        self.flights
            .iter()
            .map(class)
            .any(|class| class <= Class::Peer)
    }

    /// Whether all blocks are done, or given up.
    pub fn is_over(&self) -> bool {
        self.flights.is_empty()
    }

    /// Gives the memory back that nothing was written into, and the bytes that are not a segment yet:
    /// who waits for another gateway holds none, for that one may wait for us.
    pub fn let_go(&mut self) {
        self.partial = None;
        self.leases.clear();
    }

    fn drop_unfollowed(&mut self) {
        let before = self.flights.len();
        self.store.drop_unfollowed(&mut self.flights);
        if self.flights.len() < before {
            self.segments = 0;
        }
    }

    fn whose(&self) -> For {
        match self.level() {
            0 => For::Clients,
            _ => For::Peers,
        }
    }

    /// Bytes to reserve for what is missing of the first block.
    fn left_of(&self, first: &Flight) -> u32 {
        let here = u32::try_from(self.segments * SEGMENT).unwrap_or(u32::MAX);
        first.weight().saturating_sub(here)
    }

    /// Waits until there is memory for at least one block, and says which bytes of the object to
    /// fetch now. `None`: all is done, or nobody waits any more.
    ///
    /// The first block waits for memory; those behind it join the GET only as far as memory is
    /// there at once, so that a long run never holds some memory while it waits for more.
    pub async fn next(&mut self) -> Option<Range<u64>> {
        debug_assert!(self.leases.is_empty() && self.partial.is_none());
        self.asks_anew();
        loop {
            self.drop_unfollowed();
            let first = Arc::clone(self.flights.front()?);
            let left = self.left_of(&first);
            tokio::select! {
                biased;
                lease = self.store.reserve(left, self.whose()) => {
                    self.leases.push_back(lease);
                    break;
                }
                () = first.unfollowed() => {}
            }
        }
        self.reserve_more();
        Some(self.reached()..self.end())
    }

    /// Reads the run's block from the NVMe tier, if it was found there.
    ///
    /// What is read was checked: it is the block that was filled once, or it is not shown.
    pub async fn read_nvme(&mut self) -> FromNvme {
        let Some(flight) = self.flights.front().cloned() else {
            return FromNvme::Unwanted;
        };
        if !flight.is_from_nvme() {
            return FromNvme::Missing;
        }
        if self.next().await.is_none() {
            return FromNvme::Unwanted;
        }
        let read = match self.store.nvme() {
            Some(nvme) => {
                let frames = self.store.frames();
                Box::pin(nvme.read(flight.key(), flight.len(), frames)).await
            }
            None => None,
        };
        let Some(segments) = read else {
            // The memory is asked for again with the GET, as for any other run.
            self.leases.clear();
            flight.set_from_nvme(false);
            return FromNvme::Missing;
        };
        if let Some(mut lease) = self.leases.pop_front() {
            for (index, bytes) in segments.into_iter().enumerate() {
                push(&flight, index, bytes, &mut lease);
            }
        }
        self.flights.pop_front();
        self.store.complete(&flight, &self.version);
        FromNvme::Read
    }

    /// Takes memory for the first block without waiting, or says that there is none.
    ///
    /// For a GET that is under way already, and brings all of the run: its headers are what made it. With each block that
    /// is done it is tried again, without waiting, to take memory for what follows: an answer that was let go for want of
    /// memory would be asked for twice.
    pub fn adopt(&mut self) -> Option<Range<u64>> {
        let first = self.flights.front()?;
        let lease = self.store.try_reserve(first.weight(), self.whose())?;
        first.set_from_nvme(false);
        self.leases.push_back(lease);
        self.brings_all = true;
        self.reserve_more();
        Some(self.reached()..self.end())
    }

    /// The answer that it adopted is not what brings the rest: what is asked for now ends where the memory does.
    pub fn asks_anew(&mut self) {
        self.brings_all = false;
    }

    /// Takes memory for the blocks behind those that have it, as far as it is there at once.
    fn reserve_more(&mut self) {
        for flight in self.flights.iter().skip(self.leases.len()) {
            if !flight.is_followed() {
                break;
            }
            match self.store.try_reserve(flight.weight(), self.whose()) {
                Some(lease) => self.leases.push_back(lease),
                None => break,
            }
        }
    }

    /// The offset of the next byte to be written.
    pub fn reached(&self) -> u64 {
        let start = self.flights.front().map_or(self.version.size, |flight| {
            self.store.block_size().start(flight.key().index)
        });
        start + self.begun()
    }

    /// The end of what the current GET is to bring.
    pub fn end(&self) -> u64 {
        let bytes: u64 = self
            .flights
            .iter()
            .take(self.leases.len())
            .map(|flight| u64::from(flight.len()))
            .sum();
        let start = self.reached() - self.begun();
        start + bytes
    }

    /// Bytes of the first block that are written.
    fn begun(&self) -> u64 {
        let partial = self.partial.as_ref().map_or(0, Buffer::len);
        (self.segments * SEGMENT + partial) as u64
    }

    /// Whether anybody waits for bytes that are not written yet.
    pub fn is_followed(&self) -> bool {
        self.flights.iter().any(|flight| flight.is_followed())
    }

    /// Takes the next bytes of the current GET; what is past its end is not looked at.
    pub fn write(&mut self, mut bytes: &[u8]) -> Flow {
        while !bytes.is_empty() {
            let Some(mut buffer) = self.partial.take().or_else(|| self.next_buffer()) else {
                return Flow::Done;
            };
            let taken = buffer.fill(bytes);
            bytes = &bytes[taken..];
            if buffer.left() > 0 {
                self.partial = Some(buffer);
            } else if self.end_segment(buffer) == Flow::Done {
                return Flow::Done;
            }
        }
        Flow::More
    }

    /// Room for the next segment, if the current GET is to bring one.
    fn next_buffer(&self) -> Option<Buffer> {
        self.leases.front()?;
        let len = self.flights.front()?.len() as usize;
        let len = SEGMENT.min(len - self.segments * SEGMENT);
        Some(Buffer::new(self.store.frames(), len))
    }

    fn end_segment(&mut self, buffer: Buffer) -> Flow {
        let (Some(flight), Some(lease)) = (self.flights.front(), self.leases.front_mut()) else {
            return Flow::Done;
        };
        push(flight, self.segments, buffer, lease);
        self.segments += 1;
        if self.segments * SEGMENT >= flight.len() as usize {
            self.end_block()
        } else {
            Flow::More
        }
    }

    fn end_block(&mut self) -> Flow {
        self.segments = 0;
        self.leases.pop_front();
        if let Some(flight) = self.flights.pop_front() {
            self.store.complete(&flight, &self.version);
        }
        if self.leases.is_empty() && !self.brings_all {
            return Flow::Done;
        }
        self.store.drop_unfollowed_tail(&mut self.flights);
        self.leases.truncate(self.flights.len());
        if self.brings_all {
            self.reserve_more();
        }
        if self.leases.is_empty() {
            Flow::Done
        } else {
            Flow::More
        }
    }

    /// Ends all that is not done with `error`.
    pub fn fail(mut self, error: &OriginError) {
        self.abandon(error);
    }

    fn abandon(&mut self, error: &OriginError) {
        for flight in self.flights.drain(..) {
            self.store.abandon(&flight, error.clone());
        }
        self.leases.clear();
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.abandon(&OriginError::Abandoned);
    }
}

/// Shows a segment of a block, with its part of the block's lease.
fn push<T>(flight: &Flight, index: usize, bytes: T, lease: &mut Lease)
where
    T: AsRef<[u8]> + Send + 'static,
{
    // Invariant: a block's lease covers its weight. The last segment takes all that is left, and
    // with it what the block costs beside its bytes.
    let last = (index + 1) * SEGMENT >= flight.len() as usize;
    let part = if last {
        lease.bytes()
    } else {
        bytes.as_ref().len()
    };
    let lease = lease.split(part);
    debug_assert!(lease.is_some());
    let leased = Leased {
        bytes,
        _lease: lease,
    };
    flight.push(index, Bytes::from_owner(leased));
}

/// A segment's bytes with the lease that pays for them, which ends after they were given back.
struct Leased<T> {
    bytes: T,
    _lease: Option<Lease>,
}

impl<T: AsRef<[u8]>> AsRef<[u8]> for Leased<T> {
    fn as_ref(&self) -> &[u8] {
        self.bytes.as_ref()
    }
}
