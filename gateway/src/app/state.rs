//! The state store: opened, and tried before anything relies on it.

use anyhow::Result;
use forebay_storage::origin::HttpClient;
use forebay_storage::origin::documents::{DocumentError, Documents};

use super::seed;
use crate::settings::Settings;

/// The state store of these settings, if they name one. Nothing is asked of it.
///
/// # Errors
/// A sentence that says what is wrong with it.
pub fn open_state(settings: &Settings, transport: HttpClient) -> Result<Option<Documents>, String> {
    let opened = settings.state.as_ref().map(|state| {
        let options = state.options.iter();
        let options = options.map(|(name, secret)| (name.clone(), secret.expose().to_owned()));
        Documents::open(&state.url, &options.collect(), transport)
    });
    let opened = opened.transpose();
    opened.map_err(|mistake| format!("[state]: {mistake}"))
}

/// Whether a state store does what it has to, tried with a document of its own.
///
/// # Errors
/// What it does instead, or that it does not answer.
pub async fn try_state(documents: &Documents) -> Result<(), DocumentError> {
    documents.probe(&format!("probe-{:016x}", seed())).await
}

/// Whether the state store does what it has to. One that is away is believed.
pub(super) async fn probe(documents: &Documents) -> Result<()> {
    match try_state(documents).await {
        Err(error @ DocumentError::Unconditional(_)) => Err(error.into()),
        Err(error) => {
            tracing::warn!(%error, "no job and no pin is taken until the state store is there");
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}
