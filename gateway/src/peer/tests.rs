//! Which members answer, and which are left alone for a while.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::num::NonZeroU16;
use std::sync::atomic::{AtomicU32, Ordering};

use forebay_ring::{Member, Table};
use tokio::time::Instant;

use super::*;
use crate::peer::wire::{Claim, Question};

/// A member that answers whether it is there, and nothing else.
#[derive(Debug, Default)]
struct Mute {
    filling: bool,
    /// Nothing comes from its origin, from then on.
    stuck: Option<Instant>,
    /// So many times it was asked whether it is there.
    pings: Arc<AtomicU32>,
    /// From then on it answers nothing.
    frozen: Option<Instant>,
    /// From then on every connection to it breaks.
    broken: Option<Instant>,
    /// It answers questions, with a failure.
    refuses: bool,
    /// So many pings are lost on the way.
    lost: AtomicU32,
}

impl Peer for Mute {
    fn send<'a>(
        &'a self,
        _: &'a forebay_ring::Peer,
        request: Request<Bytes>,
    ) -> BoxFuture<'a, io::Result<Response<PeerBody>>> {
        let (parts, _) = request.into_parts();
        Box::pin(async move {
            if self.frozen.is_some_and(|from| Instant::now() >= from) {
                std::future::pending::<()>().await;
            }
            let broken = self.broken.is_some_and(|from| Instant::now() >= from);
            if broken || self.refuses && !wire::is_ping(&parts.uri) {
                return Err(io::ErrorKind::ConnectionReset.into());
            }
            let less = |lost: u32| lost.checked_sub(1);
            if !wire::is_ping(&parts.uri)
                || self
                    .lost
                    .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less)
                    .is_ok()
            {
                std::future::pending::<()>().await;
            }
            self.pings.fetch_add(1, Ordering::Relaxed);
            let stuck = self.stuck.is_some_and(|from| Instant::now() >= from);
            let mut response = Response::new(crate::dialect::peer::nothing());
            *response.headers_mut() = wire::pong(self.filling, stuck);
            Ok(response)
        })
    }
}

fn peers(filling: bool) -> Arc<Peers> {
    peers_of(Mute {
        filling,
        ..Mute::default()
    })
}

/// A fleet of this gateway and one other, "mute", which is reached by `transport`.
pub(super) fn peers_of(transport: impl Peer + 'static) -> Arc<Peers> {
    let member = Member::new("mute", "", NonZeroU16::MIN).unwrap();
    let peer = forebay_ring::Peer {
        member: member.clone(),
        address: ([127, 0, 0, 1], 1).into(),
        client_url: String::new(),
        incarnation: 0,
        state: State::Alive,
        version: String::new(),
        protocol: 1,
        settings: 0,
    };
    let fleet = Fleet {
        name: "test".into(),
        own: "own".into(),
        donors: Arc::default(),
        table: Arc::new(Table::build([member])),
        peers: Arc::new(BTreeMap::from([("mute".to_owned(), peer)])),
    };
    let metrics = PeerMetrics::new(&prometheus::Registry::new()).unwrap();
    let fleet = watch::Sender::new(Arc::new(fleet)).subscribe();
    Peers::new(fleet, Arc::new(transport), metrics)
}

fn question(exact: bool) -> Request<Bytes> {
    let claim = Claim {
        key: forebay_storage::version::VersionKey(1),
        size: 1,
        headers: http::HeaderMap::new(),
    };
    let question = Question {
        object: forebay_storage::object::ObjectId::new("models", "a"),
        version: exact.then_some(claim),
        range: Some(0..1),
        level: 2,
        deadline: NO_PROGRESS,
        doubting: false,
        only_if_cached: false,
        ahead: false,
    };
    question.request()
}

/// How long a question to a mute member lasts, and how it ends.
async fn asked(peers: &Arc<Peers>, exact: bool) -> (Duration, PeerError) {
    let begun = Instant::now();
    let error = peers.ask("mute", 2, question(exact)).await.unwrap_err();
    (begun.elapsed(), error)
}

#[tokio::test(start_paused = true)]
async fn a_member_without_an_excuse_is_left_for_the_next_after_a_second() {
    let (took, error) = asked(&peers(false), true).await;
    assert_eq!(error, PeerError::Stalled);
    assert!(took >= HEDGE && took < 2 * HEDGE, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn one_of_many_that_fill_our_link_may_have_to_wait() {
    let second = Duration::from_secs(1);
    for (carried, is_full) in [(1000, true), (3000, false)] {
        let peers = peers(false);
        peers.link.saw([carried, 0], second);
        let received = peers.metrics.received.clone();
        tokio::spawn(async move {
            loop {
                received.inc_by(100);
                tokio::time::sleep(second / 10).await;
            }
        });
        let (took, _) = asked(&peers, true).await;
        assert_eq!(took >= NO_PROGRESS, is_full, "{carried}: {took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_fills_may_wait_for_its_origin() {
    let (took, error) = asked(&peers(true), true).await;
    assert_eq!(error, PeerError::Stalled);
    assert!(took >= NO_PROGRESS, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn one_to_which_nothing_comes_from_its_origin_is_left_whatever_it_is_asked_for() {
    for exact in [true, false] {
        let peers = peers_of(Mute {
            filling: true,
            stuck: Some(Instant::now()),
            ..Mute::default()
        });
        let (took, error) = asked(&peers, exact).await;
        assert_eq!(error, PeerError::Stalled);
        assert!(took >= HEDGE_STUCK && took < HEDGE, "{took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn one_to_which_nothing_came_lately_is_not_waited_for_as_long_again() {
    let peers = peers_of(Mute {
        filling: true,
        stuck: Some(Instant::now()),
        ..Mute::default()
    });
    let (first, _) = asked(&peers, false).await;
    let (second, error) = asked(&peers, true).await;
    assert_eq!(error, PeerError::Stalled);
    assert!(
        first >= HEDGE_STUCK && second == SILENCE,
        "{first:?}, {second:?}"
    );
    tokio::time::sleep(Duration::from_secs(2)).await;
    let (later, _) = asked(&peers, true).await;
    assert!(later >= HEDGE_STUCK, "{later:?}");
}

#[tokio::test(start_paused = true)]
async fn one_to_which_nothing_comes_is_left_as_soon_as_it_says_so() {
    for stuck in [HEDGE_STUCK + SILENCE, HEDGE + SILENCE] {
        let peers = peers_of(Mute {
            filling: true,
            stuck: Some(Instant::now() + stuck),
            ..Mute::default()
        });
        let (took, error) = asked(&peers, true).await;
        assert_eq!(error, PeerError::Stalled);
        assert!(took >= stuck && took <= stuck + 2 * SILENCE, "{took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_member_is_asked_once_for_all_who_wonder_what_it_waits_for() {
    let pings = Arc::default();
    let peers = peers_of(Mute {
        filling: true,
        pings: Arc::clone(&pings),
        ..Mute::default()
    });
    let all = (0..20).map(|_| asked(&peers, true));
    futures::future::join_all(all).await;
    // Its heartbeat, whether it is there, and what it waits for: each time once for all of them.
    let looks = NO_PROGRESS.as_millis() / SILENCE.as_millis();
    let pings = u128::from(pings.load(Ordering::Relaxed));
    assert!(
        (looks..=1 + 2 * looks).contains(&pings),
        "{pings} for {looks} looks"
    );
}

#[tokio::test(start_paused = true)]
async fn one_that_is_asked_for_a_version_may_ask_its_origin() {
    let (took, _) = asked(&peers(false), false).await;
    assert!(took >= NO_PROGRESS, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_ping_that_is_lost_is_sent_again() {
    let peers = peers_of(Mute {
        filling: true,
        lost: AtomicU32::new(2),
        ..Mute::default()
    });
    let (_, error) = asked(&peers, true).await;
    assert_eq!(error, PeerError::Stalled);
}

#[tokio::test(start_paused = true)]
async fn one_that_answers_no_ping_is_silent() {
    let peers = peers_of(Mute {
        lost: AtomicU32::new(u32::MAX),
        ..Mute::default()
    });
    let (took, error) = asked(&peers, true).await;
    assert_eq!(error, PeerError::Silent);
    assert_eq!(took, SILENCE + ping::PATIENCE);
}

#[tokio::test(start_paused = true)]
async fn one_that_was_asked_lately_is_found_silent_though_nobody_waits_for_it() {
    let moment = Duration::from_millis(60);
    for phase in 0..8 {
        let freezes = Duration::from_secs(7) + phase * moment;
        let peers = peers_of(Mute {
            refuses: true,
            frozen: Some(Instant::now() + freezes),
            ..Mute::default()
        });
        let (took, error) = asked(&peers, true).await;
        assert_eq!((took, error), (Duration::ZERO, PeerError::Cut));
        let answers = || peers.answers(&peers.fleet(), "mute");
        tokio::time::sleep(freezes - moment).await;
        // As if bytes came.
        peers.health.of("mute", |_| true).heard();
        tokio::time::sleep(moment).await;
        assert!(answers());
        tokio::time::sleep(Duration::from_millis(1001)).await;
        assert!(!answers(), "{freezes:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_has_not_answered_a_ping_yet_or_has_another_trouble_is_not_found_silent_by_one() {
    for mute in [
        Mute {
            refuses: true,
            lost: AtomicU32::new(4),
            ..Mute::default()
        },
        Mute {
            broken: Some(Instant::now() + Duration::from_secs(1)),
            refuses: true,
            ..Mute::default()
        },
    ] {
        let peers = peers_of(mute);
        let _ = asked(&peers, true).await;
        for _ in 0..50 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            assert!(peers.answers(&peers.fleet(), "mute"));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_is_heard_all_the_time_is_pinged_now_and_then_to_keep_the_connection() {
    let pings: Arc<AtomicU32> = Arc::default();
    let peers = peers_of(Mute {
        refuses: true,
        pings: Arc::clone(&pings),
        ..Mute::default()
    });
    for _ in 0..12 {
        let _ = asked(&peers, true).await;
        for _ in 0..100 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            peers.health.of("mute", |_| true).heard();
        }
    }
    let pings = pings.load(Ordering::Relaxed);
    assert!((5..=8).contains(&pings), "{pings} in two minutes");
}

#[tokio::test(start_paused = true)]
async fn one_that_nobody_asks_any_more_is_left_in_peace() {
    let pings: Arc<AtomicU32> = Arc::default();
    let peers = peers_of(Mute {
        refuses: true,
        pings: Arc::clone(&pings),
        ..Mute::default()
    });
    let count = || pings.load(Ordering::Relaxed);
    for _ in 0..2 {
        let before = count();
        let _ = asked(&peers, true).await;
        tokio::time::sleep(heartbeat::LATELY + Duration::from_secs(1)).await;
        let asked = count() - before;
        assert!((20..=60).contains(&asked), "{asked} pings");
        let before = count();
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(count(), before);
    }
}

#[tokio::test(start_paused = true)]
async fn no_more_than_a_tenth_of_the_questions_is_given_up_early() {
    let peers = peers(false);
    let mut early = 0;
    for _ in 0..60 {
        early += usize::from(asked(&peers, true).await.0 < NO_PROGRESS);
    }
    // Ten that were saved, and one for each ten questions.
    assert!((10..=16).contains(&early), "{early} of 60");
}
