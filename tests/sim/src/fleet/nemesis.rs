//! Who kills, parts, adds and drains members.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Fleet;
use super::member::Member;
use super::network::Node;
use crate::random::Random;

/// The highest number of a member.
const MOST: Node = 6;

/// What it does, for the whole of a seed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Blow {
    Kill,
    Part,
    OneWay,
    Add,
    Drain,
}

/// Someone who wishes the fleet no good.
pub(super) struct Nemesis {
    fleet: Arc<Fleet>,
    random: Random,
    blows: Vec<Blow>,
    /// The longest rest between two blows, in milliseconds.
    rest: u64,
}

impl Nemesis {
    pub(super) fn new(fleet: &Arc<Fleet>) -> Self {
        use Blow::{Add, Drain, Kill, OneWay, Part};
        let mut random = Random::new(fleet.seed, "nemesis");
        let blows: &[&[Blow]] = &[
            &[],
            &[Kill],
            &[Part, OneWay],
            &[Add, Drain],
            &[Kill, Part, OneWay, Add, Drain],
        ];
        let blows = random.pick(blows).to_vec();
        fleet.trace.note("nemesis", format_args!("{blows:?}"));
        Self {
            fleet: Arc::clone(fleet),
            rest: *random.pick(&[800, 3000, 8000]),
            random,
            blows,
        }
    }

    /// Strikes now and then until `until`, and sees to it that somebody is there in the end.
    pub(super) async fn rage(mut self, until: Instant) {
        while !self.blows.is_empty() {
            let rest = self.random.from(self.rest * 100..=self.rest * 1000);
            tokio::time::sleep(Duration::from_micros(rest)).await;
            if Instant::now() >= until {
                break;
            }
            match *self.random.pick(&self.blows) {
                Blow::Kill => self.kill(),
                Blow::Part => self.part(),
                Blow::OneWay => self.one_way(),
                Blow::Add => self.add(),
                Blow::Drain => self.drain(),
            }
        }
        // A fleet of two, at least, is what has to keep its promises in the calm.
        for node in 1..=self.fleet.size {
            if self.fleet.alive().len() >= 2 {
                break;
            }
            if !self
                .fleet
                .alive()
                .iter()
                .any(|member| member.life.node == node)
            {
                self.start(node);
            }
        }
    }

    fn victim(&mut self) -> Option<Arc<Member>> {
        let alive = self.fleet.alive();
        // One stays, so that there is always a fleet.
        (alive.len() > 1).then(|| Arc::clone(self.random.pick(&alive)))
    }

    fn start(&self, node: Node) {
        if let Err(error) = self.fleet.start(node) {
            self.fleet
                .trace
                .violation("nemesis", format_args!("{error:#}"));
        }
    }

    fn kill(&mut self) {
        let Some(victim) = self.victim() else {
            return;
        };
        self.fleet.trace.count("blows: a member is killed");
        victim.kill(&self.fleet);
        let away = *self.random.pick(&[1, 300, 4000, 100_000]);
        self.come_back(victim.life.node, away);
    }

    /// Starts a member again after so many milliseconds at most; where the storm is over by then, it stays away.
    fn come_back(&mut self, node: Node, away: u64) {
        let away = self.random.millis(away / 2..=away);
        let fleet = Arc::clone(&self.fleet);
        tokio::spawn(async move {
            tokio::time::sleep(away).await;
            let there = fleet.alive().iter().any(|member| member.life.node == node);
            let over = !fleet.faulty.load(std::sync::atomic::Ordering::Relaxed);
            if !there
                && !over
                && let Err(error) = fleet.start(node)
            {
                fleet.trace.violation("nemesis", format_args!("{error:#}"));
            }
        });
    }

    fn heal_later(&mut self) {
        let parted = self.random.millis(100..=6000);
        let fleet = Arc::clone(&self.fleet);
        tokio::spawn(async move {
            tokio::time::sleep(parted).await;
            fleet
                .trace
                .note("nemesis", format_args!("all ways are open"));
            fleet.network.heal();
        });
    }

    /// Parts one from all others.
    fn part(&mut self) {
        let Some(victim) = self.victim() else {
            return;
        };
        let node = victim.life.node;
        self.fleet
            .trace
            .note("nemesis", format_args!("{node} is parted"));
        self.fleet.trace.count("blows: a member is parted");
        for other in 1..=MOST {
            self.fleet.network.cut(node, other);
            self.fleet.network.cut(other, node);
        }
        self.heal_later();
    }

    /// Lets nothing get from one to another.
    fn one_way(&mut self) {
        let (Some(from), Some(to)) = (self.victim(), self.victim()) else {
            return;
        };
        let (from, to) = (from.life.node, to.life.node);
        if from == to {
            return;
        }
        self.fleet
            .trace
            .note("nemesis", format_args!("{from} does not get to {to}"));
        self.fleet.trace.count("blows: a way is cut");
        self.fleet.network.cut(from, to);
        self.heal_later();
    }

    fn add(&mut self) {
        let alive = self.fleet.alive();
        let free = (1..=MOST).find(|node| !alive.iter().any(|member| member.life.node == *node));
        if let Some(node) = free {
            self.fleet.trace.count("blows: a member comes");
            self.start(node);
        }
    }

    fn drain(&mut self) {
        let Some(victim) = self.victim() else {
            return;
        };
        self.fleet.trace.count("blows: a member drains");
        let fleet = Arc::clone(&self.fleet);
        tokio::spawn(async move { victim.leave(&fleet).await });
    }
}
