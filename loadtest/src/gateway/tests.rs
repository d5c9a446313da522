//! The process handle against a stand-in: a shell script that prints what a gateway prints.

use std::os::unix::fs::PermissionsExt;

use super::*;

/// A program that runs these lines of shell; in a directory of its own that lives as long as the test.
fn stand_in(script: &str) -> (PathBuf, Launch) {
    let directory = fresh_directory().expect("a directory");
    let program = directory.join("forebay");
    fs::write(&program, format!("#!/bin/sh\n{script}\n")).expect("write script");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("make it executable");
    (
        directory,
        Launch {
            program: Some(program),
            settings: Some("x = 1\n".to_owned()),
            ..Launch::default()
        },
    )
}

#[tokio::test]
async fn a_gateway_is_ready_at_its_line_and_stops_at_sigterm() {
    let (directory, launch) = stand_in(
        "trap 'exit 0' TERM\ntest \"$1\" = serve && test \"$2\" = --config || exit 9\n\
         echo listening on http://127.0.0.1:12345\necho curl something\nwhile :; do sleep 0.02; done",
    );
    let gateway = Gateway::start(&launch).await.expect("ready");
    assert_eq!(gateway.dataset("models"), "http://127.0.0.1:12345/models");
    let own = gateway.directory.clone();
    assert!(own.join("forebay.toml").is_file());
    assert!(gateway.peak_memory().is_some_and(|bytes| bytes > 0));
    let status = gateway.stop().await.expect("stopped");
    assert_eq!(status.code(), Some(0));
    assert!(!own.exists());
    fs::remove_dir_all(directory).expect("clean up");
}

#[tokio::test]
async fn a_gateway_that_fails_shows_its_standard_error() {
    let (directory, launch) = stand_in("echo 'unknown key x' >&2\nexit 2");
    let error = Gateway::start(&launch).await.expect_err("it ends");
    assert!(format!("{error:#}").contains("unknown key x"), "{error:#}");
    fs::remove_dir_all(directory).expect("clean up");
}

#[tokio::test]
async fn dropping_a_gateway_ends_even_one_that_ignores_sigterm() {
    let (directory, launch) = stand_in(
        "trap '' TERM\necho listening on http://127.0.0.1:1\nwhile :; do sleep 0.02; done",
    );
    let gateway = Gateway::start(&launch).await.expect("ready");
    let (pid, own) = (gateway.pid(), gateway.directory.clone());
    drop(gateway);
    assert!(!own.exists());
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
    fs::remove_dir_all(directory).expect("clean up");
}
