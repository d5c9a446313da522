//! Readers that start together, and what came of them.

use std::sync::Arc;

use anyhow::Context;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::super::cpu::Ticks;
use super::super::reader::{self, Order, Reading};
use super::Fleet;
use crate::client::Meter;
use crate::origin::Counters;

/// What came of readers that started together.
#[derive(Clone, Debug)]
pub(in super::super) struct Run {
    pub(in super::super) readings: Vec<Reading>,
    /// What the origin was asked for meanwhile.
    pub(in super::super) origin: Counters,
    /// Percent of CPU time that nobody used.
    pub(in super::super) idle: f64,
}

impl Run {
    /// Object bytes that all readers got together.
    pub(in super::super) fn bytes(&self) -> u64 {
        self.readings.iter().map(|reading| reading.bytes).sum()
    }
}

impl Fleet<'_> {
    /// Lets readers start together, and waits for all.
    ///
    /// # Errors
    /// A reader panics.
    pub(in super::super) async fn run(&self, orders: Vec<Order>) -> anyhow::Result<Run> {
        self.run_while(orders, async { Ok(()) }).await
    }

    /// The same, with something else happening from the start on.
    ///
    /// # Errors
    /// A reader panics, or `meanwhile` fails.
    pub(in super::super) async fn run_while(
        &self,
        orders: Vec<Order>,
        meanwhile: impl Future<Output = anyhow::Result<()>>,
    ) -> anyhow::Result<Run> {
        let meters: Vec<_> = orders.iter().map(|_| Arc::<Meter>::default()).collect();
        let (start, started) = watch::channel(false);
        let mut readers = JoinSet::new();
        for (index, (order, meter)) in orders.into_iter().zip(&meters).enumerate() {
            let (mut started, meter) = (started.clone(), Arc::clone(meter));
            readers.spawn(async move {
                // The sender outlives the readers.
                let _ = started.wait_for(|started| *started).await;
                (index, reader::read(order, meter).await)
            });
        }
        let (before, ticks) = (self.origin.counters(), Ticks::now());
        start.send_replace(true);
        meanwhile.await?;
        let mut readings = vec![Reading::default(); meters.len()];
        while let Some(done) = readers.join_next().await {
            let (index, reading) = done.context("a reader")?;
            readings[index] = reading;
        }
        let after = self.origin.counters();
        Ok(Run {
            readings,
            origin: Counters {
                gets: after.gets - before.gets,
                heads: after.heads - before.heads,
                bytes_sent: after.bytes_sent - before.bytes_sent,
                ..after
            },
            idle: Ticks::now().idle_since(ticks),
        })
    }
}
