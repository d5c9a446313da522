//! What is a flow and what is not, and what is told of the latter.

#![allow(clippy::unwrap_used)]

use std::path::PathBuf;

use super::*;
use crate::settings::KubernetesSettings;

fn settings() -> FlowSettings {
    let url = |text| UrlPrefix::parse(text).unwrap();
    FlowSettings {
        commands: vec![PathBuf::from("/usr/bin/true")],
        urls: vec![
            url("http://hooks:8080/a"),
            url("https://k8s/apis/apps/v1/namespaces/models"),
        ],
        kubernetes: Some(KubernetesSettings {
            api: "https://k8s".into(),
            token: None,
            ca: None,
        }),
    }
}

fn parse(text: &str) -> Result<Graph, Vec<String>> {
    let allowed = settings();
    let rules = Rules {
        allowed: &allowed,
        knows: &|name| name == "models",
        writes: &|_| false,
        copies: &|_| Ok(()),
        has_nvme: false,
    };
    Graph::parse(
        Graph::source(text.as_bytes()).map_err(|mistake| vec![mistake])?,
        &rules,
    )
}

/// One step that waits for nothing, with these lines.
fn one(lines: &str) -> Result<Graph, Vec<String>> {
    parse(&format!("[[steps]]\nname = \"a\"\n{lines}"))
}

/// The only mistake of a text.
fn mistake(parsed: Result<Graph, Vec<String>>) -> String {
    let mistakes = parsed.unwrap_err();
    assert_eq!(mistakes.len(), 1, "{mistakes:?}");
    mistakes.into_iter().next().unwrap()
}

#[test]
fn toml_and_json_say_the_same() {
    let toml = parse(
        "name = \"release\"\non_failure = [\"b\"]\n[[steps]]\nname = \"a\"\nretries = 2\nbackoff = \"250ms\"\n\
         exec = { command = [\"/usr/bin/true\", \"x\"] }\n[[steps]]\nname = \"b\"\nneeds = [\"a\"]\nwhen = \"always\"\n\
         wait = { members = 3 }\n",
    )
    .unwrap();
    let json = parse(
        r#"{"name":"release","on_failure":["b"],"steps":[{"name":"a","retries":2,"backoff":"250ms",
            "exec":{"command":["/usr/bin/true","x"]}},{"name":"b","needs":["a"],"when":"always","wait":{"members":3}}]}"#,
    )
    .unwrap();
    assert_eq!(toml.source, json.source);
    let [a, b] = &toml.steps[..] else { panic!() };
    assert_eq!((a.retries, a.backoff), (2, Duration::from_millis(250)));
    assert_eq!(a.on_failure, Policy::Stop(vec![1]));
    assert_eq!((&b.needs, b.when), (&vec![0], When::Always));
    // Who cleans up does not clean up after itself.
    assert_eq!(b.on_failure, Policy::Stop(Vec::new()));
    assert_eq!(
        a.action,
        Action::Exec(vec!["/usr/bin/true".into(), "x".into()])
    );
}

#[test]
fn a_circle_is_told_with_its_way() {
    let step = |name: &str, needs: &str| {
        format!("[[steps]]\nname = \"{name}\"\nneeds = [{needs}]\nwait = {{ members = 1 }}\n")
    };
    let text = [
        step("a", ""),
        step("b", "\"a\", \"d\""),
        step("c", "\"b\""),
        step("d", "\"c\""),
    ];
    let told = mistake(parse(&text.concat()));
    assert_eq!(told, "the steps go in a circle: b needs d needs c needs b");
    let told = mistake(parse(&step("a", "\"a\"")));
    assert_eq!(told, "the steps go in a circle: a needs a");
}

#[test]
fn all_mistakes_are_told_together() {
    let mistakes = parse(
        "deadline = \"soon\"\nextra = 1\n[[steps]]\nname = \"a\"\nneeds = [\"nobody\"]\nwhen = \"sometimes\"\n\
         timeout = \"0s\"\nretries = 1000\nfrobnicate = { }\n[[steps]]\nname = \"b\"\n\
         wait = { members = 1 }\n[[steps]]\nname = \"b\"\nwait = { members = 1 }\n[[steps]]\nname = \"B\"\n",
    )
    .unwrap_err();
    let all = mistakes.join("\n");
    for part in [
        "`deadline` is not a time",
        "the flow has no `extra`",
        "`needs` names \"nobody\"",
        "`when` must be",
        "`timeout` must be above zero",
        "`retries` must be a whole number from 0 to 100",
        "no kind of step `frobnicate`: the kinds are warm, wait",
        "two steps are called \"b\"",
        "step \"B\": its `name` must have",
        "step \"B\": it does nothing",
    ] {
        assert!(all.contains(part), "{part}: {all}");
    }
    assert_eq!(mistakes.len(), 10, "{all}");
}

#[test]
fn what_is_off_the_allow_list_is_refused() {
    for (lines, part) in [
        (
            "exec = { command = [\"/usr/bin/false\"] }",
            "not among `commands`",
        ),
        ("exec = { command = [\"true\"] }", "not among `commands`"),
        (
            "exec = { command = [\"/usr/bin/../bin/true\"] }",
            "not among `commands`",
        ),
        ("exec = { command = [] }", "is empty"),
        (
            "notify = { url = \"http://hooks:8080/ab\" }",
            "not below any of `urls`",
        ),
        (
            "notify = { url = \"http://hooks:8080/a/%2e%2e/b\" }",
            "hides where it goes",
        ),
        (
            "wait = { url = \"http://169.254.169.254/latest\" }",
            "not below any of `urls`",
        ),
        (
            "scale = { webhook = \"https://hooks:8080/a\", replicas = 1 }",
            "not below any of `urls`",
        ),
        (
            "scale = { resource = \"apps/v1/namespaces/other/statefulsets/x\", replicas = 1 }",
            "not below any of `urls`",
        ),
        (
            "scale = { resource = \"apps/v1/namespaces/models/../other/x\", replicas = 1 }",
            "GROUP/VERSION",
        ),
        ("pin = { dataset = \"others\" }", "no dataset \"others\""),
        (
            "copy = { from = \"models\", to = \"models\" }",
            "writable = true",
        ),
    ] {
        let told = mistake(one(lines));
        assert!(told.contains(part), "{lines}: {told}");
    }
}

#[test]
fn what_is_on_it_is_taken() {
    for lines in [
        "exec = { command = [\"/usr/bin/true\"] }",
        "notify = { url = \"http://hooks:8080/a/b?c\" }",
        "wait = { url = \"http://hooks:8080/a\", status = 204, every = \"5s\" }",
        "wait = { dataset = \"models\", prefix = \"x/\", resident = 95 }",
        "warm = { dataset = \"models\", prefix = \"x/\", copies = \"all\", rate = \"1MiB\" }",
        "warm = { dataset = \"models\", manifest = \"list.txt\" }",
        "scale = { webhook = \"http://hooks:8080/a\", replicas = 0 }",
        "scale = { resource = \"apps/v1/namespaces/models/statefulsets/forebay\", replicas = 3 }",
        "pin = { dataset = \"models\", prefix = \"x/\", expires = \"24h\" }",
        "purge = { dataset = \"models\", key = \"x/\" }",
    ] {
        assert!(one(lines).is_ok(), "{lines}: {:?}", one(lines).err());
    }
}

#[test]
fn a_step_that_would_never_run_is_a_mistake() {
    let told = mistake(one("when = \"failure\"\nwait = { members = 1 }"));
    assert!(told.contains("would never run"), "{told}");
    let text = "[[steps]]\nname = \"a\"\non_failure = \"b\"\nwait = { members = 1 }\n\
                [[steps]]\nname = \"b\"\nwhen = \"failure\"\nwait = { members = 1 }\n";
    assert!(parse(text).is_ok());
    let told = mistake(one("on_failure = \"a\"\nwait = { members = 1 }"));
    assert!(told.contains("names the step itself"), "{told}");
}

#[test]
fn what_is_no_flow_is_refused_with_a_sentence() {
    for (text, part) in [
        ("", "needs 1 to 200 steps"),
        ("{", "no JSON"),
        ("steps = ", "no TOML"),
        ("steps = [1]", "it must be a table"),
    ] {
        let mistakes = parse(text).unwrap_err().join("; ");
        assert!(mistakes.contains(part), "{text}: {mistakes}");
    }
    assert!(Graph::source(&[0xff]).is_err());
}

#[test]
fn a_secret_in_a_url_is_told_in_no_mistake() {
    for url in [
        "http://elsewhere/a?token=SECRET",
        "http://me:SECRET@hooks:8080/a",
        "ftp://hooks/a?SECRET",
    ] {
        let told = mistake(one(&format!("notify = {{ url = \"{url}\" }}")));
        assert!(told.contains("/a\""), "{told}");
        assert!(!told.contains("SECRET"), "{told}");
    }
}

#[test]
fn a_copy_onto_itself_and_a_pin_that_is_over_are_refused_before_anything_begins() {
    let allowed = FlowSettings::default();
    let rules = Rules {
        allowed: &allowed,
        knows: &|_| true,
        writes: &|_| true,
        copies: &|order| match order.from == order.to {
            true => Err("it overlaps".into()),
            false => Ok(()),
        },
        has_nvme: false,
    };
    for (lines, word) in [
        ("copy = { from = \"m/a\", to = \"m/a\" }", "overlaps"),
        ("pin = { dataset = \"m\", expires = \"-3h\" }", "expires"),
    ] {
        let source = Graph::source(format!("[[steps]]\nname = \"a\"\n{lines}").as_bytes());
        let mistakes = Graph::parse(source.unwrap(), &rules).unwrap_err();
        assert!(mistakes.concat().contains(word), "{mistakes:?}");
    }
}
