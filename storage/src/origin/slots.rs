//! The connections that a dataset may have to its origin at once: a number that changes while they
//! are in use, since the members of a fleet share one budget.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// So many requests at once, and no more.
#[derive(Clone, Debug)]
pub(crate) struct Slots(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    free: Arc<Semaphore>,
    count: Mutex<Count>,
}

/// How many there are to be, and how many have to go once they come back.
#[derive(Debug)]
struct Count {
    wanted: usize,
    owed: usize,
}

/// The right to one request, until it is dropped.
#[derive(Debug)]
pub(crate) struct Slot {
    permit: Option<OwnedSemaphorePermit>,
    slots: Slots,
}

impl Slots {
    /// `count` of them.
    pub(crate) fn new(count: usize) -> Self {
        Self(Arc::new(Inner {
            free: Arc::new(Semaphore::new(count)),
            count: Mutex::new(Count {
                wanted: count,
                owed: 0,
            }),
        }))
    }

    /// A slot, in the order of asking. Dropping the future gives the place in the queue up.
    pub(crate) async fn take(&self) -> Slot {
        let permit = Arc::clone(&self.0.free).acquire_owned().await;
        Slot {
            // Nobody closes this semaphore.
            permit: permit.ok(),
            slots: self.clone(),
        }
    }

    /// Makes it `wanted` slots. What is in use beyond them goes as it comes back.
    pub(crate) fn set(&self, wanted: usize) {
        let mut count = self.0.count.lock().unwrap_or_else(PoisonError::into_inner);
        if wanted >= count.wanted {
            let more = wanted - count.wanted;
            let paid = more.min(count.owed);
            count.owed -= paid;
            self.0.free.add_permits(more - paid);
        } else {
            let fewer = count.wanted - wanted;
            count.owed += fewer - self.0.free.forget_permits(fewer);
        }
        count.wanted = wanted;
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let inner = &self.slots.0;
        let mut count = inner.count.lock().unwrap_or_else(PoisonError::into_inner);
        if count.owed > 0
            && let Some(permit) = self.permit.take()
        {
            count.owed -= 1;
            permit.forget();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn fewer_slots_hold_once_those_in_use_have_come_back() {
        let slots = Slots::new(3);
        let (one, two) = (slots.take().await, slots.take().await);
        slots.set(1);
        assert_eq!(slots.0.free.available_permits(), 0);
        drop(one);
        assert_eq!(slots.0.free.available_permits(), 0);
        drop(two);
        assert_eq!(slots.0.free.available_permits(), 1);
        slots.set(4);
        assert_eq!(slots.0.free.available_permits(), 4);
    }

    #[tokio::test]
    async fn what_is_owed_is_paid_by_a_larger_number_first() {
        let slots = Slots::new(2);
        let held = (slots.take().await, slots.take().await);
        slots.set(1);
        slots.set(2);
        drop(held);
        assert_eq!(slots.0.free.available_permits(), 2);
    }
}
