//! Whether what is known still holds: the state store is asked and, beside it, all other members.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use forebay_storage::origin::documents::{DocumentError, Documents, Tag};
use futures::{StreamExt, stream};
use http::Method;
use serde_json::Value;
use tokio::time::Instant;

use super::{HOLD, NotNow, PATH, PLACE, Revisions, Standing};

/// Documents that are read at once.
const AT_ONCE: usize = 8;

/// What is known of the state store; whoever looks at it holds this.
#[derive(Debug, Default)]
pub(super) struct Looking {
    /// The documents as they were read.
    seen: BTreeMap<String, Tag>,
    last: Option<Look>,
}

/// The look before.
#[derive(Debug)]
struct Look {
    began: Instant,
    ended: Instant,
    outcome: Result<(), DocumentError>,
}

/// The turn of whoever confirms a dataset for all who wait, and when the last one could not.
pub(super) type Turn = tokio::sync::Mutex<Option<Instant>>;

impl Revisions {
    /// Returns once it is sure that what is known of a dataset holds. One asks for all who wait.
    pub(super) async fn confirm(&self, dataset: &str) -> Result<(), NotNow> {
        if self.is_confirmed(dataset) {
            return Ok(());
        }
        let asked = Instant::now();
        let turn = {
            let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(turns.entry(dataset.to_owned()).or_default())
        };
        let mut failed = turn.lock().await;
        if self.is_confirmed(dataset) {
            return Ok(());
        }
        if failed.is_none_or(|failed| failed < asked) {
            // A store that hangs would take its time, though all others could say it at once.
            let looked = async { self.look().await.is_ok() && self.is_confirmed(dataset) };
            let agreed = self.agreed(dataset);
            let confirmed = tokio::select! {
                biased;
                true = looked => true,
                true = agreed => true,
                else => false,
            };
            if confirmed {
                return Ok(());
            }
            *failed = Some(Instant::now());
        }
        Err(match self.table.unread(dataset) {
            Some(why) => NotNow::Unread(why),
            None => NotNow::Unconfirmed,
        })
    }

    fn is_confirmed(&self, dataset: &str) -> bool {
        let is_read = self.table.unread(dataset).is_none();
        if self.documents.get().is_none() {
            return is_read;
        }
        let confirmed = self.confirmed();
        // Of what can't be read the store says nothing.
        let all = confirmed.all.filter(|_| is_read);
        let last = all.max(confirmed.one.get(dataset).copied());
        last.is_some_and(|last| last.elapsed() < HOLD)
    }

    /// Whether all other members that the fleet knows of have the same; whoever switches is one of them. Of a dataset that has
    /// no revision as far as is known here, all that answer are enough.
    async fn agreed(&self, dataset: &str) -> bool {
        let Some(peers) = &self.reads.peers else {
            return false;
        };
        let began = Instant::now();
        let known = self.table.get(dataset).unwrap_or_default();
        if known.unread.is_some() && known.standing.number == 0 {
            // There is something, and nobody knows what.
            return false;
        }
        let others = peers.fleet().peers.len().saturating_sub(1);
        let path = format!("{PATH}number/{dataset}");
        let told = peers.ask_others(&Method::GET, &path, Bytes::new()).await;
        let answers: Vec<&Value> = told
            .iter()
            .filter_map(|(_, told)| told.as_ref().ok())
            .collect();
        let agree = answers.iter().filter(|told| serves(told, &known.standing));
        // Where nobody who can be asked knows of a revision there is hardly one: a store that is away must not keep a fleet
        // that starts anew, or a member of it, from serving what never had one.
        let enough = match self.table.has(dataset) {
            true => others.max(1),
            false => answers.len(),
        };
        let agreed = agree.count() == enough;
        if agreed {
            self.confirmed().one.insert(dataset.to_owned(), began);
        }
        agreed
    }

    /// Takes over what the state store has, if there is one. A document that can't be read is its dataset's trouble
    /// alone. Who comes while another looks takes what the next look finds, and there is one for all of them.
    ///
    /// # Errors
    /// If the store does not answer.
    pub async fn look(&self) -> Result<(), DocumentError> {
        let Some(documents) = self.documents.get() else {
            return Ok(());
        };
        let asked = Instant::now();
        let mut looking = self.looking.lock().await;
        let suits =
            |last: &Look| last.began >= asked || (last.outcome.is_err() && last.ended >= asked);
        if let Some(last) = looking.last.as_ref().filter(|last| suits(last)) {
            return last.outcome.clone();
        }
        let began = Instant::now();
        let outcome = self.look_anew(documents, &mut looking.seen, began).await;
        if outcome.is_ok() {
            self.confirmed().all = Some(began);
            self.unasked.store(false, Ordering::Release);
        }
        looking.last = Some(Look {
            began,
            ended: Instant::now(),
            outcome: outcome.clone(),
        });
        outcome
    }

    async fn look_anew(
        &self,
        documents: &Documents,
        seen: &mut BTreeMap<String, Tag>,
        began: Instant,
    ) -> Result<(), DocumentError> {
        let (mut there, mut news) = (BTreeSet::new(), Vec::new());
        for (name, tag) in documents.list(PLACE).await? {
            let dataset = name
                .strip_prefix("revisions/")
                .and_then(|name| name.strip_suffix(".json"));
            let Some(dataset) = dataset else { continue };
            if seen.get(dataset).is_none_or(|seen| !seen.is(&tag)) {
                news.push((dataset.to_owned(), name.clone()));
            }
            there.insert(dataset.to_owned());
        }
        let read = news.into_iter().map(|(dataset, name)| async move {
            let got = documents.get(&name).await;
            (dataset, got)
        });
        let mut read = stream::iter(read).buffer_unordered(AT_ONCE);
        while let Some((dataset, got)) = read.next().await {
            match got {
                Ok(Some((text, tag))) => {
                    match Standing::parse(&text) {
                        Ok(standing) => self.take_over(&dataset, standing, began),
                        Err(why) => self.doubt(&dataset, &why),
                    }
                    seen.insert(dataset, tag);
                }
                Ok(None) => {}
                Err(error) => {
                    seen.remove(&dataset);
                    self.doubt(&dataset, &error.to_string());
                }
            }
        }
        self.restore(documents, &there, began).await;
        self.table.tidy(began, |dataset| there.contains(dataset));
        Ok(())
    }

    /// The store is the truth: what it has wins over what was known before it was asked, whatever their numbers.
    fn take_over(&self, dataset: &str, standing: Standing, began: Instant) {
        let standing = Arc::new(standing);
        self.install(dataset, &standing, |known| {
            let is_other = || known.unread.is_some() || !known.standing.is_same(&standing);
            known.standing.number < standing.number || (known.is_older(began) && is_other())
        });
    }

    fn doubt(&self, dataset: &str, why: &str) {
        let sentence =
            format!("the state store's document {PLACE}/{dataset}.json can't be read ({why})");
        if self.table.doubt(dataset, &sentence) {
            tracing::warn!(
                dataset,
                "{sentence}: the dataset is answered 503 unless all members know what it has, until it is switched \
                 to a revision or that is taken off"
            );
        }
    }

    /// Puts down what the store has lost, or never had: a gateway may have had its revisions before it had the store.
    async fn restore(&self, documents: &Documents, there: &BTreeSet<String>, began: Instant) {
        for (dataset, known) in &*self.table.all() {
            let standing = &known.standing;
            if standing.number == 0 || there.contains(dataset) || !known.is_older(began) {
                continue;
            }
            let name = format!("{PLACE}/{dataset}.json");
            match documents.create(&name, standing.text().into()).await {
                Ok(_) => tracing::info!(
                    dataset,
                    revision = standing.id(),
                    number = standing.number,
                    "the state store did not have the dataset's revision: it has now"
                ),
                // Another member was the first: the next look finds it.
                Err(DocumentError::Changed) => {}
                Err(error) => tracing::warn!(
                    dataset,
                    %error,
                    "the state store does not have the dataset's revision, and does not take it"
                ),
            }
        }
    }
}

/// Whether a member that told this serves by that standing.
pub(super) fn serves(told: &Value, standing: &Standing) -> bool {
    told["number"].as_u64() == Some(standing.number) && told["id"].as_str() == standing.id()
}
