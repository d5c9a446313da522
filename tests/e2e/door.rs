//! Who may do what: signatures, secrets, lists of datasets; and what changes while the gateway runs.

mod ours;

use std::process::Command;
use std::time::Duration;

use forebay_tests::cluster::{Dataset, Gateway, Setup, command};
use forebay_tests::http::{Answer, Connection};
use forebay_tests::oracle::{self, assert_bytes};
use forebay_tests::scratch::Scratch;
use forebay_tests::servers::moto::Moto;
use forebay_tests::{tools, until};

use crate::stage::{assert_sentence, directory, rewrite};

/// Access keys as the settings have them; every secret holds the word `hidden`.
const LOADER: &str = "[[access]]\naccess_key_id = \"LOADER\"\n\
                      secret_access_key = \"loader-secret/+= hidden\"\ndatasets = [\"models\"]";
const ADMIN: &str = "[[access]]\naccess_key_id = \"ADMIN\"\n\
                     secret_access_key = \"admin-secret-hidden\"\nadmin = true";

const AS_LOADER: (&str, &str) = ("Authorization", "Bearer LOADER:loader-secret/+= hidden");
const AS_ADMIN: (&str, &str) = ("Authorization", "Bearer ADMIN:admin-secret-hidden");

/// A gateway with both keys over two directories.
fn guarded(path: &str) -> Gateway {
    let names = ["models", "private"].map(|name| Dataset::new(name, path));
    Setup::of(names).section(LOADER).section(ADMIN).start()
}

/// Asserts that no secret was written anywhere, and gives the log.
fn without_secrets(gateway: Gateway) -> String {
    let metrics = gateway.get("/-/metrics").expect(200).text();
    let log = gateway.stop();
    assert!(!metrics.contains("hidden"), "{metrics}");
    assert!(!log.contains("hidden"), "{log}");
    log
}

fn refused(answer: &Answer, status: u16, code: &str) {
    let found = (answer.status, answer.xml("Code"));
    assert_eq!(found, (status, Some(code.to_owned())), "{}", answer.text());
}

/// What curl says and ends with.
fn curl(arguments: &[&str]) -> (String, String) {
    let output = Command::new("curl")
        .args(["-s", "-m", "20", "-w", "\n%{http_code}"])
        .args(arguments)
        .output()
        .expect("curl runs");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let (body, status) = said.rsplit_once('\n').expect("curl tells the status");
    (status.to_owned(), body.to_owned())
}

#[test]
fn boto3_and_the_aws_command_line_come_in_with_a_key_and_not_without() {
    let origin = Moto::start();
    let datasets = [("models", "weights"), ("private", "private")];
    let datasets = datasets.map(|(name, bucket)| origin.dataset(name, bucket));
    let gateway = Setup::of(datasets)
        .line("domain = \"s3.forebay.test\"")
        .line("hosts = [\"gw.forebay.test:8080\"]")
        .section(LOADER)
        .section(ADMIN)
        .start();
    let output = Command::new(tools::python("python3"))
        .arg(tools::client("door.py"))
        .args([gateway.url(), origin.url()])
        .output()
        .expect("python runs");
    let said = String::from_utf8_lossy(&output.stdout);
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{complaints}");
    let claims = said.lines().filter(|line| line.starts_with("ok "));
    assert!(claims.count() >= 16, "claims were not run: {said}");
    let log = without_secrets(gateway);
    assert!(log.contains("key=\"LOADER\""), "{log}");
    for part in ["X-Amz-Signature", "Signature=", "session"] {
        assert!(!log.contains(part), "{part} in {log}");
    }
}

#[test]
fn nothing_is_had_without_a_key_even_where_all_is_cached() {
    let (_files, path) = directory();
    let gateway = guarded(&path);
    let bytes = oracle::bytes("a.bin", 1, 5000);
    let first = gateway
        .request("GET", "/models/a.bin", &[AS_LOADER])
        .expect(200);
    assert_bytes("with a key", &first.body, &bytes);
    let hit = gateway
        .request("GET", "/models/a.bin", &[AS_LOADER])
        .expect(200);
    assert!(
        hit.need("cache-status").contains("hit"),
        "{:?}",
        hit.headers
    );
    let tag = first.need("etag").to_owned();
    for target in [
        "/models/a.bin",
        "/models/none.bin",
        "/models",
        "/models?list-type=2",
        "/models?location",
        "/private/a.bin",
        "/nothing-here/a.bin",
        "/",
        "/models/a.bin?X-Amz-Expires=60",
    ] {
        for headers in [
            vec![],
            vec![("Range", "bytes=0-9")],
            vec![("If-None-Match", tag.as_str())],
        ] {
            let answer = gateway.request("GET", target, &headers);
            refused(&answer, 401, "AccessDenied");
            assert!(answer.need("www-authenticate").starts_with("Basic "));
            assert_sentence(&gateway, &answer, &[401]);
            let speaks_s3 = [headers, vec![("x-amz-date", "20260101T000000Z")]].concat();
            refused(
                &gateway.request("GET", target, &speaks_s3),
                403,
                "AccessDenied",
            );
        }
        let head = gateway.request("HEAD", target, &[]);
        assert!(head.status == 401 && head.body.is_empty() && head.header("etag").is_none());
    }
    for method in ["PUT", "POST", "DELETE", "PATCH"] {
        let answer = gateway.request(method, "/models/a.bin", &[]);
        refused(&answer, 401, "AccessDenied");
        let answer = gateway.request(method, "/models/a.bin", &[AS_LOADER]);
        refused(&answer, 405, "MethodNotAllowed");
    }
    let refusals = |reason| gateway.metric("forebay_refused_total", &[("reason", reason)]);
    assert!(refusals("no_credentials") >= 9.0 * 7.0);
    assert!(refusals("bad_signature") == 0.0);
    let log = without_secrets(gateway);
    assert!(log.contains("key=\"LOADER\""), "{log}");
}

#[test]
fn secrets_come_in_as_basic_or_bearer_from_this_machine() {
    let (_files, path) = directory();
    let gateway = guarded(&path);
    let url = format!("{}/models/a.bin", gateway.url());
    let (status, _) = curl(&[
        "-o",
        "/dev/null",
        "-u",
        "LOADER:loader-secret/+= hidden",
        &url,
    ]);
    assert_eq!(status.trim(), "200");
    let bearer = "Authorization: Bearer LOADER:loader-secret/+= hidden";
    let (status, _) = curl(&["-o", "/dev/null", "-H", bearer, &url]);
    assert_eq!(status.trim(), "200");
    for value in [
        "Basic TE9BREVSOndyb25n",
        "Basic !",
        "Bearer LOADER:wrong",
        "Bearer NOBODY:loader-secret/+= hidden",
        "Bearer LOADER",
        "Bearer",
    ] {
        let answer = gateway.request("GET", "/models/a.bin", &[("Authorization", value)]);
        refused(&answer, 403, "AccessDenied");
    }
    for (name, value) in [("Authorization", "Digest x"), ("Authorization", "nonsense")] {
        let answer = gateway.request("GET", "/models/a.bin", &[(name, value)]);
        refused(&answer, 400, "InvalidArgument");
    }
    let mut twice = Connection::open(gateway.address());
    refused(
        &twice.request("GET", "/models/a.bin", &[AS_LOADER, AS_ADMIN]),
        400,
        "InvalidArgument",
    );
    let _ = without_secrets(gateway);
}

#[test]
fn a_list_hides_whether_a_dataset_is_there() {
    let (_files, path) = directory();
    let gateway = guarded(&path);
    let strip = |answer: &Answer, name: &str| {
        let text = answer.text().replace(name, "NAME");
        let (before, after) = text.split_once("<RequestId>").expect("a request id");
        let (_, after) = after.split_once("</RequestId>").expect("its end");
        format!("{before}{after}")
    };
    for (target, method) in [
        ("/NAME/a.bin", "GET"),
        ("/NAME?list-type=2", "GET"),
        ("/NAME/", "PUT"),
    ] {
        let answers = ["private", "nothing-here"].map(|name| {
            let answer = gateway.request(method, &target.replace("NAME", name), &[AS_LOADER]);
            refused(&answer, 403, "AccessDenied");
            strip(&answer, name)
        });
        assert_eq!(answers[0], answers[1], "{target}");
    }
    let buckets = gateway.request("GET", "/", &[AS_LOADER]).expect(200).text();
    assert!(
        buckets.contains("models") && !buckets.contains("private"),
        "{buckets}"
    );
    let answer = gateway.request("GET", "/nothing-here/a.bin", &[AS_ADMIN]);
    refused(&answer, 404, "NoSuchBucket");
}

#[test]
fn a_virtual_host_has_keys_where_our_own_routes_would_be() {
    let (files, path) = directory();
    files.write("-/healthz", b"a key");
    let gateway = Setup::of([Dataset::new("models", path)])
        .line("domain = \"s3.forebay.test\"")
        .section(LOADER)
        .start();
    let port = gateway.address().port();
    let resolve = format!("models.s3.forebay.test:{port}:127.0.0.1");
    let user = "LOADER:loader-secret/+= hidden";
    let url = |target: &str| format!("http://models.s3.forebay.test:{port}{target}");
    for more in [
        vec!["--user", user],
        vec!["--user", user, "--aws-sigv4", "aws:amz:us-east-1:s3"],
    ] {
        for (target, status, body) in [
            ("/-/healthz", "200", "a key"),
            ("/-/metrics", "404", "NoSuchKey"),
            ("/", "200", "-/healthz"),
        ] {
            let target = url(target);
            let (found, said) = curl(&[&["--resolve", &resolve][..], &more, &[&target]].concat());
            assert_eq!(found, status, "{target}: {said}");
            assert!(said.contains(body), "{target}: {said}");
        }
    }
    let (status, _) = curl(&["--resolve", &resolve, &url("/-/healthz")]);
    assert_eq!(status, "401");
    // A target that names a host counts, whatever Host says (RFC 9112 §3.2.2).
    let mut connection = Connection::open(gateway.address());
    let target = format!("http://models.s3.forebay.test:{port}/-/healthz");
    let answer = connection.request("GET", &target, &[AS_LOADER]).expect(200);
    assert_bytes("the key", &answer.body, b"a key");
    // The domain itself is spoken to in path style.
    let resolve = format!("s3.forebay.test:{port}:127.0.0.1");
    let healthy = format!("http://s3.forebay.test:{port}/-/healthz");
    assert_eq!(curl(&["--resolve", &resolve, &healthy]).0, "200");
    let key = format!("http://s3.forebay.test:{port}/models/-/healthz");
    assert_eq!(
        curl(&["--resolve", &resolve, "--user", user, &key]).1,
        "a key"
    );
}

#[test]
fn keys_come_go_and_change_while_the_gateway_runs() {
    let (_files, path) = directory();
    let secrets = Scratch::new("secrets");
    let secret = secrets.write("loader", "first-hidden\n");
    let key = format!(
        "[[access]]\naccess_key_id = \"LOADER\"\nsecret_access_key = {{ file = {secret:?} }}\n"
    );
    let setup = |keys: &[&str]| {
        let setup = Setup::of(["models", "private"].map(|name| Dataset::new(name, &path)));
        keys.iter().fold(setup, |setup, key| setup.section(key))
    };
    let gateway = setup(&[&key]).allow("no [[access]] any more").start();
    // On one connection, so that an old one is judged by the new rules.
    let mut connection = Connection::open(gateway.address());
    let mut becomes = |secret: &str, target: &str, status: u16| {
        let value = format!("Bearer LOADER:{secret}");
        until(
            Duration::from_secs(10),
            &format!("{status} for {secret} at {target}"),
            || {
                let headers = [("Authorization", value.as_str())];
                let answer = connection.request("GET", target, &headers);
                (answer.status == status).then_some(())
            },
        );
    };
    becomes("first-hidden", "/private/a.bin", 200);
    // As Kubernetes does it: another file under the same name.
    let beside = secrets.write("beside", "second-hidden\n");
    std::fs::rename(beside, &secret).expect("the secret can be replaced");
    becomes("second-hidden", "/private/a.bin", 200);
    becomes("first-hidden", "/private/a.bin", 403);
    rewrite(
        &gateway,
        &setup(&[&format!("{key}datasets = [\"models\"]")]),
    );
    becomes("second-hidden", "/private/a.bin", 403);
    becomes("second-hidden", "/models/a.bin", 200);
    rewrite(&gateway, &setup(&[ADMIN]));
    becomes("second-hidden", "/models/a.bin", 403);
    let _ = gateway
        .request("GET", "/models/a.bin", &[AS_ADMIN])
        .expect(200);
    rewrite(&gateway, &setup(&[]));
    until(Duration::from_secs(10), "no key to be needed", || {
        (gateway.get("/models/a.bin").status == 200).then_some(())
    });
    let log = without_secrets(gateway);
    assert!(
        log.contains("the datasets and access keys were reloaded"),
        "{log}"
    );
}

#[test]
fn a_reload_opens_no_address_that_others_reach_and_an_empty_file_is_none() {
    let (_files, path) = directory();
    let models = || Dataset::new("models", &path);
    let scratch = Scratch::new("reachable");
    let text = Setup::of([models()]).section(LOADER).text(scratch.path());
    let text = text.replace("127.0.0.1:0", "0.0.0.0:0");
    let config = scratch.write("forebay.toml", &text);
    let mut serve = command();
    serve.args(["serve", "--config"]).arg(&config);
    let allowed = vec!["are not taken over".to_owned()];
    let gateway = Gateway::start(&mut serve, scratch, allowed);
    let port = gateway.address().port();
    let url = format!("http://127.0.0.1:{port}/models/a.bin");
    for (setup, why) in [
        (Some(Setup::of([models()])), "have no [[access]]"),
        (None, "have no datasets"),
    ] {
        match setup {
            // It asks for a loopback address, which the gateway would have at its next start.
            Some(setup) => rewrite(&gateway, &setup),
            None => std::fs::write(gateway.config(), "open = true\n").expect("it can be written"),
        }
        gateway
            .process()
            .stderr_line(why, |line| line.contains(why).then_some(()));
        assert_eq!(curl(&[&url]).0, "401");
    }
    let user = "LOADER:loader-secret/+= hidden";
    assert_eq!(curl(&["--user", user, &url]).0, "200");
}

#[test]
fn who_shows_no_key_keeps_no_connection() {
    let (_files, path) = directory();
    let gateway = guarded(&path);
    for target in ["/models/a.bin", "/-/healthz", "/-/datasets"] {
        let mut connection = Connection::open(gateway.address());
        let answer = connection.request("GET", target, &[]);
        assert_eq!(answer.need("connection"), "close", "{target}");
        assert!(connection.answer(false).is_none(), "it is closed");
    }
    let mut connection = Connection::open(gateway.address());
    for (headers, target, status) in [
        (&[AS_LOADER][..], "/models/a.bin", 200),
        (&[AS_LOADER], "/private/a.bin", 403),
        (&[], "/-/healthz", 200),
        (&[], "/models/a.bin", 401),
        (&[AS_LOADER], "/models/a.bin", 200),
    ] {
        let _ = connection.request("GET", target, headers).expect(status);
    }
}

#[test]
fn keys_open_an_address_that_others_reach_and_secrets_stay_off_it() {
    let (_files, path) = directory();
    let setup = Setup::of([Dataset::new("models", &path)]).section(LOADER);
    let scratch = Scratch::new("reachable");
    let text = setup.text(scratch.path());
    let config = scratch.write("forebay.toml", &text);
    let mut serve = command();
    serve
        .args(["serve", "--listen", "0.0.0.0:0", "--config"])
        .arg(&config);
    let gateway = Gateway::start(&mut serve, scratch, Vec::new());
    let port = gateway.address().port();
    // This machine by another of its addresses is not this machine, as far as a listener can tell.
    let address = std::net::UdpSocket::bind("0.0.0.0:0").and_then(|socket| {
        socket.connect("192.0.2.1:9")?;
        socket.local_addr()
    });
    if let Ok(address) = address
        && !address.ip().is_loopback()
    {
        let outside = std::net::SocketAddr::new(address.ip(), port);
        let mut connection = Connection::open(outside);
        let answer = connection.request("GET", "/models/a.bin", &[AS_LOADER]);
        refused(&answer, 403, "AccessDenied");
        assert!(answer.text().contains("over TLS"), "{}", answer.text());
        let mut connection = Connection::open(outside);
        let answer = connection.request("GET", "/models/a.bin", &[]);
        assert_eq!(answer.need("www-authenticate"), "AWS4-HMAC-SHA256");
        let url = format!("http://{outside}/models/a.bin");
        let user = "LOADER:loader-secret/+= hidden";
        let (status, _) = curl(&[
            "--user",
            user,
            "--aws-sigv4",
            "aws:amz:x:s3",
            "-o",
            "/dev/null",
            &url,
        ]);
        assert_eq!(status.trim(), "200");
    }
    let both = Scratch::new("both");
    let text = text.replacen("data_dir", "open = true\ndata_dir", 1);
    let config = both.write("forebay.toml", text);
    let output = command()
        .args(["check", "--config"])
        .arg(config)
        .output()
        .expect("forebay runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("stands beside [[access]]"), "{said}");
}
