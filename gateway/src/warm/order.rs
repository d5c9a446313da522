//! What a job is asked to warm: the request's path and body, judged before anything is begun.

mod asked;

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use forebay_storage::block::{BlockKey, BlockSize};
use forebay_storage::store::Store;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use self::asked::Asked;
use super::glob::Glob;
use crate::dialect::target::MAX_KEY_BYTES;
use crate::pins::{self, expiry};
use crate::settings::{duration, size};

/// Keys and prefixes that one job may name. More is a list that the origin can give.
const MOST_NAMES: usize = 1_000_000;

/// Bytes of the names of one job, written out: a long prefix before many short keys is long.
const LONGEST_NAMES: usize = 32 << 20;

/// What a name takes beside its bytes, about.
const NAME_BYTES: usize = 40;

/// Where blocks are to be.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    /// In memory.
    Memory,
    /// On NVMe.
    Nvme,
    /// In one of them.
    #[default]
    Any,
}

impl Tier {
    /// The tier of that name.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "memory" => Some(Self::Memory),
            "nvme" => Some(Self::Nvme),
            "any" => Some(Self::Any),
            _ => None,
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Nvme => "nvme",
            Self::Any => "any",
        }
    }

    /// Whether a block is resident there; moves nothing.
    pub fn holds(self, store: &Store, key: &BlockKey) -> bool {
        match self {
            Self::Memory => store.in_memory_tier(key),
            Self::Nvme => store.on_nvme(key),
            Self::Any => store.contains(key),
        }
    }
}

/// On how many members blocks are to be.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Copies {
    /// On each block's owner.
    #[default]
    Owners,
    /// On the owner in each zone too.
    Zone,
    /// On every member.
    All,
}

/// Bytes of each object, as a range of HTTP without its unit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Span {
    /// From the first byte to the last, that included, or to the end.
    From(u64, Option<u64>),
    /// The last so many bytes.
    Last(u64),
}

impl Span {
    fn parse(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("the range {text:?} is none: write FIRST-LAST, FIRST- or -COUNT, in bytes");
        let (first, last) = text.split_once('-').ok_or_else(wrong)?;
        let number = |text: &str| text.parse::<u64>().map_err(|_| wrong());
        match (first, last) {
            ("", last) => match number(last)? {
                0 => Err(format!(
                    "the range {text:?} has no byte: write -COUNT of 1 or more"
                )),
                last => Ok(Self::Last(last)),
            },
            (first, "") => Ok(Self::From(number(first)?, None)),
            (first, last) => {
                let (first, last) = (number(first)?, number(last)?);
                match first <= last {
                    true => Ok(Self::From(first, Some(last))),
                    false => Err(wrong()),
                }
            }
        }
    }

    fn of(self, size: u64) -> Range<u64> {
        match self {
            Self::From(first, last) => {
                let end = last.map_or(size, |last| last.saturating_add(1).min(size));
                first.min(size)..end
            }
            Self::Last(count) => size.saturating_sub(count)..size,
        }
    }
}

/// What a job is asked to warm.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Order {
    /// The dataset's name.
    pub dataset: String,
    /// The prefix in the request's path.
    pub prefix: String,
    /// Prefixes of whole keys, none of which begins with another.
    pub prefixes: Vec<String>,
    /// Which keys below `prefix`, by what follows it.
    pub glob: Option<String>,
    /// Whole keys, instead of prefixes: nothing is listed.
    pub keys: Vec<String>,
    /// Keys of index files, whose shards are warmed with them.
    pub index: Vec<String>,
    /// Bytes of each object; empty: all.
    pub ranges: Vec<Span>,
    /// Bytes of these objects, which are among `keys`, in place of `ranges`; empty: all.
    #[serde(default)]
    pub parts: BTreeMap<String, Vec<Span>>,
    /// Where the blocks are to be.
    pub tier: Tier,
    /// On how many members.
    pub copies: Copies,
    /// Bytes a second at most.
    pub rate: Option<u64>,
    /// Jobs of a higher one begin earlier.
    pub priority: i32,
    /// Seconds from the job's creation within which it has to be done.
    pub deadline: Option<u64>,
    /// The objects' own digests are compared with what was brought.
    #[serde(default)]
    pub verify: bool,
    /// What is below its prefixes is pinned.
    #[serde(default)]
    pub pin: Option<PinFor>,
}

/// A pin that a job sets.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PinFor {
    /// Until when, or for how long, as it was asked for; `None`: until it is taken away.
    pub expires: Option<String>,
}

impl Order {
    /// Everything below `prefix`, in the tier that is meant where none is named.
    pub fn all(dataset: &str, prefix: &str, tier: Tier) -> Self {
        Self {
            dataset: dataset.to_owned(),
            prefix: prefix.to_owned(),
            prefixes: vec![prefix.to_owned()],
            glob: None,
            keys: Vec::new(),
            index: Vec::new(),
            ranges: Vec::new(),
            parts: BTreeMap::new(),
            tier,
            copies: Copies::Owners,
            rate: None,
            priority: 0,
            deadline: None,
            verify: false,
            pin: None,
        }
    }

    /// What a request for `prefix` of `dataset` with this body asks for; without a body, for all of it.
    ///
    /// # Errors
    /// What is wrong with it, as a sentence.
    pub fn parse(dataset: &str, prefix: &str, body: &[u8], has_nvme: bool) -> Result<Self, String> {
        let usual = if has_nvme { Tier::Nvme } else { Tier::Memory };
        let mut order = Self::all(dataset, prefix, usual);
        if body.iter().all(u8::is_ascii_whitespace) {
            return Ok(order);
        }
        let asked = Asked::parse(body)?;
        order.verify = asked.verify;
        order.pin = asked.pin.as_ref().map(pin).transpose()?.flatten();
        order.tier = match asked.tier.as_deref() {
            None => usual,
            Some(name) => Tier::parse(name)
                .ok_or_else(|| format!("tier is memory, nvme or any, not {name:?}"))?,
        };
        if order.tier == Tier::Nvme && !has_nvme {
            return Err(
                "there is no NVMe tier: set [cache] nvme, or ask for the tier memory".into(),
            );
        }
        order.copies = match asked.copies.as_deref() {
            None | Some("owners") => Copies::Owners,
            Some("zone") => Copies::Zone,
            Some("all") => Copies::All,
            Some(name) => return Err(format!("copies is owners, zone or all, not {name:?}")),
        };
        order.rate = asked.rate.as_ref().map(rate).transpose()?;
        order.priority = asked.priority;
        order.deadline = asked.deadline.as_deref().map(deadline).transpose()?;
        let ranges = asked.ranges.iter().flatten();
        let ranges = ranges.map(|text| Span::parse(text));
        order.ranges = ranges.collect::<Result<_, _>>()?;
        order.name(asked)?;
        let in_part = order.parts.values().any(|ranges| !ranges.is_empty());
        if order.verify && (in_part || !order.ranges.is_empty()) {
            return Err("digests are of whole objects: a job with ranges verifies none".into());
        }
        order.may_pin(has_nvme)?;
        Ok(order)
    }

    /// Whether what is asked for is what a pin is of.
    fn may_pin(&self, has_nvme: bool) -> Result<(), String> {
        if self.pin.is_none() {
            return Ok(());
        }
        let parts = self.glob.is_some() || self.prefixes.is_empty() || !self.ranges.is_empty();
        if parts {
            return Err(
                "a pin is of all that is below a prefix: a job with a glob, keys, an index or ranges has none; \
                 POST /-/pin/DATASET/PREFIX pins"
                    .into(),
            );
        }
        if has_nvme && self.tier == Tier::Memory {
            return Err("what is pinned is kept on NVMe here: ask for the tier nvme".into());
        }
        Ok(())
    }

    fn name(&mut self, asked: Asked) -> Result<(), String> {
        let (mut keys, prefixes) = (
            asked.keys.unwrap_or_default(),
            asked.prefixes.unwrap_or_default(),
        );
        for part in asked.parts.into_iter().flatten() {
            let ranges = part.ranges.iter().map(|text| Span::parse(text));
            let key = format!("{}{}", self.prefix, part.key);
            self.parts.insert(key, ranges.collect::<Result<_, _>>()?);
            keys.push(part.key);
        }
        let index = asked.index.unwrap_or_default();
        let listed = keys.is_empty() && index.is_empty();
        if !listed && (!prefixes.is_empty() || asked.glob.is_some()) {
            return Err(
                "name either prefixes and a glob, or keys and an index: one is listed \
                        at the origin and the other is not"
                    .into(),
            );
        }
        let names = [&prefixes, &keys, &index];
        let count: usize = names.iter().map(|names| names.len()).sum();
        if count > MOST_NAMES {
            return Err(format!("it names more than {MOST_NAMES} keys and prefixes"));
        }
        let written: usize = names.into_iter().flatten().map(String::len).sum();
        let written = written + count * (self.prefix.len() + NAME_BYTES);
        if written > LONGEST_NAMES {
            return Err(format!(
                "its keys and prefixes take {written} bytes, written out below {:.40?}, and one job may have \
                 {LONGEST_NAMES}: ask for it in several jobs",
                self.prefix
            ));
        }
        let whole = |names: Vec<String>| -> Result<Vec<String>, String> {
            let names = names.into_iter();
            let whole = names.map(|name| match self.prefix.len() + name.len() {
                ..=MAX_KEY_BYTES => Ok(format!("{}{name}", self.prefix)),
                _ => Err(format!(
                    "a key has at most {MAX_KEY_BYTES} bytes: {name:.40}… makes a longer one"
                )),
            });
            whole.collect()
        };
        if [&keys, &index].into_iter().flatten().any(String::is_empty) {
            return Err("it names a key that is empty".into());
        }
        if let Some(glob) = &asked.glob {
            Glob::parse(glob)?;
        }
        self.glob = asked.glob;
        self.keys = whole(keys)?;
        self.index = whole(index)?;
        match (listed, prefixes.is_empty()) {
            (false, _) => self.prefixes.clear(),
            (true, true) => {}
            (true, false) => self.prefixes = apart(whole(prefixes)?),
        }
        self.keys.sort();
        self.keys.dedup();
        Ok(())
    }

    /// The blocks of the object at `key`, of `size` bytes, that are asked for: ranges in order that do not meet.
    pub fn blocks(&self, key: &str, block_size: BlockSize, size: u64) -> Vec<Range<u32>> {
        if size == 0 {
            return Vec::new();
        }
        let ranges = self.parts.get(key).unwrap_or(&self.ranges);
        if ranges.is_empty() {
            return std::iter::once(0..block_size.count(size)).collect();
        }
        let ranges = ranges.iter().map(|span| span.of(size));
        let blocks = ranges
            .filter(|range| !range.is_empty())
            .map(|range| block_size.index(range.start)..block_size.index(range.end - 1) + 1);
        merged(blocks.collect())
    }

    /// The memory that it takes, in bytes, about.
    pub fn bytes(&self) -> u64 {
        let names = [&self.prefixes, &self.keys, &self.index];
        let names = names.into_iter().flatten();
        let names: usize = names.map(|name| name.len() + NAME_BYTES).sum();
        let spans = self.parts.values().map(Vec::len).sum::<usize>() + self.ranges.len();
        let parts = self.parts.keys().map(|key| key.len() + NAME_BYTES);
        let ranges = spans * size_of::<Span>() + parts.sum::<usize>();
        let glob = self.glob.as_ref().map_or(0, String::len);
        (size_of::<Self>() + self.prefix.len() + names + ranges + glob) as u64
    }

    /// When the job has to be done, from its creation on.
    pub fn time(&self) -> Option<Duration> {
        self.deadline.map(Duration::from_secs)
    }
}

/// Those of these prefixes that begin with no other: what one lists, another need not.
fn apart(mut prefixes: Vec<String>) -> Vec<String> {
    prefixes.sort();
    let mut kept: Vec<String> = Vec::new();
    for prefix in prefixes {
        // Sorted, whatever begins with a prefix comes right behind it.
        if kept.last().is_none_or(|last| !prefix.starts_with(last)) {
            kept.push(prefix);
        }
    }
    kept
}

pub(crate) fn rate(value: &Value) -> Result<u64, String> {
    let bytes = match value {
        Value::Number(number) => number.as_u64().ok_or_else(|| "is no whole number".into()),
        Value::String(text) => size::parse(text),
        _ => Err("is neither a number nor a text".to_owned()),
    };
    match bytes {
        Ok(0) => Err("rate is bytes a second, and with 0 nothing would ever move".into()),
        Ok(bytes) => Ok(bytes),
        Err(clause) => Err(format!(
            "rate {clause}; it is bytes a second, such as \"100MiB\""
        )),
    }
}

fn pin(value: &Value) -> Result<Option<PinFor>, String> {
    let asked = match value {
        Value::Bool(pin) => pin.then(PinFor::default),
        Value::Object(_) => serde_json::from_value(value.clone()).ok(),
        _ => None,
    };
    match asked {
        None if *value != Value::Bool(false) => {
            Err("pin is true, false, or {\"expires\": \"24h\"}".into())
        }
        asked => {
            if let Some(expires) = asked.as_ref().and_then(|pin| pin.expires.as_deref()) {
                expiry(expires, pins::now())?;
            }
            Ok(asked)
        }
    }
}

fn deadline(text: &str) -> Result<u64, String> {
    let time = duration::parse(text).map_err(|clause| format!("deadline {clause}"))?;
    match time.as_secs() {
        0 => Err("deadline is at least 1s".into()),
        seconds => Ok(seconds),
    }
}

/// The same blocks in ascending order, as few ranges as they make.
pub(crate) fn merged(mut blocks: Vec<Range<u32>>) -> Vec<Range<u32>> {
    blocks.sort_by_key(|range| range.start);
    let mut merged: Vec<Range<u32>> = Vec::new();
    for range in blocks {
        match merged.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => merged.push(range),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn parse(body: &str) -> Result<Order, String> {
        Order::parse("models", "a/", body.as_bytes(), false)
    }

    #[test]
    fn a_body_names_what_is_below_the_path() {
        let order = parse(r#"{"prefixes": ["b/c", "b/", "x"], "glob": "*.bin", "rate": "1MiB"}"#);
        let order = order.unwrap();
        assert_eq!(order.prefixes, ["a/b/", "a/x"]);
        assert_eq!((order.rate, order.tier), (Some(1 << 20), Tier::Memory));
        let order = parse(r#"{"keys": ["y", "x", "y"], "index": "i.json"}"#).unwrap();
        assert_eq!(order.keys, ["a/x", "a/y"]);
        assert_eq!((order.index.len(), order.prefixes.len()), (1, 0));
        assert_eq!(parse(" \n").unwrap().prefixes, ["a/"]);
    }

    #[test]
    fn what_is_not_done_is_refused_by_name() {
        for (body, word) in [
            (r#"{"pin": "yes"}"#, "pin is"),
            (r#"{"pin": {"until": "24h"}}"#, "pin is"),
            (r#"{"pin": {"expires": "soon"}}"#, "expires is"),
            (r#"{"pin": true, "glob": "*"}"#, "a pin is of"),
            (r#"{"pin": true, "keys": ["x"]}"#, "a pin is of"),
            (r#"{"verify": "sha256"}"#, "the body"),
            (r#"{"verify": true, "ranges": ["0-9"]}"#, "whole objects"),
            (r#"{"speed": 1}"#, "speed"),
            (r#"{"tier": "nvme"}"#, "[cache] nvme"),
            (r#"{"tier": "tape"}"#, "tape"),
            (r#"{"copies": "three"}"#, "three"),
            (r#"{"glob": "[a"}"#, "no ] closes"),
            (r#"{"rate": 0}"#, "rate"),
            (r#"{"rate": "8 parsecs"}"#, "rate"),
            (r#"{"deadline": "soon"}"#, "deadline"),
            (r#"{"ranges": ["9-3"]}"#, "9-3"),
            (r#"{"keys": ["x"], "glob": "*"}"#, "either"),
            (r#"{"keys": []}"#, "keys is empty"),
            (r#"{"keys": null}"#, "the body"),
            (r#"{"prefixes": []}"#, "prefixes is empty"),
            (r#"{"index": []}"#, "index is empty"),
            (r#"{"ranges": []}"#, "ranges is empty"),
            (r#"{"parts": []}"#, "parts is empty"),
            (r#"{"ranges": ["-0"]}"#, "no byte"),
            ("models", "the body"),
            ("[]", "the body"),
        ] {
            let sentence = parse(body).unwrap_err();
            assert!(sentence.contains(word), "{body}: {sentence}");
        }
    }

    #[test]
    fn keys_that_nothing_can_have_are_refused() {
        let long = "k".repeat(MAX_KEY_BYTES);
        for (names, why) in [(long.as_str(), "at most 1024 bytes"), ("", "empty")] {
            for field in ["keys", "index"] {
                let refused = parse(&format!(r#"{{"{field}": ["{names}"]}}"#)).unwrap_err();
                assert!(refused.contains(why), "{refused}");
            }
        }
    }

    #[test]
    fn names_that_are_long_only_once_they_are_written_out_are_refused() {
        let prefix = "p".repeat(1000);
        let body = format!(r#"{{"keys": [{}"x"]}}"#, r#""x","#.repeat(40_000));
        let refused = Order::parse("models", &prefix, body.as_bytes(), false).unwrap_err();
        assert!(refused.contains("several jobs"), "{refused}");
        let order = parse(&body).unwrap();
        assert!(order.bytes() < 1000, "each of them once");
    }

    #[test]
    fn ranges_become_blocks_that_do_not_meet() {
        let size = BlockSize::new(1 << 20);
        let order = parse(r#"{"ranges": ["0-7", "1048576-1048577", "-8", "99999999999-"]}"#);
        let order = order.unwrap();
        assert_eq!(order.blocks("a/x", size, 10 << 20), [0..2, 9..10]);
        let to = |end: u32| vec![0..end, 0..0][..1].to_vec();
        assert_eq!(order.blocks("a/x", size, 3), to(1));
        assert!(order.blocks("a/x", size, 0).is_empty());
        assert_eq!(parse("").unwrap().blocks("a/x", size, (2 << 20) + 1), to(3));
        let parts = r#"{"parts": [{"key": "x", "ranges": ["0-7"]}, {"key": "y"}]}"#;
        let order = parse(parts).unwrap();
        assert_eq!(order.keys, ["a/x", "a/y"]);
        assert_eq!(order.blocks("a/x", size, 3 << 20), to(1));
        assert_eq!(order.blocks("a/y", size, 3 << 20), to(3));
    }
}
