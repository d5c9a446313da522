//! What must hold of any text that is given as a settings file.

use std::path::Path;

use super::draft::{Draft, Surroundings};
use super::file;
use super::machine::Memory;
use super::report::Report;

/// Reads `bytes` as a settings file that names no file elsewhere.
///
/// # Panics
/// If a mistake is told without the file and a sentence.
pub fn settings(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    // A secret's file or a certificate may be any, and some devices never end.
    let names = ["file", "cert"].iter().any(|word| text.contains(word));
    if names && text.contains(['/', '\\']) {
        return;
    }
    let memory = Memory {
        machine: Some(16 << 30),
        cgroup: None,
    };
    let around = Surroundings {
        env: &|_| None,
        root: true,
        memory,
        open_files: Some(1024),
        room: &|_| None,
        unusable: &|_| None,
    };
    let config = Path::new("forebay.toml");
    let mut report = Report::new(Some(config));
    let mut draft = Draft::default();
    file::walk(text, &around, &mut draft, &mut report);
    let settings = draft.finish(Some(config), &around, &mut report);
    match report.finish() {
        None => assert!(settings.cache.memory >= 64 << 20),
        Some(mistakes) => {
            for mistake in mistakes.iter() {
                let told = mistake.split_once(": ");
                assert!(told.is_some_and(|(place, sentence)| {
                    place.starts_with("forebay.toml") && sentence.contains(' ')
                }));
            }
        }
    }
}
