//! The bytes that (key, version) must have, and names and sizes that hurt.

use forebay_loadtest::pattern;

/// The cache's block size in these tests, the default of the settings file.
pub const BLOCK: usize = 1 << 20;

/// The bytes of one version of an object, by the pattern that the load tests check against: bytes of another object,
/// version or offset are never equal by chance.
#[must_use]
pub fn bytes(key: &str, version: u64, size: usize) -> Vec<u8> {
    let mut out = vec![0; size];
    pattern::fill(pattern::seed(key, version), 0, &mut out);
    out
}

/// Sizes around the block's edges, with one that takes more than one run.
pub const SIZES: [(&str, usize); 6] = [
    ("empty.bin", 0),
    ("one.bin", 1),
    ("block-minus-one.bin", BLOCK - 1),
    ("block-plus-one.bin", BLOCK + 1),
    ("three-blocks-and-17.bin", 3 * BLOCK + 17),
    ("twenty.bin", 20 * BLOCK + 4321),
];

/// Names that survive on every origin, a file system's included, and still need care.
pub const NAMES: [&str; 6] = [
    "a b.bin",
    "a+b.bin",
    "percent%2Fslash.bin",
    "hash#mark.bin",
    "gewicht-ä-模型.bin",
    "deep/er/and er/x=1&y=2.bin",
];

/// Fails with the first difference, not with megabytes of numbers.
///
/// # Panics
/// If the two differ.
pub fn assert_bytes(what: &str, found: &[u8], expected: &[u8]) {
    let same = found
        .iter()
        .zip(expected)
        .take_while(|(a, b)| a == b)
        .count();
    assert!(
        same == expected.len() && same == found.len(),
        "{what}: {} bytes came, {} expected, the first {same} agree",
        found.len(),
        expected.len()
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_and_keys_share_no_bytes() {
        let one = bytes("a", 1, 1000);
        for other in [bytes("a", 2, 1000), bytes("b", 1, 1000)] {
            assert!(one.chunks(8).zip(other.chunks(8)).all(|(a, b)| a != b));
        }
    }

    #[test]
    fn shorter_objects_are_prefixes() {
        assert_eq!(bytes("a", 1, 1000)[..13], bytes("a", 1, 13));
    }

    #[test]
    #[should_panic(expected = "the first 2 agree")]
    fn a_missing_byte_is_seen() {
        assert_bytes("x", b"ab", b"abc");
    }
}
