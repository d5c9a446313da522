//! What is counted of a fleet: questions to other gateways, and answers to them. Absent in a fleet of one.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock, Weak};

use forebay_ring::gossip::Counts;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

use super::BUCKETS;
use crate::peer::handshake::Refused;
use crate::peer::{PeerError, Peers};
use crate::read::remote::Brought;

/// Why messages of membership are not taken in, in the order in which that is counted.
const GOSSIP_REFUSALS: [&str; 4] = ["foreign", "key", "malformed", "stale"];

/// Counters of the fleet's own traffic.
#[derive(Debug)]
pub struct PeerMetrics {
    /// Questions to other gateways, by how they ended.
    pub requests: IntCounterVec,
    /// From a question to the head of its answer.
    pub first_byte: Histogram,
    /// Bytes of bodies from other gateways, checksums among them: bytes that crossed twice on their way
    /// to a client.
    pub received: IntCounter,
    /// Bytes of bodies to other gateways.
    pub sent: IntCounter,
    /// Bodies that broke off, by reason.
    pub broken: IntCounterVec,
    /// Segments whose checksum was wrong.
    pub corrupt: IntCounter,
    /// Runs read from the origin by a gateway that should not have to.
    pub last_resorts: IntCounter,
    /// What changes hands.
    pub moves: Moves,
    /// Askers sent elsewhere, by what came of it.
    redirects: IntCounterVec,
    /// Purges that this gateway heard of later than those that were there.
    pub purges_missed: IntCounter,
    /// Answers to other gateways, by status.
    pub answers: IntCounterVec,
    /// Connections that were refused on the fleet's port, by reason.
    pub refusals: IntCounterVec,
    members: IntGaugeVec,
    gossip: IntCounterVec,
    gossip_refusals: IntCounterVec,
    counts: OnceLock<Counting>,
    peers: OnceLock<Weak<Peers>>,
}

/// What is counted of blocks that change hands as members come and go.
#[derive(Debug)]
pub struct Moves {
    /// Runs that donors were asked for, by what they had of them.
    pub donors: IntCounterVec,
    /// Bytes of blocks that were handed over, by direction.
    pub handed: IntCounterVec,
    /// Bytes that are still to be handed over, to or by this gateway.
    pub moving: IntGauge,
}

/// What came and went by gossip.
struct Counting(Box<dyn Fn() -> Counts + Send + Sync>);

impl std::fmt::Debug for Counting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Counting")
    }
}

impl PeerMetrics {
    /// The families, registered.
    ///
    /// # Errors
    /// If a name is taken twice.
    pub fn new(registry: &Registry) -> prometheus::Result<Arc<Self>> {
        let counters =
            |name: &str, help: &str, labels: &[&str]| families(registry, name, help, labels);
        let bytes = counters(
            "peer_bytes_total",
            "Body bytes between gateways, by direction; those received crossed twice on their way",
            &["direction"],
        )?;
        let first_byte = first_byte(registry)?;
        let options = Opts::new(
            "members",
            "Members of the fleet, by state as seen from here",
        );
        let metrics = Arc::new(Self {
            requests: counters(
                "peer_requests_total",
                "Questions to other gateways, by how they ended",
                &["outcome"],
            )?,
            first_byte,
            received: bytes.with_label_values(&["received"]),
            sent: bytes.with_label_values(&["sent"]),
            broken: counters(
                "peer_fills_broken_total",
                "Fills from another gateway that went on elsewhere, by reason",
                &["reason"],
            )?,
            corrupt: counter(
                registry,
                "peer_corrupt_segments_total",
                "Segments from other gateways whose checksum was wrong; none was shown to a client",
            )?,
            last_resorts: counter(
                registry,
                "last_resort_reads_total",
                "Runs that were read from the origin by a gateway that is not among their candidates",
            )?,
            moves: Moves::new(registry)?,
            redirects: redirects(registry)?,
            purges_missed: counter(
                registry,
                "purges_missed_total",
                "Purges that this gateway was told of later, having been away or silent",
            )?,
            answers: counters(
                "peer_answers_total",
                "Answers to other gateways",
                &["status"],
            )?,
            refusals: counters(
                "peer_refusals_total",
                "Connections that were refused on the fleet's port, by reason",
                &["reason"],
            )?,
            members: IntGaugeVec::new(options, &["state"])?,
            gossip: counters(
                "gossip_bytes_total",
                "Bytes of membership over UDP, and of its syncs over the fleet's port, by direction",
                &["direction"],
            )?,
            gossip_refusals: counters(
                "gossip_refusals_total",
                "Messages of membership that were not taken in, by reason",
                &["reason"],
            )?,
            counts: OnceLock::new(),
            peers: OnceLock::new(),
        });
        registry.register(Box::new(Members(Arc::clone(&metrics))))?;
        metrics.show_all();
        Ok(metrics)
    }

    /// What has not happened yet is seen as 0: who asks how often it did must not be answered with nothing.
    fn show_all(&self) {
        for label in PeerError::LABELS {
            self.broken.with_label_values(&[label]);
            self.requests.with_label_values(&[label]);
        }
        self.requests.with_label_values(&["ok"]);
        self.moves.show_all();
        for label in ["sent", "followed", "denied"] {
            self.redirects.with_label_values(&[label]);
        }
        for label in Refused::LABELS {
            self.refusals.with_label_values(&[label]);
        }
        for label in GOSSIP_REFUSALS {
            self.gossip_refusals.with_label_values(&[label]);
        }
        for label in ["sent", "received", "synced"] {
            self.gossip.with_label_values(&[label]);
        }
    }

    /// Tells whose members are counted. The first one told stays.
    pub fn watch(&self, peers: &Arc<Peers>) {
        let _ = self.peers.set(Arc::downgrade(peers));
    }

    /// Tells where gossip is counted. The first one told stays.
    pub fn count_gossip(&self, counts: impl Fn() -> Counts + Send + Sync + 'static) {
        let _ = self.counts.set(Counting(Box::new(counts)));
    }

    /// Takes over what gossip has counted.
    fn take_counts(&self) {
        let Some(counting) = self.counts.get() else {
            return;
        };
        let counts = (counting.0)();
        let raise = |family: &IntCounterVec, label: &str, to: u64| {
            let counter = family.with_label_values(&[label]);
            counter.inc_by(to.saturating_sub(counter.get()));
        };
        raise(&self.gossip, "sent", counts.bytes_sent);
        raise(&self.gossip, "received", counts.bytes_received);
        raise(&self.gossip, "synced", counts.sync_bytes_sent);
        for (reason, refused) in GOSSIP_REFUSALS.into_iter().zip(counts.refused) {
            raise(&self.gossip_refusals, reason, refused);
        }
    }

    /// Counts what came of asking a donor.
    pub(crate) fn asked_donor(&self, brought: &Brought) {
        let outcome = match brought {
            Brought::All => "all",
            Brought::Absent(_) => "absent",
            Brought::Not => "failed",
        };
        self.moves.donors.with_label_values(&[outcome]).inc();
    }

    /// Counts an asker that was sent elsewhere, or what came of being sent.
    pub fn redirected(&self, outcome: &str) {
        self.redirects.with_label_values(&[outcome]).inc();
    }

    /// Counts a fill that goes on elsewhere.
    pub fn failed(&self, error: &PeerError) {
        self.broken.with_label_values(&[error.label()]).inc();
    }
}

fn redirects(registry: &Registry) -> prometheus::Result<IntCounterVec> {
    let help = "Questions answered with another member's name (sent); such answers: followed, or denied by that member";
    families(registry, "peer_redirects_total", help, &["outcome"])
}

fn families(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> prometheus::Result<IntCounterVec> {
    let family = IntCounterVec::new(Opts::new(name, help), labels)?;
    registry.register(Box::new(family.clone()))?;
    Ok(family)
}

fn counter(registry: &Registry, name: &str, help: &str) -> prometheus::Result<IntCounter> {
    let counter = IntCounter::new(name, help)?;
    registry.register(Box::new(counter.clone()))?;
    Ok(counter)
}

impl Moves {
    fn new(registry: &Registry) -> prometheus::Result<Self> {
        let counters = |name: &str, help: &str, label: &str| {
            let family = IntCounterVec::new(Opts::new(name, help), &[label])?;
            registry.register(Box::new(family.clone()))?;
            Ok::<_, prometheus::Error>(family)
        };
        let moving = IntGauge::new(
            "moving_bytes",
            "Bytes of blocks that this gateway is about to take over or to hand over",
        )?;
        registry.register(Box::new(moving.clone()))?;
        Ok(Self {
            donors: counters(
                "donor_questions_total",
                "Runs asked of members that owned them a moment ago, by what came: all, absent, failed",
                "outcome",
            )?,
            handed: counters(
                "handover_bytes_total",
                "Bytes of blocks that changed hands with the fleet: taken by this gateway, given by it",
                "direction",
            )?,
            moving,
        })
    }

    fn show_all(&self) {
        for outcome in ["all", "absent", "failed"] {
            self.donors.with_label_values(&[outcome]);
        }
        for direction in ["taken", "given"] {
            self.handed.with_label_values(&[direction]);
        }
    }
}

fn first_byte(registry: &Registry) -> prometheus::Result<Histogram> {
    let options = HistogramOpts::new(
        "peer_first_byte_seconds",
        "From a question to another gateway to the head of its answer",
    );
    let times = Histogram::with_opts(options.buckets(BUCKETS.to_vec()))?;
    registry.register(Box::new(times.clone()))?;
    Ok(times)
}

/// Counts members when it is asked.
struct Members(Arc<PeerMetrics>);

impl Collector for Members {
    fn desc(&self) -> Vec<&Desc> {
        self.0.members.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.0.take_counts();
        if let Some(peers) = self.0.peers.get().and_then(Weak::upgrade) {
            let fleet = peers.fleet();
            let mut counts: HashMap<String, i64> = HashMap::new();
            for state in ["alive", "silent", "draining", "down"] {
                counts.insert(state.to_owned(), 0);
            }
            for peer in fleet.peers.values() {
                *counts.entry(peers.state(peer).to_string()).or_default() += 1;
            }
            for (state, count) in counts {
                self.0.members.with_label_values(&[&state]).set(count);
            }
        }
        self.0.members.collect()
    }
}
