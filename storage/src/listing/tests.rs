//! Roll-up of sorted keys, as tables.

use super::*;

fn object(key: &str) -> ListedObject {
    ListedObject {
        key: key.to_owned(),
        size: 1,
        etag: None,
        last_modified: None,
        storage_class: None,
    }
}

fn request(prefix: &str, delimiter: &str, start: Start, max_keys: usize) -> ListRequest {
    let delimiter = (!delimiter.is_empty()).then(|| delimiter.to_owned());
    ListRequest {
        prefix: prefix.to_owned(),
        delimiter,
        start,
        max_keys,
    }
}

/// The page's keys and prefixes in one ascending list, and its token.
fn entries(keys: &[&str], request: &ListRequest) -> (Vec<String>, Option<String>) {
    let page = page(keys.iter().map(|key| object(key)), request);
    let mut entries = page.prefixes;
    entries.extend(page.objects.into_iter().map(|object| object.key));
    entries.sort();
    (entries, page.next)
}

const KEYS: &[&str] = &["a", "b/1", "b/2", "b/c/3", "c", "d//4", "d/e/5", "é"];

#[test]
fn prefix_and_delimiter_roll_up() {
    for (prefix, delimiter, expected) in [
        ("", "", KEYS),
        ("", "/", &["a", "b/", "c", "d/", "é"][..]),
        ("b", "/", &["b/"]),
        ("b/", "/", &["b/1", "b/2", "b/c/"]),
        ("b/", "", &["b/1", "b/2", "b/c/3"]),
        ("b/c/3", "/", &["b/c/3"]),
        ("d/", "/", &["d//", "d/e/"]),
        (
            "",
            "/c/",
            &["a", "b/1", "b/2", "b/c/", "c", "d//4", "d/e/5", "é"],
        ),
        ("x", "/", &[]),
        ("é", "", &["é"]),
    ] {
        let asked = request(prefix, delimiter, Start::Beginning, 1000);
        assert_eq!(
            entries(KEYS, &asked),
            (to_owned(expected), None),
            "{prefix:?} {delimiter:?}"
        );
    }
}

fn to_owned(keys: &[&str]) -> Vec<String> {
    keys.iter().map(|&key| key.to_owned()).collect()
}

#[test]
fn a_key_that_is_the_prefix_itself_is_listed() {
    let asked = request("b/", "/", Start::Beginning, 10);
    assert_eq!(entries(&["b/", "b/1"], &asked).0, ["b/", "b/1"]);
}

#[test]
fn starts_skip_what_lies_before_them() {
    for (start, expected) in [
        (Start::Beginning, &["a", "b/", "c", "d/", "é"][..]),
        (Start::After("a".into()), &["b/", "c", "d/", "é"]),
        (Start::After("aa".into()), &["b/", "c", "d/", "é"]),
        // V2's start-after hides keys, not the prefixes that the later ones roll up into.
        (Start::After("b/".into()), &["b/", "c", "d/", "é"]),
        (Start::After("b/1".into()), &["b/", "c", "d/", "é"]),
        (Start::After("b/c/3".into()), &["c", "d/", "é"]),
        (Start::After("é".into()), &[]),
        (Start::Marker("b/".into()), &["c", "d/", "é"]),
        (Start::Marker("b/1".into()), &["b/", "c", "d/", "é"]),
        (Start::Marker("a".into()), &["b/", "c", "d/", "é"]),
        (Start::Marker(String::new()), &["a", "b/", "c", "d/", "é"]),
        (Start::Token("b/".into()), &["c", "d/", "é"]),
        (Start::Token("c".into()), &["d/", "é"]),
    ] {
        let asked = request("", "/", start.clone(), 1000);
        assert_eq!(entries(KEYS, &asked).0, to_owned(expected), "{start:?}");
    }
}

#[test]
fn max_keys_counts_keys_and_prefixes() {
    let asked = request("", "/", Start::Beginning, 2);
    assert_eq!(
        entries(KEYS, &asked),
        (to_owned(&["a", "b/"]), Some("b/".into()))
    );
    let asked = request("", "/", Start::Beginning, 5);
    assert_eq!(entries(KEYS, &asked).1, None);
}

#[test]
fn full_page_is_the_last_when_only_rolled_up_keys_follow() {
    let asked = request("", "/", Start::Beginning, 1);
    assert_eq!(
        entries(&["b/1", "b/2", "b/3"], &asked),
        (to_owned(&["b/"]), None)
    );
}

#[test]
fn zero_max_keys_is_an_empty_last_page() {
    let asked = request("", "", Start::Beginning, 0);
    assert_eq!(
        page(KEYS.iter().map(|key| object(key)), &asked),
        ListPage::default()
    );
}

#[test]
fn no_more_keys_are_taken_than_needed() {
    let endless = || (0..).map(|n| object(&format!("k/{n:09}")));
    let asked = request("k/", "", Start::Beginning, 3);
    assert_eq!(page(endless(), &asked).objects.len(), 3);
    let asked = request("j/", "", Start::Beginning, 3);
    assert_eq!(page(endless(), &asked), ListPage::default());
}

#[test]
fn pages_together_are_the_whole_listing() {
    for delimiter in ["", "/", "/c/", "e"] {
        for prefix in ["", "b", "b/", "d/"] {
            let all = entries(KEYS, &request(prefix, delimiter, Start::Beginning, 1000)).0;
            for max_keys in 1..=all.len() + 1 {
                for next in [Start::Token as fn(String) -> Start, Start::Marker] {
                    let paged = walk(prefix, delimiter, max_keys, next);
                    assert_eq!(paged, all, "{prefix:?} {delimiter:?} {max_keys}");
                }
            }
        }
    }
}

fn walk(prefix: &str, delimiter: &str, max_keys: usize, next: fn(String) -> Start) -> Vec<String> {
    let mut start = Start::Beginning;
    let mut all = Vec::new();
    loop {
        let (entries, token) = entries(KEYS, &request(prefix, delimiter, start, max_keys));
        assert!(entries.len() <= max_keys);
        all.extend(entries);
        match token {
            Some(token) => start = next(token),
            None => return all,
        }
    }
}

#[test]
fn greatest_is_a_key_or_a_prefix() {
    let mut page = ListPage::default();
    assert_eq!(page.greatest(), None);
    page.prefixes.push("b/".into());
    assert_eq!(page.greatest(), Some("b/"));
    page.objects.push(object("a"));
    assert_eq!(page.greatest(), Some("b/"));
    page.objects.push(object("c"));
    assert_eq!(page.greatest(), Some("c"));
}
