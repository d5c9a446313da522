//! Bringing blocks from a member that holds them, and from nobody else: what it does not bring is not missed.

use std::sync::Arc;
use std::time::Duration;

use forebay_storage::block::BlockKey;
use forebay_storage::class::Class;
use forebay_storage::store::{Asker, Handle, RUN_BYTES, Spot};

use super::list::{Held, Listed};
use super::{Taken, json, until};
use crate::peer::{PeerBody, Peers};
use crate::read::route::DONOR;
use crate::read::{Reads, fetch};
use crate::warm::place::Crew;

/// Between two looks whether there is memory.
const LOOK: Duration = Duration::from_millis(10);

/// Whether all of it is resident already.
pub(super) fn is_here(reads: &Reads, held: &Held) -> bool {
    let version = held.version.key;
    let mut blocks = held.blocks.clone();
    blocks.all(|index| reads.store.contains(&BlockKey { version, index }))
}

/// Returns once there is memory for what nobody waits for. Before a turn is taken, not within it: the turns of all others
/// would wait for it too.
pub(super) async fn room(reads: &Reads) {
    while reads.store.is_too_full_to_warm() {
        tokio::time::sleep(LOOK).await;
    }
}

/// Brings what is missing of `held` from the member of this name, to the tier that owned blocks are kept in; what is
/// resident then.
pub(super) async fn from(reads: &Arc<Reads>, held: &Held, donor: &str) -> Taken {
    let (store, block_size) = (&reads.store, reads.store.block_size());
    let mut taken = Taken::default();
    for (index, handle) in open(reads, held, donor) {
        if let Handle::Following(mut follower) = handle
            && follower.end().await.is_err()
        {
            continue;
        }
        store.write_to_nvme(&held.object, &held.version, index);
        let range = block_size.range(index, held.version.size);
        taken.blocks += 1;
        taken.bytes += range.end - range.start;
    }
    taken
}

/// Opens the blocks; what is missing of them comes from the donor.
fn open(reads: &Arc<Reads>, held: &Held, donor: &str) -> Vec<(u32, Handle)> {
    let Held {
        dataset,
        object,
        version,
        blocks,
    } = held;
    let placed = reads.spots(object, version.size, 0);
    let spot = |index| Spot {
        source: DONOR,
        group: 0,
        ..placed(index)
    };
    let asker = Asker {
        level: 0,
        class: Class::Warm,
        spot: &spot,
        run: RUN_BYTES,
    };
    let last = blocks.end - 1;
    let indexes = blocks.start..=last;
    let opened = reads
        .store
        .open_as(&asker, object, version, indexes, Some(last));
    for run in opened.runs {
        let (reads, dataset) = (Arc::clone(reads), Arc::clone(dataset));
        fetch::spawn_from(reads, dataset, run, donor.to_owned());
    }
    let blocks = opened.blocks.into_iter();
    blocks.map(|(index, handle, _)| (index, handle)).collect()
}

/// Takes over what `from`, which drains, has listed of what is ours next.
///
/// # Errors
/// Why it is not taken.
pub(super) async fn answer(
    crew: &Arc<Crew>,
    peers: &Arc<Peers>,
    from: &str,
    listed: Listed,
) -> Result<http::Response<PeerBody>, &'static str> {
    // Until then its blocks would be taken for copies of what is another's.
    if !until(peers, |fleet| fleet.table.member(from).is_none()).await {
        return Err("it takes it for a member that stays");
    }
    let mut all = Taken::default();
    for held in listed.held(&crew.datasets) {
        room(&crew.reads).await;
        let taken = self::from(&crew.reads, &held, from).await;
        all.blocks += taken.blocks;
        all.bytes += taken.bytes;
    }
    peers
        .metrics
        .moves
        .handed
        .with_label_values(&["taken"])
        .inc_by(all.bytes);
    Ok(json(&all))
}
