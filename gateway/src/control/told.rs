//! Bodies that tell how something goes, line by line, until it is over.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, stream};
use tokio::sync::watch;

/// Between two lines.
const EACH: Duration = Duration::from_secs(1);

/// How what is told of does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    /// It goes on.
    Going,
    /// It ended well.
    Well,
    /// It ended otherwise.
    Badly,
}

/// What comes next of such a body.
enum Next {
    First,
    Later,
    /// The body is broken off, for its client to see that it did not end well.
    Break,
    Nothing,
}

/// A line now, whenever `changed` says so, and each second, until it is over. With `breaks` the body of what did not
/// end well is broken off behind its last line. It is broken off in any case once `closed`.
pub(super) fn told<T: Send + Sync + 'static>(
    changed: watch::Receiver<T>,
    closed: watch::Receiver<bool>,
    line: impl Fn() -> (How, String) + Send + 'static,
    breaks: bool,
) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    let begin = (Next::First, changed, closed, line);
    stream::unfold(
        begin,
        move |(next, mut changed, mut closed, line)| async move {
            match next {
                Next::First => {
                    changed.mark_unchanged();
                }
                Next::Later => {
                    let stops = tokio::select! {
                        biased;
                        // Whoever had the sender dropped would have ended it before.
                        _ = closed.wait_for(|closed| *closed) => true,
                        // The sender is held by what the line is of.
                        _ = tokio::time::timeout(EACH, changed.changed()) => false,
                    };
                    if stops {
                        let failed = "the gateway stops; it goes on with its next run";
                        let failed = Err(io::Error::other(failed));
                        return Some((failed, (Next::Nothing, changed, closed, line)));
                    }
                }
                Next::Break => {
                    // The line before has to leave first.
                    tokio::task::yield_now().await;
                    let failed = io::Error::other("it did not end well");
                    return Some((Err(failed), (Next::Nothing, changed, closed, line)));
                }
                Next::Nothing => return None,
            }
            let (how, text) = line();
            let next = match how {
                How::Going => Next::Later,
                How::Badly if breaks => Next::Break,
                How::Well | How::Badly => Next::Nothing,
            };
            Some((Ok(Bytes::from(text)), (next, changed, closed, line)))
        },
    )
}
