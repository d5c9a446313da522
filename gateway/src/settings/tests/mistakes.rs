//! What is wrong in a file, all of it at once, each with its line.

use super::*;

const BROKEN: &str = r#"listen = "0.0.0.0:7070"
stop_after = 10
colour = "blue"
data_dir = oops
[cache]
memory = "8G"
block_size = "3MiB"
nvme_dir = ""
max_requests = 5
[log]
level = "loud"
[limits]
max_requests = -1
hedaer_timeout = "1s"
[tls]
crt = "tls.crt"
[[datasets]]
name = "My_Models"
origin = "s3a://weights/prod"
[[datasets]]
name = "models"
origin = "s3://weights/prod"
immutable = true
fresh_for = "10s"
options = {
  aws_endpont = "http://10.0.0.5:9000",
  aws_region = { env = "NOT_SET" },
  aws_secret_access_key = { file = "/nonexistent/secret" },
  aws_skip_signature = true,
}
[[datasets]]
name = "models"
writable = "no"
origin = "/srv"
[[access]]
access_key_id = "LOADER"
[[access]]
access_key_id = "LOADER"
secret_access_key = { env = "NOT_SET" }
admin = "yes"
"#;

const BROKEN_MISTAKES: [&str; 27] = [
    "2: `stop_after` must be a time in quotes",
    "3: `colour` is not a setting at the top of the file",
    "4: this is not TOML",
    "6: `memory` has the unit `G`, which is not known: did you mean GiB?",
    "7: `block_size` must be a power of two from 256KiB to 4MiB, not 3 MiB",
    "8: `nvme_dir` is empty: write a directory",
    "9: `max_requests` is not a setting of [cache]: it belongs under [limits]",
    "11: `level` must be \"error\", \"warn\"",
    "13: `max_requests` must be a whole number from 1",
    "14: `hedaer_timeout` is not a setting of [limits]: did you mean `header_timeout`?",
    "16: `crt` is not a setting of [tls]: did you mean `cert`?",
    "18: `name` may hold only lower-case letters",
    "19: `origin` is wrong: `s3a://` is not a known kind of origin: did you mean s3://?",
    "24: `fresh_for` says nothing beside `immutable = true`",
    "26: `aws_endpont` is not an option of s3:// origins: did you mean `aws_endpoint`?",
    "27: the option `aws_region` refers to the environment variable NOT_SET, which is not set",
    "28: the option `aws_secret_access_key` refers to the file /nonexistent/secret",
    "29: the option `aws_skip_signature` must be a string in quotes",
    "32: the dataset `models` stands at 21 already",
    "33: `writable` must be true or false, without quotes",
    "38: the access key `LOADER` stands at 36 already",
    "39: `secret_access_key` refers to the environment variable NOT_SET, which is not set",
    "40: `admin` must be true or false",
    "--memory: the value is not a size",
    "--nvme: the value is not a size",
    "NAME=ORIGIN: an argument has no `=`",
    "models=ORIGIN: the dataset `models` stands at 21 already",
];

#[test]
fn all_mistakes_are_reported_at_once_with_their_lines() {
    let flags = Flags {
        memory: Some("lots".into()),
        nvme: Some("much".into()),
        datasets: vec!["models=/x".into(), "nope".into()],
        ..Flags::default()
    };
    let mistakes = load(BROKEN, &flags).unwrap_err();
    assert_eq!(mistakes.len(), BROKEN_MISTAKES.len(), "{mistakes:#?}");
    for (mistake, start) in mistakes.iter().zip(BROKEN_MISTAKES) {
        assert!(mistake.starts_with(start), "{mistake}\n{start}");
    }
}

#[test]
fn a_mistake_is_shown_with_its_file_and_line() {
    let scratch = Scratch::new();
    let path = scratch.write("forebay.toml", "\n\nopen = 1\n");
    let mistakes = Settings::load_in(&around(), Some(&path), &Flags::default()).unwrap_err();
    let sentence = "`open` must be true or false, without quotes, not an integer";
    assert_eq!(
        mistakes.to_string(),
        format!("{}:3: {sentence}", path.display())
    );
}

#[test]
fn an_unreadable_file_is_one_mistake() {
    let path = Scratch::new().path("gone.toml");
    let mistakes = Settings::load_in(&around(), Some(&path), &Flags::default()).unwrap_err();
    let shown = mistakes.to_string();
    assert!(
        shown.starts_with(&format!(
            "{}: the settings file cannot be read",
            path.display()
        )),
        "{shown}"
    );
    assert_eq!(mistakes.iter().count(), 1);
}

#[test]
fn what_is_plain_http_is_not_writable() {
    let writable = "[[datasets]]\nname = 'models'\norigin = 'https://host/'\nwritable = true";
    let mistake = mistake(writable);
    assert!(
        mistake.starts_with("4: `writable` can't be true for an http://"),
        "{mistake}"
    );
}

#[test]
fn a_state_store_is_one_that_writes_on_conditions() {
    for url in ["/srv/state", "https://host/state/"] {
        let mistake = mistake(&format!("[state]\nurl = '{url}'"));
        assert!(
            mistake.starts_with("2: `url` is wrong") && mistake.contains("If-None-Match"),
            "{mistake}"
        );
    }
    assert!(mistake("[state]").contains("has no `url`"));
    let odd = mistake("[state]\nurl = 's3://b/p/'\noptions = { aws_endpont = 'x' }");
    assert!(odd.contains("`aws_endpoint`"), "{odd}");
}

#[test]
fn what_is_wrong_with_a_certificate_is_told_on_the_line_that_names_it() {
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let cert = params.self_signed(&key).unwrap();
    let dir = std::env::temp_dir().join(format!("forebay-settings-tls-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let write = |name: &str, text: &str| {
        std::fs::write(dir.join(name), text).unwrap();
        dir.join(name).display().to_string()
    };
    let (cert, key) = (write("c", &cert.pem()), write("k", &key.serialize_pem()));
    let text = |cert: &str, key: &str, more: &str| {
        format!(
            "[tls]\ncert = {cert:?}\nkey = {key:?}\n{more}\n[[datasets]]\nname='abc'\norigin='/srv'"
        )
    };
    assert!(
        load(&text(&cert, &key, ""), &Flags::default())
            .unwrap()
            .tls
            .is_some()
    );
    let ca = format!("client_ca = {cert:?}");
    assert!(
        load(&text(&cert, &key, &ca), &Flags::default())
            .unwrap()
            .tls
            .unwrap()
            .client_ca
            .is_some()
    );
    for (text, said) in [
        (
            "[tls]".to_owned(),
            "1: [tls] has no `cert`: add cert = \"tls.crt\"",
        ),
        (
            text("/nonexistent/c", &key, ""),
            "2: `cert` names the file /nonexistent/c, which cannot be read",
        ),
        (text(&key, &key, ""), "2: `cert` holds no certificate"),
        (text(&cert, &cert, ""), "3: `key` holds no private key"),
        (
            text(&cert, &key, "client_ca = ''"),
            "4: `client_ca` is empty: write a file",
        ),
        (
            text(&cert, &key, &format!("client_ca = {key:?}")),
            "4: `client_ca` holds no certificate",
        ),
    ] {
        let mistakes = load(&text, &Flags::default()).unwrap_err();
        assert!(mistakes[0].contains(said), "{mistakes:?}");
    }
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn cors_takes_origins_and_nothing_else() {
    let dataset = |cors: &str| format!("[[datasets]]\nname='abc'\norigin='/srv'\ncors = {cors}");
    let good = load(
        &dataset("['*', 'https://a.example', 'http://*.b.example:81']"),
        &Flags::default(),
    )
    .unwrap();
    assert_eq!(good.datasets[0].cors.len(), 3);
    for bad in [
        "'*'",
        "[1]",
        "['a.example']",
        "['https://a.example/']",
        "['https://*.*']",
        "['https://']",
        "['']",
    ] {
        let mistake = mistake(&dataset(bad));
        assert!(mistake.starts_with("4: `cors` must "), "{bad}: {mistake}");
    }
}

#[test]
fn a_token_is_not_sent_in_clear_to_another_machine() {
    let told = |url: &str| {
        let token = "kubernetes_token = { file = '/run/token' }";
        let text = format!("[flows]\nkubernetes = '{url}'\n{token}\n");
        load(&text, &Flags::default()).err().unwrap_or_default()
    };
    for url in ["http://10.0.0.1:8080", "http://kubernetes.default.svc"] {
        let mistakes = told(url);
        let sent = |mistake: &String| mistake.contains("the token would be sent in clear");
        assert!(mistakes.iter().any(sent), "{mistakes:?}");
    }
    for url in [
        "https://10.0.0.1",
        "http://127.0.0.1:8001",
        "http://[::1]:8001",
        "http://localhost:8001",
    ] {
        assert_eq!(told(url), [""; 0], "{url}");
    }
}

#[test]
fn tables_and_lists_in_the_wrong_form_are_mistakes() {
    assert!(mistake("cache = 1").starts_with("1: `cache` must be a table, headed [cache]"));
    assert!(mistake("[datasets]\nname = 'models'").contains("head each one with [[datasets]]"));
    assert!(mistake("datasets = [1]").contains("[[datasets]] must be a table, not an integer"));
    assert!(mistake("[cahce]").contains("did you mean `cache`?"));
    assert!(
        mistake("[cache]\nopen = true").contains("it belongs at the top, above the first header")
    );
    assert!(
        mistake("memory = '1GiB'").contains("at the top of the file: it belongs under [cache]")
    );
    let mistakes = load("[[datasets]]\n", &Flags::default()).unwrap_err();
    assert_eq!(mistakes.len(), 2, "{mistakes:?}");
    assert!(
        mistakes
            .iter()
            .all(|mistake| mistake.starts_with("1: the dataset has no `"))
    );
}

#[test]
fn a_broken_file_does_not_complain_of_what_it_lost() {
    let mistake = mistake("[[datasets]]\nname = 'models'\norigin 's3://weights'\n");
    assert!(mistake.starts_with("3: this is not TOML"), "{mistake}");
}
