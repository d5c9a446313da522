//! What happens once in a while: writes that did not arrive, journals that can not be written, others at work.

use super::*;
use crate::frames::Frames;
use crate::nvme::disk::Found;
use crate::nvme::files::LogFile;
use crate::nvme::journal::Told;

fn told(journal: &Path) -> Told {
    let told = Journal::read(&LogFile::new(journal));
    told.unwrap().unwrap().unwrap()
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
    assert_eq!(told(&journal).blocks.len(), 3);
    fs::remove_dir(&part).unwrap();
    purge_all(&tier).await.unwrap();
    assert!(told(&journal).blocks.is_empty());
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
    let _tier = Tier::start(&scratch, 64 * MIB).await;
    let second = Nvme::new(&config(&scratch, 64 * MIB), BlockSize::new(1 << 20));
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
