//! Switching: every member has the new revision before one write makes it the dataset's, and none serves the old one
//! once that is acknowledged.

use std::sync::Arc;

use bytes::Bytes;
use forebay_storage::origin::documents::{DocumentError, Documents};
use http::Method;
use serde_json::Value;

use super::confirm::serves;
use super::{HOLD, PATH, PLACE, Revision, Revisions, Standing};
use crate::peer::PeerError;

/// Why a dataset was not switched.
#[derive(Debug, thiserror::Error)]
pub enum NotSwitched {
    /// There is nothing that a fleet could agree on.
    #[error(
        "a fleet switches revisions by its state store, and there is none: add [state] to the settings of all members"
    )]
    NoStore,
    /// A member does not know yet that the dataset has revisions, and can't be told.
    #[error(
        "the member {0} does not answer, and would not know that the dataset has a revision: bring it back, or take it \
         out of the fleet, and switch again"
    )]
    Unreached(String),
    /// A member answers, and serves something else.
    #[error(
        "the state store has the switch, but the member {0} does not serve by it yet, and answers 503 once it is sure: \
         see that it reaches the state store, and what GET /-/revision says of it"
    )]
    Behind(String),
    /// Somebody else switches.
    #[error("somebody else switched the dataset meanwhile: see what it has, and switch again")]
    Changed,
    /// The store failed. It may have taken the switch all the same.
    #[error("{0}; whether the dataset was switched says GET /-/revision once the store answers")]
    Away(String),
    /// The data directory failed.
    #[error("the revision can't be written down in the data directory: {0}")]
    Disk(String),
    /// The id is another revision's.
    #[error("the revision {0} has other keys or versions: give the new one another id")]
    Taken(String),
}

impl Revisions {
    /// Switches a dataset to a revision, or takes its own off. When this returns, no member serves the old one to a
    /// reader who does not name it.
    ///
    /// # Errors
    /// Why it was not switched: then everything is as it was, but for [`NotSwitched::Away`] and
    /// [`NotSwitched::Behind`].
    pub async fn switch(
        &self,
        dataset: &str,
        to: Option<Revision>,
    ) -> Result<Arc<Standing>, NotSwitched> {
        let _one = self.switching.lock().await;
        let to = to.map(Arc::new);
        let standing = match self.documents.get() {
            Some(documents) => self.switch_fleet(documents, dataset, to).await?,
            None => self.switch_alone(dataset, to).await?,
        };
        let here = self.standing(dataset).unwrap_or_default();
        match here.number == standing.number && here.id() == standing.id() {
            true => Ok(standing),
            false => Err(NotSwitched::Changed),
        }
    }

    async fn switch_alone(
        &self,
        dataset: &str,
        to: Option<Arc<Revision>>,
    ) -> Result<Arc<Standing>, NotSwitched> {
        let alone = |peers: &Arc<crate::peer::Peers>| peers.fleet().peers.len() <= 1;
        if !self.reads.peers.as_ref().is_none_or(alone) {
            return Err(NotSwitched::NoStore);
        }
        let known = self.table.get(dataset).unwrap_or_default();
        let standing = known.standing;
        let next = match next(&standing, to)? {
            Some(next) => Arc::new(next),
            None if known.unread.is_some() => Arc::new(standing.renumbered(standing.number + 1)),
            None if standing.number == 0 => return Ok(standing),
            // It is written down once more: the disk may have lost it.
            None => standing,
        };
        if let Some(disk) = self.disk.get().map(Arc::clone) {
            let (dataset, text) = (dataset.to_owned(), next.text());
            let written = tokio::task::spawn_blocking(move || disk.write(&dataset, || text));
            let written = written
                .await
                .unwrap_or_else(|error| Err(std::io::Error::other(error)));
            written.map_err(|error| NotSwitched::Disk(error.to_string()))?;
        }
        self.learn(dataset, &next);
        Ok(next)
    }

    async fn switch_fleet(
        &self,
        documents: &Documents,
        dataset: &str,
        to: Option<Arc<Revision>>,
    ) -> Result<Arc<Standing>, NotSwitched> {
        // Puts down what the store has lost.
        self.look().await.map_err(of_store)?;
        let name = format!("{PLACE}/{dataset}.json");
        let found = documents.get(&name).await.map_err(of_store)?;
        let here = self.standing(dataset).unwrap_or_default();
        let (written, tag) = match found {
            // What can't be read is replaced.
            Some((text, tag)) => (Standing::parse(&text).ok(), Some(tag)),
            None => (None, None),
        };
        let is_read = written.is_some();
        let known = written.map_or_else(|| Arc::clone(&here), Arc::new);
        let told = self.ask(dataset).await;
        let numbers = told.iter().filter_map(|(_, told)| told.as_ref().ok());
        let numbers = numbers.filter_map(|told| told["number"].as_u64());
        // Whoever knows a higher number would take the new standing for an old one.
        let above = numbers.fold(known.number.max(here.number), u64::max);
        if tag.is_none() && to.is_none() && above == 0 {
            return Ok(known);
        }
        let next = match next(&known, to)? {
            None if is_read && above == known.number => Arc::clone(&known),
            Some(next) => Arc::new(next.renumbered(above + 1)),
            None => Arc::new(known.renumbered(above + 1)),
        };
        let text = Bytes::from(next.text());
        let told = self.tell(&format!("prepare/{dataset}"), text.clone()).await;
        if tag.is_none() {
            // Whoever does not know that there is a revision asks nobody whether it holds.
            let unreached = told.into_iter().find(|(_, told)| told.is_err());
            if let Some((member, _)) = unreached {
                return Err(NotSwitched::Unreached(member));
            }
        }
        if next.number != known.number {
            let put = match &tag {
                Some(tag) => documents.replace(&name, text, tag).await,
                None => documents.create(&name, text).await,
            };
            put.map_err(of_store)?;
        }
        self.learn(dataset, &next);
        self.see_it_served(dataset, &next).await?;
        Ok(next)
    }

    /// Tells all others that it is written, and returns once none of them serves anything else.
    pub(super) async fn see_it_served(
        &self,
        dataset: &str,
        next: &Standing,
    ) -> Result<(), NotSwitched> {
        let path = format!("commit/{dataset}/{}", next.number);
        let told = self.tell(&path, Bytes::new()).await;
        let done =
            |told: &Result<Value, PeerError>| told.as_ref().is_ok_and(|told| serves(told, next));
        if told.iter().filter(|(_, told)| done(told)).count() >= self.others() {
            return Ok(());
        }
        tracing::info!(
            dataset,
            "not all members answer: the switch is acknowledged once none of them serves what was before"
        );
        tokio::time::sleep(HOLD).await;
        for (member, told) in self.ask(dataset).await {
            match &told {
                Ok(told) if told["number"].as_u64() > Some(next.number) => {
                    return Err(NotSwitched::Changed);
                }
                Ok(_) if !done(&told) => return Err(NotSwitched::Behind(member)),
                _ => {}
            }
        }
        Ok(())
    }

    /// What all others serve by.
    async fn ask(&self, dataset: &str) -> Vec<(String, Result<Value, PeerError>)> {
        match &self.reads.peers {
            Some(peers) => {
                let path = format!("{PATH}number/{dataset}");
                peers.ask_others(&Method::GET, &path, Bytes::new()).await
            }
            None => Vec::new(),
        }
    }

    async fn tell(&self, path: &str, body: Bytes) -> Vec<(String, Result<Value, PeerError>)> {
        match &self.reads.peers {
            Some(peers) => {
                let path = format!("{PATH}{path}");
                peers.ask_others(&Method::POST, &path, body).await
            }
            None => Vec::new(),
        }
    }

    /// Other members that the fleet knows of, those too that have left it: who knows what they still do.
    fn others(&self) -> usize {
        let fleet = self.reads.peers.as_ref().map(|peers| peers.fleet());
        fleet.map_or(0, |fleet| {
            let others = fleet.peers.values();
            others
                .filter(|peer| peer.member.name() != &*fleet.own)
                .count()
        })
    }
}

/// What comes after a standing; `None`: nothing, it is what is wanted.
fn next(known: &Standing, to: Option<Arc<Revision>>) -> Result<Option<Standing>, NotSwitched> {
    let same = match (&known.current, &to) {
        (None, None) => true,
        (Some(now), Some(to)) => now.id == to.id && now.is_same(to),
        _ => false,
    };
    if same {
        return Ok(None);
    }
    let taken = to.as_ref().and_then(|to| {
        let known = known.named(&to.id)?;
        (!known.is_same(to)).then(|| to.id.clone())
    });
    match taken {
        Some(id) => Err(NotSwitched::Taken(id)),
        None => Ok(Some(known.next(to))),
    }
}

fn of_store(error: DocumentError) -> NotSwitched {
    match error {
        DocumentError::Changed => NotSwitched::Changed,
        error => NotSwitched::Away(error.to_string()),
    }
}
