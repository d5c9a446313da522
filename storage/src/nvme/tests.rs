//! What the tier promises, over real files.

#![allow(clippy::unwrap_used)]

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::sync::atomic::AtomicU32;

use http::HeaderMap;
use tokio::task::JoinHandle;

use super::*;
use crate::fill::{FromNvme, Run};
use crate::purge::{Place, Purge};
use crate::residents::Pins;
use crate::store::{Handle, Outcome, Store};
use crate::version::Identity;

const MIB: u64 = 1 << 20;

/// Far beyond what any step here takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// A directory of one test, removed with it.
pub(super) struct Scratch(PathBuf);

impl Scratch {
    pub(super) fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("forebay-nvme-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A store with its NVMe tier at work.
struct Tier {
    store: Arc<Store>,
    task: JoinHandle<()>,
}

impl Tier {
    async fn start(scratch: &Scratch, bytes: u64) -> Self {
        let tier = Self::begin(scratch, bytes);
        tier.until("on", |nvme| nvme.state() == "on").await;
        tier
    }

    fn begin(scratch: &Scratch, bytes: u64) -> Self {
        let config = Config {
            dir: scratch.path().join("nvme"),
            data_dir: scratch.path().to_owned(),
            bytes,
        };
        let block_size = BlockSize::new(1 << 20);
        let nvme = Nvme::new(config, block_size).unwrap();
        let store = Store::new(256 * MIB, block_size, Some(nvme));
        let task = tokio::spawn(Arc::clone(&store).keep_nvme());
        Self { store, task }
    }

    fn nvme(&self) -> &Arc<Nvme> {
        self.store.nvme().unwrap()
    }

    async fn until(&self, what: &str, holds: impl Fn(&Nvme) -> bool) {
        let end = tokio::time::Instant::now() + PATIENCE;
        while !holds(self.nvme()) {
            let nvme = self.nvme();
            assert!(
                tokio::time::Instant::now() < end,
                "never {what}: {} {:?}",
                nvme.state(),
                nvme.stats()
            );
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    async fn resident(&self, blocks: usize) {
        self.until("resident", |nvme| nvme.residents().blocks() >= blocks)
            .await;
    }

    /// Leaves without a word, as a process that is killed does.
    async fn kill(self) {
        let nvme = Arc::downgrade(self.nvme());
        self.task.abort();
        let _ = self.task.await;
        drop(self.store);
        // A step under way on a thread of its own holds the directory until it is done.
        let end = tokio::time::Instant::now() + PATIENCE;
        while nvme.strong_count() > 0 {
            assert!(tokio::time::Instant::now() < end, "the tier stays in use");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Reads a block, from the "origin" if need be, and says where it was.
    async fn read(&self, name: &str, index: u32) -> Outcome {
        let version = version(name);
        let opened = self
            .store
            .open(&object(name), &version, index..=index, Some(index));
        let (_, handle, outcome) = opened.blocks.into_iter().next().unwrap();
        let mut outcome = outcome;
        for run in opened.runs {
            if drive(run).await == FromNvme::Missing {
                outcome = Outcome::Led;
            }
        }
        let segments = |segment: usize| match &handle {
            Handle::Resident(block) => block.segment(segment).cloned(),
            Handle::Following(follower) => follower.segment(segment).cloned(),
        };
        let bytes: Vec<u8> = (0..16)
            .filter_map(segments)
            .flat_map(|segment| segment.to_vec())
            .collect();
        assert!(bytes == pattern(name, index), "{name} {index}: wrong bytes");
        outcome
    }

    async fn read_all(&self, name: &str, blocks: u32) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        for index in 0..blocks {
            outcomes.push(self.read(name, index).await);
        }
        outcomes
    }
}

async fn drive(mut run: Run) -> FromNvme {
    let from = run.read_nvme().await;
    if from == FromNvme::Missing {
        while let Some(range) = run.next().await {
            let key = run.object().key.to_string();
            for index in range.start / MIB..range.end / MIB {
                run.write(&pattern(&key, u32::try_from(index).unwrap()));
            }
        }
    }
    from
}

fn pattern(name: &str, index: u32) -> Vec<u8> {
    let seed = xxhash_rust::xxh3::xxh3_64_with_seed(name.as_bytes(), index.into());
    (0..MIB / 8)
        .flat_map(|word| (seed ^ word.wrapping_mul(0x9e37_79b9_7f4a_7c15)).to_le_bytes())
        .collect()
}

fn object(name: &str) -> ObjectId {
    ObjectId::new("models", name)
}

fn version(name: &str) -> Arc<Version> {
    let identity = Arc::new(Identity {
        origin: "s3://b/".into(),
        block_size: 1 << 20,
        immutable: false,
    });
    let mut headers = HeaderMap::new();
    headers.insert("etag", "\"x\"".parse().unwrap());
    let size = 100 * MIB;
    Arc::new(Version::from_headers(
        &object(name),
        &identity,
        size,
        &headers,
    ))
}

fn block_files(scratch: &Scratch) -> Vec<PathBuf> {
    let files = fs::read_dir(scratch.path().join("nvme")).unwrap();
    let files = files.map(|file| file.unwrap().path());
    let mut files: Vec<_> = files
        .filter(|path| path.to_str().unwrap().contains("foyer"))
        .collect();
    files.sort();
    files
}

fn get(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_resident_is_found_after_a_kill() {
    let scratch = Scratch::new();
    let tier = Tier::start(&scratch, 64 * MIB).await;
    assert!(
        tier.read_all("a", 20)
            .await
            .iter()
            .all(|outcome| *outcome == Outcome::Led)
    );
    tier.resident(20).await;
    assert_eq!(
        tier.store.resident_bytes("models"),
        20 * MIB,
        "counted once"
    );
    tier.kill().await;
    let tier = Tier::start(&scratch, 64 * MIB).await;
    let remembered = tier.nvme().take_remembered();
    assert_eq!(remembered.len(), 1);
    assert_eq!(
        (&remembered[0].object, remembered[0].key),
        (&object("a"), version("a").key)
    );
    assert!(
        tier.read_all("a", 20)
            .await
            .iter()
            .all(|outcome| *outcome == Outcome::Nvme)
    );
    assert!(
        tier.read_all("a", 20)
            .await
            .iter()
            .all(|outcome| *outcome == Outcome::Hit)
    );
    assert_eq!(get(&tier.nvme().stats().damaged), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_purged_never_comes_back() {
    let scratch = Scratch::new();
    let tier = Tier::start(&scratch, 64 * MIB).await;
    tier.read_all("a", 5).await;
    tier.read_all("b", 5).await;
    tier.resident(10).await;
    let store = Arc::clone(&tier.store);
    let purge = move || store.purge(&Purge::all("models", &|key| key == "a"));
    let purged = tokio::task::spawn_blocking(purge).await.unwrap().unwrap();
    assert_eq!((purged.blocks, purged.bytes), (5, 5 * MIB));
    assert_eq!(tier.read("a", 0).await, Outcome::Led);
    tier.kill().await;
    let tier = Tier::start(&scratch, 64 * MIB).await;
    let outcomes = tier.read_all("a", 5).await;
    assert!(
        outcomes[1..].iter().all(|outcome| *outcome == Outcome::Led),
        "{outcomes:?}"
    );
    assert!(
        tier.read_all("b", 5)
            .await
            .iter()
            .all(|outcome| *outcome == Outcome::Nvme)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purge_reaches_what_is_being_written() {
    let scratch = Scratch::new();
    let tier = Tier::start(&scratch, 64 * MIB).await;
    for round in 0..20 {
        tier.read_all("a", 8).await;
        let store = Arc::clone(&tier.store);
        let purge = move || store.purge(&Purge::all("models", &|_| true));
        tokio::task::spawn_blocking(purge).await.unwrap().unwrap();
        assert_eq!(
            tier.read("a", round % 8).await,
            Outcome::Led,
            "round {round}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purge_of_the_disk_alone_reaches_what_waits_to_be_written() {
    let scratch = Scratch::new();
    let tier = Tier::start(&scratch, 64 * MIB).await;
    for round in 0..20 {
        tier.read_all("a", 8).await;
        let store = Arc::clone(&tier.store);
        let purge = move || {
            let all = Purge::all("models", &|_| true);
            store.purge(&Purge {
                place: Place::Nvme,
                ..all
            })
        };
        tokio::task::spawn_blocking(purge).await.unwrap().unwrap();
        // Behind those that waited: once this one is there, they had their turn.
        let marker = format!("marker {round}");
        tier.read(&marker, 0).await;
        tier.resident(1).await;
        assert_eq!(tier.nvme().total().blocks, 1, "round {round}");
        assert_eq!(
            tier.read("a", round % 8).await,
            Outcome::Hit,
            "round {round}"
        );
        let store = Arc::clone(&tier.store);
        let purge = move || store.purge(&Purge::all("models", &|_| true));
        tokio::task::spawn_blocking(purge).await.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn flipped_bytes_are_misses_and_counted() {
    let scratch = Scratch::new();
    let tier = Tier::start(&scratch, 64 * MIB).await;
    tier.read_all("a", 20).await;
    tier.resident(20).await;
    tier.kill().await;
    for path in block_files(&scratch) {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
            .unwrap();
        // In the middle of the second block of each file: whatever lies there.
        let at = MIB + MIB / 2;
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 1], at).unwrap();
    }
    let tier = Tier::start(&scratch, 64 * MIB).await;
    let outcomes = tier.read_all("a", 20).await;
    let missed = outcomes.iter().filter(|outcome| **outcome == Outcome::Led);
    assert_eq!(missed.count(), 5, "{outcomes:?}");
    assert_eq!(get(&tier.nvme().stats().damaged), 5);
    assert_eq!(tier.nvme().state(), "on");
    tier.resident(20).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_cut_off_under_us_is_misses_and_no_outage() {
    let scratch = Scratch::new();
    let tier = Tier::start(&scratch, 64 * MIB).await;
    tier.read_all("a", 20).await;
    tier.resident(20).await;
    tier.kill().await;
    let tier = Tier::start(&scratch, 64 * MIB).await;
    for path in block_files(&scratch) {
        let file = OpenOptions::new().write(true).open(path).unwrap();
        file.set_len(MIB / 2).unwrap();
    }
    let outcomes = tier.read_all("a", 20).await;
    assert!(outcomes.iter().all(|outcome| *outcome == Outcome::Led));
    assert_eq!(get(&tier.nvme().stats().damaged), 20);
    assert_eq!(tier.nvme().state(), "on");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_fails_reads_is_left_alone_and_tried_again() {
    let scratch = Scratch::new();
    let tier = Tier::start(&scratch, 64 * MIB).await;
    tier.read_all("a", 10).await;
    tier.resident(10).await;
    tier.kill().await;
    let tier = Tier::start(&scratch, 64 * MIB).await;
    tier.nvme().faults.probes.store(true, Ordering::Release);
    tier.nvme().faults.reads.store(true, Ordering::Release);
    for index in 0..3 {
        assert_eq!(tier.read("a", index).await, Outcome::Led);
    }
    assert_eq!(tier.nvme().state(), "off");
    assert!(tier.nvme().trouble().unwrap().contains("3 reads in a row"));
    assert_eq!(
        tier.store.resident_bytes("models"),
        3 * MIB,
        "only what is in memory"
    );
    assert_eq!(tier.read("a", 5).await, Outcome::Led);
    assert_eq!(
        get(&tier.nvme().stats().read_errors),
        3,
        "it was not asked again"
    );
    tier.nvme().faults.reads.store(false, Ordering::Release);
    tier.nvme().faults.probes.store(false, Ordering::Release);
    tier.until("on again", |nvme| nvme.state() == "on").await;
    assert_eq!(tier.read("a", 6).await, Outcome::Nvme);
}

/// Files below the directory that this process has open.
fn open_below(dir: &Path) -> usize {
    let open = std::fs::read_dir("/proc/self/fd").unwrap();
    let open = open.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
    open.filter(|path| path.starts_with(dir)).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_left_alone_is_let_go_and_not_made_anew() {
    let scratch = Scratch::new();
    let tier = Tier::start(&scratch, 64 * MIB).await;
    tier.read_all("a", 2).await;
    tier.resident(2).await;
    let dir = scratch.path().join("nvme");
    assert!(open_below(&dir) > 6);
    tier.nvme().faults.probes.store(true, Ordering::Release);
    tier.nvme().faults.writes.store(true, Ordering::Release);
    tier.read("b", 0).await;
    tier.until("let go", |nvme| {
        nvme.state() == "off" && open_below(&dir) == 0
    })
    .await;
    let away = scratch.path().join("away");
    std::fs::rename(&dir, &away).unwrap();
    tier.nvme().faults.writes.store(false, Ordering::Release);
    tier.nvme().faults.probes.store(false, Ordering::Release);
    tier.until("tried again", |nvme| {
        nvme.trouble()
            .is_some_and(|reason| reason.contains("not there any more"))
    })
    .await;
    assert!(!dir.exists());
    std::fs::rename(&away, &dir).unwrap();
    tier.until("on again", |nvme| nvme.state() == "on").await;
    assert_eq!(
        open_below(&dir),
        usize::try_from(tier.nvme().geometry().segments).unwrap() + 1
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_does_not_arrive_is_no_residence_and_turns_the_tier_off() {
    let scratch = Scratch::new();
    let tier = Tier::start(&scratch, 64 * MIB).await;
    tier.nvme().faults.writes.store(true, Ordering::Release);
    tier.read_all("a", 2).await;
    tier.until("off", |nvme| nvme.state() == "off").await;
    assert_eq!(tier.nvme().residents().blocks(), 0);
    tier.nvme().faults.writes.store(false, Ordering::Release);
    tier.until("on again", |nvme| nvme.state() == "on").await;
    tier.read_all("b", 2).await;
    tier.resident(2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_that_left_the_index_while_it_was_written_is_written_once_more() {
    let scratch = Scratch::new();
    let tier = Tier::start(&scratch, 64 * MIB).await;
    tier.nvme().faults.lost.store(1, Ordering::Release);
    tier.read_all("a", 2).await;
    tier.resident(2).await;
    let stats = tier.nvme().stats();
    assert_eq!((get(&stats.dropped_lost), get(&stats.write_errors)), (0, 0));
    assert_eq!(tier.nvme().state(), "on");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_tier_stays_within_its_bytes_and_tells_what_it_gave_up() {
    let scratch = Scratch::new();
    let bytes = 40 * MIB;
    let tier = Tier::start(&scratch, bytes).await;
    let kept = u32::try_from(tier.nvme().geometry().blocks()).unwrap();
    tier.read_all("a", kept).await;
    tier.resident(kept as usize).await;
    // First sight: not written. Second: as far as the budget goes, a quarter of the tier.
    for index in kept..kept + 20 {
        tier.read("a", index).await;
        tier.nvme()
            .offer(&object("a"), &version("a"), key(index), 1 << 20);
    }
    let stats = tier.nvme().stats();
    tier.until("written", |nvme| {
        get(&nvme.stats().written) >= u64::from(kept + kept / 4)
    })
    .await;
    assert!(get(&stats.refused_first_sight) >= 15, "{stats:?}");
    assert!(get(&stats.refused_budget) >= 10, "{stats:?}");
    tier.until("given up", |nvme| nvme.residents().evictions() > 0)
        .await;
    let sizes = block_files(&scratch);
    let files: u64 = sizes
        .iter()
        .map(|path| path.metadata().unwrap().len())
        .sum();
    assert!(files <= bytes, "{files}");
    tier.kill().await;
    let tier = Tier::start(&scratch, bytes).await;
    let held = tier.nvme().residents().all();
    assert!(held.len() >= kept as usize / 2);
    for (key, ..) in held {
        assert_eq!(tier.read("a", key.index).await, Outcome::Nvme);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_tier_goes_on_after_kills_in_the_middle_of_reclaiming() {
    let scratch = Scratch::new();
    let bytes = 40 * MIB;
    let tier = Tier::start(&scratch, bytes).await;
    tier.read_all("a", 28).await;
    tier.resident(24).await;
    tier.kill().await;
    for round in 0..8 {
        let name = format!("round {round}");
        let tier = Tier::start(&scratch, bytes).await;
        for index in 0..8 {
            let key = BlockKey {
                version: version(&name).key,
                index,
            };
            tier.read(&name, index).await;
            tier.nvme()
                .offer(&object(&name), &version(&name), key, 1 << 20);
        }
        // As many turns as it takes to have some of them done and some not.
        let written = |nvme: &Nvme| get(&nvme.stats().written) > round % 4;
        tier.until("written", written).await;
        tier.kill().await;
    }
    let tier = Tier::start(&scratch, bytes).await;
    let store = Arc::clone(&tier.store);
    let purge = move || store.purge(&Purge::all("models", &|_| true));
    tokio::task::spawn_blocking(purge).await.unwrap().unwrap();
    tier.read_all("b", 10).await;
    tier.resident(10).await;
    tier.kill().await;
    let tier = Tier::start(&scratch, bytes).await;
    let outcomes = tier.read_all("b", 10).await;
    assert!(
        outcomes.iter().all(|outcome| *outcome == Outcome::Nvme),
        "{outcomes:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_pinned_stays_while_the_tier_is_written_over_and_over() {
    let scratch = Scratch::new();
    let tier = Tier::start(&scratch, 40 * MIB).await;
    let kept = tier.nvme().geometry().blocks();
    let pinned = u32::try_from(kept / 3).unwrap();
    tier.store
        .pin(&Pins::new([("models".to_owned(), "a".to_owned())]));
    tier.read_all("a", pinned).await;
    tier.resident(pinned as usize).await;
    let stats = tier.nvme().stats();
    for round in 0..8 {
        let name = format!("round {round}");
        for index in 0..20 {
            let before = get(&stats.written);
            tier.read(&name, index).await;
            tier.store
                .write_to_nvme(&object(&name), &version(&name), index);
            tier.until("written", |nvme| get(&nvme.stats().written) > before)
                .await;
        }
    }
    assert!(tier.nvme().residents().evictions() > 3 * kept);
    let keys = (0..pinned).map(|index| BlockKey {
        version: version("a").key,
        index,
    });
    for key in keys {
        // One that is just being written again is back at once.
        tier.until("held", |nvme| nvme.holds(&key)).await;
        let frames = tier.store.frames();
        let mut read = tier.nvme().read(key, 1 << 20, frames).await;
        for _ in 0..3 {
            if read.is_none() {
                tier.until("held", |nvme| nvme.holds(&key)).await;
                read = tier.nvme().read(key, 1 << 20, frames).await;
            }
        }
        let bytes: Vec<u8> = read
            .unwrap()
            .iter()
            .flat_map(|part| part.to_vec())
            .collect();
        assert!(bytes == pattern("a", key.index), "{key:?}: wrong bytes");
    }
}

fn key(index: u32) -> BlockKey {
    BlockKey {
        version: version("a").key,
        index,
    }
}

async fn purge_all(tier: &Tier) -> io::Result<()> {
    let store = Arc::clone(&tier.store);
    let purge = move || store.purge(&Purge::all("models", &|_| true)).map(|_| ());
    let purged = tokio::task::spawn_blocking(purge).await.unwrap();
    purged.map_err(|error| io::Error::other(error.to_string()))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_restart_revives_does_not_pass_for_a_write_that_failed() {
    let scratch = Scratch::new();
    let tier = Tier::start(&scratch, 64 * MIB).await;
    tier.read_all("a", 2).await;
    tier.resident(2).await;
    purge_all(&tier).await.unwrap();
    tier.kill().await;
    let tier = Tier::start(&scratch, 64 * MIB).await;
    let disk = tier.nvme().disk().unwrap();
    assert!(disk.contains(&key(0)), "revived: else this shows nothing");
    tier.nvme().faults.writes.store(true, Ordering::Release);
    assert_eq!(tier.read("a", 0).await, Outcome::Led);
    tier.until("off", |nvme| nvme.state() == "off").await;
    assert_eq!(get(&tier.nvme().stats().dropped_lost), 1);
    assert_eq!(get(&tier.nvme().stats().written), 0);
    tier.kill().await;
    let tier = Tier::start(&scratch, 64 * MIB).await;
    assert_eq!(tier.nvme().residents().blocks(), 0);
    assert_eq!(tier.read("a", 0).await, Outcome::Led);
    // Now it is written, and of the two on disk the new one is read.
    tier.resident(1).await;
    tier.kill().await;
    let tier = Tier::start(&scratch, 64 * MIB).await;
    assert_eq!(tier.read("a", 0).await, Outcome::Nvme);
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_of_another_write_are_a_miss_and_no_damage() {
    let scratch = Scratch::new();
    let tier = Tier::start(&scratch, 64 * MIB).await;
    tier.read_all("a", 1).await;
    tier.resident(1).await;
    let nvme = tier.nvme();
    let disk = nvme.disk().unwrap();
    let write = nvme.residents.write_of(&key(0)).unwrap();
    let found = disk.read(key(0), 1 << 20, write, &Frames::new(0)).await;
    assert!(matches!(found, Found::Block(_)), "{found:?}");
    nvme.residents
        .entered_by((&object("a"), Tag::of(None)), key(0), 1 << 20, write + 1);
    assert!(nvme.read(key(0), 1 << 20, &Frames::new(0)).await.is_none());
    assert!(!nvme.holds(&key(0)));
    assert_eq!(get(&nvme.stats().damaged), 0);
    assert_eq!(get(&nvme.stats().read_errors), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purge_that_was_not_noted_is_owed_until_the_journal_is_written_anew() {
    let scratch = Scratch::new();
    let tier = Tier::start(&scratch, 64 * MIB).await;
    tier.read_all("a", 3).await;
    tier.resident(3).await;
    let journal = scratch.path().join(JOURNAL);
    let part = journal.with_extension("part");
    fs::create_dir(&part).unwrap();
    locked(&tier.nvme().ledger).journal.break_file();
    assert!(purge_all(&tier).await.is_err());
    assert!(purge_all(&tier).await.is_err(), "nothing found, yet owed");
    assert_eq!(Journal::read(&journal).unwrap().unwrap().blocks.len(), 3);
    fs::remove_dir(&part).unwrap();
    purge_all(&tier).await.unwrap();
    assert!(Journal::read(&journal).unwrap().unwrap().blocks.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_that_cannot_be_written_keeps_the_tier_off_and_ends_nothing() {
    let scratch = Scratch::new();
    let part = scratch.path().join(JOURNAL).with_extension("part");
    fs::create_dir(&part).unwrap();
    let tier = Tier::begin(&scratch, 64 * MIB);
    tier.until("off", |nvme| nvme.state() == "off").await;
    assert!(purge_all(&tier).await.is_err());
    fs::remove_dir(&part).unwrap();
    tier.until("on", |nvme| nvme.state() == "on").await;
    purge_all(&tier).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_that_are_full_give_up_the_oldest_block() {
    let scratch = Scratch::new();
    let tier = Tier::start(&scratch, 64 * MIB).await;
    let nvme = tier.nvme();
    let most = u32::try_from(nvme.geometry().most_blocks()).unwrap();
    // As small as can be, so that only their number counts.
    let old = |index| BlockKey {
        version: version("old").key,
        index,
    };
    for index in 0..most {
        nvme.residents.entered(&object("old"), old(index), 1);
    }
    // First sight is not enough for a full tier.
    tier.read("a", 0).await;
    nvme.offer(&object("a"), &version("a"), key(0), 1 << 20);
    tier.until("resident", |nvme| nvme.residents().contains(&key(0)))
        .await;
    tier.until("given up", |nvme| get(&nvme.stats().refused_table) == 1)
        .await;
    assert_eq!(nvme.residents().blocks(), most as usize);
    assert!(!nvme.residents().contains(&old(0)));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_process_is_kept_out() {
    let scratch = Scratch::new();
    let tier = Tier::start(&scratch, 64 * MIB).await;
    let second = Nvme::new(tier.nvme().config.clone(), BlockSize::new(1 << 20));
    assert_eq!(second.unwrap_err().kind(), io::ErrorKind::ResourceBusy);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tier_that_was_forgotten_begins_empty() {
    let scratch = Scratch::new();
    let tier = Tier::start(&scratch, 64 * MIB).await;
    tier.read_all("a", 4).await;
    tier.resident(4).await;
    tier.kill().await;
    Nvme::forget(scratch.path()).unwrap();
    let tier = Tier::start(&scratch, 64 * MIB).await;
    assert_eq!(tier.nvme().residents().blocks(), 0);
    assert!(
        tier.read_all("a", 4)
            .await
            .iter()
            .all(|outcome| *outcome == Outcome::Led)
    );
}
