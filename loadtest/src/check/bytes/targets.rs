//! The objects of `bytes`: awkward names and awkward sizes.

use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use super::BLOCK as B;

const LARGEST: &str = "models/large/model-00001-of-00001.safetensors";

/// Around words, segments and blocks; together 290 MiB, so that they and a part of the largest fit the memory.
const SIZES: [u64; 31] = [
    0,
    1,
    2,
    7,
    4095,
    65_535,
    65_536,
    65_537,
    B - 1,
    B,
    B + 1,
    2 * B - 1,
    2 * B,
    2 * B + 1,
    3 * B + 17,
    4 * B - 1,
    4 * B + 1,
    5 * B + 3,
    7 * B,
    8 * B - 1,
    8 * B,
    8 * B + 1,
    9 * B + 4096,
    10 * B + 5,
    12 * B,
    16 * B + 12_345,
    20 * B + 1,
    24 * B - 7,
    32 * B + 1,
    33 * B,
    48 * B + 11,
];

/// What breaks in paths, queries, signatures or XML; one more is 900 bytes long.
const NAMES: [&str; 30] = [
    "plain",
    "with space",
    "plus+plus",
    "percent%2Fslash",
    "a//b",
    "folder/",
    "folder/inside",
    "\u{fc}n\u{ef}/\u{65e5}\u{672c}\u{8a9e}",
    "question?mark",
    "hash#tag",
    "amper&sand",
    "semi;colon",
    "tilde~",
    "quote'\"",
    "back\\slash",
    "100%",
    "%",
    "key=value",
    "[brackets]",
    "dot.",
    "..name",
    "\u{1f600}",
    "comma,",
    "colon:",
    "at@",
    "star*",
    "pipe|",
    "UPPER",
    "less<more>",
    "spaces  two",
];

/// An object, and the fewest bytes that any of its versions has.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) key: String,
    pub(super) size: u64,
}

impl Target {
    /// Later versions of all but the smallest are up to two bytes longer, so that their blocks end elsewhere.
    pub(super) fn size_of(&self, version: u64) -> u64 {
        if self.size < 2 {
            self.size
        } else {
            self.size + version % 3
        }
    }
}

/// Every size, dealt to the names by chance, and last the largest object: 1 GiB.
pub(super) fn targets(seed: u64) -> Vec<Target> {
    let long = "n".repeat(900);
    let mut names: Vec<&str> = NAMES.into_iter().chain([long.as_str()]).collect();
    names.shuffle(&mut StdRng::seed_from_u64(seed));
    let pairs = names.into_iter().zip(SIZES).chain([(LARGEST, 1024 * B)]);
    pairs
        .map(|(key, size)| Target {
            key: key.to_owned(),
            size,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_are_distinct_and_as_many_as_promised() {
        let targets = targets(1);
        let names: HashSet<_> = targets.iter().map(|target| &target.key).collect();
        assert_eq!(names.len(), targets.len());
        assert!(targets.len() >= 30);
        assert!(targets.iter().any(|target| target.key.len() == 900));
        assert_eq!(targets.last().map(|target| target.size), Some(1 << 30));
    }
}
