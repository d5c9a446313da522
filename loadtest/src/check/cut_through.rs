//! `cut-through`: how soon the first byte of something cold comes, beside asking the origin directly.

use std::time::Duration;

use anyhow::bail;

use super::{BLOCK, Options, Rig, median_ms};
use crate::client::{Ask, Client, Want};
use crate::origin::{Origin, Settings};
use crate::report::{Report, Unit};

/// Reads of each kind and by each way; odd, so that there is a middle one.
const ROUNDS: u64 = 21;

/// Long enough that reading ahead of the first byte would show: 160 ms at the origin's rate.
const SIZE: u64 = 16 * BLOCK;

/// Eight bytes half a block into the third: 5 ms at the origin's rate after the block's own first byte.
const MIDDLE: Want = Want::Range(2 * BLOCK + BLOCK / 2, 2 * BLOCK + BLOCK / 2 + 7);

pub(super) async fn run(options: &Options) -> anyhow::Result<Report> {
    let rig = Rig::start(options, Settings::remote(), "2GiB", &[("models", "")]).await?;
    let mut direct = Client::new(&rig.origin.url())?;
    let mut through = Client::new(&rig.gateway.dataset("models"))?;
    let mut report = Report::new("cut-through");
    for (what, want, bar) in [
        ("whole object", Want::Whole, 1.5),
        ("8 bytes amid a block", MIDDLE, 2.0),
    ] {
        let (mut alone, mut gateway) = (Vec::new(), Vec::new());
        for round in 0..ROUNDS {
            // Interleaved, and each way first half of the time, so that a noisy moment falls on both.
            let key = format!("{what}/{round}");
            rig.origin.put(&key, SIZE, 0);
            let ask = Ask::new(&key, want.clone());
            if round % 2 == 0 {
                alone.push(first_byte(&mut direct, &ask).await?);
                gateway.push(first_byte(&mut through, &ask).await?);
            } else {
                gateway.push(first_byte(&mut through, &ask).await?);
                alone.push(first_byte(&mut direct, &ask).await?);
            }
            idle(&rig.origin).await;
        }
        let (alone, gateway) = (median_ms(alone), median_ms(gateway));
        report.at_most(
            &format!("{what}: first byte ÷ direct"),
            gateway / alone,
            bar,
            Unit::Times,
        );
        report.tell(
            &format!("{what}: first byte, cold"),
            gateway,
            Unit::Milliseconds,
        );
        report.tell(
            &format!("{what}: first byte, direct"),
            alone,
            Unit::Milliseconds,
        );
    }
    rig.finish(report).await
}

/// The time to the first byte of a read that must end whole.
async fn first_byte(client: &mut Client, ask: &Ask) -> anyhow::Result<Duration> {
    let read = client.read(ask).await;
    match read.first_byte_after {
        Some(after) if read.is_whole() => Ok(after),
        _ => bail!("a read of {:?} ended {:?}", ask.want, read.outcome),
    }
}

/// Waits until the origin sends nothing more: a fill that outlives its reader is not the next round's load.
async fn idle(origin: &Origin) {
    while origin.counters().concurrent > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
