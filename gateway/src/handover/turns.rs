//! Turns in which parts are taken over: as many bytes as a quarter of the link carries, from all donors side by side.
//!
//! A donor whose link is full of readers gives one more flow little of it, so turns that followed each other would take
//! as many times as long as it has readers, just when a member more is wanted most.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::time::Instant;

use super::list::Held;
use super::{Handover, Taken, take};
use crate::peer::Peers;

/// Of the link, what taking over may use: one part in so many.
const PARTS: u32 = 4;

/// Turns at one donor at once, as far as that part of the link carries them.
const AT_ONE_DONOR: usize = 2;

/// Turns at once, whatever there is.
const AT_ONCE: usize = 8;

/// A part that a donor holds, and whose turn comes after those of lower places.
#[derive(Debug)]
pub(super) struct Turn {
    pub(super) place: usize,
    pub(super) donor: String,
    pub(super) held: Held,
}

/// When the next turn may begin.
#[derive(Debug)]
pub(super) struct Pace {
    /// Bytes a second that the link carries at least; zero: not known.
    link: f64,
    next: Instant,
}

/// What came of one turn.
#[derive(Debug)]
struct Came {
    blocks: u64,
    bytes: u64,
    taken: Taken,
    begun: Instant,
}

impl Pace {
    /// That of a link which carries so many bytes a second at least; zero: not known.
    pub(super) fn new(link: u64) -> Self {
        Self {
            link: link as f64,
            next: Instant::now(),
        }
    }

    /// Links are like each other in a fleet: ours carries what another's does.
    pub(super) fn hears(&mut self, link: u64) {
        self.link = self.link.max(link as f64);
    }

    /// How many turns may be under way at once.
    fn at_once(&self, donors: usize) -> usize {
        match self.link > 0.0 {
            true => (donors * AT_ONE_DONOR).clamp(1, AT_ONCE),
            // What one brings is all that there is to know a link by.
            false => 1,
        }
    }

    /// A turn of so many bytes begins.
    fn begins(&mut self, bytes: u64) {
        if self.link > 0.0 {
            let took = Duration::from_secs_f64(bytes as f64 / self.link);
            self.next = self.next.max(Instant::now()) + took * PARTS;
        }
    }

    /// So many bytes of a turn came in this time.
    fn ends(&mut self, begun: Instant, bytes: u64) {
        let took = begun.elapsed();
        if bytes == 0 || took.is_zero() {
            return;
        }
        if self.link == 0.0 {
            self.next = begun + took * PARTS;
        }
        self.link = self.link.max(bytes as f64 / took.as_secs_f64());
    }
}

impl Handover {
    /// Takes one part after the other; false once there is no room for more.
    pub(super) async fn take_turns(
        &self,
        peers: &Arc<Peers>,
        (turns, donors): (Vec<Turn>, usize),
        pace: &mut Pace,
        taken: &mut Taken,
    ) -> bool {
        let store = &self.crew.reads.store;
        let mut running = FuturesUnordered::new();
        let mut begun = taken.bytes;
        let mut fits = true;
        for turn in turns {
            let (blocks, bytes) = turn.held.amount(store.block_size());
            if take::is_here(&self.crew.reads, &turn.held) {
                self.moved(blocks, bytes);
                continue;
            }
            // Where there is no room, hotter blocks of others would have to go. A quarter they may: what came to be
            // ours is as hot as they are.
            let room = store.kept_bytes() / 4;
            if store.free_bytes() < bytes && begun + bytes > room {
                taken.short = true;
                fits = false;
                break;
            }
            loop {
                let full = running.len() >= pace.at_once(donors);
                tokio::select! {
                    biased;
                    Some(came) = running.next() => self.note(peers, &came, pace, taken),
                    () = tokio::time::sleep_until(pace.next), if !full => break,
                }
            }
            pace.begins(bytes);
            begun += bytes;
            running.push(self.turn(turn));
        }
        while let Some(came) = running.next().await {
            self.note(peers, &came, pace, taken);
        }
        fits
    }

    async fn turn(&self, turn: Turn) -> Came {
        let reads = &self.crew.reads;
        let (blocks, bytes) = turn.held.amount(reads.store.block_size());
        take::room(reads).await;
        // Dropped before it is noted: others may have their turn meanwhile.
        let _leave = reads.demand.leave().await;
        let begun = Instant::now();
        let taken = take::from(reads, &turn.held, &turn.donor).await;
        Came {
            blocks,
            bytes,
            taken,
            begun,
        }
    }

    fn note(&self, peers: &Arc<Peers>, came: &Came, pace: &mut Pace, taken: &mut Taken) {
        pace.ends(came.begun, came.taken.bytes);
        taken.blocks += came.taken.blocks;
        taken.bytes += came.taken.bytes;
        taken.short |= came.taken.blocks < came.blocks;
        self.moved(came.blocks, came.bytes);
        let handed = peers.metrics.moves.handed.with_label_values(&["taken"]);
        handed.inc_by(came.taken.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[tokio::test(start_paused = true)]
    async fn turns_begin_as_a_quarter_of_the_link_carries_them() {
        let begun = Instant::now();
        let mut pace = Pace::new(0);
        pace.hears(8 * MIB);
        assert_eq!(pace.at_once(2), 4);
        for turn in 0..5 {
            assert_eq!(pace.next - begun, Duration::from_secs(turn));
            pace.begins(2 * MIB);
        }
        // Donors that are busy give less; that is no word about our link.
        tokio::time::sleep(Duration::from_secs(5)).await;
        pace.ends(begun, 2 * MIB);
        pace.begins(2 * MIB);
        assert_eq!(pace.next - begun, Duration::from_secs(6));
    }

    #[tokio::test(start_paused = true)]
    async fn where_no_link_is_known_a_turn_rests_three_times_as_long_as_it_took() {
        let begun = Instant::now();
        let mut pace = Pace::new(0);
        assert_eq!(pace.at_once(8), 1);
        pace.begins(4 * MIB);
        tokio::time::sleep(Duration::from_secs(1)).await;
        pace.ends(begun, 4 * MIB);
        assert_eq!(pace.next - begun, Duration::from_secs(4));
        assert!(pace.at_once(8) > 1);
    }
}
