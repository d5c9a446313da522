//! Documents that can't be read: each is told of once, until it is another.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// Those that were told of, and what they were like.
#[derive(Debug)]
pub struct Unread<M>(Mutex<BTreeMap<String, M>>);

impl<M> Default for Unread<M> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<M> Unread<M> {
    /// Whether this was not told of yet; from now on it was. `is` says whether what was told of is like that.
    pub fn is_news(&self, name: &str, mark: M, is: impl Fn(&M) -> bool) -> bool {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = told.insert(name.to_owned(), mark);
        !known.is_some_and(|known| is(&known))
    }

    /// Forgets those that are not there any more.
    pub fn retain(&self, is_there: impl Fn(&str) -> bool) {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        told.retain(|name, _| is_there(name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_is_told_of_once_until_it_is_another() {
        let unread = Unread::default();
        let news = |name: &str, mark: u32| unread.is_news(name, mark, |known| *known == mark);
        assert!(news("a", 1) && !news("a", 1) && !news("a", 1));
        assert!(news("b", 1) && news("a", 2) && !news("a", 2));
        unread.retain(|name| name != "a");
        assert!(news("a", 2) && !news("b", 1));
    }
}
