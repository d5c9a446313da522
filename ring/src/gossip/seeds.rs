//! Where a gateway finds its fleet: addresses and names that are asked at the start, and again and again.
//!
//! Names are resolved anew each time: behind a headless service members come and go. As long as a gateway is
//! alone it asks often; later slowly, which is what brings together two halves that started apart.

use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use thiserror::Error;
use tokio::time::{Instant, sleep, timeout};

/// In the first seconds a seed that has not answered is asked again after this time.
const EAGER_EVERY: Duration = Duration::from_millis(100);
const EAGER_FOR: Duration = Duration::from_secs(5);
/// Later, as long as nobody else is known.
const ALONE_EVERY: Duration = Duration::from_secs(3);
/// And always.
const SLOW_EVERY: Duration = Duration::from_secs(30);
/// After that time a gateway is ready without its seeds.
const READY_AFTER: Duration = Duration::from_secs(3);
/// How long a name or an address may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// Of one name's addresses so many are asked at a time: of 200 gateways that start at once, none gets 200 requests
/// from each, and five chosen by chance still join all of them.
const AT_A_TIME: usize = 5;

/// One seed of the settings: `host:port`, or `dns:name:port` for a name that stands for many members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seed {
    host: String,
    port: u16,
    many: bool,
}

/// A seed that cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("`{0}` is no seed: write host:port, [IPv6]:port or dns:name:port")]
pub struct SeedError(String);

impl FromStr for Seed {
    type Err = SeedError;

    fn from_str(text: &str) -> Result<Self, SeedError> {
        let error = || SeedError(text.to_owned());
        let (many, rest) = match text.strip_prefix("dns:") {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (host, port) = rest.rsplit_once(':').ok_or_else(error)?;
        let port: u16 = port.parse().map_err(|_| error())?;
        let host = match host.strip_prefix('[') {
            Some(host) => {
                let host = host.strip_suffix(']').ok_or_else(error)?;
                host.parse::<std::net::Ipv6Addr>().map_err(|_| error())?;
                host
            }
            None if host.contains([':', '/', ' ']) => return Err(error()),
            None => host,
        };
        if host.is_empty() || port == 0 {
            return Err(error());
        }
        Ok(Self {
            host: host.to_owned(),
            port,
            many,
        })
    }
}

impl fmt::Display for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dns = if self.many { "dns:" } else { "" };
        if self.host.contains(':') {
            return write!(f, "{dns}[{}]:{}", self.host, self.port);
        }
        write!(f, "{dns}{}:{}", self.host, self.port)
    }
}

/// How asking one address ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It answered, it is ourselves, or it said that nobody is there.
    Settled { answered: bool },
    /// No answer yet.
    Silent,
}

/// Asks one seed for as long as the gateway runs. `ask` asks one address; `alone` says whether nobody else is
/// known; `settled` is called once, when the seed holds readiness up no longer. Cancel by dropping.
pub(super) async fn pursue<F>(
    seed: &Seed,
    own: SocketAddr,
    ask: impl Fn(SocketAddr) -> F,
    alone: impl Fn() -> bool,
    settled: impl FnOnce(),
) where
    F: Future<Output = Outcome>,
{
    let started = Instant::now();
    let mut settled = Some(settled);
    let mut turn = 0;
    loop {
        let (outcome, answered) = tokio::select! {
            biased;
            round = round(seed, own, turn, &ask) => round,
            () = tokio::time::sleep_until(started + READY_AFTER), if settled.is_some() => (true, false),
        };
        turn += 1;
        if (outcome || started.elapsed() >= READY_AFTER)
            && let Some(settled) = settled.take()
        {
            settled();
        }
        let pause = match (answered && !alone(), started.elapsed() < EAGER_FOR) {
            (true, _) => SLOW_EVERY,
            (false, true) => EAGER_EVERY,
            (false, false) if alone() => ALONE_EVERY,
            (false, false) => SLOW_EVERY,
        };
        sleep(pause).await;
    }
}

/// Asks a seed's addresses once: whether it is settled, and whether somebody answered.
async fn round<F>(
    seed: &Seed,
    own: SocketAddr,
    turn: usize,
    ask: &impl Fn(SocketAddr) -> F,
) -> (bool, bool)
where
    F: Future<Output = Outcome>,
{
    let found = match timeout(PATIENCE, tokio::net::lookup_host((&*seed.host, seed.port))).await {
        Ok(Ok(found)) => found
            .map(canonical)
            .filter(|address| *address != own)
            .collect(),
        // A name that does not exist yet, and one that nobody resolves: alone until it does.
        Ok(Err(error)) => {
            tracing::debug!(%seed, %error, "a seed's name resolves to nothing");
            Vec::new()
        }
        Err(_) => return (false, false),
    };
    // Others each time, if there are many; the first that answers speaks for the rest of one host.
    let count = found.len();
    let mut settled = true;
    let mut answered = false;
    for n in 0..count.min(AT_A_TIME) {
        let address = found[(turn * AT_A_TIME + n) % count];
        match timeout(PATIENCE, ask(address)).await {
            Ok(Outcome::Settled { answered: true }) => {
                answered = true;
                if !seed.many {
                    return (true, true);
                }
            }
            Ok(Outcome::Settled { answered: false }) => {}
            Ok(Outcome::Silent) | Err(_) => settled = false,
        }
    }
    (settled || answered, answered)
}

/// An IPv4 address that came over an IPv6 socket, as what it is.
pub(super) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn seeds_are_read_and_written_the_same() {
        for text in [
            "forebay-0.forebay:7071",
            "10.0.0.7:7071",
            "[fd00::7]:7071",
            "dns:forebay-peers:7071",
            "dns:[::1]:7071",
        ] {
            assert_eq!(text.parse::<Seed>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_no_seed_is_told() {
        for text in [
            "",
            "forebay",
            ":7071",
            "gw:",
            "gw:0",
            "gw:70000",
            "fd00::7:7071",
            "[gw]:1",
            "http://gw:1",
            "dns:",
        ] {
            assert_eq!(
                text.parse::<Seed>(),
                Err(SeedError(text.to_owned())),
                "{text}"
            );
        }
    }
}
