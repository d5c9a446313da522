//! One request, and what its answer must look like for an object of a size.

use std::fmt;
use std::ops::Range;

use http::{Method, Request, header};

use crate::objects::{BLOCK, Content, Name};
use crate::random::Random;

/// Which bytes are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// All, without a Range header.
    Whole,
    /// `first-last`.
    Single(u64, u64),
    /// `first-`.
    Open(u64),
    /// `-length`.
    Suffix(u64),
    /// Several, in ascending order, neither overlapping nor touching.
    Several(Vec<(u64, u64)>),
}

/// Which bytes an answer must have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// 200, all of them.
    Whole,
    /// 206, these.
    One(Range<u64>),
    /// 206, these in parts.
    Several(Vec<Range<u64>>),
    /// 416.
    Unsatisfiable,
}

impl Wanted {
    /// What an object of `size` bytes must answer.
    pub fn of(&self, size: u64) -> Expected {
        let cut = |first: u64, last: u64| first..size.min(last.saturating_add(1));
        let one = |range: Range<u64>| match range.start < range.end {
            true => Expected::One(range),
            false => Expected::Unsatisfiable,
        };
        match self {
            Self::Whole => Expected::Whole,
            Self::Single(first, last) => one(cut(*first, *last)),
            Self::Open(first) => one(*first..size),
            Self::Suffix(length) => one(size.saturating_sub(*length)..size),
            Self::Several(ranges) => {
                let ranges = ranges.iter().map(|(first, last)| cut(*first, *last));
                let mut ranges: Vec<_> = ranges.filter(|range| range.start < range.end).collect();
                match ranges.len() {
                    0 => Expected::Unsatisfiable,
                    1 => Expected::One(ranges.remove(0)),
                    _ => Expected::Several(ranges),
                }
            }
        }
    }

    fn header(&self) -> Option<String> {
        Some(match self {
            Self::Whole => return None,
            Self::Single(first, last) => format!("bytes={first}-{last}"),
            Self::Open(first) => format!("bytes={first}-"),
            Self::Suffix(length) => format!("bytes=-{length}"),
            Self::Several(ranges) => {
                let ranges = ranges.iter().map(|(first, last)| format!("{first}-{last}"));
                format!("bytes={}", ranges.collect::<Vec<_>>().join(", "))
            }
        })
    }

    /// Bytes of an object that has, or had, `size` of them; often around the edges of blocks.
    fn draw(random: &mut Random, size: u64) -> Self {
        let blocks = size / BLOCK + 1;
        let place = |random: &mut Random| match random.below(3) {
            0 => (random.below(blocks) * BLOCK).saturating_sub(random.below(2)),
            1 => random.below(blocks) * BLOCK + random.below(9),
            _ => random.below(size + 2),
        };
        let length = |random: &mut Random| match random.below(4) {
            0 => random.from(1..=9),
            1 => random.from(1..=BLOCK),
            _ => random.from(1..=size + 10),
        };
        match random.below(10) {
            0..=2 => Self::Whole,
            3..=5 => {
                let first = place(random);
                Self::Single(first, first + length(random) - 1)
            }
            6 => Self::Open(place(random)),
            7 => Self::Suffix(length(random)),
            _ => {
                let mut ranges = Vec::new();
                let mut from = 0;
                for _ in 0..random.from(2..=5) {
                    let first = from + random.below(size / 3 + 2);
                    let last = first + random.below(size / 6 + 2);
                    ranges.push((first, last));
                    // One byte between two ranges keeps them apart.
                    from = last + 2;
                }
                Self::Several(ranges)
            }
        }
    }
}

/// One request.
#[derive(Clone, Debug)]
pub struct Ask {
    /// The object.
    pub name: Name,
    /// GET or HEAD.
    pub method: Method,
    /// The bytes.
    pub wanted: Wanted,
    /// `If-Match`: this version only.
    pub only: Option<Content>,
}

impl Ask {
    /// A GET of all of it.
    pub fn whole(name: &Name) -> Self {
        Self {
            name: name.clone(),
            method: Method::GET,
            wanted: Wanted::Whole,
            only: None,
        }
    }

    /// A request for `name`, of which `content` is there at the moment; `known` is a version that the asker saw
    /// before.
    pub fn draw(
        random: &mut Random,
        name: &Name,
        content: Option<Content>,
        known: Option<&(Name, Content)>,
    ) -> Self {
        let head = random.chance(10);
        let known = known.filter(|(of, content)| of == name && content.etag(name).is_some());
        let known = known.filter(|_| random.chance(30));
        Self {
            name: name.clone(),
            method: if head { Method::HEAD } else { Method::GET },
            wanted: Wanted::draw(random, content.map_or(100, |content| content.size)),
            only: known.map(|(_, content)| *content),
        }
    }

    /// The request itself.
    ///
    /// # Errors
    /// If a header can't be written.
    pub fn request(&self) -> http::Result<Request<()>> {
        let mut request = Request::builder()
            .method(self.method.clone())
            .uri(format!("/{}", self.name))
            .header(header::HOST, "localhost");
        if let Some(range) = self.wanted.header() {
            request = request.header(header::RANGE, range);
        }
        if let Some(etag) = self.only.and_then(|only| only.etag(&self.name)) {
            request = request.header(header::IF_MATCH, etag);
        }
        request.body(())
    }
}

impl fmt::Display for Ask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (method, name) = (&self.method, &self.name);
        let range = self.wanted.header().unwrap_or_default();
        write!(f, "{method} {name} {range}")?;
        match self.only {
            Some(only) => write!(f, " if version {}", only.version),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_cut_to_the_size() {
        assert_eq!(Wanted::Single(3, 100).of(10), Expected::One(3..10));
        assert_eq!(Wanted::Open(10).of(10), Expected::Unsatisfiable);
        assert_eq!(Wanted::Suffix(100).of(10), Expected::One(0..10));
        assert_eq!(Wanted::Suffix(3).of(0), Expected::Unsatisfiable);
        let several = Wanted::Several(vec![(0, 1), (4, 20), (30, 31)]);
        assert_eq!(several.of(10), Expected::Several(vec![0..2, 4..10]));
        assert_eq!(several.of(3), Expected::One(0..2));
    }
}
