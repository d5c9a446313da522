//! What a fuzzer calls: everything here that reads bytes which others wrote, or a disk may have changed.
//!
//! Built for tests and fuzzers only. The targets in `fuzz/` call these, and the test below replays their corpora on
//! every run, without a fuzzer.

use crate::origin::s3_xml::parse_list;

pub use crate::nvme::{disk_block, journal};

/// A function that a fuzzer calls with bytes of its own; it panics where something does not hold.
pub type Target = fn(&[u8]);

/// The targets by name, which is also the name of the corpus.
pub const TARGETS: [(&str, Target); 3] = [
    ("disk_block", disk_block),
    ("journal", journal),
    ("list_xml", list_xml),
];

/// Reads `bytes` as an origin's listing.
///
/// # Panics
/// If a page is longer than any may be, names an empty key, or names no place to go on from that it has.
pub fn list_xml(bytes: &[u8]) {
    let Ok(list) = parse_list(bytes) else {
        return;
    };
    let page = &list.page;
    assert!(page.objects.len() + page.prefixes.len() <= 2000);
    assert!(page.objects.iter().all(|object| !object.key.is_empty()));
    let next = list.next_token.as_ref().or(list.next_marker.as_ref());
    assert_eq!(page.next.as_ref(), next);
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn fuzz_corpus_holds() {
        let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
        for (name, target) in TARGETS {
            let corpus = corpora.join(name);
            let files = std::fs::read_dir(&corpus)
                .unwrap_or_else(|error| panic!("{}: {error}", corpus.display()));
            let mut inputs = 0;
            for file in files {
                let path = file.expect("a directory can be listed").path();
                println!("{}", path.display());
                target(&std::fs::read(&path).expect("a corpus can be read"));
                inputs += 1;
            }
            assert!(inputs > 0, "{name} has no corpus");
        }
    }
}
