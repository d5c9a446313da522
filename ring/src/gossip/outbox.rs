//! Between foca and whoever drives it: its timers and packets, and its settings.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::net::SocketAddr;
use std::num::{NonZeroU8, NonZeroU32, NonZeroUsize};
use std::time::Duration;

use foca::{Config, Notification, PeriodicParams, Timer};

use super::identity::Id;
use crate::seal::SEAL_OVERHEAD;

/// The most bytes of a packet: below the 1280 that IPv6 carries everywhere, with 80 to spare for its headers.
pub const MAX_PACKET: usize = 1200;
/// In front of foca's bytes: the version of the packet, and its number.
pub(super) const PREFIX: usize = 1 + 8;
/// foca forgets a member that is down after everybody has stopped to speak of it.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(15 * 60);

/// What foca asks for, kept until it is carried out.
#[derive(Default)]
pub(super) struct Outbox {
    pub(super) now: Duration,
    pub(super) packets: VecDeque<(SocketAddr, Vec<u8>)>,
    pub(super) timers: BinaryHeap<Reverse<Timed>>,
    sequence: u64,
    pub(super) rejoined: bool,
}

/// A timer of foca's, in the order of its moment and then of its making.
pub(super) struct Timed {
    pub(super) at: (Duration, u64),
    pub(super) timer: Timer<Id>,
}

impl PartialEq for Timed {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}

impl Eq for Timed {}

impl PartialOrd for Timed {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Timed {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.at.cmp(&other.at)
    }
}

impl Outbox {
    pub(super) fn new(now: Duration) -> Self {
        Self {
            now,
            ..Self::default()
        }
    }
}

impl foca::Runtime<Id> for Outbox {
    fn notify(&mut self, notification: Notification<'_, Id>) {
        if matches!(notification, Notification::Rejoin(_)) {
            self.rejoined = true;
        }
    }

    fn send_to(&mut self, to: Id, data: &[u8]) {
        self.packets.push_back((to.address, data.to_vec()));
    }

    fn submit_after(&mut self, timer: Timer<Id>, after: Duration) {
        self.sequence += 1;
        let at = (self.now + after, self.sequence);
        self.timers.push(Reverse(Timed { at, timer }));
    }
}

/// foca's settings for a fleet of `members`: a kill is known within 3 to 5 s. Only how often each piece of
/// news is passed on depends on the size, by its logarithm.
pub(super) fn config(members: u32) -> Config {
    const ONE: NonZeroUsize = NonZeroUsize::MIN;
    let size = NonZeroU32::new(members).unwrap_or(NonZeroU32::MIN);
    let every = |frequency, num_members| {
        Some(PeriodicParams {
            frequency,
            num_members,
        })
    };
    let two = ONE.saturating_add(1);
    Config {
        probe_period: Duration::from_secs(1),
        probe_rtt: Duration::from_millis(300),
        num_indirect_probes: two.saturating_add(1),
        max_transmissions: Config::new_lan(size)
            .max_transmissions
            .max(NonZeroU8::MIN.saturating_add(2)),
        suspect_to_down_after: Duration::from_secs(2),
        remove_down_after: Some(FORGOTTEN_AFTER),
        max_packet_size: ONE.saturating_add(MAX_PACKET - SEAL_OVERHEAD - PREFIX - 1),
        notify_down_members: true,
        periodic_announce: every(Duration::from_secs(5), ONE),
        periodic_announce_to_down_members: every(Duration::from_secs(10), two),
        periodic_gossip: every(Duration::from_millis(200), two.saturating_add(1)),
    }
}
