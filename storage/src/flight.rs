//! A block while it arrives.
//!
//! One writer sets the segments in order; any number of followers see each as soon as it is set.
//! A follower that finds its segment there takes no lock; one that must wait sleeps on a watch.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use crate::SEGMENT;
use crate::block::{BlockKey, OVERHEAD};
use crate::class::{Class, Rising};
use crate::error::OriginError;
use crate::object::ObjectId;
use crate::store::{Level, ORIGIN, Spot};
use crate::watch;

/// How far a fill has come.
#[derive(Clone, Debug, Default)]
pub(crate) struct Progress {
    ready: u32,
    end: Option<Result<(), OriginError>>,
}

/// A running fill of one block.
#[derive(Debug)]
pub struct Flight {
    object: ObjectId,
    key: BlockKey,
    len: u32,
    slots: Box<[OnceLock<Bytes>]>,
    progress: watch::Sender<Progress>,
    /// The level of whoever leads it.
    level: Level,
    /// Who waits for it.
    class: Rising,
    /// This gateway owns the block.
    owned: bool,
    /// The level of the one who is asked for it. Never falls.
    source: AtomicU8,
    /// Where the bytes come from: one of [`From`].
    from: AtomicU8,
    /// Whoever is asked for the block was named by its owner, and gets it from there.
    handed: AtomicBool,
}

/// Where the bytes of a fill come from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum From {
    /// The origin.
    Origin,
    /// The NVMe tier.
    Nvme,
    /// Another gateway, which had to fetch them itself.
    Peer,
    /// Another gateway, which had them.
    PeerHit,
}

impl Flight {
    /// A fill of the `len` bytes of block `key`, of which nothing is here yet, led from `level` by whoever is
    /// of `class`.
    pub(crate) fn new(
        object: ObjectId,
        key: BlockKey,
        len: u32,
        (level, class): (Level, Class),
        spot: Spot,
    ) -> Arc<Self> {
        let segments = (len as usize).div_ceil(SEGMENT);
        Arc::new(Self {
            object,
            key,
            len,
            slots: (0..segments).map(|_| OnceLock::new()).collect(),
            progress: watch::Sender::new(Progress::default()),
            level,
            class: Rising::new(class),
            owned: spot.owned,
            source: AtomicU8::new(spot.source),
            from: AtomicU8::new(From::Origin as u8),
            handed: AtomicBool::new(false),
        })
    }

    /// Says whether the bytes come from the NVMe tier.
    pub(crate) fn set_from_nvme(&self, from_nvme: bool) {
        if from_nvme {
            self.source.store(ORIGIN, Ordering::Release);
        }
        self.set_from(if from_nvme { From::Nvme } else { From::Origin });
    }

    /// Whether the bytes come from the NVMe tier.
    pub(crate) fn is_from_nvme(&self) -> bool {
        self.from() == From::Nvme
    }

    /// Says where the bytes come from.
    pub(crate) fn set_from(&self, from: From) {
        self.from.store(from as u8, Ordering::Release);
    }

    fn from(&self) -> From {
        let from = self.from.load(Ordering::Acquire);
        let all = [From::Origin, From::Nvme, From::Peer, From::PeerHit];
        all.into_iter()
            .find(|one| *one as u8 == from)
            .unwrap_or(From::Origin)
    }

    /// The level of the one who is asked for the block.
    pub(crate) fn source(&self) -> Level {
        self.source.load(Ordering::Acquire)
    }

    /// Says that somebody further up is asked from now on.
    pub(crate) fn raise_source(&self, source: Level) {
        self.source.fetch_max(source, Ordering::AcqRel);
    }

    pub(crate) fn set_handed(&self, handed: bool) {
        self.handed.store(handed, Ordering::Release);
    }

    pub(crate) fn is_handed(&self) -> bool {
        self.handed.load(Ordering::Acquire)
    }

    /// The level of whoever leads it.
    pub(crate) fn level(&self) -> Level {
        self.level
    }

    /// How urgent it is: the class of the most urgent who asked for it so far.
    pub(crate) fn class(&self) -> Class {
        self.class.class()
    }

    /// Somebody of `class` waits for it.
    pub(crate) fn raise(&self, class: Class) {
        self.class.raise(class);
    }

    /// Whether this gateway owns the block.
    pub(crate) fn is_owned(&self) -> bool {
        self.owned
    }

    /// The object that the block is of.
    pub(crate) fn object(&self) -> &ObjectId {
        &self.object
    }

    /// The block that is being filled.
    pub fn key(&self) -> BlockKey {
        self.key
    }

    /// Bytes in the whole block.
    pub(crate) fn len(&self) -> u32 {
        self.len
    }

    /// Bytes to reserve for the block.
    pub(crate) fn weight(&self) -> u32 {
        self.len.saturating_add(OVERHEAD)
    }

    /// Joins: the fill goes on at least as long as somebody follows it.
    pub(crate) fn follow(self: &Arc<Self>) -> Follower {
        Follower {
            progress: self.progress.subscribe(),
            flight: Arc::clone(self),
        }
    }

    /// Whether anybody follows.
    ///
    /// Only true to the caller while it holds the lock under which followers join.
    pub(crate) fn is_followed(&self) -> bool {
        !self.progress.is_closed()
    }

    /// Returns once nobody follows.
    pub(crate) async fn unfollowed(&self) {
        self.progress.closed().await;
    }

    /// Makes the next segment visible. Called by the one writer, in order.
    pub(crate) fn push(&self, index: usize, segment: Bytes) {
        let set = self.slots[index].set(segment);
        debug_assert!(set.is_ok(), "segment {index} was set twice");
        self.progress.send_modify(|progress| progress.ready += 1);
    }

    /// Says that the fill ended, well or not. Only the first word counts.
    pub(crate) fn end(&self, result: Result<(), OriginError>) {
        self.progress.send_if_modified(|progress| {
            let first = progress.end.is_none();
            if first {
                progress.end = Some(result);
            }
            first
        });
    }

    /// The segments so far, all of them once the fill ended well.
    pub(crate) fn segments(&self) -> Vec<Bytes> {
        self.slots
            .iter()
            .filter_map(|slot| slot.get().cloned())
            .collect()
    }
}

/// Somebody who follows a fill. Dropping it is leaving.
#[derive(Clone, Debug)]
pub struct Follower {
    flight: Arc<Flight>,
    progress: watch::Receiver<Progress>,
}

impl Follower {
    /// The segment at this place, if it is here already.
    pub fn segment(&self, index: usize) -> Option<&Bytes> {
        self.flight.slots.get(index)?.get()
    }

    /// Bytes of the block that are here.
    pub fn arrived(&self) -> u32 {
        let segments = u64::from(self.progress.borrow().ready);
        let bytes = (segments * SEGMENT as u64).min(u64::from(self.flight.len()));
        u32::try_from(bytes).unwrap_or(u32::MAX)
    }

    /// Whether the bytes that are here came from the NVMe tier.
    pub fn is_from_nvme(&self) -> bool {
        self.flight.is_from_nvme()
    }

    /// Which block of its object it is.
    pub fn index(&self) -> u32 {
        self.flight.key().index
    }

    /// Where the bytes that are here came from.
    pub fn from(&self) -> From {
        self.flight.from()
    }

    /// Makes the fill as urgent as somebody of `class`, who waits for it from now on.
    pub fn urge(&self, class: Class) {
        self.flight.raise(class);
    }

    /// Whether the fill ended, and how.
    pub fn ended(&self) -> Option<Result<(), OriginError>> {
        self.progress.borrow().end.clone()
    }

    /// Waits until the segment at this place is here.
    ///
    /// # Errors
    /// What ended the fill before that segment came.
    pub async fn wait(&mut self, index: usize) -> Result<(), OriginError> {
        let index = u32::try_from(index).unwrap_or(u32::MAX);
        let seen = self
            .progress
            .wait_for(|progress| progress.ready > index || progress.end.is_some())
            .await;
        match seen {
            Ok(progress) if progress.ready > index => Ok(()),
            Ok(progress) => match &progress.end {
                Some(Err(error)) => Err(error.clone()),
                _ => Err(OriginError::Abandoned),
            },
            // The sender lives in the flight that `self` holds.
            Err(_) => Err(OriginError::Abandoned),
        }
    }

    /// Waits until the fill has ended: then its block is filed, or was purged meanwhile.
    ///
    /// # Errors
    /// What ended it before the block was whole.
    pub async fn end(&mut self) -> Result<(), OriginError> {
        let ended = self.progress.wait_for(|progress| progress.end.is_some());
        match ended.await {
            Ok(progress) => progress.end.clone().unwrap_or(Ok(())),
            // The sender lives in the flight that `self` holds.
            Err(_) => Err(OriginError::Abandoned),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::version::VersionKey;

    fn flight(len: u32) -> Arc<Flight> {
        let key = BlockKey {
            version: VersionKey(1),
            index: 0,
        };
        Flight::new(
            ObjectId::new("models", "a"),
            key,
            len,
            (0, Class::Demand),
            Spot::ALONE,
        )
    }

    #[tokio::test]
    async fn a_follower_sees_a_segment_before_the_block_is_whole() {
        let flight = flight(3 * SEGMENT as u32);
        let mut follower = flight.follow();
        let waiter = tokio::spawn(async move {
            follower.wait(0).await.unwrap();
            (follower.segment(0).cloned(), follower.segment(1).cloned())
        });
        flight.push(0, Bytes::from_static(b"x"));
        assert_eq!(
            waiter.await.unwrap(),
            (Some(Bytes::from_static(b"x")), None)
        );
        assert_eq!(flight.follow().arrived(), SEGMENT as u32);
    }

    #[tokio::test]
    async fn a_failed_fill_fails_only_what_did_not_come() {
        let flight = flight(2 * SEGMENT as u32);
        let mut follower = flight.follow();
        flight.push(0, Bytes::from_static(b"x"));
        flight.end(Err(OriginError::Cut));
        flight.end(Ok(()));
        assert_eq!(follower.wait(0).await, Ok(()));
        assert_eq!(follower.wait(1).await, Err(OriginError::Cut));
    }

    #[tokio::test]
    async fn the_last_to_leave_is_noticed() {
        let flight = flight(1);
        let one = flight.follow();
        let two = flight.follow();
        drop(one);
        assert!(flight.is_followed());
        drop(two);
        flight.unfollowed().await;
        assert!(!flight.is_followed());
    }
}
