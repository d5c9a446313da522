//! The connections that a dataset may have to its origin at once: a number that changes while they
//! are in use, since the members of a fleet share one budget.
//!
//! Who waits for one is served by how urgent it is at that moment, and in the order of asking within a
//! class. One turn in twenty is kept for whoever has no turn else, warming first, so that it ends.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::class::{Class, Urgency};

/// One turn in so many goes to what the classes alone would leave waiting: 5 %.
const KEPT: u64 = 20;

/// How long an origin goes on with a request that was given up: a round trip within a continent, and its own time to
/// notice. One that is further away may have a request more than it is to have for a moment. 64 cold streams on 64
/// connections had 66 requests under way without this, and 64 with it.
const FAREWELL: Duration = Duration::from_millis(100);

/// So many requests at once, and no more.
#[derive(Clone, Debug)]
pub(crate) struct Slots(Arc<Mutex<Count>>);

/// How many there are to be, how many are in use, and who waits.
#[derive(Debug)]
struct Count {
    wanted: usize,
    in_use: usize,
    waiting: VecDeque<Waiter>,
    /// Turns that were given while somebody waited.
    turns: u64,
    tickets: u64,
}

#[derive(Debug)]
struct Waiter {
    ticket: u64,
    urgency: Urgency,
    turn: oneshot::Sender<Slot>,
}

/// The right to one request, until it is dropped.
#[derive(Debug)]
pub(crate) struct Slot {
    slots: Option<Slots>,
}

/// A slot while its request is under way. Should that be given up, the origin hears of it only after a while, and until
/// then the slot is nobody else's: the origin would have one request more than it is to have.
#[derive(Debug)]
pub(crate) struct UnderWay(Option<Slot>);

impl UnderWay {
    /// The slot of a request that leaves now.
    pub(crate) fn new(slot: Slot) -> Self {
        Self(Some(slot))
    }

    /// The origin is done with the request: the slot comes back at once.
    pub(crate) fn end(&mut self) {
        self.0 = None;
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        if let Some(slot) = self.0.take()
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn(async move {
                tokio::time::sleep(FAREWELL).await;
                drop(slot);
            });
        }
    }
}

impl Slots {
    /// `count` of them.
    pub(crate) fn new(count: usize) -> Self {
        Self(Arc::new(Mutex::new(Count {
            wanted: count,
            in_use: 0,
            waiting: VecDeque::new(),
            turns: 0,
            tickets: 0,
        })))
    }

    /// A slot, when it is the asker's turn. Dropping the future gives the place in the queue up.
    pub(crate) async fn take(&self, urgency: &Urgency) -> Slot {
        let (ticket, turn) = {
            let mut count = self.lock();
            // Who waits comes first: a slot is free beside them only while it is being given.
            if count.in_use < count.wanted && count.waiting.is_empty() {
                count.in_use += 1;
                return self.slot();
            }
            count.tickets += 1;
            let ticket = count.tickets;
            let (sender, turn) = oneshot::channel();
            count.waiting.push_back(Waiter {
                ticket,
                urgency: urgency.clone(),
                turn: sender,
            });
            (ticket, turn)
        };
        let _queued = Queued {
            slots: self,
            ticket,
        };
        // The sender is in the queue until it sends.
        turn.await.unwrap_or(Slot { slots: None })
    }

    /// A slot, if one is free and nobody waits for it.
    pub(crate) fn take_free(&self) -> Option<Slot> {
        let mut count = self.lock();
        let free = count.in_use < count.wanted && count.waiting.is_empty();
        count.in_use += usize::from(free);
        drop(count);
        free.then(|| self.slot())
    }

    /// Makes it `wanted` slots. What is in use beyond them goes as it comes back.
    pub(crate) fn set(&self, wanted: usize) {
        self.lock().wanted = wanted;
        self.give();
    }

    /// How many there are to be.
    pub(crate) fn wanted(&self) -> usize {
        self.lock().wanted
    }

    /// How many are in use.
    pub(crate) fn in_use(&self) -> usize {
        self.lock().in_use
    }

    /// Whether one is free, and nobody waits for it.
    pub(crate) fn has_free(&self) -> bool {
        let count = self.lock();
        count.in_use < count.wanted && count.waiting.is_empty()
    }

    /// Gives what is free to those whose turn it is.
    fn give(&self) {
        loop {
            let waiter = self.lock().next();
            let Some(waiter) = waiter else { return };
            if let Err(mut slot) = waiter.turn.send(self.slot()) {
                // It left just now. Not by dropping the slot: that would come here again, and deeper.
                slot.slots = None;
                self.lock().in_use -= 1;
            }
        }
    }

    fn slot(&self) -> Slot {
        Slot {
            slots: Some(self.clone()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Count> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Count {
    /// Takes out whose turn it is, if a slot is free.
    fn next(&mut self) -> Option<Waiter> {
        if self.in_use >= self.wanted || self.waiting.is_empty() {
            return None;
        }
        self.turns += 1;
        let classes = self.waiting.iter().map(|waiter| waiter.urgency.class());
        // Of equals, the first that came.
        let place = match self.turns.is_multiple_of(KEPT) {
            false => classes.enumerate().min_by_key(|(_, class)| *class),
            true => {
                let mut places = classes.enumerate();
                places.find(|(_, class)| *class == Class::Warm)
            }
        };
        let (place, _) = place.unwrap_or((0, Class::default()));
        let waiter = self.waiting.remove(place)?;
        self.in_use += 1;
        Some(waiter)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(slots) = self.slots.take() {
            slots.lock().in_use -= 1;
            slots.give();
        }
    }
}

/// A place in the queue, left when this is dropped.
struct Queued<'a> {
    slots: &'a Slots,
    ticket: u64,
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        let mut count = self.slots.lock();
        let place = count
            .waiting
            .iter()
            .position(|waiter| waiter.ticket == self.ticket);
        let left = place.and_then(|place| count.waiting.remove(place));
        drop(count);
        drop(left);
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::Pin;

    use futures::FutureExt;

    use super::*;
    use crate::block::BlockKey;
    use crate::flight::Flight;
    use crate::object::ObjectId;
    use crate::store::Spot;
    use crate::version::VersionKey;

    type Taking<'a> = Pin<Box<dyn Future<Output = Slot> + 'a>>;

    /// Asks, and stands in the queue.
    fn ask<'a>(slots: &'a Slots, urgency: &'a Urgency) -> Taking<'a> {
        let mut taking: Taking<'a> = Box::pin(slots.take(urgency));
        assert!((&mut taking).now_or_never().is_none(), "no slot is free");
        taking
    }

    fn urgency(class: Class) -> Urgency {
        class.into()
    }

    #[tokio::test]
    async fn fewer_slots_hold_once_those_in_use_have_come_back() {
        let (slots, demand) = (Slots::new(3), urgency(Class::Demand));
        let (one, two) = (slots.take(&demand).await, slots.take(&demand).await);
        slots.set(1);
        let mut third = ask(&slots, &demand);
        drop(one);
        assert!((&mut third).now_or_never().is_none());
        drop(two);
        let third = third.now_or_never();
        assert!(third.is_some());
        slots.set(2);
        let _fourth = slots.take(&demand).await;
        let _fifth = ask(&slots, &demand);
    }

    #[tokio::test]
    async fn more_slots_go_to_those_who_wait() {
        let (slots, demand) = (Slots::new(1), urgency(Class::Demand));
        let _held = slots.take(&demand).await;
        let waiting = ask(&slots, &demand);
        slots.set(2);
        assert!(waiting.now_or_never().is_some());
    }

    #[tokio::test]
    async fn the_most_urgent_is_next_and_of_equals_the_first() {
        let slots = Slots::new(1);
        let [demand, peer, ahead, warm] = Class::ALL.map(urgency);
        let held = slots.take(&demand).await;
        let warm = ask(&slots, &warm);
        let ahead = ask(&slots, &ahead);
        let peer = ask(&slots, &peer);
        let (first, second) = (ask(&slots, &demand), ask(&slots, &demand));
        drop(held);
        let mut held = None;
        for next in [first, second, peer, ahead, warm] {
            drop(held.take());
            held = next.now_or_never();
            assert!(held.is_some());
        }
    }

    #[tokio::test]
    async fn warming_gets_one_turn_in_twenty_however_many_wait() {
        let slots = Slots::new(1);
        let [demand, _, _, warm] = Class::ALL.map(urgency);
        let mut held = Some(slots.take(&demand).await);
        let mut asking: VecDeque<_> = (0..50).map(|_| ask(&slots, &demand)).collect();
        let mut warming = ask(&slots, &warm);
        let mut before = 0;
        loop {
            drop(held.take());
            held = (&mut warming).now_or_never();
            if held.is_some() {
                break;
            }
            held = asking.pop_front().and_then(FutureExt::now_or_never);
            assert!(held.is_some());
            before += 1;
        }
        assert_eq!(before, KEPT - 1);
    }

    #[tokio::test]
    async fn a_fill_that_a_client_joins_passes_those_before_it() {
        let slots = Slots::new(1);
        let held = slots.take(&urgency(Class::Demand)).await;
        let (peer, fills) = (urgency(Class::Peer), [fill(0), fill(1)]);
        let ahead = Urgency::of(fills.iter().cloned());
        let before = ask(&slots, &peer);
        let joined = ask(&slots, &ahead);
        fills[1].follow().urge(Class::Demand);
        drop(held);
        let held = joined.now_or_never();
        assert!(held.is_some());
        drop(held);
        assert!(before.now_or_never().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn the_slot_of_a_request_that_is_given_up_comes_back_when_the_origin_has_heard_of_it() {
        let (slots, demand) = (Slots::new(1), urgency(Class::Demand));
        let mut ended = UnderWay::new(slots.take(&demand).await);
        ended.end();
        let given_up = slots.take(&demand).now_or_never();
        let mut next = {
            let _given_up = UnderWay::new(given_up.expect("one that ended is free"));
            ask(&slots, &demand)
        };
        tokio::time::sleep(FAREWELL / 2).await;
        assert!((&mut next).now_or_never().is_none());
        tokio::time::sleep(FAREWELL).await;
        assert!(next.now_or_never().is_some());
    }

    fn fill(index: u32) -> Arc<Flight> {
        let version = VersionKey(1);
        let key = BlockKey { version, index };
        let asker = (0, Class::ReadAhead);
        Flight::new(ObjectId::new("models", "a"), key, 1, asker, Spot::ALONE)
    }

    #[tokio::test]
    async fn who_leaves_the_queue_costs_nobody_a_turn() {
        let (slots, demand) = (Slots::new(1), urgency(Class::Demand));
        let held = slots.take(&demand).await;
        let (leaves, stays) = (ask(&slots, &demand), ask(&slots, &demand));
        drop(leaves);
        drop(held);
        assert!(stays.now_or_never().is_some());
        // One that leaves with its turn in hand gives it back.
        let held = slots.take(&demand).await;
        let leaves = ask(&slots, &demand);
        let stays = ask(&slots, &demand);
        drop(held);
        drop(leaves);
        assert!(stays.now_or_never().is_some());
    }
}
