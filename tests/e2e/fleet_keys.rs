//! What members of a fleet prove to each other: keys that are replaced while it serves, TLS between gateways.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use forebay_loadtest::client::Outcome;
use forebay_loadtest::origin::Settings;
use forebay_tests::fleet::{Fleet, Plan};
use forebay_tests::oracle::BLOCK;

const SIZE: u64 = 12 * BLOCK as u64 + 17;

fn plans(tls: bool) -> Vec<Plan> {
    let plan = |name| Plan {
        tls,
        ..Plan::new(name)
    };
    ["a", "b", "c"].map(plan).into()
}

/// Reads something cold through every member; all of it comes from their owners.
fn reads_as_one(fleet: &Fleet, key: &str) {
    fleet.origin.put(key, SIZE, 0);
    let before = fleet.origin.counters().bytes_sent;
    for read in fleet.herd(key, &[0, 1, 2], 2) {
        assert_eq!(read.outcome, Outcome::Whole, "{key}: {read:?}");
    }
    let read = fleet.origin.counters().bytes_sent - before;
    assert_eq!(read, SIZE, "{key} was read more than once for the fleet");
}

fn keys_are_replaced_member_by_member(tls: bool) {
    let mut plans = plans(tls);
    let (old, new) = (plans[0].key.clone(), "the key that comes next".to_owned());
    let mut fleet = Fleet::start(&plans, Settings::default(), &["fresh_for = \"10m\""]);
    reads_as_one(&fleet, "before");
    // Accepted, then first, then alone.
    let steps = [
        (&old, Some(&new)),
        (&new, Some(&old)),
        (&new, None::<&String>),
    ];
    for (step, (key, next)) in steps.into_iter().enumerate() {
        for index in 0..plans.len() {
            plans[index].key.clone_from(key);
            plans[index].key_next = next.cloned();
            fleet.restart(index, &plans[index], &plans);
            reads_as_one(&fleet, &format!("step-{step}-member-{index}"));
        }
    }
    for reason in ["key", "tls"] {
        let refused = fleet.metric("forebay_peer_refusals_total", &[("reason", reason)]);
        assert_eq!(refused, 0.0, "{reason}");
    }
}

#[test]
fn a_key_is_replaced_while_the_fleet_serves() {
    keys_are_replaced_member_by_member(false);
}

#[test]
fn a_key_is_replaced_under_tls() {
    keys_are_replaced_member_by_member(true);
}

#[test]
fn with_tls_nothing_of_the_bytes_is_seen_on_the_way_and_strangers_learn_nothing() {
    let mut plans = plans(true);
    for plan in &mut plans {
        plan.allowed.push("was refused".to_owned());
    }
    let fleet = Fleet::start(&plans, Settings::default(), &["fresh_for = \"10m\""]);
    reads_as_one(&fleet, "a.bin");
    assert!(fleet.metric("forebay_peer_bytes_total", &[("direction", "received")]) > 0.0);
    // Who begins in the clear, as a member without TLS would, is not spoken to in the clear.
    let mut stranger = TcpStream::connect(plans[0].fleet).expect("the fleet's port is open");
    stranger
        .set_read_timeout(Some(Duration::from_secs(10)))
        .expect("a limit is set");
    let mut hello = b"forebay\n\0\x01\0\x01\x04test\x01b".to_vec();
    hello.extend_from_slice(&[7; 32]);
    stranger.write_all(&hello).expect("the hello is sent");
    let mut answer = Vec::new();
    // A reset ends it too.
    let _ = stranger.read_to_end(&mut answer);
    // RFC 8446 §5.1: an alert, and nothing more.
    assert!(answer.is_empty() || answer[0] == 21, "{answer:?}");
    let refused = fleet.metric("forebay_peer_refusals_total", &[("reason", "tls")]);
    assert_eq!(refused, 1.0);
}

#[test]
fn members_of_which_one_has_no_tls_refuse_each_other_and_serve() {
    let mut plans = plans(true);
    plans.truncate(2);
    plans[1].tls = false;
    for plan in &mut plans {
        plan.allowed.push("was refused".to_owned());
    }
    let fleet = Fleet::start(&plans, Settings::default(), &["fresh_for = \"10m\""]);
    fleet.origin.put("a.bin", SIZE, 0);
    for read in fleet.herd("a.bin", &[0, 1], 2) {
        assert_eq!(read.outcome, Outcome::Whole, "{read:?}");
    }
    let refused = |reason| fleet.metric("forebay_peer_refusals_total", &[("reason", reason)]);
    assert!(refused("tls") + refused("stranger") > 0.0);
    assert_eq!(
        fleet.metric("forebay_peer_bytes_total", &[("direction", "received")]),
        0.0
    );
}
