//! What looking up, joining and leading promise, with fills written by hand.

#![allow(clippy::unwrap_used)]

use http::HeaderMap;

use super::*;
use crate::SEGMENT;
use crate::block::OVERHEAD;
use crate::budget::For;
use crate::class::Class;
use crate::error::OriginError;
use crate::fill::Flow;
use crate::flight::From;
use crate::purge::Purge;
use crate::version::Identity;

mod adopt;
mod fleet;

use self::fleet::{asker, spot};

const MIB: u64 = 1 << 20;

fn store(memory: u64) -> Arc<Store> {
    Store::new(memory, BlockSize::new(1 << 20), None)
}

fn object() -> ObjectId {
    ObjectId::new("models", "a")
}

fn version(size: u64) -> Arc<Version> {
    let identity = Arc::new(Identity {
        origin: "s3://b/".into(),
        block_size: 1 << 20,
        immutable: false,
    });
    let mut headers = HeaderMap::new();
    headers.insert("etag", "\"x\"".parse().unwrap());
    Arc::new(Version::from_headers(&object(), &identity, size, &headers))
}

fn outcomes(opened: &Opened) -> Vec<Outcome> {
    opened
        .blocks
        .iter()
        .map(|(_, _, outcome)| *outcome)
        .collect()
}

async fn fill_all(mut run: Run) {
    while let Some(range) = run.next().await {
        let bytes = vec![7; usize::try_from(range.end - range.start).unwrap()];
        run.write(&bytes);
    }
}

#[tokio::test]
async fn the_first_leads_the_rest_join_and_later_ones_hit() {
    let store = store(64 * MIB);
    let version = version(2 * MIB);
    let first = store.open(&object(), &version, 0..=1, Some(0));
    assert_eq!(outcomes(&first), [Outcome::Led, Outcome::Led]);
    assert_eq!(first.runs.len(), 1, "consecutive blocks are one run");
    let second = store.open(&object(), &version, 0..=1, Some(0));
    assert_eq!(outcomes(&second), [Outcome::Joined, Outcome::Joined]);
    for run in first.runs {
        fill_all(run).await;
    }
    let third = store.open(&object(), &version, 0..=1, Some(0));
    assert_eq!(outcomes(&third), [Outcome::Hit, Outcome::Hit]);
    assert_eq!(store.residents().tally("models").bytes, 2 * MIB);
    assert_eq!(store.running_fills(), 0);
}

#[tokio::test]
async fn a_run_is_at_most_eight_mebibytes_and_stops_at_a_gap() {
    let store = store(256 * MIB);
    let version = version(20 * MIB);
    let middle = store.open(&object(), &version, 3..=3, Some(3));
    let opened = store.open(&object(), &version, 0..=19, Some(0));
    let lengths: Vec<u64> = opened
        .runs
        .into_iter()
        .map(|mut run| {
            let range = run.adopt().unwrap();
            (range.end - range.start) / MIB
        })
        .collect();
    assert_eq!(lengths, [3, 8, 8], "block 3 is another's");
    drop(middle);
}

#[tokio::test]
async fn a_follower_reads_segments_of_a_block_that_is_not_whole() {
    let store = store(64 * MIB);
    let version = version(MIB);
    let mut opened = store.open(&object(), &version, 0..=0, Some(0));
    let mut run = opened.runs.pop().unwrap();
    run.next().await.unwrap();
    assert_eq!(run.write(&vec![1; SEGMENT + 5]), Flow::More);
    let (_, Handle::Following(follower), _) = &opened.blocks[0] else {
        panic!("the block must be in flight");
    };
    assert_eq!(follower.segment(0).unwrap().len(), SEGMENT);
    assert!(follower.segment(1).is_none());
    assert_eq!(run.reached(), SEGMENT as u64 + 5);
}

#[tokio::test]
async fn bytes_past_the_end_of_a_run_are_not_taken() {
    let store = store(64 * MIB);
    let version = version(100);
    let mut opened = store.open(&object(), &version, 0..=0, Some(0));
    let mut run = opened.runs.pop().unwrap();
    assert_eq!(run.next().await, Some(0..100));
    assert_eq!(run.write(&[1; 200]), Flow::Done);
    assert_eq!(run.next().await, None);
    assert_eq!(store.residents().total().bytes, 100);
}

#[tokio::test]
async fn a_run_that_nobody_follows_stops_after_its_block() {
    let store = store(64 * MIB);
    let version = version(4 * MIB);
    let mut opened = store.open(&object(), &version, 0..=3, Some(0));
    let mut run = opened.runs.pop().unwrap();
    run.next().await.unwrap();
    run.write(&[1; 10]);
    drop(opened);
    assert_eq!(run.write(&vec![1; 2 << 20]), Flow::Done);
    assert_eq!(run.next().await, None);
    drop(run);
    assert_eq!(store.residents().total().blocks, 1);
    let weight = MIB + u64::from(OVERHEAD);
    assert_eq!((store.running_fills(), store.budget().used()), (0, weight));
}

#[tokio::test]
async fn a_run_that_is_dropped_fails_its_followers_and_frees_its_place() {
    let store = store(64 * MIB);
    let version = version(MIB);
    let mut opened = store.open(&object(), &version, 0..=0, Some(0));
    drop(opened.runs.pop());
    let (_, Handle::Following(mut follower), _) = opened.blocks.pop().unwrap() else {
        panic!("the block must be in flight");
    };
    assert_eq!(follower.wait(0).await, Err(OriginError::Abandoned));
    let again = store.open(&object(), &version, 0..=0, Some(0));
    assert_eq!(outcomes(&again), [Outcome::Led]);
}

#[tokio::test]
async fn a_fill_takes_memory_from_the_oldest_blocks() {
    let store = store(64 * MIB);
    let version = version(200 * MIB);
    for index in 0..100 {
        let mut opened = store.open(&object(), &version, index..=index, Some(index));
        fill_all(opened.runs.pop().unwrap()).await;
        assert!(store.budget().used() <= store.budget().limit());
    }
    let newest = store.open(&object(), &version, 99..=99, Some(99));
    assert_eq!(outcomes(&newest), [Outcome::Hit]);
}

#[tokio::test]
async fn connections_count_with_the_blocks_up_to_half_of_the_bound() {
    let store = store(4 * MIB);
    let version = version(8 * MIB);
    let mut places = Vec::new();
    while let Some(place) = store.place(CONNECTION_BYTES).await {
        places.push(place);
    }
    assert_eq!(places.len(), 46);
    assert_eq!(store.budget().used(), 46 * (44 << 10));
    // However many there are, blocks go through.
    for index in 0..8 {
        let mut opened = store.open(&object(), &version, index..=index, Some(index));
        fill_all(opened.runs.pop().unwrap()).await;
        assert!(store.budget().used() <= store.budget().limit());
    }
    places.pop();
    assert!(store.place(CONNECTION_BYTES).await.is_some());
}

#[tokio::test]
async fn a_reservation_waits_only_for_what_readers_hold() {
    let store = store(2 * (MIB + u64::from(OVERHEAD)));
    let version = version(4 * MIB);
    let mut held = Vec::new();
    for index in 0..2 {
        let mut opened = store.open(&object(), &version, index..=index, Some(index));
        let run = opened.runs.pop().unwrap();
        fill_all(run).await;
        held.push(opened);
    }
    let mut opened = store.open(&object(), &version, 2..=2, Some(2));
    let filling = tokio::spawn(fill_all(opened.runs.pop().unwrap()));
    // The fill can't have its memory while both blocks are held; it must have it once one is not.
    assert_eq!(store.budget().used(), store.budget().limit());
    held.pop();
    filling.await.unwrap();
    let (_, Handle::Following(mut follower), _) = opened.blocks.pop().unwrap() else {
        panic!("the block was in flight");
    };
    assert_eq!(follower.wait(15).await, Ok(()));
}

#[tokio::test]
async fn nothing_is_read_ahead_when_memory_is_nearly_full() {
    let store = store(2 * (MIB + u64::from(OVERHEAD)));
    let version = version(4 * MIB);
    let mut first = store.open(&object(), &version, 0..=1, Some(0));
    let mut run = first.runs.pop().unwrap();
    run.next().await.unwrap();
    let second = store.open(&object(), &version, 2..=3, Some(2));
    assert_eq!(outcomes(&second), [Outcome::Led], "only the demanded block");
}

#[tokio::test]
async fn what_is_purged_in_flight_is_served_to_its_followers_only() {
    let store = store(64 * MIB);
    let version = version(MIB);
    let mut opened = store.open(&object(), &version, 0..=0, Some(0));
    let mut run = opened.runs.pop().unwrap();
    run.next().await.unwrap();
    store
        .purge(&Purge::all("models", &|key| key == "a"))
        .unwrap();
    run.write(&vec![1; 1 << 20]);
    let (_, Handle::Following(mut follower), _) = opened.blocks.pop().unwrap() else {
        panic!("the block must be in flight");
    };
    assert_eq!(follower.wait(15).await, Ok(()));
    let again = store.open(&object(), &version, 0..=0, Some(0));
    assert_eq!(outcomes(&again), [Outcome::Led]);
}

#[tokio::test]
async fn an_answer_from_before_a_purge_fills_nothing() {
    let store = store(64 * MIB);
    let version = version(MIB);
    let purges = store.purges();
    store.purge(&Purge::all("models", &|_| true)).unwrap();
    let late = store.open_for_answer(purges, &Asker::ALONE, &object(), &version, 0..=0);
    assert!(late.blocks.is_empty() && late.runs.is_empty());
    let now = store.open_for_answer(store.purges(), &Asker::ALONE, &object(), &version, 0..=0);
    assert_eq!(outcomes(&now), [Outcome::Led]);
}

#[tokio::test]
async fn a_purged_fill_does_not_take_the_place_of_the_one_that_came_after() {
    let store = store(64 * MIB);
    let version = version(MIB);
    let mut purged = store.open(&object(), &version, 0..=0, Some(0));
    let mut old = purged.runs.pop().unwrap();
    old.next().await.unwrap();
    store
        .purge(&Purge::all("models", &|key| key == "a"))
        .unwrap();
    let mut later = store.open(&object(), &version, 0..=0, Some(0));
    old.write(&vec![1; 1 << 20]);
    let third = store.open(&object(), &version, 0..=0, Some(0));
    assert_eq!(
        outcomes(&third),
        [Outcome::Joined],
        "the later fill is still there"
    );
    fill_all(later.runs.pop().unwrap()).await;
    let fourth = store.open(&object(), &version, 0..=0, Some(0));
    assert_eq!(outcomes(&fourth), [Outcome::Hit]);
}

#[tokio::test]
async fn many_tiny_objects_are_charged_for_what_they_cost() {
    let store = store(64 * MIB);
    let identity = version(1);
    for number in 0..70_000 {
        let object = ObjectId::new("models", format!("{number}"));
        let headers = HeaderMap::new();
        let version = Version::from_headers(&object, &identity.identity, 1, &headers);
        let mut opened = store.open(&object, &Arc::new(version), 0..=0, Some(0));
        fill_all(opened.runs.pop().unwrap()).await;
    }
    assert!(store.residents().total().blocks <= 64 * MIB / u64::from(OVERHEAD));
}

#[tokio::test]
async fn purge_counts_what_it_let_go() {
    let store = store(64 * MIB);
    let version = version(2 * MIB);
    let mut opened = store.open(&object(), &version, 0..=1, Some(0));
    fill_all(opened.runs.pop().unwrap()).await;
    drop(opened);
    assert_eq!(
        store
            .purge(&Purge::all("models", &|key| key == "b"))
            .unwrap()
            .blocks,
        0
    );
    let purged = store
        .purge(&Purge::all("models", &|key| key == "a"))
        .unwrap();
    assert_eq!((purged.blocks, purged.bytes), (2, 2 * MIB));
    assert_eq!(store.budget().used(), 0);
}

#[tokio::test]
async fn a_run_ends_where_its_group_does() {
    let store = store(64 * MIB);
    let version = version(8 * MIB);
    let groups = |index: u32| Spot {
        group: u64::from(index / 4),
        ..Spot::ALONE
    };
    let asker = asker(0, &groups);
    let opened = store.open_as(&asker, &object(), &version, 1..=6, Some(1));
    let starts: Vec<_> = opened.runs.iter().map(Run::index).collect();
    assert_eq!(starts, [Some(1), Some(4)]);
}

#[tokio::test]
async fn a_run_that_lets_go_keeps_its_segments_and_gives_the_rest_back() {
    let store = store(64 * MIB);
    let version = version(MIB);
    let mut opened = store.open(&object(), &version, 0..=0, Some(0));
    let mut run = opened.runs.remove(0);
    run.next().await.unwrap();
    run.write(&vec![7; SEGMENT + 100]);
    run.let_go();
    assert_eq!(store.budget().used(), SEGMENT as u64);
    assert_eq!(run.missing(), Some(SEGMENT as u64..MIB));
    assert_eq!(run.next().await, Some(SEGMENT as u64..MIB));
    run.write(&vec![7; MIB as usize - SEGMENT]);
    assert!(run.is_over());
    assert_eq!(store.budget().used(), MIB + u64::from(OVERHEAD));
    assert_eq!(store.running_fills(), 0);
}

#[tokio::test]
async fn copies_have_their_quarter_and_push_out_nothing_that_is_owned() {
    let store = Store::in_fleet(64 * MIB, BlockSize::new(1 << 20), None, Copies::Apart);
    let version = version(64 * MIB);
    let fill = |index: u32, owned: bool| {
        let place = move |_| spot(if owned { ORIGIN } else { 2 }, owned);
        let asker = asker(2 * u8::from(owned), &place);
        let opened = store.open_as(&asker, &object(), &version, index..=index, Some(index));
        async move {
            let Opened { blocks, runs } = opened;
            for run in runs {
                fill_all(run).await;
            }
            drop(blocks);
        }
    };
    for index in 0..8 {
        fill(index, true).await;
    }
    for index in 8..48 {
        fill(index, false).await;
    }
    assert!((0..8).all(|index| store.is_in_memory(&version, index)));
    let copies = (8..48).filter(|index| store.is_in_memory(&version, *index));
    assert!((14..=16).contains(&copies.count()));
}

#[tokio::test]
async fn copies_that_are_not_kept_are_seen_by_their_followers_only() {
    let store = Store::in_fleet(64 * MIB, BlockSize::new(1 << 20), None, Copies::Dropped);
    let version = version(MIB);
    let place = |_| spot(2, false);
    let mut opened = store.open_as(&asker(0, &place), &object(), &version, 0..=0, Some(0));
    fill_all(opened.runs.remove(0)).await;
    let Handle::Following(follower) = &opened.blocks[0].1 else {
        panic!("it was led");
    };
    assert_eq!(follower.ended(), Some(Ok(())));
    drop(opened);
    assert_eq!(store.budget().used(), 0);
    assert!(!store.is_in_memory(&version, 0));
}

#[tokio::test]
async fn clients_that_lack_their_share_make_room_among_their_own_blocks() {
    let store = Store::in_fleet(64 * MIB, BlockSize::new(1 << 20), None, Copies::Alike);
    let version = version(64 * MIB);
    let fill = |index: u32, level: Level| {
        let place = |_| Spot::ALONE;
        let asker = asker(level, &place);
        let opened = store.open_as(&asker, &object(), &version, index..=index, Some(index));
        async move {
            let Opened { blocks, runs } = opened;
            for run in runs {
                fill_all(run).await;
            }
            drop(blocks);
        }
    };
    fill(63, 2).await;
    // Two thirds of 64 MiB are 42 blocks; the caches' 70 % are 44.
    for index in 0..50 {
        fill(index, 0).await;
    }
    assert!(
        store.is_in_memory(&version, 63),
        "another gateway's block stays"
    );
    assert!(store.is_in_memory(&version, 49) && !store.is_in_memory(&version, 0));
}

#[tokio::test]
async fn a_fill_is_as_urgent_as_the_most_urgent_who_asked_for_it() {
    let store = store(64 * MIB);
    let version = version(4 * MIB);
    let of = |class: Class, demanded: u32| {
        let asker = Asker {
            class,
            ..Asker::ALONE
        };
        store.open_as(&asker, &object(), &version, demanded..=1, Some(demanded))
    };
    let warmed = of(Class::Warm, 0);
    let urgency = warmed.runs[0].urgency();
    assert_eq!(urgency.class(), Class::Warm);
    let _peer = of(Class::Peer, 1);
    assert_eq!(urgency.class(), Class::Peer);
    let _client = of(Class::Demand, 1);
    assert_eq!(urgency.class(), Class::Demand);
}

#[tokio::test]
async fn what_lies_behind_a_demanded_block_is_read_ahead() {
    let store = store(64 * MIB);
    let version = version(16 * MIB);
    let opened = store.open(&object(), &version, 0..=15, Some(0));
    let classes: Vec<_> = opened
        .runs
        .iter()
        .map(|run| run.urgency().class())
        .collect();
    assert_eq!(classes, [Class::Demand, Class::ReadAhead]);
    let Handle::Following(follower) = &opened.blocks[9].1 else {
        panic!("it was led");
    };
    follower.urge(Class::Demand);
    assert_eq!(opened.runs[1].urgency().class(), Class::Demand);
}

#[tokio::test]
async fn requests_of_the_origin_are_as_long_as_its_asker_says_from_the_block_that_is_asked_for() {
    let store = store(64 * MIB);
    let version = version(16 * MIB);
    let asker = Asker {
        run: 3 * MIB,
        ..Asker::ALONE
    };
    let opened = store.open_as(&asker, &object(), &version, 1..=8, Some(1));
    let runs: Vec<_> = opened
        .runs
        .iter()
        .map(|run| (run.index(), run.last_index()))
        .collect();
    let expected = [(1, 3), (4, 6), (7, 8)].map(|(first, last)| (Some(first), Some(last)));
    assert_eq!(runs, expected);
}
