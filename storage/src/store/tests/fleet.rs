//! Fills of a fleet's member: who joins whose, and what those that turn to the origin find there.

use super::*;

/// An asker of a fleet whose missing blocks would come from `source`.
pub(super) fn asker(level: Level, spot: &dyn Fn(u32) -> Spot) -> Asker<'_> {
    let class = if level == 0 {
        Class::Demand
    } else {
        Class::Peer
    };
    Asker {
        level,
        class,
        spot,
        run: RUN_BYTES,
    }
}

pub(super) fn spot(source: Level, owned: bool) -> Spot {
    Spot {
        source,
        group: 0,
        owned,
    }
}

#[tokio::test]
async fn whoever_asks_joins_only_a_fill_whose_source_is_above() {
    let store = store(64 * MIB);
    let version = version(MIB);
    let from_owner = |_| spot(2, false);
    let from_origin = |_| spot(ORIGIN, true);
    let open = |asker: &Asker<'_>| store.open_as(asker, &object(), &version, 0..=0, Some(0));
    // A client's fill asks the owner; who is asked as the owner must not wait for it.
    let client = open(&asker(0, &from_owner));
    let other = open(&asker(0, &from_owner));
    let peer = open(&asker(2, &from_origin));
    assert_eq!(outcomes(&client), [Outcome::Led]);
    assert_eq!(outcomes(&other), [Outcome::Joined]);
    assert_eq!(outcomes(&peer), [Outcome::Led]);
    assert_eq!(store.running_fills(), 2);
    // From here on everybody joins the one that reads the origin.
    let late = open(&asker(2, &from_origin));
    assert_eq!(outcomes(&late), [Outcome::Joined]);
    let late = open(&asker(0, &from_owner));
    assert_eq!(outcomes(&late), [Outcome::Joined]);
    for run in client.runs.into_iter().chain(peer.runs) {
        fill_all(run).await;
    }
    assert_eq!(store.running_fills(), 0);
    assert_eq!(store.residents().tally("models").blocks, 1);
}

#[tokio::test]
async fn a_fill_that_turns_to_the_origin_can_be_joined_by_all() {
    let store = store(64 * MIB);
    let version = version(MIB);
    let from_owner = |_| spot(2, false);
    let first = store.open_as(&asker(0, &from_owner), &object(), &version, 0..=0, Some(0));
    first.runs[0].set_source(ORIGIN, From::Origin);
    assert_eq!(first.runs[0].source(), ORIGIN);
    first.runs[0].set_source(2, From::Peer);
    assert_eq!(first.runs[0].source(), ORIGIN, "a source never falls");
    let peer = store.open_as(&asker(2, &from_owner), &object(), &version, 0..=0, Some(0));
    assert_eq!(outcomes(&peer), [Outcome::Joined]);
}

/// A run of a client that asks the owner, and one of the same blocks that was asked for as the owner.
fn both_ways(store: &Arc<Store>, size: u64, blocks: RangeInclusive<u32>) -> (Opened, Opened) {
    let version = version(size);
    let from_owner = |_| spot(2, false);
    let from_origin = |_| spot(ORIGIN, true);
    let client = asker(0, &from_owner);
    let count = version.size.div_ceil(MIB) as u32;
    let client = store.open_as(&client, &object(), &version, 0..=count - 1, Some(0));
    let peer = asker(2, &from_origin);
    let peer = store.open_as(&peer, &object(), &version, blocks, None);
    (client, peer)
}

#[tokio::test]
async fn a_run_that_turns_to_the_origin_asks_for_nothing_that_came_meanwhile() {
    let store = store(64 * MIB);
    let (mut client, mut peer) = both_ways(&store, 3 * MIB, 1..=1);
    fill_all(peer.runs.pop().unwrap()).await;
    let used = store.budget().used();
    let mut run = client.runs.pop().unwrap();
    let shared = run.turn_to_origin().unwrap();
    assert_eq!((shared.index(), run.source()), (1, ORIGIN));
    let mut rest = run.split_off(1).unwrap();
    let shared = rest.turn_to_origin().unwrap();
    rest.share(shared).await;
    assert_eq!(rest.index(), Some(2));
    assert_eq!(store.budget().used(), used, "nothing is copied");
    assert!(rest.turn_to_origin().is_none() && run.turn_to_origin().is_none());
    fill_all(run).await;
    fill_all(rest).await;
    assert_eq!(store.running_fills(), 0);
    assert_eq!(store.residents().tally("models").blocks, 3);
}

#[tokio::test]
async fn a_run_that_turns_to_the_origin_follows_what_is_read_from_there_and_asks_if_that_fails() {
    let store = store(64 * MIB);
    let (mut client, mut peer) = both_ways(&store, MIB, 0..=0);
    let mut above = peer.runs.pop().unwrap();
    above.next().await.unwrap();
    above.write(&[7; SEGMENT]);
    let mut run = client.runs.pop().unwrap();
    let Handle::Following(mut reader) = client.blocks.remove(0).1 else {
        panic!("it is arriving");
    };
    let shared = run.turn_to_origin().unwrap();
    let following = tokio::spawn(async move {
        run.share(shared).await;
        run
    });
    reader.wait(0).await.unwrap();
    assert_eq!(reader.segment(0).unwrap()[..], [7; SEGMENT]);
    above.fail(&OriginError::Cut);
    let mut run = following.await.unwrap();
    assert!(run.turn_to_origin().is_none(), "nobody reads it now");
    assert_eq!(run.next().await, Some(SEGMENT as u64..MIB));
    assert!(reader.ended().is_none());
}

#[tokio::test]
async fn a_run_that_turns_to_the_origin_follows_one_from_above_that_asks_others_before() {
    let store = store(64 * MIB);
    let version = version(MIB);
    let (from_owner, from_before) = (|_| spot(2, false), |_| spot(3, true));
    let open = |asker: &Asker<'_>| store.open_as(asker, &object(), &version, 0..=0, Some(0));
    let mut client = open(&asker(0, &from_owner));
    let mut peer = open(&asker(2, &from_before));
    let (mut run, above) = (client.runs.pop().unwrap(), peer.runs.pop().unwrap());
    let shared = run.turn_to_origin().unwrap();
    let filled = fill_all(above);
    tokio::join!(run.share(shared), filled);
    assert!(run.is_over());
    assert_eq!(store.residents().tally("models").blocks, 1);
}

#[tokio::test]
async fn what_a_client_waits_for_behind_another_block_leaves_the_run() {
    let store = store(64 * MIB);
    let version = version(4 * MIB);
    let from_owner = |_| spot(2, false);
    let client = asker(0, &from_owner);
    let mut first = store.open_as(&client, &object(), &version, 0..=3, Some(0));
    let mut run = first.runs.pop().unwrap();
    assert_eq!(run.next().await, Some(0..4 * MIB));
    assert!(
        run.split_off_awaited().is_none(),
        "its own reader is at the first"
    );
    let other = store.open_as(&client, &object(), &version, 2..=3, Some(2));
    assert_eq!(outcomes(&other), [Outcome::Joined, Outcome::Joined]);
    let rest = run.split_off_awaited().unwrap();
    assert_eq!((rest.index(), rest.last_index()), (Some(2), Some(3)));
    assert_eq!((run.index(), run.last_index()), (Some(0), Some(1)));
    assert_eq!(run.end(), 2 * MIB, "the memory for the others went back");
    run.let_go();
    fill_all(rest).await;
    fill_all(run).await;
    assert_eq!(store.running_fills(), 0);
    assert_eq!(store.residents().tally("models").blocks, 4);
}
