//! One redirect among members, for blocks that many want at once: an owner that has more to send than its link takes
//! says who else has them, or who is getting them from it.
//!
//! Only a member that was served a block by this gateway is named for it, and a member that may be named is never sent
//! elsewhere for it. Whoever is named answers from what it holds or gets from an owner or the origin, never from what it
//! waits for at another holder; else it says no, and the asker comes back and is served. So a way has one such turn at
//! most, and no two members wait for each other.
//!
//! Who was served is forgotten after a minute, or when it says no: what is hot no longer is served by its owner alone.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use forebay_storage::block::BlockKey;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use tokio::time::Instant;

use crate::access::canonical::hex;

/// Who was served is remembered for so long.
const REMEMBERED: Duration = Duration::from_secs(60);

/// Blocks that are remembered, and holders of each: with names of 60 bytes, which are shared, 4 MiB.
const BLOCKS: usize = 8192;
const HOLDERS: usize = 8;

const REDIRECT: HeaderName = HeaderName::from_static("forebay-redirect");
const ASK: HeaderName = HeaderName::from_static("forebay-ask");

/// What a question says of redirects. The release before this one says nothing, and is never sent elsewhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Redirect {
    /// Whoever is asked must serve it.
    #[default]
    Refused,
    /// The same, since the member of this name, which was named before, said no.
    Denied(String),
    /// Whoever is asked may name another.
    Taken,
    /// Whoever is asked was named by another.
    Followed,
}

impl Redirect {
    /// Says so in a question.
    pub fn put(&self, headers: &mut HeaderMap) {
        let text = match self {
            Self::Refused => return,
            Self::Denied(name) => format!("denied {}", hex(name.as_bytes())),
            Self::Taken => "taken".to_owned(),
            Self::Followed => "followed".to_owned(),
        };
        put(headers, REDIRECT, &text);
    }

    /// What a question says.
    pub fn parse(headers: &HeaderMap) -> Self {
        let text = headers.get(REDIRECT).and_then(|text| text.to_str().ok());
        match text {
            Some("taken") => Self::Taken,
            Some("followed") => Self::Followed,
            Some(text) => match text.strip_prefix("denied ").and_then(unhex) {
                Some(name) => Self::Denied(name),
                None => Self::Refused,
            },
            None => Self::Refused,
        }
    }
}

/// The status and headers that name another member.
pub fn name(other: &str) -> (StatusCode, HeaderMap) {
    let mut headers = HeaderMap::new();
    put(&mut headers, ASK, &hex(other.as_bytes()));
    (StatusCode::TEMPORARY_REDIRECT, headers)
}

/// The member that such an answer names.
pub fn named(headers: &HeaderMap) -> Option<String> {
    unhex(headers.get(ASK)?.to_str().ok()?)
}

fn put(headers: &mut HeaderMap, name: HeaderName, text: &str) {
    // Hexadecimal digits and words always fit.
    if let Ok(value) = HeaderValue::try_from(text) {
        headers.insert(name, value);
    }
}

fn unhex(text: &str) -> Option<String> {
    let digits = text.as_bytes().chunks(2).map(|pair| {
        let digits = pair.len() == 2 && pair.iter().all(u8::is_ascii_hexdigit);
        let pair = std::str::from_utf8(pair).ok().filter(|_| digits)?;
        u8::from_str_radix(pair, 16).ok()
    });
    String::from_utf8(digits.collect::<Option<Vec<u8>>>()?).ok()
}

/// A member that may be named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Its name.
    pub name: Arc<str>,
    /// Its zone.
    pub zone: String,
    /// Askers that were sent to it already.
    pub sent: u32,
}

/// Whom to name to the member `asker` in the zone `zone`, where this gateway is in `own_zone`; `None`: serve it.
pub fn elsewhere<'a>(
    own_zone: &str,
    (asker, zone): (&str, &str),
    busy: bool,
    holders: &'a [Holder],
) -> Option<&'a Arc<str>> {
    if holders.iter().any(|holder| &*holder.name == asker) {
        return None;
    }
    let far = |holder: &Holder| holder.zone != zone;
    let fewest = holders
        .iter()
        .filter(|holder| busy || (own_zone != zone && !far(holder)))
        .min_by_key(|holder| (far(holder), holder.sent));
    fewest.map(|holder| &holder.name)
}

/// Which members were served which blocks.
#[derive(Debug, Default)]
pub struct Served(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    blocks: HashMap<BlockKey, Vec<Record>>,
    /// In the order in which they are forgotten.
    turns: VecDeque<BlockKey>,
}

#[derive(Debug)]
struct Record {
    name: Arc<str>,
    at: Instant,
    sent: u32,
}

impl Served {
    /// Notes that a member is being served these blocks.
    pub fn note(&self, name: &str, keys: impl Iterator<Item = BlockKey>) {
        let name: Arc<str> = name.into();
        let mut table = self.lock();
        for key in keys {
            let now = Instant::now();
            let known = table.blocks.get_mut(&key);
            let is_new = known.is_none();
            let records = match known {
                Some(records) => records,
                None => table.blocks.entry(key).or_default(),
            };
            records.retain(|record| record.name != name && now - record.at < REMEMBERED);
            if records.len() < HOLDERS {
                records.push(Record {
                    name: Arc::clone(&name),
                    at: now,
                    sent: 0,
                });
            }
            if is_new {
                table.turns.push_back(key);
            }
            while table.blocks.len() > BLOCKS
                && let Some(oldest) = table.turns.pop_front()
            {
                table.blocks.remove(&oldest);
            }
        }
    }

    /// Who was served all of these blocks of late, and how many were sent there for the first of them.
    pub fn all(&self, mut keys: impl Iterator<Item = BlockKey>) -> Vec<(Arc<str>, u32)> {
        let now = Instant::now();
        let table = self.lock();
        let fresh = |key: &BlockKey| {
            let records = table.blocks.get(key).into_iter().flatten();
            records.filter(|record| now - record.at < REMEMBERED)
        };
        let Some(first) = keys.next() else {
            return Vec::new();
        };
        let mut found: Vec<(Arc<str>, u32)> = fresh(&first)
            .map(|record| (Arc::clone(&record.name), record.sent))
            .collect();
        for key in keys {
            found.retain(|(name, _)| fresh(&key).any(|record| record.name == *name));
        }
        found
    }

    /// Notes that an asker was sent to a member for these blocks.
    pub fn sent(&self, name: &str, keys: impl Iterator<Item = BlockKey>) {
        let mut table = self.lock();
        for key in keys {
            let records = table.blocks.get_mut(&key).into_iter().flatten();
            for record in records.filter(|record| &*record.name == name) {
                record.sent = record.sent.saturating_add(1);
            }
        }
    }

    /// Forgets that a member was served these blocks: it has them no more.
    pub fn forget(&self, name: &str, keys: impl Iterator<Item = BlockKey>) {
        let mut table = self.lock();
        for key in keys {
            if let Some(records) = table.blocks.get_mut(&key) {
                records.retain(|record| &*record.name != name);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use forebay_storage::version::VersionKey;

    use super::*;

    fn holder(name: &str, zone: &str, sent: u32) -> Holder {
        Holder {
            name: name.into(),
            zone: zone.to_owned(),
            sent,
        }
    }

    fn key(index: u32) -> BlockKey {
        BlockKey {
            version: VersionKey(7),
            index,
        }
    }

    #[test]
    fn what_is_said_of_redirects_comes_back_as_it_was() {
        for said in [
            Redirect::Refused,
            Redirect::Denied("gw ä".to_owned()),
            Redirect::Taken,
            Redirect::Followed,
        ] {
            let mut headers = HeaderMap::new();
            said.put(&mut headers);
            assert_eq!(Redirect::parse(&headers), said);
        }
        assert_eq!(named(&name("gw ä").1).as_deref(), Some("gw ä"));
        for text in ["denied 6", "denied ff", "denied +1", "perhaps"] {
            let mut headers = HeaderMap::new();
            put(&mut headers, REDIRECT, text);
            assert_eq!(Redirect::parse(&headers), Redirect::Refused, "{text}");
        }
    }

    #[test]
    fn whom_an_owner_names_to_whom() {
        let holders = [
            holder("b", "x", 2),
            holder("c", "x", 1),
            holder("d", "y", 0),
        ];
        let named = |asker: (&str, &str), busy, holders: &[Holder]| {
            elsewhere("x", asker, busy, holders).map(|name| name.to_string())
        };
        for (asker, busy, holders, named_to_it, why) in [
            (("e", "x"), false, &holders[..], None, "there is room"),
            (
                ("e", "x"),
                true,
                &holders,
                Some("c"),
                "the least named of its zone",
            ),
            (
                ("e", "y"),
                true,
                &holders,
                Some("d"),
                "of its zone though others are there",
            ),
            (("e", "y"), false, &holders, Some("d"), "nothing need cross"),
            (
                ("e", "y"),
                false,
                &holders[..2],
                None,
                "it crosses either way",
            ),
            (
                ("e", "y"),
                true,
                &holders[..2],
                Some("c"),
                "busy, and nobody is nearer",
            ),
            (("b", "x"), true, &holders, None, "others may be sent to it"),
            (("d", "y"), true, &holders, None, "the same from afar"),
            (("e", "x"), true, &[], None, "nobody has it"),
        ] {
            assert_eq!(named(asker, busy, holders).as_deref(), named_to_it, "{why}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_was_served_all_of_it_is_known_for_a_minute_or_until_it_says_no() {
        let served = Served::default();
        served.note("b", (0..4).map(key));
        served.note("c", (0..2).map(key));
        let names = |blocks: std::ops::Range<u32>| -> Vec<String> {
            let found = served.all(blocks.map(key)).into_iter();
            found.map(|(name, _)| name.to_string()).collect()
        };
        assert_eq!(names(0..2), ["b", "c"]);
        assert_eq!(names(0..4), ["b"]);
        assert!(names(3..5).is_empty() && names(0..0).is_empty());
        served.sent("b", (0..2).map(key));
        assert_eq!(served.all((0..1).map(key))[0].1, 1);
        served.forget("b", (0..1).map(key));
        assert_eq!(names(0..2), ["c"]);
        assert_eq!(names(1..4), ["b"]);
        tokio::time::advance(REMEMBERED).await;
        assert!(names(1..4).is_empty());
    }

    #[test]
    fn what_is_remembered_of_blocks_and_holders_is_bounded() {
        let served = Served::default();
        for name in 0..2 * HOLDERS {
            served.note(&name.to_string(), (0..1).map(key));
        }
        assert_eq!(served.all((0..1).map(key)).len(), HOLDERS);
        served.note("b", (0..2 * BLOCKS as u32).map(key));
        assert!(served.all((0..1).map(key)).is_empty());
        let table = served.lock();
        assert_eq!((table.blocks.len(), table.turns.len()), (BLOCKS, BLOCKS));
    }
}
