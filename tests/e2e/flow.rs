//! Flows: what is refused, what comes of failures, what is left of one after a kill, and who may ask.

mod kept;
mod release;
mod schedules;

use std::path::PathBuf;
use std::process::Output;

use forebay_tests::cluster::{Gateway, SECRET, Setup};
use forebay_tests::http::{Answer, Connection};
use forebay_tests::process::PATIENCE;
use forebay_tests::scratch::Scratch;
use forebay_tests::servers::scripted::{Scripted, answer};
use forebay_tests::until;
use serde_json::Value;

use super::warm::Bucket;

/// A shell: a test says what it does, and only tests allow it.
const SHELL: &str = "/bin/sh";

/// A gateway of this bucket whose flows may run a shell and reach `urls`.
fn setup(bucket: &Bucket, urls: &[&str]) -> Setup {
    bucket.setup().section(&allowed(urls))
}

/// What flows may run and reach.
fn allowed(urls: &[&str]) -> String {
    format!("[flows]\ncommands = [{SHELL:?}]\nurls = {urls:?}")
}

/// A step that runs this script, with further lines.
fn script(name: &str, text: &str, lines: &str) -> String {
    format!(
        "[[steps]]\nname = {name:?}\nexec = {{ command = [{SHELL:?}, \"-c\", {text:?}] }}\n{lines}\n"
    )
}

/// Posts a flow, as a client that wants JSON.
fn post(gateway: &Gateway, text: &str) -> Answer {
    let accept = [("Accept", "application/json")];
    Connection::open(gateway.address()).upload("POST", "/-/flow", &accept, text.as_bytes())
}

/// Begins a flow, and says its id.
fn begin(gateway: &Gateway, text: &str) -> String {
    let answer = post(gateway, text).expect(202);
    let flow: Value = serde_json::from_slice(&answer.body).expect("a flow is JSON");
    flow["id"].as_str().expect("a flow has an id").to_owned()
}

fn flow(gateway: &Gateway, id: &str) -> Value {
    gateway.json(&format!("/-/flow/{id}"))
}

/// The flow once it is over.
fn over(gateway: &Gateway, id: &str) -> Value {
    until(PATIENCE, "the flow to be over", || {
        let flow = flow(gateway, id);
        let state = flow["state"].as_str().expect("a state");
        ["done", "failed", "cancelled"]
            .contains(&state)
            .then_some(flow)
    })
}

fn step<'a>(flow: &'a Value, name: &str) -> &'a Value {
    let steps = flow["steps"].as_array().expect("steps");
    let found = steps.iter().find(|step| step["name"] == name);
    found.unwrap_or_else(|| panic!("no step {name}: {flow}"))
}

/// Waits until a step is in this state.
fn reached(gateway: &Gateway, id: &str, name: &str, state: &str) {
    until(PATIENCE, &format!("{name} to be {state}"), || {
        (step(&flow(gateway, id), name)["state"] == state).then_some(())
    });
}

/// What scripts wrote into a file so far, a word a line.
fn marks(file: &PathBuf) -> Vec<String> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// `forebay flow run` of this text.
fn run(gateway: &Gateway, scratch: &Scratch, text: &str, options: &[&str]) -> Output {
    let file = scratch.write("flow.toml", text);
    let file = file.display().to_string();
    let mut arguments = vec!["flow", "run", file.as_str()];
    arguments.extend(options);
    gateway.client(&arguments)
}

fn bucket() -> Bucket {
    let bucket = Bucket::start(forebay_loadtest::origin::Settings::default());
    bucket.origin.put("m/a.bin", 3_000_000, 0);
    bucket.origin.put("m/b.bin", 1_000, 0);
    bucket
}

#[test]
fn bad_input_is_refused_with_all_that_is_wrong_and_nothing_is_begun() {
    let (bucket, scratch) = (bucket(), Scratch::new("flow"));
    let gateway = setup(&bucket, &["http://127.0.0.1:1/ok"]).start();
    let mark = scratch.path().join("begun");
    let begun = script("mark", &format!("touch {}", mark.display()), "");
    for (text, parts) in [
        (
            format!(
                "{begun}{}{}",
                script("a", "true", "needs = [\"b\"]"),
                script("b", "true", "needs = [\"a\"]")
            ),
            vec!["in a circle: a needs b needs a"],
        ),
        (
            format!(
                "{begun}[[steps]]\nname = \"x\"\nfrobnicate = {{}}\n[[steps]]\nname = \"y\"\nnotify = {{ url = \"http://127.0.0.1:1/okay\" }}\n"
            ),
            vec!["no kind of step `frobnicate`", "not below any of `urls`"],
        ),
        (
            format!("{begun}[[steps]]\nname = \"x\"\nexec = {{ command = [\"/bin/ls\"] }}\n"),
            vec!["not among `commands`"],
        ),
        (
            format!("{begun}[[steps]]\nname = \"x\"\nwarm = {{ dataset = \"nobody\" }}\n"),
            vec!["no dataset \"nobody\""],
        ),
        ("{\"steps\": 1}".to_owned(), vec!["1 to 200 steps"]),
    ] {
        let answer = post(&gateway, &text).expect(400);
        let problem: Value = serde_json::from_slice(&answer.body).expect("JSON");
        let detail = problem["detail"].as_str().expect("a detail");
        for part in parts {
            assert!(detail.contains(part), "{part}: {detail}");
        }
    }
    let output = run(&gateway, &scratch, "steps = [", &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("no TOML"));
    assert_eq!(gateway.json("/-/flow")["flows"], serde_json::json!([]));
    assert!(!mark.exists());
    let long = format!("# {}", "x".repeat(300 << 10));
    let _ = post(&gateway, &long).expect(413);
    let _ = gateway.get("/-/flow/0123456789abcdef").expect(404);
}

#[test]
fn steps_do_what_they_say_one_after_another_and_the_command_line_shows_them() {
    let (bucket, scratch) = (bucket(), Scratch::new("flow"));
    let server = Scripted::start(|asked| answer(asked, 200, "", b""));
    let gateway = setup(&bucket, &[&server.url()]).start();
    let url = server.url();
    let text = format!(
        "name = \"all\"\n\
         [[steps]]\nname = \"warm\"\nwarm = {{ dataset = \"models\", prefix = \"m/\" }}\n\
         [[steps]]\nname = \"there\"\nneeds = [\"warm\"]\nwait = {{ dataset = \"models\", prefix = \"m/\", resident = 100 }}\n\
         [[steps]]\nname = \"up\"\nwait = {{ url = \"{url}/ready\" }}\n\
         [[steps]]\nname = \"members\"\nwait = {{ members = 1 }}\n\
         [[steps]]\nname = \"pin\"\nneeds = [\"there\"]\npin = {{ dataset = \"models\", prefix = \"m/b\", expires = \"1h\" }}\n\
         [[steps]]\nname = \"purge\"\nneeds = [\"pin\"]\npurge = {{ dataset = \"models\", key = \"m/a.bin\" }}\n\
         [[steps]]\nname = \"tell\"\nneeds = [\"purge\", \"up\", \"members\"]\nnotify = {{ url = \"{url}/told\" }}\n{}",
        script("say", "env; echo out; echo err >&2", "needs = [\"tell\"]"),
    );
    let output = run(&gateway, &scratch, &text, &[]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(
        output.status.code(),
        Some(0),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    for name in [
        "warm", "there", "up", "members", "pin", "purge", "tell", "say",
    ] {
        assert!(
            said.lines()
                .any(|line| line.starts_with(&format!("+ {name} "))),
            "{name}: {said}"
        );
    }
    let flows = gateway.json("/-/flow");
    let flow = &flows["flows"][0];
    assert_eq!(
        (&flow["state"], &flow["name"]),
        (&"done".into(), &"all".into())
    );
    assert!(step(flow, "warm")["job"].is_string());
    // Nothing of the gateway's own environment is a program's.
    let wrote = step(flow, "say")["output"].as_str().expect("output");
    assert!(
        wrote.contains("out\n") && wrote.contains("err\n"),
        "{wrote}"
    );
    assert!(
        wrote.contains("FOREBAY_STEP=say") && !wrote.contains("HOME="),
        "{wrote}"
    );
    assert_eq!(gateway.json("/-/pin")["pins"][0]["prefix"], "m/b");
    let _ = gateway.get("/-/resident/models/m/a.bin").expect(503);
    assert_eq!(
        gateway.metric("forebay_flows_total", &[("outcome", "done")]),
        1.0
    );
    let id = flow["id"].as_str().expect("an id");
    let shown = gateway.client(&["flow", "show", id]);
    assert!(String::from_utf8_lossy(&shown.stdout).contains("say wrote:"));
    let listed = gateway.client(&["flow", "list"]);
    assert!(String::from_utf8_lossy(&listed.stdout).contains("8/8"));
}

#[test]
fn a_body_of_lines_breaks_off_where_the_flow_fails() {
    let bucket = bucket();
    let gateway = setup(&bucket, &[]).start();
    let bad = script(
        "bad",
        "echo no such luck >&2; exit 3",
        "retries = 1\nbackoff = \"10ms\"",
    );
    let text = Connection::open(gateway.address()).upload("POST", "/-/flow", &[], bad.as_bytes());
    assert!(text.status == 200 && !text.whole, "{}", text.text());
    let last = text.text();
    let last = last.lines().last().expect("a line");
    assert!(
        last.starts_with("failed ")
            && last.ends_with("step \"bad\" failed: /bin/sh ended with 3: no such luck"),
        "{last}"
    );
    let good = script("good", "true", "");
    let text = Connection::open(gateway.address()).upload("POST", "/-/flow", &[], good.as_bytes());
    let text = text.expect(200).text();
    assert!(
        text.lines()
            .last()
            .is_some_and(|line| line.starts_with("done ")),
        "{text}"
    );
    let flows = gateway.json("/-/flow");
    assert_eq!(step(&flows["flows"][0], "bad")["tries"], 2);
    let id = flows["flows"][0]["id"].as_str().expect("an id");
    let events = gateway
        .get(&format!("/-/flow/{id}/events"))
        .expect(200)
        .text();
    let event: Value = serde_json::from_str(events.trim()).expect("a line of JSON");
    assert_eq!(event["state"], "failed");
}

#[test]
fn a_program_is_killed_with_all_its_group_at_its_timeout_and_when_it_is_cancelled() {
    let (bucket, scratch) = (bucket(), Scratch::new("flow"));
    let gateway = setup(&bucket, &[]).start();
    let (pids, cleaned) = (scratch.path().join("pids"), scratch.path().join("cleaned"));
    let hangs = format!(
        "sleep 600 & echo $! >> {p}; echo $$ >> {p}; wait",
        p = pids.display()
    );
    let all_gone = || {
        until(PATIENCE, "the programs to be gone", || {
            let marks = marks(&pids);
            let gone = |pid: &String| !is_alive(pid);
            (marks.len() >= 2 && marks.iter().all(gone)).then_some(())
        });
    };
    let id = begin(&gateway, &script("hangs", &hangs, "timeout = \"500ms\""));
    let flow = over(&gateway, &id);
    let error = flow["error"].as_str().expect("an error");
    assert!(error.contains("took longer than 500ms"), "{error}");
    all_gone();
    std::fs::remove_file(&pids).expect("the pids were written");
    let clean = format!("echo cleaned >> {}", cleaned.display());
    let text = script("hangs", &hangs, "on_failure = \"clean\"")
        + &script("clean", &clean, "when = \"failure\"");
    let id = begin(&gateway, &text);
    until(PATIENCE, "the program to run", || {
        (marks(&pids).len() >= 2).then_some(())
    });
    let output = gateway.client(&["flow", "cancel", &id]);
    assert_eq!(output.status.code(), Some(0));
    let flow = over(&gateway, &id);
    assert_eq!(flow["state"], "cancelled", "{flow}");
    assert_eq!(step(&flow, "hangs")["state"], "cancelled");
    assert_eq!(marks(&cleaned), ["cleaned"]);
    all_gone();
}

fn is_alive(pid: &str) -> bool {
    // What has ended and was not waited for is there, and dead.
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.is_ok_and(|stat| !stat.contains(") Z "))
}

#[test]
fn a_flow_that_takes_too_long_fails_and_cleans_up() {
    let (bucket, scratch) = (bucket(), Scratch::new("flow"));
    let gateway = setup(&bucket, &[]).start();
    let cleaned = scratch.path().join("cleaned");
    let clean = format!("echo cleaned >> {}", cleaned.display());
    let text = format!(
        "deadline = \"700ms\"\non_failure = [\"clean\"]\n{}{}",
        script("hangs", "sleep 600", ""),
        script("clean", &clean, "when = \"failure\"")
    );
    let flow = over(&gateway, &begin(&gateway, &text));
    assert_eq!(flow["state"], "failed");
    assert!(
        flow["error"]
            .as_str()
            .is_some_and(|error| error.contains("its deadline of 700ms passed")),
        "{flow}"
    );
    assert_eq!(marks(&cleaned), ["cleaned"]);
}

#[test]
fn a_redirect_is_not_followed_and_a_refusal_is_told() {
    let bucket = bucket();
    let other = Scripted::start(|asked| answer(asked, 200, "", b""));
    let away = format!("Location: {}/\r\n", other.url());
    let server = Scripted::start(move |asked| match asked.target.starts_with("/away") {
        true => answer(asked, 302, &away, b""),
        false => answer(asked, 500, "", b"not today"),
    });
    let gateway = setup(&bucket, &[&server.url()]).start();
    let tell = |path: &str| {
        format!(
            "[[steps]]\nname = \"tell\"\nnotify = {{ url = \"{}{path}?secret={SECRET}\" }}\n",
            server.url()
        )
    };
    for (path, part) in [
        ("/away", "/away answered 302"),
        ("/", "/ answered 500: not today"),
    ] {
        let flow = over(&gateway, &begin(&gateway, &tell(path)));
        let error = flow["error"].as_str().expect("an error");
        assert!(error.ends_with(part) && !error.contains(SECRET), "{error}");
    }
}

#[test]
fn only_an_administrator_may_ask_for_flows() {
    let bucket = bucket();
    let key = "[[access]]\naccess_key_id = \"READER\"\nsecret_access_key = \"reader-secret\"";
    let gateway = setup(&bucket, &[]).section(key).start();
    let basic = [("Authorization", "Basic UkVBREVSOnJlYWRlci1zZWNyZXQ=")];
    let text = script("a", "true", "");
    let posted =
        Connection::open(gateway.address()).upload("POST", "/-/flow", &basic, text.as_bytes());
    let _ = posted.expect(403);
    for (method, path) in [
        ("GET", "/-/flow"),
        ("GET", "/-/flow/x"),
        ("DELETE", "/-/flow/x"),
        ("POST", "/-/events/s3"),
    ] {
        let _ = gateway
            .request(method, path, &[("Content-Length", "0")])
            .expect(401);
        let refused = gateway.request(method, path, &[basic[0], ("Content-Length", "0")]);
        let _ = refused.expect(403);
    }
}

#[test]
fn a_step_copies_from_one_dataset_to_another_that_may_be_written() {
    let (bucket, scratch) = (bucket(), Scratch::new("flow"));
    let target = scratch.path().join("target");
    std::fs::create_dir(&target).expect("a directory");
    let section = format!(
        "[[datasets]]\nname = \"target\"\norigin = {:?}\nwritable = true",
        target.display().to_string()
    );
    let gateway = setup(&bucket, &[]).section(&section).start();
    let copy = |from: &str, to: &str| {
        format!("[[steps]]\nname = \"copy\"\ncopy = {{ from = {from:?}, to = {to:?} }}\n")
    };
    let refused = post(&gateway, &copy("target", "models/x/")).expect(400);
    assert!(
        refused.text().contains("writable = true"),
        "{}",
        refused.text()
    );
    let flow = over(&gateway, &begin(&gateway, &copy("models/m/", "target/x/")));
    assert_eq!(flow["state"], "done", "{flow}");
    for (name, size) in [("a.bin", 3_000_000), ("b.bin", 1_000)] {
        let copied = std::fs::read(target.join("x").join(name)).expect("it was copied");
        let there = gateway.get(&format!("/models/m/{name}")).expect(200);
        assert!(copied.len() == size && copied == there.body, "{name}");
    }
}
