//! An answer that does not begin is asked for once more, beside the first: whichever begins is the answer.

use object_store::path::Path;
use object_store::{GetOptions, GetResult};

use super::build::Remote;
use super::connect::{Exchange, Seen};
use crate::class::Urgency;
use crate::error::OriginError;

/// Asks when it is the turn of whoever is of `urgency`, with the options for an exchange, and returns what came with the
/// exchange that it came by.
///
/// Dropping the future drops what was asked.
///
/// # Errors
/// [`OriginError::Down`] if the origin is, and nothing was asked.
pub(super) async fn ask(
    remote: &Remote,
    path: &Path,
    urgency: &Urgency,
    options: impl Fn(&Exchange) -> GetOptions,
) -> Result<(Exchange, object_store::Result<GetResult>), OriginError> {
    let connector = &remote.connector;
    let one = connector.turn(urgency).await?;
    let mut first = remote.store.get_opts(path, options(&one));
    let patience = connector.manners().head_patience();
    tokio::select! {
        biased;
        answer = &mut first => return Ok((one, answer)),
        () = tokio::time::sleep(patience) => {}
    }
    // Where no connection is free, what is lost gives its own back in time.
    let Some(other) = connector.turn_beside(urgency) else {
        return Ok((one, first.await));
    };
    let mut second = remote.store.get_opts(path, options(&other));
    tokio::select! {
        biased;
        answer = &mut first => match is_heard(&one) {
            true => Ok((one, answer)),
            false => Ok((other, second.await)),
        },
        answer = &mut second => match is_heard(&other) {
            true => Ok((other, answer)),
            false => Ok((one, first.await)),
        },
    }
}

/// Whether the origin said anything, be it an error.
fn is_heard(exchange: &Exchange) -> bool {
    matches!(exchange.seen(), Some(Seen::Answer { .. }))
}
