//! A tier that is full.

use super::*;

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
