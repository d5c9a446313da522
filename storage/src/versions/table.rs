//! What answers, and questions that got none, change about what is known.

use std::sync::Arc;

use tokio::time::Instant;

use super::{ABSENCES, ABSENT_FOR, Entry, Found, REMEMBERED, Table};
use crate::error::OriginError;
use crate::object::ObjectId;
use crate::version::Version;

impl Table {
    pub(super) fn observe(&mut self, object: &ObjectId, version: &Arc<Version>, asked_at: Instant) {
        self.outages.remove(&object.dataset);
        self.insert(object, version, asked_at);
    }

    pub(super) fn insert(&mut self, object: &ObjectId, version: &Arc<Version>, asked_at: Instant) {
        let entry = Entry {
            version: Arc::clone(version),
            asked_at,
            undated: false,
            doubted: false,
            failed_at: None,
            used: false,
            forgotten: false,
            veiled: false,
        };
        if self
            .absent
            .get(object)
            .is_some_and(|(_, at)| *at > asked_at)
        {
            return;
        }
        self.absent.remove(object);
        match self.known.get_mut(object) {
            Some(known) if known.asked_at > asked_at => {}
            Some(known) => *known = entry,
            None => {
                self.known.insert(object.clone(), entry);
                self.turns.push_back(object.clone());
                self.make_room();
            }
        }
    }

    /// Forgets what is known by the answer to a question of `asked_at`, but not that somebody was told it.
    pub(super) fn forget_answer(&mut self, object: &ObjectId, asked_at: Instant) {
        if let Some(entry) = self.known.get_mut(object)
            && entry.asked_at == asked_at
        {
            entry.forget();
        }
    }

    /// Forgets by turns, but passes over once whoever was used since the last time.
    fn make_room(&mut self) {
        while self.known.len() > REMEMBERED {
            let Some(object) = self.turns.pop_front() else {
                return;
            };
            match self.known.get_mut(&object) {
                Some(entry) if entry.used => {
                    entry.used = false;
                    self.turns.push_back(object);
                }
                _ => {
                    self.known.remove(&object);
                }
            }
        }
    }

    pub(super) fn observe_error(
        &mut self,
        object: &ObjectId,
        error: &OriginError,
        asked_at: Instant,
    ) {
        let newer = |entry: &Entry| entry.asked_at > asked_at;
        match error {
            OriginError::NotFound if self.known.get(object).is_some_and(newer) => {}
            OriginError::NotFound => {
                if let Some(entry) = self.known.get_mut(object) {
                    entry.forget();
                }
                self.note_absent(object, error, asked_at);
            }
            // Nobody asked: that changes nothing about when it is asked again.
            OriginError::Down { .. } => {
                let dataset = Arc::clone(&object.dataset);
                self.outages.entry(dataset).or_insert_with(Instant::now);
            }
            OriginError::Unreachable(_) | OriginError::TimedOut | OriginError::NoCredentials => {
                let dataset = Arc::clone(&object.dataset);
                self.outages.insert(dataset, Instant::now());
            }
            error => match self.known.get_mut(object).filter(|entry| !entry.forgotten) {
                // What is known stands in; whoever may not read it now could a moment ago.
                Some(entry) => entry.failed_at = Some(Instant::now()),
                None if matches!(error, OriginError::Refused { .. }) => {
                    self.note_absent(object, error, asked_at);
                }
                None => {}
            },
        }
    }

    fn note_absent(&mut self, object: &ObjectId, error: &OriginError, asked_at: Instant) {
        if self.absent.len() >= ABSENCES {
            self.absent.retain(|_, (_, at)| at.elapsed() < ABSENT_FOR);
        }
        if self.absent.len() < ABSENCES {
            self.absent
                .insert(object.clone(), (error.clone(), asked_at));
        }
    }

    /// Where a younger question was answered before, its answer holds.
    pub(super) fn prefer_newer(&self, object: &ObjectId, found: &mut Found) {
        if let Some(entry) = self.known.get(object)
            && entry.asked_at > found.asked_at
            && !entry.forgotten
        {
            found.version = Arc::clone(&entry.version);
            found.asked_at = entry.asked_at;
            found.fills = None;
        }
    }

    pub(super) fn doubt(&mut self, object: &ObjectId, version: &Version) {
        if let Some(entry) = self.known.get_mut(object)
            && entry.version.key == version.key
        {
            entry.doubted = true;
        }
    }
}
