//! What the tier promises, over real files.

#![allow(clippy::unwrap_used)]

mod full;
mod odd;

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

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

fn config(scratch: &Scratch, bytes: u64) -> Config {
    Config {
        dir: scratch.path().join("nvme"),
        data_dir: scratch.path().to_owned(),
        bytes,
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
        let block_size = BlockSize::new(1 << 20);
        let nvme = Nvme::new(&config(scratch, bytes), block_size).unwrap();
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

/// A write that follows a failed one is what foyer panics at.
#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_failed_a_write_is_given_nothing_more() {
    let scratch = Scratch::new();
    let tier = Tier::start(&scratch, 64 * MIB).await;
    tier.nvme().faults.writes.store(true, Ordering::Release);
    tier.read("a", 0).await;
    tier.until("off", |nvme| nvme.state() == "off").await;
    assert_eq!(get(&tier.nvme().faults.given), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_that_left_the_index_while_it_was_written_is_written_once_more() {
    let scratch = Scratch::new();
    let tier = Tier::start(&scratch, 64 * MIB).await;
    tier.nvme().faults.taken_out.store(1, Ordering::Release);
    tier.read_all("a", 2).await;
    tier.resident(2).await;
    let stats = tier.nvme().stats();
    assert_eq!((get(&stats.dropped_lost), get(&stats.write_errors)), (0, 0));
    assert_eq!(tier.nvme().state(), "on");
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
