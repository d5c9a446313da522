//! Whether this gateway has more to send to other members than its link takes.
//!
//! Only what waits for the link counts: a body that waits for its own source has nothing to send, however much of it is
//! still to come.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// An owner with more outstanding than it sends in this time sends askers elsewhere.
const BUSY: Duration = Duration::from_millis(100);

/// The rate is measured over this time, and each measure counts for a third.
const MEASURED: Duration = Duration::from_millis(50);

/// Bytes of one body that leave before they are told: so a lock that all bodies share is taken once for many segments.
const TOLD: u64 = 512 << 10;

/// What leaves for other members, and how fast.
#[derive(Debug)]
pub struct Egress {
    flow: Mutex<Flow>,
    /// It counts as more than the link takes, whatever it is.
    always_busy: bool,
}

/// For tests, in which nothing is to depend on how fast the machine is: a build without assertions hears nothing of it.
fn always_busy() -> bool {
    cfg!(debug_assertions) && std::env::var_os("FOREBAY_TEST_BUSY").is_some()
}

impl Default for Egress {
    fn default() -> Self {
        Self {
            flow: Mutex::default(),
            always_busy: always_busy(),
        }
    }
}

#[derive(Debug, Default)]
struct Flow {
    /// Bytes that are there to be sent and have not left.
    outstanding: u64,
    /// Bytes that left since the measure began; `None`: nothing is outstanding, and time does not count.
    begun: Option<(Instant, u64)>,
    /// Bytes a second, once that was measured.
    rate: Option<f64>,
}

impl Egress {
    /// So many bytes are there to be sent.
    fn begin(&self, bytes: u64) {
        let mut flow = self.lock();
        flow.outstanding += bytes;
        flow.begun.get_or_insert_with(|| (Instant::now(), 0));
    }

    /// So many of them left.
    fn leave(&self, bytes: u64) {
        let mut flow = self.lock();
        flow.outstanding = flow.outstanding.saturating_sub(bytes);
        if let Some((begun, left)) = flow.begun {
            let (left, took) = (left + bytes, begun.elapsed());
            flow.begun = Some((begun, left));
            if took >= MEASURED {
                let now = left as f64 / took.as_secs_f64();
                flow.rate = Some(flow.rate.map_or(now, |rate| rate + (now - rate) / 3.0));
                flow.begun = Some((Instant::now(), 0));
            }
        }
        flow.rest();
    }

    /// So many of them are not there to be sent any more.
    fn give_up(&self, bytes: u64) {
        let mut flow = self.lock();
        flow.outstanding = flow.outstanding.saturating_sub(bytes);
        flow.rest();
    }

    /// Whether what is outstanding takes longer than it should. Never before a rate was measured.
    pub fn is_busy(&self) -> bool {
        let flow = self.lock();
        let rate = flow.rate;
        self.always_busy
            || rate.is_some_and(|rate| flow.outstanding as f64 > rate * BUSY.as_secs_f64())
    }

    fn lock(&self) -> MutexGuard<'_, Flow> {
        self.flow.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Flow {
    fn rest(&mut self) {
        if self.outstanding == 0 {
            self.begun = None;
        }
    }
}

/// The part of one body.
#[derive(Debug)]
pub struct Outflow {
    egress: Arc<Egress>,
    /// Bytes to come.
    left: u64,
    /// Bytes that left and were not told.
    untold: u64,
    /// It has nothing to send: its source brings nothing.
    dry: bool,
}

impl Outflow {
    /// A body of so many bytes begins.
    pub fn new(egress: &Arc<Egress>, bytes: u64) -> Self {
        egress.begin(bytes);
        Self {
            egress: Arc::clone(egress),
            left: bytes,
            untold: 0,
            dry: false,
        }
    }

    /// Bytes to come.
    pub fn left(&self) -> u64 {
        self.left
    }

    /// So many bytes leave.
    pub fn leave(&mut self, bytes: u64) {
        if std::mem::take(&mut self.dry) {
            self.egress.begin(self.left);
        }
        self.left = self.left.saturating_sub(bytes);
        self.untold += bytes;
        if self.untold >= TOLD || self.left == 0 {
            self.tell();
        }
    }

    /// The source brings nothing at the moment: whatever takes the link's time, it is not this body.
    pub fn runs_dry(&mut self) {
        if !self.dry {
            self.tell();
            self.egress.give_up(self.left);
            self.dry = true;
        }
    }

    fn tell(&mut self) {
        let untold = std::mem::take(&mut self.untold);
        if untold > 0 {
            self.egress.leave(untold);
        }
    }
}

impl Drop for Outflow {
    fn drop(&mut self) {
        self.runs_dry();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn busy_is_more_outstanding_than_leaves_in_a_tenth_of_a_second() {
        let egress = Egress::default();
        egress.begin(10_000_000);
        assert!(!egress.is_busy(), "nothing was measured");
        // 10 MB/s.
        for _ in 0..10 {
            tokio::time::advance(Duration::from_millis(50)).await;
            egress.leave(500_000);
        }
        assert!(egress.is_busy());
        egress.give_up(4_000_001);
        assert!(!egress.is_busy(), "999 999 bytes are less than 1 MB");
        egress.leave(999_999);
        // Time without anything to send says nothing of the rate.
        tokio::time::advance(Duration::from_secs(60)).await;
        egress.begin(900_000);
        assert!(!egress.is_busy());
        egress.begin(200_000);
        assert!(egress.is_busy());
    }

    #[tokio::test(start_paused = true)]
    async fn what_waits_for_its_source_keeps_no_link_busy() {
        let egress = Arc::new(Egress::default());
        let mut body = Outflow::new(&egress, 100_000_000);
        for _ in 0..10 {
            tokio::time::advance(Duration::from_millis(50)).await;
            body.leave(1_000_000);
        }
        assert!(egress.is_busy(), "20 MB/s, and 90 MB to go");
        body.runs_dry();
        assert!(!egress.is_busy());
        tokio::time::advance(Duration::from_secs(60)).await;
        body.leave(1_000_000);
        assert!(egress.is_busy());
        assert_eq!(body.left(), 89_000_000);
        drop(body);
        assert!(!egress.is_busy());
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_left_whole_leaves_nothing_behind() {
        let egress = Arc::new(Egress::default());
        let mut body = Outflow::new(&egress, 100_000);
        for _ in 0..10 {
            body.leave(10_000);
        }
        assert_eq!(egress.lock().outstanding, 0);
        drop(body);
        assert_eq!(egress.lock().outstanding, 0);
    }
}
