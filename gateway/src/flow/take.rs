//! Taking a flow: it is written down first, and then begun.

use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Instant;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::graph::Graph;
use super::record::Record;
use super::{Flow, Flows, NotTaken, Setup};
use crate::keeping::cabinet::{CabinetError, Mark};

/// Flows that may be on their way.
pub(super) const MOST: usize = 100;

/// The place of a flow that is being written down, among those on their way, until this is dropped.
struct Seat<'a>(Option<&'a Flows>);

impl Seat<'_> {
    /// Gives it to the flow.
    fn fill(mut self, flow: &Arc<Flow>) {
        if let Some(flows) = self.0.take() {
            let place = (flow.record().created, flow.id.clone());
            let mut table = flows.table();
            table.taking -= 1;
            // It may have been met meanwhile, as one of ours that nobody works on.
            table.flows.insert(place, Arc::clone(flow));
        }
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        if let Some(flows) = self.0 {
            flows.table().taking -= 1;
        }
    }
}

impl Flows {
    /// Takes a flow, and begins it. Without a name it is given one. Dropping the future ends nothing: the flow is taken
    /// all the same.
    ///
    /// # Errors
    /// If one of that name is there already, or if it can't be written down.
    pub async fn take(
        self: &Arc<Self>,
        graph: Graph,
        id: Option<String>,
    ) -> Result<Arc<Flow>, NotTaken> {
        let flows = Arc::clone(self);
        // In a task of its own: what is written down and not known to anybody would wait for a restart.
        let taken = tokio::spawn(async move { flows.take_through(graph, id).await }).await;
        taken.unwrap_or_else(|error| Err(NotTaken::NotNow(error.to_string())))
    }

    async fn take_through(
        self: &Arc<Self>,
        graph: Graph,
        id: Option<String>,
    ) -> Result<Arc<Flow>, NotTaken> {
        let setup = self.setup()?;
        let (id, seat) = self.seat(id)?;
        let mut record = Record::new(id.clone(), &graph);
        self.own.holder().clone_into(&mut record.holder);
        record.turn = 1;
        // Texts and numbers always serialise.
        let bytes = Bytes::from(serde_json::to_vec(&record).unwrap_or_default());
        let began = Instant::now();
        let mark = match setup.cabinet.put(&id, bytes.clone(), None).await {
            Ok(mark) => mark,
            Err(CabinetError::Changed) => return Err(NotTaken::There),
            Err(error) => match there(setup, &id, &bytes).await {
                Some(mark) => mark,
                None => return Err(NotTaken::NotNow(not_written(setup, &error))),
            },
        };
        let flow = Flow::new(Ok(graph), record);
        flow.lease().hold(mark, self.own.holder(), 1, began);
        seat.fill(&flow);
        self.see_through(Arc::clone(&flow));
        Ok(flow)
    }

    /// A place for one more flow, and its name.
    fn seat(&self, id: Option<String>) -> Result<(String, Seat<'_>), NotTaken> {
        let mut table = self.table();
        let on_their_way = table.flows.values().filter(|flow| !flow.state().is_over());
        if on_their_way.count() + table.taking >= MOST {
            let why =
                format!("{MOST} flows are on their way already; come again once some are over");
            return Err(NotTaken::NotNow(why));
        }
        table.count += 1;
        let id = id.unwrap_or_else(|| {
            let id = xxh3_64_with_seed(&table.count.to_le_bytes(), self.seed);
            format!("{id:016x}")
        });
        table.taking += 1;
        Ok((id, Seat(Some(self))))
    }
}

fn not_written(setup: &Setup, error: &CabinetError) -> String {
    let perhaps = match setup.cabinet.is_shared() {
        true => {
            "; should the store have it all the same, it begins once the store is back: look with GET /-/flow before you \
             ask again"
        }
        false => "",
    };
    format!("it can't be written down: {error}{perhaps}")
}

/// Whether a document is there after all: the answer to a write that was done may be lost.
async fn there(setup: &Setup, id: &str, bytes: &Bytes) -> Option<Mark> {
    let (there, mark) = setup.cabinet.get(id).await.ok()??;
    (there == bytes).then_some(mark)
}
