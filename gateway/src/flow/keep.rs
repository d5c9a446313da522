//! Whose flow is whose: every member knows all of them, and one works on each; those of a gateway that died go on here.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use tokio::time::Instant;

use super::record::{Record, State};
use super::{Flow, Flows, REMEMBERED, Setup, exec};
use crate::keeping::cabinet::{CabinetError, Mark};
use crate::keeping::lease::{LEASE, TICK, TRIES};
use crate::keeping::millis;

/// Leases that a flow which this gateway may not do is left to those who may.
const LEFT_TO_OTHERS: u32 = 4;

/// What came of writing a flow down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Written {
    /// It is written as ours.
    Ours,
    /// Another member works on it by now.
    Theirs,
    /// It could not be; it may later.
    NotNow,
}

impl Flows {
    /// Sees to it that each flow has somebody who works on it, as long as flows go on.
    pub(super) async fn keep(self: Arc<Self>) {
        let Some(setup) = self.setup.get() else {
            return;
        };
        let mut ticks = tokio::time::interval(TICK);
        let (mut first, mut away) = (true, false);
        loop {
            tokio::select! {
                biased;
                () = self.closing() => return,
                _ = ticks.tick() => {}
            }
            match self.look(setup, first).await {
                Ok(()) => (first, away) = (false, false),
                Err(error) if !away => {
                    away = true;
                    tracing::warn!(%error, "flows go no further until the state store is back");
                }
                Err(_) => {}
            }
            // In a directory of our own nobody else writes.
            if !first && !setup.cabinet.is_shared() {
                return;
            }
        }
    }

    pub(super) async fn look(
        self: &Arc<Self>,
        setup: &Setup,
        first: bool,
    ) -> Result<(), CabinetError> {
        let mut there = HashSet::new();
        for (id, mark) in setup.cabinet.list().await? {
            let known = self.get(&id);
            let is_news = known.as_ref().is_none_or(|flow| {
                let lease = flow.lease();
                flow.is_theirs() && !lease.mark.as_ref().is_some_and(|known| known.is(&mark))
            });
            if is_news {
                self.read(setup, &id, known).await?;
            }
            there.insert(id);
        }
        for flow in self.all() {
            let over = flow.state().is_over();
            if first && flow.is_theirs() {
                self.kill_left(&flow);
            }
            if flow.is_theirs() && !over {
                let (anybodys, ours) = {
                    let lease = flow.lease();
                    // One of this very run may be about to be known.
                    let earlier = lease.holder != self.own.holder();
                    let ours = first && earlier && self.own.is_a_run_of_ours(&lease.holder);
                    (lease.is_anybodys(), ours)
                };
                if anybodys || ours {
                    self.take_over(&flow).await;
                }
            }
            if !there.contains(&flow.id) && (flow.is_theirs() || over) {
                self.forget(&flow);
            }
        }
        Ok(())
    }

    /// Ends the programs that an earlier run of this gateway left behind, whoever works on their flow by now.
    fn kill_left(&self, flow: &Flow) {
        let left: Vec<_> = {
            let record = flow.record();
            let begun = record.steps.iter().filter_map(|step| step.process.as_ref());
            let left = begun.chain(&record.left).cloned();
            left.filter(|process| *process.member == *self.member)
                .collect()
        };
        left.iter().for_each(exec::kill_left);
    }

    /// Takes over what the document of a flow says. False: it is not ours.
    async fn read(
        &self,
        setup: &Setup,
        id: &str,
        known: Option<Arc<Flow>>,
    ) -> Result<bool, CabinetError> {
        let Some((bytes, mark)) = setup.cabinet.get(id).await? else {
            if let Some(flow) = known {
                // Whoever works on it writes it again.
                flow.lease().mark = None;
                return Ok(!flow.is_theirs());
            }
            return Ok(false);
        };
        let record: Record = match serde_json::from_slice(&bytes) {
            Ok(record) => record,
            Err(error) => {
                let same = |known: &Mark| known.is(&mark);
                if self.unread.is_news(id, mark.clone(), same) {
                    tracing::warn!(flow = id, %error, "a flow can't be read and is left out: remove its document flows/ID.json");
                }
                return Ok(false);
            }
        };
        let ours = record.holder == self.own.holder();
        let flow = match known {
            Some(flow) => flow,
            None => {
                let graph = self.graph(record.source.clone());
                let flow = Flow::new(
                    graph.map_err(|mistakes| mistakes.join("; ")),
                    record.clone(),
                );
                // One of ours too, for it may be that its taker never heard that it was written. Else it is about to be
                // known, and then another one is in its place.
                flow.theirs.send_replace(true);
                match self.insert(&flow) {
                    Some(there) => return Ok(!there.is_theirs()),
                    None => flow,
                }
            }
        };
        flow.lease().note(mark, &record.holder, record.turn);
        flow.cancel
            .send_replace(record.cancel || *flow.cancel.borrow());
        if ours {
            flow.record().cancel = record.cancel;
            return Ok(true);
        }
        flow.theirs.send_replace(true);
        flow.change(|own| *own = record);
        Ok(false)
    }

    async fn take_over(self: &Arc<Self>, flow: &Arc<Flow>) {
        let mut given_up = None;
        if let Err(mistakes) = &flow.graph {
            let seen = flow.lease().seen;
            if seen.is_some_and(|seen| seen.elapsed() < LEASE * LEFT_TO_OTHERS) {
                return;
            }
            given_up = Some(flow.change(|record| {
                let before = record.clone();
                record.state = State::Failed;
                record.finished = Some(millis(SystemTime::now()));
                record.error = Some(format!(
                    "this gateway may not do what it asks for: {mistakes}"
                ));
                (before, record.clone())
            }));
        }
        let written = self.write(flow).await;
        if let (Some((before, failed)), false) = (given_up, written == Written::Ours) {
            // It goes on as its document says. What another member wrote meanwhile is known by now, and holds.
            flow.change(|record| {
                if *record == failed {
                    *record = before;
                }
            });
        }
        if written == Written::Ours {
            tracing::info!(
                flow = flow.id,
                "a flow that nobody works on any more is taken over"
            );
            flow.theirs.send_replace(false);
            if !flow.state().is_over() {
                self.see_through(Arc::clone(flow));
            }
        }
    }

    /// Writes how a flow does, as ours.
    pub(super) async fn write(&self, flow: &Arc<Flow>) -> Written {
        self.write_as(flow, self.own.holder()).await
    }

    async fn write_as(&self, flow: &Arc<Flow>, holder: &str) -> Written {
        let Some(setup) = self.setup.get() else {
            return Written::NotNow;
        };
        for _ in 0..TRIES {
            let (mark, turn, same) = {
                let lease = flow.lease();
                (lease.mark.clone(), lease.turn + 1, lease.holder == holder)
            };
            let changes = *flow.changed.borrow();
            let written = flow.written.load(Ordering::Acquire);
            // Where nobody watches a lease, it is written only if there is something new.
            if same && written == changes && !setup.cabinet.is_shared() {
                return Written::Ours;
            }
            let bytes = {
                let mut record = flow.record().clone();
                holder.clone_into(&mut record.holder);
                record.turn = turn;
                record.cancel |= *flow.cancel.borrow();
                // Texts and numbers always serialise.
                serde_json::to_vec(&record).unwrap_or_default()
            };
            let began = Instant::now();
            let put = setup.cabinet.put(&flow.id, bytes.into(), mark.as_ref());
            match put.await {
                Ok(mark) => {
                    flow.lease().hold(mark, holder, turn, began);
                    flow.written.store(changes, Ordering::Release);
                    return Written::Ours;
                }
                Err(CabinetError::Changed) => {
                    match self.read(setup, &flow.id, Some(Arc::clone(flow))).await {
                        Ok(true) => {}
                        Ok(false) => return Written::Theirs,
                        Err(_) => return Written::NotNow,
                    }
                }
                Err(error) => {
                    tracing::debug!(flow = flow.id, %error, "how a flow does can't be written down now");
                    return Written::NotNow;
                }
            }
        }
        Written::NotNow
    }

    /// Wants no more of a flow: its steps are stopped, and what is to clean up does. It is written down when this
    /// returns, so that it holds whatever becomes of this gateway.
    ///
    /// # Errors
    /// A sentence: another member works on it and can't be told, or it can't be written down.
    pub async fn cancel(&self, flow: &Arc<Flow>) -> Result<(), String> {
        let Some(setup) = self.setup.get() else {
            return Ok(());
        };
        if !flow.is_theirs() {
            if flow.state().is_over() {
                return Ok(());
            }
            flow.cancel.send_replace(true);
            flow.change(|record| record.cancel = true);
            match self.write(flow).await {
                Written::Ours => return Ok(()),
                Written::Theirs => {}
                Written::NotNow => {
                    return Err(
                        "it is stopped here, and that can't be written down now: should this gateway die before it is, the                          flow goes on"
                            .into(),
                    );
                }
            }
        }
        let told = self.cancel_theirs(setup, flow).await;
        told.map_err(|error| format!("whoever works on the flow can't be told: {error}"))
    }

    async fn cancel_theirs(&self, setup: &Setup, flow: &Flow) -> Result<(), CabinetError> {
        for _ in 0..TRIES {
            let Some((bytes, mark)) = setup.cabinet.get(&flow.id).await? else {
                return Ok(());
            };
            let Ok(mut record) = serde_json::from_slice::<Record>(&bytes) else {
                return Ok(());
            };
            if record.state.is_over() || record.cancel {
                return Ok(());
            }
            record.cancel = true;
            record.turn += 1;
            let bytes = serde_json::to_vec(&record).unwrap_or_default().into();
            match setup.cabinet.put(&flow.id, bytes, Some(&mark)).await {
                Err(CabinetError::Changed) => {}
                put => return put.map(|_| ()),
            }
        }
        Err(CabinetError::Changed)
    }

    /// Lets others have the flows that this gateway works on, at once: it stops.
    pub async fn release(&self) {
        let shared = self
            .setup
            .get()
            .is_some_and(|setup| setup.cabinet.is_shared());
        if !shared {
            return;
        }
        let ours = self.all().into_iter();
        let ours = ours.filter(|flow| !flow.is_theirs() && !flow.state().is_over());
        let released = futures::future::join_all(ours.map(|flow| async move {
            self.write_as(&flow, "").await;
        }));
        // They are anybody's in a while in any case.
        let _ = tokio::time::timeout(TICK, released).await;
    }

    pub(super) async fn forget_the_oldest(&self) {
        let over = self.all().into_iter().filter(|flow| flow.state().is_over());
        let over: Vec<_> = over.collect();
        let oldest = over.len().saturating_sub(REMEMBERED);
        for flow in &over[..oldest] {
            self.forget(flow);
            if let Some(setup) = self.setup.get() {
                // What stays is met again, and no harm.
                let _ = setup.cabinet.remove(&flow.id).await;
            }
        }
    }
}
