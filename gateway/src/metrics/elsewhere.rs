//! Families that are counted elsewhere: beside an origin, in the store, in the NVMe tier.

use std::collections::HashMap;
use std::sync::Arc;

use forebay_storage::nvme::Nvme;
use forebay_storage::stats::DatasetStats;
use forebay_storage::store::Store;
use prometheus::core::{Collector, Desc};
use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};

use crate::dataset::Datasets;

/// Families whose values are read when they are asked for.
pub(super) struct Elsewhere {
    pub(super) datasets: Arc<Datasets>,
    pub(super) store: Arc<Store>,
    pub(super) descriptions: Vec<Desc>,
}

/// Name, help and kind of each of them.
const ELSEWHERE: [(&str, &str, &[&str]); 24] = [
    (
        "forebay_origin_requests_total",
        "Requests that left for the origin",
        &["dataset", "method"],
    ),
    (
        "forebay_origin_bytes_total",
        "Body bytes that arrived from the origin",
        &["dataset"],
    ),
    (
        "forebay_origin_retries_total",
        "Origin reads that failed and were tried again",
        &["dataset"],
    ),
    (
        "forebay_dataset_served_bytes_total",
        "Body bytes of the dataset's objects that went to clients",
        &["dataset"],
    ),
    (
        "forebay_cache_bytes",
        "Bytes of whole blocks that are resident, by tier",
        &["tier"],
    ),
    (
        "forebay_cache_blocks",
        "Whole blocks that are resident, by tier",
        &["tier"],
    ),
    (
        "forebay_leased_bytes",
        "Block bytes that caches, fills and sockets hold together",
        &[],
    ),
    (
        "forebay_memory_limit_bytes",
        "The bound on leased bytes",
        &[],
    ),
    (
        "forebay_waiting_reservations",
        "Fills that wait for memory",
        &[],
    ),
    ("forebay_running_fills", "Blocks that are being filled", &[]),
    (
        "forebay_cache_evictions_total",
        "Whole blocks that had to go for others, by tier",
        &["tier"],
    ),
    (
        "forebay_cache_limit_bytes",
        "What the tier may keep, in bytes",
        &["tier"],
    ),
    (
        "forebay_nvme_state",
        "1 for the state that the NVMe tier is in: on, opening, off (by its breaker)",
        &["state"],
    ),
    (
        "forebay_nvme_writes_total",
        "Blocks that were written and proved to be on the disk",
        &[],
    ),
    (
        "forebay_nvme_writes_dropped_total",
        "Blocks that were to be written and were not, by reason",
        &["reason"],
    ),
    (
        "forebay_nvme_writes_refused_total",
        "Blocks that a full NVMe tier did not take, by reason",
        &["reason"],
    ),
    (
        "forebay_nvme_read_errors_total",
        "Reads that the disk failed or took too long for",
        &[],
    ),
    (
        "forebay_nvme_write_errors_total",
        "Turns of writes that the disk failed",
        &[],
    ),
    (
        "forebay_nvme_checksum_failures_total",
        "Blocks on disk that were not what had been written; each was dropped and fetched anew",
        &[],
    ),
    (
        "forebay_origin_hedges_total",
        "Origin answers that stood still and were asked for once more beside it",
        &["dataset"],
    ),
    (
        "forebay_origin_slow_downs_total",
        "Origin answers that asked for fewer requests: 429 and 503",
        &["dataset"],
    ),
    (
        "forebay_origin_connections",
        "Requests at once that the origin may be asked by this gateway",
        &["dataset"],
    ),
    (
        "forebay_origin_down",
        "1 while the origin does not answer and is asked by one request at a time",
        &["dataset"],
    ),
    (
        "forebay_pinned_bytes",
        "Bytes of whole blocks that are resident and pinned",
        &["dataset"],
    ),
];

/// Descriptions of them, for [`Elsewhere`].
pub(super) fn descriptions() -> prometheus::Result<Vec<Desc>> {
    ELSEWHERE
        .iter()
        .map(|(name, help, labels)| {
            let labels = labels.iter().map(|label| (*label).to_owned()).collect();
            Desc::new(
                (*name).to_owned(),
                (*help).to_owned(),
                labels,
                HashMap::new(),
            )
        })
        .collect()
}

impl Collector for Elsewhere {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut values: [Vec<Metric>; ELSEWHERE.len()] = Default::default();
        for dataset in self.datasets.all() {
            let stats = dataset.origin.stats();
            let name = ("dataset", &*dataset.name);
            let get = DatasetStats::get;
            for (method, counter) in [
                ("GET", &stats.origin_gets),
                ("HEAD", &stats.origin_heads),
                ("PROPFIND", &stats.origin_others),
            ] {
                values[0].push(counted(get(counter), &[name, ("method", method)]));
            }
            values[1].push(counted(get(&stats.origin_bytes), &[name]));
            values[2].push(counted(get(&stats.origin_retries), &[name]));
            values[3].push(counted(get(&stats.served_bytes), &[name]));
            values[19].push(counted(get(&stats.origin_hedges), &[name]));
            values[20].push(counted(get(&stats.origin_slow_downs), &[name]));
            // A directory has neither.
            if let Some(connections) = dataset.origin.connections() {
                values[21].push(gauged(connections as u64, &[name]));
                values[22].push(gauged(u64::from(dataset.origin.is_down()), &[name]));
            }
            let pinned = self.store.pinned_bytes(&dataset.name);
            values[23].push(gauged(pinned, &[name]));
        }
        let memory = [("tier", "memory")];
        let budget = self.store.budget();
        let resident = self.store.residents().total();
        values[4].push(gauged(resident.bytes, &memory));
        values[5].push(gauged(resident.blocks, &memory));
        values[6].push(gauged(budget.used(), &[]));
        values[7].push(gauged(budget.limit(), &[]));
        values[8].push(gauged(budget.waiting() as u64, &[]));
        values[9].push(gauged(self.store.running_fills() as u64, &[]));
        values[10].push(counted(self.store.residents().evictions(), &memory));
        values[11].push(gauged(self.store.memory_limit(), &memory));
        if let Some(nvme) = self.store.nvme() {
            collect_nvme(nvme, &mut values);
        }
        ELSEWHERE
            .iter()
            .zip(values)
            .map(|((name, help, _), metrics)| family(name, help, metrics))
            .collect()
    }
}

/// The NVMe tier's share of [`ELSEWHERE`]; absent where there is no such tier.
fn collect_nvme(nvme: &Nvme, values: &mut [Vec<Metric>; ELSEWHERE.len()]) {
    let tier = [("tier", "nvme")];
    let stats = nvme.stats();
    let get = DatasetStats::get;
    let held = nvme.total();
    values[4].push(gauged(held.bytes, &tier));
    values[5].push(gauged(held.blocks, &tier));
    values[10].push(counted(nvme.residents().evictions(), &tier));
    values[11].push(gauged(nvme.geometry().kept(), &tier));
    let state = nvme.state();
    for name in ["on", "opening", "off"] {
        values[12].push(gauged(u64::from(name == state), &[("state", name)]));
    }
    values[13].push(counted(get(&stats.written), &[]));
    for (reason, counter) in [
        ("evicted", &stats.dropped_evicted),
        ("queue", &stats.dropped_queue),
        ("off", &stats.dropped_off),
        ("lost", &stats.dropped_lost),
    ] {
        values[14].push(counted(get(counter), &[("reason", reason)]));
    }
    for (reason, counter) in [
        ("first_sight", &stats.refused_first_sight),
        ("budget", &stats.refused_budget),
        ("table", &stats.refused_table),
        ("quota", &stats.refused_quota),
    ] {
        values[15].push(counted(get(counter), &[("reason", reason)]));
    }
    values[16].push(counted(get(&stats.read_errors), &[]));
    values[17].push(counted(get(&stats.write_errors), &[]));
    values[18].push(counted(get(&stats.damaged), &[]));
}

fn family(name: &str, help: &str, metrics: Vec<Metric>) -> MetricFamily {
    let kind = if name.ends_with("_total") {
        MetricType::COUNTER
    } else {
        MetricType::GAUGE
    };
    let mut family = MetricFamily::default();
    // The registry puts its prefix in front of what it gathers.
    family.set_name(name.trim_start_matches("forebay_").to_owned());
    family.set_help(help.to_owned());
    family.set_field_type(kind);
    family.set_metric(metrics);
    family
}

fn labelled(labels: &[(&str, &str)]) -> Metric {
    let pairs = labels.iter().map(|(name, value)| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value((*value).to_owned());
        pair
    });
    Metric::from_label(pairs.collect())
}

fn counted(value: u64, labels: &[(&str, &str)]) -> Metric {
    let mut metric = labelled(labels);
    let mut counter = Counter::default();
    counter.set_value(value as f64);
    metric.set_counter(counter);
    metric
}

fn gauged(value: u64, labels: &[(&str, &str)]) -> Metric {
    let mut metric = labelled(labels);
    let mut gauge = Gauge::default();
    gauge.set_value(value as f64);
    metric.set_gauge(gauge);
    metric
}
