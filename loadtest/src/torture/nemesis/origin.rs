//! What is done to the origin: it goes away, errs and lies; and to its objects.

use std::time::Duration;

use anyhow::ensure;
use http::Method;
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use tokio::time::sleep;

use super::super::DATASET;
use super::super::ground::ORIGIN_PORT;
use super::super::kind::Kind;
use super::super::schedule::{MEMBERS, Planned, SECURE};
use super::super::wire::{Rules, Which};
use super::Nemesis;
use crate::origin::{Fault, Rule};
use crate::scenario::net::address;

/// The chance of each answer of being a 500, 503 or 429, and of being wrong in another way.
const REFUSED: f64 = 0.5;
const WRONG: f64 = 0.3;

/// Bodies stand still for so long: a gateway asks again beside them long before.
const STALL: Duration = Duration::from_secs(3);

/// Bytes too many or too few.
const OFF: u64 = 4096;

/// Sizes of objects, in bytes.
const SIZES: (u64, u64) = (1, 56 << 20);

impl Nemesis {
    pub(super) async fn origin(&self, planned: &Planned) -> anyhow::Result<()> {
        let namespace = self.ground.net.origin();
        match planned.kind {
            Kind::Refuses | Kind::Bounced => {
                let rules = Rules::drop(namespace, &Which::Port(ORIGIN_PORT)).await?;
                sleep(planned.lasting).await;
                rules.lift().await
            }
            Kind::Silent => {
                let members = (0..=MEMBERS).map(address::gateway).collect();
                let rules = Rules::drop(namespace, &Which::Both(members)).await?;
                sleep(planned.lasting).await;
                rules.lift().await
            }
            kind => {
                let (fault, chance) = wrong(kind);
                let rule = Rule::sometimes(fault, chance);
                // What HEAD would be told is wrong in the body only.
                let rule = match kind {
                    Kind::Status500 | Kind::Status503 | Kind::Status429 | Kind::HangsUp => rule,
                    _ => rule.by(Method::GET),
                };
                self.ground.origin.fault(rule);
                sleep(planned.lasting).await;
                self.ground.origin.clear_faults();
                Ok(())
            }
        }
    }

    /// Does it to an object by chance, and says to which.
    pub(super) async fn object(
        &self,
        planned: &Planned,
        chance: &mut StdRng,
    ) -> anyhow::Result<String> {
        if planned.kind == Kind::Herd {
            return Ok(self.herd(chance).await);
        }
        let (truth, origin) = (&self.world.truth, &self.ground.origin);
        let key = self.world.keys.choose(chance).cloned().unwrap_or_default();
        let size = size(chance);
        match planned.kind {
            Kind::Purged => self.purge(&key).await?,
            Kind::Deleted => {
                truth.delete(origin, &key);
                sleep(planned.lasting).await;
                truth.put(origin, &key, size);
            }
            _ => {
                truth.put(origin, &key, size);
            }
        }
        Ok(key)
    }

    /// Whoever is there tells the others; one that wants signatures is not asked.
    async fn purge(&self, key: &str) -> anyhow::Result<()> {
        for host in 0..SECURE {
            let path = format!("/-/purge/{DATASET}/{key}");
            if let Ok(status) = self.ground.post(host, &path).await {
                ensure!(status == 200, "/-/purge answers {status}");
                break;
            }
        }
        Ok(())
    }
}

/// A size by chance: half of the objects are large, the others have as many small ones as large ones, for each power of two.
pub(in super::super) fn size(chance: &mut StdRng) -> u64 {
    if chance.random() {
        return chance.random_range(SIZES.1 / 8..=SIZES.1);
    }
    let power = chance.random_range(0.0..=(SIZES.1 as f64).log2());
    (power.exp2() as u64).clamp(SIZES.0, SIZES.1)
}

fn wrong(kind: Kind) -> (Fault, f64) {
    match kind {
        Kind::Status500 => (Fault::Status(500), REFUSED),
        Kind::Status503 => (Fault::Status(503), REFUSED),
        Kind::Status429 => (Fault::Status(429), REFUSED),
        Kind::Stalls => (
            Fault::Stall {
                after: 100_000,
                time: STALL,
            },
            WRONG,
        ),
        Kind::Cuts => (Fault::Cut { after: 100_000 }, WRONG),
        Kind::HangsUp => (Fault::Hangup, WRONG),
        Kind::Short => (Fault::Short { by: OFF }, WRONG),
        Kind::Long => (Fault::Long { by: OFF }, WRONG),
        Kind::LyingRange => (Fault::LyingContentRange, WRONG),
        Kind::WholeBody => (Fault::WholeBody, WRONG),
        _ => (Fault::IgnoreIfMatch, 1.0),
    }
}
