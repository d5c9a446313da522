//! Membership on real sockets: a few gateways on loopback, in one process, that find and lose each other.

#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use bytes::Bytes;
use forebay_ring::gossip::{Ended, Exchange, Identity, Membership, Settings};
use forebay_ring::seal::FleetKeys;
use forebay_ring::{Fleet, Member, State};

/// The fleet ports' TCP side: calls instead of connections.
#[derive(Default)]
struct Calls {
    members: Mutex<HashMap<SocketAddr, Weak<Membership>>>,
}

impl Exchange for Calls {
    async fn exchange(&self, to: SocketAddr, sealed: Bytes) -> io::Result<Bytes> {
        let member = self
            .members
            .lock()
            .unwrap()
            .get(&to)
            .and_then(Weak::upgrade);
        let member = member.ok_or(io::ErrorKind::ConnectionRefused)?;
        member
            .answer_sync(to, &sealed)
            .ok_or_else(|| io::ErrorKind::PermissionDenied.into())
    }
}

async fn start(
    calls: &Arc<Calls>,
    name: &str,
    incarnation: u64,
    host: &str,
    seeds: &[SocketAddr],
) -> Arc<Membership> {
    let listen: SocketAddr = format!("{host}:0").parse().unwrap();
    let settings = Settings {
        fleet: "weights".into(),
        keys: FleetKeys::new("weights", b"the key of the fleet", None).unwrap(),
        identity: Identity {
            member: Member::new(name, "z", NonZeroU16::MIN).unwrap(),
            address: listen,
            client_url: "http://127.0.0.1:7070".into(),
            version: "0.1.0".into(),
            protocols: (1, 1),
            settings: incarnation % 2,
            incarnation,
            // Chance, for a gateway; here what differs anyway.
            instance: name.bytes().map(u64::from).sum(),
        },
        listen,
        seeds: seeds
            .iter()
            .map(|seed| seed.to_string().parse().unwrap())
            .collect(),
    };
    let membership = Arc::new(
        Membership::start(settings, Arc::clone(calls))
            .await
            .unwrap(),
    );
    let mut members = calls.members.lock().unwrap();
    members.insert(membership.address(), Arc::downgrade(&membership));
    drop(members);
    membership
}

async fn until(membership: &Membership, holds: impl Fn(&Fleet) -> bool) -> Arc<Fleet> {
    let mut fleet = membership.fleet();
    let seen = tokio::time::timeout(
        Duration::from_secs(20),
        fleet.wait_for(|fleet| holds(fleet)),
    )
    .await;
    Arc::clone(&seen.expect("the fleet comes to that").unwrap())
}

fn all_in(count: usize) -> impl Fn(&Fleet) -> bool {
    move |fleet| {
        let alive = fleet
            .peers
            .values()
            .filter(|peer| peer.state == State::Alive)
            .count();
        alive == count && fleet.table.members().len() == count
    }
}

async fn a_fleet_forms_drains_and_leaves_on(host: &str) {
    let calls = Arc::new(Calls::default());
    let first = start(&calls, "gw-0", 2, host, &[]).await;
    first.joined().await;
    let seeds = [first.address()];
    let mut members = vec![first];
    for n in 1..5 {
        let member = start(&calls, &format!("gw-{n}"), 2, host, &seeds).await;
        member.joined().await;
        // Ready means that the fleet is known, not only that somebody answered.
        assert!(member.fleet().borrow().table.members().len() > n);
        members.push(member);
    }
    let mut epochs = Vec::new();
    for member in &members {
        epochs.push(until(member, all_in(5)).await.table.epoch().to_owned());
    }
    assert!(epochs.iter().all(|epoch| *epoch == epochs[0]));

    members[1].drain();
    for member in &members {
        let fleet = until(member, |fleet| fleet.table.member("gw-1").is_none()).await;
        assert_eq!(fleet.peer("gw-1").unwrap().state, State::Draining);
    }
    members[2].leave().await;
    let fleet = until(&members[0], |fleet| !fleet.answers("gw-2")).await;
    assert_eq!(fleet.peer("gw-2").unwrap().state, State::Silent);
    assert!(fleet.table.member("gw-2").is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_forms_drains_and_leaves_on_ipv4() {
    a_fleet_forms_drains_and_leaves_on("127.0.0.1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_forms_drains_and_leaves_on_ipv6() {
    a_fleet_forms_drains_and_leaves_on("[::1]").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_older_of_two_ends_with_a_sentence() {
    let calls = Arc::new(Calls::default());
    let first = start(&calls, "gw-0", 2, "127.0.0.1", &[]).await;
    let seeds = [first.address()];
    let older = start(&calls, "twin", 4, "127.0.0.1", &seeds).await;
    until(&first, all_in(2)).await;
    // Past the first seconds, in which a start may still make itself the later one: by its own clock.
    tokio::time::sleep_until(tokio::time::Instant::now() + Duration::from_millis(5100)).await;
    let later = start(&calls, "twin", 6, "127.0.0.1", &seeds).await;
    let ended = tokio::time::timeout(Duration::from_secs(20), older.ended())
        .await
        .unwrap();
    assert!(matches!(&ended, Ended::Superseded { address, .. } if *address == later.address()));
    assert!(
        ended.to_string().contains("another gateway named `twin`"),
        "{ended}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn seeds_that_refuse_or_name_ourselves_delay_nobody() {
    let calls = Arc::new(Calls::default());
    let nobody: SocketAddr = "127.0.0.1:9".parse().unwrap();
    let started = tokio::time::Instant::now();
    let alone = start(&calls, "gw-0", 2, "127.0.0.1", &[nobody]).await;
    alone.joined().await;
    assert!(
        started.elapsed() < Duration::from_secs(2),
        "{:?}",
        started.elapsed()
    );
    assert_eq!(alone.fleet().borrow().table.members().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn other_settings_are_seen() {
    let calls = Arc::new(Calls::default());
    let first = start(&calls, "gw-0", 2, "127.0.0.1", &[]).await;
    let _second = start(&calls, "gw-1", 3, "127.0.0.1", &[first.address()]).await;
    let fleet = until(&first, all_in(2)).await;
    let differing: Vec<&str> = fleet.differing().map(|peer| peer.member.name()).collect();
    assert_eq!(differing, ["gw-1"]);
}
