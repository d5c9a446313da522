//! A body from another gateway as it arrives: its segments go into a run, each once it is verified.

use std::hash::Hasher as _;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use forebay_storage::SEGMENT;
use forebay_storage::fill::Run;
use forebay_storage::flight::From;
use forebay_storage::version::VersionKey;
use http_body_util::BodyExt;
use tokio::time::Instant;
use twox_hash::XxHash3_64;

use super::turns::Turn;
use super::wire::{self, SUM};
use super::{Asked, NO_PROGRESS, PeerError, Peers};

/// An answer that is under way for so long is slow, and whoever waits for the end of it gets another. It is looked at as
/// often.
const SLOW: Duration = Duration::from_millis(500);

/// How long a connection may take to bring a segment of what the member has, while somebody waits for it. One that lost
/// what it sent, and what it sent again, waits twice as long each time and begins anew with the least (RFC 6298, 5.5; RFC
/// 5681, 3.1), also once the link has room: another one need not.
const STANDS_STILL: Duration = Duration::from_millis(450);

/// It may take longer if it brings a part in so many of what others bring, one with another: where many share the link of
/// the member that sends, another connection brings no more.
const BEHIND: u64 = 4;

/// Segments of one version, on their way.
pub struct Incoming {
    peers: Arc<Peers>,
    name: String,
    asked: Asked,
    turn: Option<Turn>,
    /// It is given up where its connection stands still, to be asked for again.
    watched: bool,
    version: VersionKey,
    /// Where the segment that arrives begins, and where the last one ends.
    offset: u64,
    end: u64,
    lately: Lately,
    /// Bytes of the segment that came.
    come: usize,
    hash: XxHash3_64,
    sum: [u8; SUM],
    sum_come: usize,
    /// The segment's last byte, kept back until the checksum is there: without it nobody sees the rest.
    held: u8,
    /// The run wants this segment.
    wanted: bool,
}

impl Incoming {
    /// The body of `asked`, which holds `range` of `version`.
    ///
    /// # Errors
    /// [`PeerError::Corrupt`] if its length is not that of such a body.
    pub fn new(
        peers: &Arc<Peers>,
        name: &str,
        asked: Asked,
        version: VersionKey,
        range: &Range<u64>,
    ) -> Result<Self, PeerError> {
        let length = asked.parts.headers.get(http::header::CONTENT_LENGTH);
        let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
        if length != Some(wire::body_length(range)) || !range.start.is_multiple_of(SEGMENT as u64) {
            return Err(PeerError::Corrupt);
        }
        Ok(Self {
            peers: Arc::clone(peers),
            name: name.to_owned(),
            asked,
            turn: None,
            watched: true,
            version,
            offset: range.start,
            end: range.end,
            lately: Lately::begin(peers),
            come: 0,
            hash: wire::checksum(version, range.start),
            sum: [0; SUM],
            sum_come: 0,
            held: 0,
            wanted: false,
        })
    }

    /// The same in a turn, if one was waited for.
    pub(crate) fn in_turn(mut self, turn: Option<Turn>) -> Self {
        self.turn = turn;
        self
    }

    /// The same, and unless it is `watched` it is given up only where a segment takes longer than [`NO_PROGRESS`], however
    /// slow its connection is.
    pub(crate) fn watched(mut self, watched: bool) -> Self {
        self.watched = watched;
        self
    }

    /// Whether the member had these bytes.
    pub fn from(&self) -> From {
        match wire::is_hit(&self.asked.parts.headers) {
            true => From::PeerHit,
            false => From::Peer,
        }
    }

    /// Takes the body into `run`, to its end or until nobody waits for more.
    ///
    /// Memory for a block is taken once its first bytes are here: then the other end has all of that
    /// block's memory, and we hold none while it waits for any.
    ///
    /// Where many answers share a full link each of them takes seconds. What a client waits for behind other blocks of this
    /// one is taken out of the run then, and handed to `apart` to be asked for by itself.
    ///
    /// # Errors
    /// Why it broke off. What the run has by then was verified.
    pub async fn take(
        &mut self,
        run: &mut Run,
        apart: &(dyn Fn(Run) + Sync),
    ) -> Result<(), PeerError> {
        let mut looked = Instant::now();
        let peers = Arc::clone(&self.peers);
        let has_it = self.from() == From::PeerHit;
        let _hit = has_it.then(|| peers.hits.begin());
        self.lately = Lately::begin(&self.peers);
        while self.offset < self.end {
            let known = Arc::clone(&self.asked.known);
            let frame = self.asked.body.frame();
            let frame = self.peers.patiently(&known, &self.name, true, frame);
            let frame = tokio::select! {
                biased;
                frame = frame => frame?,
                error = self.lately.too_slow(&self.peers, run, self.watched), if has_it => {
                    return Err(error);
                }
            };
            known.heard();
            let chunk = match frame {
                Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
                Some(Err(_)) | None => return Err(PeerError::Cut),
            };
            self.peers.metrics.received.inc_by(chunk.len() as u64);
            self.lately.came += chunk.len() as u64;
            if has_it {
                peers.hits.came(chunk.len());
            }
            if self.lately.came >= SEGMENT as u64 || !run.is_awaited() {
                self.lately = Lately::begin(&self.peers);
            }
            if let Some(turn) = &mut self.turn {
                turn.came(chunk.len());
            }
            if self.put(run, chunk).await? {
                return Ok(());
            }
            if looked.elapsed() >= SLOW {
                looked = Instant::now();
                run.split_off_awaited().into_iter().for_each(apart);
            }
        }
        Ok(())
    }

    /// Takes a piece of the body; true once nobody waits for more.
    async fn put(&mut self, run: &mut Run, mut chunk: Bytes) -> Result<bool, PeerError> {
        while !chunk.is_empty() {
            let left = usize::try_from(self.end - self.offset).unwrap_or(usize::MAX);
            let length = SEGMENT.min(left);
            if length == 0 {
                return Err(PeerError::Corrupt);
            }
            if self.come == 0 && !self.begin(run).await {
                return Ok(true);
            }
            if self.come < length {
                let now = chunk.split_to(chunk.len().min(length - self.come));
                self.hash.write(&now);
                self.come += now.len();
                let mut shown = &now[..];
                if self.come == length
                    && let Some((last, rest)) = now.split_last()
                {
                    self.held = *last;
                    shown = rest;
                }
                if self.wanted {
                    run.write(shown);
                }
                continue;
            }
            let now = chunk.split_to(chunk.len().min(SUM - self.sum_come));
            self.sum[self.sum_come..self.sum_come + now.len()].copy_from_slice(&now);
            self.sum_come += now.len();
            if self.sum_come == SUM {
                self.verify()?;
                if self.wanted {
                    run.write(&[self.held]);
                }
                self.next(length);
                if run.is_over() {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Makes ready for the segment whose first byte is here; false if nobody waits any more.
    async fn begin(&mut self, run: &mut Run) -> bool {
        if self.offset >= run.reached() && !run.has_memory() {
            if run.next().await.is_none() {
                return false;
            }
            // How long that took is no word about the connection.
            self.lately = Lately::begin(&self.peers);
        }
        // While memory was awaited, those who waited for the first block may have left.
        self.wanted = self.offset == run.reached() && run.has_memory();
        !run.is_over()
    }

    fn verify(&self) -> Result<(), PeerError> {
        if self.hash.finish().to_be_bytes() == self.sum {
            return Ok(());
        }
        self.peers.metrics.corrupt.inc();
        Err(PeerError::Corrupt)
    }

    fn next(&mut self, length: usize) {
        self.offset += length as u64;
        self.come = 0;
        self.sum_come = 0;
        self.hash = wire::checksum(self.version, self.offset);
    }
}

/// What a connection brought since it last brought a segment.
#[derive(Debug)]
struct Lately {
    since: Instant,
    came: u64,
    /// Bytes that all members had sent by then, and those of them that they had when they were asked.
    of_all: u64,
    of_hits: u64,
    /// How many brought such bytes then.
    hits: u64,
}

impl Lately {
    fn begin(peers: &Peers) -> Self {
        Self {
            since: Instant::now(),
            came: 0,
            of_all: peers.metrics.received.get(),
            of_hits: peers.hits.bytes(),
            hits: peers.hits.count(),
        }
    }

    /// Over once it has brought no segment for long while somebody waited for it. One that is `watched` stands still then,
    /// unless others bring no more or fill this gateway's link, and if it may be asked for again.
    async fn too_slow(&self, peers: &Peers, run: &Run, watched: bool) -> PeerError {
        let patience = if watched { STANDS_STILL } else { NO_PROGRESS };
        let mut since = self.since;
        loop {
            tokio::time::sleep_until(since + patience).await;
            if run.is_awaited() {
                if !watched {
                    return PeerError::Stalled;
                }
                let has_room = !peers.fill_the_link(self.of_all, self.since);
                if has_room && self.is_behind(peers) && peers.takes_again() {
                    return PeerError::StandsStill;
                }
            }
            since = Instant::now();
            while !run.is_awaited() {
                tokio::time::sleep(STANDS_STILL / 4).await;
                since = Instant::now();
            }
        }
    }

    /// Whether it is alone, or the others brought far more. Where many began or ended meanwhile, there were as many all the
    /// time.
    fn is_behind(&self, peers: &Peers) -> bool {
        let others = self.hits.max(peers.hits.count()).saturating_sub(1);
        let of_others = (peers.hits.bytes() - self.of_hits).saturating_sub(self.came);
        others == 0 || self.came * BEHIND * others < of_others
    }
}

/// The bodies of what members had when they were asked.
#[derive(Debug, Default)]
pub(super) struct Hits {
    /// How many are being taken.
    count: AtomicU64,
    bytes: AtomicU64,
}

/// One of them, until it is dropped.
struct Hit<'a>(&'a Hits);

impl Hits {
    fn begin(&self) -> Hit<'_> {
        self.count.fetch_add(1, Ordering::Relaxed);
        Hit(self)
    }

    fn came(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

impl Drop for Hit<'_> {
    fn drop(&mut self) {
        self.0.count.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
