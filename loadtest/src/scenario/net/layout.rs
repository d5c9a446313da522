//! Which hosts there are, on which switch, behind which rates: what a network is raised from.

use std::net::Ipv4Addr;

/// Bits a second of a link, each way; `None`: as fast as the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rate(pub(crate) Option<u64>);

/// Bytes of a full frame's TCP payload and of the frame as the token bucket counts it: 1500 bytes with 20 + 32 of
/// headers and 14 of Ethernet. So a link carries 95.64 % of its rate.
const PAYLOAD: f64 = 1448.0 / 1514.0;

impl Rate {
    /// As fast as the machine.
    pub(crate) const UNSHAPED: Self = Self(None);

    /// Megabits a second.
    pub(crate) const fn megabits(count: u64) -> Self {
        Self(Some(count * 1_000_000))
    }

    /// The bytes a second that a link of this rate carries for its users; infinite if it is not shaped.
    pub(crate) fn payload(self) -> f64 {
        self.0
            .map_or(f64::INFINITY, |bits| bits as f64 / 8.0 * PAYLOAD)
    }

    fn slower(self, times: u32) -> Self {
        Self(self.0.map(|bits| bits / u64::from(times.max(1))))
    }

    /// The lines that shape `device`: what tc's batch mode takes.
    ///
    /// The bucket holds 2 ms, so that a timer that fires a little late costs nothing, but at least ten frames; the
    /// queue holds 25 ms, as much as a switch would.
    pub(super) fn bucket(self, device: &str, queue: Option<u64>) -> Option<String> {
        let bits = self.0?;
        let burst = (bits / 8 / 500).max(15_140);
        let limit = queue.unwrap_or((bits / 8 / 40).max(64_000)) + burst;
        Some(format!(
            "qdisc add dev {device} root tbf rate {bits}bit burst {burst} limit {limit}"
        ))
    }
}

/// The network of a scenario.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    pub(crate) gateways: usize,
    pub(crate) readers: usize,
    /// The link of each gateway.
    pub(crate) gateway: Rate,
    /// The link of each reader.
    pub(crate) client: Rate,
    /// The link of the origin.
    pub(crate) origin: Rate,
    /// A second link of each gateway, towards the origin alone; `None`: its one link carries that too.
    pub(crate) towards_origin: Option<Rate>,
    /// Two switches, joined at this rate: the origin and the first half of the gateways on the one, the other half
    /// and the readers on the other.
    pub(crate) zones: Option<Rate>,
    /// Bytes that wait before a link; `None`: 25 ms of it.
    pub(crate) queue: Option<u64>,
    /// TCP's congestion control, as the kernel names it.
    pub(crate) congestion: &'static str,
    /// What waits before a gateway's link has left its host, as what waits in a network does. In its host's own queue each
    /// connection may keep two packets only, and how large these are goes by the round trip when it was opened (TCP small
    /// queues; `net.ipv4.tcp_tso_rtt_log` in the kernel's ip-sysctl): those that came first keep twenty times as much there
    /// as the others, whatever the gateway does.
    pub(crate) cards: bool,
}

impl Layout {
    /// One switch, and everything as fast as the machine.
    ///
    /// Reno, because with hundreds of flows through one queue of 25 ms BBR loses up to a quarter of the link.
    pub(crate) fn new(gateways: usize, readers: usize) -> Self {
        Self {
            gateways,
            readers,
            gateway: Rate::UNSHAPED,
            client: Rate::UNSHAPED,
            origin: Rate::UNSHAPED,
            towards_origin: None,
            zones: None,
            queue: None,
            congestion: "reno",
            cards: false,
        }
    }

    /// The same with every link `times` as slow. The queues that are given in bytes stay: they have to hold what so many
    /// connections send at first.
    pub(crate) fn slower(self, times: u32) -> Self {
        Self {
            gateway: self.gateway.slower(times),
            client: self.client.slower(times),
            origin: self.origin.slower(times),
            towards_origin: self.towards_origin.map(|rate| rate.slower(times)),
            zones: self.zones.map(|rate| rate.slower(times)),
            ..self
        }
    }

    /// The address at which the gateways reach the origin.
    pub(crate) fn origin_address(&self) -> Ipv4Addr {
        if self.towards_origin.is_some() {
            address::origin_apart()
        } else {
            address::origin()
        }
    }

    pub(super) fn plan(&self) -> Plan {
        let beyond = if self.zones.is_some() { "sw1" } else { "sw0" };
        let mut plan = Plan {
            switches: vec!["sw0"],
            hosts: Vec::new(),
            links: Vec::new(),
            trunk: None,
            trunk_rate: Rate::UNSHAPED,
            queue: self.queue,
        };
        if let Some(rate) = self.zones {
            plan.switches.push("sw1");
            (plan.trunk, plan.trunk_rate) = (Some(("sw0", "sw1")), rate);
        }
        plan.host("origin");
        match self.towards_origin {
            Some(_) => {
                plan.switches.push("far");
                plan.link("origin", "far", self.origin, address::origin_apart());
            }
            None => plan.link("origin", "sw0", self.origin, address::origin()),
        }
        for index in 0..self.gateways {
            let name = format!("gw{index}");
            let here = index < self.gateways.div_ceil(2);
            let switch = if here { "sw0" } else { beyond };
            plan.host(&name);
            plan.link(&name, switch, self.gateway, address::gateway(index));
            if self.cards {
                plan.card(format!("nc{index}"));
            }
            if let Some(rate) = self.towards_origin {
                plan.link(&name, "far", rate, address::gateway_apart(index));
            }
        }
        for index in 0..self.readers {
            let name = format!("rd{index}");
            plan.host(&name);
            plan.link(&name, beyond, self.client, address::reader(index));
        }
        plan
    }
}

/// What is to be raised.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) switches: Vec<&'static str>,
    pub(super) hosts: Vec<Host>,
    pub(super) links: Vec<Link>,
    pub(super) trunk: Option<(&'static str, &'static str)>,
    pub(super) trunk_rate: Rate,
    pub(super) queue: Option<u64>,
}

/// A host by its name, without the prefix.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) name: String,
}

/// A veth pair from a host to a switch.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) host: String,
    pub(super) device: String,
    pub(super) switch: &'static str,
    pub(super) rate: Rate,
    pub(super) address: Ipv4Addr,
    /// The router that the link begins at, if that is not the host itself.
    pub(super) card: Option<String>,
}

impl Link {
    /// The hardware address of the host's end: locally administered, and made of its address.
    pub(super) fn hardware(&self) -> String {
        let [a, b, c, d] = self.address.octets();
        format!("02:00:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
    }

    /// Those of what joins the host and its card: the host's end and the card's.
    pub(super) fn inner_hardware(&self) -> [String; 2] {
        let [a, b, c, d] = self.address.octets();
        [1, 2].map(|end| format!("02:{end:02x}:{a:02x}:{b:02x}:{c:02x}:{d:02x}"))
    }

    fn is_readers(&self) -> bool {
        self.host.starts_with("rd")
    }
}

impl Plan {
    /// The names of all namespaces.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        let hosts = self.hosts.iter().map(|host| host.name.as_str());
        let cards = self.links.iter().filter_map(|link| link.card.as_deref());
        self.switches.iter().copied().chain(hosts).chain(cards)
    }

    /// The lines that tell what is at the near end of `link` where everybody is whom its host talks to: over `device`, and
    /// behind the one hardware address `by` if there is a card between them.
    ///
    /// The kernel's table of neighbours has 1 024 places for what it found out, and all namespaces share them: a
    /// hundred readers of eight gateways need 1 600. What it is told for good does not count.
    pub(super) fn neighbours<'a>(
        &'a self,
        link: &'a Link,
        device: &'a str,
        by: Option<&'a str>,
    ) -> impl Iterator<Item = String> + 'a {
        let network = |link: &Link| link.address.octets()[1];
        let others = self.links.iter().filter(move |other| {
            other.host != link.host
                && network(other) == network(link)
                && !(other.is_readers() && link.is_readers())
        });
        others.map(move |other| {
            let address = other.address;
            let hardware = by.map_or_else(|| other.hardware(), str::to_owned);
            format!("neigh replace {address} lladdr {hardware} dev {device} nud permanent")
        })
    }

    fn host(&mut self, name: &str) {
        self.hosts.push(Host {
            name: name.to_owned(),
        });
    }

    fn link(&mut self, host: &str, switch: &'static str, rate: Rate, address: Ipv4Addr) {
        let before = self.links.iter().filter(|link| link.host == host).count();
        self.links.push(Link {
            host: host.to_owned(),
            device: format!("eth{before}"),
            switch,
            rate,
            address,
            card: None,
        });
    }

    /// Has the link that was added last begin at a router of this name.
    fn card(&mut self, name: String) {
        if let Some(link) = self.links.last_mut() {
            link.card = Some(name);
        }
    }
}

/// Who has which address. Two networks of 16 bits: the fleet's with the readers, and the one towards the origin.
pub(crate) mod address {
    use std::net::Ipv4Addr;

    /// The origin on the fleet's network.
    pub(crate) fn origin() -> Ipv4Addr {
        Ipv4Addr::new(10, 77, 1, 1)
    }

    /// The origin on a network of its own.
    pub(crate) fn origin_apart() -> Ipv4Addr {
        Ipv4Addr::new(10, 78, 1, 1)
    }

    /// Gateway `index`.
    pub(crate) fn gateway(index: usize) -> Ipv4Addr {
        numbered(77, 2, index)
    }

    /// Gateway `index` on the origin's network.
    pub(crate) fn gateway_apart(index: usize) -> Ipv4Addr {
        numbered(78, 2, index)
    }

    /// Reader `index`.
    pub(crate) fn reader(index: usize) -> Ipv4Addr {
        numbered(77, 8, index)
    }

    /// The `index`th address from 10.`network`.`third`.1 on, without those that end in 0 or 255.
    fn numbered(network: u8, third: u8, index: usize) -> Ipv4Addr {
        let (high, low) = ((index / 250) as u8, (index % 250) as u8);
        Ipv4Addr::new(10, network, third + high, low + 1)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_link_carries_95_64_percent_of_its_rate() {
        let carried = Rate::megabits(100).payload() * 8.0 / 100e6;
        assert!((carried - 0.9564).abs() < 1e-4);
        assert!(Rate::UNSHAPED.payload().is_infinite());
    }

    #[test]
    fn links_that_are_slower_stay_unshaped_where_they_were() {
        let layout = Layout {
            gateway: Rate::megabits(100),
            towards_origin: Some(Rate::UNSHAPED),
            ..Layout::new(2, 2)
        };
        let layout = layout.slower(4);
        assert_eq!(layout.gateway, Rate::megabits(25));
        assert_eq!(layout.towards_origin, Some(Rate::UNSHAPED));
        assert_eq!((layout.client, layout.zones), (Rate::UNSHAPED, None));
    }

    #[test]
    fn every_link_has_an_address_of_its_own_and_names_fit_the_kernel() {
        let layout = Layout {
            towards_origin: Some(Rate::megabits(24)),
            ..Layout::new(300, 1100)
        };
        let plan = layout.plan();
        let addresses: HashSet<_> = plan.links.iter().map(|link| link.address).collect();
        assert_eq!(addresses.len(), plan.links.len());
        assert_eq!(plan.links.len(), 1 + 2 * 300 + 1100);
        // IFNAMSIZ is 16 with its final zero.
        assert!(format!("p{}", plan.links.len()).len() < 16);
    }

    #[test]
    fn readers_and_gateways_know_each_other_and_readers_no_readers() {
        let plan = Layout::new(8, 100).plan();
        let link = |host: &str| {
            plan.links
                .iter()
                .find(|link| link.host == host)
                .expect("a host")
        };
        assert_eq!(plan.neighbours(link("rd7"), "eth0", None).count(), 9);
        assert_eq!(plan.neighbours(link("gw0"), "eth0", None).count(), 108);
        let told: Vec<_> = plan.neighbours(link("rd7"), "eth0", None).collect();
        let gateway = "neigh replace 10.77.2.1 lladdr 02:00:0a:4d:02:01 dev eth0 nud permanent";
        assert!(told.iter().any(|line| line == gateway), "{told:?}");
    }

    #[test]
    fn behind_a_card_everybody_is_where_the_card_is() {
        let layout = Layout {
            cards: true,
            ..Layout::new(1, 2)
        };
        let plan = layout.plan();
        assert!(plan.names().any(|name| name == "nc0"));
        let gateway = plan.links.iter().find(|link| link.host == "gw0");
        let gateway = gateway.expect("there is one");
        let [_, card] = gateway.inner_hardware();
        let told: Vec<_> = plan.neighbours(gateway, "eth0", Some(&card)).collect();
        assert_eq!(told.len(), 3);
        assert!(told.iter().all(|line| line.contains(&card)), "{told:?}");
    }

    #[test]
    fn zones_put_readers_and_the_second_half_of_the_gateways_beyond() {
        let layout = Layout {
            zones: Some(Rate::megabits(200)),
            ..Layout::new(4, 16)
        };
        let plan = layout.plan();
        let beyond: Vec<_> = plan
            .links
            .iter()
            .filter(|link| link.switch == "sw1")
            .map(|link| link.host.as_str())
            .collect();
        assert_eq!(beyond.len(), 18);
        assert!(beyond.contains(&"gw2") && !beyond.contains(&"gw1") && !beyond.contains(&"origin"));
    }
}
