//! What goes wrong with a disk, and when.

use std::time::Duration;

use tokio::time::Instant;

use crate::random::Random;

/// When all troubles are over.
const WITHIN: u64 = 15_000;

/// What is wrong with the whole disk for a while.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Trouble {
    /// Nothing works.
    Failing,
    /// There is no room.
    Full,
    /// Everything takes long.
    Slow,
}

/// What becomes of a write that is reported done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fate {
    /// The index never names it.
    Dropped,
    /// The index names it until a restart, and what was there before is there still.
    Lost,
    /// The index names it, and what was there before is there still.
    Misplaced,
    /// The end of it is missing.
    Torn,
}

impl Fate {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Dropped => "disk: write dropped",
            Self::Lost => "disk: write lost",
            Self::Misplaced => "disk: write misplaced",
            Self::Torn => "disk: write torn",
        }
    }
}

/// How a disk is, for the whole of a seed.
#[derive(Debug)]
pub(super) struct Nature {
    /// From when to when it is in trouble, in milliseconds from its beginning.
    troubles: Vec<(Trouble, u64, u64)>,
    /// Percent of writes that go wrong.
    writes: u64,
    /// Percent of reads that fail.
    pub(super) errors: u64,
    /// Percent of reads that find a bit flipped.
    pub(super) flips: u64,
    /// Percent of reads that find the file cut off.
    pub(super) ends: u64,
    /// Percent of ends of a gateway after which bits have rotted.
    rots: u64,
    /// Percent of appends and syncs of the journal that fail.
    pub(super) log: u64,
    /// The longest that a read or a write takes, in microseconds.
    slowest: u64,
}

impl Nature {
    pub(super) fn draw(random: &mut Random) -> Self {
        let count = *random.pick(&[0, 0, 1, 3]);
        let troubles = (0..count).map(|_| {
            let trouble = *random.pick(&[Trouble::Failing, Trouble::Full, Trouble::Slow]);
            let from = random.below(WITHIN);
            (trouble, from, from + random.from(50..=5000))
        });
        Self {
            troubles: troubles.collect(),
            writes: *random.pick(&[0, 0, 5, 30]),
            errors: *random.pick(&[0, 0, 2, 20]),
            flips: *random.pick(&[0, 2, 20]),
            ends: *random.pick(&[0, 0, 5]),
            rots: *random.pick(&[0, 50]),
            log: *random.pick(&[0, 0, 0, 5, 30]),
            slowest: *random.pick(&[300, 3000, 40_000]),
        }
    }

    /// What is wrong with the whole disk, which is there since `begun`.
    pub(super) fn trouble(&self, begun: Instant) -> Option<Trouble> {
        let now = begun.elapsed().as_millis();
        let mut troubles = self.troubles.iter();
        let holds = |(_, from, to): &&(Trouble, u64, u64)| {
            (u128::from(*from)..u128::from(*to)).contains(&now)
        };
        troubles.find(holds).map(|(trouble, ..)| *trouble)
    }

    pub(super) fn fate(&self, random: &mut Random) -> Option<Fate> {
        let fates = [Fate::Dropped, Fate::Lost, Fate::Misplaced, Fate::Torn];
        let fate = *random.pick(&fates);
        random.chance(self.writes).then_some(fate)
    }

    pub(super) fn rots(&self, random: &mut Random) -> bool {
        random.chance(self.rots)
    }

    /// What a read, or a turn of writes, takes.
    pub(super) fn pause(&self, random: &mut Random, trouble: Option<Trouble>) -> Duration {
        match trouble {
            Some(Trouble::Slow) => random.millis(100..=40_000),
            _ => Duration::from_micros(random.from(0..=self.slowest)),
        }
    }
}
