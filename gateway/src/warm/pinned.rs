//! The pins of jobs: set when a job is taken, and taken back if it does not end well.

use std::io;

use serde::{Deserialize, Serialize};

use super::Jobs;
use super::job::{Job, State};
use crate::pins::{self, Pin};

/// A pin that a job set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Made {
    /// As it was set.
    pin: Pin,
    /// What held in its place before.
    before: Option<Pin>,
}

impl Jobs {
    /// Sets the pins of a job.
    ///
    /// # Errors
    /// If one can't be; those before it are set, and known to the job.
    pub(super) async fn set_pins(&self, job: &Job, pins: Vec<Pin>) -> io::Result<()> {
        let crew = &self.crew;
        for pin in pins {
            let mut held = crew.pins.all().into_iter();
            let before = held.find(|held| held.is_in_place_of(&pin));
            let set = crew.pins.set_everywhere(crew.peers(), pin.clone()).await;
            let told = set.as_ref().map_or(pin, |(pin, _)| pin.clone());
            job.made_pins().push(Made { pin: told, before });
            set.map_err(io::Error::other)?;
        }
        Ok(())
    }

    /// Takes the pins back of a job that is over and not done: what held before holds again. What somebody changed
    /// since stays as it is.
    pub(super) async fn take_back(&self, job: &Job) {
        // They may be about to be set.
        let _ = job.is_written().await;
        if job.is_theirs() || job.standing() == State::Done {
            return;
        }
        let made = job.made_pins().clone();
        let crew = &self.crew;
        // Whoever took the job over may not have heard of its pins yet.
        if !made.is_empty()
            && let Err(error) = crew.pins.look().await
        {
            tracing::debug!(job = job.id, %error, "what is pinned is not known anew");
        }
        for Made { pin, before } in made {
            let now = pins::now();
            let mut held = crew.pins.all().into_iter();
            let Some(held) = held.find(|held| held.is_in_place_of(&pin)) else {
                continue;
            };
            if held.changed != pin.changed {
                continue;
            }
            let back = match before.filter(|before| before.holds(now)) {
                Some(before) => Pin {
                    changed: now,
                    ..before
                },
                None => Pin {
                    changed: now,
                    gone: true,
                    ..held
                },
            };
            if let Err(error) = crew.pins.set_everywhere(crew.peers(), back).await {
                tracing::warn!(job = job.id, %error, "the pin of a job that did not end well can't be taken back");
            }
        }
    }
}
