//! What a purge lets go: of which objects, which of their versions, and from which tiers.

use std::collections::HashMap;

use xxhash_rust::xxh3::xxh3_64;

use crate::object::ObjectId;
use crate::version::VersionKey;

/// From which tiers blocks go.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub enum Place {
    /// From all, and from what arrives just now.
    #[default]
    Everywhere,
    /// From memory; what is on NVMe stays.
    Memory,
    /// From NVMe; what is in memory stays.
    Nvme,
}

impl Place {
    /// The place of that name.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "everywhere" => Some(Self::Everywhere),
            "memory" => Some(Self::Memory),
            "nvme" => Some(Self::Nvme),
            _ => None,
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Everywhere => "everywhere",
            Self::Memory => "memory",
            Self::Nvme => "nvme",
        }
    }
}

/// Of the objects that are meant, which versions go.
#[derive(Clone, Copy, Debug)]
pub enum Which<'a> {
    /// All.
    All,
    /// Those of this ETag.
    Tagged(Tag),
    /// This one.
    One(VersionKey),
    /// Of these keys, all but these versions: the current ones. `None`: there is no current one.
    Others(&'a HashMap<String, Option<VersionKey>>),
}

/// An ETag, as the tables of residents know it: what two have in common by chance is purged with the other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tag(u64);

impl Tag {
    /// That of an ETag as the origin writes it, quotes and all; of none, if there is none.
    pub fn of(etag: Option<&str>) -> Self {
        Self(etag.map_or(0, |etag| xxh3_64(etag.as_bytes())))
    }
}

/// What is let go.
#[derive(Clone, Copy)]
pub struct Purge<'a> {
    /// The dataset's name.
    pub dataset: &'a str,
    /// Which objects, by their keys.
    pub wanted: &'a dyn Fn(&str) -> bool,
    /// Which of their versions.
    pub which: Which<'a>,
    /// From where.
    pub place: Place,
}

impl<'a> Purge<'a> {
    /// All there is of the objects of `dataset` that `wanted` picks by key.
    pub fn all(dataset: &'a str, wanted: &'a dyn Fn(&str) -> bool) -> Self {
        Self {
            dataset,
            wanted,
            which: Which::All,
            place: Place::Everywhere,
        }
    }

    /// Whether a version goes. Where its tag is not known it goes with any: what is let go in vain is fetched again.
    pub fn takes(&self, object: &ObjectId, version: VersionKey, tag: Option<Tag>) -> bool {
        if &*object.dataset != self.dataset || !(self.wanted)(&object.key) {
            return false;
        }
        match self.which {
            Which::All => true,
            Which::Tagged(wanted) => tag.is_none_or(|tag| tag == wanted),
            Which::One(wanted) => version == wanted,
            Which::Others(current) => {
                let current = current.get(&*object.key);
                current.is_some_and(|current| *current != Some(version))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_purge_takes_the_versions_it_names_and_no_others() {
        let object = ObjectId::new("models", "a");
        let (old, new) = (VersionKey(1), VersionKey(2));
        let tag = |etag| Some(Tag::of(Some(etag)));
        let all = Purge::all("models", &|key| key == "a");
        assert!(all.takes(&object, old, tag("\"x\"")));
        assert!(!all.takes(&ObjectId::new("models", "b"), old, None));
        assert!(!all.takes(&ObjectId::new("others", "a"), old, None));
        let tagged = Purge {
            which: Which::Tagged(Tag::of(Some("\"x\""))),
            ..all
        };
        assert!(tagged.takes(&object, old, tag("\"x\"")) && tagged.takes(&object, old, None));
        assert!(!tagged.takes(&object, new, tag("\"y\"")));
        assert!(!tagged.takes(&object, new, Some(Tag::of(None))));
        let one = Purge {
            which: Which::One(old),
            ..all
        };
        assert!(one.takes(&object, old, None) && !one.takes(&object, new, None));
        let current = HashMap::from([("a".to_owned(), Some(new))]);
        let others = Purge {
            which: Which::Others(&current),
            ..all
        };
        assert!(others.takes(&object, old, None) && !others.takes(&object, new, None));
        let gone = HashMap::from([("a".to_owned(), None)]);
        let others = Purge {
            which: Which::Others(&gone),
            ..all
        };
        assert!(others.takes(&object, new, None));
        let none = HashMap::new();
        let others = Purge {
            which: Which::Others(&none),
            ..all
        };
        assert!(!others.takes(&object, old, None), "nothing is known of it");
    }
}
