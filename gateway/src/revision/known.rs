//! What is known here of all datasets' revisions.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::time::Instant;

use super::{HOLD, Standing};

/// What another member was about to switch to and never did is forgotten after so long: a switch that is not written by
/// then was given up.
const FORGET: Duration = HOLD.saturating_mul(3);

/// What is known of one dataset.
#[derive(Clone, Debug, Default)]
pub(super) struct Known {
    /// What it has.
    pub(super) standing: Arc<Standing>,
    /// Since when that is served by.
    since: Option<Instant>,
    /// What another member is about to switch to, and since when that is known.
    prepared: Option<(Arc<Standing>, Instant)>,
    /// The sentence that says where what it has can't be read, and why.
    pub(super) unread: Option<Arc<str>>,
}

impl Known {
    /// Whether this was so, and nobody was about to change it, at that time.
    pub(super) fn is_older(&self, time: Instant) -> bool {
        self.prepared.is_none() && self.since.is_none_or(|since| since < time)
    }
}

/// What is known of all datasets that have, or had, or may get, a revision. Clones are of the same table.
#[derive(Clone, Debug, Default)]
pub(super) struct Table(Arc<ArcSwap<BTreeMap<String, Known>>>);

impl Table {
    /// Whether anything is known of a dataset.
    pub(super) fn has(&self, dataset: &str) -> bool {
        let table = self.0.load();
        !table.is_empty() && table.contains_key(dataset)
    }

    /// What is known of a dataset.
    pub(super) fn get(&self, dataset: &str) -> Option<Known> {
        self.0.load().get(dataset).cloned()
    }

    /// Why it can't be read what a dataset has.
    pub(super) fn unread(&self, dataset: &str) -> Option<Arc<str>> {
        self.0.load().get(dataset)?.unread.clone()
    }

    /// All that is known.
    pub(super) fn all(&self) -> Arc<BTreeMap<String, Known>> {
        self.0.load_full()
    }

    /// Has a dataset served by this standing, if that `wins` over what is known. True if it does.
    pub(super) fn install(
        &self,
        dataset: &str,
        standing: &Arc<Standing>,
        wins: impl Fn(&Known) -> bool,
    ) -> bool {
        self.change(dataset, |known| {
            if !wins(known) {
                return false;
            }
            standing.learn(&known.standing);
            known.standing = Arc::clone(standing);
            known.since = Some(Instant::now());
            known.unread = None;
            if let Some((prepared, _)) = &known.prepared
                && prepared.number <= standing.number
            {
                known.prepared = None;
            }
            true
        })
    }

    /// Notes what another member is about to switch to.
    pub(super) fn prepare(&self, dataset: &str, standing: Standing) {
        let prepared = (Arc::new(standing), Instant::now());
        self.change(dataset, |known| {
            known.prepared = Some(prepared.clone());
            true
        });
    }

    /// What was prepared under this number.
    pub(super) fn prepared(&self, dataset: &str, number: u64) -> Option<Arc<Standing>> {
        let (prepared, _) = self.get(dataset)?.prepared?;
        (prepared.number == number).then_some(prepared)
    }

    /// Notes why it can't be read what a dataset has. True if that is news.
    pub(super) fn doubt(&self, dataset: &str, why: &str) -> bool {
        self.change(dataset, |known| {
            let news = known.unread.as_deref() != Some(why);
            known.unread = Some(why.into());
            news
        })
    }

    /// Forgets what was prepared so long ago that nobody switches to it any more, and why a document can't be read that
    /// is not there any more.
    pub(super) fn tidy(&self, now: Instant, is_there: impl Fn(&str) -> bool) {
        let old = |known: &Known| {
            let (_, since) = known.prepared.as_ref()?;
            Some(now.saturating_duration_since(*since) > FORGET)
        };
        let untidy = |dataset: &str, known: &Known| {
            old(known).is_some_and(|old| old) || (known.unread.is_some() && !is_there(dataset))
        };
        if !self
            .0
            .load()
            .iter()
            .any(|(name, known)| untidy(name, known))
        {
            return;
        }
        self.0.rcu(|table| {
            let mut table = BTreeMap::clone(table);
            for (dataset, known) in &mut table {
                if old(known).is_some_and(|old| old) {
                    known.prepared = None;
                }
                known.unread.take_if(|_| !is_there(dataset));
            }
            table.retain(|_, known| {
                known.standing.number > 0 || known.prepared.is_some() || known.unread.is_some()
            });
            table
        });
    }

    fn change(&self, dataset: &str, change: impl Fn(&mut Known) -> bool) -> bool {
        let mut changed = false;
        self.0.rcu(|table| {
            let mut known = table.get(dataset).cloned().unwrap_or_default();
            changed = change(&mut known);
            if !changed {
                return Arc::clone(table);
            }
            let mut table = BTreeMap::clone(table);
            table.insert(dataset.to_owned(), known);
            Arc::new(table)
        });
        changed
    }
}
