//! Claims about whole settings: files and flags in, settings or mistakes out.

#![allow(clippy::unwrap_used)]

mod fleet;
mod machine;
mod mistakes;

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
