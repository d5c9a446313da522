//! What the table of known versions promises.

#![allow(clippy::unwrap_used)]
use super::*;
use crate::version::{Identity, Version};
use http::HeaderMap;
use std::sync::atomic::{AtomicUsize, Ordering};

const RULES: Freshness = Freshness {
    fresh_for: Duration::from_secs(10),
    immutable: false,
    stale_for: Duration::from_secs(60),
};

fn object() -> ObjectId {
    ObjectId::new("models", "a")
}

fn version(etag: &str) -> Arc<Version> {
    let identity = Arc::new(Identity {
        origin: "s3://b/".into(),
        block_size: 1 << 20,
        immutable: false,
    });
    let mut headers = HeaderMap::new();
    headers.insert("etag", etag.parse().unwrap());
    Arc::new(Version::from_headers(&object(), &identity, 1, &headers))
}

fn found(etag: &str) -> Found {
    Found {
        version: version(etag),
        asked_at: Instant::now(),
        fills: None,
    }
}

#[tokio::test(start_paused = true)]
async fn a_hundred_askers_cost_one_question() {
    let versions = Arc::new(Versions::default());
    let asked = Arc::new(AtomicUsize::new(0));
    let askers = (0..100).map(|_| {
        let (versions, asked) = (Arc::clone(&versions), Arc::clone(&asked));
        async move {
            let ask = || {
                let asked = Arc::clone(&asked);
                async move {
                    asked.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(30)).await;
                    Ok(found("\"x\""))
                }
            };
            versions.look_up(&object(), ask).await.unwrap()
        }
    });
    futures::future::join_all(askers).await;
    assert_eq!(asked.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn a_version_is_due_after_fresh_for_unless_immutable() {
    let versions = Arc::new(Versions::default());
    versions.observe(&object(), &version("\"x\""), Instant::now());
    assert!(matches!(
        versions.known(&object(), &RULES),
        Known::Fresh { .. }
    ));
    tokio::time::advance(Duration::from_secs(10)).await;
    let known = versions.known(&object(), &RULES);
    assert!(matches!(known, Known::Due { stale: false, .. }));
    let immutable = Freshness {
        immutable: true,
        ..RULES
    };
    assert!(matches!(
        versions.known(&object(), &immutable),
        Known::Fresh { .. }
    ));
}

#[tokio::test(start_paused = true)]
async fn an_answer_to_an_older_question_does_not_bring_a_version_back() {
    let versions = Arc::new(Versions::default());
    let before = Instant::now();
    tokio::time::advance(Duration::from_millis(5)).await;
    versions.observe(&object(), &version("\"new\""), Instant::now());
    versions.observe(&object(), &version("\"old\""), before);
    let Known::Fresh { version: known, .. } = versions.known(&object(), &RULES) else {
        panic!("the version must be known");
    };
    assert_eq!(known.etag(), Some("\"new\""));
}

#[tokio::test(start_paused = true)]
async fn an_absence_is_believed_for_a_second() {
    let versions = Arc::new(Versions::default());
    versions.observe_error(&object(), &OriginError::NotFound, Instant::now());
    assert!(matches!(
        versions.known(&object(), &RULES),
        Known::Absent(_)
    ));
    tokio::time::advance(Duration::from_secs(1)).await;
    assert!(matches!(versions.known(&object(), &RULES), Known::Unknown));
}

#[tokio::test(start_paused = true)]
async fn an_absence_that_another_gateway_told_is_not_believed_for_longer() {
    let (versions, object) = (Arc::new(Versions::default()), object());
    for (direct, believed) in [(false, false), (true, true)] {
        let ask = |_| async { Err(OriginError::NotFound) };
        let answer = versions.look_up_by(&object, direct, Class::Demand, ask);
        assert_eq!(answer.await.unwrap_err(), OriginError::NotFound);
        let known = versions.known(&object, &RULES);
        assert_eq!(matches!(known, Known::Absent(_)), believed, "{known:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn while_the_origin_is_away_a_known_version_is_stale_and_then_gone() {
    let versions = Arc::new(Versions::default());
    versions.observe(&object(), &version("\"x\""), Instant::now());
    tokio::time::advance(Duration::from_secs(20)).await;
    let away = OriginError::TimedOut;
    versions.observe_error(&object(), &away, Instant::now());
    let known = versions.known(&object(), &RULES);
    assert!(matches!(known, Known::Due { stale: true, .. }));
    tokio::time::advance(Duration::from_secs(60)).await;
    versions.observe_error(&object(), &away, Instant::now());
    let known = versions.known(&object(), &RULES);
    assert!(matches!(known, Known::Due { stale: false, .. }));
}

#[tokio::test]
async fn a_question_that_panicked_leaves_its_place_free() {
    let versions = Arc::new(Versions::default());
    let lost = versions
        .look_up(&object(), || async { panic!("planted") })
        .await;
    assert_eq!(lost.unwrap_err(), OriginError::Abandoned);
    let object = object();
    let again = versions.look_up(&object, || async { Ok(found("\"x\"")) });
    assert!(again.await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_question_that_all_askers_left_is_given_up() {
    let versions = Arc::new(Versions::default());
    let given_up = Arc::new(tokio::sync::Notify::new());
    struct Tells(Arc<tokio::sync::Notify>);
    impl Drop for Tells {
        fn drop(&mut self) {
            self.0.notify_one();
        }
    }
    let object = object();
    let ask = || {
        let tells = Tells(Arc::clone(&given_up));
        async move {
            let _tells = tells;
            std::future::pending().await
        }
    };
    let asking = versions.look_up(&object, ask);
    assert!(
        tokio::time::timeout(Duration::from_secs(1), asking)
            .await
            .is_err()
    );
    given_up.notified().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_forgotten_while_it_is_asked_is_not_noted() {
    let versions = Arc::new(Versions::default());
    let asking = tokio::spawn({
        let versions = Arc::clone(&versions);
        async move {
            let ask = || async {
                tokio::time::sleep(Duration::from_secs(1)).await;
                Ok(found("\"old\""))
            };
            versions.look_up(&object(), ask).await
        }
    });
    tokio::time::sleep(Duration::from_millis(500)).await;
    versions.forget("models", |_| true);
    assert!(asking.await.unwrap().is_ok());
    assert!(matches!(versions.known(&object(), &RULES), Known::Unknown));
}

#[tokio::test(start_paused = true)]
async fn keys_are_forgotten_alone_and_with_what_is_being_asked_of_them() {
    let versions = Arc::new(Versions::default());
    let named = |id: Option<&str>| ObjectId {
        version_id: id.map(Into::into),
        ..object()
    };
    let other = ObjectId::new("models", "b");
    let elsewhere = ObjectId::new("others", "a");
    let all = [named(None), named(Some("null")), named(Some("v1"))];
    for object in all.iter().chain([&other, &elsewhere]) {
        versions.observe(object, &version("\"x\""), Instant::now());
    }
    let asking = tokio::spawn({
        let versions = Arc::clone(&versions);
        async move {
            let ask = || async {
                tokio::time::sleep(Duration::from_secs(1)).await;
                Ok(found("\"old\""))
            };
            versions.look_up(&object(), ask).await
        }
    });
    tokio::time::sleep(Duration::from_millis(500)).await;
    versions.forget_keys("models", ["a"]);
    assert!(asking.await.unwrap().is_ok());
    for object in &all[..2] {
        assert!(matches!(versions.known(object, &RULES), Known::Unknown));
    }
    for object in [&all[2], &other, &elsewhere] {
        assert!(matches!(
            versions.known(object, &RULES),
            Known::Fresh { .. }
        ));
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_is_forgotten_again_and_again_takes_no_more_room() {
    let versions = Versions::default();
    let (object, version) = (object(), version("\"x\""));
    for _ in 0..3 * REMEMBERED {
        versions.observe(&object, &version, Instant::now());
        versions.forget_keys("models", ["a"]);
    }
    assert!(versions.lock().turns.len() <= 2);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_keeps_what_is_known() {
    let versions = Arc::new(Versions::default());
    versions.observe(&object(), &version("\"x\""), Instant::now());
    tokio::time::advance(Duration::from_secs(20)).await;
    let refused = OriginError::Refused { status: 403 };
    versions.observe_error(&object(), &refused, Instant::now());
    let known = versions.known(&object(), &RULES);
    assert!(matches!(known, Known::Due { stale: true, .. }));
}

#[tokio::test(start_paused = true)]
async fn one_objects_failure_makes_no_other_stale() {
    let versions = Arc::new(Versions::default());
    versions.observe(&object(), &version("\"x\""), Instant::now());
    tokio::time::advance(Duration::from_secs(20)).await;
    let other = ObjectId::new("models", "b");
    versions.observe_error(&other, &OriginError::Status { status: 500 }, Instant::now());
    let known = versions.known(&object(), &RULES);
    assert!(matches!(known, Known::Due { stale: false, .. }));
}

#[tokio::test(start_paused = true)]
async fn what_another_gateway_found_away_is_said_of_that_object_alone_and_for_a_moment() {
    let versions = Arc::new(Versions::default());
    let other = ObjectId::new("models", "b");
    for object in [&object(), &other] {
        versions.observe(object, &version("\"x\""), Instant::now());
    }
    tokio::time::advance(Duration::from_secs(20)).await;
    versions.observe_error(&object(), &OriginError::FoundAway, Instant::now());
    let is_stale = |object: &ObjectId| matches!(versions.known(object, &RULES), Known::Due { stale, .. } if stale);
    assert_eq!((is_stale(&object()), is_stale(&other)), (true, false));
    tokio::time::advance(Duration::from_secs(1)).await;
    assert!(!is_stale(&object()));
}

#[tokio::test(start_paused = true)]
async fn a_version_named_null_may_change() {
    let versions = Arc::new(Versions::default());
    for (id, unchanging) in [("null", false), ("abc", true)] {
        let mut object = object();
        object.version_id = Some(id.into());
        versions.observe(&object, &version("\"x\""), Instant::now());
        tokio::time::advance(Duration::from_secs(20)).await;
        let known = versions.known(&object, &RULES);
        assert_eq!(matches!(known, Known::Fresh { .. }), unchanging, "{id}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_forgotten_is_answered_with_nothing_that_others_will_not_see() {
    let versions = Arc::new(Versions::default());
    let asking = tokio::spawn({
        let versions = Arc::clone(&versions);
        async move {
            // Asked at once, and answered late.
            let answer = found("\"newer\"");
            let ask = || {
                let answer = answer.clone();
                async move {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    Ok(answer)
                }
            };
            versions.look_up(&object(), ask).await
        }
    });
    tokio::time::sleep(Duration::from_millis(500)).await;
    versions.forget("models", |_| true);
    let ask = || async { Ok(found("\"known\"")) };
    versions.look_up(&object(), ask).await.unwrap();
    let answer = asking.await.unwrap().unwrap();
    assert_eq!(answer.version.etag(), Some("\"known\""));
}

#[tokio::test]
async fn a_question_is_as_urgent_as_the_most_urgent_of_its_askers() {
    let versions = Arc::new(Versions::default());
    let (told, urgency) = tokio::sync::oneshot::channel();
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    let warming = tokio::spawn({
        let versions = Arc::clone(&versions);
        let mut parts = Some((told, ended));
        async move {
            let ask = |urgency| {
                let (told, ended) = parts.take().unwrap();
                let _ = told.send(urgency);
                async move {
                    let _ = ended.await;
                    Ok(found("\"x\""))
                }
            };
            let object = object();
            versions.look_up_by(&object, true, Class::Warm, ask).await
        }
    });
    let urgency: Urgency = urgency.await.unwrap();
    assert_eq!(urgency.class(), Class::Warm);
    let object = object();
    let none = |_| async { Err(OriginError::NotFound) };
    let reader = versions.look_up_by(&object, true, Class::Demand, none);
    let mut reader = Box::pin(reader);
    assert!(futures::poll!(&mut reader).is_pending());
    assert_eq!(urgency.class(), Class::Demand);
    end.send(()).unwrap();
    assert!(reader.await.is_ok() && warming.await.unwrap().is_ok());
}

#[tokio::test(start_paused = true)]
async fn what_was_known_before_a_newer_one_was_forgotten_does_not_come_back() {
    let versions = Arc::new(Versions::default());
    let (object, other) = (object(), ObjectId::new("models", "b"));
    let before = Instant::now();
    tokio::time::advance(Duration::from_millis(5)).await;
    versions.observe(&object, &version("\"new\""), Instant::now());
    assert!(!versions.is_outdone(&object, before), "it is told itself");
    let forgets: [&dyn Fn(); 3] = [
        &|| versions.forget("models", |_| true),
        &|| versions.forget_keys("models", ["a"]),
        &|| assert!(versions.forget_versions(|_, version| version.etag() == Some("\"new\""))),
    ];
    for forget in forgets {
        versions.observe(&object, &version("\"new\""), Instant::now());
        forget();
        assert!(versions.is_outdone(&object, before));
        assert!(!versions.is_outdone(&object, Instant::now()));
        assert!(!versions.is_outdone(&other, before));
        versions.observe(&object, &version("\"old\""), before);
        assert!(matches!(versions.known(&object, &RULES), Known::Unknown));
        assert!(versions.export().is_empty());
        assert!(!versions.forget_versions(|_, _| true), "it is gone already");
    }
    versions.observe(&object, &version("\"newest\""), Instant::now());
    assert!(matches!(
        versions.known(&object, &RULES),
        Known::Fresh { .. }
    ));
}

#[tokio::test(start_paused = true)]
async fn what_was_told_after_it_was_forgotten_lets_nothing_older_come_back() {
    let versions = Arc::new(Versions::default());
    let before = Instant::now();
    let asking = tokio::spawn({
        let versions = Arc::clone(&versions);
        async move {
            let ask = || async {
                tokio::time::sleep(Duration::from_secs(1)).await;
                Ok(found("\"new\""))
            };
            versions.look_up(&object(), ask).await
        }
    });
    tokio::time::sleep(Duration::from_millis(500)).await;
    versions.forget("models", |_| true);
    // Another gateway knows of the same purge and remembers this, from before.
    versions.observe(&object(), &version("\"old\""), before);
    let told = asking.await.unwrap().unwrap();
    assert_eq!(told.version.etag(), Some("\"new\""));
    assert!(versions.is_outdone(&object(), before));
    assert!(matches!(versions.known(&object(), &RULES), Known::Unknown));
}

#[tokio::test(start_paused = true)]
async fn what_nobody_can_date_stands_in_for_nothing_and_is_not_written_down_as_if_one_could() {
    let versions = Versions::default();
    versions.import_undated(&object(), &version("\"x\""), RULES.longest());
    versions.observe_error(&object(), &OriginError::TimedOut, Instant::now());
    let hour = Duration::from_secs(3600);
    // Rules that came later make it no younger.
    let later = Freshness {
        fresh_for: hour,
        stale_for: hour,
        ..RULES
    };
    for rules in [RULES, later] {
        let known = versions.known(&object(), &rules);
        assert!(
            matches!(known, Known::Due { stale: false, age, .. } if age >= rules.longest()),
            "{known:?}"
        );
    }
    let never = Freshness {
        immutable: true,
        ..RULES
    };
    let known = versions.known(&object(), &never);
    assert!(matches!(known, Known::Fresh { .. }), "{known:?}");
    assert_eq!(versions.export()[0].2, None);
    versions.observe(&object(), &version("\"x\""), Instant::now());
    let known = versions.known(&object(), &RULES);
    assert!(matches!(known, Known::Fresh { .. }), "{known:?}");
    assert_eq!(versions.export()[0].2, Some(Duration::ZERO));
}
