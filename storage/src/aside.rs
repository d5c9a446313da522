//! Work that waits for a disk, where it holds up nobody.

use std::cell::RefCell;
use std::fmt;
use std::future;
use std::time::Duration;

use tokio::task::{JoinError, JoinHandle};

type Pause = Box<dyn FnMut() -> Duration>;

thread_local! {
    static PAUSE: RefCell<Option<Pause>> = const { RefCell::new(None) };
}

/// Does `work` on a thread that may wait. It is done to its end, whether anybody awaits that or not.
pub fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    let pause = PAUSE.with_borrow_mut(|pause| pause.as_mut().map(|pause| pause()));
    match pause {
        None => tokio::task::spawn_blocking(work),
        Some(pause) => tokio::spawn(async move {
            tokio::time::sleep(pause).await;
            work()
        }),
    }
}

/// What came of such work, or that it panicked.
///
/// A runtime that is shut down begins no more of it, and says that it was cancelled. Who waits for it is dropped next,
/// and until then this does not return: what has stopped has not failed.
///
/// # Errors
///
/// If the work panicked.
pub async fn done<T>(work: &mut JoinHandle<T>) -> Result<T, JoinError> {
    match work.await {
        Err(error) if error.is_cancelled() => future::pending().await,
        came => came,
    }
}

/// For as long as this is held, such work of this thread is done by the thread itself.
///
/// For the simulator, whose worlds have one thread each, and in which one thing happens after the other: a second
/// thread would be done now sooner and now later.
pub struct InTurn(());

impl InTurn {
    /// Each piece of work comes `pause` after it was asked for.
    pub fn after(pause: impl FnMut() -> Duration + 'static) -> Self {
        PAUSE.set(Some(Box::new(pause)));
        Self(())
    }
}

impl fmt::Debug for InTurn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InTurn").finish()
    }
}

impl Drop for InTurn {
    fn drop(&mut self) {
        PAUSE.set(None);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn work_is_done_by_another_thread_or_in_turn() {
        let here = std::thread::current().id();
        let there = || std::thread::current().id();
        assert_ne!(aside(there).await.unwrap(), here);
        let in_turn = InTurn::after(|| Duration::from_secs(1));
        let begun = tokio::time::Instant::now();
        assert_eq!(aside(there).await.unwrap(), here);
        assert_eq!(begun.elapsed(), Duration::from_secs(1));
        drop(in_turn);
        assert_ne!(aside(there).await.unwrap(), here);
    }

    #[tokio::test(start_paused = true)]
    async fn work_that_a_stopped_runtime_did_not_begin_has_not_failed() {
        let mut given_up = tokio::spawn(future::pending::<()>());
        given_up.abort();
        let waited = tokio::time::timeout(Duration::from_secs(1), done(&mut given_up));
        waited.await.unwrap_err();
        assert!(done(&mut aside(|| panic!("so it is"))).await.is_err());
        assert_eq!(done(&mut aside(|| 7)).await.unwrap(), 7);
    }
}
