//! `faulty-origin`: the same cold stream from an origin that cuts, refuses and stalls now and then.

use std::time::Duration;

use anyhow::{Context, bail};
use http::Method;

use super::{BLOCK, Options, Rig};
use crate::client::{Ask, Client, Want};
use crate::origin::{Fault, Rule, Settings};
use crate::report::{Report, Unit, median};

const SIZE: u64 = 1 << 30;

/// Rounds of each; odd, so that there is a middle one.
const ROUNDS: usize = 3;

pub(super) async fn run(options: &Options) -> anyhow::Result<Report> {
    let settings = Settings {
        seed: options.seed,
        ..Settings::remote()
    };
    let rig = Rig::start(options, settings, "2GiB", &[("models", "")]).await?;
    let mut client = Client::new(&rig.gateway.dataset("models"))?;
    let (mut clean, mut faulty) = (Vec::new(), Vec::new());
    let (mut failed, mut wrong) = (0, 0);
    for round in 0..ROUNDS {
        let key = format!("clean/{round}");
        rig.origin.put(&key, SIZE, 0);
        let read = client.read(&Ask::new(&key, Want::Whole)).await;
        if !read.is_whole() {
            bail!("a read without faults ended {:?}", read.outcome);
        }
        clean.push(read.took.as_secs_f64());
        for (fault, chance) in faults() {
            let rule = Rule::sometimes(fault, chance).by(Method::GET);
            rig.origin.fault(rule);
        }
        let key = format!("faulty/{round}");
        rig.origin.put(&key, SIZE, 0);
        let read = client.read(&Ask::new(&key, Want::Whole)).await;
        rig.origin.clear_faults();
        failed += u32::from(!read.is_whole());
        wrong += u32::from(read.is_false());
        faulty.push(read.took.as_secs_f64());
    }
    let metrics = rig.gateway.metrics().await?;
    let count = |name: &str| {
        metrics
            .sum(name, &[])
            .with_context(|| format!("read {name}"))
    };
    let (clean, faulty) = (median(clean), median(faulty));
    let mut report = Report::new("faulty-origin");
    report.tell("1 GiB, cold, without faults", clean, Unit::FineSeconds);
    let bar = 1.5 * clean + 1.0;
    report.at_most("the same with them", faulty, bar, Unit::FineSeconds);
    report.at_most("reads that failed", f64::from(failed), 0.0, Unit::Count);
    report.at_most("reads with wrong bytes", f64::from(wrong), 0.0, Unit::Count);
    let retries = count("forebay_origin_retries_total")?;
    report.tell("requests that were tried again", retries, Unit::Count);
    let hedges = count("forebay_origin_hedges_total")?;
    report.tell("and beside one that stood still", hedges, Unit::Count);
    rig.finish(report).await
}

/// 5 % of the bodies are cut, 2 % of the answers are 503, 1 % stand still for 10 s.
fn faults() -> [(Fault, f64); 3] {
    let stall = Fault::Stall {
        after: BLOCK,
        time: Duration::from_secs(10),
    };
    [
        (Fault::Cut { after: BLOCK }, 0.05),
        (Fault::Status(503), 0.02),
        (stall, 0.01),
    ]
}
