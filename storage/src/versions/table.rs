//! What answers, and questions that got none, change about what is known.

use std::collections::HashSet;
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
            doubted: false,
            failed_at: None,
            used: false,
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
                if self.turns.len() >= 2 * REMEMBERED {
                    self.sort_turns();
                }
                self.turns.push_back(object.clone());
                self.make_room();
            }
        }
    }

    /// Leaves each known object one turn. One that was forgotten by its key left its own behind, which is met when it
    /// comes; where the same is forgotten and known again all the time, none ever comes.
    fn sort_turns(&mut self) {
        let mut met = HashSet::with_capacity(self.known.len());
        let known = &self.known;
        self.turns
            .retain(|object| known.contains_key(object) && met.insert(object.clone()));
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
                self.known.remove(object);
                self.turns.retain(|known| known != object);
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
            error => match self.known.get_mut(object) {
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
