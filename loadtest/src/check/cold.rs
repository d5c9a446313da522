//! `cold`: one plain stream over a cold object, beside one connection and 32 connections straight to the origin.

use super::{Options, Rig};
use crate::curl::{AT_ONCE, Read, curl};
use crate::origin::Settings;
use crate::report::{Report, Unit, median};

const SIZE: u64 = 1 << 30;

/// Rounds of each; odd, so that there is a middle one. In the first two the gateway is given memory by the kernel, a page
/// at a time, as it fills what it may use.
const ROUNDS: usize = 5;

const GB: f64 = 1e9;

pub(super) async fn run(options: &Options) -> anyhow::Result<Report> {
    let rig = Rig::start(options, Settings::remote(), "2GiB", &[("models", "")]).await?;
    for part in 0..AT_ONCE {
        rig.origin.put(&format!("part/{part}"), SIZE / AT_ONCE, 0);
    }
    let (mut direct, mut many, mut through) = (Vec::new(), Vec::new(), Vec::new());
    let (mut sent, mut gets) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        // Interleaved, so that a noisy moment falls on all.
        let key = format!("whole/{round}");
        rig.origin.put(&key, SIZE, 0);
        direct.push(curl(&format!("{}/{key}", rig.origin.url()), &[], SIZE).await?);
        let parts = format!("{}/part/[0-{}]", rig.origin.url(), AT_ONCE - 1);
        many.push(curl(&parts, &[], SIZE).await?);
        let before = rig.origin.counters();
        let url = format!("{}/{key}", rig.gateway.dataset("models"));
        through.push(curl(&url, &[], SIZE).await?);
        let after = rig.origin.counters();
        sent.push((after.bytes_sent - before.bytes_sent) as f64);
        gets.push((after.gets - before.gets) as f64);
    }
    let rate = |read: &Read| SIZE as f64 / GB / read.seconds;
    let speed = |reads: &[Read]| median(reads.iter().map(rate).collect());
    let first = |reads: &[Read]| median(reads.iter().map(|read| read.first_byte).collect());
    let mut report = Report::new("cold");
    let cold = speed(&through);
    report.tell("1 GiB by one curl, cold", cold, Unit::Rate);
    let fresh = through.first().map_or(f64::NAN, rate);
    report.tell("the first of them, into fresh memory", fresh, Unit::Rate);
    report.tell("direct, one connection", speed(&direct), Unit::Rate);
    report.tell("direct, 32 connections", speed(&many), Unit::Rate);
    report.at_least("cold ÷ direct", cold / speed(&direct), 10.0, Unit::Times);
    let share = cold / speed(&many);
    report.at_least("cold ÷ direct by 32 connections", share, 0.7, Unit::Times);
    let later = first(&through) / first(&direct);
    report.at_most("first byte ÷ direct", later, 1.3, Unit::Times);
    let unique = median(sent) / SIZE as f64;
    report.at_most("origin bytes ÷ unique", unique, 1.02, Unit::Times);
    report.at_most("GETs", median(gets), 140.0, Unit::Count);
    rig.finish(report).await
}
