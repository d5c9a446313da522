//! What runs a gateway elsewhere: the service manager's notices, the units, the compose file and the settings they name.

use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use forebay_tests::cluster::{Dataset, Gateway, Setup, command};
use forebay_tests::process::{PATIENCE, Signal};
use forebay_tests::scratch::Scratch;
use forebay_tests::tools;

use crate::stage::directory;

/// The next notice that is no watchdog's.
fn notice(socket: &UnixDatagram) -> String {
    let mut bytes = [0; 512];
    loop {
        let length = socket.recv(&mut bytes).expect("a notice in time");
        let text = String::from_utf8_lossy(&bytes[..length]).into_owned();
        if text != "WATCHDOG=1\n" {
            return text;
        }
    }
}

#[test]
fn the_service_manager_hears_of_start_life_and_stop() {
    let (_files, path) = directory();
    let scratch = Scratch::new("notify");
    let socket = UnixDatagram::bind(scratch.path().join("notify")).expect("a free path");
    socket
        .set_read_timeout(Some(PATIENCE))
        .expect("a time that is not zero");
    let setup = Setup::of([Dataset::new("models", path)]);
    let config = scratch.write("forebay.toml", setup.text(scratch.path()));
    let mut command = command();
    command
        .arg("serve")
        .arg("--config")
        .arg(&config)
        .env("NOTIFY_SOCKET", scratch.path().join("notify"))
        .env("WATCHDOG_USEC", "100000");
    let gateway = Gateway::start(&mut command, scratch, Vec::new());
    assert!(notice(&socket).starts_with("READY=1\n"));
    assert_eq!(gateway.get("/-/readyz").status, 200);
    let mut bytes = [0; 512];
    let length = socket.recv(&mut bytes).expect("a beat");
    assert_eq!(&bytes[..length], b"WATCHDOG=1\n");
    gateway.process().signal(Signal::TERM);
    assert!(notice(&socket).starts_with("STOPPING=1\n"));
    gateway.ended();
}

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy")
}

fn compose() -> Value {
    let script = "import json, sys, yaml; print(json.dumps(yaml.safe_load(open(sys.argv[1]))))";
    let output = Command::new(tools::python("python"))
        .args(["-c", script])
        .arg(deploy().join("compose.yaml"))
        .output()
        .expect("python starts");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    serde_json::from_slice(&output.stdout).expect("JSON of json.dumps")
}

#[test]
fn the_compose_file_is_a_fleet_of_three_and_names_what_is_there() {
    let compose = compose();
    let services = compose["services"].as_object().expect("services");
    assert_eq!(services.len(), 3);
    for (name, service) in services {
        assert_eq!(service["hostname"], name.as_str());
        assert_eq!(service["configs"][0]["source"], "settings");
        assert_eq!(service["secrets"][0], "fleet");
        let volume = service["volumes"][0].as_str().expect("a volume");
        let (volume, mounted) = volume.split_once(':').expect("NAME:PATH");
        assert!(compose["volumes"].get(volume).is_some(), "{volume}");
        assert_eq!(mounted, "/var/lib/forebay");
        // Nobody authenticates clients here, so nobody from outside may come.
        let port = service["ports"][0].as_str().expect("a port");
        assert!(
            port.starts_with("127.0.0.1:") && port.ends_with(":7070"),
            "{port}"
        );
        let alias = &service["networks"]["default"]["aliases"][0];
        assert_eq!(alias, "forebay");
        let build = &service["build"];
        let context = deploy().join(build["context"].as_str().expect("a context"));
        let file = build["dockerfile"].as_str().expect("a dockerfile");
        assert!(context.join(file).is_file(), "{file}");
    }
    let settings = compose["configs"]["settings"]["file"].as_str();
    let settings = std::fs::read_to_string(deploy().join(settings.expect("a file")));
    let settings = settings.expect("the settings are there");
    assert!(settings.contains("\"dns:forebay:7071\""), "{settings}");
    assert!(settings.contains("/run/secrets/fleet"), "{settings}");
    let secret = compose["secrets"]["fleet"]["file"].as_str();
    assert_eq!(secret, Some("compose/fleet.key"));
    let ignored = std::fs::read_to_string(deploy().join("compose/.gitignore"));
    assert!(
        ignored
            .expect("a list")
            .lines()
            .any(|line| line == "/fleet.key"),
        "a key that is in the repository is nobody's secret"
    );
}

#[test]
fn systemd_takes_the_units_without_a_word() {
    let place = Scratch::new("units");
    let gateway = tools::forebay();
    for (unit, name) in [
        ("forebay.service", "forebay.service"),
        ("forebay@.service", "forebay@.service"),
        ("forebay@.service", "forebay@0.service"),
        ("forebay-fleet.target", "forebay-fleet.target"),
    ] {
        let text = std::fs::read_to_string(deploy().join("systemd").join(unit));
        let text = text.expect("the unit is there");
        // The program that is verified to be there is the one built here.
        let text = text.replace("/usr/local/bin/forebay", &gateway.display().to_string());
        assert!(unit.ends_with("target") || text.contains("Type=notify\n"));
        place.write(name, text);
    }
    let output = Command::new("systemd-analyze")
        .arg("verify")
        .args(
            [
                "forebay.service",
                "forebay@0.service",
                "forebay-fleet.target",
            ]
            .map(|name| place.path().join(name)),
        )
        .output()
        .expect("systemd-analyze: tests/run installs it");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && told.is_empty(), "{told}");
}
