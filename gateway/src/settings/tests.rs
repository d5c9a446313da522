//! Claims about whole settings: files and flags in, settings or mistakes out.

#![allow(clippy::unwrap_used)]

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::machine::Memory;
use super::*;

/// A directory of its own for one test, removed at its end.
pub(super) struct Scratch(PathBuf);

impl Scratch {
    pub(super) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path =
            std::env::temp_dir().join(format!("forebay-settings-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub(super) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn env(name: &str) -> Option<OsString> {
    match name {
        "HOME" => Some("/home/me".into()),
        "ORIGIN_SECRET" => Some("from-env".into()),
        _ => None,
    }
}

fn around() -> Surroundings<'static> {
    let memory = Memory {
        machine: Some(16 << 30),
        cgroup: None,
    };
    Surroundings {
        env: &env,
        root: false,
        memory,
        open_files: None,
        room: &room,
        unusable: &|_| None,
    }
}

fn room(_: &std::path::Path) -> Option<nvme::Room> {
    Some(nvme::Room {
        free: 1 << 40,
        ours: 0,
    })
}

/// The settings of a file of this text, or its mistakes, each with the file's path cut off.
pub(super) fn load(text: &str, flags: &Flags) -> Result<Settings, Vec<String>> {
    load_in(&around(), text, flags)
}

fn load_in(around: &Surroundings<'_>, text: &str, flags: &Flags) -> Result<Settings, Vec<String>> {
    let scratch = Scratch::new();
    let path = scratch.write("forebay.toml", text);
    let shown = format!("{}:", path.display());
    Settings::load_in(around, Some(&path), flags).map_err(|mistakes| {
        mistakes
            .iter()
            .map(|mistake| mistake.replace(&shown, ""))
            .collect()
    })
}

/// The file's only mistake.
pub(super) fn mistake(text: &str) -> String {
    let mistakes = load(text, &Flags::default()).unwrap_err();
    assert_eq!(mistakes.len(), 1, "{mistakes:#?}");
    mistakes.into_iter().next().unwrap()
}

fn datasets(arguments: &[&str]) -> Flags {
    Flags {
        datasets: arguments.iter().map(ToString::to_string).collect(),
        ..Flags::default()
    }
}

#[test]
fn nothing_said_is_the_demo_on_loopback() {
    let settings = Settings::load_in(&around(), None, &Flags::default()).unwrap();
    assert_eq!(
        settings,
        Settings {
            listen: "127.0.0.1:7070".parse().unwrap(),
            open: false,
            access: vec![],
            domain: None,
            hosts: vec![],
            data_dir: "/home/me/.local/state/forebay".into(),
            admin_listen: None,
            stop_after: Duration::from_secs(10),
            cache: CacheSettings {
                memory: 4 << 30,
                block_size: 1 << 20,
                nvme: None,
            },
            log: LogSettings {
                level: tracing::Level::INFO,
                format: LogFormat::Text,
                access: true
            },
            tls: None,
            limits: Limits {
                max_requests: 10_000,
                max_connections: 16_384,
                per_address: 0,
                header_timeout: Duration::from_secs(10),
                idle_timeout: Duration::from_secs(60),
                write_timeout: Duration::from_secs(300),
            },
            datasets: vec![],
            fleet: None,
            demo: true,
            config: None,
            secret_files: vec![],
            state: None,
            flows: FlowSettings::default(),
            schedules: vec![],
            warnings: vec![],
        }
    );
}

#[test]
fn every_setting_of_the_gateway_is_followed() {
    let text = r#"
listen = "0.0.0.0:80"
data_dir = "/data"
open = true
admin_listen = "[::1]:7072"
stop_after = "0s"
[cache]
memory = 1_073_741_824
nvme = "0"
block_size = "256KiB"
[log]
level = "debug"
format = "json"
access = false
[limits]
max_requests = 1
max_connections = 0x10
per_address = 7
header_timeout = "250ms"
idle_timeout = "5m"
write_timeout = "1h"
[[datasets]]
name = "frozen"
origin = "/srv"
"#;
    let settings = load(text, &Flags::default()).unwrap();
    assert_eq!(settings.listen, "0.0.0.0:80".parse().unwrap());
    assert!(settings.open && !settings.demo);
    assert_eq!(settings.data_dir, PathBuf::from("/data"));
    assert_eq!(settings.admin_listen, Some("[::1]:7072".parse().unwrap()));
    assert_eq!(settings.stop_after, Duration::ZERO);
    assert_eq!(
        settings.cache,
        CacheSettings {
            memory: 1 << 30,
            block_size: 256 << 10,
            nvme: None,
        }
    );
    assert_eq!(
        settings.log,
        LogSettings {
            level: tracing::Level::DEBUG,
            format: LogFormat::Json,
            access: false
        }
    );
    let limits = &settings.limits;
    assert_eq!((limits.max_requests, limits.max_connections), (1, 16));
    assert_eq!(limits.per_address, 7);
    assert_eq!(
        (
            limits.header_timeout,
            limits.idle_timeout,
            limits.write_timeout
        ),
        (
            Duration::from_millis(250),
            Duration::from_secs(300),
            Duration::from_secs(3600)
        )
    );
}

#[test]
fn every_setting_of_a_dataset_is_followed() {
    let scratch = Scratch::new();
    let secret = scratch.write("secret", "from-file\n\n");
    let text = format!(
        r#"
[[datasets]]
name = "models"
origin = "s3://weights/prod"
options.aws_endpoint = "http://10.0.0.5:9000"
options.aws_secret_access_key = {{ file = "{}" }}
options.aws_token = {{ env = "ORIGIN_SECRET" }}
fresh_for = "5m"
stale_for = "0s"
origin_connections = 8
[[datasets]]
name = "frozen"
origin = "/srv"
immutable = true
"#,
        secret.display()
    );
    let settings = load(&text, &Flags::default()).unwrap();
    let [models, frozen] = settings.datasets.as_slice() else {
        panic!("{settings:?}")
    };
    assert_eq!(
        models.origin,
        OriginUrl::S3 {
            bucket: "weights".into(),
            prefix: "prod/".into()
        }
    );
    let options: Vec<_> = models
        .options
        .iter()
        .map(|(key, value)| (key.as_str(), value.expose()))
        .collect();
    assert_eq!(
        options,
        [
            ("aws_endpoint", "http://10.0.0.5:9000"),
            ("aws_secret_access_key", "from-file\n"),
            ("aws_token", "from-env"),
        ]
    );
    assert_eq!(
        (models.fresh_for, models.stale_for),
        (Duration::from_secs(300), Duration::ZERO)
    );
    assert_eq!((models.immutable, models.origin_connections), (false, 8));
    assert_eq!(
        (
            frozen.name.as_str(),
            frozen.immutable,
            frozen.origin_connections
        ),
        ("frozen", true, 64)
    );
    assert_eq!(frozen.stale_for, Duration::from_secs(3600));
    assert!(
        !format!("{settings:?}").contains("from-"),
        "a secret is shown"
    );
}

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

#[test]
fn options_refer_to_one_file_or_one_variable() {
    for value in [
        "{}",
        "{ file = 'a', env = 'b' }",
        "{ path = 'a' }",
        "{ env = 1 }",
    ] {
        let text = format!(
            "[[datasets]]\nname = 'models'\norigin = 's3://w'\noptions.aws_region = {value}"
        );
        assert!(
            mistake(&text).starts_with("4: the option `aws_region` must be a string, or a table"),
            "{value}"
        );
    }
    let text =
        "[[datasets]]\nname = 'models'\norigin = '/srv'\n[datasets.options]\naws_region = 'a'";
    assert!(mistake(text).starts_with("5: a directory takes no options"));
}

#[test]
fn nvme_is_below_the_data_directory_or_where_it_is_told() {
    let text = "data_dir = '/data'\n[cache]\nnvme = '200GiB'\n\
                [[datasets]]\nname = 'one'\norigin = '/srv'";
    let nvme = |text: &str| load(text, &Flags::default()).unwrap().cache.nvme;
    let expected = |dir: &str| NvmeSettings {
        bytes: 200 << 30,
        dir: dir.into(),
    };
    assert_eq!(nvme(text), Some(expected("/data/nvme")));
    let told = text.replace("[cache]", "[cache]\nnvme_dir = '/mnt/disk'");
    assert_eq!(nvme(&told), Some(expected("/mnt/disk")));
    assert_eq!(nvme(&text.replace("200GiB", "0")), None);
}

#[test]
fn nvme_that_can_not_be_is_refused_with_the_arithmetic() {
    let size = |size: &str| mistake(&format!("[cache]\nmemory = '8GiB'\nnvme = '{size}'"));
    assert_eq!(
        size("2TiB"),
        "3: `nvme` is 2 TiB, and /home/me/.local/state/forebay/nvme has room for 1 TiB: 1 TiB are \
         free and 0 bytes are block files already; write less, or name another disk in `nvme_dir`"
    );
    assert!(size("10MiB").starts_with("3: `nvme` is 10 MiB: write at least 25."));
    let little = mistake("[cache]\nmemory = '64MiB'\nnvme = '900GiB'");
    assert!(
        little.contains("more than half of `memory`, 64 MiB"),
        "{little}"
    );
}

#[test]
fn flags_win_over_the_file() {
    let text = "listen = '0.0.0.0:80'\ndata_dir = '/a'\n[cache]\nmemory = '1GiB'\n\
                [[datasets]]\nname = 'one'\norigin = '/srv'";
    let flags = Flags {
        listen: Some("127.0.0.1:0".into()),
        data_dir: Some("/b".into()),
        memory: Some("2GiB".into()),
        nvme: Some("0".into()),
        datasets: vec!["two=s3://weights/a=b".into()],
    };
    let settings = load(text, &flags).unwrap();
    assert_eq!(settings.listen, "127.0.0.1:0".parse().unwrap());
    assert_eq!(settings.data_dir, PathBuf::from("/b"));
    assert_eq!(settings.cache.memory, 2 << 30);
    let names: Vec<_> = settings
        .datasets
        .iter()
        .map(|dataset| dataset.name.as_str())
        .collect();
    assert_eq!(names, ["one", "two"]);
    assert_eq!(settings.datasets[1].origin.to_string(), "s3://weights/a=b");
}

#[test]
fn datasets_of_the_command_line_need_no_file() {
    let settings = Settings::load_in(&around(), None, &datasets(&["models=/srv"])).unwrap();
    assert!(!settings.demo);
    assert_eq!(settings.datasets.len(), 1);
    let mistakes =
        Settings::load_in(&around(), None, &datasets(&["models=/a", "models=/b"])).unwrap_err();
    assert_eq!(
        mistakes.to_string(),
        "models=ORIGIN: the dataset `models` stands in another NAME=ORIGIN already: \
         rename one of them"
    );
    let mistakes = Settings::load_in(
        &around(),
        None,
        &datasets(&["m=/a", "models=s3://me:hunter2@b"]),
    )
    .unwrap_err();
    assert_eq!(mistakes.iter().count(), 2);
    assert!(!mistakes.to_string().contains("hunter2"));
}

#[test]
fn only_loopback_needs_no_open() {
    for address in [
        "127.0.0.1:1",
        "127.8.8.8:1",
        "[::1]:1",
        "[::ffff:127.0.0.1]:1",
    ] {
        let flags = Flags {
            listen: Some(address.into()),
            ..Flags::default()
        };
        assert!(
            Settings::load_in(&around(), None, &flags).is_ok(),
            "{address}"
        );
    }
    for address in ["0.0.0.0:1", "10.0.0.7:1", "[::]:1", "[::ffff:10.0.0.7]:1"] {
        let flags = Flags {
            listen: Some(address.into()),
            ..Flags::default()
        };
        let mistakes = Settings::load_in(&around(), None, &flags)
            .unwrap_err()
            .to_string();
        assert!(
            mistakes.starts_with("--listen: the address is reachable from other machines"),
            "{mistakes}"
        );
        assert!(
            mistake(&format!("admin_listen = '{address}'"))
                .starts_with("1: `admin_listen` is reachable")
        );
        assert!(
            load(
                &format!("listen = '{address}'\nopen = true"),
                &Flags::default()
            )
            .is_ok()
        );
    }
    assert!(mistake("admin_listen = '127.0.0.1:7070'").contains("is the address of `listen`"));
    assert!(
        load(
            "listen = '127.0.0.1:0'\nadmin_listen = '127.0.0.1:0'",
            &Flags::default()
        )
        .is_ok()
    );
    assert!(mistake("listen = 'localhost:7070'").contains("must be an IP address with a port"));
}

#[test]
fn memory_that_cannot_work_is_refused_with_the_arithmetic() {
    assert!(mistake("[cache]\nmemory = '63MiB'").starts_with("2: `memory` is 63 MiB: 70 % of it"));
    assert!(load("[cache]\nmemory = '64MiB'", &Flags::default()).is_ok());
    let few = mistake("[cache]\nmemory = '64MiB'\nblock_size = '4MiB'");
    assert!(
        few.starts_with(
            "2: `memory` of 64 MiB holds 16 blocks of 4 MiB, and at least 32 are needed"
        ),
        "{few}"
    );
    let small = Surroundings {
        memory: Memory {
            machine: Some(200 << 20),
            cgroup: None,
        },
        ..around()
    };
    let few = load_in(&small, "[cache]\nblock_size = '4MiB'", &Flags::default()).unwrap_err();
    assert!(
        few[0].starts_with("2: `memory` of 64 MiB holds 16 blocks"),
        "{few:?}"
    );
}

#[test]
fn memory_beyond_80_percent_of_the_group_is_a_warning() {
    let pod = Surroundings {
        memory: Memory {
            machine: Some(16 << 30),
            cgroup: Some(1000 << 20),
        },
        ..around()
    };
    let text =
        |size| format!("[cache]\nmemory = '{size}'\n[[datasets]]\nname = 'one'\norigin = '/srv'");
    assert_eq!(
        load_in(&pod, &text("800MiB"), &Flags::default())
            .unwrap()
            .warnings,
        Vec::<String>::new()
    );
    let warnings = load_in(&pod, &text("801MiB"), &Flags::default())
        .unwrap()
        .warnings;
    assert_eq!(warnings.len(), 1);
    assert!(
        warnings[0].starts_with("`memory` is 801 MiB, more than 80 % of the 1000 MiB"),
        "{warnings:?}"
    );
    assert_eq!(
        load_in(&pod, "", &Flags::default()).unwrap().cache.memory,
        250 << 20
    );
}

#[test]
fn connections_are_lowered_to_the_open_files_with_a_warning() {
    let few = Surroundings {
        open_files: Some(1024),
        ..around()
    };
    let flags = datasets(&["one=/srv", "two=/srv"]);
    let settings = Settings::load_in(&few, None, &flags).unwrap();
    assert_eq!(settings.limits.max_connections, 1024 - 128 - 2 * 64);
    assert!(
        settings.warnings[0].starts_with("`max_connections` is lowered from 16384 to 768"),
        "{settings:?}"
    );
    let tiny = Surroundings {
        open_files: Some(64),
        ..around()
    };
    assert_eq!(
        Settings::load_in(&tiny, None, &flags)
            .unwrap()
            .limits
            .max_connections,
        32
    );
    let many = Surroundings {
        open_files: Some(20_000),
        ..around()
    };
    assert_eq!(
        Settings::load_in(&many, None, &flags).unwrap().warnings,
        Vec::<String>::new()
    );
}

#[test]
fn block_files_are_open_files_too() {
    let limited = |limit| Surroundings {
        open_files: Some(limit),
        ..around()
    };
    let text = "[cache]\nmemory = '8GiB'\nnvme = '2GiB'";
    let blocks = forebay_storage::nvme::geometry::Geometry::new(
        2 << 30,
        forebay_storage::block::BlockSize::new(1 << 20),
    )
    .unwrap()
    .segments;
    let least = blocks + 128 + 128;
    let settings = load_in(&limited(least), text, &datasets(&["one=/srv"])).unwrap();
    assert_eq!(settings.limits.max_connections, 64, "half of what is left");
    let few = load_in(&limited(least - 1), text, &Flags::default()).unwrap_err();
    assert_eq!(few.len(), 1, "{few:?}");
    assert!(
        few[0].starts_with(&format!(
            "3: `nvme` of 2 GiB keeps {blocks} block files open"
        )) && few[0].contains(&format!("to {least} at least")),
        "{few:?}"
    );
}

#[test]
fn nvme_dir_must_take_files_and_have_a_tier_to_be_for() {
    let refusing = Surroundings {
        unusable: &|dir| Some(format!("{} is not a directory", dir.display())),
        ..around()
    };
    let told = "[cache]\nnvme = '1GiB'\nnvme_dir = '/mnt/file'";
    let mistakes = |text| load_in(&refusing, text, &Flags::default()).unwrap_err();
    assert_eq!(
        mistakes(told),
        [
            "3: `nvme` has no place for its files: /mnt/file is not a directory; name a directory \
          that this process may make or write to in `nvme_dir`"
        ]
    );
    assert!(mistakes("[cache]\nnvme = '1GiB'")[0].starts_with("2: `nvme` has no place"));
    let alone = load("[cache]\nnvme_dir = '/mnt/disk'", &datasets(&["one=/srv"])).unwrap();
    assert!(
        alone.warnings[0].starts_with("`nvme_dir` is /mnt/disk, but nothing is written there"),
        "{:?}",
        alone.warnings
    );
}

#[test]
fn the_data_directory_follows_the_user() {
    let dir = |around: Surroundings<'_>| {
        Settings::load_in(&around, None, &Flags::default()).map(|s| s.data_dir)
    };
    assert_eq!(
        dir(Surroundings {
            root: true,
            ..around()
        }),
        Ok("/var/lib/forebay".into())
    );
    let state = |name: &str| (name == "XDG_STATE_HOME").then(|| "/state".into());
    assert_eq!(
        dir(Surroundings {
            env: &state,
            ..around()
        }),
        Ok("/state/forebay".into())
    );
    let relative = |name: &str| Some(if name == "HOME" { "/h" } else { "state" }.into());
    assert_eq!(
        dir(Surroundings {
            env: &relative,
            ..around()
        }),
        Ok("/h/.local/state/forebay".into())
    );
    let homeless = dir(Surroundings {
        env: &|_| None,
        ..around()
    })
    .unwrap_err();
    assert!(
        homeless
            .to_string()
            .starts_with("--data-dir: $HOME is not set"),
        "{homeless}"
    );
}

#[test]
fn a_file_without_datasets_serves_nothing_and_says_so() {
    let settings = load("", &Flags::default()).unwrap();
    assert!(!settings.demo && settings.datasets.is_empty());
    assert!(settings.warnings[0].starts_with("no dataset is set"));
}

#[test]
fn loading_again_sees_the_file_as_it_is_now() {
    let scratch = Scratch::new();
    let path = scratch.write("forebay.toml", "stop_after = '1s'");
    let stop_after =
        || Settings::load_in(&around(), Some(&path), &Flags::default()).map(|s| s.stop_after);
    assert_eq!(stop_after(), Ok(Duration::from_secs(1)));
    scratch.write("forebay.toml", "stop_after = '2s'");
    assert_eq!(stop_after(), Ok(Duration::from_secs(2)));
}

/// A fleet's settings, with a line more.
fn fleet(line: &str) -> String {
    format!("[fleet]\nname = 'f'\nkey = 'sixteen bytes, k'\nlisten = '10.0.0.7:7071'\n{line}\n")
}

#[test]
fn a_fleet_has_its_defaults() {
    let settings = load(&fleet(""), &Flags::default()).unwrap();
    let found = settings.fleet.unwrap();
    assert_eq!((found.member, found.edge, found.weight), (None, false, 1));
    assert_eq!(found.advertise, found.listen);
    assert_eq!((found.client_url, found.zone), (None, String::new()));
    assert!(found.seeds.is_empty() && found.key_next.is_none());
    assert!(load("", &Flags::default()).unwrap().fleet.is_none());
}

#[test]
fn a_fleet_advertises_what_it_is_told_with_the_port_it_listens_on() {
    for (line, advertise) in [
        ("advertise = '10.0.0.8'", "10.0.0.8:7071"),
        ("advertise = '10.0.0.8:1'", "10.0.0.8:1"),
        ("advertise = '[fd00::1]:2'", "[fd00::1]:2"),
    ] {
        let settings = load(&fleet(line), &Flags::default()).unwrap();
        assert_eq!(settings.fleet.unwrap().advertise.to_string(), advertise);
    }
}

#[test]
fn every_mistake_of_a_fleet_is_told() {
    for (line, part) in [
        ("member = ''", "`member` is empty"),
        ("role = 'owner'", "`role` must be"),
        ("weight = 0", "`weight` must be"),
        ("weight = 101", "from 1 to 100"),
        ("role = 'edge'\nweight = 2", "`weight` says nothing"),
        (
            "role = 'edge'\n[cache]\nnvme = '1GiB'",
            "an edge keeps copies, in memory alone",
        ),
        (
            "key_next = 'sixteen bytes, k'",
            "`key_next` is the `key` itself",
        ),
        ("key_next = 'short'", "`key_next` has 5 bytes"),
        ("advertise = '0.0.0.0'", "`advertise` names no address"),
        ("advertise = 'gw'", "`advertise` must be an IP address"),
        ("client_url = 'gw:7070'", "`client_url` must be http://"),
        (
            "client_url = 'http://u:p@gw'",
            "`client_url` must be http://",
        ),
        ("seeds = 'a:1'", "`seeds` must be a list"),
        ("seeds = ['a']", "a seed must be HOST:PORT"),
        ("seeds = ['dns:a']", "a seed must be HOST:PORT"),
        ("seeds = ['a:0']", "a seed must be HOST:PORT"),
        ("tls = 'yes'", "`tls` must be true or false"),
        ("seed = []", "did you mean `seeds`?"),
    ] {
        let mistake = mistake(&fleet(line));
        assert!(mistake.contains(part), "{line}: {mistake}");
    }
    let nothing = load("[fleet]", &Flags::default()).unwrap_err();
    assert_eq!(nothing.len(), 3, "{nothing:?}");
}
