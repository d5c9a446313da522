//! `Range` requests: what a client asks for, judged against an object's size (RFC 9110 §14).
//!
//! A `Range` header that is not understood is ignored, as §14.2 has it, so every judgement here has an
//! answer and none is an error.

use std::ops::Range;

use http::HeaderValue;

/// More separate ranges than this are answered with the whole object: each costs its part's head and its
/// own block reads, and §14.2 lets a server ignore what looks like an attack or a mistake.
pub const MAX_RANGES: usize = 32;

/// Bytes `first` to `last` of an object, both included (RFC 9110 §14.1.2).
///
/// Invariant: `first <= last`, and `last` is below the object's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ByteRange {
    /// Offset of the first byte.
    pub first: u64,
    /// Offset of the last byte, which is part of the range.
    pub last: u64,
}

// A range holds at least one byte, so `is_empty` would be a question with one answer.
#[allow(clippy::len_without_is_empty)]
impl ByteRange {
    /// How many bytes the range holds; at least 1.
    pub fn len(&self) -> u64 {
        self.last - self.first + 1
    }
}

/// What a `Range` header comes to for an object of known size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ranges {
    /// No range, or one that is ignored: 200 with the whole object.
    Whole,
    /// 206 with a plain body.
    One(ByteRange),
    /// 206 with `multipart/byteranges`: 2 to [`MAX_RANGES`] ranges that neither overlap nor touch, in the
    /// order asked.
    Several(Vec<ByteRange>),
    /// 416: well formed, but no byte of it exists.
    Unsatisfiable,
}

/// What the first request to an origin should cover while the object's size is still unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hint {
    /// The first range asked begins at `first` and ends at `last`, if it names an end. Either may lie past
    /// the object's end.
    From {
        /// Offset of the first byte.
        first: u64,
        /// Offset of the last byte, included.
        last: Option<u64>,
    },
    /// The first range asked counts from the end, so the size must be known first.
    Suffix,
    /// No range, or one that will be ignored.
    None,
}

/// One element of a range set, as written.
#[derive(Clone, Copy)]
enum Spec {
    /// `first-` or `first-last`; a number beyond `u64` is held as `u64::MAX`.
    Int { first: u64, last: Option<u64> },
    /// `-length`: the object's last `length` bytes.
    Suffix(u64),
}

/// Judges a `Range` header against an object of `size` bytes.
///
/// Ranges that overlap or touch become one, at the place of the earliest asked; the unsatisfiable ones among
/// satisfiable ones are dropped (RFC 9110 §14.1.2). Of an empty object every range is unsatisfiable.
/// Takes O(n log n) time in the number of ranges.
pub fn judge(header: Option<&HeaderValue>, size: u64) -> Ranges {
    let set = header.and_then(|value| range_set(value.as_bytes()));
    // Nearly everybody asks for one, which needs no list.
    if let Some(set) = set.filter(|set| !set.contains(&b',')) {
        let asked = parse_spec(trim_whitespace(set));
        return asked.map_or(Ranges::Whole, |spec| {
            resolve(spec, size).map_or(Ranges::Unsatisfiable, Ranges::One)
        });
    }
    let Some(specs) = set.and_then(parse) else {
        return Ranges::Whole;
    };
    let satisfiable = specs
        .iter()
        .filter_map(|spec| resolve(*spec, size))
        .collect();
    let mut ranges = coalesce(satisfiable);
    match ranges.len() {
        0 => Ranges::Unsatisfiable,
        1 => Ranges::One(ranges.remove(0)),
        2..=MAX_RANGES => Ranges::Several(ranges),
        _ => Ranges::Whole,
    }
}

/// Tells, before the size is known, where the first range of a `Range` header begins.
pub fn first_hint(header: Option<&HeaderValue>) -> Hint {
    let set = header.and_then(|value| range_set(value.as_bytes()));
    let specs = set.and_then(parse);
    match specs.as_deref().and_then(<[Spec]>::first) {
        Some(Spec::Int { first, last }) => Hint::From {
            first: *first,
            last: *last,
        },
        Some(Spec::Suffix(_)) => Hint::Suffix,
        None => Hint::None,
    }
}

/// What stands behind `bytes=`, or `None` if the header is of another unit.
fn range_set(header: &[u8]) -> Option<&[u8]> {
    let equals = header.iter().position(|byte| *byte == b'=')?;
    let (unit, set) = (&header[..equals], &header[equals + 1..]);
    unit.eq_ignore_ascii_case(b"bytes").then_some(set)
}

/// The elements of a range set, or `None` if the header is to be ignored.
///
/// Empty list elements are skipped (RFC 9110 §5.6.1.2); one malformed element spoils the whole set.
fn parse(set: &[u8]) -> Option<Vec<Spec>> {
    let specs: Vec<Spec> = set
        .split(|byte| *byte == b',')
        .map(trim_whitespace)
        .filter(|element| !element.is_empty())
        .map(parse_spec)
        .collect::<Option<_>>()?;
    if specs.is_empty() { None } else { Some(specs) }
}

fn parse_spec(element: &[u8]) -> Option<Spec> {
    let dash = element.iter().position(|byte| *byte == b'-')?;
    let (first, last) = (&element[..dash], &element[dash + 1..]);
    if first.is_empty() {
        return Some(Spec::Suffix(number(last)?));
    }
    let first = number(first)?;
    let last = if last.is_empty() {
        None
    } else {
        Some(number(last)?)
    };
    // RFC 9110 §14.1.1: a last-pos below its first-pos makes the range invalid, not unsatisfiable.
    if last.is_some_and(|last| last < first) {
        return None;
    }
    Some(Spec::Int { first, last })
}

/// `1*DIGIT`, clamped to `u64::MAX`: no object is that long, so a clamped end is the object's end and a
/// clamped start lies past it.
fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |value, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        Some(value.saturating_mul(10).saturating_add(digit))
    })
}

fn trim_whitespace(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = bytes {
        bytes = rest;
    }
    bytes
}

/// The bytes that `spec` names in an object of `size` bytes, if any.
fn resolve(spec: Spec, size: u64) -> Option<ByteRange> {
    let end = size.checked_sub(1)?;
    match spec {
        Spec::Int { first, last } if first <= end => Some(ByteRange {
            first,
            last: last.map_or(end, |last| last.min(end)),
        }),
        Spec::Suffix(length) if length > 0 => Some(ByteRange {
            first: size.saturating_sub(length),
            last: end,
        }),
        Spec::Int { .. } | Spec::Suffix(_) => None,
    }
}

/// `Content-Range` of an answer with these bytes of an object of `size` bytes.
pub(super) fn content_range(range: &Range<u64>, size: u64) -> HeaderValue {
    // From its end, with room for three numbers of 20 digits: a tenth of what formatting costs.
    let mut text = [0; 70];
    let mut at = text.len();
    let mut put = |separator: &[u8], mut number: u64| {
        loop {
            at -= 1;
            text[at] = b'0' + (number % 10) as u8;
            number /= 10;
            if number == 0 {
                break;
            }
        }
        at -= separator.len();
        text[at..at + separator.len()].copy_from_slice(separator);
    };
    put(b"/", size);
    put(b"-", range.end - 1);
    put(b"bytes ", range.start);
    // Digits and punctuation only.
    HeaderValue::from_bytes(&text[at..]).unwrap_or_else(|_| HeaderValue::from_static("bytes"))
}

/// Joins ranges that overlap or touch; what is left stands in the order asked, a joined range where the
/// first of its parts stood.
fn coalesce(ranges: Vec<ByteRange>) -> Vec<ByteRange> {
    let mut asked: Vec<(usize, ByteRange)> = ranges.into_iter().enumerate().collect();
    asked.sort_unstable_by_key(|(place, range)| (range.first, *place));
    let mut joined: Vec<(usize, ByteRange)> = Vec::new();
    for (place, range) in asked {
        match joined.last_mut() {
            // `last` is below the size, so adding one cannot overflow.
            Some((earliest, before)) if range.first <= before.last + 1 => {
                *earliest = place.min(*earliest);
                before.last = before.last.max(range.last);
            }
            _ => joined.push((place, range)),
        }
    }
    joined.sort_unstable_by_key(|(place, _)| *place);
    joined.into_iter().map(|(_, range)| range).collect()
}

#[cfg(test)]
mod tests;
