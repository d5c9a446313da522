//! Taking a body as a socket would: what was handed over is held until the other side took it.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use forebay_gateway::body::Body;
use http_body::{Body as _, Frame};
use tokio::time::Instant;

use crate::random::Random;

/// Bytes that hyper buffers before it stops asking a body for more.
const BUFFER: usize = 400 << 10;

/// How long a connection waits for a reader to take a byte.
const WRITE_TIMEOUT: Duration = Duration::from_secs(20);

/// How a reader takes what comes.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Between two pieces taken; none: as fast as they come.
    pub gap: Option<Duration>,
    /// Bytes after which the reader leaves.
    pub leave_after: Option<u64>,
    /// How long the reader waits for the answer to begin.
    pub patience: Option<Duration>,
}

/// How taking a body ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// The body ended as if whole.
    Whole,
    /// It was cut.
    Cut,
    /// The reader left.
    Left,
}

impl Pace {
    /// As fast as it comes, to the end.
    pub const FAST: Self = Self {
        gap: None,
        leave_after: None,
        patience: None,
    };

    /// The pace of one read; `slow`: of somebody behind a slow link.
    pub fn draw(random: &mut Random, slow: bool) -> Self {
        let mut pace = Self::FAST;
        if slow {
            pace.gap = Some(random.millis(1..=400));
        } else if random.chance(3) {
            // Longer than any timeout: who stops taking bytes is cut.
            pace.gap = Some(Duration::from_secs(3600));
        }
        if random.chance(10) {
            pace.leave_after = Some(random.below(2 << 20));
        } else if random.chance(5) {
            pace.patience = Some(random.millis(0..=100));
        }
        pace
    }
}

/// Takes a body to its end; each piece is shown to `take` as it comes.
///
/// # Errors
/// What `take` says of a piece.
pub async fn drain(
    mut body: Body,
    pace: &Pace,
    mut take: impl FnMut(&[u8]) -> Result<(), String>,
) -> Result<End, String> {
    let mut held: VecDeque<Bytes> = VecDeque::new();
    let (mut buffered, mut taken) = (0, 0);
    let gap = pace.gap.unwrap_or_default();
    let mut next_take = Box::pin(tokio::time::sleep(gap));
    loop {
        let frame = tokio::select! {
            biased;
            () = &mut next_take, if !held.is_empty() => {
                if gap > WRITE_TIMEOUT {
                    body.give_up(WRITE_TIMEOUT);
                    return Ok(End::Cut);
                }
                let piece = held.pop_front();
                buffered -= piece.map_or(0, |piece| piece.len());
                next_take.as_mut().reset(Instant::now() + gap.min(WRITE_TIMEOUT));
                continue;
            }
            frame = frame(&mut body), if buffered < BUFFER => frame,
        };
        let piece = match frame {
            None => return Ok(End::Whole),
            Some(Err(_)) => return Ok(End::Cut),
            Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
        };
        take(&piece)?;
        taken += piece.len() as u64;
        if pace.leave_after.is_some_and(|after| taken >= after) {
            return Ok(End::Left);
        }
        if pace.gap.is_some() {
            if held.is_empty() {
                next_take
                    .as_mut()
                    .reset(Instant::now() + gap.min(WRITE_TIMEOUT));
            }
            buffered += piece.len();
            held.push_back(piece);
        }
    }
}

async fn frame(body: &mut Body) -> Option<Result<Frame<Bytes>, std::io::Error>> {
    poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await
}
