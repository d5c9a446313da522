//! What can become of links: packets dropped by nftables in the namespace of one end.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU32, Ordering};

use super::tool::feed;
use crate::namespace::Namespace;

/// Which packets of a host are struck.
#[derive(Clone, Debug)]
pub(super) enum Which {
    /// To and from these.
    Both(Vec<Ipv4Addr>),
    /// From this one only.
    From(Ipv4Addr),
    /// All but those of the loopback, so many in a hundred.
    Percent(u32),
    /// Connections to its port of this number.
    Port(u16),
}

/// Rules in force; they end with [`Self::lift`].
#[derive(Debug)]
pub(super) struct Rules {
    namespace: Namespace,
    table: String,
}

impl Rules {
    /// Drops such packets in the namespace of one end. Those to a [`Which::Port`] are answered as where nobody listens.
    ///
    /// # Errors
    /// There is no nftables, or none in the kernel.
    pub(super) async fn drop(namespace: &Namespace, which: &Which) -> anyhow::Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let table = format!("torture{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let (input, out) = match which {
            Which::Both(who) => {
                let who: Vec<_> = who.iter().map(ToString::to_string).collect();
                let who = who.join(", ");
                (
                    format!("ip saddr {{ {who} }} drop"),
                    format!("ip daddr {{ {who} }} drop"),
                )
            }
            Which::From(one) => (format!("ip saddr {one} drop"), String::new()),
            Which::Percent(percent) => {
                let lost = format!("numgen random mod 100 < {percent} drop");
                (
                    format!("iifname != \"lo\" {lost}"),
                    format!("oifname != \"lo\" {lost}"),
                )
            }
            Which::Port(port) => (
                format!("tcp dport {port} reject with tcp reset"),
                String::new(),
            ),
        };
        let rules = format!(
            "table inet {table} {{\n\
             chain in {{ type filter hook input priority 0; {input}; }}\n\
             chain out {{ type filter hook output priority 0; {out}; }}\n}}"
        );
        nft(namespace, rules.replace("; ;", ";")).await?;
        Ok(Self {
            namespace: namespace.clone(),
            table,
        })
    }

    /// Lets them pass again.
    ///
    /// # Errors
    /// The program fails.
    pub(super) async fn lift(self) -> anyhow::Result<()> {
        nft(&self.namespace, format!("delete table inet {}", self.table)).await
    }
}

async fn nft(namespace: &Namespace, rules: String) -> anyhow::Result<()> {
    let arguments = ["netns", "exec", namespace.name(), "nft", "-f", "-"];
    feed("ip", &arguments, &[rules]).await
}
