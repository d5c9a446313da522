//! Several gateways that are one cache, over the origin model.

use std::net::SocketAddr;
use std::time::Duration;

use forebay_loadtest::client::{Ask, Client, Read, Want};
use forebay_loadtest::origin::{Origin, Settings};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use crate::cluster::{Dataset, Gateway, SECRET, Setup, command};
use crate::process::PATIENCE;
use crate::relay::Gate;
use crate::scratch::Scratch;
use crate::servers::free_address;
use crate::until;

/// A gateway that is to be started.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Its name.
    pub name: String,
    /// Where clients reach it.
    pub client: SocketAddr,
    /// Where the fleet reaches it.
    pub fleet: SocketAddr,
    /// 0: an edge.
    pub weight: u16,
    /// Its zone.
    pub zone: String,
    /// The fleet's key as it has it.
    pub key: String,
    /// A second key that it accepts.
    pub key_next: Option<String>,
    /// Whether it speaks TLS to the others.
    pub tls: bool,
    /// Its memory, and its disk space: `0` for none.
    pub memory: String,
    /// See there.
    pub nvme: String,
    /// It takes its link to others for full.
    pub busy: bool,
    /// The newest protocol that it speaks; `None`: its build's.
    pub protocol: Option<u16>,
    /// More lines of `[fleet]`.
    pub lines: String,
    /// Further sections of its settings.
    pub sections: Vec<String>,
    /// Parts of WARN and ERROR lines that may be logged.
    pub allowed: Vec<String>,
    /// The other members as it is told of them, for good; `None`: it finds them by gossip.
    pub others: Option<Vec<Plan>>,
    /// What is on its way to the origin, if anything; one member's at most.
    pub gate: Option<Gate>,
}

impl Plan {
    /// A member of weight 1 with 256 MiB.
    #[must_use]
    pub fn new(name: &str) -> Plan {
        Plan {
            name: name.to_owned(),
            client: free_address(),
            fleet: free_address(),
            weight: 1,
            zone: "here".to_owned(),
            key: "the key of this fleet".to_owned(),
            key_next: None,
            tls: false,
            memory: "256MiB".to_owned(),
            nvme: "0".to_owned(),
            busy: false,
            protocol: None,
            lines: String::new(),
            sections: Vec::new(),
            allowed: Vec::new(),
            others: None,
            gate: None,
        }
    }

    fn member(&self) -> String {
        format!(
            "{}={}={}={}={}",
            self.name, self.fleet, self.client, self.zone, self.weight
        )
    }
}

/// A running fleet and its origin.
#[derive(Debug)]
pub struct Fleet {
    /// The members in the order of their plans; a killed one is taken out.
    pub gateways: Vec<Gateway>,
    /// Their origin: one bucket, the dataset `models`.
    pub origin: Origin,
    /// What the origin and the clients run on.
    pub runtime: Runtime,
    /// Where the members find it.
    endpoint: String,
    /// Lines of the dataset.
    lines: Vec<String>,
}

impl Fleet {
    /// Starts an origin and the planned gateways; `lines` stand in their dataset.
    ///
    /// # Panics
    /// If one does not start.
    #[must_use]
    pub fn start(plans: &[Plan], settings: Settings, lines: &[&str]) -> Fleet {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        let origin = runtime
            .block_on(Origin::start(settings))
            .expect("the origin listens");
        let mut gated = plans
            .iter()
            .filter_map(|plan| Some((plan.gate.as_ref()?, plan)));
        let first = gated.next();
        assert!(gated.next().is_none(), "one way at most can be closed");
        // One for all of them: another endpoint would be another dataset.
        let endpoint = first.map_or_else(
            || origin.endpoint(),
            |(gate, plan)| {
                let address = gate.before(origin.address(), &key_id(&plan.name));
                format!("http://{address}")
            },
        );
        let gateways: Vec<Gateway> = plans
            .iter()
            .map(|plan| {
                let lines: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
                start(plan, plans, (&endpoint, &lines), Scratch::new("member"))
            })
            .collect();
        let fleet = Fleet {
            gateways,
            origin,
            runtime,
            endpoint,
            lines: lines.iter().map(|line| (*line).to_owned()).collect(),
        };
        let alike = |plan: &Plan| plan.key == plans[0].key && plan.tls == plans[0].tls;
        if plans
            .iter()
            .all(|plan| plan.others.is_none() && alike(plan))
        {
            fleet.know_each_other();
        }
        fleet
    }

    /// Reads `key` whole through each of `through` (indexes of gateways), `times` times each, all at once.
    ///
    /// # Panics
    /// If a task does.
    #[must_use]
    pub fn herd(&self, key: &str, through: &[usize], times: usize) -> Vec<Read> {
        let urls: Vec<String> = through
            .iter()
            .map(|index| format!("{}/models", self.gateways[*index].url()))
            .collect();
        self.runtime.block_on(async {
            let mut readers = JoinSet::new();
            for url in urls {
                for _ in 0..times {
                    let client = Client::new(&url).expect("a URL");
                    let mut client = client.patience(Duration::from_secs(60));
                    let ask = Ask::new(key, Want::Whole);
                    readers.spawn(async move { client.read(&ask).await });
                }
            }
            readers.join_all().await
        })
    }

    /// Stops the member at `index` and starts it again, as `plan` has it by now; `plans` tells where the others are.
    ///
    /// # Panics
    /// If it does not end or start well.
    pub fn restart(&mut self, index: usize, plan: &Plan, plans: &[Plan]) {
        let _ = self.gateways.remove(index).stop();
        self.start_over(index, plan, plans, Scratch::new("member"));
    }

    /// Starts a member over what one left on its disk, to be the one at `index`, and waits until it is known.
    ///
    /// # Panics
    /// If it does not start well.
    pub fn start_over(&mut self, index: usize, plan: &Plan, plans: &[Plan], disk: Scratch) {
        let again = start(plan, plans, (&self.endpoint, &self.lines), disk);
        self.gateways.insert(index, again);
        self.know_each_other();
    }

    /// Starts a member that was killed on what it left, and lets it be the last; `plans` tells where the others are.
    ///
    /// # Panics
    /// If it does not start well.
    pub fn revive(&mut self, plan: &Plan, plans: &[Plan], left: Scratch) {
        let member = start(plan, plans, (&self.endpoint, &self.lines), left);
        self.gateways.push(member);
    }

    /// Starts a member that is not there, as `plan` has it, and lets it be the last; `plans` tells where the others are.
    ///
    /// # Panics
    /// If it does not start well.
    pub fn join(&mut self, plan: &Plan, plans: &[Plan]) {
        let disk = Scratch::new("member");
        let member = start(plan, plans, (&self.endpoint, &self.lines), disk);
        self.gateways.push(member);
    }

    /// Waits until all members that run know each other and place blocks alike.
    ///
    /// # Panics
    /// If that takes too long.
    pub fn know_each_other(&self) {
        until(PATIENCE, "all members to know each other", || {
            let known =
                |gateway: &Gateway| gateway.metric("forebay_members", &[("state", "alive")]);
            let all = self.gateways.len() as f64;
            self.gateways
                .iter()
                .all(|gateway| known(gateway) >= all)
                .then_some(())
        });
        self.place_alike();
    }

    /// Waits until all members that run place blocks alike: to know each other they need a packet, and a moment more to
    /// make a table of it. What is read meanwhile may be read twice.
    fn place_alike(&self) {
        until(PATIENCE, "one table", || {
            let rings = self.gateways.iter().map(|gateway| gateway.json("/-/ring"));
            let rings: Vec<serde_json::Value> = rings.collect();
            let placed = |ring: &serde_json::Value| {
                let members = ring["members"].as_array().into_iter().flatten();
                let mut owners =
                    members.filter(|one| one["role"] == "member" && one["state"] == "alive");
                owners.all(|one| one["share"].as_f64() > Some(0.0))
            };
            let alike = |ring: &serde_json::Value| ring["epoch"] == rings[0]["epoch"];
            let all = rings.iter().all(|ring| alike(ring) && placed(ring));
            all.then_some(())
        });
    }

    /// The sum of a metric over all gateways.
    #[must_use]
    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.gateways
            .iter()
            .map(|gateway| gateway.metric(name, labels))
            .sum()
    }
}

/// What tells the member of this name from the others where they ask the origin.
fn key_id(name: &str) -> String {
    format!("AK-{name}")
}

fn start(
    plan: &Plan,
    plans: &[Plan],
    (endpoint, lines): (&str, &[String]),
    scratch: Scratch,
) -> Gateway {
    let mut dataset = Dataset::new("models", "s3://bucket")
        .option("aws_endpoint", endpoint)
        .option("aws_region", "us-east-1")
        .option("aws_access_key_id", key_id(&plan.name))
        .option("aws_secret_access_key", SECRET);
    for line in lines {
        dataset = dataset.line(line);
    }
    let role = if plan.weight == 0 { "edge" } else { "member" };
    let seeds: Vec<String> = plans.iter().map(|plan| plan.fleet.to_string()).collect();
    let fleet = format!(
        "[fleet]\nseeds = {seeds:?}\nname = \"test\"\nmember = {:?}\nrole = {role:?}\nzone = {:?}\nkey = {:?}\nlisten = \"{}\"\n",
        plan.name, plan.zone, plan.key, plan.fleet
    );
    let next = plan.key_next.as_ref();
    let next = next.map_or_else(String::new, |key| format!("key_next = {key:?}\n"));
    let fleet = format!("{fleet}{next}tls = {}\n{}", plan.tls, plan.lines);
    let mut setup = Setup::of([dataset])
        .cache(&format!("memory = {:?}", plan.memory))
        .cache(&format!("nvme = {:?}", plan.nvme))
        .section("[log]\naccess = false")
        .section(&fleet);
    for section in &plan.sections {
        setup = setup.section(section);
    }
    let text = setup.text(scratch.path());
    let text = text.replace("127.0.0.1:0", &plan.client.to_string());
    let config = scratch.write("forebay.toml", text);
    let mut command = command();
    if plan.busy {
        command.env("FOREBAY_TEST_BUSY", "1");
    }
    if let Some(protocol) = plan.protocol {
        command.env("FOREBAY_TEST_PROTOCOL", protocol.to_string());
    }
    if let Some(others) = &plan.others {
        let members: Vec<String> = others.iter().map(Plan::member).collect();
        command.env("FOREBAY_TEST_MEMBERS", members.join(";"));
    }
    command.arg("serve").arg("--config").arg(&config);
    Gateway::start(&mut command, scratch, plan.allowed.clone())
}
