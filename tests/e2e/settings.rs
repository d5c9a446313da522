//! The settings file, arguments, `check`, help, and where secrets come from.

use std::net::TcpStream;
use std::process::Output;

use forebay_tests::cluster::{Dataset, Gateway, SECRET, Setup, command};
use forebay_tests::oracle::{self, assert_bytes};
use forebay_tests::scratch::Scratch;
use forebay_tests::servers;
use forebay_tests::servers::moto::Moto;

use crate::stage::directory;

fn said(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

#[test]
fn all_mistakes_of_a_file_are_reported_with_their_lines_before_a_port_opens() {
    let address = servers::free_address();
    let scratch = Scratch::new("mistakes");
    let lines = [
        format!("listen = \"{address}\""),
        format!("data_dir = {:?}", scratch.path().join("data")),
        "colour = \"blue\"".to_owned(),     // 3: unknown key
        "stop_after = \"soon\"".to_owned(), // 4: not a time
        "[cache]".to_owned(),
        "memory = \"much\"".to_owned(),     // 6: not a size
        "block_size = \"3MiB\"".to_owned(), // 7: not a power of two
        "[[datasets]]".to_owned(),
        "name = \"Bad_Name\"".to_owned(), // 9: not a bucket's name
        "origin = \"gopher://x/\"".to_owned(), // 10: no such scheme
        "[tls]".to_owned(),               // 11: not in this version
        "cert = \"tls.crt\"".to_owned(),
    ];
    let config = scratch.write("forebay.toml", lines.join("\n"));
    for verb in ["serve", "check"] {
        let output = command()
            .arg(verb)
            .arg("--config")
            .arg(&config)
            .output()
            .expect("forebay runs");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        for line in [3, 4, 6, 7, 9, 10, 11] {
            assert!(
                text.contains(&format!("forebay.toml:{line}:")),
                "line {line} is missing: {text}"
            );
        }
        if verb == "serve" {
            assert_eq!(output.status.code(), Some(2), "{text}");
            assert!(output.stdout.is_empty(), "{}", said(&output));
        } else {
            assert!(!output.status.success());
        }
    }
    assert!(TcpStream::connect(address).is_err(), "the port was opened");
    assert!(
        !scratch.path().join("data").exists(),
        "the data directory was made"
    );
}

#[test]
fn mistakes_in_arguments_end_with_2_too() {
    let (_files, path) = directory();
    let scratch = Scratch::new("arguments");
    let missing = scratch.path().join("missing.toml");
    let table: [&[&str]; 7] = [
        &["serve", "--memory", "much"],
        &["serve", "--listen", "nowhere"],
        &["serve", "--nope"],
        &["serve", "models"],
        &["serve", &format!("a-b={path}"), &format!("a-b={path}")],
        &["serve", "--config", missing.to_str().expect("UTF-8")],
        &["serve", "--listen", "0.0.0.0:0", &format!("models={path}")],
    ];
    for arguments in table {
        let mut command = command();
        command
            .args(arguments)
            .env("XDG_STATE_HOME", scratch.path());
        let output = command.output().expect("forebay runs");
        assert_eq!(
            output.status.code(),
            Some(2),
            "{arguments:?}: {}",
            said(&output)
        );
        assert!(
            !output.stderr.is_empty() && output.stdout.is_empty(),
            "{arguments:?}: {}",
            said(&output)
        );
    }
}

#[test]
fn help_and_version_are_there() {
    let version = command().arg("--version").output().expect("forebay runs");
    let text = String::from_utf8_lossy(&version.stdout).into_owned();
    assert!(
        version.status.success() && text.starts_with("forebay "),
        "{text}"
    );
    let help = command().arg("--help").output().expect("forebay runs");
    let text = String::from_utf8_lossy(&help.stdout).into_owned();
    for word in ["serve", "check", "purge", "status"] {
        assert!(
            help.status.success() && text.contains(word),
            "{word} is missing: {text}"
        );
    }
}

#[test]
fn check_says_what_holds_and_what_does_not() {
    let origin = Moto::start();
    origin.bucket("weights");
    let (good, text) = checked(&Setup::of([origin.dataset("models", "weights")]));
    assert!(good && text.contains("models"), "{text}");
    assert!(!text.contains(SECRET), "{text}");

    let nobody = servers::free_address();
    let dead = Dataset::new("dead", format!("http://{nobody}/weights/"));
    let (good, text) = checked(&Setup::of([origin.dataset("models", "weights"), dead]));
    assert!(!good && text.contains("dead"), "{text}");
    assert!(!text.contains(SECRET), "{text}");
}

/// What `check` says of these settings, standard error behind standard output.
fn checked(setup: &Setup) -> (bool, String) {
    let scratch = Scratch::new("checked");
    let config = scratch.write("forebay.toml", setup.text(scratch.path()));
    let output = command()
        .arg("check")
        .arg("--config")
        .arg(config)
        .output()
        .expect("forebay runs");
    (output.status.success(), said(&output))
}

#[test]
fn check_judges_where_the_block_files_go() {
    let (files, path) = directory();
    let setup = || Setup::of([Dataset::new("models", path.clone())]);
    let dir = format!("nvme_dir = {:?}", files.path().join("a.bin"));
    let (holds, text) = checked(&setup().cache("nvme = \"128MiB\"").cache(&dir));
    assert!(
        !holds && text.contains("a.bin is not a directory"),
        "{text}"
    );
    let (holds, text) = checked(&setup().cache(&dir));
    assert!(holds && text.contains("nothing is written there"), "{text}");
}

#[test]
fn check_counts_what_connections_and_streams_may_take() {
    let (_files, path) = directory();
    let setup = |limits: &str| {
        let models = Dataset::new("models", path.clone());
        Setup::of([models])
            .cache("memory = \"64MiB\"")
            .section(&format!("[limits]\n{limits}"))
    };
    let (holds, few) = checked(&setup("max_connections = 100\nmax_requests = 100"));
    assert!(holds && few.contains("give the process 140.7 MiB"), "{few}");
    assert!(!few.contains("come at once, it is"), "{few}");
    let (holds, many) = checked(&setup("max_connections = 3000"));
    assert!(holds && many.contains("come at once, it is"), "{many}");
}

#[test]
fn check_ends_quietly_where_nobody_reads() {
    let (_files, path) = directory();
    let scratch = Scratch::new("checked");
    let setup = Setup::of([Dataset::new("models", path)]);
    let config = scratch.write("forebay.toml", setup.text(scratch.path()));
    let (read, write) = std::io::pipe().expect("a pipe");
    drop(read);
    let output = command()
        .arg("check")
        .arg("--config")
        .arg(config)
        .stdout(write)
        .output()
        .expect("forebay runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
}

#[test]
fn arguments_alone_make_a_gateway() {
    let (_files, path) = directory();
    let scratch = Scratch::new("arguments");
    let data = scratch.path().join("data");
    let mut command = command();
    command
        .args([
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--memory",
            "64MiB",
            "--data-dir",
        ])
        .arg(data);
    command
        .arg(format!("models={path}"))
        .arg(format!("more={path}"));
    let gateway = Gateway::start(&mut command, scratch, Vec::new());
    for dataset in ["models", "more"] {
        let answer = gateway.get(&format!("/{dataset}/a.bin")).expect(200);
        assert_bytes(dataset, &answer.body, &oracle::bytes("a.bin", 1, 5000));
    }
    let out = gateway.process().stdout();
    assert_eq!(
        out.lines().count(),
        1,
        "standard output carries one line: {out}"
    );
}

#[test]
fn arguments_win_over_the_file_and_add_to_it() {
    let (_files, path) = directory();
    let scratch = Scratch::new("both");
    let text = Setup::of([Dataset::new("models", path.clone())]).text(scratch.path());
    let config = scratch.write("forebay.toml", text.replace("127.0.0.1:0", "127.0.0.1:1"));
    let mut command = command();
    command
        .arg("serve")
        .arg("--config")
        .arg(config)
        .args(["--listen", "127.0.0.1:0"])
        .arg(format!("more={path}"));
    let gateway = Gateway::start(&mut command, scratch, Vec::new());
    let _ = gateway.get("/models/a.bin").expect(200);
    let _ = gateway.get("/more/a.bin").expect(200);
}

#[test]
fn secrets_come_from_files_and_the_environment_and_go_nowhere() {
    let origin = servers::s3s::S3s::start(env!("CARGO_BIN_EXE_s3-origin"));
    origin.put(
        "weights",
        &[servers::Object {
            key: "a.bin".into(),
            bytes: b"abc".to_vec(),
        }],
    );
    let scratch = Scratch::new("secrets");
    // A final newline is the editor's, not the secret's.
    let secret = scratch.write("secret", format!("{SECRET}\n"));
    let text = Setup::of([origin.dataset("models", "weights", "PLACE")]).text(scratch.path());
    let from_file = text.replace(
        "\"PLACE\"",
        &format!("{{ file = {:?} }}", secret.to_str().expect("UTF-8")),
    );
    let config = scratch.write("forebay.toml", from_file);
    let gateway = Gateway::start(
        command().arg("serve").arg("--config").arg(config),
        scratch,
        Vec::new(),
    );
    assert_eq!(gateway.get("/models/a.bin").expect(200).body, b"abc");
    for target in ["/-/metrics", "/-/datasets", "/-/datasets?list=true"] {
        assert!(
            !gateway.get(target).expect(200).text().contains(SECRET),
            "{target}"
        );
    }
    let scratch = Scratch::new("secrets");
    let from_env = text
        .replace("\"PLACE\"", "{ env = \"TEST_ORIGIN_SECRET\" }")
        .replace(
            text.lines().nth(1).expect("the data directory's line"),
            &format!("data_dir = {:?}", scratch.path().join("data")),
        );
    let config = scratch.write("forebay.toml", from_env);
    let mut command = command();
    command
        .arg("serve")
        .arg("--config")
        .arg(config)
        .env("TEST_ORIGIN_SECRET", SECRET);
    let gateway = Gateway::start(&mut command, scratch, Vec::new());
    assert_eq!(gateway.get("/models/a.bin").expect(200).body, b"abc");
}
