//! Every metric family, once.
//!
//! Counters of a dataset live with its origin and are read when they are asked for; the rest are
//! counted here, at the one place each where the thing happens. Labels are bounded by the settings
//! file and by this table; never a key.

mod elsewhere;
mod fleet;
mod tls;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use forebay_storage::store::{Outcome, Store};
use prometheus::{
    Encoder, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};

use self::elsewhere::{Elsewhere, descriptions};
pub use self::fleet::PeerMetrics;
use crate::access::refusal;
use crate::dataset::Datasets;

/// Where a byte that went to a client came from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    /// The memory tier.
    Memory,
    /// The NVMe tier.
    Nvme,
    /// The origin, by this request's fill or one that it joined.
    Origin,
    /// Another gateway of the fleet, by this request's fill or one that it joined.
    Peer,
}

impl Source {
    /// The label's value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Nvme => "nvme",
            Self::Origin => "origin",
            Self::Peer => "peer",
        }
    }
}

/// All that is counted.
#[derive(Debug)]
pub struct Metrics {
    pub(crate) registry: Registry,
    /// Requests that were answered, by dialect and status.
    pub requests: IntCounterVec,
    /// From the request's headers to the end of its answer.
    pub request_duration: HistogramVec,
    /// From the request's headers to the first byte of its body.
    pub first_byte: HistogramVec,
    /// Warming jobs that ended, by how.
    pub warm_jobs: IntCounterVec,
    /// Flows that ended here.
    pub flows: IntCounterVec,
    /// Copies that ended, by how.
    pub copies: IntCounterVec,
    /// Bytes that copies wrote, by the dataset that they went to.
    pub copied_bytes: IntCounterVec,
    /// From a fill's first byte asked for to its last, by source.
    pub fill_duration: HistogramVec,
    /// Requests (and connections) that were turned away, by the limit that they met.
    pub shed: IntCounterVec,
    /// Requests that were refused for who sent them, by reason.
    pub refused: IntCounterVec,
    /// Bodies that had to be cut, by reason.
    pub cut_bodies: IntCounterVec,
    /// Panics, each a bug.
    pub panics: IntCounter,
    /// TLS handshakes, by what came of them.
    pub tls_handshakes: IntCounterVec,
    /// When the certificate ends, in seconds of Unix time; without a child where there is none.
    pub certificate_expires: IntGaugeVec,
    /// Client connections that are open.
    pub connections: IntGauge,
    /// Requests that are being answered.
    pub requests_in_flight: IntGauge,
    /// Bytes that were read ahead: those that somebody read, and those that nobody came for.
    pub(crate) read_ahead: [IntCounter; 2],
    block_reads: [IntCounter; 4],
    response_bytes: [IntCounter; 4],
    reads: ReadChildren,
}

/// The children that reads of objects count into, each looked up once: by its labels it costs a lock
/// and a hash, three times a request.
#[derive(Debug, Default)]
struct ReadChildren {
    whole: OnceLock<IntCounter>,
    part: OnceLock<IntCounter>,
    duration: OnceLock<Histogram>,
    first_byte: OnceLock<Histogram>,
}

/// Seconds: from a memory hit on loopback to a large cold object.
pub(crate) const BUCKETS: [f64; 16] = [
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    10.0, 60.0,
];

impl Metrics {
    /// The families, registered.
    ///
    /// # Errors
    /// If a name here is taken twice or is not a metric's.
    pub fn new() -> prometheus::Result<Self> {
        let registry = Registry::new_custom(Some("forebay".to_owned()), None)?;
        let counters = |name: &str, help: &str, labels: &[&str]| {
            let family = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(family.clone()))?;
            Ok::<_, prometheus::Error>(family)
        };
        let times = |name: &str, help: &str, labels: &[&str]| {
            let options = HistogramOpts::new(name, help).buckets(BUCKETS.to_vec());
            let family = HistogramVec::new(options, labels)?;
            registry.register(Box::new(family.clone()))?;
            Ok::<_, prometheus::Error>(family)
        };
        let gauge = |name: &str, help: &str| {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
        };
        let block_reads = counters(
            "block_reads_total",
            "Blocks that requests opened, by outcome: hit (memory), nvme, joined (another's fill), led",
            &["outcome"],
        )?;
        let response_bytes = counters(
            "response_bytes_total",
            "Body bytes of objects that went to clients, by source",
            &["source"],
        )?;
        let (tls_handshakes, certificate_expires) = tls::register(&registry)?;
        tell_build(&registry)?;
        Ok(Self {
            requests: counters(
                "requests_total",
                "Requests that were answered",
                &["api", "status"],
            )?,
            request_duration: times(
                "request_duration_seconds",
                "From a request's headers to the end of its answer",
                &["api"],
            )?,
            first_byte: times(
                "first_byte_seconds",
                "From a request's headers to the first byte of its body",
                &["api"],
            )?,
            fill_duration: times(
                "fill_duration_seconds",
                "From asking for a run of blocks to its last byte",
                &["source"],
            )?,
            shed: shed(&registry)?,
            refused: refused(&registry)?,
            cut_bodies: cut_bodies(&registry)?,
            panics: panics(&registry)?,
            warm_jobs: warm_jobs(&registry)?,
            flows: flows(&registry)?,
            copies: counters("copies_total", COPIES, &["outcome"])?,
            copied_bytes: counters("copied_bytes_total", COPIED, &["dataset"])?,
            tls_handshakes,
            certificate_expires,
            connections: gauge("connections", "Client connections that are open")?,
            requests_in_flight: gauge("requests_in_flight", "Requests that are being answered")?,
            read_ahead: read_ahead(&registry)?,
            block_reads: ["hit", "nvme", "joined", "led"]
                .map(|outcome| block_reads.with_label_values(&[outcome])),
            response_bytes: [Source::Memory, Source::Nvme, Source::Origin, Source::Peer]
                .map(|source| response_bytes.with_label_values(&[source.as_str()])),
            reads: ReadChildren::default(),
            registry,
        })
    }

    /// Adds what is counted elsewhere: by the datasets' origins and by the store.
    ///
    /// # Errors
    /// If it was added before.
    pub fn watch(&self, datasets: &Arc<Datasets>, store: &Arc<Store>) -> prometheus::Result<()> {
        self.registry.register(Box::new(Elsewhere {
            datasets: Arc::clone(datasets),
            store: Arc::clone(store),
            descriptions: descriptions()?,
        }))
    }

    /// Counts a block that a request opened.
    pub fn block_read(&self, outcome: Outcome) {
        let counter = match outcome {
            Outcome::Hit => 0,
            Outcome::Nvme => 1,
            Outcome::Joined => 2,
            Outcome::Led => 3,
        };
        self.block_reads[counter].inc();
    }

    /// Counts a request that was refused for who sent it.
    pub fn refuse(&self, reason: &str) {
        self.refused.with_label_values(&[reason]).inc();
    }

    /// Counts body bytes that went to a client.
    pub fn sent(&self, source: Source, bytes: u64) {
        let counter = match source {
            Source::Memory => 0,
            Source::Nvme => 1,
            Source::Origin => 2,
            Source::Peer => 3,
        };
        self.response_bytes[counter].inc_by(bytes);
    }

    /// Notes a finished request.
    pub fn request(&self, api: &str, status: u16, took: Duration, first_byte: Option<Duration>) {
        let count = || {
            let mut digits = [0; 3];
            let labels = [api, status_text(status, &mut digits)];
            self.requests.with_label_values(&labels)
        };
        let duration = || self.request_duration.with_label_values(&[api]);
        let begun = || self.first_byte.with_label_values(&[api]);
        let (took, first_byte) = (
            took.as_secs_f64(),
            first_byte.map(|time| time.as_secs_f64()),
        );
        let reads = &self.reads;
        match (api, status) {
            ("s3", 200) => reads.whole.get_or_init(count).inc(),
            ("s3", 206) => reads.part.get_or_init(count).inc(),
            _ => count().inc(),
        }
        if api == "s3" {
            reads.duration.get_or_init(duration).observe(took);
            if let Some(time) = first_byte {
                reads.first_byte.get_or_init(begun).observe(time);
            }
        } else {
            duration().observe(took);
            if let Some(time) = first_byte {
                begun().observe(time);
            }
        }
    }

    /// All families in Prometheus' text format.
    pub fn text(&self) -> Vec<u8> {
        let mut text = Vec::new();
        // Writing into memory can't fail, and a family that can't be written is left out.
        let _ = TextEncoder::new().encode(&self.registry.gather(), &mut text);
        text
    }
}

fn cut_bodies(registry: &Registry) -> prometheus::Result<IntCounterVec> {
    let help = "Bodies that ended before they were whole, by what ended them";
    let family = IntCounterVec::new(Opts::new("cut_bodies_total", help), &["reason"])?;
    registry.register(Box::new(family.clone()))?;
    Ok(family)
}

const COPIES: &str = "Copies that ended here, by how: done, failed, cancelled";
const COPIED: &str = "Bytes that copies wrote, by the dataset that they went to";

fn warm_jobs(registry: &Registry) -> prometheus::Result<IntCounterVec> {
    let help = "Warming jobs that ended here, by how: done, failed, cancelled";
    let family = IntCounterVec::new(Opts::new("warm_jobs_total", help), &["outcome"])?;
    registry.register(Box::new(family.clone()))?;
    Ok(family)
}

fn flows(registry: &Registry) -> prometheus::Result<IntCounterVec> {
    let help = "Flows that ended here, by how: done, failed, cancelled";
    let family = IntCounterVec::new(Opts::new("flows_total", help), &["outcome"])?;
    registry.register(Box::new(family.clone()))?;
    Ok(family)
}

fn read_ahead(registry: &Registry) -> prometheus::Result<[IntCounter; 2]> {
    let help =
        "Bytes that were read before anybody waited for them, by what came of it: used, unused";
    let options = Opts::new("read_ahead_bytes_total", help);
    let family = IntCounterVec::new(options, &["outcome"])?;
    registry.register(Box::new(family.clone()))?;
    Ok(["used", "unused"].map(|outcome| family.with_label_values(&[outcome])))
}

fn panics(registry: &Registry) -> prometheus::Result<IntCounter> {
    let panics = IntCounter::new("panics_total", "Panics, each a bug")?;
    registry.register(Box::new(panics.clone()))?;
    Ok(panics)
}

fn tell_build(registry: &Registry) -> prometheus::Result<()> {
    let options = Opts::new("build_info", "1, labelled with what runs");
    let family = IntCounterVec::new(options, &["version"])?;
    family.with_label_values(&[env!("CARGO_PKG_VERSION")]).inc();
    registry.register(Box::new(family))
}

fn shed(registry: &Registry) -> prometheus::Result<IntCounterVec> {
    let help = "Requests that were turned away, and connections that were closed, by limit";
    let limits = ["max_requests", "max_connections", "per_address", "flood"];
    by_reason(registry, "shed_total", help, &limits)
}

fn refused(registry: &Registry) -> prometheus::Result<IntCounterVec> {
    let help = "Requests that were refused for their credentials or the lack of them, by reason";
    by_reason(registry, "refused_total", help, &refusal::REASONS)
}

/// Has every reason from the start, so that the first one is seen as an increase.
fn by_reason(
    registry: &Registry,
    name: &str,
    help: &str,
    reasons: &[&str],
) -> prometheus::Result<IntCounterVec> {
    let family = IntCounterVec::new(Opts::new(name, help), &["reason"])?;
    registry.register(Box::new(family.clone()))?;
    for reason in reasons {
        let _ = family.with_label_values(&[*reason]);
    }
    Ok(family)
}

fn status_text(status: u16, digits: &mut [u8; 3]) -> &str {
    for (digit, divisor) in digits.iter_mut().zip([100, 10, 1]) {
        *digit = b'0' + u8::try_from(status / divisor % 10).unwrap_or(0);
    }
    std::str::from_utf8(digits).unwrap_or("000")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_three_digits() {
        let mut digits = [0; 3];
        assert_eq!(status_text(206, &mut digits), "206");
        assert_eq!(status_text(99, &mut digits), "099");
    }
}
