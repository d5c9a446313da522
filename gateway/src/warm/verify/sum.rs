//! What an object's bytes come to, as they are cached.
//!
//! A CRC is had of each owner's part by the owner, and combined: no byte crosses between members for it. A SHA-256 can't
//! be combined, so one member reads the object in order, as a reader would.

use std::ops::Range;
use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA256};
use crc_fast::CrcAlgorithm;
use forebay_storage::error::OriginError;
use forebay_storage::object::ObjectId;
use forebay_storage::origin::Digest;
use forebay_storage::version::Version;
use serde::{Deserialize, Serialize};

use crate::dataset::Dataset;
use crate::purge::told;
use crate::read::Reads;
use crate::read::window::{Piece, Reader, Step};
use crate::warm::order::Copies;
use crate::warm::place::Crew;
use crate::warm::remote;

/// Bytes that one question to a member is about: it answers within a fraction of a second, off a disk too. And bytes
/// that are read with one leave.
const AT_A_TIME: u64 = 64 << 20;

/// Pieces that are looked at before others get their turn on this thread.
const TURN: u32 = 16;

/// What a member is asked: the CRC of consecutive blocks of a version.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Ask {
    pub(crate) dataset: String,
    pub(crate) key: String,
    pub(crate) version: String,
    pub(crate) first: u32,
    pub(crate) end: u32,
    pub(crate) crc: Crc,
}

/// CRCs that object stores keep of whole objects.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Crc {
    Crc64Nvme,
    Crc32c,
}

impl Crc {
    fn algorithm(self) -> CrcAlgorithm {
        match self {
            Self::Crc64Nvme => CrcAlgorithm::Crc64Nvme,
            Self::Crc32c => CrcAlgorithm::Crc32Iscsi,
        }
    }
}

/// The digest of a version's bytes, of the kind of `expected`.
///
/// # Errors
/// What keeps them from being read.
pub(super) async fn of(
    crew: &Arc<Crew>,
    dataset: &Arc<Dataset>,
    object: &ObjectId,
    version: &Arc<Version>,
    expected: &Digest,
) -> Result<Digest, OriginError> {
    let summing = Summing {
        crew,
        dataset,
        object,
        version,
    };
    Ok(match expected {
        Digest::Sha256(_) => {
            let mut hash = Context::new(&SHA256);
            let whole = 0..version.size;
            let take = |bytes: &[u8]| hash.update(bytes);
            each(&crew.reads, dataset, object, version, whole, take).await?;
            let mut digest = [0; 32];
            digest.copy_from_slice(hash.finish().as_ref());
            Digest::Sha256(digest)
        }
        Digest::Crc64Nvme(_) => Digest::Crc64Nvme(summing.crc(Crc::Crc64Nvme).await?),
        // Of 32 bits it has no more.
        Digest::Crc32c(_) => Digest::Crc32c(summing.crc(Crc::Crc32c).await? as u32),
    })
}

struct Summing<'a> {
    crew: &'a Arc<Crew>,
    dataset: &'a Arc<Dataset>,
    object: &'a ObjectId,
    version: &'a Arc<Version>,
}

impl Summing<'_> {
    /// The CRC of all parts, each by its owner.
    async fn crc(&self, crc: Crc) -> Result<u64, OriginError> {
        let (size, algorithm) = (self.version.size, crc.algorithm());
        let block_size = self.crew.reads.store.block_size();
        let mut all = crc_fast::checksum(algorithm, b"");
        if size == 0 {
            return Ok(all);
        }
        let blocks = std::iter::once(0..block_size.count(size)).collect::<Vec<_>>();
        let most = u32::try_from(AT_A_TIME / block_size.bytes()).unwrap_or(1);
        for share in self.crew.shares(self.object, size, &blocks, Copies::Owners) {
            let mut first = share.blocks.start;
            while first < share.blocks.end {
                let end = first.saturating_add(most.max(1)).min(share.blocks.end);
                let part = self.part(&share.member, first..end, crc).await?;
                let bytes = self.crew.bytes_of(&(first..end), size);
                all = crc_fast::checksum_combine(algorithm, all, part, bytes);
                first = end;
            }
        }
        Ok(all)
    }

    async fn part(&self, member: &str, blocks: Range<u32>, crc: Crc) -> Result<u64, OriginError> {
        if let Some(peers) = self.crew.peers().filter(|_| *member != *self.crew.own) {
            let ask = Ask {
                dataset: self.object.dataset.to_string(),
                key: self.object.key.to_string(),
                version: told(self.version.key),
                first: blocks.start,
                end: blocks.end,
                crc,
            };
            match remote::sum_at(peers, member, &ask).await {
                Ok(sum) => return Ok(sum),
                Err(error) => {
                    tracing::debug!(member, %error, "a member does not say what its part comes to: it is read here");
                }
            }
        }
        let reads = &self.crew.reads;
        here(reads, self.dataset, self.object, self.version, blocks, crc).await
    }
}

/// The CRC of these blocks of a version, read through this gateway.
///
/// # Errors
/// What keeps them from being read.
pub(crate) async fn here(
    reads: &Arc<Reads>,
    dataset: &Arc<Dataset>,
    object: &ObjectId,
    version: &Arc<Version>,
    blocks: Range<u32>,
    crc: Crc,
) -> Result<u64, OriginError> {
    let block_size = reads.store.block_size();
    let size = version.size;
    let bytes = block_size.start(blocks.start).min(size)..block_size.start(blocks.end).min(size);
    let mut sum = crc_fast::Digest::new(crc.algorithm());
    let take = |bytes: &[u8]| sum.update(bytes);
    each(reads, dataset, object, version, bytes, take).await?;
    Ok(sum.finalize())
}

/// Hands these bytes of a version to `take`, in their order. Nobody waits for them, so whoever reads goes first.
async fn each(
    reads: &Arc<Reads>,
    dataset: &Arc<Dataset>,
    object: &ObjectId,
    version: &Arc<Version>,
    bytes: Range<u64>,
    mut take: impl FnMut(&[u8]) + Send,
) -> Result<(), OriginError> {
    let (mut start, mut pieces) = (bytes.start, 0u32);
    while start < bytes.end {
        let end = start.saturating_add(AT_A_TIME).min(bytes.end);
        let _leave = reads.demand.leave().await;
        let reader = Reader::new(
            Arc::clone(reads),
            Arc::clone(dataset),
            object.clone(),
            Arc::clone(version),
            [Piece::Range(start..end)],
        );
        let mut reader = reader.for_nobody();
        loop {
            match reader.step(usize::MAX) {
                Step::Bytes(bytes, _) => take(&bytes),
                Step::Wait => reader.waiting().await,
                Step::End => break,
                Step::Fail(error) => return Err(error),
            }
            pieces = pieces.wrapping_add(1);
            if pieces.is_multiple_of(TURN) {
                tokio::task::yield_now().await;
            }
        }
        start = end;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use forebay_storage::origin::OriginUrl;
    use forebay_storage::stats::DatasetStats;

    use super::*;
    use crate::alone;
    use crate::settings::DatasetSettings;

    #[tokio::test(start_paused = true)]
    async fn what_is_summed_is_read_in_its_turn_while_readers_wait() {
        let directory = std::env::temp_dir().join(format!("forebay-sum-{}", std::process::id()));
        let text = vec![7; 3 << 20];
        std::fs::create_dir_all(&directory).expect("a directory");
        std::fs::write(directory.join("a"), &text).expect("a file");
        let url = OriginUrl::parse(&format!("file://{}", directory.display()));
        let settings = DatasetSettings::with_defaults("models", url.expect("a good address"));
        let gateway = alone::gateway(&[settings]);
        let (reads, dataset) = (&gateway.reads, gateway.datasets.get("models"));
        let (dataset, object) = (dataset.expect("it was given"), ObjectId::new("models", "a"));
        let current = reads.current(&dataset, &object, None, false).await;
        let version = current.expect("the origin answers").version;
        let reader = reads.demand.wait();
        let turn = reads.demand.leave().await;
        let sum = here(reads, &dataset, &object, &version, 0..3, Crc::Crc32c);
        let mut sum = std::pin::pin!(sum);
        let early = tokio::time::timeout(Duration::from_secs(1), &mut sum).await;
        assert!(early.is_err());
        let asked = DatasetStats::get(&dataset.origin.stats().origin_gets);
        assert_eq!(asked, 0);
        drop((turn, reader));
        let expected = crc_fast::checksum(Crc::Crc32c.algorithm(), &text);
        assert_eq!(sum.await, Ok(expected));
        // Nor does it count as a reader itself.
        assert!(!reads.demand.is_there());
        let _ = std::fs::remove_dir_all(directory);
    }

    #[test]
    fn checksums_are_those_that_object_stores_mean() {
        // The check values of the CRC catalogue.
        let of = |crc: Crc| crc_fast::checksum(crc.algorithm(), b"123456789");
        assert_eq!(of(Crc::Crc32c), 0xE306_9283);
        assert_eq!(of(Crc::Crc64Nvme), 0xAE8B_1486_0A79_9888);
        for crc in [Crc::Crc32c, Crc::Crc64Nvme] {
            let algorithm = crc.algorithm();
            let empty = crc_fast::checksum(algorithm, b"");
            let (one, two) = (b"1234".as_slice(), b"56789".as_slice());
            let parts = [one, two].into_iter().fold(empty, |all, part| {
                let sum = crc_fast::checksum(algorithm, part);
                crc_fast::checksum_combine(algorithm, all, sum, part.len() as u64)
            });
            assert_eq!(parts, of(crc));
        }
    }
}
