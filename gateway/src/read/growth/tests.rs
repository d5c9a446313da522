//! When a window grows, when it holds, and what a stream keeps of what it read.

use forebay_storage::block::BlockSize;
use forebay_storage::object::ObjectId;
use forebay_storage::store::{Handle, Store};
use forebay_storage::version::{Identity, Version};
use http::HeaderMap;

use super::*;

const MIB: u64 = 1 << 20;

/// A stream whose client takes all that comes, from an origin of which `rate(window)` bytes a second come.
fn steady(growth: &mut Growth, most: u64, time: Duration, rate: impl Fn(u64) -> f64) -> u64 {
    spread(growth, (BASE, most), time, rate)
}

/// The same where owners who have a run each are `least` bytes.
fn spread(
    growth: &mut Growth,
    (least, most): (u64, u64),
    time: Duration,
    rate: impl Fn(u64) -> f64,
) -> u64 {
    let mut now = Instant::now();
    let end = now + time;
    let mut arrived = 0.0;
    while now < end {
        let step = Duration::from_millis(1);
        now += step;
        arrived += rate(growth.bytes()) * step.as_secs_f64();
        growth.waits(&Seen {
            now,
            arrived: arrived as u64,
            round_trip: Duration::from_millis(30),
            run: RUN_BYTES,
            each: 0,
            begun: true,
            least,
            most,
        });
    }
    growth.bytes()
}

/// 100 MB/s for each run that is under way, up to `limit`.
fn origin(limit: f64) -> impl Fn(u64) -> f64 {
    move |window| ((window / RUN_BYTES) as f64 * 1e8).min(limit)
}

#[tokio::test]
async fn a_window_grows_while_more_requests_bring_more() {
    let mut growth = Growth::new();
    let time = Duration::from_millis(200);
    let window = steady(&mut growth, 512 * MIB, time, origin(1e12));
    assert_eq!(window, 512 * MIB);
}

#[tokio::test]
async fn an_origin_that_gives_no_more_is_not_asked_for_more() {
    for limit in [1e7, 1e8, 2e8] {
        let mut growth = Growth::new();
        let time = Duration::from_secs(1);
        let window = steady(&mut growth, 512 * MIB, time, origin(limit));
        // A trial may be under way.
        assert!(window <= 48 * MIB, "{limit}: {window}");
    }
    let mut growth = Growth::new();
    let window = steady(
        &mut growth,
        2048 * MIB,
        Duration::from_secs(1),
        origin(1.6e9),
    );
    assert!((128 * MIB..=640 * MIB).contains(&window), "{window}");
}

#[tokio::test]
async fn more_than_the_link_takes_is_not_asked_for_at_once() {
    let mut growth = Growth::new();
    let mut now = Instant::now();
    let (mut arrived, mut widest) = (0.0, 0);
    for _ in 0..1000 {
        now += Duration::from_millis(1);
        let requests = growth.bytes() as f64 / (3.0 * MIB as f64);
        // 8.5 MB/s each, on a link of 1 Gbit/s.
        arrived += (requests * 7.4e6).min(1.19e8) / 1000.0;
        growth.waits(&Seen {
            now,
            arrived: arrived as u64,
            round_trip: Duration::from_millis(50),
            run: 3 * MIB,
            each: 8_500_000,
            begun: true,
            least: BASE,
            most: 512 * MIB,
        });
        widest = widest.max(growth.bytes());
    }
    assert_eq!(widest, 4 * BASE);
    // Sixteen of them are what the link takes.
    let window = growth.bytes();
    assert!((48 * MIB..=64 * MIB).contains(&window), "{window}");
}

#[tokio::test]
async fn a_window_is_judged_once_what_was_asked_for_last_has_begun_to_come() {
    let mut growth = Growth::new();
    let since = Instant::now();
    let mut now = since;
    let mut window = |begun: bool, millis: u32| {
        for _ in 0..millis {
            now += Duration::from_millis(1);
            growth.waits(&Seen {
                now,
                arrived: 10_000 * (now - since).as_millis() as u64,
                round_trip: Duration::from_millis(30),
                run: RUN_BYTES,
                each: 0,
                begun,
                least: BASE,
                most: 512 * MIB,
            });
        }
        growth.bytes()
    };
    assert_eq!(window(false, 1000), 4 * BASE, "it queues");
    assert!(window(true, 100) < 2 * BASE, "it came, and no more");
}

/// Twelve owners behind a link that one of them fills: all are to send at once, each a part.
#[tokio::test]
async fn a_window_reaches_over_all_owners_though_that_brings_no_more() {
    let (owners, second) = (12 * RUN_BYTES, Duration::from_secs(1));
    let mut growth = Growth::new();
    let soon = Duration::from_millis(100);
    let window = spread(&mut growth, (owners, 512 * MIB), soon, origin(1.2e7));
    assert_eq!(window, owners);
    let window = spread(&mut growth, (owners, 512 * MIB), second, origin(1.2e7));
    // A trial may be under way.
    assert!((owners..=4 * owners).contains(&window), "{window}");
    let window = spread(&mut growth, (owners, 48 * MIB), second, origin(1.2e7));
    assert_eq!(window, 48 * MIB, "there is no memory for more");
}

#[tokio::test]
async fn a_window_stays_within_its_share() {
    let mut growth = Growth::new();
    let time = Duration::from_secs(1);
    assert_eq!(steady(&mut growth, 48 * MIB, time, origin(1e12)), 48 * MIB);
    // Others came: half of it is theirs.
    assert_eq!(steady(&mut growth, 24 * MIB, time, origin(1e12)), 24 * MIB);
    assert_eq!(steady(&mut growth, 0, time, origin(1e12)), BASE);
}

#[tokio::test]
async fn a_client_that_never_waits_gets_the_base_back() {
    let mut growth = Growth::new();
    let time = Duration::from_millis(200);
    steady(&mut growth, 512 * MIB, time, origin(1e12));
    for _ in 0..16384 {
        growth.passes(MIB);
    }
    assert_eq!(growth.bytes(), BASE);
    assert!(!growth.is_grown());
}

#[tokio::test]
async fn a_stream_holds_nothing_of_fills_that_have_ended() {
    let store = Store::new(64 * MIB, BlockSize::new(1 << 20), None);
    let object = ObjectId::new("models", "a");
    let identity = Arc::new(Identity {
        origin: "file:///models/".into(),
        block_size: 1 << 20,
        immutable: true,
    });
    let headers = HeaderMap::new();
    let version = Version::from_headers(&object, &identity, 2 * MIB, &headers);
    let opened = store.open(&object, &Arc::new(version), 0..=1, Some(0));
    let (mut cold, ahead) = (Cold::new(), Ahead::default());
    for (_, handle, _) in opened.blocks {
        if let Handle::Following(follower) = handle {
            let led = Led {
                first: follower.clone(),
                last: follower,
                bytes: MIB,
            };
            cold.leads(std::iter::once(led), &ahead);
        }
    }
    assert_eq!(cold.under_way.len(), 2);
    for mut run in opened.runs {
        assert!(run.next().await.is_some());
        run.write(&[7; 2 << 20]);
    }
    assert_eq!(cold.room(0), BASE);
    assert!(cold.under_way.is_empty() && cold.newest.is_none());
}

#[test]
fn sharers_leave_by_being_dropped() {
    let ahead = Ahead::default();
    let (one, two) = (ahead.join(), ahead.join());
    assert_eq!(ahead.sharers(), 2);
    drop((one, two));
    assert_eq!(ahead.sharers(), 0);
}
