//! The pattern oracle: what every byte of every version of every object is.
//!
//! The 8-byte little-endian word *i* of a version is a bijective mix of `seed + i × γ`, where the seed is
//! a hash of (key, version). So any range can be made or checked without the object, in order or not, and a
//! word that is wrong can be run backwards: [`locate`] says of which version it is, and from which offset.
//!
//! The mix is SplitMix64's (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014): two
//! multiplications a word, several GB/s on one core. It is no secret and no checksum.

use thiserror::Error;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// The distance between the inputs of neighbouring words: odd, so that multiplying by it can be undone.
const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;
const FIRST: u64 = 0xbf58_476d_1ce4_e5b9;
const SECOND: u64 = 0x94d0_49bb_1331_11eb;

/// Bytes compared before the difference is looked at: small enough for the first cache, large enough that the
/// compiler keeps the inner loop free of branches.
const STEP: usize = 4096;

/// The seed of one version of one object: the first argument of [`fill`] and [`check`].
pub fn seed(key: &str, version: u64) -> u64 {
    xxh3_64_with_seed(key.as_bytes(), mix(version ^ GAMMA))
}

/// The strong ETag of a version, with its quotes: `"HASH-VERSION"`, both in hexadecimal.
///
/// It carries the version, so that a reader can tell which bytes to expect from the answer alone, and a hash over
/// key, version and size, so that a tag taken from another object or with another size is known as such.
pub fn etag(key: &str, version: u64, size: u64) -> String {
    let hash = mix(seed(key, version) ^ mix(size));
    format!("\"{hash:016x}-{version:x}\"")
}

/// The version that an ETag made by [`etag`] names, or `None` if it is no tag of this key with this size.
pub fn version_of(tag: &str, key: &str, size: u64) -> Option<u64> {
    let (_, version) = tag.strip_prefix('"')?.strip_suffix('"')?.split_once('-')?;
    let version = u64::from_str_radix(version, 16).ok()?;
    (etag(key, version, size) == tag).then_some(version)
}

/// Writes the bytes `offset .. offset + out.len()` of the version into `out`.
pub fn fill(seed: u64, offset: u64, out: &mut [u8]) {
    let (head, body, tail) = split(offset, out.len());
    let mut input = input(seed, offset / 8);
    if head > 0 {
        let skip = 8 - head_room(offset);
        out[..head].copy_from_slice(&mix(input).to_le_bytes()[skip..skip + head]);
        input = input.wrapping_add(GAMMA);
    }
    for word in out[head..head + body].chunks_exact_mut(8) {
        word.copy_from_slice(&mix(input).to_le_bytes());
        input = input.wrapping_add(GAMMA);
    }
    let word = mix(input).to_le_bytes();
    out[head + body..].copy_from_slice(&word[..tail]);
}

/// Compares `bytes` with the bytes of the version that begin at `offset`.
///
/// # Errors
/// The first byte that differs.
pub fn check(seed: u64, offset: u64, bytes: &[u8]) -> Result<(), Mismatch> {
    let (head, body, _) = split(offset, bytes.len());
    check_bytes(seed, offset, &bytes[..head], 0)?;
    let mut at = head;
    while at < head + body {
        let step = &bytes[at..(at + STEP).min(head + body)];
        let mut input = input(seed, (offset + at as u64) / 8);
        let mut difference = 0;
        for word in step.chunks_exact(8) {
            let word: [u8; 8] = word.try_into().expect("chunks_exact gives eight bytes");
            difference |= u64::from_le_bytes(word) ^ mix(input);
            input = input.wrapping_add(GAMMA);
        }
        if difference != 0 {
            check_bytes(seed, offset + at as u64, step, at)?;
        }
        at += step.len();
    }
    check_bytes(seed, offset + at as u64, &bytes[at..], at)
}

/// The first byte of a checked slice that is not the version's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("byte {offset} is {found:#04x} instead of {expected:#04x}")]
pub struct Mismatch {
    /// Where the byte lies in the object.
    pub offset: u64,
    /// Where it lies in the slice that was checked.
    pub index: usize,
    /// What the pattern says.
    pub expected: u8,
    /// What was there.
    pub found: u8,
}

/// A version that a stray word might belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// What [`locate`] reports.
    pub version: u64,
    /// What [`seed`] gives for it.
    pub seed: u64,
    /// Its bytes; an upper bound will do.
    pub size: u64,
}

/// The version and the byte offset (a multiple of 8) that an 8-byte word belongs to, if it is any candidate's.
///
/// A word of random bytes is taken for a candidate's with a probability of size ÷ 2⁶⁷.
pub fn locate(word: u64, candidates: &[Candidate]) -> Option<(u64, u64)> {
    const GAMMA_INVERSE: u64 = inverse(GAMMA);
    let input = unmix(word);
    candidates.iter().find_map(|candidate| {
        let index = input
            .wrapping_sub(candidate.seed)
            .wrapping_mul(GAMMA_INVERSE);
        (index < candidate.size.div_ceil(8)).then(|| (candidate.version, index * 8))
    })
}

/// What word `index` is mixed from.
fn input(seed: u64, index: u64) -> u64 {
    seed.wrapping_add(index.wrapping_mul(GAMMA))
}

/// Bytes left in the word that `offset` lies in.
fn head_room(offset: u64) -> usize {
    8 - (offset % 8) as usize
}

/// Cuts a slice at `offset` into the end of a word, whole words, and the start of a word.
fn split(offset: u64, length: usize) -> (usize, usize, usize) {
    let head = if offset.is_multiple_of(8) {
        0
    } else {
        head_room(offset).min(length)
    };
    let tail = (length - head) % 8;
    (head, length - head - tail, tail)
}

/// The slow, exact comparison: for ends of slices, and for finding the byte once a difference is known.
fn check_bytes(seed: u64, offset: u64, bytes: &[u8], index: usize) -> Result<(), Mismatch> {
    for (position, &found) in bytes.iter().enumerate() {
        let offset = offset + position as u64;
        let expected = mix(input(seed, offset / 8)).to_le_bytes()[(offset % 8) as usize];
        if expected != found {
            return Err(Mismatch {
                offset,
                index: index + position,
                expected,
                found,
            });
        }
    }
    Ok(())
}

const fn mix(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(FIRST);
    word = (word ^ (word >> 27)).wrapping_mul(SECOND);
    word ^ (word >> 31)
}

const fn unmix(mut word: u64) -> u64 {
    word = unshift(word, 31).wrapping_mul(inverse(SECOND));
    word = unshift(word, 27).wrapping_mul(inverse(FIRST));
    unshift(word, 30)
}

/// Undoes `x ^ (x >> by)`; `by` is at least 22, so two more terms are all there are.
const fn unshift(word: u64, by: u32) -> u64 {
    let mut undone = word ^ (word >> by);
    if 2 * by < 64 {
        undone ^= word >> (2 * by);
    }
    undone
}

/// The inverse of an odd number modulo 2⁶⁴, by Newton's iteration: each round doubles the right bits, from 3.
const fn inverse(odd: u64) -> u64 {
    let mut found = odd;
    let mut round = 0;
    while round < 5 {
        found = found.wrapping_mul(2u64.wrapping_sub(odd.wrapping_mul(found)));
        round += 1;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(seed: u64, offset: u64, length: usize) -> Vec<u8> {
        let mut out = vec![0; length];
        fill(seed, offset, &mut out);
        out
    }

    #[test]
    fn any_range_is_a_piece_of_the_whole() {
        let seed = seed("a", 1);
        let whole = bytes(seed, 0, 300);
        for first in 0..40 {
            for length in [0, 1, 2, 7, 8, 9, 15, 16, 17, 100, 260] {
                assert_eq!(
                    bytes(seed, first as u64, length),
                    whole[first..first + length],
                    "{first}+{length}"
                );
            }
        }
    }

    #[test]
    fn check_accepts_what_fill_wrote_and_names_the_first_wrong_byte() {
        let seed = seed("a", 1);
        for (offset, length) in [
            (0, 10_000),
            (3, 10_000),
            (5, 2),
            (1 << 30, 4097),
            (7, 1),
            (8, 0),
        ] {
            let mut out = bytes(seed, offset, length);
            assert_eq!(check(seed, offset, &out), Ok(()));
            for index in [0, 1, 5, 4095, 4096, 9_999]
                .into_iter()
                .filter(|&index| index < length)
            {
                out[index] ^= 0x10;
                let wrong = check(seed, offset, &out).expect_err("a flipped bit");
                assert_eq!((wrong.offset, wrong.index), (offset + index as u64, index));
                assert_eq!(wrong.expected ^ wrong.found, 0x10);
                out[index] ^= 0x10;
            }
        }
    }

    #[test]
    fn a_word_tells_version_and_offset() {
        let size = 1 << 30;
        let candidates: Vec<_> = (0..50)
            .map(|version| Candidate {
                version,
                seed: seed("a//b", version),
                size,
            })
            .collect();
        for version in [0, 17, 49] {
            for offset in [0, 8, 4096, size - 8] {
                let word = bytes(seed("a//b", version), offset, 8);
                let word = u64::from_le_bytes(word.try_into().expect("eight"));
                assert_eq!(locate(word, &candidates), Some((version, offset)));
                assert_eq!(locate(word ^ 1, &candidates), None);
            }
        }
        let stranger = u64::from_le_bytes(bytes(seed("other", 0), 0, 8).try_into().expect("eight"));
        assert_eq!(locate(stranger, &candidates), None);
    }

    #[test]
    fn mix_can_be_undone() {
        for word in [0, 1, GAMMA, u64::MAX, 0x0123_4567_89ab_cdef] {
            assert_eq!(unmix(mix(word)), word);
        }
    }

    #[test]
    fn an_etag_names_its_version_and_nothing_else() {
        let tag = etag("key", 300, 17);
        assert_eq!(version_of(&tag, "key", 17), Some(300));
        assert_eq!(version_of(&tag, "key", 18), None);
        assert_eq!(version_of(&tag, "kez", 17), None);
        assert_eq!(version_of(&format!("W/{tag}"), "key", 17), None);
        assert_eq!(
            version_of("\"d41d8cd98f00b204e9800998ecf8427e\"", "key", 0),
            None
        );
    }
}
