//! Shaped links: hosts in network namespaces of their own, joined by bridges, each behind veth pairs whose two ends
//! are held to a rate by token buckets (tc-tbf(8)).
//!
//! Nothing of it is visible outside: the bridges have namespaces too, so that removing the namespaces removes
//! all. A second process, the janitor, waits for the end of this one however it comes, and removes what is left; what
//! even that leaves behind (both killed) the next start removes.

mod janitor;
mod layout;
pub(crate) mod tool;

use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, bail};

use crate::namespace::Namespace;

pub use self::janitor::clean_after;
use self::layout::{Host, Link, Plan};
pub(crate) use self::layout::{Layout, Rate, address};

/// What all our namespaces begin with; the process id, the number of the network and dashes between follow.
const PREFIX: &str = "fblt-";

/// The two ends of a card: towards its host, and towards the switch.
const INWARDS: &str = "in";
const OUTWARDS: &str = "out";

/// The bridge inside each switch's namespace.
const BRIDGE: &str = "br0";

/// The network of one scenario, up and shaped. Dropping it removes it, with every process inside, and waits for that:
/// the next one is not to be measured beside it.
#[derive(Debug)]
pub(crate) struct Net {
    prefix: String,
    directory: PathBuf,
    gateways: Vec<Namespace>,
    readers: Vec<Namespace>,
    origin: Namespace,
    /// The janitor, which cleans when its standard input closes.
    janitor: Child,
    wakes_janitor: Option<ChildStdin>,
}

impl Drop for Net {
    fn drop(&mut self) {
        drop(self.wakes_janitor.take());
        // It says itself what it could not remove.
        let _ = self.janitor.wait();
    }
}

impl Net {
    /// Removes what dead runs left behind, and builds the network.
    ///
    /// # Errors
    /// Namespaces are not to be had here: no root, no iproute2, or a kernel without one of the parts.
    pub(crate) async fn build(layout: &Layout) -> anyhow::Result<Self> {
        if !rustix::process::geteuid().is_root() {
            bail!("scenarios need network namespaces, and these need root: run it as root");
        }
        janitor::sweep_the_dead().await?;
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("{PREFIX}{}-{number}-", std::process::id());
        let directory = std::env::temp_dir().join(format!("{prefix}files"));
        let (janitor, wakes_janitor) = hire(&prefix, &directory)?;
        std::fs::create_dir_all(&directory)
            .with_context(|| format!("create {}", directory.display()))?;
        let plan = layout.plan();
        raise(&prefix, &plan).await.context(
            "no network of namespaces, veth pairs, a bridge and token buckets is to be had here",
        )?;
        let open = |name: &str| {
            let name = format!("{prefix}{name}");
            Namespace::open(&name).with_context(|| format!("open the namespace {name}"))
        };
        let all = |what: &str, count| -> anyhow::Result<Vec<_>> {
            (0..count)
                .map(|index| open(&format!("{what}{index}")))
                .collect()
        };
        let net = Self {
            gateways: all("gw", layout.gateways)?,
            readers: all("rd", layout.readers)?,
            origin: open("origin")?,
            directory,
            wakes_janitor: Some(wakes_janitor),
            janitor,
            prefix: prefix.clone(),
        };
        for host in net.hosts() {
            settle(host, layout.congestion).await?;
        }
        Ok(net)
    }

    /// The namespace of a gateway.
    pub(crate) fn gateway(&self, index: usize) -> &Namespace {
        &self.gateways[index]
    }

    /// The namespace of a reader.
    pub(crate) fn reader(&self, index: usize) -> &Namespace {
        &self.readers[index]
    }

    /// The namespace of the origin.
    pub(crate) fn origin(&self) -> &Namespace {
        &self.origin
    }

    /// Holds what leaves a gateway's card to a rate, or lets it go: in the network, where its host has no say in whose
    /// packets wait. For a network with cards.
    ///
    /// # Errors
    /// The program fails.
    pub(crate) async fn throttle(&self, index: usize, rate: Rate) -> anyhow::Result<()> {
        let namespace = format!("{}nc{index}", self.prefix);
        let line = match rate.bucket(OUTWARDS, None) {
            Some(line) => line.replacen("add", "replace", 1),
            None => format!("qdisc del dev {OUTWARDS} root"),
        };
        tool::batch("tc", &["-n", &namespace], &[line]).await
    }

    /// A directory that goes with the network.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Bytes that left the first switch for the second, headers included.
    ///
    /// # Errors
    /// The network has one switch only, or its counters cannot be read.
    pub(crate) async fn crossed(&self) -> anyhow::Result<u64> {
        let text = tool::output(
            "ip",
            &[
                "-n",
                &format!("{}sw0", self.prefix),
                "-s",
                "-j",
                "link",
                "show",
                "trunk",
            ],
        )
        .await?;
        let links: serde_json::Value = serde_json::from_str(&text).context("read ip's counters")?;
        links[0]["stats64"]["tx"]["bytes"]
            .as_u64()
            .context("ip tells no bytes sent")
    }

    fn hosts(&self) -> impl Iterator<Item = &Namespace> {
        self.gateways
            .iter()
            .chain(&self.readers)
            .chain(std::iter::once(&self.origin))
    }
}

/// Starts the janitor, in a process group of its own: an interrupt from the keyboard is not meant for it.
fn hire(prefix: &str, directory: &Path) -> anyhow::Result<(Child, ChildStdin)> {
    let program = std::env::current_exe().context("find the running program")?;
    let mut child = Command::new(program)
        .arg("janitor")
        .arg(prefix)
        .arg(directory)
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .context("start the janitor")?;
    let stdin = child.stdin.take().context("take the janitor's input")?;
    Ok((child, stdin))
}

async fn raise(prefix: &str, plan: &Plan) -> anyhow::Result<()> {
    let mut lines: Vec<String> = plan
        .names()
        .map(|name| format!("netns add {prefix}{name}"))
        .collect();
    for (number, link) in plan.links.iter().enumerate() {
        let ends = match &link.card {
            Some(card) => (OUTWARDS, card),
            None => (&*link.device, &link.host),
        };
        lines.push(format!(
            "link add p{number} netns {prefix}{} type veth peer name {} netns {prefix}{}",
            link.switch, ends.0, ends.1
        ));
        if let Some(card) = &link.card {
            lines.push(format!(
                "link add {INWARDS} netns {prefix}{card} type veth peer name {} netns {prefix}{}",
                link.device, link.host
            ));
        }
    }
    if let Some(trunk) = plan.trunk {
        lines.push(format!(
            "link add trunk netns {prefix}{} type veth peer name trunk netns {prefix}{}",
            trunk.0, trunk.1
        ));
    }
    tool::batch("ip", &[], &lines).await?;
    for switch in &plan.switches {
        let namespace = format!("{prefix}{switch}");
        let mut up = vec![
            format!("link add {BRIDGE} type bridge"),
            format!("link set {BRIDGE} up"),
        ];
        let mut shape = Vec::new();
        for (number, link) in plan.links.iter().enumerate() {
            if link.switch == *switch {
                up.push(format!("link set p{number} master {BRIDGE} up"));
                shape.extend(link.rate.bucket(&format!("p{number}"), plan.queue));
            }
        }
        if plan.trunk.is_some() {
            up.push(format!("link set trunk master {BRIDGE} up"));
            shape.extend(plan.trunk_rate.bucket("trunk", plan.queue));
        }
        tool::batch("ip", &["-n", &namespace], &up).await?;
        tool::batch("tc", &["-n", &namespace], &shape).await?;
    }
    for host in &plan.hosts {
        raise_host(prefix, host, plan).await?;
    }
    for link in &plan.links {
        if let Some(card) = &link.card {
            raise_card(&format!("{prefix}{card}"), link, plan).await?;
        }
    }
    Ok(())
}

/// A router between a host and its link, which nobody but the two ends sees: what it is sent is the network's from then on,
/// and no socket's.
async fn raise_card(namespace: &str, link: &Link, plan: &Plan) -> anyhow::Result<()> {
    let [host, card] = link.inner_hardware();
    let address = link.address;
    let [network, within, ..] = address.octets();
    let mut up = vec![
        format!("link set {INWARDS} address {card}"),
        format!("link set {OUTWARDS} address {}", link.hardware()),
        format!("link set {INWARDS} up"),
        format!("link set {OUTWARDS} up"),
        format!("route add {address}/32 dev {INWARDS}"),
        format!("route add {network}.{within}.0.0/16 dev {OUTWARDS}"),
        format!("neigh replace {address} lladdr {host} dev {INWARDS} nud permanent"),
    ];
    up.extend(plan.neighbours(link, OUTWARDS, None));
    tool::batch("ip", &["-n", namespace], &up).await?;
    let shape: Vec<_> = link.rate.bucket(OUTWARDS, plan.queue).into_iter().collect();
    tool::batch("tc", &["-n", namespace], &shape).await?;
    let forward = || std::fs::write("/proc/sys/net/ipv4/ip_forward", "1");
    let namespace = Namespace::open(namespace).context("open a card's namespace")?;
    let set = namespace.within(forward).await;
    set.context("let a card forward what it is sent")
}

async fn raise_host(prefix: &str, host: &Host, plan: &Plan) -> anyhow::Result<()> {
    let namespace = format!("{prefix}{}", host.name);
    let mut up = vec!["link set lo up".to_owned()];
    let mut shape = Vec::new();
    for link in plan.links.iter().filter(|link| link.host == host.name) {
        let device = &link.device;
        let [own, card] = link.inner_hardware();
        let (own, by) = match link.card {
            Some(_) => (own, Some(card)),
            None => (link.hardware(), None),
        };
        up.push(format!("addr add {}/16 dev {device}", link.address));
        up.push(format!("link set {device} address {own}"));
        up.push(format!("link set {device} up"));
        up.extend(plan.neighbours(link, device, by.as_deref()));
        if by.is_none() {
            shape.extend(link.rate.bucket(device, plan.queue));
        }
    }
    tool::batch("ip", &["-n", &namespace], &up).await?;
    tool::batch("tc", &["-n", &namespace], &shape).await
}

/// Chooses the congestion control, and makes each connection begin without what earlier ones measured.
async fn settle(host: &Namespace, congestion: &'static str) -> anyhow::Result<()> {
    let set = host.within(move || {
        let ipv4 = Path::new("/proc/sys/net/ipv4");
        std::fs::write(ipv4.join("tcp_congestion_control"), congestion)?;
        std::fs::write(ipv4.join("tcp_no_metrics_save"), "1")
    });
    set.await
        .with_context(|| format!("set TCP's congestion control to {congestion}"))
}

/// Where gateway `index` serves clients.
pub(crate) fn client_address(index: usize) -> SocketAddr {
    SocketAddr::new(address::gateway(index).into(), 7070)
}

/// Where gateway `index` talks to the fleet.
pub(crate) fn fleet_address(index: usize) -> SocketAddr {
    SocketAddr::new(address::gateway(index).into(), 7071)
}
