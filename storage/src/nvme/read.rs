//! Blocks that are read back: checked, and dropped where they are not what was written.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;

use super::disk::Found;
use super::{Nvme, Phase, count, locked};
use crate::block::BlockKey;
use crate::frames::Frames;

/// Failed reads in a row after which the disk is left alone.
const FAILED_READS: u32 = 3;

/// A read that takes so long counts as failed; the fill goes on from the origin.
const READ_LIMIT: Duration = Duration::from_secs(5);

/// How long a read waits for the files to be opened. foyer reads about 8 ms of indexes a GiB.
const OPEN_LIMIT: Duration = Duration::from_secs(10);

impl Nvme {
    /// The segments of a block that is held, checked; `None`: get it elsewhere.
    pub(crate) async fn read(
        &self,
        key: BlockKey,
        len: u32,
        frames: &Frames,
    ) -> Option<Vec<Bytes>> {
        let phase = self.phase.subscribe();
        let opened = phase.wait_for(|phase| !matches!(phase, Phase::Opening));
        // The sender is ours, so the wait ends by the limit at the latest.
        let _ = tokio::time::timeout(OPEN_LIMIT, opened).await;
        let _turn = self.reads.acquire().await.ok()?;
        // Asked for again: those before us may have found that the disk fails.
        let disk = self.disk()?;
        let write = self.residents.write_of(&key)?;
        if !disk.contains(&key) {
            return None;
        }
        let found = match tokio::time::timeout(READ_LIMIT, disk.read(key, len, write, frames)).await
        {
            Ok(found) => found,
            Err(_) => Found::Failed("a read took too long".into()),
        };
        let failed = matches!(found, Found::Failed(_));
        match found {
            Found::Block(segments) => {
                self.failed_reads.store(0, Ordering::Relaxed);
                return Some(segments);
            }
            // Purged or replaced while it was read.
            Found::Damaged if self.residents.write_of(&key) != Some(write) => {}
            Found::Damaged => {
                tracing::debug!(?key, "a block on disk is damaged and is fetched anew");
                count(&self.stats.damaged);
            }
            Found::Gone => tracing::debug!(?key, "a block is on disk no more"),
            Found::Failed(reason) => {
                tracing::debug!(?key, reason, "a block can't be read from the disk");
                count(&self.stats.read_errors);
                if self.failed_reads.fetch_add(1, Ordering::Relaxed) + 1 >= FAILED_READS {
                    self.fail(
                        &disk,
                        format!("{FAILED_READS} reads in a row failed: {reason}"),
                    );
                }
            }
        }
        // Else every later read would fail as this one did. What was written anew meanwhile stays.
        let mut left = locked(&self.left);
        if self.residents.write_of(&key) == Some(write) {
            match failed {
                true => disk.forget(&key),
                false => disk.remove(&key),
            }
            if self.residents.left(key).is_some() {
                left.push(key);
            }
        }
        None
    }
}
