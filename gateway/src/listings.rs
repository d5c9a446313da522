//! Listings, asked of the origin once for all who ask the same, and kept for a moment.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use forebay_storage::error::OriginError;
use forebay_storage::listing::{ListPage, ListRequest};
use forebay_storage::watch;
use tokio::time::Instant;

use crate::dataset::Dataset;

/// Pages kept at most: a page of 1000 keys takes a few hundred KiB, and with the longest keys over
/// one MiB.
const KEPT: usize = 64;

type Answer = Result<Arc<ListPage>, OriginError>;
type Asked = (Arc<str>, ListRequest);

/// Pages that were asked for lately.
#[derive(Debug, Default)]
pub struct Listings {
    pages: Mutex<HashMap<Asked, Page>>,
    asked: AtomicU64,
}

#[derive(Clone, Debug)]
struct Page {
    asked_at: Instant,
    /// Pages are numbered as they are asked for; two may be asked for at one instant.
    number: u64,
    answer: watch::Receiver<Option<Answer>>,
    /// Whoever waits for the answer has a receiver of it.
    waiting: Arc<watch::Sender<()>>,
}

impl Page {
    /// Whether the answer is still on its way, or young enough and not an error.
    fn holds(&self, dataset: &Dataset) -> bool {
        let on_its_way = self.answer.borrow().is_none();
        if on_its_way {
            // A sender that is gone without an answer panicked.
            return !self.answer.is_orphaned();
        }
        let good = matches!(&*self.answer.borrow(), Some(Ok(_)));
        good && self.asked_at.elapsed() < dataset.rules.fresh_for
    }
}

impl Listings {
    /// One page of the dataset's keys, no older than `fresh_for`.
    ///
    /// # Errors
    /// What the origin answered.
    pub async fn page(self: &Arc<Self>, dataset: &Arc<Dataset>, request: &ListRequest) -> Answer {
        let asked = (Arc::clone(&dataset.name), request.clone());
        let (answer, _waits) = {
            let mut pages = self.lock();
            let page = match pages.get(&asked) {
                Some(page) if page.holds(dataset) => page.clone(),
                _ => {
                    let page = self.ask(dataset, &asked);
                    pages.insert(asked, page.clone());
                    make_room(&mut pages);
                    page
                }
            };
            // Under the lock: whoever gives a page up looks there whether anybody waits.
            let waits = page.waiting.subscribe();
            (page.answer, waits)
        };
        match answer.wait_for(Option::is_some).await {
            Ok(answer) => answer.clone().unwrap_or(Err(OriginError::Abandoned)),
            Err(_) => Err(OriginError::Abandoned),
        }
    }

    /// In a task of its own: an asker who leaves takes no answer from the others. Once all have left it is given up, for a
    /// listing may cost its origin much.
    fn ask(self: &Arc<Self>, dataset: &Arc<Dataset>, asked: &Asked) -> Page {
        let number = self.asked.fetch_add(1, Ordering::Relaxed);
        let (sender, answer) = watch::channel(None);
        let page = Page {
            asked_at: Instant::now(),
            number,
            answer,
            waiting: Arc::new(watch::Sender::new(())),
        };
        let (listings, dataset, asked) = (Arc::clone(self), Arc::clone(dataset), asked.clone());
        let waiting = Arc::clone(&page.waiting);
        tokio::spawn(async move {
            let mut listed = std::pin::pin!(dataset.origin.list(&asked.1));
            loop {
                tokio::select! {
                    biased;
                    page = &mut listed => {
                        sender.send_replace(Some(page.map(Arc::new)));
                        return;
                    }
                    () = waiting.closed() => {
                        if listings.give_up(&asked, number, &waiting) {
                            return;
                        }
                    }
                }
            }
        });
        page
    }

    /// Puts a page that is on its way out of the table, unless somebody came to wait for it. True if nobody did.
    fn give_up(&self, asked: &Asked, number: u64, waiting: &watch::Sender<()>) -> bool {
        let mut pages = self.lock();
        if !waiting.is_closed() {
            return false;
        }
        if pages.get(asked).is_some_and(|page| page.number == number) {
            pages.remove(asked);
        }
        true
    }

    /// Forgets the pages of a dataset.
    pub fn forget(&self, dataset: &str) {
        self.lock().retain(|(name, _), _| &**name != dataset);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Asked, Page>> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn make_room(pages: &mut HashMap<Asked, Page>) {
    while pages.len() > KEPT {
        let oldest = pages
            .iter()
            .min_by_key(|(_, page)| page.number)
            .map(|(asked, _)| asked.clone());
        match oldest {
            Some(asked) => pages.remove(&asked),
            None => return,
        };
    }
}
