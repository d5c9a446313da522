//! How urgent a fill is: who waits for it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::flight::Flight;

/// Who waits for bytes, the most urgent first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum Class {
    /// A client of this gateway does.
    #[default]
    Demand,
    /// Another gateway does, for a client of its own.
    Peer,
    /// Nobody yet: a reader is expected to come by.
    ReadAhead,
    /// Nobody: the bytes are to be here when somebody comes.
    Warm,
}

impl Class {
    /// All of them, the most urgent first.
    pub const ALL: [Self; 4] = [Self::Demand, Self::Peer, Self::ReadAhead, Self::Warm];

    /// The class of the blocks behind those that an asker of this class waits for.
    pub fn ahead(self) -> Self {
        match self {
            Self::Demand => Self::ReadAhead,
            class => class,
        }
    }
}

/// A class that only ever becomes more urgent.
#[derive(Debug)]
pub(crate) struct Rising(AtomicU8);

impl Rising {
    pub(crate) fn new(class: Class) -> Self {
        Self(AtomicU8::new(class as u8))
    }

    pub(crate) fn raise(&self, class: Class) {
        self.0.fetch_min(class as u8, Ordering::AcqRel);
    }

    pub(crate) fn class(&self) -> Class {
        let class = self.0.load(Ordering::Acquire);
        let mut all = Class::ALL.into_iter();
        all.find(|one| *one as u8 == class).unwrap_or_default()
    }
}

/// How urgent a request to an origin is, at any time: while it waits for its turn, somebody may join one
/// of the fills that it is for.
#[derive(Clone, Default)]
pub struct Urgency {
    class: Class,
    fills: Option<Arc<[Arc<Flight>]>>,
    /// That of those who wait for an answer, whatever it brings.
    askers: Option<Arc<Rising>>,
}

impl Urgency {
    /// That of whoever waits for one of `fills`.
    pub(crate) fn of(fills: impl Iterator<Item = Arc<Flight>>) -> Self {
        Self {
            class: Class::Warm,
            fills: Some(fills.collect()),
            askers: None,
        }
    }

    /// That of a question which more may come to wait for: [`Self::raise`].
    pub(crate) fn of_question(class: Class) -> Self {
        Self {
            class: Class::Warm,
            fills: None,
            askers: Some(Arc::new(Rising::new(class))),
        }
    }

    /// Notes that somebody of this class waits for the same question.
    pub(crate) fn raise(&self, class: Class) {
        if let Some(askers) = &self.askers {
            askers.raise(class);
        }
    }

    /// The class by now.
    pub fn class(&self) -> Class {
        let fills = self.fills.iter().flat_map(|fills| fills.iter());
        let most = fills.map(|fill| fill.class());
        let askers = self.askers.iter().map(|askers| askers.class());
        most.chain(askers).fold(self.class, Class::min)
    }
}

impl From<Class> for Urgency {
    fn from(class: Class) -> Self {
        Self {
            class,
            fills: None,
            askers: None,
        }
    }
}

impl fmt::Debug for Urgency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Urgency").field(&self.class()).finish()
    }
}
