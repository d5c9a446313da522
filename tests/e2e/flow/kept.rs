//! Flows and kills: one goes on with the steps that had not ended, with the next run of its gateway or with another member.

use forebay_tests::cluster::{Gateway, command};
use forebay_tests::process::PATIENCE;
use forebay_tests::scratch::Scratch;
use forebay_tests::servers::free_address;
use forebay_tests::until;

use super::{allowed, begin, bucket, flow, is_alive, marks, over, reached, script, setup, step};
use crate::warm::Bucket;
use crate::warm::state::store;

/// Three steps that each leave a mark; the second waits for a file.
fn steps(scratch: &Scratch) -> String {
    let at = |name: &str| scratch.path().join(name).display().to_string();
    let (marks, pids, gate) = (at("marks"), at("pids"), at("gate"));
    let waits = format!(
        "echo two >> {marks}; echo $$ >> {pids}; while [ ! -e {gate} ]; do sleep 0.05; done"
    );
    [
        script("one", &format!("echo one >> {marks}"), ""),
        script("two", &waits, "needs = [\"one\"]"),
        script(
            "three",
            &format!("echo three >> {marks}"),
            "needs = [\"two\"]",
        ),
    ]
    .concat()
}

#[test]
fn a_flow_goes_on_after_its_gateway_was_killed_and_what_had_ended_is_not_run_again() {
    let (bucket, scratch) = (bucket(), Scratch::new("flow"));
    let gateway = setup(&bucket, &[]).start();
    let id = begin(&gateway, &steps(&scratch));
    reached(&gateway, &id, "two", "running");
    let (pids, file) = (scratch.path().join("pids"), scratch.path().join("marks"));
    until(PATIENCE, "its program to run", || {
        (marks(&pids).len() == 1).then_some(())
    });
    let process = gateway.data_dir().join(format!("flows/{id}.json"));
    until(PATIENCE, "its program to be written down", || {
        let text = std::fs::read_to_string(&process).unwrap_or_default();
        text.contains(&format!("\"pid\":{}", marks(&pids)[0]))
            .then_some(())
    });
    let home = gateway.kill();
    let config = home.path().join("forebay.toml");
    let mut again = command();
    again.arg("serve").arg("--config").arg(config);
    let gateway = Gateway::start(&mut again, home, vec!["direct I/O".to_owned()]);
    until(PATIENCE, "the second program to run", || {
        (marks(&pids).len() == 2).then_some(())
    });
    // What the killed one left behind is gone.
    until(PATIENCE, "the first program to be gone", || {
        (!is_alive(&marks(&pids)[0])).then_some(())
    });
    scratch.write("gate", "");
    let flow = over(&gateway, &id);
    assert_eq!(flow["state"], "done", "{flow}");
    assert_eq!(marks(&file), ["one", "two", "two", "three"]);
    assert_eq!(step(&flow, "two")["tries"], 1);
}

#[test]
fn a_flow_that_was_stopped_in_good_order_goes_on_too_and_its_program_does_not_outlive_the_gateway()
{
    let (bucket, scratch) = (bucket(), Scratch::new("flow"));
    let data = Scratch::new("data");
    let text = setup(&bucket, &[]).text(data.path());
    let config = data.write("forebay.toml", text);
    let start = || {
        let mut command = command();
        command.arg("serve").arg("--config").arg(&config);
        let allowed = vec!["direct I/O".to_owned()];
        Gateway::start(&mut command, Scratch::new("gateway"), allowed)
    };
    let gateway = start();
    let id = begin(&gateway, &steps(&scratch));
    let pids = scratch.path().join("pids");
    until(PATIENCE, "its program to run", || {
        (marks(&pids).len() == 1).then_some(())
    });
    let _ = gateway.stop();
    until(PATIENCE, "its program to be gone", || {
        (!is_alive(&marks(&pids)[0])).then_some(())
    });
    let gateway = start();
    scratch.write("gate", "");
    assert_eq!(over(&gateway, &id)["state"], "done");
    assert_eq!(
        marks(&scratch.path().join("marks")),
        ["one", "two", "two", "three"]
    );
}

/// A member of this name that knows nobody.
fn member(bucket: &Bucket, section: &str, name: &str) -> Gateway {
    let address = free_address();
    let fleet = format!(
        "[fleet]\nname = \"test\"\nmember = {name:?}\nkey = \"the key of this fleet\"\nlisten = \"{address}\"\n"
    );
    let setup = bucket.setup().section(section).section(&fleet);
    setup.section(&allowed(&[])).start()
}

#[test]
fn a_flow_whose_gateway_is_lost_is_taken_over_and_is_cancelled_through_any_member() {
    let (_moto, section) = store();
    let (bucket, scratch) = (bucket(), Scratch::new("flow"));
    let first = member(&bucket, &section, "a");
    let other = member(&bucket, &section, "b");
    let id = begin(&first, &steps(&scratch));
    reached(&first, &id, "two", "running");
    // A step is running from when it is planned: its program is there a little later.
    let pids = scratch.path().join("pids");
    until(PATIENCE, "its program to run", || {
        (marks(&pids).len() == 1).then_some(())
    });
    until(PATIENCE, "the other to know it", || {
        (other.get(&format!("/-/flow/{id}")).status == 200).then_some(())
    });
    let _ = first.kill();
    until(PATIENCE, "the other to take it over", || {
        (marks(&pids).len() == 2).then_some(())
    });
    let third = member(&bucket, &section, "c");
    until(PATIENCE, "the third to know it", || {
        (third.get(&format!("/-/flow/{id}")).status == 200).then_some(())
    });
    let _ = third
        .request("DELETE", &format!("/-/flow/{id}"), &[])
        .expect(202);
    let ended = over(&other, &id);
    assert_eq!(ended["state"], "cancelled", "{ended}");
    assert_eq!(over(&third, &id)["state"], "cancelled");
    assert_eq!(step(&flow(&third, &id), "one")["tries"], 1);
    assert_eq!(marks(&scratch.path().join("marks")), ["one", "two", "two"]);
    // The first member's program is an orphan: its machine is lost with it, but not in this test.
    scratch.write("gate", "");
}
