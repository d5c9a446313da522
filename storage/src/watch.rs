//! A value that many wait on: tokio's `watch`, but who waits first is woken first.
//!
//! Tokio spreads its waiters over eight queues by a random number that no seed reaches, so whoever
//! runs a simulation twice sees two orders of events, and two traces. One queue it is, then; what is
//! read without waiting (the segments of a fill) never comes near it.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use tokio::sync::Notify;

struct Shared<T> {
    value: RwLock<T>,
    changed: Notify,
    receivers: AtomicUsize,
    /// Told when the last receiver leaves.
    left: Notify,
    orphaned: AtomicBool,
}

impl<T> Shared<T> {
    fn read(&self) -> RwLockReadGuard<'_, T> {
        self.value.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The one who changes the value.
pub struct Sender<T>(Arc<Shared<T>>);

/// One who sees it change. Dropping it is leaving.
pub struct Receiver<T>(Arc<Shared<T>>);

/// The sender is gone, so nothing will change any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the sender is gone")]
pub struct Orphaned;

/// A value with its sender and its first receiver.
pub fn channel<T>(value: T) -> (Sender<T>, Receiver<T>) {
    let sender = Sender::new(value);
    let receiver = sender.subscribe();
    (sender, receiver)
}

impl<T> Sender<T> {
    /// A value that nobody watches yet.
    pub fn new(value: T) -> Self {
        Self(Arc::new(Shared {
            value: RwLock::new(value),
            changed: Notify::new(),
            receivers: AtomicUsize::new(0),
            left: Notify::new(),
            orphaned: AtomicBool::new(false),
        }))
    }

    /// One more receiver.
    pub fn subscribe(&self) -> Receiver<T> {
        self.0.receivers.fetch_add(1, Ordering::AcqRel);
        Receiver(Arc::clone(&self.0))
    }

    /// The value as it is. Held over nothing that waits.
    pub fn borrow(&self) -> RwLockReadGuard<'_, T> {
        self.0.read()
    }

    /// Whether there is no receiver.
    pub fn is_closed(&self) -> bool {
        self.0.receivers.load(Ordering::Acquire) == 0
    }

    /// Returns once there is no receiver.
    pub async fn closed(&self) {
        loop {
            // Made before the look: it is told of all that happens from here on.
            let left = self.0.left.notified();
            if self.is_closed() {
                return;
            }
            left.await;
        }
    }

    /// Changes the value and wakes who waits.
    pub fn send_modify(&self, change: impl FnOnce(&mut T)) {
        self.send_if_modified(|value| {
            change(value);
            true
        });
    }

    /// Changes the value, and wakes who waits if `change` says that it did.
    pub fn send_if_modified(&self, change: impl FnOnce(&mut T) -> bool) {
        let modified = {
            let value = self.0.value.write();
            change(&mut value.unwrap_or_else(PoisonError::into_inner))
        };
        if modified {
            self.0.changed.notify_waiters();
        }
    }

    /// Puts another value in place and wakes who waits.
    pub fn send_replace(&self, value: T) {
        self.send_modify(|old| *old = value);
    }
}

impl<T> Receiver<T> {
    /// The value as it is. Held over nothing that waits.
    pub fn borrow(&self) -> RwLockReadGuard<'_, T> {
        self.0.read()
    }

    /// Whether the sender is gone.
    pub fn is_orphaned(&self) -> bool {
        self.0.orphaned.load(Ordering::Acquire)
    }

    /// Whether both receive from one sender.
    pub fn same_channel(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Waits until `wanted` is true of the value. Dropping the future gives the place in the queue
    /// up.
    ///
    /// # Errors
    /// [`Orphaned`] if it is not true and never will be.
    pub async fn wait_for(
        &self,
        wanted: impl Fn(&T) -> bool,
    ) -> Result<RwLockReadGuard<'_, T>, Orphaned> {
        loop {
            // Made before the look: it is told of all that happens from here on.
            let changed = self.0.changed.notified();
            let orphaned = self.is_orphaned();
            {
                let value = self.0.read();
                if wanted(&value) {
                    return Ok(value);
                }
            }
            if orphaned {
                return Err(Orphaned);
            }
            changed.await;
        }
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        self.0.receivers.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(&self.0))
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        if self.0.receivers.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.left.notify_waiters();
        }
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.0.orphaned.store(true, Ordering::Release);
        self.0.changed.notify_waiters();
    }
}

impl<T: fmt::Debug> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Sender").field(&*self.0.read()).finish()
    }
}

impl<T: fmt::Debug> fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Receiver").field(&*self.0.read()).finish()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::sync::Mutex;

    #[tokio::test]
    async fn who_waits_first_is_woken_first() {
        let (sender, receiver) = channel(0);
        let woken = Arc::new(Mutex::new(Vec::new()));
        let mut waiters = Vec::new();
        for number in 0..40 {
            let (receiver, woken) = (receiver.clone(), Arc::clone(&woken));
            waiters.push(tokio::spawn(async move {
                drop(receiver.wait_for(|value| *value > 0).await);
                woken.lock().unwrap().push(number);
            }));
        }
        tokio::task::yield_now().await;
        sender.send_replace(1);
        for waiter in waiters {
            waiter.await.unwrap();
        }
        assert_eq!(*woken.lock().unwrap(), (0..40).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn what_the_sender_said_last_outlives_it() {
        let (sender, receiver) = channel(0);
        let waiter = tokio::spawn({
            let receiver = receiver.clone();
            async move { receiver.wait_for(|value| *value == 2).await.map(|_| ()) }
        });
        tokio::task::yield_now().await;
        sender.send_replace(1);
        drop(sender);
        assert_eq!(waiter.await.unwrap(), Err(Orphaned));
        assert_eq!(
            receiver
                .wait_for(|value| *value == 1)
                .await
                .map(|value| *value),
            Ok(1)
        );
        assert!(receiver.is_orphaned());
    }

    #[tokio::test]
    async fn the_last_receiver_to_leave_closes_it() {
        let (sender, receiver) = channel(());
        let other = receiver.clone();
        drop(receiver);
        assert!(!sender.is_closed());
        let watch = tokio::spawn(async move { sender.closed().await });
        tokio::task::yield_now().await;
        drop(other);
        watch.await.unwrap();
    }
}
