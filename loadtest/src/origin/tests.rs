//! The model, asked by the client it is made for.

use std::collections::HashSet;

use http::{HeaderValue, Method, StatusCode, header};
use tokio::time::Instant;

use super::*;
use crate::client::{Ask, Client, Outcome, Read, Want};
use crate::pattern;

async fn model(settings: Settings) -> (Origin, Client) {
    let origin = Origin::start(settings).await.expect("a free port");
    let client = Client::new(&origin.url()).expect("a good URL");
    (origin, client)
}

async fn whole(client: &mut Client, key: &str) -> Read {
    client.read(&Ask::new(key, Want::Whole)).await
}

#[tokio::test]
async fn ranges_of_awkward_objects_come_whole() {
    let (origin, mut client) = model(Settings::default()).await;
    let long = "k".repeat(900);
    for key in [
        "a",
        "a//b",
        "a/",
        "a b",
        "a+b",
        "a%2Fb",
        "ü/日本",
        long.as_str(),
    ] {
        for size in [0, 1, 17, 65_535, 65_537, 300_000] {
            let version = origin.overwrite(key, Some(size));
            let wants = [
                Want::Whole,
                Want::Range(0, 0),
                Want::Range(3, 70_000),
                Want::Open(size.saturating_sub(5)),
                Want::Suffix(9),
                Want::Range(size, size + 9),
            ];
            for want in wants {
                let read = client.read(&Ask::new(key, want.clone())).await;
                let satisfiable = want == Want::Whole || !want.resolve(size).is_empty();
                let right = if satisfiable {
                    Outcome::Whole
                } else {
                    Outcome::Status(416)
                };
                assert_eq!(read.outcome, right, "{key} {size} {want:?}");
                if satisfiable && size > 0 {
                    assert_eq!(read.version, Some(version));
                    assert_eq!(
                        read.bytes,
                        want.resolve(size)
                            .iter()
                            .map(|(first, end)| end - first)
                            .sum::<u64>()
                    );
                }
            }
        }
    }
    assert_eq!(origin.counters().connections, 1);
}

#[tokio::test]
async fn what_is_not_there_is_said_so() {
    let (origin, mut client) = model(Settings::default()).await;
    assert_eq!(whole(&mut client, "a").await.outcome, Outcome::Status(404));
    origin.put("a", 1, 0);
    assert!(whole(&mut client, "a").await.is_whole());
    assert!(origin.delete("a"));
    assert_eq!(whole(&mut client, "a").await.outcome, Outcome::Status(404));
    let mut stranger = Client::new(&format!("{}/other", origin.endpoint())).expect("a good URL");
    assert_eq!(
        whole(&mut stranger, "a").await.outcome,
        Outcome::Status(404)
    );
}

#[tokio::test]
async fn conditions_are_judged_before_the_range() {
    let (origin, mut client) = model(Settings::default()).await;
    origin.put("a", 100, 3);
    let (now, before) = (pattern::etag("a", 3, 100), pattern::etag("a", 2, 100));
    let cases = [
        (header::IF_MATCH, now.clone(), 206),
        (header::IF_MATCH, "*".to_owned(), 206),
        (header::IF_MATCH, format!("{before}, {now}"), 206),
        (header::IF_MATCH, before.clone(), 412),
        (header::IF_MATCH, format!("W/{now}"), 412),
        (header::IF_NONE_MATCH, before, 206),
        (header::IF_NONE_MATCH, format!("W/{now}"), 304),
        (
            header::IF_UNMODIFIED_SINCE,
            "Sat, 01 Jan 2000 00:00:00 GMT".to_owned(),
            412,
        ),
        (
            header::IF_UNMODIFIED_SINCE,
            "Fri, 01 Jan 2100 00:00:00 GMT".to_owned(),
            206,
        ),
        (
            header::IF_MODIFIED_SINCE,
            "Fri, 01 Jan 2100 00:00:00 GMT".to_owned(),
            304,
        ),
    ];
    for (name, value, status) in cases {
        let ask = Ask::new("a", Want::Range(1, 2))
            .header(name, HeaderValue::from_str(&value).expect("ASCII"));
        assert_eq!(
            client.read(&ask).await.status.map(|status| status.as_u16()),
            Some(status),
            "{value}"
        );
    }
}

/// Each fault, and what a client that checks everything makes of it.
#[tokio::test]
async fn every_fault_is_seen_for_what_it_is() {
    let (origin, mut client) = model(Settings::default()).await;
    let size = 1 << 20;
    origin.put("a", size, 5);
    let whole = Want::Whole;
    let part = Want::Range(10, 400_000);
    type Judge = fn(&Outcome) -> bool;
    let cases: [(Fault, &Want, Judge); 11] = [
        (Fault::Hangup, &whole, |outcome| {
            matches!(outcome, Outcome::Unanswered(_))
        }),
        (Fault::Status(503), &whole, |outcome| {
            *outcome == Outcome::Status(503)
        }),
        (Fault::Cut { after: 70_000 }, &whole, |outcome| {
            matches!(outcome, Outcome::Cut(_))
        }),
        (Fault::LyingContentRange, &part, |outcome| {
            matches!(outcome, Outcome::Wrong(_))
        }),
        (Fault::Short { by: 1 }, &part, |outcome| {
            matches!(outcome, Outcome::Wrong(_))
        }),
        (Fault::Short { by: 1 }, &whole, |outcome| {
            matches!(outcome, Outcome::Wrong(_))
        }),
        (Fault::Long { by: 1 }, &part, |outcome| {
            matches!(outcome, Outcome::Wrong(_))
        }),
        (Fault::WrongEtag, &part, |outcome| {
            matches!(outcome, Outcome::Wrong(_))
        }),
        (Fault::OtherVersion { after: 0 }, &part, |outcome| {
            matches!(outcome, Outcome::Wrong(_))
        }),
        (Fault::OtherVersion { after: 200_000 }, &part, |outcome| {
            matches!(outcome, Outcome::Mixed(_))
        }),
        (Fault::OtherVersion { after: 65_536 }, &whole, |outcome| {
            matches!(outcome, Outcome::Mixed(_))
        }),
    ];
    assert!(client.read(&Ask::new("a", part.clone())).await.is_whole());
    for (fault, want, judge) in cases {
        // A hangup on a kept connection is tried once more, so it must happen twice to be seen.
        let times = if fault == Fault::Hangup { 2 } else { 1 };
        origin.fault(Rule {
            times,
            ..Rule::always(fault.clone()).on("a").by(Method::GET)
        });
        let read = client.read(&Ask::new("a", want.clone())).await;
        assert!(judge(&read.outcome), "{fault:?}: {:?}", read.outcome);
        assert!(
            client.read(&Ask::new("a", want.clone())).await.is_whole(),
            "after {fault:?}"
        );
    }
    origin.fault(Rule::once(Fault::WholeBody));
    let read = client.read(&Ask::new("a", part)).await;
    assert_eq!(
        (read.status, read.bytes, read.is_whole()),
        (Some(StatusCode::OK), size, true)
    );
    origin.fault(Rule::once(Fault::IgnoreIfMatch));
    let ask = Ask::new("a", whole).header(header::IF_MATCH, HeaderValue::from_static("\"other\""));
    assert!(client.read(&ask).await.is_whole());
    assert_eq!(client.read(&ask).await.outcome, Outcome::Status(412));
}

#[tokio::test]
async fn a_cut_body_has_its_bytes_before_the_cut() {
    let (origin, mut client) = model(Settings::default()).await;
    origin.put("a", 1 << 20, 0);
    origin.fault(Rule::once(Fault::Cut { after: 100_001 }));
    let read = whole(&mut client, "a").await;
    assert_eq!(read.bytes, 100_001);
    assert_eq!(origin.counters().bytes_sent, 100_001);
}

#[tokio::test]
async fn a_stall_is_a_pause_in_the_body() {
    let (origin, mut client) = model(Settings::default()).await;
    origin.put("a", 200_000, 0);
    let time = Duration::from_millis(200);
    origin.fault(Rule::once(Fault::Stall { after: 1000, time }));
    let read = whole(&mut client, "a").await;
    assert!(read.is_whole() && read.took >= time);
    assert!(read.first_byte_after.is_some_and(|after| after < time));
}

#[tokio::test]
async fn rates_and_the_first_byte_are_kept() {
    let settings = Settings {
        connection_rate: Some(20_000_000),
        total_rate: Some(50_000_000),
        first_byte: Duration::from_millis(30),
        ..Settings::default()
    };
    let (origin, mut client) = model(settings).await;
    origin.put("a", 4_000_000, 0);
    let read = whole(&mut client, "a").await;
    let seconds = read.took.as_secs_f64() - 0.03;
    assert!(
        read.head_after
            .is_some_and(|after| after >= Duration::from_millis(30))
    );
    // 4 MB at 20 MB/s are 200 ms: never less, and not much more, however busy the machine is.
    assert!((0.199..0.4).contains(&seconds), "{seconds}");
    let started = Instant::now();
    let reads = (0..5).map(|_| {
        let mut client = Client::new(&origin.url()).expect("a good URL");
        tokio::spawn(async move { whole(&mut client, "a").await.is_whole() })
    });
    for read in reads.collect::<Vec<_>>() {
        assert!(read.await.expect("no panic"));
    }
    // 20 MB at 50 MB/s in all, though five connections could have taken 100.
    let seconds = started.elapsed().as_secs_f64();
    assert!((0.399..0.8).contains(&seconds), "{seconds}");
}

#[tokio::test]
async fn an_answer_under_way_keeps_its_version() {
    let settings = Settings {
        connection_rate: Some(20_000_000),
        ..Settings::default()
    };
    let (origin, mut client) = model(settings).await;
    origin.put("a", 2_000_000, 0);
    let reading = tokio::spawn(async move { whole(&mut client, "a").await });
    while origin.counters().bytes_sent == 0 {
        tokio::task::yield_now().await;
    }
    origin.overwrite("a", None);
    let read = reading.await.expect("no panic");
    assert_eq!((read.is_whole(), read.version), (true, Some(0)));
}

#[tokio::test]
async fn requests_are_counted_and_logged() {
    let (origin, mut client) = model(Settings::default()).await;
    origin.put("a b", 10, 0);
    whole(&mut client, "a b").await;
    origin.log_requests(true);
    client.read(&Ask::new("a b", Want::Range(2, 3))).await;
    client.read(&Ask::new("a b", Want::Open(10))).await;
    let log = origin.take_log();
    let seen: Vec<_> = log
        .iter()
        .map(|entry| (entry.range.as_deref(), entry.status))
        .collect();
    assert_eq!(seen, [(Some("bytes=2-3"), 206), (Some("bytes=10-"), 416)]);
    assert_eq!(
        log.iter()
            .map(|entry| entry.key.as_str())
            .collect::<HashSet<_>>(),
        HashSet::from(["a b"])
    );
    let counters = origin.counters();
    assert_eq!(
        (counters.gets, counters.bytes_sent, counters.peak),
        (3, 12, 1)
    );
}

#[tokio::test]
async fn a_stopped_model_frees_its_port_and_cuts_its_bodies() {
    let settings = Settings {
        connection_rate: Some(1_000_000),
        ..Settings::default()
    };
    let (origin, mut client) = model(settings.clone()).await;
    let address = origin.address();
    origin.put("a", 2_000_000, 0);
    let reading = tokio::spawn(async move { whole(&mut client, "a").await });
    while origin.counters().bytes_sent == 0 {
        tokio::task::yield_now().await;
    }
    origin.stop().await;
    let read = reading.await.expect("no panic");
    assert!(
        matches!(read.outcome, Outcome::Cut(_)),
        "{:?}",
        read.outcome
    );
    Origin::start(Settings {
        listen: address,
        ..settings
    })
    .await
    .expect("the port is free again");
}
