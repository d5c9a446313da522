//! Request targets, as tables.
#![allow(clippy::unwrap_used)]

use super::*;

fn parse(target: &str) -> Result<Target, TargetError> {
    Target::parse(&target.parse().unwrap())
}

fn place(target: &str) -> Place {
    parse(target).unwrap().place
}

fn dataset(name: &str, slash: bool) -> Place {
    Place::Dataset {
        name: name.to_owned(),
        slash,
    }
}

fn object(dataset: &str, key: &str) -> Place {
    Place::Object {
        dataset: dataset.to_owned(),
        key: key.into(),
    }
}

fn ours(rest: &str) -> Place {
    Place::Ours {
        rest: rest.to_owned(),
    }
}

#[test]
fn paths_name_places() {
    for (target, expected) in [
        ("/", Place::Root),
        ("/?x", Place::Root),
        ("/models", dataset("models", false)),
        ("/models?list-type=2", dataset("models", false)),
        ("/models/", dataset("models", true)),
        ("/models/?list-type=2", dataset("models", true)),
        ("/models/a", object("models", "a")),
        ("/models/a/b/c", object("models", "a/b/c")),
        ("/models/a/", object("models", "a/")),
        ("/models//", object("models", "/")),
        ("/models//a", object("models", "/a")),
        ("/models/a//b", object("models", "a//b")),
        ("/models/./a", object("models", "./a")),
        ("/models/../a", object("models", "../a")),
        ("/models/a/..", object("models", "a/..")),
        ("/..", dataset("..", false)),
        ("//", dataset("", true)),
        ("//a", object("", "a")),
        ("/-", ours("")),
        ("/-/", ours("")),
        ("/-/healthz", ours("healthz")),
        ("/-/blocks/models/a%2Fb%20c", ours("blocks/models/a/b c")),
        ("/%2D/healthz", ours("healthz")),
        ("/-x/a", object("-x", "a")),
        ("/models/-/a", object("models", "-/a")),
    ] {
        assert_eq!(place(target), expected, "{target}");
    }
}

#[test]
fn paths_are_decoded_exactly_once() {
    for (target, key) in [
        ("/m/a%20b", "a b"),
        ("/m/a+b", "a+b"),
        ("/m/a%2Bb", "a+b"),
        ("/m/a%2Fb", "a/b"),
        ("/m/a%2fb", "a/b"),
        ("/m/a%252Fb", "a%2Fb"),
        ("/m/a%25zz", "a%zz"),
        ("/m/%E6%A8%A1%E5%9E%8B", "模型"),
        ("/m/a%23b%3Fc", "a#b?c"),
        ("/m/a%0Ab", "a\nb"),
        ("/m%2Fa", "a"),
        ("/m/~a", "~a"),
        ("/m/%2E%2E/a", "../a"),
    ] {
        assert_eq!(place(target), object("m", key), "{target}");
    }
}

#[test]
fn absolute_form_is_routed_by_its_path_alone() {
    assert_eq!(
        place("http://127.0.0.1:7070/models/a%20b"),
        object("models", "a b")
    );
    assert_eq!(place("http://models.example.com/"), Place::Root);
    assert_eq!(place("https://h/-/healthz"), ours("healthz"));
    assert_eq!(
        parse("http://h/m?prefix=a").unwrap().query.get("prefix"),
        Some("a")
    );
}

#[test]
fn bad_targets_are_refused() {
    for (target, expected) in [
        ("*", TargetError::NotAPath),
        ("gw:7070", TargetError::NotAPath),
        ("gw", TargetError::NotAPath),
        ("/m/%", TargetError::BadEscape),
        ("/m/%a", TargetError::BadEscape),
        ("/m/%zz", TargetError::BadEscape),
        ("/m/%2", TargetError::BadEscape),
        ("/m/%%41", TargetError::BadEscape),
        ("/m/%+1", TargetError::BadEscape),
        ("/m/%FF", TargetError::NotUtf8),
        ("/m/%ED%A0%80", TargetError::NotUtf8),
        ("/m/%C0%AF", TargetError::NotUtf8),
        ("/m/a%00b", TargetError::Nul),
        ("/m%00", TargetError::Nul),
        ("/-/%00", TargetError::Nul),
        ("/m?a=%zz", TargetError::BadEscape),
        ("/m?%F=1", TargetError::BadEscape),
        ("/m?a=%FF", TargetError::NotUtf8),
    ] {
        assert_eq!(parse(target), Err(expected), "{target}");
    }
}

#[test]
fn keys_end_at_1024_bytes() {
    let longest = "k".repeat(MAX_KEY_BYTES);
    assert_eq!(place(&format!("/m/{longest}")), object("m", &longest));
    assert_eq!(
        parse(&format!("/m/{longest}k")),
        Err(TargetError::KeyTooLong {
            bytes: MAX_KEY_BYTES + 1
        })
    );
    // Bytes of the decoded key count, not characters and not escapes.
    let wide = "%E6%A8%A1".repeat(341);
    assert!(parse(&format!("/m/{wide}")).is_ok());
    assert_eq!(
        parse(&format!("/m/{wide}kk")),
        Err(TargetError::KeyTooLong { bytes: 1025 })
    );
}

#[test]
fn queries_are_ordered_decoded_pairs() {
    for (raw, expected) in [
        ("", vec![]),
        ("&&", vec![]),
        ("acl", vec![("acl", "")]),
        ("acl=", vec![("acl", "")]),
        ("a=1&b=2&a=3", vec![("a", "1"), ("b", "2"), ("a", "3")]),
        ("prefix=a+b%2Bc%26d%3D", vec![("prefix", "a b+c&d=")]),
        ("prefix=a=b", vec![("prefix", "a=b")]),
        ("a+b=1", vec![("a b", "1")]),
        ("=1", vec![("", "1")]),
        ("prefix=%E6%A8%A1", vec![("prefix", "模")]),
        ("x=%2520", vec![("x", "%20")]),
        ("x=%00", vec![("x", "\0")]),
    ] {
        let query = Query::parse(raw).unwrap();
        assert_eq!(query.iter().collect::<Vec<_>>(), expected, "{raw}");
    }
}

#[test]
fn first_pair_of_a_name_counts() {
    let query = Query::parse("a=1&a=2&b").unwrap();
    assert_eq!(query.get("a"), Some("1"));
    assert_eq!(query.get("b"), Some(""));
    assert_eq!(query.get("c"), None);
    assert!(query.has("b"));
    assert!(!query.has("B"));
}
