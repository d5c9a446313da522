//! What a driver says that it read, and the judgement of it.
//!
//! A report is JSON, a line each: `{"version"}`, `{"way", "key", "sha256", "size"}` for an object, `{"way", "keys"}` for a
//! listing, `{"way", "key", "found", "expected"}` for a value made of the bytes.

use std::collections::BTreeMap;

use serde_json::Value;

use super::door::Door;
use super::ground::{self, LARGE, Objects};
use super::{Client, Covers};

/// A driver's report.
#[derive(Debug, Default)]
pub struct Report {
    /// What the client says of itself.
    pub version: String,
    bytes: BTreeMap<(String, String), (usize, String)>,
    keys: BTreeMap<String, Vec<String>>,
    values: Vec<(String, String, Value, Value)>,
}

impl Report {
    /// Reads a driver's standard output; lines that are not JSON objects are the client's own and left out.
    ///
    /// # Panics
    /// If one is of no kind that is known.
    #[must_use]
    pub fn read(output: &str) -> Report {
        let mut report = Report::default();
        let lines = output.lines().filter(|line| line.starts_with('{'));
        for line in lines {
            let entry: Value = serde_json::from_str(line)
                .unwrap_or_else(|error| panic!("a report's line: {error}: {line}"));
            let text = |name: &str| entry[name].as_str().unwrap_or_default().to_owned();
            if let Some(version) = entry["version"].as_str() {
                version.clone_into(&mut report.version);
            } else if let Some(size) = entry["size"].as_u64() {
                let size = usize::try_from(size).expect("an object fits memory");
                let read = (size, text("sha256"));
                report.bytes.insert((text("way"), text("key")), read);
            } else if let Some(keys) = entry["keys"].as_array() {
                let keys = keys.iter().filter_map(Value::as_str).map(str::to_owned);
                report.keys.insert(text("way"), keys.collect());
            } else {
                assert!(entry.get("found").is_some(), "says nothing: {line}");
                let [found, expected] = ["found", "expected"].map(|name| entry[name].clone());
                report
                    .values
                    .push((text("way"), text("key"), found, expected));
            }
        }
        report
    }

    /// Asserts that every way read what it must, and that nothing it read is wrong.
    ///
    /// # Panics
    /// If it did not, naming the client by `what`.
    pub fn judge(&self, client: &Client, objects: &Objects, door: Door, what: &str) {
        for ((way, key), (size, sha256)) in &self.bytes {
            let known = objects
                .get(key)
                .unwrap_or_else(|| panic!("{what}: {way} read {key:?}, which nobody put"));
            assert!(
                (*size, sha256) == (known.size, &known.sha256),
                "{what}: {way} read {size} bytes {sha256} of {key:?}, which are {} bytes {}",
                known.size,
                known.sha256
            );
        }
        for (way, key, found, expected) in &self.values {
            assert!(
                found == expected && !found.is_null(),
                "{what}: {way} made {found} of {key:?}, where {expected} belongs"
            );
        }
        for (way, covers) in client.ways {
            if !door.takes(way) {
                continue;
            }
            let what = format!("{what}: {way}");
            match covers {
                Covers::Every => self.covered(client, objects, way, 0, &what),
                Covers::Filled => self.covered(client, objects, way, 1, &what),
                Covers::Large => self.covered(client, objects, way, LARGE, &what),
                Covers::Listing => self.listed(client, objects, way, "", &what),
                Covers::ListingOf(prefix) => self.listed(client, objects, way, prefix, &what),
                Covers::Values => assert!(
                    self.values.iter().any(|(known, ..)| known == way),
                    "{what} made nothing"
                ),
            }
        }
        assert!(!self.version.is_empty(), "{what}: of no version");
    }

    /// That `way` read each object of at least `size` bytes that the client can name.
    fn covered(&self, client: &Client, objects: &Objects, way: &str, size: usize, what: &str) {
        let wanted = ground::named(client, objects).filter(|(_, known)| known.size >= size);
        let missing: Vec<&str> = wanted
            .map(|(key, _)| key)
            .filter(|key| {
                let read = (way.to_owned(), (*key).to_owned());
                !self.bytes.contains_key(&read)
            })
            .collect();
        assert!(missing.is_empty(), "{what} did not read {missing:?}");
    }

    /// That `way` listed each key below `prefix` once; one that the client cannot name it may list or not.
    fn listed(&self, client: &Client, objects: &Objects, way: &str, prefix: &str, what: &str) {
        let named = |key: &&String| !client.unnamed.contains(&key.as_str());
        let keys = objects.keys().filter(|key| key.starts_with(prefix));
        let keys: Vec<&String> = keys.filter(named).collect();
        let listed = self.keys.get(way).into_iter().flatten();
        let mut listed: Vec<&String> = listed.filter(named).collect();
        listed.sort();
        assert_eq!(listed, keys, "{what}");
    }
}

#[cfg(test)]
mod tests {
    use super::super::Home;
    use super::super::ground::Known;
    use super::*;

    const CLIENT: Client = Client {
        name: "client",
        driver: "none.py",
        home: Home::Everyday,
        fixture: None,
        ways: &[
            ("get", Covers::Every),
            ("list", Covers::Listing),
            ("presigned", Covers::Every),
        ],
        unnamed: &["a//b"],
    };

    const GOOD: &str = r#"Downloading …
{"version": "1.2"}
{"way": "get", "key": "a", "size": 3, "sha256": "x"}
{"way": "get", "key": "b", "size": 0, "sha256": "y"}
{"way": "list", "keys": ["b", "a"]}
"#;

    fn judge(output: &str, door: Door) {
        let known = |size, sha256: &str| Known {
            size,
            sha256: sha256.to_owned(),
        };
        let objects = [
            ("a", known(3, "x")),
            ("b", known(0, "y")),
            ("a//b", known(1, "z")),
        ];
        let objects = objects.map(|(key, known)| (key.to_owned(), known)).into();
        Report::read(output).judge(&CLIENT, &objects, door, "test");
    }

    #[test]
    fn what_covers_all_is_taken() {
        judge(GOOD, Door::Open);
        let listed_too = GOOD.replace(r#""b", "a""#, r#""a", "a//b", "b""#);
        judge(&listed_too, Door::Open);
    }

    #[test]
    #[should_panic(expected = "get read 3 bytes w of \"a\"")]
    fn wrong_bytes_are_seen() {
        judge(&GOOD.replace("\"x\"", "\"w\""), Door::Open);
    }

    #[test]
    #[should_panic(expected = "get did not read [\"b\"]")]
    fn an_object_left_out_is_seen() {
        let without: String = GOOD
            .lines()
            .filter(|line| !line.contains(r#""key": "b""#))
            .collect::<Vec<_>>()
            .join("\n");
        judge(&without, Door::Open);
    }

    #[test]
    #[should_panic(expected = "test: list")]
    fn a_key_listed_twice_is_seen() {
        judge(
            &GOOD.replace(r#"["b", "a"]"#, r#"["b", "a", "a"]"#),
            Door::Open,
        );
    }

    #[test]
    #[should_panic(expected = "presigned did not read")]
    fn signed_clients_presign() {
        judge(GOOD, Door::Signed);
    }

    #[test]
    #[should_panic(expected = "v made 1")]
    fn a_wrong_value_is_seen() {
        let value = r#"{"way": "v", "key": "a", "found": 1, "expected": 2}"#;
        judge(&format!("{GOOD}{value}\n"), Door::Open);
    }

    #[test]
    #[should_panic(expected = "says nothing")]
    fn a_line_that_says_nothing_is_a_mistake() {
        let _ = Report::read(r#"{"way": "get"}"#);
    }
}
