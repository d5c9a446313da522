//! `[[schedules]]` and notifications: what begins by itself, once over all members, and what is refused at the start.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use forebay_tests::cluster::{Gateway, Setup, command};
use forebay_tests::http::Connection;
use forebay_tests::process::PATIENCE;
use forebay_tests::scratch::Scratch;
use forebay_tests::servers::free_address;
use forebay_tests::until;
use serde_json::Value;

use super::{allowed, bucket, marks, over, script, setup, step};
use crate::warm::Bucket;
use crate::warm::state::store;

/// Flows whose names begin so, as a gateway knows them.
fn runs(gateway: &Gateway, name: &str) -> Vec<Value> {
    let flows = gateway.json("/-/flow");
    let flows = flows["flows"].as_array().cloned().unwrap_or_default();
    let of = |flow: &Value| {
        flow["id"]
            .as_str()
            .is_some_and(|id| id.starts_with(&format!("{name}-")))
    };
    flows.into_iter().filter(of).collect()
}

/// The run of that number, once there are so many and it is over.
fn run(gateway: &Gateway, name: &str, number: usize) -> Value {
    let run = until(PATIENCE, "a run to begin", || {
        runs(gateway, name).get(number - 1).cloned()
    });
    over(gateway, run["id"].as_str().expect("an id"))
}

fn watch(name: &str, what: &str) -> String {
    format!(
        "[[schedules]]\nname = {name:?}\nwatch = {{ dataset = \"models\", {what}, every = \"200ms\" }}\n"
    )
}

/// What `forebay serve` says of these sections, and how it ends.
fn said(scratch: &Scratch, sections: &str) -> (Option<i32>, String) {
    let dataset =
        forebay_tests::cluster::Dataset::new("models", scratch.path().display().to_string());
    let text = Setup::of([dataset]).section(sections).text(scratch.path());
    let config = scratch.write("forebay.toml", text);
    let mut command = command();
    let output = command.arg("serve").arg("--config").arg(config).output();
    let output = output.expect("forebay runs");
    (
        output.status.code(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    )
}

#[test]
fn schedules_that_can_not_be_are_refused_at_the_start_with_their_lines() {
    let scratch = Scratch::new("schedules");
    let good = scratch.write("good.toml", script("a", "true", ""));
    let circle = scratch.write("circle.toml", script("a", "true", "needs = [\"a\"]"));
    let mut text =
        String::from("[flows]\nurls = [\"ftp://h/\", \"http://h/../x\"]\ncommands = [\"sh\"]\n");
    for (name, lines) in [
        ("never", "cron = \"0 0 31 2 *\"".to_owned()),
        ("none", "cron = \"every day\"".to_owned()),
        (
            "zone",
            "cron = \"0 0 * * *\"\ntime_zone = \"Mars/Olympus\"".to_owned(),
        ),
        (
            "missed",
            "cron = \"0 0 * * *\"\nmissed = \"later\"".to_owned(),
        ),
        ("none", "cron = \"0 0 * * *\"".to_owned()),
    ] {
        let _ = write!(
            text,
            "[[schedules]]\nname = {name:?}\nflow = {:?}\n{lines}\n",
            good.display().to_string()
        );
    }
    let _ = write!(
        text,
        "[[schedules]]\nname = \"Bad\"\n[[schedules]]\nname = \"w\"\nwatch = {{ dataset = \"models\" }}\n"
    );
    let (code, told) = said(&scratch, &text);
    assert_eq!(code, Some(2), "{told}");
    for part in [
        "neither http:// nor https://",
        "must be a list of programs by their whole paths",
        "`cron` names a time that never comes",
        "`cron` is no cron line",
        "`time_zone` is no time zone",
        "`missed` must be \"run_once\" or \"skip\"",
        "the schedule `none` stands at",
        "`name` must have 1 to 40",
        "begins nothing: add `cron` or `watch`",
        "`watch` is of one thing",
    ] {
        assert!(
            told.lines()
                .any(|line| line.contains("forebay.toml:") && line.contains(part)),
            "{part}: {told}"
        );
    }
    let section = format!(
        "{}\n[[schedules]]\nname = \"round\"\ncron = \"0 0 * * *\"\nflow = {:?}\n{}",
        allowed(&[]),
        circle.display().to_string(),
        watch("other", "prefix = \"x/\"").replace("\"models\"", "\"others\"")
    );
    let (code, told) = said(&scratch, &section);
    assert_eq!(code, Some(2), "{told}");
    assert!(
        told.contains("schedule round: the steps go in a circle: a needs a"),
        "{told}"
    );
    assert!(
        told.contains("schedule other: it watches \"others\", which is no dataset"),
        "{told}"
    );
}

#[test]
fn what_is_watched_is_warmed_when_it_changed_and_not_before() {
    let bucket = bucket();
    bucket.origin.put("list.txt", 0, 0);
    let sections = watch("tree", "prefix = \"m/\"") + &watch("one", "index = \"index.json\"");
    let gateway = setup(&bucket, &[]).section(&sections).start();
    let seen = gateway.data_dir().join("schedules/tree.json");
    until(PATIENCE, "the watch to have looked", || {
        seen.exists().then_some(())
    });
    assert!(runs(&gateway, "tree").is_empty());
    let _ = gateway.get("/-/resident/models/m/").expect(503);
    bucket.origin.put("m/c.bin", 5_000, 0);
    let flow = run(&gateway, "tree", 1);
    assert_eq!(
        (&flow["id"], &flow["state"]),
        (&"tree-1".into(), &"done".into()),
        "{flow}"
    );
    let _ = gateway.get("/-/resident/models/m/").expect(200);
    bucket.origin.put("m/a.bin", 3_000_000, 1);
    let flow = run(&gateway, "tree", 2);
    assert_eq!(flow["state"], "done", "{flow}");
    assert_eq!(step(&flow, "warm")["state"], "done");
    assert!(runs(&gateway, "one").is_empty());
}

#[test]
fn a_notification_makes_a_version_doubtful_and_wakes_what_watches() {
    let (bucket, scratch) = (bucket(), Scratch::new("schedules"));
    let mark = scratch.path().join("mark");
    let flow = scratch.write(
        "flow.toml",
        script("mark", &format!("echo run >> {}", mark.display()), ""),
    );
    let slow = watch("slow", "prefix = \"m/\"").replace("200ms", "1h");
    let sections = format!("{slow}flow = {:?}\n", flow.display().to_string());
    let gateway = setup(&bucket, &[]).section(&sections).start();
    let seen = gateway.data_dir().join("schedules/slow.json");
    until(PATIENCE, "the watch to have looked", || {
        seen.exists().then_some(())
    });
    let before = gateway.get("/models/m/a%20b.bin").status;
    assert_eq!(before, 404);
    bucket.origin.put("m/a b.bin", 2_000, 0);
    // What is known to be absent is asked again soon; an object that is known, only once it is due.
    let known = gateway
        .get("/models/m/a.bin")
        .expect(200)
        .need("etag")
        .to_owned();
    bucket.origin.put("m/a.bin", 3_000_000, 7);
    assert_eq!(
        gateway.request("HEAD", "/models/m/a.bin", &[]).need("etag"),
        known
    );
    let event = |key: &str| {
        format!(
            r#"{{"Records":[{{"eventName":"ObjectCreated:Put","s3":{{"bucket":{{"name":"bucket"}},"object":{{"key":"{key}"}}}}}}]}}"#
        )
    };
    let tell = |body: &str| {
        Connection::open(gateway.address()).upload("POST", "/-/events/s3", &[], body.as_bytes())
    };
    let answer = tell(&event("m/a.bin")).expect(200).text();
    assert_eq!(answer, r#"{"doubted":1,"unknown":0}"#);
    assert_ne!(
        gateway.request("HEAD", "/models/m/a.bin", &[]).need("etag"),
        known
    );
    until(PATIENCE, "the watch to run its flow", || {
        (marks(&mark) == ["run"]).then_some(())
    });
    let _ = tell(&event("m/a+b.bin")).expect(200);
    let _ = gateway.get("/models/m/a%20b.bin").expect(200);
    let other = tell(&event("x").replace(
        "\"bucket\":{\"name\":\"bucket\"}",
        "\"bucket\":{\"name\":\"other\"}",
    ));
    assert_eq!(other.expect(200).text(), r#"{"doubted":0,"unknown":1}"#);
    let _ = tell(r#"{"Service":"Amazon S3","Event":"s3:TestEvent"}"#).expect(200);
    let _ = tell("[1]").expect(400);
}

fn member(bucket: &Bucket, sections: &str, name: &str) -> Gateway {
    let address = free_address();
    let fleet = format!(
        "[fleet]\nname = \"test\"\nmember = {name:?}\nkey = \"the key of this fleet\"\nlisten = \"{address}\"\n"
    );
    bucket.setup().section(sections).section(&fleet).start()
}

#[test]
fn one_member_of_a_fleet_begins_a_run_and_one_that_was_missed_is_run_once() {
    let (_moto, state) = store();
    let (bucket, scratch) = (bucket(), Scratch::new("schedules"));
    let mark = scratch.path().join("mark");
    let flow = scratch.write(
        "flow.toml",
        script("mark", &format!("echo run >> {}", mark.display()), ""),
    );
    // A time that is far off: it was missed once somebody wrote that it was last run long ago.
    let cron = |name: &str, missed: &str| {
        format!(
            "[[schedules]]\nname = {name:?}\ncron = \"{}\"\ntime_zone = \"Asia/Shanghai\"\nmissed = {missed:?}\nflow = {:?}\n",
            far_off(),
            flow.display().to_string()
        )
    };
    let sections = format!(
        "{state}\n{}\n{}",
        allowed(&[]),
        cron("often", "run_once") + &cron("never", "skip")
    );
    for name in ["often", "never"] {
        let body = r#"{"last":1577836800000,"seen":"","turn":0}"#;
        _moto.put(
            "state",
            &format!("forebay/schedules/{name}.json"),
            body.as_bytes(),
        );
    }
    let members = ["a", "b", "c"].map(|name| member(&bucket, &sections, name));
    for member in &members {
        let flow = run(member, "often", 1);
        assert_eq!(flow["state"], "done", "{flow}");
    }
    assert_eq!(marks(&mark), ["run"]);
    for member in &members {
        assert_eq!(runs(member, "often").len(), 1);
        assert!(runs(member, "never").is_empty());
    }
}

/// A line for a time of each day that is six hours from now, in Shanghai.
fn far_off() -> String {
    let now = SystemTime::now() + Duration::from_secs((8 + 6) * 3600);
    let since = now
        .duration_since(SystemTime::UNIX_EPOCH)
        .expect("after 1970");
    format!("0 {} * * *", since.as_secs() / 3600 % 24)
}
