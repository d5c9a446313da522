//! The loads: what model loading asks of a cache, in blocks.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::contender::{Contender, Key};

/// Blocks that a cache under test holds: as a GiB does.
pub(super) const BLOCKS: u32 = 1024;

/// A load.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Load {
    /// A hot model of half the memory, one scan of 1.5 × memory, and the hot model again.
    Scan,
    /// The same with a hot model of 0.7 × memory.
    ScanLarge,
    /// The same as the first, read in ranges of an eighth of a block: a scan touches each block eight times.
    ScanRanges,
    /// The same as the first, but the hot model was read only twice before.
    ScanYoung,
    /// One model of 1.5 × memory, over and over.
    Loop,
    /// One tenant loads a model of 0.6 × memory over and over, another beside it one new model after the other.
    Tenants,
    /// Forty models, the n-th loaded in proportion to 1/n.
    Zipf,
    /// The same, just after their popularity was dealt anew.
    Shift,
}

/// What came of a load.
#[derive(Clone, Copy, Debug)]
pub(super) struct Replayed {
    /// Hits ÷ blocks asked for, of those that the load is about; of a scan, the ratio after it ÷ the one before.
    pub(super) ratio: f64,
}

/// Hits and misses.
#[derive(Clone, Copy, Default, Debug)]
struct Count {
    hits: u64,
    asked: u64,
}

impl Count {
    fn ratio(self) -> f64 {
        self.hits as f64 / self.asked.max(1) as f64
    }
}

/// Blocks for so much of memory.
fn of_memory(part: f64) -> u32 {
    (f64::from(BLOCKS) * part) as u32
}

impl Load {
    pub(super) const ALL: [Self; 8] = [
        Self::Scan,
        Self::ScanLarge,
        Self::ScanRanges,
        Self::ScanYoung,
        Self::Loop,
        Self::Tenants,
        Self::Zipf,
        Self::Shift,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Scan => "scan",
            Self::ScanLarge => "scan-large",
            Self::ScanRanges => "scan-ranges",
            Self::ScanYoung => "scan-young",
            Self::Loop => "loop",
            Self::Tenants => "tenants",
            Self::Zipf => "zipf",
            Self::Shift => "shift",
        }
    }

    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Scan => "hot 0.5 × memory, one scan of 1.5 ×",
            Self::ScanLarge => "hot 0.7 × memory, one scan of 1.5 ×",
            Self::ScanRanges => "as scan, all in 128 KiB ranges",
            Self::ScanYoung => "as scan, hot was read twice",
            Self::Loop => "1.5 × memory, over and over",
            Self::Tenants => "0.6 × over and over, beside one-time models",
            Self::Zipf => "40 models of 0.05 to 0.2 ×, Zipf",
            Self::Shift => "as zipf, just after a new deal",
        }
    }

    /// Whether its ratio is what a scan left.
    pub(super) fn is_scan(self) -> bool {
        matches!(
            self,
            Self::Scan | Self::ScanLarge | Self::ScanRanges | Self::ScanYoung
        )
    }

    /// Plays it to an empty cache.
    pub(super) fn play(self, cache: &mut Contender, seed: u64) -> Replayed {
        let mut random = StdRng::seed_from_u64(seed);
        let ratio = match self {
            Self::Scan => scan(cache, 0.5, 4, 1),
            Self::ScanLarge => scan(cache, 0.7, 4, 1),
            Self::ScanRanges => scan(cache, 0.5, 4, 8),
            Self::ScanYoung => scan(cache, 0.5, 2, 1),
            Self::Loop => {
                read_model(cache, 0, of_memory(1.5), 1);
                let passes = (0..8).map(|_| read_model(cache, 0, of_memory(1.5), 1));
                sum(passes).ratio()
            }
            Self::Tenants => tenants(cache),
            Self::Zipf => {
                let models = Models::new(&mut random);
                models.load(cache, &mut random, 200);
                models.load(cache, &mut random, 1000).ratio()
            }
            Self::Shift => {
                let models = Models::new(&mut random);
                models.load(cache, &mut random, 1000);
                let models = models.dealt_anew();
                models.load(cache, &mut random, 100).ratio()
            }
        };
        Replayed { ratio }
    }
}

/// Reads a hot model so many times, then another once, then the first again.
fn scan(cache: &mut Contender, hot: f64, passes: usize, touches: u32) -> f64 {
    let hot = of_memory(hot);
    let mut before = Count::default();
    for _ in 0..passes {
        before = read_model(cache, 0, hot, touches);
    }
    read_model(cache, 1, of_memory(1.5), touches);
    let after = read_model(cache, 0, hot, touches);
    after.ratio() / before.ratio()
}

fn tenants(cache: &mut Contender) -> f64 {
    let (loop_of, once) = (of_memory(0.6), of_memory(0.8));
    let mut count = Count::default();
    let mut at = 0_u32;
    for pass in 0..20 {
        for index in 0..loop_of {
            let hit = touch(cache, (0, index));
            if pass >= 4 {
                count.asked += 1;
                count.hits += u64::from(hit);
            }
            touch(cache, (u64::from(1 + at / once), at % once));
            at += 1;
        }
    }
    count.ratio()
}

/// Reads a model in order, each of its blocks by so many requests; a block counts by its first.
fn read_model(cache: &mut Contender, model: u64, blocks: u32, touches: u32) -> Count {
    let mut count = Count::default();
    for index in 0..blocks {
        count.asked += 1;
        count.hits += u64::from(touch(cache, (model, index)));
        for _ in 1..touches {
            touch(cache, (model, index));
        }
    }
    count
}

fn touch(cache: &mut Contender, key: Key) -> bool {
    let hit = cache.get(key);
    if !hit {
        cache.insert(key);
    }
    hit
}

fn sum(counts: impl Iterator<Item = Count>) -> Count {
    counts.fold(Count::default(), |all, one| Count {
        hits: all.hits + one.hits,
        asked: all.asked + one.asked,
    })
}

/// Models by popularity: their names and sizes.
#[derive(Clone, Debug)]
struct Models(Vec<(u64, u32)>);

impl Models {
    fn new(random: &mut StdRng) -> Self {
        let size = |model| (model, of_memory(random.random_range(0.05..0.2)));
        Self((0..40).map(size).collect())
    }

    /// The least popular become the most popular.
    fn dealt_anew(mut self) -> Self {
        self.0.reverse();
        self
    }

    /// Loads so many, each in whole.
    fn load(&self, cache: &mut Contender, random: &mut StdRng, loads: usize) -> Count {
        let all: f64 = (1..=self.0.len()).map(|rank| 1.0 / rank as f64).sum();
        let picked = (0..loads).map(|_| {
            let mut at = random.random_range(0.0..all);
            let mut ranks = self.0.iter().zip(1..);
            let found = ranks.find(|(_, rank)| {
                at -= 1.0 / f64::from(*rank);
                at < 0.0
            });
            let (model, blocks) = found.map_or(self.0[0], |(model, _)| *model);
            read_model(cache, model, blocks, 1)
        });
        sum(picked)
    }
}
