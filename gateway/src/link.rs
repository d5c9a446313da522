//! How fast this gateway's link is: at least as fast as it was lately seen to be.
//!
//! Nobody tells a gateway what its link takes: it may be held to a rate far from here. What the kernel counts of an
//! interface is what really crossed it, whoever it was for. The loopback is no link. The two ways are apart: where there is a
//! link of its own towards the origin, what comes in there says nothing of what goes out to clients.

use std::collections::HashMap;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior};

/// What the kernel counts of the interfaces of this process's network.
const COUNTS: &str = "/proc/self/net/dev";

/// Between two looks. What lasts for one of them only may be what a queue beyond the interface took in at once.
const LOOK: Duration = Duration::from_millis(500);

/// What was seen longer ago than twice this is forgotten: links change, and so do neighbours.
const LATELY: Duration = Duration::from_secs(60);

/// Of what a link was seen to carry, payload that fills it: the best half a second of a minute is more than the rest.
const FULL: f64 = 0.7;

/// The field of a line, after its name, that counts bytes sent; bytes received are the first.
const SENT: usize = 8;

/// The highest rates that were seen lately.
#[derive(Debug, Default)]
pub struct Link {
    received: Highest,
    sent: Highest,
}

/// Bytes a second, of this time and of the one before.
#[derive(Debug, Default)]
struct Highest {
    now: AtomicU64,
    before: AtomicU64,
}

/// Bytes that each interface received and sent.
type Counts = HashMap<String, [u64; 2]>;

impl Link {
    /// Bytes a second, whichever way is faster; zero: none were seen.
    pub fn rate(&self) -> u64 {
        self.received.rate().max(self.sent.rate())
    }

    /// Bytes a second that it sends; zero: none were seen.
    pub fn sends(&self) -> u64 {
        self.sent.rate()
    }

    /// Whether so many bytes that came in this time fill it, as far as is known.
    pub fn is_filled_by(&self, bytes: u64, took: Duration) -> bool {
        let carries = self.received.rate() as f64 * took.as_secs_f64();
        carries > 0.0 && bytes as f64 >= FULL * carries
    }

    /// Looks at the interfaces for ever, where they can be looked at.
    pub async fn watch(self: Arc<Self>) {
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut since, mut last): (_, Option<(Instant, Counts)>) = (Instant::now(), None);
        let mut carried = [0; 2];
        loop {
            let now = looks.tick().await;
            // A file of the kernel's own, which it writes as it is read: nobody waits for a disk.
            let Ok(text) = fs::read_to_string(COUNTS) else {
                return;
            };
            let counts = counts(&text);
            if let Some((then, before)) = &last {
                let carries = most(before, &counts);
                self.saw(lasting(carried, carries), now - *then);
                carried = carries;
            }
            last = Some((now, counts));
            if now - since >= LATELY {
                since = now;
                self.grows_old();
            }
        }
    }

    /// What was seen since this was so last is of the time before from now on.
    fn grows_old(&self) {
        self.received.grows_old();
        self.sent.grows_old();
    }

    /// So many bytes were received and sent.
    pub(crate) fn saw(&self, [received, sent]: [u64; 2], took: Duration) {
        self.received.saw(received, took);
        self.sent.saw(sent, took);
    }
}

impl Highest {
    fn rate(&self) -> u64 {
        let load = |rate: &AtomicU64| rate.load(Ordering::Relaxed);
        load(&self.now).max(load(&self.before))
    }

    fn grows_old(&self) {
        let rate = self.now.swap(0, Ordering::Relaxed);
        self.before.store(rate, Ordering::Relaxed);
    }

    fn saw(&self, bytes: u64, took: Duration) {
        if !took.is_zero() {
            let rate = bytes as f64 / took.as_secs_f64();
            self.now.fetch_max(rate as u64, Ordering::Relaxed);
        }
    }
}

/// What was carried between two looks and between the two before them as well.
fn lasting(before: [u64; 2], now: [u64; 2]) -> [u64; 2] {
    [before[0].min(now[0]), before[1].min(now[1])]
}

/// The bytes of each interface but the loopback, which is no link.
fn counts(text: &str) -> Counts {
    let lines = text.lines().filter_map(|line| {
        let (name, fields) = line.trim().split_once(':')?;
        let fields: Vec<&str> = fields.split_whitespace().collect();
        let bytes = |field: usize| fields.get(field)?.parse().ok();
        let counts = [bytes(0)?, bytes(SENT)?];
        (name != "lo").then(|| (name.to_owned(), counts))
    });
    lines.collect()
}

/// The most that one interface received, and the most that one sent.
fn most(before: &Counts, now: &Counts) -> [u64; 2] {
    let mut most = [0; 2];
    for (name, counts) in now {
        let Some(before) = before.get(name) else {
            continue;
        };
        for (most, (now, before)) in most.iter_mut().zip(counts.iter().zip(before)) {
            *most = now.saturating_sub(*before).max(*most);
        }
    }
    most
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOLD: &str = "\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo: 900000 10 0 0 0 0 0 0 900000 10 0 0 0 0 0 0
  eth0:   1000 20 0 0 0 0 0 0   5000 30 0 0 0 0 0 0
";

    #[test]
    fn a_link_is_what_one_interface_carried_each_way() {
        let before = counts(TOLD);
        assert_eq!(before, Counts::from([("eth0".to_owned(), [1000, 5000])]));
        let now = Counts::from([
            ("eth0".to_owned(), [1700, 5300]),
            ("eth1".to_owned(), [1 << 40, 1 << 40]),
        ]);
        assert_eq!(most(&before, &now), [700, 300]);
        assert_eq!(most(&now, &before), [0, 0]);
    }

    #[test]
    fn what_a_queue_takes_in_at_once_is_no_rate() {
        let looks = [[0, 0], [10, 90], [10, 30], [20, 30]];
        let seen = looks.windows(2).map(|two| lasting(two[0], two[1]));
        assert_eq!(seen.max_by_key(|ways| ways[1]), Some([10, 30]));
    }

    #[test]
    fn what_was_seen_long_ago_is_forgotten() {
        let link = Link::default();
        let half = Duration::from_millis(500);
        link.saw([500, 0], half);
        link.saw([100, 400], half);
        assert_eq!((link.rate(), link.sends()), (1000, 800));
        link.saw([1 << 30; 2], Duration::ZERO);
        assert_eq!((link.rate(), link.sends()), (1000, 800));
        link.grows_old();
        link.saw([100, 0], half);
        assert_eq!(link.rate(), 1000, "lately");
        link.grows_old();
        assert_eq!((link.rate(), link.sends()), (200, 0));
        link.grows_old();
        assert_eq!(link.rate(), 0);
        assert!(!link.is_filled_by(1 << 30, Duration::from_secs(1)));
    }

    #[test]
    fn a_link_is_full_where_most_of_what_it_carries_comes() {
        let link = Link::default();
        link.saw([1000, 1 << 30], Duration::from_secs(1));
        assert!(link.is_filled_by(1600, Duration::from_secs(2)));
        assert!(!link.is_filled_by(1000, Duration::from_secs(2)));
    }
}
