//! What flows of a gateway may do, where they are kept, and which begin by themselves.

use std::sync::Arc;

use anyhow::{Context, Result};

use crate::control::Acts;
use crate::dataset::Datasets;
use crate::flow::ask::Asker;
use crate::flow::schedule::Schedule;
use crate::flow::{Setup, graph_in};
use crate::gateway::Gateway;
use crate::keeping::cabinet::Cabinet;
use crate::settings::{Begins, Settings};

/// What the names of flows begin with in a state store, and their directory below the data directory.
const FLOWS: &str = "flows";

/// The same for what schedules ran.
const SCHEDULES: &str = "schedules";

/// What is wrong with the flows of `[[schedules]]`, a sentence each.
pub fn judge(settings: &Settings, datasets: &Datasets) -> Vec<String> {
    let has_nvme = settings.cache.nvme.is_some();
    let mistakes = settings.schedules.iter().flat_map(|schedule| {
        if let Begins::OnChange { dataset, .. } = &schedule.begins
            && datasets.get(dataset).is_none()
        {
            return vec![format!(
                "schedule {}: it watches {dataset:?}, which is no dataset",
                schedule.name
            )];
        }
        let graph = Schedule::new(schedule)
            .map_err(|mistake| vec![mistake])
            .and_then(|parsed| {
                let source = parsed.source().clone();
                graph_in(source, &settings.flows, datasets, has_nvme)
            });
        let mistakes = graph.err().unwrap_or_default().into_iter();
        let told = mistakes.map(|mistake| format!("schedule {}: {mistake}", schedule.name));
        told.collect()
    });
    mistakes.collect()
}

/// Lets the gateway's flows know it. What [`judge`] found fault with is left out.
///
/// # Errors
/// A sentence: there are no sockets to be had, or a file can't be used.
pub(super) fn set_up(settings: &Settings, gateway: &Gateway) -> Result<()> {
    let state = &gateway.state;
    let asker = Asker::new(settings.flows.kubernetes.as_ref());
    let asker = asker.context("prepare what flows ask ([flows] kubernetes_ca)")?;
    let cabinet = |below| match state.documents() {
        Some(documents) => Cabinet::shared(Arc::clone(documents), below),
        None => Cabinet::own(&settings.data_dir, below),
    };
    let schedules = settings.schedules.iter();
    let schedules = schedules.filter_map(|schedule| Schedule::new(schedule).ok());
    state.flows.set_up(Setup {
        allowed: settings.flows.clone(),
        cabinet: cabinet(FLOWS),
        runs: cabinet(SCHEDULES),
        hands: Arc::new(Acts::new(state, asker)),
        schedules: schedules.map(Arc::new).collect(),
    });
    Ok(())
}
