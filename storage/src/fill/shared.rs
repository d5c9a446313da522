//! Blocks of a run that need not be asked for, since this gateway has them by now: they are shown again, as they are.

use super::Run;
use crate::SEGMENT;
use crate::flight::From;
use crate::store::Here;

/// The first block of a run that is here already, or that another fill brings.
#[derive(Debug)]
pub struct Shared {
    index: u32,
    here: Here,
}

impl Shared {
    /// Which block.
    pub fn index(&self) -> u32 {
        self.index
    }
}

impl Run {
    /// Says that the origin is asked from now on, for the blocks before the one that comes back, which must not be asked
    /// for: [`Self::share`] it. `None`: all of them are to be asked for.
    pub fn turn_to_origin(&mut self) -> Option<Shared> {
        let (place, here) = self.store.turn_to_origin(&self.flights)?;
        let index = self.flights[place].key().index;
        Some(Shared { index, here })
    }

    /// Shows the first block as `shared` has it, or as far as that comes: nothing is copied, and no memory taken. There must
    /// be no memory for it. If it does not come whole, the origin is still to be asked.
    ///
    /// Dropping the future loses nothing that came.
    pub async fn share(&mut self, shared: Shared) {
        debug_assert!(self.leases.is_empty() && self.partial.is_none());
        let first = self.flights.front().cloned();
        let Some(flight) = first.filter(|first| first.key().index == shared.index) else {
            return;
        };
        let mut here = shared.here;
        flight.set_from(match &here {
            Here::Resident(_) => From::Origin,
            Here::Arriving(follower) => follower.from(),
        });
        while self.segments * SEGMENT < flight.len() as usize {
            let segment = match &mut here {
                Here::Resident(block) => block.segment(self.segments),
                Here::Arriving(follower) => {
                    follower.urge(flight.class());
                    tokio::select! {
                        biased;
                        () = flight.unfollowed() => return self.drop_unfollowed(),
                        came = follower.wait(self.segments) => if came.is_err() {
                            return;
                        },
                    }
                    follower.segment(self.segments)
                }
            };
            let Some(segment) = segment else { return };
            flight.push(self.segments, segment.clone());
            self.segments += 1;
        }
        self.end_block();
    }
}
