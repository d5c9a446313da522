//! One request to the origin for a run, and a second one beside it where the first stands still; and where that comes from
//! nowhere, another member's.
//!
//! What counts is that bytes come, never how long a body takes: a slow origin is followed, one that stopped is not.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use forebay_storage::error::OriginError;
use forebay_storage::fill::{Flow, Run};
use forebay_storage::origin::{Answer, ExactBody};
use futures::StreamExt;
use tokio::time::{Instant, Sleep};

use super::fetch::LOOK_AGAIN;
use super::{Reads, around};
use crate::dataset::Dataset;
use crate::peer::incoming::Incoming;

/// So often the rest is asked for beside an answer that stands still, at one place; each time once the head of the one before
/// has come, for where none comes there is nothing to be had. If the last stands still there too, it is the origin that
/// does.
const HEDGES: u32 = 4;

type Chunk = Option<Result<Bytes, OriginError>>;

/// The requests of one run, one after the other.
pub(super) struct Asking<'a> {
    reads: &'a Arc<Reads>,
    dataset: &'a Arc<Dataset>,
    /// Where an answer stood still, and how often the rest was asked for once more there.
    hedged: (u64, u32),
    /// Where another member was taken from: once at a place too.
    around_at: Option<u64>,
    /// Bytes of what was brought last are another member's.
    around: bool,
}

/// Which body went on.
enum Moved {
    First(ExactBody, Chunk),
    Second(ExactBody),
    Around(Box<Incoming>),
}

impl<'a> Asking<'a> {
    pub(super) fn new(reads: &'a Arc<Reads>, dataset: &'a Arc<Dataset>) -> Self {
        Self {
            reads,
            dataset,
            hedged: (0, 0),
            around_at: None,
            around: false,
        }
    }

    /// Writes the bytes that the run has memory for, or what is left of them in `feed`, into it.
    ///
    /// # Errors
    /// What the origin answered, or how its body broke off. What came until then is written.
    pub(super) async fn ask(
        &mut self,
        run: &mut Run,
        feed: Option<Answer>,
    ) -> Result<(), OriginError> {
        let mut body = match feed {
            Some(answer) => answer.body,
            None => {
                run.asks_anew();
                let answer = tokio::select! {
                    biased;
                    answer = self.rest(run) => answer?,
                    incoming = self.elsewhere(run) => return self.take(run, incoming).await,
                };
                answer.body
            }
        };
        let mut patience = self.dataset.origin.patience().map(Patience::new);
        loop {
            let may_hedge = self.hedged_at(run.reached()) < HEDGES;
            let stands_still = async {
                match &mut patience {
                    Some(patience) if may_hedge => patience.ends().await,
                    _ => std::future::pending().await,
                }
            };
            let chunk = tokio::select! {
                biased;
                chunk = body.next() => chunk,
                () = stands_still => {
                    if !self.dataset.origin.may_hedge(&run.urgency()) {
                        // Somebody may come to wait for it.
                        if let Some(patience) = &mut patience {
                            patience.soon();
                        }
                        continue;
                    }
                    match self.beside(run, body).await? {
                        Moved::First(first, chunk) => {
                            body = first;
                            chunk
                        }
                        Moved::Second(second) => {
                            run.asks_anew();
                            body = second;
                            if let Some(patience) = &mut patience {
                                patience.again();
                            }
                            continue;
                        }
                        Moved::Around(incoming) => return self.take(run, *incoming).await,
                    }
                }
            };
            let Some(chunk) = chunk else { return Ok(()) };
            self.dataset.origin.moved();
            let chunk = chunk?;
            if run.write(&chunk) == Flow::Done {
                return Ok(());
            }
            if let Some(patience) = &mut patience {
                patience.moved(chunk.len());
            }
        }
    }

    fn hedged_at(&self, place: u64) -> u32 {
        match self.hedged {
            (at, times) if at == place => times,
            _ => 0,
        }
    }

    /// Asks for the rest once more, and goes on with whichever moves first.
    async fn beside(&mut self, run: &Run, mut first: ExactBody) -> Result<Moved, OriginError> {
        self.hedged = (run.reached(), self.hedged_at(run.reached()) + 1);
        tracing::debug!(object = %run.object(), at = run.reached(), "an answer stands still");
        let mut elsewhere = std::pin::pin!(self.elsewhere(run));
        let came = |incoming| Ok(Moved::Around(Box::new(incoming)));
        if !self.dataset.origin.has_free_connection() {
            // It may be waited for long; the one that stands still has one, and it is free when the origin has heard of it.
            drop(first);
            return tokio::select! {
                biased;
                second = self.rest(run) => Ok(Moved::Second(second?.body)),
                incoming = &mut elsewhere => came(incoming),
            };
        }
        let asked = Instant::now();
        let second = tokio::select! {
            biased;
            chunk = first.next() => return Ok(Moved::First(first, chunk)),
            second = self.rest(run) => second,
            incoming = &mut elsewhere => return came(incoming),
        };
        match second {
            Ok(answer) => {
                self.dataset.origin.stood_still(asked.elapsed());
                Ok(Moved::Second(answer.body))
            }
            Err(error) => {
                tracing::debug!(object = %run.object(), %error, "nor does another one begin");
                tokio::select! {
                    biased;
                    chunk = first.next() => Ok(Moved::First(first, chunk)),
                    incoming = &mut elsewhere => came(incoming),
                }
            }
        }
    }

    /// The origin is down, and is not asked: whether another member brings more, in a moment.
    pub(super) async fn goes_around(&mut self, run: &mut Run, error: &OriginError) -> bool {
        let (from, range) = (run.reached(), around::rest(self.reads, run));
        if !matches!(error, OriginError::Down { .. }) || self.around_at == Some(range.start) {
            return false;
        }
        // Nothing else is asked for now, and who waits for another gateway holds no memory.
        run.let_go();
        let brought = around::bring(self.reads, self.dataset, run, range);
        match tokio::time::timeout(around::ALONE, brought)
            .await
            .ok()
            .flatten()
        {
            Some(incoming) => self.take(run, incoming).await.is_ok() || run.reached() > from,
            None => false,
        }
    }

    /// Whose bytes those were that came since this was asked last: what a fill is counted as.
    pub(super) fn take_source(&mut self) -> &'static str {
        match std::mem::take(&mut self.around) {
            true => "peer",
            false => "origin",
        }
    }

    async fn elsewhere(&self, run: &Run) -> Incoming {
        if self.around_at == Some(around::rest(self.reads, run).start) {
            return std::future::pending().await;
        }
        around::once_stuck(self.reads, self.dataset, run).await
    }

    async fn take(&mut self, run: &mut Run, incoming: Incoming) -> Result<(), OriginError> {
        self.around_at = Some(around::rest(self.reads, run).start);
        self.around = true;
        around::take(self.reads, self.dataset, run, incoming).await
    }

    async fn rest(&self, run: &Run) -> Result<Answer, OriginError> {
        let range = run.reached()..run.end();
        let (object, urgency) = (run.object(), run.urgency());
        let origin = &self.dataset.origin;
        origin
            .get(object, range, Some(run.version()), &urgency)
            .await
    }
}

/// What has stood still may stand still again, until so much has come without that.
const TRUSTED_AFTER: usize = 1 << 20;

/// How long nothing may come.
struct Patience {
    quarter: Duration,
    timer: Pin<Box<Sleep>>,
    moved: bool,
    /// Quarters in which nothing came, and how many of them are enough.
    quiet: u32,
    enough: u32,
    /// Bytes until it is as long as at first again.
    distrusted: usize,
}

impl Patience {
    const QUARTERS: u32 = 4;

    fn new(time: Duration) -> Self {
        let quarter = time / Self::QUARTERS;
        Self {
            quarter,
            timer: Box::pin(tokio::time::sleep(quarter)),
            moved: false,
            quiet: 0,
            enough: Self::QUARTERS,
            distrusted: 0,
        }
    }

    /// Something came.
    fn moved(&mut self, bytes: usize) {
        self.moved = true;
        self.distrusted = self.distrusted.saturating_sub(bytes);
        if self.distrusted == 0 {
            self.enough = Self::QUARTERS;
        }
    }

    /// It ends again in a moment, if nothing comes.
    fn soon(&mut self) {
        self.quiet = self.enough - 1;
        self.timer.as_mut().reset(Instant::now() + LOOK_AGAIN);
    }

    /// Half of it begins, for another answer: who waits has waited already.
    fn again(&mut self) {
        self.enough = Self::QUARTERS / 2;
        self.distrusted = TRUSTED_AFTER;
        self.quiet = 0;
        self.timer.as_mut().reset(Instant::now() + self.quarter);
    }

    /// Ends once nothing has come for so long; it may be called again. Quarter by quarter: after a standstill of our own all
    /// timers end together, and what came meanwhile is seen in the next.
    async fn ends(&mut self) {
        loop {
            self.timer.as_mut().await;
            self.timer.as_mut().reset(Instant::now() + self.quarter);
            self.quiet = match std::mem::take(&mut self.moved) {
                true => 0,
                false => self.quiet + 1,
            };
            if self.quiet >= self.enough {
                self.quiet = 0;
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: Duration = Duration::from_millis(500);

    async fn lasts(patience: &mut Patience) -> u128 {
        let begun = Instant::now();
        patience.ends().await;
        begun.elapsed().as_millis()
    }

    #[tokio::test(start_paused = true)]
    async fn patience_ends_only_where_nothing_comes() {
        let mut patience = Patience::new(TIME);
        let begun = Instant::now();
        for _ in 0..50 {
            patience.moved(1);
            let ended = tokio::time::timeout(Duration::from_millis(200), patience.ends()).await;
            assert!(ended.is_err(), "something came 200 ms ago at most");
        }
        let waited = lasts(&mut patience).await;
        assert!((300..=625).contains(&waited), "{waited}");
        // Again, if asked again.
        assert_eq!(lasts(&mut patience).await, 500);
        assert!(begun.elapsed() >= Duration::from_secs(10));
    }

    #[tokio::test(start_paused = true)]
    async fn with_what_is_asked_for_beside_it_patience_is_half_as_long_until_it_is_trusted() {
        let mut patience = Patience::new(TIME);
        patience.again();
        assert_eq!(lasts(&mut patience).await, 250);
        patience.moved(TRUSTED_AFTER - 1);
        assert_eq!(lasts(&mut patience).await, 375);
        patience.moved(1);
        assert_eq!(lasts(&mut patience).await, 625);
    }
}
