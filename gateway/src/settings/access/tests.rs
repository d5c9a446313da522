//! Claims about `[[access]]`, `open`, `domain` and `hosts`.

#![allow(clippy::unwrap_used)]

use super::super::tests::{Scratch, load, mistake};
use super::super::{Flags, Settings};

const KEY: &str = "[[access]]\naccess_key_id = 'LOADER'\nsecret_access_key = 'hidden'\n";

fn loaded(text: &str) -> Settings {
    load(text, &Flags::default()).unwrap()
}

#[test]
fn every_setting_of_an_access_key_is_followed() {
    let scratch = Scratch::new();
    let secret = scratch.write("secret", "from-file\n");
    let text = format!(
        r#"
domain = "S3.Example.com."
hosts = ["gw.example.com", "10.0.0.5:8080", "[::1]:80", "localhost"]
[[datasets]]
name = "models"
origin = "/srv"
[[access]]
access_key_id = "LOADER"
secret_access_key = {{ file = "{}" }}
datasets = ["models"]
[[access]]
access_key_id = "OPS_1-x.y+z=@"
secret_access_key = {{ env = "ORIGIN_SECRET" }}
admin = true
"#,
        secret.display()
    );
    let settings = loaded(&text);
    assert_eq!(settings.domain.as_deref(), Some("s3.example.com"));
    assert_eq!(settings.hosts.len(), 4);
    assert_eq!(settings.secret_files, [secret]);
    let [loader, ops] = settings.access.as_slice() else {
        panic!("{settings:?}")
    };
    assert_eq!(loader.access_key_id, "LOADER");
    assert_eq!(loader.secret_access_key.expose(), "from-file");
    assert_eq!(loader.datasets.as_deref(), Some(&["models".to_owned()][..]));
    assert!(!loader.admin && ops.admin && ops.datasets.is_none());
    assert_eq!(ops.secret_access_key.expose(), "from-env");
    assert!(settings.warnings.is_empty(), "{:?}", settings.warnings);
    assert!(
        !format!("{settings:?}").contains("from-"),
        "a secret is shown"
    );
}

#[test]
fn an_address_that_others_reach_needs_access_or_open() {
    for address in ["listen = '0.0.0.0:1'", "admin_listen = '10.0.0.7:1'"] {
        assert!(mistake(address).contains("add [[access]], or write `open = true`"));
        assert_eq!(loaded(&format!("{address}\n{KEY}")).access.len(), 1);
    }
    let both = mistake(&format!("open = true\n{KEY}"));
    assert!(
        both.starts_with("1: `open = true` stands beside [[access]]"),
        "{both}"
    );
    assert!(!loaded(&format!("open = false\n{KEY}")).open);
}

#[test]
fn keys_that_no_client_could_use_are_mistakes() {
    for (id, secret, part) in [
        ("''", "'x'", "`access_key_id` must have 1 to 128"),
        ("'a:b'", "'x'", "`access_key_id` must have 1 to 128"),
        ("'a/b'", "'x'", "`access_key_id` must have 1 to 128"),
        ("'a b'", "'x'", "`access_key_id` must have 1 to 128"),
        ("'ä'", "'x'", "`access_key_id` must have 1 to 128"),
        ("1", "'x'", "`access_key_id` must be a string"),
        ("'a'", "''", "`secret_access_key` is empty"),
        ("'a'", "7", "`secret_access_key` must be a string in quotes"),
        ("'a'", "{ file = '/none' }", "refers to the file /none"),
    ] {
        let text = format!("[[access]]\naccess_key_id = {id}\nsecret_access_key = {secret}\n");
        let mistake = mistake(&text);
        assert!(mistake.contains(part), "{text}: {mistake}");
    }
    assert!(mistake(&format!("{KEY}datasets = 'models'")).contains("must be a list"));
    assert!(mistake(&format!("{KEY}dataset = []")).contains("did you mean `datasets`?"));
    let twice = mistake(&format!("{KEY}{KEY}"));
    assert!(
        twice.starts_with("5: the access key `LOADER` stands at 2 already"),
        "{twice}"
    );
    assert!(mistake("access = 1").contains("head each one with [[access]]"));
}

#[test]
fn a_list_that_names_no_dataset_is_worth_a_warning() {
    let text =
        format!("[[datasets]]\nname = 'models'\norigin = '/srv'\n{KEY}datasets = ['modles']");
    let warnings = loaded(&text).warnings;
    assert!(
        warnings.len() == 1
            && warnings[0].contains("`modles`, which is no dataset: did you mean `models`?"),
        "{warnings:?}"
    );
}

#[test]
fn names_of_the_gateway_are_host_names() {
    for value in [
        "''",
        "'a b'",
        "'s3.example.com:80'",
        "'10.0.0.5'",
        "'-a.b'",
        "'a..b'",
        "1",
    ] {
        let mistake = mistake(&format!("domain = {value}"));
        assert!(mistake.starts_with("1: `domain` must be"), "{mistake}");
    }
    for value in [
        "'a'",
        "['http://a']",
        "['a:b']",
        "['a:70000']",
        "['']",
        "[1]",
        "['a/b']",
    ] {
        let mistake = mistake(&format!("hosts = {value}"));
        assert!(mistake.starts_with("1: `hosts` must be"), "{mistake}");
    }
}
