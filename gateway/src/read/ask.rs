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

/// So often the rest is asked for beside an answer that stands still, at one place. If the last stands still there too, it is
/// the origin that does.
const HEDGES: u32 = 2;

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
                            continue;
                        }
                        Moved::Around(incoming) => return self.take(run, *incoming).await,
                    }
                }
            };
            let Some(chunk) = chunk else { return Ok(()) };
            self.dataset.origin.moved();
            if run.write(&chunk?) == Flow::Done {
                return Ok(());
            }
            if let Some(patience) = &mut patience {
                patience.moved();
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
        let second = tokio::select! {
            biased;
            chunk = first.next() => return Ok(Moved::First(first, chunk)),
            second = self.rest(run) => second,
            incoming = &mut elsewhere => return came(incoming),
        };
        match second {
            Ok(answer) => Ok(Moved::Second(answer.body)),
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

/// How long nothing may come.
struct Patience {
    half: Duration,
    timer: Pin<Box<Sleep>>,
    moved: bool,
    halves: u32,
}

impl Patience {
    fn new(time: Duration) -> Self {
        let half = time / 2;
        Self {
            half,
            timer: Box::pin(tokio::time::sleep(half)),
            moved: false,
            halves: 0,
        }
    }

    /// Something came.
    fn moved(&mut self) {
        self.moved = true;
    }

    /// It ends again in a moment, if nothing comes.
    fn soon(&mut self) {
        self.halves = 1;
        self.timer.as_mut().reset(Instant::now() + LOOK_AGAIN);
    }

    /// Ends once nothing has come for so long; it may be called again. Half by half: after a standstill of our own all
    /// timers end together, and what came meanwhile is seen in the second half.
    async fn ends(&mut self) {
        loop {
            self.timer.as_mut().await;
            self.timer.as_mut().reset(Instant::now() + self.half);
            self.halves = match std::mem::take(&mut self.moved) {
                true => 0,
                false => self.halves + 1,
            };
            if self.halves == 2 {
                self.halves = 0;
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn patience_ends_only_where_nothing_comes() {
        let mut patience = Patience::new(Duration::from_millis(500));
        let begun = Instant::now();
        for _ in 0..50 {
            patience.moved();
            let ended = tokio::time::timeout(Duration::from_millis(200), patience.ends()).await;
            assert!(ended.is_err(), "something came 200 ms ago at most");
        }
        let last = Instant::now();
        patience.ends().await;
        let waited = last.elapsed().as_millis();
        assert!((300..=750).contains(&waited), "{waited}");
        // Again, if asked again.
        patience.ends().await;
        assert_eq!(last.elapsed().as_millis() - waited, 500);
        assert!(begun.elapsed() >= Duration::from_secs(10));
    }
}
