//! Membership, whole, in virtual time: what a fleet of 3, 100 and 200 knows and when, under loss, kills,
//! restarts, partitions and changes of keys. Times are printed; the promised ones are asserted.

#![allow(clippy::unwrap_used)]

mod world;

use std::time::Duration;

use forebay_ring::State;
use forebay_ring::gossip::{Ended, KEEPS_PLACE};
use world::{KEY, World, address, identity, keys, ms};

fn settled(seed: u64, count: usize) -> World {
    let mut world = World::new(seed);
    world.start_many(count);
    world.until("all see all", ms(5000), |world| world.converged(count));
    world.run_for(ms(10_000));
    world
}

#[test]
fn a_mass_start_of_200_converges_within_3_s() {
    for seed in [1, 2] {
        let mut world = World::new(seed);
        world.start_many(200);
        world.until("200 see 200", ms(3000), |world| world.converged(200));
    }
}

#[test]
fn at_100_members_a_join_is_known_within_5_s_and_a_kill_within_10() {
    let mut world = settled(3, 100);

    let before: Vec<_> = world.nodes.iter().map(|node| node.core.counts()).collect();
    world.run_for(ms(60_000));
    let (mut gossip, mut packets, mut syncs) = (0, 0, 0);
    for (node, before) in world.nodes.iter().zip(before) {
        let after = node.core.counts();
        gossip += after.bytes_sent - before.bytes_sent;
        packets += after.packets_sent - before.packets_sent;
        syncs += after.sync_bytes_sent - before.sync_bytes_sent;
    }
    let each = |sum: u64| sum as f64 / 100.0 / 60.0;
    println!(
        "idle, each of 100 sends: gossip {:.0} B/s in {:.1} packets (+28 B of IP and UDP each), syncs {:.0} B/s",
        each(gossip),
        each(packets),
        each(syncs)
    );
    assert!(each(gossip + syncs) < 4000.0);

    world.start(100);
    world.until("a join is known", ms(5000), |world| world.converged(101));

    world.kill(50);
    world.until("a kill is known", ms(10_000), |world| {
        world.all_see("gw-50", State::Silent)
    });
    let killed = world.now;
    assert!(world.up().all(|node| world.placed(node).len() == 101));
    world.until("it has lost its place", ms(40_000), |world| {
        world.all_see("gw-50", State::Down)
    });
    assert!(world.now - killed > KEEPS_PLACE - ms(3000));
    assert!(world.up().all(|node| world.placed(node).len() == 100));
    world.until("it is shown no more", ms(620_000), |world| {
        world.up().all(|node| world.state(node, "gw-50").is_none())
    });
}

#[test]
fn a_restart_within_30_s_moves_nothing() {
    let mut world = settled(4, 30);
    let placed = world.placed(0);
    world.kill(7);
    world.until("a kill is known", ms(10_000), |world| {
        world.all_see("gw-7", State::Silent)
    });
    for _ in 0..20 {
        world.run_for(ms(1000));
        assert!(world.up().all(|node| world.placed(node) == placed));
    }
    world.start(7);
    world.until("it is back", ms(5000), |world| world.converged(30));
    for _ in 0..40 {
        world.run_for(ms(1000));
        assert!(world.up().all(|node| world.placed(node) == placed));
    }
}

/// Who was there before a moment ago, as `node` sees it: the names without their stem.
fn before(world: &World, node: usize) -> Vec<String> {
    let fleets = world.before(node).into_iter();
    fleets
        .map(|fleet| {
            let names = fleet.iter().map(|member| member.name().to_owned());
            names.collect::<String>().replace("gw-", "")
        })
        .collect()
}

#[test]
fn who_was_there_before_is_known_to_all_and_a_restart_makes_nobody_new() {
    let mut world = settled(21, 4);
    // They came together; the first is as new as the others.
    assert!(before(&world, 0).is_empty());
    world.run_for(Duration::from_secs(600));
    world.start(4);
    world.until("a join is known", ms(5000), |world| world.converged(5));
    for node in world.up().collect::<Vec<_>>() {
        assert_eq!(before(&world, node), ["0123"], "{node}");
    }
    world.run_for(ms(60_000));
    world.act(2, |core, now| core.drain(now));
    world.until("all know who drains", ms(2000), |world| {
        world.all_see("gw-2", State::Draining)
    });
    assert_eq!(before(&world, 4), ["0123"], "it has what it had");
    world.act(2, |core, now| core.leave(now));
    world.kill(2);
    world.until("it is gone", ms(2000), |world| {
        world.all_see("gw-2", State::Down)
    });
    assert_eq!(before(&world, 0), ["013"]);
    let back = world.start(2);
    world.until("it is back", ms(5000), |world| world.converged(5));
    assert_eq!(before(&world, back), ["0134", "013"]);
    assert_eq!(before(&world, 4), ["0134", "013"]);
    // A restart that is over in time leaves others where they were.
    world.run_for(ms(700_000));
    world.kill(1);
    world.run_for(ms(10_000));
    let again = world.start(1);
    world.until("it is back", ms(5000), |world| world.converged(5));
    assert!(before(&world, 0).is_empty());
    // It begins with nothing, and others may have stood in for it.
    assert_eq!(before(&world, again), ["0234"]);
    world.run_for(ms(600_000));
    assert!(world.up().all(|node| before(&world, node).is_empty()));
}

#[test]
fn who_was_parted_from_others_looks_back_to_them() {
    let mut world = settled(22, 3);
    world.run_for(Duration::from_secs(600));
    world.partition = Some(|address| address == world::address(2));
    world.run_for(ms(60_000));
    assert_eq!((world.placed(0).len(), world.placed(2).len()), (2, 1));
    world.partition = None;
    world.until("whole again", ms(35_000), |world| world.converged(3));
    assert_eq!(before(&world, 2), ["01"]);
    assert_eq!(before(&world, 0), ["12"]);
}

#[test]
fn three_lose_and_find_each_other_over_a_partition() {
    let mut world = settled(5, 3);
    world.partition = Some(|address| address == world::address(2));
    world.until("both sides know", ms(10_000), |world| {
        world.state(0, "gw-2") == Some(State::Silent)
            && world.state(2, "gw-0") == Some(State::Silent)
    });
    world.run_for(ms(60_000));
    assert_eq!((world.placed(0).len(), world.placed(2).len()), (2, 1));
    world.partition = None;
    world.until("whole again", ms(35_000), |world| world.converged(3));
}

#[test]
fn a_suspicion_ends_though_whoever_began_it_was_parted_too() {
    let one: [fn(std::net::SocketAddr) -> bool; 3] = [
        |other| other == world::address(0),
        |other| other == world::address(1),
        |other| other == world::address(2),
    ];
    for seed in 100..300 {
        let mut world = settled(seed, 5);
        // One after the other, each in the middle of what it found out about the one before.
        for turn in 0..4 {
            world.partition = Some(one[(seed + turn) as usize % 3]);
            world.run_for(ms(300 + (seed * 377 + turn * 811) % 4500));
        }
        world.partition = None;
        world.until("all see all again", ms(35_000), |world| world.converged(5));
    }
}

#[test]
fn halves_of_40_find_each_other_after_a_partition() {
    let mut world = settled(6, 40);
    world.partition = Some(|address| address.port() == 7071 && address > world::address(19));
    world.until("each half is alone", ms(60_000), |world| {
        world.up().all(|node| world.placed(node).len() == 20)
    });
    world.partition = None;
    world.until("whole again", ms(35_000), |world| world.converged(40));
}

#[test]
fn loss_of_a_tenth_delays_and_breaks_nothing() {
    let mut world = World::new(7);
    world.loss = 0.1;
    world.start_many(50);
    world.until("50 see 50", ms(5000), |world| world.converged(50));
    world.kill(9);
    world.until("a kill is known", ms(10_000), |world| {
        world.all_see("gw-9", State::Silent)
    });
    let placed = world.placed(0);
    world.run_for(ms(20_000));
    assert!(world.up().all(|node| world.placed(node) == placed));
}

#[test]
fn draining_gives_the_place_up_at_once_and_leaving_keeps_it() {
    let mut world = settled(8, 10);
    world.act(3, |core, now| core.drain(now));
    world.until("all know who drains", ms(2000), |world| {
        world.all_see("gw-3", State::Draining)
    });
    assert!(world.up().all(|node| world.placed(node).len() == 9));
    world.act(4, |core, now| core.leave(now));
    world.kill(4);
    world.until("all know who left", ms(2000), |world| {
        world.all_see("gw-4", State::Silent)
    });
    assert!(world.up().all(|node| world.placed(node).len() == 9));
    world.act(3, |core, now| core.leave(now));
    world.kill(3);
    world.until("who drained and left is gone", ms(2000), |world| {
        world.all_see("gw-3", State::Down)
    });
    // Started again, both are as before.
    world.start(3);
    world.start(4);
    world.until("both are back", ms(5000), |world| world.converged(10));
}

#[test]
fn of_two_with_one_name_the_older_ends() {
    let mut world = settled(9, 5);
    let twin = identity("gw-3", address(77), 2_000_000);
    let twin = world.start_as(twin, &keys(KEY, None));
    world.until("the older ends", ms(10_000), |world| {
        world.nodes[3].ended.is_some()
    });
    let Some(Ended::Superseded { name, address }) = world.nodes[3].ended.clone() else {
        panic!()
    };
    assert_eq!((&*name, address), ("gw-3", world::address(77)));
    assert!(world.nodes[twin].up);
    world.until("the others know the later", ms(5000), |world| {
        world.converged(5)
    });
}

#[test]
fn a_fresh_start_wins_although_its_clock_is_behind() {
    let mut world = settled(10, 5);
    let twin = world.start_as(identity("gw-3", address(77), 5), &keys(KEY, None));
    world.until("the older ends", ms(10_000), |world| {
        world.nodes[3].ended.is_some()
    });
    world.until("the others know the later", ms(5000), |world| {
        world.converged(5)
    });
    assert!(world.nodes[twin].up);
}

#[test]
fn of_two_that_start_at_once_exactly_one_goes_on() {
    for seed in 11..15 {
        let mut world = settled(seed, 3);
        let one = world.start_as(identity("twin", address(70), 2_000_000), &keys(KEY, None));
        let other = world.start_as(identity("twin", address(71), 2_000_000), &keys(KEY, None));
        world.run_for(ms(30_000));
        assert_ne!(world.nodes[one].up, world.nodes[other].up);
        assert!(world.converged(4));
    }
}

#[test]
fn keys_are_changed_member_by_member() {
    const NEW: &[u8] = b"the next key of the fleet";
    let mut world = settled(15, 6);
    for keys in [keys(KEY, Some(NEW)), keys(NEW, Some(KEY)), keys(NEW, None)] {
        for n in 0..6 {
            let node = world
                .up()
                .find(|node| world.nodes[*node].address == address(n))
                .unwrap();
            world.kill(node);
            let incarnation = 1_000_000 + world.now.as_millis() as u64;
            world.start_as(identity(&format!("gw-{n}"), address(n), incarnation), &keys);
            world.until("it is back", ms(10_000), |world| world.converged(6));
        }
    }
    assert!(
        world
            .up()
            .all(|node| world.nodes[node].core.counts().refused[1] == 0)
    );
}

#[test]
fn another_key_is_refused_and_counted() {
    let mut world = settled(16, 3);
    let stranger = world.start_as(
        identity("stranger", address(66), 2_000_000),
        &keys(b"a key that nobody knows", None),
    );
    world.run_for(ms(20_000));
    assert!(
        world.nodes[..3]
            .iter()
            .all(|node| node.core.counts().refused[1] > 0)
    );
    assert!((0..3).all(|node| world.state(node, "stranger").is_none()));
    assert_eq!(world.nodes[stranger].core.others(), 0);
}

#[test]
fn recorded_packets_bring_nobody_back() {
    let mut world = World::new(17);
    world.recorded = Some(Vec::new());
    world.start_many(4);
    world.run_for(ms(20_000));
    world.kill(3);
    let recorded = world.recorded.take().unwrap();
    // Longer than anybody remembers the dead; one member has even been restarted since.
    world.run_for(Duration::from_secs(1000));
    world.kill(2);
    world.start(2);
    world.run_for(ms(10_000));
    assert!(world.up().all(|node| world.state(node, "gw-3").is_none()));
    for (to, packet) in &recorded {
        let node = world.up().find(|node| world.nodes[*node].address == *to);
        if let Some(node) = node {
            world.act(node, |core, now| core.receive(now, address(9), packet));
        }
    }
    world.run_for(ms(100));
    assert!(recorded.len() > 100);
    assert!(world.up().all(|node| world.state(node, "gw-3").is_none()));
    assert!(world.converged(3));
}

#[test]
fn garbage_is_refused_without_harm() {
    let mut world = settled(18, 3);
    let seal = keys(KEY, None).derive("gossip");
    for length in 0..200 {
        let bytes = vec![length as u8; length];
        world.act(0, |core, now| core.receive(now, address(9), &bytes));
        let sealed = seal.seal(&bytes, b"");
        world.act(0, |core, now| {
            core.receive(now, address(9), &sealed);
            assert!(core.answer(now, None, &sealed).is_none());
        });
    }
    assert!(world.converged(3));
}

#[test]
fn one_seed_gives_one_trace() {
    let run = |seed| {
        let mut world = World::new(seed);
        world.start_many(30);
        world.run_for(ms(5000));
        world.kill(4);
        world.run_for(ms(15_000));
        world.trace()
    };
    assert_eq!(run(19), run(19));
    assert_ne!(run(19), run(20));
}
