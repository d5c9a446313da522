//! Whether what a job was asked for fits, before anything is brought.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::bring::Failure;
use super::job::Job;
use super::list::{Entry, List, gather};
use super::order::Tier;
use super::place::{Crew, Room};
use crate::dataset::Dataset;

/// How long members are waited for that may come back after a restart. One that stays away for half as long owns
/// nothing any more.
const RETURN: Duration = Duration::from_secs(60);

/// The list of what there is to warm, once it fits, and how many members it is for. A job of an earlier run did fit:
/// members that went with this one are waited for.
///
/// # Errors
/// What keeps it from being listed, or the arithmetic of what does not fit.
pub(super) async fn fitting(
    crew: &Arc<Crew>,
    job: &Arc<Job>,
    dataset: &Arc<Dataset>,
) -> Result<(List, usize), Failure> {
    let order = &job.order;
    let end = Instant::now() + RETURN;
    loop {
        let rooms = crew.rooms().await;
        let most = most_of(order.tier, rooms.values());
        let list = gather(crew, dataset, job, most).await?;
        let [objects, bytes, ..] = job.counts();
        if objects == 0 {
            let what = format!("{}/{}", order.dataset, order.prefix);
            return Err(Failure::Refused(format!(
                "the origin has nothing that is asked for below {what}"
            )));
        }
        let block_size = crew.reads.store.block_size();
        let none = |entry: &Entry| order.blocks(&entry.key, block_size, entry.size).is_empty();
        let has_bytes = list.entries.iter().any(|entry| entry.size > 0);
        if has_bytes && list.entries.iter().all(none) {
            return Err(Failure::Refused(format!(
                "no byte of its {objects} objects is in the ranges that are asked for: they are shorter"
            )));
        }
        let fits = match list.entries.is_empty() {
            true => Err(format!(
                "it does not fit: {objects} objects of {bytes} bytes together, and the tiers of {} members that answer \
                 keep {most} bytes",
                rooms.len()
            )),
            false => crew.fits(dataset, order, &list.entries, &rooms).await,
        };
        let Err(sentence) = fits else {
            return Ok((list, rooms.len()));
        };
        drop(list);
        let others = job.is_resumed() && crew.peers().is_some();
        if !others || !crew.others_answer(&rooms, end).await {
            return Err(Failure::Refused(sentence));
        }
    }
}

/// Bytes that `tier` may keep on all members together.
fn most_of<'a>(tier: Tier, rooms: impl Iterator<Item = &'a Room>) -> u64 {
    let of = |room: &Room| match tier {
        Tier::Memory => room.memory.saturating_add(room.copies),
        Tier::Nvme => room.nvme,
        Tier::Any => room.nvme.max(room.memory.saturating_add(room.copies)),
    };
    rooms.map(of).fold(0, u64::saturating_add)
}
