//! Who may ask what under `/-/`, by curl and by the command line.

use std::process::Command;

use forebay_tests::cluster::command;
use forebay_tests::http::Connection;

use super::{AS_ADMIN, AS_LOADER, curl, guarded, without_secrets};
use crate::stage::directory;

#[test]
fn our_own_routes_are_an_administrators_but_for_health_and_metrics() {
    let (_files, path) = directory();
    let gateway = guarded(&path);
    for target in ["/-/healthz", "/-/readyz", "/-/metrics"] {
        for headers in [vec![], vec![AS_LOADER], vec![("Authorization", "nonsense")]] {
            let _ = gateway.request("GET", target, &headers).expect(200);
        }
    }
    for (method, target) in [
        ("GET", "/-/datasets"),
        ("GET", "/-/datasets/models"),
        ("GET", "/-/blocks/models/a.bin"),
        ("POST", "/-/purge/models/a.bin"),
        ("POST", "/-/warm/models/"),
        ("GET", "/-/ring"),
        ("GET", "/-/no-such-route"),
        ("GET", "/-/%zz"),
    ] {
        for (headers, status) in [(vec![], 401), (vec![AS_LOADER], 403)] {
            let answer = gateway.request(method, target, &headers);
            assert_eq!(
                answer.status,
                status,
                "{method} {target}: {}",
                answer.text()
            );
            assert_eq!(answer.need("content-type"), "application/problem+json");
            let asked = answer.header("www-authenticate").is_some();
            assert_eq!(asked, status == 401, "{method} {target}");
        }
        let answer = gateway.request(method, target, &[AS_ADMIN]);
        assert!(
            ![401, 403].contains(&answer.status),
            "{method} {target}: {}",
            answer.text()
        );
    }
    // Plan and residence are whose the dataset is.
    for target in ["/-/plan/NAME/a.bin", "/-/resident/NAME/"] {
        let ask = |name: &str, headers: &[(&str, &str)]| {
            gateway
                .request("GET", &target.replace("NAME", name), headers)
                .status
        };
        assert_eq!(ask("models", &[]), 401);
        assert_eq!(ask("private", &[AS_LOADER]), 403);
        assert_eq!(ask("nothing-here", &[AS_LOADER]), 403);
        assert!(![401, 403].contains(&ask("models", &[AS_LOADER])));
    }
    let refusals = |reason| gateway.metric("forebay_refused_total", &[("reason", reason)]);
    assert!(refusals("not_admin") >= 8.0 && refusals("dataset") >= 4.0);
    let _ = without_secrets(gateway);
}

#[test]
fn curl_signs_for_our_own_routes_and_for_s3s() {
    let (_files, path) = directory();
    let gateway = guarded(&path);
    let url = |target: &str| format!("{}{target}", gateway.url());
    let sign = ["--aws-sigv4", "aws:amz:us-east-1:s3", "--user"];
    let admin = [&sign[..], &["ADMIN:admin-secret-hidden"]].concat();
    let loader = [&sign[..], &["LOADER:loader-secret/+= hidden"]].concat();
    let ask = |who: &[&str], more: &[&str], target: &str| {
        let url = url(target);
        curl(&[who, more, &[&url]].concat())
    };
    let (status, body) = ask(&admin, &[], "/-/datasets?list=true&scope=gateway");
    assert_eq!(status, "200", "{body}");
    assert!(body.contains("\"datasets\""), "{body}");
    let (status, body) = ask(&admin, &["-X", "POST"], "/-/purge/models/a.bin");
    assert_eq!(status, "200", "{body}");
    let (status, body) = ask(
        &admin,
        &["-d", "a body that is signed"],
        "/-/purge/models/a.bin",
    );
    assert_eq!(status, "200", "{body}");
    let (status, body) = ask(&loader, &["-X", "POST"], "/-/purge/models/a.bin");
    assert_eq!(status, "403", "{body}");
    let wrong = [&sign[..], &["ADMIN:wrong"]].concat();
    let (status, body) = ask(&wrong, &[], "/-/datasets");
    assert_eq!(status, "403", "{body}");
    assert!(body.contains("does not match the signature"), "{body}");
    let (status, body) = ask(&loader, &["-r", "0-9", "-o", "/dev/null"], "/models/a.bin");
    assert_eq!(status.trim(), "206", "{body}");
    let (status, body) = ask(&loader, &[], "/models?list-type=2&prefix=a.b");
    assert_eq!(status, "200", "{body}");
    assert!(body.contains("<Key>a.bin</Key>"), "{body}");
    let _ = without_secrets(gateway);
}

#[test]
fn a_body_that_is_not_the_signed_one_is_refused_under_our_own_routes() {
    let (_files, path) = directory();
    let gateway = guarded(&path);
    // Signed by curl, which tells what it sent; sent again with another body.
    let url = format!("{}/-/purge/models/a.bin", gateway.url());
    let output = Command::new("curl")
        .args([
            "-s",
            "-v",
            "-d",
            "signed body",
            "--user",
            "ADMIN:admin-secret-hidden",
        ])
        .args(["--aws-sigv4", "aws:amz:us-east-1:s3", &url])
        .output()
        .expect("curl runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let sent = |name: &str| {
        let line = said.lines().filter_map(|line| line.strip_prefix("> "));
        let mut fields = line.filter_map(|line| line.split_once(": "));
        let field = fields.find(|(found, _)| found.eq_ignore_ascii_case(name));
        let (_, value) = field.unwrap_or_else(|| panic!("curl sent no {name}: {said}"));
        value.trim().to_owned()
    };
    let names = ["Authorization", "X-Amz-Date"];
    let fields = names.map(|name| (name, sent(name)));
    let mut fields: Vec<_> = fields
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    fields.push(("Content-Type", "application/x-www-form-urlencoded"));
    for (body, status) in [("signed body", 200), ("another one", 403), ("", 403)] {
        let mut connection = Connection::open(gateway.address());
        let answer = connection.upload("POST", "/-/purge/models/a.bin", &fields, body.as_bytes());
        assert_eq!(answer.status, status, "{body}: {}", answer.text());
    }
}

#[test]
fn the_command_line_signs_with_its_own_or_amazons_variables() {
    let (_files, path) = directory();
    let gateway = guarded(&path);
    let run = |arguments: &[&str], variables: &[(&str, &str)]| {
        let mut command = command();
        command.args(arguments).env("FOREBAY_URL", gateway.url());
        command.envs(variables.iter().copied());
        command.output().expect("forebay runs")
    };
    let ours = [
        ("FOREBAY_ACCESS_KEY_ID", "ADMIN"),
        ("FOREBAY_SECRET_ACCESS_KEY", "admin-secret-hidden"),
    ];
    let amazons = [
        ("AWS_ACCESS_KEY_ID", "ADMIN"),
        ("AWS_SECRET_ACCESS_KEY", "admin-secret-hidden"),
    ];
    let wrong = [
        ("AWS_ACCESS_KEY_ID", "ORIGIN"),
        ("AWS_SECRET_ACCESS_KEY", "other-hidden"),
    ];
    for variables in [&ours[..], &amazons[..], &[ours, wrong].concat()] {
        for arguments in [
            &["status"][..],
            &["datasets", "--json"],
            &["purge", "models/an odd+key%/ä"],
        ] {
            let output = run(arguments, variables);
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success(), "{arguments:?} {said}");
        }
    }
    for (variables, part) in [(&[][..], "401"), (&wrong[..], "403")] {
        let output = run(&["datasets"], variables);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(part), "{said}");
        assert!(!said.contains("hidden"), "{said}");
    }
}
