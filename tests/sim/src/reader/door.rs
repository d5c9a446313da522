//! Where readers may read: the gateways that want traffic, each with one start of it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::Readers;
use crate::random::Random;

/// Whether a gateway was killed.
#[derive(Debug, Default)]
pub struct Gone {
    gone: AtomicBool,
    told: Notify,
}

impl Gone {
    /// It is, from now on.
    pub fn set(&self) {
        self.gone.store(true, Ordering::Relaxed);
        self.told.notify_waiters();
    }

    /// Whether it is.
    pub fn is_set(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }

    /// Waits until it is.
    pub async fn wait(&self) {
        // One thread: nothing comes between the look and the wait.
        while !self.is_set() {
            self.told.notified().await;
        }
    }
}

/// All that readers may go to, by the gateway's name.
#[derive(Debug, Default)]
pub struct Doors(Mutex<BTreeMap<String, Arc<Readers>>>);

impl Doors {
    /// Lets readers come to the gateway of this name.
    pub fn open(&self, name: &str, readers: Arc<Readers>) {
        self.lock().insert(name.to_owned(), readers);
    }

    /// Lets no more of them come there.
    pub fn close(&self, name: &str) {
        self.lock().remove(name);
    }

    /// One of them.
    pub fn pick(&self, random: &mut Random) -> Option<Arc<Readers>> {
        let open = self.all();
        (!open.is_empty()).then(|| Arc::clone(random.pick(&open)))
    }

    /// The one of this name.
    pub fn of(&self, name: &str) -> Option<Arc<Readers>> {
        self.lock().get(name).cloned()
    }

    /// All of them.
    pub fn all(&self) -> Vec<Arc<Readers>> {
        self.lock().values().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Readers>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
