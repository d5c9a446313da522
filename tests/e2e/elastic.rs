//! Members come, go, crash and come back, under readers: no read fails, and the object store does not notice.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use forebay_loadtest::client::{Ask, Client, Outcome, Read, Want};
use forebay_loadtest::origin::Settings;
use forebay_tests::fleet::{Fleet, Plan};
use forebay_tests::oracle::BLOCK;
use forebay_tests::process::{PATIENCE, Signal};
use forebay_tests::scratch::Scratch;
use forebay_tests::until;
use tokio::task::JoinHandle;

/// Each object has so many bytes.
const SIZE: u64 = 16 * BLOCK as u64 + 17;

const KEYS: [&str; 4] = ["0.bin", "1.bin", "2.bin", "3.bin"];

/// Bytes of all.
const ALL: u64 = SIZE * KEYS.len() as u64;

/// Logged where the temporary directory's file system knows no direct I/O.
const BUFFERED: &str = "direct I/O does not work there";

/// Handing over that may take for ever: a test that waits for nobody would end by its own limit.
const FOR_EVER: &str = "drain_after = \"1h\"\n";

fn plans(names: &[&str], nvme: &str) -> Vec<Plan> {
    let plan = |name: &&str| Plan {
        nvme: nvme.to_owned(),
        allowed: vec![BUFFERED.to_owned()],
        lines: FOR_EVER.to_owned(),
        ..Plan::new(name)
    };
    names.iter().map(plan).collect()
}

/// A fleet that has read everything, and the bytes that its origin has sent for it.
fn warm(plans: &[Plan]) -> (Fleet, u64) {
    let fleet = Fleet::start(plans, Settings::default(), &["fresh_for = \"10m\""]);
    for key in KEYS {
        fleet.origin.put(key, SIZE, 0);
    }
    let all: Vec<usize> = (0..plans.len()).collect();
    read_all(&fleet, &all);
    let sent = fleet.origin.counters().bytes_sent;
    assert!(sent >= ALL);
    (fleet, sent)
}

fn all_whole(reads: &[Read]) {
    for read in reads {
        assert_eq!(read.outcome, Outcome::Whole, "{read:?}");
    }
}

/// Reads everything through each of these.
fn read_all(fleet: &Fleet, through: &[usize]) {
    for key in KEYS {
        all_whole(&fleet.herd(key, through, 1));
    }
}

/// What the origin has sent beside the first `sent` bytes.
fn again(fleet: &Fleet, sent: u64) -> u64 {
    fleet.origin.counters().bytes_sent - sent
}

/// Readers that never stop.
struct Readers {
    over: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
    tasks: Vec<JoinHandle<Vec<Read>>>,
}

impl Readers {
    /// Four of everything, through these.
    fn start(fleet: &Fleet, through: &[usize]) -> Self {
        let (over, done) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let tasks = (0..4).map(|reader| {
            let gateway = &fleet.gateways[through[reader % through.len()]];
            let mut client = Client::new(&format!("{}/models", gateway.url())).expect("a URL");
            let (over, done) = (Arc::clone(&over), Arc::clone(&done));
            fleet.runtime.spawn(async move {
                let mut reads = Vec::new();
                for round in 0.. {
                    let key = KEYS[(reader + round) % KEYS.len()];
                    reads.push(client.read(&Ask::new(key, Want::Whole)).await);
                    done.fetch_add(1, Ordering::Relaxed);
                    if over.load(Ordering::Relaxed) {
                        break;
                    }
                }
                reads
            })
        });
        let tasks = tasks.collect();
        let readers = Self { over, done, tasks };
        readers.go_on();
        readers
    }

    /// Returns once each has read something more.
    fn go_on(&self) {
        let then = self.done.load(Ordering::Relaxed);
        until(Duration::from_secs(60), "more reads", || {
            (self.done.load(Ordering::Relaxed) >= then + 8).then_some(())
        });
    }

    /// Lets them end; every read has to have been whole.
    fn end(self, fleet: &Fleet) {
        self.over.store(true, Ordering::Relaxed);
        for task in self.tasks {
            all_whole(&fleet.runtime.block_on(task).expect("no reader panics"));
        }
    }
}

/// Waits until the member at `index` holds every block that it owns, by the word of `/-/blocks`.
fn holds_its_own(fleet: &Fleet, index: usize, name: &str) {
    until(PATIENCE, "a member to hold what it owns", || {
        let mut owned = 0;
        for key in KEYS {
            let answer = fleet.gateways[index].json(&format!("/-/blocks/models/{key}"));
            for block in answer["blocks"].as_array()? {
                if block["owner"] == name {
                    owned += 1;
                    let holders = block["holders"].as_array()?;
                    holders.iter().find(|holder| holder["member"] == name)?;
                }
            }
        }
        let moving = fleet.gateways[index].json("/-/ring")["moving"]["blocks"].as_u64()?;
        (owned > 0 && moving == 0).then_some(())
    });
}

#[test]
fn a_member_that_joins_under_readers_takes_its_blocks_from_those_that_had_them() {
    let mut plans = plans(&["a", "b", "c"], "0");
    let (mut fleet, sent) = warm(&plans);
    let readers = Readers::start(&fleet, &[0, 1, 2]);
    plans.extend(self::plans(&["d"], "0"));
    fleet.join(&plans[3], &plans);
    fleet.know_each_other();
    readers.go_on();
    readers.end(&fleet);
    // What nobody reads comes too.
    holds_its_own(&fleet, 3, "d");
    read_all(&fleet, &[3, 0, 1, 2]);
    let read = again(&fleet, sent);
    assert!(
        read <= ALL / 50,
        "{read} of {ALL} bytes that the fleet held"
    );
    let taken = fleet.gateways[3].metric("forebay_handover_bytes_total", &[("direction", "taken")]);
    assert!(taken > 0.0);
}

#[test]
fn a_member_that_is_stopped_under_readers_hands_its_blocks_over() {
    let (mut fleet, sent) = warm(&plans(&["a", "b", "c"], "0"));
    let readers = Readers::start(&fleet, &[0, 2]);
    let log = fleet.gateways.remove(1).stop();
    readers.go_on();
    readers.end(&fleet);
    read_all(&fleet, &[0, 1]);
    assert!(
        again(&fleet, sent) <= ALL / 50,
        "{} of {ALL}",
        again(&fleet, sent)
    );
    let told = log.lines().find(|line| line.contains("handed over"));
    assert!(told.is_some_and(|line| line.contains("100 %")), "{log}");
}

#[test]
fn a_member_that_is_drained_hands_its_blocks_over_and_goes_on_answering() {
    let (fleet, sent) = warm(&plans(&["a", "b", "c"], "0"));
    let output = fleet.gateways[1].client(&["drain"]);
    assert!(output.status.success());
    until(PATIENCE, "all to be handed over", || {
        let log = fleet.gateways[1].process().stderr();
        log.contains("handed over").then_some(())
    });
    read_all(&fleet, &[0, 1, 2]);
    assert_eq!(again(&fleet, sent), 0);
    let given = fleet.gateways[1].metric("forebay_handover_bytes_total", &[("direction", "given")]);
    assert!(given > 0.0);
}

#[test]
fn a_fleet_that_is_stopped_at_once_waits_for_nobody_and_neither_does_the_last() {
    let (mut fleet, _) = warm(&plans(&["a", "b", "c", "d"], "0"));
    for gateway in &fleet.gateways[1..] {
        gateway.process().signal(Signal::TERM);
    }
    for gateway in fleet.gateways.drain(1..) {
        gateway.ended();
    }
    read_all(&fleet, &[0]);
    let log = fleet.gateways.remove(0).stop();
    assert!(log.contains("nobody is left to hand over to"), "{log}");
}

#[test]
fn what_died_with_a_member_is_read_once_more_and_nothing_else() {
    let (mut fleet, sent) = warm(&plans(&["a", "b", "c"], "0"));
    let mut owned = 0;
    let epoch = fleet.gateways[0].json("/-/ring")["epoch"].clone();
    for key in KEYS {
        let plan = fleet.gateways[0].json(&format!("/-/plan/models/{key}"));
        for extent in plan["extents"].as_array().expect("extents") {
            if extent["member"] == "b" {
                let number = |field: &str| extent[field].as_u64().expect("a number");
                owned += number("last") - number("first") + 1;
            }
        }
    }
    let readers = Readers::start(&fleet, &[0, 2]);
    let _ = fleet.gateways.remove(1).kill();
    readers.go_on();
    readers.end(&fleet);
    // It owns them for half a minute yet, and nobody is sent there.
    for key in KEYS {
        let plan = || fleet.gateways[0].json(&format!("/-/plan/models/{key}"));
        until(PATIENCE, "the plan to name others", || {
            let plan = plan();
            let mut extents = plan["extents"].as_array().expect("extents").iter();
            extents.all(|extent| extent["member"] != "b").then_some(())
        });
        assert_eq!(plan()["epoch"], epoch);
    }
    read_all(&fleet, &[0, 1]);
    let lost = again(&fleet, sent);
    assert!(lost <= owned, "{lost} bytes, of {owned} that died");
    read_all(&fleet, &[0, 1]);
    assert_eq!(again(&fleet, sent), lost);
}

#[test]
fn a_member_that_crashed_and_is_back_uses_the_blocks_on_its_disk() {
    let plans = plans(&["a", "b", "c"], "1GiB");
    let (mut fleet, sent) = warm(&plans);
    on_disk(&fleet);
    let epoch = fleet.gateways[0].json("/-/ring")["epoch"].clone();
    let disk = fleet.gateways.remove(1).kill();
    fleet.start_over(1, &plans[1], &plans, disk);
    read_all(&fleet, &[0, 1, 2]);
    assert_eq!(again(&fleet, sent), 0);
    for gateway in &fleet.gateways {
        assert_eq!(gateway.json("/-/ring")["epoch"], epoch, "nothing moves");
    }
    let read = fleet.gateways[1].metric("forebay_block_reads_total", &[("outcome", "nvme")]);
    assert!(read > 0.0);
}

#[test]
fn what_is_hottest_is_exported_before_the_fleet_goes_and_warmed_once_it_is_back_without_disks() {
    let plans = plans(&["a", "b"], "0");
    let (mut fleet, _) = warm(&plans);
    // Of one object only a part is read, and it is the hottest.
    fleet.origin.put("part of/4 %.bin", SIZE, 0);
    let part = "bytes=3145728-5242880";
    for _ in 0..2 {
        let answer = fleet.gateways[0].range("/models/part%20of/4%20%25.bin", part);
        let _ = answer.expect(206);
    }
    let output = fleet.gateways[1].client(&["export-hot"]);
    assert!(output.status.success(), "{output:?}");
    let list = String::from_utf8(output.stdout).expect("JSON");
    let lines: Vec<serde_json::Value> = list
        .lines()
        .map(|line| serde_json::from_str(line).expect("a line of JSON"))
        .collect();
    assert_eq!(lines.len(), KEYS.len() + 1, "{list}");
    let partly = lines.iter().filter(|line| line.get("ranges").is_some());
    let partly: Vec<_> = partly.collect();
    assert_eq!(partly.len(), 1, "{list}");
    assert_eq!(partly[0]["key"], "part of/4 %.bin");
    for gateway in &fleet.gateways {
        gateway.process().signal(Signal::TERM);
    }
    for gateway in fleet.gateways.drain(..) {
        gateway.ended();
    }
    let mut again = Fleet::start(&plans, Settings::default(), &["fresh_for = \"10m\""]);
    for key in KEYS {
        again.origin.put(key, SIZE, 0);
    }
    again.origin.put("part of/4 %.bin", SIZE, 0);
    let disk = Scratch::new("list");
    let file = disk.write("hot.jsonl", &list);
    let file = file.to_str().expect("a temporary path is UTF-8");
    let warmed = again.gateways[0].client(&["warm", "--from", file]);
    assert!(warmed.status.success(), "{warmed:?}");
    let read = again.origin.counters().bytes_sent;
    assert!(
        read >= ALL + 2 * BLOCK as u64 && read < ALL + SIZE,
        "{read}"
    );
    read_all(&again, &[0, 1]);
    assert_eq!(again.origin.counters().bytes_sent, read);
    // A list of another kind is told from it.
    let keys = disk.write("keys", "0.bin\n");
    let refused = again.gateways[0].client(&["warm", "--from", keys.to_str().expect("UTF-8")]);
    assert!(!refused.status.success());
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        said.contains("line 1") && said.contains("export-hot"),
        "{said}"
    );
    again.gateways.clear();
}

/// Waits until every block is on some member's disk.
fn on_disk(fleet: &Fleet) {
    until(PATIENCE, "all blocks on disks", || {
        let held = fleet.metric("forebay_cache_bytes", &[("tier", "nvme")]);
        (held >= ALL as f64).then_some(())
    });
}

/// Starts every member anew, one after the other, under readers that go through the others.
fn roll(fleet: &mut Fleet, plans: &mut [Plan], keep: bool, change: impl Fn(&mut Plan)) {
    for index in 0..plans.len() {
        let others: Vec<usize> = (0..plans.len()).filter(|other| *other != index).collect();
        let readers = Readers::start(fleet, &others);
        change(&mut plans[index]);
        match keep {
            true => {
                let (disk, _) = fleet.gateways.remove(index).stop_keeping();
                readers.go_on();
                fleet.start_over(index, &plans[index], plans, disk);
            }
            false => fleet.restart(index, &plans[index], plans),
        }
        readers.go_on();
        readers.end(fleet);
    }
    let all: Vec<usize> = (0..plans.len()).collect();
    read_all(fleet, &all);
}

#[test]
fn members_started_anew_one_by_one_over_their_disks_cost_the_origin_next_to_nothing() {
    let mut plans = plans(&["a", "b", "c"], "1GiB");
    let (mut fleet, sent) = warm(&plans);
    on_disk(&fleet);
    roll(&mut fleet, &mut plans, true, |_| {});
    assert!(
        again(&fleet, sent) <= ALL / 50,
        "{} of {ALL}",
        again(&fleet, sent)
    );
}

#[test]
fn members_started_anew_one_by_one_with_nothing_but_memory_cost_the_origin_next_to_nothing() {
    let mut plans = plans(&["a", "b", "c"], "0");
    let (mut fleet, sent) = warm(&plans);
    roll(&mut fleet, &mut plans, false, |_| {});
    assert!(
        again(&fleet, sent) <= ALL / 50,
        "{} of {ALL}",
        again(&fleet, sent)
    );
}

#[test]
fn members_of_two_protocols_work_together_while_they_are_upgraded_one_by_one() {
    let mut plans = plans(&["a", "b", "c"], "1GiB");
    for plan in &mut plans {
        plan.protocol = Some(1);
    }
    let (mut fleet, sent) = warm(&plans);
    on_disk(&fleet);
    let spoken = |fleet: &Fleet| -> BTreeSet<String> {
        let logs = fleet
            .gateways
            .iter()
            .map(|gateway| gateway.process().stderr());
        logs.filter(|log| log.contains("no peer protocol in common"))
            .collect()
    };
    roll(&mut fleet, &mut plans, true, |plan| plan.protocol = None);
    assert!(spoken(&fleet).is_empty());
    // The old protocol hands nothing over: what a member owned is read while it is away.
    assert!(
        again(&fleet, sent) <= ALL,
        "{} of {ALL}",
        again(&fleet, sent)
    );
    let before = again(&fleet, sent);
    roll(&mut fleet, &mut plans, true, |_| {});
    assert!(
        again(&fleet, sent) - before <= ALL / 50,
        "{} of {ALL}",
        again(&fleet, sent) - before
    );
}
