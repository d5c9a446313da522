//! How one origin is treated: what its answers say about how much it may be asked.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use http::{Method, StatusCode};
use tokio::time::Instant;

use super::breaker::{Breaker, Leave};
use super::limit::Limit;
use super::slots::Slots;
use super::spare::Spare;
use super::{Kind, Origin};
use crate::class::{Class, Urgency};
use crate::error::OriginError;
use crate::stats::DatasetStats;

/// No answer that stands still is given up before, nor one that takes longer to begin: what is busy may be ourselves.
const BODY_PATIENCE: Duration = Duration::from_millis(500);
const HEAD_PATIENCE: Duration = Duration::from_secs(1);

/// Bodies that stand still though answers begin as soon as this, or as they usually do: that is no lack of room. Others may do
/// so too, and for so long none is waited for longer than half as long.
const QUICK: Duration = Duration::from_millis(50);
const DISTRUSTED: Duration = Duration::from_secs(2);

/// The longest that is waited; loaders give up after 5 s without a byte.
const MOST_PATIENCE: Duration = Duration::from_secs(4);

/// What takes so many times what answers usually take to begin is not merely slow.
const TIMES: u32 = 8;

/// An origin that is asked and from which nothing comes for so long, or for so many times what answers usually take to
/// begin: others may have another way to it. Where answers usually come quickly, a member that was asked at the same time
/// says so before it is given up.
const STUCK: Duration = Duration::from_millis(500);
const STUCK_TIMES: u32 = 3;

/// Who has asked it goes another way after so long more: on links that are full much is late, and whoever is asked instead
/// asks for all of it once more.
const PATIENCE_WITH_THE_STUCK: Duration = Duration::from_millis(250);

/// All that is known of an origin's temper, shared by whoever asks it.
#[derive(Debug)]
pub(super) struct Manners {
    /// Its address as the settings write it, for the log.
    name: String,
    pub(super) stats: Arc<DatasetStats>,
    pub(super) slots: Slots,
    spare: Spare,
    limit: Limit,
    breaker: Arc<Breaker>,
    made: Instant,
    /// When something came last, or it was asked after a pause in which it was not stuck, in milliseconds since it was made.
    moved: AtomicU64,
    /// Until when its bodies are not trusted to go on, in milliseconds since it was made.
    distrusted: AtomicU64,
    /// How many go around it, by another gateway.
    around: AtomicUsize,
}

/// Somebody gets from another gateway what this one's way to the origin does not bring.
#[derive(Debug)]
pub struct Around<'a>(&'a Manners);

impl Around<'_> {
    /// The other gateway brought it: so it is the way from here that is cut, and an answer that did not come. Where
    /// nobody else gets one either, the origin may merely stand still.
    pub fn brought(&self) {
        let now = Instant::now();
        if self.0.is_stuck(now) == Some(true) {
            let fell = self.0.breaker.given_up(now, self.0.moved_at());
            self.0.fell_silent(fell);
        }
    }
}

impl Drop for Around<'_> {
    fn drop(&mut self) {
        self.0.around.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Manners {
    pub(super) fn new(name: String, stats: Arc<DatasetStats>, connections: usize) -> Self {
        let now = Instant::now();
        Self {
            name,
            stats,
            slots: Slots::new(connections),
            spare: Spare::default(),
            limit: Limit::new(connections, now),
            breaker: Breaker::new(now),
            made: now,
            moved: AtomicU64::new(0),
            distrusted: AtomicU64::new(0),
            around: AtomicUsize::new(0),
        }
    }

    fn moved(&self, now: Instant) {
        self.moved.store(self.milliseconds(now), Ordering::Relaxed);
    }

    /// Since it was made.
    fn milliseconds(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.made).as_millis();
        u64::try_from(since).unwrap_or(u64::MAX)
    }

    /// A body stood still, and the rest of it, asked for beside it, began after so long.
    fn stood_still(&self, now: Instant, began_after: Duration) {
        let usual = self.stats.first_byte() * STUCK_TIMES;
        if began_after <= usual.max(QUICK) {
            let until = self.milliseconds(now + DISTRUSTED);
            self.distrusted.store(until, Ordering::Relaxed);
        }
    }

    fn moved_at(&self) -> Instant {
        self.made + Duration::from_millis(self.moved.load(Ordering::Relaxed))
    }

    /// When it is stuck, if nothing comes until then.
    fn stuck_at(&self) -> Instant {
        let usual = self.stats.first_byte() * STUCK_TIMES;
        self.moved_at() + usual.clamp(STUCK, MOST_PATIENCE)
    }

    /// Whether it is asked and nothing came of it lately; `None` while nobody asks it.
    fn is_stuck(&self, now: Instant) -> Option<bool> {
        let wanted = self.slots.in_use() > 0 || self.around.load(Ordering::Relaxed) > 0;
        wanted.then(|| now >= self.stuck_at())
    }

    /// Ends once it is stuck, and was so for a while.
    async fn until_stuck(&self) {
        loop {
            let due = self.stuck_at() + PATIENCE_WITH_THE_STUCK;
            if self.is_stuck(Instant::now()) == Some(true) && Instant::now() >= due {
                return;
            }
            // Where nobody asks it, its time may be over long ago.
            tokio::time::sleep_until(due.max(Instant::now() + STUCK / 4)).await;
        }
    }

    fn go_around(&self) -> Around<'_> {
        self.around.fetch_add(1, Ordering::Relaxed);
        Around(self)
    }

    /// What the settings allow is another number of requests at once by now.
    pub(super) fn set_connections(&self, connections: usize) {
        self.slots.set(self.limit.set_share(connections));
    }

    /// Whether the origin is known to be down.
    pub(super) fn is_down(&self) -> bool {
        self.breaker.is_down()
    }

    /// The error for whoever is about to queue for an origin that is down.
    pub(super) fn refuses(&self) -> Option<OriginError> {
        self.breaker.refuses(Instant::now())
    }

    /// The leave to ask, now that it is the asker's turn. May be dropped at any time.
    ///
    /// # Errors
    /// [`OriginError::Down`].
    pub(super) async fn enter(&self) -> Result<Leave, OriginError> {
        let leave = self.breaker.enter_soon().await?;
        let now = Instant::now();
        self.spare.asked(now);
        // Its asker has its place by now.
        if self.slots.in_use() <= 1 && !self.was_left_stuck(now) {
            self.moved(now);
        }
        Ok(leave)
    }

    /// Whether the one who asked last left lately, and nothing had come for so long then that it was stuck: it is so for the
    /// next one too, who need not find that out.
    fn was_left_stuck(&self, now: Instant) -> bool {
        let left = self.breaker.left_lately(now);
        left.is_some_and(|left| left >= self.stuck_at())
    }

    /// An answer began.
    pub(super) fn heard(
        &self,
        leave: Leave,
        method: &Method,
        status: StatusCode,
        asked_at: Instant,
    ) {
        let (now, in_use) = (Instant::now(), self.slots.in_use());
        self.moved(now);
        let took = now.saturating_duration_since(asked_at);
        let allowed = match status.as_u16() {
            429 | 503 => {
                DatasetStats::add(&self.stats.origin_slow_downs, 1);
                let round_trip = self.stats.first_byte();
                Some(self.limit.refused(now, in_use, round_trip))
            }
            200..=299 if *method == Method::GET => {
                self.stats.began_after(took);
                let times = (took, self.stats.first_byte());
                Some(self.limit.answered(now, in_use, times))
            }
            // Whatever it says, it was not too much.
            0..=499 => Some(self.limit.took_it(now)),
            _ => None,
        };
        if let Some(allowed) = allowed.filter(|allowed| *allowed != self.slots.wanted()) {
            tracing::debug!(origin = %self.name, allowed, "another number of requests at once");
            self.slots.set(allowed);
        }
        // Whoever answers so stands before the origin, and has not reached it.
        if matches!(status.as_u16(), 502 | 504) {
            self.silent(leave);
        } else if leave.answered() {
            tracing::info!(origin = %self.name, "the origin answers again");
        }
    }

    /// No answer came.
    pub(super) fn silent(&self, leave: Leave) {
        self.fell_silent(leave.failed(Instant::now()));
    }

    fn fell_silent(&self, fell: bool) {
        if fell {
            tracing::info!(origin = %self.name, "the origin is down: what is cached is served, and one request at a time asks whether it is back");
        }
    }

    /// Whether an answer that failed may be asked for again: always where a client waits, here or at another gateway.
    /// It is counted as asked.
    pub(super) fn may_ask_again(&self, urgency: &Urgency) -> bool {
        let now = Instant::now();
        if urgency.class() > Class::Peer {
            return self.spare.take(now);
        }
        self.spare.count(now);
        true
    }

    /// Whether an answer that stands still may be asked for beside it, as [`Self::may_ask_again`]. It is counted as
    /// asked.
    pub(super) fn may_hedge(&self, urgency: &Urgency) -> bool {
        let may = self.may_ask_again(urgency);
        DatasetStats::add(&self.stats.origin_hedges, u64::from(may));
        may
    }

    /// How long an answer may take to begin before it is asked for beside it.
    pub(super) fn head_patience(&self) -> Duration {
        self.patience().max(HEAD_PATIENCE)
    }

    /// How long a body may stand still.
    pub(super) fn body_patience(&self) -> Duration {
        let patience = self.patience().max(BODY_PATIENCE);
        let distrusted = self.distrusted.load(Ordering::Relaxed);
        match self.milliseconds(Instant::now()) < distrusted {
            true => patience / 2,
            false => patience,
        }
    }

    fn patience(&self) -> Duration {
        (self.stats.first_byte() * TIMES).min(MOST_PATIENCE)
    }
}

impl Origin {
    /// Makes it `connections` requests at once at most: this gateway's share of what the fleet may have.
    pub fn set_connections(&self, connections: usize) {
        if let Some(manners) = self.manners() {
            manners.set_connections(connections);
        }
    }

    /// How many requests it may be asked at once by this gateway, fewer than its share while it asks for fewer; a
    /// directory, as many as you like.
    pub fn connections(&self) -> Option<usize> {
        self.manners().map(|manners| manners.slots.wanted())
    }

    /// Notes that bytes of a body came.
    pub fn moved(&self) {
        if let Some(manners) = self.manners() {
            manners.moved(Instant::now());
        }
    }

    /// Notes that a body stood still, and that the rest of it, asked for beside it, began after so long.
    pub fn stood_still(&self, began_after: Duration) {
        if let Some(manners) = self.manners() {
            manners.stood_still(Instant::now(), began_after);
        }
    }

    /// Whether it is being asked, and nothing has come from it for long: no head of an answer, and no byte. `None`
    /// while nobody asks it.
    pub fn is_stuck(&self) -> Option<bool> {
        self.manners()?.is_stuck(Instant::now())
    }

    /// Ends once [`Self::is_stuck`] was true for a while; never for a directory. Dropping the future changes nothing.
    pub async fn until_stuck(&self) {
        match self.manners() {
            Some(manners) => manners.until_stuck().await,
            None => std::future::pending().await,
        }
    }

    /// Says that what it does not bring is asked of another gateway, for as long as what comes back is held: it counts as
    /// one that is asked.
    pub fn go_around(&self) -> Option<Around<'_>> {
        Some(self.manners()?.go_around())
    }

    /// Whether it is known to be down: then it is asked by one request at a time.
    pub fn is_down(&self) -> bool {
        self.manners().is_some_and(Manners::is_down)
    }

    /// How long the body of an answer may stand still before the rest is asked for beside it; `None`: a directory
    /// has no second way to its bytes.
    pub fn patience(&self) -> Option<Duration> {
        self.manners().map(Manners::body_patience)
    }

    /// Whether the rest of a body that stands still may be asked for beside it, as [`Self::may_ask_again`]. It is
    /// counted as asked.
    pub fn may_hedge(&self, urgency: &Urgency) -> bool {
        self.manners()
            .is_some_and(|manners| manners.may_hedge(urgency))
    }

    /// Whether another request would not have to wait for its turn.
    pub fn has_free_connection(&self) -> bool {
        self.manners()
            .is_none_or(|manners| manners.slots.has_free())
    }

    /// Whether a request that failed may be asked again, by whoever is of `urgency`: always if a client waits, here
    /// or at another gateway, else if that makes no more than one in ten. It is counted as asked.
    pub fn may_ask_again(&self, urgency: &Urgency) -> bool {
        let manners = self.manners();
        let may = manners.is_none_or(|manners| manners.may_ask_again(urgency));
        DatasetStats::add(&self.stats.origin_retries, u64::from(may));
        may
    }

    fn manners(&self) -> Option<&Manners> {
        match &self.kind {
            Kind::Remote(remote) => Some(remote.connector.manners()),
            Kind::Directory(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manners() -> Manners {
        Manners::new("s3://models".to_owned(), Arc::default(), 8)
    }

    /// Asks so often, and is answered `status`.
    async fn asks(manners: &Manners, times: usize, status: StatusCode) {
        asks_by(manners, &Method::GET, times, status).await;
    }

    async fn asks_by(manners: &Manners, method: &Method, times: usize, status: StatusCode) {
        for _ in 0..times {
            let leave = manners.enter().await.expect("it is not down");
            manners.heard(leave, method, status, Instant::now());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn whom_a_client_waits_for_asks_again_always_and_others_one_time_in_ten() {
        let manners = manners();
        asks(&manners, 100, StatusCode::OK).await;
        let again = |class: Class| {
            let times = (0..100).filter(|_| manners.may_ask_again(&Urgency::from(class)));
            times.count()
        };
        assert_eq!(again(Class::Warm), 10);
        assert_eq!(again(Class::ReadAhead), 0);
        assert!(!manners.may_hedge(&Urgency::from(Class::ReadAhead)));
        assert_eq!((again(Class::Demand), again(Class::Peer)), (100, 100));
        // What they asked counts against the others, for as long as it is looked back on.
        tokio::time::advance(Duration::from_secs(9)).await;
        asks(&manners, 1000, StatusCode::OK).await;
        assert_eq!(again(Class::Warm), 1, "one a second");
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(again(Class::Warm), 99);
    }

    #[tokio::test(start_paused = true)]
    async fn an_origin_that_is_asked_and_brings_nothing_is_stuck() {
        let manners = manners();
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(manners.is_stuck(Instant::now()), None);
        let held = manners.slots.take_free();
        let _leave = manners.enter().await.expect("it is not down");
        assert_eq!(manners.is_stuck(Instant::now()), Some(false), "just asked");
        tokio::time::advance(STUCK).await;
        assert_eq!(manners.is_stuck(Instant::now()), Some(true));
        manners.moved(Instant::now());
        assert_eq!(manners.is_stuck(Instant::now()), Some(false));
        drop(held);
        assert_eq!(manners.is_stuck(Instant::now()), None);
    }

    #[tokio::test(start_paused = true)]
    async fn an_origin_that_was_left_while_it_was_stuck_is_so_for_who_asks_next() {
        let manners = manners();
        let asked_for = async |time| {
            let held = manners.slots.take_free();
            let leave = manners.enter().await.expect("it is not down");
            let stuck = manners.is_stuck(Instant::now());
            tokio::time::advance(time).await;
            drop((leave, held));
            stuck
        };
        let short = Duration::from_millis(10);
        assert_eq!(asked_for(short).await, Some(false));
        tokio::time::advance(STUCK).await;
        assert_eq!(
            asked_for(STUCK).await,
            Some(false),
            "who left did not wait long"
        );
        tokio::time::advance(STUCK).await;
        assert_eq!(asked_for(short).await, Some(true));
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(asked_for(STUCK).await, Some(false), "that was long ago");
        asks(&manners, 1, StatusCode::OK).await;
        assert_eq!(asked_for(short).await, Some(false), "it answers");
    }

    #[tokio::test(start_paused = true)]
    async fn bodies_are_waited_for_half_as_long_while_some_stand_still_and_answers_begin_at_once() {
        let manners = manners();
        assert_eq!(manners.body_patience(), BODY_PATIENCE);
        manners.stood_still(Instant::now(), 2 * QUICK);
        assert_eq!(manners.body_patience(), BODY_PATIENCE, "a lack of room");
        manners.stood_still(Instant::now(), QUICK);
        assert_eq!(manners.body_patience(), BODY_PATIENCE / 2);
        tokio::time::advance(DISTRUSTED).await;
        assert_eq!(manners.body_patience(), BODY_PATIENCE);
    }

    #[tokio::test(start_paused = true)]
    async fn an_origin_that_usually_takes_long_to_begin_is_not_stuck_as_soon() {
        let manners = manners();
        manners.stats.began_after(STUCK);
        let _held = manners.slots.take_free();
        let _leave = manners.enter().await.expect("it is not down");
        let asked = Instant::now();
        manners.until_stuck().await;
        assert!(asked.elapsed() >= STUCK * STUCK_TIMES);
    }

    #[tokio::test(start_paused = true)]
    async fn an_origin_that_is_gone_around_stays_stuck_until_something_comes_and_is_down_in_the_end()
     {
        let manners = manners();
        tokio::time::advance(STUCK).await;
        assert_eq!(manners.is_stuck(Instant::now()), None, "nobody asks it");
        let around = manners.go_around();
        assert_eq!(manners.is_stuck(Instant::now()), Some(true));
        manners.moved(Instant::now());
        assert_eq!(manners.is_stuck(Instant::now()), Some(false));
        drop(around);
        for _ in 0..20 {
            tokio::time::advance(STUCK).await;
            let _around = manners.go_around();
        }
        assert!(!manners.is_down(), "nobody else brought it");
        for _ in 0..5 {
            assert!(!manners.is_down());
            manners.go_around().brought();
            tokio::time::advance(STUCK).await;
        }
        manners.go_around().brought();
        assert!(manners.is_down());
    }

    #[tokio::test(start_paused = true)]
    async fn refusals_make_it_fewer_at_once_and_answers_more() {
        let manners = manners();
        let held = [
            manners.slots.take_free(),
            manners.slots.take_free(),
            manners.slots.take_free(),
            manners.slots.take_free(),
        ];
        asks(&manners, 1, StatusCode::SERVICE_UNAVAILABLE).await;
        assert!((2..=3).contains(&manners.slots.wanted()));
        tokio::time::advance(Duration::from_secs(1)).await;
        asks(&manners, 100, StatusCode::OK).await;
        assert_eq!(manners.slots.wanted(), 8);
        drop(held);
    }

    #[tokio::test(start_paused = true)]
    async fn answers_without_a_body_make_it_more_at_once_too() {
        for (method, status) in [
            (Method::HEAD, StatusCode::OK),
            (Method::GET, StatusCode::NOT_MODIFIED),
            (Method::GET, StatusCode::NOT_FOUND),
        ] {
            let manners = manners();
            asks(&manners, 1, StatusCode::TOO_MANY_REQUESTS).await;
            assert_eq!(manners.slots.wanted(), 1);
            tokio::time::advance(Duration::from_secs(1)).await;
            asks_by(&manners, &method, 100, status).await;
            assert_eq!(manners.slots.wanted(), 8, "{method} {status}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_gateway_before_an_origin_that_it_does_not_reach_is_no_answer() {
        let manners = manners();
        for _ in 0..5 {
            asks(&manners, 1, StatusCode::BAD_GATEWAY).await;
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert!(manners.is_down());
        assert!(
            matches!(manners.enter().await.map(|_| ()), Ok(())),
            "a second later it is asked"
        );
        assert!(manners.refuses().is_none());
    }

    #[tokio::test]
    async fn patience_follows_how_long_answers_take_to_begin() {
        let manners = manners();
        assert_eq!(manners.body_patience(), BODY_PATIENCE);
        manners.stats.began_after(Duration::from_millis(200));
        assert_eq!(manners.body_patience(), Duration::from_millis(1600));
        assert_eq!(manners.head_patience(), Duration::from_millis(1600));
        let slow = Manners::new("s3://models".to_owned(), Arc::default(), 8);
        slow.stats.began_after(Duration::from_secs(3));
        assert_eq!(slow.body_patience(), MOST_PATIENCE);
    }
}
