//! What must hold once nothing goes wrong any more: one table, everything readable, the origin read once.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Fleet;
use super::network::Node;
use crate::objects::{BLOCK, Kind, Name};
use crate::random::Random;
use crate::world::end::{SETTLED, accounts, read_by_all};

/// Until all members must have the same table: two halves that were parted look for each other this often, and a member
/// that is lost keeps its place for as long.
const AGREED: Duration = Duration::from_secs(90);

/// The number of a member that comes in the calm.
const NEWCOMER: Node = 9;

impl Fleet {
    /// Everything is readable everywhere; what is new is read from the origin once, and twice at most while somebody comes.
    pub(super) async fn calm(self: &Arc<Self>) {
        tokio::time::sleep(SETTLED).await;
        self.agree().await;
        for name in self.oracle.objects.names() {
            self.read_everywhere(&name).await;
        }
        let mut random = Random::new(self.seed, "calm");
        self.read_new("once", &mut random, 1).await;
        // Somebody comes, and somebody goes, while more is read.
        if random.chance(50) {
            if let Err(error) = self.start(NEWCOMER) {
                self.trace.violation("calm", format_args!("{error:#}"));
            }
        } else if let [first, _, ..] = &self.alive()[..] {
            let (fleet, first) = (Arc::clone(self), Arc::clone(first));
            tokio::spawn(async move { first.leave(&fleet).await });
        }
        tokio::time::sleep(random.millis(0..=1500)).await;
        self.read_new("change", &mut random, 2).await;
        tokio::time::sleep(SETTLED).await;
        self.agree().await;
    }

    /// Waits until all members have the same table, and each sees all others alive.
    async fn agree(&self) {
        let until = Instant::now() + AGREED;
        let mut before = String::new();
        loop {
            let alive = self.alive();
            let differing = alive.iter().find_map(|member| member.differs(&alive));
            let Some(differing) = differing else {
                return self.trace.note("calm", format_args!("all agree"));
            };
            if before != differing {
                self.trace.note("calm", format_args!("{differing}"));
                before.clone_from(&differing);
            }
            if Instant::now() >= until {
                let what = format!("they do not agree within {AGREED:?}: {differing}");
                return self.trace.violation("calm", what);
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    /// Reads an object at all members at once.
    async fn read_everywhere(&self, name: &Name) {
        read_by_all(self.doors.all(), name, (&self.oracle, &self.trace)).await;
    }

    /// Reads new objects everywhere, twice; the origin may give each block so often.
    async fn read_new(&self, why: &str, random: &mut Random, times: u64) {
        for number in 0..2 {
            let name = Name {
                kind: Kind::Models,
                key: format!("{why}-{number}.bin"),
            };
            let size = random.from(1..=6 * BLOCK);
            let content = self.oracle.objects.put(&name, size);
            self.read_everywhere(&name).await;
            self.read_everywhere(&name).await;
            let given = self.origin.given(&name, content.version);
            if let Some((block, given)) = given.iter().find(|(_, given)| **given > times) {
                let what = format!("the origin gave block {block} of {name} {given} times");
                self.trace.violation("calm", what);
            }
        }
    }

    /// Counts what each member has lent.
    pub(super) async fn end(&self) {
        let name = Name {
            kind: Kind::Models,
            key: "once-0.bin".into(),
        };
        for member in self.alive() {
            let gateway = &member.readers.gateway;
            accounts(&member.readers.door, gateway, &self.trace, Some(&name)).await;
        }
    }
}
