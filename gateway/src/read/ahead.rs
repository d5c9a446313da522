//! Reading ahead for those who come next: behind the ranges of a pass, and into the object after this one.

use std::ops::Range;
use std::sync::Arc;

use forebay_storage::class::Class;
use forebay_storage::object::ObjectId;
use forebay_storage::store::{Asker, Handle, Opened, Outcome, RUN_BYTES};
use forebay_storage::version::Version;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::time::Instant;

use super::growth::Seen;
use super::passes::{Asked, IDLE, Own};
use super::version::How;
use super::{Reads, fetch};
use crate::dataset::Dataset;

/// Of the next object, what is read before anybody asked for it, at most.
const NEXT_BYTES: u64 = 8 * RUN_BYTES;

impl Reads {
    /// Somebody is about to read `range`; `missed`: not all of what it looked at was in memory. Reads ahead
    /// for those who come behind it, if they are known to.
    pub(super) fn asked(
        self: &Arc<Self>,
        dataset: &Arc<Dataset>,
        (object, version): (&ObjectId, &Arc<Version>),
        range: &Range<u64>,
        missed: bool,
    ) {
        let owned = self.owned(object, version.size);
        let own = owned.as_ref().map(|owned| Own {
            extents: self.extents(version.size),
            owned,
        });
        let asked = Asked {
            version: version.key,
            size: version.size,
            range: range.clone(),
            missed,
            own,
        };
        let plan = self.passes.asked(&asked, &self.seen(dataset, false));
        if plan.next {
            self.begin_next(dataset, object);
        }
        for blocks in plan.blocks {
            self.read_ahead(dataset, (object, version), blocks, Outcome::Led);
        }
    }

    /// Which extents of an object of `size` bytes this gateway owns; `None` if there is nobody else who owns any.
    fn owned(&self, object: &ObjectId, size: u64) -> Option<impl Fn(u64) -> bool> {
        let peers = self.peers.as_ref().filter(|_| self.shares_blocks())?;
        let (fleet, count) = (peers.fleet(), self.extents(size).count());
        let (dataset, key) = (Arc::clone(&object.dataset), Arc::clone(&object.key));
        Some(move |extent| {
            let owner = fleet.table.owner(&dataset, &key, extent, count);
            owner.is_some_and(|owner| owner.name() == &*fleet.own)
        })
    }

    /// What there is to learn from about reading ahead; `joins`: by a stream that is not among those who share yet.
    pub(super) fn seen(&self, dataset: &Dataset, joins: bool) -> Seen {
        let stats = dataset.origin.stats();
        Seen {
            now: Instant::now(),
            arrived: self.arrived(stats),
            round_trip: stats.first_byte(),
            run: self.run_bytes(dataset),
            each: stats.body_rate(),
            begun: true,
            least: 0,
            most: self.share_ahead(dataset, joins),
        }
    }

    /// Opens blocks that nobody waits for. Those of `speculative` outcome, and led ones, are ours to account for.
    fn read_ahead(
        self: &Arc<Self>,
        dataset: &Arc<Dataset>,
        (object, version): (&ObjectId, &Arc<Version>),
        blocks: Range<u32>,
        speculative: Outcome,
    ) {
        if blocks.is_empty() {
            return;
        }
        let spots = self.spots(object, version.size, 0);
        let asker = Asker {
            level: 0,
            class: Class::ReadAhead,
            spot: &spots,
            run: self.run_bytes(dataset),
        };
        let indexes = blocks.start..=blocks.end - 1;
        let Opened { blocks, runs } = self.store.open_as(&asker, object, version, indexes, None);
        let ours = |outcome| outcome == Outcome::Led || outcome == speculative;
        let led: Vec<u32> = blocks
            .iter()
            .filter_map(|(index, _, outcome)| ours(*outcome).then_some(*index))
            .collect();
        self.passes
            .led(version.key, version.size, &led, Instant::now());
        for run in runs {
            fetch::spawn(Arc::clone(self), Arc::clone(dataset), run, None);
        }
        let reads = Arc::clone(self);
        // Each is let go when it ends, and what was here at once: others may need the memory of what came before what did
        // not.
        let following = blocks
            .into_iter()
            .filter_map(|(_, handle, _)| match handle {
                Handle::Following(mut follower) => Some(async move {
                    // Who reads it hears how it ended.
                    drop(follower.end().await);
                }),
                Handle::Resident(_) => None,
            });
        let mut following: FuturesUnordered<_> = following.collect();
        tokio::spawn(async move {
            while following.next().await.is_some() {}
            tokio::time::sleep(IDLE).await;
            reads.passes.sweep(Instant::now());
        });
    }

    /// Somebody who reads through an object is past three quarters of it: the next one of its series is begun.
    pub(super) fn nears_end(
        self: &Arc<Self>,
        dataset: &Arc<Dataset>,
        object: &ObjectId,
        version: &Version,
    ) {
        if self
            .passes
            .begins_next(version.key, version.size, Instant::now())
        {
            self.begin_next(dataset, object);
        }
    }

    fn begin_next(self: &Arc<Self>, dataset: &Arc<Dataset>, object: &ObjectId) {
        let Some(next) = next(object) else { return };
        let (reads, dataset) = (Arc::clone(self), Arc::clone(dataset));
        tokio::spawn(async move {
            let first = Some(0..RUN_BYTES.min(reads.share_ahead(&dataset, false)));
            let asker = (0, Class::ReadAhead);
            let current = reads.current_as(asker, &dataset, &next, first, false);
            let current = match current.await {
                Ok(current) => current,
                Err(error) => {
                    tracing::debug!(object = %next, %error, "the next object was not begun");
                    return;
                }
            };
            let version = &current.version;
            let bytes = NEXT_BYTES
                .min(reads.share_ahead(&dataset, false))
                .min(version.size);
            if !version.cacheable() || bytes == 0 {
                return;
            }
            let last = reads.store.block_size().index(bytes - 1);
            // What came with the question about the version was read for this too.
            let speculative = match current.how {
                How::Asked => Outcome::Joined,
                _ => Outcome::Led,
            };
            reads.read_ahead(&dataset, (&next, version), 0..last + 1, speculative);
        });
    }
}

/// The object after `object`, if its name says that there is one: `model-00002-of-00017.safetensors` comes after
/// `model-00001-of-00017.safetensors`.
pub(super) fn next(object: &ObjectId) -> Option<ObjectId> {
    if object.version_id.is_some() {
        return None;
    }
    let key: &str = &object.key;
    let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
    let (before, after) = key.rsplit_once("-of-")?;
    let width = before.bytes().rev().take_while(u8::is_ascii_digit).count();
    let (stem, number) = before.split_at(before.len() - width);
    let number: u32 = number.parse().ok()?;
    let count: u32 = after[..digits(after)].parse().ok()?;
    if !stem.ends_with('-') || number >= count {
        return None;
    }
    let key = format!("{stem}{:0width$}-of-{after}", number + 1);
    Some(ObjectId::new(&*object.dataset, &*key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_of_a_series_is_told_by_its_name() {
        let next = |key: &str| next(&ObjectId::new("models", key)).map(|next| next.key.to_string());
        let after = |key: &str| next(key).unwrap_or_default();
        assert_eq!(
            after("a/model-00001-of-00017.safetensors"),
            "a/model-00002-of-00017.safetensors"
        );
        assert_eq!(after("m-9-of-10.bin"), "m-10-of-10.bin");
        for last in [
            "model-00017-of-00017.safetensors",
            "model.safetensors",
            "one-of-many",
            "-of-",
            "model-1-of-",
            "model1-of-2",
            "model-99999999999-of-3",
        ] {
            assert_eq!(next(last), None, "{last}");
        }
    }
}
