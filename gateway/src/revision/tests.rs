//! Revisions of gateways of one process, whose state store is in memory.

#![allow(clippy::unwrap_used)]

use std::path::PathBuf;

use object_store::memory::InMemory;
use object_store::path::Path as Place;
use object_store::throttle::{ThrottleConfig, ThrottledStore};
use object_store::{ObjectStore, ObjectStoreExt};

use super::*;
use crate::peer::memory::tests::{World, world};

fn manifest(id: &str) -> Revision {
    let text = format!(r#"{{"id":"{id}","keys":[{{"key":"a","etag":"x","size":1}}]}}"#);
    Revision::parse(text.as_bytes()).unwrap()
}

fn standing(id: &str, number: u64) -> Standing {
    Standing {
        number,
        current: Some(Arc::new(manifest(id))),
        previous: None,
    }
}

/// A state store in memory, told to all of these gateways.
fn share(world: &World) -> Arc<InMemory> {
    let store = Arc::new(InMemory::new());
    share_over(world, &(Arc::clone(&store) as Arc<dyn ObjectStore>));
    store
}

fn share_over(world: &World, store: &Arc<dyn ObjectStore>) {
    for at in 0..world.gateways.len() {
        let documents = Documents::over(Arc::clone(store), String::new());
        of(world, at).share(Arc::new(documents));
    }
}

fn of(world: &World, at: usize) -> &Arc<Revisions> {
    &world.gateways[at].state.revisions
}

async fn served(revisions: &Revisions) -> Result<Option<String>, NotNow> {
    let revision = revisions.of("models", None).await?;
    Ok(revision.map(|revision| revision.id.clone()))
}

/// The store of somebody who hears of nobody: each request takes longer than anybody waits.
fn away() -> Arc<dyn ObjectStore> {
    let long = Duration::from_secs(600);
    let config = ThrottleConfig {
        wait_get_per_call: long,
        wait_list_per_call: long,
        wait_put_per_call: long,
        ..ThrottleConfig::default()
    };
    Arc::new(ThrottledStore::new(InMemory::new(), config))
}

/// A gateway that is in no fleet, and its data directory.
fn alone(test: &str) -> (World, PathBuf) {
    let world = world(test, &["a"]);
    let dir = world.dir.join("data");
    std::fs::create_dir_all(dir.join(PLACE)).unwrap();
    (world, dir)
}

#[tokio::test]
async fn a_switch_takes_a_number_above_all_that_any_member_knows() {
    let world = world("revision-above", &["a", "b"]);
    share(&world);
    // This one was alone before.
    of(&world, 0).learn("models", &Arc::new(standing("v9", 9)));
    let switched = of(&world, 1).switch("models", Some(manifest("v2"))).await;
    assert_eq!(switched.unwrap().number, 10);
    for at in 0..2 {
        assert_eq!(served(of(&world, at)).await, Ok(Some("v2".to_owned())));
    }
}

#[tokio::test]
async fn a_document_that_was_lost_is_put_down_again_and_switched() {
    let world = world("revision-lost", &["a", "b"]);
    let store = share(&world);
    for id in ["m1", "m2"] {
        let switched = of(&world, 0).switch("models", Some(manifest(id))).await;
        let _ = switched.unwrap();
    }
    let place = Place::from("revisions/models.json");
    store.delete(&place).await.unwrap();
    of(&world, 1).look().await.unwrap();
    assert!(store.head(&place).await.is_ok(), "nobody put it down again");
    store.delete(&place).await.unwrap();
    let switched = of(&world, 1).switch("models", Some(manifest("m3"))).await;
    assert_eq!(switched.unwrap().id(), Some("m3"));
    for at in 0..2 {
        assert_eq!(served(of(&world, at)).await, Ok(Some("m3".to_owned())));
    }
}

#[tokio::test]
async fn what_the_store_has_wins_over_what_a_member_knew_before_whatever_its_number() {
    let world = world("revision-truth", &["a", "b"]);
    let store = share(&world);
    of(&world, 0).learn("models", &Arc::new(standing("v9", 9)));
    let text = standing("v1", 1).text();
    let place = Place::from("revisions/models.json");
    store.put(&place, text.into()).await.unwrap();
    of(&world, 0).look().await.unwrap();
    assert_eq!(served(of(&world, 0)).await, Ok(Some("v1".to_owned())));
}

#[tokio::test]
async fn a_switch_that_a_member_does_not_follow_is_not_acknowledged() {
    let world = world("revision-behind", &["a", "b"]);
    share(&world);
    of(&world, 0)
        .switch("models", Some(manifest("v1")))
        .await
        .unwrap();
    tokio::time::pause();
    // Whoever was told between the question and the switch has a number of its own.
    let next = standing("v2", 2);
    of(&world, 1).learn("models", &Arc::new(standing("other", 7)));
    let seen = of(&world, 0).see_it_served("models", &next).await;
    assert!(matches!(seen, Err(NotSwitched::Changed)), "{seen:?}");
}

#[tokio::test]
async fn a_document_that_cannot_be_read_is_its_datasets_trouble_alone() {
    let world = world("revision-unread", &["a", "b"]);
    let store = share(&world);
    of(&world, 0)
        .switch("models", Some(manifest("v1")))
        .await
        .unwrap();
    let place = Place::from("revisions/nothing.json");
    store.put(&place, "{".into()).await.unwrap();
    of(&world, 0).look().await.unwrap();
    // The other member is away, so the store alone can say it.
    world.network.remove("b");
    assert_eq!(served(of(&world, 0)).await, Ok(Some("v1".to_owned())));
    let refused = of(&world, 0).of("nothing", None).await.unwrap_err();
    let refused = refused.to_string();
    assert!(
        refused.contains("revisions/nothing.json") && refused.contains("switch it"),
        "{refused}"
    );
}

#[tokio::test]
async fn a_dataset_whose_document_cannot_be_read_is_served_once_it_is_switched() {
    let world = world("revision-mended", &["a", "b"]);
    let store = share(&world);
    let place = Place::from("revisions/models.json");
    store.put(&place, "{".into()).await.unwrap();
    for at in 0..2 {
        of(&world, at).look().await.unwrap();
        assert!(matches!(
            served(of(&world, at)).await,
            Err(NotNow::Unread(_))
        ));
    }
    let switched = of(&world, 0).switch("models", Some(manifest("v1"))).await;
    let _ = switched.unwrap();
    for at in 0..2 {
        assert_eq!(served(of(&world, at)).await, Ok(Some("v1".to_owned())));
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_hangs_stalls_no_reader_while_all_members_agree() {
    let world = world("revision-hangs", &["a", "b"]);
    share_over(&world, &away());
    for at in 0..2 {
        of(&world, at).learn("models", &Arc::new(standing("v1", 1)));
    }
    let began = Instant::now();
    let readers = (0..8).map(|_| served(of(&world, 0)));
    for read in futures::future::join_all(readers).await {
        assert_eq!(read, Ok(Some("v1".to_owned())));
    }
    assert!(
        began.elapsed() < Duration::from_secs(1),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn all_who_wait_are_refused_when_the_store_and_a_member_stay_silent() {
    let world = world("revision-silent", &["a", "b"]);
    share_over(&world, &away());
    of(&world, 0).learn("models", &Arc::new(standing("v1", 1)));
    world.network.remove("b");
    let began = Instant::now();
    let readers = (0..8).map(|_| served(of(&world, 0)));
    for read in futures::future::join_all(readers).await {
        assert_eq!(read, Err(NotNow::Unconfirmed));
    }
    // One after the other they would wait eight times as long as the store is waited for.
    assert!(began.elapsed() < 2 * HOLD, "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_member_that_heard_of_a_first_revision_serves_nothing_else_once_it_hears_of_nobody() {
    let world = world("revision-prepared", &["a", "b"]);
    let store = share(&world);
    of(&world, 1).look().await.unwrap();
    assert_eq!(served(of(&world, 1)).await, Ok(None));
    let text = standing("v1", 1).text();
    let told = of(&world, 1)
        .answer(&Method::POST, "/revision/prepare/models", &text)
        .await;
    assert!(told.is_some());
    assert!(of(&world, 1).concerns("models"));
    assert_eq!(served(of(&world, 1)).await, Ok(None), "it is sure yet");
    tokio::time::sleep(HOLD).await;
    // From here on it hears of nobody: what is in the store is what it last saw.
    world.network.remove("a");
    let hidden = of(&world, 1).looking.lock().await;
    let read = tokio::time::timeout(HOLD, served(of(&world, 1))).await;
    assert!(!matches!(read, Ok(Ok(None))), "{read:?}");
    drop((hidden, store));
}

#[tokio::test(start_paused = true)]
async fn a_first_revision_that_never_came_is_forgotten() {
    let world = world("revision-never", &["a", "b"]);
    share(&world);
    let text = standing("v1", 1).text();
    let path = "/revision/prepare/models";
    let _ = of(&world, 1).answer(&Method::POST, path, &text).await;
    of(&world, 1).look().await.unwrap();
    assert!(of(&world, 1).concerns("models"));
    tokio::time::sleep(4 * HOLD).await;
    of(&world, 1).look().await.unwrap();
    assert!(!of(&world, 1).concerns("models"));
}

#[tokio::test(start_paused = true)]
async fn a_member_that_never_saw_the_store_serves_what_all_others_know_or_nothing() {
    let world = world("revision-unasked", &["a", "b"]);
    share_over(&world, &away());
    assert_eq!(served(of(&world, 0)).await, Ok(None), "both know of none");
    tokio::time::sleep(HOLD).await;
    of(&world, 1).learn("models", &Arc::new(standing("v1", 1)));
    assert_eq!(served(of(&world, 0)).await, Err(NotNow::Unconfirmed));
}

#[tokio::test]
async fn a_store_that_was_never_reached_stops_nobody_who_hears_of_no_revision() {
    let world = world("revision-lonely", &["a", "b"]);
    share_over(&world, &away());
    world.network.remove("b");
    assert_eq!(served(of(&world, 0)).await, Ok(None));
}

#[tokio::test]
async fn a_file_that_cannot_be_read_is_no_reason_to_serve_what_the_origin_has() {
    let (world, dir) = alone("revision-file");
    let path = dir.join("revisions/models.json");
    std::fs::write(&path, "{").unwrap();
    let revisions = of(&world, 0);
    revisions.keep_in(&dir);
    let refused = served(revisions).await.unwrap_err().to_string();
    assert!(refused.contains("models.json"), "{refused}");
    let cleared = revisions.switch("models", None).await.unwrap();
    assert_eq!(served(revisions).await, Ok(None));
    assert_eq!(
        Standing::parse(&std::fs::read(&path).unwrap())
            .unwrap()
            .number,
        cleared.number
    );
}

#[tokio::test]
async fn a_file_that_is_gone_is_written_again_by_the_same_switch() {
    let (world, dir) = alone("revision-again");
    let revisions = of(&world, 0);
    revisions.keep_in(&dir);
    let path = dir.join("revisions/models.json");
    for _ in 0..2 {
        let _ = revisions
            .switch("models", Some(manifest("v1")))
            .await
            .unwrap();
        std::fs::remove_file(&path).unwrap();
    }
}

#[test]
fn a_page_of_a_revision_goes_on_where_the_one_before_ended() {
    use forebay_storage::listing::{ListRequest, Start};
    let keys = (0..10).map(|at| format!(r#"{{"key":"d{}/k{at}","etag":"x","size":1}}"#, at / 4));
    let keys: Vec<_> = keys.collect();
    let text = format!(r#"{{"id":"v","keys":[{}]}}"#, keys.join(","));
    let revision = Revision::parse(text.as_bytes()).unwrap();
    for (prefix, delimiter, all) in [
        ("", None, 10),
        ("", Some("/"), 3),
        ("d1/", None, 4),
        ("d1/k5", None, 1),
    ] {
        let mut request = ListRequest {
            prefix: prefix.to_owned(),
            delimiter: delimiter.map(str::to_owned),
            start: Start::Beginning,
            max_keys: 1,
        };
        let mut seen = Vec::new();
        loop {
            let page = revision.page(&request);
            seen.extend(page.objects.into_iter().map(|object| object.key));
            seen.extend(page.prefixes);
            match page.next {
                Some(next) => request.start = Start::Token(next),
                None => break,
            }
        }
        let mut sorted = seen.clone();
        sorted.sort();
        sorted.dedup();
        assert_eq!((seen.len(), &seen), (all, &sorted), "{prefix:?}");
    }
}
