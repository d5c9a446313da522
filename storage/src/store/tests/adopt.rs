//! Runs that are fed by an answer which was under way before them.

use super::*;

#[tokio::test]
async fn an_answer_that_brings_all_goes_on_with_memory_that_came_back() {
    let store = store(64 * MIB);
    let version = version(5 * MIB);
    let mut opened = store.open(&object(), &version, 0..=4, Some(0));
    let mut run = opened.runs.pop().unwrap();
    // Memory for two blocks.
    let others = u32::try_from(61 * MIB + MIB / 2).unwrap();
    let held = store.budget().try_reserve(others, For::Clients).unwrap();
    assert_eq!(run.adopt(), Some(0..2 * MIB));
    let bytes = vec![7; 5 << 20];
    assert_eq!(run.write(&bytes[..1 << 20]), Flow::More);
    assert_eq!(run.end(), 2 * MIB, "there is no more, and nobody waits");
    drop(held);
    // Over the end of what there was memory for.
    assert_eq!(run.write(&bytes[1 << 20..4 << 20]), Flow::More);
    assert_eq!(run.end(), 5 * MIB);
    run.write(&bytes[4 << 20..]);
    assert!(run.is_over());
    assert_eq!(store.running_fills(), 0);
}

#[tokio::test]
async fn an_answer_for_which_there_is_no_memory_is_let_go_and_the_rest_asked_anew() {
    let store = store(64 * MIB);
    let version = version(3 * MIB);
    let mut opened = store.open(&object(), &version, 0..=2, Some(0));
    let mut run = opened.runs.pop().unwrap();
    let others = u32::try_from(62 * MIB + MIB / 2).unwrap();
    let held = store.budget().try_reserve(others, For::Clients).unwrap();
    assert_eq!(run.adopt(), Some(0..MIB));
    let bytes = vec![7; 3 << 20];
    assert_eq!(run.write(&bytes), Flow::Done);
    assert_eq!((run.reached(), run.has_memory()), (MIB, false));
    drop(held);
    assert_eq!(run.next().await, Some(MIB..3 * MIB));
    assert_eq!(run.write(&bytes[..2 << 20]), Flow::Done);
    assert!(run.is_over());
}

/// Fills a block for whoever asks at `level`.
async fn fill(
    store: &Arc<Store>,
    version: &Arc<Version>,
    index: u32,
    (level, owned): (Level, bool),
) {
    let place = move |_| spot(if owned { ORIGIN } else { 3 }, owned);
    let asker = asker(level, &place);
    let mut opened = store.open_as(&asker, &object(), version, index..=index, Some(index));
    fill_all(opened.runs.remove(0)).await;
}

#[tokio::test]
async fn clients_that_lack_their_share_have_it_at_once_though_others_have_copies() {
    let store = Store::in_fleet(64 * MIB, BlockSize::new(1 << 20), None, Copies::Apart);
    let version = version(4 * MIB);
    fill(&store, &version, 0, (2, false)).await;
    fill(&store, &version, 1, (2, false)).await;
    fill(&store, &version, 2, (0, true)).await;
    // Their sockets hold the rest but half a block: only their own block gives them enough.
    let share = 64 * MIB / 3 * 2;
    let rest = share - MIB - u64::from(OVERHEAD) - MIB / 2;
    let rest = u32::try_from(rest).unwrap();
    let held = store.budget().try_reserve(rest, For::Clients).unwrap();
    let place = |_| spot(ORIGIN, true);
    let mut opened = store.open_as(&asker(0, &place), &object(), &version, 3..=3, Some(3));
    let mut run = opened.runs.remove(0);
    assert_eq!(run.adopt(), Some(3 * MIB..4 * MIB));
    assert!(store.is_in_memory(&version, 1) && !store.is_in_memory(&version, 2));
    drop(held);
}
